//! The sidebar: where to go, and the node's state wherever one is.

use leptos::prelude::*;

use crate::{
    app::use_app,
    backend,
    components::icon::{Icon, icon, icon_class, mark},
    derived::derived,
    format,
    headline::{self, Tone},
    route::Panel,
    state::Link,
    words::{self, model::NavCount},
};

#[component]
pub(super) fn Sidebar() -> impl IntoView {
    let app = use_app();
    view! {
        <aside class="sidebar" aria-label="EdgeCoder">
            <div class="brand">{mark()}<span class="wordmark">"EdgeCoder"</span></div>
            <button
                class="jump"
                type="button"
                aria-keyshortcuts="Control+K"
                title="Jump to (Ctrl K)"
                aria-label="Jump to a panel or an action"
                on:click=move |_| app.palette.set(true)
            >
                {icon(Icon::Search)}<span>"Jump to"</span><span class="keys"><kbd>"Ctrl"</kbd><kbd>"K"</kbd></span>
            </button>
            <nav aria-label="Panels">
                <ul class="nav">{Panel::ALL.map(|panel| view! { <NavItem panel/> }).into_iter().collect_view()}</ul>
            </nav>
            <NodeCard/>
        </aside>
    }
}

#[component]
fn NavItem(panel: Panel) -> impl IntoView {
    let app = use_app();
    let current = move || (app.panel.get() == panel).then_some("page");
    let title = format!("{} ({})", panel.title(), panel.key());
    let installed = app.library.part(|l| l.models.len());
    let count = derived(move || {
        if panel == Panel::Mesh {
            return app.state.with(|s| words::mesh::nav_count(s.mesh.as_ref()?));
        }
        if panel == Panel::Tasks {
            let active = app.tasks.board.with(|b| b.counts.active);
            return (active > 0).then(|| NavCount {
                text: format::compact(u64::from(active)),
                hint: format!("{} running", format::counted(u64::from(active), "task", "tasks")),
                moving: true,
            });
        }
        if panel != Panel::Models {
            return None;
        }
        let pulls = app.state.with(|s| words::pull::overall(&s.pulls));
        words::model::nav_count(installed.get(), pulls)
    });
    view! {
        <li>
            <a href=panel.href() aria-current=current title=title aria-keyshortcuts=panel.key().to_string()>
                {icon(panel.icon())}
                <span class="nav-label">{panel.title()}</span>
                {move || match count.get() {
                    Some(count) => nav_count(count),
                    None => view! { <span class="nav-key" aria-hidden="true">{panel.key().to_string()}</span> }.into_any(),
                }}
            </a>
        </li>
    }
}

/// What there is to know about a panel before it is opened.
fn nav_count(count: NavCount) -> AnyView {
    let class = if count.moving { "nav-count" } else { "nav-count nav-count--still" };
    view! {
        <span class=class title=count.hint.clone()>
            <span aria-hidden="true">{count.text}</span><span class="vh">{count.hint.clone()}</span>
        </span>
    }
    .into_any()
}

#[component]
fn NodeCard() -> impl IntoView {
    let app = use_app();
    let card = derived(move || {
        app.state.with(|s| headline::card(s, app.now.get(), backend::local_offset_ms()))
    });
    let tone = derived(move || card.get().0);
    let light = move || match tone.get() {
        Tone::Serving => {
            view! { <span class="dot dot--live" aria-hidden="true"></span> }.into_any()
        }
        Tone::Ready => view! { <span class="dot dot--ok" aria-hidden="true"></span> }.into_any(),
        Tone::Waiting => view! { <span class="dot dot--off" aria-hidden="true"></span> }.into_any(),
        Tone::Paused => icon_class(Icon::Pause, "i i-sm warn"),
        Tone::Trouble => icon_class(Icon::Error, "i i-sm bad"),
    };
    let name = move || app.state.with(|s| s.status.as_ref().map(|s| s.node.name.clone()));
    let word = derived(move || card.get().1);
    view! {
        <div class="nodecard">
            <div class="nodecard-row" role="status" aria-label="Node status">
                {light}<strong id="node-state">{move || word.get()}</strong><PauseKey/>
            </div>
            <p class="nodecard-meta trunc">{move || card.get().2}</p>
            <div class="nodecard-id">
                <span class="trunc">{name}</span>
                <button
                    class="ibtn ibtn--sm"
                    type="button"
                    aria-label="Switch between light and dark"
                    title="Light or dark (T)"
                    on:click=move |_| app.toggle_theme()
                >
                    {icon(Icon::Auto)}
                </button>
            </div>
        </div>
    }
}

#[component]
fn PauseKey() -> impl IntoView {
    let app = use_app();
    let paused = derived(move || {
        app.state.with(|s| {
            let status = s.status.as_ref().filter(|_| s.link == Link::Live)?;
            Some(status.serving.state == agent_api::node::ServingState::Paused)
        })
    });
    move || {
        paused.get().map(|paused| {
            let (label, shape) =
                if paused { ("Resume this node", Icon::Play) } else { ("Pause this node", Icon::Pause) };
            let act = move |_| if paused { app.resume() } else { app.pause(None) };
            view! {
                <button class="ibtn ibtn--sm" type="button" aria-label=label title=format!("{label} (P)") on:click=act>
                    {icon(shape)}
                </button>
            }
        })
    }
}
