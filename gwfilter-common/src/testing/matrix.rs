//! Tables of destinations in PROXY mode in which every class counts, and what they say of a client, reckoned apart from the decision.

use core::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;

use super::cases::{Want, pass};
use super::tables::{addr, net6};
use super::{Image, Trie, root_table, tuple};
use crate::abi::{self, Leaf, Proxy, Tuple};
use crate::decide::Action;
use crate::reason::Reason;
use crate::wire::l4;

/// Judged by the matrix: listener 1.
pub const MATRIX: &str = "203.0.113.30:443";
/// The same for IPv6: listener 2.
pub const MATRIX6: &str = "[2001:db8:113::30]:443";
/// With a list of trusted peers, classes 1 of both families: listener 3.
pub const TRUSTED: &str = "203.0.113.31:443";
/// The same for IPv6: listener 4.
pub const TRUSTED6: &str = "[2001:db8:113::31]:443";
/// With clients that are never dropped ([`NEVER`]), of which peers are asked for nothing: listener 5.
pub const SPARED: &str = "203.0.113.32:443";
/// What refuses does so only to connections that begin at a time or later: listener 6.
pub const DRAINING: &str = "203.0.113.33:443";
/// The same by the tuple's flag, with the full matrix: listener 7.
pub const NEW_ONLY: &str = "203.0.113.34:443";
/// Observed: listener 8.
pub const OBSERVED: &str = "203.0.113.35:443";
/// Without a matrix: listener 9.
pub const UNRULED: &str = "203.0.113.36:443";
/// Listener 10: destinations whose tables are not as they should be.
pub const BROKEN: [&str; 6] = [
    "203.0.113.40:443",
    "203.0.113.41:443",
    "203.0.113.42:443",
    "203.0.113.43:443",
    "203.0.113.44:443",
    "203.0.113.45:443",
];

/// Clients that are never dropped; also peers, which are asked for nothing.
pub const NEVER: [&str; 3] = ["1.2.3.9:40000", "[2001:db8:9::9]:40000", "192.0.2.9:40000"];

/// Peers of classes 0, 1, 2, then 0 and 1 of IPv6.
pub const PEERS: [&str; 5] = [
    "198.18.0.1:1",
    "192.0.2.5:1",
    "192.0.2.200:1",
    "[2001:db8:78::1]:1",
    "[2001:db8:77::1]:1",
];

/// The listener of a destination.
#[must_use]
pub fn listener(to: &str) -> u32 {
    let named = [
        MATRIX, MATRIX6, TRUSTED, TRUSTED6, SPARED, DRAINING, NEW_ONLY, OBSERVED, UNRULED,
    ];
    (1..)
        .zip(named)
        .find(|(_, name)| *name == to)
        .map_or(10, |(listener, _)| listener)
}

/// Classes of peers, 0 to 2.
const PEER4: [(&str, u32, u32); 2] = [("192.0.2.0:0", 24, 1), ("192.0.2.128:0", 25, 2)];
/// Half of all client addresses are of a class of their own.
const CLIENT4: [(&str, u32, u32); 2] = [("0.0.0.0:0", 2, 1), ("64.0.0.0:0", 3, 2)];
const DEST4: [(&str, u32, u32); 1] = [("0.0.0.0:0", 2, 1)];
const PEER6: [(&str, u32, u32); 1] = [("[2001:db8:77::]:0", 48, 1)];
const CLIENT6: [(&str, u32, u32); 2] = [("[::]:0", 2, 1), ("[4000::]:0", 3, 2)];
const DEST6: [(&str, u32, u32); 1] = [("[::]:0", 3, 1)];
/// Ports from here on are of class 1.
const HIGH_PORTS: u16 = 0x8000;
/// Cells of the matrix: 3 × 3 × 2 × 2.
const CELLS: u32 = 36;

fn class_of(address: IpAddr, classes4: &[(&str, u32, u32)], classes6: &[(&str, u32, u32)]) -> u32 {
    let (classes, bits) = match address {
        IpAddr::V4(_) => (classes4, 32),
        IpAddr::V6(_) => (classes6, 128),
    };
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    classes
        .iter()
        .filter(|(net, len, _)| (number(address) ^ number(addr(net).ip())) >> (bits - len) == 0)
        .max_by_key(|(_, len, _)| *len)
        .map_or(0, |(_, _, class)| *class)
}

