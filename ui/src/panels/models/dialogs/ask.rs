//! Questions before something is deleted. The safe choice has the focus.

use agent_api::models::ModelSource;
use leptos::prelude::*;

use crate::{
    app::use_app,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    format,
    words::model as words,
};

#[component]
pub(super) fn Remove() -> impl IntoView {
    let app = use_app();
    let target = app.library.remove;
    let title = move || {
        target.with(|t| t.as_ref().map(|m| format!("Remove {}?", m.name))).unwrap_or_default()
    };
    let open = Signal::derive(move || target.with(Option::is_some));
    let close = move |()| target.set(None);
    view! {
        <Dialog open on_close=close title=Signal::derive(title) alert=true class="dialog-ask">
            {move || target.get().map(|model| {
                let bytes = model.removable_bytes.unwrap_or(0);
                let back = match model.source {
                    ModelSource::File => "The file itself is deleted.",
                    _ => "To have it back, pull or import it again.",
                };
                let frees = format!("Frees {}. {back}", format::file_size(bytes));
                let active = model.active.then_some(
                    "It is the active model. The first other one that can be loaded takes its place.",
                );
                let shared = (bytes < model.size_bytes).then_some("Other models use some of its layers; those stay.");
                let held = words::in_memory(&model).then_some("It is in memory now; requests that run finish first.");
                let button = format!("Remove {}", format::file_size(bytes));
                let remove = move |_| {
                    target.set(None);
                    app.remove(model.clone());
                };
                view! {
                    <div class="dialog-body">
                        <p>{frees}</p>
                        {[active, shared, held].into_iter().flatten().map(|text| view! {
                            <p class="hint row">{icon(Icon::Info)}<span>{text}</span></p>
                        }).collect_view()}
                    </div>
                    <div class="dialog-foot"><div class="push">
                        <button class="btn" type="button" data-first on:click=move |_| target.set(None)><span>"Keep"</span></button>
                        <button class="btn btn--danger" type="button" id="remove-now" on:click=remove>
                            {icon(Icon::Trash)}<span>{button}</span>
                        </button>
                    </div></div>
                }
            })}
        </Dialog>
    }
}

#[component]
pub(super) fn CancelPull() -> impl IntoView {
    let app = use_app();
    let target = app.library.cancel;
    let title = move || {
        target
            .with(|t| t.as_ref().map(|p| format!("Stop pulling {}?", p.model)))
            .unwrap_or_default()
    };
    let open = Signal::derive(move || target.with(Option::is_some));
    let close = move |()| target.set(None);
    view! {
        <Dialog open on_close=close title=Signal::derive(title) alert=true class="dialog-ask">
            {move || target.get().map(|pull| {
                let bytes = format::file_size(pull.done_bytes);
                let text = format!("{bytes} are here already and would be deleted. Pausing keeps them.");
                let button = format!("Delete {bytes}");
                let id = pull.id.clone();
                let cancel = move |_| {
                    target.set(None);
                    app.cancel_pull(id.clone());
                };
                view! {
                    <div class="dialog-body"><p>{text}</p></div>
                    <div class="dialog-foot"><div class="push">
                        <button class="btn" type="button" data-first on:click=move |_| target.set(None)><span>"Keep"</span></button>
                        <button class="btn btn--danger" type="button" id="cancel-now" on:click=cancel>
                            {icon(Icon::Trash)}<span>{button}</span>
                        </button>
                    </div></div>
                }
            })}
        </Dialog>
    }
}
