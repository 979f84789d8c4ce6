//! The routes: their addresses, how long each may take, and who answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;
use tokio::time::timeout;
use tracing::warn;

use super::place::Place;
use super::reply::Reply;
use super::{Call, PATIENCE, Shared, explain};
use crate::agent::doctor::{Refusals, grown, refused};
use crate::agent::samples::READ;
use crate::cli::duration;
use crate::dataplane::observe::LONGEST;
use crate::params::Params;
use crate::samples::Verdict;
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
    surveyed(shared, move || survey::status(&dirs, &programs)).await
}

async fn counters(params: &Params, shared: &Shared) -> Result<Reply, Reply> {
    params.end()?;
    let dirs = survey::places(&shared.state_dir);
    surveyed(shared, move || survey::counted(&dirs)).await
}

/// Aside, for it takes thousands of system calls, and the loop has more to do.
async fn surveyed<T: Serialize + Send + 'static>(
    shared: &Shared,
    survey: impl FnOnce() -> Result<T, SurveyError> + Send + 'static,
) -> Result<Reply, Reply> {
    let place = Place::of(&shared.surveying).await?;
    match place.work(survey).await? {
        Ok(found) => Ok(Reply::json(&found)),
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
    let time = time.filter(|time| !time.is_zero());
    // Before the loop is asked for anything: one look at a time.
    let alone = match time {
        Some(_) => Some(Arc::clone(&shared.look).try_acquire_owned().map_err(|_| {
            Reply::refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "somebody looks at the traffic already; ask again when that is over",
            )
        })?),
        None => None,
    };
    let turn = timeout(PATIENCE, Arc::clone(&shared.admission).acquire_owned()).await;
    let turn = turn.ok().and_then(Result::ok).ok_or_else(super::silent)?;
    let admission = shared.ask(Call::Doctor).await?;
    let mut ward = admission.ward(turn).await.ok_or_else(super::silent)?;
    if let Some(gateway) = &gateway
        && !ward.keep(gateway)
    {
        let words = format!("there is no gateway {gateway} on this node");
        return Err(Reply::refuse(StatusCode::NOT_FOUND, &words));
    }
    let Some((time, alone)) = time.zip(alone) else {
        let nothing = (BTreeMap::new(), Refusals::of(None));
        return Ok(Reply::json(&ward.report(None, &nothing.0, &nothing.1)));
    };
    // The probe is behind what refuses: who is refused is known from samples only.
    let filter = Filter {
        verdicts: [Verdict::Drop].into(),
        gateway,
        ..Filter::default()
    };
    let lines = shared.ask(|answer| Call::Samples(filter, answer)).await;
    let mut refusals = Refusals::of(lines.ok());
    let before = refused(shared.ask(Call::Counters).await?.as_ref());
    let looked = tokio::select! {
        looked = ward.look(time, alone) => looked,
        never = refusals.gather() => match never {},
    };
    let looked = match looked {
        Ok(looked) => looked,
        Err(e) => {
            warn!(error = chain(&e), "traffic cannot be looked at");
            let words = format!("traffic cannot be looked at: {}", chain(&e));
            return Err(Reply::refuse(StatusCode::INTERNAL_SERVER_ERROR, &words));
        }
    };
    let after = refused(shared.ask(Call::Counters).await?.as_ref());
    // What is still in the ring.
    let _ = timeout(READ.saturating_mul(3), refusals.gather()).await;
    Ok(Reply::json(&ward.report(
        Some(looked),
        &grown(&before, &after),
        &refusals,
    )))
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
