//! Which packets are for a gateway, and who receives them: `reference` is the datapath from a node's card to Envoy.
//!
//! Judged are load-balancer and external addresses and nodePorts where the Service keeps the client's address
//! (`externalTrafficPolicy: Local`), and always pod addresses and host ports, since nothing is rewritten on the way to
//! them. Cluster addresses never: what comes from outside the cluster is rewritten there.
//!
//! A PROXY header survives what rewrites addresses: where that names the client, load-balancer and external addresses and nodePorts are
//! judged under either policy and wherever the pods are, only that under Cluster the gateway's peer is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::candidate::{Candidate, Member};
use super::chains::{self, Nobody};
use super::model::{Chain, Listener, POD_ORIGIN, Protocol, Receiver, Tuple, TupleKey, Why};
use super::remark;
use super::world::World;
use crate::object::service::{Service, ServicePort, TargetPort};

/// Istio's status and metrics ports, which have no RBAC, and kube-proxy's health port.
const NEVER: [u16; 4] = [15020, 15021, 15090, 10256];

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) listeners: Vec<Listener>,
    pub(super) rewritten: Vec<TupleKey>,
    pub(super) remarks: Vec<Why>,
}

/// Workloads and ports.
type Receivers = BTreeSet<(usize, u16)>;

/// Whether a PROXY header names the client, and what is certain then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Header {
    /// None: the packet's source is the client.
    #[default]
    None,
    /// The gateway's pods here read it; what those on other nodes do is not known.
    Here,
    /// All its pods read it.
    Everywhere,
}

/// One destination on its way to becoming a tuple.
struct Claim {
    origin: &'static str,
    node_address: bool,
    peer_known: bool,
    receivers: Receivers,
    /// Name of the listener, and what to add where that is taken.
    label: String,
    hint: String,
}

#[derive(Default)]
struct Builder {
    claims: BTreeMap<TupleKey, Claim>,
    rewritten: BTreeSet<TupleKey>,
    remarks: Vec<Why>,
    chains: BTreeMap<(usize, u16, Protocol), BTreeSet<Chain>>,
    addresses: BTreeMap<(usize, u16, Protocol), Option<BTreeSet<IpAddr>>>,
    /// Ports behind which Envoy may have no listener, as they are told.
    nobody: BTreeMap<Nobody, BTreeSet<String>>,
    node_addresses: BTreeSet<IpAddr>,
    header: Header,
}

/// All tuples of a candidate on this node.
pub(super) fn find(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    others: &BTreeSet<TupleKey>,
    header: Header,
) -> Found {
    let mut builder = Builder {
        header,
        node_addresses: world.node_addresses(candidate),
        ..Builder::default()
    };
    match candidate.service {
        Some(service) => {
            for port in &service.ports {
                builder.service_port(world, candidate, service, port);
            }
        }
        None => builder.host_ports(world, candidate),
    }
    builder.finish(world, others)
}

/// Destinations of Services that are no gateways. kube-proxy takes their packets wherever they meet a host port.
pub(super) fn of_others<'a>(
    services: impl Iterator<Item = &'a Service>,
    node_addresses: &BTreeSet<IpAddr>,
) -> BTreeSet<TupleKey> {
    let mut keys = BTreeSet::new();
    for service in services.filter(|s| !s.external_name) {
        for port in &service.ports {
            keys.extend(
                front(service, port, node_addresses)
                    .into_iter()
                    .map(|(key, _)| key),
            );
        }
    }
    keys
}

