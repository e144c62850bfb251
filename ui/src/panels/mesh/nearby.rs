//! Nodes on this network that are in another mesh; those that ask to join wait for an answer here.

use agent_api::mesh::Nearby;
use leptos::prelude::*;

use crate::{
    app::{mesh::Who, use_app},
    components::icon::{Icon, icon},
    derived::derived,
    words::mesh as words,
};

#[component]
pub(super) fn NearbyNodes() -> impl IntoView {
    let app = use_app();
    let nearby = app.mesh_part(|m| {
        let mut list = m.nearby.clone();
        // Those that wait for an answer first.
        list.sort_by_key(|n| (!n.asks_to_join, n.name.clone()));
        list
    });
    let any = derived(move || nearby.with(|n| n.as_ref().is_some_and(|n| !n.is_empty())));
    view! {
        <Show when=move || any.get()>
            <section class="card" id="nearby" aria-labelledby="nearby-title">
                <div class="card-head card-head--line">
                    <h2 id="nearby-title">"On this network "<span class="count">{move || nearby.with(|n| n.as_ref().map(Vec::len))}</span></h2>
                </div>
                <ul class="nearby" aria-live="polite">
                    <For
                        each=move || nearby.get().unwrap_or_default()
                        key=|n| (n.node_id.clone(), n.asks_to_join, n.name.clone(), n.mesh.clone())
                        children=|n| view! { <Row nearby=n/> }
                    />
                </ul>
            </section>
        </Show>
    }
}

#[component]
fn Row(nearby: Nearby) -> impl IntoView {
    let app = use_app();
    let line = words::nearby_line(&nearby);
    let short = nearby.node_id.fmt_short().to_owned();
    let who = Who { id: nearby.node_id.clone(), name: nearby.name.clone() };
    let id = nearby.node_id.0.clone();
    let answer = nearby.asks_to_join.then(|| {
        let refused = who.clone();
        let busy = move || app.mesh.busy.get();
        view! {
            <button class="btn btn--sm" type="button" disabled=busy on:click=move |_| app.admit(refused.clone(), false)>
                <span>"Not now"</span>
            </button>
            <button class="btn btn--sm btn--go" type="button" disabled=busy on:click=move |_| app.admit(who.clone(), true)>
                {icon(Icon::Check)}<span>"Let in"</span>
            </button>
        }
    });
    let hint = (!nearby.asks_to_join).then(|| {
        view! { <span class="small faint">"To have it here, invite it, or join its mesh by a ticket."</span> }
    });
    view! {
        <li data-nearby=id class:asks=nearby.asks_to_join>
            {icon(Icon::Lan)}
            <div><b>{nearby.name}</b>" "<code class="faint">{short}</code><p>{line}</p></div>
            <span class="push row">{hint}{answer}</span>
        </li>
    }
}
