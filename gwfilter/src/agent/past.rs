//! What the next agent is to know of the past, on the disk: who has which counter, and what is draining.
//!
//! Believed only within the boot and with the very maps of counters that it was written for: whoever takes gwfilter off, or restarts the node,
//! ends it. Not flushed to the disk: a file that a power cut damages is of another boot.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::disk;
use crate::control::{Span, Words};
use crate::dataplane::kept::CounterMaps;
use crate::plan::{Counters, Draining, Past};
use crate::telemetry::chain;

const FORMAT: u32 = 1;

/// What a file of the past is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    format: u32,
    boot_id: String,
    maps: CounterMaps,
}

/// Line 1 of each file; the rest is what it is about.
fn stamp(maps: CounterMaps) -> Option<Stamp> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Stamp {
        format: FORMAT,
        boot_id: boot_id.trim().to_owned(),
        maps,
    })
}

/// Where the past of this network namespace is.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    /// Ends the names of the files.
    namespace: String,
    maps: Option<CounterMaps>,
    failed: bool,
}

impl Shelf {
    /// In `dir`; `namespace` tells network namespaces of one machine apart.
    pub(super) fn new(dir: PathBuf, namespace: String) -> Self {
        Self {
            dir,
            namespace,
            maps: None,
            failed: false,
        }
    }

    /// What is written from now on is about these maps.
    pub(super) fn set_maps(&mut self, maps: CounterMaps) {
        self.maps = Some(maps);
    }

    fn counters(&self) -> String {
        format!("counters-{}.json", self.namespace)
    }

    fn draining(&self) -> String {
        format!("draining-{}.json", self.namespace)
    }

    /// Who has which counter of `maps`, if that is known.
    pub(super) fn read_counters(&self, maps: CounterMaps) -> Option<Counters> {
        serde_json::from_slice(&read(&self.dir.join(self.counters()), maps)?).ok()
    }

    /// What was refused and what was draining when `maps` were written last.
    pub(super) fn read_draining(&self, maps: CounterMaps) -> Option<Past> {
        let path = self.dir.join(self.draining());
        let past = Past::decode(&read(&path, maps)?);
        if past.is_none() {
            warn!(
                file = %path.display(),
                "what an earlier agent noted as draining cannot be read: everything that is refused drains anew"
            );
        }
        past
    }

    /// Notes who has which counter.
    pub(super) fn note(&mut self, counters: &Counters) {
        // Our own plain types; there is nothing in them that JSON does not have.
        let text = serde_json::to_vec(counters).unwrap_or_default();
        let outcome = self.write(&self.counters(), |bytes| bytes.extend_from_slice(&text));
        self.tell(outcome);
    }

    /// Notes what is draining.
    pub(super) fn keep(&self, draining: &Draining) -> Result<(), String> {
        self.write(&self.draining(), |text| draining.append(text))
    }

    fn write(&self, name: &str, text: impl FnOnce(&mut Vec<u8>)) -> Result<(), String> {
        let maps = self.maps.ok_or("the maps of counters have no number")?;
        let stamp = stamp(maps).ok_or("the boot id cannot be read")?;
        let mut bytes = serde_json::to_vec(&stamp).unwrap_or_default();
        bytes.push(b'\n');
        text(&mut bytes);
        disk::write_for_this_boot(&self.dir, name, &bytes).map_err(|e| chain(&e))
    }

    fn tell(&mut self, outcome: Result<(), String>) {
        if let Err(error) = &outcome
            && !self.failed
        {
            warn!(
                dir = %self.dir.display(),
                error,
                "what the next agent is to know of the past cannot be written: counters would begin anew, and every drain window with them"
            );
        }
        self.failed = outcome.is_err();
    }
}

fn read(path: &Path, maps: CounterMaps) -> Option<Vec<u8>> {
    let bytes = match disk::read(path) {
        Ok(bytes) => bytes?,
        Err(e) => {
            warn!(error = chain(&e), "what an earlier agent wrote down is not used");
            return None;
        }
    };
    let at = bytes.iter().position(|b| *b == b'\n')?;
    let (head, body) = bytes.split_at_checked(at)?;
    let head: Stamp = serde_json::from_slice(head).ok()?;
    (Some(head) == stamp(maps)).then(|| body.to_vec())
}

/// Where refusals were not carried out for want of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    /// Nowhere.
    None,
    /// At addresses of pods.
    Pods,
    /// Everywhere.
    All,
}

impl Lapse {
    /// Which leases are over.
    pub(super) fn of(words: Words, now: u64) -> Self {
        let over = |until| Span::of(now, until) == Span::Over;
        if over(words.lease) {
            Self::All
        } else if over(words.pod_lease) {
            Self::Pods
        } else {
            Self::None
        }
    }

    /// The past as far as it holds after that: what was refused was let in, and may have connections that only a drain window spares.
    pub(super) fn revise(self, past: Past) -> Past {
        match self {
            Self::None => past,
            Self::Pods => past.let_in_at_pods(),
            Self::All => past.let_in(),
        }
    }
}

