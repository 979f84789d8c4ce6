use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::manifest;
use crate::node::NodeFacts;
use crate::object::{self, Key, Kind};
use crate::pipeline;

/// One document of each kind, and some that cannot be read.
const DOCUMENTS: &str = r#"
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: n, labels: {x: y}, annotations: {k: "v\n\u2028"}}, spec: {action: DENY, rules: [{from: [{source: {ipBlocks: ["192.0.2.0/24"]}}]}]}}
---
{apiVersion: security.istio.io/v1beta1, kind: AuthorizationPolicy, metadata: {name: b, namespace: n}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: broken, namespace: n, labels: {x: 1}}}
---
{apiVersion: security.istio.io/v9, kind: AuthorizationPolicy, metadata: {name: c, namespace: n}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: "rootNamespace: r\ndiscoverySelectors: [{matchLabels: {a: b}}, {matchExpressions: [{key: k, operator: In, values: [v]}]}]\ndefaultConfig: {gatewayTopology: {numTrustedProxies: 2}}"}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: n}, spec: {template: {metadata: {labels: {app: g}}, spec: {containers: [{name: istio-proxy, args: [proxy, router]}]}}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: n, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: http, port: 8080, protocol: TCP}], endpoints: [{addresses: [10.244.1.5], nodeName: node-1, targetRef: {kind: Pod, name: p}, conditions: {ready: true, serving: true, terminating: false}}]}
---
{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: f, namespace: n}, spec: {workloadSelector: {labels: {app: g}}, configPatches: [{applyTo: LISTENER, match: {context: GATEWAY}, patch: {operation: MERGE, value: {a: [1, -2, 3.5, null, true, "x"]}}}]}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: n}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, protocol: https}, bind: 10.0.0.1, tls: {mode: SIMPLE}}]}}
---
{apiVersion: install.istio.io/v1alpha1, kind: IstioOperator, metadata: {name: o, namespace: istio-system}, spec: {components: {ingressGateways: [{name: g, k8s: {serviceAnnotations: {a: b}}}]}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: k, namespace: n}, spec: {gatewayClassName: istio, addresses: [{type: Hostname, value: s.n.svc}], listeners: [{port: 80, protocol: HTTP}, {port: 443, protocol: HTTPS, tls: {mode: Terminate, options: {a: b}}}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {a: b}}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDRs: [10.244.1.0/24, "2001:db8::/64"], providerID: "gce://x"}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: n, labels: {istio: ingressgateway}, ownerReferences: [{kind: ReplicaSet, name: g-1, controller: true}]}, spec: {nodeName: node-1, containers: [{name: istio-proxy, args: [proxy, router], env: [{name: A, value: b}, {name: C, valueFrom: {}}], ports: [{containerPort: 8080, hostPort: 8080, hostIP: 10.0.0.1, name: http}]}]}, status: {phase: Running, podIP: 10.244.1.5, podIPs: [{ip: 10.244.1.5}, {ip: "2001:db8::5"}], conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: h, namespace: n}, spec: {nodeName: node-1, hostNetwork: true, containers: []}, status: {podIP: 10.0.0.1}}
---
{apiVersion: networking.istio.io/v1beta1, kind: ProxyConfig, metadata: {name: c, namespace: n}, spec: {selector: {matchLabels: {app: g}}, strange: 1}}
---
{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: r, namespace: n}, spec: {targetRefs: [{kind: Gateway, name: k}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: n, annotations: {gwfilter.io/never-drop: ""}}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000, selector: {istio: ingressgateway}, clusterIPs: [10.96.0.9], ipFamilies: [IPv4], externalIPs: [203.0.113.9], ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}, {name: named, port: 81, targetPort: web}]}, status: {loadBalancer: {ingress: [{ip: 203.0.113.80}, {ip: 203.0.113.81, ipMode: Proxy}]}}}
---
{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {name: w, namespace: n}, spec: {phase: AUTHN, selector: {matchLabels: {app: g}}}}
---
{apiVersion: v1, kind: List, items: 5}
"#;

fn documents() -> Vec<Value> {
    let documents = manifest::parse(DOCUMENTS.as_bytes()).expect("readable");
    documents.into_iter().map(|document| document.value).collect()
}

