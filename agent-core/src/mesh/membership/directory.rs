//! Who is in the mesh, by their own signed word.

use std::{
    collections::{BTreeMap, VecDeque, btree_map},
    sync::Arc,
    time::Duration,
};

use super::{
    limits::{AUTHOR, TokenBucket},
    wire::{Holding, MOST_BUCKETS},
};
use crate::mesh::{NodeKey, record::Record};

/// Nodes in the table: above that a mesh needs more than one table in each node.
pub const MOST_NODES: usize = 4_096;
/// Announcements that a node may miss before it counts as stale, and before it is gone.
pub(super) const STALE_AFTER: u32 = 3;
pub(super) const GONE_AFTER: u32 = 10;
/// Nodes that are gone and must not come back with an old record.
const MOST_GONE: usize = 4_096;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Arc<Record>,
    /// When its last record came, by the clock of [`super::io::Now::mono`].
    pub(super) heard: Duration,
    pub(super) rate: TokenBucket,
}

impl Entry {
    fn every(&self) -> Duration {
        Duration::from_secs(u64::from(self.record.body.announcement.every_s))
    }

    pub(super) fn is_stale(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) > self.every() * STALE_AFTER
    }

    pub(super) fn is_gone(&self, now: Duration) -> bool {
        // A goodbye is there to be passed on to those who missed it.
        let after = if self.record.body.goodbye { STALE_AFTER } else { GONE_AFTER };
        now.saturating_sub(self.heard) > self.every() * after
    }

    /// Half an announcement late: a reason to look whether the mesh fell apart.
    pub(super) fn is_late(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) > self.every().mul_f64(1.5)
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// Its author was not known, or had said goodbye.
    New,
    Newer {
        was_stale: bool,
    },
    /// The one that is here already.
    Same,
    Older,
    /// No room, and nobody stale to make some.
    Full,
}

#[derive(Debug)]
pub(super) struct Directory {
    me: NodeKey,
    entries: BTreeMap<NodeKey, Entry>,
    /// Wrapping sums of the records' hashes, by the first byte of the author's key.
    sums: Box<[u64; MOST_BUCKETS]>,
    /// Entries that are neither this node nor said goodbye.
    present: usize,
    /// Sequence numbers of nodes that left the table.
    gone: BTreeMap<NodeKey, i64>,
    gone_order: VecDeque<NodeKey>,
}

impl Directory {
    pub(super) fn new(me: NodeKey) -> Self {
        Self {
            me,
            entries: BTreeMap::new(),
            sums: Box::new([0; MOST_BUCKETS]),
            present: 0,
            gone: BTreeMap::new(),
            gone_order: VecDeque::new(),
        }
    }

    /// Other nodes of the mesh, stale ones too.
    pub(super) fn present(&self) -> usize {
        self.present
    }

    /// All rows: this node and those that said goodbye as well.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &NodeKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &NodeKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// By key; not this node, not those that said goodbye.
    pub(super) fn others(&self) -> impl Iterator<Item = (&NodeKey, &Entry)> {
        self.entries.iter().filter(|(key, entry)| **key != self.me && !entry.record.body.goodbye)
    }

    pub(super) fn contains(&self, key: &NodeKey) -> bool {
        self.entries.get(key).is_some_and(|entry| !entry.record.body.goodbye)
    }

    /// What would become of this record.
    pub(super) fn judge(&self, record: &Record, now: Duration) -> Offered {
        let author = record.author();
        if let Some(entry) = self.entries.get(&author) {
            return match record.at_ms().cmp(&entry.record.at_ms()) {
                std::cmp::Ordering::Equal if entry.record.hash == record.hash => Offered::Same,
                std::cmp::Ordering::Equal | std::cmp::Ordering::Less => Offered::Older,
                std::cmp::Ordering::Greater if entry.record.body.goodbye => Offered::New,
                std::cmp::Ordering::Greater => Offered::Newer { was_stale: entry.is_stale(now) },
            };
        }
        match self.gone.get(&author) {
            Some(&last) if record.at_ms() <= last => Offered::Older,
            _ => Offered::New,
        }
    }

