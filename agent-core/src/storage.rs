//! The node's database: SQLite with one writer and a small pool of readers.
//!
//! Every write goes through one task that puts up to [`limits::GROUP_COMMIT`] waiting writes into
//! one transaction (`synchronous=FULL`, one fsync for all) and answers each only after the
//! commit. A write that fails is rolled back alone, to its savepoint.
//!
//! A database that SQLite calls corrupt is moved aside, never deleted, and a new one is begun.

mod activity;
mod heads;
mod mesh;
mod model_use;
mod outbox;
mod pulls;
mod reputation;
mod requests;
mod schedules;
mod state;
pub mod tasks;
mod writer;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub use activity::{AddActivity, list_activity};
pub use heads::{HeadRow, KeepHeads, list_heads};
pub use mesh::{MESH_PEER_ROWS, SaveMeshPeer, SavedPeer, list_mesh_peers};
pub use model_use::{ModelUse, RecordModelLoad, RecordModelUse, model_use};
pub use outbox::{
    Attempted, DueDelivery, Met, NewDelivery, RecordAttempt, RemoveDelivery, RetryDelivery,
    due_deliveries, due_delivery, enqueue, list_deliveries, next_delivery_ms,
};
pub use pulls::{PullRow, RemovePull, SavePull, Wanted, list_pulls};
pub use reputation::{REPUTATION_ROWS, ReputationRow, SaveReputation, list_reputations};
pub use requests::{AddRequest, DayCounts, Outcome, RequestKind, day_counts};
pub use schedules::{
    AddSchedule, KeepSchedule, RemoveSchedule, SCHEDULE_ROWS, ScheduleRow, list_schedules,
};
use sqlx::{
    Connection as _, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous,
    },
};
pub use state::{SetState, get_state};
use tokio::sync::watch;
pub use writer::Write;
use writer::Writer;

use crate::clock::now_ms;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Readers at the same time. Queries take microseconds; four never queue.
const READERS: u32 = 4;
/// How long SQLite retries when another process holds the file.
/// Unit tests never lose their power, and must not wait for the disk of a busy machine.
const SYNCHRONOUS: SqliteSynchronous =
    if cfg!(test) { SqliteSynchronous::Off } else { SqliteSynchronous::Full };
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(
        "the database {path} was written by a newer EdgeCoder. Install the newer version again, or start with another --data-dir"
    )]
    Newer { path: PathBuf },
    #[error(
        "cannot open the database {path}: {source}. Check that the folder is writable and that the disk is not full"
    )]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("cannot bring the database {path} up to date: {source}")]
    Migrate { path: PathBuf, source: MigrateError },
    #[error("the database {path} is damaged and cannot be moved aside: {source}")]
    SetAside { path: PathBuf, source: std::io::Error },
    #[error("the database cannot be written: {0}")]
    Write(String),
    #[error("the database cannot be read: {0}")]
    Read(#[from] sqlx::Error),
    #[error("the database is closed")]
    Closed,
}

/// A handle to the open database. Clones share it.
#[derive(Clone, Debug)]
pub struct Storage {
    writer: Writer,
    readers: SqlitePool,
}

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    pub storage: Storage,
    /// Where a damaged database was moved to.
    pub set_aside: Option<PathBuf>,
}

impl Storage {
    /// Opens or creates the database and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Opened, StorageError> {
        match Self::try_open(path).await {
            Ok(storage) => Ok(Opened { storage, set_aside: None }),
            Err(error) if is_corrupt(&error) => {
                let aside = set_aside(path).map_err(|source| StorageError::SetAside {
                    path: path.to_path_buf(),
                    source,
                })?;
                tracing::error!(kept = %aside.display(), "the database was damaged: {error}");
                let storage = Self::try_open(path).await?;
                Ok(Opened { storage, set_aside: Some(aside) })
            }
            Err(error) => Err(error),
        }
    }

    async fn try_open(path: &Path) -> Result<Self, StorageError> {
        let open = |source| StorageError::Open { path: path.to_path_buf(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SYNCHRONOUS)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(open)?;
        if let Err(source) = check(&mut connection, path).await {
            // Closed, not dropped: its thread must not touch the file after it is moved aside.
            let _ = connection.close_hard().await;
            return Err(open(source));
        }
        // `run` would do the same, but the compiler then loses track of what may be sent.
        MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(
            |source| match source {
                MigrateError::VersionMissing(_) => StorageError::Newer { path: path.to_path_buf() },
                source => StorageError::Migrate { path: path.to_path_buf(), source },
            },
        )?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .connect_lazy_with(options.clone().read_only(true));
        Ok(Self { writer: Writer::spawn(connection, options), readers })
    }

    /// Carries out one write; returns after it is on disk.
    pub async fn write<W: Write>(&self, write: W) -> Result<W::Output, StorageError> {
        self.writer.write(write).await
    }

    /// Hands a write over without waiting for the disk. If the queue is full it is dropped and
    /// logged: only for rows that nobody depends on.
    pub fn write_behind<W: Write>(&self, write: W) {
        self.writer.write_behind(write);
    }

    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// The newest reason why writing failed; `None` once a commit went through again.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.writer.trouble()
    }

    /// Commits what waits and closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Finds a file that is no database, and damage inside one. Looking at every page is left out for a
