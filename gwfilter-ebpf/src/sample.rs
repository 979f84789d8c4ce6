//! Samples of verdicts for who watches (`gwfilter_common::abi::sample`): what the twins do beside the plain programs.
//!
//! What every packet pays is in [`due`]: a mask against the number that the counter has just given. The rest is in global functions, which
//! the verifier walks once for any arguments, and not from each state of each caller.
#![expect(clippy::cast_possible_truncation, reason = "fields are cut out of words")]

use aya_ebpf::Global;
use aya_ebpf::bindings::{__sk_buff, BPF_RB_NO_WAKEUP, xdp_md};
use aya_ebpf::btf_maps::{PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{TcContext, XdpContext};
use gwfilter_common::abi::NO_LISTENER;
use gwfilter_common::abi::sample::{SAMPLES_BYTES, Sample, Sampler, Sampling, VERDICTS, WINDOW_BITS};
use gwfilter_common::decide::{Action, Client, Decision, Tables as _};
use gwfilter_common::logline;
use gwfilter_common::read::PacketRead;
use gwfilter_common::wire::{self, Family, Flow, Located};

use crate::count::number;
use crate::maps::Maps;
use crate::packet_log::words;
use crate::reader::{Interface, TcReader, XdpFragsReader, XdpReader};

#[btf_map]
static GWF_SAMPLES: RingBuf<Sample, { SAMPLES_BYTES as usize }> = RingBuf::new();
#[btf_map]
static GWF_SAMPLER: PerCpuArray<Sampler, VERDICTS> = PerCpuArray::new();

/// [`gwfilter_common::abi::sample::SAMPLING_MAP`]. Nothing is sampled before the user side says how much.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.sampling")]
static GWF_SAMPLING: Global<Sampling> = Global::new(Sampling {
    masks: [0; VERDICTS],
    budgets: [0; VERDICTS],
});

/// A program that samples nothing, and has no instruction for it.
pub(crate) const PLAIN: bool = false;
/// Its twin.
pub(crate) const SAMPLED: bool = true;

/// A packet that can be sampled where it is.
pub(crate) trait Sampled {
    /// Looks at a verdict, as [`words`] tells it.
    fn look(&self, about: u64, number: u64);
}

impl Sampled for XdpReader<'_> {
    #[inline(always)]
    fn look(&self, about: u64, number: u64) {
        gwf_sample_xdp(self.0.ctx, about, number);
    }
}

impl Sampled for XdpFragsReader<'_> {
    #[inline(always)]
    fn look(&self, about: u64, number: u64) {
        gwf_sample_frags(self.0.ctx, about, number);
    }
}

impl Sampled for TcReader<'_> {
    #[inline(always)]
    fn look(&self, about: u64, number: u64) {
        gwf_sample_tc(self.0.skb.skb, about, number);
    }
}

/// Counts a decision, and samples it if it is its turn.
#[inline(always)]
pub(crate) fn count_and_take(decision: &Decision, hook: u32, packet: &impl Sampled) {
    let number = number(decision);
    if let Some(about) = due(decision, hook, number) {
        packet.look(about, number);
    }
}

/// [`count_and_take`] where the ends of the stream are known, and a client.
#[inline(always)]
pub(crate) fn count_and_take_known(decision: &Decision, hook: u32, ifindex: u32, flow: &Flow) {
    let number = number(decision);
    if let Some(about) = due(decision, hook, number)
        && let Some(sampler) = within_budget(about)
    {
        let client = decision.client.as_ref();
        write(sampler, ifindex, about, number, &Ends::known(flow), client);
    }
}

/// What a verdict is in one word, if it is its turn. What may be for no gateway is nobody's business.
#[inline(always)]
fn due(decision: &Decision, hook: u32, number: u64) -> Option<u64> {
    let verdict = match decision.action {
        Action::Drop => logline::VERDICT_DROPPED,
        Action::Pass if decision.would_drop => logline::VERDICT_WOULD_DROP,
        Action::Pass | Action::Look => logline::VERDICT_PASSED,
    };
    if number & mask(verdict) != 0 || number == 0 || decision.listener == NO_LISTENER {
        return None;
    }
    Some(
        u64::from(decision.listener)
            | u64::from(decision.rule) << 16
            | u64::from(decision.reason.code()) << 32
            | u64::from(verdict) << 40
            | u64::from(hook) << 48,
    )
}

/// A word of the [`Sampling`], and not all of it.
#[inline(always)]
fn mask(verdict: u32) -> u64 {
    let sampling: *const Sampling = (&raw const GWF_SAMPLING).cast();
    // SAFETY: `Global` is as its value, and the index is below `VERDICTS`. The user side writes whole words.
    unsafe {
        (&raw const (*sampling).masks)
            .cast::<u64>()
            .add(verdict as usize & (VERDICTS - 1))
            .read_volatile()
    }
}

/// As [`mask`].
#[inline(always)]
fn budget(verdict: u32) -> u64 {
    let sampling: *const Sampling = (&raw const GWF_SAMPLING).cast();
    // SAFETY: as in `mask`.
    unsafe {
        (&raw const (*sampling).budgets)
            .cast::<u64>()
            .add(verdict as usize & (VERDICTS - 1))
            .read_volatile()
    }
}

