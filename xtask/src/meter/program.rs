//! The counting program, instruction by instruction: it writes down when each numbered frame came, and swallows it.

use std::os::fd::BorrowedFd;

use super::frame::{ACKNOWLEDGEMENT, MAGIC};
use crate::bpf::insn::{
    ABOVE_OR_EQUAL, EQUAL, KTIME_GET_NS, MAP_LOOKUP_ELEM, R0, R1, R2, R3, R4, R6 as CONTEXT, R7 as CELL,
    SKB_LOAD_BYTES, STACK, UNEQUAL, add, and, call, exit, from_network, insn, jump, load_word, map, mov,
    mov_register, store_word,
};

/// `offsetof(struct __sk_buff, protocol)`.
const PROTOCOL: i16 = 16;
/// Ethernet types as a little-endian machine reads them.
const IPV4: i32 = 0x0008;
const IPV6: i32 = 0xdd86;
/// Where TCP begins behind headers without options and tags.
const TCP_IN_V4: i32 = 14 + 20;
const TCP_IN_V6: i32 = 14 + 40;

/// `TCX_NEXT` and `TCX_DROP`.
const NEXT: i32 = -1;
const SWALLOW: i32 = 2;

/// The beginning of the TCP header on the stack, and the index below it.
const HEADER: i16 = -16;
const INDEX: i16 = -24;
/// `offsetof(struct tcphdr, seq)`, and where the flags are.
const SEQUENCE: i16 = 4;
const FLAGS: i16 = 13;
/// The flag RST.
const RESET: i32 = 4;

/// Jumps to the two ends, until it is known where these are.
const TO_NEXT: i16 = i16::MAX;
const TO_SWALLOW: i16 = i16::MIN;

/// The program. `words` has a cell for each of `streams` streams of `numbers` numbers, and one more, in which frames are counted
/// that came twice.
pub(super) fn program(words: BorrowedFd<'_>, streams: i32, numbers: i32) -> Vec<u64> {
    // What is none of ours goes on.
    let mut code = vec![
        mov_register(CONTEXT, R1),
        load_word(R1, CONTEXT, PROTOCOL),
        mov(R2, TCP_IN_V4),
        jump(EQUAL, R1, IPV4, 2),
        mov(R2, TCP_IN_V6),
        jump(UNEQUAL, R1, IPV6, TO_NEXT),
        mov_register(R1, CONTEXT),
        mov_register(R3, STACK),
        add(R3, i32::from(HEADER)),
        mov(R4, 14),
        call(SKB_LOAD_BYTES),
        jump(UNEQUAL, R0, 0, TO_NEXT),
        // The acknowledgement number: 24 bits that mark our frames, and eight of the stream.
        load_word(R1, STACK, HEADER + ACKNOWLEDGEMENT),
        from_network(R1),
        mov_register(R2, R1),
        // r2 >>= 8
        insn(0x77, R2, 0, 0, 8),
        jump(UNEQUAL, R2, MAGIC, TO_NEXT),
        // A reset is what became of a frame that was refused.
        insn(0x71, R3, STACK, HEADER + FLAGS, 0),
        and(R3, RESET),
        jump(UNEQUAL, R3, 0, TO_SWALLOW),
        // r3 = (r1 >> 7) & 1: what the sequence number is above the frame's.
        mov_register(R3, R1),
        insn(0x77, R3, 0, 0, 7),
        and(R3, 1),
        and(R1, 0x7f),
        jump(ABOVE_OR_EQUAL, R1, streams, TO_NEXT),
        load_word(R2, STACK, HEADER + SEQUENCE),
        from_network(R2),
        // r2 -= r3
        insn(0x1f, R2, R3, 0, 0),
        jump(ABOVE_OR_EQUAL, R2, numbers, TO_NEXT),
        // r1 = r1 * numbers + r2
        insn(0x27, R1, 0, 0, numbers),
        insn(0x0f, R1, R2, 0, 0),
        store_word(STACK, INDEX, R1),
    ];
    code.extend(map(R1, words));
    code.extend([
        mov_register(R2, STACK),
        add(R2, i32::from(INDEX)),
        call(MAP_LOOKUP_ELEM),
        jump(EQUAL, R0, 0, TO_NEXT),
        mov_register(CELL, R0),
        call(KTIME_GET_NS),
        // atomic: r0 <-> *(u64 *)cell
        insn(0xdb, CELL, R0, 0, 0xe1),
    ]);
    // First come: swallowed. Otherwise counted in the last cell, and swallowed too.
    let mut again = vec![mov(R1, streams * numbers), store_word(STACK, INDEX, R1)];
    again.extend(map(R1, words));
    again.extend([
        mov_register(R2, STACK),
        add(R2, i32::from(INDEX)),
        call(MAP_LOOKUP_ELEM),
        jump(EQUAL, R0, 0, 2),
        mov(R1, 1),
        // atomic: *(u64 *)r0 += r1
        insn(0xdb, R0, R1, 0, 0),
    ]);
    code.push(jump(EQUAL, R0, 0, i16::try_from(again.len()).unwrap_or(i16::MAX)));
    code.extend(again);
    let swallow = code.len();
    code.extend([mov(R0, SWALLOW), exit()]);
    let next = code.len();
    code.extend([mov(R0, NEXT), exit()]);
    for (at, word) in code.iter_mut().enumerate() {
        let [_, _, low, high, ..] = word.to_le_bytes();
        let end = match i16::from_le_bytes([low, high]) {
            TO_NEXT => next,
            TO_SWALLOW => swallow,
            _ => continue,
        };
        let off = i16::try_from(end - at - 1).unwrap_or(TO_NEXT);
        *word = *word & !(0xffff << 16) | u64::from(off.cast_unsigned()) << 16;
    }
    code
}
