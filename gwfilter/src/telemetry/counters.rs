//! From counter readings to log lines: per gateway with traffic, and per policy rule that dropped. Pure but for [`Line::log`].

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::abi::Tally;
use gwfilter_common::reason::Reason;
use tracing::{error, info};

/// What the counters say at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// By gateway and listener: one tally for each reason code.
    pub listeners: BTreeMap<(Arc<str>, Arc<str>), Vec<Tally>>,
    /// Packets of which no listener can be named: one tally for each reason code.
    pub unattributed: Vec<Tally>,
    /// By policy id.
    pub rules: BTreeMap<Arc<str>, Tally>,
}

/// A count since the last reading and since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Since the last reading.
    pub delta: u64,
    /// Since the counter began.
    pub total: u64,
}

impl Count {
    fn add(&mut self, before: u64, now: u64) {
        // Less than before: the counter began anew.
        let delta = if now >= before { now - before } else { now };
        self.delta = self.delta.saturating_add(delta);
        self.total = self.total.saturating_add(now);
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A gateway that had traffic.
    Gateway {
        /// `ns/service`.
        gateway: Arc<str>,
        /// Packets passed.
        passed: Count,
        /// Packets dropped.
        dropped: Count,
        /// Packets passed that would have been dropped, were it not for observe mode.
        would_drop: Count,
        /// Packets since the last reading by reason.
        reasons: Vec<(&'static str, u64)>,
    },
    /// Packets that passed because their destination could not be known, or because there are no tables.
    Unattributed {
        /// Packets passed.
        passed: Count,
        /// Packets since the last reading by reason.
        reasons: Vec<(&'static str, u64)>,
    },
    /// A rule that refused packets.
    Rule {
        /// Envoy's policy id.
        policy: Arc<str>,
        /// Packets dropped.
        dropped: Count,
        /// Packets passed that would have been dropped.
        would_drop: Count,
    },
}

/// Compares a reading with the one before.
#[derive(Debug, Default)]
pub struct Book {
    last: Reading,
}

impl Book {
    /// Begins with what was counted before: no line tells it, but the totals hold it.
    pub fn begin(&mut self, reading: Reading) {
        self.last = reading;
    }

    /// The lines for what happened since the last reading: gateways first, each in order of its name, and rules last.
    pub fn lines(&mut self, now: Reading) -> Vec<Line> {
        let mut gateways: BTreeMap<&Arc<str>, Sums> = BTreeMap::new();
        for (name, tallies) in &now.listeners {
            let before = self.last.listeners.get(name);
            let sums = gateways.entry(&name.0).or_default();
            for (code, tally) in tallies.iter().enumerate() {
                let before = before.and_then(|t| t.get(code)).copied().unwrap_or_default();
                sums.add(code, before, *tally);
            }
        }
        let mut lines = Vec::new();
        for (gateway, sums) in gateways {
            if sums.reasons.is_empty() {
                continue;
            }
            lines.push(Line::Gateway {
                gateway: gateway.clone(),
                passed: sums.passed,
                dropped: sums.dropped,
                would_drop: sums.would_drop,
                reasons: sums.reasons.into_iter().collect(),
            });
        }
        let mut sums = Sums::default();
        for (code, tally) in now.unattributed.iter().enumerate() {
            let before = self.last.unattributed.get(code).copied().unwrap_or_default();
            sums.add(code, before, *tally);
        }
        if !sums.reasons.is_empty() {
            lines.push(Line::Unattributed {
                passed: sums.passed,
                reasons: sums.reasons.into_iter().collect(),
            });
        }
        for (policy, tally) in &now.rules {
            let before = self.last.rules.get(policy).copied().unwrap_or_default();
            let (mut dropped, mut would_drop) = (Count::default(), Count::default());
            dropped.add(before.dropped, tally.dropped);
            would_drop.add(before.would_drop, tally.would_drop);
            if dropped.delta > 0 || would_drop.delta > 0 {
                lines.push(Line::Rule {
                    policy: policy.clone(),
                    dropped,
                    would_drop,
                });
            }
        }
        self.last = now;
        lines
    }
}

#[derive(Default)]
struct Sums {
    passed: Count,
    dropped: Count,
    would_drop: Count,
    reasons: BTreeMap<&'static str, u64>,
}

impl Sums {
    fn add(&mut self, code: usize, before: Tally, now: Tally) {
        let mut all = Count::default();
        for (sum, before, now) in [
            (&mut self.passed, before.passed, now.passed),
            (&mut self.dropped, before.dropped, now.dropped),
        ] {
            sum.add(before, now);
            all.add(before, now);
        }
        self.would_drop.add(before.would_drop, now.would_drop);
        if all.delta > 0 {
            let name = u8::try_from(code)
                .ok()
                .and_then(Reason::from_code)
                .map_or("unknown", Reason::name);
            *self.reasons.entry(name).or_default() += all.delta;
        }
    }
}

impl Line {
    /// Writes the line. `interfaces` says what is served by which hook.
    pub fn log(&self, interfaces: &str) {
        match self {
            Self::Gateway {
                gateway,
                passed,
                dropped,
                would_drop,
                reasons,
            } => {
                info!(
                    %gateway,
                    interfaces,
                    passed = passed.delta,
                    passed_total = passed.total,
                    dropped = dropped.delta,
                    dropped_total = dropped.total,
                    would_drop = would_drop.delta,
                    would_drop_total = would_drop.total,
                    reasons = told(reasons),
                    "gateway traffic"
                );
            }
            Self::Unattributed { passed, reasons } => {
                let without = reasons
                    .iter()
                    .any(|(name, _)| *name == Reason::TableMissing.name());
                let (passed, passed_total, reasons) = (passed.delta, passed.total, told(reasons));
                if without {
                    error!(
                        interfaces,
                        passed, passed_total, reasons, "tables are missing: packets pass unjudged"
                    );
                } else {
                    info!(
                        interfaces,
                        passed, passed_total, reasons, "traffic without a known destination"
                    );
                }
            }
            Self::Rule {
                policy,
                dropped,
                would_drop,
            } => info!(
                %policy,
                dropped = dropped.delta,
                dropped_total = dropped.total,
                would_drop = would_drop.delta,
                would_drop_total = would_drop.total,
                "policy rule refused"
            ),
        }
    }
}

/// `allowed=6 draining=1`.
fn told(reasons: &[(&str, u64)]) -> String {
    let each = reasons.iter().map(|(name, n)| format!("{name}={n}"));
    each.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(listener: &str, reason: Reason, tally: [u64; 3], rule: u64) -> Reading {
        let [passed, dropped, would_drop] = tally;
        let mut tallies = vec![Tally::default(); 32];
        tallies[usize::from(reason.code())] = Tally {
            passed,
            dropped,
            would_drop,
        };
        let rule = Tally {
            dropped: rule,
            ..Tally::default()
        };
        Reading {
            listeners: [(("a/gw".into(), listener.into()), tallies)].into(),
            rules: [("ns[a]-policy[p]-rule[0]".into(), rule)].into(),
            unattributed: Vec::new(),
        }
    }

    fn count(delta: u64, total: u64) -> Count {
        Count { delta, total }
    }

    #[test]
    fn the_first_reading_is_told_from_zero_and_silence_is_not_told() {
        let mut book = Book::default();
        let first = reading("http", Reason::DeniedByRule, [0, 3, 0], 3);
        let gateway = Line::Gateway {
            gateway: "a/gw".into(),
            passed: count(0, 0),
            dropped: count(3, 3),
            would_drop: count(0, 0),
            reasons: vec![("denied-by-rule", 3)],
        };
        let rule = Line::Rule {
            policy: "ns[a]-policy[p]-rule[0]".into(),
            dropped: count(3, 3),
            would_drop: count(0, 0),
        };
        assert_eq!(book.lines(first.clone()), [gateway, rule]);
        assert_eq!(book.lines(first), []);
    }

    #[test]
    fn deltas_are_since_the_last_reading_and_a_counter_that_began_anew_counts_from_zero() {
        let mut book = Book::default();
        book.lines(reading("http", Reason::Allowed, [10, 0, 0], 5));
        let passed = |lines: Vec<Line>| match lines.into_iter().next() {
            Some(Line::Gateway { passed, .. }) => passed,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            passed(book.lines(reading("http", Reason::Allowed, [14, 0, 0], 5))),
            count(4, 14)
        );
        assert_eq!(
            passed(book.lines(reading("http", Reason::Allowed, [2, 0, 0], 5))),
            count(2, 2)
        );
    }

    #[test]
    fn the_listeners_of_a_gateway_are_one_line() {
        let mut book = Book::default();
        let mut both = reading("http", Reason::Allowed, [10, 0, 0], 0);
        both.listeners
            .extend(reading("https", Reason::Observed, [5, 0, 5], 0).listeners);
        let lines = book.lines(both);
        let want = Line::Gateway {
            gateway: "a/gw".into(),
            passed: count(15, 15),
            dropped: count(0, 0),
            would_drop: count(5, 5),
            reasons: vec![("allowed", 10), ("observed", 5)],
        };
        assert_eq!(lines, [want]);
    }

    #[test]
    fn packets_of_no_known_destination_are_told() {
        let mut book = Book::default();
        let unattributed = |n| {
            let mut tallies = vec![Tally::default(); 32];
            tallies[usize::from(Reason::Fragment.code())].passed = n;
            Reading {
                unattributed: tallies,
                ..Reading::default()
            }
        };
        let line = |delta, total| Line::Unattributed {
            passed: count(delta, total),
            reasons: vec![("fragment", delta)],
        };
        assert_eq!(book.lines(unattributed(3)), [line(3, 3)]);
        assert_eq!(book.lines(unattributed(3)), []);
        assert_eq!(book.lines(unattributed(5)), [line(2, 5)]);
    }
}
