//! What the kernel tables of this node should say: the compiler's output and the planner's input.
//!
//! Order-free and comparable: equal inputs give equal `Desired`s. No indices of kernel maps appear here; the planner
//! assigns those.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::reason::Reason;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::gateway::model::TupleKey;

/// What the gateway would do with a source, as far as the node can prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Left to the gateway.
    Pass,
    /// Certainly refused.
    Drop,
}

/// The answer for one prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome {
    /// Pass or drop.
    pub verdict: Verdict,
    /// `Allowed` with `Pass`; `DeniedByRule` or `NoRuleAllows` with `Drop`.
    pub reason: Reason,
    /// Envoy's policy id of the rule that decides, e.g. `ns[a]-policy[b]-rule[0]`: the DENY rule that matches; for
    /// default-deny the id `ns[a]-policy[b]` of the (first) ALLOW policy that turns it on.
    pub rule: Option<Arc<str>>,
}

/// A disjoint and minimal longest-prefix table of one family. A source in no prefix passes (`Reason::Allowed`).
pub type Table4 = BTreeMap<Ipv4Net, Outcome>;
/// As [`Table4`], for IPv6.
pub type Table6 = BTreeMap<Ipv6Net, Outcome>;

/// What to do with packets to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the block of counters: `ns/service:listener`. All tuples of a listener share it.
    pub listener: Arc<str>,
    /// IPv4 sources; shared (`Arc`) by tuples with equal tables. `None`: no policy speaks of IPv4 sources here.
    pub table4: Option<Arc<Table4>>,
    /// IPv6 sources.
    pub table6: Option<Arc<Table6>>,
    /// IPv4 sources that are never dropped; sorted, merged.
    pub never4: Arc<Vec<Ipv4Net>>,
    /// IPv6 sources that are never dropped.
    pub never6: Arc<Vec<Ipv6Net>>,
    /// Judge and count only.
    pub observe: bool,
    /// The destination is an address of this node ([`gwfilter_common::abi::TUPLE_MAYBE_REPLY`]).
    pub node_address: bool,
}

/// A whole generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What to judge. Every tuple of an enforced or observed gateway is here, also one that no policy speaks of.
    pub tuples: BTreeMap<TupleKey, Target>,
    /// Destinations of gateways whose packets reach the gateway with another source (`externalTrafficPolicy: Cluster`).
    pub rewritten: Vec<TupleKey>,
}
