//! Table `served_results`: results of other nodes' tasks, until those nodes have them.

use agent_api::TaskId;
use sqlx::{SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, whole};
use crate::{clock::now_ms, storage::Write};

/// What they may take together: sixty answers of a megabyte, or hours of ordinary ones.
const SERVED_BYTES: i64 = 64 << 20;
/// Rows; each costs an index entry however small its result is.
const SERVED_ROWS: i64 = 100_000;
/// Of one node: half, so that none takes all the room; the largest result fits.
const SERVED_BYTES_OF_ONE: i64 = SERVED_BYTES / 2;
const SERVED_ROWS_OF_ONE: i64 = SERVED_ROWS / 2;
/// Rows that one write drops at most when there are too many: the next one drops more.
const DROPPED: i64 = 64;

/// Keeps the result of a task that another node submitted. The oldest go when there are too many, of
/// that node or of all.
#[derive(Clone, Debug)]
pub struct SaveServedResult {
    /// Key of the node that asked, 32 bytes.
    pub origin: [u8; 32],
    pub task: TaskId,
    pub fence: u64,
    pub result: Vec<u8>,
}

impl Write for SaveServedResult {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO served_results (origin, task, fence, at_ms, result) \
             VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&self.origin[..])
        .bind(self.task.0)
        .bind(whole(self.fence))
        .bind(now_ms())
        .bind(self.result)
        .execute(&mut *connection)
        .await?;
        let (bytes, rows): (i64, i64) =
            sqlx::query_as("SELECT bytes, n FROM served_size").fetch_one(&mut *connection).await?;
        // One node can have too many only where all have as many.
        if bytes > SERVED_BYTES_OF_ONE || rows > SERVED_ROWS_OF_ONE {
            let (bytes, rows): (i64, i64) = sqlx::query_as(
                "SELECT coalesce(sum(length(result)), 0), count(*) FROM served_results \
                 WHERE origin = ?",
            )
            .bind(&self.origin[..])
            .fetch_one(&mut *connection)
            .await?;
            if bytes > SERVED_BYTES_OF_ONE || rows > SERVED_ROWS_OF_ONE {
                let excess = bytes - SERVED_BYTES_OF_ONE;
                drop_oldest(connection, Some(&self.origin), excess).await?;
            }
        }
        if bytes > SERVED_BYTES || rows > SERVED_ROWS {
            drop_oldest(connection, None, bytes - SERVED_BYTES).await?;
        }
        Ok(())
    }
}

/// Drops the oldest results, of one node or of all: so many bytes, and one row at least.
async fn drop_oldest(
    connection: &mut SqliteConnection,
    origin: Option<&[u8; 32]>,
    bytes: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM served_results WHERE rowid IN ( \
           SELECT rowid FROM ( \
             SELECT rowid, sum(length(result)) OVER (ORDER BY at_ms, rowid) \
               - length(result) AS before \
             FROM (SELECT rowid, at_ms, result FROM served_results \
                   WHERE ?1 IS NULL OR origin = ?1 ORDER BY at_ms, rowid LIMIT ?2)) \
           WHERE before < ?3)",
    )
    .bind(origin.map(<[u8; 32]>::as_slice))
    .bind(DROPPED)
    .bind(bytes.max(1))
    .execute(connection)
    .await
    .map(|_| ())
}

/// A result that is kept, if it is.
pub async fn served_result(
    pool: &SqlitePool,
    origin: &[u8; 32],
    task: &TaskId,
    fence: u64,
) -> Result<Option<Vec<u8>>, StorageError> {
    let result = sqlx::query_scalar(
        "SELECT result FROM served_results WHERE origin = ? AND task = ? AND fence = ?",
    )
    .bind(&origin[..])
    .bind(&task.0)
    .bind(whole(fence))
    .fetch_optional(pool)
    .await?;
    Ok(result)
}

/// The node that asked has it.
#[derive(Clone, Debug)]
pub struct DropServedResult {
    pub origin: [u8; 32],
    pub task: TaskId,
    pub fence: u64,
}

impl Write for DropServedResult {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM served_results WHERE origin = ? AND task = ? AND fence = ?")
            .bind(self.origin.to_vec())
            .bind(self.task.0)
            .bind(whole(self.fence))
            .execute(connection)
            .await
            .map(|_| ())
    }
}

/// Drops results that nobody came for.
#[derive(Clone, Copy, Debug)]
pub struct PruneServedResults {
    pub before_ms: i64,
}

impl Write for PruneServedResults {
    type Output = u64;

    async fn run(self, connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        let done = sqlx::query("DELETE FROM served_results WHERE at_ms < ?")
            .bind(self.before_ms)
            .execute(connection)
            .await?;
        Ok(done.rows_affected())
    }
}
