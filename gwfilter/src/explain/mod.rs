//! What the compiled tables do with one packet, and why.
//!
//! The verdict is the kernel's: a packet is built and given to the very [`decide`](fn@gwfilter_common::decide::decide) that runs in XDP, over an
//! image of the maps as the planner would fill them, with the drain windows over. Each answer is held against the
//! reference evaluator; if the two differ there is no answer but an error.

mod headline;
pub mod here;
mod notes;
mod query;
mod segments;
mod verify;

use std::sync::Arc;

use gwfilter_common::decide::{Action, Decision};
use gwfilter_common::reason::Reason;
use serde::Serialize;

pub use headline::headline;
pub use query::{Query, QueryError};
pub use verify::{Disagreement, Verified};

use crate::desired::ProxyTables;
use crate::gateway::model::{Gateway, Protocol};
use crate::pipeline::{Built, Owner};
use crate::plan::{Image, Names, PlanError, Planner, Settings};
use crate::policy;
use crate::status::Word;

/// The answer for one packet. Names and order of the fields are a public contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `pass` or `drop`.
    pub verdict: &'static str,
    /// A [`Reason`]'s name.
    pub reason: &'static str,
    /// `ns/service`.
    pub gateway: Option<String>,
    /// Envoy's id of the rule that refuses; that of the policy where no rule allows.
    pub policy: Option<String>,
    /// Where the packet is judged: `xdp` or `tc`.
    pub hook: Option<&'static str>,
    /// Where the gateway takes the client address from.
    pub client_address: Option<Word>,
    /// For people.
    pub notes: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The query describes no packet.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Tables and evaluator differ: a defect of gwfilter.
    #[error(transparent)]
    Disagreement(#[from] Box<Disagreement>),
}

/// Answers for one generation.
#[derive(Debug)]
pub struct Explainer {
    built: Built,
    image: Image,
    names: Names,
}

impl Explainer {
    /// Fills an image of the kernel's maps.
    ///
    /// # Errors
    /// The generation does not fit the maps.
    pub fn new(built: Built) -> Result<Self, PlanError> {
        let mut planner = Planner::new(Settings {
            drain_ms: 0,
            rewritten_drain_ms: 0,
        });
        let plan = planner.plan(&built.desired, 0)?;
        let mut image = Image::default();
        plan.ops.iter().for_each(|op| image.apply(op));
        planner.commit(&plan);
        Ok(Self {
            names: planner.names().clone(),
            built,
            image,
        })
    }

    /// The generation.
    #[must_use]
    pub fn built(&self) -> &Built {
        &self.built
    }

    /// What happens to the first packet of a connection; where a PROXY header counts, to the first segment of its stream.
    ///
    /// # Errors
    /// The query describes no packet, or tables and evaluator differ.
    pub fn answer(&self, query: &Query) -> Result<Answer, ExplainError> {
        let decision = segments::decided(query, &self.image)?;
        self.verify(query, &decision).map_err(Box::new)?;
        let key = query.key();
        let owners = self.built.owners.get(&key).map(Vec::as_slice).unwrap_or_default();
        let unjudged = self.built.unjudged.get(&key);
        let owner = owners
            .first()
            .map(|o| o.gateway)
            .or_else(|| unjudged?.gateways.first().copied());
        let gateway = owner.and_then(|g| self.built.gateways.get(g));
        // For the kernel a destination that is not judged is no gateway's; for people that would be half the truth.
        let reason = match decision.reason {
            Reason::NotAGateway if gateway.is_some() => Reason::LeftToGateway,
            reason => reason,
        };
        let judged = !owners.is_empty() && query.protocol == Protocol::Tcp;
        Ok(Answer {
            verdict: match decision.action {
                Action::Pass | Action::Look => "pass",
                Action::Drop => "drop",
            },
            reason: reason.name(),
            gateway: gateway.map(Gateway::id),
            policy: self.rule(&decision, query, owners).map(|r| r.to_string()),
            hook: judged.then_some(if self.in_tc(query) { "tc" } else { "xdp" }),
            client_address: gateway.map(|g| g.client_address.name().into()),
            notes: self.notes(query, &decision, owners),
        })
    }

    /// Whether the destination is judged in TC even where XDP is attached.
    fn in_tc(&self, query: &Query) -> bool {
        let target = self.built.desired.tuples.get(&query.key());
        target.is_some_and(|t| t.reset || t.proxy().is_some())
    }

    /// The tables of a destination where a PROXY header counts.
    fn by_header(&self, query: &Query) -> Option<&Arc<ProxyTables>> {
        let target = self.built.desired.tuples.get(&query.key())?;
        target.proxy().filter(|_| query.protocol == Protocol::Tcp)
    }

    /// The rule that refuses, or would.
    fn rule(&self, decision: &Decision, query: &Query, owners: &[Owner]) -> Option<Arc<str>> {
        let refuses = decision.action == Action::Drop || decision.would_drop;
        let named = self.names.rules.get(&decision.rule).cloned();
        // More rules than counters: the table does not name it, the evaluator does.
        let evaluated = || self.evaluate(*owners.first()?, query)?.rule;
        if refuses { named.or_else(evaluated) } else { None }
    }

    fn owner(&self, owner: Owner) -> Option<(&Gateway, &crate::gateway::model::Listener)> {
        let gateway = self.built.gateways.get(owner.gateway)?;
        Some((gateway, gateway.listeners.get(owner.listener)?))
    }

    /// The reference evaluator's outcome at one listener.
    fn evaluate(&self, owner: Owner, query: &Query) -> Option<crate::desired::Outcome> {
        let (gateway, listener) = self.owner(owner)?;
        let Built {
            mesh,
            policies,
            complete,
            withheld,
            ..
        } = &self.built;
        let complete = complete.get(owner.gateway).copied().unwrap_or(false);
        let default_deny = withheld.contains(&owner) || (complete && gateway.probe_sources_known);
        if self.by_header(query).is_none() {
            let source = query.source;
            return Some(policy::evaluate_with(
                mesh,
                policies,
                gateway,
                listener,
                default_deny,
                source,
            ));
        }
        let (client, destination) = query.proxy?;
        let tuple = listener.tuples.iter().find(|t| t.key == query.key())?;
        let header = policy::evaluate::Header {
            peer: tuple.peer_known.then_some(query.source),
            client: client.ip(),
            destination,
        };
        Some(policy::evaluate_header(
            mesh,
            policies,
            gateway,
            listener,
            default_deny,
            &header,
        ))
    }
}
