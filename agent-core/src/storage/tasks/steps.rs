//! Writes: each is one step of a task, with everything that belongs to it.

use agent_api::{
    NodeId, TaskId,
    tasks::{AttemptOutcome, Placement, Role, Task, TaskEvent, TaskPath, TaskState, Webhook},
};
use serde_json::{Value, json};
use sqlx::{FromRow, sqlite::SqliteConnection};

use super::{COLUMNS, QUEUED_TASKS, Row, TaskRow, parse, whole, word};
use crate::storage::{NewDelivery, Write, enqueue};

/// A submission that was checked.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub row: TaskRow,
    pub idempotency_key: Option<String>,
    /// SHA-256 of the canonical body.
    pub body_hash: [u8; 32],
    /// JSON.
    pub submitted: String,
    /// JSON.
    pub job: String,
    pub event: TaskEvent,
}

/// Adds a task, unless its key was used before.
#[derive(Debug)]
pub struct AddTask(pub Box<NewTask>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// The key was used before with the same body.
    Repeated(TaskId, TaskState),
    /// The key was used before with another body, for this task.
    Conflict(TaskId),
    /// [`QUEUED_TASKS`] wait already.
    Full,
}

impl Write for AddTask {
    type Output = Added;

    async fn run(self, connection: &mut SqliteConnection) -> Result<Added, sqlx::Error> {
        let new = *self.0;
        if let Some(key) = &new.idempotency_key {
            let known: Option<(String, String, Vec<u8>)> =
                sqlx::query_as("SELECT id, state, body_hash FROM tasks WHERE idempotency_key = ?")
                    .bind(key)
                    .fetch_optional(&mut *connection)
                    .await?;
            if let Some((id, state, hash)) = known {
                let id = TaskId(id);
                let state = parse(&state).filter(|_| hash == new.body_hash);
                return Ok(match state {
                    Some(state) => Added::Repeated(id, state),
                    None => Added::Conflict(id),
                });
            }
        }
        let queued: i64 = sqlx::query_scalar("SELECT n FROM task_counts WHERE state = 'queued'")
            .fetch_one(&mut *connection)
            .await?;
        if queued >= QUEUED_TASKS {
            return Ok(Added::Full);
        }
        let words = Words {
            key: new.idempotency_key,
            hash: Some(new.body_hash.to_vec()),
            submitted: Some(new.submitted),
            job: Some(new.job),
        };
        insert(connection, &new.row, words).await?;
        add_events(connection, &new.row.task.id, std::slice::from_ref(&new.event)).await?;
        Ok(Added::New)
    }
}

#[derive(Default)]
struct Words {
    key: Option<String>,
    hash: Option<Vec<u8>>,
    submitted: Option<String>,
    job: Option<String>,
}

/// `false`: there is a task of that id already.
async fn insert(
    connection: &mut SqliteConnection,
    row: &TaskRow,
    words: Words,
) -> Result<bool, sqlx::Error> {
    let task = &row.task;
    let done = sqlx::query(
        "INSERT INTO tasks (id, role, interactive, kind, state, reason, priority, need, privacy, \
         node, label, subject, schedule, idempotency_key, body_hash, origin, origin_name, worker, \
         worker_name, path, fence, attempts, failures, max_attempts, wanted, most, replicas, \
         created_ms, started_ms, ended_ms, expires_ms, prompt_tokens, completion_tokens, \
         tokens_per_s, first_token_ms, webhook, submitted, job) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, \
         ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(&task.id.0)
    .bind(word(task.role))
    .bind(task.interactive)
    .bind(task.kind.as_str())
    .bind(task.state.as_str())
    .bind(&task.reason)
    .bind(task.priority)
    .bind(row.need)
    .bind(word(task.privacy))
    .bind(&row.node)
    .bind(&task.label)
    .bind(&task.subject)
    .bind(task.schedule.as_ref().map(|id| &id.0))
    .bind(words.key)
    .bind(words.hash)
    .bind(&task.origin.0)
    .bind(&task.origin_name)
    .bind(task.worker.as_ref().map(|id| &id.0))
    .bind(&task.worker_name)
    .bind(task.path.map(word))
    .bind(whole(row.fence))
    .bind(task.attempts)
    .bind(row.failures)
    .bind(row.max_attempts)
    .bind(row.wanted)
    .bind(row.most)
    .bind(row.replicas)
    .bind(task.created_ms)
    .bind(task.started_ms)
    .bind(task.ended_ms)
    .bind(row.expires_ms)
    .bind(task.prompt_tokens)
    .bind(task.completion_tokens)
    .bind(task.tokens_per_s)
    .bind(task.first_token_ms)
    .bind(&row.webhook)
    .bind(words.submitted)
    .bind(words.job)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// All of them in one statement.
async fn add_events(
    connection: &mut SqliteConnection,
    task: &TaskId,
    events: &[TaskEvent],
) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    let rows = events.iter().map(|e| {
        let node = e.node.as_ref().map(|node| &node.0);
        json!([e.at_ms, e.state.as_str(), e.attempt, node, e.node_name, e.text])
    });
    sqlx::query(
        "INSERT INTO task_events (task, at_ms, state, attempt, node, node_name, text) \
         SELECT ?, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 \
         FROM json_each(?)",
    )
    .bind(&task.0)
    .bind(Value::Array(rows.collect()).to_string())
    .execute(connection)
    .await
    .map(|_| ())
}

/// An attempt as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    pub fence: u64,
    pub number: u32,
    pub node: NodeId,
    pub node_name: String,
    pub path: Option<TaskPath>,
    pub begun_ms: i64,
    pub ended_ms: Option<i64>,
    pub outcome: Option<AttemptOutcome>,
    pub reason: String,
    /// Of a new attempt; the older ones' are forgotten.
    pub placement: Option<Placement>,
    /// JSON, while it waits for comparison.
    pub result: Option<String>,
    /// Text of nodes that were lost, which this one goes on from, and its tokens. Of a new attempt;
    /// kept until it ends.
    pub continued: Option<(String, u32)>,
}

