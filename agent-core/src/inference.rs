//! Inference: one model in a runner process, a queue in front of it, and supervision behind.
//!
//! [`Inference`] is a handle to an actor (`inference/actor.rs`) that owns the runner process. The
//! runner holds llama.cpp, so that a native crash costs the requests in flight and never the node:
//! they end with [`InferenceError::RunnerLost`], the runner is started again with backoff and the
//! model is loaded again. A model file is checked before the runner sees it (`admission`).

mod actor;
mod admission;
mod process;
pub mod tools;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agent_api::{
    models::{LoadedModel, ModelState},
    runner::{FinishReason, Generate, TextInput, Timings, TokenLogprob, Usage},
};
use tokio::sync::{mpsc, oneshot, watch};

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
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Tokens per request.
    pub context: u32,
    /// Requests at the same time.
    pub slots: u32,
    pub threads: Option<u32>,
}

/// How long a model stays in memory after a request, when the request says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    For(Duration),
    Forever,
}

/// What a request may say about the model itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubmitOptions {
    pub keep_alive: Option<KeepAlive>,
    /// At least this context (Ollama's `num_ctx`): a model loaded with less is loaded again.
    pub context: Option<u32>,
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

/// What the actor is doing, for the status.
#[derive(Clone, Debug)]
pub struct EngineState {
    pub state: ModelState,
    pub reason: String,
    pub active: Option<ModelFile>,
    pub loaded: Option<LoadedModel>,
    /// The loaded model's chat template, where it has one.
    pub chat_template: Option<Arc<str>>,
    pub retry_at_ms: Option<i64>,
    pub runner_crashes: u32,
    pub runner_pid: Option<u32>,
    pub running: u32,
    pub queued: u32,
    pub oldest_waiting_since: Option<Instant>,
}

/// Facts for the activity feed and the counters.
#[derive(Clone, Debug)]
pub enum Notable {
    ModelLoaded { name: String, load_ms: f64 },
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
    pub model: String,
    pub outcome: Outcome,
    pub usage: Usage,
    pub first_token_ms: Option<f64>,
    pub total_ms: f64,
    pub error: Option<String>,
}

/// Facts that wait for the node to write them down. More than this at once means hundreds of
/// requests a second; the counters would then miss some, and say so in the log.
const NOTABLE_BACKLOG: usize = 1024;
/// Commands that wait for the actor, which never blocks.
const COMMAND_BACKLOG: usize = 256;

/// A handle to the actor. Clones share it.
#[derive(Clone, Debug)]
pub struct Inference {
    commands: mpsc::Sender<actor::Command>,
    state: watch::Receiver<EngineState>,
    tokens: Arc<AtomicU64>,
    next_id: Arc<AtomicU64>,
}

impl Inference {
    /// Starts the actor; the receiver gets what is worth telling the owner.
    pub fn start(runner: Option<PathBuf>) -> (Self, mpsc::Receiver<Notable>) {
        let (commands, inbox) = mpsc::channel(COMMAND_BACKLOG);
        let (notable, notables) = mpsc::channel(NOTABLE_BACKLOG);
        let tokens = Arc::new(AtomicU64::new(0));
        let state = actor::spawn(runner, inbox, notable, Arc::clone(&tokens));
        (Self { commands, state, tokens, next_id: Arc::default() }, notables)
    }

    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// Tokens generated since the start, over all requests.
    pub fn tokens_generated(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Makes a model the active one (or none) and loads it; requests in flight finish first on
    /// the old one. Returns once the choice is made, not once it is loaded: watch the state.
    pub async fn choose(&self, model: Option<ModelFile>, options: LoadOptions) {
        let model = model.map(Box::new);
        let _ = self.commands.send(actor::Command::Choose { model, options }).await;
    }

    /// Loads the chosen model if an unload had freed it.
    pub async fn load(&self) {
        let _ = self.commands.send(actor::Command::Load).await;
    }

    /// Frees the model's memory after the requests in flight; the next request loads it again.
    pub async fn unload(&self) {
        let _ = self.commands.send(actor::Command::Unload).await;
    }

    /// Queues work. The answer comes through the returned [`Answer`]; dropping it cancels.
    pub async fn submit(
        &self,
        kind: RequestKind,
        model: String,
        work: Work,
    ) -> Result<Answer, InferenceError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (pieces, receiver) = mpsc::channel(limits::ANSWER_PIECES);
        let job = actor::Job::new(id, kind, model, work, pieces);
        let (reply, accepted) = oneshot::channel();
        let submit = actor::Command::Submit { job: Box::new(job), reply };
        self.commands.send(submit).await.map_err(|_| InferenceError::ShuttingDown)?;
        accepted.await.map_err(|_| InferenceError::ShuttingDown)??;
        Ok(Answer { id, receiver, commands: self.commands.clone(), over: false })
    }

    /// Refuses new work, lets requests in flight finish for [`limits::DRAIN`], ends the runner.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(actor::Command::Shutdown { reply }).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// The pieces of one answer. Dropping it before the end cancels the request.
#[derive(Debug)]
pub struct Answer {
    id: u64,
    receiver: mpsc::Receiver<Piece>,
    commands: mpsc::Sender<actor::Command>,
    over: bool,
}

impl Answer {
    /// The next piece; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Piece> {
        if self.over {
            return None;
        }
        // A closed channel without a last piece means that the actor dropped the request.
        let piece = self.receiver.recv().await.unwrap_or(Piece::Failed(InferenceError::SlowClient));
        self.over = matches!(piece, Piece::Done { .. } | Piece::Embedded { .. } | Piece::Failed(_));
        Some(piece)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.over {
            // If the queue is full the actor notices the closed channel at the next token.
            let _ = self.commands.try_send(actor::Command::Cancel { id: self.id });
        }
    }
}
