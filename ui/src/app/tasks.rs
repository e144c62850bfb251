//! What the owner can do with tasks, and what the page knows about them.

use std::time::Duration;

use agent_api::{
    Endpoint,
    endpoint::{
        GetOutbox, ListSchedules, ListTasks, Nothing, PostDeliveryRemove, PostDeliveryRetry,
        PostSchedule, PostSchedulePause, PostScheduleRemove, PostScheduleRun, PostTask,
        PostTaskCancel, PostTaskRetry,
    },
    tasks::{
        Delivery, DeliveryPathId, DeliveryState, OutboxQuery, PauseSchedule, Schedule, ScheduleId,
        SchedulePathId, Task, TaskCounts, TaskId, TaskPathId,
    },
};
use leptos::{prelude::*, task::spawn_local};

use super::{App, Derived, derived};
use crate::{
    backend::{self, CallError, Host},
    clipboard, files,
    format::{self, LocalTime},
    route::{self, Panel},
    tasks::{
        board::{Ask, Board, Filter, Group, PAGE},
        csv,
        draft::{Draft, refusals},
    },
};

/// Rows of each group while all of them are shown: the largest preview, and some that come soon.
const OVERVIEW: u32 = 50;
/// After a burst of changes the lists are asked for again, at most so often.
const AFTER_BURST: Duration = Duration::from_secs(2);

type List<T> = RwSignal<Option<Result<Vec<T>, String>>>;

/// The Tasks panel, its drawer and its dialogs.
#[derive(Clone, Copy)]
pub struct TasksView {
    pub board: RwSignal<Board>,
    /// The task in the drawer; the page's address sets it.
    pub open: RwSignal<Option<TaskId>>,
    /// The schedules are shown instead of the tasks.
    pub schedules_shown: RwSignal<bool>,
    pub submit: RwSignal<bool>,
    pub draft: RwSignal<Draft>,
    /// Idempotency key of the dialog that is open: sending twice makes one task.
    key: RwSignal<String>,
    /// Why the last task was refused, for the dialog.
    pub refusals: RwSignal<Vec<String>>,
    /// A task or schedule is on its way.
    pub busy: RwSignal<bool>,
    /// Why a list is not there.
    pub problem: RwSignal<Option<String>>,
    pub schedules: List<Schedule>,
    /// Results that could not be delivered.
    pub dead: List<Delivery>,
    pub remove: RwSignal<Option<Schedule>>,
    pub exporting: RwSignal<bool>,
    burst: RwSignal<bool>,
}

impl Default for TasksView {
    fn default() -> Self {
        let hash = super::location_hash();
        Self {
            board: RwSignal::default(),
            open: RwSignal::new(route::task_of(&hash)),
            schedules_shown: RwSignal::new(hash.trim_start_matches('#') == route::SCHEDULES),
            submit: RwSignal::new(false),
            draft: RwSignal::default(),
            key: RwSignal::default(),
            refusals: RwSignal::default(),
            busy: RwSignal::new(false),
            problem: RwSignal::new(None),
            schedules: RwSignal::new(None),
            dead: RwSignal::new(None),
            remove: RwSignal::new(None),
            exporting: RwSignal::new(false),
            burst: RwSignal::new(false),
        }
    }
}

impl TasksView {
    /// The address changed.
    pub fn follow(self, hash: &str) {
        self.open.set(route::task_of(hash));
        // A task's drawer opens over whichever of the two is there.
        if self.open.with_untracked(Option::is_none) {
            self.schedules_shown.set(hash.trim_start_matches('#') == route::SCHEDULES);
        }
    }

    pub fn part<T: PartialEq + Send + Sync + 'static>(
        self,
        read: impl Fn(&Board) -> T + Send + Sync + 'static,
    ) -> Derived<T> {
        derived(move || self.board.with(&read))
    }
}

impl App {
    fn ask_tasks(self, ask: Ask) {
        spawn_local(async move {
            let board = self.tasks.board;
            match backend::call(ListTasks, &ask.query).await {
                Ok(list) => {
                    self.tasks.problem.set(None);
                    board.update(|b| b.answer(&ask, list.tasks, list.next, list.counts));
                }
                Err(error) => {
                    if board.try_update(|b| b.give_up(&ask)) == Some(true) {
                        self.tasks.problem.set(Some(error.to_string()));
                    }
                }
            }
        });
    }

    fn ask_board(self, asks: impl FnOnce(&mut Board) -> Vec<Ask>) {
        // What is on its way shows nothing yet.
        let asks = self.tasks.board.try_update_untracked(asks).unwrap_or_default();
        asks.into_iter().for_each(|ask| self.ask_tasks(ask));
    }

