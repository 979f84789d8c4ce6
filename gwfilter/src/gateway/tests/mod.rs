//! Small manifests, and what they make of a gateway. The pieces below are put together and altered by each test.

mod chains;
mod client_address;
mod cluster;
mod drain;
mod faults;
mod foreign;
mod header;
mod identity;
mod mesh;
mod served;
mod strangers;
mod tuples;
mod watched;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::model::{Chain, ChainKind, ChainTls, Listener, Protocol, Tri};
use super::*;
use crate::index::Index;
use crate::pipeline;

fn files() -> Settings {
    Settings {
        from_files: true,
        ..Settings::default()
    }
}

fn cluster() -> Settings {
    Settings::default()
}

/// A node of this name, seen from elsewhere.
fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: Some(name.to_owned()),
        local_addresses: None,
    }
}

fn find_with(manifests: &str, facts: &NodeFacts, settings: &Settings) -> Found {
    let mut index = Index::new();
    index.load("manifests.yaml", manifests.as_bytes()).unwrap();
    find(&index.snapshot(), facts, settings)
}

/// Files of a user, on a node that runs everything.
fn find_in(manifests: &str) -> Found {
    find_with(manifests, &NodeFacts::default(), &files())
}

/// The only gateway.
fn one(found: Found) -> Gateway {
    assert_eq!(found.gateways.len(), 1, "{:#?}", found.diagnostics);
    found.gateways.into_iter().next().unwrap()
}

fn keys(listener: &Listener) -> Vec<String> {
    listener.tuples.iter().map(|t| t.key.to_string()).collect()
}

fn all_keys(gateway: &Gateway) -> BTreeSet<String> {
    gateway.listeners.iter().flat_map(keys).collect()
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|&k| k.to_owned()).collect()
}

fn remarks(gateway: &Gateway) -> Vec<&'static str> {
    gateway.remarks.iter().map(|why| why.code).collect()
}

fn why(gateway: &Gateway) -> Option<&'static str> {
    gateway.not_enforced.as_ref().map(|why| why.code)
}

fn codes(found: &Found) -> Vec<&'static str> {
    found.diagnostics.iter().map(|d| d.code).collect()
}

/// Where someone is refused on `node-a`, a node of a cluster that has these addresses; besides `manifests` there are the Node, the
/// mesh configuration, and a policy that refuses 198.51.100.7 at every gateway.
fn refusing(manifests: &str, addresses: &[&str]) -> BTreeSet<String> {
    let local = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let facts = NodeFacts {
        name: Some("node-a".to_owned()),
        local_addresses: Some(local),
    };
    let settings = pipeline::Settings::default();
    let mut index = Index::new();
    index
        .load(
            "manifests.yaml",
            format!("{manifests}{NODE}{MESH}{DENY}").as_bytes(),
        )
        .unwrap();
    let built = pipeline::build(&index.snapshot(), &facts, &settings);
    let refuses = |target: &crate::desired::Target| {
        let table = target.source().and_then(|tables| tables.table4.as_ref());
        table.is_some_and(|table| !table.is_empty())
    };
    let tuples = built.desired.tuples.iter();
    let refusing = tuples.filter(|(_, target)| refuses(target));
    refusing.map(|(key, _)| key.to_string()).collect()
}

/// The only gateway of the same cluster.
fn here(manifests: &str) -> Gateway {
    let facts = NodeFacts {
        name: Some("node-a".to_owned()),
        local_addresses: Some(["172.18.0.2".parse().unwrap()].into()),
    };
    one(find_with(
        &format!("{manifests}{NODE}{MESH}{DENY}"),
        &facts,
        &cluster(),
    ))
}

/// The text of the gateway's remark of this code.
fn remark(gateway: &Gateway, code: &str) -> String {
    let found = gateway.remarks.iter().find(|why| why.code == code);
    found
        .unwrap_or_else(|| panic!("no {code}: {:?}", gateway.remarks))
        .text
        .clone()
}

/// A text with one part replaced, which must be there.
fn with(text: &str, part: &str, by: &str) -> String {
    assert!(text.contains(part), "{part:?} is not in {text}");
    text.replacen(part, by, 1)
}

/// The Service with annotations.
fn annotated(annotations: &str) -> String {
    with(
        SERVICE,
        "  namespace: istio-system\n",
        &format!("  namespace: istio-system\n  annotations: {{{annotations}}}\n"),
    )
}

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: istio-ingressgateway
  namespace: istio-system
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  selector: {app: istio-ingressgateway, istio: ingressgateway}
  clusterIP: 10.96.0.10
  ports:
  - {name: status-port, port: 15021, targetPort: 15021, nodePort: 30021}
  - {name: http2, port: 80, targetPort: 8080, nodePort: 30080}
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.10}]
---
"#;

const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDR: 10.244.0.0/24}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: Hostname, address: node-a}]}
---
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: gw-0
  namespace: istio-system
  labels: {app: istio-ingressgateway, istio: ingressgateway}
spec:
  nodeName: node-a
  containers: [{name: istio-proxy, args: [proxy, router]}]
status: {podIP: 10.244.0.5, phase: Running}
---
"#;

const GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: httpbin-gateway, namespace: foo}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
"#;

const MESH: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: ""}
---
"#;

const DENY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [198.51.100.7]}}]}]}
---
"#;
