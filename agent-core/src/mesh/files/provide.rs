//! Handing out blobs: questions, uploads, and their limits.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agent_api::Settings;
use bao_tree::{
    BaoTree, ChunkRanges,
    io::{outboard::PostOrderOutboard, sync::encode_ranges_validated},
};
use bytes::{Bytes, BytesMut};
use iroh::endpoint::{SendStream, VarInt};
use iroh_blobs::{
    protocol::{ERR_INTERNAL, ERR_LIMIT, ERR_PERMISSION, Request},
    store::IROH_BLOCK_SIZE,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinError, spawn_blocking},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, BLOBS, BiStream, MAX_MANIFEST_BYTES, MAX_QUESTION_BYTES, Offer, OnShelf, OpenBlob,
    QUESTIONS, Question, Shelf,
};
use crate::{limit::Limiter, mesh::NodeKey};

/// Uploads at the same time: each holds two open files and a thread that reads them.
const UPLOADS: usize = 8;
/// Of these, for one peer, so that one cannot keep out the others.
const UPLOADS_PER_PEER: usize = 4;
/// Questions that are being answered at the same time; each takes milliseconds, or waits for a tree.
const ASKED: usize = 16;
const ASKED_PER_PEER: usize = 4;
/// Hash trees that are made or wait to be made, one after the other: a model has a handful of
/// layers.
const PREPARING: usize = 16;
/// A blob whose tree could not be made (it is damaged, the disk is full) is not read again for every
/// peer that asks.
const FAILED_FOR: Duration = Duration::from_secs(10 * 60);
const FAILED: usize = 64;
/// A small blob is ready within this; of a large one the peer asks again.
const PREPARE_WAIT: Duration = Duration::from_secs(2);
/// Roots that were offered lately; a fetch names only the root.
const ROOTS: usize = 1_024;
/// A question, and the request of a blob, must be here within this.
const ASK_TIME: Duration = Duration::from_secs(10);
/// A peer that takes nothing for so long has left its slot to others.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Sent at a time, a block of a blob: so small that with the lowest limit (10 kB/s) four downloads
/// each get something before they take this node for silent (10 s).
const PIECE_BYTES: usize = 16 << 10;
/// Pieces between the disk and the network.
const PIECES: usize = 16;
/// Ranges in one request; those of our own fetches have one.
const RANGE_EDGES: usize = 32;

/// Totals since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of blobs that went out, with the hashes that prove them.
    pub sent: AtomicU64,
    /// Uploads that began.
    pub uploads: AtomicU64,
    /// Refused because enough were running.
    pub refused: AtomicU64,
    /// Most uploads at the same time.
    pub most: AtomicU64,
    /// Hash trees made.
    pub prepared: AtomicU64,
}

/// Answers peers. Clones share it.
#[derive(Clone, Debug)]
pub struct Provider {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shelf: Arc<dyn Shelf>,
    settings: watch::Receiver<Settings>,
    limiter: Limiter,
    uploads: Slots,
    roots: Mutex<Roots>,
    asked: Slots,
    preparing: Mutex<Preparing>,
    prepare_turn: Semaphore,
    counters: Counters,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Preparing {
    running: HashSet<[u8; 32]>,
    failed: HashMap<[u8; 32], Instant>,
}

impl Preparing {
    fn begin(&mut self, sha256: [u8; 32]) -> Result<(), Answer> {
        self.failed.retain(|_, at| at.elapsed() < FAILED_FOR);
        if self.failed.contains_key(&sha256) {
            return Err(Answer::NotHere);
        }
        if self.running.len() >= PREPARING || !self.running.insert(sha256) {
            return Err(Answer::NotYet);
        }
        Ok(())
    }

