//! What one node does when its peers, its owner or its driver say something.

use std::{sync::Arc, time::Duration};

use agent_api::mesh::{AnnouncedModel, PathKind, SourceKind};
use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::{
    Membership, NOT_NEEDED, Setup,
    directory::{Directory, MOST_NODES},
    io::{Command, ConnId, Input, MeshEvent, Now, Output, Side},
    pair::{
        NOW_MS, Pair, at, closes, connect, frames, frames_to, introduce, key, node, sealed, setup,
    },
    sim::announcement,
    wire::Talk,
};
use crate::mesh::{
    Addresses, MeshId, NodeKey,
    record::{self, About, Body, Crypto as _, Ed25519, Record},
};

fn dials(outputs: &[Output]) -> Vec<NodeKey> {
    let dials = outputs.iter().filter_map(|output| match output {
        Output::Dial { peer, .. } => Some(*peer),
        _ => None,
    });
    dials.collect()
}

fn found(n: u8, source: SourceKind) -> Input {
    let addresses = Addresses { direct: vec![([10, 0, 0, n], 4302).into()], relays: Vec::new() };
    Input::Found { peer: key(n).key(), addresses, source, name: None, foreign: false }
}

/// Knows so many others that not everybody is connected with everybody.
fn in_a_large_mesh(node: &mut Membership) {
    for author in 100..140 {
        assert_eq!(node.learn(&sealed(author, NOW_MS, 1).bytes), Ok(true));
    }
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
    let connect = |peer, side| connect(peer, 1, side);
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
fn a_full_directory_makes_room_by_stale_nodes_that_are_not_trusted() {
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
fn a_peer_that_was_killed_and_is_back_at_once_is_down_and_then_up() {
    let mut pair = Pair::new();
    let mut back = Membership::new(Setup { instance: 77, ..setup(2) }, at(0));
    let connect = |peer, side| connect(peer, 2, side);
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

/// Two nodes; the first has the smaller key and so decides which of two connections stays.
fn decides(n: u8) -> (Membership, Membership) {
    let larger = (n + 1..).find(|other| key(*other).key() > key(n).key()).expect("one of many");
    (node(n), node(larger))
}

#[test]
fn a_connection_that_another_one_replaces_ends_by_itself_unless_it_is_dead() {
    let (mut ours, mut theirs) = decides(1);
    introduce(&mut ours, &mut theirs, 1, 1);
    let (me, peer) = (ours.key(), theirs.key());
    let alive = |ours: &mut Membership, conn, s: u64| {
        let frame = Input::Frame { peer, conn: ConnId(conn), bytes: Talk::Pong(1).encode() };
        ours.handle(at(s * 1_000), frame)
    };
    for s in 1..30 {
        alive(&mut ours, 1, s);
    }
    // The other end dials again, as after a change of network.
    let hello = frames_to(me, theirs.handle(at(30_000), connect(me, 2, Side::Dialed))).remove(0);
    ours.handle(at(30_000), connect(peer, 2, Side::Accepted));
    let frame = Input::Frame { peer, conn: ConnId(2), bytes: hello };
    let outputs = ours.handle(at(30_000), frame);
    let retired = |output: &Output| matches!(output, Output::Retire { conn: ConnId(1), .. });
    assert!(outputs.iter().any(retired) && !closes(&outputs), "{outputs:?}");
    // Streams may run over it for long: it is left alone as long as it answers.
    let mut asked = 0;
    for s in 31..90 {
        let outputs = ours.handle(at(s * 1_000), Input::Tick);
        assert!(!closes(&outputs), "after {s} s: {outputs:?}");
        let over = |output: &&Output| matches!(output, Output::Send { conn: ConnId(1), .. });
        if outputs.iter().filter(over).count() > 0 {
            alive(&mut ours, 1, s);
            asked += 1;
        }
        alive(&mut ours, 2, s);
    }
    assert!((10..=15).contains(&asked), "it is asked after each silence: {asked}");
    // Then it is dead, and the other one is not.
    let dead = (90..100).find(|s| {
        let outputs = ours.handle(at(s * 1_000), Input::Tick);
        alive(&mut ours, 2, *s);
        closes(&outputs)
    });
    assert!(dead.is_some() && ours.is_connected(&peer), "{dead:?}");
}

#[test]
fn of_two_connections_dialed_at_once_both_ends_use_the_same() {
    for dialed_first in [true, false] {
        let (mut smaller, mut larger) = decides(1);
        let (smaller_key, larger_key) = (smaller.key(), larger.key());
        // Connection 1 is dialed by the smaller key, 2 by the larger.
        let order = if dialed_first { [2, 1] } else { [1, 2] };
        let mut hellos = Vec::new();
        for (ms, conn) in [1, 2].into_iter().zip(order) {
            let (ours, theirs) = match conn {
                1 => (Side::Dialed, Side::Accepted),
                _ => (Side::Accepted, Side::Dialed),
            };
            let hello = smaller.handle(at(ms), connect(larger_key, conn, ours));
            larger.handle(at(ms), connect(smaller_key, conn, theirs));
            hellos.push((conn, frames_to(larger_key, hello).remove(0)));
        }
        for (conn, bytes) in hellos {
            let frame = Input::Frame { peer: smaller_key, conn: ConnId(conn), bytes };
            larger.handle(at(3), frame);
        }
        let used = larger.peer(&smaller_key).map(|peer| peer.connections[0].conn);
        assert_eq!(used, Some(ConnId(1)), "dialed first: {dialed_first}");
        // Over the other one it is still asked whether it lives, and says so there.
        let bytes = Talk::Ping(7).encode();
        let ping = Input::Frame { peer: smaller_key, conn: ConnId(2), bytes };
        let outputs = larger.handle(at(4), ping);
        let pong = |output: &Output| matches!(output, Output::Send { conn: ConnId(2), bytes, .. } if *bytes == Talk::Pong(7).encode());
        assert!(outputs.iter().any(pong), "{outputs:?}");
    }
}

#[test]
fn a_blocked_peer_that_was_not_reached_is_not_in_the_list() {
    let mut ours = node(1);
    let peer = key(2).key();
    ours.handle(at(1), found(2, SourceKind::Saved));
    for ms in [2, 3] {
        ours.handle(at(ms), Input::DialFailed { peer, reason: "no answer".to_owned() });
    }
    assert_eq!(ours.peers().count(), 1);
    ours.handle(at(4), Input::Command(Command::Block(peer)));
    assert_eq!(ours.peers().count(), 0);
}

#[test]
fn a_peer_that_is_lost_stays_in_the_list_for_a_quarter_of_an_hour_however_it_was_found() {
    let minutes = |minutes: u64| minutes * 60_000;
    for source in [SourceKind::Lan, SourceKind::Gossip, SourceKind::Saved, SourceKind::Dht] {
        let mut ours = node(1);
        let peer = key(2).key();
        ours.handle(at(1), found(2, source));
        assert_eq!(ours.peers().count(), 0, "not before it was tried");
        for n in 0..20 {
            let reason = "no answer".to_owned();
            ours.handle(at(2 + minutes(n)), Input::DialFailed { peer, reason });
            assert_eq!(ours.lists(&peer), n < 15, "{source:?} after {n} minutes");
        }
    }
    // It was connected, by itself.
    let (mut ours, mut theirs) = (node(1), node(2));
    introduce(&mut theirs, &mut ours, 1, 1);
    let (peer, conn) = (theirs.key(), ConnId(1));
    let lost = Input::Disconnected { peer, conn, reason: "connection reset".to_owned() };
    ours.handle(at(minutes(1)), lost);
    ours.handle(at(minutes(15)), Input::Tick);
    assert!(ours.record(&peer).is_none() && ours.lists(&peer));
    ours.handle(at(minutes(17)), Input::Tick);
    assert!(!ours.lists(&peer));
}

#[test]
fn strangers_and_those_who_said_goodbye_are_not_missed() {
    let (mut ours, mut theirs) = (node(1), node(2));
    introduce(&mut ours, &mut theirs, 1, 1);
    let (peer, conn) = (theirs.key(), ConnId(1));
    let goodbye = theirs.handle(at(1_000), Input::Command(Command::Shutdown));
    for bytes in frames_to(ours.key(), goodbye) {
        ours.handle(at(1_001), Input::Frame { peer, conn, bytes });
    }
    let lost = Input::Disconnected { peer, conn, reason: "it left the mesh".to_owned() };
    ours.handle(at(1_002), lost);
    assert!(!ours.lists(&peer), "it left");

    let stranger = key(9).key();
    ours.handle(at(2_000), connect(stranger, 9, Side::Accepted));
    let reason = "no hello".to_owned();
    ours.handle(at(2_001), Input::Disconnected { peer: stranger, conn: ConnId(9), reason });
    assert!(!ours.lists(&stranger), "it never was in the mesh");
}

#[test]
fn a_node_of_another_mesh_on_this_network_is_no_missed_peer() {
    for foreign in [false, true] {
        let mut ours = node(1);
        let Input::Found { peer, addresses, source, name, .. } = found(2, SourceKind::Lan) else {
            panic!("a find")
        };
        ours.handle(at(0), Input::Found { peer, addresses, source, name, foreign });
        let reason = "no answer".to_owned();
        ours.handle(at(10_000), Input::DialFailed { peer, reason });
        assert_eq!(ours.lists(&peer), !foreign, "foreign: {foreign}");
    }
}

#[test]
fn a_connection_that_the_other_end_needs_no_more_is_no_failure() {
    for (reason, failed) in [(NOT_NEEDED, false), ("it did not answer any more", true)] {
        let (mut ours, mut theirs) = (node(1), node(2));
        introduce(&mut ours, &mut theirs, 1, 1);
        let peer = theirs.key();
        let (conn, reason) = (ConnId(1), reason.to_owned());
        let outputs = ours.handle(at(100), Input::Disconnected { peer, conn, reason });
        assert_eq!(dials(&outputs), [], "it is not dialed at once");
        let view = ours.peer(&peer).expect("known");
        assert_eq!(view.problem.is_some(), failed);
        assert_eq!(view.attempts.iter().any(|attempt| !attempt.ok), failed);
    }
}

/// What was told of paths.
fn paths(outputs: &[Output]) -> Vec<(PathKind, PathKind)> {
    let told = outputs.iter().filter_map(|output| match output {
        Output::Event(MeshEvent::PathChanged { from, to, .. }) => Some((*from, *to)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_connection_that_is_replaced_by_one_on_another_path_is_told() {
    for path_first in [false, true] {
        let (mut ours, mut theirs) = (node(1), node(2));
        introduce(&mut ours, &mut theirs, 1, 1);
        let (us, peer) = (ours.key(), theirs.key());
        let path = |conn, kind| {
            let rtt = Duration::from_millis(20);
            Input::Path { peer, conn: ConnId(conn), kind, rtt }
        };
        assert!(paths(&ours.handle(at(1_000), path(1, PathKind::Relay))).is_empty());
        ours.handle(at(2_000), connect(peer, 2, Side::Dialed));
        let hello = frames_to(us, theirs.handle(at(2_000), connect(us, 2, Side::Accepted)));
        let mut outputs = Vec::new();
        if path_first {
            outputs.extend(ours.handle(at(2_001), path(2, PathKind::Direct)));
            assert!(paths(&outputs).is_empty(), "it is not in use yet");
        }
        for bytes in hello {
            let frame = Input::Frame { peer, conn: ConnId(2), bytes };
            outputs.extend(ours.handle(at(2_002), frame));
        }
        if !path_first {
            outputs.extend(ours.handle(at(2_003), path(2, PathKind::Direct)));
        }
        let ended = Input::Disconnected { peer, conn: ConnId(1), reason: String::new() };
        outputs.extend(ours.handle(at(2_004), ended));
        outputs.extend(ours.handle(at(2_005), path(2, PathKind::Direct)));
        assert_eq!(paths(&outputs), [(PathKind::Relay, PathKind::Direct)], "once");
    }
}

#[test]
fn a_dial_whose_connection_is_refused_makes_room_for_the_next_one() {
    let mut ours = node(1);
    let mut dialed = 0;
    for n in 2..30 {
        let (peer, conn) = (key(n).key(), u64::from(n));
        let found = found(n, SourceKind::Lan);
        dialed += dials(&ours.handle(at(2_000 * u64::from(n)), found)).len();
        dialed += dials(&ours.handle(at(2_000 * u64::from(n) + 1_600), Input::Tick)).len();
        // The owner blocks it while the dial is under way.
        ours.handle(at(2_000 * u64::from(n) + 1_700), Input::Command(Command::Block(peer)));
        let up = connect(peer, conn, Side::Dialed);
        assert!(closes(&ours.handle(at(2_000 * u64::from(n) + 1_800), up)));
    }
    assert_eq!(dialed, 28, "each of them was dialed");
    assert!(ours.peers().all(|peer| !peer.dialing));
}

#[test]
fn blocked_peers_do_not_take_the_turns_of_those_that_may_be_dialed() {
    // A node that starts picks a few of those that its sources named.
    let mut setup = setup(1);
    setup.blocked = (2..100).map(|n| key(n).key()).collect();
    let mut ours = Membership::new(setup, at(0));
    for n in 2..100 {
        assert!(dials(&ours.handle(at(1), found(n, SourceKind::Seed))).is_empty());
    }
    for n in 100..103 {
        assert_eq!(dials(&ours.handle(at(2), found(n, SourceKind::Seed))), [key(n).key()]);
    }
}

/// In a large mesh, with neighbours enough.
fn busy() -> Pair {
    let mut pair = Pair::new();
    in_a_large_mesh(&mut pair.node);
    for n in [3, 4, 5] {
        introduce(&mut pair.node, &mut node(n), u64::from(n), 100);
    }
    pair
}

/// That second, its neighbours and these connections show that they are alive.
fn second(pair: &mut Pair, s: u64, more: &[(NodeKey, u64)]) -> Vec<Output> {
    let mut outputs = pair.node.handle(at(s * 1_000), Input::Tick);
    let neighbours = [(2, 1), (3, 3), (4, 4), (5, 5)].map(|(n, conn)| (key(n).key(), conn));
    for &(peer, conn) in neighbours.iter().chain(more) {
        let frame = Input::Frame { peer, conn: ConnId(conn), bytes: Talk::Pong(1).encode() };
        outputs.extend(pair.node.handle(at(s * 1_000), frame));
    }
    outputs
}

#[test]
fn a_peer_in_use_is_dialed_in_a_large_mesh_and_its_connection_stays() {
    let mut pair = busy();
    let peer = key(9).key();
    let known = pair.node.handle(at(1_000), found(9, SourceKind::Gossip));
    assert!(dials(&known).is_empty(), "to know it is no reason to connect");
    assert_eq!(dials(&pair.node.handle(at(1_001), Input::InUse { peer, in_use: true })), [peer]);

    let mut theirs = node(9);
    for n in [20, 21, 22] {
        introduce(&mut theirs, &mut node(n), u64::from(n), 100);
    }
    pair.node.handle(at(1_002), connect(peer, 9, Side::Dialed));
    let hello = theirs.handle(at(1_002), connect(pair.node.key(), 9, Side::Accepted));
    for bytes in frames_to(pair.node.key(), hello) {
        pair.node.handle(at(1_003), Input::Frame { peer, conn: ConnId(9), bytes });
    }
    assert!(pair.node.is_connected(&peer) && !pair.node.neighbours().contains(&peer));
    (2..60).for_each(|s| drop(second(&mut pair, s, &[(peer, 9)])));
    assert!(pair.node.is_connected(&peer), "as long as it is in use");
    pair.node.handle(at(60_000), Input::InUse { peer, in_use: false });
    (60..69).for_each(|s| drop(second(&mut pair, s, &[(peer, 9)])));
    assert!(pair.node.is_connected(&peer), "the next task may be near");
    (69..75).for_each(|s| drop(second(&mut pair, s, &[(peer, 9)])));
    assert!(!pair.node.is_connected(&peer), "and then it is one too many");
    assert!(pair.node.is_connected(&pair.peer));
}

#[test]
fn a_peer_in_use_that_does_not_answer_is_tried_again_after_longer_and_longer_waits() {
    let mut pair = busy();
    let peer = key(9).key();
    pair.node.handle(at(1_000), found(9, SourceKind::Gossip));
    let mut outputs = pair.node.handle(at(1_001), Input::InUse { peer, in_use: true });
    let mut tried = Vec::new();
    // Before the first anti-entropy period, which tries somebody by itself.
    for s in 2..26 {
        if dials(&outputs).contains(&peer) {
            tried.push(s);
            let reason = "no answer".to_owned();
            pair.node.handle(at(s * 1_000), Input::DialFailed { peer, reason });
        }
        outputs = second(&mut pair, s, &[]);
    }
    let waits: Vec<_> = tried.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(waits.len() >= 3 && waits.is_sorted(), "tried at {tried:?}");
}

#[test]
fn a_trusted_node_keeps_its_row_in_a_full_table_until_it_is_not_trusted() {
    let mut ours = node(1);
    let of = |n: usize| {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let crypto = Ed25519::new(SigningKey::from_bytes(&seed));
        let mut says = announcement("somebody");
        // The first ones have been silent for longest.
        says.at_ms = NOW_MS + i64::try_from(n).expect("small");
        let about = About { goodbye: false, addresses: Addresses::default(), announcement: says };
        let body = Body::new(MeshId([7; 32]), crypto.key(), 9, 1, about);
        record::seal(&crypto, body).expect("small")
    };
    ours.handle(at(1), Input::Tick);
    // One row is our own.
    for n in 1..MOST_NODES {
        ours.handle(at(n as u64), Input::Tick);
        assert_eq!(ours.learn(&of(n).bytes), Ok(true), "{n}");
    }
    let trusted = of(1).author();
    let trust = |yes| Command::Trust { peer: trusted, trusted: yes };
    ours.handle(at(40_000), Input::Command(trust(true)));
    assert!(ours.peer(&trusted).is_some_and(|peer| peer.trusted));
    assert_eq!(ours.learn(&of(40_000).bytes), Ok(true));
    assert!(ours.record(&trusted).is_some() && ours.record(&of(2).author()).is_none());

    ours.handle(at(40_001), Input::Command(trust(false)));
    assert!(ours.peer(&trusted).is_some_and(|peer| !peer.trusted));
    assert_eq!(ours.learn(&of(40_001).bytes), Ok(true));
    assert!(ours.record(&trusted).is_none() && ours.record(&of(3).author()).is_some());
}
