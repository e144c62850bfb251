//! Broadcast frames that no honest node sends.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::mesh::{
    NodeKey,
    membership::{
        broadcast::RecordId,
        io::{ConnId, Input, Output},
        pair::{NOW_MS, Pair, at, key, sealed},
        wire::{self, Frame, MOST_IDS, Passed, Wave, wave_frame},
    },
    record::{Crypto as _, Record},
};

/// What a hostile neighbour puts where a record belongs.
#[derive(Clone, Debug)]
enum Piece {
    /// One that its author signed, by its place in [`signed`].
    Signed(Index),
    /// One of those with a byte changed.
    Forged(Index, Index, u8),
    Junk(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Id {
    /// Of a record in [`signed`].
    Real(Index),
    Made(u8),
}

/// The ids that it tells, those that it asks for, and its records with the byte before each.
type Parts = (Vec<Id>, Vec<Id>, Vec<(u8, bool, Piece)>);

fn parts() -> impl Strategy<Value = Parts> {
    let piece = prop_oneof![
        4 => any::<Index>().prop_map(Piece::Signed),
        1 => any::<(Index, Index, u8)>().prop_map(|(of, at, by)| Piece::Forged(of, at, by)),
        1 => vec(any::<u8>(), 0..40).prop_map(Piece::Junk),
    ];
    let ids = || {
        let id = prop_oneof![any::<Index>().prop_map(Id::Real), any::<u8>().prop_map(Id::Made)];
        vec(id, 0..20)
    };
    (ids(), ids(), vec((any::<u8>(), any::<bool>(), piece), 0..6))
}

fn signed() -> Vec<Arc<Record>> {
    (10..22).map(|n| sealed(n, NOW_MS + i64::from(n), u64::from(n))).collect()
}

fn encode((have, want, records): &Parts, pool: &[Arc<Record>]) -> Bytes {
    let ids = |ids: &[Id]| {
        let ids = ids.iter().map(|id| match id {
            Id::Real(of) => RecordId::of(&of.get(pool).hash),
            Id::Made(n) => RecordId([*n; 16]),
        });
        ids.collect::<Vec<_>>()
    };
    let bytes: Vec<_> = records
        .iter()
        .map(|(.., piece)| match piece {
            Piece::Signed(of) => of.get(pool).bytes.to_vec(),
            Piece::Forged(of, at, by) => {
                let mut bytes = of.get(pool).bytes.to_vec();
                let at = at.index(bytes.len());
                bytes[at] ^= (*by).max(1);
                bytes
            }
            Piece::Junk(junk) => junk.clone(),
        })
        .collect();
    let records = records.iter().zip(&bytes).map(|((hops, urgent, _), bytes)| Passed {
        hops: *hops,
        urgent: *urgent,
        bytes,
    });
    wave_frame(&Wave { have: ids(have), want: ids(want), records: records.collect() })
}

/// Counts what each peer gets of each record, and checks that each was signed by its author.
fn note(outputs: &[Output], got: &mut BTreeMap<(NodeKey, Vec<u8>), usize>) {
    for output in outputs {
        let Output::Send { peer, bytes, .. } = output else { continue };
        let frame = wire::decode(bytes).expect("what a node sends can be read");
        let Frame::Wave(wave) = frame else { continue };
        for passed in wave.records {
            assert!(key(1).open(passed.bytes).is_ok(), "passed on without a signature");
            *got.entry((*peer, passed.bytes.to_vec())).or_default() += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_a_neighbour_broadcasts_only_signed_records_are_believed_and_passed_on_once(
        waves in vec((parts(), 0_u64..3_000), 1..12),
    ) {
        let pool = signed();
        let (mut pair, listener) = Pair::with_listener();
        let mut got = BTreeMap::new();
        for (parts, pause) in &waves {
            note(&pair.frame(encode(parts, &pool)), &mut got);
            pair.ms += pause;
            note(&pair.tick(), &mut got);
            pair.node.broadcast.assert_bounded();
        }
        for peer in pair.node.peers() {
            let Some(record) = peer.record.filter(|_| ![pair.peer, listener].contains(&peer.key))
            else { continue };
            prop_assert!(pool.iter().any(|known| known.bytes == record.bytes));
        }
        for ((_, record), times) in got {
            prop_assert_eq!(times, 1, "a copy of {} bytes", record.len());
        }
    }

    #[test]
    fn a_damaged_wave_is_refused_or_says_exactly_what_its_bytes_say(
        parts in parts(),
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<Index>()),
        more in vec(any::<u8>(), 0..4),
    ) {
        let mut bytes = encode(&parts, &signed()).to_vec();
        for (at, byte) in changes {
            // The first byte is the kind of the frame.
            let at = 1 + at.index(bytes.len() - 1);
            bytes[at] = byte;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| 1 + cut.index(bytes.len())));
        bytes.extend(more);
        match wire::decode(&bytes) {
            Ok(Frame::Wave(wave)) => {
                prop_assert!(wave.have.len() <= MOST_IDS && wave.want.len() <= MOST_IDS);
                prop_assert_eq!(wave_frame(&wave), Bytes::from(bytes.clone()));
            }
            Ok(other) => prop_assert!(false, "read as {other:?}"),
            Err(_) => {}
        }
        Pair::new().frame(bytes);
    }
}

#[test]
fn promises_without_end_are_bounded_and_cost_the_connection() {
    let mut pair = Pair::new();
    let mut n = 0_u128;
    let mut tell = |pair: &mut Pair| {
        let have = (0..MOST_IDS).map(|_| {
            n += 1;
            RecordId(n.to_be_bytes())
        });
        let (have, want, records) = (have.collect(), Vec::new(), Vec::new());
        pair.frame(wave_frame(&Wave { have, want, records }));
        pair.node.broadcast.assert_bounded();
    };
    (0..100).for_each(|_| tell(&mut pair));
    assert!(pair.node.is_connected(&pair.peer), "it may have them");
    pair.ms += 21_000;
    tell(&mut pair);
    pair.tick();
    assert!(!pair.node.is_connected(&pair.peer), "it had none of them");
}

#[test]
fn who_asks_for_a_record_again_and_again_gets_it_once() {
    let (mut pair, listener) = Pair::with_listener();
    let record = sealed(5, NOW_MS + 1_000, 1);
    // Not urgent, so that it is told of and not pushed.
    let records = vec![Passed { hops: 0, urgent: false, bytes: &record.bytes }];
    let (have, want) = (Vec::new(), Vec::new());
    let mut got = BTreeMap::new();
    note(&pair.frame(wave_frame(&Wave { have, want, records })), &mut got);
    assert!(pair.knows(5) && got.is_empty());
    for _ in 0..10 {
        let (have, want, records) = (Vec::new(), vec![RecordId::of(&record.hash); 30], Vec::new());
        let bytes = wave_frame(&Wave { have, want, records });
        // Who sent it is not sent it back.
        note(&pair.frame(bytes.clone()), &mut got);
        let frame = Input::Frame { peer: listener, conn: ConnId(3), bytes };
        note(&pair.node.handle(at(pair.ms), frame), &mut got);
    }
    got.retain(|(_, bytes), _| *bytes == record.bytes);
    assert_eq!(got, BTreeMap::from([((listener, record.bytes.to_vec()), 1)]));
}
