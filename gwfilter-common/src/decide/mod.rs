//! The decision: one frame and the tables in force to pass or drop, with the reason.
//!
//! Every path that is not a proven refusal ends in pass. The order is that of the cost on a card whose packets are mostly for no
//! gateway: ports, bitmap, tuple; only then the rest of the packet, the never-drop sources and the source table.

mod plain;
pub mod proxy;

use crate::abi::{self, Header, Leaf, Slot, SynEntry, SynKey, Tuple};
use crate::read::PacketRead;
use crate::reason::Reason;
use crate::wire::l4::Tcp;
use crate::wire::{self, Family, Located, Transport, ipv4, ipv6, l4};
pub use plain::{PLAIN4_LEN, PLAIN6_LEN, family, plain4, plain6};
pub use proxy::Look;

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the next hook.
    Pass,
    /// Gone.
    Drop,
    /// A segment to a PROXY tuple that opens a connection or begins like a header: [`decide_header`] has the word. Not to be counted.
    Look,
}

/// Which destinations a hook judges; the others it passes without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// TC where there is no XDP: all.
    All,
    /// XDP: those judged by the packet's source and refused in silence. It cannot read a payload, nor answer.
    Xdp,
    /// TC beside XDP: what XDP leaves ([`abi::TUPLE_PROXY`], [`abi::TUPLE_RESET`]).
    BesideXdp,
}

impl Scope {
    #[inline(always)]
    const fn takes(self, tuple_flags: u32) -> bool {
        let left_to_tc = tuple_flags & (abi::TUPLE_PROXY | abi::TUPLE_RESET) != 0;
        match self {
            Self::All => true,
            Self::Xdp => !left_to_tc,
            Self::BesideXdp => left_to_tc,
        }
    }
}

/// Where recent streams to PROXY tuples begin: the kernel's LRU map, or an image of it.
pub trait Streams {
    /// Notes the SYN of a connection.
    fn syn_seen(&self, key: &SynKey, entry: &SynEntry);
    /// The last SYN of a connection, if it is still known.
    fn syn(&self, key: &SynKey) -> Option<SynEntry>;
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    fn now_ns(&self) -> u64;
}

/// Knows of no SYN: no segment is the first of its stream, so none is judged by a header.
impl Streams for () {
    fn syn_seen(&self, _: &SynKey, _: &SynEntry) {}

    fn syn(&self, _: &SynKey) -> Option<SynEntry> {
        None
    }

    fn now_ns(&self) -> u64 {
        0
    }
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
    /// A word of [`abi::CONTROL_MAP`]; `None`: it cannot be read.
    fn control(&self, element: u32) -> Option<u64>;
    /// Nanoseconds of `CLOCK_MONOTONIC`, which the words of [`Self::control`] are moments of; as of the last tick, some milliseconds ago at most.
    fn clock_ns(&self) -> u64;
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
    /// Passed, but only because refusals are counted and not carried out: observe mode, pause.
    pub would_drop: bool,
    /// Dropped, and both ends are to be told ([`abi::TUPLE_RESET`]).
    pub reset: bool,
    /// The client that a PROXY header names, where one was read and judged.
    pub client: Option<Client>,
}

/// The source in a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Family of the header, whatever the packet's.
    pub family: Family,
    /// Network order; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
    /// Host order.
    pub port: u16,
}

