//! What somebody may do to programs and links beside those of `bpf(2)` that the lab measures with: to go first in the TC line, to pin, to detach
//! by force, to put another program behind a link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use super::{call, link, number, opened};

/// `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
/// `BPF_F_BEFORE`: with nothing named, before all others.
const BEFORE: u32 = 1 << 3;

#[derive(Default)]
#[repr(C)]
struct Update {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[derive(Default)]
#[repr(C)]
struct Pin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Puts a program at the head of the TCX ingress line of a device of this thread's namespace; it goes with the descriptor.
///
/// # Errors
/// There is no such device, or the kernel refuses.
pub fn attach_tcx_first(program: &OwnedFd, device: &str) -> io::Result<OwnedFd> {
    let ifindex = nix::net::if_::if_nametoindex(device)?;
    link(program.as_fd(), ifindex, TCX_INGRESS, BEFORE)
}

/// Pins what is open.
pub(crate) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = text(path)?;
    let mut attributes = Pin {
        pathname: path.as_ptr() as u64,
        bpf_fd: number(object.as_fd())?,
        file_flags: 0,
    };
    call(OBJ_PIN, &mut attributes).map(drop)
}

/// Opens what is pinned.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let mut attributes = Pin {
        pathname: path.as_ptr() as u64,
        ..Pin::default()
    };
    opened(OBJ_GET, &mut attributes)
}

/// Detaches a link, by force.
pub(crate) fn detach(link: &OwnedFd) -> io::Result<()> {
    call(LINK_DETACH, &mut number(link.as_fd())?).map(drop)
}

/// Puts another program behind a link.
pub(crate) fn update(link: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let mut attributes = Update {
        link_fd: number(link.as_fd())?,
        new_prog_fd: number(program.as_fd())?,
        ..Update::default()
    };
    call(LINK_UPDATE, &mut attributes).map(drop)
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)
}
