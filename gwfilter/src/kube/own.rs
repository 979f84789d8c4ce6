//! The agent's own DaemonSet and namespace, watched from the start, and asked once more at the end.
//!
//! `kubectl delete -k` takes the agent's rights away before the DaemonSet, and both before the pod is told to end. By then only a watch
//! that was open already can tell of the deletion; so it is open from the start. What follows from it is not decided here.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use ::kube::api::{ApiResource, DynamicObject};
use ::kube::runtime::watcher::{self, Event, watcher};
use ::kube::{Api, Client, Error};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use crate::placement::{self, Fate};

/// How long the answer to the last question may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a deletion may be on its way when the agent's rights are gone already.
const LAST_WORD: Duration = Duration::from_secs(5);
/// Pause after a watch that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Name of a DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a watch has told last.
#[derive(Clone, Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    There(Box<Value>),
    Gone,
}

/// Watches both objects.
#[derive(Debug)]
pub struct OwnDaemonSet {
    api: Api<DynamicObject>,
    name: Name,
    daemonset: watch::Receiver<Seen>,
    namespace: watch::Receiver<Seen>,
}

impl OwnDaemonSet {
    /// Opens the watches, as tasks of the current runtime.
    #[must_use]
    pub fn open(client: &Client, name: Name) -> Self {
        let daemonsets = resource("apps", "DaemonSet", "daemonsets");
        let namespaces = resource("", "Namespace", "namespaces");
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &name.namespace, &daemonsets);
        let (daemonset_tell, daemonset) = watch::channel(Seen::default());
        let (namespace_tell, namespace) = watch::channel(Seen::default());
        tokio::spawn(follow(api.clone(), name.name.clone(), daemonset_tell, true));
        let all = Api::all_with(client.clone(), &namespaces);
        tokio::spawn(follow(all, name.namespace.clone(), namespace_tell, false));
        Self {
            api,
            name,
            daemonset,
            namespace,
        }
    }

    /// What becomes of the DaemonSet, asked when the agent is told to end. Takes up to seven seconds.
    pub async fn fate(&mut self, node: &str, labels: Option<&BTreeMap<String, String>>) -> Fate {
        if let Some(end) = self.end(node, labels) {
            return end;
        }
        match timeout(ANSWER, self.api.get_opt(&self.name.name)).await {
            Ok(Ok(Some(set))) => {
                let set = serde_json::to_value(set).unwrap_or_default();
                of(&set, node, labels).unwrap_or(Fate::Stays)
            }
            Ok(Ok(None)) => Fate::Gone,
            Ok(Err(Error::Api(status))) if matches!(status.code, 401 | 403) => {
                self.last_word(node, labels).await
            }
            Ok(Err(_)) | Err(_) => Fate::Unknown,
        }
    }

    /// The rights are gone; the deletion may be on its way.
    async fn last_word(&mut self, node: &str, labels: Option<&BTreeMap<String, String>>) -> Fate {
        let deadline = Instant::now() + LAST_WORD;
        loop {
            if let Some(end) = self.end(node, labels) {
                return end;
            }
            let news = async {
                tokio::select! {
                    news = self.daemonset.changed() => news,
                    news = self.namespace.changed() => news,
                }
            };
            match timeout_at(deadline, news).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Fate::Unknown,
            }
        }
    }

    /// What the watches told, if that is an end.
    fn end(&mut self, node: &str, labels: Option<&BTreeMap<String, String>>) -> Option<Fate> {
        match &*self.namespace.borrow_and_update() {
            Seen::Gone => return Some(Fate::NamespaceDeleting),
            Seen::There(namespace) if placement::deleted(namespace) => return Some(Fate::NamespaceDeleting),
            Seen::There(_) | Seen::Nothing => {}
        }
        match &*self.daemonset.borrow_and_update() {
            Seen::Gone => Some(Fate::Gone),
            Seen::There(set) => of(set, node, labels),
            Seen::Nothing => None,
        }
    }
}

/// `None`: it wants a pod.
fn of(set: &Value, node: &str, labels: Option<&BTreeMap<String, String>>) -> Option<Fate> {
    Some(placement::fate(set, node, labels)).filter(|fate| *fate != Fate::Stays)
}

fn resource(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: if group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{group}/v1")
        },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Follows one object until nobody listens any more. What it told last stays while it fails.
async fn follow(api: Api<DynamicObject>, name: String, tell: watch::Sender<Seen>, loud: bool) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher(api, config));
    let mut listed = Seen::Gone;
    let mut failing = false;
    let there = |object: DynamicObject| {
        serde_json::to_value(object).map_or(Seen::Nothing, |value| Seen::There(Box::new(value)))
    };
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tell.closed() => return,
        };
        match event {
            None => return,
            Some(Ok(Event::Init)) => listed = Seen::Gone,
            Some(Ok(Event::InitApply(object))) => listed = there(object),
            Some(Ok(Event::InitDone)) => {
                if loud && matches!(listed, Seen::Gone) {
                    warn!(
                        daemonset = name,
                        "the agent's own DaemonSet is not there; when the agent is told to end, it takes enforcement off"
                    );
                }
                if std::mem::take(&mut failing) && loud {
                    info!(daemonset = name, "the agent's own DaemonSet can be read again");
                }
                tell.send_replace(listed.clone());
            }
            Some(Ok(Event::Apply(object))) => {
                tell.send_replace(there(object));
            }
            Some(Ok(Event::Delete(_))) => {
                if loud {
                    info!(daemonset = name, "the agent's own DaemonSet is deleted");
                }
                tell.send_replace(Seen::Gone);
            }
            Some(Err(error)) => {
                let refused = match &error {
                    watcher::Error::InitialListFailed(Error::Api(status))
                    | watcher::Error::WatchStartFailed(Error::Api(status)) => status.code == 403,
                    _ => false,
                };
                if loud && refused && !failing {
                    warn!(
                        daemonset = name,
                        "the API server forbids (403) to watch the agent's own DaemonSet, so an uninstallation leaves enforcement on; allow \
                         it as deploy/base/rbac.yaml does"
                    );
                    failing = true;
                }
                sleep(PAUSE).await;
            }
        }
    }
}
