//! Which gateways have samples of their own. A namespace's Services are its tenant's to make, and each may be a gateway here, by
//! `EndpointSlices` written by hand; so a namespace has so many rows, and one more for the rest. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::figures::{GatewayFigures, wide};
use crate::telemetry::counters::Reading;

/// So many gateways of a namespace have samples of their own.
pub const GATEWAYS: usize = 32;

/// Which gateways stand for themselves. Remembered from one answer to the next: one that was put to the others would make its own counter go,
/// and theirs leap. The other way nothing falls, for what a listener had counted stays in a sum that it leaves
/// ([`super::carry::Carry`]).
#[derive(Debug, Default)]
pub struct Groups {
    own: BTreeSet<Arc<str>>,
    summed: BTreeSet<Arc<str>>,
}

impl Groups {
    /// Takes the place of what is summed by one gateway for each namespace, `namespace/(other)`, in all that is known of gateways.
    /// Those that are enforced come first, and then by name.
    pub fn fold(
        &mut self,
        gateways: BTreeMap<String, GatewayFigures>,
        reading: Option<Reading>,
    ) -> (BTreeMap<String, GatewayFigures>, Option<Reading>) {
        let enforced =
            |(_, gateway): &(_, &GatewayFigures)| gateway.enforced.values().all(|enforced| *enforced);
        let (first, then): (Vec<_>, Vec<_>) = gateways.iter().partition(enforced);
        let known = first
            .into_iter()
            .chain(then)
            .map(|(name, _)| Arc::from(name.as_str()));
        let counted = reading
            .iter()
            .flat_map(|reading| reading.listeners.keys().map(|(gateway, _)| Arc::clone(gateway)));
        self.meet(known.chain(counted).collect());
        let mut folded = BTreeMap::<String, GatewayFigures>::new();
        for (name, gateway) in gateways {
            match self.group(&name) {
                None => drop(folded.insert(name, gateway)),
                Some(group) => {
                    let sum = match folded.remove(&group) {
                        None => gateway,
                        Some(sum) => sum.and(gateway),
                    };
                    folded.insert(group, sum);
                }
            }
        }
        let reading = reading.map(|mut reading| {
            let listeners = std::mem::take(&mut reading.listeners).into_iter();
            let listeners = listeners.map(|((gateway, listener), tallies)| match self.group(&gateway) {
                None => ((gateway, listener), tallies),
                Some(group) => {
                    let listener = format!("{gateway} {listener}");
                    ((group.into(), listener.into()), tallies)
                }
            });
            reading.listeners = listeners.collect();
            reading
        });
        (folded, reading)
    }

    /// How many are summed.
    #[must_use]
    pub fn summed(&self) -> u64 {
        wide(self.summed.len())
    }

    /// Takes note of who is there; `names` in the order in which places of their own are given away.
    fn meet(&mut self, names: Vec<Arc<str>>) {
        let there: BTreeSet<Arc<str>> = names.iter().map(Arc::clone).collect();
        self.own.retain(|name| there.contains(name));
        self.summed.clear();
        let mut places = BTreeMap::<Option<String>, usize>::new();
        for name in &self.own {
            *places.entry(namespace(name).map(str::to_owned)).or_default() += 1;
        }
        for name in names {
            if self.own.contains(&name) {
                continue;
            }
            let taken = places.entry(namespace(&name).map(str::to_owned)).or_default();
            if *taken < GATEWAYS {
                *taken += 1;
                self.own.insert(name);
            } else {
                self.summed.insert(name);
            }
        }
    }

    /// What a gateway is summed as; `None`: it stands for itself.
    fn group(&self, name: &str) -> Option<String> {
        self.summed
            .contains(name)
            // No Service has such a name.
            .then(|| format!("{}/(other)", namespace(name).unwrap_or_default()))
    }
}

fn namespace(gateway: &str) -> Option<&str> {
    gateway.split_once('/').map(|(namespace, _)| namespace)
}

impl GatewayFigures {
    /// Two as one. A reason that one of them is not enforced for hides behind no other one.
    fn and(mut self, other: Self) -> Self {
        for (reason, enforced) in other.enforced {
            *self.enforced.entry(reason).or_insert(true) &= enforced;
        }
        for code in other.left {
            if !self.left.contains(&code) {
                self.left.push(code);
            }
        }
        for ((_, sum), (_, more)) in self.rules.iter_mut().zip(other.rules) {
            *sum = sum.saturating_add(more);
        }
        self.prefixes = self.prefixes.saturating_add(other.prefixes);
        self.tuples = self.tuples.saturating_add(other.tuples);
        self
    }
}

#[cfg(test)]
mod tests {
    use gwfilter_common::abi::Tally;

    use super::*;
    use crate::telemetry::metrics::carry::Carry;

