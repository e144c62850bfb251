//! The six panels.

mod credits;
mod dashboard;
pub(crate) mod mesh;
mod models;
mod settings;
mod tasks;

use leptos::prelude::*;

pub use self::mesh::{Actions as MeshActions, Dialogs as MeshDialogs};
pub use self::models::{Actions as ModelActions, Dialogs as ModelDialogs};
pub use self::tasks::{Actions as TaskActions, Dialogs as TaskDialogs};

use crate::{
    app::use_app,
    components::icon::{Icon, icon},
    route::Panel,
};

/// The panel that the address names.
#[component]
pub fn PanelView() -> impl IntoView {
    let app = use_app();
    move || match app.panel.get() {
        Panel::Dashboard => view! { <dashboard::Dashboard/> }.into_any(),
        Panel::Mesh => view! { <mesh::Mesh/> }.into_any(),
        Panel::Models => view! { <models::Models/> }.into_any(),
        Panel::Credits => view! { <credits::Credits/> }.into_any(),
        Panel::Tasks => view! { <tasks::Tasks/> }.into_any(),
        Panel::Settings => view! { <settings::Settings/> }.into_any(),
    }
}

/// A panel with nothing in it: why, what it is for, and what works instead.
#[component]
fn Empty(
    glyph: Icon,
    title: &'static str,
    /// Why it is empty.
    why: &'static str,
    /// What the panel is for.
    about: &'static str,
    #[prop(optional)] children: Option<Children>,
) -> impl IntoView {
    view! {
        <div class="page page--fill">
            <section class="card empty">
                <span class="glyph">{icon(glyph)}</span>
                <h2>{title}</h2>
                <p>{why}</p>
                <p class="faint">{about}</p>
                {children.map(|c| view! { <div class="row">{c()}</div> })}
            </section>
        </div>
    }
}
