//! One task: its state, what happened to it, why it went where it went, and what came of it.

mod output;
mod parts;
mod placement;

use agent_api::{
    endpoint::{GetTask, GetTaskOutput},
    tasks::{Role, Task, TaskDetails, TaskId, TaskOutput, TaskPathId},
};
use futures_util::{
    StreamExt,
    future::{AbortHandle, Abortable},
};
use leptos::{ev, prelude::*, task::spawn_local};

use crate::{
    app::{App, use_app},
    backend,
    components::{
        answer::CopyButton,
        dialog::Dialog,
        icon::{Icon, icon, icon_class},
    },
    derived::{Derived, derived},
    keyboard,
    tasks::follow::{self, Lines, Live},
    words::task as words,
};

/// What is known of the task in the drawer.
#[derive(Clone, Copy)]
struct Opened {
    app: App,
    details: RwSignal<Option<Result<TaskDetails, String>>>,
    output: RwSignal<Option<Result<TaskOutput, String>>>,
    /// What it writes at this moment.
    live: RwSignal<Live>,
    following: RwSignal<Option<AbortHandle>>,
}

impl Opened {
    fn new(app: App) -> Self {
        Self {
            app,
            details: RwSignal::new(None),
            output: RwSignal::new(None),
            live: RwSignal::default(),
            following: RwSignal::new(None),
        }
    }

    fn forget(self) {
        if let Some(handle) = self.following.get_untracked() {
            handle.abort();
        }
        self.following.set(None);
        self.details.set(None);
        self.output.set(None);
        self.live.set(Live::default());
    }

    /// Another one may have been opened meanwhile.
    fn still(self, id: &TaskId) -> bool {
        self.app.tasks.open.with_untracked(|open| open.as_ref() == Some(id))
    }

    fn load(self, id: TaskId) {
        spawn_local(async move {
            let path = TaskPathId { id };
            let details = backend::call(GetTask, &path).await.map_err(|e| e.to_string());
            if !self.still(&path.id) {
                return;
            }
            let known = details.as_ref().ok().map(|d| (d.task.clone(), d.has_output));
            self.details.set(Some(details));
            match known {
                Some((task, true)) if task.state.is_final() => self.load_output(path).await,
                Some((task, _)) if !task.state.is_final() && writes_here(&task) => {
                    self.follow(path.id);
                }
                _ => {}
            }
        });
    }

    async fn load_output(self, path: TaskPathId) {
        let output = backend::call(GetTaskOutput, &path).await.map_err(|e| e.to_string());
        if self.still(&path.id) {
            self.output.set(Some(output));
        }
    }

    /// Reads what it writes, until it ends or another one is opened.
    fn follow(self, id: TaskId) {
        if self.following.try_with_untracked(Option::is_some) != Some(false) {
            return;
        }
        let (handle, registration) = AbortHandle::new_pair();
        self.following.set(Some(handle));
        spawn_local(async move {
            // Dropping the stream, which aborting does, ends the request.
            let read = Abortable::new(self.read(&id), registration).await;
            if read.is_ok() {
                self.following.set(None);
                // The page may ask for a token meanwhile, and this be gone.
                if self.live.try_with_untracked(|l| l.ended) == Some(true) {
                    self.load(id);
                }
            }
        });
    }

    async fn read(self, id: &TaskId) {
        let path = format!("/tasks/{id}/follow");
        // Without the stream the drawer still follows the events of the list.
        let Ok(mut opened) = backend::stream("GET", &path, None).await else { return };
        let mut lines = Lines::default();
        while let Some(Ok(piece)) = opened.pieces.next().await {
            let news: Vec<_> = lines.push(&piece).iter().filter_map(|l| follow::news(l)).collect();
            if !news.is_empty() {
                self.live.update(|live| news.into_iter().for_each(|n| live.take(n)));
            }
        }
    }
}

/// Only words of the owner's own tasks are shown.
fn writes_here(task: &Task) -> bool {
    task.role == Role::Asked && !task.interactive
}

#[component]
pub(super) fn TaskDrawer() -> impl IntoView {
    let app = use_app();
    let target = app.tasks.open;
    let opened = Opened::new(app);
    // The list's task is newer than the details; without it, as after a deep link, theirs.
    let task = derived(move || {
        let id = target.get()?;
        let listed = app.tasks.board.with(|b| b.get(&id).map(|t| (**t).clone()));
        listed.or_else(|| opened.details.with(|d| Some(d.as_ref()?.as_ref().ok()?.task.clone())))
    });
    // Each transition of the task is news for its timeline.
    let version = derived(move || {
        let step = task.with(|t| t.as_ref().map(|t| (t.state, t.attempts, t.worker.clone())));
        (target.get(), app.live().get(), step)
    });
    Effect::new(move |before: Option<Option<TaskId>>| {
        let (id, live, _) = version.get();
        if before.flatten() != id {
            opened.forget();
        }
        if let Some(id) = id.clone().filter(|_| live) {
            opened.load(id);
        }
        id
    });
    let title = move || {
        let named = task.with(|t| t.as_ref().map(|t| words::kind_title(t.kind).to_owned()));
        named.unwrap_or_else(|| "Task".into())
    };
    let open = Signal::derive(move || target.with(Option::is_some));
    view! {
        <Dialog open on_close=move |()| app.show_task(None) title=Signal::derive(title) class="drawer">
            <Content opened task/>
        </Dialog>
    }
}

