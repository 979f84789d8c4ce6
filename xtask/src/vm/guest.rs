//! The first process of a guest: mounts what a system needs, runs the jobs, tells how they went, and switches the machine off.
//!
//! It is xtask itself, started by the guest's kernel as `xtask vm-guest`. The first serial line has the kernel's messages, the second what
//! the jobs say: `job NAME`, then their lines after a bar, then `end NAME STATUS after N s`; at last `done`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;
use serde_json::Value;

/// What is to be run: a list of `{"name", "program", "arguments", "environment"}`.
pub(crate) const JOBS: &str = "etc/jobs.json";
/// Kernel modules, in an order in which they can be loaded.
pub(crate) const MODULES: &str = "etc/modules";
/// This program, in a guest.
pub(crate) const INIT: &str = "usr/bin/xtask";
/// Where the jobs' words go.
const REPORT: &str = "/dev/ttyS1";

/// File system, where, options.
const MOUNTS: [(&str, &str, &str); 7] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/tmp", ""),
    ("tmpfs", "/run", ""),
    ("bpf", "/sys/fs/bpf", "mode=0700"),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// Folders that the first process needs to be there.
pub(crate) const FOLDERS: [&str; 5] = ["proc", "sys", "dev", "tmp", "run"];

/// The verb.
pub(crate) fn main() -> Result<()> {
    if std::process::id() != 1 {
        bail!(
            "this verb is the first process of a guest of `cargo xtask test vm`; it is of no use elsewhere"
        );
    }
    let done = work();
    if let Err(error) = &done {
        let _ = writeln!(std::io::stderr(), "guest: {error:#}");
    }
    // Everything that is to be kept has left by the serial line.
    sync();
    match reboot(RebootMode::RB_POWER_OFF)? {}
}

fn work() -> Result<()> {
    for (kind, place, options) in MOUNTS {
        let options = (!options.is_empty()).then_some(options);
        mount(Some(kind), place, Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("mounting {kind} at {place}"))?;
    }
    let mut report = File::options()
        .write(true)
        .open(REPORT)
        .with_context(|| format!("opening {REPORT}"))?;
    let modules = fs::read_to_string(Path::new("/").join(MODULES)).context("reading the list of modules")?;
    for module in modules.lines() {
        load(Path::new(module)).with_context(|| format!("loading the module {module}"))?;
    }
    let jobs = fs::read_to_string(Path::new("/").join(JOBS)).context("reading the jobs")?;
    let jobs: Vec<Value> = serde_json::from_str(&jobs).context("reading the jobs")?;
    for job in &jobs {
        run(job, &mut report)?;
    }
    writeln!(report, "done").context("telling the end")
}

/// Loads a kernel module.
fn load(path: &Path) -> Result<()> {
    let file = File::open(path).context("opening it")?;
    match finit_module(file, c"", ModuleInitFlags::empty()) {
        // Built in, or loaded by another one.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).context("the kernel refuses it"),
    }
}

fn run(job: &Value, report: &mut impl Write) -> Result<()> {
    let text = |key: &str| job.get(key).and_then(Value::as_str).unwrap_or_default();
    writeln!(report, "job {}", text("name"))?;
    let began = Instant::now();
    let ended = match start(job, text("program"), report) {
        Ok(status) => status.to_string(),
        Err(error) => format!("not started: {error:#}"),
    };
    writeln!(
        report,
        "end {} {ended} after {} s",
        text("name"),
        began.elapsed().as_secs()
    )?;
    Ok(())
}

fn start(job: &Value, program: &str, report: &mut impl Write) -> Result<ExitStatus> {
    let (reader, writer) = std::io::pipe().context("a pipe")?;
    let errors = writer.try_clone().context("a second end of a pipe")?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/tmp");
    for argument in job
        .get("arguments")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        command.arg(argument.as_str().unwrap_or_default());
    }
    let environment = job.get("environment").and_then(Value::as_object);
    for (key, value) in environment.into_iter().flatten() {
        command.env(key, value.as_str().unwrap_or_default());
    }
    let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
    // Our own writing ends of the pipe: with them open it would never end.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading what a job says")?;
        writeln!(report, "|{}", String::from_utf8_lossy(&line))?;
    }
    child.wait().context("waiting for a job")
}
