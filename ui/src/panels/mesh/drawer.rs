//! One peer: who it is, how it is reached, what it offers, and what the owner thinks of it.

mod parts;

use std::sync::Arc;

use agent_api::{
    NodeId,
    endpoint::GetMeshPeer,
    mesh::{Peer, PeerDetails, PeerId},
};
use leptos::{ev, prelude::*, task::spawn_local};

use crate::{
    app::{App, mesh::Who, use_app},
    backend,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    derived::{Derived, derived},
    keyboard,
    words::{Tone, peer as words},
};

/// The details are asked for again at this pace while the drawer is open.
const ASK_AGAIN_MS: i64 = 3_000;

type Answer = RwSignal<Option<Result<PeerDetails, String>>>;

#[component]
pub(super) fn PeerDrawer() -> impl IntoView {
    let app = use_app();
    let target = app.mesh.peer;
    let answer: Answer = RwSignal::new(None);
    let live = app.live();
    Effect::new(move |before: Option<Option<NodeId>>| {
        let id = target.get();
        if before.flatten() != id {
            answer.set(None);
        }
        id
    });
    let beat = derived(move || app.now.get() / ASK_AGAIN_MS);
    Effect::new(move |_| {
        let Some(id) = target.get().filter(|_| live.get()) else { return };
        beat.track();
        spawn_local(async move {
            let asked = PeerId { id: id.clone() };
            let details = backend::call(GetMeshPeer, &asked).await.map_err(|e| e.to_string());
            // Another one may have been opened meanwhile.
            if target.get_untracked() == Some(id) {
                answer.set(Some(details));
            }
        });
    });
    // The list's peer is newer than the details; without the list, as after a deep link, theirs.
    let peer = derived(move || {
        let id = target.get()?;
        let listed = app.state.with(|s| s.peers.get(&id).map(Arc::clone));
        listed.or_else(|| answer.with(|a| Some(Arc::new(a.as_ref()?.as_ref().ok()?.peer.clone()))))
    });
    let title = move || {
        let named = peer.with(|p| p.as_ref().map(|p| p.name.clone()));
        let short = || target.with(|t| t.as_ref().map(|t| t.fmt_short().to_owned()));
        named.or_else(short).unwrap_or_default()
    };
    let open = Signal::derive(move || target.with(Option::is_some));
    view! {
        <Dialog open on_close=move |()| app.show_peer(None) title=Signal::derive(title) class="drawer">
            <Content peer answer/>
        </Dialog>
    }
}

#[component]
fn Content(peer: Derived<Option<Arc<Peer>>>, answer: Answer) -> impl IntoView {
    let app = use_app();
    let problem = derived(move || answer.with(|a| a.as_ref()?.as_ref().err().cloned()));
    let waiting = move || peer.with(Option::is_none) && problem.with(Option::is_none);
    let step = move |forward: bool| {
        let rows = app.mesh.rows.get_untracked();
        let id = app.mesh.peer.get_untracked();
        let at = rows.iter().position(|row| Some(row) == id.as_ref());
        if let Some(next) = keyboard::stepped(at, forward, rows.len()) {
            app.show_peer(rows.get(next));
        }
    };
    let keys = move |event: ev::KeyboardEvent| {
        let plain = !(event.ctrl_key() || event.meta_key() || event.alt_key());
        match event.key().as_str() {
            "j" | "J" if plain => step(true),
            "k" | "K" if plain => step(false),
            _ => return,
        }
        event.prevent_default();
    };
    let arrow = move |forward: bool| {
        let (glyph, label) = if forward {
            (Icon::ChevronRight, "Next peer (J)")
        } else {
            (Icon::ChevronLeft, "Previous peer (K)")
        };
        view! {
            <button class="ibtn" type="button" aria-label=label title=label on:click=move |_| step(forward)>{icon(glyph)}</button>
        }
    };
    view! {
        <div class="drawer-top row" on:keydown=keys>
            {move || peer.get().map(|p| state(&p))}
            <span class="push row">{arrow(false)}{arrow(true)}</span>
        </div>
        <div class="drawer-body" id="peer-drawer" tabindex="-1" data-first on:keydown=keys>
            {move || problem.get().map(|why| view! {
                <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p>
            })}
            {move || waiting().then(|| view! {
                <span class="sk late" style:width="70%"></span><span class="sk late" style:width="50%"></span>
            })}
            <parts::Latency peer answer/>
            {move || peer.get().map(|p| parts::connection(app, &p))}
            <parts::Ways answer/>
            {move || peer.get().map(|p| parts::offers(app, &p))}
            <parts::Standing/>
            <parts::Attempts answer/>
        </div>
        {move || peer.get().map(|p| foot(app, &p))}
    }
}

fn state(peer: &Peer) -> AnyView {
    let (tone, word) = words::state(peer);
    let dot = if tone == Tone::Good { "dot dot--ok" } else { "dot dot--off" };
    let tier = peer.announcement.as_ref().map(|a| {
        view! { <span class=words::tier_badge(a.tier)>{crate::words::model::tier(a.tier)}</span> }
    });
    let trusted = peer.trusted && !peer.own;
    let marks = [(peer.own, "yours"), (trusted, "trusted"), (peer.seed, "seed")];
    let marks = marks.into_iter().filter(|(on, _)| *on);
    view! {
        <span class=dot aria-hidden="true"></span><span>{word}</span>{tier}
        {marks.map(|(_, word)| view! { <span class="badge badge--line">{word}</span> }).collect_view()}
    }
    .into_any()
}

fn foot(app: App, peer: &Peer) -> AnyView {
    let who = Who { id: peer.node_id.clone(), name: peer.name.clone() };
    let blocked = who.clone();
    let (own, trusted) = (peer.own, peer.trusted && !peer.own);
    let busy = move || app.mesh.busy.get();
    let mark = move |id: &'static str,
                     label: &'static str,
                     hint: &'static str,
                     on: bool,
                     mine: bool| {
        let who = who.clone();
        let glyph = on.then(|| icon(Icon::Check));
        view! {
            <button class="btn" type="button" id=id title=hint aria-pressed=on.to_string() disabled=busy
                on:click=move |_| app.trust(who.clone(), !on, mine)>
                {glyph}<span>{label}</span>
            </button>
        }
    };
    view! {
        <div class="dialog-foot">
            {mark("peer-own", "Mine", "This computer is yours: your tasks may go there", own, true)}
            {mark("peer-trust", "Trusted", "You trust its owner: tasks for trusted nodes may go there", trusted, false)}
            <div class="push">
                <button class="btn btn--danger-quiet" type="button" id="peer-block" disabled=busy
                    on:click=move |_| app.mesh.block.set(Some(blocked.clone()))>
                    {icon(Icon::X)}<span>"Block"</span>
                </button>
            </div>
        </div>
    }
    .into_any()
}
