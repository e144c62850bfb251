//! Makes the snapshots, and tells of events after the snapshot that shows them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use agent_api::mesh::{Attempt, MeshState, Nearby, OwnNode, PathKind, PeerState, Refused};
use iroh::RelayUrl;
use tokio::time::Instant;

use super::Driver;
use crate::mesh::{
    NodeKey,
    addr::is_own_relay,
    membership::{Membership, PeerView, io::MeshEvent},
    net::{
        link::Link,
        peers::Live,
        snapshot::{Found, PUBLISH_EVERY, Row, Snapshot},
    },
    sources::{KnownPeer, OwnInfo},
};

/// A node that found nobody for so long after the start is alone; until then it is joining.
const JOINING: Duration = Duration::from_secs(15);
/// Events between two snapshots. More are a flood of joins, of which the snapshot tells as well.
const EVENTS: usize = 1_024;
/// Relays of seeds that are used.
const SEED_RELAYS: usize = 4;

/// What was published, and what is to be.
#[derive(Debug)]
pub(super) struct Publisher {
    rows: HashMap<NodeKey, Arc<Row>>,
    /// Rows to look at.
    dirty: HashSet<NodeKey>,
    all_dirty: bool,
    /// Something besides rows.
    changed: bool,
    /// The sources have not seen these rows yet.
    directory_old: bool,
    last: Option<Instant>,
    events: Vec<MeshEvent>,
    /// What was refused before membership saw it.
    refused: BTreeMap<&'static str, u64>,
    found: Found,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self {
            rows: HashMap::new(),
            dirty: HashSet::new(),
            all_dirty: true,
            changed: true,
            directory_old: true,
            last: None,
            events: Vec::new(),
            refused: BTreeMap::new(),
            found: Found::default(),
        }
    }

    /// When the next snapshot is due; `None`: nothing changed.
    pub(super) fn due(&self) -> Option<Instant> {
        let wanted = self.changed || self.all_dirty || !self.dirty.is_empty();
        wanted.then(|| self.last.map_or_else(Instant::now, |last| last + PUBLISH_EVERY))
    }

    pub(super) fn dirty(&mut self, peer: NodeKey) {
        self.dirty.insert(peer);
    }

    pub(super) fn all_dirty(&mut self) {
        self.all_dirty = true;
    }

    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn count_refused(&mut self, word: &'static str) {
        *self.refused.entry(word).or_default() += 1;
        self.changed = true;
    }

    pub(super) fn event(&mut self, event: MeshEvent) {
        self.changed = true;
        match event {
            MeshEvent::PeerChanged { peer } => {
                self.dirty.insert(peer);
                return;
            }
            // Between the driver and the sources.
            MeshEvent::Save { .. } => return,
            MeshEvent::PeerUp { peer }
            | MeshEvent::PeerNew { peer }
            | MeshEvent::PeerDown { peer, .. }
            | MeshEvent::PeerGone { peer, .. }
            | MeshEvent::PathChanged { peer, .. } => {
                self.dirty.insert(peer);
            }
            MeshEvent::Entered(_) => self.all_dirty = true,
            MeshEvent::DuplicateIdentity
            | MeshEvent::Nearby { .. }
            | MeshEvent::AsksToJoin { .. } => {}
        }
        if self.events.len() < EVENTS {
            self.events.push(event);
        }
    }

    /// Puts a row in its place; whether anybody could see a difference.
    fn set(&mut self, key: NodeKey, row: Option<Row>, now_ms: i64) -> bool {
        let old = self.rows.get(&key);
        let Some(row) = row else { return self.rows.remove(&key).is_some() };
        if old.is_some_and(|old| old.is_like(&row)) {
            return false;
        }
        for source in &row.sources {
            if !old.is_some_and(|old| old.sources.contains(source)) {
                self.found.add(*source, now_ms);
            }
        }
        self.rows.insert(key, Arc::new(row));
        true
    }

    fn refused(&self, blocked: u64, membership: &Membership) -> Vec<Refused> {
        let mut refused = membership.refused();
        let own = self.refused.iter().map(|(word, count)| (*word, *count));
        for (word, count) in own.chain([("blocked", blocked)]).filter(|(_, count)| *count > 0) {
            match refused.iter_mut().find(|row| row.reason == word) {
                Some(row) => row.count += count,
                None => refused.push(Refused { reason: word.to_owned(), count }),
            }
        }
        refused
    }
}

