//! How a record gets from its author to everybody, over the neighbours of [`super::overlay`].
//!
//! iroh-gossip's own broadcast (Plumtree) pushes records along a tree and tells ids along the
//! other links. With every node an author and several records under way at once that tree never
//! settles: at 100 nodes each record came 1.9 times and took up to 580 ms in the simulator, and
//! it forwards before anybody checked a signature. So there is no tree here, and two speeds:
//!
//! * An **urgent** record (a node is new or leaves, what it serves or where it is changed) is
//!   pushed to every neighbour as long as hardly anybody has it, which the number of its hops and
//!   the size of the mesh tell ([`pushed_hops`]). After that a node pushes it to one neighbour
//!   every third time, and tells the others its id; who lacks the record asks the first one that
//!   told. A node takes part in [`URGENT`] of these; the rest of a flood is calm. Never pushing
//!   there has a redundancy of 0.16 and takes up to 355 ms at 100 nodes; always pushing to one,
//!   0.7 and 300 ms.
//! * A **calm** record (the regular word that nothing changed) is told by id, many at a time,
//!   every [`CALM`]. So the number of frames does not grow with the mesh.
//!
//! The author says which one it is. What is for one neighbour at one moment goes in one frame. Measured in `sim/scale.rs`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::{
    limits::{Rate, Recent, TokenBucket},
    wire::{MOST_IDS, Passed, WAVE_BYTES, Wave, wave_frame},
};
use crate::mesh::NodeKey;

/// How long a record can be asked for, and its copies are no replays.
const HELD_FOR: Duration = Duration::from_secs(90);
/// 20 a second for that time, and as many again.
const MOST_HELD: usize = 4_096;
/// Ids that peers promised and that are waited for.
const MOST_AWAITED: usize = 4_096;
/// Neighbours that have an awaited record; there are five of them.
const MOST_HOLDERS: usize = 4;
/// A promise that is not kept within that time is broken.
const AWAIT: Duration = Duration::from_secs(20);
/// Neighbours that are served; the active view has five.
const SLOTS: usize = 8;
/// Ids that wait to be told to one neighbour. What is left out comes by anti-entropy.
const MOST_UNTOLD: usize = 2 * MOST_IDS;

/// How long ids of urgent records gather before they are told.
const GATHER: Duration = Duration::from_millis(3);
/// How long ids of calm records gather: with five neighbours a node tells, asks and answers at
/// most that often, whatever the size of the mesh.
const CALM: Duration = Duration::from_secs(2);
/// Urgent records that a node takes part in: a burst is a small mesh that starts at once. While a
/// thousand nodes join within seconds most of their records are above it, and so may be a record
/// that somebody waits for. Three seconds after the last of them joined nothing is (BENCHMARKS.md).
const URGENT: Rate = Rate { burst: 60.0, per_s: 10.0 };
/// How long an asked neighbour may take before the next is asked: a round trip over a far relay.
const ASK_NEXT: Duration = Duration::from_millis(300);

/// The first half of a record's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RecordId(pub(super) [u8; 16]);

impl RecordId {
    pub(super) fn of(hash: &[u8; 32]) -> Self {
        let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *hash;
        Self(first)
    }
}

/// Counted for tests and the simulator.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Records that came for the first time, and all copies of them.
    pub(super) first: u64,
    pub(super) copies: u64,
    /// Those of them that were urgent.
    pub(super) urgent_first: u64,
    pub(super) urgent_copies: u64,
}

/// A record on its way.
#[derive(Debug)]
pub(super) struct Spread {
    pub(super) id: RecordId,
    pub(super) bytes: Bytes,
    /// Nodes that passed it on before this one.
    pub(super) hops: u8,
    pub(super) urgent: bool,
}

#[derive(Debug)]
struct Held {
    bytes: Bytes,
    hops: u8,
    urgent: bool,
    /// Neighbours that know of it, by slot: their word, or ours.
    told: u8,
    /// Neighbours that have it: it came from them or was sent to them.
    sent: u8,
    /// Neighbours that it came from.
    came: u8,
}

/// A record that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    FromAnother,
    /// From the same neighbour.
    Replayed,
}

/// A record that a neighbour told of.
#[derive(Debug)]
struct Awaited {
    /// Who was asked, the last one last, and when the promise of each counts as broken.
    asked: Vec<(NodeKey, Duration)>,
    /// When another one may be asked.
    next: Duration,
    /// Who else has it.
    others: Vec<NodeKey>,
}

