//! The PROXY protocol (`proxy-protocol.txt` of HAProxy, §2.1 and §2.2), read as Envoy 1.40 reads it.
//!
//! Envoy's reading counts, not the specification's: `source/extensions/filters/listener/proxy_protocol/proxy_protocol.cc` with the
//! configuration that Istio writes, an empty one: the header is mandatory, both versions are allowed, TLVs are not kept. The
//! parsers may call a header [`Parsed::Invalid`] that Envoy accepts; they must never find a [`Header`] where Envoy accepts
//! another one, or none.
//!
//! What they are given is the beginning of a TCP stream, which the caller has to prove: the payload of the segment at ISN + 1. They
//! see one segment and keep nothing: a header that goes on in the next one is [`Parsed::Incomplete`]. Not to be handed over:
//! segments with the URG flag, because the socket takes the urgent byte out of the stream.

use crate::read::PacketRead;
use crate::wire::Family;

pub mod v1;
pub mod v2;

/// An accepted header that names both ends of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of both addresses. A v4-mapped address is IPv6, for Envoy's matchers too.
    pub family: Family,
    /// The client's address, network order; IPv4 in the first four bytes, the rest zero.
    pub source: [u8; 16],
    /// The address that the client connected to, as `source`.
    pub destination: [u8; 16],
    /// The client's port, host order; 0 is not refused.
    pub source_port: u16,
    /// The port that the client connected to, host order; 0 is not refused.
    pub destination_port: u16,
    /// Bytes of the header: the client's stream begins behind them.
    pub len: u32,
}

/// What the beginning of a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Envoy takes these addresses for the connection's, or refuses the connection for what the parsers do not look at: faulty TLVs.
    Header(Header),
    /// Version 2, command LOCAL: Envoy keeps the connection's own addresses.
    Local,
    /// Version 1, `UNKNOWN`: Envoy keeps the connection's own addresses.
    Unknown,
    /// So far so good, but the header does not end in this segment.
    Incomplete,
    /// A header that Envoy refuses, with one exception: an IPv6 address with a zone, or one with a NUL byte, in version 1.
    Invalid,
    /// Not the beginning of a header of either version: Envoy refuses it, where the header is mandatory.
    NotAHeader,
}

/// The version that a stream's first four bytes announce; what follows may still be no header at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Bytes that [`version`] looks at.
pub const MAGIC_LEN: u32 = 4;

/// Which version the four bytes at `at` announce, the cheapest test that tells a header from other payload; `None` also if there are
/// fewer of them before `end`.
#[inline(always)]
pub fn version<R: PacketRead>(packet: &R, at: u32, end: u32) -> Option<Version> {
    if end.checked_sub(at)? < MAGIC_LEN {
        return None;
    }
    match &packet.read::<4>(at)? {
        b"PROX" => Some(Version::V1),
        b"\r\n\r\n" => Some(Version::V2),
        _ => None,
    }
}

/// Reads a header of either version at `at`, in a segment whose payload ends at `end`.
///
/// For the user side: the kernel feeds [`v1::State`] itself, because a loop over a hundred bytes is one of its helpers there.
pub fn parse<R: PacketRead>(packet: &R, at: u32, end: u32) -> Parsed {
    match version(packet, at, end) {
        Some(Version::V1) => v1::parse(packet, at, end),
        Some(Version::V2) => v2::parse(packet, at, end),
        None => Parsed::NotAHeader,
    }
}

/// Whether Envoy takes an IPv4 address in a header (`Ipv4Instance::isUnicastAddress()`): all but 0.0.0.0, 255.255.255.255
/// and 224.0.0.0/4.
#[inline(always)]
const fn unicast4(address: u32) -> bool {
    address != 0 && address != u32::MAX && address >> 28 != 0xe
}

/// The same for IPv6, of the two halves of an address: all but `::` and ff00::/8.
#[inline(always)]
const fn unicast6(high: u64, low: u64) -> bool {
    (high | low) != 0 && high >> 56 != 0xff
}

#[cfg(test)]
mod compare;
#[cfg(test)]
mod tests;
