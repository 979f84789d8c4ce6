//! `/v1/explain`: one packet's verdict from the tables as this agent compiled them; where they are large, from those in force.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value};
use tracing::error;

use super::place::Place;
use super::reply::Reply;
use super::{Call, Shared};
use crate::explain::{ExplainError, Explainer, Query, QueryError};
use crate::params::Params;
use crate::survey::{self, Survey};
use crate::telemetry::chain;

/// How long an answer may take: the tables are put together anew for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Prefixes in all tables, at most: beyond, to put them together a second time would take the memory that the agent has for a swap, and the tables
/// in force are asked, which have fewer notes.
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
    let defect = |why: &str| {
        error!(error = why, "a packet cannot be explained");
        Reply::refuse(StatusCode::INTERNAL_SERVER_ERROR, why)
    };
    if prefixes > LARGEST {
        drop(built);
        let dirs = survey::places(&shared.state_dir);
        let answered = alone.work(move || Survey::open(&dirs)?.explain(&query)).await?;
        return match answered {
            Ok(answer) => Ok(Reply::json(&answer)),
            Err(e) if e.is::<QueryError>() => Err(Reply::refuse(StatusCode::BAD_REQUEST, &format!("{e:#}"))),
            Err(e) => Err(defect(&format!("{e:#}"))),
        };
    }
    let answered = alone.work(move || {
        let explainer = Explainer::new(built).map_err(|e| chain(&e));
        explainer.map(|explainer| explainer.answer(&query))
    });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway;
    use crate::index::Index;
    use crate::node::NodeFacts;
    use crate::pipeline::{self, Built};

    /// The example, as if it had so many prefixes.
    fn built(prefixes: usize) -> Built {
        let mut index = Index::new();
        let example = include_bytes!("../../../../deploy/examples/ingress.yaml");
        index.load("ingress.yaml", example).unwrap();
        let settings = pipeline::Settings {
            gateway: gateway::Settings {
                from_files: true,
                ..gateway::Settings::default()
            },
            ..pipeline::Settings::default()
        };
        let node = NodeFacts {
            name: None,
            local_addresses: None,
        };
        let mut built = pipeline::build(&index.snapshot(), &node, &settings);
        built.reports[0].prefixes.table = prefixes;
        built
    }

    #[tokio::test]
    async fn tables_of_some_size_then_put_together_only_if_there_is_room_for_a_second_time() {
        for (given, wanted) in [
            (Some(built(LARGEST)), StatusCode::OK),
            // Those in force are asked, and nothing is pinned here.
            (Some(built(LARGEST + 1)), StatusCode::INTERNAL_SERVER_ERROR),
            (None, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let (shared, mut calls) = Shared::new(None);
            tokio::spawn(async move {
                if let Some(Call::Built(answer)) = calls.recv().await {
                    let _ = answer.send(given);
                }
            });
            let params = Params::parse("source=198.51.100.7&dest=203.0.113.10:80").unwrap();
            let reply = answer(params, &shared).await.unwrap_or_else(|refusal| refusal);
            assert_eq!(reply.into_response(None).status(), wanted);
        }
    }
}