/// One step of a task that was submitted here: its row as it is from now on, what happened, and
/// the attempts that changed. Ends a task at most once: the answer is `false`, and nothing is
/// written, if it had ended before or another fence was handed out since.
#[derive(Clone, Debug)]
pub struct TaskStep {
    pub row: TaskRow,
    pub events: Vec<TaskEvent>,
    pub attempts: Vec<AttemptRow>,
    /// JSON.
    pub output: Option<String>,
    /// What its webhook is to get, when it ends.
    pub delivery: Option<(Webhook, String)>,
}

impl Write for TaskStep {
    type Output = bool;

    async fn run(self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        write_step(connection, &self).await
    }
}

/// Several of them in one go.
#[derive(Clone, Debug)]
pub struct TaskSteps(pub Vec<TaskStep>);

impl Write for TaskSteps {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        for step in &self.0 {
            write_step(connection, step).await?;
        }
        Ok(())
    }
}

/// Events of one task before the oldest go.
const EVENTS_KEPT: i64 = 400;
/// From so many attempts on a task's events and attempts are thinned out.
const MANY_ATTEMPTS: u32 = 50;

async fn write_step(
    connection: &mut SqliteConnection,
    step: &TaskStep,
) -> Result<bool, sqlx::Error> {
    let TaskStep { row, events, attempts, output, delivery } = step;
    let task = &row.task;
    let done = sqlx::query(
        "UPDATE tasks SET state = ?, reason = ?, worker = ?, worker_name = ?, path = ?, \
         fence = ?, attempts = ?, failures = ?, wanted = ?, most = ?, started_ms = ?, \
         ended_ms = ?, prompt_tokens = ?, completion_tokens = ?, tokens_per_s = ?, \
         first_token_ms = ?, output = coalesce(?, output) \
         WHERE id = ? AND ended_ms IS NULL AND fence <= ?",
    )
    .bind(task.state.as_str())
    .bind(&task.reason)
    .bind(task.worker.as_ref().map(|id| &id.0))
    .bind(&task.worker_name)
    .bind(task.path.map(word))
    .bind(whole(row.fence))
    .bind(task.attempts)
    .bind(row.failures)
    .bind(row.wanted)
    .bind(row.most)
    .bind(task.started_ms)
    .bind(task.ended_ms)
    .bind(task.prompt_tokens)
    .bind(task.completion_tokens)
    .bind(task.tokens_per_s)
    .bind(task.first_token_ms)
    .bind(output)
    .bind(&task.id.0)
    .bind(whole(row.fence))
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    add_events(connection, &task.id, events).await?;
    for attempt in attempts {
        save_attempt(connection, &task.id, attempt).await?;
    }
    if let (Some((webhook, body)), Some(now_ms)) = (delivery, task.ended_ms) {
        let delivery = NewDelivery { task: &task.id, webhook, body, now_ms };
        enqueue(&mut *connection, delivery).await?;
    }
    if row.fence > u64::from(MANY_ATTEMPTS) && attempts.iter().any(|a| a.placement.is_some()) {
        thin_out(connection, &task.id).await?;
    }
    Ok(true)
}

