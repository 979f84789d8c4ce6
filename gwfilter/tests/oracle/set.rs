//! A policy set: the gateway it is for, its policies, and who asks it. It knows neither gwfilter nor Envoy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What stands between the client and the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topology {
    /// Nothing.
    Plain,
    /// `numTrustedProxies: 1`; clients connect by themselves and forge X-Forwarded-For.
    XForwardedFor,
    /// A load balancer at [`BALANCER4`]/[`BALANCER6`] that writes PROXY headers.
    Proxy,
}

/// What the gateway's second server is; the first is always plain HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TcpServer {
    /// Plain TCP.
    #[default]
    Tcp,
    /// TLS that the gateway does not terminate; clients may name a server.
    Passthrough,
    /// TLS routed by name between clusters: Istio puts no RBAC there.
    AutoPassthrough,
}

/// Which of the gateway's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Chain {
    /// HTTP connection manager.
    Http,
    /// Network filters.
    Tcp,
}

/// The balancer of [`Topology::Proxy`].
pub(crate) const BALANCER4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 200);
/// The balancer of [`Topology::Proxy`].
pub(crate) const BALANCER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbbbb, 0, 0, 0, 0, 0x200);
/// The node.
pub(crate) const NODE4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
/// The node.
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbbbb, 0, 0, 0, 0, 2);
/// The gateway's external addresses.
pub(crate) const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The gateway's external addresses.
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10);
/// Port of the HTTP listener at the external addresses.
pub(crate) const VIP_HTTP: u16 = 80;
/// Port of the TCP listener at the external addresses.
pub(crate) const VIP_TCP: u16 = 31400;

/// A policy set. Policies may hold `{pod4}`, `{pod4+1}`, `{pod6}` and `{pod6+1}`: the pod's addresses are given only when
/// the set gets its place in an Envoy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Set {
    /// Which seed made it, for people.
    pub(crate) seed: u64,
    /// What is in front of the gateway.
    pub(crate) topology: Topology,
    /// Namespace of the gateway.
    pub(crate) namespace: String,
    /// Root namespace of the mesh; written to the mesh config if it is not `istio-system`.
    pub(crate) root_namespace: String,
    /// A Gateway API gateway instead of an Istio one.
    pub(crate) gateway_api: bool,
    /// The Gateway object speaks of other ports: what these are is not known.
    pub(crate) ports_unknown: bool,
    /// What the second server is.
    pub(crate) tcp_server: TcpServer,
    /// A RequestAuthentication attaches: requests may carry a token of `issuer/subject`.
    #[serde(default)]
    pub(crate) tokens: bool,
    /// An istiod that does not know service accounts and trust domains yet: it skips the fields, and takes the keys for
    /// unknown ones.
    #[serde(default)]
    pub(crate) old_istiod: bool,
    /// Revision of the gateway's pod: label and annotation `istio.io/rev`.
    pub(crate) revision: Option<String>,
    /// Whether an istiod whose revision the manifests do not tell keeps policies that carry a revision label.
    pub(crate) foreign_revisions_kept: bool,
    /// targetPort of the HTTP listener.
    pub(crate) http_port: u16,
    /// targetPort of the TCP listener.
    pub(crate) tcp_port: u16,
    /// The policies hold no field but addresses and ports.
    pub(crate) address_only: bool,
    /// The policies may hold what Istio's webhook refuses.
    pub(crate) faulty: bool,
    /// The AuthorizationPolicies.
    pub(crate) policies: Vec<Value>,
    /// Client addresses.
    pub(crate) clients: Vec<IpAddr>,
}

impl Set {
    /// Labels of the gateway's pod.
    pub(crate) fn labels(&self) -> Vec<(&'static str, String)> {
        let mut labels = vec![("app", "gw".to_owned()), ("istio", "ingressgateway".to_owned())];
        if self.gateway_api {
            labels.push(("gateway.networking.k8s.io/gateway-name", "gw".to_owned()));
        }
        if let Some(revision) = &self.revision {
            labels.push(("istio.io/rev", revision.clone()));
        }
        labels
    }

    /// The set with its pod's addresses written into its policies.
    pub(crate) fn place(&self, slot: u16) -> anyhow::Result<Placed> {
        let (pod4, pod6) = (pod4(slot), pod6(slot));
        let text = serde_json::to_string(&self.policies)?
            .replace("{pod4}", &pod4.to_string())
            .replace("{pod6}", &pod6.to_string())
            .replace("{pod4+1}", &Ipv4Addr::from_bits(pod4.to_bits() + 1).to_string())
            .replace("{pod6+1}", &Ipv6Addr::from_bits(pod6.to_bits() + 1).to_string());
        let set = Self {
            policies: serde_json::from_str(&text)?,
            ..self.clone()
        };
        Ok(Placed { set, pod4, pod6 })
    }
}

