//! Where the objects come from: manifests that are polled, or the watches of a cluster. Either way the index is brought up to date
//! here, and the loop hears only that it may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};
use tracing::info;

use super::{AgentError, at};
use crate::index::Index;
use crate::kube::{self, Change, Update, Watches};
use crate::source::{self, Input, Origin};

/// A burst of changes is over when none came for so long, …
const REST: Duration = Duration::from_millis(10);
/// … and is answered at the latest so long after its first one.
const BURST: Duration = Duration::from_millis(50);
/// As [`PATIENCE`], where there is a last good snapshot to begin with.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);
/// The first tables wait so long for kinds that neither were listed nor failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the first tables wait.
const fn patience(last_good: bool) -> Duration {
    if last_good { SHORT_PATIENCE } else { PATIENCE }
}

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
pub(super) enum Feed {
    Files {
        input: Input,
        ticks: Interval,
        /// When the last change was read.
        read: Instant,
    },
    Cluster(Cluster),
}

impl Feed {
    /// Reads everything that can be read for now. `last_good`: the index is not empty, but what was good when an agent wrote it down.
    pub(super) async fn open(from: &From, index: &mut Index, last_good: bool) -> Result<Self, AgentError> {
        match from {
            From::Files(origin) => {
                let mut input = Input::new(origin.clone());
                input.first(index)?;
                // What changes just now is seen by a second look; see `source::settle`.
                tokio::time::sleep(source::POLL).await;
                input.poll(index);
                let not_given = index.snapshot().not_given();
                if !not_given.is_empty() {
                    let kinds = not_given.join(", ");
                    info!(
                        kinds,
                        "no manifest has an object of these kinds: taken as not there"
                    );
                }
                let mut ticks = interval(source::POLL);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks.reset();
                let read = Instant::now();
                Ok(Self::Files { input, ticks, read })
            }
            From::Cluster(settings) => {
                let mut cluster = Cluster::new(kube::open(settings).await?, index, last_good);
                cluster.first(index, patience(last_good)).await;
                Ok(Self::Cluster(cluster))
            }
        }
    }

    /// Waits until the index may mean something else. Nothing is lost if it is not waited for to the end.
    pub(super) async fn changed(&mut self, index: &mut Index) {
        match self {
            Self::Files { input, ticks, read } => loop {
                ticks.tick().await;
                *read = Instant::now();
                if input.poll(index) {
                    return;
                }
            },
            Self::Cluster(cluster) => cluster.changed(index).await,
        }
    }

    /// When the first of the changes was received that [`Self::changed`] told last.
    pub(super) fn received(&self) -> Instant {
        match self {
            Self::Files { read, .. } => *read,
            Self::Cluster(cluster) => cluster.received,
        }
    }

    /// Where objects come from, and whether that cannot be read now.
    pub(super) fn sources(&self) -> BTreeMap<String, bool> {
        match self {
            Self::Files { input, .. } => [("manifests".to_owned(), input.readable().is_err())].into(),
            Self::Cluster(cluster) => {
                let unread = |source: &String| {
                    cluster.unread.contains(source) || cluster.troubled.contains_key(source)
                };
                let sources = cluster.sources.iter();
                sources.map(|source| (source.clone(), unread(source))).collect()
            }
        }
    }

    /// The index was looked at, which took so long.
    pub(super) fn answered(&mut self, cost: Duration) {
        if let Self::Cluster(cluster) = self {
            cluster.burst.answered(Instant::now(), cost);
        }
    }

    /// Whether what the index says may be taken for what is so now; else why not, and what to do.
    pub(super) fn confirmed(&self) -> Result<(), String> {
        match self {
            Self::Files { input, .. } => input
                .readable()
                .map_err(|why| format!("the manifests cannot be read: {why}")),
            Self::Cluster(cluster) => cluster.confirmed(),
        }
    }

    /// The cluster's API server.
    pub(super) fn client(&self) -> Option<&::kube::Client> {
        match self {
            Self::Files { .. } => None,
            Self::Cluster(cluster) => Some(&cluster.client),
        }
    }

