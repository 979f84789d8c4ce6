//! Wire parsers: from the Ethernet header to the ports, and no further than a verdict needs.
//!
//! The rule for all of them: a field is read as the Linux IP stack would read it, and where the stack would refuse the packet, read it
//! in another way, or depend on state that is not in the packet, the answer is "unclear", which passes.
//! Checksums are not verified: what fails them never reaches the gateway, so dropping it takes nothing away.

pub mod eth;
pub mod ipv4;
pub mod ipv6;
pub mod l4;

use crate::read::PacketRead;
use crate::reason::Reason;

/// Address family of a packet, with the numbers that [`crate::abi::Tuple::family`] uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// 4 or 6.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// Where the transport header of a packet is. Offsets count from the start of the frame, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Address family.
    pub family: Family,
    /// [`l4::TCP`] or [`l4::UDP`].
    pub protocol: u8,
    /// Start of the IP header.
    pub l3: u32,
    /// Start of the transport header.
    pub l4: u32,
    /// End of the IP packet by its own length field; Ethernet padding may follow.
    pub end: u32,
    /// The packet can be attributed, but something before the transport header forbids judging it.
    pub unclear: bool,
}

/// What the link and network layers of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// No IP, or neither TCP nor UDP: never a gateway's.
    Other,
    /// IP, but the ports cannot be known: why.
    Unclear(Reason),
    /// TCP or UDP.
    Transport(Transport),
}

/// Finds the transport header.
#[inline(always)]
pub fn locate<R: PacketRead>(packet: &R) -> Located {
    match eth::locate(packet) {
        eth::Network::Ipv4(l3) => ipv4::locate(packet, l3),
        eth::Network::Ipv6(l3) => ipv6::locate(packet, l3),
        eth::Network::TooManyTags => Located::Unclear(Reason::TooManyHeaders),
        eth::Network::Other => Located::Other,
    }
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Address family.
    pub family: Family,
    /// IP protocol.
    pub protocol: u8,
    /// Source address, network order; IPv4 in the first four bytes, the rest zero.
    pub source: [u8; 16],
    /// Destination address, as `source`.
    pub destination: [u8; 16],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
}

/// The ends of a TCP or UDP packet; for the packet log, the decision takes its own way.
#[inline(always)]
pub fn flow<R: PacketRead>(packet: &R) -> Option<Flow> {
    let Located::Transport(at) = locate(packet) else {
        return None;
    };
    let (source_port, destination_port) = at.ports(packet)?;
    let (source, destination) = at.addresses(packet)?;
    Some(Flow {
        family: at.family,
        protocol: at.protocol,
        source,
        destination,
        source_port,
        destination_port,
    })
}

/// The offset of any header that is followed is below this: 22 bytes of Ethernet, 40 of IPv6, six extension headers of 2,048.
const OFFSET_MASK: u32 = 0x3fff;

/// The same offset, by a way that the kernel's verifier cannot follow, if it knows nothing of `noise`, a field of the packet.
///
/// The verifier walks every path through a program with all that it knows of the values there. Without this, each combination of
/// tags and extension headers is a walk of its own through all that comes after: 400,000 instructions instead of some thousands.
/// All that it knows of the result is its bound, [`OFFSET_MASK`].
#[inline(always)]
fn hide(offset: u32, noise: u16) -> u32 {
    (core::hint::black_box(offset ^ u32::from(noise)) ^ u32::from(noise)) & OFFSET_MASK
}

impl Transport {
    /// Source and destination port, host order; `None` if they lie outside the IP packet or cannot be read.
    #[inline(always)]
    pub fn ports<R: PacketRead>(&self, packet: &R) -> Option<(u16, u16)> {
        if self.end < self.l4 + l4::PORTS_LEN {
            return None;
        }
        let [s0, s1, d0, d1] = packet.read::<4>(self.l4)?;
        Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
    }

    /// Source and destination address, network order; IPv4 in the first four bytes, the rest zero.
    #[inline(always)]
    pub fn addresses<R: PacketRead>(&self, packet: &R) -> Option<([u8; 16], [u8; 16])> {
        match self.family {
            Family::V4 => {
                let (s, d) = ipv4::addresses(packet, self.l3)?;
                Some((widen(s), widen(d)))
            }
            Family::V6 => Some((
                ipv6::source(packet, self.l3)?,
                ipv6::destination(packet, self.l3)?,
            )),
        }
    }

    /// Source address, network order; IPv4 in the first four bytes, the rest zero.
    #[inline(always)]
    pub fn source<R: PacketRead>(&self, packet: &R) -> Option<[u8; 16]> {
        match self.family {
            Family::V4 => packet.read::<4>(self.l3 + ipv4::SOURCE).map(widen),
            Family::V6 => ipv6::source(packet, self.l3),
        }
    }

    /// Source address as [`destination_words`](Self::destination_words) gives the destination.
    #[inline(always)]
    pub fn source_words<R: PacketRead>(&self, packet: &R) -> Option<[u64; 2]> {
        match self.family {
            Family::V4 => {
                let address = packet.read::<4>(self.l3 + ipv4::SOURCE)?;
                Some([u64::from_le(u64::from(u32::from_le_bytes(address))), 0])
            }
            Family::V6 => Some([
                u64::from_ne_bytes(packet.read::<8>(self.l3 + ipv6::SOURCE)?),
                u64::from_ne_bytes(packet.read::<8>(self.l3 + ipv6::SOURCE + 8)?),
            ]),
        }
    }

    /// Destination address as the two words that a tuple begins with. As words, because nearly every packet is only compared by it, and the
    /// kernel's compiler would take bytes apart and put them together again.
    #[inline(always)]
    pub fn destination_words<R: PacketRead>(&self, packet: &R) -> Option<[u64; 2]> {
        match self.family {
            Family::V4 => {
                let address = packet.read::<4>(self.l3 + ipv4::SOURCE + 4)?;
                // The first four bytes of the first word, whatever the machine's order.
                Some([u64::from_le(u64::from(u32::from_le_bytes(address))), 0])
            }
            Family::V6 => Some([
                u64::from_ne_bytes(packet.read::<8>(self.l3 + ipv6::SOURCE + 16)?),
                u64::from_ne_bytes(packet.read::<8>(self.l3 + ipv6::SOURCE + 24)?),
            ]),
        }
    }

    /// Whether the packet may be judged: the IP packet and its transport header are whole, the stack would take it, and nothing
    /// in it points to another destination or source. The answer is of the TCP header (nothing for UDP).
    #[inline(always)]
    pub fn judgeable<R: PacketRead>(&self, packet: &R) -> Option<l4::Tcp> {
        if self.unclear || !packet.holds(self.end) {
            return None;
        }
        let tcp = match self.protocol {
            l4::TCP => l4::tcp(packet, self.l4, self.end)?,
            _ => l4::Tcp {
                flags: 0,
                payload: self.l4,
            },
        };
        if self.family == Family::V4 && ipv4::may_be_source_routed(packet, self.l3, self.l4) {
            return None;
        }
        Some(tcp)
    }
}

#[inline(always)]
const fn widen([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests;
