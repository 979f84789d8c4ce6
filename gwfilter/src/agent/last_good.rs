//! The last good snapshot on the disk, and the status beside it: read at the start, written behind the loop's back.
//!
//! What can be read and by whom is `index::saved`'s to say, and how a file is written `disk`'s. A disk that is full or read-only
//! costs the next start its snapshot and nothing now: it is told and tried again with the next change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::disk;
use super::past::Shelf;
use crate::index::Index;
use crate::index::saved::{self, LastGood, Stamp};
use crate::plan::Draining;
use crate::telemetry::chain;

/// The file in the state directory.
const NAME: &str = "snapshot.json";
/// How long the end of the agent waits for the disk.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// What this node, boot and moment are called; an unreadable boot id is another one every time, so nothing is believed of it.
fn stamp(node: &str) -> Stamp {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    Stamp {
        node: node.to_owned(),
        boot_id: boot_id.map_or_else(|_| format!("unknown at {now}"), |id| id.trim().to_owned()),
        saved_at: now,
    }
}

/// The snapshot in a state directory, if there is one that can be used.
pub(super) fn load(dir: &Path, node: &str) -> Option<LastGood> {
    let path = dir.join(NAME);
    let unusable = |error: String| {
        warn!(
            path = %path.display(),
            error,
            "the last good snapshot cannot be used; nothing is enforced until the API server answers"
        );
    };
    let bytes = match disk::read(&path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return None,
        Err(e) => {
            unusable(chain(&e));
            return None;
        }
    };
    match saved::accept(&bytes, &stamp(node)) {
        Ok(last) => Some(last),
        Err(e) => {
            unusable(chain(&e));
            None
        }
    }
}

/// `3s`, `5m`, `2h`, `4d`: the largest unit that fits.
pub(super) fn age(seconds: Option<u64>) -> String {
    let Some(seconds) = seconds else {
        return "unknown: the clock says that it is of the future".to_owned();
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What is to be on the disk.
#[derive(Debug)]
pub(super) struct Job {
    /// The last good snapshot; `None`: the one that is there stays.
    pub(super) snapshot: Option<Index>,
    /// For `gwfilter status`.
    pub(super) status: Vec<u8>,
    /// For the next agent.
    pub(super) draining: Option<(Shelf, Draining)>,
}

/// Where what is written goes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `--state-dir`: for the snapshot, and the status too.
    pub(super) state: Option<PathBuf>,
    /// Where the status goes without it.
    pub(super) run: PathBuf,
    /// Name of the status file.
    pub(super) status: String,
    /// The node's name.
    pub(super) node: String,
}

/// Writes snapshots and statuses.
#[derive(Debug)]
pub(super) struct Keeper {
    to_disk: mpsc::Sender<Job>,
    writer: JoinHandle<()>,
}

impl Keeper {
    /// Begins to write; directories are made if they are not there.
    pub(super) fn start(place: Place) -> Self {
        // One waits at most: a snapshot may be as large as all else that the agent holds.
        let (to_disk, jobs) = mpsc::channel(1);
        let writer = tokio::spawn(write_all(place, jobs));
        Self { to_disk, writer }
    }

    /// Hands over the newest state. False: the disk is behind, and it has to be done again later.
    pub(super) fn save(&self, job: impl FnOnce() -> Job) -> bool {
        match self.to_disk.try_reserve() {
            Ok(place) => {
                place.send(job());
                true
            }
            Err(_) => false,
        }
    }

    /// Writes one more, if there is one, and waits until everything is written, within bounds.
    pub(super) async fn finish(self, job: Option<Job>) {
        let Self { to_disk, writer } = self;
        let all = async {
            if let Some(job) = job {
                // The writer ends only when this sender does.
                let _ = to_disk.send(job).await;
            }
            drop(to_disk);
            writer.await
        };
        if timeout(LAST_WRITE, all).await.is_err() {
            warn!("the last good snapshot could not be written in time; the one before stays");
        }
    }
}

async fn write_all(place: Place, mut jobs: mpsc::Receiver<Job>) {
    let (mut failure, mut small_failure) = (None, None::<String>);
    let mut written = false;
    while let Some(Job {
        snapshot,
        status,
        draining,
    }) = jobs.recv().await
    {
        let (place, stamp) = (place.clone(), stamp(&place.node));
        let path = place
            .state
            .as_ref()
            .map(|dir| dir.join(NAME).display().to_string());
        let is_snapshot = snapshot.is_some();
        let outcome = tokio::task::spawn_blocking(move || {
            let kept = draining.map_or(Ok(()), |(shelf, draining)| shelf.keep(&draining));
            let (told, written) = write(&place, snapshot.as_ref(), &status, &stamp);
            (kept.and(told).err(), written)
        })
        .await;
        let (small, outcome) = match outcome {
            Ok((small, outcome)) => (small, Ok(outcome)),
            Err(e) => (None, Err(e)),
        };
        if let Some(error) = small
            .as_ref()
            .filter(|error| small_failure.as_ref() != Some(error))
        {
            warn!(
                error,
                "gwfilter status and the next agent will not know what this one does now; enforcement goes on"
            );
        }
        small_failure = small;
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(text)) => Some(text),
            Err(e) => Some(chain(&e)),
        };
        match &error {
            None if is_snapshot && (failure.is_some() || !written) => {
                info!(path, "the last good snapshot is written with every change");
                written = true;
            }
            Some(error) if failure.as_ref() != Some(error) => warn!(
                path,
                error,
                "the last good snapshot cannot be written; an agent that starts without the API server will not have it"
            ),
            _ => {}
        }
        failure = error;
    }
}

