//! Anti-entropy: two nodes compare sums of what they know and exchange what differs.
//!
//! ```text
//!  A ── Digest: sums by bucket ──────────────► B
//!  A ◄─ Differ: buckets, and what B has there ─ B
//!  A ── Records that B lacks, Want ──────────► B
//!  A ◄─ Records that A lacks ───────────────── B
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use rand::RngExt as _;

use super::{
    Membership, Refusal,
    directory::holding,
    limits::{DIGESTS, Rate, TokenBucket},
    wire::{Differ, Digest, MOST_KEYS, Talk, record_frames},
};
use crate::mesh::NodeKey;

/// Time between two exchanges that nothing else called for.
pub(super) const PERIOD: Duration = Duration::from_secs(30);
/// How long an answer is waited for before the next neighbour is asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a peer may send the records that it was asked for.
const OPEN: Duration = Duration::from_secs(30);
/// Neighbours that are to be asked.
const MOST_QUEUED: usize = 16;
/// Records in one answer: half of what a link holds unsent (512 KiB), so that an answer never cuts
/// off the one who asked. The rest follows in the next exchange, at once.
const MOST_BYTES: usize = 256 << 10;
/// Exchanges that carry on where one was cut: a directory of 4,096 records of 1 KiB. Less than
/// others grant ([`DIGESTS`]).
const CARRY_ON: Rate = Rate { burst: 18.0, per_s: 0.1 };
/// A mesh that grew together tells its neighbourhood at once, but not again and again.
const CASCADE: Rate = Rate { burst: 3.0, per_s: 0.1 };
/// Nodes that one exchange told of and nobody before: the sign of another part of the mesh.
const ANOTHER_PART: usize = 2;

#[derive(Debug)]
pub(super) struct Sync {
    next: Duration,
    queue: VecDeque<NodeKey>,
    active: Option<(NodeKey, Duration)>,
    /// Of the active exchange: records that were asked for and have not come.
    awaited: usize,
    /// Of the active exchange: not everything fitted.
    cut: bool,
    /// Who may send records, until when.
    open: BTreeMap<NodeKey, Duration>,
    cascade: TokenBucket,
    carry_on: TokenBucket,
}

impl Sync {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            next: now + PERIOD,
            queue: VecDeque::new(),
            active: None,
            awaited: 0,
            cut: false,
            open: BTreeMap::new(),
            cascade: TokenBucket::full(CASCADE, now),
            carry_on: TokenBucket::full(CARRY_ON, now),
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        match self.active {
            Some((_, until)) => until.min(self.next),
            None if self.queue.is_empty() => self.next,
            None => Duration::ZERO,
        }
    }

    pub(super) fn want(&mut self, peer: NodeKey) {
        if self.queue.len() < MOST_QUEUED && !self.queue.contains(&peer) {
            self.queue.push_back(peer);
        }
    }

    pub(super) fn forget(&mut self, peer: &NodeKey) {
        self.queue.retain(|queued| queued != peer);
        self.active.take_if(|(active, _)| active == peer);
        self.open.remove(peer);
    }

    /// The exchange with this peer is over; if it was cut, the next one follows.
    fn finish(&mut self, peer: NodeKey, now: Duration) {
        let was_active = self.active.take_if(|(active, _)| *active == peer).is_some();
        if was_active && self.cut && self.carry_on.take(CARRY_ON, 1.0, now) {
            self.want(peer);
        }
    }

    fn is_open(&self, peer: &NodeKey, now: Duration) -> bool {
        self.open.get(peer).is_some_and(|&until| until > now)
    }
}

impl Membership {
    pub(super) fn run_sync(&mut self) {
        let now = self.now.mono;
        self.sync.active.take_if(|(_, until)| *until <= now);
        if self.sync.next <= now {
            self.sync.next = now + PERIOD.mul_f64(self.rng.random_range(0.9..1.0));
            self.sync.open.retain(|_, until| *until > now);
            let up: Vec<_> = self.links.up().map(|(key, _)| *key).collect();
            if !up.is_empty() {
                let peer = up[self.rng.random_range(0..up.len())];
                self.sync.want(peer);
            }
            self.probe();
        }
        while self.sync.active.is_none()
            && let Some(peer) = self.sync.queue.pop_front()
        {
            let sums = self.directory.sums();
            if self.send(peer, Talk::Digest(Digest { sums }).encode()) {
                self.sync.active = Some((peer, now + PATIENCE));
                self.sync.cut = false;
                self.sync.awaited = 0;
                self.sync.open.insert(peer, now + OPEN);
            }
        }
    }

