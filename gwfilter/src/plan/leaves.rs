//! From a compiled table to the leaves that are in force at one time.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::abi::{Leaf, VERDICT_DROP, VERDICT_DROP_NEW, VERDICT_PASS};
use gwfilter_common::flat::pack;
use gwfilter_common::reason::Reason;

use super::drain::Flat;
use super::flat::FlatError;
use super::names::Indices;
use super::ranges::{self, Prefix, Range};
use super::zones::Zones;
use crate::desired::{Outcome, Verdict};
use crate::table::{Address as _, Net, Piece, Table, cut};

/// Sources that a table refuses, without those that are never dropped.
pub(super) fn refused<N: Prefix>(table: &Table<N>, never: &[N]) -> Vec<Range> {
    let drops = table.ranges().filter(|(_, _, o)| o.verdict == Verdict::Drop);
    let drops = ranges::join(drops.map(|(low, high, _)| Range::new(low, high)));
    ranges::subtract(&drops, &ranges::union(never.iter().copied()))
}

/// What a table says at one time, shard by shard.
#[derive(Clone, Debug)]
pub(super) struct Leaves<N: Net> {
    table: Table<N>,
    /// By number of the outcome.
    leaves: Arc<Vec<Leaf>>,
    /// Shards in which something drains, unless all of the table does.
    mixed: BTreeMap<usize, Mixed<N>>,
}

/// The pieces of a shard with their leaves.
type Mixed<N> = Vec<(<N as Net>::Address, <N as Net>::Address, Leaf)>;

impl<N: Prefix> Leaves<N> {
    /// The table as compiled.
    pub(super) fn plain(table: &Table<N>, rules: &Indices) -> Self {
        let leaves = table.outcomes().iter().map(|o| leaf(o, VERDICT_DROP, rules));
        Self {
            leaves: Arc::new(leaves.collect()),
            table: table.clone(),
            mixed: BTreeMap::new(),
        }
    }

    /// The table while some of what it refuses is draining and some is not: ranges are split where that differs.
    pub(super) fn mixed(table: &Table<N>, zones: &Zones<N>, rules: &Indices) -> Self {
        let shards = table.shards().iter().enumerate();
        let mixed = shards.filter_map(|(at, shard)| {
            let flat = zones.mixed(at)?;
            Some((at, split(table, shard.pieces(), &flat, rules)))
        });
        Self {
            mixed: mixed.collect(),
            ..Self::plain(table, rules)
        }
    }

    /// How many prefixes the table has.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The entries of a trie.
    pub(super) fn entries(&self) -> Arc<Vec<(N, Leaf)>> {
        let mut entries = Vec::new();
        for (low, high, leaf) in self.joined() {
            cut(low, high, |net| entries.push((net, leaf)));
        }
        Arc::new(entries)
    }

    /// What it says in ascending order, joined over cuts.
    pub(super) fn joined(&self) -> impl Iterator<Item = (N::Address, N::Address, Leaf)> + '_ {
        let mut pieces = (0..self.table.shards().len())
            .flat_map(|shard| self.pieces(shard))
            .peekable();
        std::iter::from_fn(move || {
            let (low, mut high, leaf) = pieces.next()?;
            while let Some((_, end, _)) =
                pieces.next_if(|(next, _, other)| *other == leaf && high.next() == Some(*next))
            {
                high = end;
            }
            Some((low, high, leaf))
        })
    }

    /// Calls `put` with each address at which what it says changes, and the word of a flat table from there on; the first is the lowest.
    ///
    /// # Errors
    /// [`FlatError::Leaf`].
    pub(super) fn changes(&self, mut put: impl FnMut(N::Address, u32)) -> Result<(), FlatError> {
        let word = |leaf: &Leaf| pack(leaf).ok_or(FlatError::Leaf);
        let words: Vec<u32> = self.leaves.iter().map(word).collect::<Result<_, _>>()?;
        let mut last = None;
        let mut say = |at: N::Address, word: u32| {
            if last != Some(word) {
                put(at, word);
                last = Some(word);
            }
        };
        // What is not told of yet begins here; `None` past the highest address.
        let mut next = Some(N::Address::MIN);
        let mut piece = |low: N::Address, high: N::Address, word: u32| {
            if let Some(gap) = next.filter(|gap| *gap < low) {
                say(gap, 0);
            }
            say(low, word);
            next = high.next();
        };
        for (at, shard) in self.table.shards().iter().enumerate() {
            if let Some(mixed) = self.mixed.get(&at) {
                for (low, high, leaf) in mixed {
                    piece(*low, *high, word(leaf)?);
                }
                continue;
            }
            for &(low, high, number) in shard.pieces() {
                if let Some(word) = words.get(number as usize) {
                    piece(low, high, *word);
                }
            }
        }
        if let Some(gap) = next {
            say(gap, 0);
        }
        Ok(())
    }

    /// What it says in a shard.
    pub(super) fn pieces(
        &self,
        shard: usize,
    ) -> impl Iterator<Item = (N::Address, N::Address, Leaf)> + Clone + '_ {
        let mixed = self.mixed.get(&shard);
        let plain = self.table.shards().get(shard).filter(|_| mixed.is_none());
        let plain = plain.into_iter().flat_map(|shard| shard.pieces());
        let plain = plain.filter_map(|&(low, high, number)| {
            Some((low, high, *self.leaves.get(usize::try_from(number).ok()?)?))
        });
        mixed.into_iter().flatten().copied().chain(plain)
    }

    /// Shards in which the two may say something else; `None`: anywhere.
    pub(super) fn changed(&self, other: &Self) -> Option<Vec<usize>> {
        let mut leaves = self.leaves.iter().zip(other.leaves.iter());
        if !self.table.alike(&other.table) || leaves.any(|(a, b)| a != b) {
            return None;
        }
        let shards = self.table.shards().iter().zip(other.table.shards()).enumerate();
        let changed = |at: &usize, same: bool| !same || self.mixed.get(at) != other.mixed.get(at);
        let shards = shards.map(|(at, (a, b))| (at, Arc::ptr_eq(a, b)));
        Some(
            shards
                .filter(|(at, same)| changed(at, *same))
                .map(|(at, _)| at)
                .collect(),
        )
    }
}

