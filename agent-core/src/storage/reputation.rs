//! Table `reputation`: what this node's own experience says of others.

use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};

/// Rows that are kept, those met last: as many nodes as a mesh's directory holds.
pub const REPUTATION_ROWS: i64 = 4_096;

/// A node as it was met.
#[derive(Clone, Debug, FromRow, PartialEq, Eq)]
pub struct ReputationRow {
    /// Its key, 32 bytes.
    pub node: Vec<u8>,
    /// JSON.
    pub reputation: String,
}

/// Adds or renews a node and forgets the ones not met for longest.
#[derive(Clone, Debug)]
pub struct SaveReputation {
    /// Its key, 32 bytes.
    pub node: Vec<u8>,
    /// When it was met last, milliseconds since 1970.
    pub at_ms: i64,
    /// JSON.
    pub reputation: String,
}

impl Write for SaveReputation {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO reputation (node, at_ms, reputation) VALUES (?, ?, ?) \
             ON CONFLICT (node) DO UPDATE SET at_ms = excluded.at_ms, \
             reputation = excluded.reputation",
        )
        .bind(self.node)
        .bind(self.at_ms)
        .bind(self.reputation)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "DELETE FROM reputation WHERE node IN \
             (SELECT node FROM reputation ORDER BY at_ms DESC, node LIMIT -1 OFFSET ?)",
        )
        .bind(REPUTATION_ROWS)
        .execute(connection)
        .await
        .map(|_| ())
    }
}

/// All of them.
pub async fn list_reputations(pool: &SqlitePool) -> Result<Vec<ReputationRow>, StorageError> {
    let rows = sqlx::query_as("SELECT node, reputation FROM reputation").fetch_all(pool).await?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    #[tokio::test]
    async fn a_node_has_one_row_and_those_met_last_are_kept() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        let writes = (0..REPUTATION_ROWS + 3).map(|n| {
            let mut node = vec![0; 32];
            node[..8].copy_from_slice(&n.to_be_bytes());
            storage.write(SaveReputation {
                node,
                at_ms: n,
                reputation: format!("{{\"done\":{n}}}"),
            })
        });
        for write in futures_util::future::join_all(writes).await {
            write.expect("writes");
        }
        let last = SaveReputation { node: vec![0; 32], at_ms: 1 << 40, reputation: "{}".into() };
        storage.write(last.clone()).await.expect("writes");
        storage.write(last).await.expect("writes again");
        let rows = list_reputations(storage.readers()).await.expect("reads");
        assert_eq!(rows.len(), usize::try_from(REPUTATION_ROWS).expect("fits"));
        let has = |text: &str| rows.iter().any(|row| row.reputation == text);
        assert!(has("{}") && !has("{\"done\":1}") && has("{\"done\":4098}"));
    }
}
