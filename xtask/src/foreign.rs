//! Somebody else's programs: two instructions that pass every packet, attached by netlink as `ip link set … xdp` does, or by a link at the
//! head of the TC line; and what somebody else may do to our links.
//!
//! They stand for the programs of a CNI or a load balancer, and for a person with `bpftool`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

/// What the kernel shows as the program's name.
pub const NAME: &str = "someone_elses";

/// `BPF_PROG_LOAD` and `BPF_OBJ_PIN` of `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
/// `BPF_OBJ_GET`, `BPF_LINK_CREATE`, `BPF_LINK_UPDATE` and `BPF_LINK_DETACH`.
const OBJ_GET: libc::c_long = 7;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;
/// `BPF_PROG_TYPE_SCHED_CLS` and `BPF_PROG_TYPE_XDP` of `enum bpf_prog_type`.
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
/// `BPF_XDP` and `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const XDP_ATTACH: u32 = 37;
const TCX_INGRESS: u32 = 46;
/// `BPF_F_BEFORE`: with nothing named, before all others.
const BEFORE: u32 = 1 << 3;

/// `r0 = 2 (XDP_PASS); exit`, as `struct bpf_insn`s.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// `r0 = -1 (TCX_NEXT); exit`.
const NEXT: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
/// `r0 = 0 (TCX_PASS); exit`: later programs are not asked.
const DONE: [u64; 2] = [0x0000_0000_0000_00b7, 0x95];

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
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[derive(Default)]
#[repr(C)]
struct Create {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    _pad: u32,
    expected_revision: u64,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_UPDATE`.
#[derive(Default)]
#[repr(C)]
struct Update {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
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
        .enter(|| load(XDP, &PASS).and_then(|program| pin(&program, c"/sys/fs/bpf/someone-elses")))?
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

/// What somebody else's TC program does with every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The next program is asked.
    Next,
    /// The packet passes, and no later program is asked.
    Done,
}

/// A TC program of somebody else. It goes when this is dropped.
#[derive(Debug)]
pub struct Tc {
    #[expect(dead_code, reason = "held, not used")]
    link: File,
}

/// Attaches a TC program before all others.
///
/// # Errors
/// If the kernel refuses it.
pub fn attach_tc_first(namespace: &Namespace, device: &str, says: Says) -> Result<Tc> {
    let program = match says {
        Says::Next => &NEXT,
        Says::Done => &DONE,
    };
    let link = namespace.enter(|| {
        let program = load(SCHED_CLS, program)?;
        let ifindex = nix::net::if_::if_nametoindex(device)?;
        let create = Create {
            prog_fd: number(&program)?,
            target_ifindex: ifindex,
            attach_type: TCX_INGRESS,
            flags: BEFORE,
            ..Create::default()
        };
        open(LINK_CREATE, &create)
    })?;
    Ok(Tc {
        link: link.context("attaching a two-instruction TC program before all others")?,
    })
}

/// Detaches the link that is pinned at `path`, by force: the pin stays, and holds a link to nothing.
///
/// # Errors
/// If there is no link.
pub fn detach_link(namespace: &Namespace, path: &Path) -> Result<()> {
    let detach = || {
        let link = get(path)?;
        bpf(LINK_DETACH, &number(&link)?).map(drop)
    };
    namespace
        .enter(detach)?
        .with_context(|| format!("detaching the link at {}", path.display()))
}

/// Puts a program that passes every packet behind the link that is pinned at `path`: `xdp` tells of which kind it is.
///
/// # Errors
/// If there is no link, or the kernel refuses.
pub fn replace_program(namespace: &Namespace, path: &Path, xdp: bool) -> Result<()> {
    let replace = || {
        let program = if xdp {
            load(XDP, &PASS)?
        } else {
            load(SCHED_CLS, &NEXT)?
        };
        let link = get(path)?;
        let update = Update {
            link_fd: number(&link)?,
            new_prog_fd: number(&program)?,
            ..Update::default()
        };
        bpf(LINK_UPDATE, &update).map(drop)
    };
    namespace
        .enter(replace)?
        .with_context(|| format!("replacing the program of the link at {}", path.display()))
}

fn number(file: &File) -> io::Result<u32> {
    u32::try_from(file.as_raw_fd()).map_err(io::Error::other)
}

fn get(path: &Path) -> io::Result<File> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    open(
        OBJ_GET,
        &Pin {
            pathname: path.as_ptr() as u64,
            ..Pin::default()
        },
    )
}

fn load(kind: u32, instructions: &'static [u64; 2]) -> io::Result<File> {
    let mut attributes = Load {
        prog_type: kind,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: if kind == XDP { XDP_ATTACH } else { 0 },
        ..Load::default()
    };
    for (to, from) in attributes.prog_name.iter_mut().zip(NAME.bytes()) {
        *to = from;
    }
    open(PROG_LOAD, &attributes)
}

fn open<T>(command: libc::c_long, attributes: &T) -> io::Result<File> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn pin(program: &File, path: &std::ffi::CStr) -> io::Result<()> {
    bpf(
        OBJ_PIN,
        &Pin {
            pathname: path.as_ptr() as u64,
            bpf_fd: number(program)?,
            file_flags: 0,
        },
    )
    .map(drop)
}

/// The system call. `attributes` is the beginning of the command's `union bpf_attr`; pointers in it are live.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at a valid reference, and what the callers point to from there (static
    // instructions, static strings, a string that lives through the call). It writes nothing: no log is asked for.
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
