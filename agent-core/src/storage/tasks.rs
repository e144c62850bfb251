//! Tables `tasks`, `task_events`, `task_attempts`: what was submitted here and what became of it,
//! and rows without words about tasks that were served or that somebody waited for.

mod list;
mod served;
mod steps;
#[cfg(test)]
mod tests;

use agent_api::{
    NodeId, TaskId,
    tasks::{Attempt, Placement, ScheduleId, Task, TaskEvent, TaskState},
};
pub use list::{
    Filter, QueuedTask, expired_tasks, lanes, list_tasks, living_tasks, next_expiry, queued_of,
    task_counts,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
pub use served::{DropServedResult, PruneServedResults, SaveServedResult, served_result};
use sqlx::{FromRow, SqlitePool};
pub use steps::{
    AddTask, Added, AttemptRow, EndQueued, NewTask, PruneTasks, SaveEndedTask, TaskStep, TaskSteps,
};

use super::StorageError;

/// Tasks that may wait at an origin. Each is a row of some kilobytes; 200,000 are two minutes of
/// the most that five nodes do.
pub const QUEUED_TASKS: i64 = 200_000;
/// Ended tasks that were submitted here and are kept, the newest.
pub const OWN_ENDED: i64 = 200_000;
/// Ended tasks of other nodes and of those who waited for them, which have no words: others make
/// them as they like, and must not push out what the owner submitted.
pub const OTHERS_ENDED: i64 = 20_000;
/// Events that one task shows.
const EVENTS: i64 = 200;

/// A task with what its origin needs besides the view.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    pub task: Task,
    pub need: i64,
    /// Only this node may do it.
    pub node: Option<String>,
    pub fence: u64,
    pub failures: u32,
    pub max_attempts: u32,
    pub wanted: u32,
    pub most: u32,
    pub replicas: Option<u8>,
    pub expires_ms: Option<i64>,
    /// JSON.
    pub webhook: Option<String>,
}

/// What is only read for one task.
#[derive(Clone, Debug, Default, FromRow)]
pub struct TaskWords {
    /// JSON of the submission, without its key and webhook.
    pub submitted: Option<String>,
    /// JSON.
    pub job: Option<String>,
    /// JSON.
    pub output: Option<String>,
}

const COLUMNS: &str = "id, role, interactive, kind, state, reason, priority, need, privacy, node, \
    label, subject, schedule, origin, origin_name, worker, worker_name, path, fence, attempts, \
    failures, max_attempts, wanted, most, replicas, created_ms, started_ms, ended_ms, expires_ms, \
    prompt_tokens, completion_tokens, tokens_per_s, first_token_ms, webhook";

#[derive(FromRow)]
struct Row {
    id: String,
    role: String,
    interactive: bool,
    kind: String,
    state: String,
    reason: String,
    priority: u8,
    need: i64,
    privacy: String,
    node: Option<String>,
    label: Option<String>,
    subject: Option<String>,
    schedule: Option<String>,
    origin: String,
    origin_name: String,
    worker: Option<String>,
    worker_name: Option<String>,
    path: Option<String>,
    fence: i64,
    attempts: u32,
    failures: u32,
    max_attempts: u32,
    wanted: u32,
    most: u32,
    replicas: Option<u8>,
    created_ms: i64,
    started_ms: Option<i64>,
    ended_ms: Option<i64>,
    expires_ms: Option<i64>,
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    tokens_per_s: Option<f32>,
    first_token_ms: Option<f64>,
    webhook: Option<String>,
}

impl Row {
    /// `None`: a newer version wrote a word that this one does not know.
    fn into_task(self) -> Option<TaskRow> {
        let task = Task {
            id: TaskId(self.id),
            kind: parse(&self.kind)?,
            state: parse(&self.state)?,
            reason: self.reason,
            role: parse(&self.role)?,
            interactive: self.interactive,
            label: self.label,
            subject: self.subject,
            privacy: parse(&self.privacy)?,
            priority: self.priority,
            origin: NodeId(self.origin),
            origin_name: self.origin_name,
            worker: self.worker.map(NodeId),
            worker_name: self.worker_name,
            path: self.path.as_deref().and_then(parse),
            created_ms: self.created_ms,
            started_ms: self.started_ms,
            ended_ms: self.ended_ms,
            attempts: self.attempts,
            queue_position: None,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            tokens_per_s: self.tokens_per_s,
            first_token_ms: self.first_token_ms,
            schedule: self.schedule.map(ScheduleId),
        };
        Some(TaskRow {
            task,
            need: self.need,
            node: self.node,
            fence: u64::try_from(self.fence).ok()?,
            failures: self.failures,
            max_attempts: self.max_attempts,
            wanted: self.wanted,
            most: self.most,
            replicas: self.replicas,
            expires_ms: self.expires_ms,
            webhook: self.webhook,
        })
    }
}

