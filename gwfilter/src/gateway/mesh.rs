//! What is known of the mesh as a whole: root namespace, discovery, istiod.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use super::candidate::{Candidate, may_match};
use super::model::{Mesh, Tri, Workload};
use super::world::World;
use crate::object::attachment::Attachment;
use crate::object::kubernetes_gateway::GATEWAY_NAME_LABEL;
use crate::object::meta::{Meta, subset};
use crate::object::pod::{Container, EnvValue};
use crate::object::{Kind, Refused};
use crate::snapshot::Snapshot;

/// Istio's default (`pkg/config/mesh/mesh.go`).
const DEFAULT_ROOT: &str = "istio-system";
/// istiod's switch for selectors on Gateway API gateways, true by default (`pilot/pkg/features/pilot.go`).
const SELECTOR_SWITCH: &str = "ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY";

/// The root namespace; `None` where it is not known.
pub(super) fn root_namespace(snapshot: &Snapshot, settings: &Settings) -> Option<String> {
    if lost(snapshot, &[Kind::ConfigMap, Kind::IstioOperator]) {
        return None;
    }
    let named: BTreeSet<&str> = snapshot
        .mesh_configs
        .iter()
        .map(|mesh| mesh.settings.root_namespace.as_deref().unwrap_or(DEFAULT_ROOT))
        .collect();
    let mut named = named.into_iter();
    match (named.next(), named.next()) {
        (Some(root), None) => Some(root.to_owned()),
        // Manifests need not hold the mesh configuration; a cluster that has Istio does.
        (None, _) => settings.from_files.then(|| DEFAULT_ROOT.to_owned()),
        (Some(_), Some(_)) => None,
    }
}

/// Whether an object of these kinds may be there that is not known.
fn lost(snapshot: &Snapshot, kinds: &[Kind]) -> bool {
    let concerned = |kind: Option<Kind>| kind.is_none_or(|kind| kinds.contains(&kind));
    kinds.iter().any(|kind| snapshot.unread.may_hold(*kind))
        || snapshot.lost.iter().any(|refused| concerned(refused.kind))
}

/// The mesh as the policy compiler needs it.
pub(super) fn find(world: &World<'_>, candidates: &[Candidate<'_>]) -> Mesh {
    let istiods = istiods(world);
    let revisions: BTreeSet<&str> = istiods.iter().map(|istiod| istiod.revision.as_str()).collect();
    let istiod_revision = match (revisions.len(), revisions.first()) {
        (1, Some(revision)) if !unseen_istiods(world) => Some((*revision).to_owned()),
        _ => None,
    };
    Mesh {
        root_namespace: world.root.clone(),
        discovery_selectors: !all_discovered(world, candidates),
        istiod_revision,
        selector_based_gateway_policy: selector_switch(world, &istiods),
        request_authentication: request_authentication(world, candidates),
        unread: world.snapshot.unread.input,
    }
}

/// Whether every namespace that matters certainly is one that istiod reads.
fn all_discovered(world: &World<'_>, candidates: &[Candidate<'_>]) -> bool {
    let mut sets = world
        .snapshot
        .mesh_configs
        .iter()
        .map(|m| &m.settings.discovery_selectors);
    if sets.clone().all(Vec::is_empty) {
        return true;
    }
    if lost(world.snapshot, &[Kind::Namespace]) {
        return false;
    }
    let labels: BTreeMap<&str, &Meta> = world
        .snapshot
        .namespaces
        .iter()
        .map(|n| (n.meta.name.as_str(), &n.meta))
        .collect();
    let policies = world.snapshot.policies.iter().map(|p| p.meta.namespace.as_str());
    let namespaces: BTreeSet<&str> = policies.chain(candidates.iter().map(|c| c.namespace)).collect();
    sets.all(|selectors| {
        selectors.is_empty()
            || namespaces.iter().all(|namespace| {
                labels
                    .get(namespace)
                    .is_some_and(|m| selectors.iter().any(|s| s.selects(&m.labels)))
            })
    })
}

/// Whether istiods may be there that are not known.
fn unseen_istiods(world: &World<'_>) -> bool {
    let runs_pods = |kind| {
        matches!(
            kind,
            Kind::Pod | Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet
        )
    };
    let mut lost = world.snapshot.lost.iter();
    world.snapshot.unread.istiods() || lost.any(|refused| refused.kind.is_none_or(runs_pods))
}

/// One istiod that can be seen.
struct Istiod<'a> {
    revision: String,
    container: Option<&'a Container>,
}

