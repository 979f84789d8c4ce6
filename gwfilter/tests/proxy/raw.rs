//! A TCP sender that cuts its stream where the test says: each segment is written by hand.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: their panic is the report"
)]

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use xtask::site::Site;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PUSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// Where the segments come from: an address of the router that its own TCP keeps quiet about.
pub(crate) const SENDER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
/// The first byte of the IP header's flags and offset.
const DO_NOT_FRAGMENT: u8 = 0x40;
const MORE_FRAGMENTS: u8 = 0x20;
/// Marks our own segments among those that leave the router.
const TTL: u8 = 77;
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_secs(10);

/// A header of version 1; both addresses of one family.
pub(crate) fn v1(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Vec<u8> {
    let family = if source.contains(':') { 6 } else { 4 };
    format!("PROXY TCP{family} {source} {destination} {source_port} {destination_port}\r\n").into_bytes()
}

/// A header of version 2; both addresses of one family.
pub(crate) fn v2(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Vec<u8> {
    v2_with(source, source_port, destination, destination_port, &[])
}

/// The same with these bytes (TLVs) behind the addresses.
pub(crate) fn v2_with(
    source: &str,
    source_port: u16,
    destination: &str,
    destination_port: u16,
    more: &[u8],
) -> Vec<u8> {
    let mut block = Vec::new();
    let mut family = 0;
    for address in [source, destination] {
        match address.parse().expect("an address") {
            IpAddr::V4(address) => {
                family = 0x11;
                block.extend(address.octets());
            }
            IpAddr::V6(address) => {
                family = 0x21;
                block.extend(address.octets());
            }
        }
    }
    block.extend(source_port.to_be_bytes());
    block.extend(destination_port.to_be_bytes());
    block.extend(more);
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    bytes.push(family);
    bytes.extend(u16::try_from(block.len()).expect("short").to_be_bytes());
    bytes.extend(block);
    bytes
}

/// Readies the router: the sender's address is its own, its kernel resets nothing there, the node knows the way back.
pub(crate) fn ready(site: &Site) {
    site.router
        .address("lo", &format!("{SENDER}/32"))
        .expect("an address");
    site.router
        .nft(&format!(
            "table ip quiet {{ chain out {{ type filter hook output priority 0; \
             ip saddr {SENDER} tcp flags & rst == rst ip ttl != {TTL} drop; }}; }}"
        ))
        .expect("rules");
}

/// What came of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A reset.
    Reset,
    /// The other side closed in peace.
    Closed,
    /// These bytes came back.
    Bytes(Vec<u8>),
    /// Nothing, for long.
    Silence,
}

/// One connection.
pub(crate) struct Stream {
    out: OwnedFd,
    back: OwnedFd,
    from: SocketAddrV4,
    to: SocketAddrV4,
    isn: u32,
    /// The next byte expected from the other side.
    ack: u32,
    /// What follows the last byte sent.
    end: Cell<u32>,
}

/// A segment that came back.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    payload: Vec<u8>,
}

static PORT: AtomicU16 = AtomicU16::new(20_000);
static ISN: AtomicU32 = AtomicU32::new(0x1234_5678);

impl Stream {
    /// The handshake.
    pub(crate) fn open(site: &Site, to: SocketAddr) -> Self {
        let mut stream = Self::new(site, to);
        stream.syn(&[]);
        let answer = stream.read(SILENCE).expect("an answer to the SYN");
        assert_eq!(answer.ack, stream.first());
        stream.accepted(&answer);
        stream
    }

