//! Sets of addresses of one family as sorted, disjoint, non-adjacent closed intervals; and, or, not are linear merges.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// An address of one family as a number in host order.
pub(super) trait Address: Copy + Ord + std::fmt::Debug {
    /// The prefix type of the family.
    type Net: Ord + Clone;
    /// Bits of an address.
    const BITS: u8;
    /// The lowest address.
    const MIN: Self;
    /// The highest address.
    const MAX: Self;
    /// The next higher address, if any.
    fn next(self) -> Option<Self>;
    /// The next lower address, if any.
    fn previous(self) -> Option<Self>;
    /// The address as the low bits of a wide number.
    fn wide(self) -> u128;
    /// The first and the last address of a range of this family, `None` for one of the other family.
    fn bounds(net: &IpNet) -> Option<(Self, Self)>;
    /// The prefix that starts at `first` with `length` bits.
    fn prefix(first: u128, length: u8) -> Option<Self::Net>;
}

impl Address for u32 {
    type Net = Ipv4Net;
    const BITS: u8 = 32;
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn wide(self) -> u128 {
        u128::from(self)
    }
    fn bounds(net: &IpNet) -> Option<(Self, Self)> {
        match net {
            IpNet::V4(n) => Some((n.network().to_bits(), n.broadcast().to_bits())),
            IpNet::V6(_) => None,
        }
    }
    fn prefix(first: u128, length: u8) -> Option<Ipv4Net> {
        Ipv4Net::new(Ipv4Addr::from_bits(Self::try_from(first).ok()?), length).ok()
    }
}

impl Address for u128 {
    type Net = Ipv6Net;
    const BITS: u8 = 128;
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn wide(self) -> u128 {
        self
    }
    fn bounds(net: &IpNet) -> Option<(Self, Self)> {
        match net {
            IpNet::V4(_) => None,
            IpNet::V6(n) => Some((n.network().to_bits(), n.broadcast().to_bits())),
        }
    }
    fn prefix(first: u128, length: u8) -> Option<Ipv6Net> {
        Ipv6Net::new(Ipv6Addr::from_bits(first), length).ok()
    }
}

/// A set of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set<A> {
    ranges: Vec<(A, A)>,
}

impl<A: Address> Set<A> {
    /// No address.
    pub(super) const fn empty() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Every address of the family.
    pub(super) fn full() -> Self {
        Self {
            ranges: vec![(A::MIN, A::MAX)],
        }
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
        Self { ranges: merged }
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
        Self { ranges }
    }

    /// Addresses not in it.
    pub(super) fn not(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut from = Some(A::MIN);
        for &(low, high) in &self.ranges {
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
        Self { ranges }
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
        matches!(self.ranges.as_slice(), [(low, high)] if *low == A::MIN && *high == A::MAX)
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

/// Cuts a closed interval into the fewest aligned prefixes, in order.
pub(super) fn cut<A: Address>(low: A, high: A, mut emit: impl FnMut(A::Net)) {
    let (mut low, high) = (low.wide(), high.wide());
    while low <= high {
        let aligned = low.trailing_zeros().min(u32::from(A::BITS));
        let room = (high - low).checked_add(1).map_or(u128::BITS, u128::ilog2);
        let host_bits = aligned.min(room);
        let length = u32::from(A::BITS) - host_bits;
        if let Some(net) = u8::try_from(length)
            .ok()
            .and_then(|length| A::prefix(low, length))
        {
            emit(net);
        }
        match 1_u128
            .checked_shl(host_bits)
            .and_then(|size| low.checked_add(size))
        {
            Some(next) => low = next,
            None => return,
        }
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
