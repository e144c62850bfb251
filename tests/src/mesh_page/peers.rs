//! Peers as a large mesh has them, the same ones in every run.

use std::time::{SystemTime, UNIX_EPOCH};

use agent_api::{
    NodeId,
    hardware::{Tier, WorkerClass},
    mesh::{
        AnnouncedModel, AnnouncedServing, Announcement, Mesh, MeshState, Nearby, OwnNode, PathKind,
        Peer, PeerCounts, PeerState, Refused, Source, SourceKind, SourceState,
    },
    tasks::{Orchestration, TaskCounts, TaskKind, Worker},
};

/// Names and time zones of the first ones, with round-trip times from Hamburg.
const FIRST: [(&str, &str, f64); 13] = [
    ("attic-mini", "Europe/Berlin", 0.6),
    ("kanal", "Europe/Amsterdam", 11.0),
    ("seed-eu-1", "Europe/Paris", 16.0),
    ("fjord-01", "Europe/Oslo", 21.0),
    ("quarry", "Europe/Zurich", 24.0),
    ("cedar-studio", "America/Toronto", 98.0),
    ("seed-us-1", "America/Chicago", 104.0),
    ("kaveri", "Asia/Kolkata", 138.0),
    ("palouse", "America/Los_Angeles", 142.0),
    ("lantau", "Asia/Singapore", 171.0),
    ("ipe-lab", "America/Sao_Paulo", 196.0),
    ("sakura-m4", "Asia/Tokyo", 228.0),
    ("harbour-2", "Australia/Sydney", 281.0),
];
const ZONES: [&str; 24] = [
    "Europe/London",
    "Europe/Madrid",
    "Europe/Warsaw",
    "Europe/Rome",
    "Europe/Helsinki",
    "Europe/Athens",
    "Europe/Kyiv",
    "Europe/Istanbul",
    "Africa/Lagos",
    "Africa/Nairobi",
    "Africa/Johannesburg",
    "Africa/Cairo",
    "Asia/Dubai",
    "Asia/Karachi",
    "Asia/Bangkok",
    "Asia/Shanghai",
    "Asia/Seoul",
    "Asia/Manila",
    "America/New_York",
    "America/Denver",
    "America/Mexico_City",
    "America/Bogota",
    "America/Argentina/Buenos_Aires",
    "Pacific/Auckland",
];
const MODELS: [&str; 6] = [
    "qwen3:8b",
    "llama3.1:8b",
    "gemma3:4b",
    "qwen2.5-coder:32b",
    "llama3.3:70b",
    "nomic-embed-text",
];

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn id(n: usize) -> NodeId {
    // Spread like real keys, and the same in every run.
    let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    NodeId(format!("{mixed:016x}{n:048x}"))
}

pub(crate) fn generate(count: usize) -> Vec<Peer> {
    (0..count).map(peer).collect()
}

fn peer(n: usize) -> Peer {
    let (name, zone, rtt) = FIRST.get(n).copied().map_or_else(
        || {
            (
                format!("node-{n:04}"),
                ZONES[(n * n + n / 5) % ZONES.len()],
                30.0 + (n * 37 % 280) as f64,
            )
        },
        |(name, zone, rtt)| (name.to_owned(), zone, rtt),
    );
    let state = match n {
        4 => PeerState::Unreachable,
        0..32 => PeerState::Connected,
        _ if n.is_multiple_of(53) => PeerState::Unreachable,
        _ if n.is_multiple_of(29) => PeerState::Stale,
        _ => PeerState::Known,
    };
    let connected = state == PeerState::Connected;
    let path = connected.then_some(match n {
        0 => PathKind::Lan,
        8 | 11 | 12 => PathKind::Relay,
        _ => PathKind::Direct,
    });
    let problem = (state == PeerState::Unreachable)
        .then(|| "No answer on any of its 3 addresses; it is tried again in 2 min.".to_owned());
    Peer {
        node_id: id(n + 1),
        connected,
        state,
        path,
        rtt_ms: connected.then_some(rtt),
        address: connected.then(|| format!("203.0.113.{}:4302", n % 250)),
        trusted: n == 0,
        own: false,
        seed: name.starts_with("seed"),
        sources: vec![if n == 0 { SourceKind::Lan } else { SourceKind::Gossip }],
        last_seen_ms: Some(now_ms() - (n as i64 % 40) * 1_000),
        connected_since_ms: connected.then(|| now_ms() - 212_400_000),
        problem,
        announcement: Some(announcement(n, &name, zone)),
        name,
    }
}

