//! The gateway model: what the policy compiler needs to know of a gateway, free of Kubernetes types.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::object::drain::Drain;

/// Where the client address that Envoy's policies judge comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientAddress {
    /// The packet's source: no proxy in front.
    PacketSource,
    /// The PROXY protocol header.
    ProxyHeader,
    /// X-Forwarded-For with `numTrustedProxies > 0`.
    XForwardedFor,
    /// Not known: nothing is enforced.
    Unknown,
}

impl ClientAddress {
    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PacketSource => "packet-source",
            Self::ProxyHeader => "proxy-header",
            Self::XForwardedFor => "x-forwarded-for",
            Self::Unknown => "unknown",
        }
    }
}

/// Transport protocol of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, judged.
    Tcp,
    /// UDP, counted and passed.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// A destination as a node's NIC sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TupleKey {
    /// Destination address. A v4-mapped address is an IPv6 address.
    pub addr: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl std::fmt::Display for TupleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.addr {
            IpAddr::V4(a) => write!(f, "{a}:{}/{}", self.port, self.protocol.name()),
            IpAddr::V6(a) => write!(f, "[{a}]:{}/{}", self.port, self.protocol.name()),
        }
    }
}

/// What kind of filter chain serves a port, as far as RBAC is concerned (Istio `pilot/pkg/networking/core/gateway.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainKind {
    /// HTTP connection manager with the HTTP RBAC filter.
    Http,
    /// Network RBAC filter.
    Tcp,
    /// No RBAC at all (AUTO_PASSTHROUGH): never judged.
    NoRbac,
    /// No listener that certainly is Envoy's, so whoever answers applies no policies: never judged.
    NoListener,
    /// Not known: a drop must hold for HTTP and for TCP.
    Unknown,
}

/// What Envoy terminates on a chain, for identity fields and SNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainTls {
    /// No TLS and no TLS inspector.
    Plain,
    /// TLS without a client certificate (`SIMPLE`).
    Simple,
    /// Anything that may carry a client certificate, passthrough, or not known.
    Unknown,
}

/// One kind of chain that may serve a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// HTTP, TCP, without RBAC, or not known.
    pub kind: ChainKind,
    /// TLS of the chain.
    pub tls: ChainTls,
}

/// A group of gateway pods that policies cannot tell apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Namespace of the pods.
    pub namespace: String,
    /// Their labels. Where [`Workload::labels_complete`] is false, these labels are certain and there may be more.
    pub labels: BTreeMap<String, String>,
    /// Whether the labels are a running pod's (true), or only what a Service's selector implies (false): a policy's
    /// selector on an absent key then *may* match.
    pub labels_complete: bool,
    /// The pod's `istio.io/rev`: `Some("")` for the default revision, `None` where it is not known.
    pub revision: Option<String>,
}

/// The pods and the port that a connection to a tuple may end at, and the chains that may serve it there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receiver {
    /// Index into [`Gateway::workloads`].
    pub workload: usize,
    /// The port Envoy's socket has: the targetPort.
    pub port: u16,
    /// Addresses Envoy's socket may have (pod IPs, or the node's under hostNetwork); `None` where not known.
    pub addresses: Option<Vec<IpAddr>>,
    /// Chains that may serve it; never empty (an unknown port has one [`ChainKind::Unknown`] chain).
    pub chains: Vec<Chain>,
}

/// A destination with what a packet to it meets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// The destination.
    pub key: TupleKey,
    /// Where the tuple comes from, for people: `load-balancer`, `external-ip`, `node-port`, `pod`, `host-port`, `host-network`.
    pub origin: &'static str,
    /// The destination address is one of this node's own, so a segment to it may be a reply to a connection of the node.
    pub node_address: bool,
    /// The packet's source is the peer that the gateway's socket has. False where something between rewrites it
    /// (`externalTrafficPolicy: Cluster`); such a tuple exists only where the PROXY header names the client.
    pub peer_known: bool,
}

