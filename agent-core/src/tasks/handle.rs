//! The handle of this node's tasks: what the node and the API may ask of them.

mod around;
mod fleet;
mod follow;
mod list;
mod submit;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use agent_api::{
    Settings, TaskId,
    mesh::Announcement,
    tasks::{Orchestration, Placement, Role, Task, TaskDetails, TaskEvents, TaskOutput, TaskState},
};
use around::{KeptRows, Surroundings};
use fleet::Fleet;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    board::Board,
    job::SharedHost,
    kinds::{Problems, check},
    modules::{ModuleError, Modules},
    origin::{Cancelled, Ended, Origin, OriginSetup, workers::Workers as _},
    placement::Wanted,
    remote::Remote,
    reputations::Reputations,
    route::{Router, RouterSetup},
    run::Here,
    sandbox::Sandbox,
    shared::Shared,
    worker::{Worker, WorkerSetup},
};
use crate::{
    clock::now_ms,
    mesh::{Mesh, NodeKey},
    storage::{
        Storage, StorageError,
        tasks::{
            QUEUED_TASKS, TaskRow, get_task, task_attempts, task_counts, task_events,
            task_placement, task_words,
        },
    },
};

/// What tasks need to start.
#[derive(Debug)]
pub struct TasksSetup {
    pub key: NodeKey,
    pub announcement: watch::Receiver<Announcement>,
    pub data_dir: PathBuf,
    pub storage: Storage,
    pub mesh: Mesh,
    /// Those in force.
    pub settings: watch::Receiver<Settings>,
    pub host: SharedHost,
    /// Where `edgecoder-sandbox` is.
    pub sandbox: Option<PathBuf>,
}

