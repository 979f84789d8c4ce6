//! Network namespaces as small machines, and the cables between them.
//!
//! A namespace here is held by a parked thread of this process, not by a name under `/run/netns`: nothing to
//! collide with and nothing to clean up, whatever ends the process. To look inside a running one:
//! `nsenter --target TID --net --mount`, with the thread id from [`Namespace::tid`].
//!
//! Each has a mount namespace too, with a fresh `/sys` (so `/sys/class/net` shows its own devices) and an empty bpffs at
//! `/sys/fs/bpf`: pins of one lab machine are not seen in another, and go away with it.
//!
//! Not `ip netns exec`: it mounts a fresh `/sys` for each command, and a pin made by one is lost to the next.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A small machine: a network of its own, its own `/sys` and its own bpffs. Gone when dropped (a child still running in
/// it keeps its network until it ends).
#[derive(Debug)]
pub struct Namespace {
    label: String,
    tid: i32,
    net: File,
    mounts: File,
    /// Dropping the sender lets the parked thread end.
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes one, with its loopback up and IPv6 addresses usable at once (no duplicate address detection).
    /// `label` stands in messages only.
    ///
    /// # Errors
    /// If the kernel refuses: this needs root.
    pub fn new(label: &str) -> Result<Self> {
        let (ready_tx, ready_rx) = mpsc::channel();
        let (release_tx, release_rx) = mpsc::channel::<()>();
        let holder = std::thread::Builder::new()
            .name(format!("lab {label}"))
            .spawn(move || {
                let made = isolate();
                let ok = made.is_ok();
                if ready_tx.send(made).is_ok() && ok {
                    // Ends when the sender is dropped.
                    let _ = release_rx.recv();
                }
            })
            .context("starting the thread that holds a namespace")?;
        let (tid, net, mounts) = ready_rx
            .recv()
            .context("the thread that holds a namespace ended early")?
            .with_context(|| format!("making the namespace `{label}` (it takes root)"))?;
        let namespace = Self {
            label: label.to_owned(),
            tid,
            net,
            mounts,
            release: Some(release_tx),
            holder: Some(holder),
        };
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
        }
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The label it was made with.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The thread that holds it: `nsenter --target TID --net --mount` looks inside, `ip link set … netns TID` moves a device in.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs `work` inside, on a thread of its own, and hands back what it returns.
    ///
    /// Sockets and children made there belong to the namespace for good. The working directory stays.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        std::thread::scope(|scope| {
            let worker = std::thread::Builder::new()
                .name(format!("lab {} work", self.label))
                .spawn_scoped(scope, || -> Result<T> {
                    self.join(&here)?;
                    Ok(work())
                })
                .context("starting a thread for a namespace")?;
            worker
                .join()
                .map_err(|_| anyhow!("work in the namespace `{}` panicked", self.label))?
        })
    }

    /// Moves the calling thread into the namespace, for good.
    fn join(&self, directory: &Path) -> Result<()> {
        // A thread shares its root and working directory with the others until told otherwise, and the kernel
        // refuses to change the mounts of a shared one.
        unshare(CloneFlags::CLONE_FS).context("taking a working directory of our own")?;
        setns(&self.mounts, CloneFlags::CLONE_NEWNS)
            .with_context(|| format!("entering the mounts of `{}`", self.label))?;
        setns(&self.net, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network of `{}`", self.label))?;
        std::env::set_current_dir(directory).with_context(|| format!("going back to {}", directory.display()))
    }

    /// Runs a command inside, to its end, and hands back all it said.
    ///
    /// # Errors
    /// If it cannot be started; a command that fails is not an error here.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null());
        self.enter(move || command.output())?
            .with_context(|| format!("starting `{program}` in `{}`", self.label))
    }

    /// Runs a command inside and hands back its standard output.
    ///
    /// # Errors
    /// If it cannot be started or ends with a failure (its error output is in the message).
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.output(Command::new(program).args(args))?;
        if !output.status.success() {
            bail!(
                "`{program} {}` in `{}` ended with {}: {}",
                args.join(" "),
                self.label,
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `ip ARGS…` inside.
    ///
    /// # Errors
    /// If it fails.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        self.run("ip", args)
    }

    /// Gives `device` an address: `198.51.100.7/24` or `2001:db8::7/64`, usable at once.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        let mut args = vec!["address", "add", address, "dev", device];
        if address.contains(':') {
            args.push("nodad");
        }
        self.ip(&args).map(|_| ())
    }

    /// Adds a route: `to` is a prefix or `default`, `via` a gateway's address of the same family.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn route(&self, to: &str, via: &str) -> Result<()> {
        let family = if via.contains(':') { "-6" } else { "-4" };
        self.ip(&[family, "route", "add", to, "via", via]).map(|_| ())
    }

    /// Makes every address of `prefix` local and bindable: real source addresses by the million, without spoofing.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn local(&self, prefix: &str) -> Result<()> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        self.ip(&[family, "route", "add", "local", prefix, "dev", "lo"])
            .map(|_| ())
    }

    /// Writes a setting below `/proc/sys`: `net/ipv4/ip_forward` (slashes, as device names may hold dots).
    ///
    /// # Errors
    /// If the kernel has no such setting or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("writing `{value}` to {} in `{}`", path.display(), self.label))
    }

    /// Forwards packets between its devices, both families, without asking for a way back (no reverse path filter).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        self.sysctl("net/ipv4/conf/default/rp_filter", "0")
    }

    /// Loads nftables rules.
    ///
    /// # Errors
    /// If `nft` is missing or refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run("nft", &[rules]).map(|_| ())
    }

    /// Switches off what lets a device see other packets than the wire has: segmentation, checksum and receive merging.
    ///
    /// # Errors
    /// If `ethtool` is missing or the device is.
    pub fn offloads_off(&self, device: &str) -> Result<()> {
        let off = [
            "tx", "off", "rx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off",
        ];
        self.run("ethtool", &[&["-K", device], off.as_slice()].concat())
            .map(|_| ())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}

/// Gives the calling thread a network, a `/sys` and a bpffs of its own.
fn isolate() -> Result<(i32, File, File)> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("keeping our mounts to ourselves")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mounting /sys")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)
        .context("mounting a bpffs at /sys/fs/bpf")?;
    let net = File::open("/proc/thread-self/ns/net").context("opening the new network namespace")?;
    let mounts = File::open("/proc/thread-self/ns/mnt").context("opening the new mount namespace")?;
    Ok((nix::unistd::gettid().as_raw(), net, mounts))
}

/// Lays a cable: a veth pair with an end in each namespace, both ends up and without offloads.
///
/// # Errors
/// If the names are taken or `ip` or `ethtool` fails.
pub fn veth(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    let tid = right.0.tid().to_string();
    left.0
        .ip(&[
            "link", "add", left.1, "type", "veth", "peer", "name", right.1, "netns", &tid,
        ])
        .with_context(|| {
            format!(
                "a cable from {}:{} to {}:{}",
                left.0.label, left.1, right.0.label, right.1
            )
        })?;
    for (namespace, device) in [left, right] {
        namespace.offloads_off(device)?;
        namespace.ip(&["link", "set", device, "up"])?;
    }
    Ok(())
}
