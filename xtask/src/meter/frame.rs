//! The frames of a stream: TCP segments, numbered in the sequence number, marked in the acknowledgement number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The upper 24 bits of the acknowledgement number of every frame; the stream is in the lower seven.
pub(super) const MAGIC: i32 = 0x0067_7766;
/// The bit between them: the sequence number is one above the frame's number.
pub(super) const FIRST_DATA: u8 = 0x80;
/// `offsetof(struct tcphdr, ack_seq)`.
pub(super) const ACKNOWLEDGEMENT: i16 = 8;

/// TCP flags.
const SYN: u8 = 0x02;
const PUSH_ACK: u8 = 0x18;
const ACK: u8 = 0x10;

/// The port that sources begin with.
const FIRST_PORT: u16 = 10_000;
/// How many ports each source uses in turn.
const PORTS: u32 = 50_000;
/// The beginning of a PROXY header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What becomes of every frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// None may arrive.
    Never,
    /// Every one must arrive.
    Always,
}

/// What the frames of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYNs.
    Opening,
    /// SYNs and ACKs in turn.
    Mixed,
    /// First segments of connections that a load balancer opened: number n belongs to the SYN with number n of a stream of the same
    /// sources and destinations before this one. Each has a PROXY header that names a client: the versions in turn.
    Header {
        /// The first of the clients; there are as many as sources.
        client: IpAddr,
    },
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What it is called.
    pub name: String,
    /// What becomes of it.
    pub fate: Fate,
    /// What its frames are.
    pub kind: Kind,
    /// The first of its sources.
    pub first: IpAddr,
    /// How many sources there are, this one and those after it.
    pub sources: u32,
    /// Where the frames go, in turn; all of the sources' family.
    pub to: Vec<SocketAddr>,
}

/// The frame with this number. `which` is the stream's number, `macs` are destination and source.
pub(super) fn frame(stream: &Stream, which: u8, number: u32, macs: [[u8; 6]; 2]) -> Vec<u8> {
    let place = number as usize;
    let to = stream.to.get(place % stream.to.len().max(1)).copied();
    let to = to.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let sources = stream.sources.max(1);
    let nth = |first: IpAddr| match first {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(
            first.to_bits().wrapping_add(number % sources),
        )),
        IpAddr::V6(first) => {
            let bits = first.to_bits().wrapping_add(u128::from(number % sources));
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    };
    let port = u32::from(FIRST_PORT) + number / sources % PORTS;
    let port = u16::try_from(port).unwrap_or(FIRST_PORT);
    let (flags, mark, sequence, data) = match stream.kind {
        Kind::Mixed if number % 2 == 1 => (ACK, which, number, Vec::new()),
        Kind::Mixed | Kind::Opening => (SYN, which, number, Vec::new()),
        Kind::Header { client } => {
            let client = SocketAddr::new(nth(client), port);
            let data = if number.is_multiple_of(2) {
                version1(client, to)
            } else {
                version2(client, to)
            };
            (PUSH_ACK, which | FIRST_DATA, number.wrapping_add(1), data)
        }
    };
    let mut segment = Vec::with_capacity(160);
    segment.extend(port.to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend((MAGIC.cast_unsigned() << 8 | u32::from(mark)).to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    let len = u16::try_from(segment.len()).unwrap_or_default();
    let mut out = Vec::with_capacity(200);
    out.extend(macs.as_flattened());
    match (nth(stream.first), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let [high, low] = len.to_be_bytes();
            sum_into(
                &mut segment,
                &[&source.octets(), &to.octets(), &[0, 6, high, low]],
            );
            let mut header = vec![0x45, 0];
            header.extend((len + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            header.extend(source.octets());
            header.extend(to.octets());
            let sum = checksum(&[&header]);
            if let Some(field) = header.get_mut(10..12) {
                field.copy_from_slice(&sum);
            }
            out.extend([0x08, 0x00]);
            out.extend(header);
        }
        (source, to) => {
            let (source, to, [high, low]) = (v6(source), v6(to), len.to_be_bytes());
            let pseudo = [0, 0, high, low, 0, 0, 0, 6];
            sum_into(&mut segment, &[&source.octets(), &to.octets(), &pseudo]);
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, high, low, 6, 64]);
            out.extend(source.octets());
            out.extend(to.octets());
        }
    }
    out.extend(segment);
    out
}

/// A PROXY header as text.
fn version1(client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, at, from_port, at_port) = (client.ip(), to.ip(), client.port(), to.port());
    format!("PROXY {family} {from} {at} {from_port} {at_port}\r\n").into_bytes()
}

