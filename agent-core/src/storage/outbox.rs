//! Table `outbox`: results on their way to webhooks.

use agent_api::{
    TaskId,
    tasks::{Delivery, DeliveryState, Webhook},
};
use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};
use crate::clock::DAY_MS;

/// Deliveries that wait: a receiver that is away for a day misses seven results a minute.
const WAITING_ROWS: i64 = 10_000;
/// Bytes of all bodies that wait: a small share of any disk that holds a model.
const WAITING_BYTES: i64 = 1 << 30;
/// Deliveries that were given up and are kept, the newest.
const DEAD_ROWS: i64 = 1_000;
/// Deliveries that arrived and are kept for the owner to look back on, the newest.
const DELIVERED_ROWS: i64 = 200;
/// No wait is longer than this (its nine waits together are 22 hours, tasks/outbox.rs): a time that
/// is further ahead was written under a clock that was wrong.
const LONGEST_WAIT_MS: i64 = DAY_MS;
/// Rows of one answer.
const LISTED_ROWS: i64 = 200;

/// A result that is to be posted.
#[derive(Debug)]
pub struct NewDelivery<'a> {
    pub task: &'a TaskId,
    pub webhook: &'a Webhook,
    /// JSON of what is posted.
    pub body: &'a str,
    pub now_ms: i64,
}

/// Puts a delivery into the outbox, in the transaction that ends its task: a result that is kept is
/// a result that will be told. When too many wait it is kept as given up, which the owner sees and
/// may try again; the task's end never fails because of its webhook.
pub async fn enqueue(
    connection: &mut SqliteConnection,
    delivery: NewDelivery<'_>,
) -> Result<(), sqlx::Error> {
    let (rows, bytes): (i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM outbox WHERE state = 'waiting'",
    )
    .fetch_one(&mut *connection)
    .await?;
    let size = i64::try_from(delivery.body.len()).unwrap_or(i64::MAX);
    let fits = rows < WAITING_ROWS && bytes.saturating_add(size) <= WAITING_BYTES;
    let (state, due, ended, problem) = if fits {
        ("waiting", Some(delivery.now_ms), None, None)
    } else {
        let why = "Too many deliveries wait already. Try it again when some of them are gone.";
        ("dead", None, Some(delivery.now_ms), Some(why))
    };
    sqlx::query(
        "INSERT INTO outbox (id, task, url, secret, body, bytes, state, attempts, created_ms, \
         ended_ms, next_ms, problem) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)",
    )
    // Sorts by time; the receiver gets it as `Idempotency-Key`.
    .bind(uuid::Uuid::now_v7().to_string())
    .bind(&delivery.task.0)
    .bind(&delivery.webhook.url)
    .bind(&delivery.webhook.secret)
    .bind(delivery.body)
    .bind(size)
    .bind(state)
    .bind(delivery.now_ms)
    .bind(ended)
    .bind(due)
    .bind(problem)
    .execute(&mut *connection)
    .await?;
    if fits { Ok(()) } else { forget(connection, "dead", DEAD_ROWS).await }
}

async fn forget(
    connection: &mut SqliteConnection,
    state: &'static str,
    keep: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE state = ? \
         ORDER BY ended_ms DESC, id DESC LIMIT -1 OFFSET ?)",
    )
    .bind(state)
    .bind(keep)
    .execute(connection)
    .await
    .map(|_| ())
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempted {
    Delivered,
    /// To be tried again then.
    Again {
        next_ms: i64,
        problem: String,
    },
    GivenUp {
        problem: String,
    },
}

/// Writes an attempt's outcome. Nothing happens for a delivery that was removed meanwhile.
#[derive(Debug)]
pub struct RecordAttempt {
    pub id: String,
    /// Attempts so far, this one included.
    pub attempts: u32,
    pub at_ms: i64,
    pub outcome: Attempted,
}

impl Write for RecordAttempt {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let (state, next_ms, problem) = match self.outcome {
            Attempted::Delivered => ("delivered", None, None),
            Attempted::Again { next_ms, problem } => ("waiting", Some(next_ms), Some(problem)),
            Attempted::GivenUp { problem } => ("dead", None, Some(problem)),
        };
        let ended = (state != "waiting").then_some(self.at_ms);
        sqlx::query(
            "UPDATE outbox SET state = ?1, attempts = ?2, ended_ms = ?3, next_ms = ?4, \
             problem = ?5, body = iif(?1 = 'delivered', '', body), \
             bytes = iif(?1 = 'delivered', 0, bytes), \
             secret = iif(?1 = 'delivered', NULL, secret) WHERE id = ?6 AND state = 'waiting'",
        )
        .bind(state)
        .bind(self.attempts)
        .bind(ended)
        .bind(next_ms)
        .bind(problem)
        .bind(self.id)
        .execute(&mut *connection)
        .await?;
        match state {
            "delivered" => forget(connection, state, DELIVERED_ROWS).await,
            "dead" => forget(connection, state, DEAD_ROWS).await,
            _ => Ok(()),
        }
    }
}

