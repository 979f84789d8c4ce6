//! The agent's HTTP API: what it knows, for who may know it. `GET` only; it changes nothing.
//!
//! `route` has the routes, `local` the unix socket, `remote` the TCP port, `guard` who may, `newcomer` who has shown no token, `serve` one connection, `course` its limits,
//! `place` work that takes a while, `reply` what an answer is.
//! A connection never touches the agent: it puts a [`Call`] to the event loop and waits for the answer.
//!
//! A new route is a variant of `Route` in `route.rs` with its path and an arm in `Route::answer`, which takes its parameters out of `Params`,
//! ends with `params.end()?`, and gives `Reply::json`, `Reply::text` or `Reply::lines`. What only the loop knows is a variant of [`Call`]
//! with a `oneshot::Sender` for the answer, an arm in `Agent::take`, and `shared.ask(Call::…)` in the route.

mod course;
mod explain;
mod guard;
mod local;
mod newcomer;
mod place;
mod remote;
mod reply;
mod route;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::doctor::Admission;
use super::{Agent, RUN_DIR, aside};
use crate::dataplane::seen::Programs;
use crate::pipeline::Built;
use crate::samples::filter::Filter;
use crate::telemetry::counters::Reading;
use crate::telemetry::metrics::Figures;
pub(super) use guard::Tokens;
use local::Socket;
use remote::Port;
use reply::Reply;
pub(super) use route::Route;

/// How long the loop may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Endless answers at a time, all doors together.
const STREAMS: usize = 8;
/// Readings of the kernel at a time.
const SURVEYS: usize = 2;
/// Questions that wait for the loop.
const CALLS: usize = 4;

/// A question to the loop. Who asked and went away has nothing to be told.
#[derive(Debug)]
pub(super) enum Call {
    /// The figures of `/metrics`.
    Figures(oneshot::Sender<Figures>),
    /// Samples of verdicts, until the receiver is dropped.
    Samples(Filter, oneshot::Sender<mpsc::Receiver<Bytes>>),
    /// The programs that are loaded, by number.
    Programs(oneshot::Sender<Programs>),
    /// The gateways, for the doctor.
    Doctor(oneshot::Sender<Admission>),
    /// The kernel's counters alone; none if they cannot be read.
    Counters(oneshot::Sender<Option<Reading>>),
    /// The generation that is wanted, if there is one yet.
    Built(oneshot::Sender<Option<Built>>),
}

/// What all doors and routes share.
#[derive(Debug)]
pub(super) struct Shared {
    calls: mpsc::Sender<Call>,
    /// `--state-dir`, or where the status is without one.
    state_dir: PathBuf,
    streams: Arc<Semaphore>,
    /// One look of the doctor at a time.
    look: Arc<Semaphore>,
    /// The objects are looked into for one at a time.
    admission: Arc<Semaphore>,
    /// One explanation at a time: each takes the memory of a set of tables.
    explaining: Arc<Semaphore>,
    /// Readings of what is in the kernel, each of thousands of system calls.
    surveying: Arc<Semaphore>,
}

impl Shared {
    /// The receiver is the loop's.
    pub(super) fn new(state_dir: Option<PathBuf>) -> (Arc<Self>, mpsc::Receiver<Call>) {
        let (calls, asked) = mpsc::channel(CALLS);
        let shared = Self {
            calls,
            state_dir: state_dir.unwrap_or_else(|| RUN_DIR.into()),
            streams: Arc::new(Semaphore::new(STREAMS)),
            look: Arc::new(Semaphore::new(1)),
            admission: Arc::new(Semaphore::new(1)),
            explaining: Arc::new(Semaphore::new(1)),
            surveying: Arc::new(Semaphore::new(SURVEYS)),
        };
        (Arc::new(shared), asked)
    }

    /// Asks the loop.
    ///
    /// # Errors
    /// It does not answer in time: what to tell who asked.
    pub(super) async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, Reply> {
        let (sender, answer) = oneshot::channel();
        let asked = timeout(PATIENCE, async {
            self.calls.send(call(sender)).await.ok()?;
            answer.await.ok()
        });
        asked.await.ok().flatten().ok_or_else(silent)
    }

    /// The figures of `/metrics`.
    pub(super) async fn figures(&self) -> Result<Figures, Reply> {
        self.ask(Call::Figures).await
    }
}

fn silent() -> Reply {
    Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer")
}

/// The doors that are open. Closed when this is dropped.
#[derive(Debug)]
pub(super) struct Api {
    _local: Option<Socket>,
    _remote: Option<Port>,
}

impl Api {
    /// Opens the doors, as tasks of the current runtime. One that cannot be opened is told.
    pub(super) fn open(
        listen: Option<SocketAddr>,
        tokens: Option<&Arc<Tokens>>,
        shared: &Arc<Shared>,
    ) -> Self {
        let remote = listen.zip(tokens);
        Self {
            _local: local::open(socket(), shared),
            _remote: remote.and_then(|(at, tokens)| remote::open(at, Arc::clone(tokens), shared)),
        }
    }
}

/// The socket on which the agent of this network namespace answers root.
#[must_use]
pub fn socket() -> PathBuf {
    PathBuf::from(RUN_DIR).join(format!("agent-{}.sock", aside::namespace()))
}

impl Agent {
    /// Answers a question.
    pub(super) fn take(&mut self, call: Call) {
        match call {
            Call::Figures(answer) => drop(answer.send(self.figures())),
            Call::Samples(filter, answer) => drop(answer.send(self.watch_samples(filter))),
            Call::Programs(answer) => drop(answer.send(self.dataplane.programs())),
            Call::Doctor(answer) => drop(answer.send(self.admission())),
            Call::Counters(answer) => {
                drop(answer.send(self.read_counters().ok().map(|(reading, _)| reading)));
            }
            Call::Built(answer) => drop(answer.send(self.enforcer.built().cloned())),
        }
    }
}
