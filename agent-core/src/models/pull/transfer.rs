//! Fetches one blob: carries out a [`Plan`] with ranged requests, to the registry and to peers that
//! have it, and hands the bytes to a [`Writer`].

mod from_peers;

use std::{collections::HashMap, future::Future, pin::Pin, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use reqwest::StatusCode;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    disk::WriteProblem,
    peers::{Became, OtherPlaces, Pool, Wanted},
    plan::{Ask, ConnId, End, Next, Plan, Taken, TooMuch},
    progress::{Counters, Progress},
    writer::Writer,
};
use crate::{
    limit::Limiter,
    models::registry::{Answer, RegistryError, RemoteBlob},
};

/// The driver looks around at least this often; the record is saved meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// How a transfer ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// All bytes were handed to the writer.
    Complete,
    Stopped,
    /// It may go on later.
    Transient {
        reason: String,
        wait: Option<Duration>,
    },
    Permanent(String),
    Disk(WriteProblem),
    /// The file is another one than when the pull began.
    Changed,
}

/// What a transfer needs.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    pub blob: &'a RemoteBlob,
    pub writer: &'a Writer,
    pub limiter: &'a Limiter,
    pub counters: &'a Counters,
    pub progress: &'a Progress,
    pub stop: &'a CancellationToken,
    /// A connection without bytes for so long is dropped.
    pub stall: Duration,
    /// `ETag` or the like that the file must still have.
    pub version: Option<&'a str>,
    /// Where peers that have it are found.
    pub places: Option<(&'a dyn OtherPlaces, Wanted)>,
}

/// What a connection did.
enum Event {
    Opened(Ask, Result<Answer, RegistryError>),
    Chunk(ConnId, Answer, Result<Option<Bytes>, RegistryError>),
    Stalled(ConnId),
    Dropped(ConnId),
    Peer(from_peers::Event),
}

type Connections<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Event> + Send + 'a>>>;

/// A transfer under way.
struct Driver<'a> {
    transfer: &'a Transfer<'a>,
    plan: Plan,
    pool: Pool,
    started: Instant,
    /// Time spent waiting for the disk or the bandwidth limit.
    held_up: Duration,
    connections: Connections<'a>,
    drops: HashMap<ConnId, CancellationToken>,
    /// Why the last connection failed.
    last_failure: Option<RegistryError>,
}

impl Transfer<'_> {
    /// Runs until all bytes are here or it cannot go on. Whatever happens, the writer has what
    /// arrived.
    pub(super) async fn run(&self, plan: Plan, pool: Pool) -> Ended {
        let mut driver = Driver {
            transfer: self,
            plan,
            pool,
            started: Instant::now(),
            held_up: Duration::ZERO,
            connections: FuturesUnordered::new(),
            drops: HashMap::new(),
            last_failure: None,
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ended::Stopped,
            ended = driver.run() => ended,
        }
    }

    /// Checks that an answer is the range that was asked for. `Ok(false)`: it is the whole file.
    fn check_range(&self, ask: Ask, total: u64, answer: &Answer) -> Result<bool, Bad> {
        if let (Some(expected), Some(found)) = (self.version, answer.version())
            && expected != found
        {
            return Err(Bad::End(Ended::Changed));
        }
        let host = self.blob.host();
        let lie = |found: u64| {
            Bad::End(Ended::Permanent(format!(
                "{host} has {found} bytes where the manifest says {total}. Ask whoever runs it; nothing can be pulled like this."
            )))
        };
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.content_range().ok_or(Bad::Range)?;
                match range.total {
                    Some(found) if found != total => Err(lie(found)),
                    _ if range.start != ask.start || range.end > ask.end => Err(Bad::Range),
                    _ => Ok(true),
                }
            }
            StatusCode::OK => match answer.content_length() {
                Some(found) if found != total => Err(lie(found)),
                _ => Ok(ask.start == 0 && ask.end == total),
            },
            _ => Err(Bad::Range),
        }
    }
}

/// What is wrong with an answer.
enum Bad {
    Range,
    End(Ended),
}

