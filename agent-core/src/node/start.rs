//! Starting a node, and the tasks it runs.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicBool},
    time::{Duration, Instant},
};

use agent_api::{ActivityKind, Settings, node::Notice};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Inner, Metrics, Node, PAUSE_KEY, Paused, Today,
    library::DefaultsCache,
    lock::{DirLock, Holder, LockError},
    sharing::Peers,
    speed::SpeedMeter,
    tasks::NodeHost,
};
use crate::{
    clock::{DAY_MS, now_ms},
    config::{self, Config, SettingsError, limits},
    events::EventBus,
    identity::{Identity, IdentityError, load_or_create_secret},
    inference::{Finished, Inference, Notable, ollama::OllamaDaemon},
    machine,
    mesh::NodeKey,
    models::{
        Library,
        catalogue::Catalogue,
        library::is_of_ollama,
        pull::{Pulls, PullsConfig, Tuning},
        registry::credentials::Credentials,
        store::Store,
    },
    storage::{
        AddRequest, Outcome, RecordModelLoad, RecordModelUse, RequestKind, Storage, StorageError,
        day_counts, get_state,
    },
    tasks::{
        handle::{Tasks, TasksSetup, TasksStartError},
        outbox::Outbox,
    },
};

/// Why a node did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot use the data directory {path}: {source}. Make it writable, free some disk space, or choose another with --data-dir"
    )]
    DataDir { path: PathBuf, source: io::Error },
    #[error("another EdgeCoder already runs on {path}{}. Use that one, stop it, or choose another --data-dir", describe(.holder))]
    AlreadyRunning { path: PathBuf, holder: Option<Holder> },
    #[error("port {} of {} is in use by another program. Close that program, or choose another port with --listen or in settings.json", .listen.port(), .listen.ip())]
    PortInUse { listen: SocketAddr },
    #[error(
        "cannot listen on {listen}: {source}. Choose another address with --listen or in settings.json"
    )]
    Listen { listen: SocketAddr, source: io::Error },
    #[error(
        "listening on {0} opens the API to other computers, which needs an API key: set api_key in settings.json first"
    )]
    ExposedWithoutKey(SocketAddr),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Tasks(#[from] TasksStartError),
}

fn describe(holder: &Option<Holder>) -> String {
    match holder {
        Some(Holder { pid, url }) if !url.is_empty() => format!(" (process {pid}, {url})"),
        Some(Holder { pid, .. }) => format!(" (process {pid})"),
        None => String::new(),
    }
}

impl Node {
    /// Starts a node. It answers at its port once the host serves the API for it.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let paths = &config.paths;
        prepare_data_dir(&config)?;
        let lock = take_lock(&config)?;
        sweep_temporary_files(&config);
        let identity = Identity::load_or_create(&paths.node_key())?;
        let token = load_or_create_secret(&paths.token())?;
        let mut settings = config::load_settings(&paths.settings())?;
        if settings.node_name.is_empty() {
            settings.node_name = machine::host_name();
        }
        let listener = bind(&config, &settings)?;
        let listen = listener
            .local_addr()
            .map_err(|source| StartError::DataDir { path: paths.data_dir.clone(), source })?;
        let opened = Storage::open(&paths.database()).await?;
        let storage = opened.storage;
        let now = now_ms();
        let counts = day_counts(storage.readers(), now - now.rem_euclid(DAY_MS)).await?;
        let pause = get_state(storage.readers(), PAUSE_KEY).await?;
        let pause: Option<Paused> = pause.and_then(|text| serde_json::from_str(&text).ok());

