//! The two pictures of the mesh: the world map, and the latency graph.

use agent_api::mesh::MeshState;
use leptos::{ev, prelude::*};

use crate::{
    app::{App, use_app},
    components::icon::{Icon, icon},
    derived::{Derived, derived},
    format,
    mesh::{self, Dot, Kind, labels::Label, land, map, rings},
    route, storage,
    words::mesh as words,
};

const VIEW: &str = "edgecoder-mesh-view";

/// Figures in the pictures follow the node's at this pace; who is there, at once.
const REDRAW_MS: i64 = 3_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Map,
    Latency,
}

impl View {
    fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Latency => "latency",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Map, Self::Latency].into_iter().find(|view| view.name() == name)
    }
}

#[component]
pub(super) fn Topology(anybody: Derived<bool>) -> impl IntoView {
    let app = use_app();
    let redraw = redraw(app);
    let chosen = RwSignal::new(storage::get(VIEW).as_deref().and_then(View::named));
    let shown = derived(move || chosen.get().unwrap_or_else(|| usual(app, redraw)));
    let choose = move |view: View| {
        chosen.set(Some(view));
        storage::set(VIEW, view.name());
    };
    let option = move |view: View, glyph: Icon, title: &'static str| {
        view! {
            <label>
                <input
                    type="radio"
                    name="topo-view"
                    value=view.name()
                    prop:checked=move || shown.get() == view
                    on:change=move |_| choose(view)
                />
                <span>{icon(glyph)}{title}</span>
            </label>
        }
    };
    view! {
        <div class="topo-view">
            <div class="topo-tools">
                <div class="seg" role="radiogroup" aria-label="Picture">
                    {option(View::Map, Icon::Globe, "Map")}{option(View::Latency, Icon::Graph, "Latency")}
                </div>
            </div>
            {move || match shown.get() {
                View::Map => view! { <Map redraw/> }.into_any(),
                View::Latency => view! { <Latency redraw/> }.into_any(),
            }}
            <Show when=move || !anybody.get()><Alone/></Show>
            <Legend redraw/>
        </div>
    }
}

/// What the owner sees who has not chosen: the map, unless nobody says where they are.
fn usual(app: App, redraw: Derived<(u64, i64, Option<String>)>) -> View {
    let (_, _, region) = redraw.get();
    let empty = app.state.with_untracked(|s| map::shows_nobody(s.peers.iter(), region.as_deref()));
    if empty { View::Latency } else { View::Map }
}

/// Changes when the pictures are to be drawn anew.
fn redraw(app: App) -> Derived<(u64, i64, Option<String>)> {
    derived(move || {
        let beat = app.now.get() / REDRAW_MS;
        app.state.with(|s| {
            let region = s.mesh.as_ref().and_then(|m| m.own.region.clone());
            (s.peers.members(), beat, region)
        })
    })
}

fn own_name(app: App) -> String {
    app.state
        .with_untracked(|s| s.status.as_ref().map(|s| s.node.name.clone()))
        .unwrap_or_else(|| "this node".into())
}

#[component]
fn Map(redraw: Derived<(u64, i64, Option<String>)>) -> impl IntoView {
    let app = use_app();
    let drawn = derived(move || {
        let (_, _, region) = redraw.get();
        let name = own_name(app);
        app.state.with_untracked(|s| map::draw(s.peers.iter(), &name, region.as_deref()))
    });
    let lines = move || {
        drawn
            .with(|m| m.lines.clone())
            .into_iter()
            .map(
                |l| view! { <path class=format!("marc marc--{}", l.kind.class()) d=l.path></path> },
            )
            .collect_view()
    };
    let own = move || {
        drawn.with(|m| m.own.map(|at| (at, m.near))).map(|((x, y), near)| {
            let ring = (near > 0).then(|| view! { <circle class="mring" cx=x.to_string() cy=y.to_string() r="13"></circle> });
            view! { {ring}<circle class="mself" cx=x.to_string() cy=y.to_string() r="4.5"></circle> }
        })
    };
    view! {
        <svg class="map" id="mesh-map" viewBox=format!("0 0 {} {}", map::WIDTH, map::HEIGHT) role="group"
            aria-label="World map of the peers. The table below lists the same peers.">
            <path class="land" d=land::path()></path>
            {lines}
            {move || dots(app, drawn.with(|m| m.dots.clone()))}
            {own}
            {move || labels(drawn.with(|m| m.labels.clone()))}
        </svg>
        {move || drawn.with(note)}
    }
}

