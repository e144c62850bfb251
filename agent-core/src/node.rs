//! The node: the only place that puts the parts together and starts their tasks.
//!
//! [`Node::start`] opens everything in an order that fails early and cheaply: data directory, lock,
//! identity, settings, database, port. [`Node::shutdown`] takes it down in the opposite order,
//! within [`limits::SHUTDOWN`].

mod announce;
mod fitting;
mod library;
mod lock;
mod mesh;
mod metrics;
mod pulls;
mod residency;
mod schedules;
mod sharing;
mod speed;
mod start;
mod status;
mod tasks;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

pub use crate::models::library::Defaults as ModelDefaults;
use agent_api::{
    Activity, ActivityKind, Event, NodeId, Settings,
    mesh::Announcement,
    node::{Notice, Pause, Serving, Status},
    settings::{SettingsPatch, SettingsView},
};
use futures_util::Stream;
pub use lock::{Holder, running_holder};
pub use metrics::Metrics;
use speed::SpeedMeter;
pub use start::StartError;
use tokio::sync::{Notify, broadcast::error::RecvError, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::now_ms,
    config::{self, Config, SettingsError, limits},
    events::EventBus,
    inference::{
        Answer, Inference, InferenceError, SubmitOptions, Work, ollama::OllamaDaemon,
        tools::ToolFormat,
    },
    mesh::{Mesh, MeshError},
    models::{
        Library,
        catalogue::{Catalogue, CatalogueError},
        library::is_of_ollama,
        pull::{PullError, Pulls},
        registry::{RegistryError, credentials::Credentials},
        store::{Store, StoreError},
    },
    storage::{DayCounts, SetState, Storage, StorageError, list_activity},
    tasks::handle::{TaskError, Tasks},
    tasks::job::Own,
    text::size,
};

/// A running node. Clones share it; it runs until [`Node::shutdown`].
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    node_id: NodeId,
    token: String,
    listen: SocketAddr,
    started: Instant,
    started_at_ms: i64,
    /// The listener until the API server takes it.
    listener: Mutex<Option<std::net::TcpListener>>,
    settings: RwLock<Settings>,
    /// Held over a whole change: check, write, put in force, announce.
    settings_turn: tokio::sync::Mutex<()>,
    /// Held over a whole pause or resume.
    pause_turn: tokio::sync::Mutex<()>,
    /// As they were at the start, to say what waits for the next one.
    listen_at_start: String,
    models_dir_at_start: Option<String>,
    mesh_port_at_start: u16,
    mesh_mapping_at_start: bool,
    storage: Storage,
    library: Library,
    catalogue: RwLock<Catalogue>,
    defaults: library::DefaultsCache,
    credentials: Credentials,
    pulls: Pulls,
    /// Peers, for pulls.
    peers: Arc<sharing::Peers>,
    /// The settings in force, for those that follow them by themselves.
    follow_settings: watch::Sender<Settings>,
    mesh: Mesh,
    /// Tasks of the mesh's nodes, own and others'.
    tasks_of: Tasks,
    /// What this node says of itself to the mesh.
    announcement: watch::Sender<Announcement>,
    /// Models, pause or hardware changed: the announcement has to be looked at.
    announce: Notify,
    measured: Mutex<fitting::Measured>,
    ollama: OllamaDaemon,
    inference: Inference,
    /// Schedules and webhooks, once tasks are there.
    clock: std::sync::OnceLock<schedules::Clock>,
    /// What this node can do, as it last looked.
    own: RwLock<Own>,
    bus: EventBus,
    meters: Mutex<Option<status::Machines>>,
    speed: Mutex<SpeedMeter>,
    today: Mutex<Today>,
    pause: Mutex<Option<Paused>>,
    notices: Mutex<Vec<Notice>>,
    metrics: Metrics,
    stopping: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
    failure: watch::Sender<Option<String>>,
    /// Released when the last clone of the node is gone.
    _lock: lock::DirLock,
}

/// Counters of the current day (UTC).
#[derive(Clone, Copy, Debug)]
struct Today {
    day: i64,
    counts: DayCounts,
}

/// The owner paused the node.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Paused {
    until_ms: Option<i64>,
}

/// Key of [`Paused`] in the table `node_state`.
const PAUSE_KEY: &str = "pause";

