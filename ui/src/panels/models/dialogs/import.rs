//! A GGUF file of the computer that runs the node, taken into the store.

use agent_api::{endpoint::PostModelImport, models::ImportModel};
use leptos::{ev, html, prelude::*, task::spawn_local};

use crate::{
    app::use_app,
    backend,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
};

#[component]
pub(super) fn Import() -> impl IntoView {
    let app = use_app();
    let open = app.library.import;
    view! {
        <Dialog
            open
            on_close=move |()| open.set(false)
            title="Import a GGUF file"
            about="It is taken into the models folder; the original stays."
            class="dialog-wide"
        >
            <Form/>
        </Dialog>
    }
}

#[component]
fn Form() -> impl IntoView {
    let app = use_app();
    let open = app.library.import;
    let path = NodeRef::<html::Input>::new();
    let name = NodeRef::<html::Input>::new();
    let filled = RwSignal::new(false);
    let busy = RwSignal::new(false);
    let problem = RwSignal::new(None::<String>);
    let text = |field: NodeRef<html::Input>| {
        field.get_untracked().map(|f| f.value().trim().to_owned()).unwrap_or_default()
    };
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        // Paths are often pasted in quotes.
        let file = text(path).trim_matches(['"', '\'']).to_owned();
        if file.is_empty() || busy.get_untracked() {
            return;
        }
        busy.set(true);
        problem.set(None);
        let request = ImportModel { path: file, name: Some(text(name)).filter(|n| !n.is_empty()) };
        spawn_local(async move {
            match backend::call(PostModelImport, &request).await {
                Ok(model) => {
                    app.done(format!("{} is imported", model.name));
                    app.load_models();
                    // The owner may have closed the dialog while the file was copied.
                    let _ = open.try_set(false);
                }
                Err(error) => drop(problem.try_set(Some(error.to_string()))),
            }
            let _ = busy.try_set(false);
        });
    };
    let where_it_is = if app.desktop {
        "The whole path on this computer."
    } else {
        "The whole path on the computer that runs the node, which may not be the one you sit at."
    };
    let typing = move |event| filled.set(!event_target_value(&event).trim().is_empty());
    let invalid = move || problem.with(|p| p.as_ref().map(|_| "true"));
    view! {
        <form class="dialog-form" on:submit=submit>
            <div class="dialog-body">
                <div class="field">
                    <label for="import-path">"Path of the file"</label>
                    <input class="input" id="import-path" type="text" data-first autocomplete="off" spellcheck="false"
                        placeholder="/home/you/Downloads/model.gguf" aria-invalid=invalid
                        aria-describedby="import-note" node_ref=path on:input=typing/>
                    <p class="hint" id="import-note">{where_it_is}</p>
                </div>
                <div class="field">
                    <label for="import-name">"Name"</label>
                    <input class="input" id="import-name" type="text" autocomplete="off" spellcheck="false"
                        placeholder="the file’s name" node_ref=name/>
                    <p class="hint">"What requests will call it. Empty: the file’s name."</p>
                </div>
                {move || problem.get().map(|why| view! {
                    <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p>
                })}
            </div>
            <div class="dialog-foot">
                <span class="faint small" role="status">
                    {move || busy.get().then_some("Copying. A large file takes minutes; you can close this.")}
                </span>
                <div class="push">
                    <button class="btn" type="button" on:click=move |_| open.set(false)><span>"Close"</span></button>
                    <button class="btn btn--primary" type="submit" id="import-now"
                        disabled=move || busy.get() || !filled.get() aria-busy=move || busy.get().to_string()>
                        {icon(Icon::File)}<span>"Import"</span>
                    </button>
                </div>
            </div>
        </form>
    }
}