    pub(super) fn on_digest(&mut self, peer: NodeKey, digest: &Digest) {
        let now = self.now.mono;
        let Some(link) = self.links.get_mut(&peer) else { return };
        if !link.digests.take(DIGESTS, 1.0, now) {
            self.refuse(peer, Refusal::RateLimited);
            return;
        }
        let which = self.directory.differing(&digest.sums);
        let buckets = u16::try_from(digest.sums.len()).unwrap_or(u16::MAX);
        let has = self.directory.in_buckets(buckets, &which).map(holding).take(MOST_KEYS).collect();
        self.sync.open.insert(peer, now + OPEN);
        self.send(peer, Talk::Differ(Differ { buckets, which, has }).encode());
    }

    pub(super) fn on_differ(&mut self, peer: NodeKey, differ: &Differ) {
        // An answer that came too late is no offence.
        if self.sync.active.is_none_or(|(active, _)| active != peer) {
            return;
        }
        let now = self.now.mono;
        let theirs: BTreeMap<u64, i64> =
            differ.has.iter().map(|holding| (holding.prefix, holding.at_ms)).collect();
        let lacks = |prefix, at_ms| theirs.get(&prefix).is_none_or(|&theirs| theirs < at_ms);
        let mut bytes = 0;
        let missing = self
            .directory
            .in_buckets(differ.buckets, &differ.which)
            .filter(|entry| {
                let holding = holding(entry);
                lacks(holding.prefix, holding.at_ms)
            })
            .map(|entry| &entry.record.bytes)
            .take_while(|record| {
                bytes += record.len();
                bytes <= MOST_BYTES
            });
        let frames = record_frames(missing);
        let want: Vec<u64> = theirs
            .iter()
            .filter(|(prefix, at_ms)| {
                self.directory.last_of(**prefix).is_none_or(|at| at < **at_ms)
            })
            .map(|(prefix, _)| *prefix)
            .collect();
        self.sync.cut = bytes > MOST_BYTES;
        self.sync.awaited = want.len();
        if bytes > 0 {
            for frame in frames {
                self.send(peer, frame);
            }
        }
        if want.is_empty() {
            self.sync.finish(peer, now);
        } else {
            self.send(peer, Talk::Want(want).encode());
            self.sync.active = Some((peer, now + PATIENCE));
        }
    }

    pub(super) fn on_want(&mut self, peer: NodeKey, prefixes: &[u64]) {
        if !self.sync.is_open(&peer, self.now.mono) {
            self.refuse(peer, Refusal::RateLimited);
            return;
        }
        let mut bytes = 0;
        let records = prefixes
            .iter()
            .filter_map(|prefix| self.directory.by_prefix(*prefix))
            .map(|entry| &entry.record.bytes)
            .take_while(|record| {
                bytes += record.len();
                bytes <= MOST_BYTES
            });
        for frame in record_frames(records) {
            self.send(peer, frame);
        }
    }

    pub(super) fn on_records(&mut self, peer: NodeKey, more: bool, records: &[&[u8]]) {
        let now = self.now.mono;
        if !self.sync.is_open(&peer, now) {
            self.refuse(peer, Refusal::RateLimited);
            return;
        }
        if self.sync.active.is_some_and(|(active, _)| active == peer) {
            self.sync.awaited = self.sync.awaited.saturating_sub(records.len());
        }
        let knew = self.directory.present();
        let mut missed = 0;
        for record in records {
            match self.learn(record) {
                Ok(true) => missed += 1,
                Ok(false) => {}
                Err(refusal) => self.refuse(peer, refusal),
            }
        }
        if !more {
            // An empty answer will not be longer the next time.
            self.sync.cut |= self.sync.awaited > 0 && !records.is_empty();
            self.sync.finish(peer, now);
        }
        // Alone until now: there is nobody to tell.
        if missed > 0 && knew > 1 {
            self.tell_neighbourhood(peer, missed);
        }
    }

    /// This peer knew nodes that nobody here knew: the neighbours should hear of them, and the two
    /// parts should grow together.
    fn tell_neighbourhood(&mut self, peer: NodeKey, missed: usize) {
        let now = self.now.mono;
        if missed >= ANOTHER_PART && self.sync.cascade.take(CASCADE, 1.0, now) {
            if !self.overlay.neighbours().contains(&peer) {
                self.join(peer);
            }
            self.sync_with_neighbours(Some(peer));
        }
    }

    pub(super) fn sync_with_neighbours(&mut self, but: Option<NodeKey>) {
        for peer in self.overlay.neighbours() {
            if Some(*peer) != but {
                self.sync.want(*peer);
            }
        }
    }
}
