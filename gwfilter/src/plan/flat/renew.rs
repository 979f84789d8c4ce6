//! A large table of which little changed: a copy of the lines, with what changed behind them.

use gwfilter_common::abi::Leaf;
use gwfilter_common::flat;

use super::{FlatError, Lines, v4};
use crate::table::Address as _;

/// A range of addresses and its leaf.
type Piece = (u32, u32, Leaf);

/// Stretches beyond which a table is built anew.
const MANY: usize = 1 << 14;

/// The lines of a table that says what `new` says in each shard that is given, and what `old` says everywhere else. A shard: what
/// the old table says there and what the new one does, in ascending order, disjoint. No stretch of addresses that a line stands for may be in two shards.
///
/// `None`: too much changed.
///
/// # Errors
/// [`FlatError`].
pub(crate) fn renew4<O, N>(
    old: &Lines,
    shards: impl Iterator<Item = (O, N)>,
) -> Result<Option<Lines>, FlatError>
where
    O: Iterator<Item = Piece>,
    N: Iterator<Item = Piece> + Clone,
{
    let bits = v4::stretch_bits(old.len());
    let mut stretches = Vec::new();
    for (before, after) in shards {
        let mut touched = touched(before, after.clone(), bits);
        touched.sort_unstable();
        touched.dedup();
        if stretches.len() + touched.len() > MANY {
            return Ok(None);
        }
        let after: Vec<Piece> = after.collect();
        for number in touched {
            stretches.push((number, runs(&after, number, bits)?));
        }
    }
    let lines = v4::renew(old, &stretches)?;
    Ok((v4::stretch_bits(lines.len()) == bits).then_some(lines))
}

/// Numbers of stretches in which the two differ, not in order.
fn touched(before: impl Iterator<Item = Piece>, after: impl Iterator<Item = Piece>, bits: u32) -> Vec<u32> {
    let (mut before, mut after) = (before.peekable(), after.peekable());
    let mut touched = Vec::new();
    let place = |piece: &Piece| (piece.0, piece.1);
    loop {
        let next = match (before.peek(), after.peek()) {
            (Some(a), Some(b)) if a == b => {
                before.next();
                after.next();
                continue;
            }
            (Some(a), Some(b)) if place(a) < place(b) => before.next(),
            (Some(_), None) => before.next(),
            (_, Some(_)) => after.next(),
            (None, None) => return touched,
        };
        if let Some((low, high, _)) = next {
            touched.extend((low >> bits..=high >> bits).take(MANY + 1));
        }
    }
}

/// The runs of a stretch: where in it they begin, and their word.
fn runs(pieces: &[Piece], number: u32, bits: u32) -> Result<Vec<(u32, u32)>, FlatError> {
    let low = number << bits;
    let high = low | ((1 << bits) - 1);
    let mut runs = vec![(0, 0)];
    let mut put = |at: u32, word: u32| match runs.last_mut() {
        Some((_, last)) if *last == word => {}
        Some((same, last)) if *same == at => *last = word,
        _ => runs.push((at, word)),
    };
    let from = pieces.partition_point(|(_, end, _)| *end < low);
    let here = pieces
        .iter()
        .skip(from)
        .take_while(|(start, _, _)| *start <= high);
    for (start, end, leaf) in here {
        put((*start).max(low) - low, flat::pack(leaf).ok_or(FlatError::Leaf)?);
        if let Some(next) = end.next().filter(|next| *next <= high) {
            put(next - low, 0);
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use gwfilter_common::abi::VERDICT_DROP;
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::super::{changes4, narrow4, wide4};
    use super::*;

    fn leaf(rule: u32) -> Leaf {
        Leaf {
            verdict: VERDICT_DROP,
            reason: 3,
            _pad: 0,
            rule,
        }
    }

    /// Hosts and short prefixes, dense enough for each kind of block, some over many stretches.
    fn net() -> impl Strategy<Value = Ipv4Net> {
        let net = |(bits, length): (u32, u8)| {
            Ipv4Net::new(Ipv4Addr::from_bits(bits), length)
                .unwrap_or_default()
                .trunc()
        };
        prop_oneof![
            8 => (0x0a00_0000..0x0a00_0400_u32, 24..=32_u8).prop_map(net),
            2 => (0x0a00_0000..0x0a04_0000_u32, 14..=32_u8).prop_map(net),
        ]
    }

    type Nets = BTreeMap<Ipv4Net, u32>;

    fn pieces(nets: &Nets) -> Vec<Piece> {
        let outcome = |rule: &u32| crate::desired::Outcome {
            verdict: crate::desired::Verdict::Drop,
            reason: gwfilter_common::reason::Reason::DeniedByRule,
            rule: Some(rule.to_string().into()),
        };
        let table: crate::table::Table4 = nets.iter().map(|(net, rule)| (*net, outcome(rule))).collect();
        let rule = |o: &crate::desired::Outcome| o.rule.as_ref().and_then(|rule| rule.parse().ok());
        let ranges = table
            .ranges()
            .filter_map(|(low, high, o)| Some((low, high, leaf(rule(o)?))));
        ranges.collect()
    }

    /// What of it lies in one half of the addresses.
    fn half(all: &[Piece], upper: bool) -> Vec<Piece> {
        const CUT: u32 = 0x0a02_0000;
        let (from, to) = if upper { (CUT, u32::MAX) } else { (0, CUT - 1) };
        let here = all
            .iter()
            .map(|(low, high, leaf)| ((*low).max(from), (*high).min(to), *leaf));
        here.filter(|(low, high, _)| low <= high).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

        #[test]
        fn any_history_of_changes_then_the_table_that_is_built_from_nothing(
            first in prop::collection::btree_map(net(), 0..3_u32, 0..400),
            steps in prop::collection::vec(prop::collection::vec((net(), prop::option::of(0..3_u32)), 1..6), 1..6),
        ) {
            for build4 in [narrow4, wide4] {
                let mut nets = first.clone();
                let build = |all: &[Piece]| {
                    let mut entries = Vec::new();
                    for (low, high, leaf) in all {
                        crate::table::cut(*low, *high, |net| entries.push((net, *leaf)));
                    }
                    build4(&entries).unwrap()
                };
                let mut before = pieces(&nets);
                let mut lines = build(&before);
                for step in &steps {
                    for (net, rule) in step.clone() {
                        match rule {
                            Some(rule) => drop(nets.insert(net, rule)),
                            None => drop(nets.remove(&net)),
                        }
                    }
                    let after = pieces(&nets);
                    let shards = [false, true].map(|upper| (half(&before, upper), half(&after, upper)));
                    let shards = shards.iter().map(|(a, b)| (a.iter().copied(), b.iter().copied()));
                    lines = renew4(&lines, shards).unwrap().unwrap();
                    prop_assert_eq!(changes4(&lines), changes4(&build(&after)));
                    before = after;
                }
            }
        }
    }
}
