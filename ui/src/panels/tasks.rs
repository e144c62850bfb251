//! Tasks: none are handed out or taken; requests are on the Dashboard.

use leptos::prelude::*;

use super::Empty;
use crate::components::icon::{Icon, icon};

#[component]
pub(super) fn Tasks() -> impl IntoView {
    view! {
        <Empty
            glyph=Icon::Tasks
            title="No tasks"
            why="Tasks travel between nodes, and this version serves this computer only. Requests from the Ask box and from your editor are answered directly; the Dashboard lists them under Activity."
            about="This panel is for work that this node sends to others or does for them."
        >
            <a class="btn" href="#/">{icon(Icon::Clock)}<span>"Recent requests"</span></a>
        </Empty>
    }
}
