//! The syntax of values, exactly as Istio's builder reads it (Go `net/netip`, `strconv`): a value that Istio would refuse is `None`.
//!
//! Nothing here folds address families: a v4-mapped IPv6 range is an IPv6 range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address or CIDR as `netip.ParseAddr` and `netip.ParsePrefix` take it. Host bits are masked, as Envoy does; a zone of a single address
/// is dropped, as Go's `PrefixFrom` does. Source: Istio `pilot/pkg/networking/util/util.go`, Envoy `source/common/network/cidr_range.cc`.
#[must_use]
pub fn parse_range(text: &str) -> Option<IpNet> {
    if let Some((address, length)) = text.rsplit_once('/') {
        let address = if address.contains('%') {
            None
        } else {
            parse_address(address)
        }?;
        let length = parse_length(length)?;
        IpNet::new(address, length).ok().map(|net| net.trunc())
    } else {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        match (parse_address(address)?, zone) {
            (IpAddr::V4(_), Some(_)) | (IpAddr::V6(_), Some("")) => None,
            (IpAddr::V4(a), None) => Some(IpNet::V4(Ipv4Net::from(a))),
            (IpAddr::V6(a), _) => Some(IpNet::V6(Ipv6Net::from(a))),
        }
    }
}

/// An address without zone. The standard parsers refuse what Go's do: leading zeros in octets, five hex digits, blanks, signs.
fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    } else {
        text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    }
}

/// A prefix length: digits only, no leading zero.
fn parse_length(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits && (text.len() == 1 || !text.starts_with('0')))
        .then(|| text.parse().ok())
        .flatten()
}

/// A port as `strconv.ParseUint(text, 10, 32)` takes it, up to 65535: digits only; `0` and leading zeros are legal.
#[must_use]
pub fn parse_port(text: &str) -> Option<u16> {
    // Rust's parser also takes a leading `+`.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A boolean as Go's `strconv.ParseBool` takes it.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_netip_reads_them() {
        for (text, range) in [
            ("1.2.3.4", "1.2.3.4/32"),
            ("1.2.3.4/24", "1.2.3.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/32", "255.255.255.255/32"),
            ("::/0", "::/0"),
            ("2001:DB8::1/33", "2001:db8::/33"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4/128"),
            ("::ffff:1.2.3.0/120", "::ffff:1.2.3.0/120"),
            ("::ffff:1.2.3.0/90", "::ffc0:0:0/90"),
            ("1:2:3:4:5:6:7.8.9.10", "1:2:3:4:5:6:708:90a/128"),
            ("fe80::1%eth0", "fe80::1/128"),
            ("::ffff:1.2.3.4%eth0", "::ffff:1.2.3.4/128"),
        ] {
            assert_eq!(parse_range(text), Some(range.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn what_netip_refuses_is_refused() {
        for text in [
            "",
            " ",
            " 1.2.3.4",
            "1.2.3.4 ",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "01.2.3.4",
            "1.2.3.04",
            "+1.2.3.4",
            "1.2.3.*",
            "*",
            "10.0.0.0-10.0.0.9",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/ 8",
            "10.0.0.0/8/8",
            "/8",
            "10/8",
            "10.0.0.0/255.0.0.0",
            "::/129",
            "::/00",
            "::1::",
            ":::",
            "1:2:3:4:5:6:7:8:9",
            "12345::",
            "::1%",
            "::1%eth0/128",
            "1.2.3.4%eth0",
            "1::2:3:4:5:6:7:8",
            "::1.2.3",
            "::01.2.3.4",
            "[::1]",
            "localhost",
            "example.com",
            "１.2.3.4",
            "1.2.3.4/\u{0663}",
        ] {
            assert_eq!(parse_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn ports_are_read_as_parse_uint_reads_them() {
        for (text, port) in [
            ("0", 0),
            ("80", 80),
            ("0080", 80),
            ("00000000000000000000443", 443),
            ("65535", 65535),
        ] {
            assert_eq!(parse_port(text), Some(port), "{text:?}");
        }
        for text in [
            "",
            "+80",
            "-1",
            " 80",
            "80 ",
            "65536",
            "4294967376",
            "0x50",
            "8_0",
            "http",
            "*",
            "80.0",
        ] {
            assert_eq!(parse_port(text), None, "{text:?}");
        }
    }

    #[test]
    fn booleans_are_read_as_parse_bool_reads_them() {
        assert_eq!(parse_bool("t"), Some(true));
        assert_eq!(parse_bool("False"), Some(false));
        for text in ["", "yes", "TRue", "on", " true", "2"] {
            assert_eq!(parse_bool(text), None, "{text:?}");
        }
    }
}
