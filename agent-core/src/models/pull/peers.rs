//! Other places than the registry that hold a blob: peers of the mesh.
//!
//! What a pull knows of them is here; the mesh itself is behind [`OtherPlaces`], which `node`
//! implements. [`Pool`] decides without IO whom to ask next: peers on this network first and alone
//! as long as they are quick, others beside the registry. A peer that fails twice is left alone for
//! this transfer, one that sends wrong bytes for the whole pull.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};

use super::plan::{CONNECTIONS, ConnId};
use crate::models::{manifest::Digest, name::ModelRef};

/// Connections to one peer: two pulls at a time stay within what a peer allows.
const PER_PEER: usize = 2;
/// Peers for one blob; more fill no link.
pub(super) const MAX_HOLDERS: usize = 8;
/// Of all connections, those to peers that are not on this network, while the registry answers: it
/// gets the others, and whoever is faster brings more parts.
const FAR_CONNECTIONS: usize = CONNECTIONS / 2;
/// Failures without a byte in between after which a peer is left alone.
const STRIKES: u32 = 2;
/// A peer that has enough to do is asked again after this, so often.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_TIMES: u32 = 12;
/// Peers on this network that are together slower than this over [`SLOW_AFTER`] (a poor wireless
/// link, a low upload limit there) are not waited for: the registry joins.
const SLOW_BYTES_PER_S: f64 = 2e6;
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(5);
/// A peer that sends nothing for so long is dropped.
pub(super) const SILENT: Duration = Duration::from_secs(10);
/// New peers are looked for so often while a blob is fetched: one that had to read its file first
/// is ready after a while.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The first look; peers that take longer join later.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(5);

/// A blob that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub blob: Digest,
    pub size: u64,
    /// The weights of the model that it belongs to: who says to have these has the other layers
    /// too.
    pub weights: Digest,
}

/// A manifest that a peer has under a name.
#[derive(Clone, Debug)]
pub struct PeerManifest {
    /// What the peer calls itself.
    pub peer: String,
    pub bytes: Vec<u8>,
}

/// Why a peer did not go on sending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Its bytes do not fit its own word.
    #[error("it sent wrong bytes: {0}")]
    Lied(String),
    #[error("it has enough to do with others")]
    Busy,
    #[error("{0}")]
    Gone(String),
}

/// Bytes in order, from the first that was asked for.
pub type Chunks = BoxStream<'static, Result<Bytes, PlaceError>>;

/// One peer that has the wanted blob.
pub trait Holder: Send + Sync + fmt::Debug {
    /// The same for the same peer.
    fn id(&self) -> &str;
    /// For people.
    fn name(&self) -> &str;
    /// On this network.
    fn is_near(&self) -> bool;
    /// What it says the blob's BLAKE3 hash is. All bytes it sends were checked against it.
    fn root(&self) -> [u8; 32];
    /// Nothing is asked for before the stream is polled; dropping it ends the transfer.
    fn open(&self, range: Range<u64>) -> Chunks;
}

/// The peers, as pulls see them.
pub trait OtherPlaces: Send + Sync + fmt::Debug {
    /// Those that have the blob and are ready to send it, the best first. May take some seconds.
    fn holders(&self, wanted: Wanted) -> BoxFuture<'_, Vec<Arc<dyn Holder>>>;

    /// What peers, whose word the owner has reason to take, have under this name.
    fn manifests<'a>(&'a self, name: &'a ModelRef) -> BoxFuture<'a, Vec<PeerManifest>>;
}

/// What became of a connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// Done, or not needed any more.
    Fine,
    Failed,
    Busy,
    Lied,
}

#[derive(Debug)]
struct Peer {
    holder: Arc<dyn Holder>,
    open: usize,
    allowed: usize,
    strikes: u32,
    busy: u32,
    not_before: Duration,
    is_aside: bool,
}

impl Peer {
    fn is_ready(&self, now: Duration) -> bool {
        !self.is_aside && self.not_before <= now
    }
}

#[derive(Debug)]
struct Lease {
    peer: usize,
    /// End of the part, to tell which part it is.
    end: u64,
}

/// The peers of one transfer.
#[derive(Debug, Default)]
pub(super) struct Pool {
    peers: Vec<Peer>,
    leases: HashMap<ConnId, Lease>,
    /// Peers that sent wrong bytes in this pull.
    distrusted: HashSet<String>,
    /// The registry failed while peers went on: it is asked again when they are used up.
    registry_aside: bool,
    slow_after: Duration,
    span_start: Duration,
    span_bytes: u64,
    is_slow: bool,
}

impl Pool {
    pub(super) fn new(distrusted: HashSet<String>, slow_after: Duration) -> Self {
        Self { distrusted, slow_after, ..Self::default() }
    }

    /// Takes in peers that were found. Where they contradict each other about the blob's hash, what
    /// most say counts, and the better ones where there is no most; the others are left out.
    pub(super) fn admit(&mut self, found: Vec<Arc<dyn Holder>>) {
        let distrusted = &self.distrusted;
        let found: Vec<_> = found.into_iter().filter(|h| !distrusted.contains(h.id())).collect();
        let known = self.peers.iter().find(|peer| !peer.is_aside).map(|p| p.holder.root());
        let Some(root) = known.or_else(|| usual_root(&found)) else { return };
        for holder in found {
            let is_known = self.peers.iter().any(|peer| peer.holder.id() == holder.id());
            if is_known || holder.root() != root || self.peers.len() >= MAX_HOLDERS {
                continue;
            }
            self.peers.push(Peer {
                holder,
                open: 0,
                allowed: PER_PEER,
                strikes: 0,
                busy: 0,
                not_before: Duration::ZERO,
                is_aside: false,
            });
        }
    }