async fn save_attempt(
    connection: &mut SqliteConnection,
    task: &TaskId,
    attempt: &AttemptRow,
) -> Result<(), sqlx::Error> {
    let placement =
        attempt.placement.as_ref().map(|p| serde_json::to_string(p).unwrap_or_default());
    if placement.is_some() && attempt.number > 1 {
        sqlx::query("UPDATE task_attempts SET placement = NULL WHERE task = ? AND fence < ?")
            .bind(&task.0)
            .bind(whole(attempt.fence))
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(
        "INSERT INTO task_attempts (task, fence, number, node, node_name, path, begun_ms, \
         ended_ms, outcome, reason, placement, result, continued, continued_tokens) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (task, fence) DO UPDATE SET path = coalesce(excluded.path, path), \
         ended_ms = excluded.ended_ms, outcome = excluded.outcome, reason = excluded.reason, \
         result = excluded.result, \
         continued = iif(excluded.ended_ms IS NULL, coalesce(excluded.continued, continued), NULL), \
         continued_tokens = coalesce(excluded.continued_tokens, continued_tokens)",
    )
    .bind(&task.0)
    .bind(whole(attempt.fence))
    .bind(attempt.number)
    .bind(&attempt.node.0)
    .bind(&attempt.node_name)
    .bind(attempt.path.map(word))
    .bind(attempt.begun_ms)
    .bind(attempt.ended_ms)
    .bind(attempt.outcome.map(word))
    .bind(&attempt.reason)
    .bind(placement)
    .bind(&attempt.result)
    .bind(attempt.continued.as_ref().map(|(text, _)| text))
    .bind(attempt.continued.as_ref().map(|(_, tokens)| *tokens))
    .execute(connection)
    .await
    .map(|_| ())
}

/// A task that is refused everywhere for a day leaves a bounded trace.
async fn thin_out(connection: &mut SqliteConnection, task: &TaskId) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM task_events WHERE id IN (SELECT id FROM task_events WHERE task = ? \
         ORDER BY id DESC LIMIT -1 OFFSET ?)",
    )
    .bind(&task.0)
    .bind(EVENTS_KEPT)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM task_attempts WHERE task = ? AND ended_ms IS NOT NULL AND result IS NULL \
         AND fence <= (SELECT max(fence) FROM task_attempts WHERE task = ?) - ?",
    )
    .bind(&task.0)
    .bind(&task.0)
    .bind(MANY_ATTEMPTS)
    .execute(connection)
    .await
    .map(|_| ())
}

/// Ends tasks that wait and that no node was asked for: cancelled or expired.
#[derive(Clone, Debug)]
pub struct EndQueued {
    pub ids: Vec<TaskId>,
    pub state: TaskState,
    pub reason: String,
    pub now_ms: i64,
    /// What a webhook is to get.
    pub body: fn(&Task) -> String,
}

impl Write for EndQueued {
    /// Those that it ended.
    type Output = Vec<TaskId>;

    async fn run(self, connection: &mut SqliteConnection) -> Result<Vec<TaskId>, sqlx::Error> {
        let mut ended = Vec::new();
        for id in self.ids {
            let attempts: Option<u32> = sqlx::query_scalar(
                "UPDATE tasks SET state = ?, reason = ?, ended_ms = ? \
                 WHERE id = ? AND ended_ms IS NULL RETURNING attempts",
            )
            .bind(self.state.as_str())
            .bind(&self.reason)
            .bind(self.now_ms)
            .bind(&id.0)
            .fetch_optional(&mut *connection)
            .await?;
            let Some(attempt) = attempts else { continue };
            let event = TaskEvent {
                at_ms: self.now_ms,
                state: self.state,
                attempt,
                node: None,
                node_name: None,
                text: self.reason.clone(),
            };
            add_events(connection, &id, &[event]).await?;
            deliver(connection, &id, self.now_ms, self.body).await?;
            ended.push(id);
        }
        Ok(ended)
    }
}

