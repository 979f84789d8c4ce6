//! The group `fuzz`: each fuzz target for a short while.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::paths;

use super::Tally;
use crate::run::{read, run, say};

/// Runs every fuzz target for `seconds`; the build is one, shared.
pub(crate) fn group(seconds: u32) -> Result<Tally> {
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
