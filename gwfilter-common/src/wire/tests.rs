use std::vec::Vec;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::{Family, Flow, Located, flow, hide, l4, locate};
use crate::packet::{Extension, Fragment, Packet, Transport};
use crate::read::SliceReader;
use crate::testing::cases;
use crate::testing::mutate::{Random, mutate};
use crate::wire::{eth, ipv4, ipv6};

/// The flow of a frame that we would judge.
fn judged(frame: &[u8]) -> Option<(Flow, u8)> {
    let r = SliceReader(frame);
    let Located::Transport(at) = locate(&r) else {
        return None;
    };
    Some((flow(&r)?, at.judgeable(&r)?.flags))
}

/// The flow that an independent parser sees; `None` if it refuses the frame or does not see ports. Flags are 0 for UDP.
fn independent(frame: &[u8]) -> Option<(Flow, u8)> {
    let p = SlicedPacket::from_ethernet(frame).ok()?;
    let wide = |a: [u8; 4]| super::widen(a);
    let (family, source, destination) = match p.net? {
        NetSlice::Ipv4(ip) => (
            Family::V4,
            wide(ip.header().source()),
            wide(ip.header().destination()),
        ),
        NetSlice::Ipv6(ip) => (Family::V6, ip.header().source(), ip.header().destination()),
        _ => return None,
    };
    let flow = |protocol, source_port, destination_port| Flow {
        family,
        protocol,
        source,
        destination,
        source_port,
        destination_port,
    };
    match p.transport? {
        TransportSlice::Tcp(t) => Some((
            flow(l4::TCP, t.source_port(), t.destination_port()),
            t.slice()[13],
        )),
        TransportSlice::Udp(u) => Some((flow(l4::UDP, u.source_port(), u.destination_port()), 0)),
        _ => None,
    }
}

/// What we judge, the other parser reads the same way. It sees no ports in a first fragment, and checks UDP's own length,
/// which no verdict hangs on; those two are taken out.
fn agree(frame: &[u8]) -> Result<bool, TestCaseError> {
    let Some((ours, flags)) = judged(frame) else {
        return Ok(false);
    };
    let mut whole = frame.to_vec();
    unfragment(&mut whole);
    if ours.protocol == l4::UDP {
        return Ok(independent(&whole).is_none_or(|(theirs, _)| theirs == ours));
    }
    prop_assert_eq!(independent(&whole), Some((ours, flags)), "{:02x?}", frame);
    Ok(true)
}

/// Clears "more fragments", so that a first fragment is a packet.
fn unfragment(frame: &mut [u8]) {
    let Located::Transport(at) = locate(&SliceReader(frame)) else {
        return;
    };
    let l3 = at.l3 as usize;
    if at.family == Family::V4 {
        frame[l3 + 6] &= 0xdf;
        return;
    }
    let (mut next, mut off) = (frame[l3 + 6], l3 + 40);
    while off < at.l4 as usize {
        let size = match next {
            ipv6::FRAGMENT => {
                frame[off + 3] &= 0xfe;
                8
            }
            ipv6::AUTHENTICATION => (usize::from(frame[off + 1]) + 2) * 4,
            _ => (usize::from(frame[off + 1]) + 1) * 8,
        };
        next = frame[off];
        off += size;
    }
}

#[test]
fn each_case_then_an_independent_parser_agrees() {
    let judged = cases::cases().iter().filter(|c| agree(&c.frame).unwrap()).count();
    assert!(judged > 2000, "{judged}");
}

#[test]
fn mutated_cases_then_an_independent_parser_agrees() {
    let cases = cases::cases();
    let mut random = Random(2);
    let mut judged = 0;
    for _ in 0..300_000 {
        let mut frame = cases[random.below(cases.len())].frame.clone();
        mutate(&mut random, &mut frame);
        judged += usize::from(agree(&frame).unwrap());
    }
    assert!(judged > 50_000, "{judged}");
}

