//! Tasks that were submitted here: rows first, then leases on nodes, then results.
//!
//! One dispatcher takes tasks out of their lanes (`origin/book.rs`) and gives each a flight
//! (`origin/flight.rs`), which carries it to a node and back. Nothing polls: the dispatcher sleeps
//! until something changes or is due.

mod book;
mod flight;
mod lease;
mod news;
mod outcome;
#[cfg(test)]
mod tests;
pub mod workers;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use agent_api::{
    NodeId, TaskId,
    tasks::{Task, TaskState},
};
use book::{Book, LANES, Next};
use flight::{After, Control};
use news::Listeners;
pub use news::News;
use tokio::{
    sync::{Notify, broadcast, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workers::Workers;

use super::{board::Board, known::InFlight, outbox::body};
use crate::{
    clock::{DAY_MS, now_ms},
    storage::{
        Storage, StorageError,
        tasks::{
            AddTask, Added, EndQueued, NewTask, OTHERS_ENDED, OWN_ENDED, PruneServedResults,
            PruneTasks, TaskRow, expired_tasks, get_task, lanes, living_tasks, next_expiry,
            queued_of,
        },
    },
};

/// Tasks that are ended by one write when they expire together.
const EXPIRE: u32 = 256;
/// Rows that are forgotten by one write, so that others do not wait for long.
const PRUNE: i64 = 500;
/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(10 * 60);
/// Clocks that are kept right by the network are moved by less than this between two looks.
const CLOCK_MS: i64 = 10 * 1000;
/// Results for other nodes are kept this long.
const SERVED_MS: i64 = 10 * 60 * 1000;
/// Clocks that are set must not make a timer wait for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);
/// After a database error.
const AGAIN: Duration = Duration::from_secs(1);
/// Ends that wait for whoever writes the activity feed.
const ENDS: usize = 256;

/// What an origin works with.
#[derive(Debug)]
pub struct OriginSetup {
    pub storage: Storage,
    pub board: Board,
    pub workers: Arc<dyn Workers>,
    pub in_flight: InFlight,
    pub draining: watch::Receiver<bool>,
    pub stop: CancellationToken,
    pub tracker: TaskTracker,
}

/// The dispatcher's handle. Clones share it.
#[derive(Clone, Debug)]
pub struct Origin {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    me: NodeId,
    storage: Storage,
    board: Board,
    workers: Arc<dyn Workers>,
    in_flight: InFlight,
    draining: watch::Receiver<bool>,
    stop: CancellationToken,
    tracker: TaskTracker,
    book: Mutex<Book>,
    /// The book changed.
    wake: Notify,
    /// A task may expire sooner than the one that is waited for.
    expiry: Notify,
    /// When the next one expires, Unix milliseconds.
    soonest: AtomicI64,
    listeners: Listeners,
    ends: broadcast::Sender<Ended>,
}

/// An own task that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub task: Task,
    /// A webhook is to hear of it.
    pub webhook: bool,
}

/// What became of a request to stop a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is over, for this reason or another.
    Over,
    /// There is no such task of this node's own that waits or runs.
    Unknown,
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// A node is done with a task of this need: it may take the next one.
    fn slot_free(&self, node: &NodeId, need: i64) {
        self.book().took(node, need, Instant::now());
        self.wake.notify_one();
    }

    fn told_end(&self, row: &TaskRow) {
        let _ = self.ends.send(Ended { task: row.task.clone(), webhook: row.webhook.is_some() });
    }

    /// A flight is over; `place` is the task's need and priority.
    fn landed(&self, id: &TaskId, lane: Option<i64>, place: Option<(i64, u8)>, after: After) {
        let now = Instant::now();
        let mut book = self.book();
        book.release(id, lane);
        if let Some((need, priority)) = place.or(lane.map(|need| (need, 0))) {
            match after {
                After::Ended => {}
                After::Parked => {
                    book.back(need, priority, id.clone());
                    book.park(need, now);
                }
                After::Delay(wait) => book.delay(now + wait, need, priority, id.clone()),
            }
        } else if after != After::Ended {
            book.recover.push_back(id.clone());
        }
        drop(book);
        self.wake.notify_one();
    }
}

impl Origin {
    /// Takes up what was left when the process ended, and begins to work.
    pub async fn start(setup: OriginSetup) -> Result<Self, StorageError> {
        let OriginSetup { storage, board, workers, in_flight, draining, stop, tracker } = setup;
        let mut book = Book::default();
        book.recover = living_tasks(storage.readers()).await?.into();
        let limit = u32::try_from(LANES).unwrap_or(u32::MAX);
        learn(&mut book, lanes(storage.readers(), limit).await?, LANES);
        let (ends, _) = broadcast::channel(ENDS);
        let inner = Arc::new(Inner {
            me: workers.me(),
            storage,
            board,
            workers,
            in_flight,
            draining,
            stop,
            tracker,
            book: Mutex::new(book),
            wake: Notify::new(),
            expiry: Notify::new(),
            soonest: AtomicI64::new(i64::MAX),
            listeners: Listeners::default(),
            ends,
        });
        let origin = Self { inner };
        let tracker = &origin.inner.tracker;
        tracker.spawn(origin.clone().dispatch());
        tracker.spawn(origin.clone().expire());
        Ok(origin)
    }

