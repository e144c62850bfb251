//! Connections: which there are, whom to dial, and how long to wait after a failure.

mod dial;
mod ends;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use agent_api::mesh::{PathKind, SourceKind};
use bytes::Bytes;
use rand::{RngExt as _, rngs::StdRng};

use super::{
    Membership,
    io::{ConnId, MeshEvent, Now, Output, Side},
    limits::{BYTES, DIGESTS, FRAMES, OFFENCES, TokenBucket},
    wire::Hello,
};
use crate::mesh::{Addresses, NodeKey, addr::Loopback};

/// With so many known nodes or fewer, everybody is connected to everybody, so that owners see the
/// real path and round-trip time of each.
const SMALL_MESH: usize = 32;
/// Why a connection is closed that serves nobody: no failure and no news, whoever says it.
pub const NOT_NEEDED: &str = "it is not needed now";
/// Fewer ways into the mesh than that, and more are looked for.
pub(super) const FEW_NEIGHBOURS: usize = 3;
/// A busy seed: nodes that join, and those that its neighbourhood needs.
pub(super) const MOST_CONNECTIONS: usize = 512;
/// At a time; more would look like a scan to a home router.
const MOST_DIALS: usize = 8;
/// Peers in the table: every node of a full directory, and candidates.
const MOST_LINKS: usize = 6_144;
/// Two connections of one pair, made within that time, were dialed by both at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How long a connection without a purpose stays: a refused neighbour may come back.
const LINGER: Duration = Duration::from_secs(10);
/// The end with the larger key waits for the other's dial.
const AFTER_YOU: Duration = Duration::from_millis(1_500);
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A peer that was up within [`RECENTLY`] may be back any moment; it is tried within one
/// anti-entropy period.
const LONGEST_WAIT_RECENT: Duration = Duration::from_secs(24);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
const RECENTLY: Duration = Duration::from_secs(3_600);
/// How long a peer that broke the rules is not listened to.
const BAN: Duration = Duration::from_secs(300);
/// How long frames wait for a connection, and how many.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
const MOST_QUEUED: usize = 8;
/// How long a peer that nobody has an address of is waited for: its record may be on its way.
const ADDRESS_WAIT: Duration = Duration::from_secs(3);
const MOST_ATTEMPTS: usize = 10;
/// How long a peer that cannot be reached any more stays in the list, from its last sign of life or
/// the first attempt.
const MISSED_FOR: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its hello is awaited.
    Greeting,
    Up,
    /// Of another mesh, on this LAN.
    Visiting,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) side: Side,
    pub(super) binding: [u8; 32],
    pub(super) on_lan: bool,
    pub(super) phase: Phase,
    /// Another one took its place: not used for sending any more; streams on it still count.
    pub(super) closing: bool,
    pub(super) opened: Duration,
    pub(super) opened_ms: i64,
    pub(super) heard: Duration,
    /// A ping waits for its answer since then.
    pub(super) pinged: Option<Duration>,
    /// The network changed, and it has not answered since.
    pub(super) suspect: bool,
    pub(super) path: Option<(PathKind, Duration)>,
    pub(super) hello: Option<Hello>,
}

