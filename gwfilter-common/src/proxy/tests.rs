use core::net::{IpAddr, SocketAddr};
use std::vec::Vec;

use proptest::prelude::*;

use super::{Header, Parsed, parse, v1, v2, version};
use crate::read::SliceReader;
use crate::testing::headers;
use crate::testing::mutate::Random;
use crate::testing::proxy::{self, Reading};
use crate::wire::Family;

fn bytes(address: IpAddr) -> (Family, [u8; 16]) {
    match address {
        IpAddr::V4(a) => {
            let [b0, b1, b2, b3] = a.octets();
            (Family::V4, [b0, b1, b2, b3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        IpAddr::V6(a) => (Family::V6, a.octets()),
    }
}

/// What a header from `source` to `destination` says.
fn header(source: SocketAddr, destination: SocketAddr, len: usize) -> Parsed {
    Parsed::Header(Header {
        family: bytes(source.ip()).0,
        source: bytes(source.ip()).1,
        destination: bytes(destination.ip()).1,
        source_port: source.port(),
        destination_port: destination.port(),
        len: u32::try_from(len).unwrap_or(0),
    })
}

/// Reads `stream` at an odd offset, so that a parser which counts from 0 is found out.
fn read(stream: &[u8]) -> Parsed {
    let mut frame = std::vec![0xaa; 67];
    frame.extend(stream);
    let end = u32::try_from(frame.len()).unwrap_or(0);
    frame.extend([0xaa; 200]);
    parse(&SliceReader(&frame), 67, end)
}

/// Lines without their CRLF.
fn line(text: &str) -> Vec<u8> {
    let mut line = text.as_bytes().to_vec();
    line.extend(b"\r\n");
    line
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A version 2 header: both bytes that say what it is, the declared length, what follows.
fn binary(version: u8, family: u8, declared: u16, rest: &[u8]) -> Vec<u8> {
    let mut stream = v2::SIGNATURE.to_vec();
    stream.extend([version, family]);
    stream.extend(declared.to_be_bytes());
    stream.extend(rest);
    stream
}

const INET: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x9c, 0x40, 0x01, 0xbb];

fn inet6(source: &str, destination: &str) -> Vec<u8> {
    let mut rest = Vec::new();
    for address in [source, destination] {
        rest.extend(address.parse::<core::net::Ipv6Addr>().unwrap().octets());
    }
    rest.extend([0, 80, 1, 187]);
    rest
}

#[test]
fn v1_lines_that_envoy_takes_then_their_ends() {
    for (text, source, destination) in [
        (
            "TCP4 203.0.113.7 192.0.2.1 40000 443",
            "203.0.113.7:40000",
            "192.0.2.1:443",
        ),
        (
            "TCP4 255.255.255.254 0.0.0.1 0 65535",
            "255.255.255.254:0",
            "0.0.0.1:65535",
        ),
        ("TCP4 127.0.0.1 240.0.0.1 1 2", "127.0.0.1:1", "240.0.0.1:2"),
        // White space at the end, and around ports; a sign; leading zeros.
        ("TCP4 1.2.3.4 5.6.7.8 1 2  \t \x0b\x0c", "1.2.3.4:1", "5.6.7.8:2"),
        ("TCP4 1.2.3.4 5.6.7.8 1 2\r \n\n\t", "1.2.3.4:1", "5.6.7.8:2"),
        ("TCP4 1.2.3.4 5.6.7.8 \t+00001\n +2", "1.2.3.4:1", "5.6.7.8:2"),
        (
            "TCP4 1.2.3.4 5.6.7.8 000000000000000000000000080 2",
            "1.2.3.4:80",
            "5.6.7.8:2",
        ),
        (
            "TCP6 2001:db8::1 2001:DB8:0:00:000:0000:Abcd:ffff 1 2",
            "[2001:db8::1]:1",
            "[2001:db8::abcd:ffff]:2",
        ),
        ("TCP6 ::1 1:2:3:4:5:6:7:8 1 2", "[::1]:1", "[1:2:3:4:5:6:7:8]:2"),
        (
            "TCP6 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1 2",
            "[1:2:3:4:5:6:7:0]:1",
            "[0:2:3:4:5:6:7:8]:2",
        ),
        (
            "TCP6 1:2:3::7:8 1:2:3:4::8 1 2",
            "[1:2:3::7:8]:1",
            "[1:2:3:4::8]:2",
        ),
        ("TCP6 1:2:3:4:5::8 fe80:: 1 2", "[1:2:3:4:5::8]:1", "[fe80::]:2"),
        (
            "TCP6 ::ffff:203.0.113.7 1:2:3:4:5:6:255.0.10.1 1 2",
            "[::ffff:203.0.113.7]:1",
            "[1:2:3:4:5:6:ff00:a01]:2",
        ),
        (
            "TCP6 ::1.2.3.4 1:2:3:4:5::1.2.3.4 1 2",
            "[::102:304]:1",
            "[1:2:3:4:5:0:102:304]:2",
        ),
        (
            "TCP6 ::ffff:0.0.0.0 ::ffff:255.255.255.255 1 2",
            "[::ffff:0:0]:1",
            "[::ffff:ffff:ffff]:2",
        ),
    ] {
        let stream = line(&std::format!("PROXY {text}"));
        let expected = header(socket(source), socket(destination), stream.len());
        assert_eq!(read(&stream), expected, "{text:?}");
        proxy::property(&stream);
        // What follows the line is the client's.
        let mut longer = stream.clone();
        longer.extend(b"\r\nPROXY TCP4 9.9.9.9 9.9.9.9 9 9\r\n");
        assert_eq!(read(&longer), expected, "{text:?}");
    }
}

#[test]
fn v1_lines_that_envoy_refuses_then_invalid() {
    for text in [
        "PROXY ",
        "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4",
        "PROXY TCP4 ",
        "PROXY TCP5 1.2.3.4 5.6.7.8 1 2",
        "PROXY tcp4 1.2.3.4 5.6.7.8 1 2",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY \0TCP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4\t1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 ",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1  2",
        "PROXY TCP4 1.2.3.4  5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536",
        "PROXY TCP4 1.2.3.4 5.6.7.8 65536 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 -0 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 ++1 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 + 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +\t1 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 0x1 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\t1 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\0",
        "PROXY TCP4 1.2.3.4 5.6.7.8 18446744073709551617 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \t 3",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4.5 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.256 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.04 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.00 5.6.7.8 1 2",
        "PROXY TCP4 01.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 1.2..4 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3. 5.6.7.8 1 2",
        "PROXY TCP4 .1.2.3 5.6.7.8 1 2",
        "PROXY TCP4 a.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.1234 5.6.7.8 1 2",
        "PROXY TCP4 16909060 5.6.7.8 1 2",
        "PROXY TCP4 1:2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 [1.2.3.4] 5.6.7.8 1 2",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2",
        "PROXY TCP4 ::ffff:1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 [::1] [::1] 1 2",
        "PROXY TCP4 0.0.0.0 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4 255.255.255.255 1 2",
        "PROXY TCP4 224.0.0.1 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4 239.255.255.255 1 2",
        "PROXY TCP6 :: ::1 1 2",
        "PROXY TCP6 ::1 ::0.0.0.0 1 2",
        "PROXY TCP6 ff02::1 ::1 1 2",
        "PROXY TCP6 ::1 ff0e::1 1 2",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP6 : ::1 1 2",
        "PROXY TCP6 ::: ::1 1 2",
        "PROXY TCP6 :1 ::1 1 2",
        "PROXY TCP6 1: ::1 1 2",
        "PROXY TCP6  ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7: ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7:8: ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7:8:: ::1 1 2",
        "PROXY TCP6 ::1:2:3:4:5:6:7:8 ::1 1 2",
        "PROXY TCP6 1:2:3:4::5:6:7:8 ::1 1 2",
        "PROXY TCP6 1::2::3 ::1 1 2",
        "PROXY TCP6 1:::2 ::1 1 2",
        "PROXY TCP6 ::12345 ::1 1 2",
        "PROXY TCP6 ::00001 ::1 1 2",
        "PROXY TCP6 ::g ::1 1 2",
        "PROXY TCP6 :2:3:4:5:6:7:8 ::1 1 2",
        "PROXY TCP6 [::1] [::1] 1 2",
        "PROXY TCP6 ::1.2.3 ::1 1 2",
        "PROXY TCP6 ::1.2.3.4.5 ::1 1 2",
        "PROXY TCP6 ::01.2.3.4 ::1 1 2",
        "PROXY TCP6 ::a.2.3.4 ::1 1 2",
        "PROXY TCP6 ::256.2.3.4 ::1 1 2",
        "PROXY TCP6 ::1.2.3.4:5 ::1 1 2",
        "PROXY TCP6 1.2.3.4::1 ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7:1.2.3.4 ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6::1.2.3.4 ::1 1 2",
        "PROXY TCP6 ::.2.3.4 ::1 1 2",
        "PROXY UNKNOWNS",
        "PROXY UNKNOW",
        "PROXY UNKNOWN\tx",
        "PROXY UNKNOWN\t x",
    ] {
        let stream = line(text);
        assert_eq!(read(&stream), Parsed::Invalid, "{text:?}");
        proxy::property(&stream);
    }
}

#[test]
fn v1_lines_that_only_we_refuse_then_invalid() {
    for (text, envoy) in [
        ("PROXY TCP6 fe80::1%1 ::1 1 2", Reading::Zone),
        (
            "PROXY TCP4 1.2.3.4\0x 5.6.7.8 1 2",
            Reading::Ends(socket("1.2.3.4:1"), socket("5.6.7.8:2")),
        ),
        (
            "PROXY TCP4 1.2.3.4\0 5.6.7.8 x:1 2",
            Reading::Ends(socket("1.2.3.4:1"), socket("5.6.7.8:2")),
        ),
        (
            "PROXY TCP6 ::1\0 ::2 ]:1 2",
            Reading::Ends(socket("[::1]:1"), socket("[::2]:2")),
        ),
    ] {
        let stream = line(text);
        assert_eq!(read(&stream), Parsed::Invalid, "{text:?}");
        assert_eq!(proxy::envoy(&stream).0, envoy, "{text:?}");
        proxy::property(&stream);
    }
}

#[test]
fn v1_without_addresses_then_unknown() {
    for text in [
        "PROXY UNKNOWN",
        "PROXY UNKNOWN ",
        "PROXY UNKNOWN \t",
        "PROXY UNKNOWN\t\r ",
        "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535",
        "PROXY UNKNOWN TCP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY UNKNOWN \0\r\n",
    ] {
        let stream = line(text);
        assert_eq!(read(&stream), Parsed::Unknown, "{text:?}");
        proxy::property(&stream);
    }
}

#[test]
fn v1_line_that_does_not_end_then_incomplete_until_it_is_too_long() {
    let whole = line("PROXY TCP4 203.0.113.7 192.0.2.1 40000 443");
    for cut in 4..whole.len() {
        assert_eq!(read(&whole[..cut]), Parsed::Incomplete, "{cut}");
        proxy::property(&whole[..cut]);
    }
    for cut in 0..4 {
        assert_eq!(read(&whole[..cut]), Parsed::NotAHeader, "{cut}");
    }
    // 108 bytes with the CRLF, 109, and no CRLF at all.
    for (spaces, expected) in [(52, true), (53, false)] {
        let text = std::format!(
            "PROXY TCP4 203.0.113.7 192.0.2.1 40000 443            {}",
            " ".repeat(spaces)
        );
        let stream = line(&text);
        let header = header(socket("203.0.113.7:40000"), socket("192.0.2.1:443"), stream.len());
        assert_eq!(stream.len() == 108, expected);
        assert_eq!(read(&stream), if expected { header } else { Parsed::Invalid });
        proxy::property(&stream);
    }
    let endless = std::format!("PROXY UNKNOWN {}", "x".repeat(94));
    assert_eq!(read(&endless.as_bytes()[..107]), Parsed::Incomplete);
    assert_eq!(read(endless.as_bytes()), Parsed::Invalid);
}

#[test]
fn v1_state_that_is_done_then_no_byte_changes_it() {
    for text in [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY UNKNOWN",
        "PROXY x y",
        "GET / HTTP/1.1",
    ] {
        let mut state = v1::State::new();
        let steps: Vec<v1::Step> = line(text).iter().map(|byte| state.step(*byte)).collect();
        assert_eq!(steps.last(), Some(&v1::Step::Done), "{text:?}");
        let done = state;
        assert_eq!(state.step(b'\n'), v1::Step::Done);
        assert_eq!(state, done);
    }
}

#[test]
fn v2_headers_that_envoy_takes_then_their_ends() {
    let inet = |len| header(socket("203.0.113.7:40000"), socket("192.0.2.1:443"), len);
    for family in [0x11, 0x12] {
        assert_eq!(read(&binary(0x21, family, 12, &INET)), inet(28));
    }
    let mut tlvs = INET.to_vec();
    tlvs.extend([4, 0, 0, 0xea, 0, 1, 0xff]);
    let with_tlvs = binary(0x21, 0x11, 19, &tlvs);
    assert_eq!(read(&with_tlvs), inet(35));
    assert_eq!(read(&with_tlvs[..34]), Parsed::Incomplete);
    // A TLV that does not fit: Envoy refuses the connection, which may be refused for its address as well.
    let torn = binary(0x21, 0x11, 17, &tlvs);
    assert_eq!((read(&torn), proxy::envoy(&torn).0), (inet(33), Reading::Refused));
    for (source, destination) in [("2001:db8::7", "2001:db8::1"), ("::ffff:203.0.113.7", "fe80::1")] {
        for family in [0x21, 0x22] {
            let stream = binary(0x21, family, 36, &inet6(source, destination));
            let expected = header(
                SocketAddr::new(source.parse().unwrap(), 80),
                SocketAddr::new(destination.parse().unwrap(), 443),
                52,
            );
            assert_eq!(read(&stream), expected);
            proxy::property(&stream);
        }
    }
}

#[test]
fn v2_headers_without_addresses_for_envoy_then_named_so() {
    let mut unix = std::vec![b'/'; 216];
    unix.extend([0; 4]);
    let zero = |range: core::ops::Range<usize>| {
        let mut rest = INET;
        rest[range].fill(0);
        rest
    };
    for (stream, expected) in [
        (binary(0x20, 0, 0, &[]), Parsed::Local),
        (binary(0x20, 0x11, 12, &INET), Parsed::Local),
        (binary(0x20, 0xff, 500, &[]), Parsed::Local),
        (binary(0x21, 0x00, 0, &[]), Parsed::Invalid),
        (binary(0x21, 0x00, 12, &INET), Parsed::Invalid),
        (binary(0x21, 0x01, 12, &INET), Parsed::Invalid),
        (binary(0x21, 0x31, 216, &unix), Parsed::Invalid),
        (binary(0x21, 0x10, 12, &INET), Parsed::Invalid),
        (binary(0x21, 0x13, 12, &INET), Parsed::Invalid),
        (binary(0x21, 0x41, 36, &inet6("::1", "::2")), Parsed::Invalid),
        (binary(0x22, 0x11, 12, &INET), Parsed::Invalid),
        (binary(0x2f, 0x11, 12, &INET), Parsed::Invalid),
        (binary(0x11, 0x11, 12, &INET), Parsed::Invalid),
        (binary(0x31, 0x11, 12, &INET), Parsed::Invalid),
        (binary(0x10, 0x11, 12, &INET), Parsed::Invalid),
        (binary(0x21, 0x11, 11, &INET), Parsed::Invalid),
        (binary(0x21, 0x21, 35, &inet6("::1", "::2")), Parsed::Invalid),
        (binary(0x21, 0x11, 13, &INET), Parsed::Incomplete),
        (binary(0x21, 0x11, 12, &INET[..11]), Parsed::Incomplete),
        (binary(0x21, 0x11, 12, &zero(0..4)), Parsed::Invalid),
        (binary(0x21, 0x11, 12, &zero(4..8)), Parsed::Invalid),
        (binary(0x21, 0x21, 36, &inet6("::", "::1")), Parsed::Invalid),
        (binary(0x21, 0x21, 36, &inet6("::1", "ff02::1")), Parsed::Invalid),
    ] {
        assert_eq!(read(&stream), expected, "{stream:02x?}");
        proxy::property(&stream);
    }
}

#[test]
fn v2_header_that_is_cut_then_incomplete() {
    let whole = binary(0x21, 0x11, 12, &INET);
    for cut in 4..whole.len() {
        assert_eq!(read(&whole[..cut]), Parsed::Incomplete, "{cut}");
    }
    // In the segment by its length, but out of the reader's sight.
    assert_eq!(parse(&SliceReader(&whole[..20]), 0, 28), Parsed::Incomplete);
    assert_eq!(v2::parse(&SliceReader(&whole), 28, 0), Parsed::Incomplete);
    assert_eq!(
        v2::parse(&SliceReader(&whole), u32::MAX, u32::MAX),
        Parsed::Incomplete
    );
}

#[test]
fn other_payload_then_no_header() {
    for payload in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROX\r\n\r\n",
        b"PROXY\r\n0123456789",
        b"\r\n\r\n0123456789abcdef",
        b"\r\n\r\n\0\r\nQUIT\r0123456789abcdef",
    ] {
        assert_eq!(read(payload), Parsed::NotAHeader, "{}", payload.escape_ascii());
        proxy::property(payload);
    }
    assert_eq!(version(&SliceReader(b"PRO"), 0, 3), None);
}

#[test]
fn generated_headers_then_both_readers_agree() {
    let mut random = Random(1);
    let mut taken = 0;
    for _ in 0..200_000 {
        let mut stream = headers::header(&mut random);
        if random.below(4) > 0 {
            stream.extend(b"GET / HTTP/1.1\r\n\r\n");
        }
        proxy::property(&stream);
        taken += usize::from(matches!(proxy::envoy(&stream).0, Reading::Ends(..)));
    }
    assert!(taken > 50_000, "{taken}");
}

#[test]
fn fuzz_seeds_and_regressions_then_both_readers_agree() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut replayed = 0;
    for (target, property) in [
        ("proxy_v1", proxy::lines as fn(&[u8])),
        ("proxy_v2", proxy::binaries),
    ] {
        for folder in ["seeds", "regressions"] {
            for entry in std::fs::read_dir(fuzz.join(folder).join(target)).unwrap() {
                let input = std::fs::read(entry.unwrap().path()).unwrap();
                for cut in 0..=input.len() {
                    property(&input[..cut]);
                }
                replayed += 1;
            }
        }
    }
    assert!(replayed >= 20, "only {replayed} inputs");
}

proptest! {
    #[test]
    fn any_bytes_then_both_readers_agree(stream: Vec<u8>) {
        proxy::property(&stream);
    }

    #[test]
    fn any_text_behind_the_magic_then_both_readers_agree(text in "PROXY (TCP4|TCP6|UNKNOWN)[ -~\t\r\n]{0,40}\r\n") {
        proxy::property(text.as_bytes());
    }

    #[test]
    fn any_address_text_then_both_readers_agree(text in "[0-9a-f:.]{1,24}", six: bool) {
        let (name, other) = if six { ("TCP6", "::1") } else { ("TCP4", "1.2.3.4") };
        proxy::property(std::format!("PROXY {name} {text} {other} 1 2\r\n").as_bytes());
        proxy::property(std::format!("PROXY {name} {other} {text} 1 2\r\n").as_bytes());
    }

    #[test]
    fn any_header_that_is_written_then_read_back(v4: bool, source: u128, destination: u128, ports: (u16, u16)) {
        let ip = |bits: u128| if v4 { IpAddr::from(((bits >> 96) as u32).to_be_bytes()) } else { IpAddr::from(bits.to_be_bytes()) };
        let (source, destination) = (SocketAddr::new(ip(source), ports.0), SocketAddr::new(ip(destination), ports.1));
        let text = std::format!(
            "PROXY TCP{} {} {} {} {}\r\n",
            if v4 { 4 } else { 6 }, source.ip(), destination.ip(), source.port(), destination.port(),
        );
        let usable = |ip: IpAddr| !ip.is_unspecified() && !ip.is_multicast() && ip != core::net::Ipv4Addr::BROADCAST;
        let expected = |len| {
            if usable(source.ip()) && usable(destination.ip()) { header(source, destination, len) } else { Parsed::Invalid }
        };
        prop_assert_eq!(read(text.as_bytes()), expected(text.len()));
        let width = if v4 { 4 } else { 16 };
        let mut rest = bytes(source.ip()).1[..width].to_vec();
        rest.extend(&bytes(destination.ip()).1[..width]);
        rest.extend(ports.0.to_be_bytes());
        rest.extend(ports.1.to_be_bytes());
        let declared = u16::try_from(rest.len()).unwrap();
        let stream = binary(0x21, if v4 { 0x11 } else { 0x21 }, declared, &rest);
        prop_assert_eq!(read(&stream), expected(stream.len()));
    }
}
