//! What the kernel uses for itself.

use std::time::Duration;

use anyhow::{Context as _, Result};
use xtask::poll;

/// Memory of the kernel, in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Objects that it cannot give back, and large pieces.
    pub(crate) shared: f64,
    /// What each CPU has of its own. The kernel keeps some of it when it is freed, and gives it to who comes next: only the first one
    /// sees what it takes.
    pub(crate) per_cpu: f64,
}

/// What is made, and what memory grows by. Others on the machine count too: so it says something of long lists only.
pub(crate) fn of<T>(make: impl FnOnce() -> Result<T>) -> Result<(T, Memory)> {
    let before = settled()?;
    let made = make()?;
    let after = settled()?;
    let grown = Memory {
        shared: after.shared - before.shared,
        per_cpu: after.per_cpu - before.per_cpu,
    };
    Ok((made, grown))
}

/// When the kernel has freed what it was to free.
fn settled() -> Result<Memory> {
    let mut last = used()?;
    let mut quiet = 0;
    poll::every(Duration::from_millis(150), Duration::from_secs(5), || {
        let before = std::mem::replace(&mut last, used().ok()?);
        quiet = if (before.shared - last.shared).abs() < 0.25 {
            quiet + 1
        } else {
            0
        };
        (quiet == 3).then_some(())
    });
    Ok(last)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn used() -> Result<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let of = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib = kib.with_context(|| format!("no {name} in /proc/meminfo"))?;
        Ok(kib.parse::<u64>().context("a number in /proc/meminfo")? as f64 / 1024.0)
    };
    Ok(Memory {
        shared: of("SUnreclaim:")? + of("VmallocUsed:")?,
        per_cpu: of("Percpu:")?,
    })
}
