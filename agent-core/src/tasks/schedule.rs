//! Schedules: a cron expression and a template submit tasks.
//!
//! [`timetable`] and [`template`] are pure; here are the handle and the driver, which sleeps until
//! the next planned time. A run is submitted first and written down second: its idempotency key
//! carries the planned time, so that a crash in between gives the same task once more, not another.

mod id;
mod template;
#[cfg(test)]
mod tests;
mod timetable;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_api::{
    TaskId,
    tasks::{MissedRuns, NewSchedule, Schedule, ScheduleId, SubmitTask, Submitted},
};
use futures_util::StreamExt as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::timetable::Timetable;
use super::{job::BoxFuture, outbox};
use crate::{
    clock::now_ms,
    storage::{
        AddSchedule, KeepSchedule, RemoveSchedule, SCHEDULE_ROWS, ScheduleRow, Storage,
        StorageError, list_schedules,
    },
};

/// Longest name, in characters.
const NAME_CHARS: usize = 80;
/// Longest task as JSON: a template with a long prompt. All schedules' tasks are kept in memory; a
/// module is named by its SHA-256.
const TASK_BYTES: usize = 128 << 10;
/// The wall clock is looked at this often while something is planned: it can be set, and a computer
/// can sleep.
const LOOK_AT_MOST: Duration = Duration::from_secs(60);
/// Runs that are submitted at the same time: they share commits of the database.
const SUBMISSIONS: usize = 16;

/// Why a schedule is not taken, or its run not submitted.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error(
        "the cron expression {cron:?} is not understood: {why}. \"30 6 * * 1-5\" is 06:30 on weekdays, \"@hourly\" every hour"
    )]
    Cron { cron: String, why: String },
    #[error("the cron expression {0:?} never comes: there is no such day")]
    Never(String),
    #[error(
        "there is no time zone {0:?}. Use a name such as Europe/Berlin, or leave it out for this computer's"
    )]
    Zone(String),
    #[error("the name of a schedule has 1 to {NAME_CHARS} characters")]
    Name,
    #[error("there are {SCHEDULE_ROWS} schedules, which is the most. Remove one first")]
    TooMany,
    #[error(
        "the task of this schedule has {0} bytes and {TASK_BYTES} is the most. Submit a large module once with a task, and name it by module_sha256"
    )]
    TooLarge(usize),
    /// The task's own rules; a sentence.
    #[error("{0}")]
    Task(String),
    #[error("there is no schedule {0}. GET /schedules lists those there are")]
    NoSuchSchedule(ScheduleId),
    /// Why no task came of it; a sentence.
    #[error("{0}")]
    NotSubmitted(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Where a schedule's tasks go.
pub trait Submit: fmt::Debug + Send + Sync + 'static {
    /// Whether a task would be taken; everything that is wrong with it, as a sentence.
    fn check(&self, task: &SubmitTask) -> Result<(), String>;
    /// Takes a task that came of a schedule. The same key with the same body is the same task. The
    /// error is a sentence.
    fn submit(
        &self,
        task: SubmitTask,
        schedule: ScheduleId,
    ) -> BoxFuture<'_, Result<Submitted, String>>;
}

/// All schedules. Clones share them.
#[derive(Clone)]
pub struct Schedules {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Storage,
    submit: Arc<dyn Submit>,
    entries: Mutex<BTreeMap<ScheduleId, Entry>>,
    /// The driver has to look again.
    wake: Notify,
    changed: watch::Sender<()>,
}

impl fmt::Debug for Schedules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedules").finish_non_exhaustive()
    }
}

struct Entry {
    row: ScheduleRow,
    task: Option<SubmitTask>,
    table: Result<Timetable, String>,
    next_ms: Option<i64>,
}

impl Entry {
    fn new(row: ScheduleRow, now_ms: i64) -> Self {
        let table =
            Timetable::parse(&row.cron, row.zone.as_deref()).map_err(|error| error.to_string());
        let mut entry =
            Self { task: serde_json::from_str(&row.task).ok(), row, table, next_ms: None };
        entry.look_ahead(now_ms);
        entry
    }

    fn look_ahead(&mut self, now_ms: i64) {
        let table = self.table.as_ref().ok().filter(|_| !self.row.paused);
        self.next_ms = table.and_then(|table| table.next_after(now_ms));
    }

