//! Until when the kernel may refuse: what the agent vouches for, and what it says when it cannot. Reads no clock and no map.
//!
//! The agent vouches for the tables only while they are in force and its view of the policies is confirmed: the API server answers and no
//! watch fails, or the manifests can be read. What is not confirmed may be stale, and a stale refusal is an outage; so when
//! a lease runs out, everything passes until somebody vouches again. All moments are nanoseconds of the monotonic clock.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::control::{Span, Words, moment};

/// The longest pause between two attempts to renew.
const PERIOD: Duration = Duration::from_secs(20);
/// The shortest one.
const SHORTEST: Duration = Duration::from_millis(100);

/// What the user set; `None`: without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--lease`.
    pub lease: Option<Duration>,
    /// `--pod-lease`.
    pub pods: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Some(Duration::from_secs(3600)),
            pods: Some(Duration::from_secs(60)),
        }
    }
}

impl Settings {
    /// The pause between two attempts to renew: two may fail before anything runs out.
    pub(super) fn period(&self) -> Duration {
        let shortest = self.lease.into_iter().chain(self.pods).min();
        shortest.map_or(PERIOD, |span| (span / 3).clamp(SHORTEST, PERIOD))
    }
}

/// How far it has come with the leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    #[default]
    Renewed,
    Doubt,
    PodsOver,
    Over,
}

/// The leases of this node.
#[derive(Debug)]
pub(super) struct Lease {
    settings: Settings,
    /// Since when and why they are not renewed.
    doubt: Option<(u64, String)>,
    told: Told,
    paused: Option<u64>,
}

impl Lease {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            doubt: None,
            told: Told::Renewed,
            paused: None,
        }
    }

    /// The words before the first generation of this agent is in force. `before`: those that an earlier one has left. They are prolonged by
    /// nothing, for it is the earlier one's tables that packets still meet, and an agent that fails at every start must not vouch for them.
    pub(super) fn begin(&self, before: Option<Words>, now: u64) -> Words {
        let granted = self.granted(now);
        match before {
            None => granted,
            Some(words) => Words {
                lease: words.lease.min(granted.lease),
                pod_lease: words.pod_lease.min(granted.pod_lease),
                ..words
            },
        }
    }

    /// The words, if the view was confirmed at `at`. The pause is not the agent's to say.
    fn granted(&self, at: u64) -> Words {
        Words {
            lease: moment(at, self.settings.lease),
            pod_lease: moment(at, self.settings.pods),
            paused: 0,
        }
    }

    /// What becomes of `words` when at `at` it was asked whether the view holds.
    pub(super) fn beat(&mut self, words: Words, at: u64, view: Result<(), String>) -> Words {
        let granted = self.granted(at);
        let without = |span: Option<Duration>, word: u64, granted: u64| match span {
            None => granted,
            Some(_) => word,
        };
        match view {
            Ok(()) => {
                self.doubt = None;
                Words {
                    paused: words.paused,
                    ..granted
                }
            }
            Err(why) => {
                let since = self.doubt.take().map_or(at, |(since, _)| since);
                self.doubt = Some((since, why));
                Words {
                    lease: without(self.settings.lease, words.lease, granted.lease),
                    pod_lease: without(self.settings.pods, words.pod_lease, granted.pod_lease),
                    ..words
                }
            }
        }
    }

    /// What is to be said. `pods`: something is judged at an address of a pod.
    fn state(&self, words: Words, now: u64, pods: bool) -> Told {
        if Span::of(now, words.lease) == Span::Over {
            Told::Over
        } else if pods && Span::of(now, words.pod_lease) == Span::Over {
            Told::PodsOver
        } else {
            match &self.doubt {
                // One attempt may fail.
                Some((since, _)) if now.saturating_sub(*since) >= nanos(self.settings.period()) => {
                    Told::Doubt
                }
                _ => Told::Renewed,
            }
        }
    }

    /// Why this node is not ready, if the leases are why.
    pub(super) fn ready(&self) -> Result<(), String> {
        let why = || self.doubt.as_ref().map_or("no reason is known", |(_, why)| why);
        match self.told {
            Told::Renewed => Ok(()),
            Told::Doubt => Err(format!("the lease is not renewed: {}", why())),
            Told::PodsOver => Err(format!("the lease of pods' addresses has run out: {}", why())),
            Told::Over => Err(format!("the lease has run out, so nothing is refused: {}", why())),
        }
    }

    /// Logs what is new of the leases and of a pause.
    pub(super) fn tell(&mut self, words: Words, now: u64, pods: bool) {
        let state = self.state(words, now, pods);
        if state != self.told {
            self.tell_state(state, words, now);
            self.told = state;
        }
        let paused = (Span::of(now, words.paused) != Span::Over).then_some(words.paused);
        if paused != self.paused {
            self.paused = paused;
            match paused {
                Some(_) => self.tell_pause(now),
                None => info!("the pause is over: what is refused is dropped again"),
            }
        }
    }

    fn tell_state(&self, state: Told, words: Words, now: u64) {
        let (since, reason) = match &self.doubt {
            Some((since, why)) => (seconds(now.saturating_sub(*since)), why.as_str()),
            None => (0, "nobody vouched for the tables in time"),
        };
        let (ends_in, pods_end_in) = (left(now, words.lease), left(now, words.pod_lease));
        match state {
            Told::Renewed => info!("the lease is renewed again"),
            Told::Doubt => warn!(
                reason,
                since_seconds = since,
                ends_in,
                pods_end_in,
                "the lease cannot be renewed; when it ends, everything passes until it can: mend the reason, or run with --lease off"
            ),
            Told::PodsOver => error!(
                reason,
                since_seconds = since,
                ends_in,
                "the lease of pods' addresses has run out: nothing is refused there until it can be renewed"
            ),
            Told::Over => error!(
                reason,
                since_seconds = since,
                "the lease has run out: nothing is refused on this node until it can be renewed"
            ),
        }
    }

    /// Logs a pause that goes on, if there is one.
    pub(super) fn tell_pause(&self, now: u64) {
        if let Some(until) = self.paused {
            error!(
                ends_in = left(now, until),
                "enforcement is paused on this node: what is refused is counted and passes; `gwfilter resume` ends it"
            );
        }
    }
}

