//! The owner's settings of tasks, and what `/orchestration` tells and takes.

use std::collections::BTreeMap;

use super::{Deserialize, NodeId, Privacy, Serialize, TaskCounts, TaskKind};

/// Field `tasks` of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TaskSettings {
    /// Do work for other nodes of the mesh.
    pub accept: bool,
    /// Kinds of it.
    pub kinds: Vec<TaskKind>,
    /// Other nodes' tasks at the same time; absent: one less than the models have slots, so that one
    /// is left for the owner, and half of the processor's cores for `wasm` and `code`.
    pub concurrency: Option<u32>,
    /// Other nodes' tasks that may wait here, 0 to 1,000.
    pub waiting: u32,
    /// Of one node, waiting and running, 1 to 1,000.
    pub per_peer: u32,
    /// Shares of nodes while several wait, 1 to 100; others have 10.
    pub weights: BTreeMap<NodeId, u32>,
    /// For the owner's own requests that do not say.
    pub privacy: Privacy,
    /// Days for which ended tasks and their outputs are kept, 1 to 365.
    pub keep_days: u32,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            accept: true,
            kinds: TaskKind::ALL.to_vec(),
            concurrency: None,
            waiting: 64,
            per_peer: 32,
            weights: BTreeMap::new(),
            privacy: Privacy::Mesh,
            keep_days: 7,
        }
    }
}

/// Field `tasks` of a settings patch: only what changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TaskSettingsPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<TaskKind>>,
    /// 0 goes back to automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_peer: Option<u32>,
    /// Replaces all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<BTreeMap<NodeId, u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
}

/// Answer of `GET /orchestration/status`: this node as a coordinator of its own tasks and as a
/// worker of others'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Orchestration {
    /// No task is started any more; those that run go on.
    pub draining: bool,
    pub counts: TaskCounts,
    /// Other nodes' tasks that may run here at the same time.
    pub concurrency: u32,
    pub served_running: u32,
    pub served_waiting: u32,
    /// Whether this computer can run `wasm` and `code`, and if not, why.
    pub kinds: Vec<KindAbility>,
    /// Nodes that work was shared with, by what is thought of them.
    pub workers: Vec<Worker>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KindAbility {
    pub kind: TaskKind,
    pub able: bool,
    /// How it is contained, or why it cannot be.
    pub reason: String,
}

/// What this node's own experience says of another. Never gossiped: nobody's word counts about
/// somebody else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Worker {
    pub node: NodeId,
    pub name: String,
    /// 0 (avoid) to 1; forgets half of the past in a week.
    pub reputation: f64,
    pub done: u64,
    pub failed: u64,
    pub agreed: u64,
    pub disagreed: u64,
    /// Agreements since the last disagreement; from ten on results are checked less often.
    pub agreed_in_a_row: u32,
    /// The last thing that counted against it.
    pub problem: Option<String>,
}

/// Body of `POST /orchestration/concurrency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetConcurrency {
    /// 1 to 256; absent: automatic.
    #[serde(default)]
    pub concurrency: Option<u32>,
}

/// Body of `POST /orchestration/drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Drain {
    pub on: bool,
}
