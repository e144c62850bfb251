//! Results on their way to webhooks: rows, attempts with backoff, a dead-letter list.
//!
//! A row is written in the transaction that ends its task ([`crate::storage::enqueue`]). The driver
//! posts what is due, a few at a time, and writes down what became of it. A crash in between sends
//! it twice, with the same `Idempotency-Key`; it is never lost.

mod post;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_api::tasks::{Delivered, Delivery, DeliveryState, Task, Webhook};
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::post::{Outcome, Post};
use crate::{
    clock::now_ms,
    storage::{
        Attempted, DueDelivery, Met, RecordAttempt, RemoveDelivery, RetryDelivery, Storage,
        StorageError, due_deliveries, due_delivery, list_deliveries, next_delivery_ms,
    },
};

/// Deliveries that are posted at the same time. A receiver that does not answer holds one for
/// [`post::ANSWER_TIMEOUT`]; the others go on.
const AT_ONCE: usize = 4;
/// Attempts before a delivery is given up.
const ATTEMPTS: u32 = 10;
/// The first wait; each is three times as long as the one before, and the nine of them together
/// take 22 hours: a receiver may be away for a day.
const FIRST_WAIT: Duration = Duration::from_secs(8);
/// The wall clock is looked at this often while something waits: it can be set, and a computer can
/// sleep.
const LOOK_AT_MOST: Duration = Duration::from_secs(60);
/// After a failure of the database, which is likely to last.
const STORAGE_PAUSE: Duration = Duration::from_secs(5);
/// Longest output that is posted. Of a longer one only the task is told; the output is at the node.
const OUTPUT_BYTES: usize = 4 << 20;

