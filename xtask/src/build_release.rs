//! `build`: the release binary with the eBPF object inside.

use std::fs;

use anyhow::{Context as _, Result};

use xtask::paths;

use crate::build_ebpf;
use crate::run::{COMMIT, cargo, commit, run, say};

/// The verb. Refuses a stub or an object that does not match the sources: such an agent would fail on the node.
pub(crate) fn main() -> Result<()> {
    build_ebpf::build_if_stale()?;
    build_ebpf::require_fresh()?;
    run(cargo().env(COMMIT, commit()).args([
        "build",
        "--release",
        "--locked",
        "--package",
        "gwfilter",
        "--bin",
        "gwfilter",
    ]))?;
    let binary = paths::target().join("release/gwfilter");
    let size = fs::metadata(&binary)
        .with_context(|| format!("reading {}", binary.display()))?
        .len();
    say(format_args!("release binary: {}  {size} bytes", binary.display()));
    Ok(())
}
