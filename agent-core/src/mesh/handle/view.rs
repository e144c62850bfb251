//! The views: pure functions of a snapshot.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use agent_api::{
    NodeId,
    mesh::{
        Announcement, Link, Mesh as MeshView, MeshState, PathKind, PeerCounts, PeerList, PeerQuery,
        PeerState, Source, SourceKind, SourceState, Topology, TopologyNode,
    },
};

use crate::{
    clock::now_ms,
    mesh::{
        NodeKey,
        net::snapshot::{Row, Snapshot},
    },
};

/// `sources`: the reports of those that look for peers.
pub(super) fn mesh(snapshot: &Snapshot, mut sources: Vec<Source>) -> MeshView {
    sources.extend([ticket(snapshot), gossip(snapshot), incoming(snapshot)]);
    for kind in [SourceKind::Saved, SourceKind::Seed, SourceKind::Lan, SourceKind::Dht] {
        if !sources.iter().any(|source| source.kind == kind) {
            sources.push(resting(kind));
        }
    }
    sources.sort_by_key(|source| order(source.kind));
    let counts = counts(snapshot);
    MeshView {
        at_ms: now_ms(),
        state: snapshot.state,
        reason: reason(snapshot, &counts),
        mesh_id: hex::encode(snapshot.card.id.0),
        name: snapshot.card.name.clone(),
        private: snapshot.card.secret.is_some(),
        settled: snapshot.card.settled,
        own: snapshot.own.clone(),
        counts,
        sources,
        nearby: snapshot.nearby.clone(),
        refused: snapshot.refused.clone(),
        duplicate_identity: snapshot.duplicate_identity,
        clock_off_ms: snapshot.clock_off_ms,
        blocked: snapshot.blocked.clone(),
    }
}

