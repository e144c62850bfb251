//! Peers that are broken or hostile.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent_api::mesh::{AnnouncedModel, LanJoin, SourceKind};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::{
    Membership, Refusal, Setup,
    io::{Command, ConnId, Input, MeshEvent, Now, Output, Side},
    sim::announcement,
    wire::{self, Passed, Talk, Wave, wave_frame},
};
use crate::mesh::{
    Addresses, MeshCard, MeshId, NodeKey,
    record::{self, About, Body, Crypto as _, Ed25519, Record},
};

const NOW_MS: i64 = 1_800_000_000_000;

fn key(n: u8) -> Ed25519 {
    Ed25519::new(SigningKey::from_bytes(&[n; 32]))
}

fn card() -> MeshCard {
    MeshCard { id: MeshId([7; 32]), name: "home".to_owned(), secret: Some([9; 32]), settled: true }
}

fn node(n: u8) -> Membership {
    start(n, u64::from(n))
}

fn start(n: u8, instance: u64) -> Membership {
    let setup = Setup {
        crypto: Box::new(key(n)),
        card: card(),
        instance,
        rng: [n; 32],
        lan_join: LanJoin::Automatic,
        blocked: BTreeSet::new(),
        trusted: BTreeSet::new(),
        announcement: announcement(&format!("node-{n}")),
        addresses: Addresses::default(),
    };
    Membership::new(setup, at(0))
}

fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), unix_ms: NOW_MS + i64::try_from(ms).expect("small") }
}

/// Our node and a peer that did its handshake and is a neighbour.
struct Pair {
    node: Membership,
    peer: NodeKey,
    ms: u64,
}

impl Pair {
    fn new() -> Self {
        let (mut ours, mut theirs) = (node(1), node(2));
        let peer = theirs.key();
        let mut to_ours = Vec::new();
        let mut to_theirs = Vec::new();
        let connect = |peer, side| Input::Connected {
            peer,
            conn: ConnId(1),
            side,
            binding: [3; 32],
            on_lan: false,
        };
        to_theirs.extend(frames(ours.handle(at(1), connect(peer, Side::Dialed))));
        to_ours.extend(frames(theirs.handle(at(1), connect(ours.key(), Side::Accepted))));
        for ms in 2..20 {
            let (us, them) = (ours.key(), peer);
            let inbox = std::mem::take(&mut to_ours);
            for bytes in inbox {
                let frame = Input::Frame { peer: them, conn: ConnId(1), bytes };
                to_theirs.extend(frames(ours.handle(at(ms), frame)));
            }
            for bytes in std::mem::take(&mut to_theirs) {
                let frame = Input::Frame { peer: us, conn: ConnId(1), bytes };
                to_ours.extend(frames(theirs.handle(at(ms), frame)));
            }
        }
        assert!(ours.is_connected(&peer) && ours.neighbours().contains(&peer));
        Self { node: ours, peer, ms: 1_000 }
    }

    fn frame(&mut self, bytes: impl Into<Bytes>) -> Vec<Output> {
        self.ms += 1;
        let frame = Input::Frame { peer: self.peer, conn: ConnId(1), bytes: bytes.into() };
        self.node.handle(at(self.ms), frame)
    }

    fn gossip(&mut self, content: &[u8]) -> Vec<Output> {
        self.frame(wave(content))
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        let rows = self.node.refused();
        rows.iter().find(|row| row.reason == refusal.word()).map_or(0, |row| row.count)
    }

    fn knows(&self, author: u8) -> bool {
        self.node.peer(&key(author).key()).is_some_and(|peer| peer.record.is_some())
    }
}

/// A record that its author passes on.
fn wave(content: &[u8]) -> Bytes {
    let records = vec![Passed { hops: 0, urgent: true, bytes: content }];
    wave_frame(&Wave { have: Vec::new(), want: Vec::new(), records })
}

fn frames(outputs: Vec<Output>) -> Vec<Bytes> {
    let sent = outputs.into_iter().filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    sent.collect()
}

fn closes(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Close { .. }))
}

