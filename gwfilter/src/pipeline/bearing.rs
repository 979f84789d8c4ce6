//! Which policies are compiled at all, and for which gateways: who may write in one namespace must not have the memory and the time of all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, ObjectRef};
use crate::gateway::model::{ClientAddress, Why};
use crate::gateway::{self, Found};
use crate::node::NodeFacts;
use crate::object::authorization_policy::AuthorizationPolicy;
use crate::snapshot::Snapshot;

/// The policies that can bear on what is judged here: of the namespaces of gateways' pods and of the root namespace. What others hold, whoever may
/// write there, is not even decoded. Where any may be the root: all, unless they are too many, which is told.
pub(super) fn policies(
    found: &Found,
    snapshot: &Snapshot,
    node: &NodeFacts,
    settings: &gateway::Settings,
) -> (Vec<Arc<AuthorizationPolicy>>, Option<Diagnostic>) {
    if settings.from_files {
        return (snapshot.policies.clone(), None);
    }
    let root = found.mesh.root_namespace.as_deref();
    let workloads = found.gateways.iter().flat_map(|g| &g.workloads);
    let namespaces: BTreeSet<&str> = workloads.map(|w| w.namespace.as_str()).chain(root).collect();
    let policies = snapshot.policies.iter().cloned();
    let (ours, others): (Vec<_>, Vec<_>) =
        policies.partition(|p| namespaces.contains(p.meta.namespace.as_str()));
    if root.is_some() || namespaces.is_empty() {
        return (ours, None);
    }
    let gateways = found.gateways.iter().filter(|g| !g.workloads.is_empty()).count();
    let parts: usize = others.iter().map(|policy| policy.spec.objects()).sum();
    if parts.saturating_mul(gateways) <= POLICY_OBJECTS {
        return (snapshot.policies.clone(), None);
    }
    let text = format!(
        "the mesh's root namespace is not known, so policies of any namespace may be for all gateways, and those of others than the gateways' own are \
         too many to compile ({parts} parts): they are left to the gateways, and default-deny with them; let the agent read the mesh's ConfigMap"
    );
    let name = node.name.as_deref().unwrap_or("this node");
    let node = ObjectRef::new("Node", "", name);
    (ours, Some(Diagnostic::warning("too-many-policies", node, text)))
}

/// What the policies of one namespace may cost: JSON objects in their specs, times the gateways that they are compiled for.
const POLICY_OBJECTS: usize = 1 << 18;
/// Gateways of a namespace that the root namespace's policies are compiled for whatever these cost: not who writes them says how often.
const ROOT_SHARE: usize = 16;

/// Leaves out the gateways of namespaces whose own policies would make the agent large and slow: who writes there must not have the memory and the
/// time that the gateways of all others need.
pub(super) fn leave_out(found: &mut Found, snapshot: &Snapshot, settings: &gateway::Settings) {
    if settings.from_files {
        return;
    }
    let mut written: BTreeMap<&str, usize> = BTreeMap::new();
    for policy in &snapshot.policies {
        *written.entry(&policy.meta.namespace).or_default() += policy.spec.objects();
    }
    let of = |namespace: Option<&str>| namespace.and_then(|n| written.get(n)).copied().unwrap_or(0);
    let root = found.mesh.root_namespace.clone();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for gateway in found.gateways.iter().filter(|g| !g.workloads.is_empty()) {
        *counts.entry(gateway.namespace.clone()).or_default() += 1;
    }
    for gateway in found.gateways.iter_mut().filter(|g| !g.workloads.is_empty()) {
        let namespace = gateway.namespace.as_str();
        let count = counts.get(namespace).copied().unwrap_or(0);
        // Who may write into the root namespace rules the mesh.
        let own = of(Some(namespace).filter(|n| root.as_deref() != Some(*n)));
        let shared = of(root.as_deref()).saturating_mul(count.saturating_sub(ROOT_SHARE));
        if own.saturating_mul(count).saturating_add(shared) <= POLICY_OBJECTS {
            continue;
        }
        let text = format!(
            "the policies of namespace {namespace} are made of {own} parts, and {count} gateways of it have pods here: more than an agent compiles \
             ({POLICY_OBJECTS}, parts times gateways), so no gateway of the namespace is enforced; write fewer rules or fewer Services"
        );
        gateway::strip(gateway);
        gateway.client_address = ClientAddress::Unknown;
        gateway.not_enforced = Some(Why {
            code: "too-many-policies",
            text,
        });
    }
}
