//! What gwfilter costs, and what else costs for the same. `cargo xtask bench` runs it; docs/bench/README.md says how to read it.
//!
//! No harness: it prints a JSON object a line, figures and lines of plots, and on standard error how far it is. All that is compared is
//! measured in turn in one run. Needs root. Traffic is in namespaces of its own only.

mod driver;
mod figure;
mod frames;
mod guard;
mod headers;
mod hooks;
mod judged;
mod load;
mod memory;
mod missed;
#[path = "../kernel_testrun/object.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod object;
mod peers;
mod refused;
mod sampling;
mod shapes;
mod sources;
mod turns;
mod verdict;
mod wire;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use xtask::rights;

/// Which to run, separated by commas: figures or parts; all without it.
const ONLY: &str = "GWFILTER_BENCH_ONLY";
/// Set: short lists and fewer rounds.
const QUICK: &str = "GWFILTER_BENCH_QUICK";

/// Lengths of lists, separated by commas.
const ENTRIES: &str = "GWFILTER_BENCH_ENTRIES";
/// Set: nothing is told but whether a few ratios are within bounds.
const GUARD: &str = "GWFILTER_BENCH_GUARD";

/// How much is measured.
#[derive(Clone, Debug)]
struct Size {
    only: Vec<String>,
    /// Lengths of lists, ascending.
    entries: Vec<usize>,
    /// Times that everything is measured in turn.
    rounds: usize,
    quick: bool,
}

impl Size {
    /// Times for a program alone, at TC or XDP. A run of an XDP program costs some 40 ms, as the kernel has its dispatcher call it
    /// and waits until all CPUs know.
    const fn hook_rounds(&self, tc: bool) -> usize {
        match (tc, self.quick) {
            (true, false) => 2001,
            (true, true) => 301,
            (false, false) => 101,
            (false, true) => 41,
        }
    }

    fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| id.starts_with(only.as_str()))
    }

    /// The longest list that is not longer.
    fn at_most(&self, entries: usize) -> usize {
        let fits = self.entries.iter().filter(|length| **length <= entries);
        fits.max().copied().unwrap_or(entries)
    }
}

/// `10k`.
fn at(entries: usize) -> String {
    match entries {
        1_000_000.. => format!("{}m", entries / 1_000_000),
        1_000.. => format!("{}k", entries / 1_000),
        _ => entries.to_string(),
    }
}

/// A part of the bench: what the names of its figures begin with, and how it is measured.
type Part = (&'static [&'static str], fn(&Size) -> Result<()>);

const PARTS: [Part; 7] = [
    (&["proxy-", "tc-", "xdp-"], hooks::measure),
    (
        &["lpm-", "hot-", "memory-", "verdict-", "structure-"],
        verdict::measure,
    ),
    (&["header-"], headers::measure),
    (&["load-", "swap-", "delta-"], load::measure),
    (&["frame-"], frames::measure),
    (&["refused-"], refused::measure),
    (&["sampling-"], sampling::measure),
];

fn main() -> Result<ExitCode> {
    rights::require_root()?;
    if std::env::var_os(GUARD).is_some() {
        return guard::run();
    }
    let quick = std::env::var_os(QUICK).is_some();
    let only = std::env::var(ONLY).unwrap_or_default();
    let only: Vec<String> = only
        .split(',')
        .filter(|id| !id.is_empty())
        .map(ToOwned::to_owned)
        .collect();
    let told = std::env::var(ENTRIES).unwrap_or_default();
    let told = told.split(',').filter(|length| !length.is_empty());
    let told = told.map(|length| length.parse().context("a length of a list"));
    let told = told.collect::<Result<Vec<usize>>>()?;
    let size = Size {
        only,
        entries: if !told.is_empty() {
            told
        } else if quick {
            vec![1_000, 10_000]
        } else {
            vec![1_000, 10_000, 100_000, 1_000_000]
        },
        rounds: if quick { 3 } else { 7 },
        quick,
    };
    let mut ran = false;
    for (names, measure) in PARTS {
        let wanted = |name: &&str| {
            let only = &size.only;
            only.is_empty()
                || only
                    .iter()
                    .any(|id| id.starts_with(*name) || name.starts_with(id.as_str()))
        };
        if names.iter().any(wanted) {
            let part = names.join(", ");
            let began = Instant::now();
            // The others go on.
            if let Err(error) = measure(&size) {
                figure::failed(&part, format_args!("{error:#}"))?;
            }
            figure::took(&part, began.elapsed())?;
            ran = true;
        }
    }
    if !ran {
        bail!("nothing to measure is called {}", size.only.join(", "));
    }
    Ok(if figure::has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
