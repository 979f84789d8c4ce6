//! Addresses as users write them.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::policy::value::parse_range;

/// Reads a CIDR or a single address; host bits are cut off.
///
/// # Errors
/// A sentence for the user.
pub fn network(s: &str) -> Result<IpNet, String> {
    // `IpNet` itself takes `010.0.0.0/8`; a policy may not say that, so nor may a flag.
    parse_range(s).ok_or_else(|| format!("`{s}` is neither a CIDR nor an address"))
}

/// Reads an address with a port, an IPv6 address in brackets.
///
/// # Errors
/// A sentence for the user.
pub fn endpoint(s: &str) -> Result<SocketAddr, String> {
    s.parse().map_err(|_| {
        format!("`{s}` is no address with a port: write it like 203.0.113.10:443 or [2001:db8::10]:443")
    })
}

/// Reads an address to listen at: as [`endpoint`], or with an IPv6 address without brackets, as a pod is told its own.
///
/// # Errors
/// A sentence for the user.
pub fn listen(s: &str) -> Result<SocketAddr, String> {
    let bare = || {
        let (address, port) = s.rsplit_once(':')?;
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    };
    endpoint(s).or_else(|sentence| bare().ok_or(sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_cidrs_or_addresses_with_host_bits_masked() {
        for (text, want) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), want);
        }
        for text in [
            "",
            "192.0.2",
            "192.0.2.1/33",
            "010.0.0.0/8",
            "10.0.0.0/08",
            "example.org",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_to_listen_at_need_no_brackets() {
        for (text, want) in [
            ("192.0.2.7:9470", "192.0.2.7:9470"),
            ("[2001:db8::7]:9470", "[2001:db8::7]:9470"),
            ("2001:db8::7:9470", "[2001:db8::7]:9470"),
            ("0.0.0.0:9470", "0.0.0.0:9470"),
        ] {
            assert_eq!(listen(text).unwrap().to_string(), want);
        }
        for text in ["", ":9470", "2001:db8::7:x", "node:9470", "192.0.2.7"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints_have_a_port_and_names_are_refused_with_an_example() {
        assert_eq!(
            endpoint("[2001:db8::10]:443").unwrap().to_string(),
            "[2001:db8::10]:443"
        );
        for text in [
            "",
            "203.0.113.10",
            "2001:db8::10:443:",
            "203.0.113.10:x",
            "example.org:443",
        ] {
            let sentence = endpoint(text).unwrap_err();
            assert!(sentence.contains("[2001:db8::10]:443"), "{text}: {sentence}");
        }
    }
}
