//! Somebody else's XDP program: two instructions that pass every packet, attached by netlink as `ip link set … xdp` does.
//!
//! It stands for the program of a CNI or a load balancer that was there first.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

/// What the kernel shows as the program's name.
pub const NAME: &str = "someone_elses";

/// `BPF_PROG_LOAD` and `BPF_OBJ_PIN` of `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
/// `BPF_PROG_TYPE_XDP` of `enum bpf_prog_type`.
const XDP: u32 = 6;

/// `r0 = 2 (XDP_PASS); exit`, as `struct bpf_insn`s.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The beginning of `union bpf_attr` for `BPF_OBJ_PIN`.
#[derive(Default)]
#[repr(C)]
struct Pin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Attaches the program to `device` in the driver; it stays until the device goes or somebody takes it off.
///
/// # Errors
/// If the kernel refuses the program or the device has one already.
pub fn attach_xdp(namespace: &Namespace, device: &str) -> Result<()> {
    const PATH: &str = "/sys/fs/bpf/someone-elses";
    namespace
        .enter(|| load().and_then(|program| pin(&program, c"/sys/fs/bpf/someone-elses")))?
        .context("loading a two-instruction XDP program")?;
    namespace
        .ip(&["link", "set", "dev", device, "xdpdrv", "pinned", PATH])
        .map(|_| ())
}

/// The id of the XDP program at `device`, as `ip` shows it.
///
/// # Errors
/// If the device is not there.
pub fn xdp_id(namespace: &Namespace, device: &str) -> Result<Option<u32>> {
    let shown = namespace.ip(&["-details", "link", "show", device])?;
    let id = shown
        .split_once("prog/xdp id ")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    Ok(id)
}

fn load() -> io::Result<File> {
    let mut attributes = Load {
        prog_type: XDP,
        insn_cnt: 2,
        insns: PASS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    for (to, from) in attributes.prog_name.iter_mut().zip(NAME.bytes()) {
        *to = from;
    }
    let fd = bpf(PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn pin(program: &File, path: &std::ffi::CStr) -> io::Result<()> {
    let fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    bpf(
        OBJ_PIN,
        &Pin {
            pathname: path.as_ptr() as u64,
            bpf_fd: fd,
            file_flags: 0,
        },
    )
    .map(drop)
}

/// The system call. `attributes` is the beginning of the command's `union bpf_attr`; pointers in it are live.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at a valid reference, and what the two callers point to from there
    // (static instructions, static strings, a string that lives through the call). It writes nothing: no log is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
