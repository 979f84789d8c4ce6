//! What comes out: ratios and series, a JSON object a line.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::missed;

/// Measurements of one thing, in the order of the rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rounds(pub(crate) Vec<f64>);

impl Rounds {
    /// The value in the middle, and the smallest and the largest but for a tenth at either end.
    pub(crate) fn summary(&self) -> Result<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).context("nothing was measured")?;
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        Ok(Summary {
            median: at(last / 2),
            range: [at(last / 10), at(last - last / 10)],
        })
    }

    /// What was measured round by round, by what something else came to in the same round.
    fn each(&self, other: &Self, what: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| what(*a, *b)).collect())
    }

    pub(crate) fn over(&self, other: &Self) -> Self {
        self.each(other, |a, b| a / b)
    }

    pub(crate) fn less(&self, other: &Self) -> Self {
        self.each(other, |a, b| a - b)
    }
}

/// The middle and the range of rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) range: [f64; 2],
}

/// One figure of the comparison.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    pub(crate) id: String,
    /// What, against what, in which unit.
    pub(crate) of: String,
    /// At most.
    pub(crate) goal: f64,
    pub(crate) rounds: Rounds,
}

/// One line of a plot.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Who.
    pub(crate) name: String,
    /// How many entries, and what was measured.
    pub(crate) points: Vec<(usize, Rounds)>,
}

/// Lines of a plot, while they are put together.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// What was measured for a line of the plot `id`; with what was before, if it is for the same number of entries. It is said at once.
    pub(crate) fn add(&mut self, id: &str, name: &str, entries: usize, rounds: Rounds) {
        if let Ok(Summary {
            median,
            range: [low, high],
        }) = rounds.summary()
        {
            progress(format_args!(
                "{id}, {entries}, {name}: {} ({} to {})",
                rounded(median),
                rounded(low),
                rounded(high)
            ));
        }
        let at = match self.0.iter().position(|line| line.name == name) {
            Some(at) => at,
            None => {
                self.0.push(Line {
                    name: name.to_owned(),
                    points: Vec::new(),
                });
                self.0.len() - 1
            }
        };
        if let Some(line) = self.0.get_mut(at) {
            match line.points.last_mut() {
                Some((last, known)) if *last == entries => known.0.extend(rounds.0),
                _ => line.points.push((entries, rounds)),
            }
        }
    }

    /// What was measured.
    pub(crate) fn of(&self, name: &str, entries: usize) -> Option<&Rounds> {
        let line = self.0.iter().find(|line| line.name == name)?;
        let (_, rounds) = line.points.iter().find(|(of, _)| *of == entries)?;
        Some(rounds)
    }

    pub(crate) fn tell(&self, plot: &Plot<'_>) -> Result<()> {
        self.0.iter().try_for_each(|line| line.tell(plot))
    }
}

/// A plot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot<'p> {
    pub(crate) id: &'p str,
    pub(crate) title: &'p str,
    pub(crate) unit: &'p str,
}

impl Ratio {
    pub(crate) fn tell(&self) -> Result<()> {
        let Summary { median, range } = self.rounds.summary()?;
        let met = median <= self.goal;
        let (value, goal, [low, high]) = (rounded(median), rounded(self.goal), range.map(rounded));
        progress(format_args!(
            "{}: {value} ({low} to {high}), goal {goal}: {}; {}",
            self.id,
            if met { "met" } else { "MISSED" },
            self.of
        ));
        let reason = if met { None } else { missed::reason(&self.id) };
        tell(&json!({
            "id": self.id, "value": value, "goal": goal, "met": met, "range": [low, high], "of": self.of, "reason": reason,
        }))
    }
}

impl Line {
    pub(crate) fn tell(&self, plot: &Plot<'_>) -> Result<()> {
        let mut points = Vec::new();
        for (entries, rounds) in &self.points {
            let Summary { median, range } = rounds.summary()?;
            points.push(json!({"entries": entries, "value": rounded(median), "range": range.map(rounded)}));
        }
        tell(&json!({
            "plot": plot.id, "title": plot.title, "unit": plot.unit, "line": self.name, "points": points,
        }))
    }
}

/// Something has failed, and the run with it, though it goes on.
pub(crate) fn failed(part: &str, reason: impl std::fmt::Display) -> Result<()> {
    FAILED.store(true, Ordering::Relaxed);
    progress(format_args!("FAILED: {part}: {reason}"));
    tell(&json!({"failed": part, "reason": reason.to_string()}))
}

/// Does a piece of the work; if it fails, that is told, and the rest goes on.
pub(crate) fn attempt(part: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    match work() {
        Ok(()) => Ok(()),
        Err(error) => failed(part, format_args!("{error:#}")),
    }
}

/// Whether something has.
pub(crate) fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

static FAILED: AtomicBool = AtomicBool::new(false);

/// How long a part took.
pub(crate) fn took(part: &str, time: Duration) -> Result<()> {
    progress(format_args!("{part} took {} s", rounded(time.as_secs_f64())));
    tell(&json!({"part": part, "seconds": rounded(time.as_secs_f64())}))
}

/// Four digits say all that the range leaves certain.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

fn tell(line: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// How far it is, for who waits, with the seconds since the first of these.
pub(crate) fn progress(text: impl std::fmt::Display) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let seconds = BEGAN.get_or_init(Instant::now).elapsed().as_secs();
    let _ = writeln!(std::io::stderr(), "bench: {seconds:>4} s: {text}");
}
