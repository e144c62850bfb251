//! One task in full: its timeline, attempts, placement and output.

use super::{Deserialize, NodeId, Role, Serialize, Task, TaskId, TaskPath, TaskState, Value};

/// Answer of `GET /tasks/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskDetails {
    pub task: Task,
    /// Oldest first, at most the last 200.
    pub events: Vec<TaskEvent>,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// Of the newest attempt.
    pub placement: Option<Placement>,
    pub expires_ms: Option<i64>,
    /// The input as it was submitted (a module as its SHA-256); `None` for interactive and served
    /// tasks, whose words are not stored.
    pub input: Option<Value>,
    pub has_output: bool,
}

/// Answer of `GET /tasks/{id}/events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskEvents {
    pub events: Vec<TaskEvent>,
}

/// A transition: a row of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskEvent {
    pub at_ms: i64,
    pub state: TaskState,
    /// 0: before the first.
    pub attempt: u32,
    pub node: Option<NodeId>,
    pub node_name: Option<String>,
    /// What happened, for people.
    pub text: String,
}

/// One try on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Attempt {
    /// From 1. Replicas of one task share a number.
    pub number: u32,
    /// Grows with every lease of the task; a result under another one is refused.
    pub fence: u64,
    pub node: NodeId,
    pub node_name: String,
    pub role: Role,
    pub path: Option<TaskPath>,
    pub begun_ms: i64,
    pub ended_ms: Option<i64>,
    pub outcome: Option<AttemptOutcome>,
    /// Why it ended so.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    Done,
    /// The node said no before it began.
    Refused,
    /// The node did not answer, or the lease ran out.
    Lost,
    /// The node said that it failed.
    Failed,
    Cancelled,
    /// Its result differs from the majority's.
    Disagreed,
}

/// Answer of `GET /tasks/{id}/placement`: why this node, and why not the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Placement {
    pub at_ms: i64,
    /// A sentence about the choice.
    pub summary: String,
    /// Best first, at most 20.
    pub candidates: Vec<Candidate>,
    /// Nodes that could not do it, at most 20.
    pub excluded: Vec<Excluded>,
    /// How many there were that are not listed.
    pub more_excluded: u32,
}

/// A node that could do it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Candidate {
    pub node: NodeId,
    pub name: String,
    pub chosen: bool,
    /// It was asked and said no, with this reason.
    pub refused: Option<String>,
    /// Estimated milliseconds until the task is done there, the sum of `parts`. The lowest is
    /// chosen, but this computer goes first while it has the model in memory and a free slot.
    pub cost_ms: f64,
    /// What the estimate is made of.
    pub parts: Vec<CostPart>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CostPart {
    /// For people: `waiting`, `loading the model`, `writing 256 tokens`, `the way there`.
    pub what: String,
    pub ms: f64,
}

/// A node that could not do it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Excluded {
    pub node: NodeId,
    pub name: String,
    pub reason: String,
}

/// Answer of `GET /tasks/{id}/output`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskOutput {
    pub id: TaskId,
    pub state: TaskState,
    /// By kind; see `TaskKind`. `None` until it is done.
    pub output: Option<Value>,
    /// Text so far, while it runs.
    pub partial: Option<String>,
}

/// A line of `GET /tasks/{id}/follow` (newline-delimited JSON): the task as it is first, then what
/// happens to it until it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TaskNews {
    Task {
        task: Box<Task>,
    },
    Event {
        event: TaskEvent,
    },
    /// More of the answer.
    Text {
        text: String,
    },
    /// What was told of the answer does not count: another node begins it again.
    Restart {},
    /// The last line.
    End {
        output: Box<TaskOutput>,
    },
}
