//! Which kinds of filter chain may serve a port of a gateway pod.
//!
//! Everything that may be there is collected, not what wins: of servers that compete for a port Istio takes some and
//! leaves others, by rules that changed between releases. A drop must hold on every chain named here, so one too many
//! costs precision and one too few would cost soundness.
//!
//! Envoy listens only where a server tells it to. What else answers at a port of a pod, or of a node, applies no policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::candidate::{Candidate, Member, may_match};
use super::model::{Chain, ChainKind, ChainTls, Protocol, Workload};
use super::world::World;
use crate::object::Kind;
use crate::object::istio_gateway::Server;
use crate::object::kubernetes_gateway::{GATEWAY_NAME_LABEL, KubernetesGateway, KubernetesListener};
use crate::object::meta::{Meta, subset};
use crate::object::pod::{Container, ContainerPort, EnvValue, PROXY, PodSpec};
use crate::object::service::{Service, TargetPort};

/// Ports that by Istio's conventions carry traffic without RBAC, where no Gateway object says otherwise: the
/// AUTO_PASSTHROUGH port of east-west gateways, and HBONE.
const CONVENTIONAL_NO_RBAC: [u16; 2] = [15443, 15008];

/// Variables of the proxy's container that move its own ports.
const OWN_PORTS: [&str; 2] = ["ENVOY_STATUS_PORT", "ENVOY_PROMETHEUS_PORT"];

const UNKNOWN: Chain = Chain {
    kind: ChainKind::Unknown,
    tls: ChainTls::Unknown,
};
const NO_RBAC: Chain = Chain {
    kind: ChainKind::NoRbac,
    tls: ChainTls::Unknown,
};
pub(super) const NO_LISTENER: Chain = Chain {
    kind: ChainKind::NoListener,
    tls: ChainTls::Unknown,
};

/// What is behind a port of a gateway's pods.
pub(super) struct Served {
    /// The chains that may serve it. Never empty.
    pub(super) chains: Vec<Chain>,
    /// Why it is not certain that Envoy listens there at all; `chains` say it too.
    pub(super) nobody: Option<Nobody>,
    /// At which addresses it listens.
    pub(super) bind: Bind,
}

/// The addresses at which Envoy listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Bind {
    /// All there are.
    #[default]
    All,
    /// This one; one that is not specified is all of its family.
    At(IpAddr),
    /// What the servers say cannot be read, or they differ.
    Unclear(BTreeSet<String>),
}

impl Bind {
    /// By what the servers of a port say.
    fn of(stated: &BTreeSet<Option<&str>>) -> Self {
        let mut all = stated.iter();
        match (all.next(), all.next()) {
            (None | Some(None), None) => Self::All,
            (Some(Some(text)), None) if let Ok(addr) = text.parse() => Self::At(addr),
            _ => Self::Unclear(
                stated
                    .iter()
                    .map(|s| s.unwrap_or("every address").to_owned())
                    .collect(),
            ),
        }
    }

    /// Whether it certainly listens at an address of its pod or node.
    pub(super) fn covers(&self, addr: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::At(bound) if bound.is_unspecified() => bound.is_ipv4() == addr.is_ipv4(),
            Self::At(bound) => *bound == addr,
            Self::Unclear(_) => false,
        }
    }
}

/// Why it is not certain that Envoy has a listener at a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nobody {
    /// No server names it.
    NoServer,
    /// A server names it, and istiod may not make a listener of it there.
    Doubtful,
    /// Another container of the pod declares it.
    Container(String),
    /// Envoy's own port for its status or its figures, by this variable.
    Own(&'static str),
}

impl Served {
    fn by(chains: Vec<Chain>) -> Self {
        Self {
            chains,
            nobody: None,
            bind: Bind::All,
        }
    }

    fn nobody(mut chains: Vec<Chain>, nobody: Nobody) -> Self {
        chains.push(NO_LISTENER);
        Self {
            chains,
            nobody: Some(nobody),
            bind: Bind::All,
        }
    }
}

