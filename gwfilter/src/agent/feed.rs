//! Where the objects come from: manifests that are polled, or the watches of a cluster. Either way the index is brought up to date
//! here, and the loop hears only that it may have changed.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};

use super::{AgentError, at};
use crate::index::Index;
use crate::kube::{self, Change, Update};
use crate::snapshot::unread::Subject;
use crate::source::{self, Input, Origin};

/// A burst of changes is over when none came for so long, …
const REST: Duration = Duration::from_millis(10);
/// … and is answered at the latest so long after its first one.
const BURST: Duration = Duration::from_millis(50);
/// The first tables wait so long for kinds that neither were listed nor failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the user chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// `--from`.
    Files(Origin),
    /// A cluster.
    Cluster(kube::Settings),
}

impl From {
    /// Whether what is not stated is not there.
    pub(super) const fn is_files(&self) -> bool {
        matches!(self, Self::Files(_))
    }
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(origin) => origin.fmt(f),
            Self::Cluster(_) => f.write_str("the cluster"),
        }
    }
}

/// Keeps the index up to date.
#[derive(Debug)]
pub(super) enum Feed {
    Files { input: Input, ticks: Interval },
    Cluster(Cluster),
}

impl Feed {
    /// Reads everything that can be read for now.
    pub(super) async fn open(from: &From, index: &mut Index) -> Result<Self, AgentError> {
        match from {
            From::Files(origin) => {
                let mut input = Input::new(origin.clone());
                input.first(index)?;
                // What changes just now is seen by a second look; see `source::settle`.
                tokio::time::sleep(source::POLL).await;
                input.poll(index);
                let mut ticks = interval(source::POLL);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks.reset();
                Ok(Self::Files { input, ticks })
            }
            From::Cluster(settings) => {
                let (sources, updates) = kube::open(settings).await?;
                let mut cluster = Cluster::new(sources, updates, index);
                cluster.first(index).await;
                Ok(Self::Cluster(cluster))
            }
        }
    }

    /// Waits until the index may mean something else. Nothing is lost if it is not waited for to the end.
    pub(super) async fn changed(&mut self, index: &mut Index) {
        match self {
            Self::Files { input, ticks } => loop {
                ticks.tick().await;
                if input.poll(index) {
                    return;
                }
            },
            Self::Cluster(cluster) => cluster.changed(index).await,
        }
    }

    /// The sources that have not been read yet.
    pub(super) fn unread(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Files { .. } => None,
            Self::Cluster(cluster) => Some(&cluster.unread),
        }
    }
}

/// The watches of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    updates: mpsc::Receiver<Update>,
    /// Not read yet.
    unread: BTreeSet<String>,
    /// Neither read nor failed yet.
    silent: BTreeSet<String>,
    /// When the first and the last change of a burst came.
    burst: Option<(Instant, Instant)>,
}

impl Cluster {
    fn new(sources: Vec<(String, Subject)>, updates: mpsc::Receiver<Update>, index: &mut Index) -> Self {
        for (source, subject) in &sources {
            // A kind that was not listed is not empty: it is not known.
            index.declare(source, *subject);
            index.unreadable(source, "it has not been listed yet");
        }
        let sources: BTreeSet<String> = sources.into_iter().map(|(source, _)| source).collect();
        Self {
            updates,
            unread: sources.clone(),
            silent: sources,
            burst: None,
        }
    }

    /// Waits until every kind has answered or failed, so that no half view comes into force for a moment.
    async fn first(&mut self, index: &mut Index) {
        let deadline = Instant::now() + PATIENCE;
        while !self.silent.is_empty() {
            match timeout_at(deadline, self.updates.recv()).await {
                Ok(Some(update)) => {
                    self.take(update, index);
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    async fn changed(&mut self, index: &mut Index) {
        loop {
            let ripe = self.burst.map(|(first, last)| (last + REST).min(first + BURST));
            tokio::select! {
                biased;
                () = at(ripe) => {
                    self.burst = None;
                    return;
                }
                Some(update) = self.updates.recv() => {
                    if self.take(update, index) {
                        let now = Instant::now();
                        let first = self.burst.map_or(now, |(first, _)| first);
                        self.burst = Some((first, now));
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    fn take(&mut self, update: Update, index: &mut Index) -> bool {
        self.silent.remove(&update.source);
        if matches!(update.change, Change::Reset { .. }) {
            self.unread.remove(&update.source);
        }
        update.tell(index)
    }
}
