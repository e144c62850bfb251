//! One connection: a task that reads frames, one that writes them, one that accepts streams and
//! watches paths. All end with the connection; none holds up the driver.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent_api::mesh::{PathKind, PeerPath};
use bytes::Bytes;
use futures_util::StreamExt as _;
use iroh::{
    TransportAddr,
    endpoint::{Connection, ConnectionError, ReadExactError, RecvStream, SendStream, VarInt},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    CLOSE_WAIT, CONNECT_TIMEOUT, REASON_BYTES, close,
    frames::{FrameError, read_frame, write_frame},
    network::{Range, is_neighbour, is_on_link},
    peers::{Live, Members, Uses},
    streams::{Offers, PeerStream, code, read_header},
    traffic::Traffic,
};
use crate::mesh::{
    NodeKey,
    membership::io::{ConnId, Side},
};

/// Frames of one connection that wait for the driver. More are left unread, so that QUIC slows the
/// sender down and others get their turn.
const UNREAD_FRAMES: usize = 8;
/// Frames that wait for one peer.
const UNSENT_FRAMES: usize = 64;
/// Bytes that wait for one peer: eight of the largest frames. Whoever lets more pile up does not
/// keep up with the mesh and is cut off.
const UNSENT_BYTES: usize = 512 << 10;
/// A request that the other end begins on a connection that was just replaced is still on its way.
const RETIRE_AFTER: Duration = Duration::from_secs(2);
/// Longer than any answer takes; a pull that is cut off then goes on over the new connection.
const RETIRED_FOR: Duration = Duration::from_secs(60 * 60);
/// Smaller changes of the round-trip time are not worth telling: a tenth of it, and what a busy
/// processor adds.
const RTT_CHANGE: f64 = 0.10;
const RTT_NOISE_S: f64 = 0.000_5;

/// What a connection tells the driver.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Frame {
        conn: ConnId,
        bytes: Bytes,
        _room: OwnedSemaphorePermit,
    },
    /// Paths opened, closed, or another one is used.
    Paths {
        conn: ConnId,
    },
    /// Over. Nothing follows.
    Down {
        conn: ConnId,
        reason: String,
        malformed: Option<&'static str>,
    },
}

/// A connection with its control stream.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) side: Side,
}

/// What the tasks of a connection need of the session.
#[derive(Clone, Debug)]
pub(super) struct LinkContext {
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) members: watch::Receiver<Arc<Members>>,
    pub(super) offers: Offers,
    pub(super) uses: Uses,
    pub(super) traffic: Traffic,
    pub(super) tasks: TaskTracker,
}

/// The driver's end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: NodeKey,
    pub(super) connection: Connection,
    pub(super) live: Arc<Live>,
    /// The last that membership was told.
    pub(super) told: Option<(PathKind, Duration)>,
    /// The address or relay in use.
    pub(super) address: Option<String>,
    /// The peer's own address on the internet, as it was told.
    pub(super) told_address: Option<SocketAddr>,
    queue: mpsc::Sender<Outgoing>,
    unsent: Arc<AtomicUsize>,
    uses: Uses,
    tasks: TaskTracker,
}

#[derive(Debug)]
enum Outgoing {
    Frame(Bytes),
    Close { code: VarInt, reason: String },
}

/// The writer's end of what waits for one peer.
#[derive(Debug)]
struct Queued {
    frames: mpsc::Receiver<Outgoing>,
    unsent: Arc<AtomicUsize>,
}

/// The peer lets frames pile up.
#[derive(Debug)]
pub(super) struct TooSlow;

impl Link {
    pub(super) fn start(conn: ConnId, opened: Opened, context: &LinkContext, now_ms: i64) -> Self {
        let Opened { connection, send, recv, side: _ } = opened;
        let peer = NodeKey(*connection.remote_id().as_bytes());
        let (queue, outgoing) = mpsc::channel(UNSENT_FRAMES);
        let unsent = Arc::new(AtomicUsize::new(0));
        let tasks = &context.tasks;
        let queued = Queued { frames: outgoing, unsent: Arc::clone(&unsent) };
        tasks.spawn(write(send, queued, connection.clone(), context.traffic.clone()));
        tasks.spawn(read(conn, recv, connection.clone(), context.clone()));
        tasks.spawn(attend(conn, peer, connection.clone(), context.clone()));
        Self {
            peer,
            live: Arc::new(Live::new(connection.clone(), now_ms)),
            connection,
            told: None,
            address: None,
            told_address: None,
            queue,
            unsent,
            uses: context.uses.clone(),
            tasks: context.tasks.clone(),
        }
    }

