//! The pins that keep enforcement on while no agent runs: `/sys/fs/bpf/gwfilter/v<ABI>/net-<namespace>/<ifindex>-<hook>`.
//!
//! A pin is a link: as long as the file is there, its program stays attached with the tables it was loaded with. The agent holds no link
//! itself, so removing the file detaches, whoever does it (but for `clsact`, whose filter goes when `gwfilter` removes the pin). Beside the links lie the maps that must outlive the agent
//! (`headers`). The directory of a network namespace doubles as
//! the lock that keeps two agents from one namespace, and as a sign: an agent whose directory is gone has been unloaded, and ends.

mod others;
mod unload;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use gwfilter_common::abi::ABI_VERSION;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::query;
use others::Other;

pub use unload::{Agent, Unloaded, unload};

use super::clsact;

/// Where bpffs is mounted, by convention.
pub const BPFFS: &str = "/sys/fs/bpf";
const ROOT: &str = "/sys/fs/bpf/gwfilter";
/// Begins the name of a pinned program array.
const HEADERS: &str = "headers-";
/// Begins the names of links on their way to their place.
const NEXT: &str = "next-";
/// Begins the names of the pinned tables of a generation.
pub(super) const TABLES: &str = "tables-";
/// Begins the names of tables out of use.
pub(super) const OLD: &str = "old-";

/// How often a new agent tries to get the lock, and the pause in between.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long the kernel may take to detach what was removed.
const DETACHED: Duration = Duration::from_secs(10);

/// Where a program sits on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Native XDP: in the driver.
    Xdp,
    /// Generic XDP: after the skb was made.
    XdpGeneric,
    /// TC ingress, at the head of the TCX chain.
    Tcx,
    /// TC ingress, as a filter of the `clsact` qdisc: where there is no TCX.
    Clsact,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 4] = [Self::Xdp, Self::XdpGeneric, Self::Tcx, Self::Clsact];

    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Whether it is one of XDP's.
    #[must_use]
    pub const fn is_xdp(self) -> bool {
        matches!(self, Self::Xdp | Self::XdpGeneric)
    }
}

/// One pinned link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    /// Index of the interface. bpffs takes no dots in names, and names change, so the name of the interface is not in the path.
    pub ifindex: u32,
    /// Where the program sits.
    pub hook: Hook,
}

impl Pin {
    fn file_name(self) -> String {
        format!("{}-{}", self.ifindex, self.hook.name())
    }

    fn parse(name: &str) -> Option<Self> {
        let (ifindex, hook) = name.split_once('-')?;
        let hook = Hook::ALL.into_iter().find(|h| h.name() == hook)?;
        Some(Self {
            ifindex: ifindex.parse().ok()?,
            hook,
        })
    }
}

/// Why the pins could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// No bpffs, and it could not be mounted.
    #[error(
        "no bpffs is mounted at {BPFFS} and this process cannot mount one (as root: `mount -t bpf bpf {BPFFS}`)"
    )]
    Mount(#[source] Errno),
    /// A file operation failed.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another agent holds the lock.
    #[error(
        "another gwfilter agent runs in this network namespace ({}; it holds {path}); stop it, or take it off with `gwfilter unload`",
        abi_of(path)
    )]
    Busy {
        /// The directory.
        path: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinsError {
    let path = path.display().to_string();
    move |source| PinsError::Io { what, path, source }
}

/// Whether a bpffs is to be seen at [`BPFFS`]. `ip netns exec` hides the one of the machine behind a `/sys` of its own.
#[must_use]
pub fn mounted() -> bool {
    statfs(BPFFS).map(|s| s.filesystem_type()) == Ok(BPF_FS_MAGIC)
}

/// The inode of this thread's network namespace: what tells two namespaces of one machine apart.
///
/// # Errors
/// `/proc` is not there.
pub fn namespace() -> Result<u64, PinsError> {
    let path = Path::new("/proc/thread-self/ns/net");
    Ok(fs::metadata(path).map_err(failed("cannot read", path))?.ino())
}

/// The pins of this network namespace, held by this process.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    lock: Flock<File>,
    others: Vec<Other>,
}

