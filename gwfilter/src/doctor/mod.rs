//! The truth about the client address: what the node sees, what the gateway's Envoy is set to see, what the traffic says, whether they agree, and what
//! mends it. Pure: facts in, findings out.
//!
//! A contradiction is said only of what was seen often enough ([`ENOUGH`]); what could have another cause is called likely. What is not known is
//! said to be not known.

mod mend;
pub mod payload;
mod rules;
pub mod seen;
mod sources;
pub mod text;
mod words;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::gateway::model::{Gateway, Protocol, Tri, TupleKey};
use crate::gateway::setup::{OwnAddresses, Setup};
use crate::pipeline::Built;
use crate::policy::Policy;
pub use mend::{Mend, Way};
use seen::Seen;

/// Streams whose first bytes must have been seen before anything is said of them.
pub const ENOUGH: u64 = 20;
/// The same, before anything is said of where they come from.
pub const ENOUGH_SOURCES: u64 = 40;
/// The same, before a few addresses are taken for a load balancer's: few clients send that much in so short a time.
pub const ENOUGH_OF_ONE: u64 = 100;

/// What a finding, or a gateway, comes to. In order: the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The gateway judges the address that clients have.
    Agree,
    /// Something to know, and nothing to mend.
    Note,
    /// Too little was seen to say.
    NotEnough,
    /// It cannot be known: why.
    Unknown,
    /// The gateway judges other addresses than the clients'.
    Contradiction,
}

impl Verdict {
    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Note => "note",
            Self::NotEnough => "not-enough",
            Self::Unknown => "unknown",
            Self::Contradiction => "contradiction",
        }
    }
}

/// How sure a contradiction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// It has no other cause.
    Certain,
    /// It may have another cause, which is named.
    Likely,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Kebab-case code; public.
    pub code: Cow<'static, str>,
    /// What it comes to.
    pub verdict: Verdict,
    /// How sure it is.
    pub certainty: Certainty,
    /// What is, in a sentence.
    pub what: String,
    /// What it is drawn from, in figures.
    pub evidence: Vec<String>,
    /// What follows from it for the policies.
    pub follows: Vec<String>,
    /// What mends it: any one of them.
    pub mends: Vec<Way>,
}

/// What the gateway's Envoy is set to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySide {
    /// Whether it expects a PROXY header: `yes`, `no` or `unknown`.
    pub reads_proxy_header: Cow<'static, str>,
    /// `numTrustedProxies`.
    pub trusted_proxies: Option<u32>,
    /// What says so.
    pub set_by: Vec<String>,
}

/// What this node sees without traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSide {
    /// Where gwfilter takes the client's address from: `packet-source|proxy-header|x-forwarded-for|unknown`.
    pub client_address: Cow<'static, str>,
    /// `Local` or `Cluster`; none where there is no Service.
    pub external_traffic_policy: Option<Cow<'static, str>>,
    /// Destinations whose packets are judged here: `ip:port/proto`.
    pub judged: Vec<String>,
    /// Those whose packets are not, because something rewrites their sources.
    pub rewritten: Vec<String>,
}

/// What was seen of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections that began.
    pub connections: u64,
    /// Those whose first bytes were seen.
    pub streams: u64,
    /// Where they come from, the most frequent first, ten at most.
    pub sources: Vec<Source>,
    /// How many sources there are.
    pub distinct_sources: usize,
    /// Streams that begin with a PROXY header, version 1.
    pub proxy_v1: u64,
    /// The same, version 2.
    pub proxy_v2: u64,
    /// Streams that begin with a TLS handshake.
    pub tls: u64,
    /// Streams that begin with a request of HTTP/1.
    pub http: u64,
    /// Streams that begin with something else.
    pub other: u64,
    /// Plaintext requests without X-Forwarded-For.
    pub forwarded_for_absent: u64,
    /// Plaintext requests by the entries of X-Forwarded-For: (entries, requests).
    pub forwarded_for: Vec<(usize, u64)>,
    /// Packets that gwfilter refused meanwhile.
    pub refused: u64,
    /// Of those, how many it is known of where they came from: an estimate, from samples.
    pub refused_known: u64,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Address.
    pub address: String,
    /// Streams.
    pub streams: u64,
    /// The node whose address it is.
    pub node: Option<String>,
}

