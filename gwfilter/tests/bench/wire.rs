//! What it costs to refuse a frame: CPU time of the thread that receives, over a cable, for gwfilter and for each peer.
//!
//! Each contestant has a machine and a cable of its own; frames come from one CPU, and all is received on another.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xtask::bpf;
use xtask::netns::{Namespace, veth};
use xtask::poll;
use xtask::site::{NODE_V4, NODE_V6};

use crate::driver::{Sources, syn};
use crate::sources::Pool;

/// The CPU that sends, and the one that receives.
pub(crate) const SENDS: usize = 0;
const RECEIVES: usize = 1;

/// Frames a call of the kernel sends, in groups of 64: a fifth of a second. Before it sends, a call waits some 20 ms for the kernel's
/// dispatcher of XDP programs, which counts as time without frames.
const FRAMES: u32 = 1 << 19;

/// Fewer frames in one measurement are none.
const FEWEST: u64 = 1000;

/// How long the receiver may need for what is on its way, and for a thread of its own to appear.
const SOON: Duration = Duration::from_secs(10);

/// A machine that receives, at the end of a cable.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) namespace: Namespace,
    /// The end of the cable there. No two have the same name: a thread of the kernel is called after it.
    pub(crate) device: String,
    /// The other end's name.
    pub(crate) sends: String,
    ifindex: u32,
    pub(crate) mac: [u8; 6],
    thread: Option<i32>,
}

/// The machine that sends to all of them.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) namespace: Namespace,
    cables: usize,
}

/// What a receiver did in one measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Nanoseconds of CPU time a frame.
    pub(crate) cost: f64,
    /// Frames a second.
    pub(crate) rate: f64,
}

impl Sender {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            namespace: Namespace::new("sender")?,
            cables: 0,
        })
    }

    /// A new receiver. What passes its filters is thrown away before the IP stack asks where it is to go, for all alike.
    pub(crate) fn receiver(&mut self, label: &str) -> Result<Receiver> {
        let receiver = self.machine(label)?;
        let sink =
            "table inet sink { chain rest { type filter hook prerouting priority -290; policy drop; }; }";
        receiver.namespace.nft(sink)?;
        Ok(receiver)
    }

    /// A new receiver that takes what comes.
    pub(crate) fn machine(&mut self, label: &str) -> Result<Receiver> {
        let namespace = Namespace::new(label)?;
        self.cables += 1;
        let name = format!("b{}x{}", std::process::id(), self.cables);
        let device = format!("{name}r");
        let here = format!("{name}s");
        veth((&self.namespace, &here), (&namespace, &device))?;
        namespace.address(&device, &format!("{NODE_V4}/24"))?;
        namespace.address(&device, &format!("{NODE_V6}/64"))?;
        let read = |of: &Namespace, path: String| -> Result<String> {
            let text = of.enter(|| fs::read_to_string(&path))?;
            text.with_context(|| format!("reading {path}"))
        };
        let ifindex = read(&self.namespace, format!("/sys/class/net/{here}/ifindex"))?;
        let text = read(&namespace, format!("/sys/class/net/{device}/address"))?;
        let mut mac = [0; 6];
        for (byte, part) in mac.iter_mut().zip(text.trim().split(':')) {
            *byte = u8::from_str_radix(part, 16).with_context(|| format!("the address of {device}"))?;
        }
        Ok(Receiver {
            namespace,
            device,
            sends: here,
            ifindex: ifindex.trim().parse().context("an interface's number")?,
            mac,
            thread: None,
        })
    }

    /// Sends frames to `receiver` for so long.
    fn send(&self, program: &OwnedFd, frame: &[u8], time: Duration) -> Result<Duration> {
        self.namespace.enter(|| {
            pin(0, SENDS)?;
            let began = Instant::now();
            while began.elapsed() < time {
                bpf::send(program.as_fd(), frame, FRAMES).context("sending frames")?;
            }
            Ok(began.elapsed())
        })?
    }
}

/// Frames for one receiver.
#[derive(Debug)]
pub(crate) struct Stream {
    program: OwnedFd,
    frame: Vec<u8>,
    /// What the program draws from.
    _sources: Sources,
}

impl Receiver {
    /// SYNs to `destination` from the addresses of a pool.
    pub(crate) fn stream(&self, destination: SocketAddr, pool: &Pool) -> Result<Stream> {
        let frame = syn(destination, self.mac)?;
        let sources = Sources::new(pool, &frame)?;
        Ok(Stream {
            program: sources.to_device(self.ifindex)?,
            frame,
            _sources: sources,
        })
    }

    /// The number of the device where it is.
    pub(crate) fn index(&self) -> Result<u32> {
        let path = format!("/sys/class/net/{}/ifindex", self.device);
        let text = self.namespace.enter(|| fs::read_to_string(&path))?;
        Ok(text.with_context(|| format!("reading {path}"))?.trim().parse()?)
    }

    /// To be called when the device has an XDP program, which makes it receive on its own: gives it a thread for that, on one CPU.
    pub(crate) fn ready(&mut self) -> Result<()> {
        let device = &self.device;
        let path = format!("/sys/class/net/{device}/threaded");
        let set = || self.namespace.enter(|| fs::write(&path, "1")).ok()?.ok();
        poll::until(SOON, set).with_context(|| format!("{device} takes no thread that receives"))?;
        let name = format!("napi/{device}-");
        let found = poll::until(SOON, || thread(&name));
        let found = found.with_context(|| format!("{} has no thread that receives", self.device))?;
        pin(found, RECEIVES)?;
        self.thread = Some(found);
        Ok(())
    }

    /// CPU time of the thread that receives, in nanoseconds.
    pub(crate) fn spent(&self) -> Result<u64> {
        cpu_time(self.thread.context("no thread that receives")?)
    }

    /// Frames received, whatever became of them.
    fn received(&self) -> Result<u64> {
        let text = self.namespace.run("ethtool", &["-S", &self.device])?;
        let found = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("rx_queue_0_xdp_packets: "));
        let found = found.with_context(|| format!("{} does not count what it receives", self.device))?;
        Ok(found.parse()?)
    }

    /// Lets frames come for so long.
    pub(crate) fn measure(&self, sender: &Sender, stream: &Stream, time: Duration) -> Result<Work> {
        let before = (self.spent()?, self.received()?);
        let took = sender.send(&stream.program, &stream.frame, time)?;
        // What is in the queue is received within a millisecond.
        let mut last = self.received()?;
        let still = poll::until(SOON, || {
            let now = self.received().ok()?;
            let still = now == last;
            last = now;
            still.then_some(())
        });
        still.with_context(|| format!("{} never stops receiving", self.device))?;
        let frames = last - before.1;
        if frames < FEWEST {
            bail!("{} received only {frames} frames", self.device);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let [frames, spent] = [frames as f64, (self.spent()? - before.0) as f64];
        Ok(Work {
            cost: spent / frames,
            rate: frames / took.as_secs_f64(),
        })
    }
}

/// The number of the thread whose name begins so.
fn thread(name: &str) -> Option<i32> {
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let number: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let comm = fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
        comm.starts_with(name).then_some(number)
    })
}

/// CPU time of a thread, in nanoseconds.
fn cpu_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let first = text.split_whitespace().next();
    first
        .with_context(|| format!("nothing in {path}"))?
        .parse()
        .context(path)
}

/// Keeps a thread on one CPU; 0 is the calling one.
pub(crate) fn pin(pid: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(pid), &set).with_context(|| format!("keeping thread {pid} on CPU {cpu}"))
}