    /// Some peer may still bring bytes.
    pub(super) fn is_usable(&self) -> bool {
        self.peers.iter().any(|peer| !peer.is_aside)
    }

    /// Whether the registry is to be asked now.
    pub(super) fn wants_registry(&mut self, now: Duration) -> bool {
        if !self.is_usable() {
            self.registry_aside = false;
        }
        let near = self.peers.iter().any(|peer| peer.is_ready(now) && peer.holder.is_near());
        !self.registry_aside && (!near || self.is_slow)
    }

    /// It failed. `false`: there is nobody else, so that counts.
    pub(super) fn registry_failed(&mut self) -> bool {
        self.registry_aside = self.is_usable();
        self.registry_aside
    }

    /// Whether a peer may be asked for another part.
    pub(super) fn has_room(&self, now: Duration) -> bool {
        self.best(now, None).is_some()
    }

    /// A peer for the part that ends there; `None`: none has room.
    pub(super) fn lease(
        &mut self,
        conn: ConnId,
        end: u64,
        now: Duration,
    ) -> Option<Arc<dyn Holder>> {
        // A part that is raced goes to somebody else, if there is anybody.
        let other = self.best(now, Some(end));
        let index = match other {
            Some(index) => index,
            None if self.wants_registry(now) || self.racing_registry_is_better(end) => return None,
            None => self.best(now, None)?,
        };
        let peer = self.peers.get_mut(index)?;
        peer.open += 1;
        self.leases.insert(conn, Lease { peer: index, end });
        Some(Arc::clone(&peer.holder))
    }

    /// The part is being fetched from the only peer there is: a race through the registry helps.
    fn racing_registry_is_better(&self, end: u64) -> bool {
        !self.registry_aside && self.leases.values().any(|lease| lease.end == end)
    }

    fn best(&self, now: Duration, not_for: Option<u64>) -> Option<usize> {
        let far = |lease: &&Lease| !self.peers[lease.peer].holder.is_near();
        let far_open = self.leases.values().filter(far).count();
        let far_room = self.registry_aside || far_open < FAR_CONNECTIONS;
        let serves = |index: usize| {
            self.leases.values().any(|lease| lease.peer == index && Some(lease.end) == not_for)
        };
        let fit = self.peers.iter().enumerate().filter(|(index, peer)| {
            let near = peer.holder.is_near();
            peer.is_ready(now) && peer.open < peer.allowed && (near || far_room) && !serves(*index)
        });
        // The first are the best; each gets one connection before any gets two.
        fit.min_by_key(|(_, peer)| (!peer.holder.is_near(), peer.open)).map(|(index, _)| index)
    }

    pub(super) fn holder(&self, conn: ConnId) -> Option<&Arc<dyn Holder>> {
        let lease = self.leases.get(&conn)?;
        self.peers.get(lease.peer).map(|peer| &peer.holder)
    }

    /// Other connections to the peer of this one.
    pub(super) fn siblings(&self, conn: ConnId) -> Vec<ConnId> {
        let Some(own) = self.leases.get(&conn) else { return Vec::new() };
        let same = self.leases.iter().filter(|(id, lease)| lease.peer == own.peer && **id != conn);
        same.map(|(id, _)| *id).collect()
    }

    /// Bytes came from the peer of this connection.
    pub(super) fn received(&mut self, conn: ConnId, bytes: u64) {
        let Some(lease) = self.leases.get(&conn) else { return };
        if let Some(peer) = self.peers.get_mut(lease.peer) {
            (peer.strikes, peer.busy) = (0, 0);
            self.span_bytes += bytes;
        }
    }

    /// Judges the peers' speed. `limited`: by our own limit, which says nothing about them.
    pub(super) fn measure(&mut self, now: Duration, limited: bool) {
        let span = now.saturating_sub(self.span_start);
        if span < self.slow_after {
            return;
        }
        let rate = self.span_bytes as f64 / span.as_secs_f64();
        self.is_slow = !limited && rate < SLOW_BYTES_PER_S;
        (self.span_start, self.span_bytes) = (now, 0);
    }

    /// A connection to a peer is over.
    pub(super) fn ended(&mut self, conn: ConnId, became: Became, now: Duration) {
        let Some(lease) = self.leases.remove(&conn) else { return };
        let Some(peer) = self.peers.get_mut(lease.peer) else { return };
        peer.open = peer.open.saturating_sub(1);
        match became {
            Became::Fine => {}
            Became::Failed => {
                peer.strikes += 1;
                peer.is_aside |= peer.strikes >= STRIKES;
            }
            Became::Busy => {
                peer.busy += 1;
                peer.allowed = 1;
                peer.not_before = now + BUSY_WAIT;
                peer.is_aside |= peer.busy >= BUSY_TIMES;
            }
            Became::Lied => {
                peer.is_aside = true;
                self.distrusted.insert(peer.holder.id().to_owned());
            }
        }
    }

    /// The earliest time at which a busy peer may be asked again.
    pub(super) fn wakes_at(&self, now: Duration) -> Option<Duration> {
        let waiting = self.peers.iter().filter(|peer| !peer.is_aside && peer.not_before > now);
        waiting.map(|peer| peer.not_before).min()
    }
}

/// What most say; of equals, what the best of them says.
fn usual_root(found: &[Arc<dyn Holder>]) -> Option<[u8; 32]> {
    let votes = |root| found.iter().filter(|holder| holder.root() == root).count();
    let mut best: Option<([u8; 32], usize)> = None;
    for holder in found {
        let count = votes(holder.root());
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((holder.root(), count));
        }
    }
    best.map(|(root, _)| root)
}

#[cfg(test)]
mod tests;
