//! Version 2, the binary header (`proxy-protocol.txt` §2.2): 12 bytes of signature, version and command, family and transport,
//! length, then addresses and TLVs.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 12 | signature |
//! | 12 | 1 | version (high half), command (low half) |
//! | 13 | 1 | family (high half), transport (low half) |
//! | 14 | 2 | bytes that follow, network order |
//! | 16 | 12 or 36 | source, destination, source port, destination port |
//!
//! TLVs behind the addresses are not read. Envoy walks them and refuses the connection if one does not fit; what it refuses for that
//! may be refused for its address as well.

use super::{Header, Parsed, unicast4, unicast6};
use crate::read::PacketRead;
use crate::wire::Family;

/// Bytes before the addresses.
pub const HEADER_LEN: u32 = 16;
/// Bytes of two IPv4 addresses and two ports.
pub const INET_LEN: u32 = 12;
/// Bytes of two IPv6 addresses and two ports.
pub const INET6_LEN: u32 = 36;
/// What a header begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const INET: u8 = 1;
const INET6: u8 = 2;
const STREAM: u8 = 1;
const DGRAM: u8 = 2;

/// Reads the header at `at`, in a segment whose payload ends at `end`.
///
/// As Envoy does: LOCAL whatever the family says; otherwise only INET and INET6 (UNSPEC and UNIX are refused, against §2.2 of the
/// specification), STREAM or DGRAM, and only unicast addresses. A header whose TLVs go on in the next segment is incomplete.
#[inline(always)]
pub fn parse<R: PacketRead>(packet: &R, at: u32, end: u32) -> Parsed {
    let Some(payload) = end.checked_sub(at) else {
        return Parsed::Incomplete;
    };
    if payload < HEADER_LEN {
        return Parsed::Incomplete;
    }
    let Some([a, b, c, d, e, f, g, h, i, j, k, l, version, family, len0, len1]) = packet.read::<16>(at)
    else {
        return Parsed::Incomplete;
    };
    if [a, b, c, d, e, f, g, h, i, j, k, l] != SIGNATURE {
        return Parsed::NotAHeader;
    }
    if version >> 4 != VERSION {
        return Parsed::Invalid;
    }
    match version & 0xf {
        LOCAL => return Parsed::Local,
        PROXY => {}
        _ => return Parsed::Invalid,
    }
    let transport = family & 0xf;
    if transport != STREAM && transport != DGRAM {
        return Parsed::Invalid;
    }
    let family = family >> 4;
    let least = match family {
        INET => INET_LEN,
        INET6 => INET6_LEN,
        _ => return Parsed::Invalid,
    };
    let declared = u32::from(u16::from_be_bytes([len0, len1]));
    if declared < least {
        return Parsed::Invalid;
    }
    let len = HEADER_LEN + declared;
    if payload < len {
        return Parsed::Incomplete;
    }
    let at = at + HEADER_LEN;
    let found = match family {
        INET => inet(packet, at, len),
        _ => inet6(packet, at, len),
    };
    // In the segment by its length, but beyond what can be read.
    found.unwrap_or(Parsed::Incomplete)
}

#[inline(always)]
fn inet<R: PacketRead>(packet: &R, at: u32, len: u32) -> Option<Parsed> {
    let [s0, s1, s2, s3, d0, d1, d2, d3, sp0, sp1, dp0, dp1] = packet.read::<12>(at)?;
    if !unicast4(u32::from_be_bytes([s0, s1, s2, s3])) || !unicast4(u32::from_be_bytes([d0, d1, d2, d3])) {
        return Some(Parsed::Invalid);
    }
    Some(Parsed::Header(Header {
        family: Family::V4,
        source: [s0, s1, s2, s3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        destination: [d0, d1, d2, d3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        source_port: u16::from_be_bytes([sp0, sp1]),
        destination_port: u16::from_be_bytes([dp0, dp1]),
        len,
    }))
}

#[inline(always)]
fn inet6<R: PacketRead>(packet: &R, at: u32, len: u32) -> Option<Parsed> {
    let source = packet.read::<16>(at)?;
    let destination = packet.read::<16>(at + 16)?;
    let [sp0, sp1, dp0, dp1] = packet.read::<4>(at + 32)?;
    if !unicast(source) || !unicast(destination) {
        return Some(Parsed::Invalid);
    }
    Some(Parsed::Header(Header {
        family: Family::V6,
        source,
        destination,
        source_port: u16::from_be_bytes([sp0, sp1]),
        destination_port: u16::from_be_bytes([dp0, dp1]),
        len,
    }))
}

#[inline(always)]
const fn unicast([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [u8; 16]) -> bool {
    unicast6(
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    )
}
