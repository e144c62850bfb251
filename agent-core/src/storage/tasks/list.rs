//! Pages, counts, and what is next.

use agent_api::{
    TaskId,
    tasks::{Role, TaskCounts, TaskKind},
};
use sqlx::{FromRow, QueryBuilder, Sqlite, SqlitePool};

use super::{COLUMNS, Row, StorageError, TaskRow, word};
use crate::clock::DAY_MS;

/// Which tasks a page has.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A state, `active` or `ended`.
    pub state: Option<String>,
    pub kind: Option<TaskKind>,
    pub role: Option<Role>,
    pub search: Option<String>,
    pub before: Option<TaskId>,
    pub limit: u32,
}

/// A page, newest first.
pub async fn list_tasks(pool: &SqlitePool, filter: &Filter) -> Result<Vec<TaskRow>, StorageError> {
    let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {COLUMNS} FROM tasks WHERE true"));
    match filter.state.as_deref() {
        None => {}
        Some("active") => {
            query.push(" AND state IN ('placed', 'leased', 'running', 'verifying')");
        }
        Some("ended") => {
            query.push(" AND ended_ms IS NOT NULL");
        }
        Some(state) => {
            query.push(" AND state = ").push_bind(state.to_owned());
        }
    }
    if let Some(kind) = filter.kind {
        query.push(" AND kind = ").push_bind(kind.as_str());
    }
    if let Some(role) = filter.role {
        query.push(" AND role = ").push_bind(word(role));
    }
    if let Some(before) = &filter.before {
        query.push(" AND id < ").push_bind(before.0.clone());
    }
    if let Some(search) = &filter.search {
        let part = like(search);
        query.push(" AND (id LIKE ").push_bind(part.clone()).push(" ESCAPE '\\'");
        for column in ["label", "subject", "worker_name", "origin_name"] {
            query.push(format!(" OR {column} LIKE ")).push_bind(part.clone()).push(" ESCAPE '\\'");
        }
        query.push(")");
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(filter.limit);
    let rows: Vec<Row> = query.build_query_as().fetch_all(pool).await?;
    Ok(rows.into_iter().filter_map(Row::into_task).collect())
}

fn like(search: &str) -> String {
    let escaped = search.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// Tasks that were submitted here and were with a node when this one stopped: all that are neither
/// queued nor ended.
pub async fn living_tasks(pool: &SqlitePool) -> Result<Vec<TaskId>, StorageError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM tasks WHERE state IN ('placed', 'leased', 'running', 'verifying') \
         ORDER BY id",
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// A task that waits.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct QueuedTask {
    pub id: String,
    pub priority: u8,
}

/// The first of one need, in the order in which they go.
pub async fn queued_of(
    pool: &SqlitePool,
    need: i64,
    limit: u32,
) -> Result<Vec<QueuedTask>, StorageError> {
    let rows = sqlx::query_as(
        "SELECT id, priority FROM tasks INDEXED BY tasks_claim WHERE state = 'queued' \
         AND need = ? ORDER BY priority DESC, id LIMIT ?",
    )
    .bind(need)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

/// Needs of tasks that wait, at most `limit`. Jumps from one to the next in the index.
pub async fn lanes(pool: &SqlitePool, limit: u32) -> Result<Vec<i64>, StorageError> {
    let needs: Vec<Option<i64>> = sqlx::query_scalar(
        "WITH RECURSIVE next (need) AS ( \
           SELECT min(need) FROM tasks WHERE state = 'queued' \
           UNION ALL \
           SELECT (SELECT min(need) FROM tasks WHERE state = 'queued' AND need > next.need) \
           FROM next WHERE next.need IS NOT NULL \
         ) SELECT need FROM next LIMIT ?",
    )
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(needs.into_iter().flatten().collect())
}

/// When the next task expires.
pub async fn next_expiry(pool: &SqlitePool) -> Result<Option<i64>, StorageError> {
    let at = sqlx::query_scalar(
        "SELECT min(expires_ms) FROM tasks WHERE ended_ms IS NULL AND expires_ms IS NOT NULL",
    )
    .fetch_one(pool)
    .await?;
    Ok(at)
}

/// Tasks that have expired and do not know it yet.
pub async fn expired_tasks(
    pool: &SqlitePool,
    now_ms: i64,
    limit: u32,
) -> Result<Vec<TaskId>, StorageError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM tasks WHERE ended_ms IS NULL AND expires_ms <= ? \
         ORDER BY expires_ms LIMIT ?",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// Counts over all rows; triggers keep them.
pub async fn task_counts(pool: &SqlitePool, now_ms: i64) -> Result<TaskCounts, StorageError> {
    let rows: Vec<(String, u32)> =
        sqlx::query_as("SELECT state, n FROM task_counts").fetch_all(pool).await?;
    let today: Vec<(String, u32)> = sqlx::query_as("SELECT state, n FROM task_days WHERE day = ?")
        .bind(now_ms.div_euclid(DAY_MS))
        .fetch_all(pool)
        .await?;
    let of = |rows: &[(String, u32)], states: &[&str]| {
        let found = rows.iter().filter(|(state, _)| states.contains(&state.as_str()));
        found.map(|(_, n)| *n).sum::<u32>()
    };
    Ok(TaskCounts {
        queued: of(&rows, &["queued"]),
        active: of(&rows, &["placed", "leased", "running", "verifying"]),
        done_today: of(&today, &["done"]),
        failed_today: of(&today, &["failed", "expired"]),
        done: of(&rows, &["done"]),
        failed: of(&rows, &["failed", "expired"]),
        cancelled: of(&rows, &["cancelled"]),
    })
}
