//! `/livez` and `/readyz`, for the kubelet, open to all; and the door to `/metrics`. Answers from what the loop has told last, and decides
//! nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info};

use super::metrics::{self, Metrics};
use super::millis;

/// The loop hangs if it has not turned for so long.
const HANGS: Duration = Duration::from_secs(30);
/// One connection, from its beginning to its end.
const CONNECTION: Duration = Duration::from_secs(10);
/// Connections at a time.
const CONNECTIONS: usize = 16;
/// Pause after an address that cannot be had.
const PAUSE: Duration = Duration::from_secs(5);

/// What the loop tells.
#[derive(Debug)]
pub(super) struct Health {
    start: Instant,
    turned_ms: Arc<AtomicU64>,
    ready: watch::Sender<Result<(), String>>,
    metrics: Arc<OnceLock<Option<Metrics>>>,
}

/// What an answer is made of.
#[derive(Clone, Debug)]
struct Board {
    start: Instant,
    turned_ms: Arc<AtomicU64>,
    ready: watch::Receiver<Result<(), String>>,
    /// Not set: the agent starts. None: nobody could decide who may read them.
    metrics: Arc<OnceLock<Option<Metrics>>>,
}

impl Health {
    /// Alive, and not ready yet. With an address, a server is started as a task of the current runtime.
    pub(super) fn new(listen: Option<SocketAddr>) -> Self {
        let (ready, told) = watch::channel(Err("the agent starts".to_owned()));
        let health = Self {
            start: Instant::now(),
            turned_ms: Arc::default(),
            ready,
            metrics: Arc::default(),
        };
        if let Some(address) = listen {
            let board = Board {
                start: health.start,
                turned_ms: Arc::clone(&health.turned_ms),
                ready: told,
                metrics: Arc::clone(&health.metrics),
            };
            tokio::spawn(serve(address, board));
        }
        health
    }

    /// The loop has turned.
    pub(super) fn turned(&self) {
        self.turned_ms
            .store(millis(self.start.elapsed()), Ordering::Relaxed);
    }

    /// Whether the agent is ready; the error says why not.
    pub(super) fn set_ready(&self, ready: Result<(), String>) {
        self.ready.send_if_modified(|old| {
            let changed = *old != ready;
            if changed {
                *old = ready;
            }
            changed
        });
    }

    /// From now on `/metrics` is answered, or does not exist.
    pub(super) fn open(&self, metrics: Option<Metrics>) {
        // Told once, at the end of the start.
        let _ = self.metrics.set(metrics);
    }

    /// What was told last.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.ready.borrow().clone()
    }
}

