//! Mesh: who is in it, where they are and how they are reached, and how they were found.

mod about;
mod dialogs;
mod drawer;
mod nearby;
pub(crate) mod peers;
mod sources;
mod topology;

use agent_api::{mesh::MeshState, node::ServingState};
use leptos::prelude::*;

pub use self::dialogs::Dialogs;
use crate::{
    app::{App, use_app},
    components::{
        banner::Banner,
        icon::{Icon, icon},
        menu::Menu,
    },
    derived::derived,
    words::mesh as words,
};

/// What is thought of peers changes with every task; it is looked at this often.
const WORKERS_MS: i64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Loading,
    Off,
    On,
}

#[component]
pub(super) fn Mesh() -> impl IntoView {
    let app = use_app();
    let state = app.mesh_part(|m| m.state);
    let shape = derived(move || match state.get() {
        None => Shape::Loading,
        Some(MeshState::Off) => Shape::Off,
        Some(_) => Shape::On,
    });
    let live = app.live();
    Effect::new(move |_| {
        // Later changes come with events.
        if live.get() && shape.get() == Shape::On && !app.state.with_untracked(|s| s.peers.loaded())
        {
            app.load_peers();
        }
    });
    move || {
        match shape.get() {
        Shape::Loading => view! {
            <div class="page"><section class="card skcard late" aria-busy="true" aria-label="Loading the mesh">
                <span class="sk" style:width="40%"></span><span class="sk" style:width="70%"></span>
            </section></div>
        }
        .into_any(),
        Shape::Off => off(app),
        Shape::On => view! { <On/> }.into_any(),
    }
    }
}

fn off(app: App) -> AnyView {
    view! {
        <div class="page page--fill">
            <section class="card empty" id="mesh-off">
                <span class="glyph">{icon(Icon::Mesh)}</span>
                <h2>"The mesh is turned off"</h2>
                <p>"This node sends nothing to other nodes, looks for none, and none can find it. It serves this computer only."</p>
                <div class="row">
                    <button class="btn btn--primary" type="button" on:click=move |_| app.turn_mesh_on()>
                        {icon(Icon::Power)}<span>"Turn on"</span>
                    </button>
                    <a class="btn" href="#/settings">{icon(Icon::Settings)}<span>"Settings"</span></a>
                </div>
            </section>
        </div>
    }
    .into_any()
}

#[component]
fn On() -> impl IntoView {
    let app = use_app();
    let paused = app.part(|s| s.serving.state == ServingState::Paused);
    let banner = derived(move || {
        let paused = paused.get().unwrap_or(false);
        app.state.with(|s| words::banner(s.mesh.as_ref()?, paused))
    });
    // A node that knows nobody has an invitation in the place of the table.
    let anybody = derived(move || {
        app.state.with(|s| {
            let counted =
                s.mesh.as_ref().is_some_and(|m| m.counts.known > 0 || m.counts.connected > 0);
            counted || s.peers.iter().next().is_some()
        })
    });
    let live = app.live();
    let beat = derived(move || app.now.get() / WORKERS_MS);
    Effect::new(move |_| {
        beat.track();
        if live.get() {
            app.load_workers();
        }
    });
    view! {
        <div class="page">
            <div role="status" class="notices">
                {move || banner.get().map(|(kind, text)| view! { <Banner kind text/> })}
            </div>
            <nearby::NearbyNodes/>
            <section class="card topo" aria-label="Topology">
                <topology::Topology anybody/>
                <sources::Sources/>
            </section>
            <Show when=move || anybody.get()><peers::Peers/></Show>
            <about::About/>
        </div>
    }
}

/// The panel's buttons in the top bar.
#[component]
pub fn Actions() -> impl IntoView {
    let app = use_app();
    let on = derived(move || app.mesh.on(app));
    let open = RwSignal::new(false);
    let entry = move |glyph: Icon, label: &'static str, dialog: RwSignal<bool>| {
        let choose = move |_| {
            open.set(false);
            dialog.set(true);
        };
        view! {
            <li role="none">
                <button type="button" role="menuitem" on:click=choose>{icon(glyph)}<span>{label}</span></button>
            </li>
        }
    };
    let entries = move || {
        view! {
            {entry(Icon::Mesh, "Make a new mesh", app.mesh.create)}
            {entry(Icon::X, "Leave this mesh", app.mesh.leave)}
        }
    };
    view! {
        <Show when=move || on.get()>
            <div class="actions">
                <Menu label="More about the mesh" class="ibtn ibtn--bar" id="mesh-more" glyph=Icon::Dots at_end=true open>
                    {entries()}
                </Menu>
                <button class="btn" type="button" id="mesh-join" aria-label="Join another mesh" title="Join another mesh" on:click=move |_| app.mesh.join.set(true)>
                    {icon(Icon::Ticket)}<span>"Join another mesh"</span>
                </button>
                <button class="btn btn--primary" type="button" id="mesh-invite" on:click=move |_| app.mesh.invite.set(true)>
                    {icon(Icon::Plus)}<span>"Invite"</span>
                </button>
            </div>
        </Show>
    }
}
