//! The tables under which the cases are judged.

use std::vec;

use core::net::SocketAddr;

use super::{Image, Trie, root_table, tuple};
use crate::abi::{self, Leaf, Tuple};
use crate::reason::Reason;
use crate::wire::l4;

/// A gateway destination that is judged in full: listener 1, tables 1.
pub const GATEWAY: &str = "203.0.113.9:443";
/// The same for IPv6: listener 2.
pub const GATEWAY6: &str = "[2001:db8:113::9]:443";
/// Observed only: listener 3.
pub const OBSERVED: &str = "203.0.113.10:443";
/// Refuses only what opens a connection: listener 4.
pub const NEW_ONLY: &str = "203.0.113.11:443";
/// An address of the node: listener 5.
pub const NODE: &str = "203.0.113.12:30443";
/// No source table: listener 6.
pub const NO_TABLE: &str = "203.0.113.13:443";
/// A source table that is not there: listener 7.
pub const LOST_TABLE: &str = "203.0.113.14:443";
/// A never-drop table that is not there: listener 8.
pub const LOST_NEVER: &str = "203.0.113.15:443";
/// A listener that cannot be.
pub const BAD_LISTENER: &str = "203.0.113.16:443";

/// Denied by rule 1.
pub const DENIED: &str = "198.51.100.20:40000";
/// Denied by rule 1, but never to be dropped.
pub const NEVER: &str = "198.51.100.7:40000";
/// Within the denied network, let in by rule 2.
pub const ALLOWED: &str = "198.51.100.70:40000";
/// In no prefix.
pub const UNKNOWN: &str = "8.8.8.8:40000";
/// Allowed by no rule: counted at rule 3.
pub const UNLISTED: &str = "192.0.2.1:40000";
/// Refused lately by rule 4: only new connections.
pub const DRAINING: &str = "192.0.3.1:40000";

/// The tables of [`cases`].
#[must_use]
pub fn image(header_flags: u32) -> Image {
    let pass = Leaf {
        verdict: abi::VERDICT_PASS,
        reason: Reason::Allowed.code(),
        _pad: 0,
        rule: 2,
    };
    let deny = Leaf {
        verdict: abi::VERDICT_DROP,
        reason: Reason::DeniedByRule.code(),
        _pad: 0,
        rule: 1,
    };
    let unlisted = Leaf {
        verdict: abi::VERDICT_DROP,
        reason: Reason::NoRuleAllows.code(),
        _pad: 0,
        rule: 3,
    };
    let draining = Leaf {
        verdict: abi::VERDICT_DROP_NEW,
        rule: 4,
        ..deny
    };
    let v4: Trie<4, Leaf> = vec![
        ([198, 51, 100, 0], 24, deny),
        ([198, 51, 100, 64], 26, pass),
        ([192, 0, 2, 0], 24, unlisted),
        ([192, 0, 3, 0], 24, draining),
        // No leaf that the planner writes: an unknown verdict, a reason that does not refuse, a rule beyond the counters.
        ([192, 0, 4, 0], 24, Leaf { verdict: 7, ..deny }),
        (
            [192, 0, 5, 0],
            24,
            Leaf {
                reason: Reason::Allowed.code(),
                ..deny
            },
        ),
        (
            [192, 0, 6, 0],
            24,
            Leaf {
                rule: abi::MAX_RULES,
                ..deny
            },
        ),
        ([0, 0, 0, 0], 8, deny),
        ([127, 0, 0, 0], 8, deny),
        ([224, 0, 0, 0], 3, deny),
    ];
    let v6: Trie<16, Leaf> = vec![
        (net6([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0]), 48, deny),
        (net6([0x2001, 0xdb8, 0x51, 64, 0, 0, 0, 0]), 64, pass),
        (net6([0, 0, 0, 0, 0, 0, 0, 0]), 127, deny),
        (net6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8, deny),
        (net6([0, 0, 0, 0, 0, 0xffff, 0x0808, 0x0808]), 128, deny),
    ];
    let whole = |destination: &str, protocol, listener, flags| Tuple {
        flags,
        source_table: 1,
        never_table: 1,
        ..tuple(addr(destination), protocol, listener)
    };
    let tuples = [
        whole(GATEWAY, l4::TCP, 1, 0),
        whole(GATEWAY, l4::UDP, 1, 0),
        whole(GATEWAY6, l4::TCP, 2, 0),
        whole(GATEWAY6, l4::UDP, 2, 0),
        whole(OBSERVED, l4::TCP, 3, abi::TUPLE_OBSERVE),
        whole(NEW_ONLY, l4::TCP, 4, abi::TUPLE_NEW_ONLY),
        whole(NODE, l4::TCP, 5, abi::TUPLE_MAYBE_REPLY),
        Tuple {
            source_table: 0,
            ..whole(NO_TABLE, l4::TCP, 6, 0)
        },
        Tuple {
            source_table: 9,
            ..whole(LOST_TABLE, l4::TCP, 7, 0)
        },
        Tuple {
            never_table: 9,
            ..whole(LOST_NEVER, l4::TCP, 8, 0)
        },
        whole(BAD_LISTENER, l4::TCP, abi::MAX_LISTENERS, 0),
    ];
    Image {
        root: Some(root_table(header_flags, 7, &tuples)),
        source4: [(1, v4)].into(),
        source6: [(1, v6)].into(),
        never4: [(1, vec![([198, 51, 100, 7], 32, pass)])].into(),
        never6: [(1, vec![(net6([0x2001, 0xdb8, 0x51, 7, 0, 0, 0, 0]), 64, pass)])].into(),
        ..Image::default()
    }
}

pub(super) fn net6(words: [u16; 8]) -> [u8; 16] {
    core::net::Ipv6Addr::from(words).octets()
}

#[expect(clippy::unwrap_used, reason = "constants of these files")]
pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
