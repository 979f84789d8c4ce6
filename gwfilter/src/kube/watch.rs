//! Keeps one kind in step: finds the version that is served, lists, watches, and lists again when history is gone.
//!
//! What fails is tried again for ever. It changes nothing that is known; it is told once it lasts.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::pin::pin;
use std::time::Duration;

use ::kube::api::{ApiResource, DynamicObject};
use ::kube::runtime::watcher::{self, Event, watcher};
use ::kube::{Api, Client, Error};
use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::kinds::Watched;
use super::pace::Pace;
use super::{Change, Update};
use crate::diagnostic::Diagnostic;
use crate::object::{self, Key, Object};
use crate::telemetry::chain;

/// Pause before history that is gone is listed anew.
const GONE: Duration = Duration::from_millis(100);

/// A trouble that was told is over when a list was read and nothing failed for so long: the list may be allowed and the watch not, or
/// the server be on its knees.
const PROBATION: Duration = Duration::from_secs(6);
/// By how much a server that refuses is asked less often than one that is away: somebody has to do something first.
const REFUSED: u32 = 2;

/// Objects that are listed at once.
const PAGE: u32 = 500;
/// The same of kinds with specs of any shape and size: a page is held as trees of values, which take some fifty times what is written.
const CUSTOM_PAGE: u32 = 16;

/// What one attempt failed at.
struct Failure {
    /// As RBAC names it.
    verb: &'static str,
    /// HTTP status, where the server answered.
    status: Option<u16>,
    text: String,
}

impl Failure {
    fn new(verb: &'static str, error: &Error) -> Self {
        let (status, text) = match error {
            Error::Api(status) => (Some(status.code), status.message.clone()),
            _ => (None, chain(error)),
        };
        Self { verb, status, text }
    }

    fn of_watch(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(e) => Self::new("list", e),
            watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => Self::new("watch", e),
            watcher::Error::WatchError(status) => Self {
                verb: "watch",
                status: Some(status.code),
                text: status.message.clone(),
            },
            watcher::Error::NoResourceVersion => Self {
                verb: "list",
                status: None,
                text: error.to_string(),
            },
        }
    }

    /// What failed, and what to do.
    fn told(&self, watched: &Watched) -> String {
        let (verb, resource, text) = (self.verb, watched.resource(), self.text.trim());
        match self.status {
            Some(403) => format!(
                "the API server forbids (403) to {verb} {resource}; allow it in the agent's ClusterRole or Role, \
                 as deploy/base/rbac.yaml does: {text}"
            ),
            Some(401) => format!(
                "the API server does not know (401) the agent's token, so it cannot {verb} {resource}; see that its \
                 ServiceAccount exists: {text}"
            ),
            Some(status) => format!("cannot {verb} {resource}: status {status}: {text}"),
            None => format!("cannot {verb} {resource}: {text}"),
        }
    }
}

/// The receiver is gone.
struct Closed;

struct Follower {
    client: Client,
    watched: Watched,
    updates: Sender<Update>,
    pace: Pace,
    start: Instant,
    /// It was read once.
    known: bool,
    /// Why it cannot be read, as the index knows.
    said: Option<String>,
    /// When a trouble that was told is over, if nothing fails until then.
    over_at: Option<Instant>,
    /// It was found missing, and that was told.
    absent: bool,
    spread: RandomState,
}

/// Keeps one kind in step until nobody listens any more.
pub(super) async fn follow(client: Client, watched: Watched, updates: Sender<Update>) {
    let mut follower = Follower {
        client,
        watched,
        updates,
        pace: Pace::default(),
        start: Instant::now(),
        known: false,
        said: None,
        over_at: None,
        absent: false,
        spread: RandomState::new(),
    };
    while follower.round().await.is_ok() {}
}

impl Follower {
    /// Finds the resource and watches it as long as that goes well.
    async fn round(&mut self) -> Result<(), Closed> {
        match self.find().await {
            Ok(Some(resource)) => self.watch(&resource).await,
            Ok(None) => {
                if !self.absent || self.said.is_some() {
                    self.reset(Vec::new(), Vec::new()).await?;
                    self.over().await?;
                }
                if !self.absent {
                    info!(
                        resource = self.watched.resource(),
                        "the cluster does not have this kind; it is used once it is there"
                    );
                    self.absent = true;
                }
                let spread = self.spread();
                sleep(self.pace.absent(spread)).await;
                Ok(())
            }
            Err(failure) => self.fail(failure).await,
        }
    }

