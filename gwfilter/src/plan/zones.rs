//! What is refused at a tuple and what of it drains, shard by shard: where the table is the same shard, so is what is refused.
//!
//! What comes out is what [`Flat::next`] says of the whole; shards only spare looking at what did not change.

use std::cmp::Ordering;
use std::sync::Arc;

use super::drain::{Flat, ended};
use super::ranges::{self, Prefix, Range};
use crate::desired::{ENDLESS, Outcome, Verdict};
use crate::table::{Address, Net, Shard, Table};

type Stretch<N> = (<N as Net>::Address, <N as Net>::Address);

/// What is refused and what drains.
#[derive(Clone, Debug)]
pub(super) struct Zones<N: Net> {
    /// The meaning of the shards' numbers, …
    outcomes: Arc<Vec<Outcome>>,
    /// … and what was taken out of them.
    never: Arc<Vec<N>>,
    starts: Arc<Vec<N::Address>>,
    zones: Vec<Zone<N>>,
}

/// What lies between two cuts.
#[derive(Clone, Debug)]
struct Zone<N: Net> {
    /// What `refused` came from, if it is known.
    shard: Option<Arc<Shard<N::Address>>>,
    refused: Arc<Vec<Stretch<N>>>,
    draining: Draining,
}

/// What of a zone drains, and until when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Draining {
    Nothing,
    /// All that is refused.
    All(u64),
    Some(Arc<Vec<(Range, u64)>>),
}

impl<N: Net> Zone<N> {
    fn is_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    fn ranges(&self) -> Vec<Range> {
        self.refused
            .iter()
            .map(|&(low, high)| Range::new(low, high))
            .collect()
    }

    fn draining(&self) -> Vec<(Range, u64)> {
        match &self.draining {
            Draining::Nothing => Vec::new(),
            Draining::All(until) => self.ranges().into_iter().map(|range| (range, *until)).collect(),
            Draining::Some(list) => list.to_vec(),
        }
    }

    fn flat(&self) -> Flat {
        Flat {
            refused: self.ranges(),
            draining: self.draining(),
        }
    }

    /// The same, when it is later. `drain_ms`: how long what begins to drain now would.
    fn later(&self, now_ms: u64, drain_ms: u64) -> Self {
        let deadline = now_ms.saturating_add(drain_ms);
        let lasts = |until: &u64| *until > now_ms && (*until != ENDLESS || deadline == ENDLESS);
        let draining = match &self.draining {
            Draining::All(until) if lasts(until) => Draining::All(*until),
            Draining::Some(list) if list.iter().all(|(_, until)| lasts(until)) => self.draining.clone(),
            Draining::All(until) if ended(*until, deadline) > now_ms => Draining::All(deadline),
            Draining::Nothing | Draining::All(_) => Draining::Nothing,
            Draining::Some(list) => {
                let ends = list
                    .iter()
                    .map(|(range, until)| (*range, ended(*until, deadline)));
                Draining::of(ends.filter(|(_, until)| *until > now_ms).collect(), &self.refused)
            }
        };
        Self {
            draining,
            ..self.clone()
        }
    }
}

impl Draining {
    fn of<A: Address>(list: Vec<(Range, u64)>, refused: &[(A, A)]) -> Self {
        let Some(&(_, until)) = list.first() else {
            return Self::Nothing;
        };
        let all = list.len() == refused.len() && {
            let mut pairs = list.iter().zip(refused);
            pairs.all(|((range, other), (low, high))| *other == until && *range == Range::new(*low, *high))
        };
        if all {
            Self::All(until)
        } else {
            Self::Some(Arc::new(list))
        }
    }

    const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

impl<N: Prefix> Zones<N> {
    /// What drains after a table, or nothing, takes the place of what was before (nothing, if the tuple was not judged) at `now_ms`.
    pub(super) fn next(
        before: Option<&Self>,
        table: Option<&Table<N>>,
        never: &Arc<Vec<N>>,
        now_ms: u64,
        drain_ms: u64,
    ) -> Self {
        let nothing = Table::default();
        let table = table.unwrap_or(&nothing);
        let empty = Self {
            outcomes: Arc::clone(table.outcomes()),
            never: Arc::clone(never),
            starts: Arc::clone(table.starts()),
            zones: Vec::new(),
        };
        let recut;
        let before = match before {
            Some(before) if before.starts == empty.starts => before,
            Some(before) => {
                recut = Self::cut(&before.flat(), empty);
                &recut
            }
            None => {
                recut = Self::cut(&Flat::default(), empty);
                &recut
            }
        };
        let means_the_same = Arc::ptr_eq(&before.never, never) || before.never == *never;
        let means_the_same = means_the_same && {
            let mut outcomes = before.outcomes.iter().zip(table.outcomes().iter());
            Arc::ptr_eq(&before.outcomes, table.outcomes()) || outcomes.all(|(a, b)| a == b)
        };
        let never_ranges = ranges::union(never.iter().copied());
        let zones = table.shards().iter().zip(&before.zones).map(|(shard, zone)| {
            let same = zone.shard.as_ref().is_some_and(|of| Arc::ptr_eq(of, shard));
            if same && means_the_same {
                return zone.later(now_ms, drain_ms);
            }
            let refused = refused(table, shard, &never_ranges);
            let next = zone.flat().next(refused, now_ms, drain_ms);
            let refused: Vec<Stretch<N>> = next.refused.iter().map(|range| stretch::<N>(*range)).collect();
            Zone {
                shard: Some(Arc::clone(shard)),
                draining: Draining::of(next.draining, &refused),
                refused: Arc::new(refused),
            }
        });
        Self {
            outcomes: Arc::clone(table.outcomes()),
            never: Arc::clone(never),
            starts: Arc::clone(table.starts()),
            zones: zones.collect(),
        }
    }

