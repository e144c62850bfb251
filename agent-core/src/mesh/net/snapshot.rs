//! What the handle reads: published by the driver at most every [`PUBLISH_EVERY`], only when
//! something changed. Rows that did not change are shared with the snapshot before.

use std::{collections::HashMap, sync::Arc, time::Duration};

use agent_api::mesh::{
    Announcement, Attempt, BlockedNode, MeshState, Nearby, OwnNode, PathKind, Peer, PeerDetails,
    PeerState, Refused, SourceKind,
};

use super::{link::paths_of, network::Range, peers::Live};
use crate::mesh::{Addresses, MeshCard, NodeKey, record::Record};

/// Ten times a second is more than anybody sees; a mesh of thousands changes more often.
pub(super) const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// All of it, at one time.
#[derive(Clone, Debug)]
pub(in crate::mesh) struct Snapshot {
    pub(in crate::mesh) state: MeshState,
    /// Why there is no network, or a notice that comes before everything else; empty: neither.
    pub(in crate::mesh) notice: String,
    pub(in crate::mesh) card: MeshCard,
    pub(in crate::mesh) own: OwnNode,
    pub(in crate::mesh) addresses: Addresses,
    pub(in crate::mesh) rows: HashMap<NodeKey, Arc<Row>>,
    pub(in crate::mesh) nearby: Vec<Nearby>,
    pub(in crate::mesh) refused: Vec<Refused>,
    pub(in crate::mesh) duplicate_identity: bool,
    pub(in crate::mesh) clock_off_ms: Option<i64>,
    pub(in crate::mesh) blocked: Vec<BlockedNode>,
    /// The driver's own share of the sources: tickets, other peers, incoming connections.
    pub(in crate::mesh) found: Found,
    pub(super) ranges: Vec<Range>,
    /// Connections, also those whose handshake is not done.
    #[cfg(test)]
    pub(in crate::mesh) links: usize,
}

/// Peers found in the ways that only the driver sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::mesh) struct Found {
    by: HashMap<SourceKind, (u32, i64)>,
}

impl Found {
    pub(super) fn add(&mut self, source: SourceKind, now_ms: i64) {
        let (count, last_ms) = self.by.entry(source).or_default();
        *count = count.saturating_add(1);
        *last_ms = now_ms;
    }

    /// How many since the start, and when the last one was.
    pub(in crate::mesh) fn of(&self, source: SourceKind) -> (u32, Option<i64>) {
        let entry = self.by.get(&source);
        entry.map_or((0, None), |(count, last_ms)| (*count, Some(*last_ms)))
    }
}

/// One peer.
#[derive(Clone, Debug)]
pub(in crate::mesh) struct Row {
    pub(in crate::mesh) key: NodeKey,
    pub(in crate::mesh) name: String,
    pub(in crate::mesh) state: PeerState,
    pub(in crate::mesh) path: Option<(PathKind, Duration)>,
    pub(in crate::mesh) address: Option<String>,
    pub(in crate::mesh) trusted: bool,
    /// The owner's own; trusted too.
    pub(in crate::mesh) own: bool,
    pub(in crate::mesh) sources: Vec<SourceKind>,
    /// Its last sign of life when this row was made, milliseconds since 1970.
    pub(in crate::mesh) last_seen_ms: Option<i64>,
    pub(in crate::mesh) connected_since_ms: Option<i64>,
    pub(in crate::mesh) problem: Option<String>,
    pub(in crate::mesh) record: Option<Arc<Record>>,
    pub(in crate::mesh) addresses: Addresses,
    pub(in crate::mesh) attempts: Vec<Attempt>,
    pub(in crate::mesh) live: Option<Arc<Live>>,
}

impl Row {
    /// Nothing that a reader could tell apart changed, but for the last sign of life, which always
    /// does.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = |a: Option<&Arc<Record>>, b: Option<&Arc<Record>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let same_live = match (&self.live, &other.live) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        self.name == other.name
            && self.state == other.state
            && self.path == other.path
            && self.address == other.address
            && self.trusted == other.trusted
            && self.own == other.own
            && self.sources == other.sources
            && self.connected_since_ms == other.connected_since_ms
            && self.problem == other.problem
            && same(self.record.as_ref(), other.record.as_ref())
            && self.addresses == other.addresses
            && self.attempts == other.attempts
            && same_live
    }

    pub(in crate::mesh) fn announcement(&self) -> Option<&Announcement> {
        self.record.as_deref().map(|record| &record.body.announcement)
    }

    pub(in crate::mesh) fn is_seed(&self) -> bool {
        self.announcement().is_some_and(|said| said.seed)
    }

    pub(in crate::mesh) fn is_connected(&self) -> bool {
        self.state == PeerState::Connected
    }

    pub(in crate::mesh) fn rtt_ms(&self) -> Option<f64> {
        self.path.map(|(_, rtt)| rtt.as_secs_f64() * 1e3)
    }

    pub(in crate::mesh) fn peer(&self) -> Peer {
        let heard_ms = self.live.as_ref().map(|live| live.heard_ms());
        Peer {
            node_id: self.key.to_id(),
            name: self.name.clone(),
            connected: self.is_connected(),
            state: self.state,
            path: self.path.map(|(kind, _)| kind),
            rtt_ms: self.rtt_ms(),
            address: self.address.clone(),
            trusted: self.trusted,
            own: self.own,
            seed: self.is_seed(),
            sources: self.sources.clone(),
            last_seen_ms: heard_ms.max(self.last_seen_ms),
            connected_since_ms: self.connected_since_ms,
            problem: self.problem.clone(),
            announcement: self.announcement().cloned(),
        }
    }
}

impl Snapshot {
    pub(in crate::mesh) fn details(&self, row: &Row) -> PeerDetails {
        let direct = row.addresses.direct.iter().map(ToString::to_string);
        let relays = row.addresses.relays.iter().cloned();
        let live = row.live.as_deref();
        let stats = live.map(|live| live.connection.stats());
        PeerDetails {
            peer: row.peer(),
            addresses: direct.chain(relays).collect(),
            paths: live.map_or_else(Vec::new, |live| paths_of(&live.connection, &self.ranges)),
            rtt_history: live.map_or_else(Vec::new, Live::rtt_history),
            bytes_sent: stats.as_ref().map_or(0, |stats| stats.udp_tx.bytes),
            bytes_received: stats.as_ref().map_or(0, |stats| stats.udp_rx.bytes),
            attempts: row.attempts.clone(),
        }
    }
}
