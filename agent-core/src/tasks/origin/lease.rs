//! One lease: a job on a node, from the offer until its result is written down.

use std::{sync::Arc, time::Duration};

use agent_api::{NodeId, tasks::TaskPath};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    outcome::{self, Seen},
    workers::Workers,
};
use crate::tasks::{
    job::{Job, JobError, JobPiece, JobStream, Offer},
    known::Underway,
    placement::NodeView,
};

/// After a restart the mesh needs a moment before a peer can be reached again.
const ATTACH_WAIT: Duration = Duration::from_secs(15);
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

/// A peer says within this time whether it takes a job that it has received.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// Bytes per second of the slowest line that offers are sent over.
const SLOWEST_LINE: u64 = 16 << 10;
/// Modules that a peer does not have travel before its first word.
const MODULE_WAIT: Duration = Duration::from_secs(60);
/// A job that waits comes forward at least so often.
const WAITING: Duration = Duration::from_secs(10 * 60);
/// From the beginning to the first token, or from one note of a `code` job to the next, without the
/// prompt: a large model comes from a disk, or a slow one writes a whole program.
const BEGINNING: Duration = Duration::from_secs(10 * 60);
/// Bytes of a prompt that a slow computer reads per second: 20 tokens.
const SLOWEST_READ: u64 = 80;
/// From one piece of text to the next.
const PROGRESS: Duration = Duration::from_secs(2 * 60);
/// A module has its wall time, and its result has to travel.
const MODULE_RESULT: Duration = Duration::from_secs(30);

/// Until when a peer has to have got somewhere. Signs of life are not enough: a peer that only says
/// that it lives would hold a task for ever. Pure.
#[derive(Debug)]
struct Patience {
    until: Instant,
    /// From the beginning of the work on.
    begun: Option<Duration>,
    /// From one step of the work to the next; none for a module, which has none.
    next: Option<Duration>,
    /// The best place it had.
    place: Option<u32>,
    doing: &'static str,
}

impl Patience {
    fn new(job: &Job, now: Instant) -> Self {
        let bytes = u64::try_from(outcome::prompt_bytes(job)).unwrap_or(u64::MAX);
        let sending = Duration::from_secs(bytes / SLOWEST_LINE);
        let reading = BEGINNING + Duration::from_secs(bytes / SLOWEST_READ);
        let (first, begun, next) = match job {
            Job::Wasm(job) => {
                let wall = Duration::from_millis(job.wall_ms) + MODULE_RESULT;
                (FIRST_WORD + MODULE_WAIT, wall, None)
            }
            Job::Code(_) => (FIRST_WORD, reading, Some(reading)),
            Job::Chat(_) | Job::Completion(_) | Job::Embedding { .. } => {
                (FIRST_WORD, reading, Some(PROGRESS))
            }
        };
        let until = now + first + sending;
        Self {
            until,
            begun: Some(begun),
            next,
            place: None,
            doing: "did not say whether it takes it",
        }
    }

    /// A word came. Empty ones count for nothing.
    fn saw(&mut self, piece: &JobPiece, now: Instant) {
        let next = match piece {
            JobPiece::Waiting { position, .. } => {
                let forward = self.place.is_none_or(|best| *position < best);
                if !forward || self.begun.is_none() {
                    return;
                }
                self.place = Some(*position);
                self.doing = "let it wait and did not come nearer";
                Some(WAITING)
            }
            JobPiece::Text { text, .. } if text.is_empty() => return,
            JobPiece::Text { .. } | JobPiece::Note { .. } | JobPiece::Result(_) => {
                self.begun = None;
                self.next
            }
            // Once each.
            JobPiece::Running | JobPiece::Started { .. } => self.begun.take(),
        };
        if let Some(next) = next {
            self.until = now + next;
        }
        if self.begun.is_none() {
            self.doing = "ran it and got nowhere";
        }
    }

    fn over(&self) -> String {
        format!("the node {} in the time it had", self.doing)
    }
}

/// What comes from a lease, with its fence.
#[derive(Debug)]
pub(super) enum LeaseNews {
    /// The node took it, or the job was found there again.
    Taken(TaskPath),
    Piece(JobPiece),
    Over(JobError),
    /// The node lives and does nothing for it: why that is held to be so.
    Overdue(String),
}

