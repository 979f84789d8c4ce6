//! Segments of the plainest shape, which nearly every packet is: TCP straight behind an IP header without options, in an untagged frame.
//!
//! Their headers are at offsets that are known when it is compiled, so that the same steps ([`decide_at`](super::decide_at)) take a fraction of the
//! instructions. Whatever else a packet is takes the long way from its beginning.

use crate::read::PacketRead;
use crate::wire::{Family, Transport, eth, ipv4, ipv6, l4};

/// Bytes of the headers of a plain IPv4 segment.
pub const PLAIN4_LEN: usize = (eth::HEADER_LEN + ipv4::HEADER_LEN + l4::TCP_HEADER_LEN) as usize;
/// The same, IPv6.
pub const PLAIN6_LEN: usize = (eth::HEADER_LEN + ipv6::HEADER_LEN + l4::TCP_HEADER_LEN) as usize;

/// The family that an untagged frame's type tells.
#[inline(always)]
pub fn family<R: PacketRead>(packet: &R) -> Option<Family> {
    match u16::from_be_bytes(packet.read::<2>(eth::TYPE)?) {
        eth::IPV4 => Some(Family::V4),
        eth::IPV6 => Some(Family::V6),
        _ => None,
    }
}

/// IPv4 without options, whole, with room for a TCP header.
#[inline(always)]
pub fn plain4<R: PacketRead>(packet: &R) -> Option<Transport> {
    let l3 = eth::HEADER_LEN;
    let [first, _, len0, len1, _, _, frag0, frag1, _, protocol] = packet.read::<10>(l3)?;
    let total = u16::from_be_bytes([len0, len1]);
    let fragment = u16::from_be_bytes([frag0, frag1]) & (ipv4::OFFSET_MASK | ipv4::MORE_FRAGMENTS);
    let room = u32::from(total) >= ipv4::HEADER_LEN + l4::TCP_HEADER_LEN;
    let plain = first == 0x45 && protocol == l4::TCP && fragment == 0 && room;
    plain.then_some(Transport {
        family: Family::V4,
        protocol: l4::TCP,
        l3,
        l4: l3 + ipv4::HEADER_LEN,
        end: l3 + u32::from(total),
        unclear: false,
    })
}

/// IPv6 without extension headers, with room for a TCP header.
#[inline(always)]
pub fn plain6<R: PacketRead>(packet: &R) -> Option<Transport> {
    let l3 = eth::HEADER_LEN;
    let [first, _, _, _, len0, len1, next, _] = packet.read::<8>(l3)?;
    let length = u16::from_be_bytes([len0, len1]);
    let room = u32::from(length) >= l4::TCP_HEADER_LEN;
    let plain = first >> 4 == 6 && next == l4::TCP && room;
    let at = l3 + ipv6::HEADER_LEN;
    plain.then_some(Transport {
        family: Family::V6,
        protocol: l4::TCP,
        l3,
        l4: at,
        end: at + u32::from(length),
        unclear: false,
    })
}
