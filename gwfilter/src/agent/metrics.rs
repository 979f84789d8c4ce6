//! `/metrics`: who may read them, and what they are. Whoever asks without the right learns nothing but that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ::kube::Client;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::api::Shared;
use super::{Agent, disk};
use crate::control::Span;
use crate::dataplane::control::now_ns;
use crate::kube::review::{Guard, Verdict};
use crate::telemetry::chain;
use crate::telemetry::metrics::{Figures, render};

/// The path, on this server and in the right that a reader needs.
pub(super) const PATH: &str = "/metrics";

/// Who decides who may.
#[derive(Debug)]
enum Door {
    /// The API server.
    Cluster(Guard),
    /// Whoever knows what is in this file.
    File(PathBuf),
}

/// Answers for `/metrics`.
#[derive(Debug)]
pub(super) struct Metrics {
    door: Door,
    shared: Arc<Shared>,
    /// What failed last, so that it is told once.
    failure: Mutex<Option<String>>,
}

/// What an answer is, without its body's policy: on any status but 200 there is none.
pub(super) type Answer = (StatusCode, String);

impl Metrics {
    /// Served if there is somebody to decide who may: a file with a token, or a cluster.
    pub(super) fn open(file: Option<PathBuf>, client: Option<&Client>, shared: &Arc<Shared>) -> Option<Self> {
        let door = match (file, client) {
            (Some(file), _) => Some(Door::File(file)),
            (None, Some(client)) => Some(Door::Cluster(Guard::new(client.clone()))),
            (None, None) => None,
        };
        door.map(|door| Self {
            door,
            shared: Arc::clone(shared),
            failure: Mutex::default(),
        })
    }

    pub(super) async fn answer(&self, authorization: Option<&HeaderValue>) -> Answer {
        let Some(token) = authorization.and_then(bearer) else {
            return said(StatusCode::UNAUTHORIZED, "a bearer token is needed");
        };
        match self.decide(token).await {
            Ok(Verdict::Granted) => {}
            Ok(Verdict::Unknown) => return said(StatusCode::UNAUTHORIZED, "the token is not valid"),
            Ok(Verdict::Forbidden) => {
                return said(StatusCode::FORBIDDEN, "its owner has no right to get /metrics");
            }
            Err(why) => {
                self.tell(Some(why));
                return said(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the token cannot be checked now; the agent's log says why",
                );
            }
        }
        self.tell(None);
        match self.shared.figures().await.as_ref().map(render) {
            Ok(Ok(text)) => (StatusCode::OK, text),
            _ => said(StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer"),
        }
    }

    async fn decide(&self, token: &str) -> Result<Verdict, String> {
        match &self.door {
            Door::Cluster(guard) => guard.check(token, PATH).await.map_err(|e| chain(&e)),
            Door::File(path) => {
                let wanted = disk::read(path).map_err(|e| chain(&e))?;
                let wanted = wanted.ok_or_else(|| format!("{}: is not there", path.display()))?;
                let wanted = wanted.trim_ascii();
                if wanted.is_empty() {
                    return Err(format!("{}: is empty", path.display()));
                }
                // Digests, so that the time it takes says nothing of how much of a guess was right.
                let same = Sha256::digest(wanted) == Sha256::digest(token.as_bytes());
                Ok(if same { Verdict::Granted } else { Verdict::Unknown })
            }
        }
    }

    fn tell(&self, failure: Option<String>) {
        let mut last = self
            .failure
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(why) = failure.as_ref().filter(|why| last.as_ref() != Some(why)) {
            warn!(error = why, "nobody gets the metrics: tokens cannot be checked");
        }
        *last = failure;
    }
}

impl Agent {
    /// What is known now.
    pub(super) fn figures(&mut self) -> Figures {
        let (mut leases, mut paused) = (BTreeMap::new(), false);
        if let Ok(words) = self.dataplane.control().words() {
            let now = now_ns();
            for (name, until) in [("node", words.lease), ("pods", words.pod_lease)] {
                match Span::of(now, until) {
                    Span::Forever => {}
                    Span::Over => drop(leases.insert(name, 0.0)),
                    Span::For(left) => drop(leases.insert(name, left.as_secs_f64())),
                }
            }
            paused = Span::of(now, words.paused) != Span::Over;
        }
        let reports = self.enforcer.built().map(|built| built.reports.as_slice());
        let reports = reports.unwrap_or_default().iter();
        Figures {
            generation: self.enforcer.generation(),
            ready: self.ready().is_ok(),
            observe: self.settings.observe,
            gateways: reports
                .map(|report| (report.name.clone(), report.enforced))
                .collect(),
            interfaces: self.interfaces.count(),
            leases,
            paused,
            reading: self.read_counters().map(|(reading, _)| reading).ok(),
        }
    }
}

fn said(status: StatusCode, text: &str) -> Answer {
    (status, text.to_owned())
}

/// The token of `Bearer TOKEN` (RFC 6750); the scheme's case does not matter.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::agent::api::Call;

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    #[test]
    fn a_header_then_its_token_or_none() {
        for (text, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
            ("abc", None),
        ] {
            assert_eq!(bearer(&header(text)), token, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_file_with_a_token_then_only_who_knows_it_gets_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let (shared, mut asked) = Shared::new(None);
        let metrics = Metrics::open(Some(file.clone()), None, &shared).unwrap();
        tokio::spawn(async move {
            while let Some(Call::Figures(answer)) = asked.recv().await {
                let _ = answer.send(Figures::default());
            }
        });
        let status = async |text: Option<&str>| {
            let header = text.map(header);
            let (status, body) = metrics.answer(header.as_ref()).await;
            assert_eq!(body.contains("gwfilter_"), status == StatusCode::OK, "{body}");
            status.as_u16()
        };
        assert_eq!(status(Some("Bearer secret")).await, 503, "no file");
        fs::write(&file, "\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(status(Some("Bearer  ")).await, 401);
        assert_eq!(status(Some("Bearer secret")).await, 503, "an empty file");
        fs::write(&file, "secret\n").unwrap();
        assert_eq!(status(None).await, 401);
        assert_eq!(status(Some("Bearer secre")).await, 401);
        assert_eq!(status(Some("Bearer secret")).await, 200);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(
            status(Some("Bearer secret")).await,
            503,
            "anybody could have written it"
        );
    }

    #[test]
    fn neither_a_file_nor_a_cluster_then_not_served() {
        assert!(Metrics::open(None, None, &Shared::new(None).0).is_none());
    }
}