/// The past of an earlier agent as far as it holds. A pause, or one that is over, lets in like a lapse: nobody followed the policies
/// meanwhile for sure.
pub(super) fn still(past: Past, words: Words, now: u64) -> Past {
    let lapse = if words.paused == 0 {
        Lapse::of(words, now)
    } else {
        Lapse::All
    };
    lapse.revise(past)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use gwfilter_common::abi::FOREVER;
    use gwfilter_common::reason::Reason;

    use super::*;
    use crate::desired::{Desired, Judge, Outcome, SourceTables, Target, Verdict};
    use crate::gateway::model::{Protocol, TupleKey};
    use crate::plan::{Planner, Settings};

    const MAPS: CounterMaps = CounterMaps { count: 7, rules: 8 };

    fn shelf(dir: &Path) -> Shelf {
        let mut shelf = Shelf::new(dir.to_owned(), "net-1".to_owned());
        shelf.set_maps(MAPS);
        shelf
    }

    fn planner() -> Planner {
        let mut planner = Planner::new(Settings {
            drain_ms: 1,
            rewritten_drain_ms: 1,
        });
        let plan = planner.plan(&Desired::default(), 0).unwrap();
        planner.commit(&plan);
        planner
    }

    #[test]
    fn what_was_noted_then_read_by_the_next_agent_with_the_same_maps_and_by_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mut shelf, planner) = (shelf(dir.path()), planner());
        assert_eq!(shelf.read_counters(MAPS), None);
        let counters = planner.counters(None);
        shelf.note(&counters);
        shelf.keep(&planner.draining()).unwrap();
        assert_eq!(shelf.read_counters(MAPS), Some(counters));
        assert!(shelf.read_draining(MAPS).is_some());
        let others = CounterMaps { count: 9, ..MAPS };
        assert_eq!(shelf.read_counters(others), None);
        assert_eq!(shelf.read_draining(others), None);
        let elsewhere = Shelf::new(dir.path().to_owned(), "net-2".to_owned());
        assert_eq!(elsewhere.read_counters(MAPS), None);
    }

    #[test]
    fn another_boot_or_half_a_file_then_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut shelf = shelf(dir.path());
        shelf.note(&planner().counters(None));
        let path = dir.path().join(shelf.counters());
        let text = fs::read_to_string(&path).unwrap();
        let boot_id = stamp(MAPS).unwrap().boot_id;
        for wrong in [
            text.replace(&boot_id, "another"),
            text.replace("\"format\":1", "\"format\":2"),
            text[..text.len() / 2].to_owned(),
            text[..text.len() - 3].to_owned(),
            String::new(),
        ] {
            fs::write(&path, &wrong).unwrap();
            assert_eq!(shelf.read_counters(MAPS), None, "{wrong}");
        }
        fs::write(&path, text).unwrap();
        assert!(shelf.read_counters(MAPS).is_some());
    }

    #[test]
    fn a_disk_that_takes_nothing_then_told_once_and_gone_on() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let mut shelf = shelf(&dir.path().join("file/no"));
        shelf.note(&planner().counters(None));
        assert!(shelf.failed);
    }

    /// Something is refused, at an address of a pod.
    fn refused() -> Past {
        let outcome = Outcome {
            verdict: Verdict::Drop,
            reason: Reason::DeniedByRule,
            rule: None,
        };
        let table = [("198.51.100.7/32".parse().unwrap(), outcome)].into();
        let target = Target {
            listener: "a/gw:http".into(),
            judge: Judge::Source(SourceTables {
                table4: Some(Arc::new(table)),
                ..SourceTables::default()
            }),
            observe: false,
            node_address: false,
            pod_address: true,
            reset: false,
            drain_ms: 0,
        };
        let key = TupleKey {
            addr: "10.244.1.5".parse().unwrap(),
            port: 8080,
            protocol: Protocol::Tcp,
        };
        let desired = Desired {
            tuples: [(key, target)].into(),
            rewritten: Vec::new(),
        };
        let mut planner = planner();
        let plan = planner.plan(&desired, 0).unwrap();
        planner.commit(&plan);
        Past::decode(&planner.draining().encode()).unwrap()
    }

    #[test]
    fn refusals_that_were_suspended_then_forgotten() {
        let (now, later) = (5, 6);
        let words = |lease, pod_lease, paused| Words {
            lease,
            pod_lease,
            paused,
        };
        assert_ne!(refused(), refused().let_in());
        assert_ne!(refused(), refused().let_in_at_pods());
        for (words, wanted) in [
            (words(FOREVER, FOREVER, 0), refused()),
            (words(later, later, 0), refused()),
            (words(now, later, 0), refused().let_in()),
            (words(0, 0, 0), refused().let_in()),
            (words(later, now, 0), refused().let_in_at_pods()),
            // Paused, or once paused: who came in then is not known.
            (words(FOREVER, FOREVER, FOREVER), refused().let_in()),
            (words(FOREVER, FOREVER, 1), refused().let_in()),
        ] {
            assert_eq!(still(refused(), words, now), wanted, "{words:?}");
        }
    }
}
