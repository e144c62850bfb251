//! Credits: work for others is done and counted, and nothing is credited for it.

use leptos::prelude::*;

use super::Empty;
use crate::components::icon::{Icon, icon};

#[component]
pub(super) fn Credits() -> impl IntoView {
    view! {
        <Empty
            glyph=Icon::Credits
            title="No credits"
            why="This version credits and pays nothing for work: not what this node does for others, and not what they do for it."
            about="The work itself is done and counted. Every task, who asked for it and who ran it, is listed under Tasks."
        >
            <a class="btn" href="#/tasks">{icon(Icon::Tasks)}<span>"Open Tasks"</span></a>
        </Empty>
    }
}
