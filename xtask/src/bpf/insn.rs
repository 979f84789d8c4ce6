//! Instructions of the kernel's virtual machine, for programs of a dozen lines (`struct bpf_insn`, Linux, `include/uapi/linux/bpf.h`).

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The result, and arguments of helpers: clobbered by each call.
pub const R0: u64 = 0;
/// The first argument.
pub const R1: u64 = 1;
/// The second argument.
pub const R2: u64 = 2;
/// The third argument.
pub const R3: u64 = 3;
/// The fourth argument.
pub const R4: u64 = 4;
/// The fifth argument.
pub const R5: u64 = 5;
/// Kept across calls.
pub const R6: u64 = 6;
/// Kept across calls.
pub const R7: u64 = 7;
/// Kept across calls.
pub const R8: u64 = 8;
/// Kept across calls.
pub const R9: u64 = 9;
/// The end of the stack.
pub const STACK: u64 = 10;

/// Helper `bpf_map_lookup_elem`.
pub const MAP_LOOKUP_ELEM: i32 = 1;
/// Helper `bpf_ktime_get_ns`.
pub const KTIME_GET_NS: i32 = 5;
/// Helper `bpf_get_prandom_u32`.
pub const GET_PRANDOM_U32: i32 = 7;
/// Helper `bpf_tail_call`.
pub const TAIL_CALL: i32 = 12;
/// Helper `bpf_redirect`.
pub const REDIRECT: i32 = 23;
/// Helper `bpf_skb_load_bytes`.
pub const SKB_LOAD_BYTES: i32 = 26;

/// Jump always.
pub const ALWAYS: u8 = 0x05;
/// Jump if above a number, without a sign.
pub const ABOVE: u8 = 0x25;
/// Jump if equal to a number.
pub const EQUAL: u8 = 0x15;
/// Jump if above or equal to a number, without a sign.
pub const ABOVE_OR_EQUAL: u8 = 0x35;
/// Jump if unequal to a number.
pub const UNEQUAL: u8 = 0x55;

/// An instruction: code, destination, source, offset, immediate.
#[must_use]
pub fn insn(code: u8, dst: u64, src: u64, off: i16, imm: i32) -> u64 {
    u64::from(code)
        | dst << 8
        | src << 12
        | u64::from(off.cast_unsigned()) << 16
        | u64::from(imm.cast_unsigned()) << 32
}

/// `dst = imm`.
#[must_use]
pub fn mov(dst: u64, imm: i32) -> u64 {
    insn(0xb7, dst, 0, 0, imm)
}

/// `dst = src`.
#[must_use]
pub fn mov_register(dst: u64, src: u64) -> u64 {
    insn(0xbf, dst, src, 0, 0)
}

/// `dst += imm`.
#[must_use]
pub fn add(dst: u64, imm: i32) -> u64 {
    insn(0x07, dst, 0, 0, imm)
}

/// `dst += src`.
#[must_use]
pub fn add_register(dst: u64, src: u64) -> u64 {
    insn(0x0f, dst, src, 0, 0)
}

/// `dst <<= imm`.
#[must_use]
pub fn shift_left(dst: u64, imm: i32) -> u64 {
    insn(0x67, dst, 0, 0, imm)
}

/// `dst >>= imm`, without a sign.
#[must_use]
pub fn shift_right(dst: u64, imm: i32) -> u64 {
    insn(0x77, dst, 0, 0, imm)
}

/// `dst &= imm`.
#[must_use]
pub fn and(dst: u64, imm: i32) -> u64 {
    insn(0x57, dst, 0, 0, imm)
}

/// `dst = *(u32 *)(src + off)`.
#[must_use]
pub fn load_word(dst: u64, src: u64, off: i16) -> u64 {
    insn(0x61, dst, src, off, 0)
}

/// `dst = *(u8 *)(src + off)`.
#[must_use]
pub fn load_byte(dst: u64, src: u64, off: i16) -> u64 {
    insn(0x71, dst, src, off, 0)
}

/// `dst = *(u16 *)(src + off)`.
#[must_use]
pub fn load_half(dst: u64, src: u64, off: i16) -> u64 {
    insn(0x69, dst, src, off, 0)
}

/// `*(u32 *)(dst + off) = src`.
#[must_use]
pub fn store_word(dst: u64, off: i16, src: u64) -> u64 {
    insn(0x63, dst, src, off, 0)
}

/// `*(u16 *)(dst + off) = src`.
#[must_use]
pub fn store_half(dst: u64, off: i16, src: u64) -> u64 {
    insn(0x6b, dst, src, off, 0)
}

/// Bytes of the network to a number of 32 bits.
#[must_use]
pub fn from_network(dst: u64) -> u64 {
    insn(0xdc, dst, 0, 0, 32)
}

/// A call of a helper.
#[must_use]
pub fn call(helper: i32) -> u64 {
    insn(0x85, 0, 0, 0, helper)
}

/// A jump of `off` instructions, by comparison with a number.
#[must_use]
pub fn jump(code: u8, dst: u64, imm: i32, off: i16) -> u64 {
    insn(code, dst, 0, off, imm)
}

/// `if dst > src` (without a sign), a jump of `off` instructions.
#[must_use]
pub fn jump_above(dst: u64, src: u64, off: i16) -> u64 {
    insn(0x2d, dst, src, off, 0)
}

/// The end.
#[must_use]
pub fn exit() -> u64 {
    insn(0x95, 0, 0, 0, 0)
}

/// `dst = map` of a descriptor: two slots.
#[must_use]
pub fn map(dst: u64, fd: BorrowedFd<'_>) -> [u64; 2] {
    [insn(0x18, dst, 1, 0, fd.as_raw_fd()), 0]
}

/// `dst = the only value of an array` of a descriptor: two slots.
#[must_use]
pub fn only_value(dst: u64, fd: BorrowedFd<'_>) -> [u64; 2] {
    [insn(0x18, dst, 2, 0, fd.as_raw_fd()), 0]
}
