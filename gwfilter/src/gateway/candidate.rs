//! What is a gateway: a Service, or pods on the host's network, whose pods run Istio's proxy as a router.
//!
//! All else is never judged. An app without Envoy behind a load balancer must be left alone, whatever policies its
//! namespace has: nobody would refuse there what the node drops.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::annotations;
use super::model::Workload;
use super::world::World;
use crate::diagnostic::Diagnostic;
use crate::object::Kind;
use crate::object::cluster::{Endpoint, EndpointSlice};
use crate::object::kubernetes_gateway::GATEWAY_NAME_LABEL;
use crate::object::meta::subset;
use crate::object::pod::{Pod, PodSpec, Template};
use crate::object::service::Service;

/// One gateway, before anything is known of its ports.
pub(super) struct Candidate<'a> {
    /// Namespace of the Service, or of the pods.
    pub(super) namespace: &'a str,
    /// Name of the Service, or of the pods' owner.
    pub(super) name: String,
    /// The Service; `None` for pods that only the host's ports lead to.
    pub(super) service: Option<&'a Service>,
    /// Its EndpointSlices.
    pub(super) slices: Vec<&'a EndpointSlice>,
    /// Its pods that are not finished, on all nodes.
    pub(super) pods: Vec<&'a Pod>,
    /// Templates that its pods are made from, where no pods are known.
    pub(super) templates: Vec<&'a Template>,
    /// Whether its pods are known: if so, those in `members` are all there are.
    pub(super) pods_known: bool,
    /// Who may receive its traffic, and what policies see of them.
    pub(super) members: Vec<Member<'a>>,
    /// Pods that policies cannot tell apart.
    pub(super) workloads: Vec<Workload>,
}

/// A pod, or what stands for pods that are not known.
pub(super) struct Member<'a> {
    /// Index into [`Candidate::workloads`].
    pub(super) workload: usize,
    /// The pod, where it is known.
    pub(super) pod: Option<&'a Pod>,
    /// The pod's or the template's spec, where it is known.
    pub(super) spec: Option<&'a PodSpec>,
    /// The slice and endpoint, for one whose pod is not known.
    pub(super) endpoint: Option<(&'a EndpointSlice, &'a Endpoint)>,
    /// Its addresses; `None` where they are not known.
    pub(super) addresses: Option<BTreeSet<IpAddr>>,
    /// It runs on this node.
    pub(super) local: bool,
    /// kube-proxy may send new connections to it.
    pub(super) receives: bool,
}

/// Istio's label on what its Gateway API controllers made. Waypoints carry the second value.
const MANAGED_LABEL: &str = "gateway.istio.io/managed";

/// All gateways of a snapshot, in order of namespace and name, those of Services first.
pub(super) fn find<'a>(world: &World<'a>, diagnostics: &mut Vec<Diagnostic>) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    let mut taken: BTreeSet<(&str, &str)> = BTreeSet::new();
    for service in &world.snapshot.services {
        let slices = world.slices(service);
        let pods = world.pods_of(service, &slices);
        match is_gateway(world, service, &slices, &pods) {
            Ok(()) => {}
            Err(why) => {
                if service
                    .meta
                    .annotations
                    .keys()
                    .any(|key| key.starts_with(annotations::PREFIX))
                {
                    let message = format!(
                        "it carries a {} annotation but is not judged: {why}",
                        annotations::PREFIX
                    );
                    let object = service.meta.reference("Service");
                    diagnostics.push(Diagnostic::warning("not-a-gateway", object, message));
                }
                continue;
            }
        }
        taken.extend(
            pods.iter()
                .map(|pod| (pod.meta.namespace.as_str(), pod.meta.name.as_str())),
        );
        let known = !pods.is_empty() || !slices.is_empty() || !world.settings.from_files;
        let templates = if known {
            Vec::new()
        } else {
            world.templates_of(service)
        };
        found.push(Candidate::new(
            world,
            (&service.meta.namespace, service.meta.name.clone()),
            Some(service),
            slices,
            pods,
            templates,
            known,
        ));
    }
    let mut on_host: BTreeMap<(&str, String), Vec<&Pod>> = BTreeMap::new();
    for pod in &world.snapshot.pods {
        let exposed = pod.spec.host_network
            || pod
                .spec
                .containers
                .iter()
                .any(|c| c.ports.iter().any(|port| port.host_port.is_some()));
        let free = !taken.contains(&(pod.meta.namespace.as_str(), pod.meta.name.as_str()));
        if pod.is_alive() && exposed && free && is_gateway_pod(world, pod) {
            on_host
                .entry((&pod.meta.namespace, owner_name(pod)))
                .or_default()
                .push(pod);
        }
    }
    for ((namespace, name), pods) in on_host {
        found.push(Candidate::new(
            world,
            (namespace, name),
            None,
            Vec::new(),
            pods,
            Vec::new(),
            true,
        ));
    }
    found
}