impl Driver<'_> {
    pub(super) fn publish(&mut self) {
        let now_ms = self.now().unix_ms;
        let mut keys: HashSet<NodeKey> = std::mem::take(&mut self.publisher.dirty);
        let mut listed = HashMap::new();
        let mut changed = Vec::new();
        if std::mem::take(&mut self.publisher.all_dirty) {
            keys.extend(self.publisher.rows.keys());
            listed = self.membership.peers().map(|view| (view.key, self.row(&view))).collect();
        }
        for key in keys {
            if let std::collections::hash_map::Entry::Vacant(vacant) = listed.entry(key) {
                let view = self.membership.peer(&key).filter(|_| self.membership.lists(&key));
                if let Some(view) = view {
                    vacant.insert(self.row(&view));
                } else if self.publisher.set(key, None, now_ms) {
                    self.publisher.directory_old = true;
                    // Listeners find that it is not there any more.
                    changed.push(MeshEvent::PeerChanged { peer: key });
                }
            }
        }
        for (key, row) in listed {
            if self.publisher.set(key, Some(row), now_ms) {
                changed.push(MeshEvent::PeerChanged { peer: key });
            }
        }
        self.publisher.directory_old |= !changed.is_empty();
        self.publisher.changed = false;
        self.publisher.last = Some(Instant::now());
        self.session.ends.snapshot.send_replace(Arc::new(self.snapshot()));
        self.set_own();
        for event in std::mem::take(&mut self.publisher.events).into_iter().chain(changed) {
            // Nobody may listen.
            let _ = self.session.ends.events.send(event);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let memory = self.session.file.as_ref().map(|file| file.memory());
        let membership = &self.membership;
        let nearby = membership.nearby().map(|nearby| Nearby {
            node_id: nearby.key.to_id(),
            name: nearby.name.to_owned(),
            mesh: nearby.mesh.to_owned(),
            asks_to_join: nearby.asks_to_join,
            seen_ms: nearby.seen_ms,
        });
        Snapshot {
            state: self.state(),
            notice: self.notice(),
            card: membership.card().clone(),
            own: self.own_node(),
            addresses: self.own_addresses.clone(),
            rows: self.publisher.rows.clone(),
            nearby: nearby.collect(),
            refused: self.publisher.refused(self.session.gate.refused(), membership),
            duplicate_identity: membership.has_duplicate(),
            clock_off_ms: membership.clock_off_ms(),
            blocked: memory.map(|memory| memory.blocked_nodes()).unwrap_or_default(),
            found: self.publisher.found.clone(),
            ranges: self.network.ranges().to_vec(),
            #[cfg(test)]
            links: self.links.len(),
        }
    }

    /// What the owner should read before everything else.
    fn notice(&self) -> String {
        let relay = self.sources.relay_problem();
        let relay = relay.map(|problem| {
            format!("This seed's relay does not run and is tried again: {problem}.")
        });
        let parts = [self.session.notice.as_str(), relay.as_deref().unwrap_or_default()];
        parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
    }

    fn state(&self) -> MeshState {
        let connected = self.publisher.rows.values().any(|row| row.is_connected());
        match (connected, self.entered.elapsed() < JOINING) {
            (true, _) => MeshState::Joined,
            (false, true) => MeshState::Joining,
            (false, false) => MeshState::Alone,
        }
    }

    fn own_node(&self) -> OwnNode {
        let every = self.membership.announce_every().as_secs();
        OwnNode {
            addresses: self.own_addresses.direct.iter().map(ToString::to_string).collect(),
            relay: self.own_addresses.relays.first().cloned(),
            relay_connected: self.relay_connected,
            region: self.session.setup.announcement.borrow().region.clone(),
            seed: self.session.setup.seed.is_some(),
            announce_every_s: u32::try_from(every).unwrap_or(u32::MAX),
        }
    }

    fn row(&self, view: &PeerView<'_>) -> Row {
        let used = view.connections.first();
        let link = used.and_then(|used| self.links.get(&used.conn));
        let attempt = |attempt: &crate::mesh::membership::AttemptView<'_>| Attempt {
            at_ms: attempt.at_ms,
            ok: attempt.ok,
            text: attempt.text.to_owned(),
        };
        let name = view.name.filter(|name| !name.is_empty()).map(ToOwned::to_owned);
        let path = |used: &crate::mesh::membership::ConnectionView| {
            Some((used.path?, used.rtt?)) as Option<(PathKind, Duration)>
        };
        Row {
            key: view.key,
            name: name.unwrap_or_else(|| view.key.to_id().fmt_short().to_owned()),
            state: view.state,
            path: used.and_then(path),
            address: link.and_then(|link: &Link| link.address.clone()),
            trusted: view.trusted,
            own: self.session.file.as_ref().is_some_and(|file| file.memory().is_own(view.key)),
            sources: view.sources.clone(),
            last_seen_ms: view.last_seen_ms,
            connected_since_ms: used.map(|used| used.since_ms),
            problem: view.problem.as_deref().map(ToOwned::to_owned),
            record: view.record.cloned(),
            addresses: view.addresses.clone(),
            attempts: view.attempts.iter().map(attempt).collect(),
            live: link.map(|link| Arc::clone(&link.live) as Arc<Live>),
        }
    }

    /// Rows that change without an event: those that become stale, and failed attempts.
    pub(super) fn look_at_all(&mut self) {
        self.publisher.all_dirty();
    }

    /// What the sources tell others of this node.
    pub(super) fn set_own(&mut self) {
        let said = self.session.setup.announcement.borrow();
        let connected = self.publisher.rows.values().filter(|row| row.is_connected()).count();
        let info = OwnInfo {
            name: said.name.clone(),
            addresses: self.own_addresses.clone(),
            region: said.region.clone(),
            version: said.version.clone(),
            connected: u32::try_from(connected).unwrap_or(u32::MAX),
            blocked: self.session.gate.blocked(),
        };
        drop(said);
        self.own.send_if_modified(|own| {
            let changed = *own != info;
            *own = info;
            changed
        });
        let card = self.membership.card();
        self.card.send_if_modified(|old| {
            let changed = old != card;
            old.clone_from(card);
            changed
        });
    }

    /// The nodes of the mesh, for the sources.
    pub(super) fn set_directory(&mut self) {
        if !std::mem::take(&mut self.publisher.directory_old) {
            return;
        }
        let known = self.publisher.rows.values().filter_map(|row| known_peer(row));
        self.directory.send_replace(Arc::new(known.collect()));
    }

    /// Relays that seeds of this mesh run, the own one first.
    pub(super) fn seed_relays(&self) -> Vec<String> {
        let in_use = &self.wanted.borrow().relays;
        let only_here = self.own_addresses.is_only_loopback();
        let seeds = self.publisher.rows.values().filter(|row| row.is_seed());
        let offers = seeds.filter_map(|row| {
            let url = row.announcement()?.relay.clone()?;
            if is_own_relay(&url) && !only_here {
                return None;
            }
            Some(RelayOffer {
                trusted: row.trusted,
                stale: row.state == PeerState::Stale,
                in_use: url.parse().is_ok_and(|url: RelayUrl| in_use.contains(&url)),
                heard_ms: row.last_seen_ms.unwrap_or_default(),
                url,
            })
        });
        let own = self.sources.relay_urls();
        own.into_iter().chain(best_relays(offers.collect())).take(SEED_RELAYS).collect()
    }
}

