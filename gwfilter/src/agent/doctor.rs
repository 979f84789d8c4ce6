//! What `/v1/doctor` needs of the agent, and the look that it takes beside the loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::info;

use super::Agent;
use crate::dataplane::choice::Device;
use crate::dataplane::observe;
use crate::dataplane::probe::ProbeError;
use crate::doctor::seen::Seen;
use crate::doctor::{self, Observed, Patient, Report};
use crate::gateway::setup::{self, OwnAddresses};
use crate::telemetry::counters::Reading;

/// The gateways of this node as the agent knows them, and where it serves.
#[derive(Debug)]
pub(super) struct Ward {
    patients: Vec<Patient>,
    own: OwnAddresses,
    devices: Vec<Device>,
}

/// Ends a look when nobody waits for it any more.
struct Leave(Arc<AtomicBool>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Agent {
    /// The gateways as they were compiled last.
    pub(super) fn ward(&self) -> Ward {
        let snapshot = self.index.snapshot();
        let setups = setup::setups(&snapshot, &self.facts, self.enforcer.gateway_settings());
        let built = self.enforcer.built();
        Ward {
            patients: built
                .map(|built| doctor::patients(built, &setups))
                .unwrap_or_default(),
            own: setup::own_addresses(&snapshot, &self.facts),
            devices: self.interfaces.devices(),
        }
    }
}

impl Ward {
    /// Only this gateway; false if there is none of that name.
    pub(super) fn keep(&mut self, gateway: &str) -> bool {
        self.patients.retain(|patient| patient.name() == gateway);
        !self.patients.is_empty()
    }

    /// Looks at the traffic, for `time` or until it is dropped.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(super) async fn look(&self, time: Duration) -> Result<(Vec<Seen>, Observed), ProbeError> {
        let over = Arc::new(AtomicBool::new(false));
        let _leave = Leave(over.clone());
        let (patients, devices) = (self.patients.clone(), self.devices.clone());
        info!(
            seconds = time.as_secs(),
            "the doctor looks at the beginnings of new connections"
        );
        let work = move || observe::look(&patients, &devices, time, || over.load(Ordering::Relaxed));
        match tokio::task::spawn_blocking(work).await {
            Ok(seen) => seen,
            // It panicked, which it does not, or the runtime ends.
            Err(_) => Err(ProbeError::Ended),
        }
    }

    /// The report. `refused`: what the kernel's counters grew by, by gateway.
    pub(super) fn report(
        &self,
        looked: Option<(Vec<Seen>, Observed)>,
        refused: &BTreeMap<String, u64>,
    ) -> Report {
        let (mut seen, observed) = match looked {
            Some((seen, observed)) => (seen, Some(observed)),
            None => (Vec::new(), None),
        };
        for (patient, seen) in self.patients.iter().zip(&mut seen) {
            seen.dropped = refused.get(&patient.name()).copied().unwrap_or(0);
        }
        let each = self.patients.iter().enumerate();
        Report {
            observed,
            gateways: each
                .map(|(i, patient)| doctor::examine(patient, seen.get(i), &self.own))
                .collect(),
        }
    }
}

/// Refused packets by gateway.
pub(super) fn refused(reading: Option<&Reading>) -> BTreeMap<String, u64> {
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    for ((gateway, _), tallies) in reading.iter().flat_map(|reading| &reading.listeners) {
        let count = refused.entry(gateway.to_string()).or_default();
        *count = tallies
            .iter()
            .fold(*count, |sum, tally| sum.saturating_add(tally.dropped));
    }
    refused
}

/// What grew, and by how much.
pub(super) fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let by = |(name, count): (&String, &u64)| {
        let before = before.get(name).copied().unwrap_or(0);
        (name.clone(), count.saturating_sub(before))
    };
    after.iter().map(by).collect()
}

#[cfg(test)]
mod tests {
    use gwfilter_common::abi::Tally;

    use super::*;

    #[test]
    fn counters_before_and_after_then_what_was_refused_meanwhile_by_gateway() {
        let reading = |dropped| {
            let tally = Tally {
                dropped,
                ..Tally::default()
            };
            let mut reading = Reading::default();
            for listener in ["http", "https"] {
                reading
                    .listeners
                    .insert(("a/b".into(), listener.into()), vec![Tally::default(), tally]);
            }
            refused(Some(&reading))
        };
        let refused = grown(&reading(3), &reading(10));
        assert_eq!(refused, BTreeMap::from([("a/b".to_owned(), 14)]));
        assert!(grown(&reading(3), &super::refused(None)).is_empty());
    }
}
