//! The mesh, its peers and its sources as text. The same words as the panel's.

use agent_api::mesh::{
    AnnouncedServing, Announcement, Invite, Mesh, MeshState, PathKind, Peer, PeerDetails, PeerList,
    PeerState, Source, SourceKind, SourceState, TicketInfo,
};

use crate::words::{duration, number, size, table};

/// One line: `"home", 3 of 5 peers connected (2 on this network, 1 through a relay)`.
pub(crate) fn summary(mesh: &Mesh) -> String {
    match mesh.state {
        MeshState::Off | MeshState::Failed => standing(mesh),
        _ => format!("{:?}, {}", mesh.name, standing(mesh)),
    }
}

/// How things stand, without the mesh's name.
fn standing(mesh: &Mesh) -> String {
    if mesh.state != MeshState::Joined {
        return format!("{}. {}", state(mesh.state), mesh.reason);
    }
    let counts = &mesh.counts;
    let paths = [
        (counts.lan, PathKind::Lan),
        (counts.direct, PathKind::Direct),
        (counts.relay, PathKind::Relay),
    ];
    let used = paths.into_iter().filter(|(count, _)| *count > 0);
    let ways: Vec<_> =
        used.map(|(count, path)| format!("{} {}", number(count.into()), reached(path))).collect();
    let ways = if ways.is_empty() { String::new() } else { format!(" ({})", ways.join(", ")) };
    let connected = number(counts.connected.into());
    let known = count(counts.known.max(counts.connected), "peer");
    format!("{connected} of {known} connected{ways}")
}

fn state(state: MeshState) -> &'static str {
    match state {
        MeshState::Off => "off",
        MeshState::Joining => "looking for peers",
        MeshState::Alone => "alone",
        MeshState::Joined => "joined",
        MeshState::Failed => "does not work",
    }
}

fn reached(path: PathKind) -> &'static str {
    match path {
        PathKind::Lan => "on this network",
        PathKind::Direct => "direct",
        PathKind::Relay => "through a relay",
    }
}

/// `1 peer`, `5 peers`.
pub(crate) fn count(count: u32, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", number(count.into()))
}

pub(super) fn status(mesh: &Mesh, now_ms: i64) -> String {
    let mut text = format!("Mesh {}\n", mesh.name);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<11}{value}\n"));
        }
    };
    line("State:", standing(mesh));
    line("Id:", mesh.mesh_id.clone());
    let kind = if mesh.private {
        "private: a ticket is needed to join"
    } else {
        "public: its tickets have no secret, and who knows its id can make one"
    };
    line("Kind:", kind.to_owned());
    let own = &mesh.own;
    line("Addresses:", own.addresses.join(", "));
    if let Some(relay) = &own.relay {
        let connected = if own.relay_connected { "connected" } else { "not connected" };
        line("Relay:", format!("{relay} ({connected})"));
    }
    line("Region:", own.region.clone().unwrap_or_else(|| "not shown".to_owned()));
    if own.seed {
        line("Seed:", "yes, it helps others to meet".to_owned());
    }
    let found: Vec<_> = mesh
        .sources
        .iter()
        .filter(|source| source.state == SourceState::Working)
        .map(|source| source_kind(source.kind))
        .collect();
    line("Sources:", if found.is_empty() { "none works".to_owned() } else { found.join(", ") });
    for near in &mesh.nearby {
        let asks = if near.asks_to_join { ", asks to join: mesh admit or mesh refuse" } else { "" };
        let seen = ago(Some(near.seen_ms), now_ms);
        line(
            "Nearby:",
            format!(
                "{} ({}) in the mesh {}, seen {seen}{asks}",
                near.name,
                near.node_id.fmt_short(),
                near.mesh
            ),
        );
    }
    for node in &mesh.blocked {
        line("Blocked:", format!("{} ({})", node.name, node.node_id.fmt_short()));
    }
    let refused: Vec<_> = mesh
        .refused
        .iter()
        .map(|r| format!("{} {}", number(r.count), r.reason.replace('_', " ")))
        .collect();
    line("Refused:", refused.join(", "));
    if mesh.duplicate_identity {
        line("Notice:", "another computer uses this node's key".to_owned());
    }
    if let Some(off_ms) = mesh.clock_off_ms {
        let way = if off_ms > 0 { "ahead" } else { "behind" };
        let minutes = off_ms.abs() / 60_000;
        line("Notice:", format!("this computer's clock is probably {minutes} minutes {way}"));
    }
    text
}

