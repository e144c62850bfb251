//! What of the queue is in memory: the head of each lane, and what is in flight. Pure.
//!
//! Tasks with the same need (kind, model, node, privacy) wait in one **lane**, so that many that no
//! node can do now do not stand in the way of others. A lane holds the first few of its ids and is
//! filled again from the database by an index; the rest of the queue is only there.

#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use agent_api::{NodeId, TaskId};
use tokio::time::Instant;

use super::flight::Flight;
use crate::{backoff::Backoff, storage::tasks::QueuedTask};

/// Tasks with nodes at the same time. Each has its input and answer in memory; nodes refuse what
/// is too much for them long before.
pub(super) const IN_FLIGHT: usize = 256;
/// Of one lane, while there are others: one full model does not hold up everything else.
const LANE_FLIGHT: usize = IN_FLIGHT / 4 * 3;
/// Ids of a lane in memory.
pub(super) const LANE: usize = 512;
/// Lanes in memory; those beyond come when others are empty.
pub(super) const LANES: usize = 1_024;
/// Tasks that wait after a failure; beyond it they do not wait.
const DELAYED: usize = 4_096;
/// A lane that no node could take waits so long, unless something moves.
const PARK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// When things move all the time (a large mesh) lanes are looked at so often.
const MOVES: Duration = Duration::from_millis(250);
/// A node that said no is left alone for so long, whatever it says itself; each no after that wait
/// doubles it. A worker must not have this node ask it all the time.
const BUSY: (Duration, Duration) = PARK;
/// How long a node's limit, learned from its refusal, is believed. Without it each free place there
/// would be fought for by all that wait, with a row for every refusal.
const FULL: Duration = Duration::from_secs(30);

type Place = (Reverse<u8>, TaskId);

/// A node that said no to a need.
#[derive(Debug)]
struct Busy {
    until: Instant,
    backoff: Backoff,
}

#[derive(Debug)]
struct Lane {
    head: BTreeSet<Place>,
    /// There is no more of it in the database.
    complete: bool,
    /// Something was left to the database since the last look there.
    skipped: bool,
    flying: usize,
    parked: Option<Instant>,
    backoff: Backoff,
}

impl Lane {
    fn new(complete: bool) -> Self {
        Self {
            head: BTreeSet::new(),
            complete,
            skipped: false,
            flying: 0,
            parked: None,
            backoff: Backoff::new(PARK.0, PARK.1),
        }
    }
}

/// What the dispatcher does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// `lane`: where it waited; none for one that was with a node when the process ended.
    Start { id: TaskId, lane: Option<i64> },
    /// Read more of this lane; so many ids would be enough.
    Fill { need: i64, limit: u32 },
    /// Nothing to do until then, unless something changes.
    Wait(Option<Instant>),
}

#[derive(Debug, Default)]
pub(super) struct Book {
    lanes: HashMap<i64, Lane>,
    /// Taken: by a flight, or for a moment by whoever ends it.
    claimed: HashMap<TaskId, Option<Flight>>,
    delayed: BTreeMap<(Instant, TaskId), (i64, u8)>,
    delayed_ids: HashSet<TaskId>,
    /// With a node when the process ended.
    pub(super) recover: VecDeque<TaskId>,
    /// Nodes that said no, per need.
    busy: HashMap<(NodeId, i64), Busy>,
    /// What a node had of this one's tasks when it said no to another, and until when that counts.
    full_at: HashMap<NodeId, (u32, Instant)>,
    moved: Option<Instant>,
    /// There were too many lanes; those left out are found in the database.
    lost_lanes: bool,
}

impl Book {
    /// A lane with rows in the database.
    pub(super) fn know(&mut self, need: i64) {
        self.lanes.entry(need).or_insert_with(|| Lane::new(false));
    }

    /// A task is new, or waits again.
    pub(super) fn enqueue(&mut self, need: i64, priority: u8, id: TaskId) {
        let full = self.lanes.len() >= LANES;
        let lane = match self.lanes.get_mut(&need) {
            Some(lane) => lane,
            None if full => {
                self.lost_lanes = true;
                return;
            }
            None => self.lanes.entry(need).or_insert_with(|| Lane::new(true)),
        };
        let place = (Reverse(priority), id);
        // What is behind ids that are only in the database waits there too.
        if !lane.complete && lane.head.last().is_none_or(|last| place > *last) {
            lane.skipped = true;
            return;
        }
        lane.head.insert(place);
        if lane.head.len() > LANE {
            lane.head.pop_last();
            lane.complete = false;
        }
    }