    /// Writes a task down; it is on disk when this returns.
    pub async fn add(&self, new: NewTask) -> Result<Added, StorageError> {
        let (need, task) = (new.row.need, new.row.task.clone());
        let expires = new.row.expires_ms.unwrap_or(i64::MAX);
        let added = self.inner.storage.write(AddTask(Box::new(new))).await?;
        if added == Added::New {
            self.inner.book().enqueue(need, task.priority, task.id.clone());
            self.inner.board.tell(task);
            self.inner.wake.notify_one();
            if expires < self.inner.soonest.load(Ordering::Relaxed) {
                self.inner.expiry.notify_one();
            }
        }
        Ok(added)
    }

    /// Stops a task, wherever it is; it is over, and that is on disk, when this returns.
    pub async fn cancel(&self, id: &TaskId) -> Result<Cancelled, StorageError> {
        loop {
            let flight = {
                let mut book = self.inner.book();
                if book.claim(id) { None } else { Some(book.flight(id).cloned().flatten()) }
            };
            match flight {
                None => {
                    let reason = "Cancelled by you.".to_owned();
                    let result = self.end_claimed(vec![id.clone()], TaskState::Cancelled, reason);
                    let ended = result.await?;
                    return Ok(if ended == 0 { Cancelled::Unknown } else { Cancelled::Over });
                }
                Some(Some(flight)) => {
                    // It may land in its lane just now: then it is claimed there.
                    if flight.control.send(Control::Cancel).await.is_ok() {
                        flight.over.cancelled().await;
                        if self.has_ended(id).await? {
                            return Ok(Cancelled::Over);
                        }
                    } else {
                        flight.over.cancelled().await;
                    }
                }
                // Taken this very moment.
                Some(None) => tokio::task::yield_now().await,
            }
        }
    }

    async fn has_ended(&self, id: &TaskId) -> Result<bool, StorageError> {
        let row = get_task(self.inner.storage.readers(), id).await?;
        Ok(row.is_none_or(|row| row.task.state.is_final()) || self.inner.stop.is_cancelled())
    }

    /// Ends waiting tasks that were claimed; releases them.
    async fn end_claimed(
        &self,
        ids: Vec<TaskId>,
        state: TaskState,
        reason: String,
    ) -> Result<usize, StorageError> {
        let body = |task: &Task| body(task, None);
        let write = EndQueued { ids: ids.clone(), state, reason, now_ms: now_ms(), body };
        let ended = self.inner.storage.write(write).await;
        {
            let mut book = self.inner.book();
            ids.iter().for_each(|id| book.release(id, None));
            if ended.is_err() {
                // They wait as before; a flight finds out where.
                book.recover.extend(ids);
            }
        }
        self.inner.wake.notify_one();
        let ended = ended?;
        for id in &ended {
            self.inner.listeners.tell(id, || News::End);
            if let Ok(Some(row)) = get_task(self.inner.storage.readers(), id).await {
                self.inner.board.tell(row.task.clone());
                self.inner.told_end(&row);
            }
        }
        Ok(ended.len())
    }

    /// A node came or changed, a setting, the pause: what waits is looked at again.
    pub fn moved(&self) {
        self.inner.book().unpark(Instant::now());
        self.inner.wake.notify_one();
    }

    /// What happens to a task from now on. `None`: too many are followed.
    pub fn follow(&self, id: &TaskId) -> Option<broadcast::Receiver<News>> {
        self.inner.listeners.follow(id)
    }

    /// Text so far of a task that runs.
    pub fn partial(&self, id: &TaskId) -> Option<String> {
        let flight = self.inner.book().flight(id).cloned().flatten()?;
        let text = flight.partial.lock().clone();
        Some(text).filter(|text| !text.is_empty())
    }

    /// 1 is next; `None` for one that does not wait here or is far behind.
    pub fn position(&self, need: i64, priority: u8, id: &TaskId) -> Option<u32> {
        self.inner.book().position(need, priority, id)
    }

    /// Tasks as they end.
    pub fn ends(&self) -> broadcast::Receiver<Ended> {
        self.inner.ends.subscribe()
    }

    pub fn in_flight(&self) -> usize {
        self.inner.book().in_flight()
    }

