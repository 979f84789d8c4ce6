//! A TC program of seven instructions, attached before all others: on goes only what has a sum over the whole packet (`CHECKSUM_COMPLETE`).

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use xtask::bpf::links::attach_tcx_first;
use xtask::bpf::{self, ProgramKind};

/// `bpf_csum_update(ctx, 0)` changes nothing, and fails in any other state.
const PROGRAM: [u64; 7] = [
    // r2 = 0; call bpf_csum_update
    0x0000_0000_0000_02b7,
    0x0000_0028_0000_0085,
    // if r0 s< 0 goto +2 (jslt, immediate)
    0x0000_0000_0002_00c5,
    // r0 = -1 (TCX_NEXT); exit
    0xffff_ffff_0000_00b7,
    0x0000_0000_0000_0095,
    // r0 = 2 (TCX_DROP); exit
    0x0000_0002_0000_00b7,
    0x0000_0000_0000_0095,
];

/// Attaches the program to a device of the current namespace, for as long as what is returned lives.
pub(crate) fn attach(device: &str) -> Result<OwnedFd> {
    let program = bpf::load(ProgramKind::Tc, &PROGRAM).context("loading")?;
    attach_tcx_first(&program, device).context("attaching")
}
