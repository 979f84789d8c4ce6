//! The annotations `gwfilter.io/…` on a Service or a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::ClientAddress;

/// What all annotations of ours begin with.
pub const PREFIX: &str = "gwfilter.io/";

/// An annotation of ours, for the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Without the prefix.
    pub name: &'static str,
    /// What may stand there.
    pub values: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// Those that [`Annotations::read`] knows.
pub const KNOWN: [Known; 4] = [
    Known {
        name: "client-address",
        values: "`packet-source`, `proxy-header`, `x-forwarded-for`, `auto` (default)",
        meaning: "where the client's address stands; `auto`: as the pod's configuration says",
    },
    Known {
        name: "never-drop",
        values: "addresses and CIDRs, commas between; may be empty",
        meaning: "sources that are never dropped here; stated, even empty, it vouches for the senders of health probes",
    },
    Known {
        name: "trusted-proxies",
        values: "addresses and CIDRs, commas between; may be empty",
        meaning: "the load balancers that write PROXY headers; empty: none is expected",
    },
    Known {
        name: "enforce",
        values: "`\"true\"` (default), `\"false\"`",
        meaning: "`\"false\"`: judge and count, drop nothing",
    },
];

/// Annotations, read. `None`: not stated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    /// `client-address`; the inner `None` is `auto`.
    pub(super) client_address: Option<Option<ClientAddress>>,
    /// `never-drop`.
    pub(super) never_drop: Option<Vec<IpNet>>,
    /// `trusted-proxies`.
    pub(super) trusted_proxies: Option<Vec<IpNet>>,
    /// `enforce`.
    pub(super) enforce: Option<bool>,
    /// What cannot be read, each a sentence.
    pub(super) faults: Vec<String>,
}

impl Annotations {
    /// Reads ours among all annotations of an object.
    pub(super) fn read(all: &BTreeMap<String, String>) -> Self {
        let mut found = Self::default();
        for (key, value) in all {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            let fault = match name {
                "client-address" => client_address(value).map(|v| found.client_address = Some(v)),
                "never-drop" => cidrs(value).map(|v| found.never_drop = Some(v)),
                "trusted-proxies" => cidrs(value).map(|v| found.trusted_proxies = Some(v)),
                "enforce" => match value.as_str() {
                    "true" => {
                        found.enforce = Some(true);
                        Ok(())
                    }
                    "false" => {
                        found.enforce = Some(false);
                        Ok(())
                    }
                    _ => Err("expected \"true\" or \"false\"".to_owned()),
                },
                _ => Err("there is no such annotation: client-address, never-drop, trusted-proxies and enforce are \
                          known"
                    .to_owned()),
            };
            if let Err(why) = fault {
                let quoted = format!("{value:?}");
                // A list of one is quoted by its fault already.
                let value = if why.starts_with(&quoted) {
                    String::new()
                } else {
                    format!("{quoted}: ")
                };
                found.faults.push(format!("annotation {key}: {value}{why}"));
            }
        }
        found
    }

    /// This, with what is not stated taken from `below`. Faults of both count.
    pub(super) fn or(self, below: Self) -> Self {
        Self {
            client_address: self.client_address.or(below.client_address),
            never_drop: self.never_drop.or(below.never_drop),
            trusted_proxies: self.trusted_proxies.or(below.trusted_proxies),
            enforce: self.enforce.or(below.enforce),
            faults: self.faults.into_iter().chain(below.faults).collect(),
        }
    }
}

fn client_address(value: &str) -> Result<Option<ClientAddress>, String> {
    match value {
        "auto" => Ok(None),
        "packet-source" => Ok(Some(ClientAddress::PacketSource)),
        "proxy-header" => Ok(Some(ClientAddress::ProxyHeader)),
        "x-forwarded-for" => Ok(Some(ClientAddress::XForwardedFor)),
        _ => Err("expected packet-source, proxy-header, x-forwarded-for or auto".to_owned()),
    }
}

