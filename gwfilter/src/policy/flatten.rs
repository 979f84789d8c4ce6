//! From overlapping labelled intervals to disjoint ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::interval::{Address, Set};
use crate::table::Shard;

/// Which outcome an interval has: an index into a list of outcomes in order of precedence, the first winning.
pub(super) type Rank = u32;

/// Sorted, disjoint closed intervals, each with a rank; neighbours that touch have different ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Segments<A> {
    list: Vec<(A, A, Rank)>,
}

impl<A: Address> Segments<A> {
    /// No interval.
    pub(super) const fn none() -> Self {
        Self { list: Vec::new() }
    }

    /// For each address the lowest rank of the intervals that contain it: one sweep with a heap, n log n.
    pub(super) fn sweep(mut intervals: Vec<(A, A, Rank)>) -> Self {
        intervals.sort_unstable();
        let mut result = Self {
            list: Vec::with_capacity(intervals.len()),
        };
        let mut pending = intervals.into_iter().peekable();
        // The intervals that have begun: lowest rank first.
        let mut open: BinaryHeap<Reverse<(Rank, A)>> = BinaryHeap::new();
        let mut position = A::MIN;
        loop {
            while open.peek().is_some_and(|Reverse((_, high))| *high < position) {
                open.pop();
            }
            if open.is_empty() {
                match pending.peek() {
                    Some(&(low, _, _)) => position = position.max(low),
                    None => return result,
                }
            }
            while let Some((_, high, rank)) = pending.next_if(|&(low, _, _)| low <= position) {
                open.push(Reverse((rank, high)));
            }
            let Some(&Reverse((rank, high))) = open.peek() else {
                continue;
            };
            if high < position {
                continue;
            }
            let until = pending.peek().and_then(|&(low, _, _)| low.previous());
            let end = until.map_or(high, |u| u.min(high));
            result.push(position, end, rank);
            match end.next() {
                Some(next) => position = next,
                None => return result,
            }
        }
    }

    /// The addresses in both, each with the lower rank.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut result = Self { list: Vec::new() };
        let (mut left, mut right) = (self.list.iter().peekable(), other.list.iter().peekable());
        while let (Some(&&(a, b, r)), Some(&&(c, d, s))) = (left.peek(), right.peek()) {
            let (low, high) = (a.max(c), b.min(d));
            if low <= high {
                result.push(low, high, r.min(s));
            }
            if b < d {
                left.next();
            } else {
                right.next();
            }
        }
        result
    }

    /// The intervals in order.
    pub(super) fn list(&self) -> &[(A, A, Rank)] {
        &self.list
    }

    /// Appends an interval that lies behind all others.
    fn push(&mut self, low: A, high: A, rank: Rank) {
        match self.list.last_mut() {
            Some((_, end, last)) if *last == rank && end.next() == Some(low) => *end = high,
            _ => self.list.push((low, high, rank)),
        }
    }

    /// The addresses, whatever their rank.
    pub(super) fn set(&self) -> Set<A> {
        Set::from_ranges(self.list.iter().map(|&(low, high, _)| (low, high)).collect())
    }

    /// The same with the number of each rank.
    pub(super) fn shard(&self, numbers: &[u32]) -> Shard<A> {
        let number = |rank: Rank| {
            usize::try_from(rank)
                .ok()
                .and_then(|rank| numbers.get(rank))
                .copied()
        };
        let pieces = self.list.iter();
        Shard::new(
            pieces
                .filter_map(|&(low, high, rank)| Some((low, high, number(rank)?)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_rank_wins_and_equal_neighbours_merge() {
        let swept = Segments::sweep(vec![
            (0_u32, 9, 2),
            (3, 5, 1),
            (4, 20, 3),
            (21, 30, 3),
            (40, 40, 0),
            (3, 3, 1),
        ]);
        assert_eq!(
            swept.list,
            [(0, 2, 2), (3, 5, 1), (6, 9, 2), (10, 30, 3), (40, 40, 0)]
        );
        let top = Segments::sweep(vec![(u32::MAX - 1, u32::MAX, 5), (0, u32::MAX, 9)]);
        assert_eq!(top.list, [(0, u32::MAX - 2, 9), (u32::MAX - 1, u32::MAX, 5)]);
        assert_eq!(Segments::<u32>::sweep(Vec::new()).list, []);
    }

    #[test]
    fn a_sweep_agrees_with_looking_at_every_interval() {
        // A small linear congruential generator: the cases are the same on every run.
        let mut state = 1_u64;
        let mut next = |below: u32| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((state >> 33) % u64::from(below)).unwrap()
        };
        for _ in 0..2000 {
            let intervals: Vec<(u32, u32, Rank)> = (0..next(8))
                .map(|_| {
                    let low = next(24);
                    (low, low + next(6), next(4))
                })
                .collect();
            let swept = Segments::sweep(intervals.clone());
            for p in 0..32 {
                let want = intervals
                    .iter()
                    .filter(|(l, h, _)| *l <= p && p <= *h)
                    .map(|i| i.2)
                    .min();
                let got: Vec<Rank> = swept
                    .list
                    .iter()
                    .filter(|(l, h, _)| *l <= p && p <= *h)
                    .map(|i| i.2)
                    .collect();
                assert_eq!(got, want.into_iter().collect::<Vec<_>>(), "{intervals:?} at {p}");
            }
            assert!(
                swept
                    .list
                    .windows(2)
                    .all(|w| w[0].1 + 1 < w[1].0 || (w[0].1 < w[1].0 && w[0].2 != w[1].2))
            );
        }
    }

    #[test]
    fn both_must_hold_and_the_lower_rank_stays() {
        let a = Segments {
            list: vec![(0_u32, 9, 1), (10, 20, 4)],
        };
        let b = Segments {
            list: vec![(5, 14, 2), (18, 30, 0)],
        };
        assert_eq!(a.and(&b).list, [(5, 9, 1), (10, 14, 2), (18, 20, 0)]);
    }
}
