//! Peers that are broken or hostile.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent_api::mesh::LanJoin;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::{
    Membership, Refusal, Setup,
    io::{Command, ConnId, Input, Now, Output, Side},
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
    let setup = Setup {
        crypto: Box::new(key(n)),
        card: card(),
        instance: u64::from(n),
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
