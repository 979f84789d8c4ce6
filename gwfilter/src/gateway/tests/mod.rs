//! Small manifests, and what they make of a gateway. The pieces below are put together and altered by each test.

mod chains;
mod client_address;
mod cluster;
mod drain;
mod faults;
mod header;
mod identity;
mod mesh;
mod strangers;
mod tuples;
mod watched;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::model::{Chain, ChainKind, ChainTls, Listener, Protocol, Tri};
use super::*;
use crate::index::Index;

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