/// One neighbour, and what is to be sent to it.
#[derive(Debug)]
struct Slot {
    peer: NodeKey,
    have: Vec<RecordId>,
    want: Vec<RecordId>,
    records: Vec<(u8, bool, Bytes)>,
}

#[derive(Debug)]
pub(super) struct Broadcast {
    slots: [Option<Slot>; SLOTS],
    /// Records that were checked and are passed on.
    held: HashMap<RecordId, Held>,
    held_order: VecDeque<(Duration, RecordId)>,
    /// Ids of records that were refused: their other copies need no second look.
    refused: Recent<RecordId>,
    awaited: BTreeMap<RecordId, Awaited>,
    /// When the next holder of an awaited record is asked: [`Awaited::next`], in order, because all
    /// wait as long. What came in the meantime is skipped.
    asks: VecDeque<(Duration, RecordId)>,
    /// When the gathered ids are told.
    tell_at: Option<Duration>,
    /// Something is to be sent now.
    hasty: bool,
    urgent: TokenBucket,
    pub(super) traffic: Traffic,
}

impl Broadcast {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            slots: std::array::from_fn(|_| None),
            held: HashMap::new(),
            held_order: VecDeque::new(),
            refused: Recent::new(HELD_FOR, MOST_HELD),
            awaited: BTreeMap::new(),
            asks: VecDeque::new(),
            tell_at: None,
            hasty: false,
            urgent: TokenBucket::full(URGENT, now),
            traffic: Traffic::default(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        let ask = self.asks.front().map(|(at, _)| *at);
        self.tell_at.into_iter().chain(ask).min()
    }

    pub(super) fn neighbour_up(&mut self, peer: NodeKey) {
        if self.slot_of(&peer).is_some() {
            return;
        }
        let free = self.slots.iter().position(Option::is_none);
        if let Some(free) = free {
            let slot = Slot { peer, have: Vec::new(), want: Vec::new(), records: Vec::new() };
            self.slots[free] = Some(slot);
            for held in self.held.values_mut() {
                held.told &= !(1 << free);
                held.sent &= !(1 << free);
                held.came &= !(1 << free);
            }
        }
    }

    /// It is asked for nothing any more; who else has what it promised is asked at once.
    pub(super) fn neighbour_down(&mut self, peer: &NodeKey, now: Duration) {
        if let Some(at) = self.slot_of(peer) {
            self.slots[at] = None;
        }
        let asks = &mut self.asks;
        self.awaited.retain(|id, awaited| {
            awaited.others.retain(|holder| holder != peer);
            let was_last = awaited.asked.last().is_some_and(|(last, _)| last == peer);
            awaited.asked.retain(|(asked, _)| asked != peer);
            if was_last {
                awaited.next = now;
                if !awaited.others.is_empty() {
                    asks.push_front((now, *id));
                }
            }
            !awaited.asked.is_empty() || !awaited.others.is_empty()
        });
        self.ask_others(now);
    }

    /// A copy of a record that was checked before. `None`: it needs the check.
    pub(super) fn copy(&mut self, id: &RecordId, peer: &NodeKey, now: Duration) -> Option<Copy> {
        self.expire(now);
        let bit = self.bit(peer);
        let held = self.held.get_mut(id)?;
        let replayed = held.came & bit != 0;
        held.told |= bit;
        held.sent |= bit;
        held.came |= bit;
        self.traffic.copies += 1;
        self.traffic.urgent_copies += u64::from(held.urgent);
        Some(if replayed { Copy::Replayed } else { Copy::FromAnother })
    }

    pub(super) fn was_refused(&self, id: &RecordId) -> bool {
        self.refused.contains(id)
    }

    pub(super) fn refuse(&mut self, id: RecordId, now: Duration) {
        self.awaited.remove(&id);
        self.refused.insert(id, now);
    }

