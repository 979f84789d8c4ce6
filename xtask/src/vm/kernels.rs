//! The kernels of the matrix, as Debian has them: the newest package of each series, from whichever suite has it.
//!
//! apt fetches them with sources and lists of its own below the target folder, so what the machine has configured stays as it is, and
//! checks them against Debian's signatures. Nothing is installed: the packages are unpacked. A package whose
//! version is fixed would be gone from the mirrors within months.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::paths;

use crate::run::{read, run, say};

/// The series, oldest first, and what they lack (see [`xtask::kernel::lacks`]).
const SERIES: [((u32, u32), &str); 4] = [
    // Multi-buffer XDP came with 5.18, `bpf_loop` with 5.17, TCX with 6.6.
    ((5, 10), "gwf_xdp_frags,gwf_tc_header,tcx"),
    ((6, 1), "tcx"),
    ((6, 12), ""),
    ((7, 2), ""),
];

/// The label of the newest one.
pub(crate) const NEWEST: &str = "7.2";

/// Where the series are.
const SUITES: [&str; 9] = [
    "debian bullseye",
    "debian-security bullseye-security",
    "debian bookworm",
    "debian-security bookworm-security",
    "debian trixie",
    "debian-security trixie-security",
    "debian trixie-backports",
    "debian sid",
    "debian experimental",
];

/// One kernel, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The series, such as 6.12.
    pub(crate) label: String,
    /// What it is known to lack.
    pub(crate) lacks: &'static str,
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// Where its packages are unpacked.
    folder: PathBuf,
}

impl Kernel {
    /// The image that a boot loader loads, once it is there.
    pub(crate) fn image(&self) -> Option<PathBuf> {
        // Debian moved it with Linux 7.2.
        [
            format!("boot/vmlinuz-{}", self.release),
            format!("usr/lib/modules/{}/vmlinuz", self.release),
        ]
        .into_iter()
        .map(|place| self.folder.join(place))
        .find(|place| place.is_file())
    }

    /// Where its modules are.
    pub(crate) fn modules(&self) -> Result<PathBuf> {
        // Debian moved them with trixie.
        ["lib/modules", "usr/lib/modules"]
            .into_iter()
            .map(|place| self.folder.join(place).join(&self.release).join("kernel"))
            .find(|place| place.is_dir())
            .with_context(|| format!("the packages of {} have no modules", self.release))
    }
}

/// Fetches what is not there yet of the kernels whose label is among `only`; of all if that is empty.
pub(crate) fn ensure(only: &[String]) -> Result<Vec<Kernel>> {
    let apt = Apt::new()?;
    let names = match apt.names() {
        Ok(names) if !names.is_empty() => names,
        _ => {
            apt.update()?;
            apt.names()?
        }
    };
    let mut kernels: Vec<Kernel> = Vec::new();
    for (wanted, lacks) in SERIES {
        let label = format!("{}.{}", wanted.0, wanted.1);
        if !(only.is_empty() || only.contains(&label)) {
            continue;
        }
        let release = newest(&names, wanted)
            .with_context(|| format!("Debian's mirrors have no cloud kernel {label}"))?;
        let kernel = Kernel {
            label,
            lacks,
            release: release.to_owned(),
            folder: folder().join(release),
        };
        apt.unpack(&kernel, &names)
            .with_context(|| format!("fetching Linux {release}"))?;
        kernels.push(kernel);
    }
    ensure!(!kernels.is_empty(), "no kernel of the series {}", only.join(", "));
    Ok(kernels)
}

/// Where everything of this group is kept.
pub(crate) fn folder() -> PathBuf {
    paths::target().join("vm")
}

/// Of the packages, the release of the newest signed cloud kernel of a series.
fn newest(names: &[String], wanted: (u32, u32)) -> Option<&str> {
    names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| release.ends_with("-cloud-amd64"))
        .filter(|release| {
            // `7.3-cloud-amd64` has no number of its own: it is the name of a package that asks for the newest.
            let numbers = numbers(release);
            numbers.len() > 2 && series(release) == Some(wanted)
        })
        .max_by_key(|release| numbers(release))
}

/// Major and minor number.
fn series(release: &str) -> Option<(u32, u32)> {
    match numbers(release).as_slice() {
        [major, minor, ..] => Some((*major, *minor)),
        _ => None,
    }
}

/// All numbers before the flavour, in order: 6, 12, 118, 13 of `6.12.118+deb13-cloud-amd64`.
fn numbers(release: &str) -> Vec<u32> {
    release
        .trim_end_matches("-cloud-amd64")
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// apt, with sources and state of our own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new() -> Result<Self> {
        let folder = folder().join("apt");
        for place in ["lists/partial", "archives/partial"] {
            let place = folder.join(place);
            fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
        }
        let sources: String = SUITES
            .iter()
            .map(|suite| format!("deb [arch=amd64] http://deb.debian.org/{suite} main\n"))
            .collect();
        for (name, text) in [("sources.list", sources), ("status", String::new())] {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.folder.join(name).display().to_string();
        for (key, value) in [
            ("Dir::State::lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("")),
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                "false".to_owned(),
            ),
            // It lies below our own target folder, which apt's own user may not be allowed to enter.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    fn update(&self) -> Result<()> {
        run(self
            .command("apt-get")
            .args(["-q", "update", "-o", "Acquire::Retries=2", "--error-on=any"]))
        .context("asking Debian's mirrors which kernels there are (this takes the network)")
    }

    fn names(&self) -> Result<Vec<String>> {
        let told = read(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
        Ok(told.lines().map(str::to_owned).collect())
    }

    /// Unpacks the packages of a kernel, unless they are.
    fn unpack(&self, kernel: &Kernel, names: &[String]) -> Result<()> {
        if kernel.image().is_some() {
            return Ok(());
        }
        say(format_args!("fetching Linux {}", kernel.release));
        let scratch = tempfile::tempdir_in(&self.folder).context("a scratch folder")?;
        // From Linux 7.2 on the first of them only asks for the others.
        let packages: Vec<String> = ["linux-image", "linux-binary", "linux-modules"]
            .iter()
            .map(|kind| format!("{kind}-{}", kernel.release))
            .filter(|name| names.contains(name))
            .collect();
        run(self
            .command("apt-get")
            .args(["-q", "download", "-o", "Acquire::Retries=2"])
            .args(packages)
            .current_dir(scratch.path()))?;
        let fresh = scratch.path().join("unpacked");
        for package in packages_in(scratch.path())? {
            run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&fresh))?;
        }
        let _ = fs::remove_dir_all(&kernel.folder);
        // The last step makes it visible: a broken download never looks unpacked.
        fs::rename(&fresh, &kernel.folder)
            .with_context(|| format!("moving to {}", kernel.folder.display()))?;
        ensure!(kernel.image().is_some(), "its packages have no image of a kernel");
        Ok(())
    }
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.context("listing packages")?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_then_the_newest_signed_kernel_of_a_series() {
        let names: Vec<String> = [
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.12.9+deb13-cloud-amd64",
            "linux-image-6.12.118+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-rt-amd64",
            "linux-image-7.3-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-modules-9.9.9-cloud-amd64",
        ]
        .map(str::to_owned)
        .into();
        for (series, release) in [
            ((6, 1), Some("6.1.0-56-cloud-amd64")),
            ((6, 12), Some("6.12.118+deb13-cloud-amd64")),
            ((5, 10), None),
            ((7, 3), Some("7.3.4+deb13-cloud-amd64")),
        ] {
            assert_eq!(newest(&names, series), release, "{series:?}");
        }
    }
}