#[test]
fn any_offset_and_noise_then_hidden_offset_is_the_same() {
    for offset in [0, 14, 22, 62, 12_350, 0x3fff] {
        for noise in [0, 1, 0x5555, 0xffff] {
            assert_eq!(hide(offset, noise), offset);
        }
    }
}

#[test]
fn farthest_header_then_below_the_bound_that_is_told_to_the_verifier() {
    let farthest = eth::HEADER_LEN + 2 * eth::TAG_LEN + ipv6::HEADER_LEN + ipv6::MAX_EXTENSIONS * 2048;
    assert!(farthest <= super::OFFSET_MASK);
}

#[test]
fn any_word_then_a_zero_byte_is_found_exactly() {
    let mut random = Random(3);
    for _ in 0..100_000 {
        let [mut word, _] = random.word().to_ne_bytes().as_chunks().0.try_into().unwrap();
        for byte in word.iter_mut().take(random.below(4)) {
            *byte = [0, 1, 0x80, 0xff][random.below(4)];
        }
        assert_eq!(
            ipv4::zero_byte(u32::from_ne_bytes(word)) != 0,
            word.contains(&0),
            "{word:?}"
        );
    }
}

fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (
        prop_oneof![
            Just(0_u8),
            Just(43),
            Just(44),
            Just(51),
            Just(60),
            Just(135),
            any::<u8>()
        ],
        proptest::collection::vec(any::<u8>(), 0..40),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_then_no_panic_and_agreement(mut frame in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4_u8) {
        if let Some(field) = frame.get_mut(12..15) {
            match kind {
                0 => field.copy_from_slice(&[0x08, 0x00, 0x45]),
                1 => field.copy_from_slice(&[0x86, 0xdd, 0x60]),
                2 => field[..2].copy_from_slice(&[0x81, 0x00]),
                _ => {}
            }
        }
        agree(&frame)?;
    }

    #[test]
    fn any_built_packet_then_what_was_written_is_read(
        v6 in any::<bool>(), source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), sport in any::<u16>(), dport in any::<u16>(),
        flags in any::<u8>(), udp in any::<bool>(), words in 0..11_usize, tags in 0..3_usize, payload in 0..1300_usize,
        options in proptest::collection::vec(0..100_u8, 0..40),
    ) {
        let end = |addr: [u8; 16], port| if v6 {
            (addr, port).into()
        } else {
            ([addr[0], addr[1], addr[2], addr[3]], port).into()
        };
        let transport = if udp { Transport::Udp } else { Transport::Tcp { flags, options: &options } };
        let extensions = [
            Extension::Options(ipv6::HOP_BY_HOP, &[0; 6]),
            Extension::Fragment(Fragment { offset: 0, more: false }),
            Extension::Authentication(12),
        ];
        let ip_options = [1; 40];
        let packet = Packet {
            tags: &[eth::SERVICE_VLAN, eth::VLAN][..tags],
            options: &ip_options[..4 * words],
            extensions: &extensions[..words % 4],
            payload: &[0x55; 1300][..payload],
            ..Packet::new(end(source, sport), end(destination, dport), transport)
        };
        let frame = packet.build().unwrap();
        let narrow = |a: [u8; 16]| if v6 { a } else { super::widen([a[0], a[1], a[2], a[3]]) };
        let flow = Flow {
            family: if v6 { Family::V6 } else { Family::V4 },
            protocol: if udp { l4::UDP } else { l4::TCP },
            source: narrow(source),
            destination: narrow(destination),
            source_port: sport,
            destination_port: dport,
        };
        prop_assert_eq!(judged(frame.bytes()), Some((flow, if udp { 0 } else { flags })));
        agree(frame.bytes())?;
    }

    #[test]
    fn any_extension_chain_then_no_panic_and_agreement(chain in proptest::collection::vec(extension(), 0..9)) {
        let extensions: Vec<_> = chain.iter().map(|(number, body)| Extension::Options(*number, body)).collect();
        let ends = ("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap());
        let packet = Packet { extensions: &extensions, ..Packet::syn(ends.0, ends.1) };
        if let Some(frame) = packet.build() {
            agree(frame.bytes())?;
        }
    }
}