impl Tuple {
    /// The destination address is a pod's own: it ends with the pod, and may then be another pod's.
    #[must_use]
    pub fn pod_address(&self) -> bool {
        self.origin == POD_ORIGIN && !self.node_address
    }
}

/// [`Tuple::origin`] of a pod's own address.
pub const POD_ORIGIN: &str = "pod";

/// Tuples whose packets end at the same receivers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Stable name within the gateway: the Service port's name or number, e.g. `http2`, `8080`.
    pub name: String,
    /// Destinations, sorted.
    pub tuples: Vec<Tuple>,
    /// Everything a connection may end at; a drop must hold for all. Empty: not judged.
    pub receivers: Vec<Receiver>,
}

impl Listener {
    /// Whether some of what may receive there certainly, or perhaps, applies no policies: then nothing is refused.
    #[must_use]
    pub fn without_rbac(&self) -> bool {
        let mut chains = self.receivers.iter().flat_map(|receiver| &receiver.chains);
        chains.any(|chain| matches!(chain.kind, ChainKind::NoRbac | ChainKind::NoListener))
    }
}

/// Why a gateway, or some of it, is not enforced. The code is public.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Why {
    /// Kebab-case code.
    pub code: &'static str,
    /// A sentence with the fix.
    pub text: String,
}

/// A gateway on this node, ready to be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Namespace of the Service (or of the pod, where there is no Service).
    pub namespace: String,
    /// Name of the Service (or of the pod's owner).
    pub name: String,
    /// Where the judged client address comes from.
    pub client_address: ClientAddress,
    /// Pods that policies cannot tell apart.
    pub workloads: Vec<Workload>,
    /// What is reached by which destination.
    pub listeners: Vec<Listener>,
    /// Destinations of this gateway that are *not* judged because the node's view is not the gateway's
    /// (`externalTrafficPolicy: Cluster`). The planner must know them: after Cluster→Local, SNATed connections live on.
    pub rewritten: Vec<TupleKey>,
    /// Sources that are never dropped.
    pub never_drop: Vec<IpNet>,
    /// Peers whose PROXY headers are expected (`gwfilter.io/trusted-proxies`); `None`: not stated.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Whether default-deny may be enforced: the sources of health probes are known, or the user vouches for them.
    pub probe_sources_known: bool,
    /// `Some` if the gateway is not enforced at all (client address unknown, unreadable annotation, …): not compiled to tables.
    pub not_enforced: Option<Why>,
    /// `Some` if it is judged and counted only (`gwfilter.io/enforce: "false"`).
    pub observe: Option<Why>,
    /// `drainDuration` of its Envoys: for how long they let connections live that a change does not let in any more.
    pub drain: Drain,
    /// Remarks on what is left out (Cluster policy, no local endpoint, …).
    pub remarks: Vec<Why>,
}

impl Gateway {
    /// `ns/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A three-valued truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tri {
    /// Certainly.
    True,
    /// Certainly not.
    False,
    /// Not known at the node.
    Unknown,
}

/// What is known of the mesh as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Root namespace; `None` where it may not be read: every policy outside a gateway's namespace is then "maybe".
    pub root_namespace: Option<String>,
    /// `discoverySelectors` are set and cannot be evaluated: every policy is then "maybe".
    pub discovery_selectors: bool,
    /// Revision of the istiod that serves the gateways, where there is certainly only one: `Some("")` is the default one.
    pub istiod_revision: Option<String>,
    /// istiod's `ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY`.
    pub selector_based_gateway_policy: Tri,
    /// Whether some RequestAuthentication (or a WasmPlugin/EnvoyFilter that may write its metadata) may attach to a gateway: `False` only where that is certain.
    pub request_authentication: Tri,
    /// Some input could not be read at all, so an object may be missing by which Envoy takes the client address from elsewhere
    /// than the packet: what compares it (not the peer's) is then not known.
    pub unread: bool,
}