pub(super) fn peers(list: &PeerList, now_ms: i64) -> String {
    if list.peers.is_empty() {
        return "No peers. Invite a computer: edgecoder-node mesh invite\n".to_owned();
    }
    let rows: Vec<_> = list.peers.iter().map(|peer| peer_row(peer, now_ms)).collect();
    let mut text = table(
        &["NAME", "NODE", "PATH", "RTT", "REGION", "SERVING", "TOKENS/S", "MODELS", "SEEN"],
        &rows,
    );
    let shown = u32::try_from(list.peers.len()).unwrap_or(u32::MAX);
    if list.total > shown {
        text.push_str(&format!("{} of {}\n", number(shown.into()), count(list.total, "peer")));
    }
    text
}

fn peer_row(peer: &Peer, now_ms: i64) -> Vec<String> {
    let dash = || "-".to_owned();
    let said = peer.announcement.as_ref();
    let mut name = peer.name.clone();
    let trusted = peer.trusted && !peer.own;
    for (mark, set) in [(" (seed)", peer.seed), (" (own)", peer.own), (" (trusted)", trusted)] {
        name.push_str(if set { mark } else { "" });
    }
    vec![
        name,
        peer.node_id.fmt_short().to_owned(),
        path(peer),
        peer.rtt_ms.map_or_else(dash, milliseconds),
        said.and_then(|said| said.region.clone()).unwrap_or_else(dash),
        said.map_or_else(dash, serving),
        said.and_then(|said| said.tokens_per_s).map_or_else(dash, |speed| format!("{speed:.1}")),
        said.map_or_else(dash, |said| said.models.len().to_string()),
        ago(peer.last_seen_ms, now_ms),
    ]
}

/// How it is reached, or why it is not.
fn path(peer: &Peer) -> String {
    let word = match (peer.state, peer.path) {
        (_, Some(PathKind::Lan)) => "LAN",
        (_, Some(PathKind::Direct)) => "direct",
        (_, Some(PathKind::Relay)) => "relay",
        (PeerState::Connected, None) => "connected",
        (PeerState::Known, None) => "known",
        (PeerState::Stale, None) => "stale",
        (PeerState::Unreachable, None) => "unreachable",
    };
    word.to_owned()
}

fn serving(said: &Announcement) -> String {
    match said.serving {
        AnnouncedServing::Ready => format!("ready, {} of {} free", said.slots_free, said.slots),
        AnnouncedServing::Busy if said.queue > 0 => format!("busy, {} waiting", said.queue),
        AnnouncedServing::Busy => "busy".to_owned(),
        AnnouncedServing::Paused => "paused".to_owned(),
        AnnouncedServing::Unable => "no model".to_owned(),
    }
}

fn milliseconds(ms: f64) -> String {
    if ms < 9.95 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// `just now`, `45 s ago`, `2 min 5 s ago`, `never`.
pub(crate) fn ago(at_ms: Option<i64>, now_ms: i64) -> String {
    let Some(at_ms) = at_ms else { return "never".to_owned() };
    match u64::try_from((now_ms - at_ms) / 1_000).unwrap_or(0) {
        0..=4 => "just now".to_owned(),
        seconds => format!("{} ago", duration(seconds)),
    }
}

pub(super) fn peer(details: &PeerDetails, now_ms: i64) -> String {
    let peer = &details.peer;
    let mut text = format!("{} ({})\n", peer.name, peer.node_id);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push_str(&format!("  {name:<11}{value}\n"));
        }
    };
    let rtt = peer.rtt_ms.map(|rtt| format!(", {}", milliseconds(rtt))).unwrap_or_default();
    line("Reached:", Some(format!("{}{rtt}", path(peer))));
    line("Problem:", peer.problem.clone());
    line("Seen:", Some(ago(peer.last_seen_ms, now_ms)));
    let since = peer.connected_since_ms.and_then(|at| u64::try_from((now_ms - at) / 1_000).ok());
    line("Connected:", since.map(|seconds| format!("for {}", duration(seconds))));
    let trusted = peer.trusted && !peer.own;
    let marks = [("seed", peer.seed), ("own", peer.own), ("trusted", trusted)];
    let marks: Vec<_> = marks.into_iter().filter(|(_, set)| *set).map(|(mark, _)| mark).collect();
    line("Marks:", Some(marks.join(", ")));
    let found: Vec<_> = peer.sources.iter().map(|kind| source_kind(*kind)).collect();
    line("Found by:", Some(found.join(", ")));
    if let Some(said) = &peer.announcement {
        line("Serving:", Some(serving(said)));
        line("Speed:", said.tokens_per_s.map(|speed| format!("{speed:.1} tokens/s")));
        line("Region:", said.region.clone());
        line("Version:", Some(said.version.clone()));
    }
    line("Addresses:", Some(details.addresses.join(", ")));
    let bytes = (details.bytes_sent, details.bytes_received);
    line(
        "Traffic:",
        (bytes != (0, 0)).then(|| format!("{} sent, {} received", size(bytes.0), size(bytes.1))),
    );
    text + &paths(details) + &models(peer) + &attempts(details, now_ms)
}