    /// The best version that is served; `None`: the server is ready and has none.
    async fn find(&self) -> Result<Option<ApiResource>, Failure> {
        let watched = &self.watched;
        if !watched.custom {
            return Ok(watched.versions.first().map(|version| resource(watched, version)));
        }
        // A server that starts does not have its CRDs at first: only one that is ready is believed that something is not there.
        for sure in [false, true] {
            if sure && !self.ready().await? {
                return Err(Failure {
                    verb: "discover",
                    status: None,
                    text: "the API server is not ready".to_owned(),
                });
            }
            for version in watched.versions {
                let resource = resource(watched, version);
                match self.client.list_api_group_resources(&resource.api_version).await {
                    Ok(list) if list.resources.iter().any(|r| r.name == watched.plural) => {
                        return Ok(Some(resource));
                    }
                    Ok(_) => {}
                    Err(Error::Api(status)) if status.code == 404 => {}
                    Err(e) => return Err(Failure::new("discover", &e)),
                }
            }
        }
        Ok(None)
    }

    async fn ready(&self) -> Result<bool, Failure> {
        let request = http::Request::get("/readyz").body(Vec::new());
        let request = request.map_err(|e| Failure::new("discover", &Error::HttpError(e)))?;
        let answer = self.client.request_text(request).await;
        answer
            .map(|text| text.trim() == "ok")
            .map_err(|e| Failure::new("discover", &e))
    }