/// The cell of a connection, by hand.
fn cell(peer: IpAddr, source: SocketAddr, destination: SocketAddr) -> u32 {
    let peer = class_of(peer, &PEER4, &PEER6);
    let client = class_of(source.ip(), &CLIENT4, &CLIENT6);
    let dest = class_of(destination.ip(), &DEST4, &DEST6);
    let port = u32::from(destination.port() >= HIGH_PORTS);
    12 * peer + 4 * client + 2 * dest + port
}

/// What the matrix has at a cell. No axis is without a say: its steps are 12, 4, 2 and 1, and none is a multiple of 5.
fn leaf(cell: u32) -> Option<Leaf> {
    let leaf = |verdict, reason: Reason, rule| {
        Some(Leaf {
            verdict,
            reason: reason.code(),
            _pad: 0,
            rule,
        })
    };
    match cell % 5 {
        0 => None,
        1 => leaf(abi::VERDICT_DROP, Reason::DeniedByRule, 1 + cell),
        2 => leaf(abi::VERDICT_PASS, Reason::Allowed, 1 + cell),
        3 => leaf(abi::VERDICT_DROP, Reason::NoRuleAllows, 0),
        _ => leaf(abi::VERDICT_DROP, Reason::NoRuleAllows, 100),
    }
}

/// What comes of a connection by `peer` to `to` whose header names these ends, if it is judged: all but the drain window.
#[must_use]
pub fn judged(to: &str, peer: IpAddr, source: SocketAddr, destination: SocketAddr) -> Want {
    let listener = listener(to);
    let never = NEVER.iter().any(|never| addr(never).ip() == source.ip());
    if to == SPARED && never {
        return pass(Reason::NeverDropSource, listener, 0);
    }
    if to == UNRULED {
        return pass(Reason::NoPolicy, listener, 0);
    }
    let leaf = leaf(cell(peer, source, destination)).filter(|leaf| leaf.verdict == abi::VERDICT_DROP);
    let Some(Leaf { rule, reason, .. }) = leaf else {
        let listed = class_of(peer, &PEER4, &PEER6) == 1;
        let strange = (to == TRUSTED || to == TRUSTED6) && !listed;
        let reason = if strange {
            Reason::UntrustedProxy
        } else {
            Reason::Allowed
        };
        return pass(reason, listener, 0);
    };
    if to == OBSERVED {
        return Want {
            would_drop: true,
            ..pass(Reason::Observed, listener, rule)
        };
    }
    let reason = Reason::from_code(reason).unwrap_or(Reason::TableMissing);
    Want {
        action: Action::Drop,
        ..pass(reason, listener, rule)
    }
}