fn passes_on(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Send { .. }))
}

fn sealed(author: u8, at_ms: i64, nonce: u64) -> Arc<Record> {
    sealed_in(MeshId([7; 32]), author, at_ms, nonce)
}

fn sealed_in(mesh: MeshId, author: u8, at_ms: i64, nonce: u64) -> Arc<Record> {
    let mut says = announcement("somebody");
    says.at_ms = at_ms;
    let about = About { goodbye: false, addresses: Addresses::default(), announcement: says };
    let crypto = key(author);
    let body = Body::new(mesh, crypto.key(), u64::from(author) + 100, nonce, about);
    record::seal(&crypto, body).expect("small")
}

/// A record of almost the longest length.
fn long_record(author: u8) -> Arc<Record> {
    let mut says = announcement("somebody");
    says.at_ms = NOW_MS;
    says.models = (0..10)
        .map(|n| AnnouncedModel {
            id: format!("{n}{}", "m".repeat(200)),
            digest: None,
            size_bytes: 0,
            context: 0,
            resident: false,
            tokens_per_s: None,
            shared: false,
        })
        .collect();
    let about = About { goodbye: false, addresses: Addresses::default(), announcement: says };
    let crypto = key(author);
    let body = Body::new(MeshId([7; 32]), crypto.key(), 9, u64::from(author), about);
    record::seal(&crypto, body).expect("below the limit")
}

#[test]
fn a_newcomer_gets_a_large_directory_in_answers_that_a_link_can_hold() {
    let (mut ours, mut theirs) = (node(1), node(2));
    let mut bytes = 0;
    for author in 3..=253 {
        let record = long_record(author);
        bytes += record.bytes.len();
        assert_eq!(ours.learn(&record.bytes), Ok(true));
    }
    assert!(bytes > 512 << 10, "more than fits at once: {bytes} bytes");
    let connect = |peer, side| Input::Connected {
        peer,
        conn: ConnId(1),
        side,
        binding: [3; 32],
        on_lan: false,
    };
    let mut to_ours = frames(theirs.handle(at(1), connect(ours.key(), Side::Dialed)));
    let mut to_theirs = frames(ours.handle(at(1), connect(theirs.key(), Side::Accepted)));
    for ms in 2..60 {
        let (us, them) = (ours.key(), theirs.key());
        for bytes in std::mem::take(&mut to_ours) {
            let frame = Input::Frame { peer: them, conn: ConnId(1), bytes };
            to_theirs.extend(frames(ours.handle(at(ms), frame)));
        }
        let on_the_way: usize = to_theirs.iter().map(Bytes::len).sum();
        assert!(on_the_way < 300 << 10, "{on_the_way} bytes unsent");
        for bytes in std::mem::take(&mut to_theirs) {
            let frame = Input::Frame { peer: us, conn: ConnId(1), bytes };
            to_ours.extend(frames(theirs.handle(at(ms), frame)));
        }
    }
    assert_eq!(theirs.counts().known, 252);
}

#[test]
fn nobody_speaks_for_another_node() {
    let mut pair = Pair::new();
    let record = sealed(5, NOW_MS + 1_000, 1);
    // Every byte of it is signed.
    for at in [0, 40, 70, record.bytes.len() - 70, record.bytes.len() - 1] {
        let mut forged = record.bytes.to_vec();
        forged[at] ^= 1;
        let mut pair = Pair::new();
        pair.gossip(&forged);
        assert!(!pair.knows(5));
        let refused = pair.refused(Refusal::BadSignature) + pair.refused(Refusal::Malformed);
        assert_eq!(refused, 1, "byte {at}");
    }
    pair.gossip(&record.bytes);
    assert!(pair.knows(5), "the record as its author signed it is believed");
}

#[test]
fn clocks_may_be_two_minutes_wrong_and_not_more() {
    for (skew, fine) in [(-119_000, true), (119_000, true), (-121_000, false), (121_000, false)] {
        let mut pair = Pair::new();
        pair.gossip(&sealed(5, NOW_MS + 1_000 + skew, 1).bytes);
        assert_eq!(pair.knows(5), fine, "{skew} ms");
        assert_eq!(pair.refused(Refusal::ClockSkew), u64::from(!fine), "{skew} ms");
    }
}