/// Whether a Service is a gateway; the error says why it is not.
fn is_gateway(
    world: &World<'_>,
    service: &Service,
    slices: &[&EndpointSlice],
    pods: &[&Pod],
) -> Result<(), String> {
    if service.external_name {
        return Err("an ExternalName Service has no pods".to_owned());
    }
    if !pods.is_empty() {
        return match pods.iter().find(|pod| !is_gateway_pod(world, pod)) {
            None => Ok(()),
            Some(pod) => Err(format!(
                "its pod {} does not run the container istio-proxy as a router, or no Istio Gateway selects it and \
                 it has no label {GATEWAY_NAME_LABEL}",
                pod.meta.name
            )),
        };
    }
    // What a Service alone says, anybody can write into one of any namespace.
    let unread = world.misses(Kind::Pod) || world.misses(Kind::EndpointSlice);
    let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    if !world.settings.from_files && !unread && endpoints.all(|endpoint| endpoint.addresses.is_empty()) {
        return Err("it has no pod, on any node".to_owned());
    }
    if let Some(template) = world.templates_of(service).iter().find(|t| !runs_router(&t.spec)) {
        return Err(format!(
            "the pods of {} do not run the container istio-proxy as a router",
            template.meta.name
        ));
    }
    let selector = &service.selector;
    let known_selector = selector.contains_key("istio")
        || selector.contains_key(GATEWAY_NAME_LABEL)
        || world.gateway_selects(selector);
    let annotated = service
        .meta
        .annotations
        .keys()
        .any(|key| key.starts_with(annotations::PREFIX));
    let waypoint = selector
        .get(GATEWAY_NAME_LABEL)
        .is_some_and(|n| world.is_waypoint(&service.meta.namespace, n));
    match (known_selector || annotated, waypoint) {
        (true, false) => Ok(()),
        (_, true) => Err("it leads to a waypoint".to_owned()),
        (false, _) => Err("nothing says that its pods run Istio's proxy as a router".to_owned()),
    }
}

fn is_gateway_pod(world: &World<'_>, pod: &Pod) -> bool {
    let named = pod.meta.labels.get(GATEWAY_NAME_LABEL);
    let waypoint = pod
        .meta
        .labels
        .get(MANAGED_LABEL)
        .is_some_and(|v| v == "istio.io-mesh-controller")
        || named.is_some_and(|name| world.is_waypoint(&pod.meta.namespace, name));
    // With Gateways unknown, any router may be one: it is not enforced then, and that is said.
    let selected = || world.gateway_selects(&pod.meta.labels) || world.misses(Kind::IstioGateway);
    runs_router(&pod.spec) && !waypoint && (named.is_some() || selected())
}

fn runs_router(spec: &PodSpec) -> bool {
    spec.proxy().is_some_and(|proxy| match &proxy.args {
        Some(args) if !args.is_empty() => args.iter().any(|arg| arg == "router"),
        _ => true,
    })
}

/// What made the pod, as `kubectl` takes it: kind in lower case, and name.
pub(super) fn owner(pod: &Pod) -> Option<(String, String)> {
    let (kind, _) = pod.owner.as_ref()?;
    let hashed = kind == "ReplicaSet" && pod.meta.labels.contains_key("pod-template-hash");
    let kind = if hashed { "deployment" } else { kind.as_str() };
    Some((kind.to_ascii_lowercase(), owner_name(pod)))
}

