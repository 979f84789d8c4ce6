//! What the TC programs go on to where a segment to a PROXY tuple may begin with a header.
//!
//! A program of its own, and in it a function for each step, because the steps together need more than the 512 bytes of stack that a
//! program has. What they hand on lies in a per-CPU map: TC ingress is not interrupted by itself on its CPU.
//! They take it as an untyped pointer: the kernel refuses type information of enums that hold data.
#![expect(clippy::cast_possible_truncation, reason = "the size of a line fits 32 bits")]

use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use gwfilter_common::abi::{NEXT_RESET, NO_LISTENER};
use gwfilter_common::decide::{Decision, Look, proxy};
use gwfilter_common::logline::HOOK_TC;
use gwfilter_common::proxy::{Parsed, Version, v1, v2};
use gwfilter_common::reason::Reason;
use gwfilter_common::wire::Flow;

use crate::count::count;
use crate::maps::{GWF_SCRATCH, Maps};
use crate::packet_log::{self, Ends};
use crate::reader::{Interface, TcReader};
use crate::sample::{self, PLAIN, SAMPLED};
use crate::tc::{action, lost};

/// The bytes that a line of version 1 may have, rounded up for a mask.
const LINE: usize = 128;

/// What the steps hand on.
#[repr(C)]
struct Scratch {
    look: Look,
    state: v1::State,
    line: [u8; LINE],
    /// Bytes of `line` that are the segment's.
    len: u32,
    /// Whether there is a decision.
    decided: bool,
    decision: Decision,
}

/// Words for a [`Scratch`].
pub(crate) const SCRATCH_WORDS: usize = size_of::<Scratch>().div_ceil(8);

const _: () = assert!(align_of::<Scratch>() <= align_of::<u64>());

/// Reads both versions.
#[classifier]
fn gwf_tc_header(ctx: TcContext) -> i32 {
    run(&ctx, text, tell::<PLAIN>)
}

/// The same, with samples.
#[classifier]
fn gwf_tc_header_sampled(ctx: TcContext) -> i32 {
    run(&ctx, text, tell::<SAMPLED>)
}

/// For kernels without `bpf_loop`: a header of version 1 is left to the gateway.
#[classifier]
fn gwf_tc_header_v2only(ctx: TcContext) -> i32 {
    run(&ctx, unread, tell::<PLAIN>)
}

/// The same, with samples.
#[classifier]
fn gwf_tc_header_v2only_sampled(ctx: TcContext) -> i32 {
    run(&ctx, unread, tell::<SAMPLED>)
}

#[inline(always)]
fn run(ctx: &TcContext, text: fn(&TcContext, *mut c_void), tell: fn(&TcContext, *mut c_void)) -> i32 {
    let Some(scratch) = GWF_SCRATCH.get_ptr_mut(0) else {
        return lost();
    };
    let scratch: *mut c_void = scratch.cast();
    begin(ctx, scratch);
    let known = open(scratch);
    if !known.decided {
        match known.look.version(&TcReader(ctx)) {
            Some(Version::V1) => text(ctx, scratch),
            _ => binary(ctx, scratch),
        }
    }
    if !open(scratch).decided {
        judge(scratch);
    }
    tell(ctx, scratch);
    action(ctx, &open(scratch).decision, NEXT_RESET)
}

/// A segment whose ends are known.
struct Known<'a>(&'a TcContext, &'a Look);

impl Ends for Known<'_> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        Interface::ifindex(&TcReader(self.0))
    }

    #[inline(always)]
    fn flow(&self) -> Option<Flow> {
        Some(self.1.flow())
    }
}

#[inline(never)]
fn tell<const SAMPLES: bool>(ctx: &TcContext, scratch: *mut c_void) {
    let scratch = open(scratch);
    let known = Known(ctx, &scratch.look);
    if SAMPLES {
        sample::count_and_take_known(
            &scratch.decision,
            HOOK_TC,
            Ends::ifindex(&known),
            &scratch.look.flow(),
        );
    } else {
        count(&scratch.decision);
    }
    packet_log::log(&scratch.decision, HOOK_TC, &known);
}

