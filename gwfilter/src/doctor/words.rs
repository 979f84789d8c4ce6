//! How the rules put figures and set-ups into words.

use std::net::IpAddr;

use super::Patient;
use super::seen::{Counted, Seen};
use crate::gateway::model::Tri;
use crate::gateway::setup::OwnAddresses;

/// What the gateway is set to, with what says so.
pub(super) fn set_up(patient: &Patient) -> String {
    let setup = &patient.setup;
    let header = match setup.reads_header {
        Tri::True => "the gateway expects a PROXY header on every connection",
        Tri::False => "the gateway expects no PROXY header",
        Tri::Unknown => "whether the gateway expects a PROXY header is not known",
    };
    let proxies = setup
        .trusted_proxies
        .map_or_else(|| "not known".to_owned(), |n| n.to_string());
    let signs = if setup.signs.is_empty() {
        "nothing sets either".to_owned()
    } else {
        setup.signs.join("; ")
    };
    format!("{header}; numTrustedProxies is {proxies} ({signs})")
}

/// A number of entries.
pub(super) fn entries(number: usize) -> String {
    if number == 1 {
        "1 entry".to_owned()
    } else {
        format!("{number} entries")
    }
}

/// X-Forwarded-For in figures.
pub(super) fn hops(seen: &Seen) -> String {
    let counts = &seen.forwarded;
    let each: Vec<String> = counts
        .entries
        .iter()
        .map(|(entries, count)| format!("{entries} in {count}"))
        .collect();
    format!(
        "{} of {} plaintext requests carry X-Forwarded-For{}{}",
        counts.with(),
        counts.known(),
        if each.is_empty() { "" } else { "; entries: " },
        each.join(", ")
    )
}

/// The most frequent addresses of a count, the cluster's own with their names.
pub(super) fn told(counted: &Counted, own: Option<&OwnAddresses>) -> String {
    let all = counted.most();
    let shown = all.iter().take(3).map(|(address, _)| {
        let name = own.and_then(|own| own.nodes.get(address));
        name.map_or_else(|| address.to_string(), |name| format!("{address} (node {name})"))
    });
    let shown: Vec<String> = shown.collect();
    match all.len().checked_sub(3) {
        None | Some(0) => shown.join(" and "),
        Some(more) => format!("{} and {more} more addresses", shown.join(", ")),
    }
}

/// The first of a list.
pub(super) fn few(list: &[String]) -> String {
    match list {
        [] => "no destination".to_owned(),
        [one] => one.clone(),
        [one, others @ ..] => format!("{one} and {} more", others.len()),
    }
}

/// Of a node: what something on the way writes over a client's. A pod's is a client's own.
pub(super) fn is_node(address: &IpAddr, own: &OwnAddresses) -> bool {
    own.nodes.contains_key(address)
}

/// Of a pod, and not of a node.
pub(super) fn is_pod(address: &IpAddr, own: &OwnAddresses) -> bool {
    !is_node(address, own) && own.pods.iter().any(|net| net.contains(address))
}

/// Of a private network, or one that providers have between their machines.
pub(super) fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}