impl Pins {
    /// Mounts bpffs if there is none, makes the directory of this network namespace (for root only) and locks it, and those
    /// that agents of other ABIs left.
    ///
    /// # Errors
    /// No bpffs and no right to mount it; another agent is there, of whatever ABI.
    pub fn open() -> Result<Self, PinsError> {
        if !mounted() {
            mount(
                Some("bpf"),
                BPFFS,
                Some("bpf"),
                MsFlags::empty(),
                Some("mode=0700"),
            )
            .map_err(PinsError::Mount)?;
        }
        let dir = Path::new(ROOT)
            .join(format!("v{ABI_VERSION}"))
            .join(directory_name(namespace()?));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(failed("cannot make", &dir))?;
        let lock = lock(&dir)?.ok_or_else(|| PinsError::Io {
            what: "somebody removed",
            path: dir.display().to_string(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        match others::claim(&dir) {
            Ok(others) => Ok(Self { dir, lock, others }),
            Err(e) => {
                // Not empty, if an agent of our own ABI was here: then it stays.
                let _ = fs::remove_dir(&dir);
                Err(e)
            }
        }
    }

    /// Where this pin is.
    #[must_use]
    pub fn path(&self, pin: Pin) -> PathBuf {
        self.dir.join(pin.file_name())
    }

    /// Where the program array with this number is pinned.
    pub(super) fn headers_path(&self, id: u32) -> PathBuf {
        self.dir.join(format!("{HEADERS}{id}"))
    }

    /// The name of the pinned map of lease and pause.
    pub(super) const CONTROL: &str = "control";

    /// The name of the pinned map of the beginnings of streams. Agents of every ABI go on with a map of this name, so it stands for what
    /// lies in it: another layout, or another meaning of a field, needs another name.
    pub(super) const STREAMS: &str = "streams";

    /// Where a map that the next agent goes on with is pinned.
    pub(super) fn map_path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes such a pin.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub(super) fn forget_map(&self, name: &str) -> Result<bool, PinsError> {
        remove(&self.map_path(name))
    }

    /// Where the next link of this interface is pinned for a moment, before it takes the place of the one that is there.
    pub(super) fn next_path(&self, ifindex: u32) -> PathBuf {
        self.dir.join(format!("{NEXT}{ifindex}"))
    }

    /// Removes the program arrays of earlier agents: all but the one with number `ours`; and links that were on their way to their place when
    /// an agent ended. Only when no other link of theirs is left.
    ///
    /// # Errors
    /// One cannot be removed.
    pub(super) fn forget_headers(&self, ours: u32) -> Result<(), PinsError> {
        let ours = format!("{HEADERS}{ours}");
        for name in entries(&self.dir)? {
            if name.starts_with(NEXT) || (name.starts_with(HEADERS) && name != ours) {
                remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// The directory, for people.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All pins there are.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Pin>, PinsError> {
        Ok(entries(&self.dir)?
            .iter()
            .filter_map(|name| Pin::parse(name))
            .collect())
    }

    /// Removes a pin, which detaches its program; `false` if there is none.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, pin: Pin) -> Result<bool, PinsError> {
        clsact::detach(pin);
        remove(&self.path(pin))
    }

    /// Whether the directory is still there. If not, somebody has unloaded gwfilter. A directory that cannot be looked
    /// at is there: it says nothing of the links.
    #[must_use]
    pub fn present(&self) -> bool {
        let identity = |m: fs::Metadata| (m.dev(), m.ino());
        match (
            fs::metadata(&self.dir).map(identity),
            self.lock.metadata().map(identity),
        ) {
            (Ok(here), Ok(ours)) => here == ours,
            (Err(e), _) => e.kind() != io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        }
    }

    /// Removes the directory, if no link is left in it, and the maps beside them.
    pub fn close(self) {
        let names = entries(&self.dir).unwrap_or_default();
        if !names.iter().any(|n| Pin::parse(n).is_some()) {
            for name in &names {
                // What cannot be removed holds memory, and enforces nothing.
                let _ = remove(&self.dir.join(name));
            }
        }
        // Not empty: enforcement is kept, and so is the directory.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Locks a directory; `None` if there is none.
fn lock(dir: &Path) -> Result<Option<Flock<File>>, PinsError> {
    let mut file = match File::open(dir) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("cannot open", dir)(e)),
    };
    for _ in 0..LOCK_ATTEMPTS {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            // Perhaps only somebody who looks whether it is held.
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, e)) => return Err(failed("cannot lock", dir)(e.into())),
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(PinsError::Busy {
        path: dir.display().to_string(),
    })
}

/// For people: of which ABI an agent is that has pins in this directory.
fn abi_of(dir: &str) -> String {
    let version = Path::new(dir).parent().and_then(Path::file_name);
    let version = version.map_or_else(String::new, |v| v.to_string_lossy().into_owned());
    if version == format!("v{ABI_VERSION}") {
        "of this version".to_owned()
    } else {
        format!("of another version, with maps {version}")
    }
}

fn directory_name(namespace: u64) -> String {
    format!("net-{namespace}")
}

/// What a directory is called while it is being unloaded: an agent does not find it any more, and cannot pin anything there.
fn unloading_name(namespace: u64) -> String {
    format!("unload-{namespace}")
}

pub(super) fn entries(dir: &Path) -> Result<Vec<String>, PinsError> {
    let mut names = Vec::new();
    let listing = match fs::read_dir(dir) {
        Ok(l) => l,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(e) => return Err(failed("cannot list", dir)(e)),
    };
    for entry in listing {
        let entry = entry.map_err(failed("cannot list", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn remove(path: &Path) -> Result<bool, PinsError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("cannot remove", path)(e)),
    }
}

/// The directories of this network namespace: of each version of gwfilter that was here, and of an `unload` that was cut off.
fn directories() -> Result<Vec<PathBuf>, PinsError> {
    let namespace = namespace()?;
    let mut found = Vec::new();
    for version in entries(Path::new(ROOT))? {
        for name in [directory_name(namespace), unloading_name(namespace)] {
            let dir = Path::new(ROOT).join(&version).join(name);
            if dir.is_dir() {
                found.push(dir);
            }
        }
    }
    Ok(found)
}

/// Everything that is pinned for this network namespace, by every version of gwfilter.
///
/// # Errors
/// The pins cannot be listed.
pub fn attached() -> Result<Vec<Pin>, PinsError> {
    Ok(links()?.into_iter().map(|(pin, _)| pin).collect())
}

/// As [`attached`], with where each lies.
///
/// # Errors
/// The pins cannot be listed.
pub(super) fn links() -> Result<Vec<(Pin, PathBuf)>, PinsError> {
    let mut pins = Vec::new();
    for dir in directories()? {
        let names = entries(&dir)?;
        pins.extend(
            names
                .iter()
                .filter_map(|name| Some((Pin::parse(name)?, dir.join(name)))),
        );
    }
    Ok(pins)
}

/// The directory of this network namespace, of this version of gwfilter; `None` if nothing of it is pinned here.
///
/// # Errors
/// The pins cannot be listed.
pub(super) fn own_directory() -> Result<Option<PathBuf>, PinsError> {
    let ours = Path::new(ROOT).join(format!("v{ABI_VERSION}"));
    Ok(directories()?.into_iter().find(|dir| dir.starts_with(&ours)))
}

/// Where the link of this hook and interface is pinned, by whichever version of gwfilter.
///
/// # Errors
/// The pins cannot be listed.
pub fn path_of(ifindex: u32, hook: Hook) -> Result<Option<PathBuf>, PinsError> {
    let wanted = Pin { ifindex, hook };
    for dir in directories()? {
        let names = entries(&dir)?;
        if let Some(name) = names.iter().find(|name| Pin::parse(name) == Some(wanted)) {
            return Ok(Some(dir.join(name)));
        }
    }
    Ok(None)
}

/// Where lease and pause of this network namespace are pinned, for every version of gwfilter that has left them.
///
/// # Errors
/// The pins cannot be listed.
pub fn controls() -> Result<Vec<PathBuf>, PinsError> {
    let mut paths = Vec::new();
    for dir in directories()? {
        if entries(&dir)?.iter().any(|name| name == Pins::CONTROL) {
            paths.push(dir.join(Pins::CONTROL));
        }
    }
    Ok(paths)
}

/// Where root tables of this network namespace are pinned, for every version of gwfilter.
///
/// # Errors
/// The pins cannot be listed.
pub fn roots() -> Result<Vec<PathBuf>, PinsError> {
    let mut paths = Vec::new();
    for dir in directories()? {
        let names = entries(&dir)?;
        let roots = names
            .iter()
            .filter(|name| name.starts_with(TABLES) && name.ends_with("-root"));
        paths.extend(roots.map(|name| dir.join(name)));
    }
    Ok(paths)
}

/// Whether an agent runs in this network namespace: whether it holds the lock.
///
/// # Errors
/// The pins cannot be looked at.
pub fn held() -> Result<bool, PinsError> {
    for dir in directories()? {
        let file = match File::open(&dir) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed("cannot open", &dir)(e)),
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => return Ok(true),
            Err((_, e)) => return Err(failed("cannot look at the lock of", &dir)(e.into())),
        }
    }
    Ok(false)
}

/// Ids of the XDP programs behind the pins of this network namespace, of every version of gwfilter. When a pin goes, the
/// kernel detaches a moment later (`kernel/bpf/inode.c` frees the inode after an RCU grace period); these ids tell when.
///
/// # Errors
/// The pins cannot be listed.
pub fn xdp_programs() -> Result<BTreeSet<u32>, PinsError> {
    let mut programs = BTreeSet::new();
    for dir in directories()? {
        for name in entries(&dir)? {
            let xdp = Pin::parse(&name).is_some_and(|p| p.hook.is_xdp());
            // A link that cannot be opened is of no program that we could wait for.
            if xdp && let Ok(info) = PinnedLink::from_pin(dir.join(name)).and_then(|l| FdLink::from(l).info())
            {
                programs.insert(info.program_id());
            }
        }
    }
    Ok(programs)
}

/// The TC programs behind the pins of this network namespace, of every version of gwfilter, with their interfaces; as [`xdp_programs`].
///
/// # Errors
/// The pins cannot be listed.
pub fn tc_programs() -> Result<BTreeSet<(u32, u32)>, PinsError> {
    let mut programs = BTreeSet::new();
    for dir in directories()? {
        for name in entries(&dir)? {
            let Some(pin) = Pin::parse(&name).filter(|p| p.hook == Hook::Tcx) else {
                continue;
            };
            if let Ok(info) = PinnedLink::from_pin(dir.join(name)).and_then(|l| FdLink::from(l).info()) {
                programs.insert((pin.ifindex, info.program_id()));
            }
        }
    }
    Ok(programs)
}

/// Waits until the kernel shows none of these TC programs any more; false if one stays. Where it does not say, there is nothing to wait for.
#[must_use]
pub fn tc_gone(programs: &BTreeSet<(u32, u32)>) -> bool {
    let deadline = Instant::now() + DETACHED;
    let there = |(ifindex, id): &(u32, u32)| query::tcx_ingress(*ifindex).is_ok_and(|line| line.contains(id));
    while programs.iter().any(there) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// The name of an interface of this network namespace.
#[must_use]
pub fn interface_name(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex)
        .ok()
        .map(CString::into_string)?
        .ok()
        // What the C library leaves behind for an index that is gone.
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_back_from_its_name() {
        for hook in Hook::ALL {
            let pin = Pin {
                ifindex: 4_000_000_000,
                hook,
            };
            assert_eq!(Pin::parse(&pin.file_name()), Some(pin));
            assert!(!pin.file_name().contains('.'), "bpffs takes no dots");
        }
    }

    #[test]
    fn what_is_no_pin_is_left_alone() {
        for name in [
            "",
            "-",
            "1",
            "1-",
            "1-tc",
            "eth0-xdp",
            "-1-xdp",
            "99999999999-xdp",
            "1-xdp-",
            "1-XDP",
            "headers-7",
            "streams",
        ] {
            assert_eq!(Pin::parse(name), None, "{name}");
        }
    }
}
