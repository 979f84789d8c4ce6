//! Which destinations kube-proxy takes for a Service, and which are, or may be, somebody else's than a gateway's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use super::candidate::Candidate;
use super::model::TupleKey;
use super::world::World;
use crate::object::meta::Meta;
use crate::object::pod::Pod;
use crate::object::service::{Service, ServicePort};

/// Who has a destination that is not judged.
#[derive(Clone, Copy)]
pub(super) enum Whose<'a> {
    /// A Service that is no gateway.
    Stranger(&'a Service),
    /// A Service that another proxy than kube-proxy serves.
    OtherProxy(&'a Service),
    /// A Service whose load balancer passes connections on itself, from an address that may be on this node.
    Balancer(&'a Service),
    /// A pod with such a host port.
    HostPort(&'a Pod),
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |meta: &Meta| format!("{}/{}", meta.namespace, meta.name);
        match self {
            Self::Stranger(s) => write!(f, "Service {}, which is no gateway of this node", name(&s.meta)),
            Self::OtherProxy(s) => write!(
                f,
                "Service {}, which another proxy than kube-proxy serves ({PROXY_NAME_LABEL})",
                name(&s.meta)
            ),
            Self::Balancer(s) => write!(
                f,
                "the load balancer of Service {}, which passes connections on itself (ipMode)",
                name(&s.meta)
            ),
            Self::HostPort(p) => write!(f, "Pod {}, as a host port", name(&p.meta)),
        }
    }
}

/// What belongs to others than the gateways of this node: asked for each gateway, and found once for each set of addresses that a node may have.
pub(super) struct Pool<'a> {
    /// Services that are no gateways here.
    strangers: Vec<&'a Service>,
    /// Services that are.
    gateways: Vec<&'a Service>,
    known: BTreeMap<BTreeSet<IpAddr>, Rc<Destinations<'a>>>,
}

type Destinations<'a> = BTreeMap<TupleKey, Whose<'a>>;

impl<'a> Pool<'a> {
    pub(super) fn of(world: &World<'a>, gateways: &[Candidate<'a>]) -> Self {
        let with_service = gateways.iter().filter(|c| c.service.is_some());
        let ours: BTreeSet<(&str, &str)> = with_service.map(|c| (c.namespace, c.name.as_str())).collect();
        let is_ours = |s: &&Service| ours.contains(&(s.meta.namespace.as_str(), s.meta.name.as_str()));
        let services = world.snapshot.services.iter().filter(|s| !s.external_name);
        let (gateways, strangers) = services.partition(is_ours);
        Self {
            strangers,
            gateways,
            known: BTreeMap::new(),
        }
    }

    /// What others than this candidate have.
    pub(super) fn without(&mut self, world: &World<'a>, candidate: &Candidate<'a>) -> Others<'a> {
        let nodes = world.node_addresses(candidate);
        let own = |pod: &&Pod| candidate.pods.iter().any(|own| own.meta.is(&pod.meta));
        let here = world
            .snapshot
            .pods
            .iter()
            .filter(|pod| pod.is_alive() && world.is_local(pod.node.as_deref()) && !own(pod));
        let mut others = Others::default();
        for pod in here {
            others.pod(pod, &nodes);
        }
        let (strangers, gateways) = (&self.strangers, &self.gateways);
        let known = self.known.entry(nodes);
        others.services = Rc::clone(known.or_insert_with_key(|nodes| {
            let mut found = Destinations::new();
            // kube-proxy takes their packets wherever they meet something else.
            for service in strangers {
                let taken = taken(service, nodes).into_iter();
                found.extend(taken.map(|key| (key, Whose::Stranger(service))));
            }
            // What it leaves alone may be another's, also where the Service is a gateway.
            for service in strangers.iter().chain(gateways) {
                for left in service
                    .ports
                    .iter()
                    .filter_map(|port| left_alone(service, port, nodes))
                {
                    let whose = match left.why {
                        Alone::Headless => continue,
                        Alone::OtherProxy => Whose::OtherProxy(service),
                        Alone::Balancer => Whose::Balancer(service),
                    };
                    found.extend(left.keys.into_iter().map(|key| (key, whose)));
                }
            }
            Rc::new(found)
        }));
        others
    }
}

/// The destinations that kube-proxy takes for a Service.
pub(super) fn taken(service: &Service, node_addresses: &BTreeSet<IpAddr>) -> BTreeSet<TupleKey> {
    let ports = service.ports.iter();
    let keys = ports.flat_map(|port| front(service, port, node_addresses));
    keys.map(|(key, _)| key).collect()
}

