//! What the policies say at one place, as far as sets of addresses go, in numbers that keep their meaning over compilations; and what follows
//! from it for some stretch of the address space.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gwfilter_common::reason::Reason;

use super::compile::Judged;
use super::flatten::{Rank, Segments};
use super::interval::{Address, Set};
use super::memo::Numbers;
use super::rules::{Known, RuleSets};
use super::spec::{Action, Policy};
use crate::desired::{Outcome, Verdict};

/// What the policies say at one place, as far as sets of addresses go.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    pub(super) lines: Vec<RuleLine>,
    /// The number of the outcome of those that no ALLOW rule matches, where an ALLOW policy certainly applies.
    pub(super) closes: Option<u32>,
    /// Its rank.
    closes_rank: Option<Rank>,
    /// Some policy may admit anything.
    pub(super) holes: bool,
}

/// A rule at a place.
#[derive(Clone, Debug)]
pub(super) struct RuleLine {
    /// No other rule of the place has it.
    pub(super) number: u32,
    pub(super) deny: bool,
    /// The policy certainly applies.
    pub(super) certain: bool,
    /// Of its refusals.
    rank: Option<Rank>,
    pub(super) sets: Arc<RuleSets>,
}

/// What the policies say at one place, for one family.
#[derive(Debug)]
pub(super) struct Side<A> {
    /// What is certainly refused there, by whom.
    pub(super) refused: Segments<A>,
    /// The same with default-deny, where health probes alone speak against that.
    pub(super) withheld: Segments<A>,
    /// What some ALLOW rule certainly matches.
    pub(super) admitted: Set<A>,
    /// What some ALLOW rule may match.
    pub(super) open: Set<A>,
}

impl<A> Side<A> {
    pub(super) fn segments(&self, withheld: bool) -> &Segments<A> {
        if withheld { &self.withheld } else { &self.refused }
    }
}

impl Voice {
    /// Nothing is said.
    pub(super) const fn silent() -> Self {
        Self {
            lines: Vec::new(),
            closes: None,
            closes_rank: None,
            holes: false,
        }
    }
}

/// What is said at a place.
pub(super) fn voice(
    judged: &Judged,
    policies: &[Arc<Policy>],
    ranks: &BTreeMap<Outcome, Rank>,
    numbers: &mut Numbers,
) -> Voice {
    let mut given = BTreeSet::new();
    let mut lines = Vec::with_capacity(judged.rules.len());
    for rule in &judged.rules {
        let Some(policy) = policies.get(rule.policy) else {
            continue;
        };
        let Some(written) = policy.rules.get(rule.rule) else {
            continue;
        };
        let deny = policy.action == Action::Deny;
        let mut outcome = if deny {
            denied(&written.id)
        } else {
            admitted(&written.id)
        };
        let rank = ranks.get(&outcome).copied();
        let mut number = numbers.of(&outcome);
        // Two policies of one name are never both in force. Were they here, they would be two all the same.
        while !given.insert(number) {
            outcome.rule = outcome.rule.map(|id| format!("{id}'").into());
            number = numbers.of(&outcome);
        }
        lines.push(RuleLine {
            number,
            deny,
            certain: rule.certain,
            rank,
            sets: Arc::clone(&rule.sets),
        });
    }
    let allowing = judged.allowing.iter().filter_map(|&at| policies.get(at));
    let first = allowing.map(|policy| unmatched(policy)).min();
    Voice {
        lines,
        closes: first.as_ref().map(|outcome| numbers.of(outcome)),
        closes_rank: first.and_then(|outcome| ranks.get(&outcome).copied()),
        holes: !judged.holes.is_empty(),
    }
}

/// What is said at a place of the addresses between two, ends included; the sets have no others.
pub(super) fn side<'s, A: Address>(
    voice: &Voice,
    lines: impl Iterator<Item = (&'s RuleLine, &'s Known<A>)>,
    complete: bool,
    default_deny: bool,
    (low, high): (A, A),
) -> Side<A> {
    let mut refused = Vec::new();
    let (mut admitted, mut open) = (Vec::new(), Vec::new());
    for (line, known) in lines {
        if line.deny {
            if let (true, Some(rank)) = (line.certain, line.rank) {
                refused.extend(known.yes.ranges().iter().map(|&(low, high)| (low, high, rank)));
            }
        } else {
            open.extend(known.maybe.ranges());
            if line.certain {
                admitted.extend(known.yes.ranges());
            }
        }
    }
    let open = if voice.holes {
        Set::from_ranges(vec![(low, high)])
    } else {
        Set::from_ranges(open)
    };
    let mut withheld = Vec::new();
    if let Some(rank) = voice.closes_rank
        && complete
    {
        let closed = open.not().clip(low, high);
        let closed = closed.ranges().iter().map(|&(low, high)| (low, high, rank));
        if default_deny {
            refused.extend(closed);
        } else {
            withheld.clone_from(&refused);
            withheld.extend(closed);
        }
    }
    Side {
        refused: Segments::sweep(refused),
        withheld: Segments::sweep(withheld),
        admitted: Set::from_ranges(admitted),
        open,
    }
}

/// What all of them refuse, each address with the lowest rank.
pub(super) fn refused_by_all<'s, A: Address + 's>(
    mut all: impl Iterator<Item = &'s Segments<A>>,
) -> Segments<A> {
    let first = all.next().cloned().unwrap_or_else(Segments::none);
    all.fold(first, |all, next| all.and(next))
}

/// What a DENY rule does.
pub(super) fn denied(id: &Arc<str>) -> Outcome {
    Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(Arc::clone(id)),
    }
}

/// What stands for an ALLOW rule.
fn admitted(id: &Arc<str>) -> Outcome {
    Outcome {
        verdict: Verdict::Pass,
        reason: Reason::Allowed,
        rule: Some(Arc::clone(id)),
    }
}

/// What befalls those whom no ALLOW rule matches, if this policy is the first.
pub(super) fn unmatched(policy: &Policy) -> Outcome {
    Outcome {
        verdict: Verdict::Drop,
        reason: Reason::NoRuleAllows,
        rule: Some(policy.id().into()),
    }
}
