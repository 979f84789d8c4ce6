//! `BPF_PROG_TEST_RUN`, with the time it took, and a program that does nothing.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

/// `BPF_PROG_LOAD` and `BPF_PROG_TEST_RUN` of `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const TEST_RUN: libc::c_long = 10;
/// `BPF_PROG_TYPE_SCHED_CLS` of `enum bpf_prog_type`.
const SCHED_CLS: u32 = 3;

/// `r0 = -1 (TCX_NEXT); exit`, as `struct bpf_insn`s.
const NEXT: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[derive(Default)]
#[repr(C)]
struct Test {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// A TC program that does nothing.
pub(crate) struct Empty(OwnedFd);

impl Empty {
    pub(crate) fn load() -> Result<Self> {
        let mut attr = Load {
            prog_type: SCHED_CLS,
            insn_cnt: 2,
            insns: NEXT.as_ptr().addr() as u64,
            license: c"GPL".as_ptr().addr() as u64,
        };
        let fd = call(PROG_LOAD, &mut attr).context("loading a TC program of two instructions")?;
        // SAFETY: the kernel just gave it, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Nanoseconds that one run over `frame` takes, the mean of `repeat` runs.
pub(crate) fn cost(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<u32> {
    let mut attr = Test {
        prog_fd: u32::try_from(program.as_raw_fd())?,
        data_size_in: u32::try_from(frame.len())?,
        data_in: frame.as_ptr().addr() as u64,
        repeat,
        ..Test::default()
    };
    call(TEST_RUN, &mut attr).context("BPF_PROG_TEST_RUN")?;
    Ok(attr.duration)
}

fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    let size = size_of::<T>();
    // SAFETY: `attr` is the beginning of the command's `union bpf_attr`, `size` bytes long, and what it points to is alive.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
