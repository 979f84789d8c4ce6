//! The decision where the client is in a PROXY header at the start of the stream.
//!
//! No verdict is kept per connection. What is remembered is where a stream begins (the sequence number of its SYN), and only a segment
//! that is provably the first one is judged: bytes later in a stream that look like a header are the client's own. A refused first
//! segment is refused again when it is sent again, so not one byte of the stream reaches the gateway's parser.

use crate::abi::{self, Leaf, Proxy, Slot, SynEntry, SynKey, Tuple};
use crate::proxy::{self, Header, Parsed, Version};
use crate::read::PacketRead;
use crate::reason::Reason;
use crate::wire::l4::{self, Tcp};
use crate::wire::{Family, Flow, Transport};

use super::{
    Action, Client, Decision, RootTable, Source, Streams, Tables, judgeable, lookup, narrow, refusal, refuse,
    transport,
};

/// What is known of a segment while it is looked into. The kernel keeps it in a per-CPU map, for its stack is too small for it; all
/// bytes zero is a valid value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Look {
    tuple: Tuple,
    proxy: Proxy,
    stream: SynKey,
    syn: SynEntry,
    header: Header,
    header_flags: u32,
    payload: u32,
    end: u32,
}

impl Look {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        const NOTHING: Slot = [0; 8];
        Self {
            tuple: Tuple::from_slot(&NOTHING),
            proxy: Proxy::from_slot(&NOTHING),
            stream: SynKey {
                source: [0; 16],
                destination: [0; 16],
                source_port: 0,
                destination_port: 0,
                family: 0,
            },
            syn: SynEntry {
                at_ns: 0,
                isn: 0,
                _pad: 0,
            },
            header: Header {
                family: Family::V4,
                source: [0; 16],
                destination: [0; 16],
                source_port: 0,
                destination_port: 0,
                len: 0,
            },
            header_flags: 0,
            payload: 0,
            end: 0,
        }
    }

    /// Which version the payload's beginning announces; [`begin`] has seen that it is one.
    #[inline(always)]
    pub fn version<R: PacketRead>(&self, packet: &R) -> Option<Version> {
        proxy::version(packet, self.payload, self.end)
    }

    /// Where the payload is: from its first byte to behind its last one.
    #[must_use]
    pub const fn payload(&self) -> (u32, u32) {
        (self.payload, self.end)
    }

    /// The ends of the connection.
    #[inline(always)]
    #[must_use]
    pub const fn flow(&self) -> Flow {
        let SynKey {
            source,
            destination,
            source_port,
            destination_port,
            family,
        } = self.stream;
        Flow {
            family: if family == 4 { Family::V4 } else { Family::V6 },
            protocol: l4::TCP,
            source,
            destination,
            source_port,
            destination_port,
        }
    }

    #[inline(always)]
    fn pass(&self, reason: Reason) -> Decision {
        Decision::pass(reason, self.tuple.listener)
    }
}

