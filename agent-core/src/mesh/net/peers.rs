//! What is shared about connected peers: their connections, what changes too often for a snapshot,
//! and who is being used.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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

/// Which peers have streams open besides the control stream, and over which connections: those are
/// not closed as one too many. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::mesh) struct Uses {
    inner: Arc<UsesInner>,
}

#[derive(Debug, Default)]
struct UsesInner {
    counts: Mutex<Counts>,
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Counts {
    peers: HashMap<NodeKey, usize>,
    /// By the connection's stable id.
    connections: HashMap<usize, usize>,
}

/// One less; what is not counted any more is forgotten.
fn less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    let left = counts.get_mut(key).map(|count| {
        *count = count.saturating_sub(1);
        *count
    });
    if left == Some(0) {
        counts.remove(key);
    }
}

impl Uses {
    pub(in crate::mesh) fn begin(&self, peer: NodeKey) -> InUse {
        *self.counts().peers.entry(peer).or_default() += 1;
        self.inner.changes.send_replace(());
        InUse { peer, over: None, uses: self.clone() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when no stream is open over this connection.
    pub(super) async fn until_idle(&self, connection: &Connection) {
        let (id, mut changes) = (connection.stable_id(), self.changes());
        // The sender lives as long as `self`.
        while self.counts().connections.contains_key(&id) && changes.changed().await.is_ok() {}
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes.subscribe()
    }

    pub(super) fn peers(&self) -> HashSet<NodeKey> {
        self.counts().peers.keys().copied().collect()
    }
}

/// As long as it is held, the connection with the peer is needed.
#[derive(Debug)]
pub struct InUse {
    peer: NodeKey,
    over: Option<usize>,
    uses: Uses,
}

impl InUse {
    /// It is for a stream over this connection.
    pub(super) fn over(mut self, connection: &Connection) -> Self {
        let id = connection.stable_id();
        *self.uses.counts().connections.entry(id).or_default() += 1;
        self.over = Some(id);
        self
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut counts = self.uses.counts();
        less(&mut counts.peers, &self.peer);
        if let Some(connection) = &self.over {
            less(&mut counts.connections, connection);
        }
        drop(counts);
        self.uses.inner.changes.send_replace(());
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
