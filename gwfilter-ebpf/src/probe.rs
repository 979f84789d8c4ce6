//! The doctor's look at how streams to gateways begin: a program that passes everything, with maps of its own.
//!
//! It is attached only while somebody asks `gwfilter doctor --observe`, and after its time it looks at nothing. No verdict depends on it, and it reads
//! no map that one depends on.
#![expect(clippy::cast_possible_truncation, reason = "sizes of records fit 32 bits")]

use core::hint::black_box;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_ANY, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use gwfilter_common::abi::{
    PROBE_BYTES, PROBE_DATA, PROBE_DATA_BUDGET, PROBE_DESTS, PROBE_RING, PROBE_SYN, PROBE_SYN_BUDGET,
    PROBE_SYNS, PROBE_WINDOW_BITS, ProbeDest, ProbeEvent, ProbeHead, ProbeTally, SynKey,
};
use gwfilter_common::read::PacketRead;
use gwfilter_common::wire::l4::{SYN, TCP, opens_connection};
use gwfilter_common::wire::{Located, locate};

use crate::reader::TcReader;

/// Words of a [`ProbeEvent`].
const EVENT_WORDS: usize = size_of::<ProbeEvent>().div_ceil(8);
/// Words of its data.
const DATA_WORDS: usize = PROBE_BYTES as usize / 8;

#[btf_map]
static GWF_PROBE_DEST: HashMap<ProbeDest, u32, { PROBE_DESTS as usize }> = HashMap::new();
#[btf_map]
static GWF_PROBE_SYN: LruHashMap<SynKey, u32, { PROBE_SYNS as usize }> = LruHashMap::new();
#[btf_map]
static GWF_PROBE_RING: RingBuf<ProbeEvent, { PROBE_RING as usize }> = RingBuf::new();
#[btf_map]
static GWF_PROBE_EVENT: PerCpuArray<[u64; EVENT_WORDS], 1> = PerCpuArray::new();
#[btf_map]
static GWF_PROBE_TALLY: PerCpuArray<ProbeTally, 1> = PerCpuArray::new();

/// [`gwfilter_common::abi::PROBE_UNTIL_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_PROBE_UNTIL: Global<u64> = Global::new(0);

/// Passes everything: what others do with a segment is not its business.
#[classifier]
fn gwf_probe(ctx: TcContext) -> i32 {
    let _ = look(&ctx);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn look(ctx: &TcContext) -> Option<()> {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now >= GWF_PROBE_UNTIL.load() {
        return None;
    }
    let packet = TcReader(ctx);
    let Located::Transport(at) = locate(&packet) else {
        return None;
    };
    if at.protocol != TCP || at.unclear {
        return None;
    }
    let (source_port, destination_port) = at.ports(&packet)?;
    let (source, destination) = at.addresses(&packet)?;
    let family = at.family.number();
    let to = &ProbeDest {
        address: destination,
        port: destination_port,
        _pad: 0,
        family,
    };
    // SAFETY: nobody changes an element while the program is attached.
    let gateway = *unsafe { GWF_PROBE_DEST.get(to) }?;
    let tcp = at.judgeable(&packet)?;
    let sequence = u32::from_be_bytes(packet.read::<4>(at.l4 + 4)?);
    // By reference: keys are passed on where they are, and not copied on a stack that has little left.
    let flow = &SynKey {
        source,
        destination,
        source_port,
        destination_port,
        family,
    };
    let payload = at.end.saturating_sub(tcp.payload);
    let mut head = ProbeHead {
        flow: *flow,
        gateway,
        kind: PROBE_SYN,
        told: 0,
        payload,
    };
    if opens_connection(tcp.flags) {
        // What is not remembered is not told of when its data comes: nothing to do if it fails.
        let _ = GWF_PROBE_SYN.insert(flow, sequence, u64::from(BPF_ANY));
        return tell_syn(&head, now);
    }
    if payload == 0 || tcp.flags & SYN != 0 {
        return None;
    }
    // SAFETY: a number that is copied; what it is compared with decides.
    let first = *unsafe { GWF_PROBE_SYN.get(flow) }?;
    if sequence != first.wrapping_add(1) {
        return None;
    }
    // Once: a repetition is not another beginning.
    let _ = GWF_PROBE_SYN.remove(flow);
    head.kind = PROBE_DATA;
    tell_data(ctx, &head, tcp.payload, now)
}

/// This CPU's tally, with the window of `now`.
#[inline(always)]
fn tally(now: u64) -> Option<&'static mut ProbeTally> {
    let tally = GWF_PROBE_TALLY.get_ptr_mut(0)?;
    // SAFETY: this CPU's element of a per-CPU array; TC ingress is not interrupted by itself on its CPU.
    let tally = unsafe { &mut *tally };
    let window = now >> PROBE_WINDOW_BITS;
    if tally.window != window {
        tally.window = window;
        tally.used = 0;
    }
    Some(tally)
}

#[inline(always)]
fn tell_syn(head: &ProbeHead, now: u64) -> Option<()> {
    let tally = tally(now)?;
    tally.syns += 1;
    if tally.used as u32 >= PROBE_SYN_BUDGET {
        tally.over_budget += 1;
        return None;
    }
    tally.used += 1;
    if GWF_PROBE_RING.output_untyped::<ProbeHead>(head, 0).is_err() {
        tally.lost += 1;
    }
    Some(())
}

#[inline(always)]
fn tell_data(ctx: &TcContext, head: &ProbeHead, from: u32, now: u64) -> Option<()> {
    let tally = tally(now)?;
    tally.data += 1;
    if (tally.used >> 32) as u32 >= PROBE_DATA_BUDGET {
        tally.over_budget += 1;
        return None;
    }
    tally.used += 1 << 32;
    let event = GWF_PROBE_EVENT.get_ptr_mut(0)?;
    // SAFETY: this CPU's element of a per-CPU array, as large and as aligned as an event; see `tally`.
    let event = unsafe { &mut *event.cast::<ProbeEvent>() };
    // The bounds as the verifier wants to see them: see `header::text`.
    let len = head.payload.min(PROBE_BYTES);
    let size = (black_box(len.wrapping_sub(1)) & (PROBE_BYTES - 1)) + 1;
    event.head = *head;
    event.head.told = size;
    // SAFETY: the data is as long as the greatest masked size.
    let rc = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), from, event.bytes.as_mut_ptr().cast(), size) };
    // By reference: a copy would be a kilobyte of stack.
    let whole: &ProbeEvent = event;
    if rc == 0 && GWF_PROBE_RING.output(whole, 0).is_err() {
        tally.lost += 1;
    }
    // Nothing of a stream stays here, and the next record has nothing of this one.
    let words: *mut u64 = event.bytes.as_mut_ptr().cast();
    for word in 0..DATA_WORDS {
        // SAFETY: within the data, which begins at a multiple of eight bytes.
        unsafe { words.add(word).write_volatile(0) };
    }
    Some(())
}
