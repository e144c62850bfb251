//! Peers that are broken or hostile: what they say of themselves and others.

mod strangers;
mod waves;

use proptest::prelude::*;

use super::{
    Refusal,
    broadcast::RecordId,
    io::{Command, ConnId, Input, MeshEvent, Output, Side},
    pair::{NOW_MS, Pair, at, closes, connect, frames_to, introduce, key, sealed, sealed_in, wave},
    wire::{self, Frame},
};
use crate::mesh::{
    MeshId,
    record::{self, Crypto as _, Record},
};

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
    let (mut pair, listener) = Pair::with_listener();
    let record = sealed(5, NOW_MS + 1_000, 1);
    let id = RecordId::of(&record.hash);
    // Whether the listener gets it or is told of it.
    let passed_on = |pair: &mut Pair| {
        let mut outputs = pair.gossip(&record.bytes);
        pair.ms += 100;
        outputs.extend(pair.tick());
        frames_to(listener, outputs).iter().any(|bytes| match wire::decode(bytes) {
            Ok(Frame::Wave(wave)) => {
                let whole = wave.records.iter().any(|passed| passed.bytes == record.bytes);
                whole || wave.have.contains(&id)
            }
            _ => false,
        })
    };
    assert!(passed_on(&mut pair), "news are");
    assert!(!passed_on(&mut pair));
    assert_eq!(pair.refused(Refusal::Replayed), 1, "at once");
    // Later the record itself is forgotten, and its nonce is not.
    pair.ms += 95_000;
    assert!(!passed_on(&mut pair));
    assert_eq!(pair.refused(Refusal::Replayed), 2);
    // The same nonce with newer words is a replay too.
    pair.gossip(&sealed(5, NOW_MS + 90_000, 1).bytes);
    assert_eq!(pair.refused(Refusal::Replayed), 3);
    // An older one than is known is not a replay, but useless.
    pair.gossip(&sealed(5, NOW_MS - 10_000, 2).bytes);
    assert_eq!(pair.refused(Refusal::Expired), 1);
}

#[test]
fn a_nonce_is_remembered_for_five_minutes() {
    for (seconds, refused) in [(299, 1), (301, 0)] {
        let mut pair = Pair::new();
        pair.gossip(&sealed(5, NOW_MS + 1_000, 1).bytes);
        assert!(pair.knows(5));
        pair.ms += seconds * 1_000;
        let newer = sealed(5, NOW_MS + i64::try_from(pair.ms).expect("small"), 1);
        pair.gossip(&newer.bytes);
        assert_eq!(pair.refused(Refusal::Replayed), refused, "after {seconds} s");
        let known = pair.node.record(&key(5).key()).is_some_and(|record| record.hash == newer.hash);
        assert_eq!(known, refused == 0, "after {seconds} s");
    }
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
fn ten_thousand_announcements_of_one_peer_cost_it_every_connection_and_fill_no_table() {
    let mut pair = Pair::new();
    let (mut conn, mut taken) = (1, 0);
    for nonce in 0..10_000 {
        pair.ms += 1;
        let at_ms = NOW_MS + i64::try_from(pair.ms).expect("small") + 100;
        let record = sealed(2, at_ms, nonce);
        let bytes = wave(&record.bytes);
        let frame = Input::Frame { peer: pair.peer, conn: ConnId(conn), bytes };
        let closed = closes(&pair.node.handle(at(pair.ms), frame));
        let known = pair.node.record(&pair.peer);
        taken += u64::from(known.is_some_and(|known| known.hash == record.hash));
        if closed {
            assert!(!pair.node.is_connected(&pair.peer));
            conn += 1;
            let again = connect(pair.peer, conn, Side::Accepted);
            let refused = closes(&pair.node.handle(at(pair.ms + 1), again));
            assert!(refused, "it is not let in again at once");
            // It waits as long as it has to, and goes on.
            pair.ms += 301_000;
            introduce(&mut pair.node, &mut super::pair::node(2), conn, pair.ms);
            pair.ms += 100;
        }
        assert!(pair.node.nonces.len() < 100, "{nonce}");
        assert!(pair.node.directory.len() <= 2 && pair.node.links.len() <= 1, "{nonce}");
    }
    assert!(conn > 100, "it is closed again and again, not {conn} times");
    assert!(pair.refused(Refusal::RateLimited) > 5_000);
    assert!(taken < 4_000, "{taken} of them were believed");
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
