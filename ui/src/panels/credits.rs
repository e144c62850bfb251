//! Credits: nothing is earned or spent on one's own computer.

use leptos::prelude::*;

use super::Empty;
use crate::components::icon::{Icon, icon};

#[component]
pub(super) fn Credits() -> impl IntoView {
    view! {
        <Empty
            glyph=Icon::Credits
            title="No credits"
            why="Credits are earned by serving other nodes. This version serves this computer only, and your own requests cost nothing."
            about="This panel is for the balance of a node and the receipts behind it."
        >
            <a class="btn" href="#/">{icon(Icon::Dashboard)}<span>"What this node does now"</span></a>
        </Empty>
    }
}
