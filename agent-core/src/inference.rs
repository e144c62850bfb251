//! Inference: several models at once, each with its own program, behind one queue.
//!
//! [`Inference`] is a handle to the pool (`inference/pool.rs`), one task that owns an engine per
//! model in memory (`engine.rs`). An engine speaks over a line (`link.rs`) with a runner process
//! (`runner.rs`) or an Ollama daemon (`ollama.rs`). The runner holds llama.cpp, so that a native
//! crash costs the requests of one model and never the node: they end with
//! [`InferenceError::RunnerLost`], the runner is started again with backoff and the model is loaded
//! again. Who may be in memory is decided by `residency`, from what `admission` says a model needs.

mod admission;
mod engine;
pub mod left_out;
mod link;
pub mod ollama;
pub mod options;
mod pool;
mod residency;
mod runner;
pub mod tools;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agent_api::{
    NodeId,
    models::{LoadedModel, ModelState, Residency},
    runner::{Device, FinishReason, Generate, TextInput, Timings, TokenLogprob, Usage},
    tasks::{Privacy, TaskPath},
};
use left_out::LeftOut;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tools::ToolFormat;

use crate::{
    config::limits,
    models::ModelFile,
    storage::{Outcome, RequestKind},
};

/// Why a request could not be served. The text is for whoever sent it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InferenceError {
    #[error(
        "No model is active. Choose one in the Models panel or put a GGUF file into the models folder."
    )]
    NoModel,
    #[error(
        "The model {wanted:?} is not active on this node; {active:?} is. Use that name, or make the other model active first."
    )]
    NotActive { wanted: String, active: String },
    #[error(
        "There is no model {0:?} on this node. GET /v1/models names those that are; the Models panel pulls others."
    )]
    NoSuchModel(String),
    #[error(
        "The model {model:?} is not on this node but on {nodes}, and this request stays here: its privacy says so. Allow more in Settings, Work for others, or with the header x-edgecoder-privacy."
    )]
    OnlyElsewhere { model: String, nodes: String },
    /// The node that the request names is not known, or does not have the model.
    #[error("{0}")]
    NotThere(String),
    #[error("{} requests are waiting already. Try again in a moment.", limits::WAITING_REQUESTS)]
    QueueFull,
    #[error(
        "The inference runner stopped unexpectedly while it worked on this request. It is being started again; send the request again."
    )]
    RunnerLost,
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    ContextOverflow(String),
    #[error("llama.cpp reported an error: {0}")]
    Engine(String),
    #[error("The answer was not read fast enough, so it was cut off.")]
    SlowClient,
    #[error("The node is shutting down.")]
    ShuttingDown,
    #[error("The owner of this node stopped the request.")]
    Stopped,
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Tokens per request.
    pub context: u32,
    /// Requests at the same time.
    pub slots: u32,
    pub threads: Option<u32>,
    /// Layers on the GPU; `None`: as many as fit.
    pub gpu_layers: Option<u32>,
}

/// A model and how it is to be held.
#[derive(Clone, Debug)]
pub struct Target {
    pub model: ModelFile,
    pub options: LoadOptions,
    /// The owner's word for this model; `None`: the request's, then the settings'.
    pub keep_alive: Option<KeepAlive>,
    /// Never leaves for other models, nor because time passes.
    pub pinned: bool,
    /// Loaded at the start; stays unless `keep_alive` says otherwise.
    pub preload: bool,
    /// The daemon that runs it; `None`: our runner.
    pub ollama: Option<ollama::Endpoint>,
}

/// What holds for all models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub keep_alive: KeepAlive,
    pub max_loaded: usize,
    /// Bytes that models leave to the owner's own programs.
    pub ram_reserve: u64,
    pub gpu_reserve: u64,
}

/// What making a model active would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Models that leave memory, the active one first.
    pub evicts: Vec<String>,
    /// Requests that finish on the old model before it leaves.
    pub running: u32,
    /// RAM of all models, estimated.
    pub now_bytes: u64,
    pub after_bytes: u64,
    pub limit_bytes: u64,
    /// Why it cannot be loaded.
    pub problem: Option<String>,
}

/// How long a model stays in memory after a request, when the request says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    For(Duration),
    Forever,
}

