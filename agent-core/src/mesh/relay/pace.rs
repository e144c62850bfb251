//! How fast a client of the relay may send.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use iroh_relay::server::streams::Bucket;
use tokio::{
    sync::watch,
    time::{Sleep, sleep_until},
};

use crate::mesh::{NodeKey, sources::KnownPeer};

/// A token bucket is filled this often.
const REFILL: Duration = Duration::from_millis(100);

/// Bytes per second, and the burst above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) bytes_per_s: u32,
    pub(super) burst: u32,
}

impl Rate {
    /// Enough for answers of models to several peers; a relay is a way to meet, not to move model
    /// files.
    pub(super) const MEMBER: Self = Self { bytes_per_s: 4 << 20, burst: 16 << 20 };
    /// Enough to join by ticket, which makes a stranger a member within seconds. All
    /// [`STRANGERS`](super::STRANGERS) together get what four members get.
    pub(super) const STRANGER: Self = Self { bytes_per_s: 256 << 10, burst: 1 << 20 };

    /// `None`: without a limit, for a rate of nothing, which there is not.
    fn bucket(self) -> Option<Bucket> {
        Bucket::new(self.burst.into(), self.bytes_per_s.into(), REFILL).ok()
    }
}

/// The pace of one client. It is a stranger's until the mesh's directory knows the client.
#[derive(Debug)]
pub(super) struct Pace {
    directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
    /// `None`: it has not proved who it is yet.
    key: Option<NodeKey>,
    is_member: bool,
    bucket: Option<Bucket>,
    /// Until there is room for more.
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(directory: watch::Receiver<Arc<Vec<KnownPeer>>>) -> Self {
        let bucket = Rate::STRANGER.bucket();
        Self { directory, key: None, is_member: false, bucket, wait: None }
    }

    /// The client proved who it is.
    pub(super) fn is_of(&mut self, key: NodeKey) {
        self.key = Some(key);
        self.directory.mark_changed();
    }

    /// Ready when the client may send more.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.look();
        if let Some(wait) = &mut self.wait {
            std::task::ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(())
    }

    /// It sent so much.
    pub(super) fn took(&mut self, bytes: usize) {
        let over = self.bucket.as_mut().and_then(|bucket| bucket.consume(bytes).err());
        self.wait = over.map(|until| Box::pin(sleep_until(until)));
    }

    /// A stranger that the directory knows by now is one no more.
    fn look(&mut self) {
        if self.is_member || !self.directory.has_changed().unwrap_or(false) {
            return;
        }
        let Some(key) = self.key else { return };
        let known = self.directory.borrow_and_update().iter().any(|peer| peer.key == key);
        if known {
            self.is_member = true;
            self.bucket = Rate::MEMBER.bucket();
            self.wait = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;
    use crate::mesh::relay::tests::member;

    async fn seconds_for(pace: &mut Pace, frames: u32, bytes: usize) -> u64 {
        let begun = Instant::now();
        for _ in 0..frames {
            poll_fn(|cx| pace.poll_ready(cx)).await;
            pace.took(bytes);
        }
        poll_fn(|cx| pace.poll_ready(cx)).await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_sends_slower_until_the_mesh_knows_it() {
        let key = NodeKey([7; 32]);
        let directory = watch::Sender::new(Arc::default());
        let mut pace = Pace::new(directory.subscribe());
        pace.is_of(key);
        // 5 MiB, of which one is the burst.
        assert_eq!(seconds_for(&mut pace, 80, 64 << 10).await, 16);
        directory.send_replace(Arc::new(vec![member(key)]));
        assert_eq!(seconds_for(&mut pace, 256, 64 << 10).await, 0, "a burst of 16 MiB");
        assert_eq!(seconds_for(&mut pace, 320, 64 << 10).await, 5, "20 MiB more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_in_the_mesh_when_it_comes_is_no_stranger() {
        let key = NodeKey([7; 32]);
        let directory = watch::Sender::new(Arc::new(vec![member(key)]));
        let mut pace = Pace::new(directory.subscribe());
        pace.is_of(key);
        assert_eq!(seconds_for(&mut pace, 128, 64 << 10).await, 0);
        let mut other = Pace::new(directory.subscribe());
        other.is_of(NodeKey([8; 32]));
        assert!(seconds_for(&mut other, 128, 64 << 10).await > 20);
    }
}