/// How long until a moment, for people.
fn left(now: u64, until: u64) -> String {
    match Span::of(now, until) {
        Span::Over => "0s".to_owned(),
        Span::Forever => "never".to_owned(),
        Span::For(span) => match span.as_secs() {
            secs @ 0..600 => format!("{secs}s"),
            secs => format!("{}m", secs / 60),
        },
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

const fn seconds(nanos: u64) -> u64 {
    nanos / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use gwfilter_common::abi::FOREVER;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3600 * SECOND;

    fn lease() -> Lease {
        Lease::new(Settings::default())
    }

    fn words(lease: u64, pod_lease: u64) -> Words {
        Words {
            lease,
            pod_lease,
            paused: 7,
        }
    }

    fn away() -> Result<(), String> {
        Err("away".to_owned())
    }

    #[test]
    fn a_map_that_is_new_then_armed_and_one_that_was_left_then_never_prolonged_by_a_start() {
        let now = 10 * HOUR;
        let full = Words {
            lease: now + HOUR,
            pod_lease: now + 60 * SECOND,
            paused: 0,
        };
        assert_eq!(lease().begin(None, now), full);
        // A crash loop vouches for nothing.
        let left = words(now + 5, now - 5);
        assert_eq!(lease().begin(Some(left), now), left);
        // What was without an end ends, where the new agent has a lease.
        assert_eq!(
            lease().begin(Some(words(FOREVER, FOREVER)), now),
            Words { paused: 7, ..full }
        );
    }

    #[test]
    fn a_view_that_is_confirmed_then_renewed_from_the_moment_it_was_asked_and_one_that_is_not_then_as_it_was()
    {
        let mut lease = lease();
        let old = words(5, 6);
        assert_eq!(lease.beat(old, 100, away()), old);
        assert_eq!(lease.beat(old, 200, Ok(())), words(200 + HOUR, 200 + 60 * SECOND));
        assert_eq!(lease.doubt, None);
    }

    #[test]
    fn no_lease_then_none_needs_a_confirmation() {
        let off = Settings {
            lease: None,
            pods: None,
        };
        assert_eq!(
            Lease::new(off).beat(words(5, 6), 100, away()),
            words(FOREVER, FOREVER)
        );
        let pods_only = Settings {
            lease: None,
            ..Settings::default()
        };
        assert_eq!(
            Lease::new(pods_only).beat(words(5, 6), 100, away()),
            words(FOREVER, 6)
        );
    }

    #[test]
    fn each_state_of_the_leases_then_told_at_once_and_not_ready() {
        let mut lease = lease();
        let w = words(HOUR, 60 * SECOND);
        lease.beat(w, SECOND, away());
        let at = |lease: &mut Lease, seconds: u64, pods| {
            lease.tell(w, seconds * SECOND, pods);
            lease.told
        };
        assert_eq!(at(&mut lease, 2, true), Told::Renewed, "one attempt may fail");
        assert_eq!(lease.ready(), Ok(()));
        assert_eq!(at(&mut lease, 21, true), Told::Doubt);
        assert_eq!(lease.ready().unwrap_err(), "the lease is not renewed: away");
        assert_eq!(
            at(&mut lease, 61, false),
            Told::Doubt,
            "no pod's address is judged"
        );
        assert_eq!(at(&mut lease, 61, true), Told::PodsOver);
        assert_eq!(at(&mut lease, 3600, true), Told::Over);
        assert!(lease.ready().is_err());
        let w = lease.beat(w, 3601 * SECOND, Ok(()));
        lease.tell(w, 3601 * SECOND, true);
        assert_eq!((lease.told, lease.ready()), (Told::Renewed, Ok(())));
    }

    #[test]
    fn two_attempts_may_fail_before_the_shorter_lease_ends() {
        let period = |lease, pods| {
            let span = |ms: Option<u64>| ms.map(Duration::from_millis);
            Settings {
                lease: span(lease),
                pods: span(pods),
            }
            .period()
            .as_millis()
        };
        assert_eq!(period(Some(3_600_000), Some(60_000)), 20_000);
        assert_eq!(period(Some(3_600_000), None), 20_000);
        assert_eq!(period(Some(3_000), Some(60_000)), 1_000);
        assert_eq!(period(Some(1), None), 100);
        assert_eq!(period(None, None), 20_000);
    }

    #[test]
    fn what_is_left_then_as_people_say_it() {
        let left = |secs| left(5, 5 + secs * SECOND);
        assert_eq!([left(0), left(599), left(3600)], ["0s", "599s", "60m"]);
        assert_eq!(super::left(5, FOREVER), "never");
    }
}
