//! What people of other namespaces can write, and how little of it a node computes. Counts, not times.

use super::cluster::{build, facts, index, refused, source, whole};
use super::*;
use crate::diagnostic::{IN_ALL, PER_NAMESPACE, Severity};
use crate::object;
use crate::pipeline::{self, Built};
use crate::policy::Memo;
use crate::snapshot::unread::Subject;
use serde_json::{Value, json};

const POLICIES: usize = 200;
const RULES: usize = 512;
const SERVICES: usize = 20;

/// Policies of a namespace, with rules as small as rules can be.
fn policies(namespace: &str, policies: usize, rules: usize) -> Vec<Value> {
    let rule = json!({"to": [{"operation": {"ports": ["1"]}}]});
    let policy = |at: usize| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("p{at}"), "namespace": namespace},
            "spec": {"action": "DENY", "rules": vec![&rule; rules]},
        })
    };
    (0..policies).map(policy).collect()
}

/// Services that look like those of gateways, all with one selector or each with its own.
fn services(number: usize, selector: Option<&str>, annotations: &Value) -> Vec<Value> {
    let service = |at: usize| {
        let own = format!("x{at}");
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("e{at}"), "namespace": "evil", "annotations": annotations},
            "spec": {"selector": {"istio": selector.unwrap_or(&own)}, "ports": [{"port": 80, "targetPort": 8080}]},
        })
    };
    (0..number).map(service).collect()
}

/// Slices that somebody wrote by hand: one endpoint on a node, whose pod nobody knows.
fn slices(number: usize, node: &str) -> Vec<Value> {
    let slice = |at: usize| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("e{at}"), "namespace": "evil", "labels": {"kubernetes.io/service-name": format!("e{at}")}},
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": [format!("10.250.0.{}", at + 1)], "nodeName": node}],
        })
    };
    (0..number).map(slice).collect()
}

/// A pod here that runs Istio's proxy as a router, with the Gateway that selects it.
fn pod() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "e", "namespace": "evil", "labels": {"istio": "x"}},
            "spec": {"nodeName": "node-a", "containers": [{"name": "istio-proxy", "args": ["proxy", "router"]}]},
            "status": {"podIP": "10.244.0.9", "phase": "Running"},
        }),
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "evil"},
            "spec": {"selector": {"istio": "x"}, "servers": [{"port": {"number": 80, "name": "h", "protocol": "HTTP"}, "hosts": ["*"]}]},
        }),
    ]
}

fn apply(index: &mut Index, documents: &[Value]) {
    for document in documents {
        for object in object::decode(document).0 {
            let kind = object.key().unwrap().kind;
            index.apply(&source(kind), object, Vec::new());
        }
    }
}

fn with_others(documents: &[Vec<Value>]) -> Built {
    let mut index = index(&whole(), &[]);
    apply(&mut index, &documents.concat());
    build(&index)
}

/// Decoded policies, gateways, reported rules and findings.
fn counts(built: &Built) -> (usize, usize, usize, usize) {
    let rules = built
        .reports
        .iter()
        .flat_map(|r| &r.policies)
        .map(|p| p.rules.len());
    (
        built.policies.len(),
        built.gateways.len(),
        rules.sum(),
        built.diagnostics.len(),
    )
}

