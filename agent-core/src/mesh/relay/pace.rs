//! How fast a client of the relay may send: counted in the bytes that come off its connection, so
//! that unfinished messages and empty frames cost, too. Who is too fast is slowed down by TCP.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use iroh_relay::server::streams::Bucket;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::gate::Gate;
use crate::mesh::{NodeKey, sources::KnownPeer};

/// A token bucket is filled this often.
const REFILL: Duration = Duration::from_millis(100);
/// A client that has not proved who it is may send so much in all; the proof has about 100 bytes.
pub(super) const HANDSHAKE_BYTES: usize = 4 << 10;

/// Bytes per second, and the burst above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    bytes_per_s: u32,
    pub(super) burst: u32,
}

impl Rate {
    /// One node of the mesh: answers of models to several peers. A relay is a way to meet, not to
    /// move model files.
    pub(super) const MEMBER: Self = Self { bytes_per_s: 4 << 20, burst: 16 << 20 };
    /// All strangers together: joining by ticket, which makes one a member within seconds, is some
    /// ten KiB. Together, because another key and another connection cost nothing.
    pub(super) const STRANGERS: Self = Self { bytes_per_s: 1 << 20, burst: 4 << 20 };
}

/// What several connections may send together.
#[derive(Clone, Debug)]
pub(super) struct SharedBucket {
    /// `None`: without a limit, for a rate of nothing, which there is not.
    bucket: Arc<Mutex<Option<Bucket>>>,
}

impl SharedBucket {
    pub(super) fn full(rate: Rate) -> Self {
        let bucket = Bucket::new(rate.burst.into(), rate.bytes_per_s.into(), REFILL).ok();
        Self { bucket: Arc::new(Mutex::new(bucket)) }
    }

    /// Counts bytes that came. Some: nobody may send more before that time.
    pub(super) fn take(&self, bytes: usize) -> Option<Instant> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.as_mut().and_then(|bucket| bucket.consume(bytes).err())
    }

    /// Whether a connection takes from it.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.bucket) > 1
    }
}

/// Whom a connection is of.
#[derive(Debug)]
enum Client {
    /// Nobody knows yet; it may send so many bytes until then.
    Unproven {
        left: usize,
    },
    Proven {
        key: NodeKey,
        bucket: SharedBucket,
    },
}

/// The pace of one connection: that of strangers while the mesh's directory does not know the
/// client, else its own.
#[derive(Debug)]
pub(super) struct Pace {
    gate: Arc<Gate>,
    directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
    client: Client,
    /// Until there is room for more.
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        let directory = gate.directory();
        Self { gate, directory, client: Client::Unproven { left: HANDSHAKE_BYTES }, wait: None }
    }

    /// The client proved who it is.
    pub(super) fn is_of(&mut self, key: NodeKey) {
        // From here on a change counts.
        self.directory.mark_unchanged();
        self.client = Client::Proven { key, bucket: self.gate.bucket(key) };
    }

    /// Ready when more may be read. Looked at before each reading, so that connections that take
    /// from one bucket never overdraw it by more than one reading.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let has_changed = self.directory.has_changed().unwrap_or(false);
        let Client::Proven { key, bucket } = &mut self.client else { return Poll::Ready(()) };
        if has_changed {
            // It came into the mesh, or left it.
            self.directory.mark_unchanged();
            *bucket = self.gate.bucket(*key);
            self.wait = None;
        }
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
            }
            self.wait = bucket.take(0).map(|until| Box::pin(sleep_until(until)));
            if self.wait.is_none() {
                return Poll::Ready(());
            }
        }
    }

    /// So much was read.
    fn took(&mut self, bytes: usize) -> io::Result<()> {
        match &mut self.client {
            Client::Proven { bucket, .. } => {
                // When it may go on is asked before the next reading.
                let _ = bucket.take(bytes);
            }
            Client::Unproven { left } => match left.checked_sub(bytes) {
                Some(rest) => *left = rest,
                None => return Err(io::Error::other("it sent too much before it proved its key")),
            },
        }
        Ok(())
    }
}

/// A connection that is read at a pace. Writing is not slowed down.
#[derive(Debug)]
pub(super) struct Paced<T> {
    pub(super) inner: T,
    pub(super) pace: Pace,
}

impl<T> Paced<T> {
    pub(super) fn new(inner: T, pace: Pace) -> Self {
        Self { inner, pace }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.pace.poll_ready(cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        Poll::Ready(self.pace.took(buf.filled().len() - before))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;
    use crate::mesh::relay::tests::Mesh;

    /// Virtual time, so this is no race.
    async fn seconds_for(pace: &mut Pace, frames: u32, bytes: usize) -> u64 {
        let begun = Instant::now();
        for _ in 0..frames {
            poll_fn(|cx| pace.poll_ready(cx)).await;
            pace.took(bytes).expect("it proved who it is");
        }
        poll_fn(|cx| pace.poll_ready(cx)).await;
        begun.elapsed().as_secs()
    }

    fn may_send(pace: &mut Pace) -> bool {
        poll_fn(|cx| pace.poll_ready(cx)).now_or_never().is_some()
    }

    fn of(mesh: &Mesh, n: u8) -> Pace {
        let mut pace = Pace::new(Arc::clone(&mesh.gate));
        pace.is_of(NodeKey([n; 32]));
        pace
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_the_members_pace_as_long_as_it_is_in_the_mesh() {
        let mesh = Mesh::new();
        let mut pace = of(&mesh, 7);
        // 20 MiB, of which four are the burst.
        assert_eq!(seconds_for(&mut pace, 320, 64 << 10).await, 16);
        mesh.has(&[7]);
        assert_eq!(seconds_for(&mut pace, 255, 64 << 10).await, 0, "a burst of 16 MiB");
        assert_eq!(seconds_for(&mut pace, 320, 64 << 10).await, 5, "20 MiB more");
        mesh.has(&[8]);
        assert!(seconds_for(&mut pace, 320, 64 << 10).await >= 15, "it left");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_share_one_pace_which_costs_members_nothing() {
        let mesh = Mesh::new();
        mesh.has(&[1]);
        let (mut first, mut known) = (of(&mesh, 7), of(&mesh, 1));
        assert!(may_send(&mut first));
        first.took(5 << 20).expect("it proved who it is");
        // Another key, another connection: no fresh burst.
        let mut second = of(&mesh, 8);
        assert!(!may_send(&mut first) && !may_send(&mut second));
        assert!(may_send(&mut known));
        // Nor does waiting for the others make it longer.
        assert_eq!(seconds_for(&mut second, 0, 0).await, 1);
        assert!(may_send(&mut first));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_comes_again_has_no_fresh_burst() {
        let mesh = Mesh::new();
        mesh.has(&[7, 9]);
        let mut pace = of(&mesh, 7);
        pace.took(40 << 20).expect("it proved who it is");
        drop(pace);
        assert!(!may_send(&mut of(&mesh, 7)));
        assert!(may_send(&mut of(&mesh, 9)), "another member");
    }

    #[test]
    fn who_has_not_proved_its_key_may_send_little() {
        let mesh = Mesh::new();
        let mut pace = Pace::new(Arc::clone(&mesh.gate));
        pace.took(HANDSHAKE_BYTES).expect("so much it may");
        let error = pace.took(1).expect_err("not more").to_string();
        assert!(error.contains("before it proved"), "{error}");
    }
}
