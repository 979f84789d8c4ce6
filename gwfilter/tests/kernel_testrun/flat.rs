//! Flat source tables in the kernel: what a trie of the same entries says, and whatever stands in them, an answer.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests' own steps")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use aya::maps::{Array, ArrayOfMaps, MapData};
use gwfilter::plan::flat;
use gwfilter_common::abi::{self, FLAT_TABLE, Leaf, Proxy, Tuple, WIDE_TABLE};
use gwfilter_common::decide::{Action, Scope, decide};
use gwfilter_common::flat::{Flat, Line, pack, unpack, v4, v6};
use gwfilter_common::packet::Packet;
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::cases::{self, Want};
use gwfilter_common::testing::mutate::Random;
use gwfilter_common::testing::{Connections, Image, matrix, proxied, root_table, streams, tuple};
use gwfilter_common::wire::l4;
use ipnet::{Ipv4Net, Ipv6Net};
use xtask::kernel::lacks;

use crate::Expected;
use crate::object::{Hook, Object, Scan};

/// `BPF_F_INNER_MAP | BPF_F_MMAPABLE`.
const FLAGS: u32 = 1 << 12 | 1 << 10;
const GATEWAY: &str = "203.0.113.9:443";
const GATEWAY6: &str = "[2001:db8:113::9]:443";

fn put(object: &mut Object, name: &str, index: u32, lines: &[Line]) {
    let mut array = Array::<MapData, Line>::create(u32::try_from(lines.len()).unwrap(), FLAGS).unwrap();
    for (at, line) in (0..).zip(lines).filter(|(_, line)| **line != Line::default()) {
        array.set(at, line, 0).unwrap();
    }
    let mut outer: ArrayOfMaps<_, Array<MapData, Line>> =
        ArrayOfMaps::try_from(object.ebpf.map_mut(name).unwrap()).unwrap();
    outer.set(index, &array, 0).unwrap();
}

/// The forms of an IPv4 table.
type Build4 = fn(&[(Ipv4Net, Leaf)]) -> Result<flat::Lines, flat::FlatError>;
const FORMS: [(u32, Build4); 2] = [
    (FLAT_TABLE, flat::narrow4),
    (FLAT_TABLE | WIDE_TABLE, flat::wide4),
];

/// Fills the kernel's maps with `image`, all source tables flat, those of IPv4 in this form. Leaves that the planner never writes have no flat form: they go, from the
/// image too.
fn fill(object: &mut Object, image: &mut Image, (bits, build4): (u32, Build4)) {
    for table in image.source4.values_mut() {
        table.retain(|(.., leaf)| pack(leaf).is_some());
    }
    for table in image.source6.values_mut() {
        table.retain(|(.., leaf)| pack(leaf).is_some());
    }
    let flat = |number: u32| if number == 0 { 0 } else { number | bits };
    let mut root = image.root.clone().unwrap();
    let (buckets, proxies) = (abi::BUCKETS_START as usize, abi::PROXY_START as usize);
    for slot in &mut root[buckets..proxies] {
        let tuple = Tuple::from_slot(slot);
        let source_table = flat(tuple.source_table);
        *slot = Tuple {
            source_table,
            ..tuple
        }
        .to_slot();
    }
    for slot in &mut root[proxies..] {
        let proxy = Proxy::from_slot(slot);
        *slot = Proxy {
            peer4: flat(proxy.peer4),
            peer6: flat(proxy.peer6),
            client4: flat(proxy.client4),
            client6: flat(proxy.client6),
            dest4: flat(proxy.dest4),
            dest6: flat(proxy.dest6),
            ports: flat(proxy.ports),
            verdicts: flat(proxy.verdicts),
            ..proxy
        }
        .to_slot();
    }
    for (index, table) in &image.source4 {
        let net = |addr: [u8; 4], len: u32| Ipv4Net::new(addr.into(), u8::try_from(len).unwrap()).unwrap();
        let entries: Vec<_> = table
            .iter()
            .map(|(addr, len, leaf)| (net(*addr, *len), *leaf))
            .collect();
        put(object, abi::FLAT4_MAP, *index, &build4(&entries).unwrap());
    }
    for (index, table) in &image.source6 {
        let net = |addr: [u8; 16], len: u32| Ipv6Net::new(addr.into(), u8::try_from(len).unwrap()).unwrap();
        let entries: Vec<_> = table
            .iter()
            .map(|(addr, len, leaf)| (net(*addr, *len), *leaf))
            .collect();
        put(object, abi::FLAT6_MAP, *index, &flat::build6(&entries).unwrap());
    }
    let rest = Image {
        root: Some(root),
        source4: [].into(),
        source6: [].into(),
        ..image.clone()
    };
    object.fill(&rest).unwrap();
}