/// What became of the status, and of the snapshot.
fn write(
    place: &Place,
    snapshot: Option<&Index>,
    status: &[u8],
    stamp: &Stamp,
) -> (Result<(), String>, Result<(), String>) {
    let snapshot = || -> Result<(), String> {
        if let (Some(state), Some(snapshot)) = (&place.state, snapshot) {
            let bytes = saved::encode(snapshot, stamp).map_err(|e| chain(&e))?;
            disk::write(state, NAME, &bytes).map_err(|e| chain(&e))?;
        }
        Ok(())
    };
    let snapshot = snapshot();
    let folder = place.state.as_ref().unwrap_or(&place.run);
    let status = disk::write(folder, &place.status, status).map_err(|e| chain(&e));
    (status, snapshot)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const POLICY: &[u8] =
        b"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: n}}";

    fn index() -> Index {
        let mut index = Index::new();
        index.load("s", POLICY).unwrap();
        index
    }

    fn place(dir: &Path) -> Place {
        Place {
            state: Some(dir.to_owned()),
            run: dir.join("never"),
            status: "status.json".to_owned(),
            node: "node".to_owned(),
        }
    }

    fn job() -> Job {
        Job {
            snapshot: Some(index()),
            status: b"{}".to_vec(),
            draining: None,
        }
    }

    #[tokio::test]
    async fn a_disk_that_is_behind_then_what_waits_is_written_and_no_more_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(place(dir.path()));
        assert!(keeper.save(job));
        // On one thread the writer has not run yet.
        assert!(!keeper.save(|| unreachable!("nothing is copied for nothing")));
        keeper.finish(None).await;
        assert!(load(dir.path(), "node").is_some());
    }

    #[tokio::test]
    async fn a_snapshot_saved_then_the_next_start_has_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path(), "node").is_none());
        let keeper = Keeper::start(place(dir.path()));
        keeper.finish(Some(job())).await;
        let last = load(dir.path(), "node").unwrap();
        assert_eq!(last.index.snapshot(), index().snapshot());
        assert!(!last.restarted && last.age_secs.is_some_and(|age| age < 60));
        assert!(load(dir.path(), "other").is_none(), "another node's");
        assert_eq!(fs::read(dir.path().join("status.json")).unwrap(), b"{}");
        assert!(!dir.path().join("never").exists());
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_then_the_agent_goes_on_and_the_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "damaged").unwrap();
        fs::create_dir(dir.path().join(format!("{NAME}.new"))).unwrap();
        assert!(load(dir.path(), "node").is_none(), "told and ignored");
        let keeper = Keeper::start(place(dir.path()));
        keeper.finish(Some(job())).await;
        assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), b"damaged");
    }

    #[test]
    fn an_age_then_the_largest_unit_that_fits() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_200, "2h"),
            (172_800, "2d"),
        ] {
            assert_eq!(age(Some(seconds)), text);
        }
        assert!(age(None).starts_with("unknown"));
    }
}
