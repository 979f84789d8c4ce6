//! Objects of a cluster that change into something that nobody can read: the cluster runs it already, so what was known is over.

use serde_json::{Value, json};

use super::cluster::{build, index, refused, source, whole};
use super::*;
use crate::object;

const ALL: &str = "deny root token rev default";

/// Applies an object to the watch of its kind, as the API server tells it.
fn apply(index: &mut Index, document: &Value) {
    let (mut objects, found) = object::decode(document);
    let object = objects.remove(0);
    let kind = object.key().unwrap().kind;
    index.apply(&source(kind), object, found);
}

/// The gateway's own Service, or another one, with what the review saw: `Local` goes, and something that cannot be read comes.
fn service(name: &str, namespace: &str, external: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"externalIPs": external, "selector": {"app": "x"}, "ports": [{"port": 80}]}})
}

#[test]
fn a_service_that_cannot_be_read_any_more_then_its_old_version_is_over() {
    let mut index = index(&whole(), &[]);
    assert_eq!(refused(&build(&index)), ALL);
    apply(
        &mut index,
        &service("istio-ingressgateway", "istio-system", &json!([7])),
    );
    let built = build(&index);
    assert_eq!(refused(&built), "-");
    assert!(built.desired.tuples.is_empty(), "{:?}", built.desired.tuples);
    let said = |d: &&Diagnostic| d.code == "unreadable-object";
    let found = built.diagnostics.iter().find(said).unwrap();
    assert_eq!(
        found.object.to_string(),
        "Service istio-system/istio-ingressgateway"
    );
    assert!(
        found.message.contains("spec.externalIPs[0]")
            && found.message.contains("nothing that it could change is enforced"),
        "{}",
        found.message
    );
}

/// Kind by kind: whether the gateway is enforced while an object of it, which was good, cannot be read; and with which default-deny.
#[test]
fn an_object_that_cannot_be_read_any_more_then_gateways_on_which_it_may_bear_are_not_enforced() {
    let istio = |kind: &str, namespace: &str, spec: &Value| {
        json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": kind,
            "metadata": {"name": "x", "namespace": namespace}, "spec": spec})
    };
    let policy = |namespace: &str, labels: &Value| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "x", "namespace": namespace, "labels": labels}, "spec": {"action": "DENY"}})
    };
    let slice = |namespace: &str, endpoints: &Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "x", "namespace": namespace}, "endpoints": endpoints})
    };
    let servers =
        |number: &Value| json!({"servers": [{"port": {"number": number, "protocol": "HTTP", "name": "x"}}]});
    let (fine, none) = (json!([]), json!({}));
    let no_default = "deny root token rev";
    let cases = [
        (
            "Service",
            service("x", "istio-system", &fine),
            service("x", "istio-system", &json!(7)),
            "-",
        ),
        (
            "Service elsewhere",
            service("x", "foo", &fine),
            service("x", "foo", &json!(["x"])),
            "-",
        ),
        (
            "Service elsewhere, as Kubernetes reads it",
            service("x", "foo", &fine),
            service("x", "foo", &json!(["010.0.0.5"])),
            ALL,
        ),
        (
            "EndpointSlice",
            slice("istio-system", &fine),
            slice("istio-system", &json!(7)),
            "-",
        ),
        (
            "EndpointSlice elsewhere",
            slice("foo", &fine),
            slice("foo", &json!(7)),
            ALL,
        ),
        (
            "Gateway elsewhere",
            istio("Gateway", "foo", &servers(&json!(81))),
            istio("Gateway", "foo", &servers(&json!("x"))),
            "-",
        ),
        (
            "EnvoyFilter in the root namespace",
            istio("EnvoyFilter", "roots", &none),
            istio("EnvoyFilter", "roots", &fine),
            "-",
        ),
        (
            "EnvoyFilter elsewhere",
            istio("EnvoyFilter", "foo", &none),
            istio("EnvoyFilter", "foo", &fine),
            ALL,
        ),
        (
            "policy",
            policy("istio-system", &none),
            policy("istio-system", &json!({"x": 1})),
            no_default,
        ),
        (
            "policy in the root namespace",
            policy("roots", &none),
            policy("roots", &json!({"x": 1})),
            no_default,
        ),
        (
            "policy elsewhere",
            policy("foo", &none),
            policy("foo", &json!({"x": 1})),
            ALL,
        ),
    ];
    for (name, good, bad, wanted) in cases {
        let mut index = index(&whole(), &[]);
        apply(&mut index, &good);
        assert_eq!(refused(&build(&index)), ALL, "{name}");
        apply(&mut index, &bad);
        let built = build(&index);
        assert_eq!(refused(&built), wanted, "{name}");
        let gateway = &built.gateways[0];
        assert_eq!(
            why(gateway),
            (wanted == "-").then_some("unreadable-object"),
            "{name}"
        );
        let told = built.reports[0].why.join(" ");
        assert_eq!(
            told.contains("incomplete-input"),
            wanted == no_default,
            "{name}: {told}"
        );
        apply(&mut index, &good);
        assert_eq!(refused(&build(&index)), ALL, "{name}, mended");
    }
}