impl Default for Look {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a segment is worth a look. Nearly all are not.
#[inline(always)]
pub(super) fn glance<R: PacketRead>(packet: &R, at: &Transport, tuple: &Tuple, tcp: Tcp) -> Decision {
    let look = l4::opens_connection(tcp.flags) || proxy::version(packet, tcp.payload, at.end).is_some();
    Decision {
        action: if look { Action::Look } else { Action::Pass },
        ..Decision::pass(Reason::NoHeader, tuple.listener)
    }
}

/// Finds the stream of a segment and where it begins; the answer, where there is no header of it to judge.
#[inline(always)]
pub fn begin<R: PacketRead, T: Tables, S: Streams>(
    packet: &R,
    tables: &T,
    streams: &S,
    look: &mut Look,
) -> Option<Decision> {
    let at = match transport(packet) {
        Ok(at) => at,
        Err(decision) => return Some(decision),
    };
    let Some((source_port, destination_port)) = at.ports(packet) else {
        return Some(Decision::unattributed(Reason::Unparseable));
    };
    let found = match lookup(packet, tables, &at) {
        Ok(found) => found,
        Err(reason) => return Some(Decision::unattributed(reason)),
    };
    // Another generation may have come into force since it was glanced at.
    if found.tuple.flags & abi::TUPLE_PROXY == 0 {
        return Some(Decision::untouched());
    }
    let tcp = match judgeable(packet, &at, &found.tuple) {
        Ok(tcp) => tcp,
        Err(decision) => return Some(decision),
    };
    look.tuple = found.tuple;
    let (Some(source), Some(sequence)) = (at.source(packet), packet.read::<4>(at.l4 + 4)) else {
        return Some(look.pass(Reason::Unparseable));
    };
    let sequence = u32::from_be_bytes(sequence);
    let Some(proxy) = element(&found.root, &found.tuple) else {
        return Some(look.pass(Reason::TableMissing));
    };
    look.proxy = proxy;
    look.header_flags = found.header_flags;
    (look.payload, look.end) = (tcp.payload, at.end);
    look.stream = SynKey {
        source,
        destination: found.tuple.addr,
        source_port,
        destination_port,
        family: at.family.number(),
    };
    if l4::opens_connection(tcp.flags) {
        look.syn = SynEntry {
            at_ns: streams.now_ns(),
            isn: sequence,
            _pad: 0,
        };
        // Data on a SYN (TCP Fast Open) is the beginning of the stream.
        streams.syn_seen(&look.stream, &look.syn);
    } else {
        let Some(syn) = streams.syn(&look.stream) else {
            return Some(look.pass(Reason::FirstSegmentUnknown));
        };
        if sequence != syn.isn.wrapping_add(1) {
            return Some(look.pass(Reason::NotFirstSegment));
        }
        look.syn = syn;
    }
    if tcp.flags & l4::URG != 0 {
        // The socket takes the urgent byte out of the stream: the gateway reads something else than what stands here.
        return Some(look.pass(Reason::HeaderInvalid));
    }
    if look.version(packet).is_none() {
        return Some(look.pass(Reason::NoHeader));
    }
    None
}

/// Takes what the parser says; the answer, where there is no client to judge.
#[inline(always)]
pub fn read(parsed: Parsed, look: &mut Look) -> Option<Decision> {
    let reason = match parsed {
        Parsed::Header(header) => {
            look.header = header;
            return None;
        }
        Parsed::Incomplete => Reason::HeaderIncomplete,
        Parsed::Local => Reason::HeaderLocal,
        Parsed::Unknown => Reason::HeaderUnknown,
        Parsed::Invalid => Reason::HeaderInvalid,
        Parsed::NotAHeader => Reason::NoHeader,
    };
    Some(look.pass(reason))
}

#[inline(always)]
fn element<Root: RootTable>(root: &Root, tuple: &Tuple) -> Option<Proxy> {
    if tuple.proxy < abi::PROXY_START || tuple.proxy >= abi::ROOT_LEN {
        return None;
    }
    root.slot(tuple.proxy).map(Proxy::from_slot)
}

/// What the tables say of the client.
#[inline(always)]
pub fn judge<T: Tables>(tables: &T, look: &Look) -> Decision {
    let Look {
        tuple,
        proxy,
        stream,
        syn,
        header,
        header_flags,
        ..
    } = look;
    let client = Client {
        family: header.family,
        address: header.source,
        port: header.source_port,
    };
    let pass = |reason| Decision {
        client: Some(client),
        ..look.pass(reason)
    };
    match listed(tables, proxy.never4, proxy.never6, header.family, header.source) {
        None => return pass(Reason::TableMissing),
        Some(true) => return pass(Reason::NeverDropSource),
        Some(false) => {}
    }
    if proxy.verdicts == 0 {
        return pass(Reason::NoPolicy);
    }
    let Some(found) = leaf(tables, proxy, stream, header) else {
        return pass(Reason::TableMissing);
    };
    let leaf = match found {
        Source::TableMissing => return pass(Reason::TableMissing),
        Source::Covered(leaf) if leaf.verdict != abi::VERDICT_PASS => leaf,
        Source::Covered(_) | Source::Uncovered => {
            return pass(match trusted(tables, proxy, stream) {
                Some(false) => Reason::UntrustedProxy,
                Some(true) | None => Reason::Allowed,
            });
        }
    };
    let Some(reason) = refusal(&leaf) else {
        return pass(Reason::TableMissing);
    };
    let judged = |reason| Decision {
        rule: leaf.rule,
        ..pass(reason)
    };
    let drains = leaf.verdict == abi::VERDICT_DROP_NEW || tuple.flags & abi::TUPLE_NEW_ONLY != 0;
    if drains && syn.at_ns / 1_000_000 < proxy.since_ms {
        return judged(Reason::Draining);
    }
    refuse(tables, *header_flags, tuple, judged(reason))
}

/// The cell of the four classes; `None` if some table is not as it should be.
#[inline(always)]
fn leaf<T: Tables>(tables: &T, proxy: &Proxy, stream: &SynKey, header: &Header) -> Option<Source> {
    let peer = match stream.family {
        4 => class4(tables, proxy.peer4, narrow(stream.source))?,
        _ => class6(tables, proxy.peer6, stream.source)?,
    };
    let (client, dest) = match header.family {
        Family::V4 => (
            class4(tables, proxy.client4, narrow(header.source))?,
            class4(tables, proxy.dest4, narrow(header.destination))?,
        ),
        Family::V6 => (
            class6(tables, proxy.client6, header.source)?,
            class6(tables, proxy.dest6, header.destination)?,
        ),
    };
    let [high, low] = header.destination_port.to_be_bytes();
    let port = class4(tables, proxy.ports, [high, low, 0, 0])?;
    let cell = proxy.cell(peer, client, dest, port)?;
    Some(tables.source4(proxy.verdicts, cell.to_be_bytes()))
}

#[inline(always)]
fn class4<T: Tables>(tables: &T, table: u32, address: [u8; 4]) -> Option<u32> {
    match table {
        0 => Some(0),
        _ => class(tables.source4(table, address)),
    }
}

#[inline(always)]
fn class6<T: Tables>(tables: &T, table: u32, address: [u8; 16]) -> Option<u32> {
    match table {
        0 => Some(0),
        _ => class(tables.source6(table, address)),
    }
}

#[inline(always)]
fn class(found: Source) -> Option<u32> {
    match found {
        Source::Uncovered => Some(0),
        Source::Covered(Leaf {
            verdict: abi::VERDICT_CLASS,
            rule,
            ..
        }) => Some(rule),
        Source::Covered(_) | Source::TableMissing => None,
    }
}

/// Whether a list covers an address; a list that is not there covers none.
#[inline(always)]
fn listed<T: Tables>(tables: &T, list4: u32, list6: u32, family: Family, address: [u8; 16]) -> Option<bool> {
    match (family, list4, list6) {
        (Family::V4, 0, _) | (Family::V6, _, 0) => Some(false),
        (Family::V4, list, _) => tables.never4(list, narrow(address)),
        (Family::V6, _, list) => tables.never6(list, address),
    }
}

/// Whether the peer is one of those that the user names; `None`: none is named, or the list cannot be read.
#[inline(always)]
fn trusted<T: Tables>(tables: &T, proxy: &Proxy, stream: &SynKey) -> Option<bool> {
    if proxy.trusted4 == 0 && proxy.trusted6 == 0 {
        return None;
    }
    let family = if stream.family == 4 {
        Family::V4
    } else {
        Family::V6
    };
    listed(tables, proxy.trusted4, proxy.trusted6, family, stream.source)
}
