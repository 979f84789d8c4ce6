//! The frames of a stream: TCP segments without data, numbered in the sequence number, marked in the acknowledgement number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The upper 24 bits of the acknowledgement number of every frame; the stream is in the lower eight.
pub(super) const MAGIC: i32 = 0x0067_7766;
/// `offsetof(struct tcphdr, ack_seq)`.
pub(super) const ACKNOWLEDGEMENT: i16 = 8;

/// TCP flags.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The port that sources begin with.
const FIRST_PORT: u16 = 10_000;
/// How many ports each source uses in turn.
const PORTS: u32 = 50_000;

/// What becomes of every frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// None may arrive. SYNs: what a connection from before a tightening sends is let live for a while.
    Never,
    /// Every one must arrive. SYNs and ACKs in turn.
    Always,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What it is called.
    pub name: String,
    /// What becomes of it.
    pub fate: Fate,
    /// The first of its sources.
    pub first: IpAddr,
    /// How many sources there are, this one and those after it.
    pub sources: u32,
    /// Where the frames go, in turn; all of the sources' family.
    pub to: Vec<SocketAddr>,
}

/// The frame with this number. `stream` is the stream's number, `macs` are destination and source.
pub(super) fn frame(stream: &Stream, which: u8, number: u32, macs: [[u8; 6]; 2]) -> Vec<u8> {
    let place = number as usize;
    let to = stream.to.get(place % stream.to.len().max(1)).copied();
    let to = to.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let flags = match stream.fate {
        Fate::Always if number % 2 == 1 => ACK,
        Fate::Always | Fate::Never => SYN,
    };
    let sources = stream.sources.max(1);
    let port = u32::from(FIRST_PORT) + number / sources % PORTS;
    let mut segment = Vec::with_capacity(20);
    segment.extend(u16::try_from(port).unwrap_or(FIRST_PORT).to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(number.to_be_bytes());
    segment.extend((MAGIC.cast_unsigned() << 8 | u32::from(which)).to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let mut out = Vec::with_capacity(80);
    out.extend(macs.as_flattened());
    match (stream.first, to.ip()) {
        (IpAddr::V4(first), IpAddr::V4(to)) => {
            let source = Ipv4Addr::from_bits(first.to_bits().wrapping_add(number % sources));
            sum_into(&mut segment, &[&source.octets(), &to.octets(), &[0, 6, 0, 20]]);
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(source.octets());
            header.extend(to.octets());
            let sum = checksum(&[&header]);
            if let Some(field) = header.get_mut(10..12) {
                field.copy_from_slice(&sum);
            }
            out.extend([0x08, 0x00]);
            out.extend(header);
        }
        (first, to) => {
            let (first, to) = (v6(first), v6(to));
            let source = Ipv6Addr::from_bits(first.to_bits().wrapping_add(u128::from(number % sources)));
            sum_into(
                &mut segment,
                &[&source.octets(), &to.octets(), &[0, 0, 0, 20, 0, 0, 0, 6]],
            );
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            out.extend(source.octets());
            out.extend(to.octets());
        }
    }
    out.extend(segment);
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

/// The internet checksum (RFC 1071) over parts of even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|word| match word {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
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

    fn stream(fate: Fate, first: &str, to: &[&str]) -> Stream {
        Stream {
            name: "x".to_owned(),
            fate,
            first: first.parse().unwrap(),
            sources: 3,
            to: to.iter().map(|to| to.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn numbers_then_sources_and_destinations_in_turn_and_the_number_in_the_frame() {
        let stream = stream(
            Fate::Always,
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
    fn a_stream_that_must_never_arrive_then_syns_only_and_v6_headers_for_v6() {
        let stream = stream(Fate::Never, "2001:db8::ffff", &["[2001:db8:80::80]:80"]);
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
}
