//! TCP (RFC 9293 §3.1) and UDP (RFC 768): ports and TCP flags.

use crate::read::PacketRead;

/// IP protocol: TCP.
pub const TCP: u8 = 6;
/// IP protocol: UDP.
pub const UDP: u8 = 17;
/// Both begin with two ports.
pub const PORTS_LEN: u32 = 4;
/// Bytes of a TCP header without options.
pub const TCP_HEADER_LEN: u32 = 20;
/// TCP flag.
pub const FIN: u8 = 0x01;
/// TCP flag.
pub const SYN: u8 = 0x02;
/// TCP flag.
pub const RST: u8 = 0x04;
/// TCP flag.
pub const ACK: u8 = 0x10;
/// TCP flag.
pub const URG: u8 = 0x20;

/// What a TCP header says of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The flags of byte 13.
    pub flags: u8,
    /// Where the payload begins: at most at the packet's end.
    pub payload: u32,
}

/// The header of the TCP segment at `l4` in a packet that ends at `end`; `None` if it is not whole, as in
/// `tcp_v4_rcv()` of Linux: a data offset below five words, or beyond the segment.
#[inline(always)]
pub fn tcp<R: PacketRead>(packet: &R, l4: u32, end: u32) -> Option<Tcp> {
    // Bytes 12 and 13: data offset and flags.
    let [offset, flags] = packet.read::<2>(l4 + 12)?;
    let header = u32::from(offset >> 4) * 4;
    if header < TCP_HEADER_LEN || l4 + header > end {
        return None;
    }
    Some(Tcp {
        flags,
        payload: l4 + header,
    })
}

/// Whether a segment with these flags opens a connection: SYN without ACK, whatever else is set (an ECN SYN carries more).
#[inline(always)]
#[must_use]
pub fn opens_connection(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}
