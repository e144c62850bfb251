//! Table `pulls`: pulls that are not done, so that they go on after a restart.

use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};

/// What the owner, or a failure, wants of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Running,
    Paused,
    Failed,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
        }
    }
}

/// One pull as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRow {
    pub id: String,
    /// A complete model name, or the address of a GGUF file.
    pub source: String,
    pub wanted: Wanted,
    pub reason: String,
    pub created_at_ms: i64,
    pub swap_when_done: bool,
    /// The bytes of the manifest once it is known.
    pub manifest: Option<Vec<u8>>,
}

/// Writes a pull, new or changed.
#[derive(Debug)]
pub struct SavePull(pub PullRow);

impl Write for SavePull {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let row = self.0;
        sqlx::query(
            "INSERT INTO pulls (id, source, wanted, reason, created_at_ms, swap_when_done, manifest) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET wanted = excluded.wanted, \
             reason = excluded.reason, swap_when_done = excluded.swap_when_done, \
             manifest = excluded.manifest",
        )
        .bind(row.id)
        .bind(row.source)
        .bind(row.wanted.as_str())
        .bind(row.reason)
        .bind(row.created_at_ms)
        .bind(row.swap_when_done)
        .bind(row.manifest)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Removes a pull that is done or cancelled.
#[derive(Debug)]
pub struct RemovePull(pub String);

impl Write for RemovePull {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM pulls WHERE id = ?").bind(self.0).execute(connection).await?;
        Ok(())
    }
}

#[derive(FromRow)]
struct Raw {
    id: String,
    source: String,
    wanted: String,
    reason: String,
    created_at_ms: i64,
    swap_when_done: bool,
    manifest: Option<Vec<u8>>,
}

/// All pulls, oldest first: version 7 ids sort by time.
pub async fn list_pulls(pool: &SqlitePool) -> Result<Vec<PullRow>, StorageError> {
    let rows: Vec<Raw> = sqlx::query_as("SELECT * FROM pulls ORDER BY id").fetch_all(pool).await?;
    let rows = rows.into_iter().map(|raw| PullRow {
        id: raw.id,
        source: raw.source,
        wanted: match raw.wanted.as_str() {
            "running" => Wanted::Running,
            "paused" => Wanted::Paused,
            _ => Wanted::Failed,
        },
        reason: raw.reason,
        created_at_ms: raw.created_at_ms,
        swap_when_done: raw.swap_when_done,
        manifest: raw.manifest,
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    #[tokio::test]
    async fn a_pull_is_kept_changed_and_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let opened = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens");
        let storage = opened.storage;
        let mut row = PullRow {
            id: "1".into(),
            source: "r.example/a/b:c".into(),
            wanted: Wanted::Running,
            reason: String::new(),
            created_at_ms: 5,
            swap_when_done: true,
            manifest: None,
        };
        storage.write(SavePull(row.clone())).await.expect("writes");
        row.wanted = Wanted::Paused;
        row.reason = "You paused it.".into();
        row.manifest = Some(vec![1, 2, 3]);
        storage.write(SavePull(row.clone())).await.expect("writes");
        assert_eq!(list_pulls(storage.readers()).await.expect("reads"), [row]);
        storage.write(RemovePull("1".into())).await.expect("writes");
        assert_eq!(list_pulls(storage.readers()).await.expect("reads"), []);
    }
}
