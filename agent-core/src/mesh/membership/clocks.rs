//! Whose clock is wrong: this node's, or that of the nodes whose records it does not believe. Told
//! by their hellos, and by records that come by broadcast and so were just signed.

use std::{collections::BTreeMap, time::Duration};

use super::{Membership, gossip::skew_ms, io::MeshEvent, limits::Recent};
use crate::mesh::{NodeKey, record::Record};

/// Authors in each of the two tables: enough to tell a majority.
const MOST: usize = 64;
/// How long an author counts after its last record: more than twice the longest time between two.
const KEPT: Duration = Duration::from_secs(300);
const MINUTE_MS: i64 = 60_000;

/// What others' clocks say.
#[derive(Debug)]
pub(super) struct Clocks {
    /// How far their clock is ahead of this node's, milliseconds, and when that was seen last.
    off: BTreeMap<NodeKey, (i64, Duration)>,
    right: Recent<NodeKey>,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { off: BTreeMap::new(), right: Recent::new(KEPT, MOST) }
    }
}

impl Clocks {
    /// True: it is news that this author's clock differs.
    fn differs(&mut self, author: NodeKey, ahead_ms: i64, now: Duration) -> bool {
        if self.off.len() >= MOST && !self.off.contains_key(&author) {
            let oldest = self.off.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.off.remove(&oldest);
            }
        }
        self.off.insert(author, (ahead_ms, now)).is_none()
    }

    /// True: it is news that this author's clock is right.
    fn agrees(&mut self, author: NodeKey, now: Duration) -> bool {
        self.right.insert(author, now);
        self.off.remove(&author).is_some()
    }

    /// `is_up`: a peer that is connected; what it said at the handshake holds until a record of it
    /// is believed.
    fn expire(&mut self, now: Duration, is_up: impl Fn(&NodeKey) -> bool) {
        self.right.expire(now);
        self.off.retain(|key, (_, at)| now.saturating_sub(*at) < KEPT || is_up(key));
    }

    /// By how much this node's clock is probably ahead: more authors are off in one way than there
    /// are others. Of two nodes that are alone it may be either.
    fn own_ahead_ms(&self) -> Option<i64> {
        let mut ahead: Vec<i64> = self.off.values().map(|(ahead_ms, _)| *ahead_ms).collect();
        ahead.sort_unstable();
        let behind = ahead.partition_point(|ms| *ms < 0);
        let (low, high) = ahead.split_at(behind);
        let same_way = if low.len() > high.len() { low } else { high };
        let agree = self.right.iter().filter(|key| !self.off.contains_key(key)).count();
        let others = agree + ahead.len() - same_way.len();
        (same_way.len() > others).then(|| -same_way[same_way.len() / 2])
    }
}

fn minutes(ms: i64) -> i64 {
    (ms.abs() + MINUTE_MS / 2) / MINUTE_MS
}

impl Membership {
    /// This record was refused because of its time.
    pub(super) fn note_wrong_clock(&mut self, record: &Record) {
        let author = record.author();
        let known = self.directory.get(&author).is_some_and(|e| e.record.at_ms() >= record.at_ms());
        // An old record that somebody sends again says nothing of its author's clock.
        if author == self.me || known {
            return;
        }
        self.note_clock(author, record.at_ms());
    }

    /// A node said just now that it is this time.
    pub(super) fn note_clock(&mut self, author: NodeKey, at_ms: i64) {
        let ahead_ms = at_ms.saturating_sub(self.now.unix_ms);
        if ahead_ms.saturating_abs() <= skew_ms() {
            self.note_right_clock(author);
        } else if self.clocks.differs(author, ahead_ms, self.now.mono) {
            self.event(MeshEvent::PeerChanged { peer: author });
        }
    }

    pub(super) fn note_right_clock(&mut self, author: NodeKey) {
        if self.clocks.agrees(author, self.now.mono) {
            self.event(MeshEvent::PeerChanged { peer: author });
        }
    }

    pub(super) fn tidy_clocks(&mut self) {
        self.clocks.expire(self.now.mono, |key| self.links.is_up(key));
    }

    /// How far this node's own clock is probably ahead of the others' (negative: behind), in
    /// milliseconds of whole minutes. `None`: it is right, or nothing is known.
    pub fn clock_off_ms(&self) -> Option<i64> {
        let ahead_ms = self.clocks.own_ahead_ms()?;
        Some(ahead_ms.signum() * minutes(ahead_ms) * MINUTE_MS)
    }

    /// What is wrong with a peer's clock, for its owner and ours.
    pub(super) fn clock_problem(&self, peer: &NodeKey) -> Option<String> {
        let (ahead_ms, _) = self.clocks.off.get(peer)?;
        // Then it is this clock, unless there are only the two.
        if self.clocks.own_ahead_ms().is_some() && self.clocks.off.len() > 1 {
            return None;
        }
        let way = if *ahead_ms > 0 { "ahead of" } else { "behind" };
        Some(format!(
            "Its clock is off: {} minutes {way} this computer's, so what it says of itself is not believed. Let it set its clock automatically.",
            minutes(*ahead_ms)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn key(n: usize) -> NodeKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeKey(bytes)
    }

    #[test]
    fn the_own_clock_is_blamed_only_by_most_of_those_that_were_heard() {
        let mut clocks = Clocks::default();
        assert!(clocks.differs(key(1), 300_000, NOW) && !clocks.differs(key(1), 301_000, NOW));
        assert_eq!(clocks.own_ahead_ms(), Some(-301_000), "the only one that is known");
        clocks.agrees(key(2), NOW);
        assert_eq!(clocks.own_ahead_ms(), None, "one of each");
        clocks.differs(key(3), 299_000, NOW);
        assert_eq!(clocks.own_ahead_ms(), Some(-301_000), "two against one");
        clocks.differs(key(4), -500_000, NOW);
        assert_eq!(clocks.own_ahead_ms(), None, "wrong in different ways");
        clocks.agrees(key(4), NOW);
        clocks.agrees(key(3), NOW);
        assert_eq!(clocks.own_ahead_ms(), None);
        clocks.expire(NOW + KEPT, |_| false);
        clocks.differs(key(5), -500_000, NOW + KEPT);
        clocks.expire(NOW + 3 * KEPT, |_| true);
        assert_eq!(clocks.own_ahead_ms(), Some(500_000), "the others were long ago");
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut clocks = Clocks::default();
        for n in 0..10 * MOST {
            clocks.differs(key(n), 300_000, NOW);
            clocks.agrees(key(100_000 + n), NOW);
        }
        assert_eq!((clocks.off.len(), clocks.right.len()), (MOST, MOST));
    }
}
