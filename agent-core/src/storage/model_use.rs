//! Table `model_use`: what each model did on this node.

use std::collections::HashMap;

use sqlx::{FromRow, SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};
use crate::clock::now_ms;

/// Rows that are kept: twice as many models as are listed. The one unused longest goes first.
const MODEL_USE_ROWS: i64 = 2_000;

/// Adds a request that ended to its model's sums.
#[derive(Clone, Debug)]
pub struct RecordModelUse {
    pub id: String,
    pub at_ms: i64,
    pub completion_tokens: u32,
    /// From the first token to the last; what the speed is computed from.
    pub generate_ms: f64,
}

impl Write for RecordModelUse {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO model_use (id, changed_ms, last_used_ms, requests, completion_tokens, \
             generate_ms) VALUES (?1, ?2, ?2, 1, ?3, ?4) ON CONFLICT (id) DO UPDATE SET \
             changed_ms = max(changed_ms, ?2), \
             last_used_ms = max(coalesce(last_used_ms, ?2), ?2), requests = requests + 1, \
             completion_tokens = completion_tokens + ?3, generate_ms = generate_ms + ?4",
        )
        .bind(self.id)
        .bind(self.at_ms)
        .bind(self.completion_tokens)
        .bind(if self.generate_ms.is_finite() { self.generate_ms.max(0.0) } else { 0.0 })
        .execute(&mut *connection)
        .await?;
        forget_oldest(connection).await
    }
}

/// Keeps how long a model took to load the last time.
#[derive(Clone, Debug)]
pub struct RecordModelLoad {
    pub id: String,
    pub load_ms: f64,
}

impl Write for RecordModelLoad {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO model_use (id, changed_ms, load_ms) VALUES (?1, ?2, ?3) \
             ON CONFLICT (id) DO UPDATE SET changed_ms = max(changed_ms, ?2), load_ms = ?3",
        )
        .bind(self.id)
        .bind(now_ms())
        .bind(self.load_ms)
        .execute(&mut *connection)
        .await?;
        forget_oldest(connection).await
    }
}

async fn forget_oldest(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM model_use WHERE id IN \
         (SELECT id FROM model_use ORDER BY changed_ms DESC, rowid DESC LIMIT -1 OFFSET ?)",
    )
    .bind(MODEL_USE_ROWS)
    .execute(connection)
    .await
    .map(|_| ())
}

/// Sums over a model's requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelUse {
    /// `None`: it was loaded but never asked.
    pub last_used_ms: Option<i64>,
    pub requests: i64,
    pub completion_tokens: i64,
    pub generate_ms: f64,
    /// The last time it was loaded.
    pub load_ms: Option<f64>,
}

impl ModelUse {
    /// Tokens per second over all its requests; `None` before there is anything to divide.
    pub fn tokens_per_s(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "2^53 tokens are never reached")]
        let tokens = self.completion_tokens as f64;
        (tokens > 0.0 && self.generate_ms > 0.0).then(|| tokens * 1e3 / self.generate_ms)
    }
}

#[derive(FromRow)]
struct Row {
    id: String,
    last_used_ms: Option<i64>,
    requests: i64,
    completion_tokens: i64,
    generate_ms: f64,
    load_ms: Option<f64>,
}

/// Every model's use, by its id.
pub async fn model_use(pool: &SqlitePool) -> Result<HashMap<String, ModelUse>, StorageError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, last_used_ms, requests, completion_tokens, generate_ms, load_ms FROM model_use",
    )
    .fetch_all(pool)
    .await?;
    let by_id = rows.into_iter().map(|row| {
        let Row { id, last_used_ms, requests, completion_tokens, generate_ms, load_ms } = row;
        (id, ModelUse { last_used_ms, requests, completion_tokens, generate_ms, load_ms })
    });
    Ok(by_id.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    #[tokio::test]
    async fn requests_add_up_and_the_last_load_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        let request = |at_ms, completion_tokens, generate_ms| RecordModelUse {
            id: "m".into(),
            at_ms,
            completion_tokens,
            generate_ms,
        };
        for load_ms in [900.0, 450.0] {
            let load = RecordModelLoad { id: "m".into(), load_ms };
            storage.write(load).await.expect("writes");
        }
        let before = model_use(storage.readers()).await.expect("reads")["m"].clone();
        assert_eq!((before.last_used_ms, before.tokens_per_s()), (None, None));
        storage.write(request(1_000, 30, 1_000.0)).await.expect("writes");
        storage.write(request(900, 10, 1_000.0)).await.expect("a late one is written");
        let used = model_use(storage.readers()).await.expect("reads")["m"].clone();
        assert_eq!(used.last_used_ms, Some(1_000));
        assert_eq!((used.requests, used.load_ms), (2, Some(450.0)));
        assert_eq!(used.tokens_per_s(), Some(20.0));
    }

    #[tokio::test]
    async fn the_model_unused_longest_is_forgotten_first() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
        let writes = (0..MODEL_USE_ROWS + 5).map(|n| {
            let id = format!("m{n}");
            storage.write(RecordModelUse { id, at_ms: n, completion_tokens: 1, generate_ms: 1.0 })
        });
        for write in futures_util::future::join_all(writes).await {
            write.expect("writes");
        }
        let kept = model_use(storage.readers()).await.expect("reads");
        assert_eq!(kept.len(), usize::try_from(MODEL_USE_ROWS).expect("fits"));
        assert!(!kept.contains_key("m0") && kept.contains_key("m2004"));
    }
}
