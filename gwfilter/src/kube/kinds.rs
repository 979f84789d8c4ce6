//! Which kinds are watched, in which versions, and which objects of them. Pure.
//!
//! One entry is one watch and one source of the index. What a gateway does not depend on is not here: nothing is read
//! for later.

use crate::object::{Kind, Object};
use crate::snapshot::unread::Subject;

/// The objects of one kind, or some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Name of the source in the index, and in the log.
    pub source: String,
    /// The kind.
    pub kind: Kind,
    /// API group; empty for the core.
    pub group: &'static str,
    /// Versions whose shape is known, the best one first. The first one that is served is watched, and no other.
    pub versions: &'static [&'static str],
    /// The resource's name in paths and in RBAC.
    pub plural: &'static str,
    /// Which objects.
    pub scope: Scope,
    /// Whether the kind is made by a CRD, and may be missing.
    pub custom: bool,
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only those of this namespace.
    pub namespace: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
    /// Label selector.
    pub labels: Option<String>,
}

impl Watched {
    /// How RBAC and `kubectl` name the resource: `authorizationpolicies.security.istio.io`.
    #[must_use]
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// What it speaks of, for the index.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self.scope.labels {
            Some(_) => Subject::Istiods,
            None => Subject::Kind(self.kind),
        }
    }

    /// Whether an object of this watch is one of this source. A pod that was given no node yet belongs to none: it may turn up in the
    /// watch of this node's pods, and two sources must not tell different things of it.
    #[must_use]
    pub fn takes(&self, object: &Object) -> bool {
        match object {
            Object::Pod(pod) => pod.node.is_some(),
            _ => true,
        }
    }
}

const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];

/// Everything that is watched from a node.
#[must_use]
pub fn all(node: &str, mesh_config_map: (&str, &str)) -> Vec<Watched> {
    let core = |kind: Kind, plural| Watched {
        source: format!("Kubernetes {}", kind.name()),
        kind,
        group: "",
        versions: &["v1"],
        plural,
        scope: Scope::default(),
        custom: false,
    };
    let custom = |kind: Kind, group, versions, plural| Watched {
        group,
        versions,
        custom: true,
        ..core(kind, plural)
    };
    let named = |source: &str, scope: Scope, watched: Watched| Watched {
        source: source.to_owned(),
        scope,
        ..watched
    };

    let (namespace, name) = mesh_config_map;
    let config_map = Scope {
        namespace: Some(namespace.to_owned()),
        fields: Some(format!("metadata.name={name}")),
        labels: None,
    };
    let mut all = vec![
        custom(
            Kind::AuthorizationPolicy,
            "security.istio.io",
            SECURITY,
            "authorizationpolicies",
        ),
        custom(
            Kind::RequestAuthentication,
            "security.istio.io",
            SECURITY,
            "requestauthentications",
        ),
        core(Kind::Service, "services"),
        Watched {
            group: "discovery.k8s.io",
            ..core(Kind::EndpointSlice, "endpointslices")
        },
        core(Kind::Node, "nodes"),
        core(Kind::Namespace, "namespaces"),
        named(
            &format!("Kubernetes ConfigMap {namespace}/{name}"),
            config_map,
            core(Kind::ConfigMap, "configmaps"),
        ),
        named(
            "Kubernetes Gateway (Istio)",
            Scope::default(),
            custom(Kind::IstioGateway, "networking.istio.io", NETWORKING, "gateways"),
        ),
        named(
            "Kubernetes Gateway (Gateway API)",
            Scope::default(),
            custom(
                Kind::KubernetesGateway,
                "gateway.networking.k8s.io",
                &["v1", "v1beta1"],
                "gateways",
            ),
        ),
        custom(
            Kind::EnvoyFilter,
            "networking.istio.io",
            &["v1alpha3"],
            "envoyfilters",
        ),
        custom(
            Kind::ProxyConfig,
            "networking.istio.io",
            &["v1beta1"],
            "proxyconfigs",
        ),
        custom(
            Kind::WasmPlugin,
            "extensions.istio.io",
            &["v1", "v1alpha1"],
            "wasmplugins",
        ),
        custom(
            Kind::TrafficExtension,
            "extensions.istio.io",
            &["v1", "v1alpha1"],
            "trafficextensions",
        ),
    ];
    let here = Scope {
        fields: Some(format!("spec.nodeName={node}")),
        ..Scope::default()
    };
    // No pod is in both: two watches are never at the same moment.
    let istiod = Scope {
        fields: Some(format!("spec.nodeName!={node}")),
        labels: Some("app=istiod".to_owned()),
        ..Scope::default()
    };
    for (source, scope) in [("this node", here), ("istiod", istiod)] {
        all.push(named(
            &format!("Kubernetes Pod ({source})"),
            scope,
            core(Kind::Pod, "pods"),
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::object;

    #[test]
    fn every_watch_then_a_source_of_its_own_and_versions_that_are_decoded() {
        let all = all("n", ("istio-system", "istio"));
        let sources: BTreeSet<_> = all.iter().map(|w| w.source.as_str()).collect();
        assert_eq!(sources.len(), all.len());
        let known = object::known_kinds();
        for watched in &all {
            for version in watched.versions {
                let api_version = if watched.group.is_empty() {
                    (*version).to_owned()
                } else {
                    format!("{}/{version}", watched.group)
                };
                assert!(
                    known.contains(&(api_version.clone(), watched.kind.name())),
                    "{api_version} {}",
                    watched.source
                );
            }
        }
    }

    #[test]
    fn pods_of_this_node_and_istiods_then_no_pod_is_in_both_watches() {
        let all = all("n", ("istio-system", "istio"));
        let fields: Vec<_> = all
            .iter()
            .filter(|w| w.kind == Kind::Pod)
            .filter_map(|w| w.scope.fields.as_deref())
            .collect();
        assert_eq!(fields, ["spec.nodeName=n", "spec.nodeName!=n"]);
    }
}
