//! What counters said that are gone: a sum that fell would be taken for one that began anew, and all of it for news. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gwfilter_common::abi::Tally;

use super::table::RULES;
use crate::telemetry::counters::Reading;

/// What is to be added to sums of a reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// By gateway: one tally for each reason code.
    pub gateways: BTreeMap<Arc<str>, Vec<Tally>>,
    /// Of rules that are summed as other.
    pub rules: Tally,
}

/// Remembers a reading until the next one. Lives as long as the agent: after a restart every counter of Prometheus may begin anew.
#[derive(Debug, Default)]
pub struct Carry {
    last: Reading,
    /// Rules that were summed.
    summed: BTreeSet<Arc<str>>,
    carried: Carried,
}

impl Carry {
    /// What to add to the sums of `now`; `rules` as in [`super::Figures::rules`]. An index is given to another name, and begins from zero, when
    /// none is left that was never used.
    pub fn beside(&mut self, now: &Reading, rules: &[Arc<str>]) -> Carried {
        for (name, before) in &self.last.listeners {
            let kept = now.listeners.get(name);
            let carried = self.carried.gateways.entry(Arc::clone(&name.0)).or_default();
            carried.resize(carried.len().max(before.len()), Tally::default());
            for (code, (sum, before)) in carried.iter_mut().zip(before).enumerate() {
                let now = kept.and_then(|tallies| tallies.get(code)).copied();
                *sum = plus(*sum, lost(*before, now.unwrap_or_default()));
            }
        }
        // Without a listener it has no sample that could fall.
        let there: BTreeSet<&Arc<str>> = now.listeners.keys().map(|(gateway, _)| gateway).collect();
        self.carried.gateways.retain(|gateway, _| there.contains(gateway));
        for name in &self.summed {
            let of = |reading: &Reading| reading.rules.get(name).copied().unwrap_or_default();
            self.carried.rules = plus(self.carried.rules, lost(of(&self.last), of(now)));
        }
        self.summed = rules.iter().skip(RULES).map(Arc::clone).collect();
        self.last = now.clone();
        self.carried.clone()
    }
}

/// What a counter said before it began anew; nothing, if it did not.
fn lost(before: Tally, now: Tally) -> Tally {
    let of = |before: u64, now: u64| if now < before { before } else { 0 };
    Tally {
        passed: of(before.passed, now.passed),
        dropped: of(before.dropped, now.dropped),
        would_drop: of(before.would_drop, now.would_drop),
    }
}

pub(super) fn plus(a: Tally, b: Tally) -> Tally {
    Tally {
        passed: a.passed.saturating_add(b.passed),
        dropped: a.dropped.saturating_add(b.dropped),
        would_drop: a.would_drop.saturating_add(b.would_drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(n: u64) -> Tally {
        Tally {
            dropped: n,
            ..Tally::default()
        }
    }

    #[test]
    fn listeners_that_go_or_begin_anew_then_the_sum_of_their_gateway_never_falls() {
        let mut carry = Carry::default();
        let mut sum = |listeners: &[(&str, u64)]| {
            let of = |(name, n): &(&str, u64)| {
                (
                    ("a/gw".into(), (*name).into()),
                    vec![Tally::default(), dropped(*n)],
                )
            };
            let now = Reading {
                listeners: listeners.iter().map(of).collect(),
                ..Reading::default()
            };
            let carried = carry.beside(&now, &[]);
            let carried = carried
                .gateways
                .get("a/gw")
                .map_or(0, |tallies| tallies[1].dropped);
            carried + listeners.iter().map(|(_, n)| n).sum::<u64>()
        };
        for (listeners, wanted) in [
            (&[("80", 1_000_000), ("443", 9_000_000)][..], 10_000_000),
            (&[("443", 9_000_001)][..], 10_000_001),
            (&[("443", 9_000_001)][..], 10_000_001),
            // Back, from zero, and with that more than once.
            (&[("80", 5), ("443", 9_000_001)][..], 10_000_006),
            (&[("80", 3), ("443", 9_000_001)][..], 10_000_009),
        ] {
            assert_eq!(sum(listeners), wanted, "{listeners:?}");
        }
        assert_eq!(sum(&[]), 0, "a gateway without a sample is forgotten");
    }

    #[test]
    fn a_rule_among_the_others_goes_then_their_sum_never_falls() {
        let all: Vec<Arc<str>> = (0..RULES + 3).map(|n| format!("{n:04}").into()).collect();
        let reading = |n: u64| Reading {
            rules: all.iter().map(|name| (Arc::clone(name), dropped(n))).collect(),
            ..Reading::default()
        };
        let mut carry = Carry::default();
        assert_eq!(carry.beside(&reading(7), &all).rules, Tally::default());
        let mut fewer = reading(8);
        fewer.rules.remove(&all[0]);
        fewer.rules.remove(&all[RULES + 1]);
        assert_eq!(carry.beside(&fewer, &all).rules, dropped(7));
    }
}
