//! From figures to samples. Pure.

use std::collections::BTreeMap;

use gwfilter_common::abi::Tally;
use gwfilter_common::reason::Reason;

use super::figures::{self, Figures, GatewayFigures};
use super::names::{FINDS, OTHER};
use super::process::Process;
use super::spread::Spread;
use super::table::RULES;

/// What a sample says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
    Spread(Spread),
}

/// One line of the text, or with a histogram several.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) value: Value,
}

pub(super) const fn plain(value: Value) -> Sample {
    Sample {
        labels: Vec::new(),
        value,
    }
}

pub(super) fn labelled<const N: usize>(labels: [(&'static str, &str); N], value: Value) -> Sample {
    let labels = labels
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    Sample { labels, value }
}

pub(super) fn whole(n: u64) -> Vec<Sample> {
    vec![plain(Value::Whole(n))]
}

pub(super) fn real(x: f64) -> Vec<Sample> {
    vec![plain(Value::Real(x))]
}

pub(super) fn truth(is: bool) -> Vec<Sample> {
    whole(is.into())
}

pub(super) fn process(figures: &Figures, take: fn(&Process) -> Option<Value>) -> Vec<Sample> {
    figures.process.iter().filter_map(take).map(plain).collect()
}

pub(super) fn each_gateway(
    figures: &Figures,
    samples: impl Fn(&str, &GatewayFigures) -> Vec<Sample>,
) -> Vec<Sample> {
    let gateways = figures.gateways.iter();
    gateways
        .flat_map(|(name, gateway)| samples(name, gateway))
        .collect()
}

/// What is alerted on has a sample before it happens: the growth of a counter that was not there before cannot be seen.
const ALWAYS: [(Reason, &str); 4] = [
    (Reason::TableMissing, "pass"),
    (Reason::LeaseExpired, "pass"),
    (Reason::DeniedByRule, "drop"),
    (Reason::NoRuleAllows, "drop"),
];

/// Listeners of one gateway are one, with those that are gone.
pub(super) fn packets(figures: &Figures) -> Vec<Sample> {
    let Some(reading) = &figures.reading else {
        return Vec::new();
    };
    let mut sums = BTreeMap::<(&str, &str, &str), u64>::new();
    let listeners = reading
        .listeners
        .iter()
        .map(|((gateway, _), tallies)| (&**gateway, tallies));
    let carried = figures
        .carried
        .gateways
        .iter()
        .map(|(gateway, tallies)| (&**gateway, tallies));
    for (gateway, tallies) in listeners.chain(carried).chain([("", &reading.unattributed)]) {
        // Of packets that no gateway can be named for, the others do not happen.
        for (reason, verdict) in ALWAYS
            .iter()
            .take(if gateway.is_empty() { 1 } else { ALWAYS.len() })
        {
            sums.entry((gateway, reason.name(), verdict)).or_default();
        }
        for (code, tally) in tallies.iter().enumerate() {
            let reason = u8::try_from(code).ok().and_then(Reason::from_code);
            let Some(reason) = reason else { continue };
            let counts = [
                ("pass", tally.passed),
                ("drop", tally.dropped),
                ("would-drop", tally.would_drop),
            ];
            for (verdict, n) in counts.into_iter().filter(|(_, n)| *n > 0) {
                let sum = sums.entry((gateway, reason.name(), verdict)).or_default();
                *sum = sum.saturating_add(n);
            }
        }
    }
    let sums = sums.into_iter();
    sums.map(|((gateway, reason, verdict), n)| {
        labelled(
            [("gateway", gateway), ("reason", reason), ("verdict", verdict)],
            Value::Whole(n),
        )
    })
    .collect()
}

pub(super) fn rules(figures: &Figures) -> Vec<Sample> {
    let (own, others, summed) = figures::rules(figures, RULES);
    let samples = |policy: &str, tally: Tally| {
        let counts = [("drop", tally.dropped), ("would-drop", tally.would_drop)];
        let sample = |(verdict, n)| labelled([("policy", policy), ("verdict", verdict)], Value::Whole(n));
        counts.map(sample)
    };
    let mut all: Vec<Sample> = own
        .iter()
        .flat_map(|(policy, tally)| samples(policy, *tally))
        .collect();
    if summed > 0 {
        all.extend(samples(OTHER, others));
    }
    all
}

/// All that can be found, and before it is.
pub(super) fn finds(figures: &Figures) -> Vec<Sample> {
    let count = |find: &str| figures.finds.get(find).copied().unwrap_or_default();
    let mut all: Vec<Sample> = FINDS
        .iter()
        .map(|find| labelled([("find", find)], Value::Whole(count(find))))
        .collect();
    let unknown = figures
        .finds
        .iter()
        .filter(|(find, _)| !FINDS.contains(&find.as_str()));
    let others = unknown.fold(0_u64, |sum, (_, n)| sum.saturating_add(*n));
    if others > 0 {
        all.push(labelled([("find", OTHER)], Value::Whole(others)));
    }
    all
}
