//! The reference evaluator: what Istio and Envoy decide about one source, slowly and obviously, in three values.
//!
//! It shares nothing with the compiler but the decoded policies. The section numbers are those of `docs/reference/policy.md`'s sources: Istio's
//! `pilot/pkg/security/authz/{builder,model}`, `pilot/pkg/model/policyattachment.go` and Envoy's RBAC engine.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gwfilter_common::reason::Reason;
use ipnet::IpNet;

use super::spec::{Action, Attribute, Entry, Field, Policy, Rule, Values};
use crate::desired::{Outcome, Verdict};
use crate::gateway::model::{
    ChainKind, ChainTls, ClientAddress, Gateway, Listener, Mesh, Receiver, Tri, Workload,
};

/// What the node does with a packet from `source` to a listener of a gateway: [`Reason::NoPolicy`] where no table exists, else
/// [`Reason::Allowed`], [`Reason::DeniedByRule`] or [`Reason::NoRuleAllows`]. Never-drop sources and observe mode are not looked at.
#[must_use]
pub fn evaluate(
    mesh: &Mesh,
    policies: &[Arc<Policy>],
    gateway: &Gateway,
    listener: &Listener,
    complete: bool,
    source: IpAddr,
) -> Outcome {
    let default_deny = complete && gateway.probe_sources_known;
    evaluate_with(mesh, policies, gateway, listener, default_deny, source)
}

/// As [`evaluate`], with default-deny or without it, whatever the gateway says of health probes.
#[must_use]
pub fn evaluate_with(
    mesh: &Mesh,
    policies: &[Arc<Policy>],
    gateway: &Gateway,
    listener: &Listener,
    default_deny: bool,
    source: IpAddr,
) -> Outcome {
    let mode = ClientAddress::PacketSource;
    let seen = Seen::Packet(source);
    answer(mode, mesh, policies, gateway, listener, default_deny, &seen)
}

/// A connection that begins with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The peer of the gateway's socket, where that is known to be the packet's source.
    pub peer: Option<IpAddr>,
    /// The source in the header.
    pub client: IpAddr,
    /// The destination in the header.
    pub destination: SocketAddr,
}

/// As [`evaluate_with`], for a gateway that takes the client address from the PROXY header. The clients that are never refused are
/// not looked at.
#[must_use]
pub fn evaluate_header(
    mesh: &Mesh,
    policies: &[Arc<Policy>],
    gateway: &Gateway,
    listener: &Listener,
    default_deny: bool,
    header: &Header,
) -> Outcome {
    let mode = ClientAddress::ProxyHeader;
    let seen = Seen::Header(*header);
    answer(mode, mesh, policies, gateway, listener, default_deny, &seen)
}

/// What there is to see of a connection.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// A packet from this source, with no proxy in front.
    Packet(IpAddr),
    Header(Header),
}

fn answer(
    mode: ClientAddress,
    mesh: &Mesh,
    policies: &[Arc<Policy>],
    gateway: &Gateway,
    listener: &Listener,
    default_deny: bool,
    seen: &Seen,
) -> Outcome {
    let pass = |reason| Outcome {
        verdict: Verdict::Pass,
        reason,
        rule: None,
    };
    if gateway.not_enforced.is_some() || gateway.client_address != mode {
        return pass(Reason::NoPolicy);
    }
    // Every way in which the gateway may come to judge this connection.
    let mut judges = Vec::new();
    for receiver in &listener.receivers {
        let Some(workload) = gateway.workloads.get(receiver.workload) else {
            return pass(Reason::NoPolicy);
        };
        if receiver.chains.is_empty() {
            return pass(Reason::NoPolicy);
        }
        for chain in &receiver.chains {
            let readings: &[bool] = match chain.kind {
                ChainKind::Http => &[true],
                ChainKind::Tcp => &[false],
                ChainKind::Unknown => &[true, false],
                ChainKind::NoRbac | ChainKind::NoListener => return pass(Reason::NoPolicy),
            };
            for &http in readings {
                judges.push(Judge {
                    mesh,
                    workload,
                    receiver,
                    http,
                    tls: chain.tls,
                    seen,
                });
            }
        }
    }
    let relevant = |judge: &Judge<'_>| {
        policies.iter().any(|p| {
            let acts = matches!(p.action, Action::Allow | Action::Deny | Action::Unknown) && !p.dry_run;
            acts && judge.attached(p) != Tri::False
        })
    };
    if !judges.iter().any(relevant) {
        return pass(Reason::NoPolicy);
    }
    // A drop must hold for all of them.
    let refusals: Option<Vec<Outcome>> = judges.iter().map(|j| j.refusal(policies, default_deny)).collect();
    refusals
        .and_then(|r| r.into_iter().min())
        .unwrap_or_else(|| pass(Reason::Allowed))
}

