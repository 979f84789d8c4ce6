//! The table that the meter prints.

use std::fmt;

use xtask::meter::{Account, Fate, Outcome};

use crate::bench::Hook;
use crate::events::{Event, Expect};

/// Its head.
pub(crate) const HEAD: &str = "\
| event | hook | times | denied sent | arrived | open ms | allowed sent | lost | out ms | longest silence ms | sender's pause ms | |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|";

/// What came of an event.
pub(crate) enum Verdict {
    Pass,
    Fail(String),
}

/// One line.
pub(crate) struct Row {
    cells: Vec<String>,
    pub(crate) verdict: Verdict,
}

/// What streams of one fate sum up to.
#[derive(Default)]
struct Sum {
    sent: u64,
    wrong: u64,
    longest_wrong: u64,
    longest_silence: u64,
}

impl Sum {
    fn of(accounts: &[Account], fate: Fate) -> Self {
        let mut sum = Self::default();
        for account in accounts.iter().filter(|account| account.fate == fate) {
            sum.sent += account.sent - account.excused;
            sum.wrong += account.wrong;
            sum.longest_wrong = sum.longest_wrong.max(account.longest_wrong);
            sum.longest_silence = sum
                .longest_silence
                .max(account.longest_silence.unwrap_or_default());
        }
        sum
    }
}

impl Row {
    pub(crate) fn new(event: &Event, hook: Hook, times: usize, counted: &Outcome) -> Self {
        let denied = Sum::of(&counted.accounts, Fate::Never);
        let allowed = Sum::of(&counted.accounts, Fate::Always);
        let verdict = if counted.doubts.is_empty() {
            judge(event.expect, denied.wrong, allowed.wrong)
        } else {
            Verdict::Fail(format!("not known: {}", counted.doubts.join("; ")))
        };
        let cells = vec![
            event.name.to_owned(),
            hook.name().to_owned(),
            times.to_string(),
            denied.sent.to_string(),
            denied.wrong.to_string(),
            ms(denied.longest_wrong),
            allowed.sent.to_string(),
            allowed.wrong.to_string(),
            ms(allowed.longest_wrong),
            ms(allowed.longest_silence),
            ms(counted.longest_pause),
        ];
        Self { cells, verdict }
    }

    /// The event could not be made to happen, or the meter could not be read.
    pub(crate) fn failed(event: &Event, hook: Hook, error: &anyhow::Error) -> Self {
        let mut cells = vec![event.name.to_owned(), hook.name().to_owned()];
        cells.resize(11, "?".to_owned());
        Self {
            cells,
            verdict: Verdict::Fail(format!("{error:#}")),
        }
    }
}

/// Whether the numbers are as they should be.
fn judge(expect: Expect, arrived: u64, lost: u64) -> Verdict {
    let wrong = match expect {
        Expect::Nothing if arrived != 0 || lost != 0 => "packets on the wrong side",
        Expect::Leak if arrived == 0 => "the meter saw no leak where there was one",
        Expect::Loss if lost == 0 => "the meter saw no loss where there was one",
        _ => return Verdict::Pass,
    };
    Verdict::Fail(format!(
        "{wrong}: {arrived} of the denied arrived, {lost} of the allowed were lost"
    ))
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Pass => "ok",
            Verdict::Fail(_) => "FAILED",
        };
        write!(f, "| {} | {word} |", self.cells.join(" | "))
    }
}

/// Nanoseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ms(nanoseconds: u64) -> String {
    format!("{:.1}", nanoseconds as f64 / 1e6)
}
