//! Whose token this is, and whether its owner may ask the agent: the API server is asked, and its answer kept for a short time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::kube::Client;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long an answer holds: as long as an API server's own webhooks keep theirs.
const KEPT: Duration = Duration::from_secs(10);
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers that are kept, at most.
const MOST: usize = 64;
/// Questions at a time. Strangers can make the agent ask: they shall not make it flood the API server.
const AT_A_TIME: usize = 2;
/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 << 10;

/// What the API server says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its owner may.
    Granted,
    /// It is nobody's.
    Unknown,
    /// Its owner may not.
    Forbidden,
}

/// Whom a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The API server: what a ServiceAccount's token is for unless something else was asked.
    ApiServer,
    /// [`GWFILTER`]: good for the agents and for nothing else.
    Gwfilter,
}

/// The audience of tokens for the agents.
pub const GWFILTER: &str = "gwfilter";

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The question failed.
    #[error("cannot create {resource}")]
    Ask {
        /// What was to be created.
        resource: &'static str,
        /// Why.
        source: Box<::kube::Error>,
    },
    /// No answer in time.
    #[error("creating {resource} took longer than {} s", PATIENCE.as_secs())]
    Timeout {
        /// What was to be created.
        resource: &'static str,
    },
    /// An answer without what was asked for.
    #[error("the answer to {resource} has no status")]
    Answer {
        /// What was created.
        resource: &'static str,
    },
}

const TOKENS: &str = "tokenreviews";
const ACCESS: &str = "subjectaccessreviews";

/// Answers by digest, and until when each holds.
type Kept = HashMap<[u8; 32], (Instant, Verdict)>;

/// Asks, and remembers.
pub struct Guard {
    client: Client,
    places: Semaphore,
    /// By the token's digest, so that no token lies in memory for longer than its request.
    kept: Mutex<Kept>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Guard {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            places: Semaphore::new(AT_A_TIME),
            kept: Mutex::default(),
        }
    }

    /// Whether the owner of this token may `get` the path on this agent, as a non-resource URL.
    ///
    /// # Errors
    /// The API server does not say. Then nobody may.
    pub async fn check(&self, token: &str, audience: Audience, path: &str) -> Result<Verdict, ReviewError> {
        if token.is_empty() || token.len() > LONGEST {
            return Ok(Verdict::Unknown);
        }
        let digest = digest(token, audience, path);
        if let Some(verdict) = self.remembered(&digest) {
            return Ok(verdict);
        }
        let Ok(_place) = self.places.acquire().await else {
            return Err(ReviewError::Timeout { resource: TOKENS });
        };
        // Perhaps who waited before has asked the same.
        if let Some(verdict) = self.remembered(&digest) {
            return Ok(verdict);
        }
        let verdict = self.ask(token, audience, path).await?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        keep(&mut kept, digest, verdict, Instant::now());
        Ok(verdict)
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Verdict> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(digest)
            .filter(|(until, _)| *until > Instant::now())
            .map(|(_, verdict)| *verdict)
    }

    async fn ask(&self, token: &str, audience: Audience, path: &str) -> Result<Verdict, ReviewError> {
        let answer = self
            .create("authentication.k8s.io", TOKENS, &whose(token, audience))
            .await?;
        let Some(user) = owner(&answer, audience)? else {
            return Ok(Verdict::Unknown);
        };
        let question = may_get(&user, path);
        let answer = self.create("authorization.k8s.io", ACCESS, &question).await?;
        granted(&answer)
    }

    async fn create(&self, group: &str, resource: &'static str, body: &Value) -> Result<Value, ReviewError> {
        let failed = |e: ::kube::Error| ReviewError::Ask {
            resource,
            source: Box::new(e),
        };
        let request = http::Request::post(format!("/apis/{group}/v1/{resource}"))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|e| failed(::kube::Error::HttpError(e)))?;
        match timeout(PATIENCE, self.client.request::<Value>(request)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(ReviewError::Timeout { resource }),
        }
    }
}

/// Remembers an answer, if there is room. What was said of nobody's token makes room for all else: strangers can send as many of those as they
/// like, and whoever has a right shall not wait behind them each time.
fn keep(kept: &mut Kept, digest: [u8; 32], verdict: Verdict, now: Instant) {
    kept.retain(|_, (until, _)| *until > now);
    if kept.len() >= MOST && verdict != Verdict::Unknown {
        let mut nobodys = kept
            .iter()
            .filter(|(_, (_, verdict))| *verdict == Verdict::Unknown);
        if let Some(nobodys) = nobodys.next().map(|(digest, _)| *digest) {
            kept.remove(&nobodys);
        }
    }
    if kept.len() < MOST {
        kept.insert(digest, (now + KEPT, verdict));
    }
}

fn digest(token: &str, audience: Audience, path: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(audience == Audience::Gwfilter)]);
    hash.update(path.as_bytes());
    hash.update([0]);
    hash.update(token.as_bytes());
    hash.finalize().into()
}

/// The TokenReview of a token.
fn whose(token: &str, audience: Audience) -> Value {
    let spec = match audience {
        Audience::ApiServer => json!({"token": token}),
        Audience::Gwfilter => json!({"token": token, "audiences": [GWFILTER]}),
    };
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec})
}