/// The destinations that kube-proxy takes for a Service port, with their origin.
fn front(
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

impl Builder {
    fn claim(
        &mut self,
        key: TupleKey,
        origin: &'static str,
        receiver: (usize, u16),
        label: &str,
        hint: &str,
    ) {
        let node_address = self.node_addresses.contains(&key.addr);
        // kube-proxy comes before anything else that has the same destination.
        let peer_known = !self.rewritten.contains(&key);
        let claim = self.claims.entry(key).or_insert_with(|| Claim {
            origin,
            node_address,
            peer_known,
            receivers: Receivers::new(),
            label: label.to_owned(),
            hint: hint.to_owned(),
        });
        claim.receivers.insert(receiver);
    }

    /// Notes what is behind a port of a member.
    fn receiver(
        &mut self,
        world: &World<'_>,
        candidate: &Candidate<'_>,
        member: &Member<'_>,
        (port, protocol): (u16, Protocol),
        label: &str,
    ) {
        let key = (member.workload, port, protocol);
        if let Some(workload) = candidate.workloads.get(member.workload) {
            let served = chains::find(world, candidate, workload, member, port, protocol);
            self.chains.entry(key).or_default().extend(served.chains);
            if let Some(nobody) = served.nobody {
                let number = port.to_string();
                let told = if label == number {
                    number
                } else {
                    format!("{label} ({number} of its pods)")
                };
                self.nobody.entry(nobody).or_default().insert(told);
            }
        }
        let mut own = member.addresses.clone();
        if member.spec.is_some_and(|spec| spec.host_network)
            && let Some(own) = &mut own
        {
            own.extend(&self.node_addresses);
        }
        let all = self.addresses.entry(key).or_insert_with(|| Some(BTreeSet::new()));
        match (&mut *all, own) {
            (Some(all), Some(own)) if !own.is_empty() => all.extend(own),
            _ => *all = None,
        }
    }

    fn service_port(
        &mut self,
        world: &World<'_>,
        candidate: &Candidate<'_>,
        service: &Service,
        port: &ServicePort,
    ) {
        if NEVER.contains(&port.port) {
            return;
        }
        let label = port.label();
        let mut receivers: Vec<(&Member<'_>, u16)> = Vec::new();
        let mut nameless = None;
        for member in &candidate.members {
            match resolve(port, member) {
                Resolved::Port(target) => receivers.push((member, target)),
                // A pod without a port of that name is no endpoint of this Service port.
                Resolved::Absent => {
                    nameless = nameless.or(member.pod.filter(|_| member.local && member.receives))
                }
                Resolved::Unknown => {
                    let text = format!(
                        "port {label} leads to a port that each pod names for itself, and no pod is known: put the \
                         Pods or their Deployment among the manifests, or write the number as targetPort"
                    );
                    self.remarks.push(Why {
                        code: "named-target-port",
                        text,
                    });
                    if !service.local_policy {
                        // What is rewritten now must be known later, when the port is.
                        self.front_tuples(candidate, service, port, &[]);
                    }
                    return;
                }
            }
        }
        let mut nobody_here = false;
        if let (Some(pod), TargetPort::Name(name), false) =
            (nameless, &port.target, receivers.iter().any(|(m, _)| m.local))
        {
            let text = format!(
                "port {label} leads to the port named {name} of each pod, and no container of Pod {} has a port of that name and \
                 protocol: the pod receives nothing there, and nothing is judged; either: give the container's port that name; \
                 or: write the number as targetPort",
                pod.meta.name
            );
            self.remarks.push(Why {
                code: "named-target-port",
                text,
            });
            nobody_here = true;
        }
        // A port that leads to Istio's own listeners, in whichever pod, has no RBAC.
        if receivers.iter().any(|(_, target)| NEVER.contains(target)) {
            return;
        }
        for (member, target) in &receivers {
            if member.local || self.header != Header::None {
                self.receiver(world, candidate, member, (*target, port.protocol), &label);
            }
        }
        // Under Local it would only say that no pod is ready; under Cluster, what is rewritten has to be known.
        if !(nobody_here && service.local_policy) {
            self.front_tuples(candidate, service, port, &receivers);
        }
        for (member, target) in receivers {
            if member.local {
                self.direct_tuples(member, target, port.protocol, &label);
            }
        }
    }

    /// Load-balancer and external addresses and nodePorts.
    fn front_tuples(
        &mut self,
        candidate: &Candidate<'_>,
        service: &Service,
        port: &ServicePort,
        receivers: &[(&Member<'_>, u16)],
    ) {
        let label = port.label();
        let front = front(service, port, &self.node_addresses);
        if !service.local_policy && self.header == Header::Everywhere {
            self.rewritten.extend(front.iter().map(|(key, _)| *key));
        } else if !service.local_policy {
            if !front.is_empty() && self.header == Header::Here {
                self.rewritten.extend(front.into_iter().map(|(key, _)| key));
                let (namespace, name) = (&service.meta.namespace, &service.meta.name);
                let text = format!(
                    "with externalTrafficPolicy Cluster any pod of the Service may receive what comes by load-balancer, external and \
                     node addresses, and whether those on other nodes read the PROXY header is not known here: it is left to the \
                     gateway. State it: kubectl -n {namespace} annotate service {name} gwfilter.io/client-address=proxy-header"
                );
                self.remarks.push(Why {
                    code: "proxy-header-elsewhere",
                    text,
                });
            } else if !front.is_empty() {
                self.rewritten.extend(front.into_iter().map(|(key, _)| key));
                let (namespace, name) = (&service.meta.namespace, &service.meta.name);
                let text = format!(
                    "with externalTrafficPolicy Cluster this node sees the client's address and the gateway a node's, so they \
                     do not agree on load-balancer, external and node addresses, and what comes there is left to the gateway \
                     (at pod addresses and host ports they do). To keep the client's address, with a gateway pod on every \
                     node that gets traffic: kubectl -n {namespace} patch service {name} -p \
                     '{{\"spec\":{{\"externalTrafficPolicy\":\"Local\"}}}}'"
                );
                self.remarks.push(Why {
                    code: "external-traffic-policy-cluster",
                    text,
                });
            }
            return;
        }
        // A pod that gets no new connections, as one that terminates, may have old ones: what is dropped must hold for it too.
        let all = self.header != Header::None;
        let anywhere = !service.local_policy;
        let here: Vec<_> = receivers
            .iter()
            .filter(|(member, _)| member.local || all)
            .collect();
        if !here.iter().any(|(m, _)| m.receives && (m.local || anywhere)) {
            if candidate.pods_known && !front.is_empty() && !anywhere {
                let text =
                    "no pod of it on this node is ready, so kube-proxy drops what comes by load-balancer, \
                            external and node addresses; nothing is judged there"
                        .to_owned();
                self.remarks.push(Why {
                    code: "no-local-endpoint",
                    text,
                });
            }
            return;
        }
        for (key, origin) in front {
            for (member, target) in &here {
                self.claim(key, origin, (member.workload, *target), &label, "");
            }
        }
    }

    /// Addresses of the pod itself, and host ports.
    fn direct_tuples(&mut self, member: &Member<'_>, target: u16, protocol: Protocol, label: &str) {
        let receiver = (member.workload, target);
        let host_network = member.spec.is_some_and(|spec| spec.host_network);
        let hint = member.pod.map_or("", |pod| pod.meta.name.as_str());
        let origin = if host_network { "host-network" } else { POD_ORIGIN };
        let mut addresses = member.addresses.clone().unwrap_or_default();
        if host_network {
            addresses.extend(&self.node_addresses);
        }
        for addr in addresses {
            self.claim(
                TupleKey {
                    addr,
                    port: target,
                    protocol,
                },
                origin,
                receiver,
                label,
                hint,
            );
        }
        if host_network {
            return;
        }
        let ports = member
            .spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(&spec.sidecars));
        for port in ports.flat_map(|c| &c.ports) {
            let Some(host_port) = port.host_port.filter(|_| port.container_port == target) else {
                continue;
            };
            if port.protocol != protocol {
                continue;
            }
            let addresses = port
                .host_ip
                .map_or_else(|| self.node_addresses.clone(), |ip| BTreeSet::from([ip]));
            for addr in addresses {
                self.claim(
                    TupleKey {
                        addr,
                        port: host_port,
                        protocol,
                    },
                    "host-port",
                    receiver,
                    label,
                    hint,
                );
            }
        }
    }

    /// Pods that no Service leads to: their host ports, and with the host's network, the ports of their containers and
    /// of the servers that Gateways give them.
    fn host_ports(&mut self, world: &World<'_>, candidate: &Candidate<'_>) {
        for member in candidate.members.iter().filter(|m| m.local) {
            let Some(spec) = member.spec else { continue };
            let ports = spec.proxy().into_iter().flat_map(|c| &c.ports);
            let exposed = ports.filter(|p| spec.host_network || p.host_port.is_some());
            let mut targets: BTreeSet<(u16, Protocol)> =
                exposed.map(|p| (p.container_port, p.protocol)).collect();
            if spec.host_network
                && let Some(workload) = candidate.workloads.get(member.workload)
            {
                targets.extend(
                    chains::server_ports(world, workload)
                        .into_iter()
                        .map(|p| (p, Protocol::Tcp)),
                );
            }
            for (target, protocol) in targets {
                if !NEVER.contains(&target) {
                    let label = target.to_string();
                    self.receiver(world, candidate, member, (target, protocol), &label);
                    self.direct_tuples(member, target, protocol, &label);
                }
            }
        }
    }

    fn finish(mut self, world: &World<'_>, others: &BTreeSet<TupleKey>) -> Found {
        let health: BTreeSet<u16> = world
            .snapshot
            .services
            .iter()
            .filter_map(|s| s.health_check_node_port)
            .collect();
        let is_health =
            |key: &TupleKey| health.contains(&key.port) && self.node_addresses.contains(&key.addr);
        let rewritten = &self.rewritten;
        let mut foreign = Vec::new();
        self.claims.retain(|key, _| {
            if others.contains(key) {
                foreign.push(*key);
            }
            // kube-proxy comes before a host port on the same address.
            let rewritten = rewritten.contains(key) && self.header != Header::Everywhere;
            !NEVER.contains(&key.port) && !is_health(key) && !rewritten && !others.contains(key)
        });
        let nobody = std::mem::take(&mut self.nobody);
        self.remarks.extend(
            nobody
                .into_iter()
                .map(|(why, ports)| remark::no_server(&why, &ports)),
        );
        if let Some(key) = foreign.first() {
            let text = format!("{key} also belongs to a Service that is no gateway; it is not judged");
            self.remarks.push(Why {
                code: "tuple-of-another-service",
                text,
            });
        }
        let mut groups: BTreeMap<(Receivers, Protocol), Vec<(TupleKey, Claim)>> = BTreeMap::new();
        for (key, claim) in self.claims {
            groups
                .entry((claim.receivers.clone(), key.protocol))
                .or_default()
                .push((key, claim));
        }
        // Tuples of the Service first, so that they get the plain name.
        let mut ordered: Vec<_> = groups.into_iter().collect();
        ordered.sort_by_key(|(_, tuples)| tuples.iter().all(|(_, claim)| !claim.hint.is_empty()));
        let mut names = BTreeSet::new();
        let mut listeners = Vec::new();
        for ((receivers, protocol), tuples) in ordered {
            let Some((_, first)) = tuples.iter().find(|(_, c)| c.hint.is_empty()).or(tuples.first()) else {
                continue;
            };
            let name = unique(&mut names, &first.label, &tuples);
            let receivers = receivers
                .into_iter()
                .map(|(workload, port)| {
                    let key = (workload, port, protocol);
                    let addresses = self.addresses.get(&key).cloned().flatten();
                    let chains = self.chains.get(&key).into_iter().flatten().copied().collect();
                    Receiver {
                        workload,
                        port,
                        addresses: addresses.map(Vec::from_iter),
                        chains,
                    }
                })
                .collect();
            let tuples = tuples
                .into_iter()
                .map(|(key, claim)| Tuple {
                    key,
                    origin: claim.origin,
                    node_address: claim.node_address,
                    peer_known: claim.peer_known && !self.rewritten.contains(&key),
                })
                .collect();
            listeners.push(Listener {
                name,
                tuples,
                receivers,
            });
        }
        listeners.sort();
        if listeners.is_empty() && self.rewritten.is_empty() && self.remarks.is_empty() {
            let text = "no address is known by which it is reached on this node, so nothing is judged: a Service has \
                        its load-balancer addresses in its status; Pods and Nodes among the objects add theirs"
                .to_owned();
            self.remarks.push(Why {
                code: "no-tuples",
                text,
            });
        }
        self.remarks.sort();
        self.remarks.dedup();
        Found {
            listeners,
            rewritten: self.rewritten.into_iter().collect(),
            remarks: self.remarks,
        }
    }
}

/// The label, or where another listener has it, the label and the first pod's name, or a number.
fn unique(names: &mut BTreeSet<String>, label: &str, tuples: &[(TupleKey, Claim)]) -> String {
    let hint = tuples
        .iter()
        .map(|(_, claim)| claim.hint.as_str())
        .min()
        .unwrap_or_default();
    let candidates = [label.to_owned(), format!("{label}@{hint}")];
    let numbered = (2..).map(|n: usize| format!("{label}#{n}"));
    let name = candidates
        .into_iter()
        .chain(numbered)
        .find(|name| !names.contains(name))
        .unwrap_or_default();
    names.insert(name.clone());
    name
}

enum Resolved {
    Port(u16),
    Absent,
    Unknown,
}

fn resolve(port: &ServicePort, member: &Member<'_>) -> Resolved {
    if let Some((slice, _)) = member.endpoint {
        let found = slice
            .ports
            .iter()
            .find(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
        return found.map_or(Resolved::Absent, |(_, _, number)| Resolved::Port(*number));
    }
    match (&port.target, member.spec) {
        (TargetPort::Number(number), _) => Resolved::Port(*number),
        (TargetPort::Name(name), Some(spec)) => spec
            .named_port(name, port.protocol)
            .map_or(Resolved::Absent, Resolved::Port),
        (TargetPort::Name(_), None) => Resolved::Unknown,
    }
}
