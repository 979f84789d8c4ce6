//! What people should know beside the verdict.

use std::collections::BTreeSet;

use gwfilter_common::decide::{Action, Decision};
use gwfilter_common::reason::Reason;

use super::{Explainer, Query};
use crate::gateway::model::{ClientAddress, Protocol};
use crate::pipeline::Owner;
use crate::report::EnforcedAt;

/// Rules left to the gateway that are named, at most.
const RULES: usize = 5;

/// Of a packet that is dropped.
pub(super) fn refused(reset: bool) -> String {
    let sees = if reset {
        "the connection is reset on both sides"
    } else {
        "the client sees a timeout"
    };
    format!("the gateway would refuse it too (403, or a closed connection); refused at the node, {sees}")
}

impl Explainer {
    pub(super) fn notes(&self, query: &Query, decision: &Decision, owners: &[Owner]) -> Vec<String> {
        let mut notes = Vec::new();
        let key = query.key();
        if let Some(unjudged) = self.built.unjudged.get(&key) {
            notes.push(format!("{}: {}", unjudged.why.code, unjudged.why.text));
        } else if owners.is_empty() {
            notes.push(self.nobody(query));
        }
        if let Some((gateway, listener)) = owners.first().and_then(|o| self.owner(*o)) {
            let tuple = listener.tuples.iter().find(|t| t.key == key);
            let origin = tuple.map_or("destination", |t| t.origin);
            let ports: BTreeSet<u16> = listener.receivers.iter().map(|r| r.port).collect();
            let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "{key} is the {origin} destination of listener {} of {} (gateway port {ports})",
                listener.name,
                gateway.id()
            ));
            if query.proxy.is_some() && gateway.client_address != ClientAddress::ProxyHeader {
                notes.push(
                    "the PROXY header was not looked at: this gateway takes the client address from the packet's source".to_owned(),
                );
            }
        }
        for (gateway, listener) in owners.iter().skip(1).filter_map(|o| self.owner(*o)) {
            notes.push(format!(
                "it is a destination of {}:{} too, which judges alike",
                gateway.id(),
                listener.name
            ));
        }
        let target = self.built.desired.tuples.get(&key);
        match decision.reason {
            Reason::DeniedByRule | Reason::NoRuleAllows if decision.action == Action::Drop => {
                notes.push(refused(target.is_some_and(|t| t.reset)));
                if target.is_some_and(|t| t.node_address && t.proxy().is_none()) {
                    notes.push(
                        "only packets that open a connection are dropped: on an address of the node others may be replies to it".to_owned(),
                    );
                }
                if query.protocol == Protocol::Tcp {
                    notes.push("a connection from before the policy changed lives on until the drain window is over".to_owned());
                }
            }
            Reason::Observed if owners.iter().any(|o| self.built.withheld.contains(o)) => notes.push(
                "observed only: it would be dropped if the sources of health probes were known; annotate the Service with \
                 gwfilter.io/never-drop: \"CIDR,…\" (it may be empty)"
                    .to_owned(),
            ),
            Reason::Observed => notes.push("observed only: it would be dropped if this gateway were enforced".to_owned()),
            Reason::LeftToGateway => notes.push("UDP is never dropped: a QUIC connection may change its address".to_owned()),
            Reason::NeverDropSource => notes.push(
                "the source is one that is never dropped (node, pod, health probe or never-drop); the gateway judges it".to_owned(),
            ),
            Reason::NoHeader => notes.push(
                "the client stands in a PROXY header, and none is asked for: what opens a connection passes, and so does what carries no header; \
                 name one (--proxy-source and --proxy-dest, or proxy_source and proxy_dest)"
                    .to_owned(),
            ),
            Reason::HeaderInvalid => {
                notes.push("the gateway refuses a connection with such a header itself".to_owned());
            }
            Reason::UntrustedProxy => notes.push(
                "the header does not come from one of gwfilter.io/trusted-proxies; the gateway takes it all the same, so it passes and is counted"
                    .to_owned(),
            ),
            Reason::OddSource => {
                notes.push("a loopback, unspecified or multicast source is not judged at the node".to_owned());
            }
            Reason::NoPolicy => notes.push("no policy that counts applies to this destination".to_owned()),
            Reason::Allowed => self.doubts(owners, &mut notes),
            _ => {}
        }
        notes
    }

    /// Why a packet that passes may still be refused by the gateway.
    fn doubts(&self, owners: &[Owner], notes: &mut Vec<String>) {
        let report = owners.first().and_then(|o| self.built.reports.get(o.gateway));
        let Some(report) = report else { return };
        let rules: Vec<_> = report
            .policies
            .iter()
            .filter(|p| !p.dry_run)
            .flat_map(|p| &p.rules)
            .filter(|r| r.enforced_at != EnforcedAt::Node)
            .collect();
        if rules.is_empty() {
            notes.push("no rule refuses this source by its address: the gateway lets it in as far as its address counts".to_owned());
            return;
        }
        notes.push(
            "no rule certainly refuses this source; the gateway decides by what the node cannot see:"
                .to_owned(),
        );
        notes.extend(
            rules
                .iter()
                .take(RULES)
                .map(|r| format!("{}: {}", r.id, r.whole_why())),
        );
        if rules.len() > RULES {
            notes.push(format!(
                "and {} more rules (see `gwfilter check`)",
                rules.len() - RULES
            ));
        }
    }

    /// The destination is nobody's: what is near it?
    fn nobody(&self, query: &Query) -> String {
        let key = query.key();
        let judged = self.built.desired.tuples.keys().chain(self.built.unjudged.keys());
        let near: BTreeSet<String> = judged
            .filter(|k| k.addr == key.addr)
            .map(ToString::to_string)
            .collect();
        if near.is_empty() {
            format!(
                "no gateway of this node has the address {}: the packet is not touched",
                key.addr
            )
        } else {
            let near: Vec<String> = near.into_iter().collect();
            format!(
                "no gateway of this node has this destination; at this address there are {}",
                near.join(", ")
            )
        }
    }
}