/// Why a request about tasks was refused. Shown as it is.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error(transparent)]
    Invalid(#[from] Problems),
    #[error(
        "the idempotency key was used before, for the task {0} with another body. Use another key for another task"
    )]
    Conflict(TaskId),
    #[error("there is no task {0}. GET /tasks lists those that are kept")]
    NotFound(TaskId),
    #[error("{} tasks wait already. Wait until some are done, or cancel some", QUEUED_TASKS)]
    QueueFull,
    #[error("the task {0} {1}. Only a task that failed, expired or was cancelled can be retried")]
    NotOver(TaskId, &'static str),
    #[error("the words of the task {0} are not kept, so that it cannot be submitted again")]
    NoWords(TaskId),
    #[error("too many tasks are followed at the same time. Close some windows or scripts")]
    TooManyFollowers,
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why tasks could not start.
#[derive(Debug, thiserror::Error)]
pub enum TasksStartError {
    #[error("cannot use the folder for modules: {0}")]
    Modules(#[from] std::io::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// This node's tasks. Clones share them.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
    origin: Origin,
    router: Router,
    fleet: Arc<Fleet>,
}

impl Tasks {
    /// Opens the tables and takes up what was left.
    pub async fn start(setup: TasksSetup) -> Result<Self, TasksStartError> {
        let dir = setup.data_dir.join("tasks");
        let modules = Modules::open(dir.join("modules"))?;
        let here = Here {
            host: setup.host,
            sandbox: Sandbox::new(setup.sandbox),
            modules: modules.clone(),
            others: Modules::open(dir.join("modules-of-others"))?,
        };
        let reputations = Reputations::open(setup.storage.clone()).await?;
        let shared = Arc::new(Shared {
            key: setup.key,
            id: setup.key.to_id(),
            announcement: setup.announcement,
            settings: setup.settings,
            storage: setup.storage,
            remote: Remote { mesh: setup.mesh.clone(), modules },
            mesh: setup.mesh,
            here,
            board: Board::default(),
            reputations,
            in_flight: Default::default(),
            worker: OnceLock::new(),
            draining: watch::Sender::new(false),
            moved: Notify::new(),
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
        });
        let fleet = Arc::new(Fleet::new(Arc::clone(&shared)));
        let origin = Origin::start(OriginSetup {
            storage: shared.storage.clone(),
            board: shared.board.clone(),
            workers: Arc::clone(&fleet) as _,
            in_flight: shared.in_flight.clone(),
            draining: shared.draining.subscribe(),
            stop: shared.stop.clone(),
            tracker: shared.tracker.clone(),
        })
        .await?;
        let around = Arc::new(Surroundings::new(Arc::clone(&shared)));
        let worker = Worker::start(WorkerSetup {
            here: shared.here.clone(),
            settings: shared.settings.clone(),
            kept: Arc::new(KeptRows(shared.storage.clone())),
            board: shared.board.clone(),
            around: Arc::clone(&around) as _,
        });
        let router = Router::new(RouterSetup {
            host: Arc::clone(&shared.here.host),
            elsewhere: Arc::new(shared.remote.clone()),
            known: Arc::clone(&fleet) as _,
            in_flight: shared.in_flight.clone(),
            settings: shared.settings.clone(),
            board: shared.board.clone(),
            around,
        });
        worker.serve_on(&shared.mesh);
        // Set here and nowhere else.
        let _ = shared.worker.set(worker);
        let tasks = Self { shared, origin, router, fleet };
        tasks.spawn_followers();
        Ok(tasks)
    }

    fn spawn_followers(&self) {
        let settings = self.shared.settings.clone();
        let keep_days = move || settings.borrow().tasks.keep_days;
        self.shared.tracker.spawn(self.origin.clone().prune(keep_days));
        let tasks = self.clone();
        self.shared.tracker.spawn(async move { tasks.look_again().await });
    }

    /// Has waiting tasks looked at again when nodes, settings or this node itself change.
    async fn look_again(&self) {
        let mut mesh = self.shared.mesh.events();
        let mut settings = self.shared.settings.clone();
        let mut own = self.shared.announcement.clone();
        loop {
            tokio::select! {
                event = mesh.recv() => {
                    if let Err(broadcast::error::RecvError::Closed) = event {
                        return;
                    }
                }
                Ok(()) = settings.changed() => {}
                Ok(()) = own.changed() => {}
                () = self.shared.moved.notified() => {}
                () = self.shared.stop.cancelled() => return,
            }
            self.origin.moved();
        }
    }

    /// What origin, worker and router have in common.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where requests go that somebody waits for.
    pub fn router(&self) -> &Router {
        &self.router
    }

    pub fn board(&self) -> &Board {
        &self.shared.board
    }

    /// Own tasks as they end, for the activity feed and the outbox. A slow reader misses some.
    pub fn ends(&self) -> broadcast::Receiver<Ended> {
        self.origin.ends()
    }

    /// One task in full.
    pub async fn get(&self, id: &TaskId) -> Result<TaskDetails, TaskError> {
        let pool = self.shared.storage.readers();
        let Some(row) = get_task(pool, id).await? else {
            let board = &self.shared.board;
            let task = board.get(id).ok_or_else(|| TaskError::NotFound(id.clone()))?;
            return Ok(TaskDetails { placement: board.placement(id), ..without_words(task) });
        };
        let task = self.fresh(row.clone());
        let (events, attempts, placement, words) = tokio::try_join!(
            task_events(pool, id),
            task_attempts(pool, &row.task),
            task_placement(pool, id),
            task_words(pool, id),
        )?;
        let placement = placement.or_else(|| self.placement_now(&task, words.submitted.as_deref()));
        let submitted = words.submitted.as_deref().and_then(parse_submitted);
        Ok(TaskDetails {
            task,
            events,
            attempts: attempts.into_iter().map(|kept| kept.attempt).collect(),
            placement,
            expires_ms: row.expires_ms,
            input: submitted.map(|task| task.input),
            has_output: words.output.is_some(),
        })
    }

    pub async fn events(&self, id: &TaskId) -> Result<TaskEvents, TaskError> {
        self.known(id).await?;
        Ok(TaskEvents { events: task_events(self.shared.storage.readers(), id).await? })
    }

    /// The result, or the text so far.
    pub async fn output(&self, id: &TaskId) -> Result<TaskOutput, TaskError> {
        let task = self.known(id).await?;
        let words = task_words(self.shared.storage.readers(), id).await?;
        Ok(TaskOutput {
            id: id.clone(),
            state: task.state,
            output: words.output.and_then(|json| serde_json::from_str(&json).ok()),
            partial: self.origin.partial(id),
        })
    }

    /// Of the newest attempt; for a task that waits, as it would be placed now.
    pub async fn placement(&self, id: &TaskId) -> Result<Placement, TaskError> {
        let task = self.known(id).await?;
        if let Some(living) = self.shared.board.placement(id) {
            return Ok(living);
        }
        let pool = self.shared.storage.readers();
        if let Some(kept) = task_placement(pool, id).await? {
            return Ok(kept);
        }
        let words = task_words(pool, id).await?;
        Ok(self.placement_now(&task, words.submitted.as_deref()).unwrap_or_default())
    }

    /// `None`: it does not wait for a node.
    fn placement_now(&self, task: &Task, submitted: Option<&str>) -> Option<Placement> {
        let waits = task.state == TaskState::Queued;
        let submitted = submitted.filter(|_| waits).and_then(parse_submitted)?;
        let checked = check(&submitted).ok()?;
        let wanted =
            Wanted { node: checked.node, privacy: task.privacy, ..Wanted::of(&checked.job) };
        Some(self.fleet.place(&wanted).1.explanation)
    }

    /// Stops a task, wherever it is. One that is over stays as it is.
    pub async fn cancel(&self, id: &TaskId) -> Result<Task, TaskError> {
        let task = self.known(id).await?;
        if task.state.is_final() {
            return Ok(task);
        }
        if task.role == Role::Served || task.interactive {
            // Whoever works on it hears of it, says so to whoever asked, and ends the row.
            self.shared.board.stop(id);
            return Ok(task);
        }
        match self.origin.cancel(id).await? {
            Cancelled::Over | Cancelled::Unknown => self.known(id).await,
        }
    }

    async fn known(&self, id: &TaskId) -> Result<Task, TaskError> {
        let row = get_task(self.shared.storage.readers(), id).await?;
        let task = row.map(|row| self.fresh(row)).or_else(|| self.shared.board.get(id));
        task.ok_or_else(|| TaskError::NotFound(id.clone()))
    }

    /// A row with what is only in memory.
    fn fresh(&self, row: TaskRow) -> Task {
        let task = row.task;
        if task.state.is_final() {
            return task;
        }
        if let Some(living) = self.shared.board.get(&task.id) {
            return living;
        }
        let position = match task.state {
            TaskState::Queued => self.origin.position(row.need, task.priority, &task.id),
            _ => None,
        };
        Task { queue_position: position, ..task }
    }

    /// This node as coordinator and as worker.
    pub async fn orchestration(&self) -> Result<Orchestration, TaskError> {
        let (served_running, served_waiting) = self.shared.served();
        let kinds = self.shared.here.sandbox.abilities().await;
        Ok(Orchestration {
            draining: self.shared.is_draining(),
            counts: self.counts().await?,
            concurrency: self.shared.worker.get().map_or(0, Worker::concurrency),
            served_running,
            served_waiting,
            kinds,
            workers: self.shared.reputations.workers(|node| self.shared.name_of(node), now_ms()),
        })
    }

    /// Over all tasks that are kept, and those that somebody waits for.
    pub async fn counts(&self) -> Result<agent_api::tasks::TaskCounts, TaskError> {
        let mut counts = task_counts(self.shared.storage.readers(), now_ms()).await?;
        for task in self.shared.board.tasks().values() {
            if task.role == Role::Asked && !task.interactive {
                continue;
            }
            match task.state {
                TaskState::Queued => counts.queued += 1,
                state if !state.is_final() => counts.active += 1,
                _ => {}
            }
        }
        Ok(counts)
    }

    /// From now on no task is started, own or others'; those that run go on.
    pub fn set_drain(&self, on: bool) {
        self.shared.draining.send_replace(on);
        self.origin.moved();
    }

    /// Something that placement depends on changed.
    pub fn moved(&self) {
        self.origin.moved();
    }

    /// Tasks that are with nodes.
    pub fn in_flight(&self) -> usize {
        self.origin.in_flight()
    }

    /// Stops; what peers have goes on there and is taken up at the next start.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        if let Some(worker) = self.shared.worker.get() {
            worker.shutdown().await;
        }
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
        self.shared.reputations.flush(now_ms());
        self.shared.here.sandbox.shutdown().await;
    }
}

fn parse_submitted(json: &str) -> Option<agent_api::tasks::SubmitTask> {
    serde_json::from_str(json).ok()
}

fn without_words(task: Task) -> TaskDetails {
    TaskDetails {
        task,
        events: Vec::new(),
        attempts: Vec::new(),
        placement: None,
        expires_ms: None,
        input: None,
        has_output: false,
    }
}
