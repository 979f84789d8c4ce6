//! The system calls behind the meter: a map that both sides see, a program at the tail of a device's TCX chain, a packet socket.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bpf;

/// `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const MAP_CREATE: libc::c_long = 0;
/// `BPF_MAP_TYPE_ARRAY` and `BPF_F_MMAPABLE`.
const ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const TCX_INGRESS: u32 = 46;
/// `PACKET_QDISC_BYPASS` (Linux, `include/uapi/linux/if_packet.h`).
const QDISC_BYPASS: libc::c_int = 20;

/// The beginning of `union bpf_attr`; the kernel takes the rest as zero.
#[derive(Default)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// An array of 64-bit words that a program writes and this process reads, without a call in between.
#[derive(Debug)]
pub(super) struct Words {
    fd: OwnedFd,
    at: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the memory is shared with the kernel anyway and is only reached through atomics; the pointer lives as long as the value.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// An array of `len` zeros.
    pub(super) fn new(len: u32) -> io::Result<Self> {
        let fd = bpf::opened(
            MAP_CREATE,
            &mut MapCreate {
                map_type: ARRAY,
                key_size: 4,
                value_size: 8,
                max_entries: len,
                map_flags: MMAPABLE,
            },
        )?;
        let len = len as usize;
        // SAFETY: a new mapping of the map's own size, at an address of the kernel's choice; it is unmapped in `Drop` only.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len * size_of::<u64>(),
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at =
            NonNull::new(at.cast()).ok_or_else(|| io::Error::other("the map was mapped at address zero"))?;
        Ok(Self { fd, at, len })
    }

    /// The word at `index`; zero beyond the end.
    pub(super) fn get(&self, index: usize) -> u64 {
        if index >= self.len {
            return 0;
        }
        // SAFETY: within the mapping, which lives as long as `self`, and aligned: the kernel maps whole pages.
        unsafe { self.at.add(index).as_ref() }.load(Ordering::Relaxed)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, and nobody holds a reference into it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len * size_of::<u64>()) };
    }
}

impl AsFd for Words {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Puts a program at the tail of the TCX ingress chain of a device of this thread's namespace; it goes with the descriptor.
pub(super) fn attach_last(program: &OwnedFd, device: &str) -> io::Result<OwnedFd> {
    let ifindex = u32::try_from(index(device)?).map_err(io::Error::other)?;
    // Without a relative program and without flags, a link goes to the tail of the chain.
    bpf::link(program.as_fd(), ifindex, TCX_INGRESS, 0)
}

/// A packet socket that sends from a device of this thread's namespace, past its queueing discipline, and receives nothing.
pub(super) fn packet_socket(device: &str) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is ours alone.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let one: libc::c_int = 1;
    // SAFETY: the kernel reads an integer of the size given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            QDISC_BYPASS,
            std::ptr::from_ref(&one).cast(),
            size(&one)?,
        )
    })?;
    // SAFETY: all zeros is an address of no device and no protocol.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_ifindex = index(device)?;
    // SAFETY: the kernel reads an address of the size given.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size(&address)?,
        )
    })?;
    Ok(socket)
}

/// The clock that `bpf_ktime_get_ns` reads, in nanoseconds.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes a `timespec`. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// Lets the calling thread run before every ordinary one. `false` where that is not allowed.
pub(super) fn hurry() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the parameters; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) == 0 }
}

/// The number of a device of this thread's namespace.
fn index(device: &str) -> io::Result<libc::c_int> {
    let name = CString::new(device).map_err(io::Error::other)?;
    // SAFETY: a string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(index).map_err(io::Error::other)
}

fn size<T>(value: &T) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of_val(value)).map_err(io::Error::other)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
