//! What the agent does beside enforcing: the snapshot and the status on the disk, Events, health, its own DaemonSet.
//!
//! Nothing here is waited for on the way from a change to the tables: the loop notes that something changed, and a second later all of it catches up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::kube::Client;
use tokio::time::Instant;

use super::last_good::{Job, Keeper, Place};
use super::millis;
use super::past::Shelf;
use crate::dataplane::pins;
use crate::index::Index;
use crate::kube::events::{Events, Reporter};
use crate::kube::own::{Name, OwnDaemonSet};
use crate::notice::{Notices, Speaker};
use crate::placement::Fate;
use crate::plan::Draining;
use crate::status::Left;

/// From a change to what is said and written of it.
const REST: Duration = Duration::from_secs(1);
/// What had to be kept for later is said in steps of this.
const LATER: Duration = Duration::from_secs(10);

/// What the user set for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--health-listen`.
    pub health_listen: Option<SocketAddr>,
    /// `--api-listen`.
    pub api_listen: Option<SocketAddr>,
    /// `--metrics-token-file`.
    pub metrics_token_file: Option<PathBuf>,
    /// `--own-daemonset`, in `POD_NAMESPACE`.
    pub own_daemonset: Option<Name>,
    /// `POD_NAME`; empty where it is not set.
    pub pod: String,
}

/// Where the status goes without `--state-dir`.
pub const RUN_DIR: &str = "/run/gwfilter";

/// Name of the status file of this network namespace.
pub(super) fn status_file() -> String {
    pins::namespace().map_or_else(|_| "status.json".to_owned(), |id| format!("status-net-{id}.json"))
}

/// What tells this network namespace apart in the names of files.
pub(super) fn namespace() -> String {
    pins::namespace().map_or_else(|_| "net".to_owned(), |id| format!("net-{id}"))
}

/// The things beside enforcement.
#[derive(Debug)]
pub(super) struct Aside {
    keeper: Keeper,
    saves: bool,
    own: Option<OwnDaemonSet>,
    events: Option<(Events, Speaker)>,
    start: Instant,
    due: Option<Instant>,
}

impl Aside {
    /// Starts what is to run. Without a client there is no cluster to speak to, and no snapshot to keep.
    pub(super) fn start(settings: &Settings, node: Option<&str>, client: Option<&Client>) -> Self {
        let node = node.unwrap_or_default().to_owned();
        let keeper = Keeper::start(Place {
            state: settings.state_dir.clone(),
            run: PathBuf::from(RUN_DIR),
            status: status_file(),
            node: node.clone(),
        });
        let reporter = Reporter {
            node,
            pod: settings.pod.clone(),
        };
        let events = client.map(|client| (Events::open(client.clone(), reporter), Speaker::new(0)));
        let own = client
            .zip(settings.own_daemonset.clone())
            .map(|(client, name)| OwnDaemonSet::open(client, name));
        Self {
            keeper,
            saves: settings.state_dir.is_some() && client.is_some(),
            own,
            events,
            start: Instant::now(),
            due: None,
        }
    }

    /// Notes that there is something to say or to write.
    pub(super) fn changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + REST);
    }

    /// When [`Self::catch_up`] is to be called.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Says and writes what changed. `good`: the index that is in force, if it may be the last good one.
    pub(super) fn catch_up(
        &mut self,
        good: Option<&Index>,
        left: &Left,
        draining: (Shelf, Draining),
        notices: impl FnOnce() -> Notices,
    ) {
        self.due = None;
        if !self.keeper.save(|| self.job(good, left, draining)) {
            self.changed();
        }
        let Some((events, speaker)) = &mut self.events else {
            return;
        };
        let (due, kept) = speaker.speak(&notices(), millis(self.start.elapsed()));
        for (object, notice) in due {
            events.say(object, notice);
        }
        if kept > 0 {
            self.due.get_or_insert_with(|| Instant::now() + LATER);
        }
    }

    fn job(&self, good: Option<&Index>, left: &Left, draining: (Shelf, Draining)) -> Job {
        Job {
            snapshot: good.filter(|_| self.saves).cloned(),
            // Our own plain types; there is nothing in them that JSON does not have.
            status: serde_json::to_vec(left).unwrap_or_default(),
            draining: Some(draining),
        }
    }

    /// What becomes of the agent's own DaemonSet; `None`: it is of none.
    pub(super) async fn fate(
        &mut self,
        node: Option<&str>,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Option<Fate> {
        match &mut self.own {
            Some(own) => Some(own.fate(node.unwrap_or_default(), labels).await),
            None => None,
        }
    }

    /// Writes what is not written yet.
    pub(super) async fn finish(self, good: Option<&Index>, left: &Left, draining: (Shelf, Draining)) {
        let job = self.due.is_some().then(|| self.job(good, left, draining));
        self.keeper.finish(job).await;
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
