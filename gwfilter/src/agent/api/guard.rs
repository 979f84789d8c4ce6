//! Whose token a question comes with, and whether its owner may ask it. Whoever has no right learns nothing but that.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ::kube::Client;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::reply::Reply;
use super::route::Route;
use crate::agent::disk;
use crate::kube::review::{Audience, Guard, Verdict};
use crate::telemetry::chain;

/// A token of audience `gwfilter`: the API server's pod proxy takes `Authorization` out of what it passes on.
const OWN: HeaderName = HeaderName::from_static("x-gwfilter-token");

/// A refusal: its status, and words for who asked.
pub(in crate::agent) type Refusal = (StatusCode, String);

/// Who decides who may: whoever knows what is in the file reads the metrics; for all else, and without a file, the cluster.
#[derive(Debug)]
pub(in crate::agent) struct Tokens {
    file: Option<PathBuf>,
    cluster: Option<Guard>,
    /// What failed last, so that it is told once.
    failure: Mutex<Option<String>>,
}

/// A token as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    audience: Audience,
}

impl Tokens {
    /// None where there is nobody to decide.
    pub(in crate::agent) fn new(file: Option<PathBuf>, client: Option<&Client>) -> Option<Self> {
        let cluster = client.map(|client| Guard::new(client.clone()));
        (file.is_some() || cluster.is_some()).then_some(Self {
            file,
            cluster,
            failure: Mutex::default(),
        })
    }

    /// Whether who sent these headers may get this route.
    ///
    /// # Errors
    /// Not, or that cannot be told now.
    pub(in crate::agent) async fn check(&self, headers: &HeaderMap, route: Route) -> Result<(), Refusal> {
        let refuse = |status, words: &str| Err((status, words.to_owned()));
        let Some(token) = token(headers) else {
            let words = "a token is needed: Authorization: Bearer TOKEN, or X-Gwfilter-Token: TOKEN of audience gwfilter";
            return refuse(StatusCode::UNAUTHORIZED, words);
        };
        let verdict = match (&self.file, &self.cluster) {
            (Some(file), _) if route == Route::Metrics && token.audience == Audience::ApiServer => {
                of_file(file, token.text)
            }
            (_, Some(guard)) => of_cluster(guard, token, route).await,
            (_, None) => {
                let words = "without a cluster nobody can say whose token this is: only /metrics is answered here, and the rest on the \
                             socket of the node";
                return refuse(StatusCode::FORBIDDEN, words);
            }
        };
        match verdict {
            Ok(verdict) => {
                self.tell(None);
                match verdict {
                    Verdict::Granted => Ok(()),
                    Verdict::Unknown => refuse(StatusCode::UNAUTHORIZED, "the token is not valid"),
                    Verdict::Forbidden => Err((
                        StatusCode::FORBIDDEN,
                        format!("its owner has no right to get {}", route.path()),
                    )),
                }
            }
            Err(why) => {
                self.tell(Some(why));
                let words = "the token cannot be checked now; the agent's log says why";
                refuse(StatusCode::SERVICE_UNAVAILABLE, words)
            }
        }
    }

    fn tell(&self, failure: Option<String>) {
        let mut last = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = failure.as_ref().filter(|why| last.as_ref() != Some(why)) {
            warn!(error = why, "nobody gets the metrics: tokens cannot be checked");
        }
        *last = failure;
    }
}

impl From<Refusal> for Reply {
    fn from((status, words): Refusal) -> Self {
        Self::refuse(status, &words)
    }
}

/// What the API server says. For the metrics a token of our own audience is good in the usual header, too: Prometheus knows no other one,
/// and such a token is of no use to who stands between.
async fn of_cluster(guard: &Guard, token: Token<'_>, route: Route) -> Result<Verdict, String> {
    let mut verdict = guard.check(token.text, token.audience, route.path()).await;
    let usual = route == Route::Metrics && token.audience == Audience::ApiServer;
    if usual && matches!(verdict, Ok(Verdict::Unknown)) {
        verdict = guard.check(token.text, Audience::Gwfilter, route.path()).await;
    }
    verdict.map_err(|e| chain(&e))
}

