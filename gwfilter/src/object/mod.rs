//! Our own subset of the Kubernetes and Istio kinds, decoded totally: a faulty object is a diagnostic, never a panic.
//!
//! An object of a kind that bears on enforcement and that cannot be read in full is not skipped: it becomes
//! [`Object::Refused`]: everything it could bear on is left to the gateway, unless a file's last good version stands in for it.

pub mod attachment;
pub mod authorization_policy;
pub mod cluster;
pub mod drain;
pub mod extension;
pub mod istio_gateway;
pub mod kubernetes_gateway;
pub mod mesh_config;
pub mod meta;
pub mod pod;
pub(crate) mod read;
pub mod service;
mod shared;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, ObjectRef};
use authorization_policy::AuthorizationPolicy;
use meta::Meta;
use read::{Cursor, Faults};

/// The kinds that bear on enforcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the kind of its name")]
pub enum Kind {
    AuthorizationPolicy,
    ConfigMap,
    DaemonSet,
    Deployment,
    EndpointSlice,
    EnvoyFilter,
    IstioGateway,
    IstioOperator,
    KubernetesGateway,
    Namespace,
    Node,
    Pod,
    ProxyConfig,
    RequestAuthentication,
    Service,
    StatefulSet,
    TrafficExtension,
    WasmPlugin,
}

const ISTIO_NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const ISTIO_SECURITY: &[&str] = &["v1", "v1beta1"];

/// Every kind: its `kind`, group and the versions whose shape is known.
const KINDS: &[(Kind, &str, &str, &[&str])] = &[
    (
        Kind::AuthorizationPolicy,
        "AuthorizationPolicy",
        "security.istio.io",
        ISTIO_SECURITY,
    ),
    (Kind::ConfigMap, "ConfigMap", "", &["v1"]),
    (Kind::DaemonSet, "DaemonSet", "apps", &["v1"]),
    (Kind::Deployment, "Deployment", "apps", &["v1"]),
    (Kind::EndpointSlice, "EndpointSlice", "discovery.k8s.io", &["v1"]),
    (
        Kind::EnvoyFilter,
        "EnvoyFilter",
        "networking.istio.io",
        &["v1alpha3"],
    ),
    (
        Kind::IstioGateway,
        "Gateway",
        "networking.istio.io",
        ISTIO_NETWORKING,
    ),
    (
        Kind::IstioOperator,
        "IstioOperator",
        "install.istio.io",
        &["v1alpha1"],
    ),
    (
        Kind::KubernetesGateway,
        "Gateway",
        "gateway.networking.k8s.io",
        &["v1", "v1beta1"],
    ),
    (Kind::Namespace, "Namespace", "", &["v1"]),
    (Kind::Node, "Node", "", &["v1"]),
    (Kind::Pod, "Pod", "", &["v1"]),
    (
        Kind::ProxyConfig,
        "ProxyConfig",
        "networking.istio.io",
        &["v1beta1"],
    ),
    (
        Kind::RequestAuthentication,
        "RequestAuthentication",
        "security.istio.io",
        ISTIO_SECURITY,
    ),
    (Kind::Service, "Service", "", &["v1"]),
    (Kind::StatefulSet, "StatefulSet", "apps", &["v1"]),
    (
        Kind::TrafficExtension,
        "TrafficExtension",
        "extensions.istio.io",
        &["v1", "v1alpha1"],
    ),
    (
        Kind::WasmPlugin,
        "WasmPlugin",
        "extensions.istio.io",
        &["v1", "v1alpha1"],
    ),
];

impl Kind {
    /// The `kind` field.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, name, ..)| name)
    }

    fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
}

/// An object that cannot be read, and that bears on enforcement all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refused {
    /// Its kind; `None` where not even that is known (a broken list).
    pub kind: Option<Kind>,
    /// Its namespace; `None` where it cannot be read.
    pub namespace: Option<String>,
    /// Its name; `None` where it cannot be read.
    pub name: Option<String>,
}