    /// Never waits.
    pub(super) fn send(&self, frame: Bytes) -> Result<(), TooSlow> {
        let length = frame.len();
        if self.unsent.load(Ordering::Relaxed) + length > UNSENT_BYTES {
            return Err(TooSlow);
        }
        self.unsent.fetch_add(length, Ordering::Relaxed);
        match self.queue.try_send(Outgoing::Frame(frame)) {
            // Closed: the connection is over, and says so by itself.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(TooSlow),
        }
    }

    /// Closes after what was sent is delivered, or after [`CLOSE_WAIT`].
    pub(super) fn close(&self, code: VarInt, reason: &str) {
        self.tasks.spawn(close_soon(&self.queue, &self.connection, code, reason));
    }

    /// Closes once the streams over it have ended: another connection took its place.
    pub(super) fn retire(&self, reason: &str) {
        let (queue, connection) = (self.queue.clone(), self.connection.clone());
        let (uses, reason) = (self.uses.clone(), reason.to_owned());
        self.tasks.spawn(async move {
            let idle = async {
                sleep(RETIRE_AFTER).await;
                uses.until_idle(&connection).await;
            };
            tokio::select! {
                // Whether it is idle or was open for too long.
                _ = timeout(RETIRED_FOR, idle) => {
                    close_soon(&queue, &connection, close::DONE, &reason).await;
                }
                _ = connection.closed() => {}
            }
        });
    }

    /// The other end is at an address that only this network has.
    pub(super) fn is_near(&self, ranges: &[Range]) -> bool {
        let paths = self.connection.paths();
        let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
        path.is_some_and(|path| match path.remote_addr() {
            TransportAddr::Ip(at) => is_neighbour(ranges, at.ip()),
            _ => false,
        })
    }

    /// The path in use, if it is another one than membership knows or takes another time.
    pub(super) fn measure(&mut self, ranges: &[Range]) -> Option<(PathKind, Duration)> {
        let (kind, rtt, address) = {
            let paths = self.connection.paths();
            let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
            let path = path?;
            (kind_of(path.remote_addr(), ranges), path.rtt(), text_of(path.remote_addr()))
        };
        self.address = Some(address);
        if let Some((old_kind, old_rtt)) = self.told {
            let change = (rtt.as_secs_f64() - old_rtt.as_secs_f64()).abs();
            if kind == old_kind && change <= (old_rtt.as_secs_f64() * RTT_CHANGE).max(RTT_NOISE_S) {
                return None;
            }
        }
        self.told = Some((kind, rtt));
        self.told
    }
}

/// Says at once that it is to be closed; the rest may take [`CLOSE_WAIT`].
fn close_soon(
    queue: &mpsc::Sender<Outgoing>,
    connection: &Connection,
    code: VarInt,
    reason: &str,
) -> impl Future<Output = ()> + use<> {
    let reason = cut(reason).to_owned();
    if queue.try_send(Outgoing::Close { code, reason: reason.clone() }).is_err() {
        connection.close(code, reason.as_bytes());
    }
    let connection = connection.clone();
    async move {
        if timeout(CLOSE_WAIT, connection.closed()).await.is_err() {
            connection.close(code, reason.as_bytes());
        }
    }
}

/// Every path of a connection, the one in use first.
pub(super) fn paths_of(connection: &Connection, ranges: &[Range]) -> Vec<PeerPath> {
    let paths = connection.paths();
    let mut list: Vec<PeerPath> = paths
        .iter()
        .map(|path| PeerPath {
            kind: kind_of(path.remote_addr(), ranges),
            address: text_of(path.remote_addr()),
            rtt_ms: path.rtt().as_secs_f64() * 1e3,
            in_use: path.is_selected(),
        })
        .collect();
    list.sort_by_key(|path| !path.in_use);
    list
}

pub(super) fn kind_of(address: &TransportAddr, ranges: &[Range]) -> PathKind {
    match address {
        TransportAddr::Ip(at) if is_on_link(ranges, at.ip()) => PathKind::Lan,
        TransportAddr::Ip(_) => PathKind::Direct,
        _ => PathKind::Relay,
    }
}

