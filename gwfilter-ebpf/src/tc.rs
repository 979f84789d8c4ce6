//! The TC entry point. It returns "next" or "shot" and nothing else: "ok" would skip the programs of others behind it.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use gwfilter_common::abi::{NEXT_HEADER, NEXT_REFUSE};
use gwfilter_common::decide::{
    Action, Decision, PLAIN4_LEN, PLAIN6_LEN, Scope, decide_found, decide_in, family, lookup, plain4, plain6,
};
use gwfilter_common::logline::HOOK_TC;
use gwfilter_common::read::PacketRead;
use gwfilter_common::reason::Reason;
use gwfilter_common::wire::{Family, Transport};

use crate::count::count;
use crate::maps::{GWF_NEXT, Maps};
use crate::packet_log;
use crate::reader::{Head, TcReader};
use crate::sample::{self, PLAIN, SAMPLED};

/// For interfaces without XDP.
#[classifier]
#[inline(always)]
fn gwf_tc(ctx: TcContext) -> i32 {
    run::<PLAIN>(&ctx, Scope::All)
}

/// The same, with samples.
#[classifier]
#[inline(always)]
fn gwf_tc_sampled(ctx: TcContext) -> i32 {
    run::<SAMPLED>(&ctx, Scope::All)
}

/// For interfaces where XDP judges what it can.
#[classifier]
#[inline(always)]
fn gwf_tc_proxy(ctx: TcContext) -> i32 {
    run::<PLAIN>(&ctx, Scope::BesideXdp)
}

/// The same, with samples.
#[classifier]
#[inline(always)]
fn gwf_tc_proxy_sampled(ctx: TcContext) -> i32 {
    run::<SAMPLED>(&ctx, Scope::BesideXdp)
}

#[inline(always)]
fn run<const SAMPLES: bool>(ctx: &TcContext, scope: Scope) -> i32 {
    let packet = TcReader(ctx);
    // One call for each family, so that each has offsets of its own.
    match family(&packet) {
        Some(Family::V4) => {
            if let Some(head) = Head::<_, { PLAIN4_LEN }>::of(&packet)
                && let Some(at) = plain4(&head)
            {
                return plain::<SAMPLES>(ctx, &packet, &head, &at, scope);
            }
        }
        Some(Family::V6) => {
            if let Some(head) = Head::<_, { PLAIN6_LEN }>::of(&packet)
                && let Some(at) = plain6(&head)
            {
                return plain::<SAMPLES>(ctx, &packet, &head, &at, scope);
            }
        }
        None => {}
    }
    carry_out::<SAMPLES>(ctx, &packet, &decide_in(&packet, &Maps, scope))
}

/// What is for no gateway leaves at once, and what is data in the middle of a stream.
#[inline(always)]
fn plain<const SAMPLES: bool>(
    ctx: &TcContext,
    packet: &TcReader<'_>,
    head: &impl PacketRead,
    at: &Transport,
    scope: Scope,
) -> i32 {
    match lookup(head, &Maps, at) {
        Err(Reason::NotAGateway) => TC_ACT_UNSPEC,
        Err(reason) => finish::<SAMPLES>(ctx, packet, &Decision::unfound(reason, scope)),
        Ok(found) => carry_out::<SAMPLES>(ctx, packet, &decide_found(head, &Maps, at, &found, scope)),
    }
}

#[inline(always)]
fn carry_out<const SAMPLES: bool>(ctx: &TcContext, packet: &TcReader<'_>, decision: &Decision) -> i32 {
    if decision.action == Action::Look {
        // SAFETY: the context is this program's.
        unsafe { GWF_NEXT.tail_call(ctx, NEXT_HEADER) };
        // Only if the program is not there.
        let lost = Decision {
            action: Action::Pass,
            reason: Reason::TableMissing,
            ..*decision
        };
        count(&lost);
        return TC_ACT_UNSPEC;
    }
    finish::<SAMPLES>(ctx, packet, decision)
}

/// A map is not as it should be: nothing can be told, so nothing is judged.
pub(crate) const fn lost() -> i32 {
    TC_ACT_UNSPEC
}

/// Tells of a decision and carries it out.
#[inline(always)]
fn finish<const SAMPLES: bool>(ctx: &TcContext, packet: &TcReader<'_>, decision: &Decision) -> i32 {
    if SAMPLES {
        sample::count_and_take(decision, HOOK_TC, packet);
    } else {
        count(decision);
    }
    packet_log::log(decision, HOOK_TC, packet);
    action(ctx, decision, NEXT_REFUSE)
}

/// The hook's return value. A refusal that is answered ends in the program `next`.
#[inline(always)]
pub(crate) fn action(ctx: &TcContext, decision: &Decision, next: u32) -> i32 {
    if decision.action == Action::Drop && decision.reset {
        // SAFETY: the context is this program's. If the program is not there, the segment is dropped in silence.
        unsafe { GWF_NEXT.tail_call(ctx, next) };
    }
    match decision.action {
        Action::Drop => TC_ACT_SHOT,
        // The same number as `TCX_NEXT`.
        Action::Pass | Action::Look => TC_ACT_UNSPEC,
    }
}
