//! Table `node_state`: small facts that outlive a restart.

use sqlx::{SqlitePool, sqlite::SqliteConnection};

use super::{StorageError, Write};

/// Sets a value, or removes it with `None`.
#[derive(Debug)]
pub struct SetState {
    pub key: &'static str,
    pub value: Option<String>,
}

impl Write for SetState {
    type Output = ();

    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        match self.value {
            Some(value) => {
                sqlx::query("INSERT INTO node_state (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
                    .bind(self.key)
                    .bind(value)
                    .execute(connection)
                    .await?
            }
            None => {
                sqlx::query("DELETE FROM node_state WHERE key = ?")
                    .bind(self.key)
                    .execute(connection)
                    .await?
            }
        };
        Ok(())
    }
}

pub async fn get_state(pool: &SqlitePool, key: &str) -> Result<Option<String>, StorageError> {
    let value = sqlx::query_scalar("SELECT value FROM node_state WHERE key = ?")
        .bind(key)
        .fetch_optional(pool)
        .await?;
    Ok(value)
}
