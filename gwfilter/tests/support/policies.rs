//! Random policy sets and gateways. A world follows from its seed alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gwfilter::gateway::model::{
    Chain, ChainKind, ChainTls, ClientAddress, Gateway, Mesh, Receiver, Tri, Workload,
};
use gwfilter::object::authorization_policy::AuthorizationPolicy;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::world::{World, gateway, policy};

impl World {
    /// The world of a seed.
    pub(crate) fn random(seed: u64) -> Self {
        let mut g = Generator::new(seed);
        let mut world = Self {
            mesh: g.mesh(),
            policies: g.policies(),
            gateway: g.gateway(),
            complete: g.chance(0.95),
        };
        world.mesh.unread = !world.complete && g.chance(0.5);
        world
    }
}

const BAD_RANGES: [&str; 10] = [
    "",
    " 1.2.3.4",
    "10.0.0.*",
    "+1.2.3.4",
    "01.2.3.4",
    "1.2.3.4/33",
    "1.2.3.0/+8",
    "1.2.3.0/08",
    "::/129",
    "fe80::1%e/64",
];

/// A source of random worlds.
pub(crate) struct Generator {
    rng: StdRng,
    /// The ranges of this world, so that they overlap, nest and touch.
    ranges: Vec<IpNet>,
    /// How likely a field that the node does not see is.
    hidden: f64,
    /// How likely a fault is.
    faults: f64,
}

