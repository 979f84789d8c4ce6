//! The group `vm`: the kernel tests and the agent on old and new kernels, each booted once in QEMU.
//!
//! A guest's root file system is the very test programs that run here, with the libraries they ask for, and xtask itself as the first
//! process; so nothing is built twice, and what differs between two columns is the kernel.

pub(crate) mod guest;

mod boot;
mod cpio;
mod kernels;
mod report;
mod table;
mod tree;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use xtask::paths;

use crate::run::say;
use crate::test::{Tally, built};
use kernels::Kernel;

/// How long one guest may take. An emulated processor is some twenty times slower than a real one, and a machine of a CI may have others on it.
const WITHIN: Duration = Duration::from_secs(1500);
/// The same with all that `--whole` runs.
const WHOLE_WITHIN: Duration = Duration::from_secs(3600);
/// How many guests run at once.
const AT_ONCE: usize = 2;

/// Programs of this machine that the tests run.
const TOOLS: [&str; 13] = [
    "ip", "tc", "ethtool", "nft", "sh", "find", "umount", "setpriv", "timeout", "rm", "cat", "ls", "nsenter",
];
/// Kernel modules that the tests' networks stand on.
const MODULES: [&str; 12] = [
    "veth",
    "sch_ingress",
    "cls_bpf",
    "bridge",
    "macvlan",
    "vxlan",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_ct",
    "nft_masq",
    "nft_redir",
];

/// The test programs that run in the guests, with their arguments.
const TESTS: [Test; 4] = [
    Test {
        name: "kernel_matrix",
        // The budget is of the kernel that developers have; the table has the others' figures.
        arguments: &["--nocapture", "--skip", "within_the_budget"],
        usual: &[],
        whole: &[],
        skips: &[],
        only: None,
    },
    Test {
        name: "kernel_testrun",
        // Frames by a seed take minutes there, and say of a kernel what the tables say.
        arguments: &[
            "--skip",
            "random_bad_packets",
            "--skip",
            "generated_headers",
            "--skip",
            "changed_frames",
        ],
        // The tables of cases once in each way that verdicts are found, and what another kernel does otherwise: how it hands a program the
        // packet, its clocks, its rings, tail calls, checksums of what is sent back. Each test loads all programs anew.
        usual: &[
            "each_case_then_the_action",
            "header_beyond_the_linear_part",
            "root_replaced_while_running",
            "control::a_lease_that_runs_out",
            "ends::refused_among_segments_merged",
            "ends::no_sum_over_the_whole_packet",
            "flat::each_case",
            "log::log_of_drops",
            "proxied::each_segment",
            "proxied::no_bpf_loop",
            "reset::refused_first_segment",
            "sampled::verdicts_then_samples",
        ],
        whole: &[],
        skips: &[
            // Rows with headers of version 1, whose readers these load. What is left is the test of the reader of version 2 alone, and resets.
            (
                "gwf_tc_header",
                &[
                    "proxied::each_segment",
                    "proxied::classes",
                    "proxied::observe",
                    "proxied::connections",
                    "behind_the_proxy_protocol",
                    "sampled::segments_with_headers",
                    "sampled::a_header_that_is_judged",
                ],
            ),
            // They attach by TCX themselves.
            ("tcx", &["ends::"]),
        ],
        only: None,
    },
    // With the agent, and packets.
    Test {
        name: "netns",
        arguments: &[],
        // The other ways onto a card are in the matrix, without an agent.
        usual: &["attach::a_driver_with_xdp", "attach::a_driver_without_xdp"],
        whole: &[
            "attach::a_driver_",
            "attach::generic_asked_for",
            "attach::somebody_elses_xdp_program",
        ],
        skips: &[],
        only: None,
    },
    // What it says is of the agent and not of the kernel: one is enough.
    Test {
        name: "clock",
        arguments: &[],
        usual: &[],
        whole: &[],
        skips: &[],
        only: Some(kernels::NEWEST),
    },
];

