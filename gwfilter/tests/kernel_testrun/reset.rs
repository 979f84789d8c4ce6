//! Refusals that are answered: the segment that becomes a reset, byte by byte. What the kernel knows of a packet's checksum is nothing
//! (`CHECKSUM_NONE`) under TEST_RUN; the other states are those of `ends`.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::programs::SchedClassifier;
use aya::{TestRun as _, TestRunOptions};
use gwfilter_common::abi::{self, Leaf, Tuple};
use gwfilter_common::packet::{Extension, Fragment, Packet, Transport};
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::{Image, proxied, root_table, tuple};
use gwfilter_common::wire::l4;

use crate::object::{Object, Scan};

pub(crate) const GATEWAY4: &str = "203.0.113.20:443";
pub(crate) const GATEWAY6: &str = "[2001:db8:113::20]:443";
/// In local mode.
pub(crate) const LOCAL4: &str = "203.0.113.20:444";
pub(crate) const LOCAL6: &str = "[2001:db8:113::20]:444";
const PEER4: &str = "192.0.2.77:50000";
const PEER6: &str = "[2001:db8:77::77]:50000";
pub(crate) const CLIENT: &str = "198.51.100.20:40000";
pub(crate) const OTHER: &str = "198.51.101.20:40000";
const DATA: u8 = l4::ACK | 0x08;

#[expect(clippy::unwrap_used, reason = "constants of this file")]
pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The tables of the segments' tests, with the tuples of this file.
#[expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "fixtures that are there"
)]
pub(crate) fn image() -> Image {
    let mut image = proxied::image(0);
    let proxy = image.root.as_ref().unwrap()[abi::PROXY_START as usize];
    let deny = Leaf {
        verdict: abi::VERDICT_DROP,
        reason: Reason::DeniedByRule.code(),
        _pad: 0,
        rule: 1,
    };
    image.source4.insert(3, vec![([192, 0, 2, 0], 24, deny)]);
    image.source6.insert(3, vec![(addr6(PEER6), 48, deny)]);
    let proxied = |to, listener| Tuple {
        flags: abi::TUPLE_PROXY | abi::TUPLE_RESET,
        proxy: abi::PROXY_START,
        ..tuple(addr(to), l4::TCP, listener)
    };
    let local = |to, listener| Tuple {
        flags: abi::TUPLE_RESET,
        source_table: 3,
        ..tuple(addr(to), l4::TCP, listener)
    };
    let tuples = [
        proxied(GATEWAY4, 1),
        proxied(GATEWAY6, 2),
        local(LOCAL4, 3),
        local(LOCAL6, 4),
    ];
    let mut root = root_table(0, 7, &tuples);
    root[abi::PROXY_START as usize] = proxy;
    image.root = Some(root);
    image
}

#[expect(clippy::panic, reason = "constants of this file")]
fn addr6(text: &str) -> [u8; 16] {
    match addr(text) {
        SocketAddr::V6(address) => address.ip().octets(),
        SocketAddr::V4(_) => panic!("{text} is not IPv6"),
    }
}

/// Runs `gwf_tc` over a frame: what it returned, and the frame as it left it.
fn run(object: &Object, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
    let program = object.ebpf.program(abi::TC_PROGRAM).context("a program")?;
    let mut out = vec![0; 4096];
    let result = <&SchedClassifier>::try_from(program)?.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    })?;
    out.truncate(usize::try_from(result.data_size_out)?);
    Ok((result.return_value, out))
}

/// TC_ACT_UNSPEC.
const ON: u32 = u32::MAX;
/// TC_ACT_SHOT.
const SHOT: u32 = 2;

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u32::from(*high) << 8 | u32::from(*low),
            [high] => u32::from(*high) << 8,
            _ => 0,
        })
        .sum()
}

