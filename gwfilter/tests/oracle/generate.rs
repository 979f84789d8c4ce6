//! Random policy sets, made so that prefixes overlap and clients sit on their boundaries.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::set::{Set, TcpServer, Topology};

/// What a set may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Taste {
    /// Fields other than addresses and ports.
    other_fields: bool,
    /// Values and forms that Istio's webhook refuses.
    faults: bool,
    /// Revision labels.
    labels: bool,
    /// Server names, more often than other fields.
    names: bool,
}

/// A generator of one set.
struct Maker {
    rng: StdRng,
    taste: Taste,
    /// Addresses around which this set's prefixes lie.
    focus4: Vec<u32>,
    focus6: Vec<u128>,
    namespace: String,
    root: String,
    ports: Vec<String>,
    /// Ranges as written: clients come from their ends.
    ranges: Vec<(IpAddr, u8)>,
}

/// The set of a seed, with up to `clients` clients.
pub(crate) fn set(seed: u64, clients: usize) -> Set {
    let mut rng = StdRng::seed_from_u64(seed);
    let taste = Taste {
        other_fields: rng.random_bool(0.5),
        faults: rng.random_bool(0.12),
        labels: rng.random_bool(0.12),
        names: false,
    };
    let root = if rng.random_bool(0.85) {
        "istio-system"
    } else {
        "mesh-config"
    }
    .to_owned();
    let namespace = if rng.random_bool(0.4) {
        root.clone()
    } else {
        "ingress".to_owned()
    };
    let http_port = *[8080, 8080, 8081, 10080].choose(&mut rng).unwrap_or(&8080);
    let tcp_port = *[31400, 31400, 9000].choose(&mut rng).unwrap_or(&31400);
    let topology = match rng.random_range(0..100) {
        0..82 => Topology::Plain,
        82..92 => Topology::XForwardedFor,
        _ => Topology::Proxy,
    };
    let revision = match rng.random_range(0..10) {
        0 => Some("canary".to_owned()),
        1 => Some("default".to_owned()),
        _ => None,
    };
    let gateway_api = rng.random_bool(0.25);
    // A port of which no object speaks is taken for HTTP or TCP; that it has no RBAC at all must be said by its Gateway.
    let ports_unknown = rng.random_bool(0.06);
    let tcp_server = match rng.random_range(0..20) {
        0 | 1 => TcpServer::Passthrough,
        2 if !gateway_api && !ports_unknown => TcpServer::AutoPassthrough,
        _ => TcpServer::Tcp,
    };
    let mut maker = Maker {
        focus4: (0..rng.random_range(1..4))
            .map(|_| {
                let bases: [u32; 6] = [
                    0x0A00_0000,
                    0x0808_0800,
                    0xC000_0200,
                    0xCB00_7100,
                    0x2200_0000,
                    0xAC10_0000,
                ];
                bases.choose(&mut rng).unwrap_or(&0x0A00_0000) | (rng.random::<u32>() & 0x00FF_FFFF)
            })
            .collect(),
        focus6: (0..rng.random_range(1..4))
            .map(|_| {
                let bases: [u128; 4] = [
                    0x2001_0db8 << 96,
                    0x2600_1f18 << 96,
                    0xfd12_3456 << 96,
                    0x2a00_1450 << 96,
                ];
                bases.choose(&mut rng).unwrap_or(&0) | (rng.random::<u128>() >> 36)
            })
            .collect(),
        ports: ["80", "8080", "31400", "443", "30080", "0", "65535", "010080"]
            .iter()
            .map(|port| (*port).to_owned())
            .chain([
                http_port.to_string(),
                tcp_port.to_string(),
                http_port.to_string(),
                tcp_port.to_string(),
            ])
            .collect(),
        rng,
        taste: Taste {
            names: tcp_server == TcpServer::Passthrough,
            ..taste
        },
        namespace: namespace.clone(),
        root: root.clone(),
        ranges: Vec::new(),
    };
    // What a labelled policy does shows only beside others.
    let count = if taste.labels {
        maker.rng.random_range(3..6)
    } else {
        maker.size(1, 5)
    };
    let policies: Vec<Value> = (0..count).map(|index| maker.policy(index, gateway_api)).collect();
    let tokens = maker.chance(if taste.other_fields { 20 } else { 2 });
    let old_istiod = maker.chance(if taste.other_fields { 15 } else { 1 });
    let foreign_revisions_kept = maker.chance(50);
    let clients = maker.clients(clients);
    Set {
        seed,
        topology,
        namespace,
        root_namespace: root,
        gateway_api,
        ports_unknown,
        tcp_server,
        tokens,
        old_istiod,
        revision,
        foreign_revisions_kept,
        http_port,
        tcp_port,
        address_only: !taste.other_fields,
        faulty: taste.faults,
        policies,
        clients,
    }
}

