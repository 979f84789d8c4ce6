//! `strace` on the agent: makes a chosen system call fail, and says what it did.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::netns::Namespace;
use xtask::process::Process;

const SOON: Duration = Duration::from_secs(20);

/// One system call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The call's name.
    pub(crate) call: &'static str,
    /// The error's name.
    pub(crate) error: &'static str,
    /// Which call fails, counted from 1 in each thread.
    pub(crate) nth: usize,
    /// All later ones fail, too.
    pub(crate) lasting: bool,
}

/// A kind of system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The call's name.
    pub(crate) call: &'static str,
    /// What it may end with.
    pub(crate) errors: &'static [&'static str],
}

/// Answers and news of the kernel about links and addresses.
pub(crate) const RECEIVE: Kind = Kind {
    call: "recvfrom",
    errors: &["ENOBUFS", "ENOMEM", "EIO"],
};

/// Questions to it.
pub(crate) const SEND: Kind = Kind {
    call: "sendto",
    errors: &["ENOBUFS", "ENOMEM", "EPERM"],
};

/// Files: manifests, pins, what the agent keeps.
pub(crate) const OPEN: Kind = Kind {
    call: "openat",
    errors: &["EIO", "EACCES", "EMFILE"],
};

/// Which files there are.
pub(crate) const LIST: Kind = Kind {
    call: "getdents64",
    errors: &["EIO", "EACCES"],
};

/// Whether a file changed, and whether a pin is there.
pub(crate) const LOOK: Kind = Kind {
    call: "statx",
    errors: &["EIO", "EACCES"],
};

/// What the agent writes for the next one.
pub(crate) const FLUSH: Kind = Kind {
    call: "fsync",
    errors: &["EIO", "ENOSPC"],
};

/// The same, put in its place.
pub(crate) const RENAME: Kind = Kind {
    call: "rename",
    errors: &["EIO", "ENOSPC", "EACCES"],
};

/// Maps and programs.
pub(crate) const BPF: Kind = Kind {
    call: "bpf",
    errors: &["ENOMEM", "ENOSPC", "EPERM", "E2BIG", "EINVAL"],
};

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { call, error, nth, .. } = self;
        let and_later = if self.lasting { "+" } else { "" };
        write!(f, "{call}:error={error}:when={nth}{and_later}")
    }
}

impl Fault {
    fn flag(&self) -> String {
        format!("inject={self}")
    }

    /// What stands in the agent's log of it.
    pub(crate) fn text(&self) -> String {
        let errno = match self.error {
            "EPERM" => libc::EPERM,
            "EIO" => libc::EIO,
            "E2BIG" => libc::E2BIG,
            "ENOMEM" => libc::ENOMEM,
            "EACCES" => libc::EACCES,
            "EINVAL" => libc::EINVAL,
            "ENOSPC" => libc::ENOSPC,
            "ENOBUFS" => libc::ENOBUFS,
            "EMFILE" => libc::EMFILE,
            _ => 0,
        };
        format!("os error {errno}")
    }
}

/// Whether every fault is to be tried.
pub(crate) fn all() -> bool {
    std::env::var_os("GWFILTER_FAULTS").is_some_and(|which| which == "all")
}

/// A tracer of a running process; it lets go when dropped.
#[derive(Debug)]
pub(crate) struct Strace(Process);

impl Strace {
    /// Follows every thread of a process: its `calls` are written down, and the one that `fault` says fails.
    pub(crate) fn attach(namespace: &Namespace, pid: u32, calls: &str, fault: Option<&Fault>) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-e", &format!("trace={calls}")]);
        if let Some(fault) = fault {
            command.args(["-e", &fault.flag()]);
        }
        command.args(["-p", &pid.to_string()]);
        let mut tracer =
            Process::spawn(namespace, "strace", command).expect("strace; `cargo xtask setup` installs it");
        tracer.wait_line("attached", SOON).expect("attached");
        Self(tracer)
    }

    /// Lets go; hands back all that was written down.
    pub(crate) fn detach(mut self) -> String {
        self.0.signal(Signal::SIGINT).expect("still there");
        self.0.wait_exit(SOON).expect("it lets go");
        self.0.log()
    }
}

/// The words that start `binary` under a tracer, as a process of its own: its id is the agent's, not the tracer's.
pub(crate) fn words(calls: &str, fault: Option<&Fault>, to: &str) -> Vec<String> {
    let mut words: Vec<String> = ["-D", "-f", "-q", "-o", to, "-e"].map(str::to_owned).to_vec();
    words.push(format!("trace={calls}"));
    if let Some(fault) = fault {
        words.extend(["-e".to_owned(), fault.flag()]);
    }
    words
}

/// How many calls of this name are written down, in the thread that made most of them.
pub(crate) fn count(log: &str, call: &str) -> usize {
    let mut of_thread = std::collections::BTreeMap::<&str, usize>::new();
    for line in log.lines() {
        // `[pid  123] bpf(…` to a terminal or where there are threads, `123   bpf(…` in a file, or no number at all.
        let line = line.trim_start_matches("[pid").trim_start();
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let (thread, rest) = line.split_at(digits);
        let rest = rest.trim_start_matches([']', ' ']);
        if rest.strip_prefix(call).is_some_and(|rest| rest.starts_with('(')) {
            *of_thread.entry(thread).or_default() += 1;
        }
    }
    of_thread.values().copied().max().unwrap_or_default()
}

#[test]
fn lines_of_a_tracer_then_the_calls_of_the_busiest_thread() {
    let log = "strace: Process 8 attached\n[pid  8362] bpf(BPF_MAP_CREATE, 1) = 3\n[pid 10073] bpf(x) = 0\n[pid  8362] bpf(y) = 0\n";
    assert_eq!(count(log, "bpf"), 2);
    assert_eq!(count("77    bpf(x) = 0\n77 bpfx(x) = 0\nbpf(y) = 0\n", "bpf"), 1);
}
