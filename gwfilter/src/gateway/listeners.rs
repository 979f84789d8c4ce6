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
use super::chains::{self, Bind, Nobody};
use super::destinations::{self, Alone, Others};
use super::model::{Chain, Listener, POD_ORIGIN, Protocol, Receiver, Tuple, TupleKey, Why};
use super::remark;
use super::world::World;
use crate::object::pod::Pod;
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
    /// It may end where Envoy is not.
    unserved: bool,
    /// Name of the listener, and what to add where that is taken.
    label: String,
    hint: String,
}

struct Builder<'a> {
    others: &'a Others<'a>,
    claims: BTreeMap<TupleKey, Claim>,
    rewritten: BTreeSet<TupleKey>,
    remarks: Vec<Why>,
    chains: BTreeMap<(usize, u16, Protocol), BTreeSet<Chain>>,
    addresses: BTreeMap<(usize, u16, Protocol), Option<BTreeSet<IpAddr>>>,
    /// At which addresses Envoy listens.
    binds: BTreeMap<(usize, u16, Protocol), Bind>,
    /// Destinations that kube-proxy leaves alone.
    alone: BTreeMap<Alone, BTreeSet<TupleKey>>,
    /// Addresses of its pods that another pod has too, and which.
    shared: BTreeMap<IpAddr, &'a Pod>,
    /// Ports behind which Envoy may have no listener, as they are told.
    nobody: BTreeMap<Nobody, BTreeSet<String>>,
    node_addresses: BTreeSet<IpAddr>,
    header: Header,
}

/// All tuples of a candidate on this node.
pub(super) fn find(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    others: &Others<'_>,
    header: Header,
) -> Found {
    let mut builder = Builder {
        header,
        others,
        node_addresses: world.node_addresses(candidate),
        claims: BTreeMap::new(),
        rewritten: BTreeSet::new(),
        remarks: Vec::new(),
        chains: BTreeMap::new(),
        binds: BTreeMap::new(),
        addresses: BTreeMap::new(),
        nobody: BTreeMap::new(),
        alone: BTreeMap::new(),
        shared: BTreeMap::new(),
    };
    match candidate.service {
        Some(service) => {
            for port in &service.ports {
                builder.service_port(world, candidate, service, port);
            }
        }
        None => builder.host_ports(world, candidate),
    }
    builder.finish(world)
}

