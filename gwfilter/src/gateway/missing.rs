//! What is not known of a gateway in a cluster: kinds that cannot be read, and pods that are not here (yet).
//!
//! A watch that gives nothing is no empty list. What a drop needs to know decides what each kind costs: some keep every
//! gateway from being enforced, others only leave it open where the client address comes from.

use super::candidate::Candidate;
use super::model::Why;
use super::world::World;
use crate::object::Kind;

/// Kinds without which nothing can be said of any gateway, and what they would tell.
const WHOLE: [(Kind, &str); 6] = [
    (Kind::Service, "which destinations are whose"),
    (
        Kind::Pod,
        "how the gateways' pods are set up, and which policies mean them",
    ),
    (Kind::EndpointSlice, "which pods receive"),
    (
        Kind::Node,
        "node addresses and pod CIDRs, which must never be dropped",
    ),
    (
        Kind::IstioGateway,
        "which pods are gateways, and which ports policies do not apply to",
    ),
    (Kind::KubernetesGateway, "which ports policies do not apply to"),
];

/// Kinds that may make a gateway take the client address from elsewhere, or answer before authorization.
const ADDRESS: [(Kind, &str); 3] = [
    (Kind::EnvoyFilter, "change what it takes for the client address"),
    (Kind::WasmPlugin, "answer clients before authorization"),
    (Kind::TrafficExtension, "answer clients before authorization"),
];

/// Why a gateway is not enforced at all.
pub(super) fn of_gateway(world: &World<'_>, candidate: &Candidate<'_>) -> Option<Why> {
    for (kind, what) in WHOLE {
        if let Some(why) = world.snapshot.unread.watched(kind) {
            let text = format!(
                "{what} is not known, since the API server does not tell {}s ({why}): it is enforced as soon as they \
                 can be read",
                kind.name()
            );
            return Some(Why {
                code: "unread-kind",
                text,
            });
        }
    }
    if world.settings.from_files {
        return None;
    }
    if !candidate.members.iter().any(|m| m.local) {
        let text = "no pod of it runs on this node, so nothing is judged here (kube-proxy drops what comes by \
                    load-balancer, external and node addresses where externalTrafficPolicy is Local)";
        return Some(Why {
            code: "no-local-endpoint",
            text: text.to_owned(),
        });
    }
    let (_, endpoint) = candidate
        .members
        .iter()
        .find(|m| m.local && m.pod.is_none())?
        .endpoint?;
    let name = match (&endpoint.pod, endpoint.addresses.first()) {
        (Some(pod), _) => format!("Pod {pod}"),
        (None, Some(address)) => address.to_string(),
        (None, None) => "an endpoint".to_owned(),
    };
    let text = format!(
        "{name} receives on this node and is no Pod that is known here, so neither is its client address or its \
         policies; if it is new or going, this is over in a moment; an endpoint written by hand must name a Pod (targetRef)"
    );
    Some(Why {
        code: "pod-not-known",
        text,
    })
}

/// What keeps the client address from being known, unless it is stated by hand.
pub(super) fn of_client_address(world: &World<'_>) -> Vec<Why> {
    let unread = &world.snapshot.unread;
    let doubt = |(kind, may): (Kind, &str)| {
        let why = unread.watched(kind)?;
        let text = format!(
            "an {} may {may}, and the API server does not tell them ({why})",
            kind.name()
        );
        Some(Why {
            code: "unread-kind",
            text: text.replacen("an W", "a W", 1).replacen("an T", "a T", 1),
        })
    };
    ADDRESS.into_iter().filter_map(doubt).collect()
}

/// What keeps the set-up of a pod without `PROXY_CONFIG` from being known.
pub(super) fn of_proxy_config(world: &World<'_>, pod: &str) -> Option<Why> {
    let kinds = [Kind::ConfigMap, Kind::ProxyConfig];
    let (kind, why) = kinds
        .into_iter()
        .find_map(|kind| Some((kind, world.snapshot.unread.watched(kind)?)))?;
    Some(Why {
        code: "unread-kind",
        text: format!(
            "{pod} carries no PROXY_CONFIG, so the mesh's default counts, and the API server does not tell {}s ({why})",
            kind.name()
        ),
    })
}
