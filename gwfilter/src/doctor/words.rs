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
        Tri::True => "a PROXY header on every connection",
        Tri::False => "no PROXY header",
        Tri::Unknown => "what is not known of the PROXY header",
    };
    let proxies = setup
        .trusted_proxies
        .map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let signs = if setup.signs.is_empty() {
        "nothing sets either".to_owned()
    } else {
        setup.signs.join("; ")
    };
    format!("the gateway expects {header}; numTrustedProxies is {proxies} ({signs})")
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

/// Of a node or a pod.
pub(super) fn is_own(address: &IpAddr, own: &OwnAddresses) -> bool {
    own.nodes.contains_key(address) || own.pods.iter().any(|net| net.contains(address))
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
