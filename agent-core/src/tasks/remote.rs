//! The requester's end of a job on a peer.

mod expect;

use std::time::Duration;

use agent_api::tasks::TaskPath;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use expect::{Expect, Means};
use iroh::endpoint::{RecvStream, SendStream, VarInt};
use tokio::{
    io::AsyncRead,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    job::{JOB_PIECES, Job, JobError, JobPiece, JobResult, JobStream, Offer},
    modules::Modules,
    wire::{self, FromOrigin, FromWorker, OfferFrame, Said, WireError},
};
use crate::{
    inference::tools::ToolFormat,
    mesh::{Mesh, MeshError, NodeKey, net::PeerStream},
};

/// A worker says something every five seconds; one that was silent for so long is lost.
const SILENCE: Duration = Duration::from_secs(15);
/// Leases are 30 seconds: two renewals may be lost.
const RENEW: Duration = Duration::from_secs(10);
/// An offer of the largest size over a slow line.
const SEND_WAIT: Duration = Duration::from_secs(60);
/// A worker that took no job after so long is not waited for: it answers at once, or says how long
/// its line is. What is sent to it comes on top, over a line no slower than this in bytes a second.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);
const SLOWEST_LINE: usize = 256 << 10;
/// How a model writes tool calls is known once it is loaded, which a worker gives up on by then.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(300);
/// What waits to be sent to a worker: a module, an acknowledgement.
const ORDERS: usize = 2;
/// A result that nobody takes for so long is not acknowledged any more.
const TAKE_WAIT: Duration = Duration::from_secs(10 * 60);
/// Code of a stream that is not wanted any more.
const CANCELLED: VarInt = VarInt::from_u32(16);

/// What it takes to ask peers.
#[derive(Clone, Debug)]
pub struct Remote {
    pub mesh: Mesh,
    pub modules: Modules,
}

impl Remote {
    /// Offers a job to a peer. `Err` before the peer took it: the next candidate may be asked.
    pub async fn offer(
        &self,
        peer: NodeKey,
        path: TaskPath,
        offer: Offer,
    ) -> Result<JobStream, JobError> {
        let expect = Expect::new(&offer);
        let durable = offer.fence != 0;
        let first = FromOrigin::Offer(Box::new(OfferFrame::from(&offer)));
        let job = Some(Box::new(offer.job));
        self.begin(peer, first, Begin { path, expect, job, durable }).await
    }

    /// Asks a peer once more for a task that was offered to it under the same fence, before this
    /// node was started again or the stream was lost. The whole answer comes again.
    pub async fn attach(
        &self,
        peer: NodeKey,
        path: TaskPath,
        offer: &Offer,
    ) -> Result<JobStream, JobError> {
        let expect = Expect::again(offer);
        let (task, fence) = (offer.task.clone(), offer.fence);
        let first = FromOrigin::Attach { version: wire::VERSION, task, fence };
        self.begin(peer, first, Begin { path, expect, job: None, durable: true }).await
    }

    /// How a model of a peer writes tool calls; `None`: it cannot. The peer may load it for that.
    pub async fn tool_format(
        &self,
        peer: NodeKey,
        model: String,
    ) -> Result<Option<ToolFormat>, JobError> {
        let until = Instant::now() + DESCRIBED_WITHIN;
        let mut stream = in_time(until, self.open(peer)).await?;
        let ask = FromOrigin::Describe { version: wire::VERSION, model };
        in_time(until, send(&mut stream.send, &ask, wire::SMALL_BYTES)).await?;
        in_time(until, described(&mut stream.recv)).await
    }

    async fn open(&self, peer: NodeKey) -> Result<PeerStream, JobError> {
        let opened = self.mesh.open_stream(peer, wire::STREAM).await;
        opened.map_err(|error: MeshError| JobError::Lost(error.to_string()))
    }

