//! One connection: one question, its limits, and the answer.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::Shared;
use super::course::{Course, Noted};
use super::guard::Tokens;
use super::newcomer::Newcomer;
use super::reply::{Reply, Stream};
use super::route::Route;
use crate::params::Params;

/// From the connection to the end of the question, and from the answer's making to its last byte.
const EACH_WAY: Duration = Duration::from_secs(10);
/// From the connection to the end of the question's head, where strangers come.
const HURRY: Duration = Duration::from_secs(2);
/// The longest head of a question, in bytes: a token of a cluster has about one and a half thousand.
const HEAD: usize = 32 << 10;

/// Who may ask.
#[derive(Debug)]
pub(super) enum Door {
    /// Who comes in is root of this node.
    Root,
    /// Who comes in has a token.
    Token(Arc<Tokens>),
}

/// Answers one question; `newcomer` is dropped when who asks has shown that he may.
pub(super) async fn connection<I>(io: I, door: &Door, newcomer: Option<Newcomer>, shared: &Arc<Shared>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let head = match door {
        Door::Root => EACH_WAY,
        Door::Token(_) => HURRY,
    };
    let course = &Course::new(Instant::now() + EACH_WAY, newcomer);
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(respond(&request, door, shared, course).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Noted { io, course }), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // Who asked and went away has nothing to be told.
        _ = &mut connection => {}
        () = course.over() => {}
    }
}

async fn respond(
    request: &Request<Incoming>,
    door: &Door,
    shared: &Arc<Shared>,
    course: &Course,
) -> Response<Stream> {
    let reply = match question(request, door).await {
        Ok((route, params)) => {
            course.known();
            let patience = route.patience();
            course.set(Some(Instant::now() + patience + EACH_WAY));
            let answer = timeout(patience, route.answer(params, shared));
            answer.await.unwrap_or_else(|_| super::silent())
        }
        Err(refusal) => refusal,
    };
    if !reply.is_endless() {
        course.set(Some(Instant::now() + EACH_WAY));
        return reply.into_response(None);
    }
    let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let words = "too many listen already: end a `gwfilter monitor` or `top` on this node";
        return Reply::refuse(StatusCode::TOO_MANY_REQUESTS, words).into_response(None);
    };
    course.set(None);
    reply.into_response(Some(place))
}

/// Bytes of a question's head, but for its line ends and the separators of its fields.
fn length_of_head<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let query = uri.query().map_or(0, str::len);
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len());
    uri.path().len() + query + fields.sum::<usize>()
}

