//! The thread that writes one blob and hashes it.
//!
//! Chunks come through a queue that is bounded in bytes, and are written where they belong. A chunk
//! at the hashed frontier is hashed from memory; what arrived ahead of it is read from the page
//! cache when its turn comes. A second thread syncs and saves the record meanwhile, so that a slow
//! disk does not stop the network.

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use sha2::Digest as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{
    disk::WriteProblem,
    extent::PART_BYTES,
    progress::{Counters, HeadSlot},
    record::{Record, save},
};
use crate::models::{
    manifest::Digest,
    store::{BlobLock, Store, free_bytes},
};

/// Bytes between the network and the disk. With the sockets' buffers this keeps a pull far below
/// 32 MiB, whatever the size of the blob.
const BUFFERED_BYTES: usize = 8 << 20;
/// Chunks between the network and the disk; many small ones are slow links.
const BUFFERED_CHUNKS: usize = 256;
/// A record is saved when so much was written, or so much time went by, since the last one, and the
/// disk is done with that: it is what a kill -9 costs. Every part on its own would be 75 syncs a
/// second on a fast link; a slow one is not worth more than one.
const SAVE_BYTES: u64 = 16 << 20;
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// Read back at a time, and between two looks at the queue.
const READ_BYTES: usize = 1 << 20;

enum Job {
    Write {
        at: u64,
        bytes: Bytes,
        _room: OwnedSemaphorePermit,
    },
    /// Time to look whether the record should be saved.
    Tick,
    Finish(oneshot::Sender<Finished>),
}

/// What a writer reports while it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    /// Parts that are hashed; the window moves with it.
    pub parts: u64,
    pub problem: Option<WriteProblem>,
}

/// What a writer leaves behind. The lock goes back to whoever commits or discards.
#[derive(Debug)]
pub(super) struct Finished {
    pub lock: BlobLock,
    /// Of the whole blob, if all of it is here and synced.
    pub digest: Option<Digest>,
    pub problem: Option<WriteProblem>,
}

/// What a writer needs to begin.
#[derive(Debug)]
pub(super) struct Begin {
    pub store: Store,
    pub lock: BlobLock,
    pub record: Record,
    /// Where the head of a GGUF is put once it is here; `None`: it is no GGUF.
    pub head: Option<Arc<HeadSlot>>,
    pub counters: Arc<Counters>,
    /// Bytes of this blob that are here.
    pub done: Arc<AtomicU64>,
    /// Below this the disk counts as full, so that the node itself can still write.
    pub low_water: u64,
}

/// The way into the thread.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    status: watch::Receiver<Status>,
    hashed: Arc<AtomicU64>,
}

impl Writer {
    /// Opens the partial file and starts the thread. Touches the disk. The lock is released if it
    /// fails.
    pub(super) fn begin(begin: Begin) -> Result<Self, WriteProblem> {
        let folder = begin.store.blobs();
        let path = begin.store.partial_path(begin.lock.digest);
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let prepared = opened.and_then(|file| {
            let syncer =
                Syncer::start(file.try_clone()?, begin.store.state_path(begin.lock.digest))?;
            Ok((file, syncer))
        });
        let (file, syncer) = prepared.map_err(|e| WriteProblem::of(&e, &folder))?;
        let (jobs, queue) = mpsc::channel(BUFFERED_CHUNKS);
        let (status, watching) = watch::channel(Status::default());
        let hashed = Arc::new(AtomicU64::new(begin.record.extent.hashed()));
        let thread = BlobThread {
            file,
            folder,
            syncer: Some(syncer),
            record: begin.record,
            lock: begin.lock,
            head: begin.head,
            magic_seen: false,
            counters: begin.counters,
            done: begin.done,
            low_water: begin.low_water,
            hashed: Arc::clone(&hashed),
            status,
            buffer: Vec::new(),
            unsaved: 0,
            saved_at: Instant::now(),
        };
        // A thread of its own: it lives as long as the transfer, and blocks.
        let spawned =
            thread::Builder::new().name("pull-writer".into()).spawn(move || thread.run(queue));
        spawned.map_err(|e| WriteProblem::of(&e, &begin.store.blobs()))?;
        let room = Arc::new(Semaphore::new(BUFFERED_BYTES));
        Ok(Self { jobs, room, status: watching, hashed })
    }

