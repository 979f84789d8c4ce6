//! A TC program of seven instructions, attached before all others: on goes only what has a sum over the whole packet (`CHECKSUM_COMPLETE`).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

/// `BPF_PROG_LOAD` and `BPF_LINK_CREATE` of `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
/// `BPF_PROG_TYPE_SCHED_CLS` of `enum bpf_prog_type`.
const SCHED_CLS: u32 = 3;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
/// `BPF_F_BEFORE`, which without another program means the head.
const BEFORE: u32 = 1 << 3;

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

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct Link {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    _pad: u32,
    expected_revision: u64,
}

/// Attaches the program to a device of the current namespace, for as long as what is returned lives.
pub(crate) fn attach(device: &str) -> Result<OwnedFd> {
    let mut load = Load {
        prog_type: SCHED_CLS,
        insn_cnt: u32::try_from(PROGRAM.len())?,
        insns: PROGRAM.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
    };
    let program = call(PROG_LOAD, &mut load).context("loading")?;
    let mut link = Link {
        prog_fd: u32::try_from(program.as_raw_fd())?,
        target_ifindex: nix::net::if_::if_nametoindex(device)?,
        attach_type: TCX_INGRESS,
        flags: BEFORE,
        relative_fd: 0,
        _pad: 0,
        expected_revision: 0,
    };
    call(LINK_CREATE, &mut link).context("attaching")
}

fn call<T>(command: libc::c_long, attr: &mut T) -> Result<OwnedFd> {
    let size = size_of::<T>();
    // SAFETY: `attr` is the beginning of the command's `union bpf_attr`, `size` bytes long, and what it points to is alive.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel just gave it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(result)?) })
}
