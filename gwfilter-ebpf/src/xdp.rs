//! The XDP entry points. They return `XDP_PASS` or `XDP_DROP` and nothing else.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use gwfilter_common::decide::{
    Action, Decision, PLAIN4_LEN, PLAIN6_LEN, Scope, decide_found, decide_in, family, lookup, plain4, plain6,
};
use gwfilter_common::logline::HOOK_XDP;
use gwfilter_common::read::PacketRead;
use gwfilter_common::reason::Reason;
use gwfilter_common::wire::{Family, Transport};

use crate::count::count;
use crate::maps::Maps;
use crate::packet_log;
use crate::reader::{Head, Interface, Linear, XdpFragsReader, XdpReader};
use crate::sample::{self, PLAIN, SAMPLED, Sampled};

/// For drivers that take multi-buffer frames.
#[xdp(frags)]
#[inline(always)]
fn gwf_xdp_frags(ctx: XdpContext) -> u32 {
    run::<PLAIN, _>(&XdpFragsReader(&ctx))
}

/// The same, with samples.
#[xdp(frags)]
#[inline(always)]
fn gwf_xdp_frags_sampled(ctx: XdpContext) -> u32 {
    run::<SAMPLED, _>(&XdpFragsReader(&ctx))
}

/// For kernels or drivers that refuse the frags flag.
#[xdp]
#[inline(always)]
fn gwf_xdp(ctx: XdpContext) -> u32 {
    run::<PLAIN, _>(&XdpReader(&ctx))
}

/// The same, with samples.
#[xdp]
#[inline(always)]
fn gwf_xdp_sampled(ctx: XdpContext) -> u32 {
    run::<SAMPLED, _>(&XdpReader(&ctx))
}

#[inline(always)]
fn run<const SAMPLES: bool, R: PacketRead + Interface + Linear + Sampled>(packet: &R) -> u32 {
    // One call for each family, so that each has offsets of its own.
    match family(packet) {
        Some(Family::V4) => {
            if let Some(head) = Head::<_, { PLAIN4_LEN }>::of(packet)
                && let Some(at) = plain4(&head)
            {
                return plain::<SAMPLES, _>(packet, &head, &at);
            }
        }
        Some(Family::V6) => {
            if let Some(head) = Head::<_, { PLAIN6_LEN }>::of(packet)
                && let Some(at) = plain6(&head)
            {
                return plain::<SAMPLES, _>(packet, &head, &at);
            }
        }
        None => {}
    }
    finish::<SAMPLES, _>(packet, &decide_in(packet, &Maps, Scope::Xdp))
}

/// What is for no gateway leaves at once.
#[inline(always)]
fn plain<const SAMPLES: bool, R: PacketRead + Interface + Sampled>(
    packet: &R,
    head: &impl PacketRead,
    at: &Transport,
) -> u32 {
    match lookup(head, &Maps, at) {
        Err(Reason::NotAGateway) => XDP_PASS,
        Err(reason) => finish::<SAMPLES, _>(packet, &Decision::unfound(reason, Scope::Xdp)),
        Ok(found) => finish::<SAMPLES, _>(packet, &decide_found(head, &Maps, at, &found, Scope::Xdp)),
    }
}

/// Tells of a decision and carries it out.
#[inline(always)]
fn finish<const SAMPLES: bool, R: PacketRead + Interface + Sampled>(packet: &R, decision: &Decision) -> u32 {
    if SAMPLES {
        sample::count_and_take(decision, HOOK_XDP, packet);
    } else {
        count(decision);
    }
    packet_log::log(decision, HOOK_XDP, packet);
    match decision.action {
        Action::Drop => XDP_DROP,
        Action::Pass | Action::Look => XDP_PASS,
    }
}
