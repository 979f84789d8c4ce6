//! Questions to the kernel that aya asks only with `CAP_SYS_ADMIN`, because it opens what the answer names: here the number is the answer.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `BPF_MAP_LOOKUP_ELEM` and `BPF_PROG_QUERY` of `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_QUERY: libc::c_long = 16;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
/// `BPF_MPROG_MAX` (Linux, `include/linux/bpf_mprog.h`): no hook holds more programs.
const MOST: usize = 64;

/// The beginning of `union bpf_attr` for `BPF_PROG_QUERY`, up to the count.
#[derive(Default)]
#[repr(C)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    _pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The beginning of `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM`.
#[derive(Default)]
#[repr(C)]
struct Lookup {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Numbers of the programs at the TCX ingress of an interface, in the order in which packets meet them. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// The interface is gone (`ENODEV`), or the kernel has no TCX (`EINVAL`).
pub(super) fn tcx_ingress(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST];
    let mut query = Query {
        ifindex,
        attach_type: TCX_INGRESS,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        count: u32::try_from(ids.len()).unwrap_or(0),
        ..Query::default()
    };
    match bpf(PROG_QUERY, &mut query) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let count = usize::try_from(query.count).unwrap_or(0);
    Ok(ids.iter().copied().take(count).collect())
}

/// The number of the map or program at `index` of an array of them; `None` where there is none.
///
/// # Errors
/// The index is outside of the array, or it is no such array.
pub(super) fn number_at(array: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut number = 0_u32;
    let mut lookup = Lookup {
        map_fd: u32::try_from(array.as_raw_fd()).map_err(io::Error::other)?,
        key: std::ptr::from_ref(&index).addr() as u64,
        value: std::ptr::from_mut(&mut number).addr() as u64,
        ..Lookup::default()
    };
    match bpf(MAP_LOOKUP_ELEM, &mut lookup) {
        Ok(()) => Ok(Some(number)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The system call. `attributes` is the beginning of the command's `union bpf_attr`; what it points to is alive.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at a valid reference. The two callers point from there to four bytes to
    // read, four bytes to write, and an array with its true length to write, all of which live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
