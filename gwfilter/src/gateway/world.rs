//! The snapshot and the node, with the look-ups that all of gateway discovery shares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Settings;
use super::candidate::Candidate;
use crate::diagnostic::{Diagnostic, ObjectRef};
use crate::node::NodeFacts;
use crate::object::Kind;
use crate::object::cluster::EndpointSlice;
use crate::object::mesh_config::{MeshConfig, OperatorGateway};
use crate::object::meta::subset;
use crate::object::pod::{Pod, Template};
use crate::object::service::Service;
use crate::snapshot::Snapshot;

/// What everything here is computed from.
pub(super) struct World<'a> {
    /// The objects.
    pub(super) snapshot: &'a Snapshot,
    /// The node.
    pub(super) facts: &'a NodeFacts,
    /// The settings.
    pub(super) settings: &'a Settings,
    /// Root namespace; `None` where it is not known.
    pub(super) root: Option<String>,
    /// What istiod reads of Gateways.
    pub(super) reading: super::mesh::Reading,
    /// Cluster addresses of all Services: under IPVS they are on an interface of the node.
    cluster_ips: BTreeSet<IpAddr>,
    /// EndpointSlices by namespace and Service.
    slices: BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

impl<'a> World<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, facts: &'a NodeFacts, settings: &'a Settings) -> Self {
        let cluster_ips = snapshot
            .services
            .iter()
            .flat_map(|s| s.cluster_ips.iter().copied())
            .collect();
        let root = super::mesh::root_namespace(snapshot, settings);
        let mut slices: BTreeMap<_, Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in &snapshot.endpoint_slices {
            if let Some(service) = slice.service() {
                let of = (slice.meta.namespace.as_str(), service);
                slices.entry(of).or_default().push(slice);
            }
        }
        Self {
            snapshot,
            facts,
            settings,
            root,
            reading: super::mesh::Reading::of(snapshot),
            cluster_ips,
            slices,
        }
    }

    /// A finding, if the objects know nodes by name, but not the one that is meant.
    pub(super) fn unknown_node(&self) -> Option<Diagnostic> {
        let name = self.facts.name.as_deref()?;
        let nodes = self.snapshot.nodes.iter().map(|node| node.meta.name.as_str());
        let hosts = self.snapshot.pods.iter().filter_map(|pod| pod.node.as_deref());
        let known: BTreeSet<&str> = nodes.chain(hosts).collect();
        if known.is_empty() || known.contains(name) {
            return None;
        }
        let some = known.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let more = if known.len() > 8 { ", …" } else { "" };
        Some(Diagnostic::warning(
            "unknown-node",
            ObjectRef::new("Node", "", name),
            format!(
                "no Node and no Pod speaks of a node of this name, so every pod is taken to be elsewhere; the names there are: {some}{more}"
            ),
        ))
    }

    /// Whether something on that node is on this one. What is on no node is taken as here.
    pub(super) fn is_local(&self, node: Option<&str>) -> bool {
        match (&self.facts.name, node) {
            (Some(here), Some(there)) => here == there,
            _ => true,
        }
    }

    /// The Service's EndpointSlices.
    pub(super) fn slices(&self, service: &Service) -> Vec<&'a EndpointSlice> {
        let of = (service.meta.namespace.as_str(), service.meta.name.as_str());
        self.slices.get(&of).cloned().unwrap_or_default()
    }

    /// The Service's pods that are not finished, by selector or endpoint.
    pub(super) fn pods_of(&self, service: &Service, slices: &[&EndpointSlice]) -> Vec<&'a Pod> {
        let named: BTreeSet<&str> = slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter_map(|e| e.pod.as_deref())
            .collect();
        let addressed: BTreeSet<IpAddr> = slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter(|e| e.pod.is_none())
            .flat_map(|e| e.addresses.iter().copied())
            .collect();
        let of = |pod: &&Pod| {
            pod.meta.namespace == service.meta.namespace
                && pod.is_alive()
                && (selects(service, &pod.meta.labels)
                    || named.contains(pod.meta.name.as_str())
                    || !addressed.is_disjoint(&pod.ips))
        };
        self.snapshot.pods.iter().filter(of).collect()
    }

    /// The templates whose pods the Service selects.
    pub(super) fn templates_of(&self, service: &Service) -> Vec<&'a Template> {
        let of = |t: &&Template| t.meta.namespace == service.meta.namespace && selects(service, &t.labels);
        self.snapshot.templates.iter().filter(of).collect()
    }

    /// Whether some Istio Gateway, in whatever namespace, names these labels. One without a selector names none.
    pub(super) fn gateway_selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.snapshot
            .istio_gateways
            .iter()
            .any(|g| !g.selector.is_empty() && subset(&g.selector, labels))
    }

    /// Whether an object of this kind is certainly, or perhaps, there and not known.
    pub(super) fn misses(&self, kind: Kind) -> bool {
        let mut lost = self.snapshot.lost.iter();
        self.snapshot.unread.watched(kind).is_some() || lost.any(|l| l.kind == Some(kind))
    }

    /// Whether a Gateway API Gateway of this name is a waypoint.
    pub(super) fn is_waypoint(&self, namespace: &str, name: &str) -> bool {
        self.snapshot
            .kubernetes_gateways
            .iter()
            .any(|g| g.meta.namespace == namespace && g.meta.name == name && g.class == "istio-waypoint")
    }

    /// What IstioOperators add to the candidate's Service and pods.
    pub(super) fn operator_gateways(&self, candidate: &Candidate<'_>) -> Vec<(&'a str, &'a OperatorGateway)> {
        let of = |mesh: &'a MeshConfig| mesh.gateways.iter().map(|g| (mesh.meta.name.as_str(), g));
        let all = self.snapshot.mesh_configs.iter().flat_map(of);
        all.filter(|(_, g)| {
            candidate.service.is_some() && g.service.0 == candidate.namespace && g.service.1 == candidate.name
        })
        .collect()
    }

    /// Addresses of the node, as they stand on packets to it.
    pub(super) fn node_addresses(&self, candidate: &Candidate<'_>) -> BTreeSet<IpAddr> {
        let mut addresses: BTreeSet<IpAddr> = match (&self.facts.local_addresses, &self.facts.name) {
            (Some(local), _) => local.clone(),
            (None, Some(name)) => self.addresses_of(|node| node == name),
            (None, None) => {
                let hosts: BTreeSet<&str> = candidate
                    .pods
                    .iter()
                    .filter_map(|pod| pod.node.as_deref())
                    .collect();
                self.addresses_of(|node| hosts.is_empty() || hosts.contains(node))
            }
        };
        addresses.retain(|addr| !self.cluster_ips.contains(addr));
        addresses
    }

    fn addresses_of(&self, wanted: impl Fn(&str) -> bool) -> BTreeSet<IpAddr> {
        let nodes = self.snapshot.nodes.iter().filter(|node| wanted(&node.meta.name));
        nodes.flat_map(|node| node.addresses.iter().copied()).collect()
    }
}

/// Whether a Service selects these labels. One without a selector selects nothing.
pub(super) fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    !service.selector.is_empty() && subset(&service.selector, labels)
}
