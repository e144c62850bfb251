//! What the whole page shares: the state, the panel in view, and what the owner can do.

pub mod mesh;
mod models;
mod tasks;

use agent_api::{
    Event, Status,
    endpoint::{GetActivity, GetMesh, GetStatus, ListPulls, Nothing, PauseNode, ResumeNode},
    host::HostMessage,
    models::InstalledModel,
    node::{ActivityQuery, Pause, ServingState},
};
use leptos::{prelude::*, task::spawn_local};
use wasm_bindgen::JsCast;
use web_sys::HtmlElement;

pub use self::{mesh::MeshView, models::Library, tasks::TasksView};

use crate::{
    backend::{self, Delivery, Host},
    chat::Chat,
    derived::{Derived, derived},
    keyboard::{self, Action},
    route::Panel,
    state::{AppState, Link, Next},
    storage,
    theme::{self, Theme},
};

const SINGLE_KEYS: &str = "edgecoder-single-keys";

/// A short message about something that was done or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toast {
    pub failed: bool,
    pub text: String,
    /// Id of a model to offer a swap to.
    pub swap_to: Option<String>,
}

#[derive(Clone, Copy)]
pub struct App {
    pub state: RwSignal<AppState>,
    /// The node's clock, once a second.
    pub now: RwSignal<i64>,
    pub panel: RwSignal<Panel>,
    /// Grows as the panel is scrolled.
    pub scrolled: RwSignal<u32>,
    pub theme: RwSignal<Theme>,
    pub single_keys: RwSignal<bool>,
    pub palette: RwSignal<bool>,
    pub shortcuts: RwSignal<bool>,
    pub toast: RwSignal<Option<Toast>>,
    pub library: Library,
    pub mesh: MeshView,
    pub tasks: TasksView,
    pub chat: Chat,
    pub desktop: bool,
}

impl App {
    pub fn new() -> Self {
        Self {
            state: RwSignal::default(),
            now: RwSignal::new(backend::now_ms()),
            panel: RwSignal::new(Panel::from_path(&location_hash())),
            scrolled: RwSignal::new(0),
            theme: RwSignal::new(Theme::remembered()),
            single_keys: RwSignal::new(storage::get(SINGLE_KEYS).as_deref() != Some("off")),
            palette: RwSignal::new(false),
            shortcuts: RwSignal::new(false),
            toast: RwSignal::new(None),
            library: Library::default(),
            mesh: MeshView::default(),
            tasks: TasksView::default(),
            chat: Chat::default(),
            desktop: backend::host() == Host::Desktop,
        }
    }