fn load(index: &mut Index, source: &str, documents: &[Value]) {
    let (mut objects, mut diagnostics) = (Vec::new(), Vec::new());
    for document in documents {
        let (more, found) = object::decode(document);
        objects.extend(more);
        diagnostics.extend(found);
    }
    index.reset(source, objects, diagnostics);
}

fn whole() -> Index {
    let mut index = Index::new();
    load(&mut index, "one", &documents());
    index
}

fn stamp() -> Stamp {
    Stamp {
        node: "node-1".to_owned(),
        boot_id: "7f1d".to_owned(),
        saved_at: 1_000_000,
    }
}

#[track_caller]
fn round_trip(index: &Index) {
    let text = encode(index, &stamp()).expect("it can be written");
    let (stamp_back, back) = decode(&text).expect("it can be read");
    assert_eq!(stamp_back, stamp());
    let mut wanted = index.clone();
    for source in wanted.sources.values_mut().filter(|source| source.was_read) {
        source.unreadable = None;
    }
    assert_eq!(back.snapshot(), wanted.snapshot());
    assert_eq!(
        back.sources().collect::<Vec<_>>(),
        wanted.sources().collect::<Vec<_>>()
    );
}

#[test]
fn every_kind_written_then_read_back_the_same() {
    let index = whole();
    let kinds: BTreeSet<Kind> = index.sources["one"].objects.keys().map(|key| key.kind).collect();
    for kind in [Kind::DaemonSet, Kind::StatefulSet, Kind::TrafficExtension] {
        assert!(!kinds.contains(&kind), "of the same shape as another kind");
    }
    assert_eq!(
        kinds.len(),
        object::known_kinds()
            .iter()
            .map(|(_, k)| k)
            .collect::<BTreeSet<_>>()
            .len()
            - 2
    );
    assert!(!index.sources["one"].lost.is_empty() && !index.sources["one"].diagnostics.is_empty());
    round_trip(&index);
}

proptest! {
    #[test]
    fn any_history_written_then_read_back_the_same(
        steps in proptest::collection::vec((0..6_u8, 0..3_u8, proptest::collection::vec(0..64_usize, 0..6)), 0..24)
    ) {
        let documents = documents();
        let pick = |at: &usize| documents[at % documents.len()].clone();
        let mut index = Index::new();
        for (what, source, which) in steps {
            let source = format!("source {source}");
            let chosen: Vec<Value> = which.iter().map(pick).collect();
            match what {
                0 | 1 => load(&mut index, &source, &chosen),
                2 => index.unreadable(&source, "403"),
                3 => index.remove(&source),
                4 => for document in &chosen {
                    let (objects, found) = object::decode(document);
                    for object in objects {
                        index.apply(&source, object, found.clone());
                    }
                },
                _ => for document in &chosen {
                    let key = object::decode(document).0.first().and_then(Object::key);
                    if let Some(key) = key {
                        index.delete(&source, &key);
                    }
                },
            }
        }
        round_trip(&index);
    }

    #[test]
    fn any_damage_then_an_error(at in 0..10_000_usize, to: u8, cut: bool) {
        let mut text = encode(&whole(), &stamp()).expect("it can be written");
        let at = at % text.len();
        if cut {
            text.truncate(at);
        } else if text[at] == to {
            text.remove(at);
        } else {
            text[at] = to;
        }
        // In the header a changed node, boot or time is a legal one; the objects are never others than those that were written.
        if let Ok((_, back)) = decode(&text) {
            prop_assert_eq!(back.snapshot(), whole().snapshot());
        }
    }
}