/// The rows in the order of the table, for the steps from one to the next.
fn neighbours(app: App) -> Vec<TaskId> {
    app.tasks.board.with_untracked(|b| {
        let ids = |g| match b.filter().group {
            Some(_) => b.rows(g).iter().map(|t| t.id.clone()).collect::<Vec<_>>(),
            None => b.preview(g).iter().map(|t| t.id.clone()).collect(),
        };
        b.groups().into_iter().flat_map(ids).collect()
    })
}

#[component]
fn Content(opened: Opened, task: Derived<Option<Task>>) -> impl IntoView {
    let app = opened.app;
    let problem = derived(move || opened.details.with(|d| d.as_ref()?.as_ref().err().cloned()));
    let waiting = move || task.with(Option::is_none) && problem.with(Option::is_none);
    let step = move |forward: bool| {
        let rows = neighbours(app);
        let id = app.tasks.open.get_untracked();
        let at = rows.iter().position(|row| Some(row) == id.as_ref());
        if let Some(next) = keyboard::stepped(at, forward, rows.len()) {
            app.show_task(rows.get(next));
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
            (Icon::ChevronRight, "Next task (J)")
        } else {
            (Icon::ChevronLeft, "Previous task (K)")
        };
        view! {
            <button class="ibtn" type="button" aria-label=label title=label on:click=move |_| step(forward)>{icon(glyph)}</button>
        }
    };
    view! {
        <div class="drawer-top row" on:keydown=keys>
            {move || app.tasks.open.get().map(|id| id_line(&id))}
            <span class="push row">{arrow(false)}{arrow(true)}</span>
        </div>
        <div class="drawer-body" id="task-drawer" tabindex="-1" data-first on:keydown=keys>
            {move || problem.get().map(|why| view! {
                <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p>
            })}
            {move || waiting().then(|| view! {
                <span class="sk late" style:width="70%"></span><span class="sk late" style:width="50%"></span>
            })}
            {move || task.get().map(|t| parts::head(app, &t))}
            {move || task.get().filter(|t| !writes_here(t)).map(|t| unseen(&t))}
            <output::Output opened task/>
            <parts::Timeline opened/>
            <parts::Attempts opened/>
            <placement::Why opened/>
            <output::Input opened/>
        </div>
        <Foot opened task/>
    }
}

fn id_line(id: &TaskId) -> AnyView {
    view! {
        <code class="faint trunc" title=id.0.clone()>{id.fmt_short()}</code>
        <CopyButton text=id.0.clone() what=" the task’s id"/>
    }
    .into_any()
}

/// Why there are no words.
fn unseen(task: &Task) -> AnyView {
    let text = match task.role {
        Role::Served => {
            "What another owner asked and what came of it are never shown or stored here."
        }
        Role::Asked => "Its client had the answer. Words of such requests are not stored.",
    };
    view! { <p class="hint row">{icon_class(Icon::Lock, "i i-sm")}<span>{text}</span></p> }
        .into_any()
}

#[component]
fn Foot(opened: Opened, task: Derived<Option<Task>>) -> impl IntoView {
    let app = opened.app;
    let can = move |able: fn(&Task) -> bool| task.with(|t| t.as_ref().is_some_and(able));
    let id = move || app.tasks.open.get_untracked();
    let copy = move || {
        let kind = task.with(|t| t.as_ref().map(|t| t.kind))?;
        let text = opened.output.with(|o| {
            let output = o.as_ref()?.as_ref().ok()?.output.as_ref()?;
            Some(crate::tasks::output::shown(kind, output).to_copy().to_owned())
        })?;
        Some(view! { <CopyButton text what=" the output"/> })
    };
    let cancel = move |_| {
        if let Some(id) = id() {
            app.cancel_task(id);
        }
    };
    let retry = move |_| {
        if let Some(id) = id() {
            app.retry_task(id);
        }
    };
    let shown = move || {
        can(words::can_cancel) || can(words::can_retry) || opened.output.with(Option::is_some)
    };
    view! {
        <Show when=shown>
            <div class="dialog-foot">
                <Show when=move || can(words::can_retry)>
                    <button class="btn" type="button" id="task-retry" on:click=retry>{icon(Icon::Refresh)}<span>"Submit again"</span></button>
                </Show>
                {copy}
                <div class="push">
                    <Show when=move || can(words::can_cancel)>
                        <button class="btn btn--danger-quiet" type="button" id="task-cancel" on:click=cancel>{icon(Icon::Stop)}<span>"Cancel task"</span></button>
                    </Show>
                </div>
            </div>
        </Show>
    }
}
