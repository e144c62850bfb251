//! Models: what is installed and in memory, what is on its way, what is worth pulling.

mod catalogue;
mod dialogs;
mod disk;
mod installed;
mod machine;
mod memory;
mod pulls;

use agent_api::models::InstalledModel;
use leptos::prelude::*;

pub use self::dialogs::Dialogs;
use self::{
    catalogue::Catalogue, disk::Disk, installed::Installed, machine::Machine, memory::Memory,
    pulls::Pulls,
};
use crate::{
    app::use_app,
    components::icon::{Icon, icon},
};

/// Why a model cannot be chosen.
pub(super) fn why_not(model: &InstalledModel) -> Option<&str> {
    model.problem.as_deref()
}

#[component]
pub(super) fn Models() -> impl IntoView {
    let app = use_app();
    let live = app.live();
    // What changes later comes with an event.
    Effect::new(move |_| {
        if live.get() {
            app.load_models();
            app.load_hardware();
        }
    });
    view! {
        <div class="page">
            <div class="cols">
                <div class="stack stack--lg"><Installed/><Pulls/><Catalogue/></div>
                <aside class="stack stack--lg" aria-label="Memory, disk and computer">
                    <Memory/><Disk/><Machine/>
                </aside>
            </div>
        </div>
    }
}

/// The panel's buttons in the top bar.
#[component]
pub fn Actions() -> impl IntoView {
    let app = use_app();
    view! {
        <div class="actions">
            <button class="btn" type="button" id="import-model" on:click=move |_| app.library.import.set(true)>
                {icon(Icon::File)}<span>"Import GGUF"</span>
            </button>
            <button
                class="btn btn--primary"
                type="button"
                id="pull-model"
                on:click=move |_| app.library.pull.set(Some(String::new()))
            >
                {icon(Icon::Download)}<span>"Pull by name or URL"</span>
            </button>
        </div>
    }
}