impl Conn {
    pub(super) fn new(id: ConnId, side: Side, binding: [u8; 32], on_lan: bool, now: Now) -> Self {
        Self {
            id,
            side,
            binding,
            on_lan,
            phase: Phase::Greeting,
            closing: false,
            opened: now.mono,
            opened_ms: now.unix_ms,
            heard: now.mono,
            pinged: None,
            suspect: false,
            path: None,
            hello: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up && !self.closing
    }
}

/// An attempt to connect, or a connection's end.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) at_ms: i64,
    pub(super) ok: bool,
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: Option<String>,
    pub(super) addresses: Addresses,
    pub(super) sources: BTreeSet<SourceKind>,
    pub(super) conns: Vec<Conn>,
    pub(super) dialing: bool,
    pub(super) failures: u32,
    not_before: Duration,
    pub(super) problem: Option<String>,
    /// It said last that it is in another mesh, or goodbye.
    elsewhere: bool,
    /// Since when it is not reached, although it was tried.
    missed_since: Option<Duration>,
    /// The path that listeners were told of last; `None` while it is not connected.
    told_path: Option<PathKind>,
    pub(super) attempts: VecDeque<Attempt>,
    /// Last use of this row; the oldest leave a full table.
    touched: Duration,
    last_up: Option<Duration>,
    pub(super) seen_ms: Option<i64>,
    queued: Vec<Bytes>,
    queued_until: Duration,
    pub(super) in_use: bool,
    /// Somebody wants it up: a probe, a changed network.
    wanted: bool,
    keep_until: Duration,
    banned_until: Duration,
    pub(super) frames: TokenBucket,
    pub(super) bytes: TokenBucket,
    pub(super) digests: TokenBucket,
    offences: TokenBucket,
}

impl Link {
    /// It was here or somebody named it, it cannot be reached, and it did not say that it left.
    /// Not for ever: what was true long ago is of no use to the owner.
    pub(super) fn is_missed(&self, now: Duration) -> bool {
        let stranger = self.last_up.is_none()
            && self.sources.len() == 1
            && self.sources.contains(&SourceKind::Incoming);
        let recent = |since: Duration| now.saturating_sub(since) < MISSED_FOR;
        !self.elsewhere && !stranger && self.missed_since.is_some_and(recent)
    }

    fn new(now: Duration) -> Self {
        Self {
            name: None,
            addresses: Addresses::default(),
            sources: BTreeSet::new(),
            conns: Vec::new(),
            dialing: false,
            failures: 0,
            not_before: now,
            problem: None,
            elsewhere: false,
            missed_since: None,
            told_path: None,
            attempts: VecDeque::new(),
            touched: now,
            last_up: None,
            seen_ms: None,
            queued: Vec::new(),
            queued_until: Duration::ZERO,
            in_use: false,
            wanted: false,
            keep_until: Duration::ZERO,
            banned_until: Duration::ZERO,
            frames: TokenBucket::full(FRAMES, now),
            bytes: TokenBucket::full(BYTES, now),
            digests: TokenBucket::full(DIGESTS, now),
            offences: TokenBucket::full(OFFENCES, now),
        }
    }

    /// The connection in use: the newest, unless both ends agreed on another.
    pub(super) fn up(&self) -> Option<&Conn> {
        self.conns.iter().rev().find(|conn| conn.is_up())
    }

    fn note(&mut self, ok: bool, text: String, now: Now) {
        self.attempts.push_front(Attempt { at_ms: now.unix_ms, ok, text });
        self.attempts.truncate(MOST_ATTEMPTS);
    }
}

/// Every peer that is or may be connected.
#[derive(Debug, Default)]
pub(super) struct Links {
    table: BTreeMap<NodeKey, Link>,
}

