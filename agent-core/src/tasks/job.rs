//! Work as a worker takes it, and what comes back while it is done: the same for a job that runs
//! here and for one that runs on a peer.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use agent_api::{
    TaskId,
    runner::{FinishReason, Generate, TextInput, Timings, Usage},
    tasks::{CodeInput, CodeOutput, TaskKind, TaskPath},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use crate::{
    inference::{
        Answer, InferenceError, InferenceState, Piece, SubmitOptions, Work, left_out::LeftOut,
        tools::ToolFormat,
    },
    mesh::NodeKey,
    models::{ModelFile, library::Defaults},
    storage::{ModelUse, RequestKind},
};

/// Checked and complete. Nothing in it that the worker does not need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Job {
    Chat(GenerateJob),
    Completion(GenerateJob),
    Embedding { model: String, inputs: Vec<TextInput> },
    Wasm(WasmJob),
    Code(CodeInput),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateJob {
    pub model: String,
    pub generate: Box<Generate>,
    /// At least this context; Ollama's `num_ctx`.
    pub context: Option<u32>,
    /// Where the model's own choice counts.
    #[serde(default)]
    pub left_out: LeftOut,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WasmJob {
    /// SHA-256 of the module, hexadecimal; its bytes are in [`super::modules`].
    pub module: String,
    pub name: Option<String>,
    /// Base64.
    pub input: String,
    pub fuel: u64,
    pub memory_bytes: u64,
    pub wall_ms: u64,
}

impl Job {
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Chat(_) => TaskKind::Chat,
            Self::Completion(_) => TaskKind::Completion,
            Self::Embedding { .. } => TaskKind::Embedding,
            Self::Wasm(_) => TaskKind::Wasm,
            Self::Code(_) => TaskKind::Code,
        }
    }

    /// The model it needs, if any.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Chat(job) | Self::Completion(job) => Some(&job.model),
            Self::Embedding { model, .. } => Some(model),
            Self::Code(input) => Some(&input.model),
            Self::Wasm(_) => None,
        }
    }

    /// Model or name of the module, for people.
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Wasm(job) => job.name.clone().or_else(|| job.module.get(..8).map(str::to_owned)),
            _ => self.model().map(ToOwned::to_owned),
        }
    }
}

/// A job on its way to the node that is to do it.
#[derive(Clone, Debug)]
pub struct Offer {
    pub task: TaskId,
    pub attempt: u32,
    /// A result under another fence is refused. 0: somebody waits for the answer and nothing of it
    /// is kept anywhere, so that it cannot be attached to again.
    pub fence: u64,
    pub job: Job,
    /// 0 (last) to 9 (first), among jobs of the same node.
    pub priority: u8,
    /// The worker forgets it when it was not renewed for this long.
    pub lease: Duration,
}