#[test]
fn another_namespaces_policies_and_services_then_nothing_is_compiled_for_them_and_all_else_is_as_without() {
    let without = with_others(&[]);
    let (decoded, gateways, rules, findings) = counts(&without);
    assert_eq!((decoded, gateways), (5, 1), "its own and the root's");
    let many = policies("evil", POLICIES, RULES);
    let none = json!({});
    let ours = json!({"gwfilter.io/client-address": "packet-source"});
    let own = |annotations| services(SERVICES, None, annotations);
    // What they write beside policies, the rows that it makes, and the findings that may come on top.
    let cases = [
        ("services", own(&none), vec![], 0, 0),
        ("annotated", own(&ours), vec![], 0, SERVICES),
        ("elsewhere", own(&none), slices(SERVICES, "node-b"), SERVICES, 1),
        (
            "made up here",
            own(&none),
            slices(SERVICES, "node-a"),
            SERVICES,
            2 * SERVICES,
        ),
        (
            "a pod here",
            services(SERVICES, Some("x"), &none),
            pod(),
            SERVICES,
            SERVICES,
        ),
    ];
    for (case, services, more, rows, said) in cases {
        let built = with_others(&[many.clone(), services, more]);
        let (d, g, r, f) = counts(&built);
        assert_eq!((d, g, r), (decoded, gateways + rows, rules), "{case}");
        assert!(
            f <= findings + said,
            "{case}: {f} findings: {:#?}",
            built.diagnostics
        );
        assert_eq!(built.desired, without.desired, "{case}");
        let enforced = |r: &&crate::report::GatewayReport| r.enforced;
        assert_eq!(built.reports.iter().filter(enforced).count(), 1, "{case}");
        let why = built.reports.iter().filter(|r| !r.enforced).map(|r| r.why.len());
        assert_eq!(why.min() >= Some(1), rows > 0, "{case}: each says why not");
    }
}

#[test]
fn gateways_without_a_pod_here_then_one_finding_for_all_and_a_row_for_each() {
    let built = with_others(&[services(SERVICES, None, &json!({})), slices(SERVICES, "node-b")]);
    let found: Vec<_> = built
        .diagnostics
        .iter()
        .filter(|d| d.code == "no-local-endpoint")
        .collect();
    assert!(
        matches!(&found[..], [d] if d.severity == Severity::Info && d.message.contains("evil/e0, evil/e1") && d.message.contains("and 12 more")),
        "{found:#?}"
    );
    let away =
        |r: &&crate::report::GatewayReport| r.why.iter().any(|why| why.starts_with("no-local-endpoint: "));
    assert_eq!(built.reports.iter().filter(away).count(), SERVICES);
}

#[test]
fn a_gateway_elsewhere_under_cluster_policy_then_its_destinations_are_still_known_as_rewritten() {
    let elsewhere = with(
        &whole(),
        "externalTrafficPolicy: Local",
        "externalTrafficPolicy: Cluster",
    );
    let elsewhere = elsewhere.replace("node-a", "node-c").replace(POD, "");
    let built = build(&index(&elsewhere, &[]));
    let keys: Vec<String> = built.desired.rewritten.iter().map(ToString::to_string).collect();
    assert!(keys.contains(&"203.0.113.10:80/tcp".to_owned()), "{keys:?}");
    assert!(built.desired.tuples.is_empty());
}

#[test]
fn a_gateway_without_a_pod_here_that_shares_a_destination_then_it_is_not_judged() {
    for node in ["node-b", "node-a"] {
        let mut other = services(1, None, &json!({}));
        other[0]["spec"]["externalTrafficPolicy"] = json!("Local");
        other[0]["spec"]["externalIPs"] = json!(["203.0.113.10"]);
        let built = with_others(&[other, slices(1, node)]);
        assert_eq!(refused(&built), "-", "{node}");
        assert!(!built.desired.tuples.is_empty(), "{node}: the others are");
    }
}

#[test]
fn more_than_is_compiled_for_a_namespace_then_its_gateways_are_left_out_and_who_shares_a_destination_is_not_judged()
 {
    let shares = || {
        let mut one = services(1, Some("x"), &json!({})).remove(0);
        one["spec"]["externalTrafficPolicy"] = json!("Local");
        one["spec"]["externalIPs"] = json!(["203.0.113.10"]);
        vec![one]
    };
    let small = with_others(&[policies("evil", 2, 2), shares(), pod()]);
    assert_eq!(counts(&small).0, 5 + 2, "a gateway's own policies are decoded");
    assert!(small.reports.iter().all(|r| r.enforced), "{:#?}", small.reports);
    let large = with_others(&[policies("evil", POLICIES, RULES), shares(), pod()]);
    assert_eq!(counts(&large).0, 5);
    let left = large.reports.iter().find(|r| r.name == "evil/e0").unwrap();
    assert!(left.why[0].starts_with("too-many-policies: "), "{:?}", left.why);
    let shared = |key: &&model::TupleKey| key.to_string() == "203.0.113.10:80/tcp";
    assert_eq!(large.desired.tuples.keys().filter(shared).count(), 0);
    assert_eq!(large.unjudged.keys().filter(shared).count(), 1);
}