    pub(super) fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Acquire)
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits for room, then hands the chunk over. A thread that is gone takes nothing.
    pub(super) async fn write(&self, at: u64, bytes: Bytes) {
        let size = u32::try_from(bytes.len().min(BUFFERED_BYTES)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(size).await else { return };
        let _ = self.jobs.send(Job::Write { at, bytes, _room: room }).await;
    }

    /// Lets a record be saved although nothing arrives.
    pub(super) fn tick(&self) {
        let _ = self.jobs.try_send(Job::Tick);
    }

    /// Writes, hashes and syncs what was handed over, and ends the thread. `None`: it died.
    pub(super) async fn finish(self) -> Option<Finished> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Finish(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Everything the thread owns.
struct BlobThread {
    file: File,
    folder: PathBuf,
    syncer: Option<Syncer>,
    record: Record,
    lock: BlobLock,
    head: Option<Arc<HeadSlot>>,
    magic_seen: bool,
    counters: Arc<Counters>,
    done: Arc<AtomicU64>,
    low_water: u64,
    hashed: Arc<AtomicU64>,
    status: watch::Sender<Status>,
    buffer: Vec<u8>,
    /// Bytes written since the record was last saved.
    unsaved: u64,
    saved_at: Instant,
}

impl BlobThread {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        self.done.store(self.record.extent.done(), Ordering::Relaxed);
        self.look_at_head();
        loop {
            let job = if self.is_behind() {
                match queue.try_recv() {
                    Ok(job) => Some(job),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            } else {
                match queue.blocking_recv() {
                    Some(job) => Some(job),
                    None => break,
                }
            };
            match job {
                Some(Job::Write { at, bytes, _room }) => self.write(at, &bytes),
                Some(Job::Tick) => {}
                Some(Job::Finish(reply)) => {
                    let _ = reply.send(self.finish());
                    return;
                }
                None => {}
            }
            self.catch_up(2 * READ_BYTES);
            self.save_if_due();
        }
        // The transfer was dropped without a word; what is here is still worth keeping.
        self.finish();
    }

    fn problem(&self) -> Option<WriteProblem> {
        self.status.borrow().problem.clone()
    }

    fn fail(&self, error: &io::Error) {
        self.report(WriteProblem::of(error, &self.folder));
    }

    fn report(&self, problem: WriteProblem) {
        self.status.send_if_modified(|status| {
            let first = status.problem.is_none();
            status.problem.get_or_insert(problem);
            first
        });
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        if self.problem().is_some() {
            return;
        }
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let part = at / PART_BYTES;
            let room = self.record.extent.start(part) + PART_BYTES - at;
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (piece, after) = rest.split_at(length);
            if let Err(e) = self.write_piece(at, piece) {
                return self.fail(&e);
            }
            (at, rest) = (at + length as u64, after);
        }
    }

    /// Bytes within one part. What is here already may be hashed: it must not change any more.
    fn write_piece(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let part = at / PART_BYTES;
        let here = self.record.extent.start(part) + self.record.extent.got(part);
        let known = usize::try_from(here.saturating_sub(at)).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(known..).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        let at = at + known as u64;
        write_all_at(&self.file, bytes, at)?;
        let length = bytes.len() as u64;
        self.unsaved += length;
        self.record.extent.add(at, length);
        self.done.store(self.record.extent.done(), Ordering::Relaxed);
        if at == self.record.extent.hashed() {
            self.hash_from_memory(bytes);
        }
        Ok(())
    }

    fn hash_from_memory(&mut self, bytes: &[u8]) {
        self.record.hasher.update(bytes);
        self.advance(bytes.len() as u64);
    }

    fn advance(&mut self, length: u64) {
        let before = self.record.extent.hashed();
        let after = before + length;
        self.record.extent.set_hashed(after);
        self.hashed.store(after, Ordering::Release);
        self.counters.hashed.fetch_add(length, Ordering::Relaxed);
        let parts = after / PART_BYTES;
        if parts != before / PART_BYTES || after == self.record.extent.total() {
            self.status.send_modify(|status| status.parts = parts);
        }
        self.look_at_head();
    }

    fn is_behind(&self) -> bool {
        self.record.extent.hashed() < self.record.extent.contiguous() && self.problem().is_none()
    }

    /// Hashes what arrived ahead of its turn, out of the page cache.
    fn catch_up(&mut self, mut budget: usize) {
        while budget > 0 && self.is_behind() {
            let from = self.record.extent.hashed();
            let length = (self.record.extent.contiguous() - from).min(READ_BYTES as u64) as usize;
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(READ_BYTES, 0);
            match read_exact_at(&self.file, &mut buffer[..length], from) {
                Ok(()) => {
                    self.counters.read_back.fetch_add(length as u64, Ordering::Relaxed);
                    self.record.hasher.update(&buffer[..length]);
                    self.advance(length as u64);
                }
                Err(e) => self.fail(&e),
            }
            self.buffer = buffer;
            budget = budget.saturating_sub(length);
        }
    }

    /// A file that is no GGUF is not worth its other gigabytes.
    fn look_at_head(&mut self) {
        let Some(head) = self.head.clone() else { return };
        let (hashed, total) = (self.record.extent.hashed(), self.record.extent.total());
        if !self.magic_seen && hashed >= MAGIC_AFTER.min(total) {
            let mut magic = [0; 4];
            let read = read_exact_at(&self.file, &mut magic, 0);
            if read.is_err() || &magic != b"GGUF" {
                return self.report(WriteProblem::NotGguf);
            }
            self.magic_seen = true;
        }
        while let Some(length) = head.due(hashed, total) {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            match read_exact_at(&self.file, &mut bytes, 0) {
                Ok(()) => head.offer(&bytes, total),
                Err(e) => return self.fail(&e),
            }
        }
    }

    fn save_if_due(&mut self) {
        let due = self.unsaved >= SAVE_BYTES
            || (self.unsaved > 0 && self.saved_at.elapsed() >= SAVE_AFTER);
        let Some(syncer) = self.syncer.as_ref().filter(|_| due) else { return };
        if let Some(error) = syncer.failure() {
            return self.fail(&error);
        }
        if syncer.save(|| self.record.encode()) {
            (self.unsaved, self.saved_at) = (0, Instant::now());
            if free_bytes(&self.folder).is_some_and(|free| free < self.low_water) {
                self.fail(&io::Error::from(io::ErrorKind::StorageFull));
            }
        }
    }

    fn finish(mut self) -> Finished {
        while self.is_behind() {
            self.catch_up(READ_BYTES);
        }
        let synced = match self.syncer.take() {
            Some(syncer) => syncer.finish(&self.file, &self.record.encode()),
            None => Ok(()),
        };
        if let Err(e) = synced {
            self.fail(&e);
        }
        let problem = self.problem();
        let total = self.record.extent.total();
        let whole = self.record.extent.hashed() == total && problem.is_none();
        let digest = whole.then(|| Digest::from_hash(self.record.hasher.finalize().into()));
        Finished { lock: self.lock, digest, problem }
    }
}

/// Enough bytes to be sure that a server really sends the file.
const MAGIC_AFTER: u64 = 64 << 10;

/// Syncs the file, then saves the record: in this order, on its own thread.
#[derive(Debug)]
struct Syncer {
    work: SyncSender<Vec<u8>>,
    idle: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<io::Error>>>,
    /// A sync failed. The system reports that once; what it could not write may be gone, and the
    /// next sync succeeds all the same. So no record is saved after it.
    unsound: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    path: PathBuf,
}

impl Syncer {
    fn start(file: File, path: PathBuf) -> io::Result<Self> {
        // One waits while none is at work: `idle` sees to it.
        let (work, todo) = sync_channel::<Vec<u8>>(1);
        let idle = Arc::new(AtomicBool::new(true));
        let failure = Arc::new(Mutex::new(None));
        let unsound = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("pull-sync".into()).spawn({
            let (idle, failure, path) = (Arc::clone(&idle), Arc::clone(&failure), path.clone());
            let unsound = Arc::clone(&unsound);
            move || {
                for encoded in todo {
                    if !unsound.load(Ordering::Acquire) {
                        let synced = file.sync_data();
                        unsound.store(synced.is_err(), Ordering::Release);
                        if let Err(e) = synced.and_then(|()| save(&path, &encoded)) {
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                        }
                    }
                    idle.store(true, Ordering::Release);
                }
            }
        })?;
        Ok(Self { work, idle, failure, unsound, thread, path })
    }

    /// Takes the record now if nothing is being saved. Bytes written after this may be synced too,
    /// but are not claimed.
    fn save(&self, encode: impl FnOnce() -> Vec<u8>) -> bool {
        self.idle.swap(false, Ordering::AcqRel) && self.work.try_send(encode()).is_ok()
    }

    fn failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// After a sync failed once the kernel may have dropped what it could not write: then the
    /// record stays as it was.
    fn finish(self, file: &File, encoded: &[u8]) -> io::Result<()> {
        let Self { work, failure, unsound, thread, path, .. } = self;
        drop(work);
        let _ = thread.join();
        if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        if unsound.load(Ordering::Acquire) {
            return Err(io::Error::other("the disk could not write it"));
        }
        file.sync_data()?;
        save(&path, encoded)
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn no_record_is_saved_after_a_sync_that_failed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("state");
        // Character devices cannot be synced.
        let device = File::open("/dev/null").expect("opens");
        let syncer = Syncer::start(device, path.clone()).expect("starts");
        assert!(syncer.save(|| b"claims too much".to_vec()));
        while syncer.failure().is_none() {
            thread::yield_now();
        }
        let sound = File::create(dir.path().join("partial")).expect("creates");
        assert!(syncer.finish(&sound, b"claims too much").is_err(), "though this sync succeeds");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn bytes_that_are_here_are_not_overwritten() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path().to_path_buf()).expect("opens");
        let bytes = Bytes::from(vec![7; PART_BYTES as usize + 100]);
        let digest = Digest::of(&bytes);
        let lock = store.lock_blob(digest).expect("locks").expect("free");
        let begin = Begin {
            store: store.clone(),
            lock,
            record: Record::new(bytes.len() as u64, None),
            head: None,
            counters: Arc::default(),
            done: Arc::default(),
            low_water: 0,
        };
        let writer = Writer::begin(begin).expect("begins");
        writer.write(0, bytes.slice(..1000)).await;
        writer.write(PART_BYTES, bytes.slice(PART_BYTES as usize..)).await;
        // The same again, sent wrong; only what is missing counts.
        let mut again = bytes.to_vec();
        again[..1000].fill(0);
        again[PART_BYTES as usize..].fill(0);
        writer.write(0, again.into()).await;
        let finished = writer.finish().await.expect("the thread lives");
        assert_eq!(finished.digest, Some(digest));
        assert!(fs::read(store.partial_path(digest)).expect("reads") == bytes);
    }
}
