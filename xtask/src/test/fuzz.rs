//! The group `fuzz`: each fuzz target for a short while.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};
use xtask::paths;

use super::Tally;
use crate::run::{cargo, output, read, run, say, shown};

/// How many targets run at once. Each has one thread, and memory of its own.
const AT_ONCE: usize = 2;
/// The target of what reads YAML, libyaml in a translation into unsafe Rust: with the address sanitizer. To the others, which are safe Rust but
/// for that, it has nothing to say, and without it they try six times as many inputs.
const UNSAFE: &str = "yaml";

fn sanitizer(target: &str) -> [&'static str; 2] {
    let which = if target == UNSAFE { "address" } else { "none" };
    ["--sanitizer", which]
}

/// The folder of a target's seeds.
fn seeds(target: &str) -> &str {
    if target == UNSAFE { "manifest" } else { target }
}

/// Runs every fuzz target for `seconds`.
pub(crate) fn group(seconds: u32) -> Result<Tally> {
    if !paths::root().join("fuzz/Cargo.toml").exists() {
        bail!("there is no fuzz crate");
    }
    let targets = read(cargo_fuzz().arg("list"))?;
    let targets: Vec<&str> = targets
        .lines()
        .map(str::trim)
        .filter(|target| !target.is_empty())
        .collect();
    for target in &targets {
        run(cargo_fuzz().arg("build").args(sanitizer(target)).arg(target))?;
    }
    let queue = Mutex::new(targets.into_iter().collect::<VecDeque<_>>());
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let next = || queue.lock().ok()?.pop_front();
                while let Some(target) = next() {
                    let done = fuzz(target, seconds);
                    if let Err(error) = &done {
                        say(format_args!("fuzz target {target}: {error:#}"));
                    }
                    if let Ok(mut tally) = tally.lock() {
                        tally.passed += u64::from(done.is_ok());
                        tally.failed += u64::from(done.is_err());
                    }
                }
            });
        }
    });
    tally
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))
}

fn cargo_fuzz() -> Command {
    let mut command = cargo();
    // libFuzzer's instrumentation is unstable; the workspace's stable compiler has it all the same.
    command.env("RUSTC_BOOTSTRAP", "1").arg("fuzz");
    // cargo-fuzz asks for one unit, which leaves a processor idle for most of the build.
    command.env("RUSTFLAGS", "-Ccodegen-units=16");
    command
}

/// Runs a target, and shows what it said when it has ended: another one speaks beside it.
fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let root = paths::root();
    // What a run finds goes to the first folder; the seeds are only read.
    let corpus = root.join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("creating {}", corpus.display()))?;
    let mut command = command(
        target,
        &corpus,
        &root.join("fuzz/seeds").join(seeds(target)),
        seconds,
    );
    let ended = output(&mut command)?;
    say(format_args!(
        "$ {}\n{}{}",
        shown(&command),
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    ));
    if !ended.status.success() {
        bail!("it ended with {}", ended.status);
    }
    Ok(())
}

fn command(target: &str, corpus: &Path, seeds: &Path, seconds: u32) -> Command {
    let mut command = cargo_fuzz();
    command.arg("run").args(sanitizer(target)).arg(target).arg(corpus);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.args([
        "--",
        &format!("-max_total_time={seconds}"),
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    command
}