/// The scratch of this CPU.
#[inline(always)]
fn open<'a>(scratch: *mut c_void) -> &'a mut Scratch {
    // SAFETY: an element of a per-CPU array, large enough and aligned; it lives as long as the program. Nobody else uses it while this
    // program runs on this CPU, and no reference outlives the step that made it. Its bytes are zero or what an earlier run left, both valid.
    unsafe { &mut *scratch.cast::<Scratch>() }
}

/// Keeps what a step says, which is to pass if it says something. Field by field and with a value for each: an option that is copied takes what
/// nothing stands for along, from a register or a place on the stack that nobody has written, and kernels before 6.3 refuse that.
#[inline(always)]
fn keep(scratch: &mut Scratch, said: Option<Decision>) {
    let (reason, listener) = match said {
        Some(decision) => (decision.reason, decision.listener),
        None => (Reason::NotAGateway, NO_LISTENER),
    };
    scratch.decided = said.is_some();
    scratch.decision = Decision::pass(reason, listener);
}

#[inline(never)]
fn begin(ctx: &TcContext, scratch: *mut c_void) {
    let scratch = open(scratch);
    let said = proxy::begin(&TcReader(ctx), &Maps, &Maps, &mut scratch.look);
    keep(scratch, said);
}

#[inline(never)]
fn binary(ctx: &TcContext, scratch: *mut c_void) {
    let scratch = open(scratch);
    let (payload, end) = scratch.look.payload();
    let parsed = v2::parse(&TcReader(ctx), payload, end);
    let said = proxy::read(parsed, &mut scratch.look);
    keep(scratch, said);
}

/// Instead of [`text`] where it cannot be.
#[inline(always)]
fn unread(_: &TcContext, scratch: *mut c_void) {
    let scratch = open(scratch);
    let said = proxy::read(Parsed::Unknown, &mut scratch.look);
    keep(scratch, said);
}

#[inline(never)]
fn text(ctx: &TcContext, pointer: *mut c_void) {
    let scratch = open(pointer);
    let (payload, end) = scratch.look.payload();
    let len = end.saturating_sub(payload).min(v1::MAX_LEN);
    scratch.len = len;
    if len == 0 {
        let said = proxy::read(Parsed::Incomplete, &mut scratch.look);
        return keep(scratch, said);
    }
    // The bounds as the verifier wants to see them: it does not follow what is in a map, and before Linux 6.8 nothing from `!= 0`.
    let size = (black_box(len - 1) & (LINE as u32 - 1)) + 1;
    // SAFETY: the line is as long as the greatest masked size.
    let rc = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            payload,
            scratch.line.as_mut_ptr().cast(),
            size,
        )
    };
    scratch.state = v1::State::new();
    if rc == 0 {
        // The helper takes pointers to the stack only.
        let mut pointer = pointer;
        // SAFETY: the callback takes what is given here, and only until the call returns.
        unsafe { bpf_loop(v1::MAX_LEN, step as *mut c_void, (&raw mut pointer).cast(), 0) };
    }
    let scratch = open(pointer);
    let said = proxy::read(scratch.state.finish(), &mut scratch.look);
    keep(scratch, said);
}

/// One byte of a line; 1 ends the loop.
#[inline(never)]
extern "C" fn step(index: u32, pointer: *mut c_void) -> i64 {
    // SAFETY: `text` gives a pointer to its pointer.
    let scratch = open(unsafe { *pointer.cast::<*mut c_void>() });
    if index >= scratch.len {
        return 1;
    }
    let byte = scratch.line.get((black_box(index) & (LINE as u32 - 1)) as usize);
    match byte.map(|byte| scratch.state.step(*byte)) {
        Some(v1::Step::More) => 0,
        Some(v1::Step::Done) | None => 1,
    }
}

#[inline(never)]
fn judge(scratch: *mut c_void) {
    let scratch = open(scratch);
    scratch.decision = proxy::judge(&Maps, &scratch.look);
    scratch.decided = true;
}