        let policy = super::residency::policy(&settings);
        let (inference, notables) = Inference::start(config.runner.clone(), policy);
        let (store, store_problem) = open_store(&config, &settings)?;
        let ollama_dir = settings.ollama_dir.as_deref();
        let assets = config.assets_dir.clone();
        let library = Library::open(assets, store.clone(), ollama_dir, storage.clone()).await;
        let follow_settings = watch::Sender::new(config.in_force(&settings));
        let credentials = Credentials::new(config.paths.credentials());
        let usage_of = store.clone();
        let peers = Arc::<Peers>::default();
        let (pulls, pull_notables) = Pulls::start(
            PullsConfig {
                store,
                storage: storage.clone(),
                credentials: credentials.clone(),
                usage: Arc::new(move || usage_of.usage().total()),
                tuning: Tuning::default(),
                owner: identity.node_id().fmt_short().to_owned(),
                places: Some(Arc::clone(&peers) as _),
                hold: store_problem.as_ref().map(|problem| {
                    format!("{problem} Resume to fetch this model there from the start.")
                }),
            },
            follow_settings.subscribe(),
        );
        let (mesh, announcement) = super::mesh::start(
            &config,
            &identity,
            storage.clone(),
            follow_settings.subscribe(),
            pause.is_some(),
        )
        .await;
        let host = Arc::<NodeHost>::default();
        let tasks_of = Tasks::start(TasksSetup {
            key: NodeKey(identity.signing_key().verifying_key().to_bytes()),
            announcement: announcement.subscribe(),
            data_dir: config.paths.data_dir.clone(),
            storage: storage.clone(),
            mesh: mesh.clone(),
            settings: follow_settings.subscribe(),
            host: Arc::clone(&host) as _,
            sandbox: config.sandbox.clone(),
        })
        .await?;
        let inner = Inner {
            node_id: identity.node_id(),
            token,
            listen,
            started: Instant::now(),
            started_at_ms: now,
            listener: Mutex::new(Some(listener)),
            listen_at_start: settings.listen.clone(),
            models_dir_at_start: settings.models_dir.clone(),
            mesh_port_at_start: settings.mesh.port,
            mesh_mapping_at_start: settings.mesh.port_mapping,
            settings: RwLock::new(settings),
            settings_turn: tokio::sync::Mutex::new(()),
            pause_turn: tokio::sync::Mutex::new(()),
            storage,
            library,
            catalogue: RwLock::new(Catalogue::load(&config.paths.data_dir)),
            defaults: DefaultsCache::default(),
            credentials,
            pulls,
            peers,
            follow_settings,
            mesh,
            tasks_of,
            announcement,
            announce: Notify::new(),
            measured: Mutex::default(),
            ollama: OllamaDaemon::default(),
            inference,
            clock: std::sync::OnceLock::new(),
            own: RwLock::new(super::tasks::own_at_first()),
            bus: EventBus::default(),
            meters: Mutex::new(None),
            speed: Mutex::new(SpeedMeter::new(Instant::now())),
            today: Mutex::new(Today { day: now.div_euclid(DAY_MS), counts }),
            pause: Mutex::new(pause),
            notices: Mutex::new(Vec::new()),
            metrics: Metrics::default(),
            stopping: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            failure: watch::Sender::new(None),
            _lock: lock,
            config,
        };
        let node = Self { inner: Arc::new(inner) };
        host.belongs_to(&node);
        let outbox = Outbox::new(node.inner.storage.clone());
        node.start_clock(outbox, Arc::new(node.tasks().clone())).await?;
        if let Some(problem) = store_problem {
            tracing::warn!("{problem}");
            node.notice("models_dir", &problem);
        }
        node.after_start(opened.set_aside, notables).await;
        node.spawn_critical("tasks", node.clone().announce_tasks());
        node.spawn_critical("ends of tasks", node.clone().write_task_ends());
        node.spawn_critical("pulls", node.clone().announce_pulls());
        node.spawn_critical("pull notables", node.clone().write_pull_notables(pull_notables));
        node.tidy_in_background();
        Ok(node)
    }

    async fn after_start(&self, set_aside: Option<PathBuf>, notables: mpsc::Receiver<Notable>) {
        let holder = Holder { pid: std::process::id(), url: self.url() };
        if let Err(e) = self.inner._lock.write(&holder) {
            tracing::warn!("cannot write the lock file: {e}");
        }
        if let Some(kept) = set_aside {
            let message = format!(
                "The database was damaged. It is kept as {} and a new one was begun: the activity feed and today's counters start empty.",
                kept.display()
            );
            self.notice("database_set_aside", &message);
            self.record(ActivityKind::Warning, "Damaged database kept aside".into()).await;
        }
        self.spawn_critical("notables", self.clone().write_notables(notables));
        self.spawn_critical("clock", self.clone().tick());
        self.spawn_critical("residency", self.clone().announce_residency());
        if let Some(provider) = self.share_models_with(Some(Arc::new(self.inner.mesh.clone()))) {
            provider.serve_over(&self.inner.mesh);
        }
        self.spawn_mesh_tasks();
        self.begin_serving().await;
        self.record(ActivityKind::NodeStarted, "Node started".into()).await;
        tracing::info!(node = self.id().fmt_short(), "node is up at {}", self.url());
    }

    /// What takes a moment and nobody waits for: measuring the machine, deleting what a killed
    /// process left among the models.
    fn tidy_in_background(&self) {
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            node.look_at_abilities().await;
            node.hardware().await;
            node.collect_garbage().await;
        });
    }

    /// The listener that was bound at the start, once.
    pub fn take_listener(&self) -> Option<TcpListener> {
        self.inner.listener.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Runs a task without which the node is not whole: when it ends before the node stops, the
    /// node has failed.
    pub fn spawn_critical(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            let result = tokio::spawn(task).await;
            if !node.is_stopping() {
                let why = match result {
                    Ok(()) => "it ended".to_owned(),
                    Err(e) => e.to_string(),
                };
                tracing::error!("the task {name} failed: {why}");
                node.inner.failure.send_replace(Some(format!("the task {name} failed: {why}")));
            }
        });
    }

    /// Adds or replaces a notice for the owner.
    pub(super) fn notice(&self, id: &str, message: &str) {
        let mut notices = self.inner.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.retain(|notice| notice.id != id);
        notices.push(Notice { id: id.to_owned(), message: message.to_owned() });
    }

    pub(super) fn clear_notice(&self, id: &str) {
        let mut notices = self.inner.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.retain(|notice| notice.id != id);
    }

    /// Once a second: the speed meter, the end of a timed pause, the status for listeners.
    async fn tick(self) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let engine = self.inner.inference.state();
        let mut trouble = self.inner.storage.trouble();
        let mut last_work = Instant::now();
        loop {
            tokio::select! {
                _ = seconds.tick() => {}
                () = self.inner.stop.cancelled() => return,
            }
            let (running, loaded) = {
                let engine = engine.borrow();
                (engine.running + engine.queued, !engine.residents.is_empty())
            };
            let now = Instant::now();
            if running > 0 {
                last_work = now;
            }
            let tokens = self.inner.inference.tokens_generated();
            self.inner.speed.lock().unwrap_or_else(PoisonError::into_inner).tick(now, tokens);
            self.end_pause_when_due().await;
            if loaded
                && self.is_paused()
                && now.duration_since(last_work) >= limits::PAUSED_KEEP_ALIVE
            {
                self.inner.inference.unload(None).await;
            }
            if trouble.has_changed().unwrap_or(false) {
                match trouble.borrow_and_update().as_deref() {
                    Some(why) => self.notice("database_write", &format!(
                        "The database cannot be written ({why}). Requests still work; activity, counters and a pause of now would not survive a restart. Free some disk space."
                    )),
                    None => self.clear_notice("database_write"),
                }
            }
            self.publish_status().await;
        }
    }

    async fn end_pause_when_due(&self) {
        let due = {
            let pause = self.inner.pause.lock().unwrap_or_else(PoisonError::into_inner);
            pause.and_then(|pause| pause.until_ms).is_some_and(|until| until <= now_ms())
        };
        if due && let Err(e) = self.resume().await {
            tracing::warn!("the pause is over but could not be ended: {e}");
        }
    }

    /// Writes down what inference reports: rows first, events second.
    async fn write_notables(self, mut notables: mpsc::Receiver<Notable>) {
        loop {
            let notable = tokio::select! {
                notable = notables.recv() => notable,
                // The pool ends at shutdown, after its last words.
                () = self.inner.stop.cancelled() => notables.try_recv().ok(),
            };
            let Some(notable) = notable else { return };
            let (kind, text) = match notable {
                Notable::ModelLoaded { id, name, load_ms } => {
                    self.inner.storage.write_behind(RecordModelLoad { id, load_ms });
                    (ActivityKind::ModelLoaded, format!("{name} loaded in {load_ms:.0} ms"))
                }
                Notable::ModelUnloaded { name } => {
                    (ActivityKind::ModelUnloaded, format!("{name} unloaded"))
                }
                Notable::ModelFailed { reason } => (ActivityKind::ModelFailed, reason),
                Notable::RunnerCrashed { reason } => {
                    (ActivityKind::RunnerCrashed, format!("Runner stopped: {reason}"))
                }
                Notable::RunnerBack => (ActivityKind::RunnerBack, "Runner is back".into()),
                Notable::Finished(finished) => self.finished(finished),
            };
            self.record(kind, text).await;
            self.publish_status().await;
        }
    }

    fn finished(&self, finished: Finished) -> (ActivityKind, String) {
        self.inner.metrics.finished(&finished);
        let at_ms = now_ms();
        {
            let mut today = self.inner.today.lock().unwrap_or_else(PoisonError::into_inner);
            today.roll(at_ms);
            match finished.outcome {
                Outcome::Done => today.counts.done += 1,
                Outcome::Failed => today.counts.failed += 1,
                Outcome::Cancelled => {}
            }
            today.counts.tokens += i64::from(finished.usage.completion_tokens);
        }
        let word = match finished.kind {
            RequestKind::Chat => "Chat",
            RequestKind::Completion => "Completion",
            RequestKind::Embedding => "Embedding",
        };
        let line = match finished.outcome {
            Outcome::Done if finished.usage.completion_tokens > 0 => {
                let tokens = finished.usage.completion_tokens;
                (ActivityKind::RequestDone, format!("{word} done, {tokens} tokens"))
            }
            Outcome::Done => (ActivityKind::RequestDone, format!("{word} done")),
            Outcome::Cancelled => (ActivityKind::RequestCancelled, format!("{word} stopped")),
            Outcome::Failed => {
                let why = finished.error.as_deref().unwrap_or("unknown reason");
                (ActivityKind::RequestFailed, format!("{word} failed: {why}"))
            }
        };
        self.inner.storage.write_behind(RecordModelUse {
            id: finished.model.clone(),
            at_ms,
            completion_tokens: finished.usage.completion_tokens,
            generate_ms: finished.generate_ms,
        });
        self.inner.storage.write_behind(AddRequest {
            at_ms,
            kind: finished.kind,
            model: finished.model,
            outcome: finished.outcome,
            prompt_tokens: finished.usage.prompt_tokens,
            completion_tokens: finished.usage.completion_tokens,
            first_token_ms: finished.first_token_ms,
            total_ms: finished.total_ms,
        });
        line
    }
}