    /// Watches until a trouble lasts or the kind is not there any more: then all is begun anew, so that its end is
    /// seen.
    async fn watch(&mut self, resource: &ApiResource) -> Result<(), Closed> {
        let scope = &self.watched.scope;
        let api: Api<DynamicObject> = match &scope.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        let config = watcher::Config {
            field_selector: scope.fields.clone(),
            label_selector: scope.labels.clone(),
            page_size: Some(if self.watched.custom { CUSTOM_PAGE } else { PAGE }),
            ..watcher::Config::default()
        };
        let mut events = pin!(watcher(api, config));
        let mut listed = (Vec::new(), Vec::new());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = at(self.over_at) => {
                    self.over().await?;
                    continue;
                }
            };
            let Some(event) = event else {
                return Ok(());
            };
            if matches!(event, Ok(Event::Apply(_) | Event::Delete(_))) {
                self.over().await?;
            }
            match event {
                Ok(Event::Init) => listed = (Vec::new(), Vec::new()),
                Ok(Event::InitApply(object)) => {
                    let (objects, diagnostics) = decode(&self.watched, resource, object);
                    listed.0.extend(objects);
                    listed.1.extend(diagnostics);
                }
                Ok(Event::InitDone) => {
                    let (objects, diagnostics) = std::mem::take(&mut listed);
                    self.reset(objects, diagnostics).await?;
                    self.absent = false;
                }
                Ok(Event::Apply(object)) => {
                    let key = self.key(&object);
                    let (mut objects, diagnostics) = decode(&self.watched, resource, object);
                    let change = match objects.pop() {
                        Some(object) => Change::Apply {
                            object: Box::new(object),
                            diagnostics,
                        },
                        None => Change::Delete(key),
                    };
                    self.send(change).await?;
                }
                Ok(Event::Delete(object)) => self.send(Change::Delete(self.key(&object))).await?,
                Err(e) => {
                    let failure = Failure::of_watch(&e);
                    let gone = failure.status == Some(404);
                    self.fail(failure).await?;
                    if gone || self.pace.is_told() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Notes a failure, tells it if it is time, and rests.
    async fn fail(&mut self, failure: Failure) -> Result<(), Closed> {
        // History that is gone is listed anew: that is how watches go.
        if failure.status == Some(410) {
            sleep(GONE).await;
            return Ok(());
        }
        self.over_at = None;
        let ripe = self.pace.failed(self.start.elapsed());
        let why = failure.told(&self.watched);
        if ripe {
            warn!(
                source = self.watched.source,
                reason = why,
                "cannot be read; what is known of it stays in force, and it is tried again"
            );
        }
        if (ripe || !self.known) && self.said.as_ref() != Some(&why) {
            self.said = Some(why.clone());
            self.send(Change::Unreadable(why)).await?;
        }
        let pause = self.pace.pause(self.spread());
        let refused = self.pace.is_told() && matches!(failure.status, Some(401 | 403));
        sleep(if refused { pause * REFUSED } else { pause }).await;
        Ok(())
    }

    async fn reset(&mut self, objects: Vec<Object>, diagnostics: Vec<Diagnostic>) -> Result<(), Closed> {
        self.known = true;
        self.send(Change::Reset { objects, diagnostics }).await?;
        if self.pace.is_told() {
            self.over_at = Some(Instant::now() + PROBATION);
            if let Some(why) = self.said.clone() {
                self.send(Change::Unreadable(why)).await?;
            }
        } else {
            self.pace.worked();
            self.said = None;
        }
        Ok(())
    }

    /// All is well. A trouble that was told is told to be over.
    async fn over(&mut self) -> Result<(), Closed> {
        self.over_at = None;
        if self.pace.worked() {
            self.said = None;
            info!(source = self.watched.source, "can be read again");
            self.send(Change::Readable).await?;
        }
        Ok(())
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        let source = self.watched.source.clone();
        let sent = self.updates.send(Update { source, change }).await;
        sent.map_err(|_| Closed)
    }

    fn key(&self, object: &DynamicObject) -> Key {
        let meta = &object.metadata;
        Key {
            kind: self.watched.kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    fn spread(&self) -> u8 {
        let [first, ..] = self.spread.hash_one(self.start.elapsed()).to_ne_bytes();
        first
    }
}

/// Waits for a moment, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn resource(watched: &Watched, version: &str) -> ApiResource {
    ApiResource {
        group: watched.group.to_owned(),
        version: version.to_owned(),
        api_version: if watched.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", watched.group)
        },
        kind: watched.kind.name().to_owned(),
        plural: watched.plural.to_owned(),
    }
}

/// Items of a list state neither apiVersion nor kind. Who wrote which field is of no interest, and large.
fn decode(
    watched: &Watched,
    resource: &ApiResource,
    mut object: DynamicObject,
) -> (Vec<Object>, Vec<Diagnostic>) {
    object.metadata.managed_fields = None;
    let mut value = match serde_json::to_value(object) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    value.insert("apiVersion".to_owned(), resource.api_version.as_str().into());
    value.insert("kind".to_owned(), resource.kind.as_str().into());
    let (mut objects, diagnostics) = object::decode(&Value::Object(value));
    objects.retain(|object| watched.takes(object));
    (objects, diagnostics)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube::kinds;
    use crate::object::Kind;

    fn watched(kind: Kind) -> Watched {
        let mut all = kinds::all("n", ("istio-system", "istio")).into_iter();
        all.find(|w| w.kind == kind).unwrap()
    }

    fn decoded(kind: Kind, value: Value) -> Vec<Object> {
        let watched = watched(kind);
        let resource = resource(&watched, watched.versions[0]);
        decode(&watched, &resource, serde_json::from_value(value).unwrap()).0
    }

    #[test]
    fn an_item_of_a_list_then_it_is_of_the_kind_that_was_asked_for() {
        let item = json!({"metadata": {"name": "a", "namespace": "b", "resourceVersion": "1"}, "spec": {}});
        let objects = decoded(Kind::AuthorizationPolicy, item);
        assert!(
            matches!(&objects[..], [Object::AuthorizationPolicy(p)] if p.meta.name == "a" && p.meta.namespace == "b"),
            "{objects:?}"
        );
    }

    #[test]
    fn a_malformed_object_then_it_is_known_to_be_there_and_refused() {
        let item = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"ports": 7}});
        let objects = decoded(Kind::Service, item);
        assert!(
            matches!(&objects[..], [Object::Refused(r)] if r.kind == Some(Kind::Service) && r.name.as_deref() == Some("a")),
            "{objects:?}"
        );
    }

    #[test]
    fn a_pod_without_a_node_then_it_is_of_no_source_yet() {
        let pod = |node: Option<&str>| json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"nodeName": node}});
        assert_eq!(decoded(Kind::Pod, pod(None)).len(), 0);
        assert_eq!(decoded(Kind::Pod, pod(Some("n"))).len(), 1);
    }

    #[test]
    fn a_refusal_then_the_verb_the_resource_the_status_and_the_fix_are_named() {
        let failure = |status| Failure {
            verb: "list",
            status,
            text: "no\n".to_owned(),
        };
        let told = failure(Some(403)).told(&watched(Kind::EnvoyFilter));
        assert_eq!(
            told,
            "the API server forbids (403) to list envoyfilters.networking.istio.io; allow it in the agent's \
             ClusterRole or Role, as deploy/base/rbac.yaml does: no"
        );
        let told = failure(None).told(&watched(Kind::Service));
        assert_eq!(told, "cannot list services: no");
    }
}
