//! Which kinds of filter chain may serve a port of a gateway pod.
//!
//! Everything that may be there is collected, not what wins: of servers that compete for a port Istio takes some and
//! leaves others, by rules that changed between releases. A drop must hold on every chain named here, so one too many
//! costs precision and one too few would cost soundness.

use std::collections::BTreeSet;

use super::candidate::{Candidate, Member, may_match};
use super::model::{Chain, ChainKind, ChainTls, Protocol, Workload};
use super::world::World;
use crate::object::istio_gateway::Server;
use crate::object::kubernetes_gateway::{GATEWAY_NAME_LABEL, KubernetesGateway, KubernetesListener};
use crate::object::service::{Service, TargetPort};

/// Ports that by Istio's conventions carry traffic without RBAC, where no Gateway object says otherwise: the
/// AUTO_PASSTHROUGH port of east-west gateways, and HBONE.
const CONVENTIONAL_NO_RBAC: [u16; 2] = [15443, 15008];

const UNKNOWN: Chain = Chain {
    kind: ChainKind::Unknown,
    tls: ChainTls::Unknown,
};
const NO_RBAC: Chain = Chain {
    kind: ChainKind::NoRbac,
    tls: ChainTls::Unknown,
};

/// The chains that may serve `port` in the pods of `member`. Never empty.
pub(super) fn find(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    workload: &Workload,
    member: &Member<'_>,
    port: u16,
    protocol: Protocol,
) -> Vec<Chain> {
    if protocol == Protocol::Udp {
        return vec![UNKNOWN];
    }
    let services = services(world, candidate, workload);
    // A server's number is that of a Service port, which leads to the listener; or the listener's own.
    let mut numbers: BTreeSet<u16> = BTreeSet::from([port]);
    for service in &services {
        let tcp = service.ports.iter().filter(|p| p.protocol == Protocol::Tcp);
        numbers.extend(tcp.filter(|p| leads_to(&p.target, member, port)).map(|p| p.port));
    }

    let mut chains: BTreeSet<Chain> = BTreeSet::new();
    for gateway in &world.snapshot.istio_gateways {
        if may_match(&gateway.selector, workload) {
            let servers = gateway
                .servers
                .iter()
                .filter(|server| numbers.contains(&server.number));
            chains.extend(servers.map(of_server));
        }
    }
    for gateway in &world.snapshot.kubernetes_gateways {
        if serves(gateway, workload, &services) {
            let listeners = gateway.listeners.iter().filter(|l| numbers.contains(&l.port));
            chains.extend(listeners.filter_map(|l| of_listener(gateway, l)));
            if gateway.more_listeners {
                chains.insert(UNKNOWN);
            }
        }
    }
    if chains.is_empty() {
        let conventional = CONVENTIONAL_NO_RBAC.contains(&port);
        chains.insert(if conventional { NO_RBAC } else { UNKNOWN });
    }
    chains.into_iter().collect()
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

fn leads_to(target: &TargetPort, member: &Member<'_>, port: u16) -> bool {
    match target {
        TargetPort::Number(number) => *number == port,
        // A name that cannot be resolved may be this port.
        TargetPort::Name(name) => match member.spec {
            Some(spec) => spec.named_port(name, Protocol::Tcp) == Some(port),
            None => true,
        },
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
