//! Questions before something that is hard to take back. The safe choice has the focus.

use leptos::prelude::*;

use crate::{
    app::use_app,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    format,
};

#[component]
pub(super) fn Leave() -> impl IntoView {
    let app = use_app();
    let open = app.mesh.leave;
    let mesh = app.mesh_part(|m| (m.name.clone(), m.counts.connected, m.private));
    let title = move || mesh.get().map(|m| format!("Leave {}?", m.0)).unwrap_or_default();
    let leave = move |_| {
        open.set(false);
        app.leave_mesh();
    };
    let lost = move || {
        let (name, peers, private) = mesh.get()?;
        let peers = format::counted(u64::from(peers), "peer", "peers");
        let back = if private { "To come back you need a ticket." } else { "" };
        Some(format!("This node leaves {name} and its {peers}. {back}"))
    };
    view! {
        <Dialog open on_close=move |()| open.set(false) title=Signal::derive(title) alert=true class="dialog-ask">
            <div class="dialog-body">
                <p>{lost}</p>
                <p class="hint row">{icon(Icon::Info)}<span>"It goes on in a new private mesh of its own. Models, settings and its identity stay."</span></p>
            </div>
            <div class="dialog-foot"><div class="push">
                <button class="btn" type="button" data-first on:click=move |_| open.set(false)><span>"Stay"</span></button>
                <button class="btn btn--danger" type="button" id="leave-now" on:click=leave><span>"Leave"</span></button>
            </div></div>
        </Dialog>
    }
}

#[component]
pub(super) fn Block() -> impl IntoView {
    let app = use_app();
    let target = app.mesh.block;
    let title = move || {
        target.with(|t| t.as_ref().map(|w| format!("Block {}?", w.name))).unwrap_or_default()
    };
    let open = Signal::derive(move || target.with(Option::is_some));
    view! {
        <Dialog open on_close=move |()| target.set(None) title=Signal::derive(title) alert=true class="dialog-ask">
            {move || target.get().map(|who| {
                let short = who.id.fmt_short().to_owned();
                let block = move |_| {
                    target.set(None);
                    app.block(who.clone(), true);
                };
                view! {
                    <div class="dialog-body">
                        <p>"Its connection is closed. Nothing is taken from it or sent to it, over restarts and in every mesh, until you unblock it under “This node in the mesh”."</p>
                        <p class="hint row">{icon(Icon::Info)}<span>"Node "<code>{short}</code>". It stays in the mesh for the others."</span></p>
                    </div>
                    <div class="dialog-foot"><div class="push">
                        <button class="btn" type="button" data-first on:click=move |_| target.set(None)><span>"Keep"</span></button>
                        <button class="btn btn--danger" type="button" id="block-now" on:click=block>{icon(Icon::X)}<span>"Block"</span></button>
                    </div></div>
                }
            })}
        </Dialog>
    }
}
