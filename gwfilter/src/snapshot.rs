//! An immutable, ordered view of the index.

pub mod unread;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::object::authorization_policy::AuthorizationPolicy;
use crate::object::cluster::{EndpointSlice, Namespace, Node};
use crate::object::extension::{EnvoyFilter, ProxyConfig, RequestAuthentication, WasmPlugin};
use crate::object::istio_gateway::IstioGateway;
use crate::object::kubernetes_gateway::KubernetesGateway;
use crate::object::mesh_config::MeshConfig;
use crate::object::pod::{Pod, Template};
use crate::object::service::Service;
use crate::object::{Kind, Object, Refused};
use unread::Unread;

/// All objects at one moment, each kind in order of namespace and name.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "a list of the kind of its name")]
pub struct Snapshot {
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    pub endpoint_slices: Vec<EndpointSlice>,
    pub envoy_filters: Vec<EnvoyFilter>,
    pub istio_gateways: Vec<IstioGateway>,
    pub kubernetes_gateways: Vec<KubernetesGateway>,
    pub mesh_configs: Vec<MeshConfig>,
    pub namespaces: Vec<Namespace>,
    pub nodes: Vec<Node>,
    pub pods: Vec<Pod>,
    pub proxy_configs: Vec<ProxyConfig>,
    pub request_authentications: Vec<RequestAuthentication>,
    pub services: Vec<Service>,
    /// Deployments, DaemonSets and StatefulSets.
    pub templates: Vec<Template>,
    /// WasmPlugins and TrafficExtensions.
    pub plugins: Vec<(Kind, WasmPlugin)>,
    /// Objects that cannot be read, or that two inputs state differently, and that have no last good version.
    pub lost: Vec<Refused>,
    /// Whether every policy that there may be is in `policies` or by name in `lost`. If not, there may be a hole that is
    /// not known, so no default-deny may be enforced anywhere.
    pub complete: bool,
    /// Input that could not be read and has no last good version.
    pub unread: Unread,
    /// Addresses that pods had before a reboot: whose they are now is not known, so nothing is judged there.
    pub stale_addresses: BTreeSet<IpAddr>,
    /// What was found while reading, in order.
    pub diagnostics: Vec<Diagnostic>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            policies: Vec::new(),
            endpoint_slices: Vec::new(),
            envoy_filters: Vec::new(),
            istio_gateways: Vec::new(),
            kubernetes_gateways: Vec::new(),
            mesh_configs: Vec::new(),
            namespaces: Vec::new(),
            nodes: Vec::new(),
            pods: Vec::new(),
            proxy_configs: Vec::new(),
            request_authentications: Vec::new(),
            services: Vec::new(),
            templates: Vec::new(),
            plugins: Vec::new(),
            lost: Vec::new(),
            complete: true,
            unread: Unread::default(),
            stale_addresses: BTreeSet::new(),
            diagnostics: Vec::new(),
        }
    }
}

impl Snapshot {
    /// Of what the snapshot has nothing, though an object of it could take enforcement back: the gateway might see another client address, or
    /// let somebody in by it. In a cluster there is none then; of files, perhaps nobody has put them there.
    #[must_use]
    pub fn not_given(&self) -> Vec<&'static str> {
        let plugins = |kind| self.plugins.iter().any(|(known, _)| *known == kind);
        let lost = |kind| self.lost.iter().any(|lost| lost.kind == Some(kind));
        [
            (Kind::EnvoyFilter, "EnvoyFilter", !self.envoy_filters.is_empty()),
            (
                Kind::RequestAuthentication,
                "RequestAuthentication",
                !self.request_authentications.is_empty(),
            ),
            (Kind::ProxyConfig, "ProxyConfig", !self.proxy_configs.is_empty()),
            (Kind::WasmPlugin, "WasmPlugin", plugins(Kind::WasmPlugin)),
            (
                Kind::TrafficExtension,
                "TrafficExtension",
                plugins(Kind::TrafficExtension),
            ),
            (Kind::ConfigMap, "ConfigMap istio", !self.mesh_configs.is_empty()),
        ]
        .into_iter()
        .filter_map(|(kind, what, given)| (!given && !lost(kind)).then_some(what))
        .collect()
    }

    /// Adds an object to the list of its kind.
    pub(crate) fn add(&mut self, object: Object) {
        match object {
            Object::AuthorizationPolicy(o) => self.policies.push(o),
            Object::EndpointSlice(o) => self.endpoint_slices.push(o),
            Object::EnvoyFilter(o) => self.envoy_filters.push(o),
            Object::IstioGateway(o) => self.istio_gateways.push(o),
            Object::KubernetesGateway(o) => self.kubernetes_gateways.push(o),
            Object::MeshConfig(_, o) => self.mesh_configs.push(o),
            Object::Namespace(o) => self.namespaces.push(o),
            Object::Node(o) => self.nodes.push(o),
            Object::Pod(o) => self.pods.push(o),
            Object::ProxyConfig(o) => self.proxy_configs.push(o),
            Object::RequestAuthentication(o) => self.request_authentications.push(o),
            Object::Service(o) => self.services.push(o),
            Object::Template(_, o) => self.templates.push(o),
            Object::Plugin(kind, o) => self.plugins.push((kind, o)),
            Object::Refused(refused) => self.lose(refused),
        }
    }

    /// Whether every policy that may mean a workload of a namespace is in `policies`. `root`: the root namespace, where it
    /// is known. A policy means workloads of its own namespace, or, in the root namespace, of all.
    #[must_use]
    pub fn knows_policies_of(&self, namespace: &str, root: Option<&str>) -> bool {
        let may_mean = |lost: &Refused| {
            let there = lost.namespace.as_deref();
            lost.kind == Some(Kind::AuthorizationPolicy)
                && (root.is_none() || there.is_none() || there == Some(namespace) || there == root)
        };
        self.complete && !self.lost.iter().any(may_mean)
    }

    /// Notes an object that is there but not known.
    pub(crate) fn lose(&mut self, refused: Refused) {
        let of_somewhere = refused.kind == Some(Kind::AuthorizationPolicy) && refused.namespace.is_none();
        if refused.kind.is_none() || of_somewhere {
            self.complete = false;
        }
        if !self.lost.contains(&refused) {
            self.lost.push(refused);
        }
    }
}
