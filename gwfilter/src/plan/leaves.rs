//! From a compiled table to the leaves that are in force at one time.

use std::sync::Arc;

use gwfilter_common::abi::{Leaf, VERDICT_DROP, VERDICT_DROP_NEW, VERDICT_PASS};
use gwfilter_common::reason::Reason;

use super::drain::Group;
use super::names::Indices;
use super::ranges::{self, Prefix, Range};
use crate::desired::{Outcome, Verdict};
use crate::table::Table;

/// Sources that a table refuses, without those that are never dropped.
pub(super) fn refused<N: Prefix>(table: &Table<N>, never: &[N]) -> Vec<Range> {
    let drops = table.ranges().filter(|(_, _, o)| o.verdict == Verdict::Drop);
    let drops = ranges::join(drops.map(|(low, high, _)| Range::new(low, high)));
    ranges::subtract(&drops, &ranges::union(never.iter().copied()))
}

/// The table as compiled.
pub(super) fn plain<N: Prefix>(table: &Table<N>, rules: &Indices) -> Arc<Vec<(N, Leaf)>> {
    Arc::new(
        table
            .iter()
            .map(|(n, o)| (n, leaf(o, VERDICT_DROP, rules)))
            .collect(),
    )
}

/// The table while some of what it refuses is draining and some is not: prefixes are split where that differs.
pub(super) fn mixed<N: Prefix>(table: &Table<N>, group: &Group, rules: &Indices) -> Arc<Vec<(N, Leaf)>> {
    let (draining, settled) = (group.draining_ranges(), group.settled());
    let mut out: Vec<(N, Leaf)> = Vec::new();
    let mut put =
        |range: Range, leaf: Leaf| out.extend(ranges::prefixes::<N>(range).into_iter().map(|n| (n, leaf)));
    for (low, high, outcome) in table.ranges() {
        let range = Range::new(low, high);
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
    out.sort_unstable_by_key(|(n, _)| *n);
    Arc::new(out)
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
