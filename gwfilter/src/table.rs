//! Tables of verdicts by source address, in shards: what does not change is shared with the table before it.
//!
//! A table is a list of disjoint ranges in ascending order, each with the number of its outcome. The list is cut at fixed addresses into shards
//! that are shared (`Arc`). Where it is cut is no part of what a table says: equal tables may be cut differently, and what comes out of one
//! ([`Table::ranges`], [`Table::iter`]) is joined again.

mod address;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

pub use address::{Address, Net, cut, prefixes_of};

use crate::desired::Outcome;

/// The first and the last address of a range, and the number of its outcome.
pub type Piece<A> = (A, A, u32);

/// The pieces of a table between two of its cuts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shard<A> {
    pieces: Vec<Piece<A>>,
    /// Prefixes of all pieces but the first and the last, which may go on in the neighbours.
    inner: usize,
}

impl<A: Address> Shard<A> {
    /// A shard of disjoint pieces in ascending order.
    #[must_use]
    pub fn new(pieces: Vec<Piece<A>>) -> Self {
        let inside = pieces.len().saturating_sub(2);
        let inner = pieces.iter().skip(1).take(inside);
        let inner = inner.map(|&(low, high, _)| prefixes_of(low, high)).sum();
        Self { pieces, inner }
    }

    /// The pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Piece<A>] {
        &self.pieces
    }
}

/// Verdicts by source. A source in no range passes (`Reason::Allowed`).
#[derive(Clone)]
pub struct Table<N: Net> {
    outcomes: Arc<Vec<Outcome>>,
    starts: Arc<Vec<N::Address>>,
    shards: Vec<Arc<Shard<N::Address>>>,
}

impl<N: Net> Default for Table<N> {
    fn default() -> Self {
        Self::new(
            Arc::default(),
            Arc::new(vec![N::Address::MIN]),
            vec![Arc::default()],
        )
    }
}

impl<N: Net> Table<N> {
    /// A table of shards: number `i` holds what begins at `starts[i]` and ends before `starts[i + 1]`; the first start is the lowest
    /// address. Numbers in the shards are indices of `outcomes`.
    #[must_use]
    pub fn new(
        outcomes: Arc<Vec<Outcome>>,
        starts: Arc<Vec<N::Address>>,
        shards: Vec<Arc<Shard<N::Address>>>,
    ) -> Self {
        Self {
            outcomes,
            starts,
            shards,
        }
    }

    /// What the numbers in the shards stand for.
    #[must_use]
    pub const fn outcomes(&self) -> &Arc<Vec<Outcome>> {
        &self.outcomes
    }

    /// Where the shards begin.
    #[must_use]
    pub const fn starts(&self) -> &Arc<Vec<N::Address>> {
        &self.starts
    }

    /// The shards.
    #[must_use]
    pub fn shards(&self) -> &[Arc<Shard<N::Address>>] {
        &self.shards
    }

    /// Whether both are the same shards, cut alike, with the same meaning of their numbers as far as both have one.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.alike(other) && {
            let mut pairs = self.shards.iter().zip(&other.shards);
            pairs.all(|(a, b)| Arc::ptr_eq(a, b))
        }
    }

    /// Whether both are cut alike, and a number means the same in both.
    #[must_use]
    pub fn alike(&self, other: &Self) -> bool {
        let cut_alike = Arc::ptr_eq(&self.starts, &other.starts) || self.starts == other.starts;
        let mut outcomes = self.outcomes.iter().zip(other.outcomes.iter());
        cut_alike
            && self.shards.len() == other.shards.len()
            && (Arc::ptr_eq(&self.outcomes, &other.outcomes) || outcomes.all(|(a, b)| a == b))
    }

    /// The pieces as they are cut, in ascending order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<N::Address>> + '_ {
        self.shards.iter().flat_map(|shard| shard.pieces.iter().copied())
    }

    /// The ranges in ascending order, joined over cuts.
    pub fn joined(&self) -> impl Iterator<Item = Piece<N::Address>> + '_ {
        join(self.pieces())
    }

    /// The same with outcomes.
    pub fn ranges(&self) -> impl Iterator<Item = (N::Address, N::Address, &Outcome)> + '_ {
        self.joined()
            .filter_map(|(low, high, number)| Some((low, high, self.outcome(number)?)))
    }

    /// What a number in a shard stands for.
    #[must_use]
    pub fn outcome(&self, number: u32) -> Option<&Outcome> {
        self.outcomes.get(usize::try_from(number).ok()?)
    }

    /// The fewest prefixes that say it, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (N, &Outcome)> + '_ {
        self.ranges().flat_map(|(low, high, outcome)| {
            let mut nets = Vec::new();
            cut(low, high, |net| nets.push((net, outcome)));
            nets
        })
    }

    /// The prefixes of [`Self::iter`].
    pub fn keys(&self) -> impl Iterator<Item = N> + '_ {
        self.iter().map(|(net, _)| net)
    }

    /// The outcomes of [`Self::iter`].
    pub fn values(&self) -> impl Iterator<Item = &Outcome> + '_ {
        self.iter().map(|(_, outcome)| outcome)
    }

    /// How many prefixes [`Self::iter`] has.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner: usize = self.shards.iter().map(|shard| shard.inner).sum();
        // What may go on in a neighbour is not counted in the shards. An inner piece between the two is none that touches a cut.
        let mut edges = Vec::with_capacity(2 * self.shards.len());
        for shard in &self.shards {
            edges.extend(shard.pieces.first());
            edges.extend(shard.pieces.last().filter(|_| shard.pieces.len() > 1));
        }
        let inner_edges = |(low, high, _): Piece<N::Address>| prefixes_of(low, high);
        inner + join(edges.into_iter()).map(inner_edges).sum::<usize>()
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.pieces.is_empty())
    }

    /// The outcome for an address.
    #[must_use]
    pub fn get(&self, address: N::Address) -> Option<&Outcome> {
        let at = self.starts.partition_point(|start| *start <= address);
        let pieces = &self.shards.get(at.checked_sub(1)?)?.pieces;
        let at = pieces.partition_point(|&(_, high, _)| high < address);
        let &(low, _, number) = pieces.get(at)?;
        (low <= address).then(|| self.outcome(number)).flatten()
    }

    /// Which outcomes occur, by number.
    #[must_use]
    pub fn used(&self) -> Vec<bool> {
        let mut used = vec![false; self.outcomes.len()];
        for (_, _, number) in self.pieces() {
            if let Some(used) = usize::try_from(number).ok().and_then(|n| used.get_mut(n)) {
                *used = true;
            }
        }
        used
    }
}

