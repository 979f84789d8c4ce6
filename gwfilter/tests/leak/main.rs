//! The leak meter: does a denied packet get in, or an allowed one get lost, while things happen to the agent? `cargo xtask test leak`
//! runs it; docs/leak.md says how to read it.
//!
//! No harness: it prints a row of a table for each event, and closes as `cargo test` does. With arguments, parts
//! of names of events, these at every hook. Needs root, and fails without.

mod bench;
mod events;
mod streams;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use xtask::rights;

use bench::Bench;
use events::{EVENTS, Event};
use table::{HEAD, Row, Verdict};

/// Set: each event goes on for longer, and the whole is done three times.
const FULL: &str = "GWFILTER_LEAK_FULL";

/// Runs of the long form.
const RUNS: usize = 3;

fn main() -> ExitCode {
    match all() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every event went as it should.
fn all() -> Result<bool> {
    rights::require_root()?;
    let full = std::env::var_os(FULL).is_some();
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let chosen = |event: &&Event| {
        let possible = event.needs.is_none_or(|name| std::env::var_os(name).is_some());
        possible && (wanted.is_empty() || wanted.iter().any(|part| event.name.contains(part)))
    };
    let (mut passed, mut failed) = (0, 0);
    for run in 1..=if full { RUNS } else { 1 } {
        say(format_args!("\nleak meter, run {run}\n\n{HEAD}"))?;
        let mut why = Vec::new();
        for event in EVENTS.iter().filter(chosen) {
            let more = if full || !wanted.is_empty() {
                event.more
            } else {
                &[]
            };
            for hook in event.hooks.iter().chain(more) {
                let row = match Bench::measure(event, *hook, full) {
                    Ok(row) => row,
                    Err(error) => Row::failed(event, *hook, &error),
                };
                say(&row)?;
                match row.verdict {
                    Verdict::Pass => passed += 1,
                    Verdict::Fail(reason) => {
                        failed += 1;
                        why.push(format!("{} ({}): {reason}", event.name, hook.name()));
                    }
                }
            }
        }
        for line in why {
            say(format_args!("\n{line}"))?;
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    say(format_args!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored"
    ))?;
    Ok(failed == 0 && passed > 0)
}

/// A line, at once.
fn say(line: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