    /// Asks for the newest tasks of what is in view; elsewhere than in the panel, for the counts.
    pub fn load_tasks(self) {
        let shown = self.panel.get_untracked() == Panel::Tasks;
        self.ask_board(|board| {
            let groups = if shown { board.groups() } else { vec![Group::Active] };
            let limit = if groups.len() == 1 && shown { PAGE } else { OVERVIEW };
            groups.into_iter().flat_map(|group| board.again(group, limit)).collect()
        });
    }

    /// The next page of a list.
    pub fn load_more_tasks(self, group: Group) {
        if self.tasks.problem.with_untracked(Option::is_none) {
            self.ask_board(|board| board.more(group, PAGE).into_iter().collect());
        }
    }

    pub(super) fn take_tasks(self, changed: Vec<Task>, counts: TaskCounts, more: bool) {
        self.tasks.board.update(|b| b.apply(changed, counts));
        if more && !self.tasks.burst.get_untracked() {
            self.tasks.burst.set(true);
            let again = move || {
                self.tasks.burst.set(false);
                self.load_tasks();
            };
            set_timeout(again, AFTER_BURST);
        }
    }

    pub fn filter_tasks(self, change: impl FnOnce(&mut Filter)) {
        self.tasks.board.update(|board| {
            let mut filter = board.filter().clone();
            change(&mut filter);
            board.set_filter(filter);
        });
        self.tasks.problem.set(None);
        self.load_tasks();
    }

    /// Shows a task in the drawer, or none.
    pub fn show_task(self, id: Option<&TaskId>) {
        self.go(&match id {
            Some(id) => route::task_href(id),
            None if self.tasks.schedules_shown.get_untracked() => route::SCHEDULES.to_owned(),
            None => Panel::Tasks.href(),
        });
    }

    pub fn cancel_task(self, id: TaskId) {
        spawn_local(async move {
            match backend::call(PostTaskCancel, &TaskPathId { id }).await {
                Ok(task) => self.tasks.board.update(|b| {
                    let counts = b.counts;
                    b.apply(vec![task], counts);
                }),
                Err(error) => self.failed(format!("Not cancelled. {error}")),
            }
        });
    }

    pub fn retry_task(self, id: TaskId) {
        spawn_local(async move {
            match backend::call(PostTaskRetry, &TaskPathId { id }).await {
                Ok(new) => {
                    self.done(format!("Submitted again as {}", new.id.fmt_short()));
                    self.show_task(Some(&new.id));
                }
                Err(error) => self.failed(format!("Not submitted again. {error}")),
            }
        });
    }

    /// Opens the dialog of a new task; what was typed before is still there.
    pub fn new_task(self) {
        // Unique among this node's keys: the time, and 100 bits that nobody chose.
        let random = || (js_sys::Math::random() * 2f64.powi(50)) as u64;
        let key = format!("page-{:x}-{:x}{:x}", backend::now_ms(), random(), random());
        self.tasks.key.set(key);
        self.tasks.refusals.set(Vec::new());
        self.tasks.submit.set(true);
    }

    /// Sends what was typed, once.
    pub fn submit_task(self) {
        let view = self.tasks;
        if view.busy.get_untracked() {
            return;
        }
        let draft = view.draft.get_untracked();
        let made = if draft.repeats {
            draft.schedule().map(|new| backend::raw::<PostSchedule>(&new))
        } else {
            view.key.with_untracked(|key| draft.task(key)).map(|t| backend::raw::<PostTask>(&t))
        };
        let call = match made {
            Ok(call) => call,
            Err(problems) => return view.refusals.set(problems),
        };
        view.busy.set(true);
        view.refusals.set(Vec::new());
        spawn_local(async move {
            let answer = call.await;
            view.busy.set(false);
            match answer {
                Ok(answer) => self.submitted(&draft, &answer),
                Err(error) => view.refusals.set(problems(&error)),
            }
        });
    }

    fn submitted(self, draft: &Draft, answer: &serde_json::Value) {
        self.tasks.submit.set(false);
        // The next one is often like this one, but says something else.
        let kept = Draft {
            kind: draft.kind,
            model: draft.model.clone(),
            language: draft.language,
            privacy: draft.privacy,
            ..Draft::default()
        };
        self.tasks.draft.set(kept);
        if draft.repeats {
            self.done(format!("{} is scheduled", draft.name.trim()));
            self.go(route::SCHEDULES);
            self.load_schedules();
        } else if let Some(id) = answer.get("id").and_then(|id| id.as_str()) {
            self.load_tasks();
            self.show_task(Some(&TaskId(id.to_owned())));
        }
    }