impl Maker {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.choose(&mut self.rng).copied().unwrap_or_default()
    }

    /// Mostly small, now and then empty.
    fn size(&mut self, least: usize, most: usize) -> usize {
        if self.chance(5) {
            0
        } else {
            self.rng
                .random_range(least..most)
                .min(self.rng.random_range(least..most))
        }
    }

    fn policy(&mut self, index: usize, gateway_api: bool) -> Value {
        let mut metadata = Map::new();
        let (own, root) = (self.namespace.clone(), self.root.clone());
        let namespace = if self.chance(6) {
            "other".to_owned()
        } else if self.chance(70) {
            own
        } else {
            root
        };
        metadata.insert("name".to_owned(), json!(format!("p{index}")));
        metadata.insert("namespace".to_owned(), json!(namespace));
        if self.chance(12) {
            let values = ["true", "true", "T", "1", "True", "false", "0", "f"];
            let value = if self.taste.faults {
                self.pick(&["yes", "", "tRUE", " true", "2"])
            } else {
                self.pick(&values)
            };
            metadata.insert("annotations".to_owned(), json!({"istio.io/dry-run": value}));
        }
        if self.taste.labels && self.chance(50) {
            metadata.insert(
                "labels".to_owned(),
                json!({"istio.io/rev": self.pick(&["canary", "stable"])}),
            );
        }
        let mut spec = Map::new();
        if self.chance(25) {
            let labels = match self.rng.random_range(0..6) {
                0 => json!({}),
                1 => json!({"app": "gw"}),
                2 => json!({"app": "gw", "istio": "ingressgateway"}),
                3 => json!({"app": "other"}),
                4 => json!({"istio": "ingressgateway"}),
                _ => json!({"app": "gw", "absent": "x"}),
            };
            spec.insert("selector".to_owned(), json!({"matchLabels": labels}));
        } else if self.chance(if gateway_api { 40 } else { 4 }) {
            let mut refs = Vec::new();
            for _ in 0..self.rng.random_range(1..3) {
                refs.push(match self.rng.random_range(0..6) {
                    0 => json!({"kind": "Service", "group": "", "name": "gw"}),
                    1 => json!({"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "another"}),
                    2 => json!({"kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": "istio-waypoint"}),
                    _ => json!({"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "gw"}),
                });
            }
            if self.chance(15) {
                spec.insert("targetRef".to_owned(), refs.first().cloned().unwrap_or_default());
            } else {
                spec.insert("targetRefs".to_owned(), json!(refs));
            }
        }
        let allow = if self.taste.labels { 70 } else { 40 };
        match self.rng.random_range(0..100) {
            kind if kind < allow => {
                if self.chance(50) {
                    spec.insert("action".to_owned(), json!("ALLOW"));
                }
            }
            ..90 => {
                spec.insert("action".to_owned(), json!("DENY"));
            }
            90..95 => {
                spec.insert("action".to_owned(), json!("AUDIT"));
            }
            _ => {
                spec.insert("action".to_owned(), json!("CUSTOM"));
                spec.insert("provider".to_owned(), json!({"name": "ext"}));
            }
        }
        if !self.chance(4) {
            let rules: Vec<Value> = (0..self.size(1, 5)).map(|_| self.rule()).collect();
            spec.insert("rules".to_owned(), json!(rules));
        }
        json!({
            "apiVersion": self.pick(&["security.istio.io/v1", "security.istio.io/v1beta1"]),
            "kind": "AuthorizationPolicy",
            "metadata": metadata,
            "spec": spec,
        })
    }

    fn rule(&mut self) -> Value {
        if self.chance(4) {
            return json!({});
        }
        let mut rule = Map::new();
        if self.chance(75) {
            let from: Vec<Value> = (0..self.size(1, 4))
                .map(|_| json!({"source": self.source()}))
                .collect();
            if !from.is_empty() || self.taste.faults {
                rule.insert("from".to_owned(), json!(from));
            }
        }
        if self.chance(if self.taste.other_fields { 45 } else { 25 }) {
            let to: Vec<Value> = (0..self.size(1, 3))
                .map(|_| json!({"operation": self.operation()}))
                .collect();
            if !to.is_empty() || self.taste.faults {
                rule.insert("to".to_owned(), json!(to));
            }
        }
        if self.chance(35) {
            let when: Vec<Value> = (0..self.size(1, 4)).map(|_| self.when()).collect();
            rule.insert("when".to_owned(), json!(when));
        }
        Value::Object(rule)
    }

    fn source(&mut self) -> Value {
        let mut source = Map::new();
        for _ in 0..self.rng.random_range(1..4) {
            let (name, values) = if self.taste.other_fields && self.chance(30) {
                match self.rng.random_range(0..10) {
                    0 => (
                        "principals",
                        self.some(&["*", "cluster.local/ns/a/sa/b", "cluster.local/*", "*/sa/b"]),
                    ),
                    1 => ("notPrincipals", self.some(&["*", "cluster.local/ns/a/sa/b"])),
                    2 => ("namespaces", self.some(&["a", "a*", "*", "istio-system"])),
                    3 => ("notNamespaces", self.some(&["a", "*"])),
                    4 => ("requestPrincipals", self.some(&["*", "issuer/subject"])),
                    5 => ("notRequestPrincipals", self.some(&["*", "issuer/subject"])),
                    6 => ("serviceAccounts", self.some(&["a/b", "b"])),
                    7 => ("notServiceAccounts", self.some(&["a/b", "b"])),
                    8 => ("trustDomains", self.some(&["cluster.local", "*"])),
                    _ => ("notTrustDomains", self.some(&["cluster.local"])),
                }
            } else {
                let name = self.pick(&[
                    "ipBlocks",
                    "ipBlocks",
                    "remoteIpBlocks",
                    "notIpBlocks",
                    "notRemoteIpBlocks",
                ]);
                (name, self.addresses())
            };
            source.insert(name.to_owned(), json!(values));
        }
        Value::Object(source)
    }

    fn operation(&mut self) -> Value {
        let mut operation = Map::new();
        for _ in 0..self.rng.random_range(1..3) {
            let (name, values) = if self.taste.other_fields && self.chance(70) {
                match self.rng.random_range(0..6) {
                    0 => ("methods", self.some(&["GET", "POST", "*", "GE*"])),
                    1 => ("notMethods", self.some(&["GET", "POST", "*T"])),
                    2 => ("paths", self.some(&["/", "/admin", "/api/*", "*", "*/v1"])),
                    3 => ("notPaths", self.some(&["/", "/admin*", "*"])),
                    4 => ("hosts", self.some(&["a.example", "*.example", "*", "B.EXAMPLE"])),
                    _ => ("notHosts", self.some(&["a.example", "*.example", "*"])),
                }
            } else {
                (self.pick(&["ports", "notPorts"]), self.port_values())
            };
            operation.insert(name.to_owned(), json!(values));
        }
        Value::Object(operation)
    }

    fn when(&mut self) -> Value {
        let other = ["x"];
        let (key, mut pool): (&str, Option<&[&str]>) = if self.taste.faults && self.chance(15) {
            (
                self.pick(&[
                    "request.headers",
                    "destination.name",
                    "source.ips",
                    "request.headersX",
                    "request.auth.claims[x",
                ]),
                Some(&other),
            )
        } else if self.taste.other_fields && self.taste.names && self.chance(50) {
            ("connection.sni", Some(&["a.example", "*", "*.example"]))
        } else if self.taste.other_fields && self.chance(60) {
            match self.rng.random_range(0..11) {
                0 => ("connection.sni", Some(&["a.example", "*", "*.example"])),
                1 => ("source.principal", Some(&["*", "cluster.local/ns/a/sa/b"])),
                2 => ("source.namespace", Some(&["a", "*"])),
                3 => (
                    self.pick(&["source.serviceAccount", "source.trustDomain"]),
                    Some(&["a/b", "b"]),
                ),
                4..7 => ("request.headers[x-token]", Some(&["t", "*", "t*", "*t"])),
                7 => ("request.auth.principal", Some(&["*", "issuer/subject"])),
                8 => ("request.auth.claims[groups]", Some(&["admin", "*"])),
                9 => ("request.auth.audiences", Some(&["me"])),
                _ => (
                    "experimental.envoy.filters.network.mysql_proxy[db.table]",
                    Some(&["x", "*"]),
                ),
            }
        } else {
            match self.rng.random_range(0..5) {
                0 | 1 => ("source.ip", None),
                2 => ("remote.ip", None),
                3 => ("destination.ip", None),
                _ => ("destination.port", None),
            }
        };
        let mut when = Map::new();
        when.insert("key".to_owned(), json!(key));
        let which = self.rng.random_range(0..10);
        for (name, wanted) in [("values", which < 7), ("notValues", which > 5)] {
            if wanted {
                let values = match pool.as_mut() {
                    Some(pool) => self.some(pool),
                    None if key == "destination.ip" => self.destinations(),
                    None if key == "destination.port" => self.port_values(),
                    None => self.addresses(),
                };
                when.insert(name.to_owned(), json!(values));
            }
        }
        Value::Object(when)
    }

    fn some(&mut self, pool: &[&str]) -> Vec<String> {
        let count = self.rng.random_range(1..=pool.len().min(2));
        (0..count).map(|_| self.pick(pool).to_owned()).collect()
    }

    fn port_values(&mut self) -> Vec<String> {
        let mut values: Vec<String> = Vec::new();
        for _ in 0..self.size(1, 4) {
            values.extend(self.ports.choose(&mut self.rng).cloned());
        }
        if self.taste.faults && self.chance(25) {
            values.push(
                self.pick(&["+80", "65536", "", "http", " 80", "-1", "*"])
                    .to_owned(),
            );
        }
        values
    }

    fn destinations(&mut self) -> Vec<String> {
        let pool = [
            "{pod4}",
            "{pod6}",
            "{pod4+1}",
            "{pod6+1}",
            "{pod4}/32",
            "{pod4}/31",
            "{pod4}/16",
            "{pod6}/127",
            "{pod6}/64",
            "203.0.113.10",
            "2001:db8:ffff::10",
            "0.0.0.0/0",
            "::/0",
            "10.96.0.10",
            "::ffff:{pod4}",
        ];
        (0..self.size(1, 4))
            .map(|_| self.pick(&pool).to_owned())
            .collect()
    }

    fn addresses(&mut self) -> Vec<String> {
        let count = if self.chance(4) {
            self.rng.random_range(8..24)
        } else {
            self.size(1, 5)
        };
        let mut values: Vec<String> = (0..count).map(|_| self.address()).collect();
        if self.taste.faults && self.chance(25) {
            let faults = [
                " 1.2.3.4",
                "10.0.0.*",
                "1.2.3.4/33",
                "01.2.3.4",
                "",
                "1.2.3.4/08",
                "example.org",
                "10.0.0.1-10.0.0.9",
                "::g",
                "10.0.0.0/+8",
                "fe80::1%eth0/64",
                "*",
                "1.2.3",
                "10.0.0.0/",
                "::/129",
                "1:2:3:4:5:6:7:8:9",
                "10.0.0.0/8 ",
            ];
            let at = self.rng.random_range(0..=values.len());
            values.insert(at, self.pick(&faults).to_owned());
        }
        values
    }

    /// One valid address or prefix; often with host bits set.
    fn address(&mut self) -> String {
        let kind = self.rng.random_range(0..100);
        if kind < 3 {
            let whole = if self.chance(50) { "0.0.0.0/0" } else { "::/0" };
            return whole.to_owned();
        }
        let host_bits = self.chance(40);
        if kind < 55 {
            let base = self.focus4.choose(&mut self.rng).copied().unwrap_or_default();
            let length: u8 = *[0, 1, 7, 8, 12, 16, 20, 22, 23, 24, 25, 28, 29, 30, 31, 32, 32, 32]
                .choose(&mut self.rng)
                .unwrap_or(&32);
            let near = base ^ (self.rng.random::<u32>() & 0xFFFF >> self.rng.random_range(0..16));
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let address = Ipv4Addr::from_bits(if host_bits { near } else { near & mask });
            self.ranges.push((address.into(), length));
            if length == 32 && self.chance(70) {
                address.to_string()
            } else {
                format!("{address}/{length}")
            }
        } else if kind < 92 {
            let base = self.focus6.choose(&mut self.rng).copied().unwrap_or_default();
            let length: u8 = *[
                0, 1, 3, 16, 29, 32, 40, 48, 56, 60, 63, 64, 65, 80, 96, 112, 120, 126, 127, 128, 128, 128,
            ]
            .choose(&mut self.rng)
            .unwrap_or(&128);
            let near = base ^ (self.rng.random::<u128>() >> self.rng.random_range(40..128));
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            let address = Ipv6Addr::from_bits(if host_bits { near } else { near & mask });
            self.ranges.push((address.into(), length));
            if length == 128 && self.chance(70) {
                address.to_string()
            } else {
                format!("{address}/{length}")
            }
        } else if kind < 98 {
            // A v4-mapped form is an IPv6 range; the v4 addresses in it become clients, to see that it is not folded.
            let base = self.focus4.choose(&mut self.rng).copied().unwrap_or_default();
            let address = Ipv4Addr::from_bits(base ^ self.rng.random_range(0..4));
            let length: u8 = *[0, 8, 24, 31, 32].choose(&mut self.rng).unwrap_or(&32);
            self.ranges.push((address.into(), length));
            if length == 32 && self.chance(60) {
                format!("::ffff:{address}")
            } else {
                format!("::ffff:{address}/{}", 96 + length)
            }
        } else {
            "fe80::1%eth0".to_owned()
        }
    }

    /// The ends of every range and their neighbours, an address inside each, and some that lie anywhere.
    fn clients(&mut self, most: usize) -> Vec<IpAddr> {
        let mut all: BTreeSet<IpAddr> = BTreeSet::new();
        for (address, length) in self.ranges.clone() {
            match address {
                IpAddr::V4(address) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                    let (first, last) = (address.to_bits() & mask, address.to_bits() | !mask);
                    let inside = first | (self.rng.random::<u32>() & !mask);
                    let ends = [first, last, first.wrapping_sub(1), last.wrapping_add(1), inside];
                    all.extend(ends.map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))));
                }
                IpAddr::V6(address) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                    let (first, last) = (address.to_bits() & mask, address.to_bits() | !mask);
                    let inside = first | (self.rng.random::<u128>() & !mask);
                    let ends = [first, last, first.wrapping_sub(1), last.wrapping_add(1), inside];
                    all.extend(ends.map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))));
                }
            }
        }
        let anywhere = [
            IpAddr::from(Ipv4Addr::from_bits(self.rng.random())),
            IpAddr::from(Ipv4Addr::from_bits(self.rng.random())),
            IpAddr::from(Ipv6Addr::from_bits(
                (0x2 << 124) | (self.rng.random::<u128>() >> 4),
            )),
            IpAddr::from(Ipv6Addr::from_bits(
                (0x2 << 124) | (self.rng.random::<u128>() >> 4),
            )),
        ];
        all.retain(|address| usable(*address));
        let boundary: Vec<IpAddr> = all.iter().copied().collect();
        let mut clients: BTreeSet<IpAddr> = boundary
            .choose_multiple(&mut self.rng, most.saturating_sub(3))
            .copied()
            .collect();
        for address in anywhere.into_iter().filter(|address| usable(*address)) {
            if clients.len() < most {
                clients.insert(address);
            }
        }
        clients.into_iter().collect()
    }
}

/// Whether a socket can have this source address.
fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            let [first, ..] = address.segments();
            address.to_ipv4_mapped().is_none()
                && !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && (first & 0xffc0) != 0xfe80
        }
    }
}