/// Tells the webhook of a task without a result, if it has one.
async fn deliver(
    connection: &mut SqliteConnection,
    id: &TaskId,
    now_ms: i64,
    body: fn(&Task) -> String,
) -> Result<(), sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM tasks WHERE id = ? AND webhook IS NOT NULL"
    )))
    .bind(&id.0)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row.and_then(Row::into_task) else { return Ok(()) };
    let webhook = row.webhook.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let Some(webhook) = webhook else { return Ok(()) };
    let body = body(&row.task);
    enqueue(connection, NewDelivery { task: id, webhook: &webhook, body: &body, now_ms }).await
}

/// A task that ended and whose words are nowhere: one that somebody waited for, or another node's.
/// Another node chose the id of the latter; it never takes the place of a row that is there.
#[derive(Clone, Debug)]
pub struct SaveEndedTask {
    pub task: Box<Task>,
    /// Why it was where it was.
    pub placement: Option<Placement>,
}

impl Write for SaveEndedTask {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let Self { task, placement } = self;
        let task = *task;
        if !task.state.is_final() || (task.role == Role::Asked && !task.interactive) {
            return Ok(());
        }
        let row = TaskRow {
            need: 0,
            node: None,
            fence: 0,
            failures: 0,
            max_attempts: 1,
            wanted: 1,
            most: 1,
            replicas: None,
            expires_ms: None,
            webhook: None,
            task,
        };
        let is_new = insert(connection, &row, Words::default()).await?;
        match only_attempt(row.task, placement).filter(|_| is_new) {
            Some((task, attempt)) => save_attempt(connection, &task, &attempt).await,
            None => Ok(()),
        }
    }
}

/// What is known of the node that did a request of this node's own.
fn only_attempt(task: Task, placement: Option<Placement>) -> Option<(TaskId, AttemptRow)> {
    let outcome = match task.state {
        TaskState::Done => AttemptOutcome::Done,
        TaskState::Failed => AttemptOutcome::Failed,
        _ => AttemptOutcome::Cancelled,
    };
    let attempt = AttemptRow {
        fence: 1,
        number: task.attempts,
        node: task.worker?,
        node_name: task.worker_name.unwrap_or_default(),
        path: task.path,
        begun_ms: task.created_ms,
        ended_ms: task.ended_ms,
        outcome: Some(outcome),
        reason: task.reason,
        placement: Some(placement?),
        result: None,
        continued: None,
    };
    Some((task.id, attempt))
}

/// Forgets ended tasks that are older than `before_ms` and those beyond the newest `own` and
/// `others` (see [`OWN_ENDED`](super::OWN_ENDED), [`OTHERS_ENDED`](super::OTHERS_ENDED)), at most
/// `most` of each in one go.
#[derive(Clone, Copy, Debug)]
pub struct PruneTasks {
    pub before_ms: i64,
    pub own: i64,
    pub others: i64,
    pub most: i64,
}

#[derive(FromRow)]
struct Ended {
    n: i64,
}

impl Write for PruneTasks {
    /// How many went.
    type Output = u64;

    async fn run(self, connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        let old = sqlx::query(
            "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE ended_ms IS NOT NULL \
             AND ended_ms < ? ORDER BY ended_ms LIMIT ?)",
        )
        .bind(self.before_ms)
        .bind(self.most)
        .execute(&mut *connection)
        .await?
        .rows_affected();
        let Ended { n } = sqlx::query_as(
            "SELECT coalesce(sum(n), 0) AS n FROM task_counts \
             WHERE state IN ('done', 'failed', 'cancelled', 'expired')",
        )
        .fetch_one(&mut *connection)
        .await?;
        let others: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tasks INDEXED BY tasks_ended_others \
             WHERE ended_ms IS NOT NULL AND (role = 'served' OR interactive = 1)",
        )
        .fetch_one(&mut *connection)
        .await?;
        let mut more = sqlx::query(
            "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_ended_others \
             WHERE ended_ms IS NOT NULL AND (role = 'served' OR interactive = 1) \
             ORDER BY ended_ms LIMIT ?)",
        )
        .bind((others - self.others).clamp(0, self.most))
        .execute(&mut *connection)
        .await?
        .rows_affected();
        let own = n - others;
        if own > self.own {
            more += sqlx::query(
                "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE ended_ms IS NOT NULL \
                 AND role <> 'served' AND interactive = 0 ORDER BY ended_ms LIMIT ?)",
            )
            .bind((own - self.own).min(self.most))
            .execute(&mut *connection)
            .await?
            .rows_affected();
        }
        sqlx::query("DELETE FROM task_days WHERE day < ? / 86400000 - 1")
            .bind(self.before_ms)
            .execute(connection)
            .await?;
        Ok(old + more)
    }
}
