//! From facts to the rows of gateways: what the agent wrote down, what the tables in force have, and what was counted, by name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gwfilter_common::abi::{TUPLE_OBSERVE, Tuple};

use super::{Control, Gateway, GatewayState, Left, Packets, RUNNING};
use crate::code;
use crate::gateway::model::{Protocol, TupleKey};
use crate::plan::Names;

/// What the tables in force have of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Its destinations.
    pub tuples: Vec<TupleKey>,
    /// Names of its tables.
    pub tables: BTreeSet<String>,
    /// Something may be dropped.
    pub drops: bool,
}

/// The gateway that a listener is of. An index without a name is called by its number: its packets were counted all the same.
#[must_use]
pub fn gateway_of(names: &Names, listener: u32) -> String {
    match names.listeners.get(&listener) {
        Some(name) => name.gateway.to_string(),
        None => format!("(listener {listener}, its name is not known)"),
    }
}

/// Destinations and tables by gateway. `observe`: nothing is dropped, whatever a tuple says.
#[must_use]
pub fn in_force(tuples: &[(Tuple, Vec<String>)], observe: bool, names: &Names) -> BTreeMap<String, InForce> {
    let mut found: BTreeMap<String, InForce> = BTreeMap::new();
    for (tuple, tables) in tuples {
        let row = found.entry(gateway_of(names, tuple.listener)).or_default();
        row.tuples.extend(key_of(tuple));
        row.tables.extend(tables.iter().cloned());
        let tcp = tuple.protocol == 6;
        row.drops |= tcp && !observe && tuple.flags & TUPLE_OBSERVE == 0 && !tables.is_empty();
    }
    for row in found.values_mut() {
        row.tuples.sort();
    }
    found
}

fn key_of(tuple: &Tuple) -> Option<TupleKey> {
    let addr = match (tuple.family, tuple.addr.first_chunk::<4>()) {
        (4, Some(four)) => IpAddr::V4(Ipv4Addr::from(*four)),
        (6, _) => IpAddr::V6(Ipv6Addr::from(tuple.addr)),
        _ => return None,
    };
    let protocol = match tuple.protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Some(TupleKey {
        addr,
        port: tuple.port,
        protocol,
    })
}

/// What is known beside what the agent left.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// [`super::Status::agent`].
    pub agent: &'a str,
    /// [`super::in_place`].
    pub attached: bool,
    /// Lease and pause.
    pub control: Option<&'a Control>,
    /// By gateway; `None`: the tables cannot be read.
    pub in_force: Option<&'a BTreeMap<String, InForce>>,
    /// What each table takes, in bytes.
    pub tables: &'a BTreeMap<String, Option<u64>>,
    /// By gateway; `None`: the counters cannot be read.
    pub packets: Option<&'a BTreeMap<String, Packets>>,
}

/// The rows: each gateway that the agent wrote down, or that the tables in force have.
#[must_use]
pub fn rows(last: Option<&Left>, facts: &Facts<'_>) -> Vec<Gateway> {
    let noted = last.map(|last| last.gateways.as_slice()).unwrap_or_default();
    let observe = last.is_some_and(|last| last.observe);
    let known = facts.in_force.into_iter().flat_map(BTreeMap::keys);
    let names: BTreeSet<&String> = noted.iter().map(|g| &g.name).chain(known).collect();
    let row = |name: &String| {
        let noted = noted.iter().find(|g| g.name == *name);
        let kernel = facts
            .in_force
            .map(|all| all.get(name).cloned().unwrap_or_default());
        let enforced = match (noted, &kernel) {
            (Some(noted), _) => noted.enforced,
            (None, kernel) => kernel.as_ref().is_some_and(|kernel| kernel.drops),
        };
        let why = noted.map(|noted| noted.why.clone()).unwrap_or_default();
        Gateway {
            name: name.clone(),
            client_address: noted.map(|noted| noted.client_address.clone()),
            enforced,
            state: state(enforced, &why, observe, facts),
            why,
            tuples: kernel
                .as_ref()
                .map(|kernel| kernel.tuples.iter().map(TupleKey::to_string).collect()),
            prefixes: noted.and_then(|noted: &GatewayState| noted.prefixes),
            tables: kernel.as_ref().map(|kernel| kernel.tables.len()),
            memory_bytes: kernel
                .as_ref()
                .and_then(|kernel| memory(&kernel.tables, facts.tables)),
            packets: facts
                .packets
                .map(|all| all.get(name).copied().unwrap_or_default()),
        }
    };
    names.into_iter().map(row).collect()
}

/// What these tables take; `None` if the kernel does not say it of one.
fn memory(of: &BTreeSet<String>, tables: &BTreeMap<String, Option<u64>>) -> Option<u64> {
    of.iter().map(|name| tables.get(name).copied().flatten()).sum()
}

/// What the kernel does of what the agent has written down of a gateway.
pub(super) fn state(enforced: bool, why: &[String], observe: bool, facts: &Facts<'_>) -> String {
    let agent_says = match (enforced, !why.iter().any(|why| code::leaves_out(why))) {
        (true, true) => "enforced",
        (true, false) => "enforced in part",
        (false, _) => return "not enforced".to_owned(),
    };
    if !facts.attached {
        return format!("was {agent_says}, nothing is attached now");
    }
    let Some(control) = facts.control else {
        return format!("{agent_says} as the agent wrote down, if neither lease nor pause is in the way");
    };
    if control.lease == "expired" {
        return format!("was {agent_says}, until the lease ran out");
    }
    if observe {
        return "counted only".to_owned();
    }
    if control.paused {
        return format!("counted only, {agent_says} when the pause ends");
    }
    let pods = control.pod_lease == "expired";
    match (facts.agent == RUNNING, pods) {
        (true, false) => agent_says.to_owned(),
        (true, true) => format!("{agent_says} but for pods' addresses"),
        (false, false) => format!("still {agent_says}, by the last policies"),
        (false, true) => format!("still {agent_says}, by the last policies, but for pods' addresses"),
    }
}
