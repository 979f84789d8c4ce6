//! What of the generation in force may stay when the wanted one cannot come into force.
//!
//! Too few refusals are the gateway's work, a stale one is an outage: so a destination stays judged as it is only if it
//! refuses nothing that the wanted generation lets in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::leaves;
use super::ranges::{self, Prefix, Range};
use crate::desired::{Desired, Judge, SourceTables, Target};
use crate::gateway::model::Protocol;
use crate::table::Table;

/// The part of `in_force` that refuses no source that `wanted` does not refuse too. It needs no table that is not in force.
#[must_use]
pub fn withdraw(in_force: &Desired, wanted: &Desired) -> Desired {
    let rewritten: BTreeSet<_> = wanted.rewritten.iter().collect();
    // Tables are shared by many destinations: each pair of targets is compared once.
    let mut compared: BTreeMap<_, bool> = BTreeMap::new();
    let mut tuples = BTreeMap::new();
    for (key, old) in &in_force.tuples {
        let Some(new) = wanted.tuples.get(key) else {
            continue;
        };
        // What rewrites sources leaves a PROXY header alone.
        if new.proxy().is_none() && rewritten.contains(key) {
            continue;
        }
        let stays = key.protocol == Protocol::Udp
            || *compared
                .entry((identity(old), identity(new), key.addr.is_ipv4()))
                .or_insert_with(|| refuses_no_more(old, new, key.addr.is_ipv4()));
        if stays {
            let node_address = old.node_address || new.node_address;
            let pod_address = old.pod_address || new.pod_address;
            tuples.insert(
                *key,
                Target {
                    node_address,
                    pod_address,
                    ..old.clone()
                },
            );
        }
    }
    Desired {
        tuples,
        rewritten: wanted.rewritten.clone(),
    }
}

/// Where a target's shared parts lie, and whether it only observes.
fn identity(target: &Target) -> ([Option<usize>; 4], bool) {
    let parts = match &target.judge {
        Judge::Source(tables) => [
            tables.table4.as_ref().map(|t| Arc::as_ptr(t).addr()),
            tables.table6.as_ref().map(|t| Arc::as_ptr(t).addr()),
            Some(Arc::as_ptr(&tables.never4).addr()),
            Some(Arc::as_ptr(&tables.never6).addr()),
        ],
        Judge::Proxy(tables) => [Some(Arc::as_ptr(tables).addr()), None, None, None],
    };
    (parts, target.observe)
}

/// Whether what `old` refuses at a destination is refused by `new` too.
fn refuses_no_more(old: &Target, new: &Target, v4: bool) -> bool {
    match (&old.judge, &new.judge) {
        (Judge::Source(before), Judge::Source(after)) => {
            if v4 {
                let refused = |t: &SourceTables, observe| refused(t.table4.as_deref(), &t.never4, observe);
                ranges::subtract(&refused(before, old.observe), &refused(after, new.observe)).is_empty()
            } else {
                let refused = |t: &SourceTables, observe| refused(t.table6.as_deref(), &t.never6, observe);
                ranges::subtract(&refused(before, old.observe), &refused(after, new.observe)).is_empty()
            }
        }
        // Classes are not comparable number by number, so nothing but the same tables is taken for as strict.
        (Judge::Proxy(before), Judge::Proxy(after)) => before == after && (old.observe || !new.observe),
        // Another address is the client now.
        _ => false,
    }
}

fn refused<N: Prefix>(table: Option<&Table<N>>, never: &[N], observe: bool) -> Vec<Range> {
    match table {
        Some(table) if !observe => leaves::refused(table, never),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use gwfilter_common::reason::Reason;

    use super::*;
    use crate::desired::{Outcome, Verdict};
    use crate::gateway::model::TupleKey;

    fn target(refused: &[&str], never: &[&str], observe: bool) -> Target {
        let drop = Outcome {
            verdict: Verdict::Drop,
            reason: Reason::DeniedByRule,
            rule: Some("r".into()),
        };
        let table = refused
            .iter()
            .map(|n| (n.parse().unwrap(), drop.clone()))
            .collect();
        Target {
            listener: "a/gw:http".into(),
            judge: Judge::Source(SourceTables {
                table4: Some(Arc::new(table)),
                never4: Arc::new(never.iter().map(|n| n.parse().unwrap()).collect()),
                ..SourceTables::default()
            }),
            observe,
            node_address: false,
            pod_address: false,
            reset: false,
            drain_ms: 0,
        }
    }

    fn key() -> TupleKey {
        TupleKey {
            addr: "203.0.113.80".parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
        }
    }

    fn one(target: Target) -> Desired {
        Desired {
            tuples: [(key(), target)].into(),
            rewritten: Vec::new(),
        }
    }

    #[test]
    fn a_destination_stays_only_if_it_refuses_nothing_that_is_let_in_now() {
        let old = || target(&["10.0.0.0/8"], &["10.9.0.0/16"], false);
        let cases = [
            ("the same", old(), true),
            ("tighter", target(&["10.0.0.0/7"], &["10.9.0.0/16"], false), true),
            (
                "the same in other prefixes",
                target(&["10.0.0.0/9", "10.128.0.0/9"], &[], false),
                true,
            ),
            ("looser", target(&["10.0.0.0/9"], &[], false), false),
            ("other", target(&["11.0.0.0/8"], &[], false), false),
            (
                "one more that is never dropped",
                target(&["10.0.0.0/8"], &["10.9.0.0/16", "10.1.1.1/32"], false),
                false,
            ),
            ("observed only", target(&["10.0.0.0/8"], &[], true), false),
            (
                "without policy",
                Target {
                    judge: Judge::Source(SourceTables::default()),
                    ..old()
                },
                false,
            ),
        ];
        for (name, new, stays) in cases {
            let rest = withdraw(&one(old()), &one(new));
            assert_eq!(rest.tuples.get(&key()), stays.then(old).as_ref(), "{name}");
        }
    }

    #[test]
    fn a_destination_that_is_not_judged_any_more_goes() {
        let old = one(target(&[], &[], false));
        assert!(withdraw(&old, &Desired::default()).tuples.is_empty());
        let rewritten = Desired {
            rewritten: vec![key()],
            ..old.clone()
        };
        assert!(withdraw(&old, &rewritten).tuples.is_empty());
        assert_eq!(withdraw(&old, &rewritten).rewritten, [key()]);
    }

    #[test]
    fn a_destination_that_became_the_nodes_own_is_taken_for_one() {
        let old = one(target(&["10.0.0.0/8"], &[], false));
        let mut new = old.clone();
        new.tuples.values_mut().for_each(|t| t.node_address = true);
        assert_eq!(withdraw(&old, &new), new);
    }
}