/// What comes back, in this order: any number of `Waiting`, `Running`, any number of the middle
/// ones, `Result`. An `Err` is the last.
#[derive(Clone, Debug)]
pub enum JobPiece {
    /// The worker took it; it waits there. 1 is next.
    Waiting {
        position: u32,
        reason: String,
    },
    Running,
    /// The prompt was read.
    Started {
        usage: Usage,
    },
    Text {
        text: String,
        logprobs: Vec<agent_api::runner::TokenLogprob>,
    },
    /// Progress of a `code` job, for people.
    Note {
        text: String,
    },
    Result(Box<JobResult>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobResult {
    /// The text came before. `usage` is the worker's word.
    Text {
        finish: FinishReason,
        usage: Usage,
        timings: Timings,
    },
    Embedded {
        vectors: Vec<Vec<f32>>,
        prompt_tokens: u32,
    },
    /// `output` is base64.
    Wasm {
        output: String,
        fuel_used: u64,
    },
    Code {
        output: CodeOutput,
    },
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum JobError {
    /// Before it began: full, paused, model gone. Another node may take it.
    #[error("{reason}")]
    Refused { reason: String, retry_after: Option<Duration> },
    /// The node or the way to it is gone, or the lease ran out. Another node may take it.
    #[error("{0}")]
    Lost(String),
    /// It would fail elsewhere too: the request is wrong, the module traps.
    #[error("{0}")]
    Failed(String),
    /// The prompt does not fit into the context there, which is nobody's fault. A node that has more
    /// of it can do it.
    #[error("{0}")]
    TooLong(String),
    /// It failed there, and may work elsewhere: the runner died, memory ran out.
    #[error("{0}")]
    Broke(String),
    /// The worker broke the protocol or its limits: too much, somebody else's result, nonsense.
    #[error("{0}")]
    Misbehaved(String),
    #[error("cancelled")]
    Cancelled,
}

/// Pieces that wait for their reader. The sender then waits too: back-pressure down to the runner.
pub const JOB_PIECES: usize = 64;

/// A job that was begun. Dropping it cancels the job; dropping it after its result was taken out
/// tells a worker elsewhere that the result is safe (written down) and may be forgotten there.
#[derive(Debug)]
pub struct JobStream {
    pub pieces: mpsc::Receiver<Result<JobPiece, JobError>>,
    /// How it travels.
    pub path: TaskPath,
    /// Cancels when dropped.
    pub cancel: DropGuard,
}

/// A boxed future that may go to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What this node has to offer, as the node last looked.
#[derive(Clone, Debug, Default)]
pub struct Own {
    pub inference: InferenceState,
    pub files: Arc<[ModelFile]>,
    pub uses: Arc<HashMap<String, ModelUse>>,
    /// Kinds of tasks that this computer can do.
    pub able: Arc<[TaskKind]>,
}

/// What tasks need of the node around them.
pub trait Host: std::fmt::Debug + Send + Sync + 'static {
    /// Queues work for a model of this node; an empty name means the active one. Never leaves it.
    fn infer(
        &self,
        kind: RequestKind,
        model: String,
        work: Work,
        options: SubmitOptions,
    ) -> BoxFuture<'_, Result<Answer, InferenceError>>;
    /// The id of the model that a name means here; an empty name means the active one.
    fn model_here(&self, name: String) -> BoxFuture<'_, Option<String>>;
    /// What a model of this node brings along for requests that leave things open.
    fn defaults(&self, _model: String) -> BoxFuture<'_, Arc<Defaults>> {
        Box::pin(async { Arc::default() })
    }
    /// For placement.
    fn own(&self) -> Own {
        Own::default()
    }
    /// Why other nodes' work is not taken now; `None`: it is.
    fn closed(&self) -> Option<String>;
    /// Writes a line into the activity feed.
    fn tell(&self, text: String);
    /// Requests that the models of this node may answer at the same time, 1 or more.
    fn slots(&self) -> u32 {
        1
    }
    /// How a model of this node writes tool calls; `None`: it cannot. May load it.
    fn tool_format(
        &self,
        _model: String,
    ) -> BoxFuture<'_, Result<Option<ToolFormat>, InferenceError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// Shared by origin, worker and router.
pub type SharedHost = Arc<dyn Host>;

/// How an inference error looks to whoever asked for the job.
impl From<InferenceError> for JobError {
    fn from(error: InferenceError) -> Self {
        let text = error.to_string();
        match error {
            InferenceError::BadRequest(_) => Self::Failed(text),
            // Another node may have loaded it with a larger one.
            InferenceError::ContextOverflow(_) => Self::TooLong(text),
            InferenceError::NoModel
            | InferenceError::NotActive { .. }
            | InferenceError::NoSuchModel(_)
            | InferenceError::OnlyElsewhere { .. }
            | InferenceError::NotThere(_)
            | InferenceError::QueueFull
            | InferenceError::Unavailable(_)
            | InferenceError::Stopped
            | InferenceError::ShuttingDown => Self::Refused { reason: text, retry_after: None },
            InferenceError::RunnerLost | InferenceError::Engine(_) | InferenceError::SlowClient => {
                Self::Broke(text)
            }
        }
    }
}

/// An inference piece as a piece of a job.
pub fn from_piece(piece: Piece) -> Result<JobPiece, JobError> {
    Ok(match piece {
        Piece::Started { usage } => JobPiece::Started { usage },
        Piece::Text { text, logprobs } => JobPiece::Text { text, logprobs },
        Piece::Done { finish, usage, timings } => {
            JobPiece::Result(Box::new(JobResult::Text { finish, usage, timings }))
        }
        Piece::Embedded { vectors, prompt_tokens } => {
            JobPiece::Result(Box::new(JobResult::Embedded { vectors, prompt_tokens }))
        }
        Piece::Failed(error) => return Err(error.into()),
    })
}

/// Whose work it is, for fairness: the node that asked.
pub type Account = NodeKey;
