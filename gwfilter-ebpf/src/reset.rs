//! Refusals that end the connection: programs that the TC programs go on to, by a tail call, when a refused segment is to be answered.
//!
//! The segment has been counted. The peer gets a reset, within a budget, made of the segment itself. Then, in PROXY mode, the segment
//! becomes a reset for the gateway: same sequence number, payload cut, so that the gateway's socket closes at once. In local mode, and for
//! a SYN, it is dropped. Never answered: a reset, a fragment.
//!
//! The checksum must be right in each state of an skb (`include/linux/skbuff.h`): where the kernel has still to compute it
//! (`CHECKSUM_PARTIAL`, as in skbs from veth or merged by GRO) the field holds the sum of the pseudo-header alone; else it holds
//! all of it. Where the card gave a sum over the packet (`CHECKSUM_COMPLETE`), each write says what it changes, but for what is
//! not in that sum (the Ethernet header) or leaves it as it is (the IPv4 header, whose own sum is zero).
#![expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "lengths are of headers, sums are folded, and indices are constants within arrays of known length"
)]

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_ktime_get_ns, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_change_tail,
    bpf_skb_store_bytes,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use gwfilter_common::read::PacketRead;
use gwfilter_common::wire::{self, Family, Located, Transport, l4};

use crate::maps::GWF_RSTLIM;
use crate::reader::{Interface, TcReader};

/// [`gwfilter_common::abi::RST_RATE_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_RST_RATE: Global<u32> = Global::new(1000);

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;
/// Size of the value in the flags of the checksum helpers.
const TWO_BYTES: u64 = 2;
/// Time to live, or hop limit, of what is sent.
const TTL: u8 = 64;
/// Offset of a TCP header's checksum.
const CHECKSUM: u32 = 16;
/// The clone is sent by the interface, not received by it.
const EGRESS: u64 = 0;

/// PROXY mode: both ends.
#[classifier]
fn gwf_tc_reset(ctx: TcContext) -> i32 {
    refuse(&ctx, true)
}

/// Local mode: the peer.
#[classifier]
fn gwf_tc_refuse(ctx: TcContext) -> i32 {
    refuse(&ctx, false)
}

/// The fields of a segment that a reset is made of, host order.
#[derive(Clone, Copy)]
struct Segment {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    /// Bytes of payload.
    len: u32,
}