#[test]
fn a_replayed_record_is_counted_and_not_passed_on() {
    let mut pair = Pair::new();
    pair.gossip(&sealed(5, NOW_MS + 1_000, 1).bytes);
    // As long as the protocol knows the id it is a copy; after that a replay, and soon too old.
    pair.ms += 95_000;
    let outputs = pair.gossip(&sealed(5, NOW_MS + 1_000, 1).bytes);
    assert_eq!(pair.refused(Refusal::Replayed), 1);
    assert!(!passes_on(&outputs) || !closes(&outputs));
    // The same nonce with newer words is a replay too.
    pair.gossip(&sealed(5, NOW_MS + 90_000, 1).bytes);
    assert_eq!(pair.refused(Refusal::Replayed), 2);
    // An older one than is known is not a replay, but useless.
    pair.gossip(&sealed(5, NOW_MS - 10_000, 2).bytes);
    assert_eq!(pair.refused(Refusal::Expired), 1);
}

#[test]
fn who_passes_on_what_others_sent_twice_or_too_often_does_not_pay_for_it() {
    let mut pair = Pair::new();
    pair.gossip(&sealed(5, NOW_MS + 1_000, 1).bytes);
    for n in 2..200 {
        // The same nonce, then new ones above the author's rate.
        pair.gossip(&sealed(5, NOW_MS + 1_000 + n, 1).bytes);
        pair.gossip(&sealed(5, NOW_MS + 1_000 + n, n.unsigned_abs()).bytes);
    }
    assert!(pair.refused(Refusal::Replayed) > 100);
    assert!(pair.refused(Refusal::RateLimited) > 100);
    assert!(pair.node.is_connected(&pair.peer));
}

#[test]
fn a_clock_that_was_far_ahead_does_not_silence_a_node_for_ever() {
    let mut ours = node(1);
    let ahead = 3_600_000;
    let wrong = Now { unix_ms: NOW_MS + ahead, ..at(1) };
    ours.handle(wrong, Input::Tick);
    assert_eq!(ours.own_record().map(Record::at_ms), Some(NOW_MS + ahead));
    ours.handle(at(20_000), Input::Tick);
    assert_eq!(ours.own_record().map(Record::at_ms), Some(NOW_MS + 20_000));
}

#[test]
fn foreign_oversized_and_blocked_records_are_refused_by_name() {
    let mut pair = Pair::new();
    pair.gossip(&sealed_in(MeshId([8; 32]), 5, NOW_MS + 1_000, 1).bytes);
    assert_eq!(pair.refused(Refusal::ForeignMesh), 1);
    pair.gossip(&vec![1; record::RECORD_BYTES + 1]);
    assert_eq!(pair.refused(Refusal::TooLarge), 1);
    let blocked = key(6).key();
    pair.node.handle(at(pair.ms), Input::Command(Command::Block(blocked)));
    pair.gossip(&sealed(6, NOW_MS + 1_000, 1).bytes);
    assert_eq!(pair.refused(Refusal::Blocked), 1);
    assert!(!pair.knows(5) && !pair.knows(6));
}

#[test]
fn ten_thousand_announcements_of_one_peer_cost_it_the_connection() {
    let mut pair = Pair::new();
    let mut closed = 0;
    for nonce in 0..10_000 {
        let at_ms = NOW_MS + 1_000 + i64::try_from(nonce).expect("small");
        closed += usize::from(closes(&pair.gossip(&sealed(2, at_ms, nonce).bytes)));
        if closed > 0 {
            break;
        }
    }
    assert_eq!(closed, 1, "it is closed long before the last one");
    assert!(!pair.node.is_connected(&pair.peer));
    assert!(pair.refused(Refusal::RateLimited) > 0);
    assert!(pair.node.nonces.len() < 100);
    let again = Input::Connected {
        peer: pair.peer,
        conn: ConnId(2),
        side: Side::Accepted,
        binding: [4; 32],
        on_lan: false,
    };
    assert!(closes(&pair.node.handle(at(pair.ms + 1), again)), "and not let in again at once");
}

