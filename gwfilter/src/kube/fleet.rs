//! All nodes' agents, asked through the API server's pod proxy, with the caller's own kubeconfig and rights.
//!
//! The proxy dials the pod's address and takes `Authorization` out of what it passes on, so a token of audience `gwfilter` goes in a header of
//! our own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::kube::client::Body;
use ::kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Client, Config};
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::config;
use super::review::GWFILTER;
use crate::plugin::Asked;

/// Nodes that are asked at a time.
const AT_A_TIME: usize = 32;
/// How long a token lives, in seconds: the shortest that an API server gives.
const LIFE: u64 = 600;
/// The largest answer that is taken, in bytes.
const LARGEST: usize = 64 << 20;
/// Whose token it is.
const VIEWER: &str = "gwfilter-viewer";
/// What an agent says of a page that it does not have.
const NO_PAGE: &[u8] = b"there is no such page";
/// The name of the port in the pods.
const PORT: &str = "api";

/// Which cluster, and where in it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--kubeconfig`; without it, what kubectl would take.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`.
    pub context: Option<String>,
    /// `-n`.
    pub namespace: String,
    /// `--port`; without it, the pod's own word.
    pub port: Option<u16>,
}

/// Why nobody can be asked, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No kubeconfig.
    #[error(
        "no cluster can be told from the kubeconfig (--kubeconfig, KUBECONFIG, ~/.kube/config; --context)"
    )]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// One that cannot be used.
    #[error("the kubeconfig's address, certificates or token cannot be used")]
    Client(#[source] Box<::kube::Error>),
    /// The API server.
    #[error("the API server cannot be asked for {what}")]
    Ask {
        /// For what.
        what: &'static str,
        /// Why.
        source: Box<::kube::Error>,
    },
    /// No right.
    #[error(
        "you may not {verb} in namespace {namespace} (403): ask for a binding to the Role gwfilter-plugin there, or name another namespace with -n"
    )]
    Forbidden {
        /// What.
        verb: &'static str,
        /// Where.
        namespace: String,
    },
    /// Not installed.
    #[error("there is no {what} in namespace {namespace}: is gwfilter installed there? -n says where")]
    NotThere {
        /// What.
        what: &'static str,
        /// Where.
        namespace: String,
    },
}

/// An agent's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    node: String,
    name: String,
    /// Its port, or why it cannot be asked.
    port: Result<u16, String>,
}

/// The agents of a cluster, and the right to ask them.
pub struct Fleet {
    client: Client,
    token: String,
    namespace: String,
    /// kubectl, as the user would call it for the agents' pods.
    kubectl: String,
    pods: Vec<Pod>,
}

impl Fleet {
    /// Takes a token and lists the agents.
    ///
    /// # Errors
    /// [`FleetError`].
    pub async fn open(settings: &Settings) -> Result<Self, FleetError> {
        let client = client(settings).await?;
        let namespace = settings.namespace.clone();
        let token = token(&client, &namespace).await?;
        let path =
            format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io%2Fname%3Dgwfilter");
        let list = ask(&client, Request::get(path), None, "the agents' pods", &namespace).await?;
        let mut pods: Vec<Pod> = list
            .get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
            .filter_map(|one| pod(one, settings.port))
            .collect();
        pods.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
        if pods.is_empty() {
            let what = "agent";
            return Err(FleetError::NotThere { what, namespace });
        }
        Ok(Self {
            client,
            token,
            kubectl: kubectl(settings),
            namespace,
            pods,
        })
    }

