//! What an answer of the API is: one text, or lines without an end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, Interval, interval_at};

use crate::params::ParamsError;

/// Time between two empty lines of an endless answer that has nothing to say: who reads sees that the agent lives, and the agent that nobody reads.
const BEAT: Duration = Duration::from_secs(15);

/// An answer of a route.
#[derive(Debug)]
pub(in crate::agent) struct Reply {
    status: StatusCode,
    media: &'static str,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Whole(Bytes),
    Lines(mpsc::Receiver<Bytes>),
}

impl Reply {
    /// One JSON document.
    pub(in crate::agent) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(text) => Self::text("application/json", text + "\n"),
            Err(_) => Self::refuse(StatusCode::INTERNAL_SERVER_ERROR, "the answer is no JSON"),
        }
    }

    /// A text of this media type.
    pub(in crate::agent) fn text(media: &'static str, text: String) -> Self {
        Self {
            status: StatusCode::OK,
            media,
            content: Content::Whole(Bytes::from(text)),
        }
    }

    /// No answer, and why; a sentence for the person who asked.
    pub(in crate::agent) fn refuse(status: StatusCode, words: &str) -> Self {
        Self {
            status,
            media: "text/plain; charset=utf-8",
            content: Content::Whole(Bytes::from(format!("{words}\n"))),
        }
    }

    /// JSON lines, each with its line feed, for as long as the sender lives. It learns by [`mpsc::Sender::closed`] that nobody listens any
    /// more, and that somebody listens too slowly by a channel that is full.
    pub(in crate::agent) const fn lines(lines: mpsc::Receiver<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            media: "application/x-ndjson",
            content: Content::Lines(lines),
        }
    }

    pub(super) const fn is_endless(&self) -> bool {
        matches!(self.content, Content::Lines(_))
    }

    /// As hyper wants it; `place` is kept for as long as lines are sent.
    pub(super) fn into_response(self, place: Option<OwnedSemaphorePermit>) -> Response<Stream> {
        let mut response = Response::new(match self.content {
            Content::Whole(text) => Stream::Whole(Some(text)),
            Content::Lines(lines) => Stream::Lines {
                lines,
                beat: interval_at(Instant::now() + BEAT, BEAT),
                _place: place,
            },
        });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ParamsError> for Reply {
    fn from(error: ParamsError) -> Self {
        Self::refuse(StatusCode::BAD_REQUEST, &error.to_string())
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Stream {
    Whole(Option<Bytes>),
    Lines {
        lines: mpsc::Receiver<Bytes>,
        beat: Interval,
        _place: Option<OwnedSemaphorePermit>,
    },
}

impl Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = match self.get_mut() {
            Self::Whole(text) => Poll::Ready(text.take()),
            Self::Lines { lines, beat, .. } => match lines.poll_recv(cx) {
                Poll::Pending => beat.poll_tick(cx).map(|_| Some(Bytes::from_static(b"\n"))),
                ready => ready,
            },
        };
        next.map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(Some(text)) => hyper::body::SizeHint::with_exact(text.len() as u64),
            Self::Whole(None) => hyper::body::SizeHint::with_exact(0),
            Self::Lines { .. } => hyper::body::SizeHint::default(),
        }
    }
}