impl<'a> Driver<'a> {
    /// The plan's clock.
    fn now(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.held_up)
    }

    async fn run(&mut self) -> Ended {
        let mut status = self.transfer.writer.status();
        self.look_for_peers();
        loop {
            if let Some(problem) = status.borrow_and_update().problem.clone() {
                return Ended::Disk(problem);
            }
            self.plan.set_limit(self.transfer.limiter.limit());
            self.plan.hashed(self.transfer.writer.hashed());
            let wake = match self.hand_out() {
                Some(wake) => self.started + self.held_up + wake.min(self.now() + LOOK),
                None => return Ended::Complete,
            };
            tokio::select! {
                biased;
                Some(event) = self.connections.next() => {
                    if let Some(ended) = self.handle(event).await {
                        return ended;
                    }
                }
                _ = status.changed() => {}
                () = sleep_until(wake) => self.transfer.writer.tick(),
            }
        }
    }

    /// Opens what the plan wants opened. `None`: all bytes are here.
    fn hand_out(&mut self) -> Option<Duration> {
        loop {
            if !self.plan.extent().is_complete() && !self.has_room() {
                return Some(self.pool.wakes_at(self.now()).unwrap_or(Duration::MAX));
            }
            match self.plan.next(self.now()) {
                Next::Ask(ask) => {
                    if self.ask_peer(ask) {
                        continue;
                    }
                    self.drops.insert(ask.conn, CancellationToken::new());
                    let blob = self.transfer.blob;
                    self.connect(ask.conn, async move {
                        Event::Opened(ask, blob.open(Some((ask.start, ask.end))).await)
                    });
                }
                Next::Wait(until) => return Some(until.unwrap_or(Duration::MAX)),
                Next::Complete => return None,
            }
        }
    }

    /// Lets a connection go on in the background, until it is dropped.
    fn connect(&mut self, conn: ConnId, act: impl Future<Output = Event> + Send + 'a) {
        let dropped = self.drops.get(&conn).cloned().unwrap_or_default();
        self.connections.push(Box::pin(async move {
            dropped.run_until_cancelled_owned(act).await.unwrap_or(Event::Dropped(conn))
        }));
    }

    fn read(&mut self, conn: ConnId, mut answer: Answer) {
        let stall = self.transfer.stall;
        self.connect(conn, async move {
            match timeout(stall, answer.chunk()).await {
                Ok(chunk) => Event::Chunk(conn, answer, chunk),
                Err(_) => Event::Stalled(conn),
            }
        });
    }

    async fn handle(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Opened(ask, Ok(answer)) => self.opened(ask, answer).await,
            Event::Opened(ask, Err(error)) => self.failed(ask.conn, error),
            Event::Chunk(conn, answer, Ok(Some(bytes))) => self.chunk(conn, answer, bytes).await,
            Event::Chunk(conn, _, Ok(None)) => self.end(conn, End::Body),
            Event::Chunk(conn, _, Err(error)) => self.failed(conn, error),
            Event::Stalled(conn) => {
                self.last_failure = Some(RegistryError::Silent {
                    host: self.transfer.blob.host(),
                    seconds: self.transfer.stall.as_secs(),
                });
                self.end(conn, End::Stalled)
            }
            Event::Dropped(conn) => self.end(conn, End::Dropped),
            Event::Peer(event) => self.handle_peer(event).await,
        }
    }

    async fn opened(&mut self, ask: Ask, answer: Answer) -> Option<Ended> {
        let total = self.plan.extent().total();
        match self.transfer.check_range(ask, total, &answer) {
            Ok(true) => {
                self.read(ask.conn, answer);
                None
            }
            Ok(false) => Some(self.whole(answer).await),
            Err(Bad::End(ended)) => Some(ended),
            Err(Bad::Range) => {
                let why = "it sent another range than it was asked for".to_owned();
                self.failed(ask.conn, self.broken(why))
            }
        }
    }

    fn broken(&self, why: String) -> RegistryError {
        RegistryError::Broken { host: self.transfer.blob.host(), why }
    }

    async fn chunk(&mut self, conn: ConnId, answer: Answer, bytes: Bytes) -> Option<Ended> {
        let Ok(taken) = self.received(conn, &bytes) else {
            let why = "it sent more bytes than it was asked for".to_owned();
            return self.failed(conn, self.broken(why));
        };
        self.read(conn, answer);
        self.transfer.progress.sources.registry(&self.transfer.blob.host(), taken.keep);
        self.keep(taken, bytes).await;
        None
    }

    /// Counts what arrived, and drops whoever raced for it.
    fn received(&mut self, conn: ConnId, bytes: &Bytes) -> Result<Taken, TooMuch> {
        let length = bytes.len() as u64;
        self.count(length);
        let taken = self.plan.received(conn, length, self.now())?;
        if let Some(loser) = taken.drop.and_then(|loser| self.drops.get(&loser)) {
            loser.cancel();
        }
        Ok(taken)
    }

    /// Waits until the owner's limit and the disk have room.
    async fn keep(&mut self, taken: Taken, bytes: Bytes) {
        let before = Instant::now();
        self.transfer.limiter.take(bytes.len() as u64).await;
        if taken.keep > 0 {
            let skip = usize::try_from(taken.skip).unwrap_or(usize::MAX);
            self.transfer.writer.write(taken.at, bytes.slice(skip.min(bytes.len())..)).await;
        }
        self.held_up += before.elapsed();
    }

    fn count(&self, length: u64) {
        self.transfer.counters.received.fetch_add(length, Ordering::Relaxed);
        self.transfer.progress.received.fetch_add(length, Ordering::Relaxed);
    }

    fn end(&mut self, conn: ConnId, end: End) -> Option<Ended> {
        self.drops.remove(&conn);
        self.pool.ended(conn, Became::Fine, self.now());
        if end == End::Body {
            self.last_failure.get_or_insert_with(|| RegistryError::Broken {
                host: self.transfer.blob.host(),
                why: "it sent fewer bytes than it was asked for".into(),
            });
        }
        self.plan.ended(conn, end, self.now()).err().map(|_| self.give_up())
    }

    fn failed(&mut self, conn: ConnId, error: RegistryError) -> Option<Ended> {
        if self.pool.registry_failed() {
            tracing::info!("peers go on with a pull without its registry: {error}");
            return self.end(conn, End::Dropped);
        }
        if !error.is_transient() {
            return Some(Ended::Permanent(crate::text::sentence(&error.to_string())));
        }
        let end = match &error {
            RegistryError::Busy { retry_after, .. } => End::Busy(*retry_after),
            _ => End::Failed,
        };
        tracing::debug!("a connection of a pull ended: {error}");
        self.last_failure = Some(error);
        self.end(conn, end)
    }

    fn give_up(&mut self) -> Ended {
        let error = self.last_failure.take();
        let wait = error.as_ref().and_then(RegistryError::retry_after);
        let reason = error.map_or_else(|| "the connection broke".to_owned(), |e| e.to_string());
        Ended::Transient { reason: crate::text::sentence(&reason), wait }
    }

    /// The server ignores ranges: one connection from the first byte to the last. What is here
    /// already is skipped as it comes by.
    async fn whole(&mut self, mut answer: Answer) -> Ended {
        self.connections.clear();
        let host = self.transfer.blob.host();
        self.transfer.progress.set_note(format!(
            "{host} only sends whole files: if the connection breaks, it starts from the beginning."
        ));
        let (total, have) = (self.plan.extent().total(), self.plan.extent().contiguous());
        let mut status = self.transfer.writer.status();
        let mut position = 0;
        while position < total {
            if let Some(problem) = status.borrow_and_update().problem.clone() {
                return Ended::Disk(problem);
            }
            let chunk = match timeout(self.transfer.stall, answer.chunk()).await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => {
                    self.last_failure = Some(error);
                    return self.give_up();
                }
                Err(_) => {
                    let seconds = self.transfer.stall.as_secs();
                    self.last_failure = Some(RegistryError::Silent { host, seconds });
                    return self.give_up();
                }
            };
            let Some(bytes) = chunk else {
                self.last_failure = Some(self.broken("it ended too early".into()));
                return self.give_up();
            };
            let length = bytes.len() as u64;
            self.count(length);
            self.transfer.limiter.take(length).await;
            let skip = have.saturating_sub(position).min(length);
            let keep = (length - skip).min(total.saturating_sub(position + skip));
            self.transfer.progress.sources.registry(&host, keep);
            if keep > 0 {
                let (from, to) = (skip as usize, (skip + keep) as usize);
                self.transfer.writer.write(position + skip, bytes.slice(from..to)).await;
            }
            position += length;
        }
        if position > total {
            return Ended::Permanent(format!(
                "{host} sends more than the {total} bytes it announced. Ask whoever runs it; nothing can be pulled like this."
            ));
        }
        Ended::Complete
    }
}