/// The name of what made the pod: the Deployment behind a ReplicaSet, by the name that Kubernetes gives that.
fn owner_name(pod: &Pod) -> String {
    let hash = pod.meta.labels.get("pod-template-hash");
    match (&pod.owner, hash) {
        (Some((kind, name)), Some(hash)) if kind == "ReplicaSet" => name
            .strip_suffix(hash.as_str())
            .and_then(|n| n.strip_suffix('-'))
            .unwrap_or(name)
            .to_owned(),
        (Some((_, name)), _) if !name.is_empty() => name.clone(),
        _ => pod.meta.name.clone(),
    }
}

impl<'a> Candidate<'a> {
    fn new(
        world: &World<'a>,
        (namespace, name): (&'a str, String),
        service: Option<&'a Service>,
        slices: Vec<&'a EndpointSlice>,
        pods: Vec<&'a Pod>,
        templates: Vec<&'a Template>,
        pods_known: bool,
    ) -> Self {
        let mut candidate = Self {
            namespace,
            name,
            service,
            slices,
            pods,
            templates,
            pods_known,
            members: Vec::new(),
            workloads: Vec::new(),
        };
        candidate.members(world);
        candidate
    }

    /// `ns/name`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn workload(&mut self, workload: Workload) -> usize {
        match self.workloads.iter().position(|w| *w == workload) {
            Some(index) => index,
            None => {
                self.workloads.push(workload);
                self.workloads.len() - 1
            }
        }
    }

    /// What the Service's selector alone says of its pods.
    fn implied(&self, more: &BTreeMap<String, String>, revision: Option<String>) -> Workload {
        let mut labels = self.service.map(|s| s.selector.clone()).unwrap_or_default();
        labels.extend(more.iter().map(|(k, v)| (k.clone(), v.clone())));
        Workload {
            namespace: self.namespace.to_owned(),
            labels,
            labels_complete: false,
            revision,
        }
    }

    fn members(&mut self, world: &World<'a>) {
        for pod in self.pods.clone() {
            let workload = self.workload(Workload {
                namespace: pod.meta.namespace.clone(),
                labels: pod.meta.labels.clone(),
                labels_complete: true,
                revision: revision(&pod.meta.annotations),
            });
            let receives = self.receives(pod);
            self.members.push(Member {
                workload,
                pod: Some(pod),
                spec: Some(&pod.spec),
                endpoint: None,
                addresses: Some(pod.ips.clone()),
                local: world.is_local(pod.node.as_deref()),
                receives,
            });
        }
        let is_here = self.pods.iter().any(|pod| world.is_local(pod.node.as_deref()));
        for slice in self.slices.clone() {
            for endpoint in &slice.endpoints {
                if endpoint.addresses.is_empty() || self.pods.iter().any(|pod| stands_for(endpoint, pod)) {
                    continue;
                }
                let local = world.is_local(endpoint.node.as_deref());
                // A cluster's agent sees the pods of its own node only. What it does not see there and does not receive is
                // gone, or not there yet; what it does not see elsewhere is no concern of this node.
                // Where a PROXY header names the client, this node judges for them too.
                let elsewhere = is_here && !self.service.is_some_and(super::client_address::states_header);
                let of_no_concern = if local { !endpoint.receives() } else { elsewhere };
                if of_no_concern && !world.settings.from_files {
                    continue;
                }
                let workload = self.workload(self.implied(&BTreeMap::new(), None));
                self.members.push(Member {
                    workload,
                    pod: None,
                    spec: None,
                    endpoint: Some((slice, endpoint)),
                    addresses: Some(endpoint.addresses.clone()),
                    local,
                    receives: endpoint.receives(),
                });
            }
        }
        if self.pods_known {
            if self.members.is_empty() {
                // Nothing receives here; policies are still reported against what the selector says.
                self.workload(self.implied(&BTreeMap::new(), None));
            }
            return;
        }
        let templates: Vec<Option<&Template>> = if self.templates.is_empty() {
            vec![None]
        } else {
            self.templates.iter().copied().map(Some).collect()
        };
        for template in templates {
            let empty = BTreeMap::new();
            let labels = template.map_or(&empty, |t| &t.labels);
            let workload = self.implied(labels, None);
            let workload = self.workload(workload);
            self.members.push(Member {
                workload,
                pod: None,
                spec: template.map(|t| &t.spec),
                endpoint: None,
                addresses: None,
                local: true,
                receives: true,
            });
        }
    }