#[test]
fn another_format_version_node_or_file_then_refused_by_name() {
    let text = encode(&whole(), &stamp()).expect("it can be written");
    let replaced = |from: &str, to: &str| String::from_utf8_lossy(&text).replacen(from, to, 1).into_bytes();
    let cases: [(Vec<u8>, &str); 7] = [
        (Vec::new(), "not a snapshot"),
        (b"\n\n".to_vec(), "not a snapshot"),
        (b"{\"kind\": \"Pod\"}\n{}\n".to_vec(), "not a snapshot"),
        (replaced(FORMAT, "somebody's"), "not a snapshot"),
        (replaced("\"version\":2", "\"version\":3"), "version 3"),
        (replaced("192.0.2.0/24", "192.0.2.0/25"), "checksum"),
        (replaced("node-1", "node-2"), "node"),
    ];
    for (text, wanted) in cases {
        let error = accept(&text, &stamp()).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let body = json!({"one": {"objects": [{"Pod": 5}]}}).to_string();
    let header = json!({"format": FORMAT, "version": VERSION, "node": "", "boot_id": "", "saved_at": 1, "sha256": checksum(body.as_bytes())});
    let error = decode(format!("{header}\n{body}\n").as_bytes()).expect_err("no such pod");
    assert!(matches!(error, SavedError::Objects(_)), "{error:?}");
}

/// What a start from the snapshot would judge, as `origin address:port`.
fn judged(now: &Stamp) -> (LastGood, Vec<String>) {
    let text = encode(&whole(), &stamp()).expect("it can be written");
    let mut last = accept(&text, now).expect("it is of this node");
    last.index.delete(
        "one",
        &Key {
            kind: Kind::EnvoyFilter,
            namespace: "n".to_owned(),
            name: "f".to_owned(),
        },
    );
    let mut source = last.index.sources.remove("one").expect("the source");
    // What is refused leaves everything to the gateway; that is another story.
    source.lost.clear();
    source.objects.retain(|key, _| {
        matches!(
            key.kind,
            Kind::Pod
                | Kind::Service
                | Kind::EndpointSlice
                | Kind::Node
                | Kind::IstioGateway
                | Kind::AuthorizationPolicy
        )
    });
    last.index.sources.insert("one".to_owned(), source);
    let facts = NodeFacts {
        name: Some("node-1".to_owned()),
        local_addresses: Some(BTreeSet::from(["10.0.0.1".parse().expect("an address")])),
    };
    let built = pipeline::build(&last.index.snapshot(), &facts, &pipeline::Settings::default());
    let receivers = || {
        built
            .gateways
            .iter()
            .flat_map(|g| g.listeners.iter().flat_map(|l| &l.receivers))
    };
    assert!(receivers().count() > 0);
    assert_eq!(
        receivers().all(|r| r.addresses.is_none()),
        last.restarted,
        "what Envoy's socket has"
    );
    let tuples = built.desired.tuples.keys().map(ToString::to_string).collect();
    (last, tuples)
}

#[test]
fn the_node_restarted_then_no_destination_at_a_pods_old_address() {
    let at = |boot_id: &str, saved_at| Stamp {
        boot_id: boot_id.to_owned(),
        saved_at,
        ..stamp()
    };
    let (same, tuples) = judged(&at("7f1d", 1_000_090));
    assert!(!same.restarted);
    assert_eq!(same.age_secs, Some(90));
    assert!(tuples.iter().any(|t| t.starts_with("10.244.1.5:")), "{tuples:?}");
    let (other, fewer) = judged(&at("0000", 999_999));
    assert!(other.restarted);
    assert_eq!(other.age_secs, None, "the clock went backwards");
    let wanted: Vec<String> = tuples
        .into_iter()
        .filter(|t| !t.starts_with("10.244.1.5:") && !t.starts_with("[2001:db8::5]:"))
        .collect();
    assert!(
        fewer.iter().any(|t| t.starts_with("203.0.113.80:80/")),
        "{fewer:?}"
    );
    assert!(
        fewer.iter().any(|t| t.starts_with("10.0.0.1:8080/")),
        "a host port: {fewer:?}"
    );
    assert_eq!(fewer, wanted);

    // An agent that has heard nothing since writes it down again; the doubt must not be lost with that.
    let here = at("0000", 2_000_000);
    let text = encode(&other.index, &here).expect("it can be written");
    let again = accept(&text, &here).expect("it is of this node");
    assert!(!again.restarted);
    assert_eq!(again.index.snapshot(), other.index.snapshot());
    assert!(!again.index.snapshot().stale_addresses.is_empty());
}