/// Opens the model folder of the settings; if that cannot be used the one in the data directory,
/// with a notice.
fn open_store(config: &Config, settings: &Settings) -> Result<(Store, Option<String>), StartError> {
    let own = config.paths.models();
    let mut problem = None;
    if let Some(chosen) = &settings.models_dir {
        let path = PathBuf::from(chosen);
        // Its last part may be made; more than that missing means that a disk is not mounted.
        let there = match path.parent() {
            Some(parent) => fs::metadata(parent).map(drop),
            None => Ok(()),
        };
        // Also refused when the file was edited by hand: tidying would take what Ollama is just
        // fetching for left-overs.
        let there = match is_of_ollama(&path, settings.ollama_dir.as_deref()) {
            true => Err(io::Error::other("it is Ollama's own folder, which is never written to")),
            false => there,
        };
        match there.and_then(|()| Store::open(path)) {
            Ok(store) => return Ok((store, None)),
            Err(e) => {
                problem = Some(format!(
                    "The models folder {chosen} cannot be used ({e}), so {} is used instead. Mount or repair it and start EdgeCoder again, or choose another in the settings.",
                    own.display()
                ))
            }
        }
    }
    let store = Store::open(own.clone());
    let store = store.map_err(|source| StartError::DataDir { path: own, source })?;
    Ok((store, problem))
}

