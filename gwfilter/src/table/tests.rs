use std::net::Ipv4Addr;

use gwfilter_common::reason::Reason;
use proptest::prelude::*;

use super::*;
use crate::desired::Verdict;

fn outcome(n: u32) -> Outcome {
    Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(n.to_string().into()),
    }
}

/// Small prefixes of 0.0.0.0/24, so that every address can be tried.
fn nets() -> impl Strategy<Value = BTreeMap<Ipv4Net, u32>> {
    let net = (any::<u8>(), 24_u8..=32).prop_map(|(a, len)| {
        Ipv4Net::new(Ipv4Addr::new(0, 0, 0, a), len)
            .unwrap_or_default()
            .trunc()
    });
    prop::collection::btree_map(net, 0_u32..3, 0..20)
}

/// The same table, cut at these addresses.
fn recut(table: &Table4, cuts: &[u8]) -> Table4 {
    let mut starts: Vec<u32> = cuts.iter().map(|cut| u32::from(*cut)).chain([0]).collect();
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u32::MAX]);
    let shards = starts.iter().zip(ends).map(|(&from, to)| {
        let inside = |(low, high, n): Piece<u32>| {
            let (low, high) = (low.max(from), high.min(to));
            (low <= high).then_some((low, high, n))
        };
        Arc::new(Shard::new(table.pieces().filter_map(inside).collect()))
    });
    let shards = shards.collect();
    Table::new(table.outcomes().clone(), Arc::new(starts), shards)
}

proptest! {
    #[test]
    fn a_table_says_what_the_longest_prefix_says_however_it_is_cut(nets in nets(), cuts in prop::collection::vec(any::<u8>(), 0..6)) {
        let whole: Table4 = nets.iter().map(|(net, n)| (*net, outcome(*n))).collect();
        let table = recut(&whole, &cuts);
        prop_assert_eq!(&table, &whole);
        prop_assert_eq!(table.len(), table.iter().count());
        prop_assert_eq!(table.len(), whole.len());
        prop_assert_eq!(table.is_empty(), nets.is_empty());
        let again: Table4 = table.iter().map(|(net, o)| (net, o.clone())).collect();
        prop_assert_eq!(&again, &whole);
        for address in 0..260_u32 {
            let longest = nets.iter().filter(|(net, _)| net.contains(&Ipv4Addr::from_bits(address))).max_by_key(|(net, _)| net.prefix_len());
            prop_assert_eq!(table.get(address).cloned(), longest.map(|(_, n)| outcome(*n)));
        }
    }

    #[test]
    fn tables_are_equal_exactly_if_they_answer_alike(a in nets(), b in nets(), cuts in prop::collection::vec(any::<u8>(), 0..6)) {
        let table = |nets: &BTreeMap<Ipv4Net, u32>| nets.iter().map(|(net, n)| (*net, outcome(*n))).collect::<Table4>();
        let (x, y) = (table(&a), recut(&table(&b), &cuts));
        let alike = (0..260_u32).all(|address| x.get(address) == y.get(address));
        prop_assert_eq!(x == y, alike);
    }
}