/// Why a call to the node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Inference(#[from] InferenceError),
    #[error("there is no model {0:?} on this node. GET /model/list names what is installed")]
    NoSuchModel(String),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Mesh(#[from] MeshError),
    #[error(transparent)]
    Tasks(#[from] TaskError),
    #[error("{0}")]
    BadRequest(String),
}

impl Node {
    pub fn id(&self) -> &NodeId {
        &self.inner.node_id
    }

    /// The token of the control paths.
    pub fn token(&self) -> &str {
        &self.inner.token
    }

    /// Where the API listens.
    pub fn listen(&self) -> SocketAddr {
        self.inner.listen
    }

    /// `http://` and the address; an unspecified address is named as loopback.
    pub fn url(&self) -> String {
        let mut listen = self.inner.listen;
        if listen.ip().is_unspecified() {
            listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("http://{listen}")
    }

    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub fn settings(&self) -> Settings {
        self.inner.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Settings as the API shows them: without the key.
    pub fn settings_view(&self) -> SettingsView {
        let settings = self.settings();
        let mut after_restart = Vec::new();
        if settings.listen != self.inner.listen_at_start && self.inner.config.listen.is_none() {
            after_restart.push("listen".to_owned());
        }
        if settings.models_dir != self.inner.models_dir_at_start {
            after_restart.push("models_dir".to_owned());
        }
        if settings.mesh.port != self.inner.mesh_port_at_start
            && self.inner.config.mesh_bind.is_none()
        {
            after_restart.push("mesh.port".to_owned());
        }
        if settings.mesh.port_mapping != self.inner.mesh_mapping_at_start
            && self.inner.config.mesh_bind.is_none()
        {
            after_restart.push("mesh.port_mapping".to_owned());
        }
        SettingsView {
            api_key_set: settings.api_key.is_some(),
            path: self.inner.config.paths.settings().display().to_string(),
            after_restart,
            settings: self.shown(settings),
        }
    }

    /// Without secrets, with what only the node knows.
    fn shown(&self, mut settings: Settings) -> Settings {
        settings.api_key = None;
        for registry in &mut settings.registries {
            registry.logged_in = self.is_logged_in(&registry.host);
        }
        settings
    }

    /// Changes settings: checked, written, then in force. Model options reload the model after
    /// the requests in flight.
    pub async fn patch_settings(&self, patch: SettingsPatch) -> Result<SettingsView, NodeError> {
        self.change_settings(move |old| config::apply_patch(old, &patch)).await?;
        Ok(self.settings_view())
    }

    async fn change_settings(
        &self,
        change: impl FnOnce(&Settings) -> Result<Settings, SettingsError> + Send,
    ) -> Result<(), NodeError> {
        let _turn = self.inner.settings_turn.lock().await;
        let old = self.settings();
        let new = change(&old)?;
        if new == old {
            return Ok(());
        }
        check_against_machine(&old, &new).await?;
        let (path, to_save) = (self.inner.config.paths.settings(), new.clone());
        tokio::task::spawn_blocking(move || config::save_settings(&path, &to_save))
            .await
            .map_err(|e| NodeError::BadRequest(format!("the change was interrupted: {e}")))??;
        *self.inner.settings.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
        self.inner.follow_settings.send_replace(self.inner.config.in_force(&new));
        if old.ollama_dir != new.ollama_dir {
            self.inner.library.set_ollama_dir(new.ollama_dir.as_deref());
            self.models_changed();
        }
        self.put_models_in_force(&old, &new).await;
        self.inner.bus.send(Event::Settings { settings: Box::new(self.shown(new)) });
        Ok(())
    }

    /// Takes no more work from other computers, and frees the model when it is not used.
    pub async fn pause(&self, pause: Pause) -> Result<Serving, NodeError> {
        let until_ms = match pause.for_s {
            Some(s) if s == 0 || s > limits::PAUSE_SECONDS => {
                return Err(NodeError::BadRequest(
                    "for_s is a number of seconds from 1 to 604,800 (a week); leave it out to pause until resumed".into(),
                ));
            }
            Some(s) => Some(now_ms() + i64::try_from(s).unwrap_or(0) * 1000),
            None => None,
        };
        let _turn = self.inner.pause_turn.lock().await;
        let paused = Paused { until_ms };
        *self.inner.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(paused);
        self.inner.inference.unload(None).await;
        let value = serde_json::to_string(&paused).unwrap_or_default();
        self.keep_pause(Some(value)).await;
        self.inner.announce.notify_one();
        self.record(ActivityKind::Paused, "Paused by you".into()).await;
        self.publish_status().await;
        Ok(self.serving())
    }

    pub async fn resume(&self) -> Result<Serving, NodeError> {
        let _turn = self.inner.pause_turn.lock().await;
        let was = self.inner.pause.lock().unwrap_or_else(PoisonError::into_inner).take();
        if was.is_some() {
            self.begin_serving().await;
            self.keep_pause(None).await;
            self.inner.announce.notify_one();
            self.record(ActivityKind::Resumed, "Resumed".into()).await;
        }
        self.publish_status().await;
        Ok(self.serving())
    }

    /// The owner's word counts at once, also when it cannot be written down; the notice about the
    /// database then says what is lost by a restart.
    async fn keep_pause(&self, value: Option<String>) {
        if let Err(e) = self.inner.storage.write(SetState { key: PAUSE_KEY, value }).await {
            tracing::warn!("the pause will not survive a restart: {e}");
        }
    }

    pub fn is_paused(&self) -> bool {
        self.inner.pause.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Writes a line of the activity feed, then announces it.
    async fn record(&self, kind: ActivityKind, text: String) {
        let add = crate::storage::AddActivity { at_ms: now_ms(), kind, text };
        match self.inner.storage.write(add).await {
            Ok(item) => self.inner.bus.send(Event::Activity { item }),
            Err(e) => tracing::warn!("a line of the activity feed was lost: {e}"),
        }
    }

    pub async fn activity(
        &self,
        limit: u32,
        before: Option<i64>,
    ) -> Result<Vec<Activity>, NodeError> {
        Ok(list_activity(self.inner.storage.readers(), limit, before).await?)
    }

    /// A snapshot, then changes without a gap. `None` at capacity.
    pub fn subscribe(&self) -> Option<impl Stream<Item = Event> + Send + use<>> {
        if self.inner.bus.listeners() >= limits::EVENT_LISTENERS {
            return None;
        }
        // Subscribed before the snapshot is taken: what happens in between comes twice, not never.
        let mut changes = self.inner.bus.subscribe();
        let node = self.clone();
        let stop = self.inner.stop.clone();
        Some(async_stream::stream! {
            yield node.snapshot().await;
            drop(node);
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = stop.cancelled() => return,
                };
                match change {
                    Ok(event) => yield event,
                    Err(RecvError::Lagged(_)) => yield Event::Resync,
                    Err(RecvError::Closed) => return,
                }
            }
        })
    }

    async fn snapshot(&self) -> Event {
        let activity = self.activity(50, None).await.unwrap_or_default();
        Event::Snapshot {
            status: Box::new(self.status().await),
            activity,
            settings: Box::new(self.shown(self.settings())),
            pulls: self.pulls().await,
            mesh: Box::new(self.mesh()),
        }
    }

    async fn publish_status(&self) {
        if self.inner.bus.listeners() > 0 {
            let status = Box::new(self.status().await);
            self.inner.bus.send(Event::Status { status });
        }
    }

    /// Resolves with the reason when the node cannot go on.
    pub async fn failed(&self) -> String {
        let mut failure = self.inner.failure.subscribe();
        let reason = match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        reason.unwrap_or_else(|| "the node ended".into())
    }

    /// Cancelled when the node begins to stop.
    pub fn stop_token(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::Relaxed)
    }

    /// Stops taking requests, lets those in flight finish, writes everything down.
    pub async fn shutdown(&self) {
        if self.inner.stopping.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::info!("stopping");
        let all = async {
            // Refuses new work and drains, while the API still delivers the last answers and the
            // mesh says goodbye.
            self.inner.tasks_of.shutdown().await;
            tokio::join!(
                self.inner.inference.shutdown(),
                self.inner.pulls.shutdown(),
                self.leave_quietly()
            );
            self.inner.stop.cancel();
            self.inner.tasks.close();
            self.inner.tasks.wait().await;
            self.inner.storage.close().await;
        };
        if tokio::time::timeout(limits::SHUTDOWN, all).await.is_err() {
            tracing::warn!("some work did not stop in time and was cut off");
            self.inner.stop.cancel();
        }
        self.inner._lock.release();
        tracing::info!("stopped");
    }

    async fn leave_quietly(&self) {
        if tokio::time::timeout(limits::MESH_GOODBYE, self.inner.mesh.shutdown()).await.is_err() {
            tracing::warn!("the mesh did not end in time; peers will notice by themselves");
        }
    }

    pub fn logs(&self) -> &crate::logging::LogRing {
        &self.inner.config.logs
    }

    /// Where the page is, if it was built.
    pub fn ui_dir(&self) -> Option<PathBuf> {
        self.inner.config.ui_dir.clone().filter(|dir| dir.join("index.html").exists())
    }

    pub async fn status(&self) -> Status {
        status::status(self).await
    }
}

/// What only this computer can refuse: more memory than it has, a folder that it cannot write.
async fn check_against_machine(old: &Settings, new: &Settings) -> Result<(), NodeError> {
    let refuse = |why: String| Err(SettingsError::Refused(why).into());
    let total = crate::machine::total_memory();
    if let Some(total) = total.filter(|total| new.ram_reserve_bytes >= *total)
        && new.ram_reserve_bytes != old.ram_reserve_bytes
    {
        let (kept, total) = (size(new.ram_reserve_bytes), size(total));
        return refuse(format!(
            "keeping {kept} of RAM leaves nothing for models: this computer has {total}"
        ));
    }
    let Some(folder) = new.models_dir.clone().filter(|_| new.models_dir != old.models_dir) else {
        return Ok(());
    };
    let ollama_dir = new.ollama_dir.clone();
    let tried = library::blocking(move || {
        let path = PathBuf::from(&folder);
        if is_of_ollama(&path, ollama_dir.as_deref()) {
            return Ok(Err(format!(
                "{folder} is Ollama's own folder. Its models are used where they are; choose another folder for models of this node"
            )));
        }
        let usable =
            Store::open(path).and_then(|store| tempfile::tempfile_in(store.root()).map(drop));
        Ok(usable.map_err(|e| format!("the folder {folder} cannot be used for models: {e}")))
    });
    match tried.await? {
        Ok(()) => Ok(()),
        Err(why) => refuse(why),
    }
}
