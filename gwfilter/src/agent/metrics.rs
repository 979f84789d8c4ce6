//! `/metrics`: who may read them, and what they are. Whoever asks without the right learns nothing but that.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap};

use super::api::{Route, Shared, Tokens};
use crate::telemetry::metrics::{Form, render};

/// The path, on this server and in the right that a reader needs.
pub(super) const PATH: &str = "/metrics";

/// Answers for `/metrics`.
#[derive(Debug)]
pub(super) struct Metrics {
    tokens: Arc<Tokens>,
    shared: Arc<Shared>,
}

/// What an answer is, without its body's policy: on any status but 200 there is none.
pub(super) type Answer = (StatusCode, String);

impl Metrics {
    /// Served if there is somebody to decide who may.
    pub(super) fn open(tokens: Option<&Arc<Tokens>>, shared: &Arc<Shared>) -> Option<Self> {
        tokens.map(|tokens| Self {
            tokens: Arc::clone(tokens),
            shared: Arc::clone(shared),
        })
    }

    pub(super) async fn answer(&self, headers: &HeaderMap) -> Answer {
        if let Err(refusal) = self.tokens.check(headers, Route::Metrics).await {
            return refusal;
        }
        match self
            .shared
            .figures()
            .await
            .map(|figures| render(&figures, form(headers)))
        {
            Ok(Ok(text)) => (StatusCode::OK, text),
            _ => said(StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer"),
        }
    }
}

/// The form that who sent these headers reads.
pub(super) fn form(headers: &HeaderMap) -> Form {
    Form::wanted(headers.get(ACCEPT).and_then(|value| value.to_str().ok()))
}

fn said(status: StatusCode, text: &str) -> Answer {
    (status, text.to_owned())
}
