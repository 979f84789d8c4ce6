//! What is known at one moment, and what of it becomes samples. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::abi::Tally;

use super::carry::{Carried, plus};
use super::names;
use super::process::Process;
use super::spread::Spread;
use crate::report::{EnforcedAt, GatewayReport};
use crate::telemetry::counters::Reading;

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The generation in force.
    pub generation: u64,
    /// When it came into force, in seconds since 1970; `None`: there is none yet.
    pub generation_at: Option<f64>,
    /// From the moment when a change was received to the one when it was in force.
    pub changes: Spread,
    /// Since when a change waits to be in force, in seconds; 0: none does.
    pub pending: f64,
    /// As `/readyz` says.
    pub ready: bool,
    /// `--observe`.
    pub observe: bool,
    /// By `ns/service`, and `ns/(other)` for those that [`super::groups`] puts together.
    pub gateways: BTreeMap<String, GatewayFigures>,
    /// Gateways that are put together.
    pub summed: u64,
    /// Network interfaces that are served.
    pub interfaces: u64,
    /// By kind of lease. Empty: there is none.
    pub leases: BTreeMap<&'static str, LeaseFigures>,
    /// `gwfilter pause` is in force.
    pub paused: bool,
    /// The kernel's counters; `None`: they could not be read.
    pub reading: Option<Reading>,
    /// What counters said that are gone since.
    pub carried: Carried,
    /// The names of all rules that have a counter, in order of the counter's index, which is stable.
    pub rules: Vec<Arc<str>>,
    /// Rules that got no counter.
    pub uncounted: u64,
    /// How often what was found otherwise than it was left.
    pub finds: BTreeMap<String, u64>,
    /// What objects come from, and whether it cannot be read now.
    pub sources: BTreeMap<String, bool>,
    /// Lines of the packet log that were left out; `None`: that could not be read.
    pub lost_lines: Option<u64>,
    /// Gateway destinations in the tables in force.
    pub tuples: u64,
    /// How many fit.
    pub tuples_limit: u64,
    /// Memory of the pinned maps as the kernel reckons it, in bytes; `None`: that could not be read.
    pub map_bytes: Option<u64>,
    /// The agent itself.
    pub process: Option<Process>,
}

/// A gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayFigures {
    /// Whether what its policies certainly refuse is dropped on this node, by the weightiest reason why something is not, or by none (empty).
    /// Several gateways that are told as one may have several.
    pub enforced: BTreeMap<&'static str, bool>,
    /// Codes of what is not enforced.
    pub left: Vec<&'static str>,
    /// Rules that are enforced at the node, by the gateway alone, and in part at either.
    pub rules: [(&'static str, u64); 3],
    /// Prefixes in its tables.
    pub prefixes: u64,
    /// Its destinations.
    pub tuples: u64,
}

/// A lease.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LeaseFigures {
    /// Seconds until enforcement ends by itself, unless the agent renews it.
    pub remaining: f64,
    /// Seconds that a renewal grants; `None` where that is not known.
    pub granted: Option<f64>,
}

impl GatewayFigures {
    /// What of a report becomes figures.
    #[must_use]
    pub fn of(report: &GatewayReport) -> Self {
        let mut left: Vec<&'static str> = Vec::new();
        for code in report.why.iter().map(|why| names::code(why)) {
            if !left.contains(&code) {
                left.push(code);
            }
        }
        let rules = || {
            let policies = report.policies.iter().filter(|policy| !policy.dry_run);
            policies.flat_map(|policy| &policy.rules)
        };
        let count = |at: EnforcedAt| wide(rules().filter(|rule| rule.enforced_at == at).count());
        Self {
            enforced: [(left.first().copied().unwrap_or_default(), report.enforced)].into(),
            left,
            rules: [
                ("node", count(EnforcedAt::Node)),
                ("gateway", count(EnforcedAt::Gateway)),
                ("both", count(EnforcedAt::Both)),
            ],
            prefixes: wide(report.prefixes.table),
            tuples: wide(report.tuples.len()),
        }
    }
}

/// Of at most `most` rules the first, by the order of their counters, each by itself, and the sum of the others with how many they are.
///
/// By that order and not by their counts: a rule that changed sides would make the sum fall, and a falling counter is taken for one that
/// began anew.
pub(super) fn rules(figures: &Figures, most: usize) -> (Vec<(Arc<str>, Tally)>, Tally, u64) {
    let Some(reading) = &figures.reading else {
        return (Vec::new(), Tally::default(), 0);
    };
    let tally = |name: &Arc<str>| reading.rules.get(name).copied().unwrap_or_default();
    let own = figures.rules.iter().take(most);
    let others = figures.rules.get(most..).unwrap_or_default();
    let sum = others.iter().map(tally).fold(figures.carried.rules, plus);
    let own = own.map(|name| (Arc::clone(name), tally(name))).collect();
    (own, sum, wide(others.len()))
}

/// A number of things.
pub(super) fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
