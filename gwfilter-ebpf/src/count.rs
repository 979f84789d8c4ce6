//! Per-CPU counters: one of the listener and reason, one of the rule.

use gwfilter_common::abi::{REASONS, Tally};
use gwfilter_common::decide::{Action, Decision};

use crate::maps::{GWF_COUNT, GWF_RULES};

/// Counts one decision.
#[inline(always)]
pub(crate) fn count(decision: &Decision) {
    if !decision.reason.is_counted() {
        return;
    }
    add(
        GWF_COUNT.get_ptr_mut(decision.listener * REASONS + u32::from(decision.reason.code())),
        decision,
    );
    if decision.rule != 0 && (decision.action == Action::Drop || decision.would_drop) {
        add(GWF_RULES.get_ptr_mut(decision.rule), decision);
    }
}

#[inline(always)]
fn add(tally: Option<*mut Tally>, decision: &Decision) {
    let Some(tally) = tally else { return };
    // SAFETY: the pointer is to this CPU's element of a per-CPU array, which lives as long as the program; a program is not
    // preempted by another run of itself on its CPU while it holds it (XDP and TC ingress run with bottom halves off).
    let tally = unsafe { &mut *tally };
    match decision.action {
        Action::Drop => tally.dropped += 1,
        Action::Pass | Action::Look => tally.passed += 1,
    }
    tally.would_drop += u64::from(decision.would_drop);
}
