use std::net::IpAddr;

use super::model::{Chain, ChainKind, ChainTls, Listener, Tri};
use super::*;
use crate::index::Index;

/// Files of a user, on a node that runs everything.
fn find_in(manifests: &str) -> Found {
    let mut index = Index::new();
    index.load("manifests.yaml", manifests.as_bytes()).unwrap();
    find(
        &index.snapshot(),
        &NodeFacts::default(),
        &Settings {
            from_files: true,
            ..Settings::default()
        },
    )
}

fn tuples(listener: &Listener) -> Vec<String> {
    listener.tuples.iter().map(|t| t.key.to_string()).collect()
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

#[test]
fn service_of_the_walk_through_alone_then_one_gateway_with_its_addresses() {
    let found = find_in(&format!("{SERVICE}{NODE}{GATEWAY}"));
    assert_eq!(found.diagnostics, []);
    assert_eq!(found.gateways.len(), 1);
    let gateway = &found.gateways[0];
    assert_eq!(gateway.id(), "istio-system/istio-ingressgateway");
    assert_eq!(gateway.client_address, ClientAddress::PacketSource);
    assert_eq!(gateway.not_enforced, None);
    assert_eq!(gateway.listeners.len(), 1, "{:#?}", gateway.listeners);
    let listener = &gateway.listeners[0];
    assert_eq!(listener.name, "http2");
    assert_eq!(tuples(listener), ["172.18.0.2:30080/tcp", "203.0.113.10:80/tcp"]);
    assert_eq!(listener.receivers[0].port, 8080);
    assert_eq!(
        listener.receivers[0].chains,
        [Chain {
            kind: ChainKind::Http,
            tls: ChainTls::Plain
        }]
    );
    assert_eq!(listener.receivers[0].addresses, None);
    assert!(!gateway.workloads[0].labels_complete);
    assert_eq!(found.mesh.root_namespace.as_deref(), Some("istio-system"));
    assert_eq!(found.mesh.request_authentication, Tri::False);
}

#[test]
fn pod_then_its_address_and_labels_too() {
    let found = find_in(&format!("{SERVICE}{NODE}{POD}{GATEWAY}"));
    let gateway = &found.gateways[0];
    assert_eq!(
        tuples(&gateway.listeners[0]),
        [
            "10.244.0.5:8080/tcp",
            "172.18.0.2:30080/tcp",
            "203.0.113.10:80/tcp"
        ]
    );
    assert!(gateway.workloads[0].labels_complete);
    let own: IpAddr = "10.244.0.5".parse().unwrap();
    assert_eq!(gateway.listeners[0].receivers[0].addresses, Some(vec![own]));
}