impl Links {
    pub(super) fn get(&self, peer: &NodeKey) -> Option<&Link> {
        self.table.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &NodeKey) -> Option<&mut Link> {
        self.table.get_mut(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeKey, &Link)> {
        self.table.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&NodeKey, &mut Link)> {
        self.table.iter_mut()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    fn row(&mut self, peer: NodeKey, now: Duration) -> &mut Link {
        if self.table.len() >= MOST_LINKS && !self.table.contains_key(&peer) {
            let idle = self.table.iter().filter(|(_, link)| link.conns.is_empty());
            let oldest = idle.min_by_key(|(_, link)| link.touched).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.table.remove(&oldest);
            }
        }
        let link = self.table.entry(peer).or_insert_with(|| Link::new(now));
        link.touched = now;
        link
    }

    pub(super) fn conn_mut(&mut self, peer: &NodeKey, id: ConnId) -> Option<&mut Conn> {
        self.table.get_mut(peer)?.conns.iter_mut().find(|conn| conn.id == id)
    }

    /// Peers of this mesh with a connection, by key.
    pub(super) fn up(&self) -> impl Iterator<Item = (&NodeKey, &Link)> {
        self.table.iter().filter(|(_, link)| link.up().is_some())
    }

    pub(super) fn is_up(&self, peer: &NodeKey) -> bool {
        self.table.get(peer).is_some_and(|link| link.up().is_some())
    }

    pub(super) fn was_dialed(&self, peer: &NodeKey) -> bool {
        let conn = self.table.get(peer).and_then(Link::up);
        conn.is_some_and(|conn| conn.side == Side::Dialed)
    }

    /// Peers with any connection, whatever its phase.
    pub(super) fn connected(&self) -> Vec<NodeKey> {
        let connected = self.table.iter().filter(|(_, link)| !link.conns.is_empty());
        connected.map(|(key, _)| *key).collect()
    }

    pub(super) fn count_connections(&self) -> usize {
        self.table.values().map(|link| link.conns.len()).sum()
    }

    pub(super) fn is_banned(&self, peer: &NodeKey, now: Duration) -> bool {
        self.table.get(peer).is_some_and(|link| link.banned_until > now)
    }

    pub(super) fn add(&mut self, peer: NodeKey, conn: Conn, now: Duration) {
        let link = self.row(peer, now);
        match conn.side {
            Side::Dialed => link.dialing = false,
            Side::Accepted => {
                link.sources.insert(SourceKind::Incoming);
            }
        }
        link.keep_until = link.keep_until.max(now + LINGER);
        link.conns.push(conn);
    }

    /// The handshake is done. Returns connections of the same pair that are not needed any more.
    ///
    /// Of two that were dialed at once, the one of the smaller key stays; otherwise the newer: the
    /// older one may be dead. Both ends choose by that; only the one with the smaller key ends the
    /// others, so that both cannot end different ones.
    pub(super) fn greet(
        &mut self,
        peer: &NodeKey,
        id: ConnId,
        hello: Hello,
        me: NodeKey,
        now: Now,
    ) -> Vec<ConnId> {
        let Some(link) = self.table.get_mut(peer) else { return Vec::new() };
        link.name = Some(hello.name.clone());
        link.failures = 0;
        link.problem = None;
        link.elsewhere = false;
        link.missed_since = None;
        link.wanted = false;
        link.last_up = Some(now.mono);
        link.not_before = now.mono;
        link.seen_ms = Some(now.unix_ms);
        if let Some(conn) = link.conns.iter_mut().find(|conn| conn.id == id) {
            conn.phase = Phase::Up;
            conn.hello = Some(hello);
            conn.heard = now.mono;
        }
        let dialed = link.conns.iter().any(|conn| conn.id == id && conn.side == Side::Dialed);
        link.note(true, if dialed { "connected" } else { "it connected" }.to_owned(), now);
        let dialed_by_smaller = if me < *peer { Side::Dialed } else { Side::Accepted };
        let mut up: Vec<_> = link.conns.iter().filter(|conn| conn.is_up()).collect();
        up.sort_by_key(|conn| conn.opened);
        let Some(newest) = up.last() else { return Vec::new() };
        let newest_opened = newest.opened;
        let at_once = up.iter().rev().find(|conn| {
            conn.side == dialed_by_smaller && newest_opened.saturating_sub(conn.opened) <= AT_ONCE
        });
        let stays = at_once.unwrap_or(newest).id;
        if me > *peer {
            // The last one is used.
            link.conns.sort_by_key(|conn| conn.id == stays);
            return Vec::new();
        }
        let superseded: Vec<_> =
            up.iter().filter(|conn| conn.id != stays).map(|conn| conn.id).collect();
        for conn in &mut link.conns {
            conn.closing |= superseded.contains(&conn.id);
        }
        superseded
    }

    pub(super) fn remove_conn(&mut self, peer: &NodeKey, id: ConnId) -> Option<Conn> {
        let link = self.table.get_mut(peer)?;
        let at = link.conns.iter().position(|conn| conn.id == id)?;
        Some(link.conns.remove(at))
    }

    /// Takes out connections with an earlier start of this peer.
    pub(super) fn take_earlier(&mut self, peer: &NodeKey, instance: u64) -> Vec<ConnId> {
        let Some(link) = self.table.get_mut(peer) else { return Vec::new() };
        let earlier = link.conns.extract_if(.., |conn| {
            conn.hello.as_ref().is_some_and(|hello| hello.instance != instance)
        });
        earlier.map(|conn| conn.id).collect()
    }

    /// A dial or a connection failed: it waits before the next one.
    pub(super) fn failed(&mut self, peer: &NodeKey, why: String, now: Now, rng: &mut StdRng) {
        let link = self.row(*peer, now.mono);
        link.failures = link.failures.saturating_add(1);
        link.missed_since.get_or_insert(now.mono);
        let recent = link.last_up.is_some_and(|up| now.mono.saturating_sub(up) < RECENTLY);
        let longest = if recent { LONGEST_WAIT_RECENT } else { LONGEST_WAIT };
        let doublings = (link.failures - 1).min(16);
        let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(longest);
        link.not_before = now.mono + wait.mul_f64(rng.random_range(0.8..1.2));
        link.problem = Some(why.clone());
        link.note(false, why, now);
    }

    /// The other end needed the connection no more; it is not asked for another one at once.
    fn rest(&mut self, peer: &NodeKey, now: Duration) {
        if let Some(link) = self.table.get_mut(peer) {
            link.not_before = link.not_before.max(now + LINGER);
        }
    }

    pub(super) fn is_elsewhere(&mut self, peer: &NodeKey) {
        if let Some(link) = self.table.get_mut(peer) {
            link.elsewhere = true;
        }
    }

    pub(super) fn forgive_all(&mut self) {
        for link in self.table.values_mut() {
            link.not_before = Duration::ZERO;
        }
    }

    pub(super) fn linger(&mut self, peer: &NodeKey, now: Duration) {
        if let Some(link) = self.table.get_mut(peer) {
            link.keep_until = link.keep_until.max(now + LINGER);
        }
    }

    pub(super) fn take_queued(&mut self, peer: &NodeKey) -> Vec<Bytes> {
        self.table.get_mut(peer).map(|link| std::mem::take(&mut link.queued)).unwrap_or_default()
    }

    /// For another mesh: who is on the LAN may be there as well, everybody else is not.
    pub(super) fn start_over(&mut self, now: Duration) {
        self.table.retain(|_, link| {
            link.not_before = now;
            link.failures = 0;
            link.missed_since = None;
            link.in_use = false;
            link.wanted = false;
            link.queued.clear();
            link.last_up = None;
            link.sources.contains(&SourceKind::Lan) || link.dialing || link.banned_until > now
        });
    }
}

impl Membership {
    /// Everybody is connected to everybody.
    pub(super) fn is_small(&self) -> bool {
        self.directory.present() <= SMALL_MESH
    }

