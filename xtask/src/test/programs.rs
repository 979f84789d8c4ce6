//! The test programs of the workspace: which there are, how they are built, and how they are run.
//!
//! Every group builds and runs with the same [`SELECTION`]. Cargo unites features over the packages it is told to build, so with a
//! selection for each group it would build the crates, and much of what they stand on, anew for each.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::tally::{Tally, closing_line};
use crate::progress;
use crate::run::{cargo, output, read, run, say, shown};

/// The features of every build of tests; its packages are the workspace's default members, as for a `cargo test` that is typed.
const SELECTION: [&str; 2] = ["--locked", "--all-features"];

/// The target that is no test, but the agent of the tests' image.
const STATIC_AGENT: &str = "static_agent";

/// Has cargo say where what it builds is.
const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// Test programs whose tests mostly wait, each in namespaces of its own, and how many of them run at once. The others run as many as
/// there are processors.
const WAITING: [(&str, u8); 6] = [
    ("netns", 8),
    ("proxy", 6),
    ("doctor", 6),
    ("kube", 4),
    ("book", 2),
    ("prometheus", 4),
];

/// Test programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    /// The unit tests of libraries and programs.
    units: bool,
    /// Files and folders below `tests`, by name.
    names: BTreeSet<String>,
}

impl Targets {
    /// Those that need one of `features`; that there is none for a feature is an error.
    pub(crate) fn that_need(features: &[&str]) -> Result<Self> {
        let metadata = metadata()?;
        let mut all = Self::default();
        for feature in features {
            let names = targets(&metadata, |needs| needs.iter().any(|need| need == feature));
            if names.is_empty() {
                bail!("there is no test target that needs {feature}");
            }
            all.names.extend(names);
        }
        Ok(all)
    }

    /// Those that need no feature, and so no rights.
    pub(crate) fn plain() -> Result<Self> {
        Ok(Self {
            units: true,
            names: targets(&metadata()?, <[Value]>::is_empty),
        })
    }

    /// Those below `tests` of these names.
    pub(crate) fn named(names: &[&str]) -> Self {
        Self {
            units: false,
            names: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// These and others.
    pub(crate) fn with(mut self, others: Self) -> Self {
        self.units |= others.units;
        self.names.extend(others.names);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn command(&self) -> Command {
        let mut command = cargo_test();
        if self.units {
            command.args(["--lib", "--bins"]);
        }
        for name in &self.names {
            command.args(["--test", name]);
        }
        command
    }

    /// Builds them, all at once, which takes less long than one group after the other.
    pub(crate) fn build(&self) -> Result<()> {
        run(self.command().arg("--no-run"))
    }

    /// Builds what is not built yet, and runs them: those whose tests wait beside the others, and what they say after it.
    pub(crate) fn run(&self, environment: &[(&str, String)]) -> Result<Tally> {
        let mut others = self.clone();
        let waiting: Vec<_> = WAITING
            .into_iter()
            .filter(|(name, _)| others.names.remove(*name))
            .collect();
        let lane = |say: &mut dyn FnMut(&str)| {
            waiting
                .iter()
                .try_fold(Tally::default(), |mut tally, (name, threads)| {
                    tally.add(counted(
                        &mut Self::named(&[name]).testing(Some(*threads), environment),
                        say,
                    )?);
                    Ok(tally)
                })
        };
        if others.is_empty() {
            return lane(&mut |line| say(line));
        }
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let mut said = String::new();
                let tally = lane(&mut |line| said.extend([line, "\n"]));
                (said, tally)
            });
            let tally = counted(&mut others.testing(None, environment), &mut |line| say(line));
            let Ok((said, waited)) = beside.join() else {
                bail!("a thread panicked");
            };
            say(said.trim_end());
            let (mut tally, waited) = (tally?, waited?);
            tally.add(waited);
            Ok(tally)
        })
    }

    /// Tests `threads` of a program at a time, unless `RUST_TEST_THREADS` says otherwise.
    fn testing(&self, threads: Option<u8>, environment: &[(&str, String)]) -> Command {
        const THREADS: &str = "RUST_TEST_THREADS";
        let mut command = self.command();
        command.arg("--no-fail-fast");
        for (key, value) in environment {
            command.env(key, value);
        }
        if let Some(threads) = threads.filter(|_| std::env::var_os(THREADS).is_none()) {
            command.env(THREADS, threads.to_string());
        }
        command
    }
}

/// Runs the examples in the documentation.
pub(crate) fn examples() -> Result<Tally> {
    counted(cargo_test().args(["--no-fail-fast", "--doc"]), &mut |line| {
        say(line)
    })
}

fn cargo_test() -> Command {
    let mut command = cargo();
    command.arg("test").args(SELECTION);
    command
}

fn metadata() -> Result<Value> {
    let mut cargo = cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]);
    serde_json::from_str(&read(&mut cargo)?).context("reading `cargo metadata`")
}

/// Names of the test targets whose list of required features is `wanted`, from `cargo metadata`.
fn targets(metadata: &Value, wanted: impl Fn(&[Value]) -> bool) -> BTreeSet<String> {
    let list = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    list(metadata, "packages")
        .iter()
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "test"))
        .filter(|target| wanted(&list(target, "required-features")))
        .filter_map(|target| target.get("name").and_then(Value::as_str).map(ToOwned::to_owned))
        .collect()
}