fn text_of(address: &TransportAddr) -> String {
    match address {
        TransportAddr::Ip(at) => at.to_string(),
        TransportAddr::Relay(url) => url.to_string(),
        other => format!("{other:?}"),
    }
}

async fn read(conn: ConnId, mut stream: RecvStream, connection: Connection, context: LinkContext) {
    let room = Arc::new(Semaphore::new(UNREAD_FRAMES));
    let mut malformed = None;
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        match read_frame(&mut stream).await {
            Ok(bytes) => {
                context.traffic.received(bytes.len());
                if context
                    .events
                    .send(LinkEvent::Frame { conn, bytes, _room: permit })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(FrameError::Ended(ReadExactError::FinishedEarly(_))) => {
                // The other end says the reason once all is delivered.
                if timeout(CLOSE_WAIT, connection.closed()).await.is_err() {
                    connection.close(close::DONE, b"the control stream was closed");
                }
                break;
            }
            Err(FrameError::Ended(_)) => break,
            Err(error) => {
                let too_large = matches!(error, FrameError::TooLarge(_));
                malformed = Some(if too_large { "too_large" } else { "malformed" });
                connection.close(close::MALFORMED, cut(&error.to_string()).as_bytes());
                break;
            }
        }
    }
    // A stream that was reset leaves a connection of no use.
    if timeout(CLOSE_WAIT, connection.closed()).await.is_err() {
        connection.close(close::MALFORMED, b"the control stream was reset");
    }
    let reason = reason_of(&connection.closed().await);
    // The driver is gone when the session is: nobody is left to be told.
    let _ = context.events.send(LinkEvent::Down { conn, reason, malformed }).await;
}

async fn write(
    mut stream: SendStream,
    mut queued: Queued,
    connection: Connection,
    traffic: Traffic,
) {
    while let Some(outgoing) = queued.frames.recv().await {
        match outgoing {
            Outgoing::Frame(frame) => {
                if write_frame(&mut stream, &frame).await.is_err() {
                    // Nothing can be said any more; it may be over already.
                    connection.close(close::MALFORMED, b"the control stream was stopped");
                    return;
                }
                traffic.sent(frame.len());
                queued.unsent.fetch_sub(frame.len(), Ordering::Relaxed);
            }
            Outgoing::Close { code, reason } => {
                // Both fail only if the connection is over already.
                let _ = stream.finish();
                let _ = timeout(CLOSE_WAIT, stream.stopped()).await;
                connection.close(code, reason.as_bytes());
                return;
            }
        }
    }
    connection.close(close::STOPPING, b"the node is stopping");
}

/// Accepts requests and watches paths.
async fn attend(conn: ConnId, peer: NodeKey, connection: Connection, context: LinkContext) {
    let mut paths = connection.path_events();
    let mut watching = true;
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((send, recv)) = stream else { return };
                let in_use = context.uses.begin(peer).over(&connection);
                let stream = PeerStream { peer, send, recv, in_use };
                context.tasks.spawn(serve(stream, context.members.clone(), context.offers.clone()));
            }
            event = paths.next(), if watching => {
                watching = event.is_some();
                if context.events.send(LinkEvent::Paths { conn }).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One stream of a peer: to its handler, or refused.
async fn serve(mut stream: PeerStream, members: watch::Receiver<Arc<Members>>, offers: Offers) {
    let refusal = match timeout(CONNECT_TIMEOUT, accept(&mut stream, members, &offers)).await {
        Ok(Ok(handler)) => return handler.serve(stream).await,
        Ok(Err(refusal)) => refusal,
        Err(_) => code::MALFORMED,
    };
    // Both fail only if the stream is over already.
    let _ = stream.send.reset(refusal);
    let _ = stream.recv.stop(refusal);
}

async fn accept(
    stream: &mut PeerStream,
    mut members: watch::Receiver<Arc<Members>>,
    offers: &Offers,
) -> Result<Arc<dyn super::StreamHandler>, VarInt> {
    let kind = read_header(&mut stream.recv).await.ok_or(code::MALFORMED)?;
    let peer = stream.peer;
    // The other end may be done with the handshake a moment before this one.
    let member = members.wait_for(|members| members.contains_key(&peer)).await;
    member.map_err(|_| code::NOT_A_MEMBER)?;
    offers.handler(&kind).ok_or(code::UNKNOWN_KIND)
}

/// Why a connection ended, for people.
pub(super) fn reason_of(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(closed) if !closed.reason.is_empty() => {
            let text = String::from_utf8_lossy(&closed.reason);
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            cut(&text).to_owned()
        }
        ConnectionError::ApplicationClosed(_) => "it closed the connection".to_owned(),
        ConnectionError::TimedOut => "it did not answer any more".to_owned(),
        ConnectionError::Reset => "it was started again".to_owned(),
        ConnectionError::LocallyClosed => "closed by this node".to_owned(),
        other => other.to_string(),
    }
}

