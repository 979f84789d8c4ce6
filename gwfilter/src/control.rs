//! Lease and pause as moments of the monotonic clock, in nanoseconds ([`gwfilter_common::abi::CONTROL_MAP`]). Pure.

use std::time::Duration;

use gwfilter_common::abi::FOREVER;

/// The moment `span` from now, or [`FOREVER`] without one.
#[must_use]
pub fn moment(now: u64, span: Option<Duration>) -> u64 {
    span.map_or(FOREVER, |span| {
        // The last moment before "for ever" is far enough.
        let span = u64::try_from(span.as_nanos()).unwrap_or(FOREVER);
        now.saturating_add(span).min(FOREVER - 1)
    })
}

/// The words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// Until when refusals are carried out.
    pub lease: u64,
    /// The same at addresses of pods.
    pub pod_lease: u64,
    /// Until when they are only counted; 0: they are carried out.
    pub paused: u64,
}

/// For how long something goes on, from a given moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// It is over, or never began.
    Over,
    /// So long.
    For(Duration),
    /// Without an end.
    Forever,
}

impl Span {
    /// From `now` to `until`.
    #[must_use]
    pub const fn of(now: u64, until: u64) -> Self {
        match until {
            FOREVER => Self::Forever,
            _ if until <= now => Self::Over,
            _ => Self::For(Duration::from_nanos(until - now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_then_its_end_and_back() {
        let hour = Duration::from_secs(3600);
        assert_eq!(moment(5, Some(hour)), 3_600_000_000_005);
        assert_eq!(Span::of(5, moment(5, Some(hour))), Span::For(hour));
        assert_eq!(Span::of(5, moment(5, None)), Span::Forever);
        assert_eq!([Span::of(5, 0), Span::of(5, 5)], [Span::Over, Span::Over]);
        assert_eq!(
            moment(5, Some(Duration::MAX)),
            FOREVER - 1,
            "a lease is never off by its length"
        );
    }
}