    /// By EndpointSlice where the pod is in one, else by its `Ready` condition, else whether it runs.
    fn receives(&self, pod: &Pod) -> bool {
        let mut in_slices = self
            .slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter(|endpoint| stands_for(endpoint, pod))
            .peekable();
        if in_slices.peek().is_some() {
            return in_slices.any(Endpoint::receives);
        }
        pod.ready
            .unwrap_or(matches!(pod.phase.as_str(), "" | "Running" | "Unknown"))
    }

    /// Its pods on this node: only they receive what is judged here.
    pub(super) fn local_pods(&self, world: &World<'a>) -> impl Iterator<Item = &'a Pod> {
        self.pods
            .iter()
            .copied()
            .filter(|pod| world.is_local(pod.node.as_deref()))
    }

    /// Whether anything of it is said to be on this node. A user's files are judged as a whole.
    pub(super) fn is_here(&self, world: &World<'_>) -> bool {
        world.settings.from_files || self.members.iter().any(|member| member.local)
    }

    /// Whether a pod of it is on this node, one that terminates included. Endpoints that name no such pod anybody can write, into any namespace.
    pub(super) fn has_pods_here(&self, world: &World<'_>) -> bool {
        world.settings.from_files || self.local_pods(world).next().is_some()
    }

    /// Whether another gateway is made of the same pods.
    pub(super) fn shares_pods(&self, other: &Self) -> bool {
        if self.namespace != other.namespace {
            return false;
        }
        if self.pods_known && other.pods_known {
            return self
                .pods
                .iter()
                .any(|pod| other.pods.iter().any(|o| o.meta.name == pod.meta.name));
        }
        let (one, two) = (
            self.service.map(|s| &s.selector),
            other.service.map(|s| &s.selector),
        );
        one.zip(two).is_some_and(|(one, two)| {
            // Selectors that contradict each other in some label share no pod.
            one.iter()
                .all(|(key, value)| two.get(key).is_none_or(|v| v == value))
        })
    }
}

/// For each gateway the numbers of the others that are made of the same pods.
pub(super) fn siblings(candidates: &[Candidate<'_>]) -> Vec<BTreeSet<usize>> {
    if candidates.iter().any(|candidate| !candidate.pods_known) {
        // Of a user's files: some selectors have to be compared.
        let of = |(at, candidate): (usize, &Candidate<'_>)| {
            let others = candidates.iter().enumerate();
            let others = others.filter(|(other, c)| *other != at && candidate.shares_pods(c));
            others.map(|(other, _)| other).collect()
        };
        return candidates.iter().enumerate().map(of).collect();
    }
    let mut of_pods: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        for pod in &candidate.pods {
            let pod = (candidate.namespace, pod.meta.name.as_str());
            of_pods.entry(pod).or_default().push(at);
        }
    }
    let of = |(at, candidate): (usize, &Candidate<'_>)| {
        let pods = candidate.pods.iter();
        let sharing = pods.filter_map(|pod| of_pods.get(&(candidate.namespace, pod.meta.name.as_str())));
        sharing.flatten().copied().filter(|other| *other != at).collect()
    };
    candidates.iter().enumerate().map(of).collect()
}

fn stands_for(endpoint: &Endpoint, pod: &Pod) -> bool {
    match &endpoint.pod {
        Some(name) => *name == pod.meta.name,
        None => !endpoint.addresses.is_disjoint(&pod.ips),
    }
}

/// The pod's revision of Istio: `default` is the empty one.
fn revision(annotations: &BTreeMap<String, String>) -> Option<String> {
    let revision = annotations.get("istio.io/rev")?;
    Some(if revision == "default" {
        String::new()
    } else {
        revision.clone()
    })
}

/// Whether labels, of which more may exist when `complete` is false, can satisfy a selector.
pub(super) fn may_match(selector: &BTreeMap<String, String>, workload: &Workload) -> bool {
    if workload.labels_complete {
        return subset(selector, &workload.labels);
    }
    selector
        .iter()
        .all(|(key, value)| workload.labels.get(key).is_none_or(|v| v == value))
}