/// At most [`REASON_BYTES`], whole characters.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_BYTES)]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt as _;
    use iroh::{Endpoint, EndpointAddr, endpoint::presets};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::mesh::net::{ALPN, open_stream};

    async fn endpoint() -> Endpoint {
        let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
        let builder = builder.alpns(vec![ALPN.to_vec()]).bind_addr((Ipv4Addr::LOCALHOST, 0));
        builder.expect("an address").bind().await.expect("binds")
    }

    /// A link whose other end takes streams, reads nothing and says at last why it was closed.
    async fn to_a_silent_end() -> (Link, LinkContext, Endpoint, JoinHandle<String>) {
        let (ours, theirs) = tokio::join!(endpoint(), endpoint());
        let at = theirs.addr().ip_addrs().copied().map(TransportAddr::Ip).collect::<Vec<_>>();
        let to = EndpointAddr::from_parts(theirs.id(), at);
        let silent = tokio::spawn(async move {
            let connection = theirs.accept().await.expect("one").await.expect("connects");
            let streams = connection.accept_bi().await.expect("opens");
            let reason = connection.closed().await;
            drop(streams);
            reason_of(&reason)
        });
        let connection = ours.connect(to, ALPN).await.expect("connects");
        let (send, recv) = connection.open_bi().await.expect("opens");
        let (events, _) = mpsc::channel(1);
        let context = LinkContext {
            events,
            members: watch::Sender::new(Arc::default()).subscribe(),
            offers: Offers::default(),
            uses: Uses::default(),
            traffic: Traffic::default(),
            tasks: TaskTracker::new(),
        };
        let opened = Opened { connection, send, recv, side: Side::Dialed };
        (Link::start(ConnId(1), opened, &context, 0), context, ours, silent)
    }

    #[tokio::test]
    async fn a_replaced_connection_is_closed_once_its_last_stream_has_ended() {
        let (link, context, _ours, silent) = to_a_silent_end().await;
        // Something to say, so that the other end has a stream to accept.
        link.send(Bytes::from_static(b"hello")).expect("room");
        let peer = link.peer;
        let stream = open_stream(&link.connection, "echo/1", context.uses.begin(peer)).await;
        let stream = stream.expect("opens");
        let elsewhere = context.uses.begin(peer);
        link.retire("another one is used");
        let idle = || context.uses.until_idle(&link.connection).now_or_never();
        assert!(idle().is_none() && link.connection.close_reason().is_none());
        drop(stream);
        assert!(idle().is_some(), "what the peer is needed for elsewhere does not count");
        assert_eq!(silent.await.expect("runs"), "another one is used");
        drop(elsewhere);
    }

    #[tokio::test]
    async fn frames_pile_up_to_a_bound_for_a_peer_that_does_not_read() {
        let (link, _context, _ours, silent) = to_a_silent_end().await;
        let frame = Bytes::from(vec![1; 64 << 10]);
        let mut sent = 0;
        // The other end's window and our queue together are far below this.
        while link.send(frame.clone()).is_ok() {
            sent += 1;
            assert!(sent < 1_000, "nothing stops it");
            tokio::task::yield_now().await;
        }
        link.connection.close(close::TOO_SLOW, b"you do not read what you are sent");
        assert_eq!(silent.await.expect("runs"), "you do not read what you are sent");
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let long = "ü".repeat(REASON_BYTES);
        assert!(cut(&long).len() <= REASON_BYTES);
        assert_eq!(cut("short"), "short");
    }
}
