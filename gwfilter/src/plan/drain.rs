//! The drain window: from when on a source that was let in may be cut off in the middle of a connection.
//!
//! Envoy lets connections live on after a policy change reaches it, for 45 s or for as long as its `drainDuration` says. So for each tuple the planner remembers which
//! sources are refused now, and of those, until when connections from before the refusal may still live. Three rules:
//!
//! - refused now and let in before (passed, never-drop, only observed, or the tuple was not judged): a deadline is set;
//! - refused now and before: its deadline, if any, stays. A second tightening prolongs nothing;
//! - let in now: the deadline goes. A later refusal sets a new one.
//!
//! [`Memory`] is plain data and serializable, so it can outlive the agent; its times are those given to the planner.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use super::ranges::{self, Range};
use super::zones::Zones;
use crate::desired::ENDLESS;
use crate::gateway::model::TupleKey;

/// What is refused at a tuple, and what of it may still have connections. As text it is always [`Flat`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "Flat")]
pub(super) enum Group {
    /// Of a family that is not known, as it was read back.
    Read(Flat),
    /// Of IPv4 sources.
    V4(Zones<Ipv4Net>),
    /// Of IPv6 sources.
    V6(Zones<Ipv6Net>),
}

/// A group as two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Flat {
    /// Sources that are refused, in force. Empty under observe.
    pub(super) refused: Vec<Range>,
    /// Those of them whose connections may still live, with the deadline in milliseconds.
    pub(super) draining: Vec<(Range, u64)>,
}

impl From<Flat> for Group {
    fn from(flat: Flat) -> Self {
        Self::Read(flat)
    }
}

/// There may be millions of ranges: they are written as they are found.
impl Serialize for Group {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Flat", 2)?;
        match self {
            Self::Read(flat) => {
                fields.serialize_field("refused", &flat.refused)?;
                fields.serialize_field("draining", &flat.draining)?;
            }
            Self::V4(zones) => {
                fields.serialize_field("refused", &List(|| zones.refused()))?;
                fields.serialize_field("draining", &List(|| zones.draining()))?;
            }
            Self::V6(zones) => {
                fields.serialize_field("refused", &List(|| zones.refused()))?;
                fields.serialize_field("draining", &List(|| zones.draining()))?;
            }
        }
        fields.end()
    }
}

/// A list that is not there as a whole.
struct List<F>(F);

impl<I: Iterator<Item: Serialize>, F: Fn() -> I> Serialize for List<F> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq((self.0)())
    }
}

impl Group {
    /// When the next of its windows ends.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        match self {
            Self::Read(flat) => flat.draining.iter().map(|(_, d)| *d).min(),
            Self::V4(zones) => zones.next_deadline(),
            Self::V6(zones) => zones.next_deadline(),
        }
    }
}

/// A window that had no end gets one when it is known how long the gateway drains.
pub(super) const fn ended(until: u64, deadline: u64) -> u64 {
    if until == ENDLESS { deadline } else { until }
}

impl Flat {
    /// What drains after `refused` takes the place of what was refused (nothing, if the tuple was not judged) at `now_ms`.
    pub(super) fn next(&self, refused: Vec<Range>, now_ms: u64, drain_ms: u64) -> Self {
        let deadline = now_ms.saturating_add(drain_ms);
        let mut draining: Vec<(Range, u64)> = ranges::intersect(&self.draining, &refused)
            .into_iter()
            .map(|(range, until)| (range, ended(until, deadline)))
            .filter(|(_, d)| *d > now_ms)
            .collect();
        if deadline > now_ms {
            draining.extend(
                ranges::subtract(&refused, &self.refused)
                    .into_iter()
                    .map(|r| (r, deadline)),
            );
        }
        draining.sort_unstable();
        draining.dedup_by(|next, last| {
            let adjoin = last.1 == next.1 && last.0.last.checked_add(1) == Some(next.0.first);
            if adjoin {
                last.0.last = next.0.last;
            }
            adjoin
        });
        Self { refused, draining }
    }