/// Whether 16-bit words sum up to a right checksum (RFC 1071).
fn right(mut sum: u32) -> bool {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

/// The frame that must have become of `before`, but for checksums, which must be right.
#[track_caller]
#[expect(clippy::indexing_slicing, reason = "a frame too short fails the test")]
fn assert_reset(before: &[u8], after: &[u8], l3: usize, what: &str) {
    let v4 = before[l3] >> 4 == 4;
    let l4 = l3 + if v4 { usize::from(before[l3] & 15) * 4 } else { 40 };
    assert_eq!(after.len(), l4 + 20, "{what}");
    let mut expected = before[..l4 + 20].to_vec();
    if v4 {
        let len = u16::try_from(l4 - l3 + 20).unwrap_or(0).to_be_bytes();
        expected[l3 + 2..l3 + 4].copy_from_slice(&len);
        expected[l3 + 8] = 64;
        expected[l3 + 10..l3 + 12].copy_from_slice(&after[l3 + 10..l3 + 12]);
        assert!(right(sum(&after[l3..l4])), "{what}: IPv4 header");
    } else {
        expected[l3 + 4..l3 + 6].copy_from_slice(&20_u16.to_be_bytes());
        expected[l3 + 7] = 64;
    }
    expected[l4 + 12] = 5 << 4;
    expected[l4 + 13] = l4::RST | l4::ACK;
    expected[l4 + 14..l4 + 16].copy_from_slice(&[0; 2]);
    expected[l4 + 16..l4 + 18].copy_from_slice(&after[l4 + 16..l4 + 18]);
    expected[l4 + 18..l4 + 20].copy_from_slice(&[0; 2]);
    assert_eq!(after, expected, "{what}");
    let addresses = if v4 {
        &after[l3 + 12..l3 + 20]
    } else {
        &after[l3 + 8..l3 + 40]
    };
    assert!(
        right(sum(addresses) + 6 + 20 + sum(&after[l4..])),
        "{what}: TCP checksum"
    );
}

#[test]
fn refused_first_segment_then_it_goes_on_as_a_reset_whose_checksums_are_right() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&image()).unwrap();
    let header = |len: usize| [proxied::header2(1, CLIENT, GATEWAY4), vec![0x5a; len]].concat();
    // Payloads of odd and even length, options of both headers, tags.
    let payloads = [0, 1, 2, 3, 1000].map(header);
    let tags: [&[u16]; 3] = [&[], &[0x8100], &[0x88a8, 0x8100]];
    let options: [&[u8]; 3] = [&[], &[1; 12], &[1; 40]];
    let mut ran = 0;
    for (source, to) in [(PEER4, GATEWAY4), (PEER6, GATEWAY6)] {
        for tags in tags {
            for options in options {
                for payload in &payloads {
                    let what = format!(
                        "{to}, {tags:x?}, {} bytes of options, {} of payload",
                        options.len(),
                        payload.len()
                    );
                    let segment = |tcp, payload| {
                        Packet {
                            tags,
                            payload,
                            options: &[1; 4],
                            ..Packet::new(addr(source), addr(to), Transport::Tcp { flags: tcp, options })
                        }
                        .build()
                        .unwrap()
                    };
                    let syn = segment(l4::SYN, &[]);
                    let (verdict, after) = run(&object, syn.bytes()).unwrap();
                    assert_eq!((verdict, after.as_slice()), (ON, syn.bytes()), "{what}");
                    let mut first = segment(DATA, payload);
                    let l3 = 14 + 4 * tags.len();
                    next_number(first.bytes_mut(), l3);
                    let (verdict, after) = run(&object, first.bytes()).expect(&what);
                    assert_eq!(verdict, ON, "{what}");
                    assert_reset(first.bytes(), &after, l3, &what);
                    ran += 1;
                }
            }
        }
    }
    assert_eq!(ran, 90);
    let counted = object.listener_counters(Scan::Cases).unwrap();
    for listener in [1, 2] {
        let tally = counted[&(listener, u32::from(Reason::DeniedByRule.code()))];
        assert_eq!(tally.dropped, 45, "a refusal is counted as dropped");
    }
}

/// Adds one to the sequence number, and puts the checksum right.
#[expect(clippy::indexing_slicing, reason = "a frame of this file")]
fn next_number(frame: &mut [u8], l3: usize) {
    let l4 = l3
        + if frame[l3] >> 4 == 4 {
            usize::from(frame[l3] & 15) * 4
        } else {
            40
        };
    let low = u16::from_be_bytes([frame[l4 + 6], frame[l4 + 7]]);
    frame[l4 + 6..l4 + 8].copy_from_slice(&(low + 1).to_be_bytes());
    let mut sum = u32::from(!u16::from_be_bytes([frame[l4 + 16], frame[l4 + 17]])) + 1;
    sum = (sum & 0xffff) + (sum >> 16);
    let checksum = u16::try_from(!sum & 0xffff).unwrap_or(0);
    frame[l4 + 16..l4 + 18].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn what_must_not_be_answered_then_it_is_dropped_in_silence() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&image()).unwrap();
    let payload = proxied::header2(1, CLIENT, GATEWAY4);
    let first4 = Packet::new(
        addr(PEER4),
        addr(LOCAL4),
        Transport::Tcp {
            flags: l4::SYN,
            options: &[],
        },
    );
    let more = Fragment {
        offset: 0,
        more: true,
    };
    let before = object.resets().unwrap();
    let silent = [
        // In local mode: a reset, and the first piece of a SYN.
        Packet::tcp(addr(PEER4), addr(LOCAL4), l4::RST),
        Packet::tcp(addr(PEER6), addr(LOCAL6), l4::RST | l4::ACK),
        Packet {
            fragment: Some(more),
            payload: &payload,
            ..first4
        },
        Packet {
            extensions: &[Extension::Options(60, &[])],
            ..Packet::syn(addr(PEER6), addr(LOCAL6))
        },
    ];
    for packet in silent {
        let frame = packet.build().unwrap();
        let (verdict, after) = run(&object, frame.bytes()).unwrap();
        assert_eq!((verdict, after.as_slice()), (SHOT, frame.bytes()), "{packet:?}");
    }
    assert_eq!(object.resets().unwrap(), before, "none was sent");
    let frame = first4.build().unwrap();
    assert_eq!(run(&object, frame.bytes()).unwrap().0, SHOT);
    assert_eq!(object.resets().unwrap(), before + 1);
}

#[test]
fn no_budget_for_resets_then_the_gateway_still_gets_its_own() {
    let mut object = Object::load_with_rate(0).unwrap();
    object.fill(&image()).unwrap();
    let payload = proxied::header2(1, CLIENT, GATEWAY4);
    let syn = Packet::syn(addr(PEER4), addr(GATEWAY4)).build().unwrap();
    assert_eq!(run(&object, syn.bytes()).unwrap().0, ON);
    let mut first = Packet {
        payload: &payload,
        ..Packet::tcp(addr(PEER4), addr(GATEWAY4), DATA)
    }
    .build()
    .unwrap();
    next_number(first.bytes_mut(), 14);
    let (verdict, after) = run(&object, first.bytes()).unwrap();
    assert_eq!(verdict, ON);
    assert_reset(first.bytes(), &after, 14, "without an answer to the peer");
    assert_eq!(object.resets().unwrap(), 0);
    let syn = Packet::syn(addr(PEER4), addr(LOCAL4)).build().unwrap();
    assert_eq!(run(&object, syn.bytes()).unwrap().0, SHOT);
}