/// Under the map: who is not on it, and how this node comes onto it.
fn note(drawn: &map::Map) -> Option<AnyView> {
    let shown = !drawn.dots.is_empty();
    let hidden = if shown { 0 } else { drawn.elsewhere };
    let own = drawn.own.is_none() && (shown || hidden > 0);
    let text = words::no_place(hidden, own)?;
    let how = own.then(|| {
        view! { " To show one, choose a city under "<a href="#/settings">"Settings, Mesh"</a>"." }
    });
    Some(view! { <p class="topo-note small muted" id="map-note">{text}{how}</p> }.into_any())
}

#[component]
fn Latency(redraw: Derived<(u64, i64, Option<String>)>) -> impl IntoView {
    let app = use_app();
    let drawn = derived(move || {
        redraw.track();
        let name = own_name(app);
        app.state.with_untracked(|s| rings::draw(s.peers.iter(), &name))
    });
    let (x, y) = rings::CENTER;
    let grid = rings::RINGS.map(|rtt| {
        let top = y - rings::rise(rtt);
        view! {
            <ellipse class="mgrid" cx=x.to_string() cy=y.to_string()
                rx=rings::reach(rtt).to_string() ry=rings::rise(rtt).to_string()></ellipse>
            <text class="ms mgrid-t" x=x.to_string() y=(top - 4.0).to_string() text-anchor="middle">{format!("{rtt} ms")}</text>
        }
    });
    let spokes = move || {
        drawn.with(|g| g.dots.clone())
            .into_iter()
            .map(|dot| {
                let class = format!("marc marc--{}", dot.kind.class());
                view! { <path class=class d=format!("M{x:.1} {y:.1}L{:.1} {:.1}", dot.x, dot.y)></path> }
            })
            .collect_view()
    };
    let left_out = move || {
        drawn.with(|g| g.left_out).checked_sub(1).map(|n| {
            let text = format!("The {} nearest are drawn, {} more are in the table", drawn.with(|g| g.dots.len()), n + 1);
            view! { <text class="ms" x=(rings::WIDTH - 6.0).to_string() y="16" text-anchor="end">{text}</text> }
        })
    };
    view! {
        <svg class="map" id="mesh-latency" viewBox=format!("0 0 {} {}", rings::WIDTH, rings::HEIGHT) role="group"
            aria-label="Connected peers by round-trip time: the further out, the slower. The table below lists the same peers.">
            {grid.into_iter().collect_view()}
            {spokes}
            {move || dots(app, drawn.with(|g| g.dots.clone()))}
            <circle class="mself" cx=x.to_string() cy=y.to_string() r="5"></circle>
            {move || labels(drawn.with(|g| g.labels.clone()))}
            {left_out}
        </svg>
    }
}

fn dots(app: App, dots: Vec<Dot>) -> AnyView {
    dots.into_iter().map(|d| dot(app, d)).collect_view().into_any()
}