#[test]
fn each_case_with_flat_tables_then_as_the_host_says_with_tries() {
    for form in FORMS {
        let mut image = cases::image(0);
        let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
        fill(&mut object, &mut image, form);
        for hook in Hook::all() {
            let (mut drops, mut expected) = (0, Expected::default());
            for case in cases::cases().iter().filter(|case| hook.takes(&case.frame)) {
                let want = Want::from(decide(&SliceReader(&case.frame), &image, &()));
                let action = object.run(hook, &case.frame).unwrap();
                assert_eq!(action, want.action, "{hook:?} {}", case.name);
                drops += usize::from(action == Action::Drop);
                expected.add(want);
            }
            assert!(drops > 300, "{drops}");
            expected.assert_counted(&mut object, Scan::Whole, hook.program());
        }
    }
}

#[test]
fn segments_to_proxy_tuples_with_flat_classes_then_as_the_host_says_with_tries() {
    let [narrow, wide] = FORMS;
    for (mut image, steps, form) in [
        (proxied::image(0), proxied::steps(), wide),
        (matrix::image(0, 0), streams::classes(), narrow),
    ] {
        let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
        fill(&mut object, &mut image, form);
        let connections = Connections::default();
        let mut refused = 0;
        for step in steps {
            if lacks(abi::TC_HEADER_PROGRAM) && step.name.contains("v1") {
                // Headers of version 1 are left to the gateway there.
                continue;
            }
            let frame = SliceReader(&step.frame);
            let want = Want::from(streams::decide(&frame, &image, &connections, Scope::All));
            let action = object.run(Hook::Tc, &step.frame).unwrap();
            assert_eq!(action, want.action, "{}", step.name);
            refused += usize::from(action == Action::Drop);
        }
        assert!(refused > 5, "{refused}");
    }
}

/// A leaf as the planner writes them, of a rule below 8.
fn leaf(random: &mut Random) -> Leaf {
    let passes = random.below(4) == 0;
    let verdicts = [abi::VERDICT_DROP, abi::VERDICT_DROP_NEW];
    Leaf {
        verdict: if passes {
            abi::VERDICT_PASS
        } else {
            verdicts[random.below(2)]
        },
        reason: if passes {
            Reason::Allowed
        } else {
            Reason::DeniedByRule
        }
        .code(),
        _pad: 0,
        rule: if passes {
            0
        } else {
            u32::try_from(random.below(8)).unwrap()
        },
    }
}

fn image(tables: (u32, u32)) -> Image {
    let gateway = |addr: &str, listener, source_table| Tuple {
        source_table,
        ..tuple(addr.parse().unwrap(), l4::TCP, listener)
    };
    Image {
        root: Some(root_table(
            0,
            7,
            &[gateway(GATEWAY, 1, tables.0), gateway(GATEWAY6, 2, tables.1)],
        )),
        ..Image::default()
    }
}

/// The frame of a new connection, or of an open one, to the gateway of the family.
fn frame(from: IpAddr, open: bool) -> Vec<u8> {
    let to: SocketAddr = if from.is_ipv4() { GATEWAY } else { GATEWAY6 }.parse().unwrap();
    let flags = if open { l4::ACK } else { l4::SYN };
    let packet = Packet::tcp(SocketAddr::new(from, 40_000), to, flags);
    packet.build().unwrap().bytes().to_vec()
}

/// Crowded and nested prefixes, so that a /20 has from one to thousands of runs.
#[test]
fn thousands_of_nested_prefixes_then_each_edge_is_judged_as_by_a_trie() {
    let mut random = Random(11);
    let mut draw = |bound: usize| random.below(bound);
    let (mut image, mut edges) = (image((1, 1)), Vec::new());
    let mut random_leaf = Random(12);
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for n in 0..3000 {
        // Some /20s hold a few prefixes, one hundreds, one more than a thousand.
        let base = [
            0x0b00_0000_u32,
            0xc633_6000,
            0xc633_7000,
            u32::try_from(draw(1 << 31)).unwrap(),
        ][draw(4)];
        let addr = base | u32::try_from(draw(4096)).unwrap();
        let len = [32, 32, 31, 28, 24, 20, 12][draw(7)];
        let net = Ipv4Net::new(addr.into(), len).unwrap().trunc();
        four.push((net.network().octets(), u32::from(len), leaf(&mut random_leaf)));
        let upper = 0x2001_0db8_0000_0000 | u64::try_from(draw(3) << 16 | draw(40)).unwrap();
        let lower = u64::try_from(draw(1 << 12) << (draw(4) * 16)).unwrap();
        let len = [128, 128, 127, 96, 64, 64, 48, 32][draw(8)];
        let addr = u128::from(upper) << 64 | u128::from(lower);
        let net6 = Ipv6Net::new(addr.into(), len).unwrap().trunc();
        six.push((net6.network().octets(), u32::from(len), leaf(&mut random_leaf)));
        if n % 12 == 0 {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            for at in [first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                edges.push(IpAddr::from(std::net::Ipv4Addr::from_bits(at)));
            }
            let (first, last) = (net6.network().to_bits(), net6.broadcast().to_bits());
            for at in [first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                edges.push(IpAddr::from(std::net::Ipv6Addr::from_bits(at)));
            }
        }
    }
    // Of two equal prefixes a trie keeps the later one.
    let four: BTreeMap<_, _> = four
        .into_iter()
        .map(|(net, len, leaf)| ((net, len), leaf))
        .collect();
    let six: BTreeMap<_, _> = six
        .into_iter()
        .map(|(net, len, leaf)| ((net, len), leaf))
        .collect();
    image.source4.insert(
        1,
        four.into_iter()
            .map(|((net, len), leaf)| (net, len, leaf))
            .collect(),
    );
    image.source6.insert(
        1,
        six.into_iter()
            .map(|((net, len), leaf)| (net, len, leaf))
            .collect(),
    );
    for form in FORMS {
        let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
        fill(&mut object, &mut image, form);
        let (mut drops, mut expected) = (0, Expected::default());
        for (n, from) in edges.iter().enumerate() {
            let frame = frame(*from, n % 3 == 0);
            let want = Want::from(decide(&SliceReader(&frame), &image, &()));
            assert_eq!(
                object.run(Hook::Xdp, &frame).unwrap(),
                want.action,
                "{from} {want:?}"
            );
            drops += usize::from(want.action == Action::Drop);
            expected.add(want);
        }
        assert!(drops > edges.len() / 5, "{drops} of {}", edges.len());
        expected.assert_counted(&mut object, Scan::Whole, "edges");
    }
}