/// A list of CIDRs and addresses with commas between. Host bits are cut off; an empty text is an empty list.
fn cidrs(value: &str) -> Result<Vec<IpNet>, String> {
    if value.trim().is_empty() {
        return Ok(Vec::new());
    }
    value.split(',').map(|item| cidr(item.trim())).collect()
}

/// As strict as policies are: no leading zeros, no sign. (`IpNet`'s own parser takes `010.0.0.0/8`.)
fn cidr(text: &str) -> Result<IpNet, String> {
    let net = match text.split_once('/') {
        Some((addr, length)) => {
            let plain =
                length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
            let parts = addr
                .parse::<IpAddr>()
                .ok()
                .zip(length.parse::<u8>().ok().filter(|_| plain));
            parts
                .and_then(|(addr, length)| IpNet::new(addr, length).ok())
                .map(|net| net.trunc())
        }
        None => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    net.ok_or_else(|| format!("{text:?} is neither a CIDR nor an IP address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, value: &str) -> Annotations {
        Annotations::read(&BTreeMap::from([(format!("{PREFIX}{key}"), value.to_owned())]))
    }

    #[test]
    fn readable_annotations_then_their_values() {
        assert_eq!(read("client-address", "auto").client_address, Some(None));
        assert_eq!(
            read("client-address", "packet-source").client_address,
            Some(Some(ClientAddress::PacketSource))
        );
        assert_eq!(read("enforce", "false").enforce, Some(false));
        assert_eq!(read("never-drop", "").never_drop, Some(vec![]));
        let nets = read(
            "never-drop",
            "10.1.2.3/8, 192.0.2.1,2001:db8::1/32,::ffff:1.2.3.4",
        )
        .never_drop
        .unwrap();
        let want = [
            "10.0.0.0/8",
            "192.0.2.1/32",
            "2001:db8::/32",
            "::ffff:1.2.3.4/128",
        ];
        assert_eq!(nets, want.map(|n| n.parse().unwrap()));
        assert_eq!(
            Annotations::read(&BTreeMap::from([("other".into(), "x".into())])),
            Annotations::default()
        );
    }

    #[test]
    fn annotations_of_the_reference_then_read_and_no_others() {
        for known in KNOWN {
            // Some value is right, or the fault is about the value.
            let faults = ["", "true", "packet-source"].map(|value| read(known.name, value).faults);
            assert!(faults.iter().any(Vec::is_empty), "{}: {faults:?}", known.name);
        }
        let fault = &read("never-dorp", "").faults[0];
        for known in KNOWN {
            assert!(fault.contains(known.name), "{fault}");
        }
    }

    #[test]
    fn unreadable_annotations_then_faults_that_name_them() {
        let cases = [
            ("client-address", "Packet-Source"),
            ("client-address", ""),
            ("enforce", "no"),
            ("enforce", "False"),
            ("never-drop", "10.0.0.0/33"),
            ("never-drop", "10.0.0.0/+8"),
            ("never-drop", "010.0.0.0/8"),
            ("never-drop", "10.0.0.0/08"),
            ("never-drop", "10.0.0.0/8,"),
            ("never-drop", "lb.example.com"),
            ("trusted-proxies", "*"),
            ("never-dorp", ""),
        ];
        for (key, value) in cases {
            let found = read(key, value);
            assert_eq!(found.faults.len(), 1, "{key}={value}");
            assert!(
                found.faults[0].contains(&format!("{PREFIX}{key}")),
                "{:?}",
                found.faults
            );
            assert_eq!(
                Annotations {
                    faults: vec![],
                    ..found
                },
                Annotations::default(),
                "{key}={value}"
            );
        }
    }

    #[test]
    fn service_and_pod_then_the_service_wins() {
        let both = read("enforce", "true").or(read("enforce", "false").or(read("never-drop", "")));
        assert_eq!((both.enforce, both.never_drop), (Some(true), Some(vec![])));
    }
}
