//! The packet log: one line of `gwfilter_common::logline` for a packet to a gateway, when it is asked for.
//!
//! The global that switches it is read-only, so that the verifier drops all of this from a program that does not log.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_log_ebpf::info;
use gwfilter_common::abi;
use gwfilter_common::decide::{Action, Decision, Flow};
use gwfilter_common::logline;
use gwfilter_common::wire::Family;

use crate::maps::GWF_LOGLIM;

/// [`abi::PACKET_LOG_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_PACKET_LOG: Global<u32> = Global::new(abi::PACKET_LOG_OFF);
/// [`abi::LOG_RATE_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_LOG_RATE: Global<u32> = Global::new(100);

/// What a line says.
struct Line {
    flow: Flow,
    hook: u32,
    interface: u32,
    verdict: u32,
    reason: u32,
    listener: u32,
    rule: u32,
}

/// Writes the line of a decision, if it is to be logged and the budget of this CPU allows it.
#[inline(always)]
pub(crate) fn log(decision: &Decision, hook: u32, interface: impl FnOnce() -> u32) {
    let which = GWF_PACKET_LOG.load();
    if which == abi::PACKET_LOG_OFF {
        return;
    }
    let Some(flow) = decision.flow else { return };
    let verdict = match decision.action {
        Action::Drop => logline::VERDICT_DROPPED,
        Action::Pass if decision.would_drop => logline::VERDICT_WOULD_DROP,
        Action::Pass => logline::VERDICT_PASSED,
    };
    if which != abi::PACKET_LOG_ALL && verdict == logline::VERDICT_PASSED {
        return;
    }
    let line = Line {
        flow,
        hook,
        interface: interface(),
        verdict,
        reason: u32::from(decision.reason.code()),
        listener: decision.listener,
        rule: decision.rule,
    };
    write(&line);
}

/// A function of its own, so that its stack is not the decision's.
#[inline(never)]
fn write(line: &Line) {
    if !within_budget() {
        return;
    }
    match line.flow.family {
        Family::V4 => {
            let [a, b, c, d, ..] = line.flow.source;
            let [e, f, g, h, ..] = line.flow.destination;
            write_with(line, [a, b, c, d], [e, f, g, h]);
        }
        Family::V6 => write_with(line, line.flow.source, line.flow.destination),
    }
}

#[inline(always)]
fn write_with<A>(line: &Line, source: A, destination: A)
where
    A: aya_log_ebpf::macro_support::Argument + aya_log_ebpf::macro_support::IpFormatter + Copy,
{
    info!(
        (),
        target: "gwf",
        "gwf v=1 hook={} if={} verdict={} reason={} listener={} rule={} proto={} src={:i} sport={} dst={:i} dport={}",
        line.hook,
        line.interface,
        line.verdict,
        line.reason,
        line.listener,
        line.rule,
        line.flow.protocol,
        source,
        line.flow.source_port,
        destination,
        line.flow.destination_port
    );
}

/// Takes one line from the budget of this CPU and second.
#[inline(always)]
fn within_budget() -> bool {
    let Some(limit) = GWF_LOGLIM.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's element of a per-CPU array; see `count::add`.
    let limit = unsafe { &mut *limit };
    // SAFETY: no arguments.
    let window = unsafe { bpf_ktime_get_ns() } >> 30;
    if limit.window != window {
        limit.window = window;
        limit.used = 0;
    }
    if limit.used >= u64::from(GWF_LOG_RATE.load()) {
        limit.suppressed += 1;
        return false;
    }
    limit.used += 1;
    true
}