impl Decision {
    /// Passed, for a reason that names no rule and no client.
    #[inline(always)]
    #[must_use]
    pub const fn pass(reason: Reason, listener: u32) -> Self {
        Self {
            action: Action::Pass,
            reason,
            listener,
            rule: 0,
            would_drop: false,
            reset: false,
            client: None,
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

    /// For a destination that [`lookup`] does not find. What cannot be attributed is counted by one hook.
    #[inline(always)]
    #[must_use]
    pub fn unfound(reason: Reason, scope: Scope) -> Self {
        if scope == Scope::BesideXdp {
            Self::untouched()
        } else {
            Self::unattributed(reason)
        }
    }
}

/// Decides one frame: what XDP and TC do together.
#[inline(always)]
pub fn decide<R: PacketRead, T: Tables, S: Streams>(packet: &R, tables: &T, streams: &S) -> Decision {
    let decision = decide_in(packet, tables, Scope::All);
    match decision.action {
        Action::Look => decide_header(packet, tables, streams),
        Action::Pass | Action::Drop => decision,
    }
}

/// Decides one frame as far as that goes without looking into its payload, and no further than `scope`.
#[inline(always)]
pub fn decide_in<R: PacketRead, T: Tables>(packet: &R, tables: &T, scope: Scope) -> Decision {
    match transport(packet) {
        Ok(at) => decide_at(packet, tables, &at, scope),
        // What cannot be attributed is counted by one hook.
        Err(_) if scope == Scope::BesideXdp => Decision::untouched(),
        Err(decision) => decision,
    }
}

/// [`decide_in`] from the transport header on.
#[inline(always)]
pub fn decide_at<R: PacketRead, T: Tables>(packet: &R, tables: &T, at: &Transport, scope: Scope) -> Decision {
    match lookup(packet, tables, at) {
        Ok(found) => decide_found(packet, tables, at, &found, scope),
        Err(reason) => Decision::unfound(reason, scope),
    }
}

/// [`decide_at`] from the destination on.
#[inline(always)]
pub fn decide_found<R: PacketRead, T: Tables>(
    packet: &R,
    tables: &T,
    at: &Transport,
    found: &Found<T::Root<'_>>,
    scope: Scope,
) -> Decision {
    if !scope.takes(found.tuple.flags) {
        return Decision::untouched();
    }
    let tcp = match judgeable(packet, at, &found.tuple) {
        Ok(tcp) => tcp,
        Err(decision) => return decision,
    };
    if scope != Scope::Xdp && found.tuple.flags & abi::TUPLE_PROXY != 0 {
        return proxy::glance(packet, at, &found.tuple, tcp);
    }
    let Some(source) = at.source(packet) else {
        return Decision::pass(Reason::Unparseable, found.tuple.listener);
    };
    judge(tables, at, found.header_flags, &found.tuple, source, tcp.flags)
}

/// Decides a frame that [`decide_in`] wants to be looked at. The kernel takes the same steps, one function for each.
pub fn decide_header<R: PacketRead, T: Tables, S: Streams>(packet: &R, tables: &T, streams: &S) -> Decision {
    let mut look = Look::new();
    if let Some(decision) = proxy::begin(packet, tables, streams, &mut look) {
        return decision;
    }
    let (payload, end) = look.payload();
    let parsed = crate::proxy::parse(packet, payload, end);
    proxy::read(parsed, &mut look).unwrap_or_else(|| proxy::judge(tables, &look))
}

/// A destination that is judged, and what is needed to judge it.
pub struct Found<Root> {
    root: Root,
    header_flags: u32,
    tuple: Tuple,
}

#[inline(always)]
fn transport<R: PacketRead>(packet: &R) -> Result<Transport, Decision> {
    match wire::locate(packet) {
        Located::Transport(at) => Ok(at),
        Located::Other => Err(Decision::untouched()),
        Located::Unclear(reason) => Err(Decision::unattributed(reason)),
    }
}

/// The tuple of a packet, or why there is none: [`Reason::NotAGateway`] nearly always.
///
/// # Errors
/// Nothing can be told of the destination.
#[inline(always)]
pub fn lookup<'a, R: PacketRead, T: Tables>(
    packet: &R,
    tables: &'a T,
    at: &Transport,
) -> Result<Found<T::Root<'a>>, Reason> {
    let (_, port) = at.ports(packet).ok_or(Reason::Unparseable)?;
    let root = tables.root().ok_or(Reason::TableMissing)?;
    let (slot, word, mask) = abi::port_bit(port);
    let bits = root
        .slot(slot)
        .and_then(|s| s.get(word))
        .ok_or(Reason::TableMissing)?;
    if bits & mask == 0 {
        return Err(Reason::NotAGateway);
    }
    let destination = at.destination_words(packet).ok_or(Reason::Unparseable)?;
    let header = root.slot(0).map(Header::from_slot).ok_or(Reason::TableMissing)?;
    if header.abi_version != abi::ABI_VERSION {
        return Err(Reason::TableMissing);
    }
    let tuple = find(&root, header.seed, at, destination, port).ok_or(Reason::NotAGateway)?;
    if tuple.listener == abi::NO_LISTENER || tuple.listener >= abi::MAX_LISTENERS {
        return Err(Reason::TableMissing);
    }
    Ok(Found {
        root,
        header_flags: header.flags,
        tuple,
    })
}

/// What the header of a segment says that may be judged.
#[inline(always)]
fn judgeable<R: PacketRead>(packet: &R, at: &Transport, tuple: &Tuple) -> Result<Tcp, Decision> {
    match at.judgeable(packet) {
        None => Err(Decision::pass(Reason::Unparseable, tuple.listener)),
        Some(_) if at.protocol != l4::TCP => Err(Decision::pass(Reason::LeftToGateway, tuple.listener)),
        Some(tcp) => Ok(tcp),
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
    destination: [u64; 2],
    port: u16,
) -> Option<Tuple> {
    let hash = abi::hash_of_words(seed, destination, port, at.protocol);
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
fn judge<T: Tables>(
    tables: &T,
    at: &Transport,
    header_flags: u32,
    tuple: &Tuple,
    source: [u8; 16],
    tcp_flags: u8,
) -> Decision {
    let pass = |reason| Decision::pass(reason, tuple.listener);
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
    let refused = Decision {
        rule: leaf.rule,
        ..pass(reason)
    };
    refuse(tables, header_flags, tuple, refused)
}

/// Makes a drop of what is refused, unless nobody vouches for the tables any more, or refusals are only counted. `refused` passes so far.
#[inline(always)]
fn refuse<T: Tables>(tables: &T, header_flags: u32, tuple: &Tuple, refused: Decision) -> Decision {
    let now = tables.clock_ns();
    let runs = |element| tables.control(element).is_some_and(|until| now < until);
    if !runs(abi::CONTROL_LEASE) || tuple.flags & abi::TUPLE_POD != 0 && !runs(abi::CONTROL_POD_LEASE) {
        return Decision {
            reason: Reason::LeaseExpired,
            ..refused
        };
    }
    let observed = (header_flags & abi::HEADER_OBSERVE) | (tuple.flags & abi::TUPLE_OBSERVE) != 0;
    if observed || runs(abi::CONTROL_PAUSED) {
        return Decision {
            reason: if observed {
                Reason::Observed
            } else {
                Reason::Paused
            },
            would_drop: true,
            ..refused
        };
    }
    Decision {
        action: Action::Drop,
        reset: tuple.flags & abi::TUPLE_RESET != 0,
        ..refused
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
mod first_segments;
#[cfg(test)]
mod tests;