#[test]
fn the_root_namespace_not_known_and_too_many_policies_elsewhere_then_they_are_left_and_default_deny_with_them()
 {
    let unknown = |documents: &[Value]| {
        let baked = with(
            &whole(),
            "[{name: istio-proxy, ",
            "[{name: istio-proxy, env: [{name: PROXY_CONFIG, value: \"{}\"}], ",
        );
        let mut index = index(&baked, &[Subject::Kind(Kind::ConfigMap)]);
        apply(&mut index, documents);
        build(&index)
    };
    let told = |built: &Built| built.diagnostics.iter().any(|d| d.code == "too-many-policies");
    let few = unknown(&policies("evil", 2, 2));
    assert_eq!(
        (counts(&few).0, refused(&few).as_str()),
        (5 + 2, "deny token rev default")
    );
    assert!(few.complete.iter().all(|known| *known) && !told(&few));
    let many = unknown(&policies("evil", POLICIES, RULES));
    assert_eq!((counts(&many).0, refused(&many).as_str()), (4, "deny token rev"));
    assert!(!many.complete.iter().any(|known| *known) && told(&many));
}

#[test]
fn any_order_of_coming_and_going_then_what_is_kept_makes_what_is_made_from_nothing() {
    let steps = [
        policies("evil", 3, 2),
        services(2, Some("x"), &json!({})),
        slices(2, "node-b"),
        pod(),
        policies("evil", 4, 3),
    ];
    let settings = pipeline::Settings::default();
    let mut decoded = Vec::new();
    for turn in 0..steps.len() {
        let mut index = index(&whole(), &[]);
        let mut memo = Memo::default();
        let mut order: Vec<_> = steps.iter().collect();
        order.rotate_left(turn);
        let mut check = |index: &Index| {
            let kept = pipeline::build_after(&mut memo, &index.snapshot(), &facts(), &settings);
            let anew = build(index);
            assert_eq!(kept.desired, anew.desired, "turn {turn}");
            assert_eq!(kept.gateways, anew.gateways, "turn {turn}");
            assert_eq!(kept.reports, anew.reports, "turn {turn}");
            assert_eq!(kept.diagnostics, anew.diagnostics, "turn {turn}");
            assert_eq!(kept.policies, anew.policies, "turn {turn}");
            decoded.push(kept.policies.len());
        };
        for step in &order {
            apply(&mut index, step);
            check(&index);
        }
        for document in order.iter().copied().flatten() {
            for object in object::decode(document).0 {
                let key = object.key().unwrap();
                index.delete(&source(key.kind), &key);
            }
            check(&index);
        }
    }
    let (least, most) = (decoded.iter().min(), decoded.iter().max());
    assert_eq!(
        (least, most),
        (Some(&5), Some(&9)),
        "policies come into play and go"
    );
}

#[test]
fn more_annotated_services_than_can_be_read_then_as_many_as_a_namespace_may_have_and_the_rest_counted() {
    let ours = json!({"gwfilter.io/never-drop": ""});
    let built = with_others(&[services(3 * PER_NAMESPACE, None, &ours)]);
    let theirs = built
        .diagnostics
        .iter()
        .filter(|d| d.object.namespace == "evil")
        .count();
    assert_eq!(theirs, PER_NAMESPACE);
    assert!(built.diagnostics.len() <= IN_ALL);
    let more = built
        .diagnostics
        .iter()
        .find(|d| d.code == "more-findings")
        .unwrap();
    let said = format!("and {} more", 2 * PER_NAMESPACE);
    assert!(
        more.object.name == "evil" && more.message.starts_with(&said),
        "{more}"
    );
}
