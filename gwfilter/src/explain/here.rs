//! What the tables in force on this node do with one packet, by what an agent left of names and reasons. Pure: the tables come as they are read.

use std::collections::BTreeSet;

use gwfilter_common::abi::NO_LISTENER;
use gwfilter_common::decide::{Action, Decision, Scope, Tables, decide_in};
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;

use super::query::{Query, QueryError};
use super::{Answer, notes, segments};
use crate::gateway::model::Protocol;
use crate::plan::Names;
use crate::status::{self, Gateway, RUNNING, Status};

/// Gateways and destinations that are named, at most.
const SOME: usize = 5;

/// What is known beside the tables.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// What is attached, and what the agent left.
    pub status: &'a Status,
    /// Names behind the indices of counters.
    pub names: &'a Names,
}

impl Here<'_> {
    /// What happens to the first packet of a connection that comes now; where a PROXY header counts, to the first segment of its stream. A verdict
    /// is the tables': if no program asks them, a note says so.
    ///
    /// # Errors
    /// The query describes no packet.
    pub fn answer<T: Tables>(&self, query: &Query, tables: &T) -> Result<Answer, QueryError> {
        let decision = segments::decided(query, tables)?;
        let listener = self.names.listeners.get(&decision.listener);
        let gateway = listener.map(|name| name.gateway.to_string());
        let told = gateway
            .as_ref()
            .and_then(|name| self.status.gateways.iter().find(|g| g.name == *name));
        let refuses = refuses(&decision);
        let rule = self.names.rules.get(&decision.rule).filter(|_| refuses);
        let mut notes = self.notes(query, &decision, told);
        if decision.listener != NO_LISTENER && listener.is_none() {
            notes.push(format!(
                "whose destination it is cannot be told: no agent left the name of listener {} here (--state-dir?)",
                decision.listener
            ));
        }
        if refuses && rule.is_none() {
            notes.push(match decision.rule {
                0 => "the rule has no name of its own: more rules refuse than there are counters".to_owned(),
                index => {
                    format!("the name of rule {index} is not known: no agent left it here (--state-dir?)")
                }
            });
        }
        if lives_on(query, &decision, tables)? {
            notes.push(
                "a connection that is open already lives on: only packets that open one are dropped"
                    .to_owned(),
            );
        }
        let generation = self.status.generation;
        notes.push(match generation {
            Some(number) => format!("answered from the tables in force on this node, of generation {number}"),
            None => "answered from the tables in force on this node".to_owned(),
        });
        Ok(Answer {
            verdict: match decision.action {
                Action::Drop => "drop",
                Action::Pass | Action::Look => "pass",
            },
            reason: decision.reason.name(),
            policy: rule.map(ToString::to_string),
            hook: self.hook(query, &decision, tables)?,
            client_address: told.and_then(|gateway| gateway.client_address.clone().map(Into::into)),
            gateway,
            notes,
        })
    }

    /// Whether a program asks the tables.
    #[must_use]
    pub fn attached(&self) -> bool {
        status::in_place(&self.status.attached)
    }

    /// Where packets to the destination are judged.
    fn hook<T: Tables>(
        &self,
        query: &Query,
        decision: &Decision,
        tables: &T,
    ) -> Result<Option<&'static str>, QueryError> {
        if query.protocol != Protocol::Tcp || decision.listener == NO_LISTENER || !self.attached() {
            return Ok(None);
        }
        let opening = segments::opening(query)?;
        let by_xdp = decide_in(&SliceReader(opening.bytes()), tables, Scope::Xdp);
        let xdp = self.status.attached.iter().any(|at| at.hook.starts_with("xdp"));
        let leaves = by_xdp.reason == Reason::NotAGateway;
        Ok(Some(if xdp && !leaves { "xdp" } else { "tc" }))
    }

    fn notes(&self, query: &Query, decision: &Decision, gateway: Option<&Gateway>) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.attached() {
            notes.push("nothing is attached on this node: no packet meets these tables, everything passes (`gwfilter status`)".to_owned());
        } else if self.status.agent != RUNNING {
            notes.push("no agent runs: these are the tables that the last one left in force, and changes since are not in them".to_owned());
        }
        match decision.reason {
            Reason::NotAGateway => {
                notes.push(self.nobody(query));
                notes.extend(self.unjudged());
            }
            _ if decision.action == Action::Drop => notes.push(notes::refused(decision.reset)),
            reason => {
                let to_do = reason.words().to_do;
                if !to_do.starts_with("nothing") {
                    notes.push(format!("what to do: {to_do}"));
                }
            }
        }
        let why = gateway.map(|gateway| gateway.why.as_slice()).unwrap_or_default();
        notes.extend(why.iter().take(SOME).cloned());
        notes
    }

    /// The destination is in no table: what is near it?
    fn nobody(&self, query: &Query) -> String {
        let ends = format!("/{}", query.protocol.name());
        let tuples = self
            .status
            .gateways
            .iter()
            .filter_map(|g| g.tuples.as_ref())
            .flatten();
        let at = |tuple: &&String| {
            let endpoint = tuple
                .rsplit_once('/')
                .map_or(tuple.as_str(), |(endpoint, _)| endpoint);
            endpoint
                .parse()
                .is_ok_and(|endpoint: std::net::SocketAddr| endpoint.ip() == query.dest.ip())
        };
        let near: BTreeSet<&String> = tuples.filter(at).collect();
        if near.is_empty() {
            return format!(
                "no table of this node has the address {}: the packet is not touched",
                query.dest.ip()
            );
        }
        let some: Vec<&str> = near.iter().take(SOME).map(|tuple| tuple.as_str()).collect();
        let other = if near.iter().any(|tuple| tuple.ends_with(&ends)) {
            "port"
        } else {
            "protocol"
        };
        format!(
            "no table of this node has this destination; of another {other} at this address there are {}",
            some.join(", ")
        )
    }

    /// Gateways whose destinations stand in no table, each with the first reason.
    fn unjudged(&self) -> Vec<String> {
        let gateways = self.status.gateways.iter();
        let without = gateways.filter(|g| g.tuples.as_ref().is_some_and(Vec::is_empty));
        let named = without.map(|g| match g.why.first() {
            Some(why) => format!("{} has no destination in the tables: {why}", g.name),
            None => format!("{} has no destination in the tables", g.name),
        });
        named.take(SOME).collect()
    }
}

/// Whether a rule refuses the packet, though it may pass.
fn refuses(decision: &Decision) -> bool {
    decision.action == Action::Drop || decision.would_drop || decision.reason == Reason::LeaseExpired
}

/// Whether what is dropped would pass if it opened no connection.
fn lives_on<T: Tables>(query: &Query, decision: &Decision, tables: &T) -> Result<bool, QueryError> {
    if decision.action != Action::Drop || query.protocol != Protocol::Tcp {
        return Ok(false);
    }
    let later = segments::later(query)?;
    let later = decide_in(&SliceReader(later.bytes()), tables, Scope::All);
    Ok(matches!(later.reason, Reason::Draining | Reason::MaybeReply))
}

#[cfg(test)]
mod tests;