    async fn begin(
        &self,
        peer: NodeKey,
        first: FromOrigin,
        begin: Begin,
    ) -> Result<JobStream, JobError> {
        let Begin { path, mut expect, mut job, durable } = begin;
        let module = match job.as_deref() {
            Some(Job::Wasm(job)) => Some(job.module.clone()),
            _ => None,
        };
        let mut until = Instant::now() + TAKEN_WITHIN;
        let mut stream = in_time(until, self.open(peer)).await?;
        in_time(until, send(&mut stream.send, &first, wire::SMALL_BYTES)).await?;
        let taken = loop {
            let bytes = match in_time(until, taken(&mut stream.recv, &mut expect)).await? {
                Taken::Began(piece) => break piece,
                // It is asked for once, and there is one then.
                Taken::NeedsJob => job.take().map(job_frame).transpose()?.unwrap_or_default(),
                Taken::NeedsModule => self.module(module.as_deref()).await?,
            };
            until = Instant::now() + time_to_take(bytes.len());
            in_time(until, write_all(&mut stream.send, &bytes)).await?;
        };
        let (out, pieces) = mpsc::channel(JOB_PIECES);
        // There is room: it is the first.
        let _ = out.try_send(Ok(taken));
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        tokio::spawn(Running { stream, expect, out, cancel, durable }.run());
        Ok(JobStream { pieces, path, cancel: guard })
    }

    /// The frame that brings a module.
    async fn module(&self, module: Option<&str>) -> Result<Vec<u8>, JobError> {
        let bytes = match module {
            Some(sha256) => self.modules.get(sha256).await,
            None => None,
        };
        let gone = || JobError::Failed("the module is not on this node any more".to_owned());
        let bytes = STANDARD.encode(bytes.ok_or_else(gone)?);
        encode(&FromOrigin::Module { bytes }, wire::MODULE_BYTES)
    }
}

/// What a stream begins with.
struct Begin {
    path: TaskPath,
    expect: Expect,
    /// `None`: the worker has it already.
    job: Option<Box<Job>>,
    durable: bool,
}

/// A job that a peer took.
struct Running {
    stream: PeerStream,
    expect: Expect,
    out: mpsc::Sender<Result<JobPiece, JobError>>,
    cancel: CancellationToken,
    durable: bool,
}

/// How reading ended.
enum End {
    /// The result was given to whoever asked.
    Result,
    /// Nobody wants it any more.
    Unwanted,
    Failed(JobError),
}

impl Running {
    async fn run(self) {
        let Self { stream, mut expect, out, cancel, durable } = self;
        let PeerStream { send, mut recv, in_use, .. } = stream;
        let (orders, to_send) = mpsc::channel(ORDERS);
        let writer = tokio::spawn(write(send, to_send));
        let end = tokio::select! {
            end = forward(&mut recv, &mut expect, &out) => end,
            () = unwanted(&cancel, &out) => End::Unwanted,
        };
        match end {
            End::Result => {
                // Dropping the stream with everything read says that the result is safe.
                let taken = async {
                    let all_read = out.reserve_many(JOB_PIECES).await.is_ok();
                    out.closed().await;
                    all_read
                };
                let taken = durable && timeout(TAKE_WAIT, taken).await == Ok(true);
                let last = if taken { Order::Acknowledge } else { Order::Finish };
                let _ = orders.send(last).await;
            }
            End::Unwanted => {
                let _ = orders.send(Order::Cancel).await;
            }
            End::Failed(error) => {
                let _ = orders.send(Order::Cancel).await;
                let _ = out.send(Err(error)).await;
            }
        }
        // Both fail only if the stream is over already.
        let _ = recv.stop(CANCELLED);
        let _ = writer.await;
        drop(in_use);
    }
}

/// What the writer is to do last.
enum Order {
    Acknowledge,
    Finish,
    Cancel,
}

