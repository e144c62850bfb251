//! A mesh of one's own.

use agent_api::mesh::CreateMesh;
use leptos::{ev, html, prelude::*};

use super::join::refusal;
use crate::{
    app::use_app,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    words::mesh as words,
};

/// As the node checks it.
const NAME_CHARS: &str = "40";

#[component]
pub(super) fn MakeMesh() -> impl IntoView {
    let app = use_app();
    let open = app.mesh.create;
    Effect::new(move |_| {
        if open.get() {
            app.mesh.refusal.set(None);
        }
    });
    view! {
        <Dialog open on_close=move |()| open.set(false) title="Make a new mesh" about="This node leaves its mesh and starts one that others join by ticket.">
            <Form/>
        </Dialog>
    }
}

#[component]
fn Form() -> impl IntoView {
    let app = use_app();
    let open = app.mesh.create;
    let name = NodeRef::<html::Input>::new();
    let filled = RwSignal::new(false);
    let private = RwSignal::new(true);
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        let name = name.get_untracked().map(|f| f.value().trim().to_owned()).unwrap_or_default();
        if !name.is_empty() {
            app.create_mesh(CreateMesh { name, private: private.get_untracked() });
        }
    };
    let option = move |value: bool, glyph: Icon, title: &'static str| {
        view! {
            <label>
                <input type="radio" name="mesh-private" prop:checked=move || private.get() == value on:change=move |_| private.set(value)/>
                <span>{icon(glyph)}{title}</span>
            </label>
        }
    };
    let about = move || words::joining(private.get());
    view! {
        <form class="dialog-form" on:submit=submit>
            <div class="dialog-body">
                <div class="field">
                    <label for="mesh-name">"Name"</label>
                    <input class="input" id="mesh-name" type="text" data-first maxlength=NAME_CHARS autocomplete="off"
                        placeholder="hafen-lab" node_ref=name
                        on:input=move |event| filled.set(!event_target_value(&event).trim().is_empty())/>
                </div>
                <div class="field">
                    <span class="label">"Who can join"</span>
                    <div class="seg start" role="radiogroup" aria-label="Who can join">
                        {option(true, Icon::Lock, "Private")}{option(false, Icon::Globe, "Public")}
                    </div>
                    <p class="hint">{about}</p>
                </div>
                {move || refusal(app)}
            </div>
            <div class="dialog-foot"><div class="push">
                <button class="btn" type="button" on:click=move |_| open.set(false)><span>"Cancel"</span></button>
                <button class="btn btn--primary" type="submit" id="create-now" disabled=move || !filled.get() || app.mesh.busy.get()>
                    <span>"Make it"</span>
                </button>
            </div></div>
        </form>
    }
}
