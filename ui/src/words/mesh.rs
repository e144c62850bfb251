//! What the page says about the mesh as a whole.

use agent_api::mesh::{
    Mesh, MeshState, Nearby, Refused, Source, SourceKind, SourceState, TicketInfo,
};

use super::{Tone, model::NavCount};
use crate::{
    components::icon::Icon,
    format::{self, LocalTime},
};

/// Under the panel's title: `commons, public, 13 peers in 10 regions`; in a mesh too large to be
/// connected with everybody `31 of 2,000 peers connected, in 37 regions`.
pub fn summary(mesh: &Mesh, paused: bool) -> String {
    let kind = if mesh.private { "private" } else { "public" };
    let (connected, known) = (u64::from(mesh.counts.connected), u64::from(mesh.counts.known));
    let peers = match known > connected {
        true => format!("{connected} of {} connected,", format::counted(known, "peer", "peers")),
        false => format::counted(connected, "peer", "peers"),
    };
    let mut text = match mesh.state {
        MeshState::Off => return format!("{}, off", mesh.name),
        MeshState::Failed => format!("{}, {kind}, no network", mesh.name),
        MeshState::Joining => format!("{}, {kind}, looking for peers", mesh.name),
        MeshState::Alone => format!("{}, {kind}, nobody else yet", mesh.name),
        MeshState::Joined => {
            let regions = match mesh.counts.regions {
                0 => String::new(),
                n => format!(" in {}", format::counted(u64::from(n), "region", "regions")),
            };
            let peers = if regions.is_empty() { peers.trim_end_matches(',') } else { &peers };
            format!("{}, {kind}, {peers}{regions}", mesh.name)
        }
    };
    if paused {
        text.push_str(", paused");
    }
    text
}

/// Beside the panel's name in the sidebar: connected peers, or that somebody waits for an answer.
pub fn nav_count(mesh: &Mesh) -> Option<NavCount> {
    let asking = mesh.nearby.iter().filter(|n| n.asks_to_join).count();
    let connected = u64::from(mesh.counts.connected);
    if mesh.state == MeshState::Off || (connected == 0 && asking == 0) {
        return None;
    }
    let peers = format!("{} connected", format::counted(connected, "peer", "peers"));
    let hint = match asking {
        0 => peers,
        n => format!("{peers}, {}", asks(n)),
    };
    Some(NavCount { text: connected.to_string(), hint, moving: asking > 0 })
}

fn asks(count: usize) -> String {
    let who = format::counted(count as u64, "node asks", "nodes ask");
    format!("{who} to join")
}

/// Beside the title of the table.
pub fn peer_count(mesh: &Mesh) -> String {
    let counts = &mesh.counts;
    let mut text = format!("{} connected", format::count(u64::from(counts.connected)));
    let more = [
        (counts.known.saturating_sub(counts.connected), "more known"),
        (counts.unreachable, "unreachable"),
    ];
    for (count, word) in more.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {} {word}", format::count(u64::from(count))));
    }
    text
}

pub fn source_title(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Saved => "Earlier peers",
        SourceKind::Ticket => "Ticket",
        SourceKind::Seed => "Seeds",
        SourceKind::Lan => "LAN",
        SourceKind::Dht => "DHT",
        SourceKind::Gossip => "Gossip",
        SourceKind::Incoming => "Incoming",
    }
}

/// In a sentence about where a peer was found.
pub fn found_by(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Saved => "an earlier day",
        SourceKind::Ticket => "a ticket",
        SourceKind::Seed => "a seed",
        SourceKind::Lan => "LAN",
        SourceKind::Dht => "DHT",
        SourceKind::Gossip => "gossip",
        SourceKind::Incoming => "its own call",
    }
}

pub fn source_icon(kind: SourceKind) -> Icon {
    match kind {
        SourceKind::Saved => Icon::Clock,
        SourceKind::Ticket => Icon::Ticket,
        SourceKind::Seed => Icon::Seed,
        SourceKind::Lan => Icon::Lan,
        SourceKind::Dht => Icon::Dht,
        SourceKind::Gossip => Icon::Gossip,
        SourceKind::Incoming => Icon::Download,
    }
}

/// Names where it works and has some; otherwise the reason.
pub fn source_line(source: &Source) -> String {
    if source.state == SourceState::Working && !source.names.is_empty() {
        source.names.join(", ")
    } else {
        source.reason.clone()
    }
}

