//! Sets of addresses as sorted, disjoint ranges, for both families alike: an IPv4 address is the low 32 bits.
//!
//! Every operation is linear in its inputs (or `n log n` where it says so), since a table may hold 100,000 prefixes.

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::table::{Address, Net};

/// Addresses `first..=last`. As text a pair; an object of the two, as earlier agents wrote it, is read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "(u128, u128)")]
pub(crate) struct Range {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl From<Range> for (u128, u128) {
    fn from(Range { first, last }: Range) -> Self {
        (first, last)
    }
}

impl Range {
    /// The addresses between two, ends included.
    pub(crate) fn new<A: Address>(low: A, high: A) -> Self {
        Self {
            first: low.wide(),
            last: high.wide(),
        }
    }
}

/// A prefix of either family.
pub(crate) trait Prefix: Net {
    /// Bits of an address.
    const BITS: u8;
    /// The addresses of the prefix, host bits masked.
    fn range(self) -> Range;
    /// The prefix of `len` bits that holds `addr`; `None` if `len` is too long.
    fn of(addr: u128, len: u8) -> Option<Self>;
}

impl Prefix for Ipv4Net {
    const BITS: u8 = 32;

    fn range(self) -> Range {
        Range {
            first: u128::from(self.network().to_bits()),
            last: u128::from(self.broadcast().to_bits()),
        }
    }

    fn of(addr: u128, len: u8) -> Option<Self> {
        Self::new(u32::try_from(addr).ok()?.into(), len)
            .ok()
            .map(|n| n.trunc())
    }
}

impl Prefix for Ipv6Net {
    const BITS: u8 = 128;

    fn range(self) -> Range {
        Range {
            first: self.network().to_bits(),
            last: self.broadcast().to_bits(),
        }
    }