/// Runs `cargo test`, has `say` show what it says, and adds up its closing lines. A run that fails without a failed test (it did
/// not compile, or a test process was killed) counts as one failure.
fn counted(command: &mut Command, say: &mut dyn FnMut(&str)) -> Result<Tally> {
    say(&format!("$ {}", shown(command)));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        // Only once tests run: while it builds, cargo shows how far it is.
        let mut step = None;
        let (mut passed, mut failed) = (0_u64, 0_u64);
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading what cargo test says")?;
            passed += u64::from(line.ends_with("... ok"));
            failed += u64::from(line.ends_with("... FAILED"));
            step.get_or_insert_with(|| progress::step("tests run"))
                .at(format_args!("tests run: {passed} passed, {failed} failed"));
            if let Some(part) = closing_line(&line) {
                tally.add(part);
            }
            // A passed test is a number at the end; the rest is worth a line.
            if !line.ends_with("... ok") && !line.is_empty() {
                say(&line);
            }
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() && tally.failed == 0 {
        say(&format!(
            "cargo test ended with {status} without a failed test: not built, or killed"
        ));
        tally.failed = 1;
    }
    Ok(tally)
}

/// Builds test programs and the agent that they run, without running them; where they are, in the order of `names`, and the agent.
pub(crate) fn built(names: &[&str]) -> Result<(Vec<PathBuf>, PathBuf)> {
    let mut command = Targets::named(names).command();
    command.args(["--no-run", MESSAGES]);
    let programs = Programs::of(&mut command)?;
    let tests = names
        .iter()
        .map(|name| programs.at("test", name))
        .collect::<Result<_>>()?;
    Ok((tests, programs.at("bin", "gwfilter")?))
}

/// Links the agent without shared libraries, from what the tests are built of, and returns where it is. See `gwfilter/tests/static_agent.rs`.
pub(crate) fn static_agent() -> Result<PathBuf> {
    let mut command = cargo();
    command
        .arg("rustc")
        .args(SELECTION)
        .args(["--package", "gwfilter", "--test", STATIC_AGENT])
        .args([MESSAGES, "--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"]);
    Programs::of(&mut command)?.at("test", STATIC_AGENT)
}

/// What cargo says that it has built.
struct Programs(Vec<Value>);

impl Programs {
    fn of(command: &mut Command) -> Result<Self> {
        say(format_args!("$ {}", shown(command)));
        let output = output(command)?;
        if !output.status.success() {
            bail!(
                "building the tests ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let messages = said.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(Self(messages.collect()))
    }

    fn at(&self, kind: &str, name: &str) -> Result<PathBuf> {
        self.0
            .iter()
            .filter(|message| message.pointer("/target/name").and_then(Value::as_str) == Some(name))
            .filter(|message| message.pointer("/target/kind/0").and_then(Value::as_str) == Some(kind))
            .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
            .with_context(|| format!("cargo built no {kind} {name}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn metadata_then_the_test_targets_that_need_the_feature_or_none() {
        let metadata = serde_json::json!({"packages": [
            {"name": "other", "targets": [{"name": "x", "kind": ["test"], "required-features": ["kernel-tests"]}]},
            {"name": "gwfilter", "targets": [
                {"name": "gwfilter", "kind": ["lib"]},
                {"name": "plain", "kind": ["test"]},
                {"name": "netns_allow", "kind": ["test"], "required-features": ["kernel-tests"]},
                {"name": "oracle", "kind": ["test"], "required-features": ["oracle-tests"]},
            ]},
        ]});
        let that_need = |feature: &str| targets(&metadata, |needs| needs.iter().any(|need| need == feature));
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(that_need("kernel-tests"), set(&["netns_allow", "x"]));
        assert_eq!(that_need("oracle-tests"), set(&["oracle"]));
        assert_eq!(that_need("absent"), set(&[]));
        assert_eq!(targets(&metadata, <[Value]>::is_empty), set(&["plain"]));
    }

    #[test]
    fn this_workspace_then_every_test_target_belongs_to_one_group() {
        let all = targets(&metadata().unwrap(), |_| true);
        // Those of guests alone are run by the group `vm`, by their names.
        let guests = Targets::that_need(&["guest-tests"]).unwrap();
        assert!(
            guests
                .names
                .iter()
                .all(|name| crate::vm::programs().contains(&name.as_str()))
        );
        let mut grouped = vec![Targets::plain().unwrap(), guests, Targets::named(&[STATIC_AGENT])];
        for group in super::super::Group::value_variants() {
            if !group.features().is_empty() {
                grouped.push(Targets::that_need(group.features()).unwrap());
            }
        }
        let names: Vec<String> = grouped.into_iter().flat_map(|targets| targets.names).collect();
        assert_eq!(
            names.iter().cloned().collect::<BTreeSet<_>>(),
            all,
            "a target that no group runs"
        );
        assert_eq!(names.len(), all.len(), "a target that two groups run");
        for (name, _) in WAITING {
            assert!(all.contains(name), "{name} is no test target");
        }
    }
}
