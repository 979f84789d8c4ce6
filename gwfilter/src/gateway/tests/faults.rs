//! Objects that cannot be read: they lead to less enforcement, never to more.

use serde_json::{Value, json};

use proptest::prelude::*;

use super::*;
use crate::object;

#[test]
fn object_that_bears_on_a_gateway_and_cannot_be_read_then_not_enforced() {
    let cases = [
        ("pod labels", with(POD, "labels: {app: istio-ingressgateway", "labels: {app: 1"), true),
        ("pod labels, other namespace", with(&with(POD, "labels: {app: istio-ingressgateway", "labels: {app: 1"), "istio-system", "foo"), true),
        ("Service of another namespace", with(&with(&with(SERVICE, "name: istio-ingressgateway\n", "name: x\n"), "istio-system", "foo"), "port: 80,", "port: eighty,"), true),
        ("EndpointSlice, other namespace", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x, namespace: foo}\nendpoints: 1\n".to_owned(), false),
        ("Deployment, other namespace", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, namespace: foo}\nspec: 1\n".to_owned(), false),
        ("another Service's ports", with(&with(SERVICE, "name: istio-ingressgateway\n", "name: x\n"), "port: 80,", "port: eighty,"), true),
        ("Gateway servers", with(GATEWAY, "number: 80", "number: http"), true),
        ("Gateway without a port", with(GATEWAY, "number: 80, ", ""), true),
        ("Gateway of an unknown version", with(GATEWAY, "networking.istio.io/v1", "networking.istio.io/v2"), true),
        ("EnvoyFilter", "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: e, namespace: istio-system}\nspec: []\n".to_owned(), true),
        ("EnvoyFilter, other namespace", "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: e, namespace: foo}\nspec: []\n".to_owned(), false),
        ("mesh configuration", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: \"{\"}\n".to_owned(), true),
        ("another ConfigMap", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: istio-system}\ndata: {mesh: 1}\n".to_owned(), false),
        ("Node", with(&with(NODE, "10.244.0.0/24", "x"), "name: node-a", "name: node-b"), true),
        ("a list", "apiVersion: v1\nkind: List\nitems: {}\n".to_owned(), true),
    ];
    for (name, more, bears) in cases {
        let found = find_in(&format!("{SERVICE}{NODE}{more}"));
        let gateway = found
            .gateways
            .iter()
            .find(|g| g.name == "istio-ingressgateway")
            .unwrap();
        assert_eq!(why(gateway), bears.then_some("unreadable-object"), "{name}");
        let errors = found
            .diagnostics
            .iter()
            .filter(|d| d.severity == crate::diagnostic::Severity::Error)
            .count();
        assert_eq!(
            errors > 0,
            name != "another ConfigMap",
            "{name}: {:?}",
            found.diagnostics
        );
    }
}

#[test]
fn service_with_an_unreadable_port_then_not_enforced() {
    let found = find_in(&format!("{}{NODE}", with(SERVICE, "port: 80,", "port: 80000,")));
    assert_eq!(found.gateways, []);
    let message = &found.diagnostics[0].message;
    assert!(
        message.starts_with("spec.ports[1].port: expected a port from 1 to 65535, found 80000"),
        "{message}"
    );
}

#[test]
fn unquoted_annotation_then_refused_as_kubectl_does() {
    let found = find_in(&format!("{}{NODE}", annotated("gwfilter.io/enforce: false")));
    assert_eq!(found.gateways, []);
    assert_eq!(codes(&found), ["unreadable-object"]);
    let diagnostic = &found.diagnostics[0];
    assert_eq!(
        diagnostic.object.to_string(),
        "Service istio-system/istio-ingressgateway"
    );
    assert!(
        diagnostic
            .message
            .contains("metadata.annotations: key \"gwfilter.io/enforce\""),
        "{diagnostic}"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "",
        "istio",
        "router",
        "10.0.0.1",
        "10.0.0.0/8",
        "Local",
        "TCP",
        "Pod",
        "HTTPS",
        "*",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1_i64..70_000).prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "annotations",
        "ports",
        "port",
        "selector",
        "servers",
        "number",
        "protocol",
        "tls",
        "mode",
        "containers",
        "args",
        "env",
        "value",
        "podIP",
        "addresses",
        "endpoints",
        "listeners",
        "configPatches",
        "patch",
        "match",
        "data",
        "mesh",
        "items",
        "kind",
        "template",
        "externalIPs",
        "targetPort",
        "nodePort",
        "matchLabels",
        "meshConfig",
        "components",
        "ingressGateways",
        "k8s",
    ]);
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6).prop_map(|pairs| pairs
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn any_objects_of_known_kinds_then_no_panic(
        documents in prop::collection::vec((0_usize..30, any_json(), any_json(), any_json()), 1..6)
    ) {
        let kinds = object::known_kinds();
        let mut index = Index::new();
        let mut objects = Vec::new();
        for (kind, metadata, spec, status) in documents {
            let (api_version, kind) = &kinds[kind % kinds.len()];
            let mut document = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec,
                                      "status": status});
            if document["metadata"].is_object() {
                document["metadata"]["name"] = json!("istio");
            }
            if let (Value::Object(all), Value::Object(spec)) = (&mut document, &spec) {
                all.extend(spec.clone().into_iter().filter(|(key, _)| !matches!(key.as_str(), "metadata" | "kind")));
            }
            objects.extend(object::decode(&document).0);
        }
        index.reset("x", objects, Vec::new());
        let snapshot = index.snapshot();
        for facts in [NodeFacts::default(), node("istio")] {
            for settings in [files(), cluster()] {
                let found = find(&snapshot, &facts, &settings);
                for gateway in found.gateways {
                    for listener in gateway.listeners {
                        prop_assert!(listener.receivers.iter().all(|r| !r.chains.is_empty() && r.workload < gateway.workloads.len()));
                    }
                }
            }
        }
    }

    #[test]
    fn any_json_then_no_panic(value in any_json()) {
        let _ = object::decode(&value);
    }
}