/// Whether this is what the file holds.
fn of_file(path: &Path, token: &str) -> Result<Verdict, String> {
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

/// The token of a question. Our own header counts first: what stands beside it may be a proxy's.
fn token(headers: &HeaderMap) -> Option<Token<'_>> {
    let own = headers.get(OWN).map(|value| (value, Audience::Gwfilter));
    let (text, audience) = match own {
        Some((value, audience)) => (value.to_str().ok()?.trim(), audience),
        None => (bearer(headers.get(AUTHORIZATION)?)?, Audience::ApiServer),
    };
    (!text.is_empty()).then_some(Token { text, audience })
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

    use serde_json::{Value, json};

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, text)| (name.clone(), HeaderValue::from_str(text).unwrap()))
            .collect()
    }

    #[test]
    fn a_header_then_its_token_or_none() {
        for (text, wanted) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
            ("abc", None),
        ] {
            let headers = headers(&[(AUTHORIZATION, text)]);
            let found = token(&headers);
            assert_eq!(found.map(|token| token.text), wanted, "{text:?}");
            assert!(found.is_none_or(|token| token.audience == Audience::ApiServer));
        }
        let both = headers(&[(AUTHORIZATION, "Bearer abc"), (OWN, "def")]);
        let (text, audience) = ("def", Audience::Gwfilter);
        assert_eq!(token(&both), Some(Token { text, audience }));
        let empty = headers(&[(AUTHORIZATION, "Bearer abc"), (OWN, " ")]);
        assert_eq!(token(&empty), None);
        assert_eq!(token(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn a_file_with_a_token_then_only_who_knows_it_reads_the_metrics_and_nobody_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let tokens = Tokens::new(Some(file.clone()), None).unwrap();
        let status = async |name: HeaderName, text: &str, route| {
            let answer = tokens.check(&headers(&[(name, text)]), route).await;
            answer.map_or_else(|(status, _)| status.as_u16(), |()| 200)
        };
        let metrics = async |text: &str| status(AUTHORIZATION, text, Route::Metrics).await;
        assert_eq!(metrics("Bearer secret").await, 503, "no file");
        fs::write(&file, "\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(metrics("Bearer  ").await, 401);
        assert_eq!(metrics("Bearer secret").await, 503, "an empty file");
        fs::write(&file, "secret\n").unwrap();
        assert_eq!(metrics("").await, 401);
        assert_eq!(metrics("Bearer secre").await, 401);
        assert_eq!(metrics("Bearer secret").await, 200);
        assert_eq!(status(AUTHORIZATION, "Bearer secret", Route::Status).await, 403);
        assert_eq!(status(OWN, "secret", Route::Metrics).await, 403);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let open_to_all = metrics("Bearer secret").await;
        assert_eq!(open_to_all, 503, "anybody could have written it");
    }

    /// A cluster in which `own` is a token for the agents, `usual` one for the API server, and both owners may do everything.
    fn cluster() -> Client {
        use ::kube::client::Body;

        let answer = async |request: http::Request<Body>| {
            let tokens = request.uri().path().ends_with("/tokenreviews");
            let asked = request.into_body().collect_bytes().await?;
            let asked: Value = serde_json::from_slice(&asked).unwrap_or_default();
            let (token, audiences) = (&asked["spec"]["token"], &asked["spec"]["audiences"]);
            let known = *token == if audiences.is_null() { "usual" } else { "own" };
            let status = match tokens {
                true => json!({"authenticated": known, "user": {"username": "u"}, "audiences": audiences}),
                false => json!({"allowed": true}),
            };
            let answer = json!({"status": status}).to_string().into_bytes();
            Ok::<_, ::kube::Error>(http::Response::new(Body::from(answer)))
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn a_token_in_either_header_then_good_for_what_its_audience_is_for() {
        let tokens = Tokens::new(None, Some(&cluster())).unwrap();
        let (own, usual) = ((OWN, "own"), (OWN, "usual"));
        let (own_as_bearer, bearer) = ((AUTHORIZATION, "Bearer own"), (AUTHORIZATION, "Bearer usual"));
        for (header, route, wanted) in [
            (own.clone(), Route::Status, 200),
            (own, Route::Metrics, 200),
            (usual.clone(), Route::Status, 401),
            (usual, Route::Metrics, 401),
            (own_as_bearer.clone(), Route::Status, 401),
            (own_as_bearer, Route::Metrics, 200),
            (bearer.clone(), Route::Status, 200),
            (bearer, Route::Metrics, 200),
        ] {
            let said = headers(&[header]);
            let answer = tokens.check(&said, route).await;
            let status = answer.map_or_else(|(status, _)| status.as_u16(), |()| 200);
            assert_eq!(status, wanted, "{said:?} {route:?}");
        }
    }

    #[test]
    fn neither_a_file_nor_a_cluster_then_nobody_decides() {
        assert!(Tokens::new(None, None).is_none());
    }
}
