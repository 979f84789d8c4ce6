//! What must hold of the decision for every frame.

use super::{Image, longest};
use crate::abi;
use crate::decide::{Action, Decision, decide};
use crate::read::SliceReader;
use crate::reason::Reason;
use crate::wire::{self, Family, Flow, l4};

/// Checks one frame under an image in which everything but observe mode can occur.
///
/// # Panics
/// If the decision breaks the law.
#[expect(clippy::panic, reason = "the report of a fuzz target and of tests")]
pub fn packet(image: &Image, frame: &[u8]) {
    let reader = SliceReader(frame);
    let decision = decide(&reader, image, &());
    let flow = wire::flow(&reader);
    let broken = |what: &str| panic!("{what}: {decision:?}, {flow:?}, {frame:02x?}");
    let dropping = matches!(decision.reason, Reason::DeniedByRule | Reason::NoRuleAllows);
    if dropping != (decision.action == Action::Drop) {
        broken("only these reasons drop, and they do");
    }
    if decision.would_drop != (decision.reason == Reason::Observed) {
        broken("only observe mode would drop");
    }
    if decision.listener >= abi::MAX_LISTENERS || decision.rule >= abi::MAX_RULES {
        broken("a counter that is not there");
    }
    if decision.action == Action::Drop {
        match flow {
            None => broken("dropped without ports"),
            Some(flow) if !refused(image, &flow, &decision) => {
                broken("dropped, and the tables do not refuse it")
            }
            Some(_) => {}
        }
    }
}

/// Whether the tables refuse this flow, read slowly: every bucket, every prefix.
fn refused(image: &Image, flow: &Flow, decision: &Decision) -> bool {
    let family = match flow.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let tuples = image
        .root
        .iter()
        .flatten()
        .skip(abi::BUCKETS_START as usize)
        .take(abi::BUCKETS as usize)
        .map(abi::Tuple::from_slot);
    let mut wanted = tuples.filter(|t| {
        (t.addr, t.port, t.protocol, t.family)
            == (flow.destination, flow.destination_port, flow.protocol, family)
    });
    let Some(tuple) = wanted.next() else { return false };
    let [a, b, c, d, ..] = flow.source;
    let (leaf, never) = match flow.family {
        Family::V4 => (
            image
                .source4
                .get(&tuple.source_table)
                .and_then(|t| longest(t, [a, b, c, d])),
            image
                .never4
                .get(&tuple.never_table)
                .is_none_or(|t| longest(t, [a, b, c, d]).is_some()),
        ),
        Family::V6 => (
            image
                .source6
                .get(&tuple.source_table)
                .and_then(|t| longest(t, flow.source)),
            image
                .never6
                .get(&tuple.never_table)
                .is_none_or(|t| longest(t, flow.source).is_some()),
        ),
    };
    let Some(leaf) = leaf else { return false };
    flow.protocol == l4::TCP
        && !never
        && tuple.listener == decision.listener
        && leaf.rule == decision.rule
        && leaf.reason == decision.reason.code()
        && matches!(leaf.verdict, abi::VERDICT_DROP | abi::VERDICT_DROP_NEW)
}