#[test]
fn lines_of_any_content_then_the_kernel_reads_them_as_the_host_does() {
    let mut random = Random(13);
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    let (mut damaged, mut found) = (0, 0);
    for round in 0..32 {
        let wide = round >= 16;
        let bits = if wide { FLAT_TABLE | WIDE_TABLE } else { FLAT_TABLE };
        object.fill(&image((1 | bits, 1 | FLAT_TABLE))).unwrap();
        let mut word = || {
            u64::try_from(random.below(1 << 32)).unwrap() << 32
                | u64::try_from(random.below(1 << 32)).unwrap()
        };
        // Short tables: most places that words name are beyond their end; levels of a root are few and short, or not.
        let mut lines: Vec<Line> = (0..1 + round % 16 * 7)
            .map(|_| std::array::from_fn(|_| word()))
            .collect();
        if wide {
            // Every second line of a front is crowded.
            lines
                .iter_mut()
                .step_by(2)
                .for_each(|line| line[7] |= 0xffff_ffff << 32);
        }
        if round % 2 == 0 {
            let few = (lines.len() as u64).max(2) / 2;
            lines[0] = std::array::from_fn(|level| {
                (word() % few) | ((if level < 3 { word() % few } else { 0 }) << 32)
            });
        }
        put(&mut object, abi::FLAT4_MAP, 1, &lines);
        put(&mut object, abi::FLAT6_MAP, 1, &lines);
        for _ in 0..50 {
            let addr = u128::from(word()) << 64 | u128::from(word());
            let reach = if wide { 15 } else { 17 };
            let four = u32::try_from(addr >> 96).unwrap() % (u32::try_from(lines.len()).unwrap() << reach);
            let (upper, lower) = flat::halves(addr);
            for (from, says) in [
                (
                    IpAddr::from(std::net::Ipv4Addr::from_bits(four)),
                    if wide {
                        v4::find_wide(lines.as_slice(), four)
                    } else {
                        v4::find(lines.as_slice(), four)
                    },
                ),
                (
                    IpAddr::from(std::net::Ipv6Addr::from_bits(addr)),
                    v6::find(lines.as_slice(), upper, lower),
                ),
            ] {
                let leaf = match says {
                    Flat::Damaged => None,
                    Flat::Value(word) => Some(unpack(word)),
                };
                damaged += usize::from(leaf.is_none());
                found += usize::from(matches!(leaf, Some(Some(_))));
                // The same answer from a trie that holds it for this one address.
                let mut host = image((1, 1));
                if let (Some(leaf), IpAddr::V4(from)) = (leaf, from) {
                    let entries = leaf.map(|leaf| (from.octets(), 32, leaf));
                    host.source4.insert(1, entries.into_iter().collect());
                }
                if let (Some(leaf), IpAddr::V6(from)) = (leaf, from) {
                    let entries = leaf.map(|leaf| (from.octets(), 128, leaf));
                    host.source6.insert(1, entries.into_iter().collect());
                }
                let frame = frame(from, false);
                let want = Want::from(decide(&SliceReader(&frame), &host, &()));
                assert_eq!(
                    object.run(Hook::Xdp, &frame).unwrap(),
                    want.action,
                    "{round} {from} {says:?}"
                );
                let mut expected = Expected::default();
                expected.add(want);
                assert_eq!(
                    object.listener_counters(Scan::Cases).unwrap(),
                    expected.listeners,
                    "{from} {says:?}"
                );
                object.zero(Scan::Cases).unwrap();
            }
        }
    }
    assert!(damaged > 100 && found > 100, "{damaged} {found}");
}