    /// How many agents there are to ask.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::try_from(self.pods.len()).unwrap_or(u64::MAX)
    }

    /// Whether none waits for another one's answer.
    #[must_use]
    pub fn is_asked_at_once(&self) -> bool {
        self.pods.len() <= AT_A_TIME
    }

    /// Puts one question to every agent, each with so much time; in order of the nodes' names. `done` hears how many are through with it.
    pub async fn ask(&self, target: &str, patience: Duration, done: impl Fn(u64)) -> Vec<Asked> {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        let mut tasks = JoinSet::new();
        for (number, pod) in self.pods.iter().cloned().enumerate() {
            let (client, token, places) = (self.client.clone(), self.token.clone(), Arc::clone(&places));
            let base = format!("/api/v1/namespaces/{}/pods/https:{}", self.namespace, pod.name);
            let (target, kubectl) = (target.to_owned(), self.kubectl.clone());
            tasks.spawn(async move {
                let _place = places.acquire().await;
                let answer = match pod.port {
                    Ok(port) => {
                        let path = format!("{base}:{port}/proxy{target}");
                        timeout(patience, one(&client, &path, &token))
                            .await
                            .unwrap_or_else(|_| Err(format!("nothing within {} s", patience.as_secs())))
                    }
                    Err(why) => Err(why),
                };
                let (node, pod) = (pod.node, pod.name);
                let look = format!("{kubectl} describe pod {pod}");
                let asked = Asked {
                    node,
                    pod,
                    look,
                    answer,
                };
                (number, asked)
            });
        }
        let mut all = Vec::new();
        while let Some(one) = tasks.join_next().await {
            match one {
                Ok(one) => all.push(one),
                // As `JoinSet::join_all` does: none is ever cancelled.
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
            done(u64::try_from(all.len()).unwrap_or(u64::MAX));
        }
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, asked)| asked).collect()
    }
}

/// `kubectl` with what leads to the same namespace of the same cluster.
fn kubectl(settings: &Settings) -> String {
    let mut command = "kubectl".to_owned();
    if let Some(file) = &settings.kubeconfig {
        command += &format!(" --kubeconfig {}", file.display());
    }
    if let Some(context) = &settings.context {
        command += &format!(" --context {context}");
    }
    command + &format!(" -n {}", settings.namespace)
}

async fn client(settings: &Settings) -> Result<Client, FleetError> {
    let read = || match &settings.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let wrong = |e| FleetError::Kubeconfig(Box::new(e));
    let options = KubeConfigOptions {
        context: settings.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(read().map_err(wrong)?, &options)
        .await
        .map_err(wrong)?;
    config::build_with_deadlines(config).map_err(|e| FleetError::Client(Box::new(e)))
}

/// A token for the agents and for nothing else.
async fn token(client: &Client, namespace: &str) -> Result<String, FleetError> {
    let what = "a token of the ServiceAccount gwfilter-viewer";
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{VIEWER}/token");
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [GWFILTER], "expirationSeconds": LIFE},
    });
    let answer = ask(client, Request::post(path), Some(&body), what, namespace).await?;
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    let namespace = namespace.to_owned();
    token
        .map(str::to_owned)
        .ok_or(FleetError::NotThere { what, namespace })
}

async fn ask(
    client: &Client,
    request: http::request::Builder,
    body: Option<&Value>,
    what: &'static str,
    namespace: &str,
) -> Result<Value, FleetError> {
    let namespace = namespace.to_owned();
    let failed = |e: ::kube::Error| match e {
        ::kube::Error::Api(status) if status.code == 403 => {
            let verb = if body.is_some() {
                "create serviceaccounts/token of gwfilter-viewer"
            } else {
                "list pods"
            };
            FleetError::Forbidden { verb, namespace }
        }
        ::kube::Error::Api(status) if status.code == 404 => FleetError::NotThere { what, namespace },
        e => FleetError::Ask {
            what,
            source: Box::new(e),
        },
    };
    let bytes = body.map(ToString::to_string).unwrap_or_default().into_bytes();
    let request = request.header(CONTENT_TYPE, "application/json").body(bytes);
    let asked = async {
        client
            .request::<Value>(request.map_err(::kube::Error::HttpError)?)
            .await
    };
    asked.await.map_err(failed)
}

/// One agent's answer, or why there is none.
async fn one(client: &Client, path: &str, token: &str) -> Result<Value, String> {
    let request = Request::get(path)
        .header("X-Gwfilter-Token", token)
        .body(Body::empty())
        .map_err(|e| e.to_string())?;
    let answer = client
        .send(request)
        .await
        .map_err(|e| format!("the API server cannot be asked: {e}"))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    let body = body.map_err(|e| format!("the answer broke off: {e}"))?.to_bytes();
    if !status.is_success() {
        return Err(refusal(status.as_u16(), &body));
    }
    serde_json::from_slice(&body)
        .map_err(|_| "the answer is no JSON: an agent of another version?".to_owned())
}

