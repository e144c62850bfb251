//! One row of the table of peers.

use std::sync::Arc;

use agent_api::{
    NodeId,
    mesh::{Peer, PeerState},
};
use leptos::{ev, prelude::*};

use super::Table;
use crate::{
    components::icon::icon,
    derived::derived,
    format::UNKNOWN,
    mesh::{Kind, order::Column},
    route,
    words::{model, peer as words},
};

/// The class of a column's cells.
pub(super) fn class(column: Column) -> &'static str {
    match column {
        Column::Name => "p-name",
        Column::Place => "p-place",
        Column::Path => "p-path",
        Column::Rtt => "p-rtt num",
        Column::Tier => "p-tier",
        Column::Models => "p-models",
        Column::Load => "p-load",
        Column::Reputation => "p-rep num",
        Column::Seen => "p-seen",
    }
}

pub(super) fn element_id(id: &NodeId) -> String {
    format!("peer-{id}")
}

#[component]
pub(super) fn Row(id: NodeId, table: Table) -> impl IntoView {
    let app = table.app;
    let wanted = id.clone();
    // A row that is about to go keeps its last content.
    let peer = Memo::new(move |before: Option<&Option<Arc<Peer>>>| {
        app.state
            .with(|s| s.peers.get(&wanted).map(Arc::clone))
            .or_else(|| before.cloned().flatten())
    });
    let own = StoredValue::new(id.clone());
    let place = derived(move || table.places.with(|p| own.with_value(|id| p.get(id).copied())));
    // One row is reached with the tab key: the one that had the focus, or the first.
    let tab = move || {
        let current = table.current.with(|c| {
            let at = c.as_ref().and_then(|id| table.places.with(|p| p.get(id).copied()))?;
            table.range.with(|r| r.contains(&at)).then_some(at)
        });
        let first = current.unwrap_or_else(|| table.range.with(|r| r.start));
        if place.get() == Some(first) { "0" } else { "-1" }
    };
    let open = move || own.with_value(|id| app.show_peer(Some(id)));
    let enter = move |event: ev::KeyboardEvent| {
        if event.key() == "Enter" && event.target() == event.current_target() {
            event.prevent_default();
            open();
        }
    };
    let gone = move || {
        peer.with(|p| {
            p.as_ref().is_some_and(|p| !matches!(p.state, PeerState::Connected | PeerState::Known))
        })
    };
    let reputation = move || {
        let known = app.mesh.workers.with(|w| own.with_value(|id| Some(w.get(id)?.reputation)));
        known.map_or_else(|| UNKNOWN.into(), words::reputation)
    };
    view! {
        <tr
            id=element_id(&id)
            class:is-gone=gone
            tabindex=tab
            data-row
            data-peer=id.0.clone()
            aria-rowindex=move || place.get().map(|p| (p + 2).to_string())
            on:keydown=enter
            on:focusin=move |_| table.current.set(Some(own.get_value()))
            on:click=move |_| open()
        >
            {move || peer.get().map(|p| cells(&p))}
            <td class=class(Column::Reputation)>{reputation}</td>
            <td class=format!("{} faint nowrap", class(Column::Seen))>
                {move || {
                    let now = app.now.get();
                    peer.with(|p| p.as_ref().map(|p| words::seen(p.last_seen_ms, now)))
                }}
            </td>
        </tr>
    }
}

/// Everything but the ticking cell and what comes from elsewhere.
fn cells(peer: &Peer) -> AnyView {
    let said = peer.announcement.as_ref();
    let kind = Kind::of(peer);
    let path_class = format!("state path--{}", kind.class());
    let rtt = peer.rtt_ms.filter(|_| kind.connected()).map_or_else(|| UNKNOWN.into(), words::rtt);
    let badge = |on: bool, word: &'static str, hint: &'static str| {
        on.then(|| view! { <span class="badge badge--line" title=hint>{word}</span> })
    };
    let tier =
        said.map(|a| view! { <span class=words::tier_badge(a.tier)>{model::tier(a.tier)}</span> });
    let models = said.and_then(words::models).map(|(first, more)| {
        let more = (more > 0).then(|| view! { <span class="faint">{format!(" +{more}")}</span> });
        view! { <span class="trunc">{first}</span>{more} }
    });
    let all_models = said.map(words::all_models).filter(|all| !all.is_empty());
    view! {
        <th scope="row" class=class(Column::Name)>
            <span class="row">
                <a class="rowlink trunc" href=route::peer_href(&peer.node_id) tabindex="-1" title=peer.name.clone()>{peer.name.clone()}</a>
                {badge(peer.own, "yours", "You marked it as your own")}
                {badge(peer.trusted && !peer.own, "trusted", "You trust its owner")}
                {badge(peer.seed, "seed", "It helps others to meet")}
            </span>
        </th>
        <td class=format!("{} faint trunc", class(Column::Place))>{words::place(peer).unwrap_or_else(|| UNKNOWN.into())}</td>
        <td class=class(Column::Path)>
            <span class=path_class title=words::path_hint(peer)>{icon(words::path_icon(kind))}<span class="trunc">{words::path(peer)}</span></span>
        </td>
        <td class=class(Column::Rtt)>{rtt}</td>
        <td class=class(Column::Tier)>{tier}</td>
        <td class=class(Column::Models) title=all_models><span class="models-cell">{models}</span></td>
        <td class=class(Column::Load)>{said.map(load)}</td>
    }
    .into_any()
}

fn load(said: &agent_api::mesh::Announcement) -> AnyView {
    match words::load(said) {
        Some(load) => {
            let percent = (load.share * 100.0).round();
            let bar = if load.share >= 0.95 { "bar bar--warn" } else { "bar bar--ok" };
            view! {
                <span class="mini" title=load.hint>
                    <i class=bar><b style:width=format!("{percent}%")></b></i><span>{format!("{percent} %")}</span>
                </span>
            }
            .into_any()
        }
        None => view! { <span class="faint">{words::no_load(said)}</span> }.into_any(),
    }
}