    fn gateway(enforced: bool, left: &[&'static str]) -> GatewayFigures {
        GatewayFigures {
            enforced: [(left.first().copied().unwrap_or_default(), enforced)].into(),
            left: left.to_vec(),
            rules: [("node", 1), ("gateway", 2), ("both", 0)],
            prefixes: 10,
            tuples: 1,
        }
    }

    /// Gateways of these numbers in namespace `t`, each with so many dropped packets, and a platform's own one beside them.
    fn there(
        numbers: impl Iterator<Item = usize> + Clone,
        dropped: u64,
    ) -> (BTreeMap<String, GatewayFigures>, Option<Reading>) {
        let name = |n: usize| format!("t/gw-{n:04}");
        let mut gateways: BTreeMap<_, _> = numbers
            .clone()
            .map(|n| (name(n), gateway(false, &["no-tuples"])))
            .collect();
        gateways.insert("istio-system/gw".to_owned(), gateway(true, &[]));
        let tally = Tally {
            dropped,
            ..Tally::default()
        };
        let listeners = numbers.map(|n| ((name(n).into(), "80".into()), vec![tally]));
        let reading = Reading {
            listeners: listeners.collect(),
            ..Reading::default()
        };
        (gateways, Some(reading))
    }

    fn dropped(reading: Option<&Reading>, gateway: &str) -> u64 {
        let listeners = reading.iter().flat_map(|reading| &reading.listeners);
        let its = listeners.filter(|((name, _), _)| **name == *gateway);
        its.flat_map(|(_, tallies)| tallies)
            .map(|tally| tally.dropped)
            .sum()
    }

    #[test]
    fn a_thousand_gateways_of_one_namespace_then_some_by_themselves_and_the_rest_as_one() {
        let mut groups = Groups::default();
        let (mut gateways, reading) = there(0..1000, 3);
        gateways.insert("t/the-last".to_owned(), gateway(true, &["partly"]));
        let (folded, reading) = groups.fold(gateways, reading);
        assert_eq!(folded.len(), GATEWAYS + 2);
        assert_eq!(groups.summed(), 1001 - 32);
        assert!(folded.contains_key("istio-system/gw"), "another namespace");
        assert!(folded.contains_key("t/the-last"), "enforced ones come first");
        let rest = &folded["t/(other)"];
        assert_eq!((rest.prefixes, rest.tuples), (9690, 969));
        assert_eq!(rest.enforced, [("no-tuples", false)].into());
        assert_eq!(rest.rules, [("node", 969), ("gateway", 1938), ("both", 0)]);
        assert_eq!(rest.left, ["no-tuples"]);
        assert_eq!(dropped(reading.as_ref(), "t/(other)"), 3 * 969);
        assert_eq!(dropped(reading.as_ref(), "t/gw-0000"), 3);
        assert_eq!(dropped(reading.as_ref(), "t/gw-0500"), 0);
    }

    #[test]
    fn gateways_that_come_and_go_then_none_loses_its_place_and_no_sum_falls() {
        let (mut groups, mut carry) = (Groups::default(), Carry::default());
        let mut sum = |numbers: std::ops::Range<usize>, n: u64| {
            let (gateways, reading) = there(numbers, n);
            let (folded, reading) = groups.fold(gateways, reading);
            let reading = reading.unwrap();
            let carried = carry.beside(&reading, &[]).gateways;
            let carried = carried.get("t/(other)").map_or(0, |tallies| tallies[0].dropped);
            (folded, dropped(Some(&reading), "t/(other)") + carried)
        };
        let (folded, before) = sum(10..60, 5);
        assert!(folded.contains_key("t/gw-0010") && !folded.contains_key("t/gw-0050"));
        assert_eq!(before, 5 * 18);
        // Ten come that would have been first by name, and have no place.
        let (folded, with_more) = sum(0..60, 5);
        assert!(folded.contains_key("t/gw-0010") && !folded.contains_key("t/gw-0005"));
        assert_eq!(with_more, 5 * 28);
        // Ten with a place go, and ten that were summed take it: what they had counted stays in the sum.
        let (folded, with_fewer) = sum(20..60, 5);
        assert!(folded.contains_key("t/gw-0050") && !folded.contains_key("t/gw-0059"));
        assert_eq!(with_fewer, 5 * 28);
        let (_, more) = sum(20..60, 6);
        assert_eq!(more, 5 * 28 + 8);
    }

    #[test]
    fn enforced_and_not_for_several_reasons_then_none_hides_another() {
        let all = [
            gateway(true, &["partly"]),
            gateway(false, &["no-local-endpoint"]),
            gateway(false, &["no-room", "partly"]),
            gateway(true, &["no-room"]),
            gateway(true, &[]),
        ];
        let sum = all.into_iter().reduce(GatewayFigures::and).unwrap();
        assert_eq!(
            sum.enforced,
            [
                ("", true),
                ("no-local-endpoint", false),
                ("no-room", false),
                ("partly", true)
            ]
            .into()
        );
        assert_eq!(sum.left, ["partly", "no-local-endpoint", "no-room"]);
    }
}