fn announcement(n: usize, name: &str, zone: &str) -> Announcement {
    let tiers = [Tier::MiniStandard, Tier::MiniEconomy, Tier::StudioPremium];
    let model = |place: usize| AnnouncedModel {
        id: MODELS[(n + place) % MODELS.len()].into(),
        digest: None,
        size_bytes: 4_900_000_000 + (n as u64 % 7) * 1_000_000_000,
        context: 8_192 << (n % 3),
        resident: place == 0,
        tokens_per_s: (place == 0).then_some(12.4 + (n % 40) as f32),
        shared: true,
    };
    let slots = 2 + (n % 3) as u16 * 2;
    Announcement {
        name: name.into(),
        version: "0.1.0".into(),
        protocol: (1, 1),
        region: (n % 41 != 40).then(|| zone.into()),
        tier: tiers[n % 3],
        worker_class: WorkerClass::Gpu,
        seed: name.starts_with("seed"),
        serving: if n % 17 == 9 { AnnouncedServing::Paused } else { AnnouncedServing::Ready },
        models: (0..=n % 3).map(model).collect(),
        slots,
        slots_free: slots - (n * 7 % (usize::from(slots) + 1)) as u16,
        queue: 0,
        tokens_per_s: Some(24.5),
        price: None,
        ledger_head: None,
        links: vec![1, 2, 3],
        relay: None,
        dht_port: None,
        at_ms: now_ms(),
        every_s: 30,
        accepts: TaskKind::ALL.to_vec(),
        power: None,
    }
}

pub(crate) fn mesh(peers: &[Peer]) -> Mesh {
    let count = |wanted: fn(&Peer) -> bool| peers.iter().filter(|p| wanted(p)).count() as u32;
    let counts = PeerCounts {
        connected: count(|p| p.connected),
        known: peers.len() as u32,
        stale: count(|p| p.state == PeerState::Stale),
        lan: count(|p| p.path == Some(PathKind::Lan)),
        direct: count(|p| p.path == Some(PathKind::Direct)),
        relay: count(|p| p.path == Some(PathKind::Relay)),
        unreachable: count(|p| p.state == PeerState::Unreachable),
        regions: (FIRST.len() + ZONES.len()).min(peers.len()) as u32,
    };
    Mesh {
        at_ms: now_ms(),
        state: if peers.is_empty() { MeshState::Alone } else { MeshState::Joined },
        reason: "Nobody has answered yet; it is tried again every 30 s.".into(),
        mesh_id: "cd".repeat(32),
        name: "commons".into(),
        private: true,
        settled: true,
        own: OwnNode {
            addresses: vec!["192.168.1.20:4302".into(), "203.0.113.9:4302".into()],
            relay: Some("https://relay.seed-eu-1.example".into()),
            relay_connected: true,
            region: Some("Europe/Berlin".into()),
            seed: false,
            announce_every_s: 10,
        },
        counts,
        sources: sources(peers),
        nearby: Vec::new(),
        refused: vec![
            Refused { reason: "replayed".into(), count: 14 },
            Refused { reason: "clock_skew".into(), count: 2 },
        ],
        duplicate_identity: false,
        clock_off_ms: None,
        blocked: Vec::new(),
    }
}

fn sources(peers: &[Peer]) -> Vec<Source> {
    let source = |kind, state, found: usize, names: &[&str], reason: &str| Source {
        kind,
        state,
        reason: reason.into(),
        found: found.min(peers.len()) as u32,
        names: names.iter().take(peers.len()).map(|n| (*n).to_owned()).collect(),
        last_found_ms: Some(now_ms() - 8_000),
    };
    use SourceKind as K;
    use SourceState as S;
    vec![
        source(K::Saved, S::Waiting, 0, &[], "No peers of earlier days are saved yet."),
        source(K::Ticket, S::Off, 0, &[], "This node did not join by ticket."),
        source(K::Seed, S::Working, 2, &["seed-eu-1", "seed-us-1"], "Both seeds answer."),
        source(K::Lan, S::Working, 1, &["attic-mini"], "Multicast DNS on this network."),
        source(K::Dht, S::Failed, 0, &[], "No DHT node of the seeds answers (udp 8468)."),
        source(K::Gossip, S::Working, peers.len(), &[], "Peers tell of each other."),
        source(K::Incoming, S::Working, 4, &["kanal", "fjord-01"], "Peers connect to this node."),
    ]
}

/// This node as it shares work: the first peers did some of it.
pub(super) fn orchestration(peers: &[Peer]) -> Orchestration {
    let worker = |(n, peer): (usize, &Peer)| Worker {
        node: peer.node_id.clone(),
        name: peer.name.clone(),
        reputation: 0.98 - n as f64 / 100.0,
        done: 1_204,
        failed: 3,
        agreed: 12,
        disagreed: 0,
        agreed_in_a_row: 12,
        problem: None,
    };
    Orchestration {
        draining: false,
        counts: TaskCounts::default(),
        concurrency: 4,
        served_running: 0,
        served_waiting: 0,
        kinds: Vec::new(),
        workers: peers.iter().take(12).enumerate().map(worker).collect(),
    }
}

/// A node on this network that asks to join, and one that does not.
pub fn nearby() -> Vec<Nearby> {
    let node = |n: usize, name: &str, mesh: &str, asks_to_join| Nearby {
        node_id: id(9_000 + n),
        name: name.into(),
        mesh: mesh.into(),
        asks_to_join,
        seen_ms: now_ms(),
    };
    vec![node(1, "maren-laptop", "home", true), node(2, "studio-nas", "studio", false)]
}
