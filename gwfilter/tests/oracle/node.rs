//! What a node that runs gwfilter does: the set as manifests, through the code that `gwfilter explain` runs.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::set::{Chain, Placed, Set, TcpServer, Topology, VIP_HTTP, VIP_TCP, VIP4, VIP6, packet_source};

/// The set as a multi-document manifest.
pub(crate) fn manifests(placed: &Placed) -> String {
    let set = &placed.set;
    let labels: Value = set
        .labels()
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::String(value)))
        .collect();
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
                {"type": "InternalIP", "address": "172.18.0.2"},
                {"type": "InternalIP", "address": "2001:db8:bbbb::2"},
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
            "metadata": {"name": "gw-0", "namespace": set.namespace, "labels": labels},
            "spec": {"nodeName": "node-a", "containers": [{"name": "istio-proxy", "image": "istio/proxyv2"}]},
            "status": {
                "podIP": placed.pod4.to_string(),
                "podIPs": [{"ip": placed.pod4.to_string()}, {"ip": placed.pod6.to_string()}],
                "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            },
        }),
    ];
    if !set.ports_unknown {
        documents.push(gateway(set));
    }
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
    if set.gateway_api {
        let mut second = json!({"name": "tcp", "port": VIP_TCP, "protocol": "TCP"});
        if set.tcp_server == TcpServer::Passthrough {
            second = json!({"name": "tls", "port": VIP_TCP, "protocol": "TLS", "tls": tls("Passthrough")});
        }
        return json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "gw", "namespace": set.namespace},
            "spec": {
                "gatewayClassName": "istio",
                "listeners": [{"name": "http", "port": VIP_HTTP, "protocol": "HTTP"}, second],
            },
        });
    }
    let second = match set.tcp_server {
        TcpServer::Tcp => {
            json!({"port": {"number": VIP_TCP, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]})
        }
        TcpServer::Passthrough => {
            json!({"port": {"number": VIP_TCP, "name": "tls", "protocol": "TLS"}, "hosts": ["*"], "tls": tls("PASSTHROUGH")})
        }
        TcpServer::AutoPassthrough => {
            json!({"port": {"number": VIP_TCP, "name": "tls", "protocol": "TLS"}, "hosts": ["*"], "tls": tls("AUTO_PASSTHROUGH")})
        }
    };
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "gw", "namespace": set.namespace},
        "spec": {
            "selector": {"app": "gw", "istio": "ingressgateway"},
            "servers": [{"port": {"number": VIP_HTTP, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}, second],
        },
    })
}

/// A connection as the node sees its first packet.
fn destination(client: IpAddr, chain: Chain) -> (IpAddr, u16) {
    let address = if client.is_ipv4() {
        IpAddr::from(VIP4)
    } else {
        IpAddr::from(VIP6)
    };
    let port = match chain {
        Chain::Http => VIP_HTTP,
        Chain::Tcp => VIP_TCP,
    };
    (address, port)
}

/// INTERIM
pub(crate) fn drops(placed: &Placed, connections: &[(IpAddr, Chain)]) -> Result<Vec<bool>> {
    use gwfilter::desired::Verdict;
    use gwfilter::gateway::model as m;
    let set = &placed.set;
    let _ = (manifests(placed), Context::context(Some(0), ""));
    let policies: Vec<gwfilter::object::authorization_policy::AuthorizationPolicy> = set
        .policies
        .iter()
        .map(|p| {
            let map = |key: &str| {
                p.pointer(&format!("/metadata/{key}"))
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
                    .collect()
            };
            gwfilter::object::authorization_policy::AuthorizationPolicy {
                meta: gwfilter::object::meta::Meta {
                    name: p
                        .pointer("/metadata/name")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                    namespace: p
                        .pointer("/metadata/namespace")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                    labels: map("labels"),
                    annotations: map("annotations"),
                },
                spec: p.get("spec").cloned().unwrap_or_default(),
            }
        })
        .collect();
    let (decoded, _) = gwfilter::policy::decode(&policies);
    let mesh = m::Mesh {
        root_namespace: Some(set.root_namespace.clone()),
        discovery_selectors: false,
        istiod_revision: None,
        selector_based_gateway_policy: m::Tri::True,
        request_authentication: if set.tokens {
            m::Tri::Unknown
        } else {
            m::Tri::False
        },
    };
    let listener = |name: &str, kind, tls, port| m::Listener {
        name: name.to_owned(),
        tuples: Vec::new(),
        receivers: vec![m::Receiver {
            workload: 0,
            port,
            addresses: Some(vec![placed.pod4.into(), placed.pod6.into()]),
            chains: vec![m::Chain { kind, tls }],
        }],
    };
    let unknown = |k: m::ChainKind, t: m::ChainTls| {
        if set.ports_unknown {
            (m::ChainKind::Unknown, m::ChainTls::Unknown)
        } else {
            (k, t)
        }
    };
    let (hk, ht) = unknown(m::ChainKind::Http, m::ChainTls::Plain);
    let (tk, tt) = match set.tcp_server {
        TcpServer::Tcp => unknown(m::ChainKind::Tcp, m::ChainTls::Plain),
        TcpServer::Passthrough => unknown(m::ChainKind::Tcp, m::ChainTls::Unknown),
        TcpServer::AutoPassthrough => (m::ChainKind::NoRbac, m::ChainTls::Unknown),
    };
    let gateway = m::Gateway {
        namespace: set.namespace.clone(),
        name: "gw".to_owned(),
        client_address: match set.topology {
            Topology::Plain => m::ClientAddress::PacketSource,
            Topology::XForwardedFor => m::ClientAddress::XForwardedFor,
            Topology::Proxy => m::ClientAddress::ProxyHeader,
        },
        workloads: vec![m::Workload {
            namespace: set.namespace.clone(),
            labels: set.labels().into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            labels_complete: true,
            revision: set.revision.clone(),
        }],
        listeners: vec![
            listener("http2", hk, ht, set.http_port),
            listener("tcp", tk, tt, set.tcp_port),
        ],
        rewritten: Vec::new(),
        never_drop: Vec::new(),
        probe_sources_known: true,
        not_enforced: None,
        observe: None,
        remarks: Vec::new(),
    };
    let compiled = gwfilter::policy::compile(&mesh, &decoded, &gateway, true);
    connections
        .iter()
        .map(|(client, chain)| {
            let index = usize::from(*chain == Chain::Tcp);
            let source = packet_source(set.topology, *client);
            let tables = compiled.listeners.get(index).context("no listener")?;
            let outcome = match source {
                IpAddr::V4(a) => tables.table4.as_ref().and_then(|t| {
                    t.iter()
                        .filter(|(p, _)| p.contains(&a))
                        .max_by_key(|(p, _)| p.prefix_len())
                        .map(|(_, o)| o.clone())
                }),
                IpAddr::V6(a) => tables.table6.as_ref().and_then(|t| {
                    t.iter()
                        .filter(|(p, _)| p.contains(&a))
                        .max_by_key(|(p, _)| p.prefix_len())
                        .map(|(_, o)| o.clone())
                }),
            };
            let slow = gwfilter::policy::evaluate(
                &mesh,
                &decoded,
                &gateway,
                gateway.listeners.get(index).context("no listener")?,
                true,
                source,
            );
            let drop = outcome.as_ref().is_some_and(|o| o.verdict == Verdict::Drop);
            anyhow::ensure!(
                drop == (slow.verdict == Verdict::Drop),
                "compile {outcome:?} evaluate {slow:?} {client} {chain:?}"
            );
            let _ = destination(*client, *chain);
            Ok(drop)
        })
        .collect()
}