    /// There are more lanes in the database than were read.
    pub(super) fn lose_lanes(&mut self) {
        self.lost_lanes = true;
    }

    /// Lanes that had no room are to be looked for, and there is room now.
    pub(super) fn look_for_lanes(&mut self) -> bool {
        let look = self.lost_lanes && self.lanes.len() < LANES;
        self.lost_lanes &= !look;
        look
    }

    /// Rows of a lane, as the database has them in order. Fewer than `limit`: these are all.
    pub(super) fn fill(&mut self, need: i64, rows: Vec<QueuedTask>, limit: u32) {
        let all = rows.len() < limit as usize;
        let Self { lanes, claimed, delayed_ids, .. } = self;
        let Some(lane) = lanes.get_mut(&need) else { return };
        let mut left_over = false;
        for row in rows {
            let id = TaskId(row.id);
            if claimed.contains_key(&id) || delayed_ids.contains(&id) {
                continue;
            }
            if lane.head.len() >= LANE {
                left_over = true;
                break;
            }
            lane.head.insert((Reverse(row.priority), id));
        }
        lane.complete = all && !left_over && !lane.skipped;
    }

    /// What is to be done. A task that is given out is claimed.
    pub(super) fn next(&mut self, now: Instant, draining: bool) -> Next {
        self.wake_delayed(now);
        if draining || self.claimed.len() >= IN_FLIGHT {
            return Next::Wait(self.earliest(now));
        }
        if let Some(id) = self.recover.pop_front() {
            self.claimed.insert(id.clone(), None);
            return Next::Start { id, lane: None };
        }
        self.lanes.retain(|_, lane| {
            !(lane.complete && lane.head.is_empty() && lane.flying == 0 && lane.parked.is_none())
        });
        let several = self.lanes.len() > 1;
        let skipped = self.claimed.len() + self.delayed.len();
        let mut first: Option<(i64, &Place)> = None;
        for (need, lane) in &mut self.lanes {
            if lane.parked.is_some_and(|until| until > now)
                || (several && lane.flying >= LANE_FLIGHT)
            {
                continue;
            }
            lane.parked = None;
            if lane.head.is_empty() && !lane.complete {
                lane.skipped = false;
                let limit = u32::try_from(LANE + skipped).unwrap_or(u32::MAX);
                return Next::Fill { need: *need, limit };
            }
            let Some(place) = lane.head.first() else { continue };
            if first.is_none_or(|(_, best)| place < best) {
                first = Some((*need, place));
            }
        }
        let Some((need, place)) = first else { return Next::Wait(self.earliest(now)) };
        let id = place.1.clone();
        if let Some(lane) = self.lanes.get_mut(&need) {
            lane.head.pop_first();
            lane.flying += 1;
        }
        self.claimed.insert(id.clone(), None);
        Next::Start { id, lane: Some(need) }
    }

    /// When something is due by itself. What was due before `now` waits for something else: the end
    /// of a flight, or of the draining.
    fn earliest(&self, now: Instant) -> Option<Instant> {
        let delayed = self.delayed.keys().next().map(|(at, _)| *at);
        let parked = self.lanes.values().filter_map(|lane| lane.parked);
        parked.chain(delayed).filter(|at| *at > now).min()
    }

