//! `test [GROUP]…`: runs groups of tests and closes each with one line, `N passed, N failed`, and the whole run with another.
//!
//! A group that could not be built or started counts as one failure: nothing is skipped silently.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::Value;
use xtask::{paths, rights};

use crate::run::{read, run, say, shown};
use crate::setup::{self, Part, Voice};
use crate::{build_ebpf, check, image, vm};

/// Tests that belong together by what they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Formatting, lints, docs, licences, tidy.
    Check,
    /// All that needs no rights.
    Unit,
    /// Programs loaded into the running kernel, and real sockets in namespaces; root.
    Kernel,
    /// The differential tests against real Envoys; root.
    Oracle,
    /// The agent in a cluster: a real API server, network namespaces as nodes; root.
    Kube,
    /// PROXY headers end to end: haproxy and nginx write them, Envoy reads them; root.
    Proxy,
    /// The leak meter: no denied packet in, no allowed packet lost, whatever happens to the agent; root, and most of two CPUs.
    Leak,
    /// The kernel tests and the agent on old and new kernels, in QEMU; root, and Debian's mirrors for what is not there yet.
    Vm,
    /// Each fuzz target for a short while.
    Fuzz,
}

/// What `test` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The groups to run; none means all.
    groups: Vec<Group>,
    /// How many random policy sets the oracle tries.
    #[arg(long, value_name = "N")]
    cases: Option<u32>,
    /// How many random PROXY headers the oracle tries.
    #[arg(long, value_name = "N")]
    headers: Option<u32>,
    /// The leak meter's long form, three times: a quarter of an hour instead of a minute.
    #[arg(long)]
    full: bool,
    /// How long each fuzz target runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    fuzz_seconds: u32,
    #[command(flatten)]
    vm: vm::Matrix,
}

/// How many passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// An error if anything failed, or nothing ran.
    pub(crate) fn verdict(self, what: &str) -> Result<()> {
        match self {
            Self { passed: 0, failed: 0 } => bail!("{what}: no test ran"),
            Self { failed: 0, .. } => Ok(()),
            Self { failed, .. } => bail!("{what}: {failed} failed"),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let groups = if options.groups.is_empty() {
        Group::value_variants()
    } else {
        options.groups.as_slice()
    };
    let mut whole = Tally::default();
    let mut lines = Vec::new();
    for &group in groups {
        let began = Instant::now();
        let name = format!("{group:?}").to_lowercase();
        say(format_args!("\n==== {name}"));
        let tally = run_group(group, options).unwrap_or_else(|error| {
            say(format_args!("{name}: {error:#}"));
            Tally { passed: 0, failed: 1 }
        });
        lines.push(format!("  {name:<7} {tally} in {} s", began.elapsed().as_secs()));
        say(tally);
        whole.add(tally);
    }
    say(format_args!("\n==== all\n{}", lines.join("\n")));
    say(whole);
    whole.verdict("test")
}

fn run_group(group: Group, options: &Options) -> Result<Tally> {
    match group {
        Group::Check => check::group(),
        Group::Unit => cargo_test(cargo_test_command().args(["--workspace", "--exclude", "gwfilter-ebpf"])),
        Group::Kernel => {
            rights::require_root()?;
            setup::ensure(&[Part::Ebpf, Part::Lab], Voice::Changes)?;
            build_ebpf::build_if_stale()?;
            let mut tally = featured("xtask", "lab-tests", &[])?;
            tally.add(featured("gwfilter", "kernel-tests", &[])?);
            Ok(tally)
        }
        Group::Oracle => {
            rights::require_root()?;
            setup::ensure(&[Part::Ebpf, Part::Lab, Part::Envoy], Voice::Changes)?;
            build_ebpf::build_if_stale()?;
            let sizes = [
                ("GWFILTER_ORACLE_CASES", options.cases),
                ("GWFILTER_ORACLE_HEADERS", options.headers),
            ];
            let sizes: Vec<_> = sizes
                .into_iter()
                .filter_map(|(key, size)| Some((key, size?.to_string())))
                .collect();
            featured("gwfilter", "oracle-tests", &sizes)
        }
        Group::Kube => {
            rights::require_root()?;
            setup::ensure(&[Part::Ebpf, Part::Lab, Part::Kube], Voice::Changes)?;
            build_ebpf::build_if_stale()?;
            // The tests of `deploy/` run what is in it.
            image::main(&image::Options::default())?;
            let mut tally = featured("xtask", "kube-tests", &[])?;
            tally.add(featured("gwfilter", "kube-tests", &[])?);
            Ok(tally)
        }
        Group::Proxy => {
            rights::require_root()?;
            setup::ensure(&[Part::Ebpf, Part::Lab, Part::Envoy, Part::Proxy], Voice::Changes)?;
            build_ebpf::build_if_stale()?;
            featured("gwfilter", "proxy-tests", &[])
        }
        Group::Leak => {
            rights::require_root()?;
            let parts: &[Part] = if options.full {
                &[Part::Ebpf, Part::Lab, Part::Kube]
            } else {
                &[Part::Ebpf, Part::Lab]
            };
            setup::ensure(parts, Voice::Changes)?;
            build_ebpf::build_if_stale()?;
            let full = options.full.then(|| ("GWFILTER_LEAK_FULL", "1".to_owned()));
            featured("gwfilter", "leak-tests", full.as_slice())
        }
        Group::Vm => {
            rights::require_root()?;
            setup::ensure(&[Part::Ebpf, Part::Lab, Part::Vm], Voice::Changes)?;
            build_ebpf::build_if_stale()?;
            vm::group(&options.vm)
        }
        Group::Fuzz => {
            setup::ensure(&[Part::Fuzz], Voice::Changes)?;
            fuzz(options.fuzz_seconds)
        }
    }
}

fn cargo_test_command() -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(paths::root())
        .args(["test", "--locked", "--no-fail-fast"]);
    command
}

