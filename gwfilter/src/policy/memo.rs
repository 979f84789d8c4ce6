//! What a compilation keeps for the next one: whatever depends on an object that did not change is not computed again.
//!
//! Nothing here changes what comes out. Objects are taken for unchanged only if they are the same (`Arc`), and are held here for as long as
//! that is asked, so that none can take the place of another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::atoms::Place;
use super::decode;
use super::rules::{self, Reading, RuleSets};
use super::shards::{Cut, Kept};
use super::spec::Policy;
use crate::desired::Outcome;
use crate::diagnostic::Diagnostic;
use crate::object::authorization_policy::AuthorizationPolicy;

/// Numbers of outcomes that may be out of use before all are given anew.
const SPARE: usize = 1024;

/// Kept from one compilation to the next.
#[derive(Debug, Default)]
pub struct Memo {
    /// By where the object lies.
    decoded: BTreeMap<usize, Decoded>,
    /// By where the policy lies, the number of the rule, and how it reads.
    sets: BTreeMap<(usize, usize, Reading), Sets>,
    units: BTreeMap<UnitKey, Unit>,
    pub(super) numbers: Numbers,
    pub(super) cut: Cut,
    round: u64,
}

/// The gateway, its first listener with these tables, and whether anything is dropped there.
pub(super) type UnitKey = (String, String, bool);

#[derive(Debug)]
struct Decoded {
    object: Arc<AuthorizationPolicy>,
    policy: Arc<Policy>,
    diagnostics: Vec<Diagnostic>,
    round: u64,
}

#[derive(Debug)]
struct Sets {
    sets: Arc<RuleSets>,
    /// So that no other policy lies there.
    _policy: Arc<Policy>,
    round: u64,
}

/// What was compiled for the listeners of one kind.
#[derive(Debug, Default)]
pub(super) struct Unit {
    pub(super) v4: Option<Kept<u32>>,
    pub(super) v6: Option<Kept<u128>>,
    round: u64,
}

impl Unit {
    /// What was compiled now.
    pub(super) const fn of(v4: Kept<u32>, v6: Kept<u128>) -> Self {
        Self {
            v4: Some(v4),
            v6: Some(v6),
            round: 0,
        }
    }
}

impl Memo {
    /// Nothing is kept yet; tables will be cut into shards of so many intervals, however small they are. For tests.
    #[must_use]
    pub fn with_shards_of(intervals: usize) -> Self {
        Self {
            cut: Cut {
                per_shard: intervals,
                from: 0,
            },
            ..Self::default()
        }
    }

    /// Decodes policies; in order of namespace and name.
    pub fn decode(&mut self, objects: &[Arc<AuthorizationPolicy>]) -> (Vec<Arc<Policy>>, Vec<Diagnostic>) {
        let mut decoded = Vec::with_capacity(objects.len());
        let mut diagnostics = Vec::new();
        for object in objects {
            let known = self.decoded.entry(address(object)).or_insert_with(|| {
                let mut diagnostics = Vec::new();
                let policy = Arc::new(decode::policy(object, &mut diagnostics));
                Decoded {
                    object: Arc::clone(object),
                    policy,
                    diagnostics,
                    round: 0,
                }
            });
            debug_assert!(
                Arc::ptr_eq(&known.object, object),
                "held, so nothing else is there"
            );
            known.round = self.round;
            decoded.push(Arc::clone(&known.policy));
            diagnostics.extend(known.diagnostics.iter().cloned());
        }
        decoded.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        (decoded, diagnostics)
    }

    /// The sets of a rule of a policy, as it reads at a place.
    pub(super) fn sets(
        &mut self,
        policy: &Arc<Policy>,
        index: usize,
        place: &Place<'_>,
    ) -> Option<Arc<RuleSets>> {
        let rule = policy.rules.get(index)?;
        let key = (address(policy), index, rules::reading(rule, place));
        let known = self.sets.entry(key).or_insert_with(|| Sets {
            sets: Arc::new(rules::sets(policy.action, rule, place)),
            _policy: Arc::clone(policy),
            round: 0,
        });
        known.round = self.round;
        Some(Arc::clone(&known.sets))
    }

    /// What was kept of a unit; an empty one if nothing was.
    pub(super) fn take(&mut self, key: &UnitKey) -> Unit {
        self.units.remove(key).unwrap_or_default()
    }

    /// Keeps a unit.
    pub(super) fn put(&mut self, key: UnitKey, unit: Unit) {
        let round = self.round;
        self.units.insert(key, Unit { round, ..unit });
    }

    /// All gateways are compiled: what was not used is forgotten.
    pub fn end(&mut self) {
        let round = self.round;
        let decoded = self.decoded.values().filter(|known| known.round == round);
        let outcomes: usize = decoded.map(|known| known.policy.rules.len() + 1).sum();
        self.decoded.retain(|_, known| known.round == round);
        self.sets.retain(|_, known| known.round == round);
        self.units.retain(|_, unit| unit.round == round);
        if self.numbers.list.len() > 2 * outcomes + SPARE {
            self.units.clear();
            self.numbers = Numbers::default();
        }
        self.round += 1;
    }
}

/// Where something shared lies.
pub(super) fn address<T>(shared: &Arc<T>) -> usize {
    Arc::as_ptr(shared).addr()
}

/// Outcomes by number. A number keeps its meaning over compilations.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_outcome: BTreeMap<Outcome, u32>,
    list: Arc<Vec<Outcome>>,
}

impl Numbers {
    /// The number of an outcome.
    pub(super) fn of(&mut self, outcome: &Outcome) -> u32 {
        if let Some(&known) = self.by_outcome.get(outcome) {
            return known;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        Arc::make_mut(&mut self.list).push(outcome.clone());
        self.by_outcome.insert(outcome.clone(), number);
        number
    }

    /// What the numbers mean.
    pub(super) const fn list(&self) -> &Arc<Vec<Outcome>> {
        &self.list
    }
}
