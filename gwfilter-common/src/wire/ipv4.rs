//! IPv4 (RFC 791 §3.1), as `ip_rcv_core()` of Linux reads it.

use super::{Family, Located, Transport, hide, l4};
use crate::read::PacketRead;
use crate::reason::Reason;

/// Bytes of a header without options.
pub const HEADER_LEN: u32 = 20;
/// Offset of the source address; the destination follows.
pub const SOURCE: u32 = 12;
/// Mask of the fragment offset.
pub const OFFSET_MASK: u16 = 0x1fff;
/// Flag: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// Option: loose source route.
pub const LOOSE_SOURCE_ROUTE: u8 = 131;
/// Option: strict source route.
pub const STRICT_SOURCE_ROUTE: u8 = 137;
/// A header of 15 words has ten of options.
const MAX_OPTION_WORDS: u32 = 10;

/// Finds the transport header of the IPv4 packet at `l3`.
///
/// A first fragment is located (it holds the ports that count: the stack refuses overlapping fragments), a later one is
/// [`Reason::Fragment`]. Options are skipped; see [`may_be_source_routed`]. A total length of 0, which a merged packet above
/// 64 KiB has, is not told from a wrong one and so is unclear.
#[inline(always)]
pub fn locate<R: PacketRead>(packet: &R, l3: u32) -> Located {
    const UNPARSEABLE: Located = Located::Unclear(Reason::Unparseable);
    let Some([first, _, len0, len1, _, _, frag0, frag1, _, protocol]) = packet.read::<10>(l3) else {
        return UNPARSEABLE;
    };
    if first >> 4 != 4 {
        return UNPARSEABLE;
    }
    if protocol != l4::TCP && protocol != l4::UDP {
        return Located::Other;
    }
    let header = u32::from(first & 0x0f) * 4;
    let total = u16::from_be_bytes([len0, len1]);
    if header < HEADER_LEN || u32::from(total) < header {
        return UNPARSEABLE;
    }
    if u16::from_be_bytes([frag0, frag1]) & OFFSET_MASK != 0 {
        return Located::Unclear(Reason::Fragment);
    }
    let l3 = hide(l3, total);
    Located::Transport(Transport {
        family: Family::V4,
        protocol,
        l3,
        l4: l3 + header,
        end: l3 + u32::from(total),
        unclear: false,
    })
}

/// Whether the options between `l3` and `l4` may hold a source route (RFC 791 §3.1, types 131 and 137): with one the
/// destination address is only a stop on the way, where `accept_source_route` is on. Any option byte of such a value counts, so
/// the answer errs towards yes; a byte that cannot be read counts too.
#[inline(always)]
pub fn may_be_source_routed<R: PacketRead>(packet: &R, l3: u32, l4: u32) -> bool {
    let mut off = l3 + HEADER_LEN;
    let mut found = 0;
    for _ in 0..MAX_OPTION_WORDS {
        if off >= l4 {
            break;
        }
        let Some(word) = packet.read::<4>(off) else {
            return true;
        };
        let word = u32::from_ne_bytes(word);
        found |= zero_byte(word ^ u32::from_ne_bytes([LOOSE_SOURCE_ROUTE; 4]));
        found |= zero_byte(word ^ u32::from_ne_bytes([STRICT_SOURCE_ROUTE; 4]));
        off += 4;
    }
    found != 0
}

/// Not 0 if, and only if, a byte of the word is 0; without a branch for each.
#[inline(always)]
pub(super) const fn zero_byte(word: u32) -> u32 {
    word.wrapping_sub(0x0101_0101) & !word & 0x8080_8080
}

/// Source and destination address, network order.
#[inline(always)]
pub fn addresses<R: PacketRead>(packet: &R, l3: u32) -> Option<([u8; 4], [u8; 4])> {
    let [s0, s1, s2, s3, d0, d1, d2, d3] = packet.read::<8>(l3 + SOURCE)?;
    Some(([s0, s1, s2, s3], [d0, d1, d2, d3]))
}

/// Whether no packet of a client can have this source: unspecified, loopback (RFC 1122 §3.2.1.3), multicast (RFC 5771), limited
/// broadcast (RFC 919). The rest of 0.0.0.0/8 and of 240.0.0.0/4 is unicast to Linux.
#[inline(always)]
#[must_use]
pub fn odd_source(addr: [u8; 4]) -> bool {
    let word = u32::from_be_bytes(addr);
    word == 0 || word >> 24 == 127 || word >> 28 == 0xe || word == u32::MAX
}
