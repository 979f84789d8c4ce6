//! The mesh configuration: key `mesh` of ConfigMap `istio` or `istio-<revision>`, and `IstioOperator`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::drain::Drain;
use super::meta::Meta;
use super::read::Cursor;
use crate::manifest;

/// `gatewayTopology` of a proxy configuration, as far as it bears on the client address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// `numTrustedProxies`, where it is stated.
    pub trusted_proxies: Option<u32>,
    /// `proxyProtocol` is present.
    pub proxy_protocol: bool,
}

impl Topology {
    /// Reads it from a proxy configuration (`gatewayTopology` is a field of that).
    pub(crate) fn read(proxy_config: &Cursor<'_>) -> Self {
        let topology = proxy_config.field("gatewayTopology");
        let proxies = topology.field("numTrustedProxies");
        // The JSON form of protobuf allows a number in quotes.
        let number = match proxies.value() {
            Value::Null => None,
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let trusted_proxies = number.and_then(|n| u32::try_from(n).ok());
        if trusted_proxies.is_none() && !proxies.is_absent() {
            proxies.fault("expected a number of proxies");
        }
        let proxy_protocol = topology.field("proxyProtocol");
        proxy_protocol.expect_object();
        Self {
            trusted_proxies,
            proxy_protocol: !proxy_protocol.is_absent(),
        }
    }

    /// This, with what `over` states laid over it.
    #[must_use]
    pub fn overlaid(self, over: Self) -> Self {
        Self {
            trusted_proxies: over.trusted_proxies.or(self.trusted_proxies),
            proxy_protocol: over.proxy_protocol || self.proxy_protocol,
        }
    }
}

/// A Kubernetes label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelSelector {
    match_labels: BTreeMap<String, String>,
    /// Key, operator, values.
    expressions: Vec<(String, String, Vec<String>)>,
}

impl LabelSelector {
    fn read(cursor: &Cursor<'_>) -> Self {
        let text = |c: &Cursor<'_>| c.string().unwrap_or_default().to_owned();
        let expressions = cursor.field("matchExpressions").list().into_iter().map(|e| {
            let operator = text(&e.field("operator"));
            if !matches!(operator.as_str(), "In" | "NotIn" | "Exists" | "DoesNotExist") {
                e.field("operator")
                    .fault("expected In, NotIn, Exists or DoesNotExist");
            }
            (
                text(&e.field("key")),
                operator,
                e.field("values").list().iter().map(text).collect(),
            )
        });
        Self {
            expressions: expressions.collect(),
            match_labels: cursor.field("matchLabels").string_map(),
        }
    }

    /// Whether it selects something with these labels.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        super::meta::subset(&self.match_labels, labels)
            && self.expressions.iter().all(|(key, operator, values)| {
                let value = labels.get(key);
                match operator.as_str() {
                    "In" => value.is_some_and(|v| values.contains(v)),
                    "NotIn" => value.is_none_or(|v| !values.contains(v)),
                    "Exists" => value.is_some(),
                    _ => value.is_none(),
                }
            })
    }
}

/// What gwfilter needs of a mesh configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshSettings {
    /// `rootNamespace`, where it is stated.
    pub root_namespace: Option<String>,
    /// `defaultConfig.gatewayTopology`.
    pub topology: Topology,
    /// `defaultConfig.drainDuration`.
    pub drain: Drain,
    /// `discoverySelectors`: a namespace is in the mesh if one of them selects it, or if there are none.
    pub discovery_selectors: Vec<LabelSelector>,
}

impl MeshSettings {
    fn read(mesh: &Cursor<'_>) -> Self {
        let root = mesh.field("rootNamespace").string().filter(|r| !r.is_empty());
        Self {
            root_namespace: root.map(str::to_owned),
            topology: Topology::read(&mesh.field("defaultConfig")),
            drain: Drain::read(&mesh.field("defaultConfig")),
            discovery_selectors: mesh
                .field("discoverySelectors")
                .list()
                .iter()
                .map(LabelSelector::read)
                .collect(),
        }
    }