async fn question(request: &Request<Incoming>, door: &Door) -> Result<(Route, Params), Reply> {
    // hyper's own bound is one of its buffer: a head that comes in one read may be longer.
    if length_of_head(request) > HEAD {
        let words = "the head is too large: 32 KiB at most";
        return Err(Reply::refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, words));
    }
    if request.method() != Method::GET {
        return Err(Reply::refuse(StatusCode::METHOD_NOT_ALLOWED, "GET only"));
    }
    let route = Route::at(request.uri().path())
        .ok_or_else(|| Reply::refuse(StatusCode::NOT_FOUND, "there is no such page"))?;
    if let Door::Token(tokens) = door {
        tokens.check(request.headers(), route).await?;
    }
    let params = Params::parse(request.uri().query().unwrap_or_default())?;
    Ok((route, params))
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;
    use crate::agent::api::Call;

    /// A question for samples, and the sender of its lines.
    async fn listening() -> (tokio::io::DuplexStream, mpsc::Sender<Bytes>) {
        let (mut asker, io) = tokio::io::duplex(4096);
        let (shared, mut calls) = Shared::new(None);
        tokio::spawn(async move { connection(io, &Door::Root, None, &shared).await });
        let question = b"GET /v1/samples HTTP/1.1\r\nhost: agent\r\n\r\n";
        asker.write_all(question).await.unwrap();
        let Some(Call::Samples(_, answer)) = calls.recv().await else {
            panic!("no question");
        };
        let (lines, receiver) = mpsc::channel(64);
        answer.send(receiver).unwrap();
        (asker, lines)
    }

    #[test]
    fn a_head_in_one_read_then_its_length_is_counted() {
        let request = Request::get("http://agent/v1/status?wide=1")
            .header("x-large", "x".repeat(100))
            .body(())
            .unwrap();
        assert_eq!(
            length_of_head(&request),
            "/v1/status".len() + "wide=1".len() + "x-large".len() + 100
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_too_large_then_refused_in_however_many_reads() {
        for buffer in [4096, 1 << 20] {
            let (mut asker, io) = tokio::io::duplex(buffer);
            let (shared, _calls) = Shared::new(None);
            tokio::spawn(async move { connection(io, &Door::Root, None, &shared).await });
            let field = "x".repeat(HEAD + 1);
            let question = format!("GET /v1/status HTTP/1.1\r\nhost: agent\r\nx: {field}\r\n\r\n");
            // The answer may come before the whole question went.
            let _ = asker.write_all(question.as_bytes()).await;
            let mut text = String::new();
            let _ = asker.read_to_string(&mut text).await;
            assert!(text.starts_with("HTTP/1.1 431 "), "{buffer}: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_tell_then_an_empty_line_now_and_then() {
        let (mut asker, lines) = listening().await;
        let start = Instant::now();
        let mut text = String::new();
        while !text.ends_with("1\r\n\n\r\n1\r\n\n\r\n") {
            let mut bytes = [0; 256];
            let length = timeout(EACH_WAY * 10, asker.read(&mut bytes))
                .await
                .unwrap()
                .unwrap();
            text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        assert_eq!(start.elapsed().as_secs(), 30, "{text}");
        assert!(!lines.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_then_no_listener_after_half_a_minute() {
        let (asker, lines) = listening().await;
        let start = Instant::now();
        let line = Bytes::from(vec![b'x'; 1024]);
        while let Ok(sent) = timeout(EACH_WAY * 10, lines.send(line.clone())).await {
            if sent.is_err() {
                break;
            }
        }
        assert!(lines.is_closed(), "sampling goes on for who does not read");
        assert!(
            (30..=32).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
        drop(asker);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_then_still_a_listener() {
        let (mut asker, lines) = listening().await;
        let start = Instant::now();
        let flood = async { while lines.send(Bytes::from(vec![b'x'; 1024])).await.is_ok() {} };
        let reader = async {
            let mut bytes = [0; 4096];
            while start.elapsed() < Duration::from_secs(300) {
                assert!(asker.read(&mut bytes).await.unwrap() > 0);
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        tokio::select! {
            () = flood => panic!("dropped"),
            () = reader => {}
        }
    }

    /// What a question at a door is answered with, and the connection.
    async fn ask(door: Door, path: &str, shared: &Arc<Shared>) -> (u16, tokio::io::DuplexStream) {
        let (mut asker, io) = tokio::io::duplex(4096);
        let shared = Arc::clone(shared);
        tokio::spawn(async move { connection(io, &door, None, &shared).await });
        let question = format!("GET {path} HTTP/1.1\r\nhost: agent\r\n\r\n");
        asker.write_all(question.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        asker.read_exact(&mut head).await.unwrap();
        let status = std::str::from_utf8(&head[9..]).unwrap().parse().unwrap();
        (status, asker)
    }

    #[tokio::test(start_paused = true)]
    async fn eight_listen_then_the_ninth_is_refused_until_one_goes() {
        let (shared, mut calls) = Shared::new(None);
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(Call::Samples(_, answer)) = calls.recv().await {
                let (lines, receiver) = mpsc::channel(1);
                kept.push(lines);
                let _ = answer.send(receiver);
            }
        });
        let mut listeners = Vec::new();
        for _ in 0..crate::agent::api::STREAMS {
            let (status, listener) = ask(Door::Root, "/v1/samples", &shared).await;
            assert_eq!(status, 200);
            listeners.push(listener);
        }
        assert_eq!(ask(Door::Root, "/v1/samples", &shared).await.0, 429);
        listeners.pop();
        let start = Instant::now();
        while ask(Door::Root, "/v1/samples", &shared).await.0 != 200 {
            assert!(start.elapsed() < EACH_WAY * 6, "the place is not free");
            tokio::time::sleep(EACH_WAY / 10).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_token_at_the_port_then_nothing_is_asked_and_nothing_said() {
        let tokens = Arc::new(Tokens::new(Some("/nowhere".into()), None).unwrap());
        let (shared, mut calls) = Shared::new(None);
        for (path, wanted) in [
            ("/v1/status", 401),
            ("/metrics", 401),
            ("/v1/samples?verdict=none", 401),
            ("/v1/other", 404),
        ] {
            let door = Door::Token(Arc::clone(&tokens));
            assert_eq!(ask(door, path, &shared).await.0, wanted, "{path}");
        }
        assert!(calls.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_says_nothing_then_the_place_is_free_in_two_seconds() {
        let tokens = Tokens::new(Some("/nowhere".into()), None).unwrap();
        let (_asker, io) = tokio::io::duplex(64);
        let (shared, _calls) = Shared::new(None);
        let newcomers = super::super::newcomer::Newcomers::default();
        let newcomer = newcomers.admit([192, 0, 2, 1].into());
        let start = Instant::now();
        connection(io, &Door::Token(Arc::new(tokens)), newcomer, &shared).await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}