    pub fn load_schedules(self) {
        let view = self.tasks;
        spawn_local(async move {
            let list = backend::call(ListSchedules, &Nothing {}).await;
            view.schedules.set(Some(list.map(|l| l.schedules).map_err(|e| e.to_string())));
            let dead = OutboxQuery { state: Some(DeliveryState::Dead) };
            let list = backend::call(GetOutbox, &dead).await;
            view.dead.set(Some(list.map(|l| l.deliveries).map_err(|e| e.to_string())));
        });
    }

    /// The same, where they were needed before.
    pub(super) fn load_schedules_again(self) {
        if self.tasks.schedules.with_untracked(Option::is_some) {
            self.load_schedules();
        }
    }

    /// One call about schedules or deliveries, after which both are asked for again.
    fn change_schedules<E: Endpoint>(
        self,
        _: E,
        request: &E::Request,
        done: &'static str,
        failed: &'static str,
    ) {
        let call = backend::raw::<E>(request);
        spawn_local(async move {
            match call.await {
                Ok(_) => self.done(done.into()),
                Err(error) => self.failed(format!("{failed} {error}")),
            }
            self.load_schedules();
        });
    }

    pub fn pause_schedule(self, id: ScheduleId, paused: bool) {
        let (done, failed) =
            if paused { ("Paused", "Not paused.") } else { ("Goes on", "Still paused.") };
        self.change_schedules(PostSchedulePause, &PauseSchedule { id, paused }, done, failed);
    }

    pub fn run_schedule(self, id: ScheduleId) {
        let done = "Submitted; it is in the list of tasks";
        self.change_schedules(PostScheduleRun, &SchedulePathId { id }, done, "Not submitted.");
    }

    pub fn remove_schedule(self, id: ScheduleId) {
        self.change_schedules(
            PostScheduleRemove,
            &SchedulePathId { id },
            "Removed",
            "Still there.",
        );
    }

    pub fn retry_delivery(self, id: String) {
        let done = "It is tried again";
        self.change_schedules(PostDeliveryRetry, &DeliveryPathId { id }, done, "Not tried.");
    }

    pub fn remove_delivery(self, id: String) {
        self.change_schedules(
            PostDeliveryRemove,
            &DeliveryPathId { id },
            "Removed",
            "Still there.",
        );
    }

    /// Saves what the filter lets through as a file; in the desktop window, which has no downloads,
    /// puts it on the clipboard.
    pub fn export_tasks(self) {
        if self.tasks.exporting.get_untracked() {
            return;
        }
        self.tasks.exporting.set(true);
        spawn_local(async move {
            match self.collect_tasks().await {
                Ok((tasks, more)) => self.save_tasks(&tasks, more).await,
                Err(error) => self.failed(format!("Nothing was exported. {error}")),
            }
            self.tasks.exporting.set(false);
        });
    }

    /// Everything that the filter lets through, newest first, up to the limit of a file.
    async fn collect_tasks(self) -> Result<(Vec<Task>, bool), CallError> {
        let filter = self.tasks.board.with_untracked(|b| b.filter().clone());
        let mut all = Vec::new();
        let mut query = filter.query();
        query.limit = Some(500);
        query.state = filter.group.map(|g| g.word().to_owned());
        loop {
            let list = backend::call(ListTasks, &query).await?;
            let wanted = |t: &Task| filter.group.is_none_or(|g| g == Group::of(t.state));
            all.extend(list.tasks.into_iter().filter(wanted));
            query.before = list.next;
            if query.before.is_none() || all.len() >= csv::MAX_ROWS {
                let more = query.before.is_some() || all.len() > csv::MAX_ROWS;
                all.truncate(csv::MAX_ROWS);
                return Ok((all, more));
            }
        }
    }

    async fn save_tasks(self, tasks: &[Task], more: bool) {
        let rows = format::counted(tasks.len() as u64, "task", "tasks");
        let first = if more { "The newest " } else { "" };
        let text = csv::file(tasks, &LocalTime::rfc3339);
        if backend::host() == Host::Desktop {
            if clipboard::copy(&text).await {
                self.done(format!("{first}{rows} copied: paste them into a spreadsheet"));
            } else {
                self.failed("Nothing was exported: this window may not use the clipboard.".into());
            }
        } else if files::save("edgecoder-tasks.csv", "text/csv", &text) {
            self.done(format!("{first}{rows} saved as edgecoder-tasks.csv"));
        } else {
            self.failed("Nothing was exported: the browser did not take the file.".into());
        }
    }
}

/// What is wrong, a line each.
fn problems(error: &CallError) -> Vec<String> {
    refusals(&error.to_string())
}