/// One gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// `ns/service`.
    pub name: String,
    /// The worst of its findings.
    pub verdict: Verdict,
    /// What its Envoy is set to see.
    pub gateway: GatewaySide,
    /// What this node sees.
    pub node: NodeSide,
    /// What was seen; none if nothing was looked at.
    pub traffic: Option<Traffic>,
    /// Findings, the worst first.
    pub findings: Vec<Finding>,
}

/// How traffic was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// For how long.
    pub seconds: u64,
    /// On which interfaces.
    pub interfaces: Vec<String>,
    /// Connections beyond what is looked at in a second.
    pub over_budget: u64,
    /// Connections for which there was no room.
    pub lost: u64,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How traffic was looked at; none if it was not.
    pub observed: Option<Observed>,
    /// One for each gateway, in order of namespace and name.
    pub gateways: Vec<Diagnosis>,
}

impl Report {
    /// Whether there is nothing to mend.
    #[must_use]
    pub fn content(&self) -> bool {
        self.gateways.iter().all(|g| g.verdict != Verdict::Contradiction)
    }
}

/// Fields that are compared with the address of the gateway's peer, whatever a header says.
const PEER: [&str; 3] = ["ipBlocks", "notIpBlocks", "source.ip"];
/// Fields that are compared with the address that the gateway takes for the client's.
const CLIENT: [&str; 2] = ["emoteIpBlocks", "remote.ip"];

/// A policy that names addresses and bears on a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyUse {
    name: String,
    action: String,
    /// `ipBlocks`, `remoteIpBlocks`, …, as they are written.
    fields: BTreeSet<String>,
}

/// One gateway, with all that is known of it without traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patient {
    setup: Setup,
    policies: Vec<PolicyUse>,
    node: NodeSide,
    destinations: Vec<TupleKey>,
}

impl Patient {
    /// `ns/service`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.setup.namespace, self.setup.name)
    }

    /// TCP destinations at which its traffic can be looked at.
    #[must_use]
    pub fn destinations(&self) -> &[TupleKey] {
        &self.destinations
    }
}

/// A gateway of which it is not yet known what its Envoy is set to.
#[derive(Clone, Debug)]
pub struct Bed {
    namespace: String,
    name: String,
    policies: Vec<PolicyUse>,
    node: NodeSide,
    destinations: Vec<TupleKey>,
}

/// The gateways of a node, as they were built from objects. Cheap: nothing is looked up in the objects.
#[must_use]
pub fn beds(built: &Built) -> Vec<Bed> {
    let policies: BTreeMap<String, &Policy> = built
        .policies
        .iter()
        .map(|policy| (format!("{}/{}", policy.namespace, policy.name), policy.as_ref()))
        .collect();
    let both = built.gateways.iter().enumerate();
    both.map(|(index, gateway)| Bed {
        namespace: gateway.namespace.clone(),
        name: gateway.name.clone(),
        policies: uses(built, index, &policies),
        node: node_side(gateway),
        destinations: destinations(gateway),
    })
    .collect()
}

/// The gateways with what their Envoys are set to; `setups` are of the same objects.
#[must_use]
pub fn patients(beds: Vec<Bed>, setups: &[Setup]) -> Vec<Patient> {
    let each = beds.into_iter().filter_map(|bed| {
        let mut setups = setups.iter();
        let setup = setups.find(|s| s.namespace == bed.namespace && s.name == bed.name)?;
        let mut node = bed.node;
        let policy = if setup.local_policy { "Local" } else { "Cluster" };
        node.external_traffic_policy = setup.service.then(|| policy.into());
        Some(Patient {
            policies: bed.policies,
            node,
            destinations: bed.destinations,
            setup: setup.clone(),
        })
    });
    each.collect()
}

