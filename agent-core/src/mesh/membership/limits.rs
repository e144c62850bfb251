//! What keeps a hostile or broken peer from costing more than its share.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};

/// Frames per second of one peer that go on; a burst is a sync or a wave of joins. An honest peer
/// in a mesh of 4,096 sends about 100 a second: 20 records, and as many words about each.
pub(super) const FRAMES: Rate = Rate { burst: 4_000.0, per_s: 400.0 };
/// Bytes likewise. The burst holds a directory of 4,096 records of 1 KiB.
pub(super) const BYTES: Rate = Rate { burst: 4_194_304.0, per_s: 262_144.0 };
/// Records of one author; see [`super::announce`] for what an author allows itself, which is less.
pub(super) const AUTHOR: Rate = Rate { burst: 8.0, per_s: 0.25 };
/// Digests that one peer may send: with a new neighbour as many as it takes to exchange a full
/// directory, then every half minute.
pub(super) const DIGESTS: Rate = Rate { burst: 24.0, per_s: 0.2 };
/// What a peer may do wrong; points are in [`super::Refusal::points`].
pub(super) const OFFENCES: Rate = Rate { burst: 100.0, per_s: 1.0 };

#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: f64,
    pub(super) per_s: f64,
}

/// A bucket that fills at a rate and from which every action takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    tokens: f64,
    at: Duration,
}

impl TokenBucket {
    pub(super) fn full(rate: Rate, now: Duration) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    /// Takes `amount`, or nothing and false.
    pub(super) fn take(&mut self, rate: Rate, amount: f64, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate.per_s).min(rate.burst);
        self.at = now;
        let enough = self.tokens >= amount;
        if enough {
            self.tokens -= amount;
        }
        enough
    }
}

/// A set that forgets: after a time, and the oldest first when it is full.
#[derive(Debug)]
pub(super) struct Recent<K> {
    known: HashSet<K>,
    order: VecDeque<(Duration, K)>,
    keep: Duration,
    most: usize,
}

impl<K: Hash + Eq + Copy> Recent<K> {
    pub(super) fn new(keep: Duration, most: usize) -> Self {
        Self { known: HashSet::new(), order: VecDeque::new(), keep, most }
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.known.contains(key)
    }

    /// False: it was there.
    pub(super) fn insert(&mut self, key: K, now: Duration) -> bool {
        self.expire(now);
        if !self.known.insert(key) {
            return false;
        }
        self.order.push_back((now + self.keep, key));
        if self.order.len() > self.most
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    pub(super) fn expire(&mut self, now: Duration) {
        while let Some((until, key)) = self.order.front().copied()
            && until <= now
        {
            self.order.pop_front();
            self.known.remove(&key);
        }
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &K> {
        self.order.iter().map(|(_, key)| key)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let rate = Rate { burst: 3.0, per_s: 1.0 };
        let mut bucket = TokenBucket::full(rate, Duration::ZERO);
        let taken = (0..10).filter(|_| bucket.take(rate, 1.0, Duration::ZERO)).count();
        assert_eq!(taken, 3);
        assert!(!bucket.take(rate, 1.0, Duration::from_millis(900)));
        assert!(bucket.take(rate, 1.0, Duration::from_millis(1_100)));
    }

    #[test]
    fn a_memory_forgets_after_its_time_and_when_it_is_full() {
        let mut recent = Recent::new(Duration::from_secs(10), 3);
        for key in 0..5 {
            assert!(recent.insert(key, Duration::from_secs(1)));
        }
        assert_eq!(recent.len(), 3);
        assert!(!recent.contains(&1) && recent.contains(&4));
        assert!(!recent.insert(4, Duration::from_secs(2)));
        recent.expire(Duration::from_secs(11));
        assert_eq!(recent.len(), 0);
    }
}
