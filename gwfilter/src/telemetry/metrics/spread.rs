//! A histogram of durations. Pure.

use std::time::Duration;

/// Upper bounds of the buckets, in seconds: a change takes some milliseconds, and one that was tried again up to a minute and more.
pub const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// How many durations were how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// One for each bound.
    counts: [u64; BOUNDS.len()],
    /// Longer than the last bound.
    longer: u64,
    sum: f64,
}

impl Spread {
    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.sum += seconds;
        let bucket = self
            .counts
            .iter_mut()
            .zip(BOUNDS)
            .find(|(_, bound)| seconds <= *bound);
        let count = bucket.map_or(&mut self.longer, |(count, _)| count);
        *count = count.saturating_add(1);
    }

    /// All of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts
            .iter()
            .fold(self.longer, |sum, n| sum.saturating_add(*n))
    }

    /// Their sum in seconds.
    #[must_use]
    pub const fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bucket by itself, with its upper bound; the last one has none.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let last = (f64::INFINITY, self.longer);
        BOUNDS.into_iter().zip(self.counts).chain([last]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_then_each_in_the_first_bucket_that_holds_it() {
        let mut spread = Spread::default();
        for ms in [1, 5, 6, 299_999, 300_000, 300_001] {
            spread.add(Duration::from_millis(ms));
        }
        let filled: Vec<_> = spread.buckets().into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(0.005, 2), (0.01, 1), (300.0, 2), (f64::INFINITY, 1)]);
        assert_eq!(spread.count(), 6);
        assert!((spread.sum() - 900.012).abs() < 1e-6, "{}", spread.sum());
    }
}
