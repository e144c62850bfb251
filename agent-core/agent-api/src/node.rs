//! The node's own state: what the Dashboard shows and what the tray polls.

use serde::{Deserialize, Serialize};

use crate::{NodeId, machine::Machine, models::ModelStatus};

/// Everything the Dashboard needs, in one reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    pub at_ms: i64,
    pub node: NodeInfo,
    pub serving: Serving,
    pub model: ModelStatus,
    pub speed: Speed,
    pub requests: Requests,
    pub machine: Machine,
    /// Things the owner should know; each stays until its cause is gone.
    pub notices: Vec<Notice>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeInfo {
    pub node_id: NodeId,
    pub name: String,
    pub version: String,
    pub data_dir: String,
    pub pid: u32,
    pub started_at_ms: i64,
    /// `http://127.0.0.1:4301`, where editors and scripts reach the node.
    pub url: String,
    /// True when other computers can reach the API.
    pub exposed: bool,
}

/// Whether the node works for others, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Serving {
    pub state: ServingState,
    /// A sentence for the owner: why this state, and what ends it.
    pub reason: String,
    /// When a timed pause ends.
    pub until_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServingState {
    Starting,
    /// A model is ready and nothing runs.
    Idle,
    /// At least one request is running.
    Serving,
    /// The owner paused the node. Requests of this computer still work.
    Paused,
    /// Something the owner needs is missing: no model, or the runner is down.
    Degraded,
    Stopping,
}

/// Generation speed over all requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Speed {
    /// Tokens generated in the last two seconds, per second.
    pub tokens_per_s: f64,
    /// Averages of ten seconds each, oldest first, at most 60 (ten minutes).
    pub history: Vec<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Requests {
    pub running: u32,
    pub queued: u32,
    /// How long the oldest queued request has waited.
    pub oldest_wait_ms: Option<u64>,
    /// Requests that may run at the same time with the loaded model; 0 without one.
    pub slots: u32,
    /// Since midnight UTC, kept across restarts.
    pub done_today: u64,
    pub failed_today: u64,
    pub tokens_today: u64,
}

/// Something that needs the owner's attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Notice {
    /// Stable name of the cause, for example `database_set_aside`.
    pub id: String,
    /// What happened, why, what to do.
    pub message: String,
}

/// Answer of `GET /health/runtime`: small, open on loopback, polled by the tray every 5 s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// False while starting or stopping.
    pub ok: bool,
    pub node_id: NodeId,
    pub version: String,
    pub serving: Serving,
    /// Id of the active model.
    pub model: Option<String>,
    pub running: u32,
    pub queued: u32,
    pub tokens_per_s: f64,
    pub uptime_ms: u64,
}

/// Body of `POST /orchestration/pause`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Resume by itself after this many seconds (at most 7 days); absent: until resumed.
    #[serde(default)]
    pub for_s: Option<u64>,
}

/// Query of `GET /logs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogQuery {
    /// Only lines after this sequence number.
    #[serde(default)]
    pub after: Option<u64>,
    /// At most this many, newest kept (default 200, at most 2,000).
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Answer of `GET /logs`, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLines {
    pub lines: Vec<LogLine>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    pub seq: u64,
    pub at_ms: i64,
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: String,
    pub target: String,
    pub message: String,
}

/// Query of `GET /activity`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ActivityQuery {
    /// At most this many, newest first (default 50, at most 500).
    #[serde(default)]
    pub limit: Option<u32>,
    /// Only lines with a smaller id: the next page.
    #[serde(default)]
    pub before: Option<i64>,
}

/// Answer of `GET /activity`, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ActivityList {
    pub items: Vec<crate::Activity>,
}