    /// Refused sources that may be cut off in the middle of a connection.
    pub(super) fn settled(&self) -> Vec<Range> {
        ranges::subtract(&self.refused, &self.draining_ranges())
    }

    pub(super) fn draining_ranges(&self) -> Vec<Range> {
        ranges::join(self.draining.iter().map(|(r, _)| *r))
    }
}

/// All that the planner must remember of the past, besides what is in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Shared by the tuples that have the same past.
    pub(super) groups: Vec<Group>,
    /// Judged tuples, with the index of their group.
    #[serde(with = "pairs")]
    pub(super) tuples: BTreeMap<TupleKey, usize>,
    /// Destinations whose sources are rewritten on the way here (`None`), or were until shortly (the deadline of their
    /// connections): nothing drains those connections, and they would carry another peer address now.
    #[serde(with = "pairs")]
    pub(super) rewritten: BTreeMap<TupleKey, Option<u64>>,
    /// Those of `tuples` that are addresses of pods.
    pub(super) pods: BTreeSet<TupleKey>,
}

impl Memory {
    pub(super) fn group(&self, key: &TupleKey) -> Option<(usize, &Group)> {
        let index = *self.tuples.get(key)?;
        self.groups.get(index).map(|g| (index, g))
    }

    /// The rewritten destinations after `now` took the place of the ones remembered.
    pub(super) fn rewritten_next(
        &self,
        now: &[TupleKey],
        now_ms: u64,
        drain_ms: u64,
    ) -> BTreeMap<TupleKey, Option<u64>> {
        let mut next: BTreeMap<TupleKey, Option<u64>> = self
            .rewritten
            .iter()
            .map(|(k, d)| (*k, d.unwrap_or_else(|| now_ms.saturating_add(drain_ms))))
            .filter(|(_, d)| *d > now_ms)
            .map(|(k, d)| (k, Some(d)))
            .collect();
        next.extend(now.iter().map(|k| (*k, None)));
        next
    }
}

/// Maps with struct keys as lists of pairs, which every format can hold.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::model::Protocol;

    fn r(first: u128, last: u128) -> Range {
        Range { first, last }
    }

    #[test]
    fn next_given_a_second_tightening_then_the_first_deadline_stays() {
        let a = Flat::default().next(vec![r(0, 9)], 100, 60);
        let b = a.next(vec![r(0, 19)], 130, 60);
        assert_eq!(b.draining, [(r(0, 9), 160), (r(10, 19), 190)]);
        let c = b.next(vec![r(0, 19)], 160, 60);
        assert_eq!(
            (c.draining.as_slice(), c.settled().as_slice()),
            ([(r(10, 19), 190)].as_slice(), [r(0, 9)].as_slice())
        );
    }

    #[test]
    fn next_given_loosening_and_tightening_again_then_a_new_window() {
        let a = Flat::default().next(vec![r(0, 9)], 100, 60);
        let b = a.next(vec![r(0, 3)], 110, 60);
        let c = b.next(vec![r(0, 9)], 120, 60);
        assert_eq!(c.draining, [(r(0, 3), 160), (r(4, 9), 180)]);
    }

    #[test]
    fn memory_given_a_round_trip_through_json_then_equal() {
        let key = TupleKey {
            addr: "2001:db8::1".parse().unwrap(),
            port: 443,
            protocol: Protocol::Tcp,
        };
        let group = Flat {
            refused: vec![r(0, u128::MAX)],
            draining: vec![(r(5, u128::MAX - 1), 77)],
        };
        let memory = Memory {
            groups: vec![group.into()],
            tuples: BTreeMap::from([(key, 0)]),
            rewritten: BTreeMap::from([(key, Some(9)), (TupleKey { port: 80, ..key }, None)]),
            pods: BTreeSet::from([key]),
        };
        let text = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), memory);
    }
}
