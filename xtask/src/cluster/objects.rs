//! Kubernetes objects as controllers, kubelets and cloud providers write them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The path of an object at the API server, from its own `apiVersion`, `kind` and `metadata`. An object of a namespaced kind must
/// name its namespace.
///
/// # Errors
/// If a part is missing.
pub fn path(object: &Value) -> Result<String> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .with_context(|| format!("no {pointer} in {object}"))
    };
    let version = text("/apiVersion")?;
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = match object.pointer("/metadata/namespace").and_then(Value::as_str) {
        Some(namespace) => format!("namespaces/{namespace}/"),
        None => String::new(),
    };
    Ok(format!(
        "/{root}/{version}/{namespace}{}/{}",
        plural(text("/kind")?),
        text("/metadata/name")?
    ))
}

/// The word for many objects of a kind.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let vowel = |c: Option<char>| c.is_some_and(|c| "aeiou".contains(c));
    match kind.strip_suffix('y') {
        Some(stem) if !vowel(stem.chars().last()) => format!("{stem}ies"),
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    }
}

/// A node with its addresses and pod prefixes, ready, as its kubelet and the node controller leave it.
#[must_use]
pub fn node(name: &str, addresses: &[&str], pod_prefixes: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .chain([json!({"type": "Hostname", "address": name})])
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        }},
        "spec": {"podCIDR": pod_prefixes.first(), "podCIDRs": pod_prefixes},
        "status": {"addresses": addresses, "conditions": [condition("Ready", true)]},
    })
}

/// A pod of an ingress gateway, running on `node` and ready.
#[must_use]
pub fn gateway_pod(
    namespace: &str,
    name: &str,
    node: &str,
    host: &str,
    addresses: &[&str],
    port: u16,
) -> Value {
    let labels = json!({"app": "istio-ingressgateway", "istio": "ingressgateway"});
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "istio-proxy",
                "image": "docker.io/istio/proxyv2:1.31.4",
                "args": ["proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local"],
                "ports": [{"name": "http2", "containerPort": port, "protocol": "TCP"}],
            }],
        },
        "status": {
            "phase": "Running",
            "hostIP": host, "hostIPs": [{"ip": host}],
            "podIP": addresses.first(), "podIPs": ips,
            "conditions": [condition("Ready", true), condition("ContainersReady", true), condition("PodScheduled", true)],
        },
    })
}

/// The slice that the endpoint-slice controller writes for a Service in one family: ready endpoints, each an address, its
/// node and its pod.
#[must_use]
pub fn endpoint_slice(
    namespace: &str,
    service: &str,
    port: (&str, u16),
    endpoints: &[(IpAddr, &str, &str)],
) -> Value {
    let v6 = endpoints.first().is_some_and(|(address, ..)| address.is_ipv6());
    let family = if v6 { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, pod)| {
            json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node,
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": format!("{service}-{}", family.to_lowercase()),
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": family,
        "ports": [{"name": port.0, "port": port.1, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// A condition as kubelets write them.
#[must_use]
pub fn condition(kind: &str, holds: bool) -> Value {
    json!({"type": kind, "status": if holds { "True" } else { "False" }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_then_its_path() {
        for (version, kind, namespace, expected) in [
            ("v1", "Node", None, "/api/v1/nodes/x"),
            ("v1", "Pod", Some("a"), "/api/v1/namespaces/a/pods/x"),
            (
                "security.istio.io/v1",
                "AuthorizationPolicy",
                Some("a"),
                "/apis/security.istio.io/v1/namespaces/a/authorizationpolicies/x",
            ),
            (
                "gateway.networking.k8s.io/v1",
                "GatewayClass",
                None,
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses/x",
            ),
            (
                "networking.istio.io/v1",
                "Gateway",
                Some("a"),
                "/apis/networking.istio.io/v1/namespaces/a/gateways/x",
            ),
        ] {
            let object = json!({
                "apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": namespace},
            });
            assert_eq!(path(&object).expect("a path"), expected);
        }
        assert!(path(&json!({"kind": "Pod"})).is_err());
    }
}
