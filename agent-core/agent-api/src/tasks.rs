//! Tasks: pieces of work that some node of the mesh does for another, or for its own owner.
//!
//! A node has two roles: it is the **origin** of tasks that were submitted to it, and the
//! **worker** of tasks that others (or itself) placed on it. Both are listed, see [`Role`].

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{NodeId, mesh::PathKind};

mod code;
mod details;
mod inference;
mod schedule;
mod settings;
mod wasm;

pub use code::*;
pub use details::*;
pub use inference::*;
pub use schedule::*;
pub use settings::*;
pub use wasm::*;

/// `t_` and 26 lower-case characters of a ULID: sorts by time of submission, unique over the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct TaskId(pub String);

impl TaskId {
    /// `t_` and the last six characters: enough to tell tasks apart in a list.
    pub fn fmt_short(&self) -> String {
        let tail = self.0.len().saturating_sub(6);
        format!("t_{}", self.0.get(tail..).unwrap_or(&self.0))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is to be done. Each kind has its own versioned input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// [`ChatInput`], [`TextOutput`].
    Chat,
    /// [`CompletionInput`], [`TextOutput`].
    Completion,
    /// [`EmbeddingInput`], [`EmbeddingOutput`].
    Embedding,
    /// [`WasmInput`], [`WasmOutput`]: metered and deterministic.
    Wasm,
    /// [`CodeInput`], [`CodeOutput`]: plan, write, run the tests in the sandbox, try again.
    Code,
}

impl TaskKind {
    pub const ALL: [Self; 5] =
        [Self::Chat, Self::Completion, Self::Embedding, Self::Wasm, Self::Code];

    /// The word used in JSON and by the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
            Self::Wasm => "wasm",
            Self::Code => "code",
        }
    }
}

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a node.
    Queued,
    /// A node was chosen and is being asked.
    Placed,
    /// The node took it and waits for a free place there.
    Leased,
    /// It is being done.
    Running,
    /// It was done; another node's result is awaited for comparison.
    Verifying,
    Done,
    Failed,
    Cancelled,
    /// Nobody did it in the time it was given.
    Expired,
}

impl TaskState {
    /// Nothing follows but a retry, which is a new task.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The word used in JSON, in the database and by the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Placed => "placed",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Verifying => "verifying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Who may see a task's input. A prompt is sent to the node that runs it and to nobody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Privacy {
    /// This computer only.
    ThisNode,
    /// Nodes that the owner marked as their own.
    MyNodes,
    /// Also nodes of owners that the owner marked as trusted.
    Trusted,
    /// Any node of the mesh.
    #[default]
    Mesh,
}

/// What this node has to do with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It was submitted here.
    Asked,
    /// Another node's task that ran, or runs, here.
    Served,
}

/// How far a task travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskPath {
    /// It ran where it was submitted.
    Local,
    Lan,
    Direct,
    Relay,
}

impl From<PathKind> for TaskPath {
    fn from(path: PathKind) -> Self {
        match path {
            PathKind::Lan => Self::Lan,
            PathKind::Direct => Self::Direct,
            PathKind::Relay => Self::Relay,
        }
    }
}

/// Body of `POST /tasks` and `POST /submit`. The header `Idempotency-Key` may stand in for the
/// field of that name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SubmitTask {
    pub kind: TaskKind,
    /// By kind: [`ChatInput`], [`CompletionInput`], [`EmbeddingInput`], [`WasmInput`],
    /// [`CodeInput`].
    pub input: Value,
    /// Absent: the settings'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// 0 (last) to 9 (first); absent: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Only this node may do it: its id, or the name by which the mesh knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// At most 200 bytes. The same key with the same body gives the same task; with another body
    /// it is a conflict. Kept as long as the task is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Seconds until it expires if it is not done, at most 30 days; absent: 1 day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
    /// Tries on nodes before it fails, 1 to 10; absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u8>,
    /// `wasm` only: this many nodes (2 to 5) must do it and more than half of them agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u8>,
    /// For people, at most 80 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Where the result is posted when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// Answer of `POST /tasks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Submitted {
    pub id: TaskId,
    pub state: TaskState,
    /// The key was used before with the same body: this is that task.
    pub repeated: bool,
}

/// Path of what concerns one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskPathId {
    pub id: TaskId,
}

/// Query of `GET /tasks`. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TaskQuery {
    /// A state, or `active` (placed, leased, running, verifying), or `ended` (all final ones).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<TaskKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Part of an id, label, model or node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// 1 to 500; absent: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only tasks before this one: [`TaskList::next`] of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<TaskId>,
}

/// Answer of `GET /tasks`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskList {
    pub tasks: Vec<Task>,
    /// Of the next page; absent: that was all.
    pub next: Option<TaskId>,
    pub counts: TaskCounts,
}

/// Over all tasks that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskCounts {
    pub queued: u32,
    /// Placed, leased, running or verifying.
    pub active: u32,
    /// Ended today (UTC).
    pub done_today: u32,
    pub failed_today: u32,
    /// Ended, as long as they are kept.
    pub done: u32,
    /// Failed and expired.
    pub failed: u32,
    pub cancelled: u32,
}

/// One task, as a row of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Task {
    pub id: TaskId,
    pub kind: TaskKind,
    pub state: TaskState,
    /// A sentence: why it is in this state, and what ends it.
    pub reason: String,
    pub role: Role,
    /// It came through the OpenAI or Ollama endpoints and its client waits. Such a task is not
    /// kept over a restart, and its words are never stored.
    pub interactive: bool,
    pub label: Option<String>,
    /// Model, or name of the module.
    pub subject: Option<String>,
    pub privacy: Privacy,
    pub priority: u8,
    pub origin: NodeId,
    pub origin_name: String,
    /// The node that does it, or did it last.
    pub worker: Option<NodeId>,
    pub worker_name: Option<String>,
    pub path: Option<TaskPath>,
    pub created_ms: i64,
    /// When the last attempt began to run.
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    /// Tries so far.
    pub attempts: u32,
    /// 1 is next; while it waits at the origin or at the worker.
    pub queue_position: Option<u32>,
    /// As counted by this node, not by the worker's word.
    pub prompt_tokens: Option<u32>,
    pub completion_tokens: Option<u32>,
    pub tokens_per_s: Option<f32>,
    /// From the submission to the first token, milliseconds.
    pub first_token_ms: Option<f64>,
    pub schedule: Option<ScheduleId>,
}