/// What serves `port` in the pods of `member`.
pub(super) fn find(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    workload: &Workload,
    member: &Member<'_>,
    port: u16,
    protocol: Protocol,
) -> Served {
    if protocol == Protocol::Udp {
        return Served::by(vec![UNKNOWN]);
    }
    if let Some(nobody) = in_pod(member, port) {
        return Served::nobody(Vec::new(), nobody);
    }
    let services = services(world, candidate, workload);
    // A server's number is that of a Service port, which leads to the listener; or the listener's own.
    let mut numbers: BTreeSet<u16> = BTreeSet::from([port]);
    for service in &services {
        let tcp = service.ports.iter().filter(|p| p.protocol == Protocol::Tcp);
        let leading = tcp.filter(|p| lead(&p.target, member).is_some_and(|lead| lead.may_be(port)));
        numbers.extend(leading.map(|p| p.port));
    }
    let gives = |meta: &Meta| world.reading.gives(world.snapshot, meta, workload);
    let privileged = port < 1024 && unprivileged(member);
    let opens = |number: u16, itself: bool| !privileged && opens(&services, member, number, port, itself);

    let mut chains: BTreeSet<Chain> = BTreeSet::new();
    let mut binds: BTreeSet<Option<&str>> = BTreeSet::new();
    // Whether Envoy certainly listens there, and whether any Gateway certainly is for these pods.
    let (mut sure, mut selected) = (false, false);
    for gateway in &world.snapshot.istio_gateways {
        if may_match(&gateway.selector, workload) {
            selected |= subset(&gateway.selector, &workload.labels);
            let servers = gateway.servers.iter().filter(|s| numbers.contains(&s.number));
            for server in servers {
                chains.insert(of_server(server));
                binds.insert(server.bind.as_deref());
                sure |= opens(server.number, true) && gives(&gateway.meta);
            }
        }
    }
    for gateway in &world.snapshot.kubernetes_gateways {
        if serves(gateway, workload, &services) {
            selected |= workload.labels_complete || workload.labels.contains_key(GATEWAY_NAME_LABEL);
            let listeners = gateway.listeners.iter().filter(|l| numbers.contains(&l.port));
            for listener in listeners {
                let Some(chain) = of_listener(gateway, listener) else {
                    continue;
                };
                chains.insert(chain);
                binds.insert(None);
                // Its number is always a Service port's.
                sure |= opens(listener.port, false) && gives(&gateway.meta);
            }
            if gateway.more_listeners {
                chains.insert(UNKNOWN);
                sure = true;
            }
        }
    }
    // Users check policies without the Gateways, too.
    let all_known = if world.settings.from_files {
        selected
    } else {
        !world.misses(Kind::IstioGateway) && !world.misses(Kind::KubernetesGateway)
    };
    match (chains.is_empty(), sure) {
        (false, true) => Served {
            bind: Bind::of(&binds),
            ..Served::by(chains.into_iter().collect())
        },
        (false, false) => Served::nobody(chains.into_iter().collect(), Nobody::Doubtful),
        (true, _) if CONVENTIONAL_NO_RBAC.contains(&port) => Served::by(vec![NO_RBAC]),
        (true, _) if all_known => Served::nobody(Vec::new(), Nobody::NoServer),
        (true, _) => Served::by(vec![UNKNOWN]),
    }
}

/// What the pod itself says against Envoy's having a listener at a port.
fn in_pod(member: &Member<'_>, port: u16) -> Option<Nobody> {
    let spec = member.spec?;
    let declares = |container: &Container| {
        let tcp = |p: &ContainerPort| p.container_port == port && p.protocol == Protocol::Tcp;
        container.ports.iter().any(tcp)
    };
    let proxy = spec.proxy();
    let states = |name: &str| {
        let value = proxy.and_then(|proxy| proxy.env.get(name));
        matches!(value, Some(EnvValue::Literal(value)) if value.parse() == Ok(port))
    };
    let own = OWN_PORTS.into_iter().find(|name| states(name));
    if let Some(name) = own {
        return Some(Nobody::Own(name));
    }
    if proxy.is_some_and(declares) {
        return None;
    }
    let all = spec.containers.iter().chain(&spec.sidecars);
    let mut others = all.filter(|container| container.name != PROXY);
    others
        .find(|container| declares(container))
        .map(|container| Nobody::Container(container.name.clone()))
}

/// Whether Istio takes the pod for one that may not listen below 1024, or may do so.
fn unprivileged(member: &Member<'_>) -> bool {
    let env = member.spec.and_then(PodSpec::proxy).map(|proxy| &proxy.env);
    env.and_then(|env| env.get("ISTIO_META_UNPRIVILEGED_POD"))
        .is_some_and(|value| *value != EnvValue::Literal(String::new()))
}

/// Whether a server of this number certainly has its listener at `port`: where the Services of the pods lead the number, all of
/// them there; or where none has it, at the number itself.
fn opens(services: &[&Service], member: &Member<'_>, number: u16, port: u16, itself: bool) -> bool {
    let ports = services.iter().flat_map(|service| &service.ports);
    let named = ports.filter(|p| p.protocol == Protocol::Tcp && p.port == number);
    let mut leads = named.filter_map(|p| lead(&p.target, member)).peekable();
    if leads.peek().is_none() {
        return itself && number == port;
    }
    leads.all(|lead| lead.may_be(port))
}

/// The Services whose ports may translate a server's number for these pods.
fn services<'a>(world: &World<'a>, candidate: &Candidate<'a>, workload: &Workload) -> Vec<&'a Service> {
    let selecting = world.snapshot.services.iter().filter(|service| {
        service.meta.namespace == workload.namespace
            && !service.selector.is_empty()
            && may_match(&service.selector, workload)
    });
    let mut services: Vec<&Service> = selecting.collect();
    if let Some(own) = candidate.service
        && !services.iter().any(|s| s.meta.name == own.meta.name)
    {
        services.push(own);
    }
    services
}

/// Where a Service port leads in a pod.
enum Lead {
    Port(u16),
    /// A name that cannot be resolved.
    Unknown,
}

impl Lead {
    fn may_be(&self, port: u16) -> bool {
        match self {
            Self::Port(number) => *number == port,
            Self::Unknown => true,
        }
    }
}

