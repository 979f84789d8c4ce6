//! What the report asks of sets of addresses, as bits: each says that there is such an address. So what holds of a whole family is the
//! union of what holds of its parts.

use super::interval::{Address, Set};
use super::rules::Known;
use super::voice::Side;

/// The rule certainly matches something that is dropped.
const MEETS: u8 = 1;
/// The rule may match something that is not dropped.
const LEFT: u8 = 2;
/// The rule does not certainly match something.
const NOT_SURE: u8 = 4;
/// The rule certainly does not match something.
const NOT: u8 = 8;
/// Something is not certainly admitted, and the rule does not match it.
const OTHERS: u8 = 16;
/// The rule may match something that is neither certainly admitted nor dropped.
const DOUBT: u8 = 32;

/// No ALLOW rule may match something.
const CLOSED: u8 = 1;
/// … which is not dropped.
const CLOSED_LEFT: u8 = 2;
/// … which is dropped.
const CLOSED_CAUGHT: u8 = 4;
/// Something is not certainly admitted.
const NOT_ADMITTED: u8 = 8;

/// A rule at a place, as far as this is concerned.
pub(super) struct Line<'a, A> {
    pub(super) deny: bool,
    pub(super) certain: bool,
    pub(super) known: &'a Known<A>,
}

/// What was seen of one family at one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// Bits of the place.
    pub(super) place: u8,
    /// Bits of each of its rules.
    pub(super) rules: Vec<u8>,
}

impl Looked {
    /// Looks at the addresses between two, ends included; all sets have no others.
    pub(super) fn at<A: Address>(
        side: &Side<A>,
        dropped: &Set<A>,
        lines: &[Line<'_, A>],
        (low, high): (A, A),
    ) -> Self {
        let bit = |bit: u8, set: bool| if set { bit } else { 0 };
        if lines.iter().all(|line| line.deny) {
            // Nobody asks for anything else, and the complement of nothing is everything.
            let closed = bit(CLOSED, !side.open.fills(low, high));
            let rules = lines.iter().map(|line| deny(dropped, line)).collect();
            return Self { place: closed, rules };
        }
        let outside = |set: &Set<A>| set.not().clip(low, high);
        let closed = outside(&side.open);
        let unsettled = outside(&side.admitted);
        let settled = Set::union_of([&side.admitted, dropped]);
        let place = bit(CLOSED, !closed.is_empty())
            | bit(CLOSED_LEFT, !dropped.covers(&closed))
            | bit(CLOSED_CAUGHT, dropped.meets(&closed))
            | bit(NOT_ADMITTED, !unsettled.is_empty());
        let allow = |line: &Line<'_, A>| {
            let known = line.known;
            let doubt = if line.certain {
                known.maybe.and(&known.yes.not())
            } else {
                known.maybe.clone()
            };
            bit(NOT_SURE, !known.yes.fills(low, high))
                | bit(NOT, !known.maybe.fills(low, high))
                | bit(OTHERS, !known.maybe.covers(&unsettled))
                | bit(DOUBT, !settled.covers(&doubt))
        };
        let look = |line: &Line<'_, A>| {
            if line.deny {
                deny(dropped, line)
            } else {
                allow(line)
            }
        };
        Self {
            place,
            rules: lines.iter().map(look).collect(),
        }
    }

    /// Some address may be matched by no ALLOW rule.
    pub(super) const fn has_closed(&self) -> bool {
        self.place & CLOSED != 0
    }

    /// (caught, missed) of a DENY rule.
    pub(super) fn deny(&self, rule: usize) -> (bool, bool) {
        let bits = self.rule(rule);
        (bits & MEETS != 0, bits & LEFT != 0)
    }

    /// (caught, missed, other rules may admit everyone) of an ALLOW rule.
    pub(super) fn allow(&self, rule: usize, in_force: bool) -> (bool, bool, bool) {
        let bits = self.rule(rule);
        if !in_force {
            return (false, bits & NOT_SURE != 0, false);
        }
        let hidden = !self.has_closed() && bits & NOT != 0 && bits & OTHERS != 0;
        let left = self.place & CLOSED_LEFT != 0 || bits & DOUBT != 0;
        let caught = self.place & CLOSED_CAUGHT != 0 && self.place & NOT_ADMITTED != 0;
        (caught, left || hidden, hidden)
    }

    fn rule(&self, rule: usize) -> u8 {
        self.rules.get(rule).copied().unwrap_or(0)
    }
}

fn deny<A: Address>(dropped: &Set<A>, line: &Line<'_, A>) -> u8 {
    let meets = line.certain && dropped.meets(&line.known.yes);
    let left = !dropped.covers(&line.known.maybe);
    (if meets { MEETS } else { 0 }) | (if left { LEFT } else { 0 })
}
