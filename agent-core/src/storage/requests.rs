//! Table `requests`: inference requests that ended, for the counters of the day.

use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};
use crate::config::limits;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    Chat,
    Completion,
    Embedding,
}

impl RequestKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Done,
    Failed,
    Cancelled,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Adds a request and drops the oldest beyond the limit.
#[derive(Clone, Debug)]
pub struct AddRequest {
    pub at_ms: i64,
    pub kind: RequestKind,
    pub model: String,
    pub outcome: Outcome,
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub first_token_ms: Option<f64>,
    pub total_ms: f64,
}

impl Write for AddRequest {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let id = sqlx::query(
            "INSERT INTO requests (at_ms, kind, model, outcome, prompt_tokens, completion_tokens, \
             first_token_ms, total_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.at_ms)
        .bind(self.kind.as_str())
        .bind(self.model)
        .bind(self.outcome.as_str())
        .bind(self.prompt_tokens)
        .bind(self.completion_tokens)
        .bind(self.first_token_ms)
        .bind(self.total_ms)
        .execute(&mut *connection)
        .await?
        .last_insert_rowid();
        sqlx::query("DELETE FROM requests WHERE id <= ?")
            .bind(id - limits::REQUEST_ROWS)
            .execute(connection)
            .await?;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default, FromRow, PartialEq)]
pub struct DayCounts {
    pub done: i64,
    pub failed: i64,
    pub tokens: i64,
}

/// Counts since `since_ms`.
pub async fn day_counts(pool: &SqlitePool, since_ms: i64) -> Result<DayCounts, StorageError> {
    let counts = sqlx::query_as(
        "SELECT coalesce(sum(outcome = 'done'), 0) AS done, \
         coalesce(sum(outcome = 'failed'), 0) AS failed, \
         coalesce(sum(completion_tokens), 0) AS tokens FROM requests WHERE at_ms >= ?",
    )
    .bind(since_ms)
    .fetch_one(pool)
    .await?;
    Ok(counts)
}
