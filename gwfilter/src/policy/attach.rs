//! Which policies apply to which gateway pods: certainly, certainly not, or not known.
//!
//! Source: Istio `pilot/pkg/model/{authorization,policyattachment}.go`, `pkg/config/model.go`.

use super::spec::{Policy, Target};
use crate::gateway::model::{Mesh, Tri, Workload};

/// The label by which a Gateway API gateway's pods are known.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label that says what manages a Gateway API gateway's pods.
const MANAGED: &str = "gateway.istio.io/managed";
/// Its value for a waypoint, which reads policies quite differently.
const WAYPOINT: &str = "istio.io-mesh-controller";

/// Whether a policy applies to a workload.
pub(super) fn attaches(mesh: &Mesh, policy: &Policy, workload: &Workload) -> Tri {
    let mut attached = in_scope(mesh, policy, workload).and(targets(mesh, policy, workload));
    if policy.undecodable.is_some() || policy.target.unclear || mesh.discovery_selectors {
        attached = attached.at_most_unknown();
    }
    if workload.labels.get(MANAGED).is_some_and(|by| by == WAYPOINT) {
        attached = attached.at_most_unknown();
    }
    attached
}

/// Whether istiod keeps the policy at all and looks in its namespace for this workload.
fn in_scope(mesh: &Mesh, policy: &Policy, workload: &Workload) -> Tri {
    let namespace = match &mesh.root_namespace {
        _ if policy.namespace == workload.namespace => Tri::True,
        Some(root) => Tri::of(policy.namespace == *root),
        None => Tri::Unknown,
    };
    namespace.and(revision(mesh, policy, workload))
}

/// A labelled policy is kept by the istiod of that revision only.
fn revision(mesh: &Mesh, policy: &Policy, workload: &Workload) -> Tri {
    let Some(label) = &policy.revision else {
        return Tri::True;
    };
    let serving = match (&workload.revision, &mesh.istiod_revision) {
        (Some(pod), Some(istiod)) if pod != istiod => None,
        (Some(revision), _) | (None, Some(revision)) => Some(revision.as_str()),
        (None, None) => None,
    };
    match serving {
        None => Tri::Unknown,
        // The default revision's istiod runs with an empty revision, which keeps everything, or with the name `default`.
        Some("" | "default") if label == "default" => Tri::True,
        Some("" | "default") => Tri::Unknown,
        Some(revision) => Tri::of(revision == label),
    }
}

/// Whether selector or references mean the workload.
fn targets(mesh: &Mesh, policy: &Policy, workload: &Workload) -> Tri {
    let Target {
        labels,
        refs,
        unclear,
    } = &policy.target;
    if *unclear {
        return Tri::Unknown;
    }
    let selected = labels
        .iter()
        .map(|(key, value)| match workload.labels.get(key) {
            Some(label) => Tri::of(label == value),
            None => absent(workload),
        })
        .fold(Tri::True, Tri::and);
    let gateway_name = workload.labels.get(GATEWAY_NAME);
    let gateway_api = if gateway_name.is_some() {
        Tri::True
    } else {
        absent(workload)
    };
    if refs.is_empty() {
        // A classic gateway, or one of the Gateway API where istiod still reads selectors there.
        return selected.and(gateway_api.not().or(mesh.selector_based_gateway_policy));
    }
    let referenced = refs
        .iter()
        .map(|r| {
            let own = r.namespace.is_empty() || r.namespace == policy.namespace;
            let kind = r.group == "gateway.networking.k8s.io" && r.kind == "Gateway";
            let name = gateway_name.map_or(Tri::Unknown, |name| Tri::of(*name == r.name));
            Tri::of(own && kind && policy.namespace == workload.namespace).and(name)
        })
        .fold(Tri::False, Tri::or);
    gateway_api.and(referenced)
}

/// What an absent label means.
fn absent(workload: &Workload) -> Tri {
    if workload.labels_complete {
        Tri::False
    } else {
        Tri::Unknown
    }
}