fn paths(details: &PeerDetails) -> String {
    let rows = details.paths.iter().map(|path| {
        let used = if path.in_use { "in use" } else { "-" };
        let cells = [reached(path.kind), &milliseconds(path.rtt_ms), used, &path.address];
        cells.map(ToOwned::to_owned).to_vec()
    });
    section(&["PATH", "RTT", "USE", "ADDRESS"], rows.collect())
}

fn models(peer: &Peer) -> String {
    let models = peer.announcement.iter().flat_map(|said| &said.models);
    let rows = models.map(|model| {
        let memory = if model.resident { "in memory" } else { "on disk" };
        let shared = if model.shared { "shared" } else { "-" };
        let context = number(model.context.into());
        let cells = [model.id.as_str(), &size(model.size_bytes), &context, memory, shared];
        cells.map(ToOwned::to_owned).to_vec()
    });
    section(&["MODEL", "SIZE", "CONTEXT", "STATE", "FILE"], rows.collect())
}

fn attempts(details: &PeerDetails, now_ms: i64) -> String {
    let rows = details.attempts.iter().map(|attempt| {
        let result = if attempt.ok { "ok" } else { "failed" };
        let at = ago(Some(attempt.at_ms), now_ms);
        let cells = [at.as_str(), result, &attempt.text];
        cells.map(ToOwned::to_owned).to_vec()
    });
    section(&["ATTEMPT", "RESULT", "WHAT HAPPENED"], rows.collect())
}

/// A table, unless it would be empty.
fn section(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() { String::new() } else { table(heading, &rows) }
}

pub(super) fn sources(mesh: &Mesh, now_ms: i64) -> String {
    let rows: Vec<_> = mesh.sources.iter().map(|source| source_row(source, now_ms)).collect();
    table(&["SOURCE", "STATE", "FOUND", "LAST", "REASON"], &rows)
}

fn source_row(source: &Source, now_ms: i64) -> Vec<String> {
    let state = match source.state {
        SourceState::Off => "off",
        SourceState::Waiting => "waiting",
        SourceState::Working => "working",
        SourceState::Failed => "failed",
    };
    let mut reason = source.reason.clone();
    if !source.names.is_empty() {
        reason.push_str(&format!(" ({})", source.names.join(", ")));
    }
    vec![
        source_kind(source.kind).to_owned(),
        state.to_owned(),
        number(source.found.into()),
        ago(source.last_found_ms, now_ms),
        reason,
    ]
}

fn source_kind(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Saved => "saved peers",
        SourceKind::Ticket => "ticket",
        SourceKind::Seed => "seeds",
        SourceKind::Lan => "this network",
        SourceKind::Dht => "DHT",
        SourceKind::Gossip => "other peers",
        SourceKind::Incoming => "incoming",
    }
}

pub(super) fn ticket(info: &TicketInfo, now_ms: i64) -> String {
    let kind = if info.private { "private" } else { "public" };
    let joined = if info.joined { "; this node is in it already" } else { "" };
    let mut text = format!("Mesh {} ({kind}{joined})\n", info.name);
    text.push_str(&format!("  Id:         {}\n", info.mesh_id));
    text.push_str(&format!("  Invited by: {} ({})\n", info.inviter_name, info.inviter.fmt_short()));
    text.push_str(&format!("  Good for:   {}\n", left(info.expires_at_ms, now_ms)));
    text.push_str(&format!("  Addresses:  {}\n", info.addresses.join(", ")));
    text
}

