//! Everything about the mesh that opens over the page. The shell holds them, because the palette
//! opens them as well.

mod ask;
mod create;
mod invite;
mod join;

use leptos::prelude::*;

use super::drawer::PeerDrawer;

#[component]
pub fn Dialogs() -> impl IntoView {
    view! {
        <PeerDrawer/>
        <invite::InvitePeer/>
        <join::JoinMesh/>
        <create::MakeMesh/>
        <ask::Leave/>
        <ask::Block/>
    }
}
