//! Table `activity`: what the owner sees in the feed.

use agent_api::{Activity, ActivityKind};
use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};
use crate::config::limits;

/// Adds a line and drops the oldest beyond the limit. Returns the line with its id.
#[derive(Debug)]
pub struct AddActivity {
    pub at_ms: i64,
    pub kind: ActivityKind,
    pub text: String,
}

impl Write for AddActivity {
    type Output = Activity;

    async fn run(self, connection: &mut SqliteConnection) -> Result<Activity, sqlx::Error> {
        let Self { at_ms, kind, text } = self;
        let id = sqlx::query("INSERT INTO activity (at_ms, kind, text) VALUES (?, ?, ?)")
            .bind(at_ms)
            .bind(kind_text(kind))
            .bind(&text)
            .execute(&mut *connection)
            .await?
            .last_insert_rowid();
        sqlx::query("DELETE FROM activity WHERE id <= ?")
            .bind(id - limits::ACTIVITY_ROWS)
            .execute(connection)
            .await?;
        Ok(Activity { id, at_ms, kind, text })
    }
}

#[derive(FromRow)]
struct Row {
    id: i64,
    at_ms: i64,
    kind: String,
    text: String,
}

/// Newest first; `before` is the id of the last line of the page before.
pub async fn list_activity(
    pool: &SqlitePool,
    limit: u32,
    before: Option<i64>,
) -> Result<Vec<Activity>, StorageError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, at_ms, kind, text FROM activity WHERE id < ? ORDER BY id DESC LIMIT ?",
    )
    .bind(before.unwrap_or(i64::MAX))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let lines = rows.into_iter().map(|Row { id, at_ms, kind, text }| Activity {
        id,
        at_ms,
        kind: parse_kind(&kind),
        text,
    });
    Ok(lines.collect())
}

/// The same word as on the wire, so that the enum is written down once.
fn kind_text(kind: ActivityKind) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(text)) => text,
        _ => unreachable!("a unit variant serializes to a string"),
    }
}

/// A kind that this version does not know (a newer one wrote it) is shown as a warning line.
fn parse_kind(text: &str) -> ActivityKind {
    serde_json::from_value(text.into()).unwrap_or(ActivityKind::Warning)
}