impl Builder<'_> {
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
            unserved: false,
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
            self.binds
                .entry(key)
                .and_modify(|bind| {
                    if *bind != served.bind {
                        *bind = Bind::Unclear(BTreeSet::from(["different addresses in its pods".to_owned()]));
                    }
                })
                .or_insert(served.bind);
            if let Some(nobody) = served.nobody {
                self.nobody
                    .entry(nobody)
                    .or_default()
                    .insert(remark::port(label, port));
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
        let front = destinations::front(service, port, &self.node_addresses);
        if let Some(left) = destinations::left_alone(service, port, &self.node_addresses) {
            self.alone.entry(left.why).or_default().extend(left.keys);
        }
        if !service.local_policy && self.header == Header::Everywhere {
            self.rewritten.extend(front.iter().map(|(key, _)| *key));
        } else if !service.local_policy {
            if !front.is_empty() {
                self.rewritten.extend(front.into_iter().map(|(key, _)| key));
                self.remarks.push(if self.header == Header::Here {
                    remark::header_elsewhere(service)
                } else {
                    remark::cluster_policy(service)
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
                if !self.reaches(member, (*target, port.protocol), &label, key.addr)
                    && let Some(claim) = self.claims.get_mut(&key)
                {
                    claim.unserved = true;
                }
            }
        }
    }

    /// Whether what is sent on to an address of the member, of this family, comes to its Envoy.
    fn reaches(
        &mut self,
        member: &Member<'_>,
        (target, protocol): (u16, Protocol),
        label: &str,
        family: IpAddr,
    ) -> bool {
        let of_family = |addr: &&IpAddr| addr.is_ipv4() == family.is_ipv4();
        let addresses = || member.addresses.iter().flatten().filter(of_family);
        // One that receives nothing has old connections at most, and with its address they are gone.
        if member.receives
            && let Some((addr, pod)) = addresses().find_map(|addr| self.others.pods.get_key_value(addr))
        {
            self.shared.insert(*addr, *pod);
            return false;
        }
        let bind = self.binds.get(&(member.workload, target, protocol));
        let Some(bind) = bind.filter(|bind| **bind != Bind::All) else {
            return true;
        };
        let known = member.addresses.as_ref().is_some_and(|all| !all.is_empty());
        let wild = matches!(bind, Bind::At(addr) if addr.is_unspecified() && bind.covers(family));
        let reaches = wild || (known && addresses().all(|addr| bind.covers(*addr)));
        if !reaches {
            self.remarks
                .push(remark::server_bind(&remark::port(label, target), bind));
        }
        reaches
    }

    /// Addresses of the pod itself, and host ports.
    fn direct_tuples(&mut self, member: &Member<'_>, target: u16, protocol: Protocol, label: &str) {
        // The address of one that ends may be another's in a moment.
        if member.pod.is_some_and(|pod| pod.terminating) && !member.receives {
            return;
        }
        let receiver = (member.workload, target);
        let host_network = member.spec.is_some_and(|spec| spec.host_network);
        let hint = member.pod.map_or("", |pod| pod.meta.name.as_str());
        let origin = if host_network { "host-network" } else { POD_ORIGIN };
        let mut addresses = member.addresses.clone().unwrap_or_default();
        if host_network {
            addresses.extend(&self.node_addresses);
        } else {
            let shared = addresses
                .iter()
                .filter_map(|addr| self.others.pods.get_key_value(addr));
            let shared: Vec<_> = shared.map(|(addr, pod)| (*addr, *pod)).collect();
            self.shared.extend(shared);
            addresses.retain(|addr| !self.others.pods.contains_key(addr));
        }
        if let Some(bind) = self.binds.get(&(member.workload, target, protocol)) {
            addresses.retain(|addr| bind.covers(*addr));
            if matches!(bind, Bind::Unclear(_)) {
                self.remarks
                    .push(remark::server_bind(&remark::port(label, target), bind));
            }
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
                let key = TupleKey {
                    addr,
                    port: host_port,
                    protocol,
                };
                self.claim(key, "host-port", receiver, label, hint);
                if !self.reaches(member, (target, protocol), label, addr)
                    && let Some(claim) = self.claims.get_mut(&key)
                {
                    claim.unserved = true;
                }
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

    fn finish(mut self, world: &World<'_>) -> Found {
        let health: BTreeSet<u16> = world
            .snapshot
            .services
            .iter()
            .filter_map(|s| s.health_check_node_port)
            .collect();
        let is_health =
            |key: &TupleKey| health.contains(&key.port) && self.node_addresses.contains(&key.addr);
        let rewritten = &self.rewritten;
        let others = self.others;
        let mut foreign = Vec::new();
        self.claims.retain(|key, _| {
            let whose = others.of(key);
            foreign.extend(whose.map(|whose| (*key, whose)));
            // kube-proxy comes before a host port on the same address.
            let rewritten = rewritten.contains(key) && self.header != Header::Everywhere;
            !NEVER.contains(&key.port) && !is_health(key) && !rewritten && whose.is_none()
        });
        let nobody = std::mem::take(&mut self.nobody);
        self.remarks.extend(
            nobody
                .into_iter()
                .map(|(why, ports)| remark::no_server(&why, &ports)),
        );
        self.remarks.extend(remark::of_others(&foreign));
        let shared = std::mem::take(&mut self.shared);
        self.remarks
            .extend(shared.into_iter().map(|(addr, pod)| remark::shared(addr, pod)));
        let alone = std::mem::take(&mut self.alone);
        self.remarks.extend(
            alone
                .into_iter()
                .map(|(why, keys)| remark::not_by_kube_proxy(why, &keys)),
        );
        let mut groups: BTreeMap<(Receivers, Protocol, bool), Vec<(TupleKey, Claim)>> = BTreeMap::new();
        for (key, claim) in self.claims {
            groups
                .entry((claim.receivers.clone(), key.protocol, claim.unserved))
                .or_default()
                .push((key, claim));
        }
        // Tuples of the Service first, so that they get the plain name.
        let mut ordered: Vec<_> = groups.into_iter().collect();
        ordered.sort_by_key(|(_, tuples)| tuples.iter().all(|(_, claim)| !claim.hint.is_empty()));
        let mut names = BTreeSet::new();
        let mut listeners = Vec::new();
        for ((receivers, protocol, unserved), tuples) in ordered {
            let Some((_, first)) = tuples.iter().find(|(_, c)| c.hint.is_empty()).or(tuples.first()) else {
                continue;
            };
            let name = unique(&mut names, &first.label, &tuples);
            let receivers = receivers
                .into_iter()
                .map(|(workload, port)| {
                    let key = (workload, port, protocol);
                    let addresses = self.addresses.get(&key).cloned().flatten();
                    let chains = if unserved {
                        vec![chains::NO_LISTENER]
                    } else {
                        self.chains.get(&key).into_iter().flatten().copied().collect()
                    };
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