    /// Nothing is sent yet.
    pub(crate) fn new(site: &Site, to: SocketAddr) -> Self {
        let SocketAddr::V4(to) = to else {
            panic!("IPv4 only")
        };
        let make = |protocol| {
            site.router
                .enter(|| {
                    socket(
                        AddressFamily::Inet,
                        SockType::Raw,
                        SockFlag::SOCK_CLOEXEC,
                        protocol,
                    )
                })
                .expect("entered")
                .expect("a raw socket")
        };
        // Of protocol "raw" is what is written with its IP header; of protocol TCP is what reads.
        let (out, back) = (make(SockProtocol::Raw), make(SockProtocol::Tcp));
        setsockopt(&back, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("set");
        setsockopt(&back, sockopt::RcvBuf, &(1 << 20)).expect("set");
        // Also where numbers wrap.
        let isn = ISN.fetch_add(0x1fff_fff1, Ordering::Relaxed);
        Self {
            out,
            back,
            from: SocketAddrV4::new(SENDER, PORT.fetch_add(1, Ordering::Relaxed)),
            to,
            isn,
            ack: 0,
            end: Cell::new(isn.wrapping_add(1)),
        }
    }

    /// Sends the SYN, with the beginning of the stream in it (TCP Fast Open, RFC 7413) or without.
    pub(crate) fn syn(&self, data: &[u8]) {
        self.write(self.isn, SYN, data);
    }

    /// Takes an answer for a SYN-ACK and confirms it.
    pub(crate) fn accepted(&mut self, answer: &Segment) {
        assert_eq!(answer.flags & (SYN | ACK | RST), SYN | ACK, "{answer:?}");
        self.ack = answer.seq.wrapping_add(1);
        self.write(answer.ack, ACK, &[]);
    }

    /// The sequence number of the first byte.
    pub(crate) fn first(&self) -> u32 {
        self.isn.wrapping_add(1)
    }

    /// Sends a segment as it is told.
    pub(crate) fn segment(&self, seq: u32, flags: u8, payload: &[u8]) {
        self.write(seq, flags, payload);
    }

    /// The next segment that comes back; `None`: none does.
    pub(crate) fn answer(&self, within: Duration) -> Option<Segment> {
        self.read(within)
    }

    /// Sends a SYN whose packet claims to be the first fragment of a longer one.
    pub(crate) fn fragment(&self) {
        self.write_packet(MORE_FRAGMENTS, self.isn, SYN, &[0; 4]);
    }

    /// Sends a part of the stream, which begins at `offset` of it.
    pub(crate) fn send(&self, offset: usize, bytes: &[u8]) {
        let offset = u32::try_from(offset).expect("a small offset");
        let seq = self.isn.wrapping_add(1).wrapping_add(offset);
        self.write(seq, PUSH | ACK, bytes);
        let end = seq.wrapping_add(u32::try_from(bytes.len()).expect("short"));
        // The later of the two, as sequence numbers go.
        if end.wrapping_sub(self.end.get()) < 1 << 31 {
            self.end.set(end);
        }
    }

    /// Waits until `count` bytes came, or something else.
    pub(crate) fn outcome(&mut self, count: usize) -> Outcome {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let Some(segment) = self.read(SILENCE) else {
                return Outcome::Silence;
            };
            if segment.flags & RST != 0 {
                return Outcome::Reset;
            }
            if segment.seq == self.ack && !segment.payload.is_empty() {
                self.ack = self
                    .ack
                    .wrapping_add(u32::try_from(segment.payload.len()).expect("short"));
                bytes.extend(segment.payload);
            }
            if segment.flags & FIN != 0 {
                return Outcome::Closed;
            }
        }
        Outcome::Bytes(bytes)
    }

    fn read(&self, within: Duration) -> Option<Segment> {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            let Ok(size) = recv(self.back.as_raw_fd(), &mut buffer, MsgFlags::empty()) else {
                continue;
            };
            if let Some(segment) = self.parse(buffer.get(..size).unwrap_or_default()) {
                return Some(segment);
            }
        }
        None
    }

    /// A segment of this connection.
    fn parse(&self, packet: &[u8]) -> Option<Segment> {
        let ihl = usize::from(packet.first()? & 15) * 4;
        let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
        let ip = packet.get(12..20)?;
        let tcp = packet.get(ihl..total)?;
        let (source, destination) = (ip.get(..4)?, ip.get(4..)?);
        let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let word = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let ours = source == self.to.ip().octets()
            && destination == self.from.ip().octets()
            && (port(0)?, port(2)?) == (self.to.port(), self.from.port());
        let doff = usize::from(tcp.get(12)? >> 4) * 4;
        ours.then_some(Segment {
            seq: word(4)?,
            ack: word(8)?,
            flags: *tcp.get(13)?,
            payload: tcp.get(doff..)?.to_vec(),
        })
    }

    fn write(&self, seq: u32, flags: u8, payload: &[u8]) {
        self.write_packet(DO_NOT_FRAGMENT, seq, flags, payload);
    }

    fn write_packet(&self, fragment: u8, seq: u32, flags: u8, payload: &[u8]) {
        let mut tcp = Vec::with_capacity(20 + payload.len());
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(seq.to_be_bytes());
        tcp.extend((if flags & ACK == 0 { 0 } else { self.ack }).to_be_bytes());
        tcp.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(payload);
        let mut pseudo = Vec::new();
        pseudo.extend(self.from.ip().octets());
        pseudo.extend(self.to.ip().octets());
        pseudo.extend([0, 6]);
        let length = u16::try_from(tcp.len()).expect("short");
        pseudo.extend(length.to_be_bytes());
        let sum = checksum(&[&pseudo, &tcp]).to_be_bytes();
        if let Some(field) = tcp.get_mut(16..18) {
            field.copy_from_slice(&sum);
        }
        let mut packet = vec![0x45, 0];
        packet.extend((length + 20).to_be_bytes());
        // The kernel fills in the identification and the checksum of the header.
        packet.extend([0, 0, fragment, 0, TTL, 6, 0, 0]);
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        packet.extend(tcp);
        let to = SockaddrIn::from(self.to);
        sendto(self.out.as_raw_fd(), &packet, &to, MsgFlags::empty()).expect("sent");
    }
}

impl Drop for Stream {
    /// Leaves no socket behind at the other side.
    fn drop(&mut self) {
        self.write(self.end.get(), RST | ACK, &[]);
    }
}

/// The Internet checksum of parts of even length, but for the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum = words.fold(0_u32, |sum, pair| {
        let (high, low) = (
            pair.first().copied().unwrap_or(0),
            pair.get(1).copied().unwrap_or(0),
        );
        sum + u32::from(u16::from_be_bytes([high, low]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(0)
}
