//! What `check` prints: per gateway, policy and rule, where it is enforced and why.

use serde::Serialize;

/// Where a rule's refusals happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnforcedAt {
    /// Every refusal it causes is dropped at the node.
    Node,
    /// None is.
    Gateway,
    /// Some are.
    Both,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// Envoy's id.
    pub id: String,
    /// Where.
    pub enforced_at: EnforcedAt,
    /// Why, in a platform engineer's words; never empty.
    pub why: Vec<String>,
}

impl RuleReport {
    /// All reasons in one sentence.
    #[must_use]
    pub fn whole_why(&self) -> String {
        self.why.join("; ")
    }
}

/// One policy that attaches, or may attach, to the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// `ns/name`.
    pub name: String,
    /// `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`.
    pub action: String,
    /// Counts for nothing.
    pub dry_run: bool,
    /// Its rules in order.
    pub rules: Vec<RuleReport>,
}

/// One gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayReport {
    /// `ns/service`.
    pub name: String,
    /// `packet-source|proxy-header|x-forwarded-for|unknown`.
    pub client_address: &'static str,
    /// Whether what its policies certainly refuse is dropped for it on this node.
    pub enforced: bool,
    /// Whether there is somebody whom they certainly refuse: without, nothing is dropped, whatever is enforced.
    pub refuses: bool,
    /// Reasons: what is not enforced and how to mend it, each `code: text`.
    pub why: Vec<String>,
    /// `ip:port/proto`.
    pub tuples: Vec<String>,
    /// Policies in order of namespace and name.
    pub policies: Vec<PolicyReport>,
    /// Prefixes before and after aggregation.
    pub prefixes: PrefixFigures,
}

/// What aggregation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PrefixFigures {
    /// Addresses and CIDRs as written in the rules that bear on the gateway, each rule counted once.
    pub written: usize,
    /// Entries of the tables of this gateway after flattening, disjoint and minimal; equal tables counted once.
    pub table: usize,
    /// Those of them that are IPv4 prefixes.
    pub v4: usize,
    /// Those of them that are IPv6 prefixes.
    pub v6: usize,
}