impl<N: Prefix> PartialEq for Leaves<N> {
    fn eq(&self, other: &Self) -> bool {
        match self.changed(other) {
            Some(changed) => {
                let mut changed = changed.into_iter();
                // Pieces may be joined over a cut in one and not in the other only if something else differs too.
                changed.all(|shard| self.pieces(shard).eq(other.pieces(shard)))
            }
            None => self.joined().eq(other.joined()),
        }
    }
}

/// The pieces of a shard in which something drains.
fn split<N: Prefix>(
    table: &Table<N>,
    pieces: &[Piece<N::Address>],
    flat: &Flat,
    rules: &Indices,
) -> Mixed<N> {
    let (draining, settled) = (flat.draining_ranges(), flat.settled());
    let mut out: Mixed<N> = Vec::with_capacity(pieces.len());
    let mut put = |range: Range, leaf: Leaf| {
        out.push((
            N::Address::narrow(range.first),
            N::Address::narrow(range.last),
            leaf,
        ));
    };
    for &(low, high, number) in pieces {
        let range = Range::new(low, high);
        let Some(outcome) = table.outcome(number) else {
            continue;
        };
        let (drop, drop_new) = (
            leaf(outcome, VERDICT_DROP, rules),
            leaf(outcome, VERDICT_DROP_NEW, rules),
        );
        let settled_here = ranges::touching(&settled, range);
        if outcome.verdict == Verdict::Pass || ranges::touching(&draining, range).is_empty() {
            put(range, drop);
        } else if settled_here.is_empty() {
            put(range, drop_new);
        } else {
            // Sources that are never dropped are in neither set; they go with the draining ones.
            ranges::intersect(&[(range, ())], settled_here)
                .into_iter()
                .for_each(|(r, ())| put(r, drop));
            ranges::subtract(&[range], settled_here)
                .into_iter()
                .for_each(|r| put(r, drop_new));
        }
    }
    out.sort_unstable_by_key(|(low, _, _)| *low);
    out
}

/// The members of a never-drop table.
pub(super) fn never<N: Prefix>(prefixes: &[N]) -> Arc<Vec<(N, Leaf)>> {
    let leaf = Leaf {
        verdict: VERDICT_PASS,
        reason: Reason::NeverDropSource.code(),
        _pad: 0,
        rule: 0,
    };
    let mut all: Vec<N> = prefixes.to_vec();
    all.sort_unstable();
    all.dedup();
    Arc::new(all.into_iter().map(|n| (n, leaf)).collect())
}

/// `refusing` is the verdict of a refusal.
pub(super) fn leaf(outcome: &Outcome, refusing: u8, rules: &Indices) -> Leaf {
    let reason = outcome.reason.code();
    match outcome.verdict {
        Verdict::Pass => Leaf {
            verdict: VERDICT_PASS,
            reason,
            _pad: 0,
            rule: 0,
        },
        Verdict::Drop => {
            let rule = outcome
                .rule
                .as_ref()
                .and_then(|name| rules.get(name))
                .unwrap_or(0);
            Leaf {
                verdict: refusing,
                reason,
                _pad: 0,
                rule,
            }
        }
    }
}
