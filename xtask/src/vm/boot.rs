//! Boots a kernel with a root file system in memory inside QEMU, on an emulated processor, and waits for its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::guest;
use super::kernels::Kernel;
use crate::progress;
use crate::run::shown;

/// How much of the kernel's messages an error shows.
const TAIL: usize = 25;

/// Ended (by its id) and reaped when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots; what the guest's jobs said. `folder` keeps both serial lines.
pub(crate) fn boot(kernel: &Kernel, initramfs: &Path, folder: &Path, within: Duration) -> Result<String> {
    let (console, report) = (folder.join("console"), folder.join("report"));
    let image = kernel.image().context("its image is gone")?;
    let mut command = command(&image, initramfs, &console, &report);
    let log = File::create(folder.join("qemu")).context("creating QEMU's log")?;
    let errors = log.try_clone().context("a second handle on a log")?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("starting `{}`", shown(&command)))?;
    let mut machine = Machine(child);
    let _step = progress::step(format_args!("Linux {} runs its jobs", kernel.release));
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = machine.0.try_wait().context("waiting for QEMU")? {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = read(&report).replace('\r', "");
    match status {
        Some(status) if status.success() && said.ends_with("done\n") => Ok(said),
        Some(status) => bail!(
            "the guest ended early (QEMU: {status}; {}): {}",
            read(&folder.join("qemu")).trim(),
            tails(&console, &said)
        ),
        None => bail!(
            "the guest was not ready within {} s: {}",
            within.as_secs(),
            tails(&console, &said)
        ),
    }
}

fn command(image: &Path, initramfs: &Path, console: &Path, report: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1024"]);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]);
    for path in [console, report] {
        command.arg("-serial").arg(format!("file:{}", path.display()));
    }
    command.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    // An emulated processor has none of the holes that the mitigations close, and pays for them tenfold.
    let line = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off rdinit=/{} -- vm-guest",
        guest::INIT
    );
    command.args(["-append", &line]);
    command
}

fn read(path: &PathBuf) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The ends of both serial lines.
fn tails(console: &PathBuf, report: &str) -> String {
    format!("\n{}\n---- the jobs:\n{}", tail(&read(console)), tail(report))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(TAIL)..)
        .unwrap_or_default()
        .join("\n")
}