fn uses(built: &Built, index: usize, policies: &BTreeMap<String, &Policy>) -> Vec<PolicyUse> {
    let reported = built.reports.get(index).into_iter().flat_map(|r| &r.policies);
    let uses = reported.filter(|report| !report.dry_run).filter_map(|report| {
        let policy = policies.get(&report.name)?;
        let fields: BTreeSet<String> = policy
            .rules
            .iter()
            .flat_map(|rule| rule.from.iter().flat_map(|entry| &entry.fields).chain(&rule.when))
            .map(|field| field.name.clone())
            .filter(|name| PEER.iter().chain(&CLIENT).any(|word| name.contains(word)))
            .collect();
        (!fields.is_empty()).then(|| PolicyUse {
            name: report.name.clone(),
            action: report.action.clone(),
            fields,
        })
    });
    uses.collect()
}

fn node_side(gateway: &Gateway) -> NodeSide {
    let tuples = gateway.listeners.iter().flat_map(|l| &l.tuples);
    NodeSide {
        client_address: gateway.client_address.name().into(),
        external_traffic_policy: None,
        judged: tuples
            .filter(|_| gateway.not_enforced.is_none())
            .map(|t| t.key.to_string())
            .collect(),
        rewritten: gateway.rewritten.iter().map(ToString::to_string).collect(),
    }
}

fn destinations(gateway: &Gateway) -> Vec<TupleKey> {
    let judged = gateway.listeners.iter().flat_map(|l| &l.tuples).map(|t| t.key);
    let all: BTreeSet<TupleKey> = judged.chain(gateway.rewritten.iter().copied()).collect();
    all.into_iter()
        .filter(|key| key.protocol == Protocol::Tcp)
        .collect()
}

/// Examines one gateway; `seen`: what its traffic said, if it was looked at.
#[must_use]
pub fn examine(patient: &Patient, seen: Option<&Seen>, own: &OwnAddresses) -> Diagnosis {
    let mut findings = rules::findings(patient, seen, own);
    // The law comes first, what is certain before what is likely.
    findings.sort_by_key(|finding| {
        (
            std::cmp::Reverse(finding.verdict),
            finding.code != rules::JUDGED_DIFFERENTLY,
            finding.certainty == Certainty::Likely,
        )
    });
    let setup = &patient.setup;
    Diagnosis {
        name: patient.name(),
        verdict: findings.first().map_or(Verdict::Agree, |worst| worst.verdict),
        gateway: GatewaySide {
            reads_proxy_header: Cow::Borrowed(match setup.reads_header {
                Tri::True => "yes",
                Tri::False => "no",
                Tri::Unknown => "unknown",
            }),
            trusted_proxies: setup.trusted_proxies,
            set_by: setup.signs.clone(),
        },
        node: patient.node.clone(),
        traffic: seen.map(|seen| traffic(seen, own)),
        findings,
    }
}

fn traffic(seen: &Seen, own: &OwnAddresses) -> Traffic {
    let sources = seen.sources.most().into_iter().take(10);
    Traffic {
        connections: seen.connections,
        streams: seen.streams(),
        sources: sources
            .map(|(address, streams)| Source {
                address: address.to_string(),
                streams,
                node: own.nodes.get(&address).cloned(),
            })
            .collect(),
        distinct_sources: seen.sources.distinct(),
        proxy_v1: seen.proxy_v1,
        proxy_v2: seen.proxy_v2,
        tls: seen.tls,
        http: seen.http,
        other: seen.other,
        forwarded_for_absent: seen.forwarded.absent,
        forwarded_for: seen.forwarded.entries.iter().map(|(n, c)| (*n, *c)).collect(),
        refused: seen.dropped,
        refused_known: seen.refused.total(),
    }
}

#[cfg(test)]
mod tests;
