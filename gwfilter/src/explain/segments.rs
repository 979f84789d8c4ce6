//! The frames that a query stands for: the packet that opens a connection, and where a PROXY header is asked for, the first segment behind
//! it. What becomes of them is the kernel's own code.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use gwfilter_common::abi::{SynEntry, SynKey};
use gwfilter_common::decide::{Action, Decision, Scope, Streams, Tables, decide, decide_in};
use gwfilter_common::packet::{Frame, Packet};
use gwfilter_common::read::SliceReader;
use gwfilter_common::wire::l4;

use super::{Query, QueryError};
use crate::gateway::model::Protocol;

/// The source port of the packets that are built; no verdict depends on it.
const CLIENT_PORT: u16 = 40_000;
/// "PUSH", beside [`l4::ACK`] what a first segment carries.
const PSH: u8 = 0x08;
/// What version 2 of the protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Where streams begin, as the kernel's map says it; and the moment at which they do.
#[derive(Debug)]
struct Beginnings {
    seen: RefCell<BTreeMap<SynKey, SynEntry>>,
    now_ns: u64,
}

impl Streams for Beginnings {
    fn syn_seen(&self, key: &SynKey, entry: &SynEntry) {
        self.seen.borrow_mut().insert(*key, *entry);
    }

    fn syn(&self, key: &SynKey) -> Option<SynEntry> {
        self.seen.borrow().get(key).copied()
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

/// The frame that opens the connection, or the datagram.
pub(super) fn opening(query: &Query) -> Result<Frame, QueryError> {
    let source = SocketAddr::new(query.source, CLIENT_PORT);
    let packet = match query.protocol {
        Protocol::Tcp => Packet::syn(source, query.dest),
        Protocol::Udp => Packet::udp(source, query.dest),
    };
    packet.build().ok_or_else(|| families(query))
}

/// The first segment of the stream, with the header of the query and some bytes of what follows it; `None` if it has none.
fn first(query: &Query) -> Result<Option<Frame>, QueryError> {
    let Some((client, destination)) = query.proxy else {
        return Ok(None);
    };
    let mut payload = header(client, destination);
    payload.extend_from_slice(b"\x16\x03\x01");
    let source = SocketAddr::new(query.source, CLIENT_PORT);
    let packet = Packet {
        payload: &payload,
        ..Packet::tcp(source, query.dest, l4::ACK | PSH)
    };
    let mut frame = packet.build().ok_or_else(|| families(query))?;
    // The stream begins one behind the SYN.
    let transport = if query.source.is_ipv4() { 14 + 20 } else { 14 + 40 };
    let sequence = frame.bytes_mut().get_mut(transport + 4..transport + 8);
    if let Some(bytes) = sequence.and_then(|b| <&mut [u8; 4]>::try_from(b).ok()) {
        *bytes = u32::from_be_bytes(*bytes).wrapping_add(1).to_be_bytes();
    }
    Ok(Some(frame))
}

/// A later segment of the connection, which opens none.
pub(super) fn later(query: &Query) -> Result<Frame, QueryError> {
    let source = SocketAddr::new(query.source, CLIENT_PORT);
    let packet = Packet::tcp(source, query.dest, l4::ACK);
    packet.build().ok_or_else(|| families(query))
}

/// What tables do with the packet that opens a connection; or, if that passes and a PROXY header counts there, with the segment that carries it.
pub(super) fn decided<T: Tables>(query: &Query, tables: &T) -> Result<Decision, QueryError> {
    // A stream that begins now: after every drain window began.
    let streams = Beginnings {
        seen: RefCell::default(),
        now_ns: tables.clock_ns(),
    };
    let opening = opening(query)?;
    let opening = SliceReader(opening.bytes());
    let by_header = decide_in(&opening, tables, Scope::All).action == Action::Look;
    let decision = decide(&opening, tables, &streams);
    if decision.action == Action::Drop || !by_header {
        return Ok(decision);
    }
    Ok(match first(query)? {
        Some(first) => decide(&SliceReader(first.bytes()), tables, &streams),
        None => decision,
    })
}

fn families(query: &Query) -> QueryError {
    QueryError::Families {
        source_ip: query.source,
        dest: query.dest,
    }
}

/// A header of version 2 for a stream (haproxy's `doc/proxy-protocol.txt`). The two are of one family ([`Query::new`]).
fn header(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let (family, length) = if client.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[0x21, family, 0, length]);
    header.extend(octets(client.ip()));
    header.extend(octets(destination.ip()));
    header.extend(client.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}