/// Ten years: longer is for ever. A request may write more than a clock can count.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

impl KeepAlive {
    /// From the settings' spelling: -1 is for ever.
    pub fn from_seconds(seconds: i64) -> Self {
        u64::try_from(seconds)
            .map_or(Self::Forever, |seconds| Self::at_most(Duration::from_secs(seconds)))
    }

    /// For this long, or for ever where that is more than ten years.
    pub fn at_most(time: Duration) -> Self {
        if time > LONGEST_KEEP_ALIVE { Self::Forever } else { Self::For(time) }
    }
}

/// What a request may say about the model itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubmitOptions {
    pub keep_alive: Option<KeepAlive>,
    /// At least this context (Ollama's `num_ctx`): a model loaded with less is loaded again.
    pub context: Option<u32>,
    /// Who may see it, if it goes to another node; `None`: as the settings say.
    pub privacy: Option<Privacy>,
    /// What the model's own choice is wanted for, if another node runs it.
    pub left_out: LeftOut,
}

/// What is asked of the model.
#[derive(Clone, Debug)]
pub enum Work {
    Generate(Box<Generate>),
    Embed(Vec<TextInput>),
}

/// What comes back, in this order: `Started`, any number of `Text`, then `Done`; or one
/// `Embedded`; or `Failed` at any point, last.
#[derive(Clone, Debug)]
pub enum Piece {
    Started { usage: Usage },
    Text { text: String, logprobs: Vec<TokenLogprob> },
    Done { finish: FinishReason, usage: Usage, timings: Timings },
    Embedded { vectors: Vec<Vec<f32>>, prompt_tokens: u32 },
    Failed(InferenceError),
}

/// What a loaded model tells about itself.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where it has one that is rendered here.
    pub chat_template: Option<Arc<str>>,
    /// How it writes tool calls, where it can.
    pub tools: Option<ToolFormat>,
}

/// One model, for the status.
#[derive(Clone, Debug)]
pub struct EngineState {
    pub target: Arc<Target>,
    pub residency: Residency,
    pub retry_at_ms: Option<i64>,
}

/// What the pool is doing, for the status.
#[derive(Clone, Debug, Default)]
pub struct InferenceState {
    /// The active model, in memory or not.
    pub active: Option<EngineState>,
    /// Every model in memory or on its way there, the active one first.
    pub residents: Vec<EngineState>,
    /// GPUs that this build's runner can put layers on; empty before one has said hello.
    pub devices: Vec<Device>,
    /// Unexpected ends of programs since the start.
    pub runner_crashes: u32,
    /// Over all models.
    pub running: u32,
    pub queued: u32,
    pub oldest_waiting_since: Option<Instant>,
}

impl InferenceState {
    /// State of the active model.
    pub fn model_state(&self) -> ModelState {
        self.active.as_ref().map_or(ModelState::None, |active| active.residency.state)
    }

    /// What a person should know about it.
    pub fn reason(&self) -> String {
        match &self.active {
            Some(active) => active.residency.reason.clone(),
            None => InferenceError::NoModel.to_string(),
        }
    }

    /// The active model while it is in memory.
    pub fn loaded(&self) -> Option<&LoadedModel> {
        self.active.as_ref()?.residency.loaded.as_ref()
    }

    /// The active model's process.
    pub fn runner_pid(&self) -> Option<u32> {
        self.active.as_ref()?.residency.pid
    }

    /// Requests that may run at the same time with what is in memory.
    pub fn slots(&self) -> u32 {
        let loaded = self.residents.iter().filter_map(|state| state.residency.loaded.as_ref());
        loaded.map(|loaded| loaded.slots).sum()
    }

    /// A model in memory or on its way, or the active one.
    pub fn find(&self, id: &str) -> Option<&EngineState> {
        let known = self.residents.iter().chain(&self.active);
        known.into_iter().find(|state| state.residency.id == id)
    }
}

/// Facts for the activity feed and the counters.
#[derive(Clone, Debug)]
pub enum Notable {
    ModelLoaded { id: String, name: String, load_ms: f64 },
    ModelUnloaded { name: String },
    ModelFailed { reason: String },
    RunnerCrashed { reason: String },
    RunnerBack,
    Finished(Finished),
}

