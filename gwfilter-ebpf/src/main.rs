//! gwfilter's kernel side: one decision, `gwfilter_common::decide`, at two hooks.
//!
//! Nothing is decided here. [`xdp`], [`tc`] and [`header`] turn a decision into the hook's return value, [`reader`] reads packets,
//! [`maps`] looks up, [`count`], [`packet_log`] and [`sample`] tell.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod count;
mod flat;
mod header;
mod inner;
mod maps;
mod packet_log;
mod probe;
mod reader;
mod reset;
mod sample;
mod tc;
mod xdp;

use aya_ebpf::Global;
use gwfilter_common::abi;

/// [`abi::ABI_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_ABI: Global<u32> = Global::new(abi::ABI_VERSION);

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
