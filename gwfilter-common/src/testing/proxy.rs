//! A slow reader of PROXY headers, written from Envoy's procedure with whole strings and the standard library's address parsers, and
//! what must hold between it and [`crate::proxy`].

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::string::String;
use std::vec::Vec;

use crate::proxy::{Header, Parsed, parse};
use crate::read::SliceReader;
use crate::wire::Family;

/// What Envoy makes of the first bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It takes these ends for the connection's: source and destination.
    Ends(SocketAddr, SocketAddr),
    /// It keeps the connection's own ends.
    Own,
    /// It closes the connection.
    Refused,
    /// It waits for more.
    Waits,
    /// An IPv6 address with a zone: what it makes of it depends on the interfaces there are.
    Zone,
}

/// A reading, and how many bytes of the stream Envoy takes away.
pub type Taken = (Reading, usize);

const REFUSED: Taken = (Reading::Refused, 0);
const WAITS: Taken = (Reading::Waits, 0);

/// How Envoy 1.40 reads `stream`, if nothing follows: `Filter::parseBuffer()` and what it calls.
#[must_use]
pub fn envoy(stream: &[u8]) -> Taken {
    if stream.len() >= 16 {
        if stream.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
            return binary(stream);
        }
        if !stream.starts_with(b"PROXY ") {
            return REFUSED;
        }
    }
    let end = stream.windows(2).position(|pair| pair == b"\r\n");
    match end {
        Some(0) => WAITS,
        Some(end) if end + 2 <= 108 => (line(stream.get(..end).unwrap_or_default()), end + 2),
        None if stream.len() <= 108 => WAITS,
        _ => REFUSED,
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b))
}

fn binary(stream: &[u8]) -> Taken {
    let (Some(fixed), Some(rest)) = (stream.get(12..16), stream.get(16..)) else {
        return WAITS;
    };
    let &[version, family, ref len @ ..] = fixed else {
        return WAITS;
    };
    let len = number(len);
    if version & 0xf0 != 0x20 {
        return REFUSED;
    }
    if version == 0x20 {
        return if rest.len() < len {
            WAITS
        } else {
            (Reading::Own, 16 + len)
        };
    }
    let width = match family >> 4 {
        1 => 4,
        2 => 16,
        _ => return REFUSED,
    };
    let addresses = 2 * width + 4;
    if len < addresses {
        return REFUSED;
    }
    if rest.len() < addresses {
        return WAITS;
    }
    if version != 0x21 || !matches!(family & 0x0f, 1 | 2) {
        return REFUSED;
    }
    if rest.len() < len {
        return WAITS;
    }
    let field = |from: usize, size: usize| rest.get(from..from + size).unwrap_or_default();
    if !well_formed(field(addresses, len - addresses)) {
        return REFUSED;
    }
    let end = |at: usize, port: usize| {
        let ip = match <[u8; 16]>::try_from(field(at, width)) {
            Ok(wide) => IpAddr::from(wide),
            Err(_) => IpAddr::from(<[u8; 4]>::try_from(field(at, width)).unwrap_or_default()),
        };
        SocketAddr::new(ip, u16::try_from(number(field(port, 2))).unwrap_or(0))
    };
    (ends(end(0, 2 * width), end(width, 2 * width + 2)), 16 + len)
}

/// Whether TLVs fill `rest` to its last byte.
fn well_formed(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(next) = rest.get(1..3).and_then(|len| rest.get(3 + number(len)..)) else {
            return false;
        };
        rest = next;
    }
    true
}

fn ends(source: SocketAddr, destination: SocketAddr) -> Reading {
    let usable = |ip: IpAddr| {
        let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        !ip.is_unspecified() && !ip.is_multicast() && !broadcast
    };
    if usable(source.ip()) && usable(destination.ip()) {
        Reading::Ends(source, destination)
    } else {
        Reading::Refused
    }
}

const WHITE: [char; 6] = [' ', '\t', '\x0c', '\x0b', '\n', '\r'];

/// `Filter::parseV1Header()`; bytes are taken as Latin-1, so that text functions apply to all of them.
fn line(bytes: &[u8]) -> Reading {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let text = text.trim_end_matches(WHITE);
    let parts: Vec<&str> = text.split(' ').collect();
    match parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Reading::Own,
        ["PROXY", "TCP6", source, destination, ..] if source.contains('%') || destination.contains('%') => {
            Reading::Zone
        }
        [
            "PROXY",
            "TCP4",
            source,
            destination,
            source_port,
            destination_port,
        ] => both(v4(source, source_port), v4(destination, destination_port)),
        [
            "PROXY",
            "TCP6",
            source,
            destination,
            source_port,
            destination_port,
        ] => both(v6(source, source_port), v6(destination, destination_port)),
        _ => Reading::Refused,
    }
}