/// A request that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    pub kind: RequestKind,
    /// Id of the model that answered.
    pub model: String,
    pub outcome: Outcome,
    pub usage: Usage,
    pub first_token_ms: Option<f64>,
    pub total_ms: f64,
    /// Time for `usage.completion_tokens`; 0 unless the request came to its end.
    pub generate_ms: f64,
    pub error: Option<String>,
}

/// Facts that wait for the node to write them down. More than this at once means hundreds of
/// requests a second; the counters would then miss some, and say so in the log.
const NOTABLE_BACKLOG: usize = 1024;
/// Commands that wait for the pool, which never blocks.
const COMMAND_BACKLOG: usize = 256;

/// A handle to the pool. Clones share it.
#[derive(Clone, Debug)]
pub struct Inference {
    commands: mpsc::Sender<pool::Command>,
    state: watch::Receiver<InferenceState>,
    tokens: Arc<AtomicU64>,
    next_id: Arc<AtomicU64>,
}

impl Inference {
    /// Starts the pool; the receiver gets what is worth telling the owner.
    pub fn start(runner: Option<PathBuf>, policy: Policy) -> (Self, mpsc::Receiver<Notable>) {
        let (commands, inbox) = mpsc::channel(COMMAND_BACKLOG);
        let (notable, notables) = mpsc::channel(NOTABLE_BACKLOG);
        let tokens = Arc::new(AtomicU64::new(0));
        let state = pool::spawn(runner, policy, inbox, notable, Arc::clone(&tokens));
        (Self { commands, state, tokens, next_id: Arc::default() }, notables)
    }

    pub fn state(&self) -> watch::Receiver<InferenceState> {
        self.state.clone()
    }

    /// Tokens generated since the start, over all requests.
    pub fn tokens_generated(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Puts settings in force. `targets` are models as they now are to be held: those in memory
    /// that changed are loaded again after their requests in flight.
    pub async fn configure(&self, policy: Policy, targets: Vec<Target>) {
        let _ = self.ask(|reply| pool::Command::Configure { policy, targets, reply }).await;
    }

    /// Makes a model the active one (or none) and loads it. Requests that were accepted before
    /// finish on the old one, which then leaves. Returns once the choice is made, not once it is
    /// loaded: watch the state.
    pub async fn choose(&self, target: Option<Target>) {
        let target = target.map(Box::new);
        let _ = self.ask(|reply| pool::Command::Choose { target, reply }).await;
    }

    /// What [`Inference::choose`] would do.
    pub async fn preview(&self, target: Target) -> Result<Preview, InferenceError> {
        let target = Box::new(target);
        self.ask(|reply| pool::Command::Preview { target, reply }).await
    }

    /// Loads a model, or the active one, beside the others; returns once it is ready or has
    /// failed.
    pub async fn load(
        &self,
        target: Option<Arc<Target>>,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Ready, InferenceError> {
        self.ask(|reply| pool::Command::Load { target, keep_alive, reply }).await?
    }

    /// Frees a model's memory after its requests in flight; the next request for it loads it
    /// again. `None` frees all.
    pub async fn unload(&self, id: Option<String>) {
        let _ = self.ask(|reply| pool::Command::Unload { id, reply }).await;
    }

    /// Forgets a model whose file is gone (the active one too: no model is active then). What was
    /// accepted before finishes as far as the model is in memory, then it leaves; its name means
    /// nothing to this handle from now on. Until then the state shows it under its id and
    /// `(removed …)`.
    pub async fn remove(&self, id: String) {
        let _ = self.ask(|reply| pool::Command::Remove { id, reply }).await;
    }

    /// Queues work for a model, or for the active one. The answer comes through the returned
    /// [`Answer`]; dropping it cancels.
    pub async fn submit(
        &self,
        kind: RequestKind,
        to: Option<Arc<Target>>,
        work: Work,
        options: SubmitOptions,
    ) -> Result<Answer, InferenceError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (pieces, receiver) = mpsc::channel(limits::ANSWER_PIECES);
        let job = Box::new(engine::Job::new(id, kind, options, work, pieces));
        let model = self.ask(|reply| pool::Command::Submit { job, to, reply }).await??;
        let cancel = Cancel::Pool { id, commands: self.commands.clone() };
        let route = SharedRoute::default();
        let stop = CancellationToken::new();
        Ok(Answer { model, receiver, cancel, over: false, route, watcher: None, stop })
    }

    /// Refuses new work, lets requests in flight finish for [`limits::DRAIN`], ends the programs.
    pub async fn shutdown(&self) {
        let _ = self.ask(|reply| pool::Command::Shutdown { reply }).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> pool::Command,
    ) -> Result<T, InferenceError> {
        let (reply, answer) = oneshot::channel();
        let gone = InferenceError::ShuttingDown;
        self.commands.send(command(reply)).await.map_err(|_| gone.clone())?;
        answer.await.map_err(|_| gone)
    }
}

/// The pieces of one answer. Dropping it before the end cancels the request.
#[derive(Debug)]
pub struct Answer {
    model: String,
    receiver: mpsc::Receiver<Piece>,
    cancel: Cancel,
    over: bool,
    route: SharedRoute,
    watcher: Option<Watcher>,
    stop: CancellationToken,
}

/// Which node answers, as known at this moment: it may become another one until the first word.
#[derive(Clone, Debug, Default)]
pub struct SharedRoute(Arc<Mutex<Option<Route>>>);

impl SharedRoute {
    pub fn set(&self, route: Route) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(route);
    }

