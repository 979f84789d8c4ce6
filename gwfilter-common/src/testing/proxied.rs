//! Segments to PROXY tuples, in the order they are sent, and what each must come to: read by the host tests and by the kernel tests.

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use core::net::SocketAddr;

use super::cases::{Want, pass};
use super::tables::{addr, net6};
use super::{Image, root_table, tuple};
use crate::abi::{self, Leaf, Proxy, Tuple};
use crate::decide::Action;
use crate::packet::{Packet, Transport};
use crate::proxy::v2;
use crate::reason::Reason;
use crate::wire::l4;

/// The destination: listener 9, the first PROXY element.
pub const PROXIED: &str = "203.0.113.20:443";
/// Observed only: listener 10, the same element.
pub const PROXIED_OBSERVED: &str = "203.0.113.21:443";

const LISTENER: u32 = 9;
const OBSERVED: u32 = 10;
const DENIED: &str = "198.51.100.20:40000";
const ALLOWED: &str = "198.51.101.20:40000";
const DENIED6: &str = "[2001:db8:51::20]:40000";
const ISN: u32 = 0xffff_ff00;

/// One segment.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is about.
    pub name: String,
    /// The frame.
    pub frame: Vec<u8>,
    /// What it must come to.
    pub want: Want,
}

/// The tables of [`steps`].
#[must_use]
pub fn image(header_flags: u32) -> Image {
    let class = |rule| Leaf {
        verdict: abi::VERDICT_CLASS,
        reason: 0,
        _pad: 0,
        rule,
    };
    let deny = Leaf {
        verdict: abi::VERDICT_DROP,
        reason: Reason::DeniedByRule.code(),
        _pad: 0,
        rule: 1,
    };
    let whole = |destination, listener, flags| Tuple {
        flags: abi::TUPLE_PROXY | flags,
        proxy: abi::PROXY_START,
        ..tuple(addr(destination), l4::TCP, listener)
    };
    let tuples = [
        whole(PROXIED, LISTENER, 0),
        whole(PROXIED_OBSERVED, OBSERVED, abi::TUPLE_OBSERVE),
    ];
    let mut root = root_table(header_flags, 7, &tuples);
    let proxy = Proxy {
        client4: 1,
        client6: 1,
        verdicts: 2,
        client_classes: 2,
        dest_classes: 1,
        port_classes: 1,
        ..Proxy::default()
    };
    if let Some(slot) = root.get_mut(abi::PROXY_START as usize) {
        *slot = proxy.to_slot();
    }
    Image {
        root: Some(root),
        source4: [
            (1, vec![([198, 51, 100, 0], 24, class(1))]),
            (2, vec![(1_u32.to_be_bytes(), 32, deny)]),
        ]
        .into(),
        source6: [(
            1,
            vec![(net6([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0]), 48, class(1))],
        )]
        .into(),
        ..Image::default()
    }
}

/// Takes the destinations of [`image`] for addresses of pods.
pub fn at_pods(image: &mut Image) {
    for slot in image.root.iter_mut().flatten() {
        let tuple = Tuple::from_slot(slot);
        if tuple.family == 4 && tuple.flags & abi::TUPLE_PROXY != 0 && tuple.proxy == abi::PROXY_START {
            *slot = Tuple {
                flags: tuple.flags | abi::TUPLE_POD,
                ..tuple
            }
            .to_slot();
        }
    }
}

/// A header of version 2 with this command and these ends.
#[must_use]
pub fn header2(command: u8, source: &str, destination: &str) -> Vec<u8> {
    let (source, destination) = (addr(source), addr(destination));
    let mut addresses = Vec::new();
    let family = match (source, destination) {
        (SocketAddr::V4(s), SocketAddr::V4(d)) => {
            addresses.extend(s.ip().octets());
            addresses.extend(d.ip().octets());
            0x11
        }
        (s, d) => {
            for end in [s, d] {
                if let SocketAddr::V6(end) = end {
                    addresses.extend(end.ip().octets());
                }
            }
            0x21
        }
    };
    addresses.extend(source.port().to_be_bytes());
    addresses.extend(destination.port().to_be_bytes());
    let mut bytes = v2::SIGNATURE.to_vec();
    bytes.extend([
        0x20 | command,
        family,
        0,
        u8::try_from(addresses.len()).unwrap_or(0),
    ]);
    bytes.extend(addresses);
    bytes
}

/// A header of version 1.
#[must_use]
pub fn header1(source: &str, destination: &str) -> Vec<u8> {
    let (source, destination) = (addr(source), addr(destination));
    let family = if source.is_ipv4() { 4 } else { 6 };
    format!(
        "PROXY TCP{family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .into_bytes()
}

/// A segment of the connection from this port of the balancer, `offset` bytes behind the SYN.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "a fixture that does not fit is a bug of the test"
)]
pub fn segment(port: u16, to: &str, flags: u8, offset: u32, payload: &[u8]) -> Vec<u8> {
    let source = SocketAddr::new([192, 0, 2, 77].into(), port);
    let packet = Packet {
        payload,
        ..Packet::new(source, addr(to), Transport::Tcp { flags, options: &[] })
    };
    let mut frame = packet.build().expect("fits").bytes().to_vec();
    let sequence = ISN.wrapping_add(offset).to_be_bytes();
    if let Some(field) = frame.get_mut(14 + 20 + 4..14 + 20 + 8) {
        field.copy_from_slice(&sequence);
    }
    frame
}

