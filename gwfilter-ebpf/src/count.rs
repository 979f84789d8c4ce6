//! Per-CPU counters: one of the listener and reason, one of the rule.

use gwfilter_common::abi::{REASONS, Tally};
use gwfilter_common::decide::{Action, Decision};

use crate::maps::{GWF_COUNT, GWF_RULES};

/// Counts one decision.
#[inline(always)]
pub(crate) fn count(decision: &Decision) {
    let _ = counted::<false>(decision);
}

/// [`count`]; gives back the decision's number in its counter, 0 if it has none.
#[inline(always)]
pub(crate) fn number(decision: &Decision) -> u64 {
    counted::<true>(decision)
}

#[inline(always)]
fn counted<const NUMBERS: bool>(decision: &Decision) -> u64 {
    if !decision.reason.is_counted() {
        return 0;
    }
    let number = add::<NUMBERS>(
        GWF_COUNT.get_ptr_mut(decision.listener * REASONS + u32::from(decision.reason.code())),
        decision,
    );
    if decision.rule != 0 && (decision.action == Action::Drop || decision.would_drop) {
        add::<false>(GWF_RULES.get_ptr_mut(decision.rule), decision);
    }
    number
}

#[inline(always)]
fn add<const NUMBERS: bool>(tally: Option<*mut Tally>, decision: &Decision) -> u64 {
    let Some(tally) = tally else { return 0 };
    // SAFETY: the pointer is to this CPU's element of a per-CPU array, which lives as long as the program; a program is not
    // preempted by another run of itself on its CPU while it holds it (XDP and TC ingress run with bottom halves off).
    let tally = unsafe { &mut *tally };
    match decision.action {
        Action::Drop => tally.dropped += 1,
        Action::Pass | Action::Look => tally.passed += 1,
    }
    tally.would_drop += u64::from(decision.would_drop);
    match decision.action {
        _ if !NUMBERS => 0,
        Action::Drop => tally.dropped,
        Action::Pass | Action::Look => tally.passed,
    }
}
