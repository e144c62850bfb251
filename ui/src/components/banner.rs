//! A line across the page that stays until its cause is gone.

use leptos::prelude::*;

use super::icon::{Icon, icon};

#[component]
pub fn Banner(
    /// `warn`, `danger` or `info`.
    kind: &'static str,
    #[prop(into)] text: Signal<String>,
) -> impl IntoView {
    let glyph = match kind {
        "danger" => Icon::Error,
        "warn" => Icon::Warn,
        _ => Icon::Info,
    };
    view! { <div class=format!("banner banner--{kind}")>{icon(glyph)}<p>{text}</p></div> }
}
