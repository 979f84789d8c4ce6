//! From the moment a change was received to the one when it was in force. Reads no clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::metrics::spread::Spread;

/// How long changes took, and since when one waits.
#[derive(Debug, Default)]
pub(super) struct Changes {
    since: Option<Instant>,
    took: Spread,
}

impl Changes {
    /// A change was received. If one waits already, that one counts.
    pub(super) fn came(&mut self, at: Instant) {
        self.since.get_or_insert(at);
    }

    /// What was received is in force; `swapped`: new tables were needed for it.
    pub(super) fn done(&mut self, now: Instant, swapped: bool) {
        if let Some(since) = self.since.take().filter(|_| swapped) {
            self.took.add(now.saturating_duration_since(since));
        }
    }

    /// How long those took that are in force.
    pub(super) const fn took(&self) -> &Spread {
        &self.took
    }

    /// For how long one waits; zero: none does.
    pub(super) fn waits(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_then_the_oldest_one_waits_and_only_those_that_made_tables_are_counted() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut changes = Changes::default();
        assert_eq!(changes.waits(after(9)), Duration::ZERO);
        changes.came(start);
        changes.came(after(10));
        assert_eq!(changes.waits(after(30)), Duration::from_millis(30));
        changes.done(after(40), true);
        assert_eq!(changes.waits(after(50)), Duration::ZERO);
        changes.came(after(60));
        changes.done(after(61), false);
        changes.done(after(62), true);
        assert_eq!(changes.took().count(), 1);
        assert!((changes.took().sum() - 0.04).abs() < 1e-9);
    }
}
