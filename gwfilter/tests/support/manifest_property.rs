//! What must hold for any bytes that somebody calls a manifest. The fuzz target and an ordinary test both run it.

use std::net::{IpAddr, SocketAddr};

use gwfilter::explain::{ExplainError, Explainer, Query};
use gwfilter::gateway;
use gwfilter::index::Index;
use gwfilter::node::NodeFacts;
use gwfilter::pipeline::{self, Built};

/// A gateway with an HTTP and a TCP server, so that policies among the bytes have something to attach to.
const TOPOLOGY: &str = r#"
{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gw", "namespace": "istio-system"},
 "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"istio": "ingressgateway"},
  "ports": [{"name": "http2", "port": 80, "targetPort": 8080, "nodePort": 30080},
            {"name": "tcp", "port": 31400, "targetPort": 31400, "nodePort": 31401}]},
 "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}, {"ip": "2001:db8:ffff::10"}]}}}
---
{"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "gw", "namespace": "istio-system"},
 "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
  {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
  {"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}]}}
"#;

/// Drops looked at in one input.
const LOOKED_AT: usize = 200;

/// Reading, compiling and planning the bytes never panics; the tables say what the evaluator says; and input that
/// cannot be read beside them never makes a drop of what was none.
pub(crate) fn holds(bytes: &[u8]) {
    let mut index = Index::new();
    index
        .load("topology", TOPOLOGY.as_bytes())
        .unwrap_or_else(|error| unreachable!("the topology is valid: {error}"));
    // Bytes that cannot be read are an unreadable source: what is built then is checked like all else.
    let _unreadable = index.load("bytes", bytes);
    let whole = built(&index);
    index.unreadable("beside", "it is not there");
    let partial = built(&index);

    let Some(whole) = verified(whole) else { return };
    for source in drops(&partial).take(LOOKED_AT) {
        let (source, dest) = source;
        let protocol = gateway::model::Protocol::Tcp;
        let Ok(query) = Query::new(source, dest, protocol, None) else {
            continue;
        };
        let answer = whole
            .answer(&query)
            .unwrap_or_else(|error| unreachable!("{source} to {dest}: {error}"));
        // Never-drop and odd sources pass in both.
        let passes_anyway = ["never-drop-source", "odd-source"].contains(&answer.reason);
        assert!(
            answer.verdict == "drop" || passes_anyway || answer.reason == "observed",
            "{source} to {dest} is dropped only because something else cannot be read: {answer:?}"
        );
    }
    let _partial = verified(partial);
}

fn built(index: &Index) -> Built {
    let settings = pipeline::Settings {
        gateway: gateway::Settings {
            never_drop: Vec::new(),
            from_files: true,
        },
        ..pipeline::Settings::default()
    };
    pipeline::build(&index.snapshot(), &NodeFacts::default(), &settings)
}

/// Plans it, and holds tables and evaluator equal. `None` where the planner refuses it, with the numbers.
fn verified(built: Built) -> Option<Explainer> {
    let explainer = Explainer::new(built).ok()?;
    match explainer.verify_boundaries() {
        Ok(_) => Some(explainer),
        Err(ExplainError::Disagreement(difference)) => unreachable!("{difference}"),
        Err(_) => None,
    }
}

/// The first address of each prefix that is dropped, with the destination.
fn drops(built: &Built) -> impl Iterator<Item = (IpAddr, SocketAddr)> {
    built.desired.tuples.iter().flat_map(|(key, target)| {
        let v4 = target
            .source()
            .and_then(|s| s.table4.as_ref())
            .into_iter()
            .flat_map(|table| table.iter());
        let v6 = target
            .source()
            .and_then(|s| s.table6.as_ref())
            .into_iter()
            .flat_map(|table| table.iter());
        let dropped = |verdict| verdict == gwfilter::desired::Verdict::Drop;
        let v4 = v4
            .filter(move |(_, o)| dropped(o.verdict))
            .map(|(net, _)| IpAddr::from(net.network()));
        let v6 = v6
            .filter(move |(_, o)| dropped(o.verdict))
            .map(|(net, _)| IpAddr::from(net.network()));
        let of_family = move |addr: &IpAddr| addr.is_ipv4() == key.addr.is_ipv4();
        let dest = SocketAddr::new(key.addr, key.port);
        v4.chain(v6).filter(of_family).map(move |source| (source, dest))
    })
}