    pub fn get(&self) -> Option<Route> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sees every piece of an answer as it is taken out; dropped with the answer.
struct Watcher(Box<dyn FnMut(&Piece) + Send + Sync>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// Which node answers, for requests that may go to others.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub node: NodeId,
    pub name: String,
    pub path: TaskPath,
    /// Milliseconds from the request's arrival to its being handed to the node that answers.
    pub overhead_ms: f64,
}

/// How an answer is cancelled.
#[derive(Debug)]
enum Cancel {
    Pool {
        id: u64,
        commands: mpsc::Sender<pool::Command>,
    },
    /// Cancels when dropped.
    Elsewhere {
        _guard: DropGuard,
    },
}

impl Answer {
    /// An answer that does not come from this node's pool. The guard is dropped with it.
    pub fn from_elsewhere(
        model: String,
        receiver: mpsc::Receiver<Piece>,
        guard: DropGuard,
    ) -> Self {
        Self {
            model,
            receiver,
            cancel: Cancel::Elsewhere { _guard: guard },
            over: false,
            route: SharedRoute::default(),
            watcher: None,
            stop: CancellationToken::new(),
        }
    }

    pub fn with_route(self, route: Route) -> Self {
        self.route.set(route);
        self
    }

    /// Shows every piece to a watcher as it is taken out; it is dropped with the answer.
    pub fn watched(mut self, watcher: impl FnMut(&Piece) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Watcher(Box::new(watcher)));
        self
    }

    /// Ends it with [`InferenceError::Stopped`] when this is cancelled.
    pub fn stopped_by(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// Id of the model that answers.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Which node answers; certain once the first piece is there.
    pub fn route(&self) -> Option<Route> {
        self.route.get()
    }

    /// The same, for whoever gives the answer away and asks later.
    pub fn shared_route(&self) -> SharedRoute {
        self.route.clone()
    }

    /// The next piece; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Piece> {
        if self.over {
            return None;
        }
        let piece = tokio::select! {
            // A closed channel without a last piece means that the pool dropped the request.
            piece = self.receiver.recv() => {
                piece.unwrap_or(Piece::Failed(InferenceError::SlowClient))
            }
            () = self.stop.cancelled() => {
                self.cancel();
                Piece::Failed(InferenceError::Stopped)
            }
        };
        self.over = matches!(piece, Piece::Done { .. } | Piece::Embedded { .. } | Piece::Failed(_));
        if let Some(Watcher(watch)) = &mut self.watcher {
            watch(&piece);
        }
        Some(piece)
    }

    fn cancel(&self) {
        if let Cancel::Pool { id, commands } = &self.cancel {
            // If the queue is full the pool notices the closed channel at the next token.
            let _ = commands.try_send(pool::Command::Cancel { id: *id });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.over {
            self.cancel();
        }
    }
}
