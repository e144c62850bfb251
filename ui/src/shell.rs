//! The frame around the panels: sidebar, top bar, banner, dialogs, keys, and the connection.

mod gate;
mod host_banner;
mod palette;
mod shortcuts;
mod sidebar;
mod toast;

use std::time::Duration;

use agent_api::node::ServingState;
use leptos::{ev, html, prelude::*};
use wasm_bindgen::JsCast;

use crate::{
    app::{App, location_hash},
    backend,
    derived::derived,
    format::LocalTime,
    keyboard::{self, Press},
    panels::{
        MeshActions, MeshDialogs, ModelActions, ModelDialogs, PanelView, TaskActions, TaskDialogs,
    },
    route::{self, Panel},
    state::{AppState, Link},
    words,
};

#[component]
pub fn Shell() -> impl IntoView {
    adopt_token();
    let app = App::new();
    provide_context(app);
    backend::connect(move |delivery| app.take(delivery));
    tick(app);
    follow_address(app);
    listen_to_keys(app);
    Effect::new(move |_| document().set_title(&format!("{} · EdgeCoder", app.panel.get().title())));

    let main = NodeRef::<html::Main>::new();
    let skip = move |event: ev::MouseEvent| {
        // The hash is the panel's address, so the link must not change it.
        event.prevent_default();
        if let Some(main) = main.get_untracked() {
            let _ = main.focus();
        }
    };
    let denied = derived(move || match app.state.with(|s| s.link.clone()) {
        Link::Denied { had_token } => Some(had_token),
        _ => None,
    });
    move || match denied.get() {
        Some(had_token) => view! { <gate::Gate had_token/> }.into_any(),
        None => view! {
            <a class="skip" href="#main" on:click=skip>"Skip to content"</a>
            <div class="app">
                <sidebar::Sidebar/>
                <main
                    class="main"
                    id="main"
                    tabindex="-1"
                    node_ref=main
                    on:scroll=move |_| app.scrolled.update(|n| *n = n.wrapping_add(1))
                >
                    <Topbar/>
                    <host_banner::HostBanner/>
                    <PanelView/>
                </main>
            </div>
            <ModelDialogs/>
            <MeshDialogs/>
            <TaskDialogs/>
            <palette::Palette/>
            <shortcuts::Shortcuts/>
            <toast::ToastRegion/>
        }
        .into_any(),
    }
}

#[component]
fn Topbar() -> impl IntoView {
    let app = crate::app::use_app();
    let stale = move || {
        let offset = backend::local_offset_ms();
        let heard = app.state.with(|s| s.stale_since(app.now.get() - s.clock_offset_ms))?;
        Some(format!("Last update {}", LocalTime::new(heard, offset).clock_with_seconds()))
    };
    let today =
        derived(move || LocalTime::new(app.now.get(), backend::local_offset_ms()).long_date());
    let installed = app.library.part(|l| l.models.len());
    let paused = app.part(|s| s.serving.state == ServingState::Paused);
    let tasks =
        app.tasks.part(|b| if b.known { words::task::summary(&b.counts) } else { String::new() });
    let sub = move || match app.panel.get() {
        Panel::Dashboard => today.get(),
        Panel::Models => {
            let pulls = app.state.with(|s| words::pull::overall(&s.pulls)).map(|(count, _)| count);
            installed.get().map(|n| words::model::summary(n, pulls)).unwrap_or_default()
        }
        Panel::Settings => "Changes are saved as you make them".into(),
        Panel::Mesh => {
            let paused = paused.get().unwrap_or(false);
            let summary = |s: &AppState| s.mesh.as_ref().map(|m| words::mesh::summary(m, paused));
            app.state.with(summary).unwrap_or_default()
        }
        Panel::Tasks => tasks.get(),
        Panel::Credits => String::new(),
    };
    view! {
        <header class="topbar">
            <h1 id="panel-title">{move || app.panel.get().title()}</h1>
            <p class="sub">{sub}</p>
            <p class="sub push" id="last-update">{stale}</p>
            {move || match app.panel.get() {
                Panel::Models => view! { <ModelActions/> }.into_any(),
                Panel::Mesh => view! { <MeshActions/> }.into_any(),
                Panel::Tasks => view! { <TaskActions/> }.into_any(),
                _ => ().into_any(),
            }}
        </header>
    }
}

/// `edgecoder-node run` prints an address with the token: keep it, and take it out of sight.
fn adopt_token() {
    if let Some(token) = route::token_of(&location_hash()) {
        backend::set_token(&token);
        if let Some(window) = web_sys::window() {
            let clean = Panel::default().href();
            // Fails only across origins.
            let _ = window.history().and_then(|h| {
                h.replace_state_with_url(&wasm_bindgen::JsValue::NULL, "", Some(&clean))
            });
        }
    }
}

fn tick(app: App) {
    // The page lives as long as its clock; without one it still works, only counters stand.
    let _ = set_interval_with_handle(move || app.tick(), Duration::from_secs(1));
}

fn follow_address(app: App) {
    let _ = window_event_listener(ev::hashchange, move |_| {
        adopt_token();
        let address = location_hash();
        let panel = Panel::from_path(&address);
        app.mesh.peer.set(route::peer_of(&address));
        app.tasks.follow(&address);
        if panel == app.panel.get_untracked() {
            return;
        }
        app.panel.set(panel);
        if let Some(main) = document().get_element_by_id("main") {
            main.set_scroll_top(0);
        }
    });
}

fn listen_to_keys(app: App) {
    let _ = window_event_listener(ev::keydown, move |event| {
        if event.default_prevented() || event.is_composing() {
            return;
        }
        let press = Press {
            key: event.key(),
            command: event.ctrl_key() || event.meta_key(),
            alt: event.alt_key(),
            shift: event.shift_key(),
            typing: typing(),
        };
        if let Some(action) = keyboard::action(&press, app.single_keys.get_untracked()) {
            event.prevent_default();
            app.act(action);
        }
    });
}

/// A field has the focus, or a dialog is open.
fn typing() -> bool {
    let document = document();
    let in_dialog = document.query_selector("dialog[open]").is_ok_and(|d| d.is_some());
    let field = document.active_element().is_some_and(|e| {
        let editable = e
            .dyn_ref::<web_sys::HtmlElement>()
            .is_some_and(web_sys::HtmlElement::is_content_editable);
        editable || matches!(e.tag_name().as_str(), "INPUT" | "TEXTAREA" | "SELECT")
    });
    in_dialog || field
}