/// Runs the test targets of `package` that need `feature`.
fn featured(package: &str, feature: &str, environment: &[(&str, String)]) -> Result<Tally> {
    let targets = targets_that_need(&metadata()?, package, feature);
    if targets.is_empty() {
        bail!("{package} has no test target that needs {feature}");
    }
    let mut command = cargo_test_command();
    command.args(["--package", package, "--features", feature]);
    for target in &targets {
        command.args(["--test", target]);
    }
    for (key, value) in environment {
        command.env(key, value);
    }
    cargo_test(&mut command)
}

fn metadata() -> Result<Value> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"]);
    serde_json::from_str(&read(&mut cargo)?).context("reading `cargo metadata`")
}

/// Names of a package's test targets that require a feature, from `cargo metadata`.
fn targets_that_need(metadata: &Value, package: &str, feature: &str) -> Vec<String> {
    let list = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    list(metadata, "packages")
        .iter()
        .filter(|found| found.get("name").and_then(Value::as_str) == Some(package))
        .flat_map(|found| list(found, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "test"))
        .filter(|target| {
            list(target, "required-features")
                .iter()
                .any(|needed| needed == feature)
        })
        .filter_map(|target| target.get("name").and_then(Value::as_str).map(ToOwned::to_owned))
        .collect()
}

/// Runs `cargo test`, shows what it says, and adds up its closing lines. A run that fails without a failed test (it did
/// not compile, or a test process was killed) counts as one failure.
fn cargo_test(command: &mut Command) -> Result<Tally> {
    say(format_args!("$ {}", shown(command)));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading what cargo test says")?;
            if let Some(part) = closing_line(&line) {
                tally.add(part);
            }
            // A passed test is a number at the end; the rest is worth a line.
            if !line.ends_with("... ok") && !line.is_empty() {
                say(line);
            }
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() && tally.failed == 0 {
        say(format_args!(
            "cargo test ended with {status} without a failed test: not built, or killed"
        ));
        tally.failed = 1;
    }
    Ok(tally)
}

/// Reads `test result: ok. 12 passed; 0 failed; …`.
pub(crate) fn closing_line(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let mut parts = counts.split("; ");
    let mut count = |word: &str| parts.next()?.strip_suffix(word)?.trim().parse().ok();
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
    })
}

/// Runs every fuzz target for `seconds`; the build is one, shared.
fn fuzz(seconds: u32) -> Result<Tally> {
    let root = paths::root();
    if !root.join("fuzz/Cargo.toml").exists() {
        bail!("there is no fuzz crate");
    }
    let cargo_fuzz = || {
        let mut command = Command::new("cargo");
        // libFuzzer's instrumentation is unstable; the workspace's stable compiler has it all the same.
        command.current_dir(&root).env("RUSTC_BOOTSTRAP", "1").arg("fuzz");
        command
    };
    let targets = read(cargo_fuzz().arg("list"))?;
    run(cargo_fuzz().arg("build"))?;
    let mut tally = Tally::default();
    for target in targets.lines().map(str::trim).filter(|target| !target.is_empty()) {
        // What a run finds goes to the first folder; the seeds are only read.
        let corpus = root.join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&corpus).with_context(|| format!("creating {}", corpus.display()))?;
        let seeds = root.join("fuzz/seeds").join(target);
        let mut command = cargo_fuzz();
        command.args(["run", target]).arg(corpus);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        command.args([
            "--",
            &format!("-max_total_time={seconds}"),
            "-print_final_stats=1",
            "-verbosity=0",
        ]);
        match run(&mut command) {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                say(format_args!("fuzz target {target}: {error:#}"));
                tally.failed += 1;
            }
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_of_cargo_test_then_its_counts() {
        let tally = |passed, failed| Some(Tally { passed, failed });
        for (line, expected) in [
            (
                "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                tally(12, 0),
            ),
            (
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out",
                tally(3, 2),
            ),
            ("test x ... ok", None),
            ("test result: ok", None),
        ] {
            assert_eq!(closing_line(line), expected, "{line}");
        }
    }

    #[test]
    fn tally_then_the_plain_closing_line_and_the_verdict() {
        assert_eq!(Tally { passed: 3, failed: 0 }.to_string(), "3 passed, 0 failed");
        assert!(Tally { passed: 3, failed: 0 }.verdict("x").is_ok());
        assert!(Tally { passed: 3, failed: 1 }.verdict("x").is_err());
        assert!(
            Tally::default().verdict("x").is_err(),
            "no test ran is no success"
        );
    }

    #[test]
    fn metadata_then_the_test_targets_that_need_the_feature() {
        let metadata = serde_json::json!({"packages": [
            {"name": "other", "targets": [{"name": "x", "kind": ["test"], "required-features": ["kernel-tests"]}]},
            {"name": "gwfilter", "targets": [
                {"name": "gwfilter", "kind": ["lib"]},
                {"name": "plain", "kind": ["test"]},
                {"name": "netns_allow", "kind": ["test"], "required-features": ["kernel-tests"]},
                {"name": "oracle", "kind": ["test"], "required-features": ["oracle-tests"]},
            ]},
        ]});
        assert_eq!(
            targets_that_need(&metadata, "gwfilter", "kernel-tests"),
            ["netns_allow"]
        );
        assert_eq!(
            targets_that_need(&metadata, "gwfilter", "oracle-tests"),
            ["oracle"]
        );
        assert!(targets_that_need(&metadata, "absent", "oracle-tests").is_empty());
    }
}