fn dot(app: App, dot: Dot) -> AnyView {
    let class = format!("mnode mnode--{}", dot.kind.class());
    let place = format!("translate({:.1} {:.1})", dot.x, dot.y);
    let radius = dot.radius;
    let shape = match dot.kind {
        Kind::Relay => {
            let side = format!("{:.1}", radius * 1.8);
            let start = format!("{:.1}", -radius * 0.9);
            view! { <rect x=start.clone() y=start width=side.clone() height=side transform="rotate(45)"></rect> }.into_any()
        }
        Kind::Unreachable if dot.count == 1 => {
            view! { <path d="M-3.5-3.5l7 7M3.5-3.5l-7 7"></path> }.into_any()
        }
        _ => view! { <circle r=format!("{radius:.1}")></circle> }.into_any(),
    };
    let href = route::peer_href(&dot.peer);
    let open = move |event: ev::MouseEvent| {
        event.prevent_default();
        app.show_peer(Some(&dot.peer));
    };
    let title = dot.title.clone();
    view! {
        // Inside a group, so that the link is one of SVG and not of HTML.
        <g>
            <a href=href aria-label=title on:click=open>
                <g class=class transform=place>
                    <title>{dot.title}</title>
                    <circle class="mhit" r=format!("{:.1}", radius.max(9.0))></circle>
                    {shape}
                </g>
            </a>
        </g>
    }
    .into_any()
}

fn labels(labels: Vec<Label>) -> AnyView {
    let text = |label: Label| {
        let own = label.figure.starts_with("you");
        view! {
            <text class:self=own x=format!("{:.1}", label.x) y=format!("{:.1}", label.y) text-anchor=label.anchor>
                {label.name}<tspan class="ms" dx="4">{label.figure}</tspan>
            </text>
        }
    };
    // The dots have the same words.
    view! { <g class="mlab" aria-hidden="true">{labels.into_iter().map(text).collect_view()}</g> }
        .into_any()
}

#[component]
fn Legend(redraw: Derived<(u64, i64, Option<String>)>) -> impl IntoView {
    let app = use_app();
    let counts = derived(move || {
        redraw.track();
        app.state.with_untracked(|s| mesh::counts(s.peers.iter()))
    });
    let entry = |(kind, count): (Kind, usize)| {
        let class = format!("mnode mnode--{}", kind.class());
        let shape = match kind {
            Kind::Relay => view! { <path d="M6 .8L10.2 5 6 9.2 1.8 5z"></path> }.into_any(),
            Kind::Unreachable => view! { <path d="M3 2l6 6M9 2l-6 6"></path> }.into_any(),
            _ => view! { <circle cx="6" cy="5" r="3.75"></circle> }.into_any(),
        };
        view! {
            <li>
                <svg width="12" height="10" aria-hidden="true"><g class=class>{shape}</g></svg>
                {kind.title()}" "<b>{format::count(count as u64)}</b>
            </li>
        }
    };
    view! {
        <ul class="legend topo-legend" id="mesh-legend">
            {move || counts.get().into_iter().map(entry).collect_view()}
        </ul>
    }
}

/// Over the empty map: what is being tried, and what the owner can do.
#[component]
fn Alone() -> impl IntoView {
    let app = use_app();
    let words = app.mesh_part(|m| {
        let title = match m.state {
            MeshState::Joining => "Looking for other nodes",
            MeshState::Failed => "The network could not be opened",
            MeshState::Off | MeshState::Alone | MeshState::Joined => "No other node yet",
        };
        (title, m.reason.clone(), words::tried(m))
    });
    view! {
        <div class="topo-alone" id="mesh-alone">
            <h2>{move || words.get().map(|w| w.0)}</h2>
            <p>{move || words.get().map(|w| w.1)}</p>
            <p class="faint small">{move || words.get().map(|w| w.2)}</p>
            <div class="row">
                <button class="btn btn--sm" type="button" on:click=move |_| app.mesh.join.set(true)>
                    {icon(Icon::Ticket)}<span>"Join by ticket"</span>
                </button>
                <button class="btn btn--sm btn--primary" type="button" on:click=move |_| app.mesh.invite.set(true)>
                    {icon(Icon::Plus)}<span>"Invite a computer"</span>
                </button>
            </div>
        </div>
    }
}