    fn of(addr: u128, len: u8) -> Option<Self> {
        Self::new(addr.into(), len).ok().map(|n| n.trunc())
    }
}

/// What longest-prefix match makes of `prefixes`: disjoint pieces in ascending order. Of two equal prefixes the later
/// one counts. `n log n`.
pub(crate) fn flatten<N: Prefix, T: Copy>(prefixes: impl IntoIterator<Item = (N, T)>) -> Vec<(Range, T)> {
    let mut sorted: Vec<(Range, T)> = prefixes.into_iter().map(|(n, t)| (n.range(), t)).collect();
    // Parents before children; the sort is stable, so of equals the later one ends on top.
    sorted.sort_by(|(a, _), (b, _)| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
    let mut out: Vec<(Range, T)> = Vec::with_capacity(sorted.len());
    let mut open: Vec<(u128, T)> = Vec::new();
    // First address not yet written; `None` past the end of the address space.
    let mut next: Option<u128> = Some(0);
    for (range, value) in sorted {
        while let Some(&(last, outer)) = open.last() {
            if last >= range.first {
                break;
            }
            close(&mut out, &mut next, last, outer);
            open.pop();
        }
        if let (Some(&(_, outer)), Some(first)) = (open.last(), next)
            && first < range.first
        {
            out.push((
                Range {
                    first,
                    last: range.first - 1,
                },
                outer,
            ));
        }
        open.push((range.last, value));
        next = Some(range.first);
    }
    while let Some((last, outer)) = open.pop() {
        close(&mut out, &mut next, last, outer);
    }
    out
}

fn close<T>(out: &mut Vec<(Range, T)>, next: &mut Option<u128>, last: u128, value: T) {
    if let Some(first) = *next
        && first <= last
    {
        out.push((Range { first, last }, value));
        *next = last.checked_add(1);
    }
}

/// Ascending, disjoint ranges with neighbours joined.
pub(crate) fn join(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut out: Vec<Range> = Vec::new();
    for r in ranges {
        match out.last_mut() {
            Some(l) if l.last.checked_add(1) == Some(r.first) => l.last = r.last,
            _ => out.push(r),
        }
    }
    out
}

/// The addresses of any prefixes, in any order. `n log n`.
pub(crate) fn union<N: Prefix>(prefixes: impl IntoIterator<Item = N>) -> Vec<Range> {
    join(
        flatten(prefixes.into_iter().map(|n| (n, ())))
            .into_iter()
            .map(|(r, ())| r),
    )
}

/// The addresses of `a` that are not in `b`.
pub(crate) fn subtract(a: &[Range], b: &[Range]) -> Vec<Range> {
    let mut out = Vec::new();
    let mut holes = b.iter().peekable();
    for r in a {
        let mut first = Some(r.first);
        while let (Some(f), Some(hole)) = (first, holes.peek()) {
            if hole.last < f {
                holes.next();
            } else if hole.first > r.last {
                break;
            } else {
                if hole.first > f {
                    out.push(Range {
                        first: f,
                        last: hole.first - 1,
                    });
                }
                if hole.last >= r.last {
                    first = None;
                } else {
                    first = hole.last.checked_add(1);
                    holes.next();
                }
            }
        }
        if let Some(first) = first {
            out.push(Range { first, last: r.last });
        }
    }
    out
}

/// The tagged pieces of `a` that lie in `b`.
pub(crate) fn intersect<T: Copy>(a: &[(Range, T)], b: &[Range]) -> Vec<(Range, T)> {
    let mut out = Vec::new();
    let mut others = b.iter().peekable();
    for &(r, tag) in a {
        while let Some(o) = others.peek() {
            if o.first > r.last {
                break;
            }
            if o.last >= r.first {
                out.push((
                    Range {
                        first: o.first.max(r.first),
                        last: o.last.min(r.last),
                    },
                    tag,
                ));
            }
            if o.last > r.last {
                break;
            }
            others.next();
        }
    }
    out
}

/// The part of an ascending set that touches `r`, whole ranges. `log n` to find.
pub(crate) fn touching(set: &[Range], r: Range) -> &[Range] {
    let from = set.partition_point(|s| s.last < r.first);
    let to = set.partition_point(|s| s.first <= r.last);
    set.get(from..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap_or_default()
    }

    #[test]
    fn flatten_given_nested_prefixes_then_the_longest_counts() {
        let pieces = flatten([
            (net("10.0.0.0/8"), 1),
            (net("10.1.0.0/16"), 2),
            (net("0.0.0.0/0"), 0),
            (net("10.1.2.3/32"), 3),
        ]);
        let mut end = None;
        for (r, _) in &pieces {
            assert!(end.is_none_or(|e| r.first == e + 1), "{pieces:?}");
            end = Some(r.last);
        }
        let at = |a: &str| {
            let a = u128::from(a.parse::<std::net::Ipv4Addr>().unwrap().to_bits());
            pieces
                .iter()
                .find(|(r, _)| r.first <= a && a <= r.last)
                .map(|(_, t)| *t)
        };
        for (addr, expected) in [
            ("9.255.255.255", 0),
            ("10.0.0.0", 1),
            ("10.1.2.2", 2),
            ("10.1.2.3", 3),
            ("10.1.2.4", 2),
            ("10.2.0.0", 1),
            ("255.255.255.255", 0),
        ] {
            assert_eq!(at(addr), Some(expected), "{addr}");
        }
    }

    /// Small prefixes of 0.0.0.0/24, so that every address can be tried.
    fn nets() -> impl Strategy<Value = Vec<Ipv4Net>> {
        prop::collection::vec(
            (any::<u8>(), 24u8..=32).prop_map(|(a, len)| Ipv4Net::of(u128::from(a), len).unwrap_or_default()),
            0..12,
        )
    }

    fn has(set: &[Range], a: u128) -> bool {
        set.iter().any(|r| r.first <= a && a <= r.last)
    }

    proptest! {
        #[test]
        fn set_operations_given_any_sets_then_equal_to_address_by_address(a in nets(), b in nets()) {
            let (sa, sb) = (union(a.iter().copied()), union(b.iter().copied()));
            let tagged: Vec<_> = sa.iter().map(|&r| (r, ())).collect();
            let both = intersect(&tagged, &sb);
            let minus = subtract(&sa, &sb);
            for x in 0..260u128 {
                let ina = a.iter().any(|n| n.range().first <= x && x <= n.range().last);
                let inb = b.iter().any(|n| n.range().first <= x && x <= n.range().last);
                prop_assert_eq!(has(&sa, x), ina);
                prop_assert_eq!(has(&minus, x), ina && !inb);
                prop_assert_eq!(both.iter().any(|(r, ())| r.first <= x && x <= r.last), ina && inb);
                prop_assert_eq!(has(touching(&sa, Range { first: x, last: x }), x), ina);
            }
        }
    }
}