    fn end(&mut self, sha256: [u8; 32], made: bool) {
        self.running.remove(&sha256);
        if !made && self.failed.len() < FAILED {
            self.failed.insert(sha256, Instant::now());
        }
    }
}

/// SHA-256 by BLAKE3 root of what was offered, the oldest forgotten first.
#[derive(Debug, Default)]
struct Roots {
    by_root: HashMap<[u8; 32], [u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Roots {
    fn remember(&mut self, root: [u8; 32], sha256: [u8; 32]) {
        if self.by_root.insert(root, sha256).is_none() {
            self.order.push_back(root);
        }
        if self.order.len() > ROOTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_root.remove(&oldest);
        }
    }
}

/// Why an upload ended early. The peer sees a code; this goes to the log.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the peer went away: {0}")]
    Gone(String),
    #[error("the owner of this node does not share models any more")]
    Over,
    #[error("the file cannot be read: {0}")]
    Read(String),
    #[error("it does not fit its hash any more ({0}). Verify the models of this node")]
    Damaged(String),
}

impl Provider {
    /// Follows the settings `mesh.share_models` and `mesh.upload_limit` until `stop`.
    pub fn new(
        shelf: Arc<dyn Shelf>,
        settings: watch::Receiver<Settings>,
        stop: CancellationToken,
    ) -> Self {
        let limit = settings.borrow().mesh.upload_limit;
        let inner = Arc::new(Inner {
            shelf,
            settings: settings.clone(),
            limiter: Limiter::new(limit),
            uploads: Slots::new(UPLOADS, UPLOADS_PER_PEER),
            roots: Mutex::default(),
            asked: Slots::new(ASKED, ASKED_PER_PEER),
            preparing: Mutex::default(),
            prepare_turn: Semaphore::new(1),
            counters: Counters::default(),
            stop,
        });
        tokio::spawn(follow_limit(Arc::clone(&inner), settings));
        Self { inner }
    }

    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Kinds of streams that [`Provider::serve`] knows.
    pub const KINDS: [&str; 2] = [QUESTIONS, BLOBS];

    /// Answers one stream that a member of the mesh opened, after the header with its kind. Returns
    /// when it is over.
    pub async fn serve(&self, peer: NodeKey, kind: &str, stream: BiStream) {
        let serving = async {
            match kind {
                QUESTIONS => self.inner.question(peer, stream).await,
                BLOBS => self.inner.blob(peer, stream).await,
                _ => {}
            }
        };
        self.inner.stop.run_until_cancelled(serving).await;
    }
}

async fn follow_limit(inner: Arc<Inner>, mut settings: watch::Receiver<Settings>) {
    let following = async {
        while settings.changed().await.is_ok() {
            let limit = settings.borrow_and_update().mesh.upload_limit;
            inner.limiter.set(limit);
        }
    };
    inner.stop.run_until_cancelled(following).await;
}

fn flat<T>(result: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    result.unwrap_or_else(|e| Err(io::Error::other(e)))
}

impl Inner {
    fn shares(&self) -> bool {
        self.settings.borrow().mesh.share_models
    }

    async fn question(self: &Arc<Self>, peer: NodeKey, stream: BiStream) {
        let BiStream { mut send, mut recv, in_use: _in_use } = stream;
        let question = match timeout(ASK_TIME, recv.read_to_end(MAX_QUESTION_BYTES)).await {
            Ok(Ok(bytes)) => Question::decode(&bytes),
            _ => None,
        };
        let Some(question) = question else {
            let _ = send.reset(ERR_INTERNAL);
            return;
        };
        let answer = match self.asked.take(peer) {
            Some(_turn) => self.answer(question).await,
            None => Answer::Busy,
        };
        let sent = async {
            let bytes = postcard::to_stdvec(&answer).unwrap_or_default();
            send.write_all(&bytes).await.ok()?;
            send.finish().ok()?;
            send.stopped().await.ok()
        };
        let _ = timeout(WRITE_TIME, sent).await;
    }

    async fn answer(self: &Arc<Self>, question: Question) -> Answer {
        if !self.shares() {
            return Answer::NotShared;
        }
        let shelf = Arc::clone(&self.shelf);
        match question {
            Question::Blob(sha256) => match self.offer(sha256).await {
                Ok(Some(offer)) => Answer::Blob(offer),
                Ok(None) => self.prepare_a_while(sha256).await,
                Err(e) if e.kind() == io::ErrorKind::NotFound => Answer::NotHere,
                Err(e) => {
                    tracing::warn!("a peer asked for a layer that cannot be read: {e}");
                    Answer::NotHere
                }
            },
            Question::Manifest(name) => {
                match flat(spawn_blocking(move || shelf.manifest(&name)).await) {
                    Ok(Some(bytes)) if bytes.len() <= MAX_MANIFEST_BYTES => Answer::Manifest(bytes),
                    _ => Answer::NotHere,
                }
            }
        }
    }

    /// `None`: its tree has to be made first.
    async fn offer(&self, sha256: [u8; 32]) -> io::Result<Option<Offer>> {
        match self.find(sha256).await? {
            OnShelf::NotHere => Err(io::ErrorKind::NotFound.into()),
            OnShelf::NotReady => Ok(None),
            OnShelf::Ready(blob) => {
                let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
                roots.remember(blob.offer.root, sha256);
                Ok(Some(blob.offer))
            }
        }
    }

