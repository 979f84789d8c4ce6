//! The XDP entry points. They return `XDP_PASS` or `XDP_DROP` and nothing else.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use gwfilter_common::decide::{Action, Scope, decide_in};
use gwfilter_common::logline::HOOK_XDP;
use gwfilter_common::read::PacketRead;

use crate::count::count;
use crate::maps::Maps;
use crate::packet_log;
use crate::reader::{Interface, XdpFragsReader, XdpReader};

/// For drivers that take multi-buffer frames.
#[xdp(frags)]
fn gwf_xdp_frags(ctx: XdpContext) -> u32 {
    run(&XdpFragsReader(&ctx))
}

/// For kernels or drivers that refuse the frags flag.
#[xdp]
fn gwf_xdp(ctx: XdpContext) -> u32 {
    run(&XdpReader(&ctx))
}

#[inline(always)]
fn run<R: PacketRead + Interface>(packet: &R) -> u32 {
    let decision = decide_in(packet, &Maps, Scope::Xdp);
    count(&decision);
    packet_log::log(&decision, HOOK_XDP, packet);
    match decision.action {
        Action::Drop => XDP_DROP,
        Action::Pass | Action::Look => XDP_PASS,
    }
}
