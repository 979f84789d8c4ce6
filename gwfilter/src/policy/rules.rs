//! One rule at one place as sets of addresses (or of numbered cells): where it certainly matches and where it may match.

use super::atoms::{Atom, Input, Place};
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

    /// Everywhere.
    pub(super) fn all() -> Self {
        Self::fixed(Tri::True)
    }

    /// Nowhere.
    pub(super) fn none() -> Self {
        Self::fixed(Tri::False)
    }

    fn exact(set: Set<A>) -> Self {
        Self {
            yes: set.clone(),
            maybe: set,
        }
    }

    /// What of it lies between two addresses, ends included.
    pub(super) fn clip(&self, low: A, high: A) -> Self {
        Self {
            yes: self.yes.clip(low, high),
            maybe: self.maybe.clip(low, high),
        }
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            yes: self.yes.and(&other.yes),
            maybe: self.maybe.and(&other.maybe),
        }
    }

    fn any(all: &[Self]) -> Self {
        if let [one] = all {
            return one.clone();
        }
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
pub(super) type Reading = Vec<Atom>;

/// All fields of a rule in order.
pub(super) fn fields(rule: &Rule) -> impl Iterator<Item = &Field> {
    let entries = rule.from.iter().chain(&rule.to);
    entries.flat_map(|e| &e.fields).chain(&rule.when)
}

/// How a rule reads at a place.
pub(super) fn reading(rule: &Rule, place: &Place<'_>) -> Reading {
    fields(rule).map(|field| Atom::read(field, place)).collect()
}

/// From what fields compare to sets.
pub(super) trait Lift<A> {
    /// Where an input has one of these values; `None` if that cannot be told.
    fn set(&self, input: Input, values: &Values) -> Option<Set<A>>;
    /// The answer of a field that has one for each family of the packet.
    fn fixed(&self, v4: Tri, v6: Tri) -> Tri;
}

/// Sets of packet sources: without a proxy in front, the peer and the client are both that.
struct Sources;

impl<A: Address> Lift<A> for Sources {
    fn set(&self, input: Input, values: &Values) -> Option<Set<A>> {
        match (input, values) {
            (Input::Peer | Input::Client, Values::Ranges(ranges)) => Some(Set::from_nets(ranges)),
            _ => None,
        }
    }

    fn fixed(&self, v4: Tri, v6: Tri) -> Tri {
        if A::BITS == 32 { v4 } else { v6 }
    }
}

/// Nothing can be told.
pub(super) struct Unseen;

impl<A: Address> Lift<A> for Unseen {
    fn set(&self, _: Input, _: &Values) -> Option<Set<A>> {
        None
    }

    fn fixed(&self, v4: Tri, v6: Tri) -> Tri {
        if v4 == v6 { v4 } else { Tri::Unknown }
    }
}

/// Where a rule matches, of packet sources.
pub(super) fn sets(action: Action, rule: &Rule, place: &Place<'_>) -> RuleSets {
    RuleSets {
        v4: known(action, rule, place, &Sources),
        v6: known(action, rule, place, &Sources),
    }
}

/// Where a rule matches.
pub(super) fn known<A: Address>(
    action: Action,
    rule: &Rule,
    place: &Place<'_>,
    lift: &impl Lift<A>,
) -> Known<A> {
    if !rule.faults.is_empty() {
        return Known::fixed(Tri::Unknown);
    }
    // Istio fails to generate an ALLOW rule of a TCP chain that has any field of HTTP, with all its sources and operations.
    if action != Action::Deny && fields(rule).any(|f| Atom::read(f, place) == Atom::Vanishes) {
        return Known::none();
    }
    let any = |entries: &[Entry]| {
        if entries.is_empty() {
            return Known::all();
        }
        let all: Vec<Known<A>> = entries
            .iter()
            .map(|entry| {
                if entry.unknown.is_empty() {
                    every(&entry.fields, place, lift)
                } else {
                    Known::fixed(Tri::Unknown)
                }
            })
            .collect();
        Known::any(&all)
    };
    any(&rule.from)
        .and(&any(&rule.to))
        .and(&every(&rule.when, place, lift))
}

fn every<A: Address>(fields: &[Field], place: &Place<'_>, lift: &impl Lift<A>) -> Known<A> {
    fields.iter().fold(Known::all(), |all, field| {
        let one = match Atom::read(field, place) {
            Atom::Address(input) => match lift.set(input, &field.values) {
                Some(set) => Known::exact(if field.negated { set.not() } else { set }),
                None => Known::fixed(Tri::Unknown),
            },
            Atom::Fixed(v4, v6) => Known::fixed(lift.fixed(v4, v6)),
            Atom::Vanishes => return all,
        };
        all.and(&one)
    })
}
