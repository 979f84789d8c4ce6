//! Prometheus and promtool out of Debian's package, which is unpacked and not installed.
//!
//! Installed, it would start a server of its own on a machine that runs systemd, and keep it running. The tests start theirs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use xtask::paths;
use xtask::prometheus::PROGRAMS;

use crate::run::{read, run};

/// The package.
pub(crate) const PACKAGE: &str = "prometheus";

/// The version of a folder's programs, if each of them is there and runs: a library that it needs may be missing.
///
/// # Errors
/// What the first that does not run said.
pub(crate) fn version(folder: &Path) -> Result<String> {
    let mut version = String::new();
    for program in PROGRAMS {
        let said = read(Command::new(folder.join(program)).arg("--version"))?;
        version = said.lines().next().unwrap_or_default().to_owned();
    }
    Ok(version)
}

/// Fetches the package by `apt_get` and puts its programs where [`xtask::prometheus::program`] looks. No script of the package runs.
pub(crate) fn fetch(mut apt_get: Command) -> Result<()> {
    let folder = paths::prometheus();
    let parent = folder.parent().context("the folder has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let scratch = tempfile::tempdir_in(parent).context("making a scratch folder")?;
    // Root's apt would fetch as a user who may not write here, and warn.
    apt_get.args(["-o", "APT::Sandbox::User=root", "download", PACKAGE]);
    run(apt_get.current_dir(scratch.path()))?;
    let package = fs::read_dir(scratch.path())
        .context("looking for the package")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get fetched no package")?;
    let tree = scratch.path().join("tree");
    run(Command::new("dpkg-deb").arg("--extract").args([&package, &tree]))?;
    let programs = tree.join("usr/bin");
    version(&programs).with_context(|| {
        format!("a program of the package does not run here: install by hand what it asks for, or the package {PACKAGE}")
    })?;
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    // The last step makes it visible: a broken download never looks installed.
    fs::rename(&programs, &folder).with_context(|| format!("moving the programs to {}", folder.display()))
}
