use std::net::{Ipv4Addr, Ipv6Addr};

use gwfilter_common::abi::{MAX_RULES, VERDICT_CLASS, VERDICT_DROP, VERDICT_DROP_NEW, VERDICT_PASS};
use gwfilter_common::flat::{Flat, unpack, v4, v6};
use gwfilter_common::reason::Reason;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;

fn leaf(rule: u32) -> Leaf {
    Leaf {
        verdict: VERDICT_DROP,
        reason: Reason::DeniedByRule.code(),
        _pad: 0,
        rule,
    }
}

/// The longest prefix, tried one by one.
fn slow<N: Prefix>(entries: &[(N, Leaf)], addr: u128) -> Option<Leaf> {
    entries
        .iter()
        .filter(|(net, _)| net.range().first <= addr && addr <= net.range().last)
        .max_by_key(|(net, _)| std::cmp::Reverse(net.range().last - net.range().first))
        .map(|(_, leaf)| *leaf)
}

fn value(found: Flat) -> Option<Leaf> {
    match found {
        Flat::Value(word) => unpack(word),
        Flat::Damaged => panic!("damaged"),
    }
}

fn find4(lines: &Lines, address: u32) -> Flat {
    if v4::is_wide(lines.len()) {
        v4::find_wide(lines.as_slice(), address)
    } else {
        v4::find(lines.as_slice(), address)
    }
}

fn find6(lines: &Lines, address: u128) -> Flat {
    let (upper, lower) = halves(address);
    v6::find(lines.as_slice(), upper, lower)
}

/// Addresses at which the answer may change, and their neighbours.
fn edges<N: Prefix>(entries: &[(N, Leaf)]) -> Vec<u128> {
    let max = if N::BITS == 32 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    let mut all = vec![0, 1, max, max - 1, max / 2];
    for (net, _) in entries {
        let range = net.range();
        for at in [range.first, range.last] {
            all.extend([at.saturating_sub(1), at, at.saturating_add(1).min(max)]);
            all.extend([at ^ 0x800, at ^ (1 << 12).min(max), at ^ (1 << 64 & max)]);
        }
    }
    all.into_iter().map(|at| at & max).collect()
}

fn same4(entries: &[(Ipv4Net, Leaf)], more: &[u32]) {
    for lines in [narrow4(entries).unwrap(), wide4(entries).unwrap()] {
        let more = more.iter().map(|a| u128::from(*a));
        for addr in edges(entries).into_iter().chain(more) {
            let addr32 = u32::try_from(addr).unwrap();
            let found = find4(&lines, addr32);
            assert_eq!(
                value(found),
                slow(entries, addr),
                "{}",
                Ipv4Addr::from_bits(addr32)
            );
        }
        assert_eq!(changes4(&lines), changes(entries).unwrap());
    }
}

fn same6(entries: &[(Ipv6Net, Leaf)], more: &[u128]) {
    let lines = build6(entries).unwrap();
    for addr in edges(entries).into_iter().chain(more.iter().copied()) {
        let found = find6(&lines, addr);
        assert_eq!(value(found), slow(entries, addr), "{}", Ipv6Addr::from_bits(addr));
    }
}

fn dedup<N: Prefix>(mut entries: Vec<(N, Leaf)>) -> Vec<(N, Leaf)> {
    entries.sort_by_key(|(net, _)| *net);
    entries.dedup_by_key(|(net, _)| *net);
    entries
}

fn leaves() -> impl Strategy<Value = Leaf> {
    let verdict = prop::sample::select(vec![VERDICT_PASS, VERDICT_DROP, VERDICT_DROP_NEW, VERDICT_CLASS]);
    (verdict, 1..15_u8, 0..MAX_RULES).prop_map(|(verdict, reason, rule)| Leaf {
        verdict,
        reason,
        _pad: 0,
        rule,
    })
}

/// Crowded in few networks, so that prefixes nest and blocks of every kind come about.
fn nets4() -> impl Strategy<Value = Ipv4Net> {
    let address = prop_oneof![
        any::<u32>(),
        (0..0x3000_u32).prop_map(|low| 0x0a00_0000 | low),
        (0..0x1000_u32).prop_map(|low| 0xffff_f000 | low),
    ];
    let length = prop_oneof![1 => 0..=32_u8, 3 => 20..=32_u8];
    (address, length).prop_map(|(a, l)| Ipv4Net::new(a.into(), l).unwrap().trunc())
}