/// A set with a place in an Envoy.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// The set, without placeholders.
    pub(crate) set: Set,
    /// Address of the pod.
    pub(crate) pod4: Ipv4Addr,
    /// Address of the pod.
    pub(crate) pod6: Ipv6Addr,
}

impl Placed {
    /// The pod's address of a family.
    pub(crate) fn pod(&self, of: IpAddr) -> IpAddr {
        if of.is_ipv4() {
            self.pod4.into()
        } else {
            self.pod6.into()
        }
    }

    /// The targetPort of a listener.
    pub(crate) fn port(&self, chain: Chain) -> u16 {
        match chain {
            Chain::Http => self.set.http_port,
            Chain::Tcp => self.set.tcp_port,
        }
    }
}

/// How a client comes to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Source of the packets.
    pub(crate) source: IpAddr,
    /// Destination in the PROXY header, with [`Topology::Proxy`].
    pub(crate) written: SocketAddr,
}

impl Placed {
    /// The way of a client: by the balancer and to the gateway's external address; or, with a PROXY header, by whatever peer and to
    /// whatever destination, so that those meet the set's prefixes and ports too.
    pub(crate) fn way(&self, client: IpAddr, chain: Chain) -> Way {
        let port = match chain {
            Chain::Http => VIP_HTTP,
            Chain::Tcp => VIP_TCP,
        };
        let (balancer, vip) = if client.is_ipv4() {
            (IpAddr::from(BALANCER4), IpAddr::from(VIP4))
        } else {
            (BALANCER6.into(), VIP6.into())
        };
        let plain = SocketAddr::new(vip, port);
        if self.set.topology != Topology::Proxy {
            return Way {
                source: client,
                written: plain,
            };
        }
        let clients = &self.set.clients;
        let position = clients.iter().position(|c| *c == client).unwrap_or(0);
        let others = || {
            clients
                .iter()
                .copied()
                .cycle()
                .skip(position + 1)
                .take(clients.len())
        };
        let same_family = others().filter(|a| a.is_ipv4() == client.is_ipv4());
        let ports = [port, 443, self.port(chain), 8443, u16::MAX];
        let at = position / 3 % ports.len();
        let written = SocketAddr::new(
            same_family.last().unwrap_or(vip),
            ports.get(at).copied().unwrap_or(port),
        );
        match position % 3 {
            0 => Way {
                source: balancer,
                written: plain,
            },
            1 => Way {
                source: balancer,
                written,
            },
            _ => Way {
                source: others().nth(2).unwrap_or(balancer),
                written,
            },
        }
    }
}

/// Whether an address is the node's or one of its pods', by the Node object of the manifests.
pub(crate) fn own_network(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets().starts_with(&[10, 244]) || address == NODE4,
        IpAddr::V6(address) => {
            address.segments().starts_with(&[0x2001, 0xdb8, 0xaaaa, 0]) || address == NODE6
        }
    }
}

fn pod4(slot: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + 2 * u32::from(slot) + 2)
}

fn pod6(slot: u16) -> Ipv6Addr {
    Ipv6Addr::from_bits(
        Ipv6Addr::new(0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 0).to_bits() + 2 * u128::from(slot) + 2,
    )
}

/// How much of Envoy's refusals a node is expected to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Addresses and ports only.
    AddressOnly,
    /// Request and identity fields too.
    Mixed,
    /// Faulty values, what depends on an istiod that nobody told of, or ports of unknown kind.
    Doubtful,
    /// A proxy in front that the node cannot see through; or a PROXY header, and what makes a set doubtful.
    Proxied,
    /// A PROXY header.
    Header,
}

impl Set {
    /// The set's class.
    pub(crate) fn class(&self) -> Class {
        let labelled = |policy: &Value| policy.pointer("/metadata/labels/istio.io~1rev").is_some();
        let doubtful =
            self.faulty || self.ports_unknown || self.old_istiod || self.policies.iter().any(labelled);
        if self.topology == Topology::XForwardedFor || (self.topology == Topology::Proxy && doubtful) {
            Class::Proxied
        } else if self.topology == Topology::Proxy {
            Class::Header
        } else if doubtful {
            Class::Doubtful
        } else if self.address_only {
            Class::AddressOnly
        } else {
            Class::Mixed
        }
    }
}
