//! What the API and the panel show. Read-only.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use agent_api::mesh::{PathKind, PeerState, Refused, SourceKind};

use super::{
    Membership, announce,
    directory::Entry,
    io::{ConnId, Side},
    links::{Conn, Link},
};
use crate::mesh::{Addresses, MeshCard, NodeKey, record::Record};

/// Failures in a row after which a peer counts as unreachable; fewer are a hiccup.
const UNREACHABLE_AFTER: u32 = 2;

/// One peer.
#[derive(Debug)]
pub struct PeerView<'a> {
    pub key: NodeKey,
    /// What it said last; `None` until its record came.
    pub record: Option<&'a Arc<Record>>,
    /// What it calls itself, or what a source called it.
    pub name: Option<&'a str>,
    /// All that are known.
    pub addresses: Addresses,
    /// Where it was found, in order.
    pub sources: Vec<SourceKind>,
    pub state: PeerState,
    /// The one in use first; empty: not connected.
    pub connections: Vec<ConnectionView>,
    /// Its last sign of life, milliseconds since 1970 by this node's clock.
    pub last_seen_ms: Option<i64>,
    /// Why it is not connected, where an attempt failed; or that its clock is wrong.
    pub problem: Option<Cow<'a, str>>,
    pub dialing: bool,
    /// At most ten, newest first.
    pub attempts: Vec<AttemptView<'a>>,
    pub trusted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConnectionView {
    pub conn: ConnId,
    pub side: Side,
    pub since_ms: i64,
    /// `None` until the driver said.
    pub path: Option<PathKind>,
    pub rtt: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptView<'a> {
    pub at_ms: i64,
    pub ok: bool,
    pub text: &'a str,
}

/// A node on this network that is in another mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearbyView<'a> {
    pub key: NodeKey,
    pub name: &'a str,
    /// Empty: it does not say.
    pub mesh: &'a str,
    pub asks_to_join: bool,
    pub seen_ms: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub connected: usize,
    /// With a record that is not stale; this node not counted.
    pub known: usize,
    pub stale: usize,
    pub unreachable: usize,
}

impl Membership {
    pub fn key(&self) -> NodeKey {
        self.me
    }

    pub fn card(&self) -> &MeshCard {
        &self.card
    }

    /// Between two announcements of this node, as the mesh's size has it now.
    pub fn announce_every(&self) -> Duration {
        announce::interval(self.directory.present())
    }

    /// Another computer uses this node's key, or did a short time ago.
    pub fn has_duplicate(&self) -> bool {
        self.duplicate.is_some()
    }

    pub fn blocked(&self) -> &BTreeSet<NodeKey> {
        &self.blocked
    }

    /// This node's own record, once it was signed.
    pub fn own_record(&self) -> Option<&Record> {
        self.directory.get(&self.me).map(|entry| entry.record.as_ref())
    }

    /// What a peer said last.
    pub fn record(&self, key: &NodeKey) -> Option<Arc<Record>> {
        self.directory.get(key).map(|entry| Arc::clone(&entry.record))
    }

    pub fn own_addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Messages that were refused, by reason.
    pub fn refused(&self) -> Vec<Refused> {
        let row = |(refusal, count): (&super::Refusal, &u64)| Refused {
            reason: refusal.word().to_owned(),
            count: *count,
        };
        self.refused.iter().map(row).collect()
    }