    /// Whether anything was read that is newer than what a last good snapshot said.
    pub(super) fn is_news(&self) -> bool {
        match self {
            Self::Files { .. } => true,
            Self::Cluster(cluster) => cluster.news,
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
pub(super) struct Cluster {
    client: ::kube::Client,
    updates: mpsc::Receiver<Update>,
    /// All that are watched.
    sources: BTreeSet<String>,
    /// Not read yet.
    unread: BTreeSet<String>,
    /// Neither read nor failed yet.
    silent: BTreeSet<String>,
    /// Cannot be read now, and why.
    troubled: BTreeMap<String, String>,
    /// The index began with a last good snapshot: what has not been read yet is known, but from then.
    last_good: bool,
    /// Some source was read.
    news: bool,
    burst: Burst,
    /// When the first change of the last burst came.
    received: Instant,
}

/// Changes that are answered together.
#[derive(Debug, Default)]
struct Burst {
    /// When the first and the last one came.
    came: Option<(Instant, Instant)>,
    /// The last answer cost so much that the next one has to wait so long.
    not_before: Option<Instant>,
}

impl Burst {
    fn stir(&mut self, now: Instant) {
        let first = self.came.map_or(now, |(first, _)| first);
        self.came = Some((first, now));
    }

    /// When it is to be answered.
    fn ripe(&self) -> Option<Instant> {
        let (first, last) = self.came?;
        let ripe = (last + REST).min(first + BURST);
        Some(self.not_before.map_or(ripe, |free| free.max(ripe)))
    }

    /// It was answered, at this cost: a cluster that never rests gets half of a CPU at most.
    fn answered(&mut self, now: Instant, cost: Duration) {
        self.not_before = now.checked_add(cost);
    }
}

impl Cluster {
    fn new(watches: Watches, index: &mut Index, last_good: bool) -> Self {
        let Watches {
            client,
            sources,
            updates,
        } = watches;
        // Of a last good snapshot: what no watch speaks of any more would stay for ever.
        let names: Vec<&str> = sources.iter().map(|(source, _)| source.as_str()).collect();
        index.retain(&names);
        for (source, subject) in &sources {
            // A kind that was not listed is not empty: it is not known.
            index.declare(source, *subject);
            index.unreadable(source, "it has not been listed yet");
        }
        let sources: BTreeSet<String> = sources.into_iter().map(|(source, _)| source).collect();
        Self {
            client,
            updates,
            unread: sources.clone(),
            silent: sources.clone(),
            sources,
            troubled: BTreeMap::new(),
            last_good,
            news: false,
            burst: Burst::default(),
            received: Instant::now(),
        }
    }

    /// Waits until every kind has answered or failed, so that no half view comes into force for a moment.
    async fn first(&mut self, index: &mut Index, patience: Duration) {
        let deadline = Instant::now() + patience;
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
            let ripe = self.burst.ripe();
            tokio::select! {
                biased;
                () = at(ripe) => {
                    if let Some((first, _)) = self.burst.came.take() {
                        self.received = first;
                    }
                    return;
                }
                Some(update) = self.updates.recv() => {
                    if self.take(update, index) {
                        self.burst.stir(Instant::now());
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    /// A kind that was never read is not known, and nothing is refused for it. One that was read and cannot be any more may have changed.
    fn confirmed(&self) -> Result<(), String> {
        let stale = |source: &&String| self.last_good || !self.unread.contains(*source);
        if let Some((source, why)) = self.troubled.iter().find(|(source, _)| stale(source)) {
            return Err(format!("{source}: {why}"));
        }
        match self.unread.first() {
            Some(source) if self.last_good => Err(format!(
                "{source} was not read since the agent began, and the last good snapshot may be stale"
            )),
            _ => Ok(()),
        }
    }

    fn take(&mut self, update: Update, index: &mut Index) -> bool {
        self.silent.remove(&update.source);
        match &update.change {
            Change::Unreadable(why) => drop(self.troubled.insert(update.source.clone(), why.clone())),
            _ => drop(self.troubled.remove(&update.source)),
        }
        if matches!(update.change, Change::Reset { .. }) {
            self.unread.remove(&update.source);
            self.news = true;
        }
        update.tell(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;
    use crate::snapshot::unread::Subject;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Watches of a cluster that takes the connection and never says a word; and the end the watches speak into.
    fn mute() -> (Watches, mpsc::Sender<Update>) {
        let never = |_: http::Request<::kube::client::Body>| {
            std::future::pending::<Result<http::Response<::kube::client::Body>, ::kube::Error>>()
        };
        let (sender, updates) = mpsc::channel(1);
        let watches = Watches {
            client: ::kube::Client::new(tower::service_fn(never), "default"),
            sources: vec![("Kubernetes Service".to_owned(), Subject::Kind(Kind::Service))],
            updates,
        };
        (watches, sender)
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_never_answers_then_waited_for_in_vain_and_far_shorter_with_a_last_good_snapshot()
    {
        for (last_good, waited) in [(true, ms(300)), (false, ms(5000))] {
            let (watches, _sender) = mute();
            let mut index = Index::default();
            let mut cluster = Cluster::new(watches, &mut index, last_good);
            let began = Instant::now();
            cluster.first(&mut index, patience(last_good)).await;
            assert_eq!(began.elapsed(), waited, "last good: {last_good}");
            assert_eq!(cluster.unread, cluster.sources);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_kind_refused_then_no_wait_at_all() {
        let (watches, sender) = mute();
        let mut index = Index::default();
        let mut cluster = Cluster::new(watches, &mut index, true);
        let refused = Update {
            source: "Kubernetes Service".to_owned(),
            change: Change::Unreadable("connection refused".to_owned()),
        };
        sender.send(refused).await.expect("it listens");
        let began = Instant::now();
        cluster.first(&mut index, patience(true)).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_burst_then_answered_after_a_rest_and_after_fifty_milliseconds_at_the_latest() {
        let start = Instant::now();
        let mut burst = Burst::default();
        assert_eq!(burst.ripe(), None);
        burst.stir(start);
        assert_eq!(burst.ripe(), Some(start + ms(10)));
        burst.stir(start + ms(8));
        assert_eq!(burst.ripe(), Some(start + ms(18)));
        burst.stir(start + ms(45));
        assert_eq!(burst.ripe(), Some(start + ms(50)));
    }

    #[test]
    fn an_answer_that_cost_much_then_the_next_one_waits_as_long_and_one_after_a_pause_does_not() {
        let start = Instant::now();
        let mut burst = Burst::default();
        burst.answered(start, ms(400));
        burst.stir(start + ms(1));
        assert_eq!(burst.ripe(), Some(start + ms(400)));
        burst.came = None;
        burst.stir(start + ms(1000));
        assert_eq!(burst.ripe(), Some(start + ms(1010)));
    }
}
