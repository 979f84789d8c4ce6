//! When to try again, and when to speak of it. Pure.

use std::time::Duration;

/// First and longest pause between attempts at a server that fails.
const FAILED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The same for a kind that the server does not have.
const ABSENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long something has to fail until it is told: a server that starts refuses everybody for a few seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures further apart than this belong to different troubles: in between, all was well.
const QUIET: Duration = Duration::from_secs(60);

/// Keeps count of the failures of one watch. Moments are durations since some fixed start.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began: Option<Duration>,
    last: Duration,
    attempts: u32,
    told: bool,
    absences: u32,
}

impl Pace {
    /// Notes a failure. True: it is time to tell it.
    pub(super) fn failed(&mut self, now: Duration) -> bool {
        let began = match self.began {
            Some(began) if now.saturating_sub(self.last) < QUIET => began,
            _ => {
                self.attempts = 0;
                now
            }
        };
        self.began = Some(began);
        self.last = now;
        self.attempts = self.attempts.saturating_add(1);
        self.absences = 0;
        let ripe = now.saturating_sub(began) >= PATIENCE && !self.told;
        self.told |= ripe;
        ripe
    }

    /// Whether the present trouble was told.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// Notes that all is well. True: a trouble is over that was told.
    pub(super) fn worked(&mut self) -> bool {
        self.began = None;
        self.attempts = 0;
        self.absences = 0;
        std::mem::take(&mut self.told)
    }

    /// The pause after the last failure. `spread` from 0 to 255 keeps many agents from coming at the same moment.
    pub(super) fn pause(&self, spread: u8) -> Duration {
        grown(FAILED, self.attempts, spread)
    }

    /// The pause until the server is asked again for a kind that it does not have.
    pub(super) fn absent(&mut self, spread: u8) -> Duration {
        self.absences = self.absences.saturating_add(1);
        grown(ABSENT, self.absences, spread)
    }
}

/// Doubles with each attempt up to the longest; between half of that and all of it.
fn grown((first, longest): (Duration, Duration), attempts: u32, spread: u8) -> Duration {
    let factor = 1_u32 << attempts.saturating_sub(1).min(16);
    let whole = first.saturating_mul(factor).min(longest);
    whole / 2 + whole / 2 * u32::from(spread) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn failures_then_told_once_after_ten_seconds_and_again_after_it_worked() {
        let mut pace = Pace::default();
        let told: Vec<bool> = [0, 3, 9, 10, 11, 30]
            .map(|at| pace.failed(s(at)))
            .into_iter()
            .collect();
        assert_eq!(told, [false, false, false, true, false, false]);
        assert!(pace.worked());
        assert!(!pace.worked());
        assert!(!pace.failed(s(40)));
        assert!(pace.failed(s(51)));
    }

    #[test]
    fn failures_far_apart_then_no_trouble_that_lasts() {
        let mut pace = Pace::default();
        for at in [0, 100, 200, 300] {
            assert!(!pace.failed(s(at)), "{at}");
            assert!(pace.pause(255) <= FAILED.0, "the first pause again");
        }
    }

    #[test]
    fn pauses_then_they_double_up_to_the_longest_and_are_spread_over_half_of_it() {
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pace.failed(s(0));
            pauses.push(pace.pause(255).as_millis());
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pace.pause(0).as_millis(), 2500);
        let mut pace = Pace::default();
        let absent: Vec<_> = (0..7).map(|_| pace.absent(255).as_secs()).collect();
        assert_eq!(absent, [1, 2, 4, 8, 16, 30, 30]);
    }
}