    /// As the owner sees it: without the webhook's secret.
    fn view(&self) -> Option<Schedule> {
        let mut task = self.task.clone()?;
        if let Some(webhook) = &mut task.webhook {
            webhook.secret = None;
        }
        let row = &self.row;
        let table = self.table.as_ref();
        let zone = row.zone.as_deref().or_else(|| table.ok().and_then(Timetable::zone_name));
        Some(Schedule {
            id: ScheduleId(row.id.clone()),
            name: row.name.clone(),
            words: table.map_or_else(|_| row.cron.clone(), Timetable::words),
            cron: row.cron.clone(),
            zone: zone.unwrap_or("this computer's").to_owned(),
            task,
            missed: row.missed,
            paused: row.paused,
            created_ms: row.created_ms,
            next_ms: self.next_ms,
            last_ms: row.last_ms,
            last_task: row.last_task.clone().map(TaskId),
            problem: row.problem.clone().or_else(|| self.table.as_ref().err().cloned()),
        })
    }

    fn keep(&self) -> KeepSchedule {
        let row = &self.row;
        KeepSchedule {
            id: row.id.clone(),
            paused: row.paused,
            done_ms: row.done_ms,
            last_ms: row.last_ms,
            last_task: row.last_task.clone(),
            problem: row.problem.clone(),
        }
    }
}

