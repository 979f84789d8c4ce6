//! The shipped dashboard: each of its queries, asked of a Prometheus that scraped an agent with traffic, gives data.
//!
//! With `GWFILTER_DASHBOARD_OUT` the run takes two minutes instead of seconds, and what the panels would show of it is written to that file:
//! `cargo xtask dashboard` draws it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: their panic is the report"
)]

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use xtask::http::Answer;
use xtask::manifests::ingress_policy;
use xtask::netns::Namespace;
use xtask::poll;
use xtask::site::{CLIENT_V4, Client};

use crate::lab::{Lab, POLICY, SOON, vip};
use crate::rules::shipped;

/// Variables of Grafana, and what they are in a test.
const VARIABLES: [(&str, &str); 4] = [
    ("$node", ".*"),
    ("$gateway", ".*"),
    ("$__rate_interval", "10s"),
    ("$__range", "2m"),
];

/// A query of a panel.
struct Query {
    panel: Value,
    /// As shipped.
    shown: String,
    expr: String,
    legend: String,
    instant: bool,
}

/// A gateway that is left to itself.
const OTHER: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: partners
  namespace: istio-system
  annotations: {gwfilter.io/client-address: nonsense}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: istio-ingressgateway, istio: ingressgateway}
  externalIPs: [203.0.113.90]
  ports: [{name: http, protocol: TCP, port: 8443, targetPort: 8443}]
";

fn dashboard() -> Value {
    serde_json::from_str(&shipped("dashboard.json")).expect("JSON")
}

fn queries(dashboard: &Value) -> Vec<Query> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let queries = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(|target| {
            let text = |name: &str| target[name].as_str().expect("a text").to_owned();
            let fill = |query: String, (name, value): (&str, &str)| query.replace(name, value);
            Query {
                panel: panel.clone(),
                shown: text("expr"),
                expr: VARIABLES.into_iter().fold(text("expr"), fill),
                legend: text("legendFormat"),
                instant: target["instant"] == true,
            }
        })
    });
    queries.collect()
}

/// Sends requests, so many a second, until it is over.
fn send(client: &Namespace, a_second: &AtomicRate, over: &AtomicBool) {
    let work = || {
        while !over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let _ = TcpStream::connect_timeout(&vip(), Duration::from_millis(2));
            let pause = Duration::from_secs(1) / a_second.0.load(Ordering::Relaxed).max(1);
            std::thread::sleep(pause.saturating_sub(began.elapsed()));
        }
    };
    client.enter(work).expect("entered");
}

struct AtomicRate(std::sync::atomic::AtomicU32);

impl AtomicRate {
    const fn new(a_second: u32) -> Self {
        Self(std::sync::atomic::AtomicU32::new(a_second))
    }

    fn set(&self, a_second: u32) {
        self.0.store(a_second, Ordering::Relaxed);
    }
}

/// What happens to the agent while the dashboard looks on: `part` is how long each of its parts takes.
fn play(lab: &Lab, part: Duration, rate: &AtomicRate) {
    let until = |end: Instant| {
        let _ = poll::every(Duration::from_millis(200), part * 2, || {
            (Instant::now() >= end).then_some(())
        });
    };
    let change = |blocks: &[&str]| {
        lab.site
            .write(POLICY, &ingress_policy("DENY", "ipBlocks", blocks))
            .expect("a policy");
    };
    let start = Instant::now();
    until(start + part);
    rate.set(300);
    change(&[CLIENT_V4[0], "192.0.2.99"]);
    until(start + part * 2);
    rate.set(40);
    lab.gwfilter(&["pause"]);
    until(start + part * 3);
    lab.gwfilter(&["resume"]);
    change(&["192.0.2.99"]);
    until(start + part * 4);
    change(&[CLIENT_V4[0]]);
    until(start + part * 5);
}

#[test]
fn an_agent_with_traffic_then_every_query_of_the_dashboard_gives_data() {
    let out = std::env::var_os("GWFILTER_DASHBOARD_OUT").map(PathBuf::from);
    let part = Duration::from_secs(if out.is_some() { 24 } else { 3 });
    let lab = Lab::new(&["--packet-log", "drops"]);
    lab.site.write("other.yaml", OTHER).expect("written");
    lab.enforced();
    let (refused, served, over) = (AtomicRate::new(40), AtomicRate::new(25), AtomicBool::new(false));
    let begin = SystemTime::now();
    std::thread::scope(|scope| {
        scope.spawn(|| send(&lab.site.client_a, &refused, &over));
        scope.spawn(|| send(&lab.site.client_b, &served, &over));
        play(&lab, part, &refused);
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&lab, out, begin)));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = asked {
            std::panic::resume_unwind(panic);
        }
    });
    let after = lab
        .site
        .get_until(Client::A, vip(), SOON, |answer| *answer == Answer::Timeout);
    assert_eq!(after, Answer::Timeout, "{}", lab.agent.tail());
}

/// Asks every query; what the panels show is written down, if somebody wants it.
fn look(lab: &Lab, out: Option<PathBuf>, begin: SystemTime) {
    let unix = |at: SystemTime| at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let board = dashboard();
    let queries = queries(&board);
    assert!(queries.len() > 30, "{} queries", queries.len());
    let mut drawn = Vec::new();
    for Query {
        panel,
        shown,
        expr,
        legend,
        instant,
    } in queries
    {
        let title = panel["title"].as_str().expect("a title");
        let found = lab.sees(&expr);
        assert!(
            found
                .iter()
                .all(|(_, value)| value.is_finite() || legend.contains("of")),
            "{title}: {expr}: {found:?}"
        );
        let mut labels: Vec<&str> = legend
            .split("{{")
            .skip(1)
            .filter_map(|part| part.split("}}").next())
            .collect();
        labels.retain(|label| found.iter().all(|(metric, _)| metric.get(label).is_none()));
        assert!(labels.is_empty(), "{title}: no label {labels:?} in {found:?}");
        if !instant && out.is_some() {
            let (from, to) = (unix(begin), unix(SystemTime::now()));
            let asked = lab.prometheus.range(&lab.site.node, &expr, from, to);
            let series = asked.expect("an answer");
            drawn.push(json!({
                "panel": panel["id"], "title": title, "unit": panel["fieldConfig"]["defaults"]["unit"],
                "legend": legend, "expr": shown, "series": series,
            }));
        }
    }
    if let Some(path) = out {
        std::fs::write(&path, json!({"queries": drawn}).to_string()).expect("written");
    }
}

#[test]
fn the_shipped_dashboard_then_its_shape_is_grafanas_and_its_panels_do_not_overlap() {
    let board = dashboard();
    for key in ["title", "uid", "schemaVersion", "templating", "time", "panels"] {
        assert!(!board[key].is_null(), "{key}");
    }
    let panels = board["panels"].as_array().expect("panels");
    let (mut ids, mut places) = (Vec::new(), Vec::new());
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let at = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{title}");
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                places.push((y, x));
            }
        }
        ids.push(panel["id"].as_u64().expect("a number"));
        let kind = panel["type"].as_str().expect("a type");
        assert!(
            matches!(kind, "row" | "stat" | "table" | "timeseries"),
            "{title}: {kind}"
        );
        assert_eq!(kind == "row", panel["targets"].is_null(), "{title}");
    }
    let (numbers, cells) = (ids.len(), places.len());
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), numbers, "a number twice");
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), cells, "panels overlap");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
    }
}
