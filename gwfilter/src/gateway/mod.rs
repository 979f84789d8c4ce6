//! What is a gateway, and what a packet to it meets.

mod annotations;
mod candidate;
mod chains;
mod client_address;
mod cloud;
mod destinations;
mod drain;
mod envoy_filter;
mod listeners;
mod mesh;
mod missing;
pub mod model;
mod never_drop;
mod remark;
pub mod setup;
mod world;

use ipnet::IpNet;

use crate::diagnostic::{Diagnostic, ObjectRef};
use crate::node::NodeFacts;
use crate::object::drain::Drain;
use crate::object::{Kind, Refused};
use crate::snapshot::Snapshot;
use annotations::Annotations;
pub use annotations::{KNOWN as ANNOTATIONS, Known as KnownAnnotation, PREFIX as ANNOTATION_PREFIX};
use candidate::Candidate;
use destinations::{Others, Pool};
use model::{ClientAddress, Gateway, Mesh, Why};
use world::World;

/// What a user sets for all gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--never-drop`.
    pub never_drop: Vec<IpNet>,
    /// The objects come from files: what they do not hold is not there, and the user who wrote them vouches for the
    /// senders of health probes.
    pub from_files: bool,
}

/// All gateways of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The mesh as a whole.
    pub mesh: Mesh,
    /// Gateways, in order of namespace and name.
    pub gateways: Vec<Gateway>,
    /// Those of the snapshot and what was found here.
    pub diagnostics: Vec<Diagnostic>,
}

