//! Mesh: this version has none.

use leptos::prelude::*;

use super::Empty;
use crate::components::icon::{Icon, icon};

#[component]
pub(super) fn Mesh() -> impl IntoView {
    view! {
        <Empty
            glyph=Icon::Mesh
            title="This node is not part of a mesh"
            why="This version serves this computer only. It looks for no other nodes, and none can find it."
            about="This panel is for the peers of a node: where they are, how they are reached, and what they offer."
        >
            <a class="btn" href="#/">{icon(Icon::Chat)}<span>"Ask this node"</span></a>
        </Empty>
    }
}