    async fn find(&self, sha256: [u8; 32]) -> io::Result<OnShelf> {
        let shelf = Arc::clone(&self.shelf);
        flat(spawn_blocking(move || shelf.find(sha256)).await)
    }

    /// Begins to make the tree; small ones are worth waiting for.
    async fn prepare_a_while(self: &Arc<Self>, sha256: [u8; 32]) -> Answer {
        let begun = self.preparing.lock().unwrap_or_else(PoisonError::into_inner).begin(sha256);
        if let Err(answer) = begun {
            return answer;
        }
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move { inner.prepare(sha256).await });
        if timeout(PREPARE_WAIT, task).await.is_err() {
            return Answer::NotYet;
        }
        match self.offer(sha256).await {
            Ok(Some(offer)) => Answer::Blob(offer),
            _ => Answer::NotHere,
        }
    }

    async fn prepare(self: Arc<Self>, sha256: [u8; 32]) {
        let turn = self.prepare_turn.acquire().await;
        let (shelf, stop) = (Arc::clone(&self.shelf), self.stop.clone());
        let made = spawn_blocking(move || shelf.prepare(sha256, &|| stop.is_cancelled()));
        let made = flat(made.await);
        let is_made = made.is_ok();
        match made {
            Ok(()) => {
                self.counters.prepared.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => tracing::warn!("a layer is not shared with peers: {e}"),
        }
        drop(turn);
        self.preparing.lock().unwrap_or_else(PoisonError::into_inner).end(sha256, is_made);
    }

    async fn blob(self: &Arc<Self>, peer: NodeKey, stream: BiStream) {
        let BiStream { mut send, mut recv, in_use: _in_use } = stream;
        let request = timeout(ASK_TIME, Request::read_async(&mut recv)).await;
        let wanted = match request {
            Ok(Ok((Request::Get(get), _))) => match get.ranges.as_single() {
                Some((0, ranges)) if ranges.boundaries().len() <= RANGE_EDGES => {
                    Some((*get.hash.as_bytes(), ranges.clone()))
                }
                _ => None,
            },
            _ => None,
        };
        let Some((root, ranges)) = wanted.filter(|_| self.shares()) else {
            let _ = send.reset(ERR_PERMISSION);
            return;
        };
        let Some(slot) = self.uploads.take(peer) else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            let _ = send.reset(ERR_LIMIT);
            return;
        };
        self.counters.uploads.fetch_add(1, Ordering::Relaxed);
        self.counters.most.fetch_max(slot.number as u64, Ordering::Relaxed);
        let sha256 = {
            let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
            roots.by_root.get(&root).copied()
        };
        let found = match sha256 {
            Some(sha256) => self.find(sha256).await,
            None => Ok(OnShelf::NotHere),
        };
        let blob = match found {
            Ok(OnShelf::Ready(blob)) if blob.offer.root == root => blob,
            // An empty answer says so.
            _ => return close(&mut send, None),
        };
        let sent = self.send(&mut send, blob, ranges).await;
        close(
            &mut send,
            match sent {
                Ok(()) => None,
                Err(UploadError::Over) => Some(ERR_PERMISSION),
                Err(_) => Some(ERR_INTERNAL),
            },
        );
        match sent {
            Ok(()) => {}
            Err(e @ (UploadError::Gone(_) | UploadError::Over)) => {
                tracing::debug!("an upload ended: {e}")
            }
            Err(e) => tracing::warn!("an upload ended: {e}"),
        }
    }

    async fn send(
        &self,
        send: &mut SendStream,
        blob: OpenBlob,
        ranges: ChunkRanges,
    ) -> Result<(), UploadError> {
        let size = blob.offer.size;
        let (pieces, mut ready) = mpsc::channel(PIECES);
        let encoding = spawn_blocking(move || encode(&blob, &ranges, pieces));
        self.write(send, Bytes::copy_from_slice(&size.to_le_bytes())).await?;
        while let Some(piece) = ready.recv().await {
            self.limiter.take(piece.len() as u64).await;
            // Also while a file is on its way: its owner's word counts from now on.
            if !self.shares() {
                return Err(UploadError::Over);
            }
            self.write(send, piece).await?;
        }
        encoding.await.map_err(|e| UploadError::Read(e.to_string()))?
    }

