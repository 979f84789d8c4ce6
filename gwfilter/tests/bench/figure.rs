//! What comes out: ratios and series, a JSON object a line.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

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
        tell(&json!({
            "id": self.id, "value": rounded(median), "goal": rounded(self.goal), "met": median <= self.goal,
            "range": range.map(rounded), "of": self.of,
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

/// A remark for people: what a figure does not show.
pub(crate) fn remark(text: impl std::fmt::Display) -> Result<()> {
    tell(&json!({"remark": text.to_string()}))
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

/// How far it is, for who waits.
pub(crate) fn progress(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}