/// Why a webhook is not taken, or a delivery not changed.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error("the webhook's address is not valid: {0}. Use https://host/path")]
    Url(String),
    #[error(
        "the webhook's address {0} is not encrypted, which is for this computer and its own network only. Use https://"
    )]
    Plain(String),
    #[error("the webhook's secret has more than {0} bytes")]
    Secret(usize),
    #[error("there is no delivery {0}. GET /outbox lists those there are")]
    NoSuchDelivery(String),
    #[error("delivery {0} has arrived already; there is nothing left to send")]
    AlreadyDelivered(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

pub use post::check;

/// What is posted about a task that ended, as JSON: [`Delivered`]. An output above 4 MiB is left
/// out.
pub fn body(task: &Task, output: Option<&Value>) -> String {
    let short = output.filter(|output| output.to_string().len() <= OUTPUT_BYTES);
    let delivered = Delivered { task: task.clone(), output: short.cloned() };
    // Numbers, texts and lists: it can always be written.
    serde_json::to_string(&delivered).unwrap_or_default()
}

/// The outbox. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Storage,
    post: Post,
    in_flight: Mutex<HashSet<String>>,
    /// The driver has to look again.
    wake: Notify,
    changed: watch::Sender<()>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

impl Outbox {
    /// Nothing is posted before [`drive`](Self::drive).
    pub fn new(storage: Storage) -> Self {
        let inner = Inner {
            storage,
            post: Post::default(),
            in_flight: Mutex::default(),
            wake: Notify::new(),
            changed: watch::Sender::new(()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// To be called after a transaction with [`crate::storage::enqueue`] in it.
    pub fn wake(&self) {
        self.inner.changed.send_replace(());
        self.inner.wake.notify_one();
    }

    /// Changes whenever a delivery does.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// Newest first, at most 200. Secrets are not shown.
    pub async fn list(&self, state: Option<DeliveryState>) -> Result<Vec<Delivery>, OutboxError> {
        Ok(list_deliveries(self.inner.storage.readers(), state).await?)
    }

    /// Tries a delivery again now, with all its attempts before it.
    pub async fn retry(&self, id: &str) -> Result<(), OutboxError> {
        let retry = RetryDelivery { id: id.to_owned(), now_ms: now_ms() };
        let met = self.inner.storage.write(retry).await?;
        self.answer(met, id)
    }

    /// Gives a delivery up for good. One that is being posted may still arrive.
    pub async fn remove(&self, id: &str) -> Result<(), OutboxError> {
        let met = self.inner.storage.write(RemoveDelivery(id.to_owned())).await?;
        self.answer(met, id)
    }

    fn answer(&self, met: Met, id: &str) -> Result<(), OutboxError> {
        match met {
            Met::Done => {
                self.wake();
                Ok(())
            }
            Met::NoSuchDelivery => Err(OutboxError::NoSuchDelivery(id.to_owned())),
            Met::AlreadyDelivered => Err(OutboxError::AlreadyDelivered(id.to_owned())),
        }
    }

    /// Posts what is due until `stop`. One task of the node; it sleeps while nothing is due. What
    /// is being posted when it stops is posted again after the next start.
    pub async fn drive(self, stop: CancellationToken) {
        let mut posting = JoinSet::new();
        loop {
            let wait = match self.begin_due(&mut posting).await {
                Ok(wait) => wait,
                Err(e) => {
                    tracing::warn!("the outbox cannot be read: {e}");
                    Some(STORAGE_PAUSE)
                }
            };
            let wait = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait.min(LOOK_AT_MOST)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(_) = posting.join_next(), if !posting.is_empty() => {}
                () = wait => {}
                () = self.inner.wake.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Begins what is due and has room. Returns how long nothing else will be due; `None`: until
    /// something is put in or ends.
    async fn begin_due(&self, posting: &mut JoinSet<()>) -> Result<Option<Duration>, StorageError> {
        let now = now_ms();
        let readers = self.inner.storage.readers();
        let room = AT_ONCE.saturating_sub(posting.len());
        if room == 0 {
            // The end of one of them wakes the driver.
            return Ok(None);
        }
        // Those in flight are still due by their rows.
        let limit = u32::try_from(2 * AT_ONCE).unwrap_or(u32::MAX);
        let due = due_deliveries(readers, now, limit).await?;
        let mut begun = 0;
        for id in due {
            if begun == room {
                return Ok(None);
            }
            if !self.in_flight().insert(id.clone()) {
                continue;
            }
            begun += 1;
            let (outbox, flight) = (self.clone(), InFlight { outbox: self.clone(), id });
            posting.spawn(async move {
                if let Err(e) = outbox.attempt(&flight.id).await {
                    tracing::warn!("a delivery could not be read or written down: {e}");
                    tokio::time::sleep(STORAGE_PAUSE).await;
                }
            });
        }
        let next = next_delivery_ms(readers, now).await?;
        Ok(next.map(|next| Duration::from_millis(u64::try_from(next - now).unwrap_or(0))))
    }

    /// One attempt, from the row to the row.
    async fn attempt(&self, id: &str) -> Result<(), StorageError> {
        let Some(due) = due_delivery(self.inner.storage.readers(), id).await? else {
            return Ok(());
        };
        let attempts = due.attempts.saturating_add(1);
        let result = self.post(&due).await;
        let at_ms = now_ms();
        let outcome = judge(result, attempts, at_ms, rand::random());
        match &outcome {
            Attempted::GivenUp { problem } => {
                tracing::warn!(delivery = id, "a delivery was given up: {problem}");
            }
            Attempted::Again { problem, .. } => {
                tracing::debug!(delivery = id, attempts, "a delivery failed: {problem}");
            }
            Attempted::Delivered => {}
        }
        let record = RecordAttempt { id: id.to_owned(), attempts, at_ms, outcome };
        self.inner.storage.write(record).await?;
        self.inner.changed.send_replace(());
        Ok(())
    }

    async fn post(&self, due: &DueDelivery) -> Outcome {
        let webhook = Webhook { url: due.url.clone(), secret: due.secret.clone() };
        self.inner.post.deliver(&webhook, &due.id, &due.body).await
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A delivery that is being posted; dropped however that ends.
struct InFlight {
    outbox: Outbox,
    id: String,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.outbox.in_flight().remove(&self.id);
    }
}

/// What follows from an attempt's end. `roll` is uniform in 0..1.
fn judge(result: Outcome, attempts: u32, now_ms: i64, roll: f64) -> Attempted {
    match result {
        Outcome::Delivered => Attempted::Delivered,
        Outcome::Refused(problem) => Attempted::GivenUp { problem },
        Outcome::Failed(problem) if attempts >= ATTEMPTS => {
            Attempted::GivenUp { problem: format!("{problem} That was attempt {attempts}.") }
        }
        Outcome::Failed(problem) => {
            let wait = wait_after(attempts, roll);
            let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
            Attempted::Again { next_ms: now_ms.saturating_add(wait), problem }
        }
    }
}

/// The wait after an attempt: threefold each time, and up to a fifth more or less, so that
/// deliveries that failed together do not come back together.
fn wait_after(attempts: u32, roll: f64) -> Duration {
    let factor = 3_u32.saturating_pow(attempts.saturating_sub(1).min(ATTEMPTS));
    FIRST_WAIT.saturating_mul(factor).mul_f64(0.8 + 0.4 * roll.clamp(0.0, 1.0))
}