    async fn write(&self, send: &mut SendStream, piece: Bytes) -> Result<(), UploadError> {
        let length = piece.len() as u64;
        match timeout(WRITE_TIME, send.write_chunk(piece)).await {
            Ok(Ok(())) => {
                self.counters.sent.fetch_add(length, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(e)) => Err(UploadError::Gone(e.to_string())),
            Err(_) => Err(UploadError::Gone("it took nothing for too long".to_owned())),
        }
    }
}

/// `None`: all was sent.
fn close(send: &mut SendStream, code: Option<VarInt>) {
    let _ = match code {
        Some(code) => send.reset(code),
        None => send.finish(),
    };
}

/// Reads and proves the ranges, in a thread of its own. Ends when nobody takes the pieces.
fn encode(
    blob: &OpenBlob,
    ranges: &ChunkRanges,
    pieces: mpsc::Sender<Bytes>,
) -> Result<(), UploadError> {
    use bao_tree::io::EncodeError;
    let tree = BaoTree::new(blob.offer.size, IROH_BLOCK_SIZE);
    let outboard = PostOrderOutboard { root: blob.offer.root.into(), tree, data: &blob.outboard };
    let mut to = Pieces { pieces, buffer: BytesMut::with_capacity(PIECE_BYTES) };
    let encoded = encode_ranges_validated(&blob.data, outboard, ranges, &mut to)
        .and_then(|()| to.flush().map_err(EncodeError::Io));
    encoded.map_err(|e| match e {
        EncodeError::ParentHashMismatch(_) | EncodeError::LeafHashMismatch(_) => {
            UploadError::Damaged(e.to_string())
        }
        EncodeError::Io(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            UploadError::Gone("it wants no more".to_owned())
        }
        e => UploadError::Read(e.to_string()),
    })
}

/// From the reading thread to the network.
struct Pieces {
    pieces: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = self.buffer.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// How much of one kind of work goes on for peers.
#[derive(Debug)]
struct Slots {
    all: usize,
    per_peer: usize,
    /// Only peers for whom something goes on are in it.
    by_peer: Mutex<HashMap<NodeKey, usize>>,
}

/// The right to do one piece of work for a peer; ends when dropped.
struct Slot<'a> {
    slots: &'a Slots,
    peer: NodeKey,
    /// How many there are with this one.
    number: usize,
}

impl Slots {
    fn new(all: usize, per_peer: usize) -> Self {
        Self { all, per_peer, by_peer: Mutex::default() }
    }

    fn take(&self, peer: NodeKey) -> Option<Slot<'_>> {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = by_peer.values().sum();
        let own = by_peer.get(&peer).copied().unwrap_or(0);
        if all >= self.all || own >= self.per_peer {
            return None;
        }
        by_peer.insert(peer, own + 1);
        Some(Slot { slots: self, peer, number: all + 1 })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut by_peer = self.slots.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_peer.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_and_one_peer_cannot_take_all() {
        let slots = Slots::new(3, 2);
        let [one, two] = [1, 2].map(|n| NodeKey([n; 32]));
        let first = slots.take(one).expect("free");
        let second = slots.take(one).expect("free");
        assert!(slots.take(one).is_none());
        let third = slots.take(two).expect("free");
        assert_eq!((first.number, third.number), (1, 3));
        assert!(slots.take(two).is_none(), "all are taken");
        drop(second);
        assert!(slots.take(two).is_some());
        drop((first, third));
        assert!(slots.by_peer.lock().expect("no panic").is_empty());
    }

    #[test]
    fn only_the_latest_offers_are_remembered() {
        let mut roots = Roots::default();
        let root = |n: usize| *blake3::hash(&n.to_le_bytes()).as_bytes();
        for n in 0..ROOTS + 2 {
            roots.remember(root(n), [1; 32]);
            roots.remember(root(n), [2; 32]);
        }
        assert_eq!((roots.by_root.len(), roots.order.len()), (ROOTS, ROOTS));
        assert_eq!(roots.by_root.get(&root(1)), None);
        assert_eq!(roots.by_root.get(&root(2)), Some(&[2; 32]));
    }

    #[test]
    fn a_blob_whose_tree_cannot_be_made_is_not_read_for_everybody_who_asks() {
        let mut preparing = Preparing::default();
        assert_eq!(preparing.begin([1; 32]), Ok(()));
        assert_eq!(preparing.begin([1; 32]), Err(Answer::NotYet));
        preparing.end([1; 32], false);
        assert_eq!(preparing.begin([1; 32]), Err(Answer::NotHere));
        for n in 2..2 + PREPARING {
            assert_eq!(preparing.begin([u8::try_from(n).expect("few"); 32]), Ok(()));
        }
        assert_eq!(preparing.begin([99; 32]), Err(Answer::NotYet), "enough at a time");
    }
}