/// Joins neighbours that say the same.
pub(crate) fn join<A: Address>(pieces: impl Iterator<Item = Piece<A>>) -> impl Iterator<Item = Piece<A>> {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let (low, mut high, number) = pieces.next()?;
        while let Some((_, end, _)) =
            pieces.next_if(|&(next, _, other)| other == number && high.next() == Some(next))
        {
            high = end;
        }
        Some((low, high, number))
    })
}

impl<N: Net> PartialEq for Table<N> {
    fn eq(&self, other: &Self) -> bool {
        self.same(other) || self.ranges().eq(other.ranges())
    }
}

impl<N: Net> Eq for Table<N> {}

impl<N: Net> std::fmt::Debug for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// What longest-prefix match makes of prefixes, in one shard. Of equal prefixes the last one counts.
impl<N: Net> FromIterator<(N, Outcome)> for Table<N> {
    fn from_iter<I: IntoIterator<Item = (N, Outcome)>>(prefixes: I) -> Self {
        let prefixes: BTreeMap<N, Outcome> = prefixes.into_iter().collect();
        let mut numbers: BTreeMap<&Outcome, u32> = BTreeMap::new();
        let mut outcomes = Vec::new();
        for outcome in prefixes.values() {
            numbers.entry(outcome).or_insert_with(|| {
                outcomes.push(outcome.clone());
                u32::try_from(outcomes.len() - 1).unwrap_or(u32::MAX)
            });
        }
        let numbered = prefixes.iter().map(|(net, outcome)| {
            let (low, high) = net.ends();
            (low, high, numbers.get(outcome).copied().unwrap_or(u32::MAX))
        });
        let pieces = join(longest(numbered.collect()).into_iter()).collect();
        Self::new(
            Arc::new(outcomes),
            Arc::new(vec![N::Address::MIN]),
            vec![Arc::new(Shard::new(pieces))],
        )
    }
}

impl<N: Net, const K: usize> From<[(N, Outcome); K]> for Table<N> {
    fn from(prefixes: [(N, Outcome); K]) -> Self {
        prefixes.into_iter().collect()
    }
}

/// Ranges of prefixes, each wholly in another or apart from it: of those that hold an address the smallest counts.
fn longest<A: Address>(mut nested: Vec<Piece<A>>) -> Vec<Piece<A>> {
    // Parents before children.
    nested.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut out: Vec<Piece<A>> = Vec::with_capacity(nested.len());
    let mut open: Vec<(A, u32)> = Vec::new();
    // First address not yet written; `None` past the end of the address space.
    let mut next = Some(A::MIN);
    let close = |out: &mut Vec<Piece<A>>, next: &mut Option<A>, last: A, number: u32| {
        if let Some(first) = next.filter(|first| *first <= last) {
            out.push((first, last, number));
            *next = last.next();
        }
    };
    for (low, high, number) in nested {
        while let Some(&(last, outer)) = open.last().filter(|(last, _)| *last < low) {
            close(&mut out, &mut next, last, outer);
            open.pop();
        }
        if let (Some(&(_, outer)), Some(before)) = (open.last(), low.previous()) {
            close(&mut out, &mut next, before, outer);
        }
        open.push((high, number));
        next = Some(low);
    }
    while let Some((last, number)) = open.pop() {
        close(&mut out, &mut next, last, number);
    }
    out
}

/// As [`Table`], of IPv4 sources.
pub type Table4 = Table<Ipv4Net>;
/// As [`Table`], of IPv6 sources.
pub type Table6 = Table<Ipv6Net>;

#[cfg(test)]
mod tests;