/// A test program of gwfilter.
struct Test {
    name: &'static str,
    arguments: &'static [&'static str],
    /// The tests that are run unless `--whole` is asked for; none means all.
    usual: &'static [&'static str],
    /// Those that are run if it is.
    whole: &'static [&'static str],
    /// What the kernel may lack, and the tests that are then left out.
    skips: &'static [(&'static str, &'static [&'static str])],
    /// The one series that it runs on.
    only: Option<&'static str>,
}

impl Test {
    fn arguments(&self, whole: bool, lacks: &dyn Fn(&str) -> bool) -> Vec<&'static str> {
        let tests = if whole { self.whole } else { self.usual };
        let skipped = self.skips.iter().filter(|(what, _)| lacks(what));
        let skips = skipped
            .flat_map(|(_, tests)| tests.iter())
            .flat_map(|test| ["--skip", *test]);
        ["--test-threads=1"]
            .into_iter()
            .chain(self.arguments.iter().copied())
            .chain(tests.iter().copied())
            .chain(skips)
            .collect()
    }
}

/// What the group is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Matrix {
    /// Only the kernels of these series, such as 6.1; none means all.
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// In each guest all tests that can run there, which takes several times as long; for a release, or a change of the programs.
    #[arg(long)]
    whole: bool,
    /// Write the table of kernels to docs/kernels.md.
    #[arg(long)]
    write_table: bool,
}

/// The names of the test programs that run in the guests.
pub(crate) fn programs() -> [&'static str; TESTS.len()] {
    TESTS.map(|test| test.name)
}

