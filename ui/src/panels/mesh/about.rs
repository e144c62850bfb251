//! At the end of the panel, folded: this node as the others see it, blocked nodes, and messages that
//! were refused.

use agent_api::mesh::{BlockedNode, Mesh, Refused};
use leptos::prelude::*;

use crate::{
    app::{mesh::Who, use_app},
    backend,
    components::answer::CopyButton,
    format::{self, LocalTime},
    mesh::places,
    words::mesh as words,
};

#[component]
pub(super) fn About() -> impl IntoView {
    let app = use_app();
    let facts = app.mesh_part(facts);
    let id = app.mesh_part(|m| m.mesh_id.clone());
    let blocked = app.mesh_part(|m| m.blocked.clone());
    let refused = app.mesh_part(|m| m.refused.clone());
    let refusals = move || refused.with(|r| r.iter().flatten().map(|r| r.count).sum::<u64>());
    let note = move || {
        let blocked = blocked.with(|b| b.as_ref().map_or(0, Vec::len));
        let blocked = (blocked > 0).then(|| format!("{blocked} blocked"));
        let refusals = (refusals() > 0)
            .then(|| format!("{} refused", format::counted(refusals(), "message", "messages")));
        [blocked, refusals].into_iter().flatten().collect::<Vec<_>>().join(", ")
    };
    view! {
        <section class="card" id="mesh-about">
            <details class="fold aboutfold">
                <summary><h2>"This node in the mesh"</h2><span class="faint small">{note}</span></summary>
                <div class="about">
                    <div>
                        <dl class="kv">{move || facts.get().into_iter().flatten().map(|(name, value)| view! {
                            <div><dt>{name}</dt><dd>{value}</dd></div>
                        }).collect_view()}</dl>
                        {move || id.get().map(|text| view! {
                            <div class="row idline"><code class="path trunc">{text.clone()}</code><CopyButton text what=" the mesh’s id"/></div>
                        })}
                    </div>
                    <div>
                        <h3>"Blocked nodes"</h3>
                        {move || blocked_list(blocked.get().unwrap_or_default())}
                    </div>
                    <div>
                        <h3>"Refused since the start"</h3>
                        {move || refused_list(&refused.get().unwrap_or_default())}
                    </div>
                </div>
            </details>
        </section>
    }
}

fn facts(mesh: &Mesh) -> Vec<(&'static str, String)> {
    let own = &mesh.own;
    let relay = own
        .relay
        .as_ref()
        .map(|url| if own.relay_connected { url.clone() } else { format!("{url}, not connected") });
    let place = own.region.as_deref().map_or_else(|| "not shown".into(), places::name);
    let every = format::duration(i64::from(own.announce_every_s) * 1_000);
    let mut facts = vec![
        ("State", words::state(mesh.state).1.to_owned()),
        ("Shown place", place),
        ("Addresses", own.addresses.join(", ")),
        ("Relay", relay.unwrap_or_else(|| "none".into())),
        ("Announces itself", format!("every {every}")),
        ("Seed", if own.seed { "yes, it helps others to meet" } else { "no" }.to_owned()),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

fn blocked_list(blocked: Vec<BlockedNode>) -> AnyView {
    let app = use_app();
    if blocked.is_empty() {
        return view! { <p class="faint small">"None. A blocked node stays blocked over restarts and meshes."</p> }.into_any();
    }
    let row = |node: BlockedNode| {
        let offset = backend::local_offset_ms();
        let since = LocalTime::new(node.since_ms, offset).date();
        let short = node.node_id.fmt_short().to_owned();
        let id = node.node_id.0.clone();
        let who = Who { id: node.node_id, name: node.name.clone() };
        view! {
            <li class="row" data-blocked=id>
                <span class="trunc">{node.name}" "<code class="faint">{short}</code></span>
                <span class="faint small push nowrap">"since "{since}</span>
                <button class="btn btn--sm" type="button" disabled=move || app.mesh.busy.get() on:click=move |_| app.block(who.clone(), false)>
                    <span>"Unblock"</span>
                </button>
            </li>
        }
    };
    view! { <ul class="stack">{blocked.into_iter().map(row).collect_view()}</ul> }.into_any()
}

fn refused_list(refused: &[Refused]) -> AnyView {
    if refused.is_empty() {
        return view! { <p class="faint small">"Nothing. Messages that are forged, too old or too many are dropped and counted here."</p> }.into_any();
    }
    let row = |refused: &Refused| {
        let (title, why) = words::refused(refused);
        let count = format::count(refused.count);
        view! { <div title=why><dt>{title}</dt><dd>{count}</dd></div> }
    };
    view! { <dl class="kv kv--tight">{refused.iter().map(row).collect_view()}</dl> }.into_any()
}