impl Board {
    fn answer(&self, method: &Method, path: &str) -> (StatusCode, String) {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return (StatusCode::METHOD_NOT_ALLOWED, "GET only".to_owned());
        }
        let verdict = match path {
            "/livez" => self.live(),
            "/readyz" => self
                .ready
                .borrow()
                .as_ref()
                .map_err(|why| no_details(why))
                .copied(),
            _ => return (StatusCode::NOT_FOUND, "there is no such page".to_owned()),
        };
        match verdict {
            Ok(()) => (StatusCode::OK, "ok".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }

    /// The answer to `/metrics`.
    async fn metrics(&self, method: &Method, headers: &HeaderMap) -> (StatusCode, String) {
        match (method, self.metrics.get()) {
            (&Method::GET, Some(Some(metrics))) => metrics.answer(headers).await,
            (&Method::GET, None) => (StatusCode::SERVICE_UNAVAILABLE, "the agent starts".to_owned()),
            _ => self.answer(method, ""),
        }
    }

    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        let (status, mut text) = if path == metrics::PATH {
            self.metrics(method, request.headers()).await
        } else {
            self.answer(method, path)
        };
        let figures = path == metrics::PATH && status == StatusCode::OK;
        if !figures {
            text.push('\n');
        }
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let media = if figures {
            metrics::form(request.headers()).media_type()
        } else {
            "text/plain; charset=utf-8"
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    fn live(&self) -> Result<(), String> {
        let turned = Duration::from_millis(self.turned_ms.load(Ordering::Relaxed));
        let silent = self.start.elapsed().saturating_sub(turned);
        if silent > HANGS {
            return Err(format!("the event loop hangs for {} s", silent.as_secs()));
        }
        Ok(())
    }
}

/// The first words only: causes may name a gateway or a policy, and anybody may ask. The log and `gwfilter status` have all of it.
fn no_details(why: &str) -> String {
    why.split(": ").next().unwrap_or_default().to_owned()
}

/// Answers for ever.
async fn serve(address: SocketAddr, board: Board) {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            // Perhaps an agent that is about to end.
            Err(e) if !told => {
                error!(%address, error = %e, "the health probes cannot be answered; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    };
    if told {
        info!(%address, "the health probes can be answered");
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let board = board.clone();
        tokio::spawn(async move {
            let board = &board;
            let service = service_fn(move |request: Request<Incoming>| async move {
                Ok::<_, Infallible>(board.respond(&request).await)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Who asked and went away has nothing to be told.
            let _ = timeout(CONNECTION, connection).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::agent::api::{Shared, Tokens};

    fn board(health: &Health) -> Board {
        Board {
            start: health.start,
            turned_ms: Arc::clone(&health.turned_ms),
            ready: health.ready.subscribe(),
            metrics: Arc::clone(&health.metrics),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_turns_then_alive_and_one_that_hangs_then_not() {
        let health = Health::new(None);
        let board = board(&health);
        let live = || board.answer(&Method::GET, "/livez").0.as_u16();
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(live(), 200);
        health.turned();
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(live(), 200);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(live(), 503);
        health.turned();
        assert_eq!(live(), 200);
    }

    #[tokio::test]
    async fn what_the_loop_told_then_what_a_probe_sees() {
        let health = Health::new(None);
        let board = board(&health);
        let ask = |method: Method, path: &str| {
            let (status, text) = board.answer(&method, path);
            (status.as_u16(), text)
        };
        assert_eq!(ask(Method::GET, "/readyz").0, 503);
        health.set_ready(Ok(()));
        assert_eq!(ask(Method::HEAD, "/readyz"), (200, "ok".to_owned()));
        health.set_ready(Err("why".to_owned()));
        assert_eq!(ask(Method::GET, "/readyz"), (503, "why".to_owned()));
        health.set_ready(Err("not in force: policy a/b: too large".to_owned()));
        assert_eq!(ask(Method::GET, "/readyz"), (503, "not in force".to_owned()));
        assert_eq!(ask(Method::POST, "/readyz").0, 405);
        assert_eq!(ask(Method::GET, "/other").0, 404);
    }

    #[tokio::test]
    async fn metrics_then_only_where_somebody_decides_who_may_read_them() {
        let health = Health::new(None);
        let ask = async |method: Method| {
            board(&health)
                .metrics(&method, &HeaderMap::new())
                .await
                .0
                .as_u16()
        };
        assert_eq!(ask(Method::GET).await, 503);
        health.open(None);
        assert_eq!(ask(Method::GET).await, 404);
        let health = Health::new(None);
        let ask = async |method: Method| {
            board(&health)
                .metrics(&method, &HeaderMap::new())
                .await
                .0
                .as_u16()
        };
        let tokens = Tokens::new(Some("/nowhere".into()), None).map(Arc::new);
        health.open(Metrics::open(tokens.as_ref(), &Shared::new(None).0));
        assert_eq!(ask(Method::GET).await, 401);
        assert_eq!(ask(Method::POST).await, 405);
    }

    #[tokio::test]
    async fn a_probe_over_a_socket_then_an_answer_and_nonsense_then_none_that_hurts() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let health = Health::new(Some(address));
        health.set_ready(Ok(()));
        for (request, wanted) in [
            ("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK"),
            ("\u{0}\u{1}nonsense\r\n\r\n", "HTTP/1.1 400"),
            (
                "GET /livez?verbose HTTP/1.1\r\nHost: x\r\n\r\n",
                "HTTP/1.1 200 OK",
            ),
        ] {
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut stream = loop {
                match TcpStream::connect(address).await {
                    Ok(stream) => break stream,
                    Err(e) => assert!(Instant::now() < deadline, "{e}"),
                }
                tokio::task::yield_now().await;
            };
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(wanted), "{request:?}: {answer}");
        }
    }
}