/// The owner in a TokenReview that was answered: `status.user` where `status.authenticated` is true and, where an audience was asked for, it is
/// named: an authenticator that knows no audiences leaves it out.
fn owner(answer: &Value, audience: Audience) -> Result<Option<Value>, ReviewError> {
    let status = answer.get("status").filter(|status| status.is_object());
    let status = status.ok_or(ReviewError::Answer { resource: TOKENS })?;
    if status.get("authenticated").and_then(Value::as_bool) != Some(true) {
        return Ok(None);
    }
    let named = || {
        let audiences = status.get("audiences").and_then(Value::as_array);
        audiences.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(GWFILTER)))
    };
    if audience == Audience::Gwfilter && !named() {
        return Ok(None);
    }
    // Without a name it is nobody's, whatever else is said.
    let user = status.get("user").filter(|user| {
        user.get("username")
            .and_then(Value::as_str)
            .is_some_and(|name| !name.is_empty())
    });
    Ok(user.cloned())
}

/// The SubjectAccessReview of an owner, as a TokenReview names one.
fn may_get(user: &Value, path: &str) -> Value {
    let mut spec = json!({"nonResourceAttributes": {"path": path, "verb": "get"}});
    for (to, from) in [
        ("user", "username"),
        ("uid", "uid"),
        ("groups", "groups"),
        ("extra", "extra"),
    ] {
        if let (Some(value), Value::Object(spec)) = (user.get(from), &mut spec) {
            spec.insert(to.to_owned(), value.clone());
        }
    }
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
}

fn granted(answer: &Value) -> Result<Verdict, ReviewError> {
    let status = answer.get("status").filter(|status| status.is_object());
    let status = status.ok_or(ReviewError::Answer { resource: ACCESS })?;
    let is = |key| status.get(key).and_then(Value::as_bool) == Some(true);
    Ok(if is("allowed") && !is("denied") {
        Verdict::Granted
    } else {
        Verdict::Forbidden
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_review_then_an_owner_only_where_it_is_said() {
        let owner = |status: Value| owner(&json!({"status": status}), Audience::ApiServer).unwrap();
        let user = json!({"username": "u", "groups": ["g"]});
        assert_eq!(
            owner(json!({"authenticated": true, "user": user})),
            Some(user.clone())
        );
        assert_eq!(owner(json!({"authenticated": false, "user": user})), None);
        assert_eq!(owner(json!({"user": user})), None);
        assert_eq!(owner(json!({"authenticated": "true", "user": user})), None);
        assert_eq!(owner(json!({"authenticated": true})), None);
        assert_eq!(
            owner(json!({"authenticated": true, "user": {"username": ""}})),
            None
        );
        for nothing in [json!({}), json!({"status": null}), json!({"status": []})] {
            super::owner(&nothing, Audience::ApiServer).unwrap_err();
            granted(&nothing).unwrap_err();
        }
    }

    #[test]
    fn an_audience_was_asked_for_then_an_owner_only_where_it_is_named() {
        assert_eq!(
            whose("t", Audience::Gwfilter)["spec"]["audiences"],
            json!(["gwfilter"])
        );
        assert_eq!(whose("t", Audience::ApiServer)["spec"], json!({"token": "t"}));
        for (audiences, wanted) in [
            (json!(["gwfilter"]), true),
            (json!(["other", "gwfilter"]), true),
            (json!(["https://kubernetes.default.svc"]), false),
            (json!([]), false),
            (json!("gwfilter"), false),
            (json!(null), false),
        ] {
            let status = json!({"authenticated": true, "user": {"username": "u"}, "audiences": audiences});
            let found = owner(&json!({"status": status}), Audience::Gwfilter).unwrap();
            assert_eq!(found.is_some(), wanted, "{audiences}");
        }
    }

    #[test]
    fn strangers_tokens_in_all_places_then_one_with_a_right_still_kept() {
        let now = Instant::now();
        let mut kept = Kept::new();
        let name = |number: usize| digest(&number.to_string(), Audience::Gwfilter, "/");
        for number in 0..2 * MOST {
            keep(&mut kept, name(number), Verdict::Unknown, now);
        }
        assert_eq!(kept.len(), MOST);
        for number in 3 * MOST..4 * MOST {
            keep(&mut kept, name(number), Verdict::Granted, now);
            assert_eq!(kept.get(&name(number)), Some(&(now + KEPT, Verdict::Granted)));
        }
        // Who has a right makes no room for another, and for no stranger.
        for verdict in [Verdict::Granted, Verdict::Unknown] {
            keep(&mut kept, name(5 * MOST), verdict, now);
            assert!(!kept.contains_key(&name(5 * MOST)) && kept.len() == MOST);
        }
        keep(&mut kept, name(5 * MOST), Verdict::Granted, now + KEPT);
        assert_eq!(kept.len(), 1, "the others hold no longer");
    }

    #[test]
    fn an_access_review_then_granted_only_where_it_is_said() {
        let granted = |status: Value| granted(&json!({"status": status})).unwrap();
        assert_eq!(granted(json!({"allowed": true})), Verdict::Granted);
        for status in [
            json!({}),
            json!({"allowed": false}),
            json!({"allowed": "true"}),
            json!({"allowed": true, "denied": true}),
        ] {
            assert_eq!(granted(status.clone()), Verdict::Forbidden, "{status}");
        }
    }

    #[test]
    fn an_owner_then_a_question_with_all_that_rights_may_hang_on() {
        let user = json!({"username": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}});
        let spec = may_get(&user, "/metrics")["spec"].clone();
        assert_eq!(
            spec,
            json!({
                "user": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]},
                "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
            })
        );
    }
}
