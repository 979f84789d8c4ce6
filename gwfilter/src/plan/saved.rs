//! What outlives an agent of what the planner knows: who has which counter, and which connections are draining. Pure.
//!
//! Both are told apart because they may be wrong in opposite ways. Who gets a counter must be known to the next agent before packets are
//! counted there, so it is written *before* the swap. What is refused must not be believed before it was so: a source that was let
//! in to the last would lose its connections; so it is written *after* it, and an older one only drains longer.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::drain::{Group, Memory};
use super::names::{Holder, Indices, ListenerName, Names};
use super::ranges::Range;
use super::{Op, Plan, Planner, Settings, State};

/// Who has which counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The generation in force when this was written.
    in_force: u64,
    /// The one that it is written for: the same, or the next.
    generation: u64,
    /// Name, index, and the last generation that used it.
    listeners: Vec<(String, u32, u64)>,
    rules: Vec<(String, u32, u64)>,
}

impl Counters {
    /// Names by index.
    #[must_use]
    pub fn names(&self) -> Names {
        let listeners = self.listeners.iter();
        let rules = self.rules.iter();
        Names {
            listeners: listeners
                .map(|(name, index, _)| (*index, ListenerName::parse(name)))
                .collect(),
            rules: rules
                .map(|(name, index, _)| (*index, Arc::from(name.as_str())))
                .collect(),
        }
    }
}

/// What of the past bears on connections.
#[derive(Clone, Debug)]
pub struct Draining(Arc<State>);

impl Draining {
    /// As text.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.append(&mut text);
        text
    }

    /// As text behind what is there.
    pub fn append(&self, text: &mut Vec<u8>) {
        let before = text.len();
        // Our own plain types; there is nothing in them that JSON does not have.
        if serde_json::to_writer(&mut *text, &self.0.memory).is_err() {
            text.truncate(before);
        }
    }
}

/// What an earlier agent has left of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past(Memory);

impl Past {
    /// Reads [`Draining::encode`]; `None` if that is not what it is.
    #[must_use]
    pub fn decode(text: &[u8]) -> Option<Self> {
        let memory: Memory = serde_json::from_slice(text).ok()?;
        let sound = |group: &Group| match group {
            Group::Read(flat) => {
                is_sorted(flat.refused.iter()) && is_sorted(flat.draining.iter().map(|(range, _)| range))
            }
            Group::V4(_) | Group::V6(_) => false,
        };
        memory.groups.iter().all(sound).then_some(Self(memory))
    }

    /// The same without what was refused: it was let in meanwhile. What is left only makes refusals weaker.
    #[must_use]
    pub fn let_in(self) -> Self {
        Self(Memory {
            rewritten: self.0.rewritten,
            ..Memory::default()
        })
    }

    /// The same without what was refused at addresses of pods.
    #[must_use]
    pub fn let_in_at_pods(mut self) -> Self {
        let pods = std::mem::take(&mut self.0.pods);
        self.0.tuples.retain(|key, _| !pods.contains(key));
        self
    }
}

/// Whether ranges are ranges, in order, and do not overlap.
fn is_sorted<'a>(ranges: impl Iterator<Item = &'a Range>) -> bool {
    let mut before: Option<u128> = None;
    for range in ranges {
        if range.first > range.last || before.is_some_and(|last| last >= range.first) {
            return false;
        }
        before = Some(range.last);
    }
    true
}

impl Plan {
    /// The operations in two parts: those that zero the counters of new owners, and all else. Between them the new owners are
    /// to be noted ([`Planner::counters`]).
    #[must_use]
    pub fn parts(&self) -> (&[Op], &[Op]) {
        let zeroes = |op: &&Op| matches!(op, Op::ZeroRule { .. } | Op::ZeroListener { .. });
        let first = self.ops.iter().take_while(zeroes).count();
        self.ops.split_at_checked(first).unwrap_or((&[], &self.ops))
    }
}

impl Planner {
    /// A planner for maps in which an earlier agent's generation is in force, with what it left. `counters` only if the maps of
    /// counters are that agent's too.
    #[must_use]
    pub fn resume(settings: Settings, counters: Option<&Counters>, past: Past) -> Self {
        let mut planner = Self::new(settings);
        let state = Arc::make_mut(&mut planner.state);
        state.memory = past.0;
        if let Some(counters) = counters {
            // Whatever was in use, or was about to be, is in use: packets may be counted there until the programs are replaced.
            let holders = |list: &[(String, u32, u64)], limit| {
                let used = |used: u64| {
                    if used >= counters.in_force {
                        counters.generation
                    } else {
                        used
                    }
                };
                let known = list.iter().map(|(name, index, at)| {
                    let (index, used) = (*index, used(*at));
                    (Arc::from(name.as_str()), Holder { index, used })
                });
                Indices::of(known, limit)
            };
            state.generation = counters.generation;
            state.listeners = holders(&counters.listeners, super::draft::LISTENERS);
            state.rules = holders(&counters.rules, super::draft::RULES);
            state.names = names(&state.listeners, &state.rules);
        }
        planner
    }

    /// Changes what is remembered of the past, for the next plan: [`Past::let_in`] or [`Past::let_in_at_pods`]. Whether headers that come
    /// now belong to connections from before is then not known of any destination.
    pub fn revise(&mut self, with: impl FnOnce(Past) -> Past) {
        let state = Arc::make_mut(&mut self.state);
        state.memory = with(Past(std::mem::take(&mut state.memory))).0;
        state.proxied.clear();
    }

    /// Who has which counter; with the plan that is about to be applied, by that.
    #[must_use]
    pub fn counters(&self, next: Option<&Plan>) -> Counters {
        let of = next.map_or(&self.state, |plan| &plan.next);
        let list = |indices: &Indices| {
            indices
                .holders()
                .map(|(n, h)| (n.to_string(), h.index, h.used))
                .collect()
        };
        Counters {
            in_force: self.state.generation,
            generation: of.generation,
            listeners: list(&of.listeners),
            rules: list(&of.rules),
        }
    }

    /// What of the past bears on connections, as the next agent should have it.
    #[must_use]
    pub fn draining(&self) -> Draining {
        Draining(Arc::clone(&self.state))
    }
}

/// Names by index.
pub(super) fn names(listeners: &Indices, rules: &Indices) -> Names {
    Names {
        listeners: listeners
            .iter()
            .map(|(i, n)| (i, ListenerName::parse(n)))
            .collect(),
        rules: rules.iter().map(|(i, n)| (i, n.clone())).collect(),
    }
}

impl Indices {
    /// Indices as they were left. What is out of bounds, or stated twice, is not taken.
    fn of(known: impl Iterator<Item = (Arc<str>, Holder)>, limit: u32) -> Self {
        let mut taken = BTreeSet::new();
        let fits = known.filter(|(_, h)| h.index > 0 && h.index < limit && taken.insert(h.index));
        Self {
            by_name: fits.collect(),
        }
    }

    fn holders(&self) -> impl Iterator<Item = (&Arc<str>, &Holder)> {
        self.by_name.iter()
    }
}

#[cfg(test)]
mod tests;
