//! The sections of a peer's drawer.

use std::sync::Arc;

use agent_api::{
    mesh::{AnnouncedModel, Announcement, Attempt, Peer, PeerDetails, PeerPath},
    tasks::{TaskKind, Worker},
};
use leptos::prelude::*;

use super::Answer;
use crate::{
    app::{App, use_app},
    backend,
    components::{
        answer::CopyButton,
        badge::badge,
        icon::{Icon, icon},
        spark::Spark,
    },
    derived::{Derived, derived},
    format::{self, LocalTime, UNKNOWN},
    route::Panel,
    tasks::offers,
    words::{Badge, Tone, model, peer as words},
};

/// As many round-trip times as the node keeps.
const HISTORY: usize = 60;
const LINE_WIDTH: f64 = 168.0;

/// A part of the details that changes only when its value does.
fn part<T: PartialEq + Send + Sync + 'static>(
    answer: Answer,
    read: impl Fn(&PeerDetails) -> T + Send + Sync + 'static,
) -> Derived<Option<T>> {
    derived(move || answer.with(|a| a.as_ref()?.as_ref().ok().map(&read)))
}

fn facts(facts: Vec<(&'static str, String)>) -> AnyView {
    let shown = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let row = |(name, value)| view! { <div><dt>{name}</dt><dd>{value}</dd></div> };
    view! { <dl class="kv">{shown.map(row).collect_view()}</dl> }.into_any()
}

/// What the line of round trips shows, in a sentence.
fn finding(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    if values.is_empty() {
        return "Round trip: not measured yet".into();
    }
    format!("Round trip of the last minutes, between {} and {}", words::rtt(low), words::rtt(high))
}

#[component]
pub(super) fn Latency(peer: Derived<Option<Arc<Peer>>>, answer: Answer) -> impl IntoView {
    let history = part(answer, |d| d.rtt_history.clone());
    let now = derived(move || peer.with(|p| p.as_ref()?.rtt_ms));
    let values = Signal::derive(move || history.get().unwrap_or_default());
    let span = move || values.with(|v| finding(v));
    view! {
        <Show when=move || now.get().is_some()>
            <section class="row peer-rtt">
                <div>
                    <p class="faint small">"Round trip"</p>
                    <p class="big num">{move || now.get().map(words::rtt)}</p>
                </div>
                <span class="push" title=span><Spark values most=HISTORY width=LINE_WIDTH words=finding/></span>
            </section>
        </Show>
    }
}

pub(super) fn connection(app: App, peer: &Peer) -> AnyView {
    let now = app.now.get_untracked();
    let ours = app.state.with_untracked(|s| s.status.as_ref().map(|s| s.node.version.clone()));
    let said = peer.announcement.as_ref();
    let since = peer.connected_since_ms.map(|at| format::duration(now - at)).unwrap_or_default();
    let zone = said.and_then(|a| a.region.as_deref());
    let place = words::place(peer).map(|place| format!("{place}, {}", zone.unwrap_or_default()));
    let list = vec![
        ("Path", words::path(peer).to_owned()),
        ("Address", peer.address.clone().unwrap_or_default()),
        ("Connected for", since),
        ("Place", place.unwrap_or_default()),
        ("Found through", words::found(&peer.sources)),
        ("Version", said.map(|a| words::version(&a.version, ours.as_deref())).unwrap_or_default()),
    ];
    view! {
        <section>
            <h3>"Connection"</h3>
            <p class="muted">{words::state_reason(peer)}</p>
            {facts(list)}
            <div class="row idline">
                <code class="path trunc" title=peer.node_id.0.clone()>{peer.node_id.0.clone()}</code>
                <CopyButton text=peer.node_id.0.clone() what=" the peer’s id"/>
            </div>
        </section>
    }
    .into_any()
}

/// Paths, addresses and bytes: only in the details.
#[component]
pub(super) fn Ways(answer: Answer) -> impl IntoView {
    let paths = part(answer, |d| d.paths.clone());
    let addresses = part(answer, |d| d.addresses.clone());
    let bytes = part(answer, |d| (d.bytes_sent, d.bytes_received));
    let row = |path: PeerPath| {
        let kind = words::path_kind(path.kind);
        view! {
            <tr>
                <td><span class=format!("state path--{}", kind.class())>{icon(words::path_icon(kind))}{kind.title()}</span></td>
                <td><code class="path">{path.address}</code></td>
                <td class="num">{words::rtt(path.rtt_ms)}</td>
                <td>{path.in_use.then(|| view! { <span class="badge badge--ok">"in use"</span> })}</td>
            </tr>
        }
    };
    let table = move || {
        paths.get().filter(|p| !p.is_empty()).map(|paths| {
            view! {
                <section>
                    <h3>"Paths"</h3>
                    <table class="table table--flush"><tbody>{paths.into_iter().map(row).collect_view()}</tbody></table>
                    {move || bytes.get().map(|(sent, received)| view! {
                        <p class="faint small">{format!("{} sent, {} received", format::file_size(sent), format::file_size(received))}</p>
                    })}
                </section>
            }
        })
    };
    let list = move || {
        addresses.get().filter(|a| !a.is_empty()).map(|addresses| {
            let title = format!("{} known", format::counted(addresses.len() as u64, "address", "addresses"));
            view! {
                <details class="fold">
                    <summary>{title}</summary>
                    <ul class="stack addresses">{addresses.into_iter().map(|a| view! { <li><code class="path">{a}</code></li> }).collect_view()}</ul>
                </details>
            }
        })
    };
    view! { {table}{list} }
}

pub(super) fn offers(app: App, peer: &Peer) -> AnyView {
    let Some(said) = &peer.announcement else {
        return view! { <p class="faint">"It has not announced itself yet, so what it offers is not known."</p> }.into_any();
    };
    let table = if said.models.is_empty() {
        view! { <p class="faint">"It announces no models."</p> }.into_any()
    } else {
        view! {
            <table class="table table--flush models-offered">
                <thead><tr><th>"Model"</th><th class="num">"Size"</th><th class="num">"Context"</th><th class="num">"Tok/s"</th></tr></thead>
                <tbody>{said.models.iter().map(model_row).collect_view()}</tbody>
            </table>
        }
        .into_any()
    };
    view! {
        <section>
            <h3>"Can run"</h3>{table}{ask(app, peer)}
            <p class="faint small">"A peer that runs your prompt can read it."</p>
        </section>
        <section><h3>"It says of itself"</h3>{facts(announced(said))}</section>
    }
    .into_any()
}

/// Opens the Ask box with a model of this peer; nothing where it takes no questions.
fn ask(app: App, peer: &Peer) -> Option<AnyView> {
    let offer = offers::offers(std::iter::once(peer), TaskKind::Chat).into_iter().next()?;
    let hint = format!("Asks {}", offer.label);
    let click = move |_| {
        app.chat.elsewhere.set(Some(offer.clone()));
        app.go(&Panel::Dashboard.href());
    };
    let button = view! {
        <div class="row"><button class="btn btn--sm" type="button" id="peer-ask" title=hint on:click=click>
            {icon(Icon::Chat)}<span>"Ask this peer"</span>
        </button></div>
    };
    Some(button.into_any())
}

/// What this node's own experience says of it.
#[component]
pub(super) fn Standing() -> impl IntoView {
    let app = use_app();
    let worker = derived(move || {
        let id = app.mesh.peer.get()?;
        app.mesh.workers.with(|w| w.get(&id).cloned())
    });
    let checks = |w: &Worker| match w.agreed + w.disagreed {
        0 => String::new(),
        all => format!("{} of {}", format::count(w.agreed), format::count(all)),
    };
    move || {
        worker.get().map(|w| {
            let list = vec![
                ("Finished", format::counted(w.done, "task", "tasks")),
                ("Failed or late", format::count(w.failed)),
                ("Checks passed", checks(&w)),
                ("Last against it", w.problem.clone().unwrap_or_default()),
            ];
            view! {
                <section id="peer-standing"><h3>{format!("Reputation {} of 100", words::reputation(w.reputation))}</h3>{facts(list)}</section>
            }
        })
    }
}

fn model_row(model: &AnnouncedModel) -> AnyView {
    let mark = |on: bool, tone: Tone, text: &str, hint: &str| {
        on.then(|| badge(Badge { tone, icon: None, text: text.into(), hint: hint.into() }))
    };
    let rate = model.tokens_per_s.map_or_else(|| UNKNOWN.into(), |r| format::rate(f64::from(r)));
    view! {
        <tr>
            <td>
                <span class="offer">
                    <span class="trunc" title=model.id.clone()>{model.id.clone()}</span>
                    {mark(model.resident, Tone::Good, "in memory", "Ready to answer at once")}
                    {mark(model.shared, Tone::Plain, "shared", "Its file can be fetched from this peer")}
                </span>
            </td>
            <td class="num">{format::file_size(model.size_bytes)}</td>
            <td class="num">{format::context(model.context)}</td>
            <td class="num">{rate}</td>
        </tr>
    }
    .into_any()
}

fn announced(said: &Announcement) -> Vec<(&'static str, String)> {
    let used = words::load(said).map(|load| load.hint).unwrap_or_default();
    let rate = said.tokens_per_s.map(|r| format!("{} tok/s", format::rate(f64::from(r))));
    let dht = said.dht_port.map(|port| format!("port {port}"));
    vec![
        ("State", words::serving(said.serving).to_owned()),
        ("Slots", used),
        ("Speed now", rate.unwrap_or_default()),
        ("Good for", model::class(said.worker_class).to_owned()),
        ("Power", said.power.map(words::power).unwrap_or_default()),
        ("Connected to", format::counted(said.links.len() as u64, "peer", "peers")),
        ("Relay", said.relay.clone().unwrap_or_default()),
        ("DHT node", dht.unwrap_or_default()),
        ("Protocol", protocol(said.protocol)),
        (
            "Announces itself",
            format!("every {}", format::duration(i64::from(said.every_s) * 1_000)),
        ),
    ]
}

fn protocol((low, high): (u16, u16)) -> String {
    if low == high { low.to_string() } else { format!("{low} to {high}") }
}

#[component]
pub(super) fn Attempts(answer: Answer) -> impl IntoView {
    let app = use_app();
    let attempts = part(answer, |d| d.attempts.clone());
    let row = move |attempt: Attempt| {
        let offset = backend::local_offset_ms();
        let now = LocalTime::new(app.now.get_untracked(), offset);
        let at = LocalTime::new(attempt.at_ms, offset).clock_or_date(now);
        let (glyph, class) = if attempt.ok { (Icon::Check, "ok") } else { (Icon::X, "bad") };
        view! { <li><span class=class>{icon(glyph)}</span><p title=attempt.text.clone()>{attempt.text.clone()}</p><time>{at}</time></li> }
    };
    move || {
        attempts.get().filter(|a| !a.is_empty()).map(|attempts| {
            view! {
                <section>
                    <h3>"Attempts to connect"</h3>
                    <ul class="feed">{attempts.into_iter().map(row).collect_view()}</ul>
                </section>
            }
        })
    }
}