/// Renews until it is told what to do last.
async fn write(mut send_to: SendStream, mut orders: mpsc::Receiver<Order>) {
    let mut renew = interval(RENEW);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renew.tick().await;
    let last = loop {
        tokio::select! {
            order = orders.recv() => break order.unwrap_or(Order::Cancel),
            _ = renew.tick() => {
                // Reading notices what is wrong with the stream.
                if send(&mut send_to, &FromOrigin::Renew, wire::SMALL_BYTES).await.is_err() {
                    break orders.recv().await.unwrap_or(Order::Cancel);
                }
            }
        }
    };
    match last {
        Order::Acknowledge => {
            let _ = send(&mut send_to, &FromOrigin::Ack, wire::SMALL_BYTES).await;
            let _ = send_to.finish();
            let _ = timeout(SILENCE, send_to.stopped()).await;
        }
        Order::Finish => {
            let _ = send_to.finish();
        }
        Order::Cancel => {
            let _ = send_to.reset(CANCELLED);
        }
    }
}

async fn unwanted(cancel: &CancellationToken, out: &mpsc::Sender<Result<JobPiece, JobError>>) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = out.closed() => {}
    }
}

/// Reads as fast as the pieces are taken.
async fn forward(
    recv: &mut RecvStream,
    expect: &mut Expect,
    out: &mpsc::Sender<Result<JobPiece, JobError>>,
) -> End {
    loop {
        let (piece, last) = match read(recv, expect).await {
            Ok(Means::Nothing) => continue,
            Ok(Means::Piece(piece)) => (piece, false),
            Ok(Means::Result(result)) => (result_piece(result), true),
            Ok(Means::Job | Means::Module) => {
                let what = "the node asked what to do after it had begun";
                return End::Failed(JobError::Misbehaved(what.to_owned()));
            }
            Err(error) => return End::Failed(error),
        };
        if out.send(Ok(piece)).await.is_err() {
            return End::Unwanted;
        }
        if last {
            return End::Result;
        }
    }
}

fn result_piece(result: JobResult) -> JobPiece {
    JobPiece::Result(Box::new(result))
}

/// Too large: it is too large for every node.
fn job_frame(job: Box<Job>) -> Result<Vec<u8>, JobError> {
    encode(&FromOrigin::Job { job }, wire::JOB_BYTES)
}

fn time_to_take(bytes: usize) -> Duration {
    let seconds = u64::try_from(bytes.div_ceil(SLOWEST_LINE)).unwrap_or(u64::MAX);
    TAKEN_WITHIN.saturating_add(Duration::from_secs(seconds))
}

/// Signs of life are no answer: whatever a worker says, it is not waited for longer.
async fn in_time<T>(
    until: Instant,
    answer: impl Future<Output = Result<T, JobError>>,
) -> Result<T, JobError> {
    let late = || Err(JobError::Lost("the node did not answer in time".to_owned()));
    timeout_at(until, answer).await.unwrap_or_else(|_| late())
}

/// What a worker says to an offer.
#[derive(Debug)]
enum Taken {
    NeedsJob,
    NeedsModule,
    /// Its first word about the task.
    Began(JobPiece),
}

async fn taken<R: AsyncRead + Unpin + Send>(
    recv: &mut R,
    expect: &mut Expect,
) -> Result<Taken, JobError> {
    loop {
        match read(recv, expect).await? {
            Means::Nothing => {}
            Means::Job => return Ok(Taken::NeedsJob),
            Means::Module => return Ok(Taken::NeedsModule),
            Means::Piece(piece) => return Ok(Taken::Began(piece)),
            Means::Result(_) => {
                let what = "the node sent a result before it began";
                return Err(JobError::Misbehaved(what.to_owned()));
            }
        }
    }
}

/// The answer to `Describe`.
async fn described<R: AsyncRead + Unpin + Send>(
    recv: &mut R,
) -> Result<Option<ToolFormat>, JobError> {
    loop {
        let (frame, _) = next(recv, wire::PIECE_BYTES).await?;
        match frame.said {
            Said::Alive => {}
            Said::Described { tools } => return Ok(tools),
            Said::Refused { reason, .. } => {
                let reason = wire::cut(&reason);
                return Err(JobError::Refused { reason, retry_after: None });
            }
            Said::Failed { reason, .. } => return Err(JobError::Broke(wire::cut(&reason))),
            _ => {
                let what = "the node answered something that was not asked";
                return Err(JobError::Misbehaved(what.to_owned()));
            }
        }
    }
}

