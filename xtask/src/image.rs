//! `image`: a container image of the agent as an OCI archive, without any container tool.
//!
//! The agent is linked statically, so the image holds it, the licences of all that is in it, and nothing else: no shell, no
//! libraries. Built twice from the same sources with the same compiler, the archive has the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use xtask::archive::Entry;
use xtask::oci::{self, Image};
use xtask::paths;

use crate::build_ebpf;
use crate::dist;
use crate::progress;
use crate::run::{COMMIT, cargo, commit, run, say};
use crate::setup::{self, Part, Voice};
use crate::test;

/// The name in the manifests, which no registry has.
const NAME: &str = "localhost/gwfilter";

/// Our own licences.
pub(crate) const LICENCES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"];

/// What `image` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Name of the image; its tag is gwfilter's version.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    name: String,
    /// Where the archive goes; the default is target/image/gwfilter.oci.tar, and target/tested/gwfilter.oci.tar with --as-tested.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// With the agent as the tests are built, in seconds instead of minutes: less optimised, and not for nodes.
    #[arg(long)]
    as_tested: bool,
}

impl Options {
    /// The image that tests run.
    pub(crate) fn for_tests(as_tested: bool) -> Self {
        Self {
            name: NAME.to_owned(),
            output: Some(paths::tested_image()),
            as_tested,
        }
    }
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let place = if options.as_tested {
        paths::tested_image
    } else {
        paths::image
    };
    let archive = options.output.clone().unwrap_or_else(place);
    let reference = format!("{}:{}", options.name, env!("CARGO_PKG_VERSION"));
    let binary = static_binary(options.as_tested)?;
    let image = image(
        &reference,
        fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?,
    )?;
    if let Some(folder) = archive.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let step = progress::step("packing the image");
    let file = fs::File::create(&archive).with_context(|| format!("making {}", archive.display()))?;
    let digest =
        oci::write(&image, BufWriter::new(file)).with_context(|| format!("writing {}", archive.display()))?;
    drop(step);
    let size = fs::metadata(&archive)
        .with_context(|| format!("reading {}", archive.display()))?
        .len();
    say(format_args!(
        "image: {}  {size} bytes  {reference}@{digest}",
        archive.display()
    ));
    Ok(())
}

/// The image around the agent.
fn image(reference: &str, agent: Vec<u8>) -> Result<Image> {
    let mut files = BTreeMap::from([(
        "usr/bin/gwfilter".to_owned(),
        Entry::File {
            mode: 0o755,
            bytes: agent,
        },
    )]);
    for licence in LICENCES {
        let path = paths::root().join(licence);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        files.insert(
            format!("usr/share/doc/gwfilter/{licence}"),
            Entry::File { mode: 0o644, bytes },
        );
    }
    files.insert(
        format!("usr/share/doc/gwfilter/{}", dist::NOTICES),
        Entry::text(dist::notices()?),
    );
    let labels = [
        ("org.opencontainers.image.title", "gwfilter"),
        ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
        ("org.opencontainers.image.licenses", "Apache-2.0"),
    ];
    Ok(Image {
        reference: reference.to_owned(),
        architecture: oci::architecture(std::env::consts::ARCH).to_owned(),
        entrypoint: "/usr/bin/gwfilter".to_owned(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        files,
    })
}

/// Builds the agent with the eBPF object inside and without shared libraries; returns its path.
///
/// Against glibc, whose archive every C toolchain has; the musl target would have to be fetched. glibc's resolver does not work
/// statically, which costs nothing: in a pod the API server is an address.
pub(crate) fn static_binary(as_tested: bool) -> Result<PathBuf> {
    setup::ensure(&[Part::Ebpf], Voice::Changes)?;
    build_ebpf::build_if_stale()?;
    build_ebpf::require_fresh()?;
    if as_tested {
        let binary = test::static_agent()?;
        require_static(&binary)?;
        return Ok(binary);
    }
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = paths::target();
    // Paths of this machine do not belong into the binary, and would make it differ from machine to machine.
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    for (path, name) in [
        (Some(paths::root()), "/gwfilter"),
        (cargo_home(), "/cargo"),
        (Some(folder.clone()), "/target"),
    ] {
        if let Some(path) = path {
            flags.push(format!("--remap-path-prefix={}={name}", path.display()));
        }
    }
    run(cargo()
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(COMMIT, commit())
        // Debug lines would be most of the image.
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            &target,
            "--package",
            "gwfilter",
            "--bin",
            "gwfilter",
        ]))?;
    let binary = folder.join(&target).join("release/gwfilter");
    require_static(&binary)?;
    Ok(binary)
}

fn cargo_home() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// Refuses a program that asks for a dynamic loader: the image has none, and it would end with "no such file".
fn require_static(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let dynamic = asks_for_a_loader(&bytes).with_context(|| format!("reading {}", binary.display()))?;
    ensure!(
        !dynamic,
        "{} is not static: is libc.a there (Debian: libc6-dev)?",
        binary.display()
    );
    Ok(())
}

/// Whether a 64-bit little-endian ELF file has a program header `PT_INTERP` (elf(5)).
fn asks_for_a_loader(elf: &[u8]) -> Result<bool> {
    const PT_INTERP: u64 = 3;
    let number = |offset: usize, size: usize| {
        let bytes = elf.get(offset..offset.saturating_add(size))?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    };
    let headers = || {
        let start = usize::try_from(number(32, 8)?).ok()?;
        let size = usize::try_from(number(54, 2)?).ok()?;
        let count = usize::try_from(number(56, 2)?).ok()?;
        (0..count)
            .map(|index| number(start.checked_add(index.checked_mul(size)?)?, 4))
            .collect::<Option<Vec<_>>>()
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    Ok(headers().context("cut off ELF headers")?.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_dynamic_then_it_asks_for_a_loader() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(asks_for_a_loader(&own).unwrap());
        assert!(asks_for_a_loader(&own[..80]).is_err(), "cut off");
        assert!(asks_for_a_loader(b"#!/bin/sh").is_err());
    }

    #[test]
    fn image_then_the_agent_is_its_entrypoint_and_may_be_run() {
        let image = image("localhost/gwfilter:1", b"agent".to_vec()).unwrap();
        let path = image.entrypoint.strip_prefix('/').unwrap();
        let agent = Entry::File {
            mode: 0o755,
            bytes: b"agent".to_vec(),
        };
        assert_eq!(image.files[path], agent);
        for name in LICENCES.into_iter().chain([dist::NOTICES]) {
            let path = format!("usr/share/doc/gwfilter/{name}");
            assert!(image.files.contains_key(&path), "{path} travels with the binary");
        }
        assert_eq!(image.files.len(), LICENCES.len() + 2, "and nothing else does");
    }
}
