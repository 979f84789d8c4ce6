//! One rule at one place as sets of addresses: where it certainly matches and where it may match.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::atoms::{Atom, Place};
use super::interval::{Address, Set};
use super::spec::{Action, Entry, Field, Rule, Values};
use crate::gateway::model::Tri;

/// Where something is certainly true, and where it may be (a superset).
#[derive(Clone, Debug)]
pub(super) struct Known<A> {
    /// Certainly.
    pub(super) yes: Set<A>,
    /// Certainly or possibly.
    pub(super) maybe: Set<A>,
}

impl<A: Address> Known<A> {
    fn fixed(value: Tri) -> Self {
        match value {
            Tri::True => Self {
                yes: Set::full(),
                maybe: Set::full(),
            },
            Tri::False => Self {
                yes: Set::empty(),
                maybe: Set::empty(),
            },
            Tri::Unknown => Self {
                yes: Set::empty(),
                maybe: Set::full(),
            },
        }
    }

    fn exact(set: Set<A>) -> Self {
        Self {
            yes: set.clone(),
            maybe: set,
        }
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            yes: self.yes.and(&other.yes),
            maybe: self.maybe.and(&other.maybe),
        }
    }

    fn any(all: &[Self]) -> Self {
        Self {
            yes: Set::union_of(all.iter().map(|k| &k.yes)),
            maybe: Set::union_of(all.iter().map(|k| &k.maybe)),
        }
    }
}

/// A rule for both families.
#[derive(Clone, Debug)]
pub(super) struct RuleSets {
    pub(super) v4: Known<u32>,
    pub(super) v6: Known<u128>,
}

/// What the rule's fields say at a place, in the rule's order: rules that read alike have equal sets.
type Reading = Vec<Atom>;

/// The sets of rules, each computed once for each way in which a place can read it.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: BTreeMap<(usize, usize, Reading), (usize, Rc<RuleSets>)>,
}

impl Cache {
    /// The sets of rule `at.1` of policy `at.0`, with a number that stands for them.
    pub(super) fn sets(
        &mut self,
        at: (usize, usize),
        action: Action,
        rule: &Rule,
        place: &Place<'_>,
    ) -> (usize, Rc<RuleSets>) {
        let entries = rule.from.iter().chain(&rule.to);
        let fields = entries.flat_map(|e| &e.fields).chain(&rule.when);
        let reading: Reading = fields.map(|field| Atom::read(field, place)).collect();
        let number = self.known.len();
        let (number, sets) = self
            .known
            .entry((at.0, at.1, reading))
            .or_insert_with_key(|(_, _, reading)| (number, Rc::new(sets(action, rule, reading, place))));
        (*number, Rc::clone(sets))
    }
}

fn sets(action: Action, rule: &Rule, reading: &[Atom], place: &Place<'_>) -> RuleSets {
    if !rule.faults.is_empty() {
        return RuleSets {
            v4: Known::fixed(Tri::Unknown),
            v6: Known::fixed(Tri::Unknown),
        };
    }
    // Istio fails to generate an ALLOW rule of a TCP chain that has any field of HTTP, with all its sources and operations.
    if action != Action::Deny && reading.contains(&Atom::Vanishes) {
        return RuleSets {
            v4: Known::fixed(Tri::False),
            v6: Known::fixed(Tri::False),
        };
    }
    RuleSets {
        v4: family(rule, place),
        v6: family(rule, place),
    }
}

fn family<A: Address>(rule: &Rule, place: &Place<'_>) -> Known<A> {
    let any = |entries: &[Entry]| {
        if entries.is_empty() {
            return Known::fixed(Tri::True);
        }
        let all: Vec<Known<A>> = entries
            .iter()
            .map(|entry| {
                if entry.unknown.is_empty() {
                    every(&entry.fields, place)
                } else {
                    Known::fixed(Tri::Unknown)
                }
            })
            .collect();
        Known::any(&all)
    };
    any(&rule.from).and(&any(&rule.to)).and(&every(&rule.when, place))
}

fn every<A: Address>(fields: &[Field], place: &Place<'_>) -> Known<A> {
    fields.iter().fold(Known::fixed(Tri::True), |all, field| {
        let one = match (Atom::read(field, place), &field.values) {
            // Without a proxy in front, the peer and the client are both the packet's source.
            (Atom::Address(_), Values::Ranges(ranges)) => {
                let set = Set::from_nets(ranges);
                Known::exact(if field.negated { set.not() } else { set })
            }
            (Atom::Fixed(v4, v6), _) => Known::fixed(if A::BITS == 32 { v4 } else { v6 }),
            (Atom::Vanishes, _) => return all,
            (Atom::Address(_), _) => Known::fixed(Tri::Unknown),
        };
        all.and(&one)
    })
}