async fn read<R: AsyncRead + Unpin + Send>(
    recv: &mut R,
    expect: &mut Expect,
) -> Result<Means, JobError> {
    let (frame, bytes) = next(recv, expect.limit()).await?;
    expect.take(frame, bytes)
}

/// The next frame of a worker that is not silent for too long, and its length.
async fn next<R: AsyncRead + Unpin + Send>(
    recv: &mut R,
    limit: usize,
) -> Result<(FromWorker, usize), JobError> {
    let silent = format!("the node said nothing for {} s", SILENCE.as_secs());
    let length = timeout(SILENCE, wire::read_length(recv)).await;
    let length = length.map_err(|_| JobError::Lost(silent.clone()))?.map_err(told)?;
    // A large result over a slow line takes longer than a sign of life.
    let body = timeout(SEND_WAIT, wire::read_body(recv, length, limit)).await;
    let frame = body.map_err(|_| JobError::Lost(silent))?.map_err(told)?;
    Ok((frame, length))
}

fn told(error: WireError) -> JobError {
    match error {
        WireError::Ended | WireError::Cut(_) => {
            JobError::Lost(format!("the node was lost: {error}"))
        }
        WireError::TooLarge { .. }
        | WireError::TooIntricate
        | WireError::NotUnderstood(_)
        | WireError::NotWritten(_) => {
            JobError::Misbehaved(format!("the node broke the rules: {error}"))
        }
    }
}

async fn send(to: &mut SendStream, frame: &FromOrigin, limit: usize) -> Result<(), JobError> {
    write_all(to, &encode(frame, limit)?).await
}

fn encode(frame: &FromOrigin, limit: usize) -> Result<Vec<u8>, JobError> {
    wire::encode(frame, limit).map_err(|error| JobError::Failed(error.to_string()))
}

async fn write_all(to: &mut SendStream, bytes: &[u8]) -> Result<(), JobError> {
    match timeout(SEND_WAIT, to.write_all(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(JobError::Lost(format!("the node was lost: {error}"))),
        Err(_) => Err(JobError::Lost("the node does not read what it is sent".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use agent_api::TaskId;
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::tasks::{job::GenerateJob, worker::tests::generate};

    fn offer() -> Offer {
        let model = "demo".to_owned();
        let job = GenerateJob {
            model,
            generate: Box::new(generate("hi")),
            context: None,
            left_out: Default::default(),
        };
        let (task, lease) = (TaskId("t_1".to_owned()), Duration::from_secs(30));
        Offer { task, attempt: 1, fence: 0, job: Job::Chat(job), priority: 5, lease }
    }

    /// A worker that says nothing but that it is there, more often than it has to.
    fn alive() -> tokio::io::DuplexStream {
        let (mine, mut other) = tokio::io::duplex(1 << 10);
        tokio::spawn(async move {
            let alive = FromWorker { task: offer().task, fence: 0, said: Said::Alive };
            let alive = wire::encode(&alive, wire::PIECE_BYTES).expect("small");
            while other.write_all(&alive).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        mine
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_alone_do_not_hold_a_request() {
        let (begun, mut expect) = (Instant::now(), Expect::new(&offer()));
        let until = begun + time_to_take(100);
        let lost = in_time(until, taken(&mut alive(), &mut expect)).await.expect_err("is lost");
        assert!(matches!(lost, JobError::Lost(_)), "{lost}");
        assert!(begun.elapsed() < TAKEN_WITHIN + Duration::from_secs(2));
        let until = begun + DESCRIBED_WITHIN;
        let lost = in_time(until, described(&mut alive())).await.expect_err("is lost");
        assert!(matches!(lost, JobError::Lost(_)), "{lost}");
    }
}