/// Destinations and addresses on a node that belong to others than a gateway.
#[derive(Default)]
pub(super) struct Others<'a> {
    services: Rc<Destinations<'a>>,
    host_ports: Destinations<'a>,
    /// Addresses of other pods.
    pub(super) pods: BTreeMap<IpAddr, &'a Pod>,
}

impl<'a> Others<'a> {
    /// Who has a destination.
    pub(super) fn of(&self, key: &TupleKey) -> Option<Whose<'a>> {
        self.services
            .get(key)
            .or_else(|| self.host_ports.get(key))
            .copied()
    }

    fn pod(&mut self, pod: &'a Pod, nodes: &BTreeSet<IpAddr>) {
        if !pod.spec.host_network {
            self.pods.extend(pod.ips.iter().map(|addr| (*addr, pod)));
        }
        let containers = pod.spec.containers.iter().chain(&pod.spec.sidecars);
        for port in containers.flat_map(|container| &container.ports) {
            let Some(host_port) = port.host_port else {
                continue;
            };
            let addresses = port
                .host_ip
                .map_or_else(|| nodes.clone(), |ip| BTreeSet::from([ip]));
            self.host_ports.extend(addresses.into_iter().map(|addr| {
                let key = TupleKey {
                    addr,
                    port: host_port,
                    protocol: port.protocol,
                };
                (key, Whose::HostPort(pod))
            }));
        }
    }
}

/// Label on a Service that kube-proxy leaves to another proxy.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Why kube-proxy leaves destinations alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alone {
    /// The Service is headless: nobody takes them.
    Headless,
    /// The Service is for another proxy.
    OtherProxy,
    /// The load balancer passes connections on itself.
    Balancer,
}

/// Destinations of a Service port that kube-proxy leaves alone.
pub(super) struct LeftAlone {
    pub(super) why: Alone,
    pub(super) keys: Vec<TupleKey>,
}

/// Whether kube-proxy leaves a whole Service alone (`ShouldSkipService`, and its informers' selector).
fn skipped(service: &Service) -> Option<Alone> {
    if service.headless {
        Some(Alone::Headless)
    } else if service.meta.labels.contains_key(PROXY_NAME_LABEL) {
        Some(Alone::OtherProxy)
    } else {
        None
    }
}

/// The destinations that kube-proxy takes for a Service port, with their origin.
pub(super) fn front(
    service: &Service,
    port: &ServicePort,
    node_addresses: &BTreeSet<IpAddr>,
) -> Vec<(TupleKey, &'static str)> {
    if skipped(service).is_some() {
        return Vec::new();
    }
    told(service, port, node_addresses)
}

/// Those that it leaves alone, if there are any.
pub(super) fn left_alone(
    service: &Service,
    port: &ServicePort,
    node_addresses: &BTreeSet<IpAddr>,
) -> Option<LeftAlone> {
    let balanced = service.passed_on.iter().map(|addr| TupleKey {
        addr: *addr,
        port: port.port,
        protocol: port.protocol,
    });
    let left = match skipped(service) {
        None => LeftAlone {
            why: Alone::Balancer,
            keys: balanced.collect(),
        },
        Some(why) => LeftAlone {
            why,
            keys: told(service, port, node_addresses)
                .into_iter()
                .map(|(key, _)| key)
                .chain(balanced)
                .collect(),
        },
    };
    (!left.keys.is_empty()).then_some(left)
}

/// The destinations that a Service port tells.
fn told(
    service: &Service,
    port: &ServicePort,
    node_addresses: &BTreeSet<IpAddr>,
) -> Vec<(TupleKey, &'static str)> {
    let key = |addr: &IpAddr, port_number| TupleKey {
        addr: *addr,
        port: port_number,
        protocol: port.protocol,
    };
    let balancer = service
        .load_balancer
        .iter()
        .map(|addr| (key(addr, port.port), "load-balancer"));
    let external = service
        .external_ips
        .iter()
        .map(|addr| (key(addr, port.port), "external-ip"));
    let node = port.node_port.into_iter().flat_map(|node_port| {
        let of_family = node_addresses.iter().filter(|addr| service.has_family(**addr));
        of_family.map(move |addr| (key(addr, node_port), "node-port"))
    });
    balancer.chain(external).chain(node).collect()
}