/// A PROXY header of version 2.
fn version2(client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    match (client.ip(), to.ip()) {
        (IpAddr::V4(client), IpAddr::V4(to)) => {
            out.extend([0x21, 0x11, 0, 12]);
            out.extend(client.octets());
            out.extend(to.octets());
        }
        (client, to) => {
            out.extend([0x21, 0x21, 0, 36]);
            out.extend(v6(client).octets());
            out.extend(v6(to).octets());
        }
    }
    out.extend(client.port().to_be_bytes());
    out.extend(to.port().to_be_bytes());
    out
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Writes the checksum of a segment with this pseudo-header (RFC 9293 §3.1) into it.
fn sum_into(segment: &mut [u8], pseudo: &[&[u8]]) {
    let mut parts = pseudo.to_vec();
    parts.push(segment);
    let sum = checksum(&parts);
    if let Some(field) = segment.get_mut(16..18) {
        field.copy_from_slice(&sum);
    }
}

/// The internet checksum (RFC 1071) over parts that are of even length, but for the last one.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|word| match word {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            [high] => u32::from(*high) << 8,
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(kind: Kind, first: &str, to: &[&str]) -> Stream {
        Stream {
            name: "x".to_owned(),
            fate: Fate::Always,
            kind,
            first: first.parse().unwrap(),
            sources: 3,
            to: to.iter().map(|to| to.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn numbers_then_sources_and_destinations_in_turn_and_the_number_in_the_frame() {
        let stream = stream(
            Kind::Mixed,
            "192.0.2.254",
            &["203.0.113.80:80", "10.0.0.10:30080"],
        );
        let macs = [[2; 6], [3; 6]];
        for (number, source, to, port, flags) in [
            (0, [192, 0, 2, 254], [203, 0, 113, 80], 80, SYN),
            (1, [192, 0, 2, 255], [10, 0, 0, 10], 30_080, ACK),
            (2, [192, 0, 3, 0], [203, 0, 113, 80], 80, SYN),
            (3, [192, 0, 2, 254], [10, 0, 0, 10], 30_080, ACK),
        ] {
            let frame = frame(&stream, 5, number, macs);
            assert_eq!(frame.len(), 54);
            assert_eq!(
                (frame[26..30].to_vec(), frame[30..34].to_vec()),
                (source.to_vec(), to.to_vec())
            );
            assert_eq!(frame[36..38], u16::to_be_bytes(port));
            assert_eq!(frame[38..42], u32::to_be_bytes(number));
            assert_eq!(frame[42..46], [b'g', b'w', b'f', 5]);
            assert_eq!(frame[47], flags);
            // A header with its checksum sums up to nothing.
            assert_eq!(checksum(&[&frame[14..34]]), [0, 0]);
            let pseudo = [&frame[26..34], &[0, 6, 0, 20], &frame[34..]];
            assert_eq!(checksum(&pseudo), [0, 0]);
        }
    }

    #[test]
    fn openings_then_syns_only_and_v6_headers_for_v6() {
        let stream = stream(Kind::Opening, "2001:db8::ffff", &["[2001:db8:80::80]:80"]);
        for number in 0..4 {
            let frame = frame(&stream, 0, number, [[2; 6], [3; 6]]);
            assert_eq!(
                (frame.len(), frame[12..14].to_vec(), frame[67]),
                (74, vec![0x86, 0xdd], SYN)
            );
            let pseudo = [&frame[22..54], &[0, 0, 0, 20, 0, 0, 0, 6], &frame[54..]];
            assert_eq!(checksum(&pseudo), [0, 0]);
        }
        assert_eq!(frame(&stream, 0, 1, [[2; 6], [3; 6]])[36..38], [0, 0], "a carry");
    }

    #[test]
    fn headers_then_the_sequence_number_after_the_syn_and_the_client_in_both_versions() {
        for (source, to, client, text) in [
            (
                "10.0.0.1",
                "203.0.113.80:80",
                "198.51.100.7",
                "PROXY TCP4 198.51.100.7 203.0.113.80 10000 80\r\n",
            ),
            (
                "fd00::1",
                "[2001:db8::80]:80",
                "2001:db8:a::7",
                "PROXY TCP6 2001:db8:a::7 2001:db8::80 10000 80\r\n",
            ),
        ] {
            let client = client.parse().unwrap();
            let data = if source.contains(':') { 74 } else { 54 };
            let header = Kind::Header { client };
            let frames: Vec<Vec<u8>> = [(Kind::Opening, 0), (header, 0), (Kind::Opening, 1), (header, 1)]
                .iter()
                .map(|(kind, number)| frame(&stream(*kind, source, &[to]), 3, *number, [[2; 6], [3; 6]]))
                .collect();
            let at = |frame: &[u8], from: usize| u32::from_be_bytes(frame[from..][..4].try_into().unwrap());
            for pair in frames.chunks(2) {
                assert_eq!(pair[0][14..data - 16].len(), pair[1][14..data - 16].len());
                assert_eq!(at(&pair[0], data - 16) + 1, at(&pair[1], data - 16), "ISN + 1");
                assert_eq!(
                    pair[0][data - 20..data - 16],
                    pair[1][data - 20..data - 16],
                    "ports"
                );
                assert_eq!((pair[0][data - 9], pair[1][data - 9]), (3, 3 | FIRST_DATA));
            }
            assert_eq!(frames[1][data..], *text.as_bytes());
            assert_eq!(frames[3][data..data + 12], *SIGNATURE);
            let last = frames[3].len();
            assert_eq!(frames[3][last - 4..], [0x27, 0x10, 0, 80]);
        }
    }
}