#[test]
fn a_twin_is_told_from_the_past_and_forgotten_when_it_is_silent() {
    let mut pair = Pair::new();
    // From before the start, when this node's clock was ahead of what it is now.
    pair.gossip(&sealed(1, NOW_MS + 60_000, 1).bytes);
    assert!(!pair.node.has_duplicate());
    pair.ms += 2_000;
    pair.node.handle(at(pair.ms), Input::Tick);
    assert!(pair.node.own_record().map(Record::at_ms) > Some(NOW_MS + 60_000));
    pair.gossip(&sealed(1, NOW_MS + 60_000, 2).bytes);
    assert!(!pair.node.has_duplicate());
    // Nobody but a twin speaks after that.
    let outputs = pair.gossip(&sealed(1, NOW_MS + 70_000, 3).bytes);
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Event(MeshEvent::DuplicateIdentity)))
    );
    assert!(pair.node.has_duplicate());
    pair.node.handle(at(pair.ms + 130_000), Input::Tick);
    assert!(!pair.node.has_duplicate());
}

#[test]
fn a_peer_that_was_killed_and_is_back_at_once_is_down_and_then_up() {
    let mut pair = Pair::new();
    let mut back = start(2, 77);
    let connect = |peer, side| Input::Connected {
        peer,
        conn: ConnId(2),
        side,
        binding: [4; 32],
        on_lan: false,
    };
    let hello = frames(back.handle(at(1), connect(pair.node.key(), Side::Dialed))).remove(0);
    pair.node.handle(at(1_001), connect(pair.peer, Side::Accepted));
    let frame = Input::Frame { peer: pair.peer, conn: ConnId(2), bytes: hello };
    let outputs = pair.node.handle(at(1_002), frame);
    let told: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Close { conn: ConnId(1), .. } => Some("closed"),
            Output::Event(MeshEvent::PeerDown { .. }) => Some("down"),
            Output::Event(MeshEvent::PeerUp { .. }) => Some("up"),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["closed", "down", "up"]);
}

#[test]
fn a_blocked_peer_that_was_not_reached_is_not_in_the_list() {
    let mut ours = node(1);
    let peer = key(2).key();
    let addresses = Addresses { direct: vec![([10, 0, 0, 2], 4302).into()], relays: Vec::new() };
    ours.handle(at(1), Input::Found { peer, addresses, source: SourceKind::Saved, name: None });
    for ms in [2, 3] {
        ours.handle(at(ms), Input::DialFailed { peer, reason: "no answer".to_owned() });
    }
    assert_eq!(ours.peers().count(), 1);
    ours.handle(at(4), Input::Command(Command::Block(peer)));
    assert_eq!(ours.peers().count(), 0);
}

#[test]
fn a_wrong_secret_and_a_foreign_mesh_are_turned_away_with_a_reason() {
    let stranger = |change: fn(&mut Setup)| {
        let mut setup = Setup {
            crypto: Box::new(key(2)),
            card: card(),
            instance: 2,
            rng: [2; 32],
            lan_join: LanJoin::Automatic,
            blocked: BTreeSet::new(),
            trusted: BTreeSet::new(),
            announcement: announcement("stranger"),
            addresses: Addresses::default(),
        };
        change(&mut setup);
        let mut ours = node(1);
        let mut theirs = Membership::new(setup, at(0));
        let connect = |peer, side| Input::Connected {
            peer,
            conn: ConnId(1),
            side,
            binding: [3; 32],
            on_lan: false,
        };
        let hello = theirs.handle(at(1), connect(ours.key(), Side::Dialed));
        ours.handle(at(1), connect(theirs.key(), Side::Accepted));
        let bytes = frames(hello).remove(0);
        let frame = Input::Frame { peer: theirs.key(), conn: ConnId(1), bytes };
        let outputs = ours.handle(at(2), frame);
        assert!(!ours.is_connected(&theirs.key()));
        let reason = outputs.into_iter().find_map(|output| match output {
            Output::Close { reason, .. } => Some(reason),
            _ => None,
        });
        (reason.expect("closed"), ours.refused())
    };
    let (reason, refused) = stranger(|setup| setup.card.secret = Some([8; 32]));
    assert!(reason.contains("secret"), "{reason}");
    assert_eq!(refused[0].reason, "not_a_member");
    let (reason, refused) = stranger(|setup| setup.card.id = MeshId([8; 32]));
    assert!(reason.contains("another mesh"), "{reason}");
    assert_eq!(refused[0].reason, "foreign_mesh");
}