    /// A part of the last status that changes only when its value does.
    pub fn part<T: PartialEq + Send + Sync + 'static>(
        self,
        read: impl Fn(&Status) -> T + Send + Sync + 'static,
    ) -> Derived<Option<T>> {
        derived(move || self.state.with(|s| s.status.as_ref().map(&read)))
    }

    pub fn active_model(self) -> Derived<Option<InstalledModel>> {
        derived(move || self.state.with(|s| s.status.as_ref()?.model.active.clone()))
    }

    pub fn live(self) -> Derived<bool> {
        derived(move || self.state.with(|s| s.link == Link::Live))
    }

    /// Sets the clock that everything on the page reads.
    pub fn tick(self) {
        let offset = self.state.with_untracked(|s| s.clock_offset_ms);
        self.now.set(backend::now_ms() + offset);
    }

    pub fn take(self, delivery: Delivery) {
        // A countdown that begins now must not begin with the last second's clock.
        if matches!(
            delivery,
            Delivery::Link(_) | Delivery::Message(HostMessage::Event { event: Event::Host { .. } })
        ) {
            self.tick();
        }
        match delivery {
            Delivery::Link(link) => self.state.update(|s| s.link = link),
            Delivery::Message(HostMessage::Event { event }) => {
                match self.state.try_update(|s| s.apply(event, backend::now_ms())) {
                    Some(Next::AskAgain) => self.ask_again(),
                    Some(Next::LoadModels) => self.load_models_soon(),
                    Some(Next::LoadLists) => {
                        self.load_models_soon();
                        self.load_peers_again();
                        self.load_tasks();
                        self.load_schedules_again();
                    }
                    Some(Next::Tasks { changed, counts, more }) => {
                        self.take_tasks(changed, counts, more);
                    }
                    Some(Next::LoadSchedules) => self.load_schedules_again(),
                    Some(Next::Arrived(pulls)) => self.announce(&pulls),
                    Some(Next::Nothing) | None => {}
                }
            }
            Delivery::Message(HostMessage::Navigate { path }) => self.go(&path),
            Delivery::Message(HostMessage::Chunk { .. } | HostMessage::End { .. }) => {}
        }
    }

    fn ask_again(self) {
        spawn_local(async move {
            // What fails here comes with the next snapshot.
            if let Ok(status) = backend::call(GetStatus, &Nothing {}).await {
                self.state.update(|s| s.set_status(status, backend::now_ms()));
            }
            if let Ok(list) = backend::call(GetActivity, &ActivityQuery::default()).await {
                self.state.update(|s| s.set_activity(list.items));
            }
            if let Ok(list) = backend::call(ListPulls, &Nothing {}).await {
                self.state.update(|s| s.pulls = list.pulls);
            }
            if let Ok(mesh) = backend::call(GetMesh, &Nothing {}).await {
                self.state.update(|s| s.mesh = Some(mesh));
            }
            self.load_peers_again();
            self.load_tasks();
            self.load_schedules_again();
            self.load_models();
        });
    }

    pub fn open(self, panel: Panel) {
        self.go(panel.path());
    }

    /// Goes to an address of the page: `/mesh/peer/ID`.
    pub fn go(self, path: &str) {
        self.palette.set(false);
        if let Some(window) = web_sys::window() {
            // The change of the hash sets the panel; it fails only for an address that is not one.
            let _ = window.location().set_hash(path);
        }
    }

    pub fn paused(self) -> bool {
        self.state.with_untracked(|s| {
            s.status.as_ref().is_some_and(|s| s.serving.state == ServingState::Paused)
        })
    }

    pub fn pause(self, for_s: Option<u64>) {
        spawn_local(async move {
            match backend::call(PauseNode, &Pause { for_s }).await {
                Ok(serving) => self.set_serving(serving),
                Err(error) => self.failed(format!("Not paused. {error}")),
            }
        });
    }

    pub fn resume(self) {
        spawn_local(async move {
            match backend::call(ResumeNode, &Nothing {}).await {
                Ok(serving) => self.set_serving(serving),
                Err(error) => self.failed(format!("Not resumed. {error}")),
            }
        });
    }

    fn set_serving(self, serving: agent_api::node::Serving) {
        self.state.update(|s| {
            if let Some(status) = &mut s.status {
                status.serving = serving;
            }
        });
    }

    pub fn retry_now(self) {
        spawn_local(async move {
            if let Err(error) = backend::retry_now().await {
                self.failed(format!("Not restarted. {error}"));
            }
        });
    }

    pub fn set_theme(self, theme: Theme) {
        self.theme.set(theme);
        theme.apply();
    }

    pub fn toggle_theme(self) {
        self.set_theme(self.theme.get_untracked().toggled(theme::system_dark()));
    }

    pub fn set_single_keys(self, on: bool) {
        self.single_keys.set(on);
        storage::set(SINGLE_KEYS, if on { "on" } else { "off" });
    }

    pub fn done(self, text: String) {
        self.toast.set(Some(Toast { failed: false, text, swap_to: None }));
    }

    pub fn failed(self, text: String) {
        self.toast.set(Some(Toast { failed: true, text, swap_to: None }));
    }

    pub fn act(self, action: Action) {
        match action {
            Action::Open(panel) => self.open(panel),
            Action::Palette => self.palette.update(|open| *open = !*open),
            Action::Shortcuts => self.shortcuts.set(true),
            Action::PauseOrResume if self.paused() => self.resume(),
            Action::PauseOrResume => self.pause(None),
            Action::Theme => self.toggle_theme(),
            Action::Search if self.panel.get_untracked() == Panel::Models => {
                focus("catalogue-search");
            }
            Action::Search if self.panel.get_untracked() == Panel::Mesh => focus("peer-filter"),
            Action::Search if self.panel.get_untracked() == Panel::Tasks => focus("task-search"),
            Action::Search => self.focus_ask(),
            Action::NewTask => self.new_task(),
            Action::NextRow => step_row(true),
            Action::PreviousRow => step_row(false),
        }
    }

    /// Goes to the Ask box, from any panel.
    pub fn focus_ask(self) {
        self.open(Panel::Dashboard);
        // The panel may only now be drawn.
        set_timeout(|| focus("ask-input"), std::time::Duration::from_millis(50));
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

/// Focuses the element with this id, if there is one.
pub(crate) fn focus(id: &str) {
    let element = document().get_element_by_id(id);
    if let Some(element) = element.and_then(|e| e.dyn_into::<HtmlElement>().ok()) {
        // Focus can only fail on an element that is gone.
        let _ = element.focus();
    }
}

/// Moves the focus to the next or previous row of the panel, from wherever in a row it is.
fn step_row(forward: bool) {
    let Ok(rows) = document().query_selector_all("#main [data-row]") else { return };
    let rows: Vec<HtmlElement> =
        (0..rows.length()).filter_map(|i| rows.get(i)?.dyn_into().ok()).collect();
    let active = document().active_element();
    let current = rows.iter().position(|row| row.contains(active.as_deref()));
    if let Some(row) = keyboard::stepped(current, forward, rows.len()).and_then(|i| rows.get(i)) {
        let _ = row.focus();
    }
}

pub fn location_hash() -> String {
    web_sys::window().and_then(|w| w.location().hash().ok()).unwrap_or_default()
}

/// The shared state, from any component.
pub fn use_app() -> App {
    expect_context::<App>()
}
