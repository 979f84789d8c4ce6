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
/// istiod's switch for Gateways of a pod's own namespace only, false by default.
const SCOPE_SWITCH: &str = "PILOT_SCOPE_GATEWAY_TO_NAMESPACE";

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
    let istiods = istiods(world.snapshot);
    Mesh {
        root_namespace: world.root.clone(),
        discovery_selectors: !all_discovered(world, candidates),
        istiod_revision: world.reading.revision.clone(),
        selector_based_gateway_policy: selector_switch(world, &istiods),
        request_authentication: request_authentication(world, candidates),
        unread: world.snapshot.unread.input,
    }
}

/// What istiod reads of Gateways.
pub(super) struct Reading {
    /// The revision of the one istiod that there is, where that is certain.
    pub(super) revision: Option<String>,
    /// Some istiod gives pods the Gateways of their own namespace only, or may do so.
    own_namespace: bool,
}

impl Reading {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let istiods = istiods(snapshot);
        let revisions: BTreeSet<&str> = istiods.iter().map(|istiod| istiod.revision.as_str()).collect();
        let revision = match (revisions.len(), revisions.first()) {
            (1, Some(revision)) if !unseen_istiods(snapshot) => Some((*revision).to_owned()),
            _ => None,
        };
        let scoped = |container: &Container| match container.env.get(SCOPE_SWITCH) {
            None => container.env_from,
            Some(EnvValue::Literal(value)) => go_bool(value) != Tri::False,
            Some(EnvValue::Elsewhere) => true,
        };
        Self {
            revision,
            own_namespace: istiods.iter().filter_map(|istiod| istiod.container).any(scoped),
        }
    }

    /// Whether istiod certainly reads a Gateway with this metadata, and gives it to a workload that it selects. An istiod that
    /// cannot be seen is taken to have its defaults.
    pub(super) fn gives(&self, snapshot: &Snapshot, meta: &Meta, workload: &Workload) -> bool {
        let in_scope = !self.own_namespace || meta.namespace == workload.namespace;
        let of_revision =
            meta.labels
                .get("istio.io/rev")
                .is_none_or(|label| match (&workload.revision, &self.revision) {
                    (Some(pod), Some(istiod)) if pod != istiod => false,
                    (Some(revision), _) | (None, Some(revision)) => {
                        revision == label || (revision.is_empty() && label == "default")
                    }
                    (None, None) => false,
                });
        in_scope && of_revision && is_discovered(snapshot, &meta.namespace)
    }
}

/// Whether a namespace certainly is one that istiod reads.
fn is_discovered(snapshot: &Snapshot, namespace: &str) -> bool {
    let mut sets = snapshot
        .mesh_configs
        .iter()
        .map(|m| &m.settings.discovery_selectors)
        .filter(|selectors| !selectors.is_empty())
        .peekable();
    if sets.peek().is_none() {
        return true;
    }
    let known = snapshot.namespaces.iter().find(|n| n.meta.name == namespace);
    known.is_some_and(|n| {
        sets.all(|selectors| selectors.iter().any(|s| s.selects(&n.meta.labels)))
            && !lost(snapshot, &[Kind::Namespace])
    })
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
fn unseen_istiods(snapshot: &Snapshot) -> bool {
    let runs_pods = |kind| {
        matches!(
            kind,
            Kind::Pod | Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet
        )
    };
    let mut lost = snapshot.lost.iter();
    snapshot.unread.istiods() || lost.any(|refused| refused.kind.is_none_or(runs_pods))
}

/// One istiod that can be seen.
struct Istiod<'a> {
    revision: String,
    container: Option<&'a Container>,
}

fn istiods(snapshot: &Snapshot) -> Vec<Istiod<'_>> {
    let pods = snapshot
        .pods
        .iter()
        .filter(|p| p.is_alive())
        .map(|p| (&p.meta.labels, &p.spec));
    let templates = snapshot.templates.iter().map(|t| (&t.labels, &t.spec));
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
    if unseen_istiods(world.snapshot) {
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