fn both(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Reading {
    match (source, destination) {
        (Some(source), Some(destination)) => ends(source, destination),
        _ => Reading::Refused,
    }
}

/// `parseInternetAddressAndPortNoThrow()`: the two fields are joined, parted again at the last sign, and the address ends
/// at a NUL.
fn v4(address: &str, port: &str) -> Option<SocketAddr> {
    let joined = std::format!("{address}:{port}");
    let (address, port) = joined.rsplit_once(':')?;
    let address = address.split('\0').next()?;
    Some(SocketAddr::new(
        address.parse::<Ipv4Addr>().ok()?.into(),
        simple_atoi(port)?,
    ))
}

fn v6(address: &str, port: &str) -> Option<SocketAddr> {
    let joined = std::format!("{address}]:{port}");
    let (address, port) = joined.rsplit_once("]:")?;
    let address = address.split('\0').next()?;
    Some(SocketAddr::new(
        address.parse::<Ipv6Addr>().ok()?.into(),
        simple_atoi(port)?,
    ))
}

/// `absl::SimpleAtoi()`, as far as a port goes.
fn simple_atoi(text: &str) -> Option<u16> {
    let text = text.trim_matches(WHITE);
    let digits = text.strip_prefix('+').unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    let significant = digits.trim_start_matches('0');
    if !all_digits || significant.len() > 5 {
        return None;
    }
    if significant.is_empty() {
        return Some(0);
    }
    significant.parse().ok()
}

/// A header's ends.
#[must_use]
pub fn sockets(header: &Header) -> (SocketAddr, SocketAddr) {
    let ip = |bytes: [u8; 16]| match (header.family, bytes) {
        (Family::V4, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
        (Family::V6, bytes) => IpAddr::from(bytes),
    };
    (
        SocketAddr::new(ip(header.source), header.source_port),
        SocketAddr::new(ip(header.destination), header.destination_port),
    )
}

/// How a parser's answer stands to what Envoy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// The same.
    Same,
    /// A header whose connection Envoy refuses all the same, or waits for in vain: dropping it takes nothing away.
    Refused,
    /// Envoy takes it, the parser does not: it passes.
    Missed,
    /// The parser's answer can lead to a drop of what Envoy would allow.
    Unsound,
}

/// The relation between `parsed` and a reading of the same bytes.
#[must_use]
pub fn relation(parsed: &Parsed, reading: Reading) -> Relation {
    match (parsed, reading) {
        (Parsed::Header(header), Reading::Ends(source, destination)) => {
            if sockets(header) == (source, destination) {
                Relation::Same
            } else {
                Relation::Unsound
            }
        }
        (Parsed::Header(_), Reading::Refused | Reading::Waits) => Relation::Refused,
        (Parsed::Header(_), Reading::Own | Reading::Zone) => Relation::Unsound,
        (Parsed::Local | Parsed::Unknown, Reading::Own)
        | (Parsed::Local, Reading::Waits)
        | (Parsed::Incomplete, Reading::Waits | Reading::Refused)
        | (Parsed::Invalid | Parsed::NotAHeader, Reading::Refused | Reading::Waits) => Relation::Same,
        _ => Relation::Missed,
    }
}

/// Holds both readers against each other over `stream`.
///
/// # Panics
/// If the parser's answer is unsound, or misses what the module says that it takes.
#[expect(clippy::panic, reason = "a property that does not hold has to end the test")]
pub fn property(stream: &[u8]) {
    let end = u32::try_from(stream.len()).unwrap_or(u32::MAX);
    let parsed = parse(&SliceReader(stream), 0, end);
    let (reading, taken) = envoy(stream);
    let fits = match relation(&parsed, reading) {
        Relation::Same => match parsed {
            Parsed::Header(header) => usize::try_from(header.len) == Ok(taken),
            _ => true,
        },
        // What the parser does not look at: TLVs.
        Relation::Refused => reading == Reading::Refused && stream.starts_with(b"\r\n"),
        Relation::Missed => reading == Reading::Zone || (stream.starts_with(b"P") && stream.contains(&0)),
        Relation::Unsound => false,
    };
    if !fits {
        panic!(
            "{parsed:?}, but {reading:?} of {taken} bytes: {}",
            stream.escape_ascii()
        );
    }
}

/// The property, over lines: the first byte chooses what goes before the others, so that a fuzzer need not find it.
pub fn lines(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let before: &[u8] = match choice {
        b'4' => b"PROXY TCP4 ",
        b'6' => b"PROXY TCP6 ",
        b'U' => b"PROXY UNKNOWN",
        _ => b"",
    };
    property(&[before, rest].concat());
}

/// The property, over what stands behind the binary signature.
pub fn binaries(input: &[u8]) {
    property(&[b"\r\n\r\n\0\r\nQUIT\n", input].concat());
}
