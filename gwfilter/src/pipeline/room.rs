//! Which gateways find room in a generation. What it holds is bounded, and one gateway that asks for too much must cost no other its
//! enforcement, nor the node a whole generation.
//!
//! What does not fit is taken from the namespace that asks for most, the largest of its gateways first: a namespace that asks for
//! no more than an equal share never loses anything. There is no smaller bound for a gateway by itself: one with many
//! addresses and ports, alone on its node, may have all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gwfilter_common::abi::{MAX_LISTENERS, MAX_TUPLES, PROXY_SLOTS};

use super::{Owner, Settled};
use crate::gateway::model::{Gateway, Why};

/// The code of a gateway that is left out.
pub(super) const CODE: &str = "no-room";

/// What each gateway asks for of one thing, by its index.
type Asked = BTreeMap<usize, usize>;

/// The gateways that are left out, by their indices, each with the reason. Empty: everything fits.
pub(super) fn without(gateways: &[Gateway], settled: &Settled) -> BTreeMap<usize, Why> {
    let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let all = [
        (destinations(settled), MAX_TUPLES, "destinations"),
        // Index 0 counts for no listener.
        (listeners(settled), number(MAX_LISTENERS - 1), "listeners"),
        (
            headers(settled),
            number(PROXY_SLOTS),
            "different sets of tables for PROXY headers",
        ),
    ];
    let mut out = BTreeMap::new();
    for (mut asked, most, what) in all {
        asked.retain(|gateway, _| !out.contains_key(gateway));
        let total: usize = asked.values().sum();
        for (index, own) in surplus(gateways, asked, most) {
            let namespace = gateways.get(index).map_or("", |g| g.namespace.as_str());
            let text = format!(
                "the gateways of this node ask for {total} {what}, and its tables hold {most}; this one asks for {own}, and its namespace \
                 {namespace} for more than any other, so it is left out, and its policies are left to it: take addresses \
                 (externalIPs, load-balancer addresses) or ports from the Service, or spread gateways over more nodes"
            );
            out.insert(index, Why { code: CODE, text });
        }
    }
    out
}

/// What a namespace asks for, and what each of its gateways does, with its number.
type Namespace = (usize, BTreeSet<(usize, usize)>);

/// Whom to leave out, with what each asks for.
fn surplus(gateways: &[Gateway], asked: Asked, most: usize) -> Vec<(usize, usize)> {
    let mut total: usize = asked.values().sum();
    let mut namespaces: BTreeMap<&str, Namespace> = BTreeMap::new();
    for (index, own) in asked {
        let name = gateways.get(index).map_or("", |g| g.namespace.as_str());
        let (sum, members) = namespaces.entry(name).or_default();
        *sum += own;
        members.insert((own, index));
    }
    let mut out = Vec::new();
    while total > most {
        // Of two that ask for as much, the last one by name.
        let greediest = namespaces
            .values_mut()
            .max_by_key(|(sum, _)| *sum)
            .and_then(|(sum, members)| Some((sum, members.pop_last()?)));
        let Some((sum, (own, index))) = greediest else {
            break;
        };
        *sum -= own;
        total -= own;
        out.push((index, own));
    }
    out
}

/// Destinations that are judged, each counted for the first of its owners.
fn destinations(settled: &Settled) -> Asked {
    let mut asked = Asked::new();
    for owner in settled.owners.values().filter_map(|owners| owners.first()) {
        *asked.entry(owner.gateway).or_default() += 1;
    }
    asked
}

/// Listeners that name counters.
fn listeners(settled: &Settled) -> Asked {
    let first = settled.owners.values().filter_map(|owners| owners.first());
    let names: BTreeSet<&Owner> = first.collect();
    let mut asked = Asked::new();
    for owner in names {
        *asked.entry(owner.gateway).or_default() += 1;
    }
    asked
}

/// Elements of the root table by which headers are judged.
fn headers(settled: &Settled) -> Asked {
    let mut sets = BTreeSet::new();
    let mut asked = Asked::new();
    for (key, target) in &settled.desired.tuples {
        let owner = settled.owners.get(key).and_then(|owners| owners.first());
        let (Some(tables), Some(owner)) = (target.proxy(), owner) else {
            continue;
        };
        let set = (
            tables.matrix.as_ref().map(|matrix| Arc::as_ptr(matrix).addr()),
            Arc::as_ptr(&tables.never4).addr(),
            Arc::as_ptr(&tables.never6).addr(),
            tables.trusted4.as_ref(),
            tables.trusted6.as_ref(),
        );
        if sets.insert(set) {
            *asked.entry(owner.gateway).or_default() += 1;
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::gateway;

    fn named(namespace: &str) -> Gateway {
        Gateway {
            namespace: namespace.to_owned(),
            ..gateway("x", &[80])
        }
    }

    #[test]
    fn surplus_then_of_the_greediest_namespace_the_largest_and_nobody_below_an_equal_share() {
        let gateways = ["a", "a", "b", "b", "c"].map(named);
        type Case<'a> = (&'a str, [usize; 5], usize, &'a [usize]);
        let cases: [Case<'_>; 7] = [
            ("all fits", [10, 10, 10, 10, 10], 50, &[]),
            ("one too many", [10, 10, 10, 10, 11], 50, &[3]),
            ("the greedy one", [10, 10, 10, 900, 10], 50, &[3]),
            ("larger than all", [0, 0, 0, 0, 51], 50, &[4]),
            ("many small ones of one namespace", [20, 20, 9, 8, 30], 80, &[1]),
            ("one after the other", [20, 19, 20, 19, 30], 80, &[2, 0]),
            ("nothing fits", [1, 1, 1, 1, 1], 0, &[3, 1, 4, 2, 0]),
        ];
        for (name, asked, most, wanted) in cases {
            let asked: Asked = asked.into_iter().enumerate().collect();
            let out: Vec<usize> = surplus(&gateways, asked, most)
                .iter()
                .map(|(index, _)| *index)
                .collect();
            assert_eq!(out, wanted, "{name}");
        }
    }
}
