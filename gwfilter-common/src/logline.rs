//! The packet log's line: what the kernel side writes through aya-log and the user side takes apart.
//!
//! One line, fourteen fields `name=value` behind [`PREFIX`], in the order of [`FIELDS`], one space between them, no space within:
//!
//! ```text
//! gwf v=2 hook=1 if=2 verdict=1 reason=3 listener=4 rule=17 proto=6 src=192.0.2.1 sport=40000 dst=203.0.113.9 dport=443 cfam=0 client=:: cport=0
//! ```
//!
//! Numbers are decimal. Addresses are in the text form of `core::net::IpAddr`; IPv6 without brackets, a v4-mapped one stays IPv6.
//!
//! | field | value |
//! |---|---|
//! | `v` | [`VERSION`] |
//! | `hook` | [`HOOK_XDP`] or [`HOOK_TC`] |
//! | `if` | index of the interface that the packet came in by |
//! | `verdict` | [`VERDICT_PASSED`], [`VERDICT_DROPPED`] or [`VERDICT_WOULD_DROP`] |
//! | `reason` | code of a [`crate::reason::Reason`] |
//! | `listener` | index of the block of counters ([`crate::abi::Tuple::listener`]) |
//! | `rule` | index of the policy rule, 0 for none |
//! | `proto` | IP protocol: 6 or 17 |
//! | `src`, `sport`, `dst`, `dport` | addresses and ports of the packet |
//! | `cfam` | family of the source in the PROXY header that was judged: 4 or 6; [`NO_CLIENT`] if none was |
//! | `client`, `cport` | that source; the address always in the form of IPv6: an IPv4 address is the first four bytes |

/// What every line begins with.
pub const PREFIX: &str = "gwf v=2 ";
/// The version that [`PREFIX`] names.
pub const VERSION: u32 = 2;
/// The fields behind [`PREFIX`], in order.
pub const FIELDS: [&str; 14] = [
    "hook", "if", "verdict", "reason", "listener", "rule", "proto", "src", "sport", "dst", "dport", "cfam",
    "client", "cport",
];

/// `hook`: XDP.
pub const HOOK_XDP: u32 = 1;
/// `hook`: TC.
pub const HOOK_TC: u32 = 2;

/// `cfam`: no PROXY header was judged.
pub const NO_CLIENT: u32 = 0;

/// `verdict`: passed.
pub const VERDICT_PASSED: u32 = 0;
/// `verdict`: dropped.
pub const VERDICT_DROPPED: u32 = 1;
/// `verdict`: passed, but only for observe mode.
pub const VERDICT_WOULD_DROP: u32 = 2;