    async fn dispatch(self) {
        let inner = &self.inner;
        let mut draining = inner.draining.clone();
        loop {
            let look = inner.book().look_for_lanes();
            if look {
                let limit = u32::try_from(LANES * 2).unwrap_or(u32::MAX);
                match lanes(inner.storage.readers(), limit).await {
                    Ok(needs) => learn(&mut inner.book(), needs, LANES * 2),
                    Err(e) => {
                        tracing::warn!("the needs of waiting tasks cannot be read: {e}");
                        inner.book().lose_lanes();
                    }
                }
            }
            let next = inner.book().next(Instant::now(), inner.is_draining());
            let until = match next {
                Next::Start { id, lane } => {
                    inner.tracker.spawn(flight::fly(Arc::clone(inner), id, lane));
                    continue;
                }
                Next::Fill { need, limit } => {
                    match queued_of(inner.storage.readers(), need, limit).await {
                        Ok(rows) => {
                            inner.book().fill(need, rows, limit);
                            continue;
                        }
                        Err(e) => tracing::warn!("waiting tasks cannot be read: {e}"),
                    }
                    Some(Instant::now() + AGAIN)
                }
                Next::Wait(until) => until,
            };
            let due = async {
                match until {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = inner.wake.notified() => {}
                () = due => {}
                Ok(()) = draining.changed() => {}
                () = inner.stop.cancelled() => return,
            }
        }
    }

    /// Ends tasks whose time is over.
    async fn expire(self) {
        let inner = &self.inner;
        loop {
            let next = next_expiry(inner.storage.readers()).await.ok().flatten();
            inner.soonest.store(next.unwrap_or(i64::MAX), Ordering::Relaxed);
            let wait = next.map_or(LONGEST_WAIT, |at| {
                let ms = at.saturating_sub(now_ms()).max(0);
                Duration::from_millis(ms.unsigned_abs()).min(LONGEST_WAIT)
            });
            if wait.is_zero() && self.expire_now().await {
                continue;
            }
            // A task whose end cannot be written is tried again, not in a tight loop.
            let wait = wait.max(Duration::from_millis(50));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = inner.expiry.notified() => {}
                () = inner.stop.cancelled() => return,
            }
        }
    }

    /// `true`: some ended, there may be more.
    async fn expire_now(&self) -> bool {
        let inner = &self.inner;
        let Ok(ids) = expired_tasks(inner.storage.readers(), now_ms(), EXPIRE).await else {
            return false;
        };
        let mut waiting = Vec::new();
        for id in ids {
            let flight = {
                let mut book = inner.book();
                if book.claim(&id) {
                    waiting.push(id);
                    continue;
                }
                book.flight(&id).cloned().flatten()
            };
            if let Some(flight) = flight {
                let _ = flight.control.try_send(Control::Tick);
            }
        }
        if waiting.is_empty() {
            return false;
        }
        let reason = "Nobody did it in the time it was given.".to_owned();
        match self.end_claimed(waiting, TaskState::Expired, reason).await {
            Ok(ended) => ended > 0,
            Err(e) => {
                tracing::warn!("tasks that expired cannot be ended: {e}");
                false
            }
        }
    }

    /// Forgets what is too old or too much, every ten minutes, until the node stops. By age only
    /// when the clock went as fast as time since the last look: one that was just set, far ahead
    /// perhaps, must not cost the owner his results.
    pub async fn prune(self, keep_days: impl Fn() -> u32 + Send) {
        let inner = &self.inner;
        let mut last = None;
        loop {
            let now = now_ms();
            let look = (now, Instant::now());
            let before_ms = if last.replace(look).is_some_and(|last| agree(last, look)) {
                let served = PruneServedResults { before_ms: now.saturating_sub(SERVED_MS) };
                let _ = inner.storage.write(served).await;
                now.saturating_sub(i64::from(keep_days()).saturating_mul(DAY_MS))
            } else {
                i64::MIN
            };
            let (own, others) = (OWN_ENDED, OTHERS_ENDED);
            let prune = PruneTasks { before_ms, own, others, most: PRUNE };
            while let Ok(1..) = inner.storage.write(prune).await {
                // Others write in between.
                tokio::task::yield_now().await;
            }
            tokio::select! {
                () = tokio::time::sleep(PRUNE_EVERY) => {}
                () = inner.stop.cancelled() => return,
            }
        }
    }
}

/// Takes needs over that were read, `limit` at most.
fn learn(book: &mut Book, needs: Vec<i64>, limit: usize) {
    if needs.len() >= limit {
        book.lose_lanes();
    }
    needs.into_iter().for_each(|need| book.know(need));
}

/// Whether the wall clock went as fast as time between two looks.
fn agree((before_ms, before): (i64, Instant), (after_ms, after): (i64, Instant)) -> bool {
    let passed = i64::try_from((after - before).as_millis()).unwrap_or(i64::MAX);
    after_ms.saturating_sub(before_ms).saturating_sub(passed).saturating_abs() <= CLOCK_MS
}