    /// A record that was found good goes to the neighbours. `nodes`: size of the mesh.
    pub(super) fn spread(
        &mut self,
        record: Spread,
        from: Option<NodeKey>,
        nodes: usize,
        now: Duration,
    ) {
        let Spread { id, bytes, hops, urgent } = record;
        self.expire(now);
        let came = from.map_or(0, |peer| self.bit(&peer));
        let mut told = came;
        if let Some(awaited) = self.awaited.remove(&id) {
            let asked = awaited.asked.iter().map(|(peer, _)| peer);
            let holders = awaited.others.iter().chain(asked);
            told |= holders.fold(0, |bits, peer| bits | self.bit(peer));
        }
        let urgent = urgent && self.urgent.take(URGENT, 1.0, now);
        if from.is_some() {
            self.traffic.first += 1;
            self.traffic.copies += 1;
            self.traffic.urgent_first += u64::from(urgent);
            self.traffic.urgent_copies += u64::from(urgent);
        }
        let mut held = Held { bytes, hops, urgent, told, sent: came, came };
        let mut pushes = match (urgent, hops < pushed_hops(nodes)) {
            (false, _) => 0,
            (true, true) => SLOTS,
            // Every third time, which no two nodes do alike.
            (true, false) => {
                usize::from((usize::from(id.0[0]) + self.held_order.len()).is_multiple_of(3))
            }
        };
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            if held.told & (1 << at) != 0 {
                continue;
            }
            if pushes > 0 {
                pushes -= 1;
                slot.records.push((hops, urgent, held.bytes.clone()));
                held.told |= 1 << at;
                held.sent |= 1 << at;
                self.hasty = true;
            } else if slot.have.len() < MOST_UNTOLD {
                slot.have.push(id);
                let at = now + if urgent { GATHER } else { CALM };
                self.tell_at = Some(self.tell_at.map_or(at, |before| before.min(at)));
            }
        }
        if self.held.insert(id, held).is_none() {
            self.held_order.push_back((now + HELD_FOR, id));
        }
    }

    /// A neighbour has these records. The first one that tells of a record is asked at once.
    pub(super) fn on_have(&mut self, peer: NodeKey, ids: &[RecordId], now: Duration) {
        let Some(at) = self.slot_of(&peer) else { return };
        for id in ids {
            if let Some(held) = self.held.get_mut(id) {
                held.told |= 1 << at;
            } else if let Some(awaited) = self.awaited.get_mut(id) {
                let was_asked = awaited.asked.iter().any(|(asked, _)| *asked == peer);
                if was_asked || awaited.others.contains(&peer) {
                    continue;
                }
                if awaited.next <= now {
                    // The one that was asked had its time, and until now nobody else had it.
                    self.ask(at, *id, now);
                } else if awaited.others.len() < MOST_HOLDERS {
                    awaited.others.push(peer);
                }
            } else if !self.refused.contains(id) && self.awaited.len() < MOST_AWAITED {
                let (asked, others) = (Vec::new(), Vec::new());
                self.awaited.insert(*id, Awaited { asked, next: now, others });
                self.ask(at, *id, now);
            }
        }
    }

    /// A neighbour asks for these records. Each is sent to it once.
    pub(super) fn on_want(&mut self, peer: NodeKey, ids: &[RecordId]) {
        let Some(at) = self.slot_of(&peer) else { return };
        let Some(slot) = &mut self.slots[at] else { return };
        for id in ids {
            if let Some(held) = self.held.get_mut(id)
                && held.sent & (1 << at) == 0
            {
                held.sent |= 1 << at;
                held.told |= 1 << at;
                slot.records.push((held.hops, held.urgent, held.bytes.clone()));
                self.hasty = true;
            }
        }
    }

    /// Who promised records and did not have them. Each one that was asked has its own time, however
    /// late it was asked; if the record comes from another one meanwhile, nobody is to blame.
    pub(super) fn broken_promises(&mut self, now: Duration) -> Vec<NodeKey> {
        let mut who = Vec::new();
        self.awaited.retain(|_, awaited| {
            awaited.asked.retain(|(peer, until)| {
                let waits = *until > now;
                if !waits {
                    who.push(*peer);
                }
                waits
            });
            !awaited.asked.is_empty()
        });
        who
    }

    /// Asks the next holder of what did not come.
    pub(super) fn ask_others(&mut self, now: Duration) {
        while let Some((at, id)) = self.asks.front().copied() {
            let waits = self.awaited.get_mut(&id).filter(|awaited| awaited.next == at);
            let Some(awaited) = waits else {
                // It came, or was asked for again.
                self.asks.pop_front();
                continue;
            };
            if at > now {
                break;
            }
            self.asks.pop_front();
            // With no other holder, the next one that tells of it is asked.
            if awaited.others.is_empty() {
                continue;
            }
            let peer = awaited.others.remove(0);
            if let Some(slot) = self.slot_of(&peer) {
                self.ask(slot, id, now);
            }
        }
    }

    /// What is to be sent now.
    pub(super) fn frames(&mut self, now: Duration) -> Vec<(NodeKey, Bytes)> {
        let tells = self.tell_at.is_some_and(|at| at <= now);
        if !tells && !self.hasty {
            return Vec::new();
        }
        self.hasty = false;
        if tells {
            self.tell_at = None;
        }
        let mut frames = Vec::new();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            if !tells && slot.records.is_empty() && slot.want.is_empty() {
                continue;
            }
            let held = &mut self.held;
            let gathers = if tells { Vec::new() } else { std::mem::take(&mut slot.have) };
            slot.have.retain(|id| {
                let held = held.get_mut(id).filter(|held| held.told & (1 << at) == 0);
                held.map(|held| held.told |= 1 << at).is_some()
            });
            slot.encode(&mut frames);
            slot.have = gathers;
        }
        frames
    }

    /// Asks this neighbour for an awaited record; the next one is asked if it does not come.
    fn ask(&mut self, at: usize, id: RecordId, now: Duration) {
        let (Some(slot), Some(awaited)) = (&mut self.slots[at], self.awaited.get_mut(&id)) else {
            return;
        };
        awaited.asked.push((slot.peer, now + AWAIT));
        awaited.next = now + ASK_NEXT;
        self.asks.push_back((awaited.next, id));
        slot.want.push(id);
        self.hasty = true;
    }

    fn expire(&mut self, now: Duration) {
        while let Some((until, id)) = self.held_order.front().copied()
            && (until <= now || self.held_order.len() > MOST_HELD)
        {
            self.held_order.pop_front();
            self.held.remove(&id);
        }
    }

    #[cfg(test)]
    pub(super) fn assert_bounded(&self) {
        assert!(self.held.len() <= MOST_HELD && self.held_order.len() <= MOST_HELD + 1);
        assert!(self.refused.len() <= MOST_HELD && self.awaited.len() <= MOST_AWAITED);
        assert!(self.awaited.values().all(|awaited| awaited.others.len() <= MOST_HOLDERS));
        assert!(self.awaited.values().all(|awaited| awaited.asked.len() <= SLOTS));
        for slot in self.slots.iter().flatten() {
            assert!(slot.have.len() <= MOST_UNTOLD && slot.want.len() <= MOST_AWAITED);
        }
    }

    fn slot_of(&self, peer: &NodeKey) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|slot| slot.peer == *peer))
    }

    fn bit(&self, peer: &NodeKey) -> u8 {
        self.slot_of(peer).map_or(0, |at| 1 << at)
    }
}