/// Icon, its colour, and the word that it stands for.
pub fn source_state(state: SourceState) -> (Icon, &'static str, &'static str) {
    match state {
        SourceState::Off => (Icon::Minus, "i faint", "off"),
        SourceState::Waiting => (Icon::Idle, "i faint", "waiting"),
        SourceState::Working => (Icon::Check, "i ok", "working"),
        SourceState::Failed => (Icon::Error, "i bad", "not working"),
    }
}

/// What this node tries while it is alone, as a list in a sentence.
pub fn tried(mesh: &Mesh) -> String {
    let on = mesh.sources.iter().filter(|s| s.state != SourceState::Off);
    let words: Vec<_> = on
        .filter_map(|s| match s.kind {
            SourceKind::Saved => Some("peers of earlier days"),
            SourceKind::Ticket => Some("the addresses in the ticket"),
            SourceKind::Seed => Some("seeds"),
            SourceKind::Lan => Some("this network"),
            SourceKind::Dht => Some("the DHT"),
            SourceKind::Gossip | SourceKind::Incoming => None,
        })
        .collect();
    match words.split_last() {
        None => "Every way of finding peers is turned off in the settings.".into(),
        Some((only, [])) => format!("It tries {only}."),
        Some((last, first)) => format!("It tries {} and {last}.", first.join(", ")),
    }
}

/// After its name. Most meshes have the name that they began with, so that the name alone does not
/// tell one from another.
pub fn nearby_line(nearby: &Nearby) -> String {
    if nearby.asks_to_join {
        format!("asks to join yours; now it is in another mesh, called {}", nearby.mesh)
    } else {
        format!("is in another mesh, called {}", nearby.mesh)
    }
}

/// Who is not on the map: so many peers, and perhaps this node.
pub fn no_place(peers: usize, own: bool) -> Option<String> {
    let verb = if peers == 1 { "shows" } else { "show" };
    let who = format!("{} {verb} no place", format::counted(peers as u64, "peer", "peers"));
    match (peers, own) {
        (0, false) => None,
        (0, true) => Some("This node shows no place.".into()),
        (_, false) => Some(format!("{who}.")),
        (_, true) => Some(format!("{who}, and neither does this node.")),
    }
}

/// A refusal's stable word as a sentence: what, and why it was refused.
pub fn refused(refused: &Refused) -> (String, &'static str) {
    let (title, why) = match refused.reason.as_str() {
        "bad_signature" => ("Bad signature", "Not signed by whom it names."),
        "expired" => ("Too old", "It came later than its time."),
        "replayed" => ("Seen before", "The same message was sent again."),
        "too_large" => ("Too large", "Larger than a message may be."),
        "foreign_mesh" => ("Another mesh", "From a node that is not in this mesh."),
        "clock_skew" => ("Wrong clock", "Its clock is more than two minutes off."),
        "rate_limited" => ("Too many", "More than one peer may send at once."),
        "malformed" => ("Not readable", "Not a message of this protocol."),
        "blocked" => ("Blocked node", "From a node that you blocked."),
        "not_a_member" => ("Not a member", "It could not prove that it was invited."),
        other => return (other.replace('_', " "), ""),
    };
    (title.into(), why)
}

/// What a ticket's moment of expiry means now. False: it is over.
pub fn expiry(at_ms: i64, now_ms: i64, offset_ms: i64) -> (bool, String) {
    let moment = LocalTime::new(at_ms, offset_ms).moment(LocalTime::new(now_ms, offset_ms));
    if at_ms > now_ms {
        (true, format!("Valid until {moment}"))
    } else {
        (false, format!("Expired at {moment}. Ask for a new ticket."))
    }
}

/// Who can come in with a ticket, and what that means.
pub fn ticket_warning(private: bool) -> &'static str {
    if private {
        "Treat it like a password: it carries the lasting secret of this mesh. The date only keeps a forgotten ticket from being used late; it does not stop somebody who took the secret out of a copy. If one got into wrong hands, make a new mesh and invite your computers there."
    } else {
        "This mesh is public: whoever gets the ticket can join and hand it on. The date only keeps a forgotten ticket from being used late; with the mesh’s id anybody can make another."
    }
}

