//! The routes: their addresses, how long each may take, and who answers.

use std::time::Duration;

use hyper::StatusCode;
use tracing::warn;

use super::reply::Reply;
use super::{Call, PATIENCE, Shared};
use crate::agent::state;
use crate::params::Params;
use crate::samples::filter::{self, Filter};
use crate::telemetry::chain;
use crate::telemetry::metrics::{Form, render};

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Route {
    Status,
    Samples,
    Metrics,
}

impl Route {
    const ALL: [Self; 3] = [Self::Status, Self::Samples, Self::Metrics];

    /// The address, and the non-resource path that a token's owner needs `get` on.
    pub(in crate::agent) const fn path(self) -> &'static str {
        match self {
            Self::Status => "/v1/status",
            Self::Samples => filter::PATH,
            Self::Metrics => "/metrics",
        }
    }

    /// The route at this address.
    pub(super) fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|route| route.path() == path)
    }

    /// How long the answer may take to be made; of an endless one, its beginning.
    pub(super) const fn patience(self) -> Duration {
        match self {
            Self::Status | Self::Metrics => PATIENCE,
            // The kernel verifies some programs first.
            Self::Samples => PATIENCE.saturating_mul(2),
        }
    }

    /// The answer.
    pub(super) async fn answer(self, params: Params, shared: &Shared) -> Reply {
        let answer = match self {
            Self::Status => status(&params, shared),
            Self::Samples => samples(params, shared).await,
            Self::Metrics => metrics(&params, shared).await,
        };
        answer.unwrap_or_else(|refusal| refusal)
    }
}

fn status(params: &Params, shared: &Shared) -> Result<Reply, Reply> {
    params.end()?;
    match state::status(&shared.state_dir) {
        Ok(status) => Ok(Reply::json(&status)),
        Err(e) => {
            warn!(error = chain(&e), "the status cannot be told");
            Err(Reply::refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "what is attached cannot be read; the agent's log says why",
            ))
        }
    }
}

async fn samples(params: Params, shared: &Shared) -> Result<Reply, Reply> {
    let filter = Filter::read(params)?;
    let lines = shared.ask(|answer| Call::Samples(filter, answer)).await?;
    Ok(Reply::lines(lines))
}

async fn metrics(params: &Params, shared: &Shared) -> Result<Reply, Reply> {
    params.end()?;
    let figures = shared.figures().await?;
    // Who asks here reads either form.
    let form = Form::OpenMetrics;
    render(&figures, form)
        .map(|text| Reply::text(form.media_type(), text))
        .map_err(|_| super::silent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_then_found_at_its_address_and_nowhere_else() {
        for route in Route::ALL {
            assert_eq!(Route::at(route.path()), Some(route));
            assert_eq!(Route::at(&format!("{}/", route.path())), None);
        }
    }
}
