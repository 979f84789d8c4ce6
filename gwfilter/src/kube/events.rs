//! Writes Events. What is said, under which name and how often is `notice`'s to decide.
//!
//! An Event that is there already was said by another node, or by an earlier agent: that is no failure. What cannot be written is tried
//! again as long as the API server is away, and told once; nothing waits for it.

use std::time::Duration;

use ::kube::{Client, Error};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::diagnostic::ObjectRef;
use crate::notice::{self, Notice};
use crate::telemetry::chain;

/// Events that wait to be written, at most.
const WAITING: usize = 64;
/// How long the server may take for one request.
const ANSWER: Duration = Duration::from_secs(10);
/// Pause after a server that does not answer.
const PAUSE: Duration = Duration::from_secs(10);

/// Who speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reporter {
    /// The node.
    pub node: String,
    /// The agent's pod; empty where it is in none.
    pub pod: String,
}

/// Takes what is to be said.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Sender<(ObjectRef, Notice)>,
    full: bool,
}

/// Why an Event is not written.
enum Failure {
    /// The server does not answer; it may do so later.
    Away(String),
    /// It answers, and refuses.
    Refused(String),
}

impl Events {
    /// Starts the writer, as a task of the current runtime.
    #[must_use]
    pub fn open(client: Client, reporter: Reporter) -> Self {
        let (queue, notices) = mpsc::channel(WAITING);
        tokio::spawn(write_all(client, reporter, notices));
        Self { queue, full: false }
    }

    /// Has it said.
    pub fn say(&mut self, object: ObjectRef, notice: Notice) {
        let full = self.queue.try_send((object, notice)).is_err();
        if full && !self.full {
            warn!("more Events are to be written than the API server takes; some are left out");
        }
        self.full = full;
    }
}

async fn write_all(client: Client, reporter: Reporter, mut notices: mpsc::Receiver<(ObjectRef, Notice)>) {
    let mut failing = false;
    while let Some((object, notice)) = notices.recv().await {
        loop {
            let failure = match timeout(ANSWER, write(&client, &reporter, &object, &notice)).await {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure),
                Err(_) => Some(Failure::Away("no answer in time".to_owned())),
            };
            let (reason, again) = match failure {
                None => {
                    if std::mem::take(&mut failing) {
                        info!("Events can be written again");
                    }
                    break;
                }
                Some(Failure::Away(reason)) => (reason, true),
                Some(Failure::Refused(reason)) => (reason, false),
            };
            if !std::mem::replace(&mut failing, true) {
                warn!(
                    %object,
                    reason,
                    "an Event cannot be written; the log says the same, and nothing else depends on it"
                );
            }
            if !again {
                break;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Group, versions and resource of what is spoken of.
fn paths(kind: &str) -> (&'static str, &'static [&'static str], &'static str) {
    match kind {
        "AuthorizationPolicy" => (
            "apis",
            &["security.istio.io/v1", "security.istio.io/v1beta1"],
            "authorizationpolicies",
        ),
        _ => ("api", &["v1"], "services"),
    }
}

async fn write(
    client: &Client,
    reporter: &Reporter,
    object: &ObjectRef,
    notice: &Notice,
) -> Result<(), Failure> {
    let Some((api_version, found)) = find(client, object).await? else {
        // Deleted meanwhile, or pods that no Service leads to.
        return Ok(());
    };
    let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let now = jiff::Timestamp::now();
    let now = format!("{now:.0}");
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": object.namespace, "name": notice::event_name(object, notice)},
        "involvedObject": {
            "apiVersion": api_version,
            "kind": object.kind,
            "namespace": object.namespace,
            "name": object.name,
            // Without it, `kubectl describe` does not show the Event.
            "uid": text("/metadata/uid"),
            "resourceVersion": text("/metadata/resourceVersion"),
        },
        "reason": notice.reason,
        "message": notice.message,
        "type": if notice.warning { "Warning" } else { "Normal" },
        "source": {"component": "gwfilter", "host": reporter.node},
        "reportingComponent": "gwfilter",
        "reportingInstance": reporter.pod,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let request = http::Request::post(format!("/api/v1/namespaces/{}/events", object.namespace))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(event.to_string().into_bytes());
    let request = request.map_err(|e| Failure::Refused(e.to_string()))?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.code == 409 => Ok(()),
        Err(e) => Err(failure("create", "events", &e)),
    }
}

/// The object's version and the object, for its uid. There is no right to get one; a list of one will do.
async fn find(client: &Client, object: &ObjectRef) -> Result<Option<(&'static str, Value)>, Failure> {
    let legal = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    };
    if !legal(&object.namespace) || !legal(&object.name) {
        return Ok(None);
    }
    let (root, versions, plural) = paths(&object.kind);
    for api_version in versions {
        let path = format!(
            "/{root}/{api_version}/namespaces/{}/{plural}?fieldSelector=metadata.name%3D{}",
            object.namespace, object.name
        );
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|e| Failure::Refused(e.to_string()))?;
        match client.request::<Value>(request).await {
            Ok(list) => {
                let first = list.pointer("/items/0").cloned();
                return Ok(first.map(|first| (*api_version, first)));
            }
            Err(Error::Api(status)) if status.code == 404 => {}
            Err(e) => return Err(failure("list", plural, &e)),
        }
    }
    Ok(None)
}

fn failure(verb: &str, resource: &str, error: &Error) -> Failure {
    match error {
        Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            Failure::Refused(format!(
                "cannot {verb} {resource}: status {}: {}",
                status.code, status.message
            ))
        }
        other => Failure::Away(format!("cannot {verb} {resource}: {}", chain(other))),
    }
}
