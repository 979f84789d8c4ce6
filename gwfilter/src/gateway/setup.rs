//! What the objects tell each gateway's Envoy about the client address, and where that is set: what the doctor compares with what it sees.
//!
//! The conclusion that enforcement stands on is `client_address`'s; here is what it is drawn from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::annotations::Annotations;
use super::candidate::{self, Candidate};
use super::client_address::{self, PROXY_CONFIG_ANNOTATION};
use super::cloud;
use super::model::{ClientAddress, Tri, Why};
use super::world::World;
use super::{Settings, stated};
use crate::node::NodeFacts;
use crate::snapshot::Snapshot;

/// Where a setting of a gateway's Envoy stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// In the pod's own proxy configuration.
    Pod,
    /// In the mesh configuration.
    Mesh,
    /// In an EnvoyFilter: namespace and name.
    EnvoyFilter(String, String),
}

/// What a gateway's Envoy is set to, and what would have to be changed to set it otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Namespace of the Service, or of the pods.
    pub namespace: String,
    /// Name of the Service, or of the pods' owner.
    pub name: String,
    /// Whether there is a Service.
    pub service: bool,
    /// The Service's `externalTrafficPolicy` is `Local`.
    pub local_policy: bool,
    /// Whether Envoy expects a PROXY header.
    pub reads_header: Tri,
    /// `numTrustedProxies`; `None` where it is not known.
    pub trusted_proxies: Option<u32>,
    /// What says so, each a half-sentence: "PROXY_CONFIG of Pod x sets numTrustedProxies 1".
    pub signs: Vec<String>,
    /// Where these settings stand.
    pub by: BTreeSet<By>,
    /// Other gateways of this node, `ns/service`, to which an EnvoyFilter of `by` applies too.
    pub filter_shared_with: Vec<String>,
    /// Why one of them is not known.
    pub doubts: Vec<Why>,
    /// `gwfilter.io/client-address`, where it is stated.
    pub stated: Option<ClientAddress>,
    /// Kind (in lower case) and name of what makes the pods, where that is known.
    pub owner: Option<(String, String)>,
    /// `proxy.istio.io/config` of the pods, where it is set.
    pub proxy_config: Option<String>,
    /// The Service's annotation by which a cloud's balancer is told to write a PROXY header.
    pub balancer: Option<String>,
    /// The scheme of the nodes' `providerID` (`aws`, `gce`, …), if they agree.
    pub provider: Option<String>,
}

/// The addresses that are the cluster's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Addresses of nodes, with their names.
    pub nodes: BTreeMap<IpAddr, String>,
    /// Networks of pods.
    pub pods: Vec<IpNet>,
}

/// The set-ups of all gateways of a node, in order of namespace and name, as [`super::find`] has them.
#[must_use]
pub fn setups(snapshot: &Snapshot, facts: &NodeFacts, settings: &Settings) -> Vec<Setup> {
    let world = World::new(snapshot, facts, settings);
    let candidates = candidate::find(&world, &mut Vec::new());
    let all: Vec<Annotations> = candidates.iter().map(|c| stated(&world, c)).collect();
    let mut setups: Vec<Setup> = candidates
        .iter()
        .zip(&all)
        .map(|(candidate, annotations)| setup(&world, candidate, annotations))
        .collect();
    setups.sort_by_key(|s| format!("{}/{}", s.namespace, s.name));
    let filters: Vec<(String, By)> = setups
        .iter()
        .flat_map(|s| {
            let filters = s.by.iter().filter(|by| matches!(by, By::EnvoyFilter(..)));
            filters.map(|by| (format!("{}/{}", s.namespace, s.name), by.clone()))
        })
        .collect();
    for setup in &mut setups {
        let own = format!("{}/{}", setup.namespace, setup.name);
        let others: BTreeSet<&String> = filters
            .iter()
            .filter(|(name, by)| *name != own && setup.by.contains(by))
            .map(|(name, _)| name)
            .collect();
        setup.filter_shared_with = others.into_iter().cloned().collect();
    }
    setups
}

/// The addresses that are the cluster's own, as far as the snapshot tells.
#[must_use]
pub fn own_addresses(snapshot: &Snapshot, facts: &NodeFacts) -> OwnAddresses {
    let mut own = OwnAddresses::default();
    let here = facts.name.as_deref().unwrap_or("this node");
    for address in facts.local_addresses.iter().flatten() {
        own.nodes.insert(*address, here.to_owned());
    }
    for node in &snapshot.nodes {
        let addresses = node.addresses.iter();
        own.nodes
            .extend(addresses.map(|address| (*address, node.meta.name.clone())));
        own.pods.extend(&node.pod_cidrs);
    }
    own
}

fn setup(world: &World<'_>, candidate: &Candidate<'_>, annotations: &Annotations) -> Setup {
    let evidence = client_address::signs(world, candidate);
    let one = evidence
        .topologies
        .first()
        .filter(|_| evidence.topologies.len() == 1);
    let followed = evidence.doubts.is_empty();
    let by_filter: Vec<bool> = evidence
        .proxy_header
        .iter()
        .filter(|(sign, _)| sign.starts_with("EnvoyFilter"))
        .map(|(_, certain)| *certain)
        .collect();
    let reads_header = match (one, followed) {
        (Some((_, true)), true) => Tri::True,
        _ if followed && by_filter.contains(&true) => Tri::True,
        (Some((_, false)), true) if by_filter.is_empty() => Tri::False,
        _ => Tri::Unknown,
    };
    let pods: Vec<_> = candidate.local_pods(world).collect();
    let owners: BTreeSet<(String, String)> = pods.iter().filter_map(|pod| candidate::owner(pod)).collect();
    let owner = owners.first().filter(|_| owners.len() == 1).cloned();
    let on_pods = pods
        .iter()
        .find_map(|pod| pod.meta.annotations.get(PROXY_CONFIG_ANNOTATION));
    let on_templates = candidate
        .templates
        .iter()
        .find_map(|template| template.annotations.get(PROXY_CONFIG_ANNOTATION));
    let providers: BTreeSet<&str> = world
        .snapshot
        .nodes
        .iter()
        .filter_map(|node| node.provider_id.split_once("://").map(|(scheme, _)| scheme))
        .collect();
    let signs = evidence.forwarded_for.iter().chain(&evidence.proxy_header);
    Setup {
        namespace: candidate.namespace.to_owned(),
        name: candidate.name.clone(),
        service: candidate.service.is_some(),
        local_policy: candidate.service.is_some_and(|s| s.local_policy),
        reads_header,
        trusted_proxies: one.map(|(proxies, _)| *proxies).filter(|_| followed),
        signs: signs.map(|(sign, _)| sign.clone()).collect(),
        by: evidence.by,
        filter_shared_with: Vec::new(),
        doubts: evidence.doubts,
        stated: annotations.client_address.flatten(),
        owner,
        proxy_config: on_pods.or(on_templates).cloned(),
        balancer: cloud::sign(world, candidate, &[]),
        provider: providers
            .first()
            .filter(|_| providers.len() == 1)
            .map(|p| (*p).to_owned()),
    }
}