#[inline(always)]
fn refuse(ctx: &TcContext, both: bool) -> i32 {
    let packet = TcReader(ctx);
    let Located::Transport(at) = wire::locate(&packet) else {
        return TC_ACT_SHOT;
    };
    let Some(segment) = segment(&packet, &at) else {
        return TC_ACT_SHOT;
    };
    // A reset made of a fragment would be one.
    if may_be_fragment(&packet, &at) {
        return TC_ACT_SHOT;
    }
    let forward = both && segment.flags & l4::SYN == 0;
    let answer = segment.flags & l4::RST == 0 && within_budget();
    if segment.flags & l4::RST != 0 || !(forward || answer) {
        return TC_ACT_SHOT;
    }
    let Some((partial, sum)) = cut(ctx, &packet, &at) else {
        return TC_ACT_SHOT;
    };
    if answer {
        let (sequence, acknowledgement, flags) = if segment.flags & l4::ACK != 0 {
            (segment.acknowledgement, 0, l4::RST)
        } else {
            let opens = u32::from(segment.flags & l4::SYN != 0);
            (
                0,
                segment.sequence.wrapping_add(segment.len + opens),
                l4::RST | l4::ACK,
            )
        };
        let mirrored = header(
            segment.destination_port,
            segment.source_port,
            sequence,
            acknowledgement,
            flags,
        );
        let sent = turn(ctx, &packet, &at).is_some()
            && write(ctx, &at, mirrored, partial, sum).is_some()
            // SAFETY: the context is this program's.
            && unsafe { bpf_clone_redirect(ctx.skb.skb, packet.ifindex(), EGRESS) } == 0;
        // Back to how it was, whether it was sent or not.
        if !forward || turn(ctx, &packet, &at).is_none() {
            return TC_ACT_SHOT;
        }
        let _ = sent;
    }
    if !forward {
        return TC_ACT_SHOT;
    }
    let onward = header(
        segment.source_port,
        segment.destination_port,
        segment.sequence,
        segment.acknowledgement,
        l4::RST | l4::ACK,
    );
    match write(ctx, &at, onward, partial, sum) {
        Some(()) => TC_ACT_UNSPEC,
        None => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn segment(packet: &TcReader<'_>, at: &Transport) -> Option<Segment> {
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags] = packet.read::<14>(at.l4)?;
    let header = u32::from(offset >> 4) * 4;
    Some(Segment {
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
        flags,
        len: at.end.wrapping_sub(at.l4).wrapping_sub(header),
    })
}

/// Whether the segment is, or may be, in a first fragment: IPv4 with "more fragments" or an offset; IPv6 with any extension header.
#[inline(always)]
fn may_be_fragment(packet: &TcReader<'_>, at: &Transport) -> bool {
    let whole = match at.family {
        Family::V4 => packet
            .read::<2>(at.l3 + 6)
            .map(|[flags, offset]| flags & 0x3f == 0 && offset == 0),
        Family::V6 => packet
            .read::<2>(at.l3 + 6)
            .map(|[next, _]| next == l4::TCP && at.l4.wrapping_sub(at.l3) == 40),
    };
    whole != Some(true)
}

/// Cuts all behind a TCP header without options, and sets the lengths and the time to live. Says whether the kernel has still to compute the
/// checksum, and gives the sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1), not folded.
#[inline(always)]
fn cut(ctx: &TcContext, packet: &TcReader<'_>, at: &Transport) -> Option<(bool, u32)> {
    let skb = ctx.skb.skb;
    let field = at.l4 + CHECKSUM;
    store(ctx, field, [0; 2], RECOMPUTE)?;
    // SAFETY: the context is this program's.
    if unsafe { bpf_l4_csum_replace(skb, field, 0, 1, TWO_BYTES) } != 0 {
        return None;
    }
    // Without the flag for the pseudo-header, the helper leaves alone what is still to be computed.
    let partial = packet.read::<2>(field)? == [0; 2];
    store(ctx, field, [0; 2], 0)?;
    // SAFETY: as above.
    if unsafe { bpf_skb_change_tail(skb, at.l4 + l4::TCP_HEADER_LEN, 0) } != 0 {
        return None;
    }
    let sum = match at.family {
        Family::V4 => {
            let len = (at.l4 - at.l3 + l4::TCP_HEADER_LEN) as u16;
            replace4(ctx, packet, at.l3 + 2, len.to_be_bytes(), at.l3)?;
            let [_, protocol] = packet.read::<2>(at.l3 + 8)?;
            replace4(ctx, packet, at.l3 + 8, [TTL, protocol], at.l3)?;
            words(packet.read::<8>(at.l3 + 12)?)
        }
        Family::V6 => {
            let len = (at.l4 - at.l3 - 40 + l4::TCP_HEADER_LEN) as u16;
            let [l0, l1] = len.to_be_bytes();
            let [next] = packet.read::<2>(at.l3 + 6).map(|[next, _]| [next])?;
            store(ctx, at.l3 + 4, [l0, l1, next, TTL], RECOMPUTE)?;
            words(packet.read::<16>(at.l3 + 8)?) + words(packet.read::<16>(at.l3 + 24)?)
        }
    };
    Some((partial, sum + u32::from(l4::TCP) + l4::TCP_HEADER_LEN))
}

/// Writes two bytes of an IPv4 header, and its checksum.
#[inline(always)]
fn replace4(ctx: &TcContext, packet: &TcReader<'_>, off: u32, new: [u8; 2], l3: u32) -> Option<()> {
    let old = packet.read::<2>(off)?;
    // SAFETY: the context is this program's.
    let rc = unsafe {
        bpf_l3_csum_replace(
            ctx.skb.skb,
            l3 + 10,
            u64::from(u16::from_ne_bytes(old)),
            u64::from(u16::from_ne_bytes(new)),
            TWO_BYTES,
        )
    };
    if rc != 0 {
        return None;
    }
    // The header sums up to zero before and after.
    store(ctx, off, new, 0)
}

/// Swaps source and destination of Ethernet and IP. Done twice, nothing has changed. The sums over them stay what they are.
#[inline(always)]
fn turn(ctx: &TcContext, packet: &TcReader<'_>, at: &Transport) -> Option<()> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = packet.read::<12>(0)?;
    store(ctx, 0, [g, h, i, j, k, l, a, b, c, d, e, f], 0)?;
    match at.family {
        Family::V4 => {
            let [a, b, c, d, e, f, g, h] = packet.read::<8>(at.l3 + 12)?;
            store(ctx, at.l3 + 12, [e, f, g, h, a, b, c, d], 0)
        }
        Family::V6 => {
            let source = packet.read::<16>(at.l3 + 8)?;
            let destination = packet.read::<16>(at.l3 + 24)?;
            store(ctx, at.l3 + 8, destination, 0)?;
            store(ctx, at.l3 + 24, source, 0)
        }
    }
}

/// A TCP header without options and checksum; the window is zero.
#[inline(always)]
fn header(source: u16, destination: u16, sequence: u32, acknowledgement: u32, flags: u8) -> [u8; 20] {
    let ([s0, s1], [d0, d1]) = (source.to_be_bytes(), destination.to_be_bytes());
    let ([q0, q1, q2, q3], [a0, a1, a2, a3]) = (sequence.to_be_bytes(), acknowledgement.to_be_bytes());
    [
        s0,
        s1,
        d0,
        d1,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        5 << 4,
        flags,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
}

/// Writes a TCP header with its checksum.
#[inline(always)]
fn write(ctx: &TcContext, at: &Transport, mut header: [u8; 20], partial: bool, sum: u32) -> Option<()> {
    let checksum = if partial {
        fold(sum)
    } else {
        !fold(sum + words(header))
    };
    let [c0, c1] = checksum.to_be_bytes();
    header[CHECKSUM as usize] = c0;
    header[CHECKSUM as usize + 1] = c1;
    store(ctx, at.l4, header, RECOMPUTE)
}

/// The sum of 16-bit words in network order.
#[inline(always)]
fn words<const N: usize>(bytes: [u8; N]) -> u32 {
    let mut sum = 0;
    let mut i = 0;
    while i + 1 < N {
        sum += u32::from(bytes[i]) << 8 | u32::from(bytes[i + 1]);
        i += 2;
    }
    sum
}

/// The one's complement sum in 16 bits.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn store<const N: usize>(ctx: &TcContext, off: u32, bytes: [u8; N], flags: u64) -> Option<()> {
    // SAFETY: the context is this program's; the buffer is as long as said.
    let rc = unsafe { bpf_skb_store_bytes(ctx.skb.skb, off, bytes.as_ptr().cast(), N as u32, flags) };
    (rc == 0).then_some(())
}

/// Takes one reset from the budget of this CPU and second.
#[inline(always)]
fn within_budget() -> bool {
    let Some(limit) = GWF_RSTLIM.get_ptr_mut(0) else {
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
    if limit.used >= u64::from(GWF_RST_RATE.load()) {
        limit.suppressed += 1;
        return false;
    }
    limit.used += 1;
    true
}
