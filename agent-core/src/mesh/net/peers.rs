//! What is shared about connected peers: their connections, what changes too often for a snapshot,
//! and who is being used.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use iroh::endpoint::Connection;
use tokio::sync::watch;

use crate::mesh::NodeKey;

/// Peers whose handshake is done, with the connection to use.
pub(in crate::mesh) type Members = HashMap<NodeKey, Connection>;

/// Round-trip times that are shown.
const RTT_SAMPLES: usize = 60;

/// What of a connection changes too often for the snapshot; shared with the handle.
#[derive(Debug)]
pub(in crate::mesh) struct Live {
    pub(super) connection: Connection,
    /// Last frame, milliseconds since 1970.
    heard_ms: AtomicI64,
    rtt_ms: Mutex<VecDeque<f64>>,
}

impl Live {
    pub(super) fn new(connection: Connection, now_ms: i64) -> Self {
        let rtt_ms = Mutex::default();
        Self { connection, heard_ms: AtomicI64::new(now_ms), rtt_ms }
    }

    pub(super) fn heard(&self, now_ms: i64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn heard_ms(&self) -> i64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    pub(super) fn sample(&self, rtt: Duration) {
        let mut samples = self.rtt_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= RTT_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(rtt.as_secs_f64() * 1e3);
    }

    pub(super) fn rtt_history(&self) -> Vec<f64> {
        self.rtt_ms.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Which peers have streams open besides the control stream: their connections are not closed as
/// one too many. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::mesh) struct Uses {
    inner: Arc<UsesInner>,
}

#[derive(Debug, Default)]
struct UsesInner {
    counts: Mutex<HashMap<NodeKey, usize>>,
    changes: watch::Sender<()>,
}

impl Uses {
    pub(in crate::mesh) fn begin(&self, peer: NodeKey) -> InUse {
        let mut counts = self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(peer).or_default() += 1;
        drop(counts);
        self.inner.changes.send_replace(());
        InUse { peer, uses: self.clone() }
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes.subscribe()
    }

    pub(super) fn peers(&self) -> HashSet<NodeKey> {
        self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// As long as it is held, the connection with the peer is needed.
#[derive(Debug)]
pub struct InUse {
    peer: NodeKey,
    uses: Uses,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let inner = &self.uses.inner;
        let mut counts = inner.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let left = counts.get_mut(&self.peer).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            counts.remove(&self.peer);
        }
        drop(counts);
        inner.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_in_use_until_the_last_stream_is_gone() {
        let uses = Uses::default();
        let peer = NodeKey([1; 32]);
        let (first, second) = (uses.begin(peer), uses.begin(peer));
        drop(first);
        assert!(uses.peers().contains(&peer));
        drop(second);
        assert!(uses.peers().is_empty());
    }
}