/// What a wish of the owner met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Done,
    NoSuchDelivery,
    /// It arrived; there is nothing left to send.
    AlreadyDelivered,
}

/// Makes a delivery due now, with all its attempts before it.
#[derive(Debug)]
pub struct RetryDelivery {
    pub id: String,
    pub now_ms: i64,
}

impl Write for RetryDelivery {
    type Output = Met;

    async fn run(self, connection: &mut SqliteConnection) -> Result<Met, sqlx::Error> {
        let state: Option<String> = sqlx::query_scalar("SELECT state FROM outbox WHERE id = ?")
            .bind(&self.id)
            .fetch_optional(&mut *connection)
            .await?;
        match state.as_deref() {
            None => return Ok(Met::NoSuchDelivery),
            Some("delivered") => return Ok(Met::AlreadyDelivered),
            Some(_) => {}
        }
        sqlx::query(
            "UPDATE outbox SET state = 'waiting', attempts = 0, ended_ms = NULL, next_ms = ? \
             WHERE id = ?",
        )
        .bind(self.now_ms)
        .bind(self.id)
        .execute(connection)
        .await?;
        Ok(Met::Done)
    }
}

/// Removes a delivery, whatever its state.
#[derive(Debug)]
pub struct RemoveDelivery(pub String);

impl Write for RemoveDelivery {
    type Output = Met;

    async fn run(self, connection: &mut SqliteConnection) -> Result<Met, sqlx::Error> {
        let gone = sqlx::query("DELETE FROM outbox WHERE id = ?")
            .bind(self.0)
            .execute(connection)
            .await?
            .rows_affected();
        Ok(if gone > 0 { Met::Done } else { Met::NoSuchDelivery })
    }
}

/// A delivery that is due.
#[derive(Clone, FromRow)]
pub struct DueDelivery {
    pub id: String,
    pub url: String,
    pub secret: Option<String>,
    pub body: String,
    pub attempts: u32,
}

impl std::fmt::Debug for DueDelivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DueDelivery").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Ids of the deliveries that are due, the one due longest first.
pub async fn due_deliveries(
    pool: &SqlitePool,
    now_ms: i64,
    limit: u32,
) -> Result<Vec<String>, StorageError> {
    let ids = sqlx::query_scalar(
        "SELECT id FROM outbox WHERE state = 'waiting' AND (next_ms <= ? OR next_ms > ?) \
         ORDER BY next_ms LIMIT ?",
    )
    .bind(now_ms)
    .bind(now_ms.saturating_add(LONGEST_WAIT_MS))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(ids)
}

