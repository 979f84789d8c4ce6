//! Waiting for something to become true: asked again and again until a deadline, never slept for blindly.

use std::time::{Duration, Instant};

/// How long to wait between two questions.
const STEP: Duration = Duration::from_millis(10);

/// Asks `question` until it answers `Some`, or until `within` has passed: then `None`.
///
/// It is asked at least once, and once more after the deadline, so a slow machine gets a last chance.
pub fn until<T>(within: Duration, question: impl FnMut() -> Option<T>) -> Option<T> {
    every(STEP, within, question)
}

/// A slow machine's factor on every wait; `cargo xtask test vm` sets it for processors that are emulated.
pub const PATIENCE: &str = "GWFILTER_PATIENCE";

/// What [`PATIENCE`] says, and 1 where it says nothing.
#[must_use]
pub fn patience() -> u32 {
    let told = std::env::var(PATIENCE).ok().and_then(|text| text.parse().ok());
    told.unwrap_or(1)
}

/// As [`until`], with `step` between two questions, where a question is more than a look.
pub fn every<T>(step: Duration, within: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within * patience();
    loop {
        let last = Instant::now() >= deadline;
        if let Some(answer) = question() {
            return Some(answer);
        }
        if last {
            return None;
        }
        std::thread::sleep(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_at_once_then_no_wait() {
        assert_eq!(until(Duration::ZERO, || Some(1)), Some(1));
    }

    #[test]
    fn true_later_then_found_and_never_true_then_none() {
        let mut asked = 0;
        let found = until(Duration::from_secs(10), || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(found, Some(3));
        assert_eq!(until(Duration::from_millis(1), || None::<()>), None);
    }
}