impl Slot {
    /// Empties it into frames.
    fn encode(&mut self, frames: &mut Vec<(NodeKey, Bytes)>) {
        let (have, want) = (std::mem::take(&mut self.have), std::mem::take(&mut self.want));
        let records = std::mem::take(&mut self.records);
        let (mut have, mut want, mut records) =
            (have.chunks(MOST_IDS), want.chunks(MOST_IDS), &records[..]);
        loop {
            let mut bytes = 0;
            let fits = records.iter().take_while(|(.., record)| {
                bytes += record.len() + 3;
                bytes <= WAVE_BYTES
            });
            let (now, later) = records.split_at(fits.count());
            records = later;
            let passed = now.iter().map(|(hops, urgent, bytes)| Passed {
                hops: *hops,
                urgent: *urgent,
                bytes,
            });
            let wave = Wave {
                have: have.next().unwrap_or_default().to_vec(),
                want: want.next().unwrap_or_default().to_vec(),
                records: passed.collect(),
            };
            if wave.have.is_empty() && wave.want.is_empty() && wave.records.is_empty() {
                return;
            }
            frames.push((self.peer, wave_frame(&wave)));
        }
    }
}

/// Hops over which records are pushed: as long as the last hop makes fewer copies than there are
/// nodes.
fn pushed_hops(nodes: usize) -> u8 {
    let mut hops = 1;
    let mut copies = 5;
    while copies * 4 <= nodes {
        copies *= 4;
        hops += 1;
    }
    hops
}

#[cfg(test)]
mod tests;