    pub(super) fn on_found(
        &mut self,
        peer: NodeKey,
        addresses: &Addresses,
        source: SourceKind,
        name: Option<String>,
    ) {
        if peer == self.me {
            return;
        }
        let near = matches!(source, SourceKind::Lan | SourceKind::Ticket | SourceKind::Saved);
        let clean = addresses.cleaned(self.loopback(near));
        let now = self.now;
        let link = self.links.row(peer, now.mono);
        link.addresses.merge(&clean);
        if link.name.is_none() {
            link.name = name.map(|name| name.chars().take(64).collect());
        }
        let is_new = link.sources.insert(source);
        if source == SourceKind::Ticket {
            // The owner asks for it, perhaps again.
            link.missed_since = None;
        }
        // News of where it is are worth a try sooner than the backoff says.
        if is_new && !clean.is_empty() && link.failures > 0 {
            link.not_before = link.not_before.min(now.mono + FIRST_WAIT);
        }
        self.replan = true;
    }

    /// Whether others may name loopback addresses: only if this node has no others itself.
    pub(super) fn loopback(&self, near: bool) -> Loopback {
        if near { Loopback::Allowed } else { Loopback::from_afar(&self.addresses) }
    }

    pub(super) fn on_in_use(&mut self, peer: NodeKey, in_use: bool) {
        let link = self.links.row(peer, self.now.mono);
        link.in_use = in_use;
        link.keep_until = link.keep_until.max(self.now.mono + LINGER);
        if in_use {
            link.not_before = link.not_before.min(self.now.mono);
        }
        self.replan = true;
    }

