//! Looks at the traffic of gateways with the doctor's [`Probe`], on interfaces that others chose, until its time is over. What it sees goes into figures;
//! it decides nothing.

use std::time::{Duration, Instant};

use super::choice::Device;
use super::control::now_ns;
use super::probe::{Probe, ProbeError};
use crate::doctor::seen::Seen;
use crate::doctor::{Observed, Patient};

/// How often what the probe tells is to be fetched: its buffer holds what all CPUs may tell in several such times.
const FETCH: Duration = Duration::from_millis(20);
/// The longest look.
pub const LONGEST: Duration = Duration::from_secs(600);
/// Streams of one gateway that are looked at; more would say nothing new.
const STREAMS: u64 = 100_000;

/// Looks at these patients' traffic on these interfaces, for `time` ([`LONGEST`] at most) or until it is `over`: what was seen of each, in their order, and
/// how it was looked at. It blocks.
///
/// # Errors
/// The probe cannot be loaded, not be attached to one of them, or its counters not be read.
pub fn look(
    patients: &[Patient],
    devices: &[Device],
    time: Duration,
    over: impl Fn() -> bool,
) -> Result<(Vec<Seen>, Observed), ProbeError> {
    let time = time.min(LONGEST);
    let mut look = Look::begin(patients, devices, time, &over)?;
    let began = Instant::now();
    while began.elapsed() < time && !over() {
        std::thread::sleep(FETCH.min(time.saturating_sub(began.elapsed())));
        look.fetch();
    }
    look.end()
}

/// A look that is going on. Dropped, it is over.
#[derive(Debug)]
struct Look {
    probe: Probe,
    seen: Vec<Seen>,
    interfaces: Vec<String>,
    seconds: u64,
}

impl Look {
    /// Stops between two devices if it is `over`.
    fn begin(
        patients: &[Patient],
        devices: &[Device],
        time: Duration,
        over: &impl Fn() -> bool,
    ) -> Result<Self, ProbeError> {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut destinations = Vec::new();
        for (number, patient) in (0_u32..).zip(patients) {
            destinations.extend(patient.destinations().iter().map(|key| (*key, number)));
        }
        let mut probe = Probe::load(&destinations, now_ns().saturating_add(nanoseconds))?;
        for device in devices {
            if over() {
                return Err(ProbeError::Ended);
            }
            probe.attach(device)?;
        }
        Ok(Self {
            probe,
            seen: vec![Seen::default(); patients.len()],
            interfaces: devices.iter().map(|device| device.name.clone()).collect(),
            seconds: time.as_secs(),
        })
    }

    /// Takes in what was told since the last call.
    fn fetch(&mut self) {
        let seen = &mut self.seen;
        self.probe.drain(|head, bytes| {
            let number = usize::try_from(head.gateway).unwrap_or(usize::MAX);
            if let Some(seen) = seen.get_mut(number)
                && seen.streams() < STREAMS
            {
                seen.note(head, bytes);
            }
        });
    }

    fn end(mut self) -> Result<(Vec<Seen>, Observed), ProbeError> {
        self.fetch();
        let tally = self.probe.tally()?;
        let observed = Observed {
            seconds: self.seconds,
            interfaces: self.interfaces,
            over_budget: tally.over_budget,
            lost: tally.lost,
        };
        Ok((self.seen, observed))
    }
}
