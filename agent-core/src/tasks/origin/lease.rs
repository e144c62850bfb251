//! One lease: a job on a node, from the offer until its result is written down.

use std::{sync::Arc, time::Duration};

use agent_api::{NodeId, tasks::TaskPath};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{outcome::Seen, workers::Workers};
use crate::tasks::{
    job::{JobError, JobPiece, JobStream, Offer},
    known::Underway,
    placement::NodeView,
};

/// After a restart the mesh needs a moment before a peer can be reached again.
const ATTACH_WAIT: Duration = Duration::from_secs(15);
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

/// What comes from a lease, with its fence.
#[derive(Debug)]
pub(super) enum LeaseNews {
    /// The node took it, or the job was found there again.
    Taken(TaskPath),
    Piece(JobPiece),
    Over(JobError),
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
    let carried = async {
        let stream = match begin {
            Begin::Offer(node) => workers.offer(*node, offer).await,
            Begin::Attach(node) => attach(&*workers, node, offer).await,
        };
        match stream {
            Ok(stream) => carry(fence, stream, &news).await,
            Err(error) => {
                let _ = news.send((fence, LeaseNews::Over(error))).await;
            }
        }
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

async fn carry(fence: u64, mut stream: JobStream, news: &mpsc::Sender<(u64, LeaseNews)>) {
    if news.send((fence, LeaseNews::Taken(stream.path))).await.is_err() {
        return;
    }
    loop {
        let piece = stream.pieces.recv().await;
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