impl Schedules {
    /// Reads what there is. Nothing runs before [`drive`](Self::drive).
    pub async fn open(storage: Storage, submit: Arc<dyn Submit>) -> Result<Self, StorageError> {
        let now = now_ms();
        let rows = list_schedules(storage.readers()).await?;
        let entries =
            rows.into_iter().map(|row| (ScheduleId(row.id.clone()), Entry::new(row, now)));
        let inner = Inner {
            entries: Mutex::new(entries.collect()),
            storage,
            submit,
            wake: Notify::new(),
            changed: watch::Sender::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Changes whenever a schedule does.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// All, oldest first.
    pub fn list(&self) -> Vec<Schedule> {
        self.entries().values().filter_map(Entry::view).collect()
    }

    /// Takes a schedule. It is on disk when this returns.
    ///
    /// # Errors
    /// Everything about it that is not valid, its task included; too many of them.
    pub async fn create(&self, new: NewSchedule) -> Result<Schedule, ScheduleError> {
        let now = now_ms();
        let name = new.name.trim().to_owned();
        if name.is_empty() || name.chars().count() > NAME_CHARS {
            return Err(ScheduleError::Name);
        }
        let table = Timetable::parse(&new.cron, new.zone.as_deref())?;
        if table.next_after(now).is_none() {
            return Err(ScheduleError::Never(new.cron));
        }
        let id = id::new_id();
        self.check(&new.task, &id, now)?;
        let task = serde_json::to_string(&new.task)
            .map_err(|e| ScheduleError::Task(format!("The task cannot be written: {e}.")))?;
        if task.len() > TASK_BYTES {
            return Err(ScheduleError::TooLarge(task.len()));
        }
        let row = ScheduleRow {
            id: id.0.clone(),
            name,
            cron: new.cron.trim().to_owned(),
            // The computer may be taken elsewhere; what was planned stays.
            zone: new.zone.or_else(|| table.zone_name().map(ToOwned::to_owned)),
            task,
            missed: new.missed,
            paused: new.paused,
            created_ms: now,
            done_ms: now,
            last_ms: None,
            last_task: None,
            problem: None,
        };
        if !self.inner.storage.write(AddSchedule(row.clone())).await? {
            return Err(ScheduleError::TooMany);
        }
        self.entries().insert(id.clone(), Entry::new(row, now));
        self.changed();
        self.get(&id)
    }

    /// What the first run would submit has to be valid.
    fn check(&self, task: &SubmitTask, id: &ScheduleId, now: i64) -> Result<(), ScheduleError> {
        let filled = template::fill(task, id, now, None).map_err(ScheduleError::Task)?;
        if let Some(webhook) = &filled.webhook {
            outbox::check(webhook).map_err(|e| ScheduleError::Task(e.to_string()))?;
        }
        self.inner.submit.check(&filled).map_err(ScheduleError::Task)
    }

    /// Stops a schedule for a while, or lets it go on. What was due meanwhile was not missed.
    pub async fn pause(&self, id: &ScheduleId, paused: bool) -> Result<Schedule, ScheduleError> {
        let now = now_ms();
        self.change(id, |entry| {
            if entry.row.paused && !paused {
                entry.row.done_ms = now;
            }
            entry.row.paused = paused;
            entry.look_ahead(now);
        })
        .await?;
        self.get(id)
    }

    /// Submits a schedule's task now, besides its times.
    pub async fn run_now(&self, id: &ScheduleId) -> Result<Submitted, ScheduleError> {
        let now = now_ms();
        let submitted = self.submit(id, now, Some(format!("{id} by hand {now}"))).await?;
        submitted.map_err(ScheduleError::NotSubmitted)
    }

    /// Removes a schedule; tasks that it submitted stay.
    pub async fn remove(&self, id: &ScheduleId) -> Result<Vec<Schedule>, ScheduleError> {
        self.get(id)?;
        self.inner.storage.write(RemoveSchedule(id.0.clone())).await?;
        self.entries().remove(id);
        self.changed();
        Ok(self.list())
    }

    /// Submits tasks at their times until `stop`. One task of the node; it sleeps while nothing is
    /// due.
    pub async fn drive(self, stop: CancellationToken) {
        loop {
            self.run_due(now_ms()).await;
            let next = self.entries().values().filter_map(|entry| entry.next_ms).min();
            let wait = async {
                let Some(next) = next else { return std::future::pending().await };
                let wait = u64::try_from(next - now_ms()).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(wait).min(LOOK_AT_MOST)).await;
            };
            tokio::select! {
                () = wait => {}
                () = self.inner.wake.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Submits what is due at this time.
    async fn run_due(&self, now: i64) {
        let due: Vec<(ScheduleId, Vec<i64>)> = {
            let mut entries = self.entries();
            let active = entries.iter_mut().filter(|(_, entry)| !entry.row.paused);
            let due = active.filter_map(|(id, entry)| {
                let make_up = entry.row.missed == MissedRuns::RunOnce;
                let plan = entry.table.as_ref().ok()?.plan(entry.row.done_ms, now, make_up);
                entry.next_ms = plan.next_ms;
                (!plan.run.is_empty()).then(|| (id.clone(), plan.run))
            });
            due.collect()
        };
        let run = |(id, times): (ScheduleId, Vec<i64>)| async move {
            for planned in times {
                // A schedule that was removed meanwhile has nothing to run.
                if let Ok(Err(problem)) = self.submit(&id, planned, None).await {
                    tracing::warn!(schedule = %id, "a planned task was not submitted: {problem}");
                }
                let done = self.change(&id, |entry| {
                    entry.row.done_ms = entry.row.done_ms.max(planned);
                });
                if let Err(ScheduleError::Storage(e)) = done.await {
                    // It is known here; after a restart the key makes it the same task.
                    tracing::warn!(schedule = %id, "a run was not written down: {e}");
                }
            }
        };
        futures_util::stream::iter(due).for_each_concurrent(SUBMISSIONS, run).await;
    }

    /// One run. What became of it is kept with the schedule; the outer error is the schedule's.
    async fn submit(
        &self,
        id: &ScheduleId,
        planned: i64,
        key: Option<String>,
    ) -> Result<Result<Submitted, String>, ScheduleError> {
        let task = {
            let entries = self.entries();
            let entry = entries.get(id);
            entry.and_then(|entry| entry.task.clone())
        };
        let task = task.ok_or_else(|| ScheduleError::NoSuchSchedule(id.clone()))?;
        let result = match template::fill(&task, id, planned, key) {
            Ok(task) => self.inner.submit.submit(task, id.clone()).await,
            Err(problem) => Err(problem),
        };
        let kept = self.change(id, |entry| {
            entry.row.last_ms = Some(planned);
            match &result {
                Ok(submitted) => {
                    entry.row.last_task = Some(submitted.id.0.clone());
                    entry.row.problem = None;
                }
                Err(problem) => entry.row.problem = Some(problem.clone()),
            }
        });
        if let Err(e) = kept.await {
            tracing::warn!(schedule = %id, "a run was not written down: {e}");
        }
        Ok(result)
    }

    /// Changes a schedule in memory, then on disk.
    async fn change(
        &self,
        id: &ScheduleId,
        change: impl FnOnce(&mut Entry) + Send,
    ) -> Result<(), ScheduleError> {
        let keep = {
            let mut entries = self.entries();
            let entry =
                entries.get_mut(id).ok_or_else(|| ScheduleError::NoSuchSchedule(id.clone()))?;
            change(entry);
            entry.keep()
        };
        self.changed();
        Ok(self.inner.storage.write(keep).await?)
    }

    fn get(&self, id: &ScheduleId) -> Result<Schedule, ScheduleError> {
        let view = self.entries().get(id).and_then(Entry::view);
        view.ok_or_else(|| ScheduleError::NoSuchSchedule(id.clone()))
    }

    fn changed(&self) {
        self.inner.changed.send_replace(());
        self.inner.wake.notify_one();
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ScheduleId, Entry>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
