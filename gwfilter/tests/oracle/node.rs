//! What a node that runs gwfilter does: the set as manifests, through the code that `gwfilter explain` runs.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use gwfilter::explain::{Explainer, Query};
use gwfilter::gateway::model::Protocol;
use gwfilter::index::Index;
use gwfilter::node::NodeFacts;
use gwfilter::{gateway, pipeline};
use serde_json::{Value, json};

use crate::set::{Chain, NODE4, NODE6, Placed, Set, TcpServer, Topology, VIP_HTTP, VIP_TCP, VIP4, VIP6};

/// The set as a multi-document manifest.
pub(crate) fn manifests(placed: &Placed) -> String {
    let set = &placed.set;
    let labels: Value = set
        .labels()
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::String(value)))
        .collect();
    let annotations = set
        .revision
        .as_ref()
        .map_or_else(|| json!({}), |revision| json!({"istio.io/rev": revision}));
    let client_address = match set.topology {
        Topology::Plain => "packet-source",
        Topology::XForwardedFor => "x-forwarded-for",
        Topology::Proxy => "proxy-header",
    };
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let mut documents = vec![
        namespace(&set.namespace),
        namespace(&set.root_namespace),
        namespace("other"),
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
            "spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16", "2001:db8:aaaa::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": NODE4.to_string()},
                {"type": "InternalIP", "address": NODE6.to_string()},
            ]},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "gw", "namespace": set.namespace,
                "annotations": {"gwfilter.io/client-address": client_address},
            },
            "spec": {
                "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
                "selector": {"app": "gw", "istio": "ingressgateway"},
                "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"],
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
                "ports": [
                    {"name": "http2", "port": VIP_HTTP, "targetPort": set.http_port, "nodePort": 30080, "protocol": "TCP"},
                    {"name": "tcp", "port": VIP_TCP, "targetPort": set.tcp_port, "nodePort": 31401, "protocol": "TCP"},
                ],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": VIP4.to_string()}, {"ip": VIP6.to_string()}]}},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "gw-0", "namespace": set.namespace, "labels": labels, "annotations": annotations},
            "spec": {"nodeName": "node-a", "containers": [{"name": "istio-proxy", "image": "istio/proxyv2"}]},
            "status": {
                "podIP": placed.pod4.to_string(),
                "podIPs": [{"ip": placed.pod4.to_string()}, {"ip": placed.pod6.to_string()}],
                "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            },
        }),
    ];
    documents.push(gateway(set));
    if set.tokens {
        documents.push(json!({
            "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
            "metadata": {"name": "tokens", "namespace": set.namespace},
            "spec": {"jwtRules": [{"issuer": "issuer", "jwksUri": "https://issuer.test/keys"}]},
        }));
    }
    if set.root_namespace != "istio-system" {
        documents.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": format!("rootNamespace: {}\n", set.root_namespace)},
        }));
    }
    documents.extend(set.policies.iter().cloned());
    documents
        .iter()
        .map(|document| format!("{document}\n---\n"))
        .collect()
}

/// The object that tells what the ports are.
fn gateway(set: &Set) -> Value {
    let tls = |mode: &str| json!({"mode": mode});
    // A port that no server names is not judged at all; what a protocol of another world makes of one is not known.
    let protocol = |known: &'static str| {
        if set.ports_unknown {
            "example.com/odd"
        } else {
            known
        }
    };
    let (http, tcp) = (VIP_HTTP, VIP_TCP);
    if set.gateway_api {
        let mut second = json!({"name": "tcp", "port": tcp, "protocol": protocol("TCP")});
        if set.tcp_server == TcpServer::Passthrough {
            second =
                json!({"name": "tls", "port": tcp, "protocol": protocol("TLS"), "tls": tls("Passthrough")});
        }
        return json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "gw", "namespace": set.namespace},
            "spec": {
                "gatewayClassName": "istio",
                "listeners": [{"name": "http", "port": http, "protocol": protocol("HTTP")}, second],
            },
        });
    }
    let second = match set.tcp_server {
        TcpServer::Tcp => {
            json!({"port": {"number": tcp, "name": "tcp", "protocol": protocol("TCP")}, "hosts": ["*"]})
        }
        TcpServer::Passthrough => {
            json!({"port": {"number": tcp, "name": "tls", "protocol": protocol("TLS")}, "hosts": ["*"], "tls": tls("PASSTHROUGH")})
        }
        TcpServer::AutoPassthrough => {
            json!({"port": {"number": tcp, "name": "tls", "protocol": protocol("TLS")}, "hosts": ["*"], "tls": tls("AUTO_PASSTHROUGH")})
        }
    };
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "gw", "namespace": set.namespace},
        "spec": {
            "selector": {"app": "gw", "istio": "ingressgateway"},
            "servers": [{"port": {"number": http, "name": "http", "protocol": protocol("HTTP")}, "hosts": ["*"]}, second],
        },
    })
}

/// Where packets from a source go.
fn destination(source: IpAddr, chain: Chain) -> SocketAddr {
    let address = if source.is_ipv4() {
        IpAddr::from(VIP4)
    } else {
        IpAddr::from(VIP6)
    };
    let port = match chain {
        Chain::Http => VIP_HTTP,
        Chain::Tcp => VIP_TCP,
    };
    SocketAddr::new(address, port)
}

/// Whether the node drops each client's first packet. An error too if gwfilter's tables and its evaluator differ.
pub(crate) fn drops(placed: &Placed, connections: &[(IpAddr, Chain)]) -> Result<Vec<bool>> {
    let mut index = Index::new();
    index
        .load("set", manifests(placed).as_bytes())
        .context("reading the set as manifests")?;
    let settings = pipeline::Settings {
        gateway: gateway::Settings {
            never_drop: Vec::new(),
            from_files: true,
        },
        ..pipeline::Settings::default()
    };
    let built = pipeline::build(&index.snapshot(), &NodeFacts::default(), &settings);
    let explainer = Explainer::new(built).context("filling the tables")?;
    let mut drops = Vec::new();
    for (client, chain) in connections {
        let way = placed.way(*client, *chain);
        let header = (SocketAddr::new(*client, 40_000), way.written);
        let header = (placed.set.topology == Topology::Proxy).then_some(header);
        let query = Query::new(way.source, destination(way.source, *chain), Protocol::Tcp, header)?;
        drops.push(explainer.answer(&query)?.verdict == "drop");
    }
    Ok(drops)
}
