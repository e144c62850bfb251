//! Table `schedules`: tasks that are submitted by the clock.

use agent_api::tasks::MissedRuns;
use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};

/// Schedules that are kept: all of them are in memory and on one page.
pub const SCHEDULE_ROWS: usize = 1_000;

/// A schedule as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    pub id: String,
    pub name: String,
    pub cron: String,
    /// `None`: this computer's, which has no name.
    pub zone: Option<String>,
    /// JSON of the task as it was given, with its webhook's secret.
    pub task: String,
    pub missed: MissedRuns,
    pub paused: bool,
    pub created_ms: i64,
    /// Runs up to this time are dealt with.
    pub done_ms: i64,
    pub last_ms: Option<i64>,
    pub last_task: Option<String>,
    /// Why the last run could not be submitted.
    pub problem: Option<String>,
}

impl std::fmt::Debug for ScheduleRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The task holds the owner's words.
        f.debug_struct("ScheduleRow").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Writes a new schedule. `false`: there are [`SCHEDULE_ROWS`] already.
#[derive(Debug)]
pub struct AddSchedule(pub ScheduleRow);

impl Write for AddSchedule {
    type Output = bool;

    async fn run(self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let row = self.0;
        let added = sqlx::query(
            "INSERT INTO schedules (id, name, cron, zone, task, missed, paused, created_ms, \
             done_ms, last_ms, last_task, problem) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? \
             WHERE (SELECT count(*) FROM schedules) < ?",
        )
        .bind(row.id)
        .bind(row.name)
        .bind(row.cron)
        .bind(row.zone)
        .bind(row.task)
        .bind(missed_text(row.missed))
        .bind(row.paused)
        .bind(row.created_ms)
        .bind(row.done_ms)
        .bind(row.last_ms)
        .bind(row.last_task)
        .bind(row.problem)
        .bind(i64::try_from(SCHEDULE_ROWS).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
        Ok(added.rows_affected() > 0)
    }
}

/// What changes while a schedule lives. Nothing happens for one that was removed.
#[derive(Clone, Debug)]
pub struct KeepSchedule {
    pub id: String,
    pub paused: bool,
    pub done_ms: i64,
    pub last_ms: Option<i64>,
    pub last_task: Option<String>,
    pub problem: Option<String>,
}

impl Write for KeepSchedule {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "UPDATE schedules SET paused = ?, done_ms = ?, last_ms = ?, last_task = ?, \
             problem = ? WHERE id = ?",
        )
        .bind(self.paused)
        .bind(self.done_ms)
        .bind(self.last_ms)
        .bind(self.last_task)
        .bind(self.problem)
        .bind(self.id)
        .execute(connection)
        .await
        .map(|_| ())
    }
}

/// Removes a schedule by its id.
#[derive(Debug)]
pub struct RemoveSchedule(pub String);

impl Write for RemoveSchedule {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM schedules WHERE id = ?")
            .bind(self.0)
            .execute(connection)
            .await
            .map(|_| ())
    }
}

#[derive(FromRow)]
struct Raw {
    id: String,
    name: String,
    cron: String,
    zone: Option<String>,
    task: String,
    missed: String,
    paused: bool,
    created_ms: i64,
    done_ms: i64,
    last_ms: Option<i64>,
    last_task: Option<String>,
    problem: Option<String>,
}

/// All schedules, oldest first: their ids sort by time.
pub async fn list_schedules(pool: &SqlitePool) -> Result<Vec<ScheduleRow>, StorageError> {
    let rows: Vec<Raw> =
        sqlx::query_as("SELECT * FROM schedules ORDER BY id").fetch_all(pool).await?;
    let rows = rows.into_iter().map(|raw| ScheduleRow {
        id: raw.id,
        name: raw.name,
        cron: raw.cron,
        zone: raw.zone,
        task: raw.task,
        missed: match raw.missed.as_str() {
            "run_once" => MissedRuns::RunOnce,
            _ => MissedRuns::Skip,
        },
        paused: raw.paused,
        created_ms: raw.created_ms,
        done_ms: raw.done_ms,
        last_ms: raw.last_ms,
        last_task: raw.last_task,
        problem: raw.problem,
    });
    Ok(rows.collect())
}

fn missed_text(missed: MissedRuns) -> &'static str {
    match missed {
        MissedRuns::Skip => "skip",
        MissedRuns::RunOnce => "run_once",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    fn row(id: &str) -> ScheduleRow {
        ScheduleRow {
            id: id.to_owned(),
            name: "n".to_owned(),
            cron: "* * * * *".to_owned(),
            zone: None,
            task: "{}".to_owned(),
            missed: MissedRuns::RunOnce,
            paused: false,
            created_ms: 1,
            done_ms: 1,
            last_ms: None,
            last_task: None,
            problem: None,
        }
    }

    #[tokio::test]
    async fn a_schedule_comes_back_as_it_was_left() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        assert!(storage.write(AddSchedule(row("a"))).await.expect("writes"));
        assert!(storage.write(AddSchedule(row("b"))).await.expect("writes"));
        let keep = KeepSchedule {
            id: "a".to_owned(),
            paused: true,
            done_ms: 5,
            last_ms: Some(5),
            last_task: Some("t".to_owned()),
            problem: None,
        };
        storage.write(keep).await.expect("writes");
        storage.write(RemoveSchedule("b".to_owned())).await.expect("writes");
        let expected = ScheduleRow {
            paused: true,
            done_ms: 5,
            last_ms: Some(5),
            last_task: Some("t".to_owned()),
            ..row("a")
        };
        assert_eq!(list_schedules(storage.readers()).await.expect("reads"), [expected]);
    }

    #[tokio::test]
    async fn there_is_an_end_to_schedules() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        let writes =
            (0..SCHEDULE_ROWS + 1).map(|n| storage.write(AddSchedule(row(&format!("{n:04}")))));
        let added = futures_util::future::join_all(writes).await;
        let added = added.into_iter().filter(|added| *added.as_ref().expect("writes")).count();
        assert_eq!(added, SCHEDULE_ROWS);
    }
}