/// What tells an object from all others in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Kind, whatever the version.
    pub kind: Kind,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// How diagnostics name the object.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind.name(), &self.namespace, &self.name)
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the kind of its name")]
pub enum Object {
    AuthorizationPolicy(#[serde(with = "shared")] Arc<AuthorizationPolicy>),
    EndpointSlice(cluster::EndpointSlice),
    EnvoyFilter(extension::EnvoyFilter),
    IstioGateway(istio_gateway::IstioGateway),
    KubernetesGateway(kubernetes_gateway::KubernetesGateway),
    /// A ConfigMap with the mesh configuration, or an IstioOperator.
    MeshConfig(Kind, mesh_config::MeshConfig),
    Namespace(cluster::Namespace),
    Node(cluster::Node),
    Pod(pod::Pod),
    ProxyConfig(extension::ProxyConfig),
    RequestAuthentication(extension::RequestAuthentication),
    Service(service::Service),
    /// A Deployment, DaemonSet or StatefulSet.
    Template(Kind, pod::Template),
    /// A WasmPlugin, or a TrafficExtension, which says the same where we look.
    Plugin(Kind, extension::WasmPlugin),
    /// An object that cannot be read.
    Refused(Refused),
}

impl Object {
    /// Its identity; `None` for a refused object whose identity cannot be read.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        let (kind, meta) = match self {
            Self::AuthorizationPolicy(o) => (Kind::AuthorizationPolicy, &o.meta),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, &o.meta),
            Self::EnvoyFilter(o) => (Kind::EnvoyFilter, &o.meta),
            Self::IstioGateway(o) => (Kind::IstioGateway, &o.meta),
            Self::KubernetesGateway(o) => (Kind::KubernetesGateway, &o.meta),
            Self::MeshConfig(kind, o) => (*kind, &o.meta),
            Self::Namespace(o) => (Kind::Namespace, &o.meta),
            Self::Node(o) => (Kind::Node, &o.meta),
            Self::Pod(o) => (Kind::Pod, &o.meta),
            Self::ProxyConfig(o) => (Kind::ProxyConfig, &o.meta),
            Self::RequestAuthentication(o) => (Kind::RequestAuthentication, &o.meta),
            Self::Service(o) => (Kind::Service, &o.meta),
            Self::Template(kind, o) => (*kind, &o.meta),
            Self::Plugin(kind, o) => (*kind, &o.meta),
            Self::Refused(Refused {
                kind,
                namespace,
                name,
            }) => {
                return Some(Key {
                    kind: (*kind)?,
                    namespace: namespace.clone()?,
                    name: name.clone()?,
                });
            }
        };
        Some(Key {
            kind,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
        })
    }
}

/// apiVersion and kind of everything that is decoded, for tests and fuzzers.
#[must_use]
pub fn known_kinds() -> Vec<(String, &'static str)> {
    let all = KINDS
        .iter()
        .flat_map(|(_, name, group, versions)| versions.iter().map(|v| (join(group, v), *name)));
    all.collect()
}

/// What is said of an object that cannot be read.
const CONSEQUENCE: &str =
    "nothing that it could change is enforced, unless it is of a file whose last good version stays in force";

/// Lists inside lists, beyond this depth, are refused.
const MAX_LIST_DEPTH: usize = 8;

/// Decodes one document, lists expanded. Objects of kinds that do not bear on enforcement are left out.
///
/// Total: every fault is a diagnostic, and a faulty object an [`Object::Refused`].
#[must_use]
pub fn decode(document: &Value) -> (Vec<Object>, Vec<Diagnostic>) {
    let mut objects = Vec::new();
    let mut diagnostics = Vec::new();
    decode_into(document, None, 0, &mut objects, &mut diagnostics);
    (objects, diagnostics)
}