    pub fn nearby(&self) -> impl Iterator<Item = NearbyView<'_>> {
        self.visitors.table.iter().map(|(key, visitor)| NearbyView {
            key: *key,
            name: &visitor.name,
            mesh: &visitor.mesh,
            asks_to_join: visitor.asks,
            seen_ms: visitor.seen_ms,
        })
    }

    pub fn is_connected(&self, peer: &NodeKey) -> bool {
        self.links.is_up(peer)
    }

    /// Peers to and from whom records flow: a part of those that are connected.
    pub fn neighbours(&self) -> &BTreeSet<NodeKey> {
        self.overlay.neighbours()
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts { connected: self.links.up().count(), ..Counts::default() };
        for (key, entry) in self.directory.others() {
            let stale = entry.is_stale(self.now.mono);
            counts.known += usize::from(!stale);
            counts.stale += usize::from(stale);
            let link = self.links.get(key);
            let lost =
                link.is_some_and(|link| link.up().is_none() && link.failures >= UNREACHABLE_AFTER);
            counts.unreachable += usize::from(lost);
        }
        counts
    }

    /// Everyone in the directory and everyone connected, by key; also those that were connected, or
    /// that a source named, and that could not be reached for a while.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        let mut keys: BTreeSet<NodeKey> = self.directory.others().map(|(key, _)| *key).collect();
        // Whom the owner blocked is in a list of its own.
        let more = self.links.iter().map(|(key, _)| *key).filter(|key| self.lists(key));
        keys.extend(more);
        keys.into_iter().filter_map(|key| self.peer(&key))
    }

    /// Whether [`peers`](Self::peers) has it.
    pub fn lists(&self, key: &NodeKey) -> bool {
        let said = self.directory.get(key).is_some_and(|entry| !entry.record.body.goodbye);
        let blocked = self.blocked.contains(key);
        let link = self.links.get(key).filter(|_| !blocked);
        said || link.is_some_and(|link| link.up().is_some() || link.is_missed(self.now.mono))
    }

    /// `None`: never heard of.
    pub fn peer(&self, key: &NodeKey) -> Option<PeerView<'_>> {
        let entry = self.directory.get(key).filter(|entry| !entry.record.body.goodbye);
        let link = self.links.get(key);
        if entry.is_none() && link.is_none() || *key == self.me {
            return None;
        }
        let record = entry.map(|entry| &entry.record);
        let mut addresses = link.map(|link| link.addresses.clone()).unwrap_or_default();
        let mut sources: Vec<_> =
            link.map_or(Vec::new(), |link| link.sources.iter().copied().collect());
        if let Some(record) = record {
            addresses.merge(&record.body.addresses.cleaned(self.loopback(false)));
            if sources.is_empty() {
                sources.push(SourceKind::Gossip);
            }
        }
        let said = record.map(|record| record.body.announcement.name.as_str());
        Some(PeerView {
            key: *key,
            record,
            name: said.or_else(|| link.and_then(|link| link.name.as_deref())),
            addresses,
            sources,
            state: self.peer_state(entry, link),
            connections: link.map(connections).unwrap_or_default(),
            last_seen_ms: self.last_seen_ms(entry, link),
            problem: link
                .filter(|link| link.up().is_none())
                .and_then(|link| link.problem.as_deref().map(Cow::Borrowed))
                .or_else(|| self.clock_problem(key).map(Cow::Owned)),
            dialing: link.is_some_and(|link| link.dialing),
            attempts: link.map(attempts).unwrap_or_default(),
            trusted: self.trusted.contains(key),
        })
    }

    fn peer_state(&self, entry: Option<&Entry>, link: Option<&Link>) -> PeerState {
        if link.is_some_and(|link| link.up().is_some()) {
            return PeerState::Connected;
        }
        if link.is_some_and(|link| link.failures >= UNREACHABLE_AFTER) {
            return PeerState::Unreachable;
        }
        match entry {
            Some(entry) if !entry.is_stale(self.now.mono) => PeerState::Known,
            Some(_) => PeerState::Stale,
            None => PeerState::Unreachable,
        }
    }

    fn last_seen_ms(&self, entry: Option<&Entry>, link: Option<&Link>) -> Option<i64> {
        let heard = entry.map(|entry| {
            let ago = self.now.mono.saturating_sub(entry.heard).as_millis();
            self.now.unix_ms.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
        });
        heard.max(link.and_then(|link| link.seen_ms))
    }
}

fn connections(link: &Link) -> Vec<ConnectionView> {
    let up = link.conns.iter().rev().filter(|conn| conn.is_up());
    up.map(|conn: &Conn| ConnectionView {
        conn: conn.id,
        side: conn.side,
        since_ms: conn.opened_ms,
        path: conn.path.map(|(kind, _)| kind),
        rtt: conn.path.map(|(_, rtt)| rtt),
    })
    .collect()
}

fn attempts(link: &Link) -> Vec<AttemptView<'_>> {
    let rows = link.attempts.iter();
    rows.map(|row| AttemptView { at_ms: row.at_ms, ok: row.ok, text: &row.text }).collect()
}
