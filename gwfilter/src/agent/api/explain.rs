//! `/v1/explain`: one packet's verdict from the tables as this agent compiled them.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value};
use tracing::error;

use super::place::Place;
use super::reply::Reply;
use super::{Call, Shared};
use crate::explain::{ExplainError, Explainer, Query};
use crate::params::Params;
use crate::telemetry::chain;

/// How long an answer may take: the tables are put together anew for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Prefixes in all tables, at most: beyond, an answer would take the memory that the agent has for a swap.
const LARGEST: usize = 200_000;

/// The keys of a query, as a line of `explain --queries` has them.
const KEYS: [&str; 5] = ["source", "dest", "protocol", "proxy_source", "proxy_dest"];

pub(super) async fn answer(mut params: Params, shared: &Shared) -> Result<Reply, Reply> {
    let query = query(&mut params)?;
    params.end()?;
    let alone = Place::of(&shared.explaining).await?;
    let built = shared.ask(Call::Built).await?;
    let starts = || Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent starts");
    let built = built.ok_or_else(starts)?;
    let prefixes: usize = built.reports.iter().map(|report| report.prefixes.table).sum();
    if prefixes > LARGEST {
        let words = format!(
            "the tables have {prefixes} prefixes, too many to be put together a second time beside those in force (at most {LARGEST}): ask \
             `gwfilter explain --from` with the manifests"
        );
        return Err(Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, &words));
    }
    let answered = alone.work(move || {
        let explainer = Explainer::new(built).map_err(|e| chain(&e));
        explainer.map(|explainer| explainer.answer(&query))
    });
    let defect = |why: &str| {
        error!(error = why, "a packet cannot be explained");
        Reply::refuse(StatusCode::INTERNAL_SERVER_ERROR, why)
    };
    match answered.await? {
        Ok(Ok(answer)) => Ok(Reply::json(&answer)),
        Ok(Err(ExplainError::Query(e))) => Err(Reply::refuse(StatusCode::BAD_REQUEST, &e.to_string())),
        Ok(Err(e)) => Err(defect(&chain(&e))),
        Err(why) => Err(defect(&why)),
    }
}

fn query(params: &mut Params) -> Result<Query, Reply> {
    let mut line = Map::new();
    for key in KEYS {
        if let Some(value) = params.take(key) {
            line.insert(key.to_owned(), Value::String(value));
        }
    }
    let line = Value::Object(line).to_string();
    Query::from_json(line.as_bytes()).map_err(|e| Reply::refuse(StatusCode::BAD_REQUEST, &e.to_string()))
}
