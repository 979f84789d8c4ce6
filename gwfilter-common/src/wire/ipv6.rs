//! IPv6 (RFC 8200 §3, §4) and its extension headers, as `ip6_rcv_core()` and `ip6_input_finish()` of Linux read them.
//!
//! Followed: hop-by-hop options, routing, fragment, destination options, authentication. Not followed, because Linux never delivers TCP
//! or UDP from behind them: mobility (135), HIP (139), shim6 (140); nor ESP (50), which is opaque. Such packets are no gateway's.

use super::{Family, Located, Transport, hide, l4};
use crate::read::PacketRead;
use crate::reason::Reason;

/// Bytes of the fixed header.
pub const HEADER_LEN: u32 = 40;
/// Offset of the source address; the destination follows.
pub const SOURCE: u32 = 8;
/// Extension headers that are followed; a packet with more of them is [`Reason::TooManyHeaders`].
pub const MAX_EXTENSIONS: u32 = 6;

/// Next header: hop-by-hop options (RFC 8200 §4.3).
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing (RFC 8200 §4.4).
pub const ROUTING: u8 = 43;
/// Next header: fragment (RFC 8200 §4.5).
pub const FRAGMENT: u8 = 44;
/// Next header: authentication (RFC 4302 §2).
pub const AUTHENTICATION: u8 = 51;
/// Next header: destination options (RFC 8200 §4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// The longest destination options header that has no room for a home address option (RFC 6275 §6.3: 18 bytes after the header's
/// two), in units of 8 bytes beyond the first. With that option the peer that the gateway sees is not the packet's source.
const PLAIN_OPTIONS: u8 = 1;

/// Finds the transport header of the IPv6 packet at `l3`.
///
/// A payload length of 0 is a jumbogram (RFC 2675) or nothing at all: unclear, either way.
#[inline(always)]
pub fn locate<R: PacketRead>(packet: &R, l3: u32) -> Located {
    const UNPARSEABLE: Located = Located::Unclear(Reason::Unparseable);
    let Some([first, _, _, _, len0, len1, next, _]) = packet.read::<8>(l3) else {
        return UNPARSEABLE;
    };
    if first >> 4 != 6 {
        return UNPARSEABLE;
    }
    let length = u16::from_be_bytes([len0, len1]);
    let l3 = hide(l3, length);
    let end = l3 + HEADER_LEN + u32::from(length);
    let mut next = next;
    let mut off = l3 + HEADER_LEN;
    // Gathers what forbids judging, without a branch for each.
    let mut doubt = hide(0, length);
    let mut seen = 0;
    loop {
        if next == l4::TCP || next == l4::UDP {
            return Located::Transport(Transport {
                family: Family::V6,
                protocol: next,
                l3,
                l4: off,
                end,
                unclear: doubt != 0,
            });
        }
        if !is_followed(next) {
            return Located::Other;
        }
        if seen == MAX_EXTENSIONS {
            return Located::Unclear(Reason::TooManyHeaders);
        }
        // Every extension header is at least eight bytes long; none may reach over the end of the packet.
        let Some([following, len, b2, b3]) = packet.read::<4>(off) else {
            return UNPARSEABLE;
        };
        let mut size = (u32::from(len) + 1) * 8;
        match next {
            // Linux knows hop-by-hop options only right behind the fixed header.
            HOP_BY_HOP => doubt |= seen,
            // Byte 3: segments left. While there are any, the destination address is only a stop on the way.
            ROUTING => doubt |= u32::from(b3),
            DESTINATION_OPTIONS => doubt |= u32::from(len & !PLAIN_OPTIONS),
            FRAGMENT => {
                // Bytes 2 and 3: 13 bits of offset, 2 reserved, 1 "more".
                if u16::from_be_bytes([b2, b3]) & 0xfff8 != 0 {
                    return Located::Unclear(Reason::Fragment);
                }
                size = 8;
            }
            // RFC 4302 §2.2: in words of four bytes, minus 2; the fixed part alone has three.
            _ => {
                doubt |= u32::from(len == 0);
                size = (u32::from(len) + 2) * 4;
            }
        }
        off = hide(off + size, length);
        if off > end {
            return UNPARSEABLE;
        }
        next = following;
        seen += 1;
    }
}

#[inline(always)]
fn is_followed(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

/// Source address, network order.
#[inline(always)]
pub fn source<R: PacketRead>(packet: &R, l3: u32) -> Option<[u8; 16]> {
    packet.read::<16>(l3 + SOURCE)
}

/// Destination address, network order.
#[inline(always)]
pub fn destination<R: PacketRead>(packet: &R, l3: u32) -> Option<[u8; 16]> {
    packet.read::<16>(l3 + SOURCE + 16)
}

/// Whether no packet of a client can have this source: unspecified, loopback, multicast (RFC 4291 §2.5.2, §2.5.3, §2.7).
#[inline(always)]
#[must_use]
pub fn odd_source(addr: [u8; 16]) -> bool {
    let word = u128::from_be_bytes(addr);
    word <= 1 || word >> 120 == 0xff
}
