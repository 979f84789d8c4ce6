//! Our parsers beside two crates that read PROXY headers, `ppp` and `proxy-header`: every difference has a name, and says what Envoy does.

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::vec::Vec;

use proxy_header::{ParseConfig, ProxyHeader};

use super::{Parsed, parse};
use crate::read::SliceReader;
use crate::testing::headers;
use crate::testing::mutate::Random;
use crate::testing::proxy::sockets;

/// What a reader finds in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Ends(SocketAddr, SocketAddr, usize),
    /// A header without addresses.
    Own,
    /// None, or not a whole one.
    Nothing,
}

fn ours(stream: &[u8]) -> Found {
    match parse(&SliceReader(stream), 0, u32::try_from(stream.len()).unwrap()) {
        Parsed::Header(header) => {
            let (source, destination) = sockets(&header);
            Found::Ends(source, destination, usize::try_from(header.len).unwrap())
        }
        Parsed::Local | Parsed::Unknown => Found::Own,
        Parsed::Incomplete | Parsed::Invalid | Parsed::NotAHeader => Found::Nothing,
    }
}

fn ppp(stream: &[u8]) -> Found {
    match ppp::HeaderResult::parse(stream) {
        ppp::HeaderResult::V1(Ok(header)) => {
            let len = header.header.len();
            match header.addresses {
                ppp::v1::Addresses::Unknown => Found::Own,
                ppp::v1::Addresses::Tcp4(a) => Found::Ends(
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                    len,
                ),
                ppp::v1::Addresses::Tcp6(a) => Found::Ends(
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                    len,
                ),
            }
        }
        ppp::HeaderResult::V2(Ok(header)) => {
            let len = header.as_bytes().len();
            match (header.command, header.addresses) {
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv4(a)) => Found::Ends(
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                    len,
                ),
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv6(a)) => Found::Ends(
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                    len,
                ),
                _ => Found::Own,
            }
        }
        ppp::HeaderResult::V1(Err(_)) | ppp::HeaderResult::V2(Err(_)) => Found::Nothing,
    }
}

fn proxy_header(stream: &[u8]) -> Found {
    match ProxyHeader::parse(stream, ParseConfig::default()) {
        Ok((header, len)) => match header.proxied_address() {
            Some(a) => Found::Ends(a.source, a.destination, len),
            None => Found::Own,
        },
        Err(_) => Found::Nothing,
    }
}

/// Why a crate and we differ, and what Envoy does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// They take any address; Envoy refuses what is not unicast.
    NotUnicast,
    /// They take a PROXY command without addresses (UNSPEC, UNIX) for a connection without ends; Envoy refuses it.
    NoAddresses,
    /// `ppp` takes addresses without a transport; Envoy refuses them.
    NoTransport,
    /// They refuse a LOCAL header whose family, addresses or length are odd; Envoy looks at none of these. That the rest of it is
    /// missing is no odds to us either.
    OddLocal,
    /// They refuse white space, signs and zeros around the fields, which Envoy reads past.
    Liberal,
    /// They want lines of 107 bytes at most; Envoy takes 108.
    LongLine,
    /// `proxy-header` takes a line of any length, if it ends; Envoy refuses more than 108 bytes.
    EndlessLine,
    /// They refuse what follows `UNKNOWN`, or end it at the first CR; Envoy reads past all of it up to CRLF.
    AfterUnknown,
    /// `proxy-header` takes any byte behind `PROXY`, and anything that begins with `UNKNOWN`; Envoy refuses both.
    LooseWords,
}

/// The name of a difference; `None` if it has none.
fn difference(stream: &[u8], ours: Found, theirs: Found) -> Option<Difference> {
    let usable = |address: SocketAddr| {
        let ip = address.ip();
        !ip.is_unspecified() && !ip.is_multicast() && ip != core::net::Ipv4Addr::BROADCAST
    };
    if stream.starts_with(b"\r") {
        let (command, family) = (stream.get(12).copied()?, stream.get(13).copied()?);
        return match (ours, theirs) {
            (Found::Nothing, Found::Ends(..)) if family & 0xf == 0 => Some(Difference::NoTransport),
            (Found::Nothing, Found::Ends(source, destination, _))
                if !usable(source) || !usable(destination) =>
            {
                Some(Difference::NotUnicast)
            }
            (Found::Nothing, Found::Own) if command == 0x21 && matches!(family >> 4, 0 | 3) => {
                Some(Difference::NoAddresses)
            }
            (Found::Own, Found::Nothing) if command == 0x20 => Some(Difference::OddLocal),
            _ => None,
        };
    }
    let end = stream.windows(2).position(|pair| pair == b"\r\n");
    let line = stream.get(..end?)?;
    let words: Vec<&[u8]> = line.splitn(3, |byte| *byte == b' ').collect();
    let loose = !line.starts_with(b"PROXY ")
        || words
            .get(1)
            .is_some_and(|word| word.starts_with(b"UNKNOWN") && *word != b"UNKNOWN");
    match (ours, theirs) {
        (Found::Nothing, Found::Ends(source, destination, _)) if !usable(source) || !usable(destination) => {
            Some(Difference::NotUnicast)
        }
        (Found::Nothing, Found::Ends(..) | Found::Own) if loose => Some(Difference::LooseWords),
        (Found::Nothing, Found::Ends(..) | Found::Own) if line.len() + 2 > 108 => {
            Some(Difference::EndlessLine)
        }
        // At a CR alone they stop, and find that the line does not end there.
        (Found::Own, Found::Nothing) => Some(Difference::AfterUnknown),
        (Found::Ends(..), Found::Nothing) => {
            let strict = |field: &[u8]| {
                !field.is_empty()
                    && (field == b"0" || field[0] != b'0')
                    && field.iter().all(u8::is_ascii_digit)
            };
            let ports: Vec<&[u8]> = line.split(|byte| *byte == b' ').skip(4).collect();
            if ports.len() != 2 || !ports.iter().all(|port| strict(port)) {
                Some(Difference::Liberal)
            } else {
                (line.len() + 2 == 108).then_some(Difference::LongLine)
            }
        }
        _ => None,
    }
}

#[test]
fn generated_headers_then_every_difference_from_other_crates_has_a_name() {
    let mut random = Random(7);
    let mut seen: BTreeMap<(&str, Difference), u32> = BTreeMap::new();
    let (mut same, mut both) = (0, 0);
    for _ in 0..200_000 {
        let mut stream = headers::header(&mut random);
        stream.extend(b"GET / HTTP/1.1\r\n\r\n");
        let ours = ours(&stream);
        for (name, theirs) in [("ppp", ppp(&stream)), ("proxy-header", proxy_header(&stream))] {
            if ours == theirs {
                same += 1;
                both += u32::from(ours != Found::Nothing);
                continue;
            }
            let difference = difference(&stream, ours, theirs);
            assert!(
                difference.is_some(),
                "{name}: {theirs:?}, ours {ours:?}: {}",
                stream.escape_ascii()
            );
            *seen.entry((name, difference.unwrap())).or_default() += 1;
        }
    }
    std::println!("{same} the same, {both} of them headers; {seen:#?}");
    assert!(both > 100_000, "{both}");
    for name in ["ppp", "proxy-header"] {
        for difference in [
            Difference::NotUnicast,
            Difference::NoAddresses,
            Difference::OddLocal,
            Difference::Liberal,
            Difference::AfterUnknown,
        ] {
            assert!(seen.contains_key(&(name, difference)), "{name}: {difference:?}");
        }
    }
}
