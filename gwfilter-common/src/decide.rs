//! The decision: one frame and the tables in force to pass or drop, with the reason.
//!
//! Every path that is not a proven refusal ends in pass. The order is that of the cost on a card whose packets are mostly for no
//! gateway: ports, bitmap, tuple; only then the rest of the packet, the never-drop sources and the source table.

use crate::abi::{self, Header, Leaf, Slot, Tuple};
use crate::read::PacketRead;
use crate::reason::Reason;
use crate::wire::{self, Family, Located, Transport, ipv4, ipv6, l4};

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the next hook.
    Pass,
    /// Gone.
    Drop,
}

/// The root table of one generation.
pub trait RootTable {
    /// The element at `index`, `None` beyond [`abi::ROOT_LEN`].
    fn slot(&self, index: u32) -> Option<&Slot>;
}

/// What a source table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// There is no table at this index.
    TableMissing,
    /// No prefix of the table covers the address.
    Uncovered,
    /// The longest prefix that covers the address has this leaf.
    Covered(Leaf),
}

/// What [`decide`] asks for: the kernel's maps, or an image of them in memory. Indices are those of [`abi::Tuple`]; addresses are
/// in network order.
pub trait Tables {
    /// The root table, held for the length of one decision.
    type Root<'a>: RootTable
    where
        Self: 'a;
    /// The root table in force. A packet is decided by one root table: it is asked for once.
    fn root(&self) -> Option<Self::Root<'_>>;
    /// Longest-prefix match in an IPv4 source table.
    fn source4(&self, table: u32, addr: [u8; 4]) -> Source;
    /// Longest-prefix match in an IPv6 source table.
    fn source6(&self, table: u32, addr: [u8; 16]) -> Source;
    /// Whether a prefix of an IPv4 never-drop table covers the address; `None`: there is no such table.
    fn never4(&self, table: u32, addr: [u8; 4]) -> Option<bool>;
    /// As [`never4`](Self::never4), for IPv6.
    fn never6(&self, table: u32, addr: [u8; 16]) -> Option<bool>;
}

/// The answer for one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Pass or drop.
    pub action: Action,
    /// Why. [`Reason::NotAGateway`] is not counted.
    pub reason: Reason,
    /// The block of counters, [`abi::NO_LISTENER`] where no listener can be named.
    pub listener: u32,
    /// The policy rule that decided, 0 for none. Counted only when the packet is dropped or would be.
    pub rule: u32,
    /// Passed, but only for observe mode.
    pub would_drop: bool,
}

impl Decision {
    #[inline(always)]
    const fn pass(reason: Reason, listener: u32) -> Self {
        Self {
            action: Action::Pass,
            reason,
            listener,
            rule: 0,
            would_drop: false,
        }
    }

    /// For no gateway.
    #[inline(always)]
    const fn untouched() -> Self {
        Self::pass(Reason::NotAGateway, abi::NO_LISTENER)
    }

    #[inline(always)]
    const fn unattributed(reason: Reason) -> Self {
        Self::pass(reason, abi::NO_LISTENER)
    }
}

/// Decides one frame.
#[inline(always)]
pub fn decide<R: PacketRead, T: Tables>(packet: &R, tables: &T) -> Decision {
    let at = match wire::locate(packet) {
        Located::Transport(at) => at,
        Located::Other => return Decision::untouched(),
        Located::Unclear(reason) => return Decision::unattributed(reason),
    };
    let Some((_, port)) = at.ports(packet) else {
        return Decision::unattributed(Reason::Unparseable);
    };
    let Some(root) = tables.root() else {
        return Decision::unattributed(Reason::TableMissing);
    };
    let (slot, word, mask) = abi::port_bit(port);
    let Some(bits) = root.slot(slot).and_then(|s| s.get(word)) else {
        return Decision::unattributed(Reason::TableMissing);
    };
    if bits & mask == 0 {
        return Decision::untouched();
    }
    let Some((source, destination)) = at.addresses(packet) else {
        return Decision::unattributed(Reason::Unparseable);
    };
    let Some(header) = root.slot(0).map(Header::from_slot) else {
        return Decision::unattributed(Reason::TableMissing);
    };
    if header.abi_version != abi::ABI_VERSION {
        return Decision::unattributed(Reason::TableMissing);
    }
    match find(&root, header.seed, &at, &destination, port) {
        Some(tuple) => judge(packet, tables, &at, header.flags, &tuple, source),
        None => Decision::untouched(),
    }
}

/// The first four bytes: an IPv4 address.
#[inline(always)]
const fn narrow([a, b, c, d, ..]: [u8; 16]) -> [u8; 4] {
    [a, b, c, d]
}

