//! A small builder of frames, into a fixed buffer and without allocation: for tests, fuzz targets and `explain`.
//!
//! It writes what it is told, wrong combinations included, so that parsers can be shown bad packets; lengths and checksums are right
//! unless the frame is changed afterwards.

use core::net::{IpAddr, SocketAddr};

use crate::wire::{eth, ipv4, ipv6, l4};

/// Bytes that a [`Frame`] can hold.
pub const CAPACITY: usize = 2048;

/// A built frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Frame {
    /// The frame, from its Ethernet header on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// The same, to be changed.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or(&mut [])
    }
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension<'a> {
    /// Any header of the common form: its number and what follows its first two bytes; padded with zeros (Pad1) to a multiple of eight bytes.
    Options(u8, &'a [u8]),
    /// A routing header of this type with this many segments left and no addresses.
    Routing {
        /// Routing type.
        kind: u8,
        /// Segments left.
        segments_left: u8,
    },
    /// A fragment header.
    Fragment(Fragment),
    /// An authentication header with this many bytes of check value, padded to a multiple of four.
    Authentication(u8),
}

/// A piece of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// In units of eight bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// The transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<'a> {
    /// TCP with these flags and options (padded to a multiple of four).
    Tcp {
        /// The flags of byte 13.
        flags: u8,
        /// Option bytes.
        options: &'a [u8],
    },
    /// UDP.
    Udp,
    /// The payload follows the IP header directly.
    Raw(u8),
}

/// A packet to build. Fields that do not fit its family are ignored.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Types of the VLAN tags, outermost first.
    pub tags: &'a [u16],
    /// Source.
    pub source: SocketAddr,
    /// Destination, of the same family.
    pub destination: SocketAddr,
    /// IPv4 options, padded with zeros to a multiple of four; at most 40 bytes.
    pub options: &'a [u8],
    /// IPv4 fragment.
    pub fragment: Option<Fragment>,
    /// IPv6 extension headers, in order.
    pub extensions: &'a [Extension<'a>],
    /// Transport header.
    pub transport: Transport<'a>,
    /// What follows it.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A bare TCP SYN.
    #[must_use]
    pub const fn syn(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::tcp(source, destination, l4::SYN)
    }

    /// A TCP segment with these flags and neither options nor payload.
    #[must_use]
    pub const fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self::new(source, destination, Transport::Tcp { flags, options: &[] })
    }

    /// A UDP datagram without payload.
    #[must_use]
    pub const fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(source, destination, Transport::Udp)
    }

    /// A packet without tags, options, extensions or payload.
    #[must_use]
    pub const fn new(source: SocketAddr, destination: SocketAddr, transport: Transport<'a>) -> Self {
        Self {
            tags: &[],
            source,
            destination,
            options: &[],
            fragment: None,
            extensions: &[],
            transport,
            payload: &[],
        }
    }

    /// The frame; `None` if the addresses are of different families or it would not fit [`CAPACITY`] or its own length fields.
    #[must_use]
    pub fn build(&self) -> Option<Frame> {
        let mut w = Writer {
            bytes: [0; CAPACITY],
            len: 0,
        };
        // Locally administered addresses.
        w.put(&[0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01])?;
        for tag in self.tags {
            w.put(&tag.to_be_bytes())?;
            w.put(&[0, 1])?;
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => self.build4(&mut w, s.octets(), d.octets())?,
            (IpAddr::V6(s), IpAddr::V6(d)) => self.build6(&mut w, s.octets(), d.octets())?,
            _ => return None,
        }
        Some(Frame {
            bytes: w.bytes,
            len: w.len,
        })
    }

    fn build4(&self, w: &mut Writer, source: [u8; 4], destination: [u8; 4]) -> Option<()> {
        w.put(&eth::IPV4.to_be_bytes())?;
        let l3 = w.len;
        let words = u8::try_from(self.options.len().div_ceil(4))
            .ok()
            .filter(|w| *w <= 10)?;
        let frag = self
            .fragment
            .map_or(0, |f| f.bits(ipv4::OFFSET_MASK, 0, ipv4::MORE_FRAGMENTS));
        w.put(&[0x45 + words, 0, 0, 0, 0, 0])?;
        w.put(&frag.to_be_bytes())?;
        w.put(&[64, self.protocol(), 0, 0])?;
        w.put(&source)?;
        w.put(&destination)?;
        w.put(self.options)?;
        w.pad(l3, 4)?;
        let l4 = w.len;
        self.transport(w)?;
        let total = u16::try_from(w.len - l3).ok()?;
        w.set(l3 + 2, &total.to_be_bytes())?;
        let sum = checksum(0, w.bytes.get(l3..l4)?);
        w.set(l3 + 10, &sum.to_be_bytes())?;
        self.finish(w, l4, &[&source, &destination])
    }

    fn build6(&self, w: &mut Writer, source: [u8; 16], destination: [u8; 16]) -> Option<()> {
        w.put(&eth::IPV6.to_be_bytes())?;
        let l3 = w.len;
        w.put(&[0x60, 0, 0, 0, 0, 0, 0, 64])?;
        w.put(&source)?;
        w.put(&destination)?;
        // Where the number of the header that is written next belongs.
        let mut next = l3 + 6;
        for extension in self.extensions {
            w.set(next, &[extension.number()])?;
            next = w.len;
            extension.write(w)?;
        }
        w.set(next, &[self.protocol()])?;
        let l4 = w.len;
        self.transport(w)?;
        let length = u16::try_from(w.len - l3 - 40).ok()?;
        w.set(l3 + 4, &length.to_be_bytes())?;
        self.finish(w, l4, &[&source, &destination])
    }

    const fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => l4::TCP,
            Transport::Udp => l4::UDP,
            Transport::Raw(protocol) => protocol,
        }
    }

    fn transport(&self, w: &mut Writer) -> Option<()> {
        let start = w.len;
        let ports = [
            self.source.port().to_be_bytes(),
            self.destination.port().to_be_bytes(),
        ];
        match self.transport {
            Transport::Tcp { flags, options } => {
                let words = u8::try_from(options.len().div_ceil(4))
                    .ok()
                    .filter(|w| *w <= 10)?;
                w.put(ports.as_flattened())?;
                w.put(&[
                    0,
                    0,
                    0,
                    1,
                    0,
                    0,
                    0,
                    0,
                    (5 + words) << 4,
                    flags,
                    0x20,
                    0,
                    0,
                    0,
                    0,
                    0,
                ])?;
                w.put(options)?;
                w.pad(start, 4)?;
            }
            Transport::Udp => {
                w.put(ports.as_flattened())?;
                w.put(&u16::try_from(8 + self.payload.len()).ok()?.to_be_bytes())?;
                w.put(&[0, 0])?;
            }
            Transport::Raw(_) => {}
        }
        w.put(self.payload)
    }

    /// Writes the transport checksum over the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1). A fragment's, which covers
    /// bytes that are not here, is written as if it were whole.
    fn finish(&self, w: &mut Writer, l4: usize, addresses: &[&[u8]]) -> Option<()> {
        let field = match self.transport {
            Transport::Tcp { .. } => l4 + 16,
            Transport::Udp => l4 + 6,
            Transport::Raw(_) => return Some(()),
        };
        let length = u32::try_from(w.len - l4).ok()?;
        let mut sum = length + u32::from(self.protocol());
        for address in addresses {
            sum = add(sum, address);
        }
        let sum = match (self.transport, checksum(sum, w.bytes.get(l4..w.len)?)) {
            // In UDP a zero says "none" (RFC 768).
            (Transport::Udp, 0) => 0xffff,
            (_, sum) => sum,
        };
        w.set(field, &sum.to_be_bytes())
    }
}

