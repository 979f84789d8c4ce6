//! The routes: their addresses, how long each may take, and who answers.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::reply::Reply;
use super::{Call, PATIENCE, Shared, explain};
use crate::agent::doctor::{grown, refused};
use crate::cli::duration;
use crate::dataplane::observe::LONGEST;
use crate::params::Params;
use crate::samples::filter::{self, Filter};
use crate::survey::{self, SurveyError};
use crate::telemetry::chain;
use crate::telemetry::metrics::{Form, render};

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Route {
    Status,
    Samples,
    Counters,
    Doctor,
    Explain,
    Metrics,
}

impl Route {
    const ALL: [Self; 6] = [
        Self::Status,
        Self::Counters,
        Self::Samples,
        Self::Doctor,
        Self::Explain,
        Self::Metrics,
    ];

    /// The address, and the non-resource path that a token's owner needs `get` on.
    pub(in crate::agent) const fn path(self) -> &'static str {
        match self {
            Self::Status => "/v1/status",
            Self::Samples => filter::PATH,
            Self::Counters => "/v1/counters",
            Self::Doctor => "/v1/doctor",
            Self::Explain => "/v1/explain",
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
            Self::Status | Self::Counters | Self::Metrics => PATIENCE,
            Self::Explain => explain::PATIENCE,
            // The kernel verifies some programs first.
            Self::Samples => PATIENCE.saturating_mul(2),
            Self::Doctor => LONGEST.saturating_add(PATIENCE),
        }
    }

    /// The answer.
    pub(super) async fn answer(self, params: Params, shared: &Shared) -> Reply {
        let answer = match self {
            Self::Status => status(&params, shared).await,
            Self::Counters => counters(&params, shared).await,
            Self::Samples => samples(params, shared).await,
            Self::Doctor => doctor(params, shared).await,
            Self::Explain => explain::answer(params, shared).await,
            Self::Metrics => metrics(&params, shared).await,
        };
        answer.unwrap_or_else(|refusal| refusal)
    }
}

async fn status(params: &Params, shared: &Shared) -> Result<Reply, Reply> {
    params.end()?;
    let programs = shared.ask(Call::Programs).await?;
    let dirs = survey::places(&shared.state_dir);
    surveyed(move || survey::status(&dirs, &programs)).await
}

async fn counters(params: &Params, shared: &Shared) -> Result<Reply, Reply> {
    params.end()?;
    let dirs = survey::places(&shared.state_dir);
    surveyed(move || survey::counted(&dirs)).await
}

/// Aside, for it takes thousands of system calls, and the loop has more to do.
async fn surveyed<T: Serialize + Send + 'static>(
    survey: impl FnOnce() -> Result<T, SurveyError> + Send + 'static,
) -> Result<Reply, Reply> {
    match spawn_blocking(survey).await {
        Ok(Ok(found)) => Ok(Reply::json(&found)),
        Ok(Err(e)) => {
            warn!(error = chain(&e), "the status cannot be told");
            Err(Reply::refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "what is attached cannot be read; the agent's log says why",
            ))
        }
        Err(_) => Err(super::silent()),
    }
}

async fn samples(params: Params, shared: &Shared) -> Result<Reply, Reply> {
    let filter = Filter::read(params)?;
    let lines = shared.ask(|answer| Call::Samples(filter, answer)).await?;
    Ok(Reply::lines(lines))
}

/// `observe`: for how long; `gateway`: only this one.
async fn doctor(mut params: Params, shared: &Shared) -> Result<Reply, Reply> {
    let time = params.read("observe", duration::parse)?;
    let gateway = params.take("gateway");
    params.end()?;
    if time.is_some_and(|time| time > LONGEST) {
        return Err(Reply::refuse(
            StatusCode::BAD_REQUEST,
            "`observe` is longer than 10m",
        ));
    }
    let mut ward = shared.ask(Call::Doctor).await?;
    if let Some(gateway) = gateway
        && !ward.keep(&gateway)
    {
        let words = format!("there is no gateway {gateway} on this node");
        return Err(Reply::refuse(StatusCode::NOT_FOUND, &words));
    }
    let Some(time) = time.filter(|time| !time.is_zero()) else {
        return Ok(Reply::json(&ward.report(None, &BTreeMap::new())));
    };
    let Ok(_alone) = shared.look.try_acquire() else {
        return Err(Reply::refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "somebody looks at the traffic already; ask again when that is over",
        ));
    };
    let before = refused(shared.figures().await?.reading.as_ref());
    let looked = match ward.look(time).await {
        Ok(looked) => looked,
        Err(e) => {
            warn!(error = chain(&e), "traffic cannot be looked at");
            let words = format!("traffic cannot be looked at: {}", chain(&e));
            return Err(Reply::refuse(StatusCode::INTERNAL_SERVER_ERROR, &words));
        }
    };
    let after = refused(shared.figures().await?.reading.as_ref());
    Ok(Reply::json(&ward.report(Some(looked), &grown(&before, &after))))
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
