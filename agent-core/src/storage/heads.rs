//! Table `heads`: what was read from the heads of model files.

use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};

/// Rows that are kept: a few folders of a thousand models each. A lost row costs one reading of a
/// file's head.
const HEAD_ROWS: i64 = 4_000;

/// One file's head, or why it cannot be loaded; exactly one of the two is set.
#[derive(Clone, Debug, FromRow, PartialEq)]
pub struct HeadRow {
    pub path: String,
    pub size: i64,
    pub modified_ns: i64,
    /// Version of the JSON in `head`.
    pub shape: i64,
    pub head: Option<String>,
    pub problem: Option<String>,
}

/// Writes heads that were read and forgets files that are gone.
#[derive(Debug, Default)]
pub struct KeepHeads {
    pub read: Vec<HeadRow>,
    pub gone: Vec<String>,
}

impl Write for KeepHeads {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        for path in &self.gone {
            sqlx::query("DELETE FROM heads WHERE path = ?")
                .bind(path)
                .execute(&mut *connection)
                .await?;
        }
        for row in self.read {
            sqlx::query(
                "INSERT OR REPLACE INTO heads (path, size, modified_ns, shape, head, problem) \
                 VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(row.path)
            .bind(row.size)
            .bind(row.modified_ns)
            .bind(row.shape)
            .bind(row.head)
            .bind(row.problem)
            .execute(&mut *connection)
            .await?;
        }
        sqlx::query(
            "DELETE FROM heads WHERE rowid IN \
             (SELECT rowid FROM heads ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
        )
        .bind(HEAD_ROWS)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Every kept head of this shape.
pub async fn list_heads(pool: &SqlitePool, shape: i64) -> Result<Vec<HeadRow>, StorageError> {
    let rows = sqlx::query_as(
        "SELECT path, size, modified_ns, shape, head, problem FROM heads WHERE shape = ?",
    )
    .bind(shape)
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    fn row(path: &str, shape: i64) -> HeadRow {
        HeadRow {
            path: path.into(),
            size: 1,
            modified_ns: 2,
            shape,
            head: Some("{}".into()),
            problem: None,
        }
    }

    #[tokio::test]
    async fn heads_come_back_and_those_of_files_that_are_gone_do_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        let read = vec![row("/a", 1), row("/b", 1), row("/old-shape", 0)];
        storage.write(KeepHeads { read, gone: Vec::new() }).await.expect("writes");
        let changed = HeadRow { size: 9, ..row("/a", 1) };
        let again = KeepHeads { read: vec![changed.clone()], gone: vec!["/b".into()] };
        storage.write(again).await.expect("writes");
        assert_eq!(list_heads(storage.readers(), 1).await.expect("reads"), [changed]);
    }

    #[tokio::test]
    async fn the_table_stays_small() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        let read = (0..HEAD_ROWS + 50).map(|n| row(&format!("/{n}"), 1)).collect();
        storage.write(KeepHeads { read, gone: Vec::new() }).await.expect("writes");
        let kept = list_heads(storage.readers(), 1).await.expect("reads");
        assert_eq!(kept.len(), usize::try_from(HEAD_ROWS).expect("fits"));
        assert!(kept.iter().all(|row| row.path != "/0"), "the oldest went");
    }
}