/// A unit variant as the word that JSON has for it, so that enums are written down once.
fn word<T: Serialize>(value: T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

/// A count that SQLite can hold.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// One task, if it is there.
pub async fn get_task(pool: &SqlitePool, id: &TaskId) -> Result<Option<TaskRow>, StorageError> {
    let row: Option<Row> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM tasks WHERE id = ?")))
            .bind(&id.0)
            .fetch_optional(pool)
            .await?;
    Ok(row.and_then(Row::into_task))
}

/// Its input, job and output.
pub async fn task_words(pool: &SqlitePool, id: &TaskId) -> Result<TaskWords, StorageError> {
    let words = sqlx::query_as("SELECT submitted, job, output FROM tasks WHERE id = ?")
        .bind(&id.0)
        .fetch_optional(pool)
        .await?;
    Ok(words.unwrap_or_default())
}

#[derive(FromRow)]
struct EventRow {
    at_ms: i64,
    state: String,
    attempt: u32,
    node: Option<String>,
    node_name: Option<String>,
    text: String,
}

/// The last transitions of a task, oldest first.
pub async fn task_events(pool: &SqlitePool, id: &TaskId) -> Result<Vec<TaskEvent>, StorageError> {
    let rows: Vec<EventRow> = sqlx::query_as(
        "SELECT at_ms, state, attempt, node, node_name, text FROM task_events WHERE task = ? \
         ORDER BY id DESC LIMIT ?",
    )
    .bind(&id.0)
    .bind(EVENTS)
    .fetch_all(pool)
    .await?;
    let events = rows.into_iter().rev().filter_map(|row| {
        Some(TaskEvent {
            at_ms: row.at_ms,
            state: parse::<TaskState>(&row.state)?,
            attempt: row.attempt,
            node: row.node.map(NodeId),
            node_name: row.node_name,
            text: row.text,
        })
    });
    Ok(events.collect())
}

#[derive(FromRow)]
struct TryRow {
    fence: i64,
    number: u32,
    node: String,
    node_name: String,
    path: Option<String>,
    begun_ms: i64,
    ended_ms: Option<i64>,
    outcome: Option<String>,
    reason: String,
    result: Option<String>,
    continued: Option<String>,
    continued_tokens: Option<u32>,
}

/// An attempt, and its result while that waits for comparison (JSON).
#[derive(Clone, Debug, PartialEq)]
pub struct KeptAttempt {
    pub attempt: Attempt,
    pub result: Option<String>,
    /// While it lives: see [`AttemptRow::continued`].
    pub continued: Option<(String, u32)>,
}

/// Attempts of a task, oldest first.
pub async fn task_attempts(
    pool: &SqlitePool,
    task: &Task,
) -> Result<Vec<KeptAttempt>, StorageError> {
    let rows: Vec<TryRow> = sqlx::query_as(
        "SELECT fence, number, node, node_name, path, begun_ms, ended_ms, outcome, reason, result, \
         continued, continued_tokens FROM task_attempts WHERE task = ? ORDER BY fence",
    )
    .bind(&task.id.0)
    .fetch_all(pool)
    .await?;
    let attempts = rows.into_iter().map(|row| KeptAttempt {
        attempt: Attempt {
            number: row.number,
            fence: u64::try_from(row.fence).unwrap_or(0),
            node: NodeId(row.node),
            node_name: row.node_name,
            role: task.role,
            path: row.path.as_deref().and_then(parse),
            begun_ms: row.begun_ms,
            ended_ms: row.ended_ms,
            outcome: row.outcome.as_deref().and_then(parse),
            reason: row.reason,
        },
        result: row.result,
        continued: row.continued.map(|text| (text, row.continued_tokens.unwrap_or(0))),
    });
    Ok(attempts.collect())
}

/// Why the newest attempt went where it went.
pub async fn task_placement(
    pool: &SqlitePool,
    id: &TaskId,
) -> Result<Option<Placement>, StorageError> {
    let json: Option<String> = sqlx::query_scalar(
        "SELECT placement FROM task_attempts WHERE task = ? AND placement IS NOT NULL \
         ORDER BY fence DESC LIMIT 1",
    )
    .bind(&id.0)
    .fetch_optional(pool)
    .await?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}
