//! A root file system for one process, in a mount namespace of its own, as a container runtime makes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// What the new root holds.
#[derive(Clone, Debug)]
pub(super) struct Root {
    /// An empty folder that becomes the root.
    pub(super) at: PathBuf,
    /// Folders and files of this machine (left) and where they appear (right), in this order.
    pub(super) binds: Vec<Bind>,
    /// Whether the root itself can be written.
    pub(super) read_only: bool,
}

/// One mount.
#[derive(Clone, Debug)]
pub(super) struct Bind {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    pub(super) read_only: bool,
}

/// Devices that every container has.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

impl Root {
    /// Puts the calling thread into it, for good. The thread must not share its working directory with others.
    ///
    /// Not made: a process namespace. The agent sees this machine's processes and is not number 1.
    pub(super) fn enter(&self) -> Result<()> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of our own")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("keeping our mounts to ourselves")?;
        let root = &self.at;
        mount(
            Some("tmpfs"),
            root,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0755"),
        )
        .context("mounting a root")?;
        for folder in ["proc", "sys", "dev", ".old"] {
            let path = root.join(folder);
            fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        bind(Path::new("/proc"), &root.join("proc"), false)?;
        mount(
            Some("sysfs"),
            &root.join("sys"),
            Some("sysfs"),
            MsFlags::MS_RDONLY,
            none,
        )
        .context("mounting /sys")?;
        for device in DEVICES {
            bind(
                &Path::new("/dev").join(device),
                &root.join("dev").join(device),
                false,
            )?;
        }
        for each in &self.binds {
            let to = root.join(each.to.strip_prefix("/").unwrap_or(&each.to));
            bind(&each.from, &to, each.read_only)?;
        }
        nix::unistd::pivot_root(root, &root.join(".old")).context("changing the root")?;
        std::env::set_current_dir("/").context("going to the new root")?;
        umount2("/.old", MntFlags::MNT_DETACH).context("letting the old root go")?;
        fs::remove_dir("/.old").context("removing the old root's place")?;
        if self.read_only {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(none, "/", none, flags, none).context("making the root read-only")?;
        }
        Ok(())
    }
}

/// Shows `from` at `to`, which is made if it is missing. A link is shown as the link it is.
fn bind(from: &Path, to: &Path, read_only: bool) -> Result<()> {
    let what = || format!("showing {} at {}", from.display(), to.display());
    if let Ok(target) = fs::read_link(from) {
        return std::os::unix::fs::symlink(target, to).with_context(what);
    }
    let parent = if from.is_dir() { Some(to) } else { to.parent() };
    if let Some(parent) = parent {
        fs::create_dir_all(parent).with_context(what)?;
    }
    if !from.is_dir() {
        File::create(to).with_context(what)?;
    }
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).with_context(what)?;
    if read_only {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, to, none, flags, none).with_context(what)?;
    }
    Ok(())
}
