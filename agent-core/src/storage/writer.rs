//! The one task that writes, with group commit.

use std::{future::Future, pin::Pin, sync::Arc};

use sqlx::{
    Connection as _,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
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

/// Called with the fate of the transaction, once it is known.
type Finish = Box<dyn FnOnce(Result<(), Arc<str>>) + Send>;
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Write`] with its types erased, and whoever waits for it.
trait Queued: Send {
    /// Carries it out in a savepoint. `false`: the transaction around it is gone.
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut SqliteConnection,
    ) -> BoxFuture<'a, (Finish, bool)>;

    /// It was never tried.
    fn refuse(self: Box<Self>, why: &str);
}

struct Waiting<W: Write> {
    write: W,
    reply: Option<oneshot::Sender<Result<W::Output, StorageError>>>,
}

impl<W: Write> Queued for Waiting<W> {
    fn run<'a>(
        self: Box<Self>,
        connection: &'a mut SqliteConnection,
    ) -> BoxFuture<'a, (Finish, bool)> {
        Box::pin(async move {
            let Self { write, reply } = *self;
            let (result, whole) = run_in_savepoint(write, connection).await;
            let finish: Finish = Box::new(move |committed| {
                let result = match (result, committed) {
                    (Ok(output), Ok(())) => Ok(output),
                    (Ok(_), Err(why)) => Err(StorageError::Write(why.to_string())),
                    (Err(e), _) => Err(StorageError::Write(e.to_string())),
                };
                answer(reply, result);
            });
            (finish, whole)
        })
    }

    fn refuse(self: Box<Self>, why: &str) {
        answer(self.reply, Err(StorageError::Write(why.to_owned())));
    }
}

fn answer<T>(
    reply: Option<oneshot::Sender<Result<T, StorageError>>>,
    result: Result<T, StorageError>,
) {
    match (reply, result) {
        (Some(reply), result) => {
            let _ = reply.send(result);
        }
        (None, Err(e)) => tracing::warn!("a row was lost: {e}"),
        (None, Ok(_)) => {}
    }
}

/// Transactions are written as plain SQL, not with sqlx's: when SQLite rolls back by itself (a full
/// disk), sqlx goes on believing in its transaction and every later one fails.
async fn sql(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(|_| ())
}

/// The write's result, and whether the transaction around it still stands.
async fn run_in_savepoint<W: Write>(
    write: W,
    connection: &mut SqliteConnection,
) -> (Result<W::Output, sqlx::Error>, bool) {
    if let Err(e) = sql(connection, "SAVEPOINT one_write").await {
        return (Err(e), false);
    }
    match write.run(connection).await {
        Ok(output) => match sql(connection, "RELEASE one_write").await {
            Ok(()) => (Ok(output), true),
            Err(e) => (Err(e), false),
        },
        Err(e) => {
            let back = sql(connection, "ROLLBACK TO one_write").await.is_ok()
                && sql(connection, "RELEASE one_write").await.is_ok();
            (Err(e), back)
        }
    }
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
    pub(super) fn spawn(connection: SqliteConnection, options: SqliteConnectOptions) -> Self {
        let (queue, messages) = mpsc::channel(limits::STORAGE_QUEUE);
        let (trouble_out, trouble) = watch::channel(None);
        let worker = Worker { connection: Some(connection), options, trouble: trouble_out };
        tokio::spawn(worker.run(messages));
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

struct Worker {
    /// `None` after a transaction broke: the next batch opens a new one.
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    trouble: watch::Sender<Option<String>>,
}

impl Worker {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
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
            if !writes.is_empty() {
                self.commit(writes).await;
            }
            if let Some(reply) = close {
                if let Some(connection) = self.connection.take()
                    && let Err(e) = connection.close().await
                {
                    tracing::warn!("closing the database: {e}");
                }
                let _ = reply.send(());
                return;
            }
        }
    }

    async fn commit(&mut self, writes: Vec<Box<dyn Queued>>) {
        let mut finishes = Vec::with_capacity(writes.len());
        let result = self.transaction(writes, &mut finishes).await;
        let result = result.map_err(|e| Arc::<str>::from(e.to_string()));
        self.trouble.send_if_modified(|known| {
            let new = result.as_ref().err().map(ToString::to_string);
            let changed = *known != new;
            *known = new;
            changed
        });
        if let Err(why) = &result {
            tracing::error!("cannot write to the database: {why}");
            // Nothing is assumed about the state of a connection whose transaction broke.
            if let Some(broken) = self.connection.take() {
                let _ = broken.close_hard().await;
            }
        }
        for finish in finishes {
            finish(result.clone());
        }
    }

    async fn transaction(
        &mut self,
        writes: Vec<Box<dyn Queued>>,
        finishes: &mut Vec<Finish>,
    ) -> Result<(), sqlx::Error> {
        let begun = self.begin().await;
        let mut writes = writes.into_iter();
        let connection = match begun {
            Ok(connection) => connection,
            Err(e) => {
                writes.for_each(|write| write.refuse(&e.to_string()));
                return Err(e);
            }
        };
        while let Some(write) = writes.next() {
            let (finish, whole) = write.run(connection).await;
            finishes.push(finish);
            if !whole {
                let why = "the transaction was rolled back";
                writes.for_each(|write| write.refuse(why));
                return Err(sqlx::Error::Protocol(why.into()));
            }
        }
        sql(connection, "COMMIT").await
    }

    async fn begin(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => SqliteConnection::connect_with(&self.options).await?,
        };
        let connection = self.connection.insert(connection);
        sql(connection, "BEGIN IMMEDIATE").await?;
        Ok(connection)
    }
}
