//! Sources that are never dropped, and whether the senders of health probes are among them.

use ipnet::IpNet;

use super::annotations::Annotations;
use super::candidate::Candidate;
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

/// Nodes, pods, probes, and what the user names; merged and sorted.
pub(super) fn find(world: &World<'_>, candidate: &Candidate<'_>, annotations: &Annotations) -> Vec<IpNet> {
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
pub(super) fn probes_known(world: &World<'_>, candidate: &Candidate<'_>, annotations: &Annotations) -> bool {
    world.settings.from_files
        || !world.settings.never_drop.is_empty()
        || annotations.never_drop.is_some()
        || annotations.client_address.flatten().is_some()
        || provider(world, candidate).is_some()
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
