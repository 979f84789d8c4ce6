//! One connection: one question, its limits, and the answer.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::guard::Tokens;
use super::reply::{Reply, Stream};
use super::route::Route;
use crate::params::Params;

/// From the connection to the end of the question, and from the answer's making to its last byte.
const EACH_WAY: Duration = Duration::from_secs(10);
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

/// Until when the connection may last; none for an endless answer.
type Until = Mutex<Option<Instant>>;

fn set(until: &Until, to: Option<Instant>) {
    *until.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

/// Answers one question.
pub(super) async fn connection<I>(io: I, door: &Door, shared: &Arc<Shared>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let until: &Until = &Mutex::new(Some(Instant::now() + EACH_WAY));
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(respond(&request, door, shared, until).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(EACH_WAY)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // Who asked and went away has nothing to be told.
        _ = &mut connection => {}
        () = over(until) => {}
    }
}

/// Waits until the time is over that was set last.
async fn over(until: &Until) {
    /// How often it is looked at where there is no end.
    const LOOK: Duration = Duration::from_secs(1);
    loop {
        let end = *until.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_some_and(|end| end <= Instant::now()) {
            return;
        }
        sleep_until(end.unwrap_or_else(|| Instant::now() + LOOK)).await;
    }
}

async fn respond(
    request: &Request<Incoming>,
    door: &Door,
    shared: &Arc<Shared>,
    until: &Until,
) -> Response<Stream> {
    let reply = match question(request, door).await {
        Ok((route, params)) => {
            let patience = route.patience();
            set(until, Some(Instant::now() + patience + EACH_WAY));
            let answer = timeout(patience, route.answer(params, shared));
            answer.await.unwrap_or_else(|_| super::silent())
        }
        Err(refusal) => refusal,
    };
    if !reply.is_endless() {
        set(until, Some(Instant::now() + EACH_WAY));
        return reply.into_response(None);
    }
    let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let words = "too many listen already: end a `gwfilter monitor` or `top` on this node";
        return Reply::refuse(StatusCode::TOO_MANY_REQUESTS, words).into_response(None);
    };
    set(until, None);
    reply.into_response(Some(place))
}

async fn question(request: &Request<Incoming>, door: &Door) -> Result<(Route, Params), Reply> {
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