pub(super) fn invite(invite: &Invite, now_ms: i64) -> String {
    let secret = if invite.mesh.private {
        " It carries the mesh's lasting secret: give it to nobody else, and if it leaks, make a new mesh."
    } else {
        ""
    };
    format!(
        "Ticket for the mesh {}, good for {}.{secret}\nOn the other computer: edgecoder-node mesh join TICKET, or the Mesh panel.\n\n{}\n\n",
        invite.mesh.name,
        left(invite.expires_at_ms, now_ms),
        invite.ticket
    )
}

fn left(until_ms: i64, now_ms: i64) -> String {
    match u64::try_from((until_ms - now_ms) / 1_000).unwrap_or(0) {
        0 => "nothing any more: it is expired".to_owned(),
        seconds if seconds >= 2 * 86_400 => format!("{} days", (seconds + 43_200) / 86_400),
        seconds => duration(seconds),
    }
}

#[cfg(test)]
mod tests {
    use agent_api::{
        NodeId,
        mesh::{Nearby, OwnNode, PeerCounts, Refused},
    };

    use super::*;

    fn mesh() -> Mesh {
        Mesh {
            at_ms: 0,
            state: MeshState::Joined,
            reason: "Three peers are connected.".to_owned(),
            mesh_id: "ab".repeat(32),
            name: "home".to_owned(),
            private: true,
            settled: true,
            own: OwnNode::default(),
            counts: PeerCounts {
                connected: 3,
                known: 5,
                lan: 2,
                relay: 1,
                ..PeerCounts::default()
            },
            sources: Vec::new(),
            nearby: Vec::new(),
            refused: Vec::new(),
            duplicate_identity: false,
            clock_off_ms: None,
            blocked: Vec::new(),
        }
    }

    fn known(name: &str) -> Peer {
        Peer {
            node_id: NodeId("ab12".repeat(16)),
            name: name.to_owned(),
            connected: false,
            state: PeerState::Known,
            path: None,
            rtt_ms: None,
            address: None,
            trusted: false,
            own: false,
            seed: false,
            sources: Vec::new(),
            last_seen_ms: Some(0),
            connected_since_ms: None,
            problem: None,
            announcement: None,
        }
    }

    #[test]
    fn the_summary_says_how_many_are_reached_and_how() {
        assert_eq!(
            summary(&mesh()),
            "\"home\", 3 of 5 peers connected (2 on this network, 1 through a relay)"
        );
        let off = Mesh { state: MeshState::Off, reason: "Turned off.".into(), ..mesh() };
        assert_eq!(summary(&off), "off. Turned off.");
        let alone = Mesh { state: MeshState::Alone, reason: "Nobody yet.".into(), ..mesh() };
        assert_eq!(summary(&alone), "\"home\", alone. Nobody yet.");
    }

    #[test]
    fn peers_line_up() {
        let near = Peer {
            connected: true,
            state: PeerState::Connected,
            path: Some(PathKind::Lan),
            rtt_ms: Some(0.42),
            trusted: true,
            own: false,
            ..known("studio")
        };
        let list = PeerList { peers: vec![near, known("laptop")], total: 5 };
        assert_eq!(
            peers(&list, 65_000),
            "\
NAME              NODE        PATH   RTT     REGION  SERVING  TOKENS/S  MODELS  SEEN
studio (trusted)  ab12ab12ab  LAN    0.4 ms  -       -        -         -       1 min 5 s ago
laptop            ab12ab12ab  known  -       -       -        -         -       1 min 5 s ago
2 of 5 peers
"
        );
        assert!(peers(&PeerList::default(), 0).contains("mesh invite"));
    }

    #[test]
    fn the_status_names_who_asks_and_what_was_refused() {
        let near = Nearby {
            node_id: NodeId("cd".repeat(32)),
            name: "tablet".into(),
            mesh: "home".into(),
            asks_to_join: true,
            seen_ms: 0,
        };
        let refused = Refused { reason: "bad_signature".into(), count: 1_200 };
        let text = status(&Mesh { nearby: vec![near], refused: vec![refused], ..mesh() }, 1_000);
        assert!(
            text.contains("tablet (cdcdcdcdcd) in the mesh home, seen just now, asks to join"),
            "{text}"
        );
        assert!(text.contains("1,200 bad signature"), "{text}");
    }

    #[test]
    fn an_expired_ticket_says_so() {
        assert_eq!(left(0, 10), "nothing any more: it is expired");
        assert_eq!(left(7 * 86_400_000, 0), "7 days");
        assert_eq!(left(1_800_000, 0), "30 min 0 s");
    }
}