    fn wake_delayed(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let ((_, id), (need, priority)) = entry.remove_entry();
            self.delayed_ids.remove(&id);
            self.enqueue_first(need, priority, id);
        }
    }

    /// A task that no node took waits again, where it was.
    pub(super) fn back(&mut self, need: i64, priority: u8, id: TaskId) {
        self.enqueue_first(need, priority, id);
    }

    /// Also into an incomplete lane: it must not be forgotten there.
    fn enqueue_first(&mut self, need: i64, priority: u8, id: TaskId) {
        let lane = self.lanes.entry(need).or_insert_with(|| Lane::new(false));
        lane.head.insert((Reverse(priority), id));
    }

    /// A task that failed somewhere waits a while.
    pub(super) fn delay(&mut self, until: Instant, need: i64, priority: u8, id: TaskId) {
        if self.delayed.len() >= DELAYED {
            return self.enqueue_first(need, priority, id);
        }
        self.delayed_ids.insert(id.clone());
        self.delayed.insert((until, id), (need, priority));
    }

    /// No node can take tasks of this lane now.
    pub(super) fn park(&mut self, need: i64, now: Instant) {
        let busy = self.busy.iter().filter(|((_, of), busy)| *of == need && busy.until > now);
        let busy = busy.map(|(_, busy)| busy.until).min();
        let lane = self.lanes.entry(need).or_insert_with(|| Lane::new(false));
        let until = busy.unwrap_or_else(|| now + lane.backoff.next_wait());
        lane.parked = Some(until);
    }

    /// Something that placement depends on changed.
    pub(super) fn unpark(&mut self, now: Instant) {
        let soonest = self.moved.map_or(now, |last| last + MOVES).max(now);
        if soonest == now {
            self.moved = Some(now);
        }
        for lane in self.lanes.values_mut() {
            lane.parked = lane.parked.map(|until| until.min(soonest));
        }
    }

    /// A node took a task of this need, or is done with one.
    pub(super) fn took(&mut self, node: &NodeId, need: i64, now: Instant) {
        self.busy.remove(&(node.clone(), need));
        if let Some(lane) = self.lanes.get_mut(&need) {
            lane.backoff.reset();
            lane.parked = lane.parked.map(|until| until.min(now));
        }
    }

    /// `wait`: at least so long, as it says; `has`: the tasks that it has, this one included.
    pub(super) fn refused(
        &mut self,
        node: NodeId,
        need: i64,
        (wait, has): (Option<Duration>, u32),
        now: Instant,
    ) {
        // How long it waited is known for a while, so that the next no can double it.
        self.busy.retain(|_, busy| busy.until + BUSY.1 > now);
        self.full_at.retain(|_, (_, until)| *until > now);
        if has > 1 {
            self.full_at.insert(node.clone(), (has - 1, now + FULL));
        }
        let known = self.busy.entry((node, need));
        let busy =
            known.or_insert_with(|| Busy { until: now, backoff: Backoff::new(BUSY.0, BUSY.1) });
        // Others that were asked at the same moment say the same no.
        let again = if busy.until <= now { now + busy.backoff.next_wait() } else { busy.until };
        busy.until = again.max(now + wait.unwrap_or_default().min(BUSY.1));
    }

    /// It said no a moment ago, or has as many tasks as when it did.
    pub(super) fn is_busy(&self, node: &NodeId, need: i64, has: u32, now: Instant) -> bool {
        let full = self.full_at.get(node);
        if full.is_some_and(|(most, until)| has >= *most && *until > now) {
            return true;
        }
        self.busy.get(&(node.clone(), need)).is_some_and(|busy| busy.until > now)
    }

    pub(super) fn board(&mut self, id: &TaskId, flight: Flight) {
        self.claimed.insert(id.clone(), Some(flight));
    }

    /// The flight of a task, if it has one. `Some(None)`: somebody is about to end it.
    pub(super) fn flight(&self, id: &TaskId) -> Option<&Option<Flight>> {
        self.claimed.get(id)
    }

    /// Takes a waiting task away from the dispatcher. `false`: it is taken.
    pub(super) fn claim(&mut self, id: &TaskId) -> bool {
        if self.claimed.contains_key(id) {
            return false;
        }
        for lane in self.lanes.values_mut() {
            lane.head.retain(|(_, queued)| queued != id);
        }
        if self.delayed_ids.remove(id) {
            self.delayed.retain(|(_, delayed), _| delayed != id);
        }
        self.recover.retain(|waits| waits != id);
        self.claimed.insert(id.clone(), None);
        true
    }

    /// `need`: of the lane it was taken from.
    pub(super) fn release(&mut self, id: &TaskId, need: Option<i64>) {
        self.claimed.remove(id);
        if let Some(lane) = need.and_then(|need| self.lanes.get_mut(&need)) {
            lane.flying = lane.flying.saturating_sub(1);
        }
    }

    /// 1 is next in its lane; `None`: too far behind to say.
    pub(super) fn position(&self, need: i64, priority: u8, id: &TaskId) -> Option<u32> {
        let head = &self.lanes.get(&need)?.head;
        let place = (Reverse(priority), id.clone());
        let at = head.iter().position(|queued| *queued == place)?;
        u32::try_from(at + 1).ok()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.claimed.len()
    }
}