/// Who is let in, for who makes a mesh or is about to join one.
pub fn joining(private: bool) -> &'static str {
    if private {
        "Joining takes a ticket: it carries a secret that the members prove to each other."
    } else {
        "Joining takes a ticket, but there is no secret in it: whoever learns the mesh’s id can make one. Nothing in this mesh is kept from strangers."
    }
}

/// What joining with a ticket leaves behind.
pub fn leaving(mesh: &Mesh, ticket: &TicketInfo) -> String {
    if ticket.joined {
        return format!("This node is in {} already; its addresses are tried again.", ticket.name);
    }
    let alone = mesh.counts.connected == 0 && !mesh.settled;
    if alone {
        return format!("Nobody else is in {}, so nothing is lost by leaving it.", mesh.name);
    }
    format!(
        "This node leaves {} and its {}. To come back it needs a ticket of {}.",
        mesh.name,
        format::counted(u64::from(mesh.counts.connected), "peer", "peers"),
        mesh.name
    )
}

/// The state of the whole mesh as a banner, where one is needed: kind and text.
pub fn banner(mesh: &Mesh, paused: bool) -> Option<(&'static str, String)> {
    if mesh.duplicate_identity {
        return Some((
            "danger",
            "Another computer uses this node’s key, so peers cannot tell the two apart. Stop one of them, or give it a data folder of its own.".into(),
        ));
    }
    if let Some(off_ms) = mesh.clock_off_ms {
        let way = if off_ms > 0 { "ahead" } else { "behind" };
        return Some((
            "warn",
            format!(
                "This computer’s clock is probably {} minutes {way}, so that peers do not believe what it says of itself. Let the system set its time automatically.",
                off_ms.abs() / 60_000
            ),
        ));
    }
    match mesh.state {
        MeshState::Failed => Some(("danger", mesh.reason.clone())),
        MeshState::Joining | MeshState::Alone | MeshState::Joined if paused => Some((
            "info",
            "Paused: this node stays in the mesh and takes no work from it until you resume."
                .into(),
        )),
        _ => None,
    }
}