    fn overlaid(self, over: Self) -> Self {
        Self {
            root_namespace: over.root_namespace.or(self.root_namespace),
            topology: self.topology.overlaid(over.topology),
            drain: self.drain.overlaid(over.drain),
            discovery_selectors: if over.discovery_selectors.is_empty() {
                self.discovery_selectors
            } else {
                over.discovery_selectors
            },
        }
    }
}

/// A gateway that an IstioOperator sets up, as far as it adds to the Service and the pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorGateway {
    /// Namespace and name of the Service.
    pub service: (String, String),
    /// `k8s.serviceAnnotations`.
    pub service_annotations: BTreeMap<String, String>,
    /// `k8s.podAnnotations`.
    pub pod_annotations: BTreeMap<String, String>,
    /// `k8s.env` or `k8s.overlays` speak of the proxy's configuration: what they do to it is not followed.
    pub patches_proxy: bool,
}

/// The mesh configuration, from whichever object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeshConfig {
    /// Name and namespace of the ConfigMap or IstioOperator.
    pub meta: Meta,
    /// The settings.
    pub settings: MeshSettings,
    /// Gateways of an IstioOperator.
    pub gateways: Vec<OperatorGateway>,
}

impl MeshConfig {
    /// From a ConfigMap for which [`is_mesh_config`] holds.
    pub(super) fn from_config_map(meta: Meta, top: &Cursor<'_>) -> Self {
        let mesh = top.at(&["data", "mesh"]);
        let text = mesh.string().unwrap_or_default();
        let settings = match manifest::parse_one(text) {
            Ok(value) => {
                let faults = super::read::Faults::default();
                let settings = MeshSettings::read(&Cursor::new(&value, &faults));
                for fault in faults.into_inner() {
                    mesh.fault(&fault);
                }
                settings
            }
            Err(error) => {
                mesh.fault(&format!("not readable as YAML ({error})"));
                MeshSettings::default()
            }
        };
        Self {
            meta,
            settings,
            gateways: Vec::new(),
        }
    }

    /// From an IstioOperator.
    pub(super) fn from_operator(meta: Meta, top: &Cursor<'_>) -> Self {
        let spec = top.field("spec");
        let values = MeshSettings::read(&spec.at(&["values", "meshConfig"]));
        let settings = values.overlaid(MeshSettings::read(&spec.field("meshConfig")));
        let default_namespace = spec.field("namespace").string().unwrap_or("istio-system");
        let gateways = spec
            .at(&["components", "ingressGateways"])
            .list()
            .into_iter()
            .map(|gateway| {
                let k8s = gateway.field("k8s");
                let namespace = gateway.field("namespace").string().unwrap_or(default_namespace);
                let name = gateway.field("name").string().unwrap_or("istio-ingressgateway");
                let patches_proxy = ["env", "overlays"].iter().any(|key| {
                    let text = k8s.field(key).value().to_string();
                    [
                        "PROXY_CONFIG",
                        "proxy.istio.io/config",
                        "gatewayTopology",
                        "numTrustedProxies",
                        "proxyProtocol",
                    ]
                    .iter()
                    .any(|word| text.contains(word))
                });
                OperatorGateway {
                    service: (namespace.to_owned(), name.to_owned()),
                    service_annotations: k8s.field("serviceAnnotations").string_map(),
                    pod_annotations: k8s.field("podAnnotations").string_map(),
                    patches_proxy,
                }
            });
        let gateways = gateways.collect();
        Self {
            meta,
            settings,
            gateways,
        }
    }
}

/// Whether a ConfigMap is one of istiod's: named `istio` or `istio-…`, with a key `mesh`.
pub(super) fn is_mesh_config(config_map: &Value) -> bool {
    let name = config_map
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    (name == "istio" || name.starts_with("istio-")) && config_map.pointer("/data/mesh").is_some()
}
