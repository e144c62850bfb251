//! Schedules, which submit tasks by the clock, and webhooks, which tell of results.

use std::fmt;

use super::{Deserialize, Serialize, SubmitTask, TaskId};

/// `s_` and 26 characters, like a task's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ScheduleId(pub String);

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happens to runs that were due while the node was not running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MissedRuns {
    #[default]
    Skip,
    /// One run makes up for all of them.
    RunOnce,
}

/// Body of `POST /schedules`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewSchedule {
    /// 1 to 80 characters.
    pub name: String,
    /// Five fields, minute first: `*/5 * * * *`; or `@hourly`, `@daily`, …
    pub cron: String,
    /// Time zone name, `Europe/Berlin`; absent: this computer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Submitted at each run. In every text of it `{{time}}` is the planned time (RFC 3339, UTC)
    /// and `{{unix}}` the same in seconds; its idempotency key, if absent, is the schedule's id
    /// and that time. At most 128 KiB as JSON.
    pub task: SubmitTask,
    #[serde(default)]
    pub missed: MissedRuns,
    #[serde(default)]
    pub paused: bool,
}

/// A schedule as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Schedule {
    pub id: ScheduleId,
    pub name: String,
    pub cron: String,
    /// The cron expression in words.
    pub words: String,
    pub zone: String,
    pub task: SubmitTask,
    pub missed: MissedRuns,
    pub paused: bool,
    pub created_ms: i64,
    pub next_ms: Option<i64>,
    pub last_ms: Option<i64>,
    pub last_task: Option<TaskId>,
    /// Why the last run could not be submitted.
    pub problem: Option<String>,
}

/// Answer of `GET /schedules`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ScheduleList {
    pub schedules: Vec<Schedule>,
}

/// Path of what concerns one schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SchedulePathId {
    pub id: ScheduleId,
}

/// Body of `POST /schedules/{id}/pause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PauseSchedule {
    pub id: ScheduleId,
    pub paused: bool,
}

/// Where a result is posted as JSON ([`Delivered`]).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https://…`, or `http://` on this computer and network.
    pub url: String,
    /// Key of the HMAC-SHA-256 over the body, in the header `X-EdgeCoder-Signature:
    /// sha256=<hex>`. Never shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a webhook gets. The header `Idempotency-Key` is the delivery's id: it may come twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Delivered {
    pub task: super::Task,
    /// Left out above 4 MiB; `GET /tasks/{id}/output` has it.
    pub output: Option<super::Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Due, or waiting for its next attempt.
    Waiting,
    Delivered,
    /// Given up after its last attempt; kept until the owner tries again or removes it.
    Dead,
}

/// One result on its way to a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Delivery {
    pub id: String,
    pub task: TaskId,
    pub url: String,
    pub state: DeliveryState,
    pub attempts: u32,
    pub created_ms: i64,
    pub next_ms: Option<i64>,
    /// What the last attempt met.
    pub problem: Option<String>,
}

/// Query of `GET /outbox`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct OutboxQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<DeliveryState>,
}

/// Answer of `GET /outbox`: newest first, at most 200.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outbox {
    pub deliveries: Vec<Delivery>,
}

/// Path of what concerns one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeliveryPathId {
    pub id: String,
}