/// A lease as its task sees it. Dropping it ends the job, or, after its result, lets the node
/// forget it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) here: bool,
    /// It was looked for after a restart and has not been found yet.
    pub(super) attaching: bool,
    /// The node said that it has it.
    pub(super) taken: bool,
    pub(super) begun: Instant,
    /// Notes that came.
    pub(super) notes: u32,
    pub(super) seen: Seen,
    pub(super) first_text: Option<Instant>,
    pub(super) stop: CancellationToken,
    /// The node stops: the job goes on there, and its result is kept there.
    pub(super) hold: bool,
    pub(super) _counted: Underway,
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.hold {
            self.stop.cancel();
        }
    }
}

/// How a lease begins.
#[derive(Debug)]
pub(super) enum Begin {
    Offer(Box<NodeView>),
    Attach(NodeId),
}

pub(super) async fn pump(
    workers: Arc<dyn Workers>,
    begin: Begin,
    offer: Offer,
    stop: CancellationToken,
    news: mpsc::Sender<(u64, LeaseNews)>,
) {
    let fence = offer.fence;
    // This node itself is not hurried.
    let here = matches!(&begin, Begin::Offer(node) if node.here);
    let patience = (!here).then(|| Patience::new(&offer.job, Instant::now()));
    let carried = async {
        let begun = async {
            match begin {
                Begin::Offer(node) => workers.offer(*node, offer).await,
                Begin::Attach(node) => attach(&*workers, node, offer).await,
            }
        };
        let last = match in_time(patience.as_ref(), begun).await {
            Ok(Ok(stream)) => return carry(fence, stream, patience, &news).await,
            Ok(Err(error)) => LeaseNews::Over(error),
            Err(overdue) => overdue,
        };
        let _ = news.send((fence, last)).await;
    };
    tokio::select! {
        () = carried => {}
        () = stop.cancelled() => {}
    }
}

async fn attach(workers: &dyn Workers, node: NodeId, offer: Offer) -> Result<JobStream, JobError> {
    let until = Instant::now() + ATTACH_WAIT;
    loop {
        match workers.attach(node.clone(), offer.clone()).await {
            Err(JobError::Lost(_)) if Instant::now() < until => sleep(ATTACH_AGAIN).await,
            result => return result,
        }
    }
}

/// `Err`: the node took too long.
async fn in_time<T>(
    patience: Option<&Patience>,
    work: impl Future<Output = T>,
) -> Result<T, LeaseNews> {
    match patience {
        Some(patience) => {
            let done = timeout_at(patience.until, work).await;
            done.map_err(|_| LeaseNews::Overdue(patience.over()))
        }
        None => Ok(work.await),
    }
}

async fn carry(
    fence: u64,
    mut stream: JobStream,
    mut patience: Option<Patience>,
    news: &mpsc::Sender<(u64, LeaseNews)>,
) {
    if news.send((fence, LeaseNews::Taken(stream.path))).await.is_err() {
        return;
    }
    loop {
        let piece = match in_time(patience.as_ref(), stream.pieces.recv()).await {
            Ok(piece) => piece,
            Err(overdue) => {
                let _ = news.send((fence, overdue)).await;
                return;
            }
        };
        if let (Some(Ok(piece)), Some(patience)) = (&piece, &mut patience) {
            patience.saw(piece, Instant::now());
        }
        let ended = || JobError::Lost("the connection to the node ended".to_owned());
        let over = !matches!(&piece, Some(Ok(piece)) if !matches!(piece, JobPiece::Result(_)));
        let result = matches!(&piece, Some(Ok(JobPiece::Result(_))));
        let told = match piece {
            Some(Ok(piece)) => LeaseNews::Piece(piece),
            Some(Err(error)) => LeaseNews::Over(error),
            None => LeaseNews::Over(ended()),
        };
        if news.send((fence, told)).await.is_err() {
            return;
        }
        if result {
            // The stream is kept until the result is on disk here, which ends this future.
            std::future::pending::<()>().await;
        }
        if over {
            return;
        }
    }
}
