//! Table `mesh_peers`: peers of earlier days.

use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};

/// Rows that are kept over all meshes, those seen last. Any one of them that still answers is
/// enough; 512 last for months.
pub const MESH_PEER_ROWS: i64 = 512;

/// A peer as it was when it was last connected.
#[derive(Clone, Debug, FromRow, PartialEq, Eq)]
pub struct SavedPeer {
    /// Its key, 32 bytes.
    pub node: Vec<u8>,
    pub name: String,
    /// JSON.
    pub addresses: String,
    /// Milliseconds since 1970.
    pub seen_ms: i64,
}

/// Adds or renews a peer of a mesh and forgets the ones not seen for longest.
#[derive(Clone, Debug)]
pub struct SaveMeshPeer {
    /// Id of the mesh, 32 bytes.
    pub mesh: Vec<u8>,
    pub row: SavedPeer,
}

impl Write for SaveMeshPeer {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO mesh_peers (mesh, node, name, addresses, seen_ms) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (mesh, node) DO UPDATE SET name = excluded.name, \
             addresses = excluded.addresses, seen_ms = max(seen_ms, excluded.seen_ms)",
        )
        .bind(self.mesh)
        .bind(self.row.node)
        .bind(self.row.name)
        .bind(self.row.addresses)
        .bind(self.row.seen_ms)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "DELETE FROM mesh_peers WHERE rowid IN \
             (SELECT rowid FROM mesh_peers ORDER BY seen_ms DESC, rowid DESC LIMIT -1 OFFSET ?)",
        )
        .bind(MESH_PEER_ROWS)
        .execute(connection)
        .await
        .map(|_| ())
    }
}

/// Peers of a mesh, the one seen last first.
pub async fn list_mesh_peers(
    pool: &SqlitePool,
    mesh: &[u8],
) -> Result<Vec<SavedPeer>, StorageError> {
    let rows = sqlx::query_as(
        "SELECT node, name, addresses, seen_ms FROM mesh_peers WHERE mesh = ? \
         ORDER BY seen_ms DESC, rowid DESC",
    )
    .bind(mesh)
    .fetch_all(pool)
    .await?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    fn peer(mesh: u8, node: u16, seen_ms: i64) -> SaveMeshPeer {
        let mut key = vec![0; 32];
        key[..2].copy_from_slice(&node.to_be_bytes());
        let row =
            SavedPeer { node: key, name: format!("n{node}"), addresses: "{}".into(), seen_ms };
        SaveMeshPeer { mesh: vec![mesh; 32], row }
    }

    #[tokio::test]
    async fn peers_come_back_newest_first_and_each_mesh_has_its_own() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        for row in [peer(1, 1, 10), peer(1, 2, 30), peer(1, 3, 20), peer(2, 4, 99), peer(1, 1, 40)]
        {
            storage.write(row).await.expect("writes");
        }
        let names = |rows: Vec<SavedPeer>| rows.into_iter().map(|r| r.name).collect::<Vec<_>>();
        let first = list_mesh_peers(storage.readers(), &[1; 32]).await.expect("reads");
        assert_eq!(names(first), ["n1", "n2", "n3"]);
        let second = list_mesh_peers(storage.readers(), &[2; 32]).await.expect("reads");
        assert_eq!(names(second), ["n4"]);
    }

    #[tokio::test]
    async fn the_table_keeps_the_peers_seen_last() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        for node in 0..520 {
            storage.write(peer(1, node, i64::from(node))).await.expect("writes");
        }
        let kept = list_mesh_peers(storage.readers(), &[1; 32]).await.expect("reads");
        assert_eq!(kept.len(), usize::try_from(MESH_PEER_ROWS).expect("fits"));
        assert_eq!(kept.last().map(|row| row.seen_ms), Some(8), "the oldest went");
    }
}
