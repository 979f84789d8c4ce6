//! The TC entry point. It returns "next" or "shot" and nothing else: "ok" would skip the programs of others behind it.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use gwfilter_common::decide::{Action, decide};
use gwfilter_common::logline::HOOK_TC;
use gwfilter_common::wire::flow;

use crate::count::count;
use crate::maps::Maps;
use crate::packet_log;
use crate::reader::TcReader;

/// For interfaces without native XDP.
#[classifier]
fn gwf_tc(ctx: TcContext) -> i32 {
    let packet = TcReader(&ctx);
    let decision = decide(&packet, &Maps);
    count(&decision);
    // SAFETY: the context is this program's.
    packet_log::log(
        &decision,
        HOOK_TC,
        || flow(&packet),
        || unsafe { (*ctx.skb.skb).ifindex },
    );
    match decision.action {
        Action::Drop => TC_ACT_SHOT,
        // The same number as `TCX_NEXT`.
        Action::Pass => TC_ACT_UNSPEC,
    }
}