/// The state in a word for the facts below.
pub fn state(state: MeshState) -> (Tone, &'static str) {
    match state {
        MeshState::Off => (Tone::Plain, "Off"),
        MeshState::Joining => (Tone::Busy, "Joining"),
        MeshState::Alone => (Tone::Plain, "Alone"),
        MeshState::Joined => (Tone::Good, "Joined"),
        MeshState::Failed => (Tone::Bad, "Failed"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api::{
        NodeId,
        mesh::{OwnNode, PeerCounts},
    };

    use super::*;

    pub(crate) fn mesh() -> Mesh {
        let source = |kind, state, names: &[&str]| Source {
            kind,
            state,
            reason: "Asks the seeds in the settings.".into(),
            found: 3,
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            last_found_ms: None,
        };
        Mesh {
            at_ms: 0,
            state: MeshState::Joined,
            reason: "13 peers are connected.".into(),
            mesh_id: "cd".repeat(32),
            name: "commons".into(),
            private: false,
            settled: true,
            own: OwnNode { region: Some("Europe/Berlin".into()), ..OwnNode::default() },
            counts: PeerCounts { connected: 13, known: 13, regions: 10, ..PeerCounts::default() },
            sources: vec![
                source(SourceKind::Seed, SourceState::Working, &["Paris", "Chicago"]),
                source(SourceKind::Lan, SourceState::Failed, &["attic-mini"]),
                source(SourceKind::Dht, SourceState::Off, &[]),
            ],
            nearby: Vec::new(),
            refused: Vec::new(),
            duplicate_identity: false,
            clock_off_ms: None,
            blocked: Vec::new(),
        }
    }

    fn nearby(asks_to_join: bool) -> Nearby {
        let node_id = NodeId("ef".repeat(32));
        Nearby { node_id, name: "attic-mini".into(), mesh: "home".into(), asks_to_join, seen_ms: 0 }
    }

    #[test]
    fn the_title_says_which_mesh_and_how_large() {
        let mut mesh = mesh();
        assert_eq!(summary(&mesh, false), "commons, public, 13 peers in 10 regions");
        assert_eq!(summary(&mesh, true), "commons, public, 13 peers in 10 regions, paused");
        mesh.counts.known = 2_000;
        assert_eq!(
            summary(&mesh, false),
            "commons, public, 13 of 2,000 peers connected, in 10 regions"
        );
        mesh.counts.regions = 0;
        assert_eq!(summary(&mesh, false), "commons, public, 13 of 2,000 peers connected");
        mesh.counts.known = 1;
        (mesh.counts.connected, mesh.counts.regions, mesh.private) = (1, 1, true);
        assert_eq!(summary(&mesh, false), "commons, private, 1 peer in 1 region");
        mesh.state = MeshState::Alone;
        assert_eq!(summary(&mesh, false), "commons, private, nobody else yet");
        mesh.state = MeshState::Off;
        assert_eq!(summary(&mesh, false), "commons, off");
    }

    #[test]
    fn the_sidebar_counts_connected_peers_and_points_to_who_waits() {
        let mut mesh = mesh();
        let count = nav_count(&mesh).expect("peers are connected");
        assert_eq!((count.text.as_str(), count.moving), ("13", false));
        mesh.nearby = vec![nearby(true), nearby(false)];
        let count = nav_count(&mesh).expect("somebody asks");
        assert_eq!(count.hint, "13 peers connected, 1 node asks to join");
        assert!(count.moving);
        mesh.state = MeshState::Off;
        assert_eq!(nav_count(&mesh), None);
    }

    #[test]
    fn a_source_that_does_not_work_says_why_instead_of_its_names() {
        let mesh = mesh();
        assert_eq!(source_line(&mesh.sources[0]), "Paris, Chicago");
        assert_eq!(source_line(&mesh.sources[1]), "Asks the seeds in the settings.");
        assert_eq!(tried(&mesh), "It tries seeds and this network.");
    }

    #[test]
    fn a_ticket_promises_no_more_than_it_keeps() {
        assert!(ticket_warning(true).contains("make a new mesh"));
        for private in [true, false] {
            assert!(!ticket_warning(private).contains("until it expires"));
            assert!(joining(private).starts_with("Joining takes a ticket"));
        }
    }

    #[test]
    fn leaving_says_what_is_lost() {
        let mut mesh = mesh();
        let mut ticket = TicketInfo {
            mesh_id: "01".repeat(32),
            name: "hafen-lab".into(),
            private: true,
            inviter: NodeId("02".repeat(32)),
            inviter_name: "kanal".into(),
            expires_at_ms: 10_000,
            joined: false,
            addresses: Vec::new(),
        };
        assert!(leaving(&mesh, &ticket).starts_with("This node leaves commons and its 13 peers."));
        (mesh.counts.connected, mesh.settled) = (0, false);
        assert!(leaving(&mesh, &ticket).contains("nothing is lost"));
        ticket.joined = true;
        assert!(leaving(&mesh, &ticket).contains("already"));
        assert!(expiry(10_000, 0, 0).0);
        assert!(!expiry(10_000, 20_000, 0).0);
    }

    #[test]
    fn who_shows_no_place_is_counted() {
        assert_eq!(no_place(0, false), None);
        assert_eq!(no_place(1, false).as_deref(), Some("1 peer shows no place."));
        assert!(
            no_place(2, true)
                .is_some_and(|t| t == "2 peers show no place, and neither does this node.")
        );
        assert!(nearby_line(&nearby(true)).starts_with("asks to join yours"));
    }

    #[test]
    fn a_failure_and_a_copied_key_are_shown_before_a_pause() {
        let mut mesh = mesh();
        assert_eq!(banner(&mesh, false), None);
        assert_eq!(banner(&mesh, true).map(|b| b.0), Some("info"));
        mesh.clock_off_ms = Some(240_000);
        assert!(banner(&mesh, true).is_some_and(|b| b.1.contains("4 minutes ahead")));
        mesh.clock_off_ms = None;
        mesh.state = MeshState::Failed;
        assert_eq!(banner(&mesh, true), Some(("danger", mesh.reason.clone())));
        mesh.duplicate_identity = true;
        assert!(banner(&mesh, true).is_some_and(|b| b.1.contains("key")));
    }

    #[test]
    fn every_refusal_has_words_and_an_unknown_one_keeps_its_own() {
        let of = |reason: &str| refused(&Refused { reason: reason.into(), count: 1 });
        assert_eq!(of("replayed").0, "Seen before");
        assert_eq!(of("from_the_future"), ("from the future".into(), ""));
    }
}
