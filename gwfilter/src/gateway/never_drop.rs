//! Sources that are never dropped, and whether the senders of health probes are among them.

use ipnet::IpNet;

use super::annotations::Annotations;
use super::candidate::Candidate;
use super::model::ClientAddress;
use super::world::World;

/// A cloud whose probes come from published ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    Google,
    Azure,
}

impl Provider {
    /// Sources of its health probes.
    fn ranges(self) -> &'static [&'static str] {
        match self {
            // External and internal load balancers.
            Self::Google => &[
                "35.191.0.0/16",
                "130.211.0.0/22",
                "209.85.152.0/22",
                "209.85.204.0/22",
                "2600:1901:8001::/48",
                "2600:2d00:1:b029::/64",
            ],
            // The platform's own address; over IPv6 its probes come from link-local ones.
            Self::Azure => &["168.63.129.16/32", "fe80::/10"],
        }
    }
}

/// Nodes, pods, probes, and what the user names; merged and sorted. Where a PROXY header names the client, balancers too: one that
/// names itself there is probing.
pub(super) fn find(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    annotations: &Annotations,
    mode: ClientAddress,
) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = world.settings.never_drop.clone();
    for node in &world.snapshot.nodes {
        nets.extend(node.addresses.iter().copied().map(IpNet::from));
        nets.extend(&node.pod_cidrs);
    }
    nets.extend(
        world
            .facts
            .local_addresses
            .iter()
            .flatten()
            .copied()
            .map(IpNet::from),
    );
    nets.extend(annotations.never_drop.iter().flatten());
    if mode == ClientAddress::ProxyHeader {
        nets.extend(annotations.trusted_proxies.iter().flatten());
    }
    if let Some(provider) = provider(world, candidate) {
        nets.extend(
            provider
                .ranges()
                .iter()
                .filter_map(|range| range.parse::<IpNet>().ok()),
        );
    }
    let mut nets = IpNet::aggregate(&nets.iter().map(IpNet::trunc).collect());
    nets.sort();
    nets
}

/// Whether default-deny cannot cut off health probes, or the user vouches that it does not.
///
/// Behind a PROXY header, probes without a header and those that say LOCAL always pass. What is left are balancers that probe with a
/// header that names themselves: those whose addresses the user states are known, and AWS's network load balancer says LOCAL.
pub(super) fn probes_known(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    annotations: &Annotations,
    mode: ClientAddress,
) -> bool {
    let by_header = mode == ClientAddress::ProxyHeader
        && (annotations.trusted_proxies.is_some() || says_local(candidate));
    world.settings.from_files
        || !world.settings.never_drop.is_empty()
        || annotations.never_drop.is_some()
        || annotations.client_address.flatten().is_some()
        || provider(world, candidate).is_some()
        || by_header
}

/// Whether the Service's balancer is AWS's network load balancer, whose probes carry a header with the command LOCAL.
fn says_local(candidate: &Candidate<'_>) -> bool {
    let annotations = candidate.service.map(|s| &s.meta.annotations);
    let kind = annotations.and_then(|a| a.get("service.beta.kubernetes.io/aws-load-balancer-type"));
    kind.is_some_and(|kind| matches!(kind.as_str(), "nlb" | "nlb-ip" | "external"))
}

/// By the Service's annotations, else by what the nodes say of themselves, if they agree.
fn provider(world: &World<'_>, candidate: &Candidate<'_>) -> Option<Provider> {
    let keys = candidate
        .service
        .into_iter()
        .flat_map(|s| s.meta.annotations.keys());
    for key in keys {
        if key.starts_with("cloud.google.com/") || key.starts_with("networking.gke.io/") {
            return Some(Provider::Google);
        }
        if key.starts_with("service.beta.kubernetes.io/azure-") {
            return Some(Provider::Azure);
        }
    }
    let mut providers = world.snapshot.nodes.iter().map(|node| {
        match node.provider_id.split_once("://").map(|(scheme, _)| scheme) {
            Some("gce") => Some(Provider::Google),
            Some("azure") => Some(Provider::Azure),
            _ => None,
        }
    });
    let first = providers.next()??;
    providers.all(|other| other == Some(first)).then_some(first)
}