/// A seed's word on its relay, with what speaks for it.
#[derive(Debug)]
struct RelayOffer {
    trusted: bool,
    stale: bool,
    in_use: bool,
    heard_ms: i64,
    url: String,
}

/// The best first. Any member may say that it is a seed: one that comes later must not take the place
/// of a relay that works, nor of one whose owner is trusted.
fn best_relays(mut offers: Vec<RelayOffer>) -> impl Iterator<Item = String> {
    offers.sort_by(|a, b| {
        let rank = |offer: &RelayOffer| {
            (!offer.trusted, offer.stale, !offer.in_use, Reverse(offer.heard_ms))
        };
        rank(a).cmp(&rank(b)).then_with(|| a.url.cmp(&b.url))
    });
    let mut seen = HashSet::new();
    offers.into_iter().map(|offer| offer.url).filter(move |url| seen.insert(url.clone()))
}

fn known_peer(row: &Row) -> Option<KnownPeer> {
    let said = row.announcement()?;
    Some(KnownPeer {
        key: row.key,
        addresses: row.addresses.clone(),
        name: row.name.clone(),
        seed: said.seed,
        relay: said.relay.clone(),
        dht_port: said.dht_port,
        region: said.region.clone(),
        version: said.version.clone(),
        last_seen_ms: row.last_seen_ms.unwrap_or(said.at_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(url: &str, heard_ms: i64) -> RelayOffer {
        RelayOffer { trusted: false, stale: false, in_use: false, heard_ms, url: url.to_owned() }
    }

    #[test]
    fn newcomers_do_not_push_out_relays_that_work_or_are_trusted() {
        let mut offers: Vec<RelayOffer> =
            (0..50).map(|n| offer(&format!("http://a{n}.example"), 1_000)).collect();
        offers.push(RelayOffer { in_use: true, ..offer("http://z.example", 10) });
        offers.push(RelayOffer { trusted: true, ..offer("http://y.example", 5) });
        offers.push(RelayOffer { stale: true, ..offer("http://a.example", 2_000) });
        offers.push(offer("http://x.example", 1_500));
        // Said by two seeds.
        offers.push(offer("http://z.example", 900));
        let best: Vec<String> = best_relays(offers).collect();
        assert_eq!(best[..3], ["http://y.example", "http://z.example", "http://x.example"]);
        assert_eq!(best.last().map(String::as_str), Some("http://a.example"));
        assert_eq!(best.iter().filter(|url| *url == "http://z.example").count(), 1);
    }
}
