//! From the generation in force and the desired one to ordered map operations.
//!
//! [`Planner`] is synchronous and deterministic: time comes in as an argument, nothing is read or written. Its state
//! changes only by [`Planner::commit`], after the operations were applied; a plan that fails half way is forgotten.
//!
//! What it sees to:
//! - **No gap.** Tables are built at indices that no packet uses, then one swap, then what is out of use is cleared.
//! - **The drain window** (`drain`): loosening at once; a source that was let in and is now refused loses only new connections
//!   until its window is over. It never comes back from there by itself: [`Plan::next_deadline_ms`] says when to plan again.
//! - **Capacity** is predicted: an impossible generation is an error with the numbers, before anything is touched. Only where
//!   counters of rules run out, rules are counted under their listener alone ([`Plan::uncounted_rules`]): their verdicts do not depend on it.
//! - **Sharing.** Tables with equal leaves share an index, and one that is in force keeps its own.

mod draft;
mod drain;
pub mod flat;
mod image;
mod leaves;
mod names;
mod op;
mod proxied;
pub(crate) mod ranges;
mod root;
mod saved;
mod slots;
mod withdraw;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

pub use image::Image;
pub use names::{ListenerName, Names};
pub use op::{Entries4, Entries6, FlatTable, Kind, Op, PlanError};
pub use root::RootImage;
pub use saved::{Counters, Draining, Past};
pub use withdraw::withdraw;

use crate::desired::Desired;
use crate::gateway::model::TupleKey;
use draft::Draft;
use drain::Memory;
use names::Indices;
use proxied::Past as ProxyPast;
use slots::Pool;

/// The windows, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a connection from before a tightening is let live, at least: what a gateway says of its Envoys counts where it is
    /// longer ([`Target::drain_ms`](crate::desired::Target::drain_ms)). Envoy's own drain time is 45 s by default.
    pub drain_ms: u64,
    /// How long only new connections are refused at a destination whose sources were rewritten before
    /// (`externalTrafficPolicy` Cluster→Local): those connections show another peer address now, and nothing drains them.
    pub rewritten_drain_ms: u64,
}

/// Plans one generation after the other.
#[derive(Clone, Debug)]
pub struct Planner {
    settings: Settings,
    state: Arc<State>,
}

/// What is in force.
#[derive(Clone, Debug)]
struct State {
    /// 0: nothing yet.
    generation: u64,
    root: Arc<RootImage>,
    source4: Pool<Ipv4Net>,
    source6: Pool<Ipv6Net>,
    never4: Pool<Ipv4Net>,
    never6: Pool<Ipv6Net>,
    listeners: Indices,
    rules: Indices,
    names: Names,
    memory: Memory,
    /// Destinations that are judged by the PROXY header. Without it (after a restart) every one of them counts as changed.
    proxied: BTreeMap<TupleKey, ProxyPast>,
}

/// What to do next.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In this order. Empty: what is in force is what is desired; commit the plan all the same.
    pub ops: Vec<Op>,
    /// When to plan again even if nothing changes: a drain window ends.
    pub next_deadline_ms: Option<u64>,
    /// The generation in force after the operations.
    pub generation: u64,
    /// Policy ids that got no counter of their own: their drops are counted under the listener only.
    pub uncounted_rules: Vec<Arc<str>>,
    next: Arc<State>,
}

impl Planner {
    /// A planner for maps in which nothing is in force.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let state = State {
            generation: 0,
            root: Arc::default(),
            source4: Pool::default(),
            source6: Pool::default(),
            never4: Pool::default(),
            never6: Pool::default(),
            listeners: Indices::default(),
            rules: Indices::default(),
            names: Names::default(),
            memory: Memory::default(),
            proxied: BTreeMap::new(),
        };
        Self {
            settings,
            state: Arc::new(state),
        }
    }

    /// Operations that make `desired` the generation in force, at `now_ms` of a clock that never goes back.
    ///
    /// # Errors
    /// Some capacity does not hold it ([`PlanError`]).
    pub fn plan(&self, desired: &Desired, now_ms: u64) -> Result<Plan, PlanError> {
        Draft::new(&self.state, self.settings, desired, now_ms)?.finish()
    }

    /// The operations of `plan`, up to and with the swap, were applied.
    pub fn commit(&mut self, plan: &Plan) {
        self.state = plan.next.clone();
    }

    /// Names behind the indices in force.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.state.names
    }

    /// The generation in force; 0 before the first commit.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state.generation
    }
}

#[cfg(test)]
mod tests;