/// The tuple of this destination. A bucket that cannot be read ends the search: not found is pass.
#[inline(always)]
fn find<T: RootTable>(
    root: &T,
    seed: u32,
    at: &Transport,
    destination: &[u8; 16],
    port: u16,
) -> Option<Tuple> {
    let hash = abi::hash(seed, destination, port, at.protocol);
    let [wanted_a, wanted_b, wanted_c] = Tuple::key(destination, port, at.protocol, at.family);
    for probe in 0..abi::MAX_PROBES {
        let slot = root.slot(abi::bucket(hash, probe))?;
        let [a, b, c] = Tuple::key_of_slot(slot);
        // Without a branch for each word: a comparison of arrays becomes a call and a loop over bytes.
        if (a ^ wanted_a) | (b ^ wanted_b) | (c ^ wanted_c) == 0 {
            return Some(Tuple::from_slot(slot));
        }
        if c == 0 {
            return None;
        }
    }
    None
}

/// What the tuple's tables say.
#[inline(always)]
fn judge<R: PacketRead, T: Tables>(
    packet: &R,
    tables: &T,
    at: &Transport,
    header_flags: u32,
    tuple: &Tuple,
    source: [u8; 16],
) -> Decision {
    let listener = tuple.listener;
    if listener == abi::NO_LISTENER || listener >= abi::MAX_LISTENERS {
        return Decision::pass(Reason::TableMissing, abi::NO_LISTENER);
    }
    let pass = |reason| Decision::pass(reason, listener);
    let Some(tcp_flags) = at.judgeable(packet) else {
        return pass(Reason::Unparseable);
    };
    if at.protocol != l4::TCP {
        return pass(Reason::LeftToGateway);
    }
    if let Some(reason) = never_judged(tables, tuple.never_table, at.family, source) {
        return pass(reason);
    }
    if tuple.source_table == 0 {
        return pass(Reason::NoPolicy);
    }
    let found = match at.family {
        Family::V4 => tables.source4(tuple.source_table, narrow(source)),
        Family::V6 => tables.source6(tuple.source_table, source),
    };
    let leaf = match found {
        Source::TableMissing => return pass(Reason::TableMissing),
        Source::Uncovered => return pass(Reason::Allowed),
        Source::Covered(leaf) => leaf,
    };
    if leaf.verdict == abi::VERDICT_PASS {
        return Decision {
            rule: leaf.rule,
            ..pass(Reason::Allowed)
        };
    }
    let Some(reason) = refusal(&leaf) else {
        return pass(Reason::TableMissing);
    };
    if !l4::opens_connection(tcp_flags) {
        if tuple.flags & abi::TUPLE_MAYBE_REPLY != 0 {
            return Decision {
                rule: leaf.rule,
                ..pass(Reason::MaybeReply)
            };
        }
        if leaf.verdict == abi::VERDICT_DROP_NEW || tuple.flags & abi::TUPLE_NEW_ONLY != 0 {
            return Decision {
                rule: leaf.rule,
                ..pass(Reason::Draining)
            };
        }
    }
    if (header_flags & abi::HEADER_OBSERVE) | (tuple.flags & abi::TUPLE_OBSERVE) != 0 {
        return Decision {
            rule: leaf.rule,
            would_drop: true,
            ..pass(Reason::Observed)
        };
    }
    Decision {
        action: Action::Drop,
        rule: leaf.rule,
        ..pass(reason)
    }
}

/// Why this source is never judged, if so.
#[inline(always)]
fn never_judged<T: Tables>(tables: &T, table: u32, family: Family, source: [u8; 16]) -> Option<Reason> {
    let odd = match family {
        Family::V4 => ipv4::odd_source(narrow(source)),
        Family::V6 => ipv6::odd_source(source),
    };
    if table != 0 {
        let covered = match family {
            Family::V4 => tables.never4(table, narrow(source)),
            Family::V6 => tables.never6(table, source),
        };
        match covered {
            Some(false) => {}
            Some(true) => return Some(Reason::NeverDropSource),
            None => return Some(Reason::TableMissing),
        }
    }
    odd.then_some(Reason::OddSource)
}

/// The reason of a leaf that refuses; `None` if it is not one that the compiler writes.
#[inline(always)]
fn refusal(leaf: &Leaf) -> Option<Reason> {
    if leaf.verdict != abi::VERDICT_DROP && leaf.verdict != abi::VERDICT_DROP_NEW
        || leaf.rule >= abi::MAX_RULES
    {
        return None;
    }
    if leaf.reason == Reason::DeniedByRule.code() {
        Some(Reason::DeniedByRule)
    } else if leaf.reason == Reason::NoRuleAllows.code() {
        Some(Reason::NoRuleAllows)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
