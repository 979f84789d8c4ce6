//! Sets of addresses of one family as sorted, disjoint, non-adjacent closed intervals; and, or, not are linear merges.

use std::sync::Arc;

use ipnet::IpNet;

pub(super) use crate::table::{Address, cut};

/// A set of addresses. A copy shares the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set<A> {
    ranges: Arc<Vec<(A, A)>>,
}

impl<A: Address> Set<A> {
    /// No address.
    pub(super) fn empty() -> Self {
        Self::of(Vec::new())
    }

    fn of(ranges: Vec<(A, A)>) -> Self {
        Self {
            ranges: Arc::new(ranges),
        }
    }

    /// Every address of the family.
    pub(super) fn full() -> Self {
        Self::of(vec![(A::MIN, A::MAX)])
    }

    /// The addresses in any of these intervals, given in any order.
    pub(super) fn from_ranges(mut ranges: Vec<(A, A)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(A, A)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some((_, end)) if end.next().is_none_or(|n| low <= n) => *end = (*end).max(high),
                _ => merged.push((low, high)),
            }
        }
        Self::of(merged)
    }

    /// The addresses of this family in any of these ranges.
    pub(super) fn from_nets(nets: &[IpNet]) -> Self {
        Self::from_ranges(nets.iter().filter_map(A::bounds).collect())
    }

    /// The union of many sets.
    pub(super) fn union_of<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self
    where
        A: 'a,
    {
        Self::from_ranges(sets.into_iter().flat_map(|s| s.ranges.iter().copied()).collect())
    }

    /// Addresses in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        if self.is_full() {
            return other.clone();
        }
        if other.is_full() {
            return self.clone();
        }
        let mut ranges = Vec::new();
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let (Some(&&(a, b)), Some(&&(c, d))) = (left.peek(), right.peek()) {
            let (low, high) = (a.max(c), b.min(d));
            if low <= high {
                ranges.push((low, high));
            }
            if b < d {
                left.next();
            } else {
                right.next();
            }
        }
        Self::of(ranges)
    }

    /// Addresses not in it.
    pub(super) fn not(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut from = Some(A::MIN);
        for &(low, high) in self.ranges.iter() {
            if let (Some(start), Some(end)) = (from, low.previous())
                && start <= end
            {
                ranges.push((start, end));
            }
            from = high.next();
        }
        if let Some(start) = from {
            ranges.push((start, A::MAX));
        }
        Self::of(ranges)
    }

    /// What of it lies between two addresses, ends included.
    pub(super) fn clip(&self, low: A, high: A) -> Self {
        let inside = self.touching(low, high);
        if inside.len() == self.ranges.len() && low == A::MIN && high == A::MAX {
            return self.clone();
        }
        Self::of(inside.iter().map(|&(a, b)| (a.max(low), b.min(high))).collect())
    }

    /// The intervals that have addresses between two, ends included.
    pub(super) fn touching(&self, low: A, high: A) -> &[(A, A)] {
        let from = self.ranges.partition_point(|&(_, end)| end < low);
        let rest = self.ranges.get(from..).unwrap_or_default();
        let count = rest.partition_point(|&(start, _)| start <= high);
        rest.get(..count).unwrap_or_default()
    }

    /// Calls `each` with intervals outside of which both sets are alike.
    pub(super) fn differences(&self, other: &Self, mut each: impl FnMut(A, A)) {
        if Arc::ptr_eq(&self.ranges, &other.ranges) {
            return;
        }
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        loop {
            let (one, other) = (left.peek().copied(), right.peek().copied());
            let next = match (one, other) {
                (Some(a), Some(b)) if a == b => {
                    left.next();
                    right.next();
                    continue;
                }
                (Some(a), Some(b)) if a < b => left.next(),
                (Some(_), None) => left.next(),
                (_, Some(_)) => right.next(),
                (None, None) => return,
            };
            if let Some(&(low, high)) = next {
                each(low, high);
            }
        }
    }

    /// The intervals in order.
    pub(super) fn ranges(&self) -> &[(A, A)] {
        &self.ranges
    }

    /// Whether no address is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether every address of the family is in it.
    pub(super) fn is_full(&self) -> bool {
        self.fills(A::MIN, A::MAX)
    }

    /// Whether every address between two, ends included, is in it, and no other.
    pub(super) fn fills(&self, from: A, to: A) -> bool {
        matches!(self.ranges.as_slice(), [(low, high)] if *low == from && *high == to)
    }

    /// Whether every address of `other` is in it: a binary search for each interval of `other`.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.ranges.iter().all(|&(low, high)| {
            let at = self.ranges.partition_point(|&(_, end)| end < low);
            self.ranges
                .get(at)
                .is_some_and(|&(start, end)| start <= low && high <= end)
        })
    }

    /// Whether some address is in both: a binary search for each interval of `other`.
    pub(super) fn meets(&self, other: &Self) -> bool {
        other.ranges.iter().any(|&(low, high)| {
            let at = self.ranges.partition_point(|&(_, end)| end < low);
            self.ranges.get(at).is_some_and(|&(start, _)| start <= high)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u32, u32)]) -> Set<u32> {
        Set::from_ranges(ranges.to_vec())
    }

    #[test]
    fn ranges_are_sorted_and_merged() {
        assert_eq!(
            set(&[(5, 9), (0, 3), (4, 4), (20, 30), (25, 26)]).ranges(),
            [(0, 9), (20, 30)]
        );
        assert_eq!(set(&[(0, u32::MAX), (7, 9)]).ranges(), [(0, u32::MAX)]);
    }

    #[test]
    fn and_or_not_agree_with_membership() {
        // All subsets of 0..8 placed at both ends of the address space.
        let sets: Vec<Set<u32>> = (0_u32..256)
            .map(|bits| {
                Set::from_ranges(
                    (0..8)
                        .filter(|i| bits & (1 << i) != 0)
                        .map(|i| if i < 4 { i } else { u32::MAX - 7 + i })
                        .map(|a| (a, a))
                        .collect(),
                )
            })
            .collect();
        let points = [
            0,
            1,
            2,
            3,
            4,
            1000,
            u32::MAX - 4,
            u32::MAX - 3,
            u32::MAX - 2,
            u32::MAX - 1,
            u32::MAX,
        ];
        let has = |s: &Set<u32>, a: u32| s.ranges().iter().any(|&(l, h)| l <= a && a <= h);
        for a in &sets {
            for p in points {
                assert_eq!(has(&a.not(), p), !has(a, p));
            }
            assert_eq!(a.not().not(), *a);
            for b in sets.iter().step_by(7) {
                let (and, or) = (a.and(b), Set::union_of([a, b]));
                for p in points {
                    assert_eq!(has(&and, p), has(a, p) && has(b, p));
                    assert_eq!(has(&or, p), has(a, p) || has(b, p));
                }
                assert_eq!(a.covers(b), b.and(&a.not()).is_empty());
                assert_eq!(a.meets(b), !and.is_empty());
            }
        }
    }

    #[test]
    fn an_interval_is_cut_into_the_fewest_prefixes() {
        let cuts4 = |low: u32, high: u32| {
            let mut nets = Vec::new();
            cut(low, high, |n| nets.push(n.to_string()));
            nets
        };
        assert_eq!(cuts4(0, u32::MAX), ["0.0.0.0/0"]);
        assert_eq!(cuts4(7, 7), ["0.0.0.7/32"]);
        assert_eq!(
            cuts4(1, 6),
            ["0.0.0.1/32", "0.0.0.2/31", "0.0.0.4/31", "0.0.0.6/32"]
        );
        assert_eq!(cuts4(u32::MAX - 1, u32::MAX), ["255.255.255.254/31"]);
        assert_eq!(cuts4(1, u32::MAX).len(), 32);
        assert_eq!(cuts4(1, u32::MAX - 1).len(), 62);
        let mut nets = Vec::new();
        cut(1_u128, u128::MAX - 1, |n| nets.push(n));
        assert_eq!(nets.len(), 254);
        nets.clear();
        cut(0_u128, u128::MAX, |n| nets.push(n));
        assert_eq!(nets, ["::/0".parse().unwrap()]);
    }
}
