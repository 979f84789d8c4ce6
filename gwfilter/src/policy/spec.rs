//! A policy, decoded: the one thing that the compiler and the reference evaluator share.
//!
//! Decoding decides what a field *is*; it does not decide what it means at a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

pub use super::decode::decode;

/// What a policy does with what its rules match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Its existence turns on default-deny; its rules open holes.
    Allow,
    /// Its rules refuse.
    Deny,
    /// Logs only: no bearing on a verdict.
    Audit,
    /// Asks an external service, which may only restrict: no bearing on what the node drops.
    Custom,
    /// None of these: it may admit anything, for all that is known.
    Unknown,
}

impl Action {
    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A decoded AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Action; ALLOW where none is stated.
    pub action: Action,
    /// The annotation `istio.io/dry-run` is true: it counts for nothing.
    pub dry_run: bool,
    /// The label `istio.io/rev`.
    pub revision: Option<String>,
    /// Which workloads it is for.
    pub target: Target,
    /// Its rules in order.
    pub rules: Vec<Rule>,
    /// `Some` if the spec could not be decoded as a whole, with what was found: it is then never a cause to drop, and if it is (or may be) an
    /// ALLOW policy it may admit anything.
    pub undecodable: Option<String>,
}

impl Policy {
    /// Envoy's id of a rule of this policy.
    #[must_use]
    pub fn rule_id(&self, index: usize) -> String {
        format!("{}-rule[{index}]", self.id())
    }

    /// The id of the policy as a whole: what default-deny is attributed to.
    #[must_use]
    pub fn id(&self) -> String {
        format!("ns[{}]-policy[{}]", self.namespace, self.name)
    }
}

/// `selector`, `targetRef` and `targetRefs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `selector.matchLabels`; empty selects everything.
    pub labels: BTreeMap<String, String>,
    /// `targetRefs`, or the one `targetRef` where that is empty.
    pub refs: Vec<TargetRef>,
    /// Something in it is not understood: within its namespace it may be for any workload.
    pub unclear: bool,
}

/// One target reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// API group; empty is the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; empty is the policy's own.
    pub namespace: String,
}

/// One rule: any `from`, and any `to`, and all of `when`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Envoy's id, e.g. `ns[a]-policy[b]-rule[0]`.
    pub id: Arc<str>,
    /// Sources; none is no constraint.
    pub from: Vec<Entry>,
    /// Operations; none is no constraint.
    pub to: Vec<Entry>,
    /// Conditions.
    pub when: Vec<Field>,
    /// What in it Istio would not generate, or is not understood. Not empty: the rule may match anything and certainly matches nothing.
    pub faults: Vec<String>,
}

/// One `source` or `operation`: all of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its fields; none matches everything.
    pub fields: Vec<Field>,
    /// Fields that are not known: whether the entry matches is then not known either.
    pub unknown: Vec<String>,
}

/// One field with at least one value: true if the attribute has (or, negated, has not) one of the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// As a user writes it: `notIpBlocks`, `when source.ip notValues`.
    pub name: String,
    /// What is compared.
    pub attribute: Attribute,
    /// `not…`.
    pub negated: bool,
    /// With what.
    pub values: Values,
}

/// What a field compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// Envoy's `direct_remote_ip`: the peer of the gateway's socket.
    SourceIp,
    /// Envoy's `remote_ip`: the client, after the PROXY header and X-Forwarded-For.
    RemoteIp,
    /// The local address of the gateway's socket.
    DestinationIp,
    /// The local port of the gateway's socket.
    DestinationPort,
    /// The server name of the TLS handshake.
    Sni,
    /// The client certificate.
    Identity,
    /// `serviceAccounts` and `trustDomains`: the client certificate, but an istiod that does not know the field ignores it.
    NewIdentity,
    /// The keys `source.serviceAccount` and `source.trustDomain`: an istiod that does not know them skips the rule.
    NewIdentityKey,
    /// A JSON web token, on HTTP chains only.
    Token,
    /// The HTTP request, on HTTP chains only.
    Request,
    /// Dynamic metadata of other filters.
    Metadata,
}

impl Attribute {
    /// Whether Istio generates it on HTTP chains only.
    #[must_use]
    pub const fn http_only(self) -> bool {
        matches!(self, Self::Token | Self::Request)
    }
}

/// The values of a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Values {
    /// Address ranges, host bits masked.
    Ranges(Vec<IpNet>),
    /// Ports.
    Ports(Vec<u16>),
    /// Text that is compared with something the node does not see; only whether one of them is empty matters, since an absent server name
    /// equals an empty one.
    Text {
        /// One of the values is the empty text.
        has_empty: bool,
    },
}