    /// Takes a record that [`judge`](Self::judge) called new or newer. `keep`: nodes that stay
    /// when the table is full; those that said goodbye go first. Returns who had to make room and
    /// was not known to have left, or [`Offered::Full`].
    pub(super) fn insert(
        &mut self,
        record: Arc<Record>,
        heard: Duration,
        now: Duration,
        keep: impl Fn(&NodeKey) -> bool,
    ) -> Result<Option<NodeKey>, Offered> {
        let author = record.author();
        let mut made_room = None;
        if self.entries.len() >= MOST_NODES && !self.entries.contains_key(&author) {
            let left = self
                .entries
                .iter()
                .filter(|(key, entry)| entry.record.body.goodbye && **key != self.me);
            let left = left.min_by_key(|(_, entry)| entry.heard).map(|(key, _)| *key);
            let stale = self.others().filter(|(key, entry)| entry.is_stale(now) && !keep(key));
            let oldest = stale.min_by_key(|(_, entry)| entry.heard).map(|(key, _)| *key);
            let Some(out) = left.or(oldest) else { return Err(Offered::Full) };
            self.remove(&out);
            // That a node left was told when it said goodbye.
            made_room = oldest.filter(|_| left.is_none());
        }
        let counts = author != self.me;
        self.add_to_sums(&record);
        self.present += usize::from(counts && !record.body.goodbye);
        match self.entries.entry(author) {
            btree_map::Entry::Vacant(vacant) => {
                let rate = TokenBucket::full(AUTHOR, now);
                vacant.insert(Entry { record, heard, rate });
            }
            btree_map::Entry::Occupied(mut occupied) => {
                let entry = occupied.get_mut();
                let old = std::mem::replace(&mut entry.record, record);
                // By wrong clocks a newer record may seem older than the one that was here.
                entry.heard = entry.heard.max(heard);
                self.present -= usize::from(counts && !old.body.goodbye);
                self.take_from_sums(&old);
            }
        }
        Ok(made_room)
    }

    /// Takes out who has been silent for too long. Their keys, and whether they said goodbye.
    pub(super) fn sweep(&mut self, now: Duration) -> Vec<(NodeKey, bool)> {
        let me = self.me;
        let gone = self.entries.iter().filter(|(key, entry)| **key != me && entry.is_gone(now));
        let gone: Vec<_> = gone.map(|(key, entry)| (*key, entry.record.body.goodbye)).collect();
        for (key, _) in &gone {
            self.remove(key);
        }
        gone
    }

    /// Forgets a node; an older record does not bring it back.
    pub(super) fn remove(&mut self, key: &NodeKey) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.present -= usize::from(*key != self.me && !entry.record.body.goodbye);
        self.take_from_sums(&entry.record);
        if self.gone.insert(*key, entry.record.at_ms()).is_none() {
            self.gone_order.push_back(*key);
        }
        if self.gone_order.len() > MOST_GONE
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        true
    }

    /// Sums for a digest. Small meshes send 16.
    pub(super) fn sums(&self) -> Vec<u64> {
        let buckets = if self.entries.len() < 64 { 16 } else { MOST_BUCKETS };
        self.folded(buckets)
    }

    /// Buckets that differ from another node's sums.
    pub(super) fn differing(&self, theirs: &[u64]) -> Vec<u8> {
        let ours = self.folded(theirs.len());
        let differ = ours.iter().zip(theirs).enumerate().filter(|(_, (a, b))| a != b);
        differ.filter_map(|(at, _)| u8::try_from(at).ok()).collect()
    }

    /// What is here in these buckets.
    pub(super) fn in_buckets(&self, buckets: u16, which: &[u8]) -> impl Iterator<Item = &Entry> {
        let mut wanted = [false; MOST_BUCKETS];
        for &bucket in which {
            wanted[usize::from(bucket)] = true;
        }
        let mask = u8::try_from(buckets.saturating_sub(1)).unwrap_or(u8::MAX);
        self.entries
            .iter()
            .filter(move |(key, _)| wanted[usize::from(key.0[0] & mask)])
            .map(|(_, entry)| entry)
    }

    /// The one node whose key begins like this.
    pub(super) fn by_prefix(&self, prefix: u64) -> Option<&Entry> {
        let mut from = NodeKey([0; 32]);
        from.0[..8].copy_from_slice(&prefix.to_be_bytes());
        let (key, entry) = self.entries.range(from..).next()?;
        (key_prefix(key) == prefix).then_some(entry)
    }

    /// Sequence number of the last record of the node whose key begins like this, also if it left.
    pub(super) fn last_of(&self, prefix: u64) -> Option<i64> {
        let mut from = NodeKey([0; 32]);
        from.0[..8].copy_from_slice(&prefix.to_be_bytes());
        let gone = self.gone.range(from..).next();
        let gone = gone.filter(|(key, _)| key_prefix(key) == prefix).map(|(_, at_ms)| *at_ms);
        self.by_prefix(prefix).map(|entry| entry.record.at_ms()).or(gone)
    }

    fn folded(&self, buckets: usize) -> Vec<u64> {
        let mut folded = vec![0_u64; buckets.clamp(1, MOST_BUCKETS)];
        let length = folded.len();
        for (at, sum) in self.sums.iter().enumerate() {
            let slot = &mut folded[at & (length - 1)];
            *slot = slot.wrapping_add(*sum);
        }
        folded
    }

    fn add_to_sums(&mut self, record: &Record) {
        let sum = &mut self.sums[usize::from(record.author().0[0])];
        *sum = sum.wrapping_add(first_u64(&record.hash));
    }

    fn take_from_sums(&mut self, record: &Record) {
        let sum = &mut self.sums[usize::from(record.author().0[0])];
        *sum = sum.wrapping_sub(first_u64(&record.hash));
    }
}