    /// A peer did something that honest ones do not, or too much of what they do.
    pub(super) fn offence(&mut self, peer: NodeKey, points: f64) {
        let now = self.now.mono;
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.offences.take(OFFENCES, points, now) || link.banned_until > now {
            return;
        }
        link.banned_until = now + BAN;
        link.not_before = now + BAN;
        link.problem = Some("it broke the rules".to_owned());
        self.drop_peer(peer, "it sent too much, or what no node may send");
    }

    pub(super) fn send(&mut self, peer: NodeKey, bytes: Bytes) -> bool {
        let conn = self.links.get(&peer).and_then(Link::up).map(|conn| conn.id);
        if let Some(conn) = conn {
            self.out.push(Output::Send { peer, conn, bytes });
        }
        conn.is_some()
    }

    /// Sends, or waits for a connection that it asks for.
    pub(super) fn send_gossip(&mut self, peer: NodeKey, bytes: Bytes) {
        let conn = self.links.get(&peer).and_then(Link::up).map(|conn| conn.id);
        if let Some(conn) = conn {
            self.out.push(Output::Send { peer, conn, bytes });
            return;
        }
        let now = self.now.mono;
        if self.stopped || peer == self.me || self.blocked.contains(&peer) {
            return;
        }
        let link = self.links.row(peer, now);
        if link.queued.is_empty() {
            link.queued_until = now + QUEUE_WAIT;
        }
        if link.queued.len() < MOST_QUEUED {
            link.queued.push(bytes);
        }
        self.replan = true;
    }

    pub(super) fn on_path(&mut self, peer: NodeKey, id: ConnId, kind: PathKind, rtt: Duration) {
        let Some(conn) = self.links.conn_mut(&peer, id) else { return };
        conn.path = Some((kind, rtt));
        if !self.tell_path(peer) {
            self.event(MeshEvent::PeerChanged { peer });
        }
    }

    /// Tells if the path of the connection in use is of another kind than the last one, whichever
    /// connection that was. True: it was told.
    pub(super) fn tell_path(&mut self, peer: NodeKey) -> bool {
        let Some(link) = self.links.get_mut(&peer) else { return false };
        let Some((to, _)) = link.up().and_then(|conn| conn.path) else { return false };
        let from = link.told_path.replace(to).filter(|from| *from != to);
        if let Some(from) = from {
            self.event(MeshEvent::PathChanged { peer, from, to });
        }
        from.is_some()
    }

    /// Marks a peer to be dialed although there may be a connection.
    pub(super) fn want_anew(&mut self, peer: NodeKey) {
        let now = self.now.mono;
        let link = self.links.row(peer, now);
        link.wanted = true;
        link.not_before = link.not_before.min(now);
        self.replan = true;
    }

    /// Tells the driver what to keep for the next start.
    pub(super) fn save(&mut self, peer: NodeKey) {
        let mut addresses = Addresses::default();
        let mut name = String::new();
        if let Some(link) = self.links.get(&peer) {
            addresses = link.addresses.clone();
            name = link.name.clone().unwrap_or_default();
        }
        if let Some(entry) = self.directory.get(&peer) {
            addresses.merge(&entry.record.body.addresses.cleaned(self.loopback(false)));
            name.clone_from(&entry.record.body.announcement.name);
        }
        if !addresses.is_empty() {
            self.event(MeshEvent::Save { peer, addresses, name });
        }
    }
}