/// Finds the gateways of a snapshot, as they are on one node. Total.
#[must_use]
pub fn find(snapshot: &Snapshot, facts: &NodeFacts, settings: &Settings) -> Found {
    let world = World::new(snapshot, facts, settings);
    let mut diagnostics = snapshot.diagnostics.clone();
    diagnostics.extend(world.unknown_node());
    let (here, elsewhere): (Vec<_>, Vec<_>) = candidate::find(&world, &mut diagnostics)
        .into_iter()
        .partition(|candidate| candidate.is_here(&world));
    let mesh = mesh::find(&world, &here);
    let stated: Vec<Annotations> = here.iter().map(|c| stated(&world, c)).collect();
    let mut pool = Pool::of(&world, &here);
    let siblings = candidate::siblings(&here);

    let mut gateways = Vec::with_capacity(here.len() + elsewhere.len());
    for ((candidate, annotations), siblings) in here.iter().zip(&stated).zip(&siblings) {
        let siblings: Vec<(&Candidate<'_>, &Annotations)> = siblings
            .iter()
            .filter_map(|at| here.get(*at).zip(stated.get(*at)))
            .collect();
        let others = pool.without(&world, candidate);
        let mut gateway = gateway(
            &world,
            candidate,
            annotations,
            &siblings,
            &others,
            &mut diagnostics,
        );
        if !candidate.has_pods_here(&world) {
            strip(&mut gateway);
        }
        gateways.push(gateway);
    }
    let far: Vec<Gateway> = elsewhere.iter().map(|candidate| far(&world, candidate)).collect();
    diagnostics.extend(without_pods(&far, facts));
    gateways.extend(far);
    gateways.sort_by_key(Gateway::id);
    Found {
        mesh,
        gateways,
        diagnostics,
    }
}

/// A gateway of which no pod is known on this node: nothing is judged here, so of what it is set to nothing is asked.
fn far(world: &World<'_>, candidate: &Candidate<'_>) -> Gateway {
    // What comes by these addresses now goes to a pod of another node, from another source. That outlasts the moment when a pod is here.
    let rewritten = candidate
        .service
        .filter(|service| !service.local_policy)
        .map(|service| destinations::taken(service, &world.node_addresses(candidate)));
    Gateway {
        namespace: candidate.namespace.to_owned(),
        name: candidate.name.clone(),
        client_address: ClientAddress::Unknown,
        workloads: Vec::new(),
        listeners: Vec::new(),
        rewritten: rewritten.into_iter().flatten().collect(),
        never_drop: Vec::new(),
        trusted_proxies: None,
        probe_sources_known: false,
        not_enforced: missing::of_gateway(world, candidate),
        observe: None,
        drain: Drain::Unstated,
        remarks: Vec::new(),
    }
}

/// Has no policy compiled for a gateway that is not enforced. Its destinations stay claimed, so that no other gateway has them judged.
pub(crate) fn strip(gateway: &mut Gateway) {
    gateway.workloads.clear();
    for listener in &mut gateway.listeners {
        listener.receivers.clear();
    }
}

/// How many gateways a finding names.
const NAMED: usize = 8;

/// All gateways that have no pod here, in one finding: a node without a pod of a gateway is nothing to mend.
fn without_pods(far: &[Gateway], facts: &NodeFacts) -> Option<Diagnostic> {
    let code = "no-local-endpoint";
    let is_away = |g: &&Gateway| g.not_enforced.as_ref().is_some_and(|why| why.code == code);
    let away: Vec<String> = far.iter().filter(is_away).map(Gateway::id).collect();
    let named = away.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match away.len().saturating_sub(NAMED) {
        _ if away.is_empty() => return None,
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let node = ObjectRef::new("Node", "", facts.name.as_deref().unwrap_or("this node"));
    let text = format!("no pod of {named}{more} runs on this node, so nothing is judged here for them");
    Some(Diagnostic::info(code, node, text))
}

fn gateway(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    annotations: &Annotations,
    siblings: &[(&Candidate<'_>, &Annotations)],
    others: &Others<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Gateway {
    let client = client_address::find(world, candidate, annotations, siblings);
    let found = listeners::find(world, candidate, others, client.header);
    diagnostics.extend(client.diagnostics);
    let mut not_enforced = client.not_enforced;
    let mut client_address = client.mode;
    if let Some(refused) = world
        .snapshot
        .lost
        .iter()
        .find(|refused| bears_on(world, refused, candidate))
    {
        let kind = refused.kind.map_or("an object", Kind::name);
        let name = refused.name.as_deref().unwrap_or("(without a name)");
        let text = format!("{kind} {name} cannot be read and could bear on this gateway: mend it");
        not_enforced = Some(Why {
            code: "unreadable-object",
            text,
        });
        client_address = ClientAddress::Unknown;
    }
    if let Some(why) = missing::of_gateway(world, candidate) {
        not_enforced = Some(why);
        client_address = ClientAddress::Unknown;
    }
    for fault in &annotations.faults {
        let text = format!("{fault}. The gateway is not enforced until that is mended");
        diagnostics.push(Diagnostic::error(
            "unreadable-annotation",
            reference(candidate),
            text,
        ));
    }
    if let Some(fault) = annotations.faults.first() {
        not_enforced = Some(Why {
            code: "unreadable-annotation",
            text: format!("{fault}: mend it"),
        });
        client_address = ClientAddress::Unknown;
    }
    let drain = drain::find(world, candidate);
    let unknown_drain = drain::remark(&drain).filter(|_| not_enforced.is_none());
    diagnostics.extend(drain::finding(&drain, candidate).filter(|_| not_enforced.is_none()));
    let remarks = found.remarks.into_iter().chain(client.remarks);
    let remarks: Vec<Why> = remarks.chain(unknown_drain).collect();
    diagnostics.extend(remarks.iter().map(|why| {
        // A node without a pod of the gateway is nothing to mend, and mostly neither is a port where nothing listens.
        let new = if matches!(why.code, "no-local-endpoint" | "no-server") {
            Diagnostic::info
        } else {
            Diagnostic::warning
        };
        new(why.code, reference(candidate), why.text.as_str())
    }));
    let observe = (annotations.enforce == Some(false)).then(|| Why {
        code: "observe-annotation",
        text: "gwfilter.io/enforce is \"false\": what would be dropped is counted and passes".to_owned(),
    });
    Gateway {
        namespace: candidate.namespace.to_owned(),
        name: candidate.name.clone(),
        client_address,
        workloads: candidate.workloads.clone(),
        listeners: found.listeners,
        rewritten: found.rewritten,
        never_drop: never_drop::find(world, candidate, annotations, client_address),
        trusted_proxies: annotations.trusted_proxies.clone(),
        probe_sources_known: never_drop::probes_known(world, candidate, annotations, client_address),
        not_enforced,
        observe,
        drain: drain.0,
        remarks,
    }
}

/// The Service's annotations, or what an IstioOperator puts on it; below them the pods', which must agree.
fn stated(world: &World<'_>, candidate: &Candidate<'_>) -> Annotations {
    let service = candidate
        .service
        .map(|s| Annotations::read(&s.meta.annotations))
        .unwrap_or_default();
    let operator = world.operator_gateways(candidate);
    let operators = operator
        .iter()
        .map(|(_, gateway)| Annotations::read(&gateway.service_annotations));
    let service = operators.fold(service, Annotations::or);
    let pods: Vec<_> = candidate
        .local_pods(world)
        .map(|pod| &pod.meta.annotations)
        .collect();
    let templates = candidate.templates.iter().map(|template| &template.annotations);
    let from_operator = operator.iter().map(|(_, gateway)| &gateway.pod_annotations);
    let stand_ins = templates
        .chain(from_operator)
        .take(if pods.is_empty() { usize::MAX } else { 0 });
    let mut all: Vec<Annotations> = Vec::new();
    for annotations in pods.into_iter().chain(stand_ins) {
        let annotations = service.clone().or(Annotations::read(annotations));
        if !all.contains(&annotations) {
            all.push(annotations);
        }
    }
    let mut merged = all.pop().unwrap_or(service);
    if !all.is_empty() {
        merged
            .faults
            .push("its pods carry different gwfilter.io annotations".to_owned());
    }
    merged
}

fn reference(candidate: &Candidate<'_>) -> ObjectRef {
    let kind = if candidate.service.is_some() {
        "Service"
    } else {
        "Pod"
    };
    ObjectRef::new(kind, candidate.namespace, &candidate.name)
}

/// Whether an object that cannot be read could change what is known of a gateway. Policies are not among them: they
/// have their own rule (no default-deny), and kinds that only [`Mesh`] depends on have theirs.
fn bears_on(world: &World<'_>, refused: &Refused, candidate: &Candidate<'_>) -> bool {
    let here = refused
        .namespace
        .as_deref()
        .is_none_or(|namespace| namespace == candidate.namespace);
    let root = world.root.is_none() || refused.namespace == world.root;
    match refused.kind {
        None => true,
        Some(Kind::AuthorizationPolicy | Kind::RequestAuthentication | Kind::Namespace) => false,
        // Its external addresses, node ports and host ports may be this gateway's, wherever it is.
        Some(Kind::Service | Kind::Pod) => true,
        Some(Kind::EndpointSlice) => here,
        Some(Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet) => here,
        Some(Kind::EnvoyFilter | Kind::WasmPlugin | Kind::TrafficExtension | Kind::ProxyConfig) => {
            here || root
        }
        Some(Kind::IstioGateway | Kind::KubernetesGateway) => true,
        Some(Kind::ConfigMap | Kind::IstioOperator | Kind::Node) => true,
    }
}

#[cfg(test)]
mod tests;