#[unsafe(no_mangle)]
extern "C" fn gwf_sample_xdp(ctx: *mut xdp_md, about: u64, number: u64) -> u64 {
    look(&XdpReader(&XdpContext::new(ctx)), about, number)
}

#[unsafe(no_mangle)]
extern "C" fn gwf_sample_frags(ctx: *mut xdp_md, about: u64, number: u64) -> u64 {
    look(&XdpFragsReader(&XdpContext::new(ctx)), about, number)
}

#[unsafe(no_mangle)]
extern "C" fn gwf_sample_tc(ctx: *mut __sk_buff, about: u64, number: u64) -> u64 {
    look(&TcReader(&TcContext::new(ctx)), about, number)
}

/// Without a client: only the program that reads headers knows one.
#[inline(always)]
fn look(packet: &(impl PacketRead + Interface), about: u64, number: u64) -> u64 {
    if let Some(sampler) = within_budget(about)
        && let Some(ends) = Ends::of(packet)
    {
        write(sampler, packet.ifindex(), about, number, &ends, None);
    }
    0
}

#[inline(always)]
const fn verdict(about: u64) -> u32 {
    (about >> 40) as u32 & (VERDICTS as u32 - 1)
}

/// What this CPU did for verdicts of this kind, if the budget of the window allows one more.
#[inline(always)]
fn within_budget<'a>(about: u64) -> Option<&'a mut Sampler> {
    let verdict = verdict(about);
    let sampler = GWF_SAMPLER.get_ptr_mut(verdict)?;
    // SAFETY: this CPU's element of a per-CPU array; see `count::add`.
    let sampler = unsafe { &mut *sampler };
    sampler.looked += 1;
    let window = Maps.clock_ns() >> WINDOW_BITS;
    if sampler.window != window {
        sampler.window = window;
        sampler.used = 0;
    }
    (sampler.used < budget(verdict)).then_some(sampler)
}

/// Who speaks to whom. Addresses as words, for bytes would each take a place on the stack, of which there is little.
struct Ends {
    family: Family,
    protocol: u8,
    source: [u64; 2],
    destination: [u64; 2],
    source_port: u16,
    destination_port: u16,
}

impl Ends {
    #[inline(always)]
    fn of(packet: &impl PacketRead) -> Option<Self> {
        let Located::Transport(at) = wire::locate(packet) else {
            return None;
        };
        let (source_port, destination_port) = at.ports(packet)?;
        Some(Self {
            family: at.family,
            protocol: at.protocol,
            source: at.source_words(packet)?,
            destination: at.destination_words(packet)?,
            source_port,
            destination_port,
        })
    }

    #[inline(always)]
    fn known(flow: &Flow) -> Self {
        Self {
            family: flow.family,
            protocol: flow.protocol,
            source: words(flow.source),
            destination: words(flow.destination),
            source_port: flow.source_port,
            destination_port: flow.destination_port,
        }
    }
}

/// Writes one sample.
#[inline(always)]
fn write(sampler: &mut Sampler, ifindex: u32, about: u64, number: u64, ends: &Ends, client: Option<&Client>) {
    let Some(mut entry) = GWF_SAMPLES.reserve(0) else {
        sampler.lost += 1;
        return;
    };
    let at: *mut Sample = entry.as_mut_ptr();
    let (client_address, client_port, client_family) = match client {
        Some(client) => (words(client.address), client.port, number_of(client.family)),
        None => ([0; 2], 0, 0),
    };
    // SAFETY: each is a field of the entry, which is as large and aligned as a sample. Field by field: a whole one would stand on the stack
    // first. Nothing of the entry is left out, or the reader would see what was in the ring before.
    unsafe {
        (&raw mut (*at).time_ns).write(bpf_ktime_get_ns());
        (&raw mut (*at).count).write(number);
        (&raw mut (*at).source).cast::<[u64; 2]>().write(ends.source);
        (&raw mut (*at).destination)
            .cast::<[u64; 2]>()
            .write(ends.destination);
        (&raw mut (*at).client).cast::<[u64; 2]>().write(client_address);
        (&raw mut (*at).ifindex).write(ifindex);
        (&raw mut (*at).cpu).write(bpf_get_smp_processor_id());
        (&raw mut (*at).rule).write((about >> 16) as u32 & 0xffff);
        (&raw mut (*at).listener).write(about as u32 & 0xffff);
        (&raw mut (*at).source_port).write(ends.source_port);
        (&raw mut (*at).destination_port).write(ends.destination_port);
        (&raw mut (*at).client_port).write(client_port);
        (&raw mut (*at).protocol).write(ends.protocol);
        (&raw mut (*at).family).write(number_of(ends.family));
        (&raw mut (*at).client_family).write(client_family);
        (&raw mut (*at).hook).write((about >> 48) as u8);
        (&raw mut (*at).verdict).write(verdict(about) as u8);
        (&raw mut (*at).reason).write((about >> 32) as u8);
        (&raw mut (*at)._pad).write(0);
    }
    // The reader asks by itself, some times a second: nobody is woken.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    sampler.used += 1;
}

#[inline(always)]
const fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}