/// Runs the group.
pub(crate) fn group(options: &Matrix) -> Result<Tally> {
    let kernels = kernels::ensure(&options.kernel)?;
    let guest = Guest::build()?;
    // The newest first: with each kernel more is asked of it, and what is left at the end should be short.
    let queue = Mutex::new(kernels.iter().rev().collect::<VecDeque<_>>());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let next = || queue.lock().ok()?.pop_front();
                while let Some(kernel) = next() {
                    let began = Instant::now();
                    let said = guest.boot(kernel, options.whole);
                    let jobs = said.as_deref().map(report::jobs).unwrap_or_default();
                    let jobs: Vec<String> = jobs.iter().map(report::Job::closing).collect();
                    say(format_args!(
                        "Linux {}: {} s ({})",
                        kernel.release,
                        began.elapsed().as_secs(),
                        jobs.join(", ")
                    ));
                    if let Ok(mut results) = results.lock() {
                        results.push((kernel, said));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(kernel, _)| kernels.iter().position(|known| known.release == kernel.release));
    let (mut tally, mut parts) = (Tally::default(), Vec::new());
    for (kernel, said) in results {
        match said {
            Ok(said) => {
                let (part, sum) = judged(kernel, &said);
                tally.add(sum);
                parts.push(part);
            }
            Err(error) => {
                say(format_args!("Linux {}: {error:#}", kernel.release));
                tally.failed += 1;
            }
        }
    }
    say(table::text(&parts));
    if options.write_table {
        table::write(&parts)?;
    }
    for difference in table::differences(&parts)? {
        say(format_args!("docs/kernels.md: {difference}"));
        tally.failed += 1;
    }
    Ok(tally)
}

/// A kernel's rows of the table, and how many of its tests passed.
fn judged(kernel: &Kernel, said: &str) -> (table::Part, Tally) {
    let (mut sum, mut figures) = (Tally::default(), Vec::new());
    for job in report::jobs(said) {
        sum.add(job.tally(&kernel.release));
        figures.extend(job.figures());
    }
    (table::part(&kernel.label, &kernel.release, &figures), sum)
}

/// What every guest has, whatever its kernel.
struct Guest {
    tree: cpio::Tree,
    /// Where the test programs are, in the order of [`TESTS`].
    programs: Vec<PathBuf>,
}

/// A copy of this program: building the tests may have put another one where it was started from.
fn this_program() -> Result<PathBuf> {
    let folder = kernels::folder();
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let copy = folder.join("first-process");
    fs::copy("/proc/self/exe", &copy)
        .with_context(|| format!("copying this program to {}", copy.display()))?;
    Ok(copy)
}

impl Guest {
    fn build() -> Result<Self> {
        let mut tree = cpio::Tree::new();
        let (programs, agent) = built(&programs())?;
        let own = this_program()?;
        for program in programs.iter().chain([&agent, &own]) {
            tree::program(&mut tree, program)?;
        }
        let init = tree
            .get(own.to_string_lossy().trim_start_matches('/'))
            .cloned()
            .context("this program is not in the tree")?;
        tree.insert(guest::INIT.to_owned(), init);
        let object = paths::ebpf_object();
        let bytes = fs::read(&object).with_context(|| format!("reading {}", object.display()))?;
        tree::put(&mut tree, &object, 0o644, bytes);
        for tool in TOOLS {
            tree::tool(&mut tree, tool)?;
        }
        Ok(Self { tree, programs })
    }

    fn boot(&self, kernel: &Kernel, whole: bool) -> Result<String> {
        let folder = kernels::folder().join("runs").join(&kernel.release);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let mut tree = self.tree.clone();
        let modules = tree::modules(&mut tree, &kernel.modules()?, &MODULES)?;
        tree::put(&mut tree, guest::MODULES, 0o644, modules.join("\n"));
        tree::put(
            &mut tree,
            guest::JOBS,
            0o644,
            self.jobs(kernel, whole).to_string(),
        );
        let initramfs = folder.join("initramfs");
        write(&tree, &initramfs).with_context(|| format!("writing {}", initramfs.display()))?;
        let within = if whole { WHOLE_WITHIN } else { WITHIN };
        boot::boot(kernel, &initramfs, &folder, within)
    }

    fn jobs(&self, kernel: &Kernel, whole: bool) -> Value {
        let lacks = |what: &str| kernel.lacks.split(',').any(|word| word == what);
        let mut environment = json!({
            "CARGO_MANIFEST_DIR": paths::root().join("gwfilter"),
            "CARGO_TARGET_DIR": paths::target(),
            xtask::kernel::LACKS: kernel.lacks,
            xtask::poll::PATIENCE: "5",
            xtask::kernel::GUEST: "1",
        });
        if whole && let Some(environment) = environment.as_object_mut() {
            environment.insert(xtask::kernel::WHOLE.to_owned(), json!("1"));
        }
        let job = |(test, program): (&Test, &PathBuf)| {
            json!({
                "name": test.name,
                "program": program,
                "arguments": test.arguments(whole, &lacks),
                "environment": environment,
            })
        };
        let runs = |(test, _): &(&Test, &PathBuf)| test.only.is_none_or(|series| series == kernel.label);
        TESTS.iter().zip(&self.programs).filter(runs).map(job).collect()
    }
}

fn write(tree: &cpio::Tree, path: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    cpio::write(tree, &guest::FOLDERS, &mut out)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sources of a test program, by the names of their modules; that of `main.rs` is empty.
    fn modules(program: &str) -> Vec<(String, String)> {
        let folder = paths::root().join("gwfilter/tests");
        let alone = folder.join(format!("{program}.rs"));
        let files: Vec<PathBuf> = if alone.exists() {
            vec![alone]
        } else {
            let entries = fs::read_dir(folder.join(program)).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let sources = files
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "rs"));
        let module = |path: &PathBuf| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let name = if name == "main" || name == program {
                String::new()
            } else {
                name
            };
            (name, fs::read_to_string(path).unwrap())
        };
        sources.map(module).collect()
    }

    #[test]
    fn each_chosen_or_skipped_test_then_there_is_one_of_that_name() {
        for test in &TESTS {
            let modules = modules(test.name);
            let skips = test.skips.iter().flat_map(|(_, tests)| tests.iter());
            let arguments = test
                .arguments
                .iter()
                .filter(|argument| !argument.starts_with("--"));
            for chosen in test.usual.iter().chain(test.whole).chain(skips).chain(arguments) {
                let (module, name) = chosen.rsplit_once("::").unwrap_or(("", chosen));
                let found = modules.iter().any(|(known, text)| {
                    let named = |line: &str| {
                        let function = line.trim_start().strip_prefix("fn ");
                        function.is_some_and(|function| function.contains(name))
                    };
                    (module.is_empty() || module == known) && text.lines().any(named)
                });
                assert!(found, "{}: no test is named {chosen}", test.name);
            }
        }
    }
}
