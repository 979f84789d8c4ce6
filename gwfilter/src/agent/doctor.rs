//! What `/v1/doctor` needs of the agent, and the look that it takes beside the loop.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tracing::info;

use super::Agent;
use crate::dataplane::choice::Device;
use crate::dataplane::observe;
use crate::dataplane::probe::ProbeError;
use crate::doctor::seen::{Counted, Seen};
use crate::doctor::{self, Bed, Observed, Patient, Report};
use crate::gateway;
use crate::gateway::setup::{self, OwnAddresses};
use crate::node::NodeFacts;
use crate::samples::{Message, Verdict};
use crate::snapshot::Snapshot;
use crate::telemetry::counters::Reading;

/// What the loop knows of the gateways of this node, and where it serves: to be examined aside.
#[derive(Debug)]
pub(super) struct Admission {
    beds: Vec<Bed>,
    snapshot: Snapshot,
    facts: NodeFacts,
    settings: gateway::Settings,
    devices: Vec<Device>,
}

/// The gateways of this node as the agent knows them.
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

/// Does blocking work aside, and tells it when nobody waits any more. The permit is given back when the work has ended, not when who waited went
/// away: the next would begin beside it. `None`: the runtime ends.
async fn aside<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> Option<T> {
    let over = Arc::new(AtomicBool::new(false));
    let _leave = Leave(Arc::clone(&over));
    let done = spawn_blocking(move || {
        let done = work(&over);
        drop(permit);
        done
    });
    done.await.ok()
}

impl Agent {
    /// The gateways as they were compiled last.
    pub(super) fn admission(&self) -> Admission {
        Admission {
            beds: self.enforcer.built().map(doctor::beds).unwrap_or_default(),
            snapshot: self.index.snapshot(),
            facts: self.facts.clone(),
            settings: self.enforcer.gateway_settings().clone(),
            devices: self.interfaces.devices(),
        }
    }
}

impl Admission {
    /// Looks into the objects: for what takes a while, not on the loop. `None`: the runtime ends.
    pub(super) async fn ward(self, permit: OwnedSemaphorePermit) -> Option<Ward> {
        aside(permit, move |_| {
            let setups = setup::setups(&self.snapshot, &self.facts, &self.settings);
            Ward {
                patients: doctor::patients(self.beds, &setups),
                own: setup::own_addresses(&self.snapshot, &self.facts),
                devices: self.devices,
            }
        })
        .await
    }
}

/// From whom packets are refused meanwhile, as samples tell it.
#[derive(Debug)]
pub(super) struct Refusals {
    lines: Option<mpsc::Receiver<Bytes>>,
    by: BTreeMap<String, Counted>,
}

impl Refusals {
    /// `lines`: samples; none where there are none.
    pub(super) const fn of(lines: Option<mpsc::Receiver<Bytes>>) -> Self {
        let by = BTreeMap::new();
        Self { lines, by }
    }

    /// Takes in what comes, until it is dropped.
    pub(super) async fn gather(&mut self) -> Infallible {
        if let Some(lines) = &mut self.lines {
            while let Some(line) = lines.recv().await {
                if let Some((gateway, source, weight)) = refusal(&line) {
                    self.by.entry(gateway).or_default().add(source, weight);
                }
            }
        }
        pending().await
    }
}

/// The gateway, the source and the weight of a sample of a refused packet.
fn refusal(line: &[u8]) -> Option<(String, IpAddr, u64)> {
    match serde_json::from_slice(line).ok()? {
        Message::Sample(line) if line.verdict == Verdict::Drop => {
            Some((line.gateway?, line.source.ip().to_canonical(), line.weight))
        }
        _ => None,
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
    pub(super) async fn look(
        &self,
        time: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Vec<Seen>, Observed), ProbeError> {
        let (patients, devices) = (self.patients.clone(), self.devices.clone());
        info!(
            seconds = time.as_secs(),
            "the doctor looks at the beginnings of new connections"
        );
        let looked = aside(permit, move |over| {
            observe::look(&patients, &devices, time, || over.load(Ordering::Relaxed))
        });
        looked.await.unwrap_or(Err(ProbeError::Ended))
    }

    /// The report. `refused`: what the kernel's counters grew by, by gateway; `refusals`: from whom that was.
    pub(super) fn report(
        &self,
        looked: Option<(Vec<Seen>, Observed)>,
        refused: &BTreeMap<String, u64>,
        refusals: &Refusals,
    ) -> Report {
        let (mut seen, observed) = match looked {
            Some((seen, observed)) => (seen, Some(observed)),
            None => (Vec::new(), None),
        };
        for (patient, seen) in self.patients.iter().zip(&mut seen) {
            let name = patient.name();
            seen.dropped = refused.get(&name).copied().unwrap_or(0);
            seen.refused = refusals.by.get(&name).cloned().unwrap_or_default();
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
    use std::sync::mpsc::channel;

    use gwfilter_common::abi::Tally;
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_asked_goes_away_then_the_next_waits_until_the_look_has_ended() {
        let one = Arc::new(Semaphore::new(1));
        let (end, ended) = channel::<()>();
        let (told, begun) = tokio::sync::oneshot::channel();
        let permit = Arc::clone(&one).try_acquire_owned().unwrap();
        let look = tokio::spawn(aside(permit, move |over| {
            told.send(()).unwrap();
            ended.recv().unwrap();
            over.load(Ordering::Relaxed)
        }));
        begun.await.unwrap();
        look.abort();
        assert!(look.await.unwrap_err().is_cancelled());
        assert!(one.try_acquire().is_err(), "the look still goes on");
        end.send(()).unwrap();
        let next = timeout(Duration::from_secs(10), one.acquire()).await;
        assert!(next.is_ok(), "it has ended");
    }

    #[test]
    fn a_sample_of_a_refused_packet_then_its_source_by_gateway_and_of_others_nothing() {
        let line = |verdict: &str, gateway: &str| {
            format!(
                r#"{{"time":"2026-01-01T00:00:00Z","interface":"eth0","hook":"xdp","verdict":"{verdict}","reason":"policy-deny","gateway":{gateway},"policy":null,"protocol":"tcp","source":"198.51.100.7:1","dest":"203.0.113.80:80","client":null,"weight":7}}"#
            )
        };
        assert_eq!(
            refusal(line("drop", r#""a/b""#).as_bytes()),
            Some(("a/b".to_owned(), "198.51.100.7".parse().unwrap(), 7))
        );
        // What passed, the probe sees itself.
        for other in [
            line("would-drop", r#""a/b""#),
            line("pass", r#""a/b""#),
            line("drop", "null"),
            r#"{"lost":1,"unsampled":2}"#.to_owned(),
        ] {
            assert_eq!(refusal(other.as_bytes()), None, "{other}");
        }
    }

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
