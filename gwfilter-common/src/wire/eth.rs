//! Ethernet II with up to two VLAN tags (IEEE 802.3 §3.2, 802.1Q §9.6).

use crate::read::PacketRead;

/// Bytes before the payload of an untagged frame.
pub const HEADER_LEN: u32 = 14;
/// Offset of the type field.
pub const TYPE: u32 = 12;
/// Bytes that one tag adds.
pub const TAG_LEN: u32 = 4;
/// Type: IPv4.
pub const IPV4: u16 = 0x0800;
/// Type: IPv6.
pub const IPV6: u16 = 0x86dd;
/// Tag type of 802.1Q customer VLANs.
pub const VLAN: u16 = 0x8100;
/// Tag type of 802.1ad service VLANs.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// What an Ethernet frame carries, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// An IPv4 header starts at this offset.
    Ipv4(u32),
    /// An IPv6 header starts at this offset.
    Ipv6(u32),
    /// More than two tags.
    TooManyTags,
    /// Anything else, 802.3 length frames included.
    Other,
}

/// Follows at most two tags.
#[inline(always)]
pub fn locate<R: PacketRead>(packet: &R) -> Network {
    let mut off = TYPE;
    let mut tags = 0;
    loop {
        let Some(kind) = packet.read::<2>(off) else {
            return Network::Other;
        };
        let kind = u16::from_be_bytes(kind);
        if kind == IPV4 {
            return Network::Ipv4(off + 2);
        }
        if kind == IPV6 {
            return Network::Ipv6(off + 2);
        }
        if kind != VLAN && kind != SERVICE_VLAN {
            return Network::Other;
        }
        if tags == 2 {
            return Network::TooManyTags;
        }
        tags += 1;
        off += TAG_LEN;
    }
}
