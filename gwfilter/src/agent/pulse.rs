//! Asks time and again whether the view of the policies still holds: of manifests that is known from reading them, of a cluster the API
//! server is asked. Decides nothing.

use std::time::Duration;

use ::kube::api::ListParams;
use ::kube::{Api, Client, Error};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::dataplane::control::now_ns;
use crate::telemetry::chain;

/// The longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// One answer.
#[derive(Debug)]
pub(super) struct Beat {
    /// When it was asked, in nanoseconds of the monotonic clock: what came later may be stale by now.
    pub(super) at: u64,
    /// Whether somebody answered; else why not, and what to do.
    pub(super) answer: Result<(), String>,
}

/// Where the answers come from.
pub(super) enum Pulse {
    /// The manifests are read in the same loop.
    Here(Interval),
    /// A task asks the API server; it ends with the receiver.
    Server(mpsc::Receiver<Beat>),
}

impl Pulse {
    /// Begins to ask. `client`: the API server's, with the name of this node.
    pub(super) fn start(period: Duration, client: Option<(&Client, &str)>) -> Self {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        match client {
            None => Self::Here(ticks),
            Some((client, node)) => {
                // None waits: an answer that nobody took is of no use later.
                let (sender, receiver) = mpsc::channel(1);
                tokio::spawn(ask_all(Api::all(client.clone()), node.to_owned(), ticks, sender));
                Self::Server(receiver)
            }
        }
    }

    /// The next answer. Nothing is lost if it is not waited for to the end.
    pub(super) async fn next(&mut self) -> Beat {
        match self {
            Self::Here(ticks) => {
                ticks.tick().await;
                Beat {
                    at: now_ns(),
                    answer: Ok(()),
                }
            }
            Self::Server(beats) => match beats.recv().await {
                Some(beat) => beat,
                None => std::future::pending().await,
            },
        }
    }
}

async fn ask_all(nodes: Api<Node>, node: String, mut ticks: Interval, sender: mpsc::Sender<Beat>) {
    loop {
        ticks.tick().await;
        let at = now_ns();
        let answer = ask(&nodes, &node).await;
        if sender.send(Beat { at, answer }).await.is_err() {
            return;
        }
    }
}

/// A list of one node by name is one read of one key at the server, by a right that the watches need too.
async fn ask(nodes: &Api<Node>, node: &str) -> Result<(), String> {
    let only = ListParams::default().fields(&format!("metadata.name={node}"));
    match timeout(ANSWER, nodes.list_metadata(&only)).await {
        Ok(Ok(_)) => Ok(()),
        // It knows the agent, and forbids this. Whether what was watched may still be is told by the watches.
        Ok(Err(Error::Api(status))) if status.code == 403 => Ok(()),
        Ok(Err(Error::Api(status))) => Err(format!(
            "the API server answers with status {}: {}",
            status.code,
            status.message.trim()
        )),
        Ok(Err(e)) => Err(format!("the API server cannot be reached: {}", chain(&e))),
        Err(_) => Err(format!(
            "the API server did not answer within {} s",
            ANSWER.as_secs()
        )),
    }
}