fn istiods<'a>(world: &World<'a>) -> Vec<Istiod<'a>> {
    let pods = world
        .snapshot
        .pods
        .iter()
        .filter(|p| p.is_alive())
        .map(|p| (&p.meta.labels, &p.spec));
    let templates = world.snapshot.templates.iter().map(|t| (&t.labels, &t.spec));
    pods.chain(templates)
        .filter(|(labels, _)| labels.get("app").is_some_and(|app| app == "istiod"))
        .map(|(labels, spec)| {
            let container = spec.containers.iter().find(|c| c.name == "discovery");
            let env = container.and_then(|c| c.env.get("REVISION"));
            let revision = match (env, labels.get("istio.io/rev")) {
                (Some(EnvValue::Literal(revision)), _) => revision.as_str(),
                (_, Some(revision)) => revision,
                _ => "",
            };
            let revision = if revision == "default" {
                String::new()
            } else {
                revision.to_owned()
            };
            Istiod { revision, container }
        })
        .collect()
}

fn selector_switch(world: &World<'_>, istiods: &[Istiod<'_>]) -> Tri {
    if unseen_istiods(world) {
        return Tri::Unknown;
    }
    if istiods.is_empty() {
        return if world.settings.from_files {
            Tri::True
        } else {
            Tri::Unknown
        };
    }
    let values: BTreeSet<Tri> = istiods
        .iter()
        .map(
            |istiod| match istiod.container.map(|c| (c.env.get(SELECTOR_SWITCH), c.env_from)) {
                Some((None, false)) => Tri::True,
                Some((Some(EnvValue::Literal(value)), _)) => go_bool(value),
                _ => Tri::Unknown,
            },
        )
        .collect();
    match (values.len(), values.first()) {
        (1, Some(value)) => *value,
        _ => Tri::Unknown,
    }
}

/// Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Tri {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Tri::True,
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Tri::False,
        _ => Tri::Unknown,
    }
}

fn request_authentication(world: &World<'_>, candidates: &[Candidate<'_>]) -> Tri {
    let snapshot = world.snapshot;
    let kinds = [
        Kind::RequestAuthentication,
        Kind::WasmPlugin,
        Kind::TrafficExtension,
        Kind::EnvoyFilter,
    ];
    // Of another namespace than the root's and a gateway's own, none applies.
    let may_apply = |refused: &Refused| {
        let (there, root) = (refused.namespace.as_deref(), world.root.as_deref());
        let applies = there.is_none()
            || root.is_none()
            || there == root
            || candidates.iter().any(|c| Some(c.namespace) == there);
        refused.kind.is_none_or(|kind| kinds.contains(&kind)) && applies
    };
    if kinds.iter().any(|kind| snapshot.unread.may_hold(*kind)) || snapshot.lost.iter().any(may_apply) {
        return Tri::Unknown;
    }
    let workloads = || candidates.iter().flat_map(|c| &c.workloads);
    let attaches = |meta: &Meta, attachment: &Attachment| {
        workloads().any(|workload| applies(world, meta, attachment, workload) != Tri::False)
    };
    let authentications = snapshot
        .request_authentications
        .iter()
        .map(|o| (&o.meta, &o.attachment));
    let plugins = snapshot.plugins.iter().map(|(_, o)| (&o.meta, &o.attachment));
    let filters = snapshot
        .envoy_filters
        .iter()
        .filter(|o| o.patches.iter().any(super::envoy_filter::may_reach_gateway))
        .map(|o| (&o.meta, &o.attachment));
    let mut all = authentications.chain(plugins).chain(filters);
    if all.any(|(meta, attachment)| attaches(meta, attachment)) {
        Tri::Unknown
    } else {
        Tri::False
    }
}

/// Whether an Istio object with a selector or targets applies to a workload.
pub(super) fn applies(world: &World<'_>, meta: &Meta, attachment: &Attachment, workload: &Workload) -> Tri {
    let in_scope = if meta.namespace == workload.namespace {
        Tri::True
    } else {
        match &world.root {
            Some(root) if *root == meta.namespace => Tri::True,
            Some(_) => Tri::False,
            None => Tri::Unknown,
        }
    };
    let chosen = if attachment.targets.is_empty() {
        if !may_match(&attachment.selector, workload) {
            Tri::False
        } else if subset(&attachment.selector, &workload.labels) {
            Tri::True
        } else {
            Tri::Unknown
        }
    } else {
        let name = workload.labels.get(GATEWAY_NAME_LABEL);
        let named = attachment
            .targets
            .iter()
            .any(|(kind, target)| kind == "Gateway" && Some(target) == name);
        // A class may mean every gateway of it.
        let class = attachment.targets.iter().any(|(kind, _)| kind == "GatewayClass");
        match (named, class || (name.is_none() && !workload.labels_complete)) {
            (true, _) => Tri::True,
            (false, true) => Tri::Unknown,
            (false, false) => Tri::False,
        }
    };
    match (in_scope, chosen) {
        (Tri::False, _) | (_, Tri::False) => Tri::False,
        (Tri::True, Tri::True) => Tri::True,
        _ => Tri::Unknown,
    }
}