impl Generator {
    /// The generator of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let hidden = *pick(&mut rng, &[0.0, 0.1, 0.4]);
        let faults = *pick(&mut rng, &[0.0, 0.0, 0.0, 0.05]);
        let mut g = Self {
            rng,
            ranges: Vec::new(),
            hidden,
            faults,
        };
        for _ in 0..g.rng.random_range(1..=4) {
            let base = g.base();
            g.ranges.push(base);
            for _ in 0..g.rng.random_range(0..=3) {
                let relative = g.relative(base);
                g.ranges.push(relative);
            }
        }
        g
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        pick(&mut self.rng, from)
    }

    fn base(&mut self) -> IpNet {
        let v4 = |bits: u32, len| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), len).trunc());
        let v6 = |bits: u128, len| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), len).trunc());
        match self.rng.random_range(0..10) {
            0..=3 => v4(self.rng.random(), self.rng.random_range(0..=32)),
            4 => v4(
                *self.pick(&[0, u32::MAX, 0x0a00_0000, 0x7fff_ffff, 0x8000_0000]),
                *self.pick(&[0, 1, 8, 24, 31, 32]),
            ),
            5..=6 => v6(
                0x2001_0db8 << 96 | u128::from(self.rng.random::<u64>()),
                self.rng.random_range(32..=128),
            ),
            7 => v6(self.rng.random(), self.rng.random_range(0..=128)),
            8 => v6(
                *self.pick(&[0, u128::MAX, 1 << 127]),
                *self.pick(&[0, 1, 64, 96, 127, 128]),
            ),
            _ => v6(
                0xffff_u128 << 32 | u128::from(self.rng.random::<u32>()),
                *self.pick(&[96, 104, 120, 127, 128]),
            ),
        }
    }

    /// A range that contains, is contained in, touches or equals another, or has its bits in the other family.
    fn relative(&mut self, of: IpNet) -> IpNet {
        let kind = self.rng.random_range(0..5);
        match of {
            IpNet::V4(n) => {
                let (low, len) = (n.network().to_bits(), n.prefix_len());
                let net = |bits, len| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), len).trunc());
                match kind {
                    0 => net(low, self.rng.random_range(0..=len)),
                    1 => net(
                        self.rng.random_range(low..=n.broadcast().to_bits()),
                        self.rng.random_range(len..=32),
                    ),
                    2 => net(n.broadcast().to_bits().wrapping_add(1), len),
                    3 => net(low.wrapping_sub(1), len),
                    _ => IpNet::V6(Ipv6Net::new_assert(n.network().to_ipv6_mapped(), 96 + len).trunc()),
                }
            }
            IpNet::V6(n) => {
                let (low, len) = (n.network().to_bits(), n.prefix_len());
                let net = |bits, len| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), len).trunc());
                match kind {
                    0 => net(low, self.rng.random_range(0..=len)),
                    1 => net(
                        self.rng.random_range(low..=n.broadcast().to_bits()),
                        self.rng.random_range(len..=128),
                    ),
                    2 => net(n.broadcast().to_bits().wrapping_add(1), len),
                    3 => net(low.wrapping_sub(1), len),
                    _ => {
                        let low = u32::try_from(low & 0xffff_ffff).unwrap_or_default();
                        IpNet::V4(
                            Ipv4Net::new_assert(Ipv4Addr::from_bits(low), len.saturating_sub(96)).trunc(),
                        )
                    }
                }
            }
        }
    }

    fn range_text(&mut self) -> String {
        if self.chance(self.faults) {
            return (*self.pick(&BAD_RANGES)).to_owned();
        }
        let ranges = self.ranges.clone();
        let net = *self.pick(&ranges);
        if net.prefix_len() == net.max_prefix_len() && self.chance(0.5) {
            return net.addr().to_string();
        }
        // Host bits are legal.
        match net {
            IpNet::V4(n) if self.chance(0.3) => {
                let a = self
                    .rng
                    .random_range(n.network().to_bits()..=n.broadcast().to_bits());
                format!("{}/{}", Ipv4Addr::from_bits(a), n.prefix_len())
            }
            IpNet::V6(n) if self.chance(0.3) => {
                let a = self
                    .rng
                    .random_range(n.network().to_bits()..=n.broadcast().to_bits());
                format!("{}/{}", Ipv6Addr::from_bits(a), n.prefix_len())
            }
            net => net.to_string(),
        }
    }

    fn ranges(&mut self) -> Value {
        let count = *self.pick(&[0, 1, 1, 1, 2, 2, 3, 5]);
        (0..count).map(|_| self.range_text()).collect()
    }

    fn ports(&mut self) -> Value {
        let count = *self.pick(&[0, 1, 1, 2]);
        let bad = self.faults;
        (0..count)
            .map(|_| {
                if self.chance(bad) {
                    "+8080"
                } else {
                    self.pick(&["8080", "08080", "443", "80", "0"])
                }
            })
            .collect()
    }

    fn texts(&mut self) -> Value {
        let count = *self.pick(&[0, 1, 1, 2]);
        (0..count)
            .map(|_| *self.pick(&["a", "*", "x*", "*x", "", "cluster.local/ns/a/sa/b"]))
            .collect()
    }

    fn source(&mut self) -> Value {
        let mut map = Map::new();
        for name in ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"] {
            if self.chance(0.35) {
                map.insert(name.to_owned(), self.ranges());
            }
        }
        for name in [
            "principals",
            "notPrincipals",
            "namespaces",
            "notNamespaces",
            "serviceAccounts",
            "notServiceAccounts",
            "trustDomains",
            "notTrustDomains",
            "requestPrincipals",
            "notRequestPrincipals",
        ] {
            if self.chance(self.hidden * 0.2) {
                map.insert(name.to_owned(), self.texts());
            }
        }
        self.maybe_unknown(&mut map);
        Value::Object(map)
    }

    fn operation(&mut self) -> Value {
        let mut map = Map::new();
        for name in ["ports", "notPorts"] {
            if self.chance(0.4) {
                map.insert(name.to_owned(), self.ports());
            }
        }
        for name in ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"] {
            if self.chance(self.hidden * 0.3) {
                map.insert(name.to_owned(), self.texts());
            }
        }
        self.maybe_unknown(&mut map);
        Value::Object(map)
    }

    fn condition(&mut self) -> Value {
        let seen = ["source.ip", "remote.ip", "destination.ip", "destination.port"];
        let hidden = [
            "source.namespace",
            "source.principal",
            "source.serviceAccount",
            "source.trustDomain",
            "request.auth.principal",
            "request.auth.audiences",
            "request.auth.presenter",
            "request.auth.claims[iss]",
            "request.headers[x-token]",
            "connection.sni",
            "experimental.envoy.filters.network.mysql_proxy[a]",
        ];
        let faulty = [
            "request.headers",
            "request.headersX",
            "source.zone",
            "",
            "destination.namespace",
        ];
        let key = if self.chance(self.faults) {
            *self.pick(&faulty)
        } else if self.chance(self.hidden) {
            *self.pick(&hidden)
        } else {
            *self.pick(&seen)
        };
        let mut map = Map::from_iter([("key".to_owned(), json!(key))]);
        for name in ["values", "notValues"] {
            if self.chance(0.6) {
                let values = match key {
                    "destination.port" => self.ports(),
                    "destination.ip" if self.chance(0.5) => {
                        json!([self.pick(&[
                            "10.244.0.0/16",
                            "10.244.0.1",
                            "2001:db8:a::/64",
                            "0.0.0.0/0",
                            "::/0"
                        ])])
                    }
                    "source.ip" | "remote.ip" | "destination.ip" => self.ranges(),
                    _ => self.texts(),
                };
                map.insert(name.to_owned(), values);
            }
        }
        self.maybe_unknown(&mut map);
        Value::Object(map)
    }

    fn maybe_unknown(&mut self, map: &mut Map<String, Value>) {
        if self.chance(self.faults * 0.3) {
            map.insert("ipBlocksFrom".to_owned(), json!("list"));
        }
    }

    fn rule(&mut self) -> Value {
        let mut map = Map::new();
        if self.chance(0.8) {
            let count = *self.pick(&[0, 1, 1, 1, 2, 3]);
            let from = (0..count)
                .map(|_| {
                    if self.chance(0.05) {
                        json!({})
                    } else {
                        json!({"source": self.source()})
                    }
                })
                .collect();
            map.insert("from".to_owned(), Value::Array(from));
        }
        if self.chance(0.3) {
            let count = *self.pick(&[0, 1, 1, 2]);
            let to = (0..count)
                .map(|_| json!({"operation": self.operation()}))
                .collect();
            map.insert("to".to_owned(), Value::Array(to));
        }
        if self.chance(0.3) {
            let count = *self.pick(&[0, 1, 1, 2]);
            map.insert(
                "when".to_owned(),
                Value::Array((0..count).map(|_| self.condition()).collect()),
            );
        }
        self.maybe_unknown(&mut map);
        Value::Object(map)
    }

    /// A random spec.
    pub(crate) fn spec(&mut self) -> Value {
        let mut map = Map::new();
        match self.rng.random_range(0..40) {
            0..=17 => map.insert("action".to_owned(), json!("DENY")),
            18..=32 => map.insert("action".to_owned(), json!("ALLOW")),
            33..=36 => None,
            37 => map.insert("action".to_owned(), json!("AUDIT")),
            38 => map.insert("action".to_owned(), json!("CUSTOM")),
            _ => map.insert("action".to_owned(), json!("FORBID")),
        };
        if self.chance(0.95) {
            let count = *self.pick(&[0, 1, 1, 1, 2, 2, 3]);
            map.insert(
                "rules".to_owned(),
                Value::Array((0..count).map(|_| self.rule()).collect()),
            );
        }
        if self.chance(0.2) {
            let labels = self
                .pick(&[
                    json!({"app": "gw"}),
                    json!({"app": "other"}),
                    json!({"tier": "a"}),
                    json!({}),
                ])
                .clone();
            map.insert("selector".to_owned(), json!({"matchLabels": labels}));
        }
        if self.chance(0.1) {
            let name = *self.pick(&["gw", "other"]);
            let kind = *self.pick(&["Gateway", "Gateway", "Gateway", "Service"]);
            let group = *self.pick(&["gateway.networking.k8s.io", "gateway.networking.k8s.io", ""]);
            let namespace = *self.pick(&["", "", "istio-system"]);
            let reference = json!({"kind": kind, "group": group, "name": name, "namespace": namespace});
            if self.chance(0.5) {
                map.insert("targetRefs".to_owned(), json!([reference]));
            } else {
                map.insert("targetRef".to_owned(), reference);
            }
        }
        self.maybe_unknown(&mut map);
        Value::Object(map)
    }

    fn policies(&mut self) -> Vec<AuthorizationPolicy> {
        (0..self.rng.random_range(0..=4))
            .map(|at| {
                let namespace = *self.pick(&["istio-system", "istio-system", "ingress", "ingress", "other"]);
                let mut policy = policy(namespace, &format!("p{at}"), self.spec());
                if self.chance(0.1) {
                    let text = *self.pick(&["true", "1", "false", "yes", "", "TRue"]);
                    policy
                        .meta
                        .annotations
                        .insert("istio.io/dry-run".to_owned(), text.to_owned());
                }
                if self.chance(0.05) {
                    let text = *self.pick(&["canary", "default", "", "1-30"]);
                    policy
                        .meta
                        .labels
                        .insert("istio.io/rev".to_owned(), text.to_owned());
                }
                policy
            })
            .collect()
    }

    fn mesh(&mut self) -> Mesh {
        Mesh {
            root_namespace: if self.chance(0.9) {
                Some("istio-system".to_owned())
            } else {
                None
            },
            discovery_selectors: self.chance(0.03),
            istiod_revision: self
                .pick(&[None, Some(String::new()), Some("canary".to_owned())])
                .clone(),
            selector_based_gateway_policy: *self.pick(&[
                Tri::True,
                Tri::True,
                Tri::True,
                Tri::False,
                Tri::Unknown,
            ]),
            request_authentication: *self.pick(&[Tri::Unknown, Tri::False, Tri::True]),
            unread: false,
        }
    }

    fn workload(&mut self) -> Workload {
        let namespace = *self.pick(&["ingress", "ingress", "ingress", "istio-system"]);
        let mut labels = BTreeMap::from([("app".to_owned(), "gw".to_owned())]);
        if self.chance(0.3) {
            labels.insert("tier".to_owned(), (*self.pick(&["a", "b"])).to_owned());
        }
        if self.chance(0.3) {
            labels.insert(
                "gateway.networking.k8s.io/gateway-name".to_owned(),
                "gw".to_owned(),
            );
        }
        if self.chance(0.02) {
            labels.insert(
                "gateway.istio.io/managed".to_owned(),
                "istio.io-mesh-controller".to_owned(),
            );
        }
        let revision = self
            .pick(&[None, Some(String::new()), Some("canary".to_owned())])
            .clone();
        Workload {
            namespace: namespace.to_owned(),
            labels,
            labels_complete: self.chance(0.85),
            revision,
        }
    }

    fn chain(&mut self) -> Chain {
        let kind = match self.rng.random_range(0..40) {
            0..=15 => ChainKind::Http,
            16..=31 => ChainKind::Tcp,
            32..=38 => ChainKind::Unknown,
            _ => ChainKind::NoRbac,
        };
        Chain {
            kind,
            tls: *self.pick(&[ChainTls::Plain, ChainTls::Simple, ChainTls::Unknown]),
        }
    }

    fn receiver(&mut self, workloads: usize) -> Receiver {
        let pods: [IpAddr; 3] = ["10.244.0.1", "10.244.7.7", "2001:db8:a::1"]
            .map(|a| a.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let addresses = if self.chance(0.8) {
            Some(pods.into_iter().filter(|_| self.chance(0.6)).collect())
        } else {
            None
        };
        Receiver {
            workload: self.rng.random_range(0..workloads),
            port: *self.pick(&[8080, 8443, 443, 0]),
            addresses,
            chains: (0..*self.pick(&[1, 1, 1, 2, 3])).map(|_| self.chain()).collect(),
        }
    }

    fn gateway(&mut self) -> Gateway {
        let workloads: Vec<Workload> = (0..*self.pick(&[1, 1, 1, 2, 3]))
            .map(|_| self.workload())
            .collect();
        let listeners = (0..*self.pick(&[1, 1, 2, 3]))
            .map(|_| {
                let count = *self.pick(&[1, 1, 1, 1, 2, 3, 0]);
                (0..count).map(|_| self.receiver(workloads.len())).collect()
            })
            .collect();
        let mut gateway = gateway(listeners);
        gateway.workloads = workloads;
        gateway.probe_sources_known = self.chance(0.95);
        if self.chance(0.01) {
            gateway.client_address = ClientAddress::ProxyHeader;
        }
        gateway
    }
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    #[expect(clippy::indexing_slicing, reason = "the lists are constants and not empty")]
    &from[rng.random_range(0..from.len())]
}