/// What a delivery posts; `None`: it was removed or has ended.
pub async fn due_delivery(
    pool: &SqlitePool,
    id: &str,
) -> Result<Option<DueDelivery>, StorageError> {
    let row = sqlx::query_as(
        "SELECT id, url, secret, body, attempts FROM outbox WHERE id = ? AND state = 'waiting'",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(row)
}

/// When the first delivery after `now_ms` is due; `None`: none waits.
pub async fn next_delivery_ms(pool: &SqlitePool, now_ms: i64) -> Result<Option<i64>, StorageError> {
    let next = sqlx::query_scalar(
        "SELECT min(next_ms) FROM outbox WHERE state = 'waiting' AND next_ms > ?",
    )
    .bind(now_ms)
    .fetch_one(pool)
    .await?;
    Ok(next)
}

#[derive(FromRow)]
struct Raw {
    id: String,
    task: String,
    url: String,
    state: String,
    attempts: u32,
    created_ms: i64,
    next_ms: Option<i64>,
    problem: Option<String>,
}

/// Deliveries without their bodies and secrets, newest first, at most 200.
pub async fn list_deliveries(
    pool: &SqlitePool,
    state: Option<DeliveryState>,
) -> Result<Vec<Delivery>, StorageError> {
    let rows: Vec<Raw> = sqlx::query_as(
        "SELECT id, task, url, state, attempts, created_ms, next_ms, problem FROM outbox \
         WHERE ?1 IS NULL OR state = ?1 ORDER BY id DESC LIMIT ?2",
    )
    .bind(state.map(state_text))
    .bind(LISTED_ROWS)
    .fetch_all(pool)
    .await?;
    let rows = rows.into_iter().map(|raw| Delivery {
        id: raw.id,
        task: TaskId(raw.task),
        url: raw.url,
        state: match raw.state.as_str() {
            "waiting" => DeliveryState::Waiting,
            "delivered" => DeliveryState::Delivered,
            _ => DeliveryState::Dead,
        },
        attempts: raw.attempts,
        created_ms: raw.created_ms,
        next_ms: raw.next_ms,
        problem: raw.problem,
    });
    Ok(rows.collect())
}

fn state_text(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Waiting => "waiting",
        DeliveryState::Delivered => "delivered",
        DeliveryState::Dead => "dead",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    /// Stands for the transaction that ends a task.
    struct End {
        task: String,
        bytes: usize,
    }

    impl Write for End {
        type Output = ();
        async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
            let webhook =
                Webhook { url: "https://x.example/".to_owned(), secret: Some("s".to_owned()) };
            let body = "x".repeat(self.bytes);
            let task = TaskId(self.task);
            let delivery = NewDelivery { task: &task, webhook: &webhook, body: &body, now_ms: 10 };
            enqueue(connection, delivery).await
        }
    }

    async fn open(dir: &tempfile::TempDir) -> Storage {
        Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage
    }

    fn end(task: &str) -> End {
        End { task: task.to_owned(), bytes: 3 }
    }

    fn attempt(id: &str, outcome: Attempted) -> RecordAttempt {
        RecordAttempt { id: id.to_owned(), attempts: 1, at_ms: 20, outcome }
    }

    async fn tasks(storage: &Storage, state: Option<DeliveryState>) -> Vec<String> {
        let rows = list_deliveries(storage.readers(), state).await.expect("reads");
        rows.into_iter().map(|row| row.task.0).collect()
    }

    #[tokio::test]
    async fn a_delivery_waits_until_it_arrived_or_was_given_up() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = open(&dir).await;
        for task in ["a", "b", "c"] {
            storage.write(end(task)).await.expect("writes");
        }
        let due = due_deliveries(storage.readers(), 10, 9).await.expect("reads");
        let [a, b, c] = due.as_slice() else { panic!("three are due: {due:?}") };
        storage.write(attempt(a, Attempted::Delivered)).await.expect("writes");
        let again = Attempted::Again { next_ms: 50, problem: "busy".to_owned() };
        storage.write(attempt(b, again)).await.expect("writes");
        let dead = Attempted::GivenUp { problem: "gone".to_owned() };
        storage.write(attempt(c, dead)).await.expect("writes");
        assert!(due_deliveries(storage.readers(), 49, 9).await.expect("reads").is_empty());
        assert_eq!(next_delivery_ms(storage.readers(), 20).await.expect("reads"), Some(50));
        let behind = due_deliveries(storage.readers(), 49 - DAY_MS, 9).await.expect("reads");
        assert_eq!(behind, [b.as_str()], "written under a clock that was ahead");
        assert_eq!(tasks(&storage, Some(DeliveryState::Dead)).await, ["c"]);
        assert_eq!(tasks(&storage, None).await, ["c", "b", "a"]);
        let retry = |id: &str| RetryDelivery { id: id.to_owned(), now_ms: 60 };
        assert_eq!(storage.write(retry(c)).await.expect("writes"), Met::Done);
        assert_eq!(storage.write(retry(a)).await.expect("writes"), Met::AlreadyDelivered);
        assert_eq!(storage.write(retry("z")).await.expect("writes"), Met::NoSuchDelivery);
        let due = due_deliveries(storage.readers(), 60, 9).await.expect("reads");
        assert_eq!(due, [b.as_str(), c.as_str()]);
        let remove = |id: &str| RemoveDelivery(id.to_owned());
        assert_eq!(storage.write(remove(b)).await.expect("writes"), Met::Done);
        assert_eq!(storage.write(remove(b)).await.expect("writes"), Met::NoSuchDelivery);
        // It was in flight when it was removed.
        storage.write(attempt(b, Attempted::Delivered)).await.expect("writes");
        assert_eq!(tasks(&storage, None).await, ["c", "a"]);
    }

    #[tokio::test]
    async fn a_full_outbox_keeps_the_result_as_given_up_and_the_task_still_ends() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = open(&dir).await;
        let writes = (0..WAITING_ROWS + 1).map(|n| storage.write(end(&format!("{n:05}"))));
        for written in futures_util::future::join_all(writes).await {
            written.expect("the task ends");
        }
        assert_eq!(tasks(&storage, Some(DeliveryState::Dead)).await.len(), 1);
        let due = due_deliveries(storage.readers(), 10, u32::MAX).await.expect("reads");
        assert_eq!(i64::try_from(due.len()), Ok(WAITING_ROWS));
    }
}
