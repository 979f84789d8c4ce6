//! Questions to the kernel that aya asks only with `CAP_SYS_ADMIN`, because it opens what the answer names: here the number is the answer.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `BPF_MAP_LOOKUP_ELEM`, `BPF_OBJ_GET` and `BPF_PROG_QUERY` of `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const OBJ_GET: libc::c_long = 7;
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

/// The beginning of `union bpf_attr` for `BPF_OBJ_GET`.
#[derive(Default)]
#[repr(C)]
struct Get {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What is pinned at `path`, be it a map, a program or a link. Needs only the rights that the file asks for.
///
/// # Errors
/// There is no pin, or it may not be opened.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut get = Get {
        pathname: path.as_ptr().addr() as u64,
        ..Get::default()
    };
    let number = bpf(OBJ_GET, &mut get)?;
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What the kernel says of an open map, program or link: lines of `name:\tvalue` (`kernel/bpf/syscall.c`, `bpf_map_show_fdinfo` and its kin).
///
/// # Errors
/// There is no `/proc`.
pub(super) fn about(fd: BorrowedFd<'_>) -> io::Result<String> {
    fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd()))
}

/// The number that stands behind `name` there.
pub(super) fn field(about: &str, name: &str) -> Option<u64> {
    let mut lines = about.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(found, _)| *found == name)?;
    value.split_whitespace().next()?.parse().ok()
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
        Ok(_) => {}
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
        Ok(_) => Ok(Some(number)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The system call, and what it gave back. `attributes` is the beginning of the command's `union bpf_attr`; what it points to is alive.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at a valid reference. The callers point from there to four bytes to
    // read, four bytes to write, a string with its end, and an array with its true length to write, all of which live through the call.
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
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_link_then_its_numbers() {
        let about = "pos:\t0\nflags:\t02000002\nlink_type:\ttcx\nlink_id:\t5\nprog_tag:\t6a\nprog_id:\t57\nifindex:\t2\nattach_type:\t46 (tcx_ingress)\n";
        for (name, number) in [
            ("prog_id", Some(57)),
            ("ifindex", Some(2)),
            ("attach_type", Some(46)),
            ("link_type", None),
            ("memlock", None),
            ("prog", None),
        ] {
            assert_eq!(field(about, name), number, "{name}");
        }
    }
}