/// `None`: nowhere, as the pod has no port of that name.
fn lead(target: &TargetPort, member: &Member<'_>) -> Option<Lead> {
    match (target, member.spec) {
        (TargetPort::Number(number), _) => Some(Lead::Port(*number)),
        (TargetPort::Name(name), Some(spec)) => spec.named_port(name, Protocol::Tcp).map(Lead::Port),
        (TargetPort::Name(_), None) => Some(Lead::Unknown),
    }
}

/// A server of an Istio Gateway, by `pilot/pkg/networking/core/gateway.go` and `pkg/config/protocol/instance.go`.
fn of_server(server: &Server) -> Chain {
    let tls = server.tls.as_deref();
    if tls == Some("AUTO_PASSTHROUGH") {
        return NO_RBAC;
    }
    let terminated = match tls {
        None => ChainTls::Plain,
        Some("SIMPLE") => ChainTls::Simple,
        Some(_) => ChainTls::Unknown,
    };
    match (server.protocol.as_str(), tls) {
        // A `tls` block on one of these terminates nothing.
        ("HTTP" | "HTTP2" | "HTTP_PROXY" | "GRPC" | "GRPC-WEB", _) => Chain {
            kind: ChainKind::Http,
            tls: ChainTls::Plain,
        },
        ("HTTPS", Some("PASSTHROUGH")) => Chain {
            kind: ChainKind::Tcp,
            tls: ChainTls::Unknown,
        },
        ("HTTPS", Some(_)) => Chain {
            kind: ChainKind::Http,
            tls: terminated,
        },
        ("TLS", None) => Chain {
            kind: ChainKind::Tcp,
            tls: ChainTls::Unknown,
        },
        ("TCP" | "TLS" | "MONGO" | "REDIS" | "MYSQL", _) => Chain {
            kind: ChainKind::Tcp,
            tls: terminated,
        },
        ("HBONE" | "DOUBLE-HBONE", _) => NO_RBAC,
        _ => UNKNOWN,
    }
}

/// A listener of a Gateway API Gateway, as Istio reads it; `None` for UDP.
fn of_listener(gateway: &KubernetesGateway, listener: &KubernetesListener) -> Option<Chain> {
    // Another controller's class: what makes the chains is not known.
    if !gateway.class.starts_with("istio") {
        return Some(UNKNOWN);
    }
    let terminated = if listener.special_tls {
        ChainTls::Unknown
    } else {
        ChainTls::Simple
    };
    let passthrough = match listener.tls_mode.as_deref() {
        None | Some("TERMINATE") => Some(false),
        Some("PASSTHROUGH") => Some(true),
        Some(_) => None,
    };
    Some(match (listener.protocol.as_str(), passthrough) {
        ("HTTP", _) => Chain {
            kind: ChainKind::Http,
            tls: ChainTls::Plain,
        },
        ("HTTPS", Some(false)) => Chain {
            kind: ChainKind::Http,
            tls: terminated,
        },
        ("TLS", Some(false)) => Chain {
            kind: ChainKind::Tcp,
            tls: terminated,
        },
        ("HTTPS" | "TLS", Some(true)) => {
            // An option may turn passthrough into AUTO_PASSTHROUGH, as on east-west gateways.
            if listener.special_tls {
                NO_RBAC
            } else {
                Chain {
                    kind: ChainKind::Tcp,
                    tls: ChainTls::Unknown,
                }
            }
        }
        ("TCP", _) => Chain {
            kind: ChainKind::Tcp,
            tls: ChainTls::Plain,
        },
        ("HBONE", _) => NO_RBAC,
        ("UDP", _) => return None,
        _ => UNKNOWN,
    })
}

/// Whether a Gateway API Gateway may configure these pods: by the label that Istio gives its pods, or by an address
/// that names a Service of them.
fn serves(gateway: &KubernetesGateway, workload: &Workload, services: &[&Service]) -> bool {
    let labelled = gateway.meta.namespace == workload.namespace
        && match workload.labels.get(GATEWAY_NAME_LABEL) {
            Some(name) => *name == gateway.meta.name,
            None => !workload.labels_complete,
        };
    labelled
        || gateway.services.iter().any(|host| {
            let mut parts = host.split('.');
            let name = parts.next().unwrap_or_default();
            let namespace = parts.next().unwrap_or(&gateway.meta.namespace);
            services
                .iter()
                .any(|s| s.meta.name == name && s.meta.namespace == namespace)
        })
}

/// The numbers of all servers that Gateways give to pods on the host's network, which listen on them as written.
pub(super) fn server_ports(world: &World<'_>, workload: &Workload) -> BTreeSet<u16> {
    let istio = world
        .snapshot
        .istio_gateways
        .iter()
        .filter(|g| may_match(&g.selector, workload))
        .flat_map(|g| g.servers.iter().map(|s| s.number));
    let kubernetes = world
        .snapshot
        .kubernetes_gateways
        .iter()
        .filter(|g| serves(g, workload, &[]))
        .flat_map(|g| g.listeners.iter().map(|l| l.port));
    istio.chain(kubernetes).collect()
}