fn reason(snapshot: &Snapshot, counts: &PeerCounts) -> String {
    let state = match snapshot.state {
        MeshState::Off => "The mesh is turned off in the settings.".to_owned(),
        MeshState::Failed => String::new(),
        MeshState::Joining => "Looking for other nodes of this mesh.".to_owned(),
        MeshState::Alone if counts.known > 0 => {
            "No node of this mesh can be reached at the moment; this one goes on trying.".to_owned()
        }
        MeshState::Alone => "No other node of this mesh was found yet. Invite one with a ticket, or start EdgeCoder on another computer of this network.".to_owned(),
        MeshState::Joined if counts.connected == 1 => "Connected to one peer.".to_owned(),
        MeshState::Joined => format!("Connected to {} peers.", counts.connected),
    };
    let parts = [snapshot.notice.as_str(), state.as_str()];
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn counts(snapshot: &Snapshot) -> PeerCounts {
    let mut counts = PeerCounts::default();
    let mut regions = HashSet::new();
    for row in snapshot.rows.values() {
        match row.state {
            PeerState::Connected => counts.connected += 1,
            PeerState::Known => {}
            PeerState::Stale => counts.stale += 1,
            PeerState::Unreachable => counts.unreachable += 1,
        }
        if row.record.is_some() && row.state != PeerState::Stale {
            counts.known += 1;
        }
        match row.path.filter(|_| row.is_connected()).map(|(kind, _)| kind) {
            Some(PathKind::Lan) => counts.lan += 1,
            Some(PathKind::Direct) => counts.direct += 1,
            Some(PathKind::Relay) => counts.relay += 1,
            None => {}
        }
        regions.extend(row.announcement().and_then(|said| said.region.as_deref()));
    }
    counts.regions = u32::try_from(regions.len()).unwrap_or(u32::MAX);
    counts
}

/// As the contract lists them.
fn order(kind: SourceKind) -> u8 {
    match kind {
        SourceKind::Saved => 0,
        SourceKind::Ticket => 1,
        SourceKind::Seed => 2,
        SourceKind::Lan => 3,
        SourceKind::Dht => 4,
        SourceKind::Gossip => 5,
        SourceKind::Incoming => 6,
    }
}

fn ticket(snapshot: &Snapshot) -> Source {
    own_source(
        snapshot,
        SourceKind::Ticket,
        "The nodes that a ticket names are tried when it is used.",
        "No ticket was used since the start.",
    )
}

fn gossip(snapshot: &Snapshot) -> Source {
    own_source(
        snapshot,
        SourceKind::Gossip,
        "Peers pass on what nodes of this mesh say of themselves.",
        "Peers pass on what they know of others; none was first heard of that way.",
    )
}

fn incoming(snapshot: &Snapshot) -> Source {
    own_source(
        snapshot,
        SourceKind::Incoming,
        "Nodes connected to this one by themselves.",
        "No node connected by itself yet.",
    )
}

/// A source that is not running.
fn resting(kind: SourceKind) -> Source {
    let reason = NO_NETWORK.to_owned();
    let state = SourceState::Off;
    Source { kind, state, reason, found: 0, names: Vec::new(), last_found_ms: None }
}

fn own_source(snapshot: &Snapshot, kind: SourceKind, working: &str, waiting: &str) -> Source {
    let (found, last_found_ms) = snapshot.found.of(kind);
    let off = matches!(snapshot.state, MeshState::Off | MeshState::Failed);
    let (state, reason) = match (off, found) {
        (true, _) => (SourceState::Off, NO_NETWORK),
        (false, 0) => (SourceState::Waiting, waiting),
        (false, _) => (SourceState::Working, working),
    };
    let rows = snapshot.rows.values().filter(|row| row.sources.contains(&kind));
    let mut names: Vec<String> = rows.map(|row| row.name.clone()).collect();
    names.sort_unstable();
    names.truncate(SHOWN_NAMES);
    Source { kind, state, reason: reason.to_owned(), found, names, last_found_ms }
}

const NO_NETWORK: &str = "The mesh has no network.";
/// Names below a source; more would not be read.
const SHOWN_NAMES: usize = 8;

pub(super) fn peers(snapshot: &Snapshot, query: &PeerQuery) -> PeerList {
    let wanted = |row: &&Arc<Row>| query.connected.is_none_or(|on| on == row.is_connected());
    let mut rows: Vec<&Arc<Row>> = snapshot.rows.values().filter(wanted).collect();
    rows.sort_by(|a, b| compare(a, b));
    let total = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let limit = query.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    PeerList { peers: rows.into_iter().take(limit).map(|row| row.peer()).collect(), total }
}

/// Connected ones first, by round-trip time; then by name.
fn compare(a: &Row, b: &Row) -> Ordering {
    let rtt = |row: &Row| row.rtt_ms().unwrap_or(f64::INFINITY);
    let connected = b.is_connected().cmp(&a.is_connected());
    let both = a.is_connected() && b.is_connected();
    let nearer = if both { rtt(a).total_cmp(&rtt(b)) } else { Ordering::Equal };
    connected.then(nearer).then_with(|| a.name.cmp(&b.name)).then_with(|| a.key.cmp(&b.key))
}

/// `said`: this node's own announcement.
pub(super) fn topology(snapshot: &Snapshot, own: NodeKey, said: &Announcement) -> Topology {
    let own_id = own.to_id();
    let mut nodes = vec![TopologyNode {
        node_id: own_id.clone(),
        name: said.name.clone(),
        region: snapshot.own.region.clone(),
        seed: snapshot.own.seed,
        tier: Some(said.tier),
    }];
    nodes.extend(snapshot.rows.values().map(|row| TopologyNode {
        node_id: row.key.to_id(),
        name: row.name.clone(),
        region: row.announcement().and_then(|said| said.region.clone()),
        seed: row.is_seed(),
        tier: row.announcement().map(|said| said.tier),
    }));
    nodes[1..].sort_by(|a, b| a.node_id.0.cmp(&b.node_id.0));
    Topology { at_ms: now_ms(), own: own_id, nodes, links: links(snapshot, own) }
}

/// This node's connections, and what peers report of theirs; each pair once.
fn links(snapshot: &Snapshot, own: NodeKey) -> Vec<Link> {
    let mut links = Vec::new();
    let mut seen = HashSet::new();
    for row in snapshot.rows.values().filter(|row| row.is_connected()) {
        seen.insert(pair(own, row.key));
        links.push(Link {
            from: own.to_id(),
            to: row.key.to_id(),
            path: row.path.map(|(kind, _)| kind),
            rtt_ms: row.rtt_ms(),
        });
    }
    let mut by_short: HashMap<u32, NodeKey> =
        snapshot.rows.keys().map(|key| (key.short(), *key)).collect();
    by_short.insert(own.short(), own);
    for row in snapshot.rows.values() {
        for short in row.announcement().into_iter().flat_map(|said| &said.links) {
            let Some(to) = by_short.get(short).copied().filter(|to| *to != row.key) else {
                continue;
            };
            // Of its own connections this node knows better itself.
            if to != own && seen.insert(pair(row.key, to)) {
                links.push(reported(row.key.to_id(), to.to_id()));
            }
        }
    }
    links.sort_by(|a, b| (&a.from.0, &a.to.0).cmp(&(&b.from.0, &b.to.0)));
    links
}

fn pair(a: NodeKey, b: NodeKey) -> (NodeKey, NodeKey) {
    (a.min(b), a.max(b))
}

fn reported(from: NodeId, to: NodeId) -> Link {
    Link { from, to, path: None, rtt_ms: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_api::hardware::Tier;

    use super::*;
    use crate::mesh::{Addresses, membership::sim::announcement, net::session::empty_snapshot};

    fn row(byte: u8, name: &str, rtt_ms: Option<u64>) -> Arc<Row> {
        let state = if rtt_ms.is_some() { PeerState::Connected } else { PeerState::Unreachable };
        Arc::new(Row {
            key: NodeKey([byte; 32]),
            name: name.to_owned(),
            state,
            path: rtt_ms.map(|ms| (PathKind::Direct, Duration::from_millis(ms))),
            address: None,
            trusted: false,
            own: false,
            sources: vec![SourceKind::Ticket],
            last_seen_ms: None,
            connected_since_ms: None,
            problem: None,
            record: None,
            addresses: Addresses::default(),
            attempts: Vec::new(),
            live: None,
        })
    }

    fn snapshot(rows: &[Arc<Row>]) -> Snapshot {
        let mut snapshot = empty_snapshot(MeshState::Joined);
        snapshot.rows = rows.iter().map(|row| (row.key, Arc::clone(row))).collect();
        snapshot
    }

    #[test]
    fn connected_peers_come_first_the_nearest_of_them_before_the_others() {
        let rows = [
            row(1, "lost", None),
            row(2, "far", Some(90)),
            row(3, "near", Some(4)),
            row(4, "again lost", None),
        ];
        let snapshot = snapshot(&rows);
        let names = |query: &PeerQuery| -> Vec<String> {
            peers(&snapshot, query).peers.into_iter().map(|peer| peer.name).collect()
        };
        assert_eq!(names(&PeerQuery::default()), ["near", "far", "again lost", "lost"]);
        let query = PeerQuery { limit: Some(1), connected: Some(true) };
        assert_eq!(names(&query), ["near"]);
        assert_eq!(peers(&snapshot, &query).total, 2);
    }

    #[test]
    fn counts_follow_states_and_every_source_is_listed_once() {
        let view = mesh(&snapshot(&[row(1, "a", Some(1)), row(2, "b", None)]), Vec::new());
        assert_eq!((view.counts.connected, view.counts.direct), (1, 1));
        assert_eq!((view.counts.unreachable, view.counts.known), (1, 0));
        assert_eq!(view.reason, "Connected to one peer.");
        let kinds: Vec<_> = view.sources.iter().map(|source| order(source.kind)).collect();
        assert_eq!(kinds, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_link_that_both_ends_see_is_drawn_once() {
        let own = NodeKey([9; 32]);
        let me = Announcement { tier: Tier::StudioPremium, ..announcement("me") };
        let topology = topology(&snapshot(&[row(1, "a", Some(1)), row(2, "b", None)]), own, &me);
        assert_eq!(topology.nodes.len(), 3);
        let first = &topology.nodes[0];
        assert_eq!((first.name.as_str(), first.tier), ("me", Some(Tier::StudioPremium)));
        assert_eq!(topology.links.len(), 1);
        assert_eq!(topology.links[0].path, Some(PathKind::Direct));
    }
}