fn nets6() -> impl Strategy<Value = Ipv6Net> {
    let address = prop_oneof![
        any::<u128>(),
        (0..64_u128, 0..64_u128).prop_map(|(h, l)| 0x2001_0db8 << 96 | h << 64 | l),
        (0..8_u128).prop_map(|low| !low),
    ];
    let length = prop_oneof![0..=128_u8, 60..=68_u8, 120..=128_u8];
    (address, length).prop_map(|(a, l)| Ipv6Net::new(a.into(), l).unwrap().trunc())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ipv4_answers_as_the_longest_prefix(
        entries in prop::collection::vec((nets4(), leaves()), 0..300),
        more in prop::collection::vec(any::<u32>(), 50),
    ) {
        same4(&dedup(entries), &more);
    }

    #[test]
    fn ipv6_answers_as_the_longest_prefix(
        entries in prop::collection::vec((nets6(), leaves()), 0..300),
        more in prop::collection::vec(any::<u128>(), 50),
    ) {
        same6(&dedup(entries), &more);
    }

    #[test]
    fn whatever_stands_in_a_table_finding_ends(
        lines in prop::collection::vec(any::<[u64; 8]>(), 0..64),
        small in prop::collection::vec(prop::array::uniform8(0..64_u64), 0..64),
        address in any::<u128>(),
    ) {
        for lines in [lines, small] {
            let _ = find6(&lines, address);
            let address = u32::try_from(address & 0x001f_ffff).unwrap();
            let _ = v4::find(lines.as_slice(), address);
            let _ = v4::find_wide(lines.as_slice(), address);
        }
    }
}

#[test]
fn every_kind_of_block_answers_at_each_of_its_addresses() {
    // Per /20: hosts with a gap between each, so 2n + 1 runs.
    for hosts in [0, 1, 2, 3, 7, 8, 9, 100, 127, 128, 129, 1500, 2047] {
        let net = |i: u32| Ipv4Net::new((0xc633_6000 + 1 + 2 * i).into(), 32).unwrap();
        let entries: Vec<_> = (0..hosts).map(|i| (net(i), leaf(1 + i % 4000))).collect();
        for lines in [narrow4(&entries).unwrap(), wide4(&entries).unwrap()] {
            for low in 0..4096_u32 {
                let wanted = (low % 2 == 1 && low / 2 < hosts).then(|| leaf(1 + low / 2 % 4000));
                assert_eq!(
                    value(find4(&lines, 0xc633_6000 + low)),
                    wanted,
                    "{hosts} hosts, {low}"
                );
            }
        }
    }
}

#[test]
fn a_whole_ipv6_tree_answers_at_each_key() {
    for hosts in [0, 1, 2, 3, 4, 5, 22, 23, 44, 45, 46, 201, 1000, 5000] {
        let (wide, narrow) = (0x2001_0db8_u128 << 96, 0x2001_0db9_u128 << 96);
        let net = |base: u128, i: u128, len| Ipv6Net::new((base + i).into(), len).unwrap();
        let mut entries = Vec::new();
        for i in 0..hosts {
            entries.push((net(wide, (2 * i + 1) << 64, 64), leaf(1)));
            entries.push((net(narrow, 2 * i + 1, 128), leaf(2)));
        }
        let entries = dedup(entries);
        let lines = build6(&entries).unwrap();
        for i in 0..=2 * hosts + 1 {
            for (addr, rule) in [(wide + (i << 64) + 7, 1), (narrow + i, 2)] {
                let wanted = (i % 2 == 1 && i / 2 < hosts).then(|| leaf(rule));
                assert_eq!(value(find6(&lines, addr)), wanted, "{hosts} {i}");
            }
        }
    }
}

#[test]
fn a_million_hosts_take_less_memory_than_a_trie() {
    // splitmix64: the same hosts each time.
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let v4 = |r: u64| Ipv4Net::new(((r >> 32) as u32).into(), 32).unwrap();
    let entries = dedup((0..1_000_000).map(|_| (v4(next()), leaf(1))).collect());
    let lines = build4(&entries).unwrap();
    assert!(
        v4::is_wide(lines.len()) && lines.len() < 20 << 14,
        "{} MiB",
        lines.len() >> 14
    );
    for (net, _) in entries.iter().step_by(997) {
        assert_eq!(value(find4(&lines, net.addr().to_bits())), Some(leaf(1)));
    }
    let v6 = |r: u64, s: u64| {
        let addr = 0x2000_u128 << 112 | u128::from(r >> 3) << 64 | u128::from(s);
        Ipv6Net::new(addr.into(), if r & 1 == 0 { 128 } else { 32 + (r % 33) as u8 })
            .unwrap()
            .trunc()
    };
    let entries = dedup((0..1_000_000).map(|_| (v6(next(), next()), leaf(1))).collect());
    let lines = build6(&entries).unwrap();
    assert!(lines.len() < 96 << 14, "{} MiB", lines.len() >> 14);
    for (net, _) in entries.iter().step_by(997) {
        assert_eq!(value(find6(&lines, net.addr().to_bits())), Some(leaf(1)));
    }
}

#[test]
fn what_has_no_word_is_refused() {
    let odd = Leaf {
        rule: MAX_RULES,
        ..leaf(1)
    };
    assert_eq!(
        build4(&[("10.0.0.0/8".parse().unwrap(), odd)]),
        Err(FlatError::Leaf)
    );
    assert_eq!(build6(&[("::/0".parse().unwrap(), odd)]), Err(FlatError::Leaf));
}