/// The tables. Connections that begin before `since_ms` of `CLOCK_MONOTONIC` are spared where a drain window is open.
#[must_use]
#[expect(clippy::indexing_slicing, reason = "elements that the root table has")]
pub fn image(header_flags: u32, since_ms: u64) -> Image {
    let whole = Proxy {
        peer4: 1,
        peer6: 1,
        client4: 2,
        client6: 2,
        dest4: 3,
        dest6: 3,
        ports: 4,
        verdicts: 5,
        client_classes: 3,
        dest_classes: 2,
        port_classes: 2,
        since_ms,
        ..Proxy::default()
    };
    let trusting = Proxy {
        trusted4: 1,
        trusted6: 1,
        ..whole
    };
    let sparing = Proxy {
        never4: 2,
        never6: 2,
        ..whole
    };
    let draining = Proxy { verdicts: 6, ..whole };
    let unruled = Proxy { verdicts: 0, ..whole };
    // A class trie, a matrix and a list that are not there; classes beyond what is said; leaves of another kind; a leaf that is none.
    let broken = [
        Proxy {
            client4: 9,
            client6: 9,
            ..whole
        },
        Proxy { verdicts: 9, ..whole },
        Proxy {
            never4: 9,
            never6: 9,
            ..whole
        },
        Proxy {
            client_classes: 1,
            ..whole
        },
        Proxy { client4: 7, ..whole },
        Proxy { verdicts: 8, ..whole },
    ];
    let proxies = [whole, trusting, sparing, draining, unruled];
    let to = |destination: &str, flags, element: usize| Tuple {
        flags: abi::TUPLE_PROXY | flags,
        proxy: abi::PROXY_START + u32::try_from(element).unwrap_or(u32::MAX),
        ..tuple(addr(destination), l4::TCP, listener(destination))
    };
    let mut tuples = vec![
        to(MATRIX, 0, 0),
        to(MATRIX6, 0, 0),
        to(TRUSTED, 0, 1),
        to(TRUSTED6, 0, 1),
        to(SPARED, 0, 2),
        to(DRAINING, 0, 3),
        to(NEW_ONLY, abi::TUPLE_NEW_ONLY, 0),
        to(OBSERVED, abi::TUPLE_OBSERVE, 0),
        to(UNRULED, 0, 4),
    ];
    tuples.extend(
        (proxies.len()..)
            .zip(BROKEN)
            .map(|(element, name)| to(name, 0, element)),
    );
    let mut root = root_table(header_flags, 7, &tuples);
    for (element, proxy) in (abi::PROXY_START as usize..).zip(proxies.iter().chain(&broken)) {
        root[element] = proxy.to_slot();
    }
    let ports = vec![([0x80, 0, 0, 0], 1, class(1))];
    let here = Leaf {
        verdict: abi::VERDICT_PASS,
        ..class(0)
    };
    Image {
        root: Some(root),
        source4: [
            (1, trie4(&PEER4)),
            (2, trie4(&CLIENT4)),
            (3, trie4(&DEST4)),
            (4, ports),
            (5, verdicts(|leaf| leaf)),
            (
                6,
                verdicts(|leaf| Leaf {
                    verdict: drain(leaf.verdict),
                    ..leaf
                }),
            ),
            (7, vec![([0; 4], 0, here)]),
            (8, vec![([0; 4], 0, class(1))]),
        ]
        .into(),
        source6: [(1, trie6(&PEER6)), (2, trie6(&CLIENT6)), (3, trie6(&DEST6))].into(),
        never4: [
            (1, vec![([192, 0, 2, 0], 25, here)]),
            (2, vec![([1, 2, 3, 9], 32, here), ([192, 0, 2, 9], 32, here)]),
        ]
        .into(),
        never6: [
            (1, vec![(net6([0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0]), 48, here)]),
            (2, vec![(net6([0x2001, 0xdb8, 9, 0, 0, 0, 0, 9]), 128, here)]),
        ]
        .into(),
        ..Image::default()
    }
}

const fn drain(verdict: u8) -> u8 {
    if verdict == abi::VERDICT_DROP {
        abi::VERDICT_DROP_NEW
    } else {
        verdict
    }
}

const fn class(rule: u32) -> Leaf {
    Leaf {
        verdict: abi::VERDICT_CLASS,
        reason: 0,
        _pad: 0,
        rule,
    }
}

fn trie4(classes: &[(&str, u32, u32)]) -> Trie<4, Leaf> {
    let net = |net: &str| match addr(net).ip() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    classes
        .iter()
        .map(|(at, len, rule)| (net(at), *len, class(*rule)))
        .collect()
}

fn trie6(classes: &[(&str, u32, u32)]) -> Trie<16, Leaf> {
    let net = |net: &str| match addr(net).ip() {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(_) => [0; 16],
    };
    classes
        .iter()
        .map(|(at, len, rule)| (net(at), *len, class(*rule)))
        .collect()
}

fn verdicts(change: impl Fn(Leaf) -> Leaf) -> Trie<4, Leaf> {
    let cells: Vec<u32> = (0..CELLS).collect();
    cells
        .into_iter()
        .filter_map(|cell| Some((cell.to_be_bytes(), 32, change(leaf(cell)?))))
        .collect()
}
