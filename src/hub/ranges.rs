//! Sets of byte ranges: what of a file is on disk, and what is missing.

use std::ops::Range;

/// A set of bytes, kept as sorted ranges that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// Adds a range. Linear in the number of gaps, of which there are few.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        let mut merged = range;
        if first < last {
            merged.start = merged.start.min(self.0[first].start);
            merged.end = merged.end.max(self.0[last - 1].end);
        }
        self.0.splice(first..last, [merged]);
    }

    /// Returns the end of the unbroken run that holds `start`, or `start` itself.
    #[must_use]
    pub fn run_end(&self, start: u64) -> u64 {
        let next = self.0.partition_point(|r| r.end <= start);
        self.0.get(next).filter(|r| r.start <= start).map_or(start, |r| r.end)
    }

    /// Returns the gaps in `0..size`.
    #[must_use]
    pub fn missing(&self, size: u64) -> Vec<Range<u64>> {
        self.missing_in(0..size)
    }

    /// Returns the gaps in a range.
    #[must_use]
    pub fn missing_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.0.partition_point(|r| r.end <= range.start);
        for there in self.0[first..].iter().take_while(|r| r.start < range.end) {
            if there.start > at {
                gaps.push(at..there.start);
            }
            at = there.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Returns how many bytes are in the set.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// Returns the ranges in order.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::RangeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(ranges in proptest::collection::vec((0_u64..60, 0_u64..20), 0..12), start in 0_u64..70) {
            let set: RangeSet = ranges.iter().map(|&(s, n)| s..s + n).collect();
            let mut bits = [false; 80];
            for &(s, n) in &ranges {
                bits[s as usize..(s + n) as usize].fill(true);
            }
            prop_assert_eq!(set.total(), bits.iter().filter(|b| **b).count() as u64);
            for at in 0..80_u64 {
                let run = bits[at as usize..].iter().take_while(|b| **b).count() as u64;
                prop_assert_eq!(set.run_end(at), at + run);
            }
            let size = 70_u64;
            let mut gaps = [false; 80];
            for gap in set.missing_in(start..size) {
                prop_assert!(start <= gap.start && gap.start < gap.end && gap.end <= size);
                gaps[gap.start as usize..gap.end as usize].fill(true);
            }
            for at in start as usize..size as usize {
                prop_assert_eq!(gaps[at], !bits[at]);
            }
        }
    }
}