/// What a refusal means: the API server's own come as a Status, the agent's as a line.
fn refusal(status: u16, body: &[u8]) -> String {
    let words = serde_json::from_slice::<Value>(body).ok();
    let message = words
        .as_ref()
        .and_then(|status| status.get("message"))
        .and_then(Value::as_str);
    match (status, message) {
        (403, Some(_)) => {
            "you may not get pods/proxy (403): ask for a binding to the Role gwfilter-plugin".to_owned()
        }
        (404, Some(_)) => "its pod is gone".to_owned(),
        (_, Some(message)) => {
            let cause = message
                .rsplit("error trying to reach service: ")
                .next()
                .unwrap_or(message);
            format!("the API server cannot reach its agent: {cause}")
        }
        (404, None) if body.trim_ascii() == NO_PAGE => {
            "its agent has no such page: it is of an earlier version".to_owned()
        }
        (_, None) => format!(
            "its agent says {status}: {}",
            String::from_utf8_lossy(body).trim()
        ),
    }
}

/// An agent's pod among those that the API server lists.
fn pod(pod: &Value, port: Option<u16>) -> Option<Pod> {
    let text = |pointer| pod.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name")?.to_owned();
    let node = text("/spec/nodeName").unwrap_or("(no node)").to_owned();
    let containers = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let ports = containers.flat_map(|one| one.get("ports").and_then(Value::as_array).into_iter().flatten());
    let own = ports
        .filter(|one| one.get("name").and_then(Value::as_str) == Some(PORT))
        .find_map(|one| u16::try_from(one.get("containerPort")?.as_u64()?).ok());
    let port = match text("/status/phase") {
        Some("Running") => port
            .or(own)
            .ok_or_else(|| "its pod names no port `api` (apiPort: 0?); --port says which".to_owned()),
        phase => Err(format!("its pod is {}", phase.unwrap_or("in no phase"))),
    };
    Some(Pod { node, name, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_then_its_port_or_why_it_cannot_be_asked() {
        let make = |phase: &str, ports: Value| {
            json!({"metadata": {"name": "gwfilter-x"}, "spec": {"nodeName": "node-1", "containers": [
                {"name": "sidecar"}, {"name": "gwfilter", "ports": ports}]}, "status": {"phase": phase}})
        };
        let api = json!([{"name": "other", "containerPort": 1}, {"name": "api", "containerPort": 9470}]);
        let port = |value: &Value, flag| pod(value, flag).unwrap().port;
        assert_eq!(port(&make("Running", api.clone()), None), Ok(9470));
        assert_eq!(port(&make("Running", api.clone()), Some(7)), Ok(7));
        assert_eq!(port(&make("Running", json!([])), Some(7)), Ok(7));
        assert!(
            port(&make("Running", json!([])), None)
                .unwrap_err()
                .contains("--port")
        );
        assert_eq!(
            port(&make("Pending", api), None),
            Err("its pod is Pending".to_owned())
        );
        assert_eq!(pod(&json!({}), None), None);
    }

    #[test]
    fn a_refusal_then_whose_it_is_and_what_to_do() {
        for (status, body, wanted) in [
            (
                503,
                r#"{"kind":"Status","message":"error trying to reach service: dial tcp 10.0.0.2:9470: connect: connection refused"}"#,
                "the API server cannot reach its agent: dial tcp 10.0.0.2:9470: connect: connection refused",
            ),
            (
                403,
                r#"{"kind":"Status","message":"pods \"x\" is forbidden"}"#,
                "you may not get pods/proxy (403): ask for a binding to the Role gwfilter-plugin",
            ),
            (
                403,
                "its owner has no right to get /v1/status\n",
                "its agent says 403: its owner has no right to get /v1/status",
            ),
            (
                404,
                r#"{"kind":"Status","message":"pods \"x\" not found"}"#,
                "its pod is gone",
            ),
            (
                404,
                "there is no such page\n",
                "its agent has no such page: it is of an earlier version",
            ),
            (
                404,
                "there is no gateway a/b on this node\n",
                "its agent says 404: there is no gateway a/b on this node",
            ),
        ] {
            assert_eq!(refusal(status, body.as_bytes()), wanted);
        }
    }
}
