//! Which bytes of a blob are on disk.

use std::collections::BTreeMap;

/// Bytes that one connection fetches at a time. Small enough that a lost connection loses little,
/// large enough that a request per part costs nothing.
pub(super) const PART_BYTES: u64 = 8 << 20;

/// The bytes of a blob that are here: all up to `hashed`, and the beginnings of some parts after
/// it. Its size does not grow with the blob's, because only a window of parts is ever open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    total: u64,
    hashed: u64,
    /// Bytes from a part's start that are here, for parts that end after `hashed`.
    parts: BTreeMap<u64, u64>,
}

impl Extent {
    pub(super) fn new(total: u64) -> Self {
        Self { total, hashed: 0, parts: BTreeMap::new() }
    }

    /// From what was saved; `None` if it contradicts itself.
    pub(super) fn restore(total: u64, hashed: u64, parts: &[(u64, u64)]) -> Option<Self> {
        let mut extent = Self { total, hashed, parts: BTreeMap::new() };
        if hashed > total {
            return None;
        }
        for &(part, bytes) in parts {
            let fits = part < extent.part_count() && bytes <= extent.part_bytes(part);
            if !fits || extent.start(part) + bytes < hashed && bytes < extent.part_bytes(part) {
                return None;
            }
            if extent.end(part) > hashed {
                extent.parts.insert(part, bytes);
            }
        }
        Some(extent)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Everything below is here and went into the hash.
    pub(super) fn hashed(&self) -> u64 {
        self.hashed
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, u64)> {
        self.parts.iter().map(|(part, bytes)| (*part, *bytes))
    }

    pub(super) fn part_count(&self) -> u64 {
        self.total.div_ceil(PART_BYTES)
    }

    pub(super) fn start(&self, part: u64) -> u64 {
        part * PART_BYTES
    }

    pub(super) fn end(&self, part: u64) -> u64 {
        (self.start(part) + PART_BYTES).min(self.total)
    }

    fn part_bytes(&self, part: u64) -> u64 {
        self.end(part) - self.start(part)
    }

    /// Bytes from the part's start that are here.
    pub(super) fn got(&self, part: u64) -> u64 {
        let below = self.hashed.clamp(self.start(part), self.end(part)) - self.start(part);
        self.parts.get(&part).copied().unwrap_or(0).max(below)
    }

    pub(super) fn has_part(&self, part: u64) -> bool {
        self.got(part) == self.part_bytes(part)
    }

    /// Takes note of bytes that were written. What would leave a hole in its part is not counted:
    /// it will be fetched again.
    pub(super) fn add(&mut self, at: u64, length: u64) {
        let end = at.saturating_add(length).min(self.total);
        let mut at = at.max(self.hashed);
        while at < end {
            let part = at / PART_BYTES;
            let to = end.min(self.end(part));
            let got = self.got(part);
            if at <= self.start(part) + got {
                self.parts.insert(part, got.max(to - self.start(part)));
            }
            at = to;
        }
    }

    /// The end of what is here without a gap.
    pub(super) fn contiguous(&self) -> u64 {
        let mut part = self.hashed / PART_BYTES;
        while part < self.part_count() && self.has_part(part) {
            part += 1;
        }
        if part == self.part_count() { self.total } else { self.start(part) + self.got(part) }
    }

    /// The hash went on up to here.
    pub(super) fn set_hashed(&mut self, hashed: u64) {
        self.hashed = self.hashed.max(hashed.min(self.total));
        while let Some((&part, _)) = self.parts.first_key_value() {
            if self.end(part) > self.hashed {
                break;
            }
            self.parts.pop_first();
        }
    }

    /// Bytes that are here.
    pub(super) fn done(&self) -> u64 {
        let first = self.hashed / PART_BYTES;
        let ahead = self.parts.iter().map(|(part, bytes)| {
            let from = if *part == first { self.hashed - self.start(first) } else { 0 };
            bytes.saturating_sub(from)
        });
        self.hashed + ahead.sum::<u64>()
    }

    /// One past the last byte that is here, gaps or not.
    pub(super) fn highest(&self) -> u64 {
        let last = self.parts.last_key_value();
        last.map_or(self.hashed, |(part, bytes)| self.hashed.max(self.start(*part) + bytes))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.contiguous() == self.total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOTAL: u64 = 5 * PART_BYTES + 17;

    proptest! {
        /// Against the simplest model there is: a set of byte ranges in units of an eighth part.
        #[test]
        fn what_is_counted_was_added(
            adds in prop::collection::vec((0..TOTAL, 1..2 * PART_BYTES), 0..60),
            hash_after in prop::collection::vec(any::<bool>(), 60),
        ) {
            let unit = PART_BYTES / 64;
            let units = TOTAL.div_ceil(unit) as usize;
            let mut written = vec![false; units];
            let mut extent = Extent::new(TOTAL);
            for (n, (at, length)) in adds.into_iter().enumerate() {
                let (at, length) = (at / unit * unit, length.div_ceil(unit) * unit);
                extent.add(at, length);
                for slot in (at / unit)..((at + length).min(TOTAL)).div_ceil(unit) {
                    written[slot as usize] = true;
                }
                if hash_after[n] {
                    extent.set_hashed(extent.contiguous());
                }
                let prefix = written.iter().take_while(|w| **w).count() as u64 * unit;
                prop_assert!(extent.contiguous() <= prefix.min(TOTAL));
                prop_assert!(extent.hashed() <= extent.contiguous());
                prop_assert!(extent.done() <= written.iter().filter(|w| **w).count() as u64 * unit);
                prop_assert!(extent.highest() >= extent.contiguous());
                let parts: Vec<_> = extent.parts().collect();
                let again = Extent::restore(TOTAL, extent.hashed(), &parts);
                prop_assert_eq!(again.as_ref(), Some(&extent));
            }
        }
    }

    #[test]
    fn a_saved_extent_that_contradicts_itself_is_refused() {
        for (hashed, parts) in [
            (TOTAL + 1, vec![]),
            (0, vec![(6, 1)]),
            (0, vec![(5, 18)]),
            (0, vec![(0, PART_BYTES + 1)]),
            (PART_BYTES / 2, vec![(0, 1)]),
        ] {
            assert_eq!(Extent::restore(TOTAL, hashed, &parts), None, "{hashed} {parts:?}");
        }
        let whole = Extent::restore(TOTAL, TOTAL, &[]).expect("is whole");
        assert!(whole.is_complete() && whole.done() == TOTAL);
        assert!(Extent::new(0).is_complete());
    }
}