    /// Two lists, cut as `like` is.
    pub(super) fn cut(flat: &Flat, like: Self) -> Self {
        let ends = like
            .starts
            .iter()
            .skip(1)
            .map(|next| next.wide().saturating_sub(1));
        let ends = ends.chain([N::Address::MAX.wide()]);
        let zones = like.starts.iter().zip(ends).map(|(first, last)| {
            let here = Range {
                first: first.wide(),
                last,
            };
            let refused = ranges::touching(&flat.refused, here).iter();
            let clip = |range: Range| Range {
                first: range.first.max(here.first),
                last: range.last.min(here.last),
            };
            let refused: Vec<Stretch<N>> = refused.map(|range| stretch::<N>(clip(*range))).collect();
            let from = flat
                .draining
                .partition_point(|(range, _)| range.last < here.first);
            let rest = flat.draining.iter().skip(from);
            let draining = rest.take_while(|(range, _)| range.first <= here.last);
            let draining = draining.map(|(range, until)| (clip(*range), *until)).collect();
            Zone {
                shard: None,
                draining: Draining::of(draining, &refused),
                refused: Arc::new(refused),
            }
        });
        let zones = zones.collect();
        Self { zones, ..like }
    }

    /// Two lists as they were read back.
    pub(super) fn read(flat: &Flat) -> Self {
        let like = Self {
            outcomes: Arc::default(),
            never: Arc::default(),
            starts: Arc::new(vec![N::Address::MIN]),
            zones: Vec::new(),
        };
        Self::cut(flat, like)
    }
}

impl<N: Net> Zones<N> {
    /// What is refused, in ascending order, joined over cuts.
    pub(super) fn refused(&self) -> impl Iterator<Item = Range> + '_ {
        let all = self.zones.iter().flat_map(|zone| zone.refused.iter());
        let all = all.map(|&(low, high)| (Range::new(low, high), ()));
        joined(all).map(|(range, ())| range)
    }

    /// What drains, and until when.
    pub(super) fn draining(&self) -> impl Iterator<Item = (Range, u64)> + '_ {
        joined(self.zones.iter().flat_map(Zone::draining))
    }

    /// As two lists.
    pub(super) fn flat(&self) -> Flat {
        Flat {
            refused: self.refused().collect(),
            draining: self.draining().collect(),
        }
    }

    /// Whether anything drains.
    pub(super) fn drains(&self) -> bool {
        self.zones.iter().any(|zone| !zone.draining.is_nothing())
    }

    /// Whether all that is refused drains.
    pub(super) fn drains_all(&self) -> bool {
        let all = |zone: &Zone<N>| match &zone.draining {
            Draining::All(_) => true,
            Draining::Nothing => !zone.is_refused(),
            Draining::Some(..) => zone.flat().settled().is_empty(),
        };
        self.drains() && self.zones.iter().all(all)
    }

    /// What drains in a shard and what does not, if anything does.
    pub(super) fn mixed(&self, shard: usize) -> Option<Flat> {
        let zone = self.zones.get(shard).filter(|zone| !zone.draining.is_nothing())?;
        Some(zone.flat())
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let deadline = |zone: &Zone<N>| match &zone.draining {
            Draining::Nothing => None,
            Draining::All(until) => zone.is_refused().then_some(*until),
            Draining::Some(list) => list.iter().map(|(_, until)| *until).min(),
        };
        self.zones.iter().filter_map(deadline).min()
    }
}

/// Neighbours that say the same are one.
fn joined<T: PartialEq>(ranges: impl Iterator<Item = (Range, T)>) -> impl Iterator<Item = (Range, T)> {
    let mut ranges = ranges.peekable();
    std::iter::from_fn(move || {
        let (mut range, tag) = ranges.next()?;
        while let Some((more, _)) =
            ranges.next_if(|(next, other)| *other == tag && range.last.checked_add(1) == Some(next.first))
        {
            range.last = more.last;
        }
        Some((range, tag))
    })
}

/// What of a shard is refused, without what is never dropped.
fn refused<N: Prefix>(table: &Table<N>, shard: &Shard<N::Address>, never: &[Range]) -> Vec<Range> {
    let drops = |number: u32| table.outcome(number).is_some_and(|o| o.verdict == Verdict::Drop);
    let pieces = shard.pieces().iter().filter(|(_, _, number)| drops(*number));
    let drops = ranges::join(pieces.map(|&(low, high, _)| Range::new(low, high)));
    let (Some(first), Some(last)) = (drops.first(), drops.last()) else {
        return drops;
    };
    let here = Range {
        first: first.first,
        last: last.last,
    };
    ranges::subtract(&drops, ranges::touching(never, here))
}

fn stretch<N: Net>(range: Range) -> Stretch<N> {
    (N::Address::narrow(range.first), N::Address::narrow(range.last))
}

// Equal are those that say the same in the same shards: what differs in that alone is held twice, and nothing else comes of it.
impl<N: Net> Ord for Zones<N> {
    fn cmp(&self, other: &Self) -> Ordering {
        let zones = || {
            for (ours, theirs) in self.zones.iter().zip(&other.zones) {
                let refused = if Arc::ptr_eq(&ours.refused, &theirs.refused) {
                    Ordering::Equal
                } else {
                    ours.refused.cmp(&theirs.refused)
                };
                match refused.then_with(|| ours.draining.cmp(&theirs.draining)) {
                    Ordering::Equal => {}
                    other => return other,
                }
            }
            Ordering::Equal
        };
        self.starts.cmp(&other.starts).then_with(zones)
    }
}

impl<N: Net> PartialOrd for Zones<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<N: Net> PartialEq for Zones<N> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<N: Net> Eq for Zones<N> {}
