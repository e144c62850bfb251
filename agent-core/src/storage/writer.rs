//! The one task that writes, with group commit.

use std::{future::Future, pin::Pin, sync::Arc};

use sqlx::{Connection as _, sqlite::SqliteConnection};
use tokio::sync::{mpsc, oneshot, watch};

use super::StorageError;
use crate::config::limits;

/// One write: rows that belong together.
pub trait Write: Send + 'static {
    type Output: Send + 'static;
    fn run(
        self,
        connection: &mut SqliteConnection,
    ) -> impl Future<Output = Result<Self::Output, sqlx::Error>> + Send;
}

/// Called with the fate of the commit, once it is known.
type Finish = Box<dyn FnOnce(Result<(), Arc<str>>) + Send>;
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Write`] with its types erased, and whoever waits for it.
trait Queued: Send {
    fn run<'a>(self: Box<Self>, connection: &'a mut SqliteConnection) -> BoxFuture<'a, Finish>;
}

struct Waiting<W: Write> {
    write: W,
    reply: Option<oneshot::Sender<Result<W::Output, StorageError>>>,
}

impl<W: Write> Queued for Waiting<W> {
    fn run<'a>(self: Box<Self>, connection: &'a mut SqliteConnection) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            let result = run_in_savepoint(self.write, connection).await;
            let reply = self.reply;
            let finish: Finish = Box::new(move |committed| {
                let result = match (result, committed) {
                    (Ok(output), Ok(())) => Ok(output),
                    (Ok(_), Err(why)) => Err(StorageError::Write(why.to_string())),
                    (Err(e), _) => Err(StorageError::Write(e.to_string())),
                };
                match (reply, result) {
                    (Some(reply), result) => {
                        let _ = reply.send(result);
                    }
                    (None, Err(e)) => tracing::warn!("a row was lost: {e}"),
                    (None, Ok(_)) => {}
                }
            });
            finish
        })
    }
}

/// Inside a transaction sqlx's `begin` sets a savepoint; dropping it unfinished rolls back to it.
async fn run_in_savepoint<W: Write>(
    write: W,
    connection: &mut SqliteConnection,
) -> Result<W::Output, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    let output = write.run(&mut savepoint).await?;
    savepoint.commit().await?;
    Ok(output)
}

enum Message {
    Write(Box<dyn Queued>),
    Close(oneshot::Sender<()>),
}

#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    trouble: watch::Receiver<Option<String>>,
}

impl Writer {
    pub(super) fn spawn(connection: SqliteConnection) -> Self {
        let (queue, messages) = mpsc::channel(limits::STORAGE_QUEUE);
        let (trouble_out, trouble) = watch::channel(None);
        tokio::spawn(run(connection, messages, trouble_out));
        Self { queue, trouble }
    }

    pub(super) async fn write<W: Write>(&self, write: W) -> Result<W::Output, StorageError> {
        let (reply, answer) = oneshot::channel();
        let waiting = Box::new(Waiting { write, reply: Some(reply) });
        self.queue.send(Message::Write(waiting)).await.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }

    pub(super) fn write_behind<W: Write>(&self, write: W) {
        let waiting = Box::new(Waiting { write, reply: None });
        if let Err(e) = self.queue.try_send(Message::Write(waiting)) {
            tracing::warn!("a row was lost: the database cannot keep up ({e})");
        }
    }

    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    pub(super) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Message::Close(reply)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

async fn run(
    mut connection: SqliteConnection,
    mut messages: mpsc::Receiver<Message>,
    trouble: watch::Sender<Option<String>>,
) {
    let mut batch = Vec::with_capacity(limits::GROUP_COMMIT);
    while messages.recv_many(&mut batch, limits::GROUP_COMMIT).await > 0 {
        let mut writes = Vec::with_capacity(batch.len());
        let mut close = None;
        for message in batch.drain(..) {
            match message {
                Message::Write(write) => writes.push(write),
                Message::Close(reply) => close = Some(reply),
            }
        }
        commit(&mut connection, writes, &trouble).await;
        if let Some(reply) = close {
            if let Err(e) = connection.close().await {
                tracing::warn!("closing the database: {e}");
            }
            let _ = reply.send(());
            return;
        }
    }
}

async fn commit(
    connection: &mut SqliteConnection,
    writes: Vec<Box<dyn Queued>>,
    trouble: &watch::Sender<Option<String>>,
) {
    if writes.is_empty() {
        return;
    }
    let mut finishes = Vec::with_capacity(writes.len());
    let result = async {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        for write in writes {
            finishes.push(write.run(&mut transaction).await);
        }
        transaction.commit().await
    }
    .await;
    let result = result.map_err(|e: sqlx::Error| Arc::<str>::from(e.to_string()));
    // Dropped writes (the transaction did not even begin) answer `Closed` by dropping their reply.
    trouble.send_if_modified(|known| {
        let new = result.as_ref().err().map(ToString::to_string);
        let changed = *known != new;
        *known = new;
        changed
    });
    if let Err(why) = &result {
        tracing::error!("cannot write to the database: {why}");
    }
    for finish in finishes {
        finish(result.clone());
    }
}
