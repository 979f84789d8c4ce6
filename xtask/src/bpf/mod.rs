//! Programs of a few instructions and maps without types, straight by `bpf(2)`: what the lab measures with.
//!
//! Programs that are more than that belong into the eBPF crate.

pub mod insn;
pub mod links;

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `enum bpf_cmd` (Linux, `include/uapi/linux/bpf.h`).
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const LINK_CREATE: libc::c_long = 28;
/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
/// `BPF_F_XDP_HAS_FRAGS` of the flags of a program.
const XDP_HAS_FRAGS: u32 = 1 << 5;
/// `BPF_F_TEST_XDP_LIVE_FRAMES` of the flags of a test run.
const LIVE_FRAMES: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE` of the flags of a link.
const DRIVER_MODE: u32 = 1 << 2;

/// How much of the verifier's log is kept.
const LOG: usize = 1 << 16;

/// Kinds of maps (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// A hash table.
    Hash = 1,
    /// An array.
    Array = 2,
    /// Programs to go on to.
    Programs = 3,
    /// Longest prefix match.
    Trie = 11,
}

/// Kinds of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// XDP that takes frames in more than one buffer, as gwfilter's.
    XdpFrags,
    /// XDP.
    Xdp,
    /// TC.
    Tc,
}

/// The beginnings of `union bpf_attr`; the kernel takes the rest as zero.
#[derive(Default)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct MapUpdate {
    map_fd: u64,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

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
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    /// The kernel wants what it does not know to be zero, and padding need not be.
    zero: u32,
}

#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// A map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

impl Map {
    /// An empty one, of keys and values of so many bytes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(kind: MapKind, key: u32, value: u32, entries: u32) -> io::Result<Self> {
        let fd = opened(
            MAP_CREATE,
            &mut MapCreate {
                map_type: kind as u32,
                key_size: key,
                value_size: value,
                max_entries: entries,
                // BPF_F_NO_PREALLOC, which tries need.
                map_flags: u32::from(kind == MapKind::Trie),
            },
        )?;
        let size = |bytes: u32| usize::try_from(bytes).map_err(io::Error::other);
        Ok(Self {
            fd,
            key: size(key)?,
            value: size(value)?,
        })
    }

    /// Writes one value.
    ///
    /// # Errors
    /// If the sizes are not the map's, or the kernel refuses.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key || value.len() != self.value {
            return Err(io::Error::other("a key or value of another size"));
        }
        let mut attributes = MapUpdate {
            map_fd: u64::from(number(self.fd.as_fd())?),
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            flags: 0,
        };
        call(MAP_UPDATE_ELEM, &mut attributes).map(drop)
    }

    /// Writes many values at once: keys and values one after the other.
    ///
    /// # Errors
    /// If the sizes are not the map's, or the kernel refuses.
    pub fn set_all(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let count = keys.len() / self.key.max(1);
        if count * self.key != keys.len() || count * self.value != values.len() {
            return Err(io::Error::other("keys or values of another size"));
        }
        let mut done = 0;
        // The allocator behind tries may be short of memory for a moment; what was written is counted.
        for _ in 0..1000 {
            let mut attributes = MapBatch {
                keys: keys.get(done * self.key..).unwrap_or_default().as_ptr() as u64,
                values: values.get(done * self.value..).unwrap_or_default().as_ptr() as u64,
                count: u32::try_from(count - done).map_err(io::Error::other)?,
                map_fd: number(self.fd.as_fd())?,
                ..MapBatch::default()
            };
            let result = call(MAP_UPDATE_BATCH, &mut attributes);
            match result {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    done += usize::try_from(attributes.count).map_err(io::Error::other)?;
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                other => return other.map(drop),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Loads a program; the error has the verifier's words.
///
/// # Errors
/// If the kernel refuses it.
pub fn load(kind: ProgramKind, instructions: &[u64]) -> io::Result<OwnedFd> {
    load_as(kind, "", instructions)
}

/// As [`load`], under a name of at most 15 bytes.
pub(crate) fn load_as(kind: ProgramKind, name: &str, instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let mut log = vec![0_u8; LOG];
    let xdp = kind != ProgramKind::Tc;
    let mut attributes = Load {
        // BPF_PROG_TYPE_XDP and BPF_PROG_TYPE_SCHED_CLS.
        prog_type: if xdp { 6 } else { 3 },
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
        log_buf: log.as_mut_ptr() as u64,
        prog_flags: if kind == ProgramKind::XdpFrags {
            XDP_HAS_FRAGS
        } else {
            0
        },
        prog_name,
        expected_attach_type: if xdp { ATTACH_XDP } else { 0 },
        ..Load::default()
    };
    opened(PROG_LOAD, &mut attributes).map_err(|error| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default()).into_owned();
        io::Error::new(error.kind(), format!("{error}: {text}"))
    })
}

/// Attaches an XDP program to the driver of a device of this thread's namespace; it goes with the descriptor.
///
/// # Errors
/// If there is no such device, or it has a program.
pub fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    link(program, ifindex, ATTACH_XDP, DRIVER_MODE)
}

/// A link of a program to a device.
pub(crate) fn link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        prog_fd: number(program)?,
        target_ifindex: ifindex,
        attach_type,
        flags,
    };
    opened(LINK_CREATE, &mut attributes)
}

/// What a test run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The last run's result.
    pub result: u32,
    /// Nanoseconds a run, the mean.
    pub nanoseconds: u32,
}

/// Runs a program `repeat` times over `frame` (`BPF_PROG_TEST_RUN`).
///
/// # Errors
/// If the kernel refuses.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<Ran> {
    let mut attributes = Test {
        prog_fd: number(program)?,
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..Test::default()
    };
    call(PROG_TEST_RUN, &mut attributes)?;
    Ok(Ran {
        result: attributes.retval,
        nanoseconds: attributes.duration,
    })
}

/// Runs an XDP program over `frames` copies of a frame that are real frames: what it redirects is sent, from the calling thread.
///
/// # Errors
/// If the kernel refuses (Linux 5.18 has it).
pub fn send(program: BorrowedFd<'_>, frame: &[u8], frames: u32) -> io::Result<()> {
    // `struct xdp_md`: where the data ends; all else as if the frame had come in at the loopback device.
    let context = [
        0,
        u32::try_from(frame.len()).map_err(io::Error::other)?,
        0,
        0,
        0,
        0,
    ];
    let mut attributes = Test {
        prog_fd: number(program)?,
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        repeat: frames,
        ctx_size_in: u32::try_from(size_of_val(&context)).map_err(io::Error::other)?,
        ctx_in: context.as_ptr() as u64,
        flags: LIVE_FRAMES,
        batch_size: 64,
        ..Test::default()
    };
    call(PROG_TEST_RUN, &mut attributes).map(drop)
}

fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// A command that opens a descriptor.
pub(crate) fn opened<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the command just opened it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call. `attributes` is the beginning of the command's `union bpf_attr`; pointers in it are live.
fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at a valid reference and what the callers point to from there, all of
    // which lives through the call; it writes to a log only, within the size given.
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
    libc::c_int::try_from(result).map_err(io::Error::other)
}