/// file so large that it would delay the start; its schema is still read.
async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut *connection).await?;
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() <= CHECKED_BYTES) {
        let found: String =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(connection).await?;
        if found != "ok" {
            return Err(sqlx::Error::Decode(format!("{DAMAGED}: {found}").into()));
        }
    }
    Ok(())
}

/// How [`check`] begins what it found itself.
const DAMAGED: &str = "the database is damaged";
/// Read and checked in well under a tenth of a second.
const CHECKED_BYTES: u64 = 32 << 20;

/// SQLITE_CORRUPT is 11, SQLITE_NOTADB is 26; extended codes carry them in the low byte.
fn is_corrupt(error: &StorageError) -> bool {
    let source = match error {
        StorageError::Open { source, .. } => Some(source),
        StorageError::Migrate { source: MigrateError::Execute(source), .. } => Some(source),
        StorageError::Migrate { source: MigrateError::ExecuteMigration(source, _), .. } => {
            Some(source)
        }
        _ => None,
    };
    if source.is_some_and(|source| source.to_string().contains(DAMAGED)) {
        return true;
    }
    let code = source
        .and_then(|source| source.as_database_error())
        .and_then(|source| source.code())
        .and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
}

/// Renames the database and its side files; returns the new name.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mark = format!(".damaged-{}", now_ms());
    let kept = with(&mark);
    std::fs::rename(path, &kept)?;
    for side in ["-wal", "-shm"] {
        let from = with(side);
        if from.exists() {
            std::fs::rename(from, with(&format!("{mark}{side}")))?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use agent_api::ActivityKind;

    use super::*;

    async fn open(path: &Path) -> Storage {
        Storage::open(path).await.expect("opens").storage
    }

    fn line(text: &str) -> AddActivity {
        AddActivity { at_ms: 1, kind: ActivityKind::NodeStarted, text: text.to_owned() }
    }

    #[tokio::test]
    async fn rows_survive_closing_and_opening() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("edgecoder.db");
        let storage = open(&path).await;
        storage.write(line("first")).await.expect("writes");
        storage.write(SetState { key: "pause", value: Some("x".into()) }).await.expect("writes");
        storage.close().await;
        let storage = open(&path).await;
        let kept = list_activity(storage.readers(), 10, None).await.expect("reads");
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].text, "first");
        let state = get_state(storage.readers(), "pause").await.expect("reads");
        assert_eq!(state.as_deref(), Some("x"));
    }

    #[tokio::test]
    async fn a_damaged_database_is_kept_aside_and_the_node_starts_with_a_new_one() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("edgecoder.db");
        std::fs::write(&path, b"this is not a database, it is a letter".repeat(50))
            .expect("writes");
        let opened = Storage::open(&path).await.expect("opens a new one");
        let aside = opened.set_aside.expect("the old one is kept");
        assert!(std::fs::read(aside).expect("reads").starts_with(b"this is not"));
        opened.storage.write(line("new")).await.expect("writes");
    }

    #[tokio::test]
    async fn damage_inside_a_database_is_found_at_the_start() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("edgecoder.db");
        let storage = open(&path).await;
        for n in 0..200 {
            storage.write(line(&format!("{n} {}", "x".repeat(200)))).await.expect("writes");
        }
        storage.close().await;
        let mut bytes = std::fs::read(&path).expect("reads");
        // The header and the schema stay; pages of the tables do not.
        let end = bytes.len();
        bytes[end - 16_384..end - 4_096].fill(0xee);
        std::fs::write(&path, &bytes).expect("writes");
        let opened = Storage::open(&path).await.expect("opens a new one");
        assert_eq!(std::fs::read(opened.set_aside.expect("kept")).expect("reads"), bytes);
    }

    #[tokio::test]
    async fn a_database_of_a_newer_version_is_refused_untouched() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("edgecoder.db");
        let storage = open(&path).await;
        storage.close().await;
        let mut connection =
            SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
                .await
                .expect("connects");
        sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'future', 1, x'00', 0)")
            .execute(&mut connection).await.expect("inserts");
        connection.close().await.expect("closes");
        let error = Storage::open(&path).await.expect_err("refused");
        assert!(matches!(error, StorageError::Newer { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_failing_write_does_not_take_its_neighbours_with_it() {
        struct Broken;
        impl Write for Broken {
            type Output = ();
            async fn run(self, c: &mut SqliteConnection) -> Result<(), sqlx::Error> {
                sqlx::query("INSERT INTO no_such_table VALUES (1)").execute(c).await.map(|_| ())
            }
        }
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = open(&dir.path().join("edgecoder.db")).await;
        let (a, broken, b) =
            tokio::join!(storage.write(line("a")), storage.write(Broken), storage.write(line("b")));
        assert!(a.is_ok() && b.is_ok());
        assert!(broken.expect_err("fails").to_string().contains("no_such_table"));
        let kept = list_activity(storage.readers(), 10, None).await.expect("reads");
        assert_eq!(kept.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    }
}