#[test]
fn a_node_of_the_future_is_turned_away_with_both_versions() {
    let (mut ours, mut theirs) = (node(1), node(2));
    let connect = |peer, side| Input::Connected {
        peer,
        conn: ConnId(1),
        side,
        binding: [3; 32],
        on_lan: false,
    };
    let hello = frames(theirs.handle(at(1), connect(ours.key(), Side::Dialed))).remove(0);
    ours.handle(at(1), connect(theirs.key(), Side::Accepted));
    let Ok(wire::Frame::Talk(Talk::Hello(mut hello))) = wire::decode(&hello) else {
        panic!("the first frame is a hello")
    };
    hello.protocol = (7, 9);
    let bytes = Talk::Hello(hello).encode();
    let outputs = ours.handle(at(2), Input::Frame { peer: theirs.key(), conn: ConnId(1), bytes });
    let reason = outputs.into_iter().find_map(|output| match output {
        Output::Close { reason, .. } => Some(reason),
        _ => None,
    });
    let reason = reason.expect("closed");
    assert!(reason.contains('7') && reason.contains('9') && reason.contains('1'), "{reason}");
    assert!(!ours.is_connected(&theirs.key()));
}

#[test]
fn a_full_directory_makes_room_by_stale_nodes_that_are_not_trusted() {
    use super::directory::{Directory, MOST_NODES};
    let body = sealed(5, NOW_MS, 1);
    let of = |n: u64| {
        let mut author = NodeKey([0; 32]);
        author.0[..8].copy_from_slice(&n.to_be_bytes());
        let mut says = body.body.clone();
        says.author = author;
        Arc::new(Record { body: says, bytes: body.bytes.clone(), hash: [1; 32] })
    };
    let nobody = |_: &NodeKey| false;
    let mut directory = Directory::new(key(1).key());
    let most = u64::try_from(MOST_NODES).expect("small");
    // The first ten have been silent for longest.
    for n in 0..most {
        let heard = Duration::from_secs(if n < 10 { n } else { 1_000 });
        directory.insert(of(n), heard, heard, nobody).expect("there is room");
    }
    let now = Duration::from_secs(1_001);
    let trusted = of(0).author();
    let left = directory.insert(of(most), now, now, |key| *key == trusted);
    assert_eq!(left, Ok(Some(of(1).author())), "the oldest that nobody keeps");
    for n in 1..9 {
        directory.insert(of(most + n), now, now, |key| *key == trusted).expect("stale ones go");
    }
    let full = directory.insert(of(most + 9), now, now, |key| *key == trusted);
    assert!(full.is_err(), "a node that is there is not pushed out by a new one");
    assert_eq!(directory.len(), MOST_NODES);
    assert!(directory.contains(&trusted));
}

