//! `check`: what can be said about the code without running it.
//!
//! Every step runs, also after one that failed: a person wants all findings at once.

use anyhow::{Context as _, Result, bail};
use xtask::paths;

use crate::build_ebpf;
use crate::run::{cargo, output, run, say, shown};
use crate::setup::{self, Part, Voice};
use crate::test::Tally;
use crate::tidy;
use crate::toolchain::Compiler;

/// The verb.
pub(crate) fn main() -> Result<()> {
    let tally = group()?;
    say(tally);
    tally.verdict("check")
}

/// A step: its name and what it does.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 9] = [
    ("format", format),
    ("lock files", lock_files),
    ("clippy, host", clippy_host),
    ("clippy, as users have it", clippy_shipped),
    ("clippy, eBPF", clippy_ebpf),
    ("docs", docs),
    ("reference", crate::docs::check),
    ("deny", deny),
    ("tidy", tidy::check),
];

/// Runs all steps and counts them.
pub(crate) fn group() -> Result<Tally> {
    setup::ensure(&[Part::Ebpf, Part::Lints], Voice::Changes)?;
    let mut tally = Tally::default();
    for (name, step) in STEPS {
        say(format_args!("-- {name}"));
        match step() {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                say(format_args!("{name}: {error:#}"));
                tally.failed += 1;
            }
        }
    }
    Ok(tally)
}

fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    if paths::root().join("fuzz/Cargo.toml").exists() {
        run(cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    }
    Ok(())
}

/// The lock file of the fuzz crate follows that of the workspace: else a run of the targets resolves anew and leaves a changed tree.
fn lock_files() -> Result<()> {
    run(cargo()
        .args(["tree", "--quiet", "--locked", "--depth", "0"])
        .args(["--manifest-path", "fuzz/Cargo.toml"]))
}

fn clippy_host() -> Result<()> {
    run(cargo()
        .args([
            "clippy",
            "--quiet",
            "--locked",
            "--workspace",
            "--exclude",
            "gwfilter-ebpf",
        ])
        .args(["--all-targets", "--all-features", "--", "--deny", "warnings"]))
}

/// The agent with the features that it has where users run it: tests stand on more of what it stands on (tokio's clock that stops), and what
/// leans on that by mistake would be built here, and not there.
fn clippy_shipped() -> Result<()> {
    run(cargo()
        .args(["clippy", "--quiet", "--locked"])
        .args(["--package", "gwfilter", "--bin", "gwfilter"])
        .args(["--", "--deny", "warnings"]))
}

/// The eBPF crate by its own compiler and for its own target; on the host it would be another program.
fn clippy_ebpf() -> Result<()> {
    let compiler = Compiler::find()?;
    let mut command = match compiler.clippy() {
        Some(clippy) => clippy,
        None => {
            say(format_args!(
                "no clippy for {}: the compiler's own warnings only",
                compiler.describe()
            ));
            let mut cargo = compiler.cargo();
            cargo.arg("check").env("RUSTFLAGS", "--deny warnings");
            cargo
        }
    };
    command
        .current_dir(paths::root())
        .args([
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "gwfilter-ebpf",
            "-Z",
            "build-std=core",
        ])
        .args(["--target", build_ebpf::TARGET, "--target-dir"])
        .arg(paths::target().join("ebpf"));
    if command.get_args().any(|arg| arg == "clippy") {
        command.args(["--", "--deny", "warnings"]);
    }
    run(&mut command)
}

fn docs() -> Result<()> {
    run(cargo()
        .args([
            "doc",
            "--quiet",
            "--locked",
            "--no-deps",
            // The readers are developers: links to private items are good links.
            "--document-private-items",
            "--workspace",
            "--exclude",
            "gwfilter-ebpf",
        ])
        .env(
            "RUSTDOCFLAGS",
            "--deny warnings --allow rustdoc::private-intra-doc-links",
        ))
}

fn deny() -> Result<()> {
    run(cargo().args([
        "deny",
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))?;
    advisories()
}

/// Advisories need a database that is cloned from a forge. Without a way there nothing can be said, and that is said;
/// only a finding is a failure.
fn advisories() -> Result<()> {
    let mut command = cargo();
    command
        .args(["deny", "--log-level", "error", "check", "advisories"])
        .env("GIT_TERMINAL_PROMPT", "0");
    say(format_args!("$ {}", shown(&command)));
    let output = output(&mut command).context("starting cargo-deny")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        say("advisories ok");
    } else if said.contains("failed to fetch advisory database") {
        say("advisories NOT CHECKED: their database cannot be fetched from here");
    } else {
        bail!("advisories: {said}");
    }
    Ok(())
}
