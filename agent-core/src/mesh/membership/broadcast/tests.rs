//! What a record does on its way through one node: told, asked for, promised, passed on.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::mesh::membership::wire::{self, Frame};

const ID: RecordId = RecordId([7; 16]);

fn peer(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn with_neighbours(count: u8) -> Broadcast {
    let mut broadcast = Broadcast::new(at(0));
    (1..=count).for_each(|n| broadcast.neighbour_up(peer(n)));
    broadcast
}

/// Who is asked for the record at that time.
fn asked(broadcast: &mut Broadcast, now: Duration) -> Vec<NodeKey> {
    broadcast.ask_others(now);
    let frames = broadcast.frames(now);
    let asked = frames.into_iter().filter(
        |(_, frame)| matches!(wire::decode(frame), Ok(Frame::Wave(wave)) if wave.want == [ID]),
    );
    asked.map(|(peer, _)| peer).collect()
}

#[test]
fn a_holder_that_does_not_answer_is_followed_by_the_next_one() {
    let mut broadcast = with_neighbours(3);
    broadcast.on_have(peer(1), &[ID], at(0));
    assert_eq!(asked(&mut broadcast, at(0)), [peer(1)]);
    broadcast.on_have(peer(2), &[ID], at(10));
    broadcast.on_have(peer(3), &[ID], at(20));
    assert!(asked(&mut broadcast, at(299)).is_empty(), "the first one has its time");
    assert_eq!(broadcast.deadline(), Some(at(300)));
    assert_eq!(asked(&mut broadcast, at(300)), [peer(2)]);
    assert_eq!(asked(&mut broadcast, at(600)), [peer(3)]);
    assert!(asked(&mut broadcast, at(900)).is_empty());
    assert_eq!(broadcast.deadline(), None, "nobody is left to ask");
}

#[test]
fn who_tells_after_the_first_holder_had_its_time_is_asked_at_once() {
    let mut broadcast = with_neighbours(2);
    broadcast.on_have(peer(1), &[ID], at(0));
    assert_eq!(asked(&mut broadcast, at(0)), [peer(1)]);
    assert!(asked(&mut broadcast, at(300)).is_empty());
    broadcast.on_have(peer(1), &[ID], at(400));
    assert!(asked(&mut broadcast, at(400)).is_empty(), "it was asked before");
    broadcast.on_have(peer(2), &[ID], at(500));
    assert_eq!(asked(&mut broadcast, at(500)), [peer(2)]);
}

#[test]
fn when_the_asked_neighbour_leaves_another_holder_is_asked_at_once() {
    let mut broadcast = with_neighbours(3);
    broadcast.on_have(peer(1), &[ID], at(0));
    broadcast.on_have(peer(2), &[ID], at(10));
    assert_eq!(asked(&mut broadcast, at(10)), [peer(1)]);
    broadcast.neighbour_down(&peer(1), at(20));
    assert_eq!(asked(&mut broadcast, at(20)), [peer(2)]);
    // The last holder leaves: who tells next is the first again.
    broadcast.neighbour_down(&peer(2), at(30));
    broadcast.on_have(peer(3), &[ID], at(40));
    assert_eq!(asked(&mut broadcast, at(40)), [peer(3)]);
}

#[test]
fn who_is_asked_late_has_as_much_time_as_who_was_asked_first() {
    let mut broadcast = with_neighbours(3);
    broadcast.on_have(peer(1), &[ID], at(0));
    broadcast.on_have(peer(2), &[ID], at(19_900));
    assert!(broadcast.broken_promises(at(19_999)).is_empty());
    assert_eq!(broadcast.broken_promises(at(20_000)), [peer(1)], "it did not have the record");
    // One that left is not blamed, nor is anybody when the record came.
    broadcast.on_have(peer(3), &[ID], at(39_000));
    broadcast.neighbour_down(&peer(3), at(39_500));
    assert!(broadcast.broken_promises(at(39_899)).is_empty());
    assert_eq!(broadcast.broken_promises(at(60_000)), [peer(2)]);
    broadcast.on_have(peer(1), &[ID], at(60_000));
    let record = Spread { id: ID, bytes: Bytes::from_static(b"record"), hops: 1, urgent: true };
    broadcast.spread(record, Some(peer(2)), 100, at(61_000));
    assert!(broadcast.broken_promises(at(90_000)).is_empty());
}

#[test]
fn a_record_that_came_is_not_asked_for_again() {
    let mut broadcast = with_neighbours(2);
    broadcast.on_have(peer(1), &[ID], at(0));
    broadcast.on_have(peer(2), &[ID], at(0));
    assert_eq!(asked(&mut broadcast, at(0)), [peer(1)]);
    let record = Spread { id: ID, bytes: Bytes::from_static(b"record"), hops: 1, urgent: true };
    broadcast.spread(record, Some(peer(1)), 100, at(50));
    assert!(asked(&mut broadcast, at(300)).is_empty());
    assert!(broadcast.frames(at(400)).is_empty(), "both have it");
}

/// What happens at one node; peers and records by number.
#[derive(Clone, Debug)]
enum Step {
    Up(u8),
    Down(u8),
    Tells(u8, Vec<u8>),
    Asks(u8, Vec<u8>),
    Sends(u8, u8, bool),
    IsRefused(u8),
    Time(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (peer, id) = (|| 1_u8..=5, || 0_u8..8);
    let step = prop_oneof![
        1 => peer().prop_map(Step::Up),
        1 => peer().prop_map(Step::Down),
        4 => (peer(), vec(id(), 1..6)).prop_map(|(peer, ids)| Step::Tells(peer, ids)),
        2 => (peer(), vec(id(), 1..6)).prop_map(|(peer, ids)| Step::Asks(peer, ids)),
        2 => (peer(), id(), any::<bool>()).prop_map(|(peer, id, urgent)| Step::Sends(peer, id, urgent)),
        1 => id().prop_map(Step::IsRefused),
        3 => (0_u64..700).prop_map(Step::Time),
    ];
    vec(step, 1..60)
}

/// A node and what can be seen of it from outside.
struct Watched {
    broadcast: Broadcast,
    now: Duration,
    up: BTreeSet<NodeKey>,
    /// Since it is a neighbour: how often it told of a record and was asked for it.
    told: BTreeMap<(NodeKey, RecordId), usize>,
    asked: BTreeMap<(NodeKey, RecordId), usize>,
    /// Who has which record, since it is a neighbour.
    has: BTreeSet<(NodeKey, RecordId)>,
}

impl Watched {
    fn step(&mut self, step: &Step) {
        let id = |n: &u8| RecordId([*n; 16]);
        let ids = |ns: &[u8]| ns.iter().map(id).collect::<Vec<_>>();
        match step {
            Step::Up(n) => {
                self.broadcast.neighbour_up(peer(*n));
                self.up.insert(peer(*n));
            }
            Step::Down(n) => {
                self.broadcast.neighbour_down(&peer(*n), self.now);
                self.up.remove(&peer(*n));
                self.told.retain(|(key, _), _| *key != peer(*n));
                self.asked.retain(|(key, _), _| *key != peer(*n));
                self.has.retain(|(key, _)| *key != peer(*n));
            }
            // The rest is said by neighbours only.
            Step::Tells(n, _) | Step::Asks(n, _) | Step::Sends(n, ..)
                if !self.up.contains(&peer(*n)) => {}
            Step::Tells(n, ns) => {
                self.broadcast.on_have(peer(*n), &ids(ns), self.now);
                for id in ids(ns) {
                    *self.told.entry((peer(*n), id)).or_default() += 1;
                }
            }
            Step::Asks(n, ns) => self.broadcast.on_want(peer(*n), &ids(ns)),
            Step::Sends(n, record, urgent) => {
                self.has.insert((peer(*n), id(record)));
                if self.broadcast.copy(&id(record), &peer(*n), self.now).is_none()
                    && !self.broadcast.was_refused(&id(record))
                {
                    let bytes = Bytes::copy_from_slice(&[*record]);
                    let spread = Spread { id: id(record), bytes, hops: 9, urgent: *urgent };
                    self.broadcast.spread(spread, Some(peer(*n)), 100, self.now);
                }
            }
            Step::IsRefused(record) => {
                if !self.broadcast.held.contains_key(&id(record)) {
                    self.broadcast.refuse(id(record), self.now);
                }
            }
            Step::Time(ms) => self.now += at(*ms),
        }
        self.look();
    }

    /// Takes what is sent, as membership does after every input.
    fn look(&mut self) {
        self.broadcast.ask_others(self.now);
        for (key, frame) in self.broadcast.frames(self.now) {
            let Ok(Frame::Wave(wave)) = wire::decode(&frame) else { panic!("no wave") };
            assert!(self.up.contains(&key), "a frame for {key:?}, which is no neighbour");
            for id in wave.want {
                let asked = self.asked.entry((key, id)).or_default();
                *asked += 1;
                let told = self.told.get(&(key, id)).copied().unwrap_or_default();
                assert!(*asked <= told, "{key:?} told {told} times and was asked {asked} times");
            }
            for passed in wave.records {
                let id = RecordId([passed.bytes[0]; 16]);
                assert!(self.has.insert((key, id)), "sent to {key:?}, which has it");
            }
        }
        self.broadcast.assert_bounded();
    }
}

proptest! {
    #[test]
    fn every_neighbour_that_told_of_a_missing_record_is_asked_for_it(steps in steps()) {
        let mut node = Watched {
            broadcast: with_neighbours(3),
            now: at(0),
            up: (1..=3).map(peer).collect(),
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            has: BTreeSet::new(),
        };
        for step in &steps {
            node.step(step);
        }
        for _ in 0..6 {
            node.step(&Step::Time(300));
        }
        for (key, id) in node.told.keys() {
            let here = node.broadcast.held.contains_key(id) || node.broadcast.was_refused(id);
            prop_assert!(here || node.asked.contains_key(&(*key, *id)), "{key:?} was not asked");
        }
    }
}