fn decode_into(
    document: &Value,
    of_list: Option<(&str, &str)>,
    depth: usize,
    objects: &mut Vec<Object>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let empty = Map::new();
    let map = document.as_object().unwrap_or(&empty);
    let text = |key: &str| map.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    let nameless = || {
        let part = |key: &str| {
            map.get("metadata")
                .and_then(|m| m.get(key))
                .and_then(Value::as_str)
        };
        ObjectRef::new(
            text("kind").unwrap_or("Object"),
            part("namespace").unwrap_or_default(),
            part("name").unwrap_or("(without a name)"),
        )
    };
    let (api_version, kind) = match (text("apiVersion"), text("kind"), of_list) {
        (Some(api_version), Some(kind), _) => (api_version, kind),
        // The items of a typed list, as the API itself prints it, carry neither.
        (None, None, Some((api_version, kind))) => (api_version, kind),
        (_, kind, _) => {
            let ours = kind.and_then(|kind| KINDS.iter().find(|(_, name, ..)| *name == kind));
            if let Some((kind, ..)) = ours {
                objects.push(refused(Some(*kind), document));
            }
            let message = "it has no apiVersion or no kind, so it is nothing that the cluster could hold: it is \
                           ignored; add both";
            diagnostics.push(Diagnostic::error("no-kind", nameless(), message));
            return;
        }
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));

    if let Some(item_kind) = kind.strip_suffix("List")
        && let Some(items) = map.get("items")
    {
        let item = (api_version, item_kind);
        let of_list = (!item_kind.is_empty()).then_some(item);
        match items {
            Value::Array(items) if depth < MAX_LIST_DEPTH => {
                for item in items {
                    decode_into(item, of_list, depth + 1, objects, diagnostics);
                }
            }
            Value::Null => {}
            _ => {
                objects.push(Object::Refused(Refused {
                    kind: None,
                    namespace: None,
                    name: None,
                }));
                let message = "its items are not a list of objects; nothing can be said about what it holds, so no \
                               gateway is enforced";
                diagnostics.push(Diagnostic::error("unreadable-list", nameless(), message));
            }
        }
        return;
    }

    let Some((known, _, _, versions)) = KINDS.iter().find(|(_, k, g, _)| *k == kind && *g == group) else {
        let message = format!("{api_version} {kind} does not bear on client addresses; ignored");
        diagnostics.push(Diagnostic::info("ignored-kind", nameless(), message));
        return;
    };
    if !versions.contains(&version) {
        objects.push(refused(Some(*known), document));
        let message = format!(
            "apiVersion {api_version} is not known here; {CONSEQUENCE}; write {}",
            versions
                .iter()
                .map(|v| join(group, v))
                .collect::<Vec<_>>()
                .join(" or ")
        );
        diagnostics.push(Diagnostic::error("unsupported-version", nameless(), message));
        return;
    }

    // Any other ConfigMap than the mesh configuration is not ours to judge.
    if *known == Kind::ConfigMap && !mesh_config::is_mesh_config(document) {
        return;
    }

    let faults = Faults::default();
    let object = read(*known, &Cursor::new(document, &faults));
    let faults = faults.into_inner();
    if faults.is_empty() {
        objects.push(object);
        return;
    }
    objects.push(refused(Some(*known), document));
    for fault in faults {
        let message = format!("{fault}. kubectl refuses such an object; {CONSEQUENCE}");
        diagnostics.push(Diagnostic::error("unreadable-object", nameless(), message));
    }
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn read(kind: Kind, top: &Cursor<'_>) -> Object {
    let meta = Meta::read(top, kind.is_namespaced());
    match kind {
        Kind::AuthorizationPolicy => Object::AuthorizationPolicy(Arc::new(AuthorizationPolicy {
            meta,
            spec: top.field("spec").value().into(),
        })),
        Kind::ConfigMap => Object::MeshConfig(kind, mesh_config::MeshConfig::from_config_map(meta, top)),
        Kind::DaemonSet | Kind::Deployment | Kind::StatefulSet => {
            Object::Template(kind, pod::Template::read(meta, top))
        }
        Kind::EndpointSlice => Object::EndpointSlice(cluster::EndpointSlice::read(meta, top)),
        Kind::EnvoyFilter => Object::EnvoyFilter(extension::EnvoyFilter::read(meta, top)),
        Kind::IstioGateway => Object::IstioGateway(istio_gateway::IstioGateway::read(meta, top)),
        Kind::IstioOperator => Object::MeshConfig(kind, mesh_config::MeshConfig::from_operator(meta, top)),
        Kind::KubernetesGateway => {
            Object::KubernetesGateway(kubernetes_gateway::KubernetesGateway::read(meta, top))
        }
        Kind::Namespace => Object::Namespace(cluster::Namespace { meta }),
        Kind::Node => Object::Node(cluster::Node::read(meta, top)),
        Kind::Pod => Object::Pod(pod::Pod::read(meta, top)),
        Kind::ProxyConfig => Object::ProxyConfig(extension::ProxyConfig::read(meta, top)),
        Kind::RequestAuthentication => {
            Object::RequestAuthentication(extension::RequestAuthentication::read(meta, top))
        }
        Kind::Service => Object::Service(service::Service::read(meta, top)),
        Kind::TrafficExtension | Kind::WasmPlugin => {
            Object::Plugin(kind, extension::WasmPlugin::read(meta, top))
        }
    }
}

/// An object that is refused, with as much of its identity as can be read.
fn refused(kind: Option<Kind>, document: &Value) -> Object {
    let faults = Faults::default();
    let meta = Cursor::new(document, &faults).field("metadata");
    let name = meta
        .field("name")
        .string()
        .filter(|name| !name.is_empty())
        .map(str::to_owned);
    let namespaced = kind.is_none_or(Kind::is_namespaced);
    let namespace = match (namespaced, meta.field("namespace").value()) {
        (false, _) => Some(String::new()),
        (true, Value::Null) => Some("default".to_owned()),
        (true, Value::String(text)) if text.is_empty() => Some("default".to_owned()),
        (true, Value::String(text)) => Some(text.clone()),
        (true, _) => None,
    };
    Object::Refused(Refused {
        kind,
        namespace,
        name,
    })
}

#[cfg(test)]
mod tests;