impl Today {
    /// Starts again at midnight UTC.
    pub(super) fn roll(&mut self, now_ms: i64) {
        let day = now_ms.div_euclid(DAY_MS);
        if day != self.day {
            *self = Self { day, counts: Default::default() };
        }
    }
}

fn prepare_data_dir(config: &Config) -> Result<(), StartError> {
    let path = config.paths.data_dir.clone();
    let prepare = || -> io::Result<()> {
        let is_new = !path.exists();
        fs::create_dir_all(&path)?;
        // A folder that was there before keeps the owner's mode; the secrets in it are 0600.
        #[cfg(unix)]
        if is_new {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        }
        fs::create_dir_all(config.paths.models())?;
        // Finds a read-only or full disk before anything half-exists.
        tempfile::NamedTempFile::new_in(&path).and_then(|mut file| {
            use io::Write as _;
            file.write_all(&[0; 4096])?;
            file.as_file().sync_all()
        })
    };
    prepare().map_err(|source| StartError::DataDir { path: path.clone(), source })
}

/// Files that a write was in the middle of when the process was killed. Only under the lock.
fn sweep_temporary_files(config: &Config) {
    let Ok(entries) = fs::read_dir(&config.paths.data_dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        // `tempfile` names its files so.
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn take_lock(config: &Config) -> Result<DirLock, StartError> {
    let path = config.paths.data_dir.clone();
    DirLock::take(&config.paths.lock()).map_err(|e| match e {
        LockError::Held(holder) => StartError::AlreadyRunning { path, holder },
        LockError::Io(source) => StartError::DataDir { path, source },
    })
}

fn bind(config: &Config, settings: &Settings) -> Result<TcpListener, StartError> {
    let listen = match config.listen {
        Some(listen) => listen,
        None => settings.listen.parse().map_err(|_| {
            SettingsError::Refused(format!("{:?} is not an address and a port", settings.listen))
        })?,
    };
    if !listen.ip().is_loopback() && settings.api_key.is_none() {
        return Err(StartError::ExposedWithoutKey(listen));
    }
    // std sets SO_REUSEADDR on Unix, so that a restart does not wait for old connections.
    let listener = TcpListener::bind(listen).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse { listen },
        _ => StartError::Listen { listen, source },
    })?;
    listener.set_nonblocking(true).map_err(|source| StartError::Listen { listen, source })?;
    Ok(listener)
}
