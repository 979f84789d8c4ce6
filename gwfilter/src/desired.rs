//! What the kernel tables of this node should say: the compiler's output and the planner's input.
//!
//! Order-free and comparable: equal inputs give equal `Desired`s. No indices of kernel maps appear here; the planner
//! assigns those.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::reason::Reason;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::gateway::model::TupleKey;
pub use crate::table::{Table4, Table6};

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

/// What is asked where the packet's source is the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceTables {
    /// IPv4 sources; shared (`Arc`) by tuples with equal tables. `None`: no policy speaks of IPv4 sources here.
    pub table4: Option<Arc<Table4>>,
    /// IPv6 sources.
    pub table6: Option<Arc<Table6>>,
    /// IPv4 sources that are never dropped; sorted, merged.
    pub never4: Arc<Vec<Ipv4Net>>,
    /// IPv6 sources that are never dropped.
    pub never6: Arc<Vec<Ipv6Net>>,
}

/// Prefixes of one family with the number of their class. What is in no prefix has class 0.
pub type Classes4 = BTreeMap<Ipv4Net, u16>;
/// As [`Classes4`], for IPv6. A number means the same class in both families.
pub type Classes6 = BTreeMap<Ipv6Net, u16>;

/// How many classes each axis has; none is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counts {
    /// Of the packet's source.
    pub peers: u16,
    /// Of the header's source address.
    pub clients: u16,
    /// Of the header's destination address.
    pub dests: u16,
    /// Of the header's destination port.
    pub ports: u16,
}

impl Counts {
    /// The number of the cell of four classes: `((peer * clients + client) * dests + dest) * ports + port`.
    #[must_use]
    pub fn cell(&self, peer: u16, client: u16, dest: u16, port: u16) -> u32 {
        let wide = |n: u16| u32::from(n);
        let at = wide(peer)
            .wrapping_mul(wide(self.clients))
            .wrapping_add(wide(client));
        let at = at.wrapping_mul(wide(self.dests)).wrapping_add(wide(dest));
        at.wrapping_mul(wide(self.ports)).wrapping_add(wide(port))
    }

    /// How many cells there are.
    #[must_use]
    pub fn cells(&self) -> u64 {
        [self.clients, self.dests, self.ports]
            .into_iter()
            .fold(u64::from(self.peers), |n, of| n.saturating_mul(u64::from(of)))
    }
}

/// Verdicts over peer, client and the header's destination together: each address and port has a class, each cell of classes
/// an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Classes of the packet's source.
    pub peers4: Arc<Classes4>,
    /// As `peers4`.
    pub peers6: Arc<Classes6>,
    /// Classes of the header's source address.
    pub clients4: Arc<Classes4>,
    /// As `clients4`.
    pub clients6: Arc<Classes6>,
    /// Classes of the header's destination address.
    pub dests4: Arc<Classes4>,
    /// As `dests4`.
    pub dests6: Arc<Classes6>,
    /// Classes of the header's destination port. What is not here has class 0.
    pub ports: Arc<BTreeMap<u16, u16>>,
    /// Numbers of classes.
    pub counts: Counts,
    /// By [`Counts::cell`]. A cell that is not here passes (`Reason::Allowed`).
    pub verdicts: Arc<BTreeMap<u32, Outcome>>,
}

impl Matrix {
    /// Entries of all of its tables.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.peers4.len()
            + self.peers6.len()
            + self.clients4.len()
            + self.clients6.len()
            + self.dests4.len()
            + self.dests6.len()
            + self.ports.len()
            + self.verdicts.len()
    }
}

/// What is asked where the client stands in a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTables {
    /// `None`: no policy speaks of this destination.
    pub matrix: Option<Arc<Matrix>>,
    /// IPv4 clients (not peers) that are never refused; sorted, merged.
    pub never4: Arc<Vec<Ipv4Net>>,
    /// IPv6 clients that are never refused.
    pub never6: Arc<Vec<Ipv6Net>>,
    /// IPv4 peers whose headers are expected; `None`: there is no such list. It bears on counters alone.
    pub trusted4: Option<Arc<Vec<Ipv4Net>>>,
    /// IPv6 peers; `None` exactly where `trusted4` is.
    pub trusted6: Option<Arc<Vec<Ipv6Net>>>,
}

/// What judges packets to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The packet's source.
    Source(SourceTables),
    /// The PROXY header at the beginning of the connection. UDP tuples of such a gateway are counted only.
    Proxy(Arc<ProxyTables>),
}

/// What to do with packets to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the block of counters: `ns/service:listener`. All tuples of a listener share it.
    pub listener: Arc<str>,
    /// By what its packets are judged.
    pub judge: Judge,
    /// Judge and count only.
    pub observe: bool,
    /// The destination is an address of this node ([`gwfilter_common::abi::TUPLE_MAYBE_REPLY`]).
    pub node_address: bool,
    /// The destination is an address of a pod ([`gwfilter_common::abi::TUPLE_POD`]).
    pub pod_address: bool,
    /// Refusals are answered with a reset.
    pub reset: bool,
    /// For how many milliseconds at least a connection from before a tightening is let live, where the gateway says so: 0 does not, and
    /// the planner's own window counts. [`ENDLESS`]: for ever.
    pub drain_ms: u64,
}

/// A drain window without an end.
pub const ENDLESS: u64 = u64::MAX;

impl Target {
    /// The tables of a destination that is judged by the packet's source.
    #[must_use]
    pub fn source(&self) -> Option<&SourceTables> {
        match &self.judge {
            Judge::Source(tables) => Some(tables),
            Judge::Proxy(_) => None,
        }
    }

    /// The tables of a destination that is judged by the PROXY header.
    #[must_use]
    pub fn proxy(&self) -> Option<&Arc<ProxyTables>> {
        match &self.judge {
            Judge::Proxy(tables) => Some(tables),
            Judge::Source(_) => None,
        }
    }
}

/// A whole generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What to judge. Every tuple of an enforced or observed gateway is here, also one that no policy speaks of.
    pub tuples: BTreeMap<TupleKey, Target>,
    /// Destinations of gateways whose packets reach the gateway with another source (`externalTrafficPolicy: Cluster`). Those
    /// that are judged by the PROXY header are among `tuples` all the same.
    pub rewritten: Vec<TupleKey>,
}