impl Fragment {
    const fn bits(self, mask: u16, shift: u32, more: u16) -> u16 {
        ((self.offset << shift) & (mask << shift)) | if self.more { more } else { 0 }
    }
}

impl Extension<'_> {
    const fn number(&self) -> u8 {
        match self {
            Self::Options(number, _) => *number,
            Self::Routing { .. } => ipv6::ROUTING,
            Self::Fragment(_) => ipv6::FRAGMENT,
            Self::Authentication(_) => ipv6::AUTHENTICATION,
        }
    }

    /// Writes the header; its first byte, the next header, is left 0.
    fn write(&self, w: &mut Writer) -> Option<()> {
        let start = w.len;
        match *self {
            Self::Options(_, body) => {
                w.put(&[0, 0])?;
                w.put(body)?;
                w.pad(start, 8)?;
                w.set(start + 1, &[u8::try_from((w.len - start) / 8 - 1).ok()?])
            }
            Self::Routing { kind, segments_left } => w.put(&[0, 0, kind, segments_left, 0, 0, 0, 0]),
            Self::Fragment(fragment) => {
                w.put(&[0, 0])?;
                w.put(&fragment.bits(ipv4::OFFSET_MASK, 3, 1).to_be_bytes())?;
                w.put(&[0, 0, 0, 1])
            }
            Self::Authentication(icv) => {
                w.put(&[0; 12])?;
                for _ in 0..icv {
                    w.put(&[0])?;
                }
                w.pad(start, 4)?;
                w.set(start + 1, &[u8::try_from((w.len - start) / 4 - 2).ok()?])
            }
        }
    }
}

struct Writer {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let at = self.len;
        self.set(at, bytes)?;
        self.len = at + bytes.len();
        Some(())
    }

    /// Zeros until the length since `start` is a multiple of `unit`.
    fn pad(&mut self, start: usize, unit: usize) -> Option<()> {
        while !(self.len - start).is_multiple_of(unit) {
            self.put(&[0])?;
        }
        Some(())
    }

    fn set(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        self.bytes
            .get_mut(at..)?
            .get_mut(..bytes.len())?
            .copy_from_slice(bytes);
        Some(())
    }
}

/// The Internet checksum (RFC 1071) of `bytes` on top of a partial sum.
fn checksum(partial: u32, bytes: &[u8]) -> u16 {
    let mut sum = add(partial, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, pair| match *pair {
        [a, b] => sum + u32::from(u16::from_be_bytes([a, b])),
        [a] => sum + u32::from(u16::from_be_bytes([a, 0])),
        _ => sum,
    })
}

#[cfg(test)]
mod tests;
