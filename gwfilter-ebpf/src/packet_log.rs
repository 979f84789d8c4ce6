//! The packet log: one line of `gwfilter_common::logline` for a packet to a gateway, when it is asked for.
//!
//! The global that switches it is read-only, so that the verifier drops all of this from a program that does not log.
#![expect(clippy::cast_possible_truncation, reason = "fields are cut out of words")]

use core::hint::black_box;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_log_ebpf::info;
use aya_log_ebpf::macro_support::{Argument, IpFormatter};
use gwfilter_common::abi;
use gwfilter_common::decide::{Action, Decision};
use gwfilter_common::logline;
use gwfilter_common::read::PacketRead;
use gwfilter_common::reason::Reason;
use gwfilter_common::wire::{Family, Flow, flow};

use crate::maps::{GWF_LINE, GWF_LOGLIM};
use crate::reader::Interface;

/// [`abi::PACKET_LOG_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_PACKET_LOG: Global<u32> = Global::new(abi::PACKET_LOG_OFF);
/// [`abi::LOG_RATE_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_LOG_RATE: Global<u32> = Global::new(100);

/// What a line says. It lies in a per-CPU map: the decision's stack has no room for it.
#[repr(C)]
pub(crate) struct Line {
    about: u64,
    which: u64,
    source: [u64; 2],
    destination: [u64; 2],
    client: [u64; 2],
    /// The client's port, and above it its family as `cfam` says it.
    client_end: u64,
}

/// Words of a [`Line`].
pub(crate) const LINE_WORDS: usize = size_of::<Line>().div_ceil(8);

/// Where a packet came in, and who speaks to whom.
pub(crate) trait Ends {
    /// The index of the interface.
    fn ifindex(&self) -> u32;
    /// The ends of the packet.
    fn flow(&self) -> Option<Flow>;
}

impl<R: PacketRead + Interface> Ends for R {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        Interface::ifindex(self)
    }

    #[inline(always)]
    fn flow(&self) -> Option<Flow> {
        flow(self)
    }
}

/// Writes the line of a decision, if it is to be logged and the budget of this CPU allows it. No closures: one that is not inlined has a
/// signature that the kernel refuses as type information.
#[inline(always)]
pub(crate) fn log<P: Ends>(decision: &Decision, hook: u32, packet: &P) {
    let wanted = GWF_PACKET_LOG.load();
    // Segments in the middle of a stream would leave no room for the others.
    if wanted == abi::PACKET_LOG_OFF || matches!(decision.reason, Reason::NotAGateway | Reason::NoHeader) {
        return;
    }
    let verdict = match decision.action {
        Action::Drop => logline::VERDICT_DROPPED,
        Action::Pass if decision.would_drop => logline::VERDICT_WOULD_DROP,
        Action::Pass | Action::Look => logline::VERDICT_PASSED,
    };
    if wanted != abi::PACKET_LOG_ALL && verdict == logline::VERDICT_PASSED {
        return;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if !within_budget(now) {
        return;
    }
    let Some(flow) = packet.flow() else { return };
    // As `wire::hide` does: the verifier need not walk through all that follows once for each reason and verdict.
    let hide = |word: u64| black_box(word ^ now) ^ now;
    let family = u64::from(flow.family == Family::V6);
    let (client, client_end) = match &decision.client {
        Some(client) => {
            let family = if client.family == Family::V6 { 6 } else { 4 };
            (words(client.address), u64::from(client.port) | family << 16)
        }
        None => ([0; 2], u64::from(logline::NO_CLIENT) << 16),
    };
    let Some(line) = GWF_LINE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's element of a per-CPU array, as long as said; see `count::add`.
    let line = unsafe { &mut *line.cast::<Line>() };
    *line = Line {
        about: hide(
            u64::from(packet.ifindex())
                | u64::from(flow.protocol) << 32
                | u64::from(decision.reason.code()) << 40
                | u64::from(verdict) << 48
                | u64::from(hook) << 52
                | family << 56,
        ),
        which: hide(
            u64::from(flow.destination_port)
                | u64::from(flow.source_port) << 16
                | u64::from(decision.rule) << 32
                | u64::from(decision.listener) << 48,
        ),
        source: words(flow.source).map(hide),
        destination: words(flow.destination).map(hide),
        client: client.map(hide),
        client_end: hide(client_end),
    };
    write(line);
}

/// An address as two words.
#[inline(always)]
pub(crate) fn words(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// A function of its own, so that its stack is not the decision's.
#[inline(never)]
fn write(line: &Line) {
    if line.about >> 56 == 0 {
        let narrow = |[word, _]: [u64; 2]| (word as u32).to_ne_bytes();
        write_with(line, narrow(line.source), narrow(line.destination));
    } else {
        write_with(line, wide(line.source), wide(line.destination));
    }
}

#[inline(always)]
fn wide([a, b]: [u64; 2]) -> [u8; 16] {
    (u128::from(a) | u128::from(b) << 64).to_le_bytes()
}

#[inline(always)]
fn write_with<A>(line: &Line, source: A, destination: A)
where
    A: Argument + IpFormatter + Copy,
{
    info!(
        (),
        target: "gwf",
        "gwf v=2 hook={} if={} verdict={} reason={} listener={} rule={} proto={} src={:i} sport={} dst={:i} dport={} cfam={} client={:i} cport={}",
        (line.about >> 52) as u8 & 0xf,
        line.about as u32,
        (line.about >> 48) as u8 & 0xf,
        (line.about >> 40) as u8,
        (line.which >> 48) as u16,
        (line.which >> 32) as u16,
        (line.about >> 32) as u8,
        source,
        (line.which >> 16) as u16,
        destination,
        line.which as u16,
        (line.client_end >> 16) as u8,
        wide(line.client),
        line.client_end as u16
    );
}

/// Takes one line from the budget of this CPU and second.
#[inline(always)]
fn within_budget(now: u64) -> bool {
    let Some(limit) = GWF_LOGLIM.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's element of a per-CPU array; see `count::add`.
    let limit = unsafe { &mut *limit };
    let window = now >> 30;
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
