//! A few ratios with generous bounds: what has become several times slower is found without a quiet machine.
//!
//! Bounds are far from the figures (docs/bench) on purpose, and a ratio that is out of bounds is measured again before it counts.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;

use crate::figure::Ratio;
use crate::{frames, hooks, sampling, verdict};

/// Times a ratio may be out of bounds before it counts.
const TRIES: usize = 3;

/// What it is of, and how it is measured.
type Guard = (&'static str, fn() -> Result<Vec<Ratio>>);

/// What is guarded.
const GUARDS: [Guard; 4] = [
    ("what is not a gateway's", hooks::guard),
    ("a verdict", verdict::guard),
    ("a frame over a cable", frames::guard),
    ("what watching costs", sampling::guard),
];

/// Measures and closes as `cargo test` does.
pub(crate) fn run() -> Result<ExitCode> {
    let (mut passed, mut failed) = (0, 0);
    let mut out = std::io::stdout().lock();
    for (name, measure) in GUARDS {
        let mut last = Vec::new();
        for _ in 0..TRIES {
            last = match measure() {
                Ok(ratios) => ratios
                    .into_iter()
                    .map(|ratio| Ok((ratio.rounds.summary()?.median, ratio)))
                    .collect::<Result<Vec<_>>>()?,
                Err(error) => {
                    writeln!(out, "guard of {name}: {error:#}")?;
                    failed += 1;
                    break;
                }
            };
            if last.iter().all(|(value, ratio)| *value <= ratio.goal) {
                break;
            }
        }
        for (value, ratio) in last {
            let good = value <= ratio.goal;
            let word = if good { "ok" } else { "FAILED" };
            writeln!(
                out,
                "guard {} ... {value:.2}, bound {:.2}: {word}; {}",
                ratio.id, ratio.goal, ratio.of
            )?;
            if good {
                passed += 1;
            } else {
                failed += 1;
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    writeln!(
        out,
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored"
    )?;
    Ok(if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