pub(super) fn holding(entry: &Entry) -> Holding {
    Holding { prefix: key_prefix(&entry.record.author()), at_ms: entry.record.at_ms() }
}

pub(super) fn key_prefix(key: &NodeKey) -> u64 {
    first_u64(&key.0)
}

fn first_u64(bytes: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *bytes;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use agent_api::mesh::Announcement;

    use super::*;
    use crate::mesh::{
        Addresses, MeshId,
        membership::sim::announcement,
        record::{About, Body},
    };

    fn record(n: usize, goodbye: bool) -> Arc<Record> {
        record_at(n, 0, goodbye)
    }

    fn record_at(n: usize, at_ms: i64, goodbye: bool) -> Arc<Record> {
        let mut author = NodeKey([0; 32]);
        author.0[..8].copy_from_slice(&n.to_be_bytes());
        let says = Announcement { at_ms, ..announcement("somebody") };
        let about = About { goodbye, addresses: Addresses::default(), announcement: says };
        let body = Body::new(MeshId([7; 32]), author, 1, 1, about);
        Arc::new(Record { body, bytes: bytes::Bytes::new(), hash: author.0 })
    }

    #[test]
    fn a_table_full_of_goodbyes_has_room_for_who_is_there() {
        let now = Duration::from_secs(1);
        let mut directory = Directory::new(NodeKey([255; 32]));
        for n in 0..MOST_NODES {
            assert_eq!(directory.insert(record(n, true), now, now, |_| true), Ok(None));
        }
        assert_eq!(directory.insert(record(MOST_NODES, false), now, now, |_| true), Ok(None));
        assert_eq!((directory.len(), directory.present()), (MOST_NODES, 1));
        // Three announcements later they are all swept out, and the other one is only stale.
        assert_eq!(directory.sweep(now + Duration::from_secs(31)).len(), MOST_NODES - 1);
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn who_was_just_heard_is_not_stale_because_its_clock_is_behind() {
        let now = Duration::from_secs(100);
        let mut directory = Directory::new(NodeKey([255; 32]));
        assert_eq!(directory.insert(record_at(1, 1, false), now, now, |_| true), Ok(None));
        // The next record comes by anti-entropy and is half a minute old by this node's clock.
        let by_its_clock = now - Duration::from_secs(31);
        assert_eq!(directory.insert(record_at(1, 2, false), by_its_clock, now, |_| true), Ok(None));
        assert!(directory.others().all(|(_, entry)| !entry.is_stale(now)));
    }
}