/// One filter chain of one gateway pod, looking at one source.
struct Judge<'a> {
    mesh: &'a Mesh,
    workload: &'a Workload,
    receiver: &'a Receiver,
    http: bool,
    tls: ChainTls,
    seen: &'a Seen,
}

impl Judge<'_> {
    /// How it certainly refuses the source, if it does.
    fn refusal(&self, policies: &[Arc<Policy>], default_deny: bool) -> Option<Outcome> {
        let refuse = |reason, id: &str| Outcome {
            verdict: Verdict::Drop,
            reason,
            rule: Some(Arc::from(id)),
        };
        // Dry-run policies are not enforced. AUDIT logs; CUSTOM may only restrict further.
        let enforced: Vec<(&Policy, Tri)> = policies
            .iter()
            .map(Arc::as_ref)
            .filter(|p| !p.dry_run)
            .map(|p| (p, self.attached(p)))
            .collect();

        // Refused if any DENY rule certainly matches; Envoy reports the first in order of its id.
        let mut matching = Vec::new();
        for (policy, attached) in &enforced {
            if policy.action == Action::Deny && *attached == Tri::True && policy.undecodable.is_none() {
                matching.extend(
                    policy
                        .rules
                        .iter()
                        .filter(|r| self.matches(r, policy.action) == Tri::True)
                        .map(|r| &*r.id),
                );
            }
        }
        if let Some(id) = matching.into_iter().min() {
            return Some(refuse(Reason::DeniedByRule, id));
        }

        // Refused if an ALLOW policy certainly applies, and no rule of any that may apply may match.
        let mut turned_on = Vec::new();
        for (policy, attached) in &enforced {
            match policy.action {
                Action::Deny | Action::Audit | Action::Custom => continue,
                Action::Allow | Action::Unknown if *attached == Tri::False => continue,
                // What cannot be decoded may admit anything.
                Action::Unknown => return None,
                Action::Allow if policy.undecodable.is_some() => return None,
                Action::Allow => {}
            }
            if policy
                .rules
                .iter()
                .any(|r| self.matches(r, policy.action) != Tri::False)
            {
                return None;
            }
            if *attached == Tri::True {
                turned_on.push(policy.id());
            }
        }
        let first = turned_on.into_iter().min()?;
        default_deny.then(|| refuse(Reason::NoRuleAllows, &first))
    }

    /// Whether a policy applies to the pod.
    fn attached(&self, policy: &Policy) -> Tri {
        let mut doubts = self.mesh.discovery_selectors
            || policy.undecodable.is_some()
            || policy.target.unclear
            || self
                .workload
                .labels
                .get("gateway.istio.io/managed")
                .map(String::as_str)
                == Some("istio.io-mesh-controller");

        // Namespace: its own, or the root namespace.
        if policy.namespace != self.workload.namespace {
            match &self.mesh.root_namespace {
                None => doubts = true,
                Some(root) if *root == policy.namespace => {}
                Some(_) => return Tri::False,
            }
        }

        // Revision: a labelled policy is for the istiod of that revision.
        if let Some(label) = &policy.revision {
            let revisions: Vec<&String> = [&self.workload.revision, &self.mesh.istiod_revision]
                .into_iter()
                .flatten()
                .collect();
            match revisions.as_slice() {
                [] => doubts = true,
                [one, other] if one != other => doubts = true,
                [revision, ..] if revision.is_empty() || *revision == "default" => {
                    if label != "default" {
                        doubts = true;
                    }
                }
                [revision, ..] if *revision != label => return Tri::False,
                [..] => {}
            }
        }

        // Target.
        if !policy.target.unclear {
            let label = |key: &str| self.workload.labels.get(key);
            let may_have_more = !self.workload.labels_complete;
            let gateway_name = label("gateway.networking.k8s.io/gateway-name");
            if policy.target.refs.is_empty() {
                for (key, value) in &policy.target.labels {
                    match label(key) {
                        Some(present) if present == value => {}
                        None if may_have_more => doubts = true,
                        _ => return Tri::False,
                    }
                }
                match (gateway_name, self.mesh.selector_based_gateway_policy) {
                    (_, Tri::True) => {}
                    (Some(_), Tri::False) => return Tri::False,
                    (Some(_), Tri::Unknown) => doubts = true,
                    (None, _) if may_have_more => doubts = true,
                    (None, _) => {}
                }
            } else {
                if policy.namespace != self.workload.namespace {
                    return Tri::False;
                }
                let meant = policy.target.refs.iter().any(|r| {
                    r.kind == "Gateway"
                        && r.group == "gateway.networking.k8s.io"
                        && (r.namespace.is_empty() || r.namespace == policy.namespace)
                        && match gateway_name {
                            Some(name) => r.name == *name,
                            None => may_have_more,
                        }
                });
                if !meant {
                    return Tri::False;
                }
                if gateway_name.is_none() {
                    doubts = true;
                }
            }
        }
        if doubts { Tri::Unknown } else { Tri::True }
    }

    /// A rule: any of `from`, and any of `to`, and all of `when`.
    fn matches(&self, rule: &Rule, action: Action) -> Tri {
        if !rule.faults.is_empty() {
            return Tri::Unknown;
        }
        if action == Action::Allow && !self.http {
            let fields = rule
                .from
                .iter()
                .chain(&rule.to)
                .flat_map(|e| &e.fields)
                .chain(&rule.when);
            if fields.into_iter().any(is_http_only) {
                // Istio cannot generate the rule for a TCP chain and leaves it out.
                return Tri::False;
            }
        }
        let from = self.any_of(&rule.from);
        let to = self.any_of(&rule.to);
        let when = self.all_of(&rule.when);
        if from == Tri::False || to == Tri::False || when == Tri::False {
            Tri::False
        } else if from == Tri::True && to == Tri::True && when == Tri::True {
            Tri::True
        } else {
            Tri::Unknown
        }
    }

    fn any_of(&self, entries: &[Entry]) -> Tri {
        if entries.is_empty() {
            return Tri::True;
        }
        let values: Vec<Tri> = entries
            .iter()
            .map(|e| {
                if e.unknown.is_empty() {
                    self.all_of(&e.fields)
                } else {
                    Tri::Unknown
                }
            })
            .collect();
        if values.contains(&Tri::True) {
            Tri::True
        } else if values.contains(&Tri::Unknown) {
            Tri::Unknown
        } else {
            Tri::False
        }
    }

    fn all_of(&self, fields: &[Field]) -> Tri {
        // On a TCP chain a DENY rule loses its fields of HTTP (an ALLOW rule with such a field has been dealt with).
        let values: Vec<Tri> = fields
            .iter()
            .filter(|f| self.http || !is_http_only(f))
            .map(|f| self.holds(f))
            .collect();
        if values.contains(&Tri::False) {
            Tri::False
        } else if values.contains(&Tri::Unknown) {
            Tri::Unknown
        } else {
            Tri::True
        }
    }

    /// One field: the attribute has one of the values, or, negated, none of them.
    fn holds(&self, field: &Field) -> Tri {
        // No TLS, or TLS that asks for no certificate.
        let nobody = self.tls == ChainTls::Plain || self.tls == ChainTls::Simple;
        let has_one = match field.attribute {
            // An input that could not be read may hold what puts a proxy in front.
            Attribute::RemoteIp if self.mesh.unread => Tri::Unknown,
            Attribute::SourceIp => match self.seen {
                Seen::Packet(source) => known(within(*source, &field.values)),
                Seen::Header(header) => match header.peer {
                    Some(peer) => known(within(peer, &field.values)),
                    None => Tri::Unknown,
                },
            },
            Attribute::RemoteIp => match self.seen {
                // No proxy in front: the client is the packet's source too.
                Seen::Packet(source) => known(within(*source, &field.values)),
                Seen::Header(header) => known(within(header.client, &field.values)),
            },
            Attribute::DestinationPort | Attribute::DestinationIp
                if self.mesh.unread && matches!(self.seen, Seen::Header(_)) =>
            {
                Tri::Unknown
            }
            Attribute::DestinationPort => match (&field.values, self.seen) {
                (Values::Ports(ports), Seen::Packet(_)) => known(ports.contains(&self.receiver.port)),
                (Values::Ports(ports), Seen::Header(header)) => {
                    known(ports.contains(&header.destination.port()))
                }
                _ => Tri::Unknown,
            },
            Attribute::DestinationIp => match self.seen {
                Seen::Packet(source) => self.destination_in(*source, &field.values),
                Seen::Header(header) => known(within(header.destination.ip(), &field.values)),
            },
            Attribute::Sni
                if self.tls == ChainTls::Plain && field.values == (Values::Text { has_empty: false }) =>
            {
                Tri::False
            }
            Attribute::Identity if nobody => Tri::False,
            // Not every istiod knows these: one ignores the field (true either way), or skips the rule (false either way).
            Attribute::NewIdentity if nobody && field.negated => Tri::False,
            Attribute::NewIdentityKey if nobody && !field.negated => Tri::False,
            Attribute::Token if self.mesh.request_authentication == Tri::False => Tri::False,
            Attribute::Sni
            | Attribute::Identity
            | Attribute::NewIdentity
            | Attribute::NewIdentityKey
            | Attribute::Token
            | Attribute::Request
            | Attribute::Metadata => Tri::Unknown,
        };
        match (field.negated, has_one) {
            (true, Tri::True) => Tri::False,
            (true, Tri::False) => Tri::True,
            (_, value) => value,
        }
    }

    /// The socket's local address is of the source's family; which of the pods' it is, is not known.
    fn destination_in(&self, source: IpAddr, values: &Values) -> Tri {
        let Values::Ranges(ranges) = values else {
            return Tri::Unknown;
        };
        let same_family = |a: &IpAddr| a.is_ipv4() == source.is_ipv4();
        let of_family: Vec<&IpNet> = ranges.iter().filter(|r| same_family(&r.addr())).collect();
        if of_family.is_empty() {
            return Tri::False;
        }
        if of_family.iter().any(|r| r.prefix_len() == 0) {
            return Tri::True;
        }
        let answers: Vec<bool> = match &self.receiver.addresses {
            Some(addresses) => addresses
                .iter()
                .filter(|a| same_family(a))
                .map(|a| of_family.iter().any(|range| inside(*a, range)))
                .collect(),
            None => Vec::new(),
        };
        match (answers.contains(&true), answers.contains(&false)) {
            (true, false) => Tri::True,
            (false, true) => Tri::False,
            _ => Tri::Unknown,
        }
    }
}

fn known(value: bool) -> Tri {
    if value { Tri::True } else { Tri::False }
}

fn within(address: IpAddr, values: &Values) -> bool {
    match values {
        Values::Ranges(ranges) => ranges.iter().any(|range| inside(address, range)),
        _ => false,
    }
}

fn is_http_only(field: &Field) -> bool {
    matches!(field.attribute, Attribute::Request | Attribute::Token)
}

/// Bit by bit, families apart.
fn inside(address: IpAddr, range: &IpNet) -> bool {
    match (address, range) {
        (IpAddr::V4(a), IpNet::V4(r)) => {
            let different = a.to_bits() ^ r.addr().to_bits();
            different.checked_shr(32 - u32::from(r.prefix_len())).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpNet::V6(r)) => {
            let different = a.to_bits() ^ r.addr().to_bits();
            different
                .checked_shr(128 - u32::from(r.prefix_len()))
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}
