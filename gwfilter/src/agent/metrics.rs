//! `/metrics`: who may read them, and what they are. Whoever asks without the right learns nothing but that.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::Agent;
use super::api::{Route, Shared, Tokens};
use crate::control::Span;
use crate::dataplane::control::now_ns;
use crate::telemetry::metrics::{Figures, render};

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
        match self.shared.figures().await.as_ref().map(render) {
            Ok(Ok(text)) => (StatusCode::OK, text),
            _ => said(StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer"),
        }
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