const fn refused(listener: u32) -> Want {
    Want {
        action: Action::Drop,
        would_drop: false,
        ..pass(Reason::DeniedByRule, listener, 1)
    }
}

/// All segments, in order.
#[must_use]
pub fn steps() -> Vec<Step> {
    const DATA: u8 = l4::ACK | 0x08;
    let mut steps = Vec::new();
    let mut put = |name: &str, frame, want| {
        steps.push(Step {
            name: name.into(),
            frame,
            want,
        });
    };
    let to = PROXIED;
    let quiet = |reason| pass(reason, LISTENER, 0);
    let firsts: [(&str, Vec<u8>, Want); 16] = [
        ("denied, v2", header2(1, DENIED, to), refused(LISTENER)),
        (
            "denied, v2 over v6",
            header2(1, DENIED6, "[2001:db8::1]:443"),
            refused(LISTENER),
        ),
        ("denied, v1", header1(DENIED, to), refused(LISTENER)),
        (
            "denied, v1 over v6",
            header1(DENIED6, "[2001:db8::1]:443"),
            refused(LISTENER),
        ),
        ("allowed, v2", header2(1, ALLOWED, to), quiet(Reason::Allowed)),
        ("allowed, v1", header1(ALLOWED, to), quiet(Reason::Allowed)),
        ("LOCAL", header2(0, DENIED, to), quiet(Reason::HeaderLocal)),
        (
            "UNKNOWN",
            b"PROXY UNKNOWN\r\n".to_vec(),
            quiet(Reason::HeaderUnknown),
        ),
        ("no command", header2(2, DENIED, to), quiet(Reason::HeaderInvalid)),
        (
            "v1 without an address",
            b"PROXY TCP4 a b 1 2\r\n".to_vec(),
            quiet(Reason::HeaderInvalid),
        ),
        (
            "v1 cut short",
            header1(DENIED, to).split_at(20).0.to_vec(),
            quiet(Reason::HeaderIncomplete),
        ),
        (
            "v2 cut short",
            header2(1, DENIED, to).split_at(27).0.to_vec(),
            quiet(Reason::HeaderIncomplete),
        ),
        (
            "only the signature",
            header2(1, DENIED, to).split_at(12).0.to_vec(),
            quiet(Reason::HeaderIncomplete),
        ),
        (
            "other data",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            quiet(Reason::NoHeader),
        ),
        ("three bytes", b"PRO".to_vec(), quiet(Reason::NoHeader)),
        (
            "denied, v2 and data",
            [header2(1, DENIED, to), b"\x16\x03\x01".repeat(50)].concat(),
            refused(LISTENER),
        ),
    ];
    for ((name, payload, want), port) in firsts.into_iter().zip(50_000..) {
        let name = |what: &str| format!("{name}: {what}");
        put(&name("before its SYN"), segment(port, to, DATA, 1, &payload), {
            match want.reason {
                Reason::NoHeader => want,
                _ => quiet(Reason::FirstSegmentUnknown),
            }
        });
        put(
            &name("SYN"),
            segment(port, to, l4::SYN, 0, &[]),
            quiet(Reason::NoHeader),
        );
        put(&name("first segment"), segment(port, to, DATA, 1, &payload), want);
        put(&name("sent again"), segment(port, to, DATA, 1, &payload), want);
        for (offset, urgent) in [(0, 0), (2, 0), (100, 0), (1, l4::URG)] {
            let reason = match (want.reason, urgent) {
                (Reason::NoHeader, 0) => Reason::NoHeader,
                (_, 0) => Reason::NotFirstSegment,
                (Reason::NoHeader, _) => Reason::NoHeader,
                _ => Reason::HeaderInvalid,
            };
            put(
                &name(&format!("at {offset}, URG {urgent}")),
                segment(port, to, DATA | urgent, offset, &payload),
                quiet(reason),
            );
        }
        let port = port + 1000;
        put(&name("on a SYN"), segment(port, to, l4::SYN, 0, &payload), want);
    }
    put(
        "SYN of an observed one",
        segment(52_000, PROXIED_OBSERVED, l4::SYN, 0, &[]),
        pass(Reason::NoHeader, OBSERVED, 0),
    );
    put(
        "observed",
        segment(52_000, PROXIED_OBSERVED, DATA, 1, &header2(1, DENIED, to)),
        Want {
            would_drop: true,
            ..pass(Reason::Observed, OBSERVED, 1)
        },
    );
    steps
}