#[test]
fn a_hello_is_bound_to_its_connection() {
    let mut ours = node(1);
    let mut theirs = node(2);
    let connect = |peer, side, binding| Input::Connected {
        peer,
        conn: ConnId(1),
        side,
        binding,
        on_lan: false,
    };
    // Somebody between passes the frames of one connection on to another.
    let hello = theirs.handle(at(1), connect(ours.key(), Side::Dialed, [1; 32]));
    ours.handle(at(1), connect(theirs.key(), Side::Accepted, [2; 32]));
    let bytes = frames(hello).remove(0);
    ours.handle(at(2), Input::Frame { peer: theirs.key(), conn: ConnId(1), bytes });
    assert!(!ours.is_connected(&theirs.key()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_frames_never_panic_and_never_change_the_directory(
        kind in 0_u8..5,
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut pair = Pair::new();
        let before = pair.node.counts().known;
        bytes.insert(0, kind);
        pair.frame(bytes);
        prop_assert_eq!(pair.node.counts().known, before);
    }

    #[test]
    fn changed_gossip_never_panics(
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let mut pair = Pair::new();
        let record = sealed(5, NOW_MS + 1_000, 1);
        let mut bytes = wave(&record.bytes).to_vec();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        pair.frame(bytes);
    }

    #[test]
    fn random_records_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(key(1).open(&bytes).is_err());
    }
}

#[test]
fn a_stranger_that_says_anything_but_hello_does_not_keep_its_connection() {
    let mut ours = node(1);
    let peer = key(2).key();
    let (conn, side) = (ConnId(1), Side::Accepted);
    ours.handle(at(1), Input::Connected { peer, conn, side, binding: [3; 32], on_lan: false });
    let mut closed = false;
    // Slowly enough not to be banned.
    for s in 1..14 {
        let frame = Input::Frame { peer, conn, bytes: Talk::Ping(1).encode() };
        closed |= closes(&ours.handle(at(s * 1_000), frame));
    }
    assert!(closed);
}

#[test]
fn strangers_at_the_door_do_not_take_the_places_of_members() {
    let mut ours = node(1);
    let connect = |n: u8| Input::Connected {
        peer: key(n).key(),
        conn: ConnId(u64::from(n)),
        side: Side::Accepted,
        binding: [3; 32],
        on_lan: false,
    };
    assert_eq!(ours.learn(&sealed(2, NOW_MS, 1).bytes), Ok(true));
    let refused = (3..=100).filter(|&n| closes(&ours.handle(at(1), connect(n)))).count();
    assert_eq!(refused, 98 - 64);
    assert!(!closes(&ours.handle(at(1), connect(2))), "a member is let in");
}

#[test]
fn a_dial_whose_connection_is_refused_makes_room_for_the_next_one() {
    let mut ours = node(1);
    let addresses = Addresses { direct: vec![([10, 0, 0, 2], 4302).into()], relays: Vec::new() };
    let dials = |outputs: &[Output]| {
        outputs.iter().filter(|output| matches!(output, Output::Dial { .. })).count()
    };
    let mut dialed = 0;
    for n in 2..30 {
        let (peer, conn) = (key(n).key(), ConnId(u64::from(n)));
        let source = SourceKind::Lan;
        let found = Input::Found { peer, addresses: addresses.clone(), source, name: None };
        dialed += dials(&ours.handle(at(2_000 * u64::from(n)), found));
        dialed += dials(&ours.handle(at(2_000 * u64::from(n) + 1_600), Input::Tick));
        // The owner blocks it while the dial is under way.
        ours.handle(at(2_000 * u64::from(n) + 1_700), Input::Command(Command::Block(peer)));
        let side = Side::Dialed;
        let up = Input::Connected { peer, conn, side, binding: [3; 32], on_lan: false };
        assert!(closes(&ours.handle(at(2_000 * u64::from(n) + 1_800), up)));
    }
    assert_eq!(dialed, 28, "each of them was dialed");
    assert!(ours.peers().all(|peer| !peer.dialing));
}

#[test]
fn frames_before_the_hello_do_not_count() {
    let mut ours = node(1);
    let peer = key(2).key();
    let connect = Input::Connected {
        peer,
        conn: ConnId(1),
        side: Side::Accepted,
        binding: [3; 32],
        on_lan: false,
    };
    ours.handle(at(1), connect);
    for _ in 0..30 {
        let frame = Input::Frame { peer, conn: ConnId(1), bytes: Talk::Ping(1).encode() };
        ours.handle(at(2), frame);
    }
    assert!(ours.refused().iter().any(|row| row.reason == "not_a_member"));
    assert!(!ours.is_connected(&peer));
}
