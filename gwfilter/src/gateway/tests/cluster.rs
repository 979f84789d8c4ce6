//! What a cluster's agent knows, watch by watch: a watch that gives nothing costs what depends on it, and no more.

use serde_json::json;

use super::*;
use crate::manifest;
use crate::object::{self, Object};
use crate::pipeline::{self, Built};
use crate::snapshot::unread::Subject;

/// What the agent watches.
const WATCHED: [Kind; 13] = [
    Kind::AuthorizationPolicy,
    Kind::RequestAuthentication,
    Kind::WasmPlugin,
    Kind::EnvoyFilter,
    Kind::ProxyConfig,
    Kind::IstioGateway,
    Kind::KubernetesGateway,
    Kind::ConfigMap,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Pod,
    Kind::Node,
    Kind::Namespace,
];

const ISTIODS: &str = "Kubernetes Pod (istiod)";

pub(super) fn source(kind: Kind) -> String {
    format!(
        "Kubernetes {}",
        kind.name().to_owned()
            + if kind == Kind::KubernetesGateway {
                " API"
            } else {
                ""
            }
    )
}

/// An index of watches that hold the objects of a manifest; those of `unread` gave nothing.
pub(super) fn index(manifests: &str, unread: &[Subject]) -> Index {
    let mut index = Index::new();
    let mut objects = Vec::new();
    for document in manifest::parse(manifests.as_bytes()).unwrap() {
        objects.extend(object::decode(&document.value).0);
    }
    let is_istiod =
        |o: &Object| matches!(o, Object::Pod(p) if p.meta.labels.get("app").is_some_and(|a| a == "istiod"));
    let mut watch = |name: &str, subject: Subject, objects: Vec<Object>| {
        index.declare(name, subject);
        if unread.contains(&subject) {
            index.unreadable(name, "HTTP 403 for its list");
        } else {
            index.reset(name, objects, Vec::new());
        }
    };
    for kind in WATCHED {
        let of_kind = |o: &&Object| o.key().is_some_and(|key| key.kind == kind) && !is_istiod(o);
        let of_kind = objects.iter().filter(of_kind).cloned().collect();
        watch(&source(kind), Subject::Kind(kind), of_kind);
    }
    let istiods = objects.iter().filter(|o| is_istiod(o)).cloned().collect();
    watch(ISTIODS, Subject::Istiods, istiods);
    index
}

pub(super) fn facts() -> NodeFacts {
    NodeFacts {
        name: Some("node-a".to_owned()),
        local_addresses: Some(["172.18.0.2".parse().unwrap()].into()),
    }
}

pub(super) fn build(index: &Index) -> Built {
    let settings = pipeline::Settings {
        gateway: cluster(),
        ..pipeline::Settings::default()
    };
    pipeline::build(&index.snapshot(), &facts(), &settings)
}

/// `deny` 198.51.100.7 and `allow` all but 203.0.113.0/24 (in the gateway's namespace), and `roots` deny 198.51.100.9 from another one.
const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [198.51.100.7]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: istio-system}
spec: {rules: [{from: [{source: {ipBlocks: [198.51.100.0/24]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: root-deny, namespace: roots}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [198.51.100.9]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: token-deny, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [198.51.100.11], notRequestPrincipals: ["*"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rev-deny, namespace: istio-system, labels: {istio.io/rev: canary}}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [198.51.100.13]}}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "rootNamespace: roots"}
---
apiVersion: v1
kind: Pod
metadata: {name: istiod-0, namespace: istio-system, labels: {app: istiod}}
spec: {nodeName: node-b, containers: [{name: discovery, env: [{name: REVISION, value: canary}]}]}
status: {phase: Running}
---
"#;

const SLICE: &str = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: gw, namespace: istio-system, labels: {kubernetes.io/service-name: istio-ingressgateway}}
addressType: IPv4
ports: [{name: http2, port: 8080}]
endpoints:
- {addresses: [10.244.0.5], nodeName: node-a, targetRef: {kind: Pod, name: gw-0}}
- {addresses: [10.244.1.5], nodeName: node-b, targetRef: {kind: Pod, name: gw-1}}
---
"#;

pub(super) fn whole() -> String {
    let service = annotated("gwfilter.io/never-drop: \"\"");
    format!("{service}{NODE}{POD}{GATEWAY}{SLICE}{POLICIES}")
}

/// By which policies a client is refused at the load balancer's address; nobody's at all is `-`.
pub(super) fn refused(built: &Built) -> String {
    let key = model::TupleKey {
        addr: "203.0.113.10".parse().unwrap(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    let Some(target) = built.desired.tuples.get(&key) else {
        return "-".to_owned();
    };
    let drops = |source: &str| {
        let source: IpAddr = source.parse().unwrap();
        let table4 = target.source().and_then(|tables| tables.table4.as_ref());
        let found = table4
            .into_iter()
            .flat_map(|table| table.iter())
            .find(|(net, _)| IpNet::V4(*net).contains(&source));
        found.is_some_and(|(_, outcome)| outcome.verdict == crate::desired::Verdict::Drop)
    };
    let clients = [
        ("deny", "198.51.100.7"),
        ("root", "198.51.100.9"),
        ("token", "198.51.100.11"),
        ("rev", "198.51.100.13"),
        ("default", "192.0.2.77"),
    ];
    let refused = clients
        .iter()
        .filter(|(_, source)| drops(source))
        .map(|(name, _)| *name);
    refused.collect::<Vec<_>>().join(" ")
}

#[test]
fn each_watch_that_gives_nothing_then_what_depends_on_it_is_left_and_the_rest_enforced() {
    let all = "deny root token rev default";
    assert_eq!(refused(&build(&index(&whole(), &[]))), all);
    // With PROXY_CONFIG in the pod's environment, the mesh's defaults do not count.
    let baked = with(
        &whole(),
        "[{name: istio-proxy, ",
        "[{name: istio-proxy, env: [{name: PROXY_CONFIG, value: \"{}\"}], ",
    );
    let cases = [
        (Kind::AuthorizationPolicy, "", ""),
        (
            Kind::RequestAuthentication,
            "deny root rev default",
            "deny root rev default",
        ),
        (Kind::WasmPlugin, "-", "-"),
        (Kind::EnvoyFilter, "-", "-"),
        (Kind::ProxyConfig, "-", all),
        (Kind::IstioGateway, "-", "-"),
        (Kind::KubernetesGateway, "-", "-"),
        (Kind::ConfigMap, "-", "deny token rev default"),
        (Kind::Service, "-", "-"),
        (Kind::EndpointSlice, "-", "-"),
        (Kind::Pod, "-", "-"),
        (Kind::Node, "-", "-"),
        (Kind::Namespace, all, all),
    ];
    let mut wrong = Vec::new();
    for (kind, plain, with_env) in cases {
        for (manifests, wanted) in [(&whole(), plain), (&baked, with_env)] {
            let built = build(&index(manifests, &[Subject::Kind(kind)]));
            if refused(&built) != wanted {
                wrong.push(format!("{kind:?}: {:?}, not {wanted:?}", refused(&built)));
            }
            if built.complete.contains(&(kind == Kind::AuthorizationPolicy)) {
                wrong.push(format!("{kind:?}: complete is {:?}", built.complete));
            }
            let said = |d: &Diagnostic| {
                d.code == "unread-kind" && d.object.name.contains(kind.name()) && d.message.contains("403")
            };
            if !built.diagnostics.iter().any(said) {
                wrong.push(format!("{kind:?}: no finding"));
            }
            let report = built.reports.first();
            let whys = report.map(|r| r.why.join("; ")).unwrap_or_default();
            let named = whys.contains("unread-kind") && whys.contains("403");
            if wanted == "-" && kind != Kind::Service && !named {
                wrong.push(format!("{kind:?}: no reason in {whys:?}"));
            }
        }
    }
    let built = build(&index(&whole(), &[Subject::Istiods]));
    if refused(&built) != "deny root token default" {
        wrong.push(format!(
            "istiods: {:?}, though the revision is not known",
            refused(&built)
        ));
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn a_watch_that_has_not_answered_yet_then_it_counts_as_not_read() {
    let mut index = index(&whole(), &[]);
    index.remove(&source(Kind::Node));
    index.declare(&source(Kind::Node), Subject::Kind(Kind::Node));
    let built = build(&index);
    assert_eq!(refused(&built), "-");
    assert!(
        built.reports[0].why[0].contains("has not answered yet"),
        "{:?}",
        built.reports[0].why
    );
}

#[test]
fn a_watch_that_breaks_off_then_what_it_said_last_stays() {
    let mut index = index(&whole(), &[]);
    let before = build(&index).desired;
    for kind in WATCHED {
        index.unreadable(&source(kind), "HTTP 403");
    }
    index.unreadable(ISTIODS, "HTTP 403");
    let built = build(&index);
    assert_eq!(built.desired, before);
    assert_eq!(
        codes(&find(&index.snapshot(), &facts(), &cluster())),
        ["unreadable-input"; 14]
    );
}

#[test]
fn stated_by_hand_then_unread_filters_are_no_doubt() {
    let stated = whole().replacen(
        "gwfilter.io/never-drop: \"\"",
        "gwfilter.io/client-address: packet-source",
        1,
    );
    for kind in [Kind::EnvoyFilter, Kind::WasmPlugin, Kind::ProxyConfig] {
        let built = build(&index(&stated, &[Subject::Kind(kind)]));
        assert!(
            refused(&built).starts_with("deny root"),
            "{kind:?}: {:?}",
            built.reports
        );
        assert!(
            built
                .diagnostics
                .iter()
                .any(|d| d.code == "client-address-assumed"),
            "{kind:?}"
        );
    }
}

#[test]
fn endpoints_here_whose_pod_is_not_known_then_not_enforced_unless_they_receive_nothing() {
    let stray = |conditions: &str| {
        let endpoint = format!(
            "- {{addresses: [10.244.0.6], nodeName: node-a, targetRef: {{kind: Pod, name: gw-9}}{conditions}}}\n---\n"
        );
        with(
            &whole(),
            "targetRef: {kind: Pod, name: gw-1}}\n---\n",
            &format!("targetRef: {{kind: Pod, name: gw-1}}}}\n{endpoint}"),
        )
    };
    let of = |manifests: &str| build(&index(manifests, &[]));
    // New, and its pod not told yet; or its pod deleted by force.
    let built = of(&stray(""));
    assert_eq!(refused(&built), "-");
    assert!(
        built.reports[0].why[0].starts_with("pod-not-known: Pod gw-9"),
        "{:?}",
        built.reports[0].why
    );
    assert_eq!(
        refused(&of(&stray(
            ", conditions: {ready: false, serving: true, terminating: true}"
        ))),
        "-"
    );
    // Its pod is gone: nothing can reach it any more.
    let gone = of(&stray(
        ", conditions: {ready: false, serving: false, terminating: true}",
    ));
    assert_eq!(refused(&gone), "deny root token rev default");
    assert!(
        !gone.reports[0].tuples.iter().any(|t| t.contains("10.244.0.6")),
        "{:?}",
        gone.reports[0].tuples
    );
}

#[test]
fn no_pod_of_it_here_then_no_local_endpoint_and_no_other_doubt() {
    let elsewhere = whole().replace("node-a", "node-c").replace(POD, "");
    let built = build(&index(&elsewhere, &[]));
    assert_eq!(refused(&built), "-");
    let report = &built.reports[0];
    assert!(!report.enforced && report.why.len() == 1, "{:?}", report.why);
    assert!(report.why[0].starts_with("no-local-endpoint"), "{:?}", report.why);
    assert!(
        built
            .diagnostics
            .iter()
            .all(|d| d.code != "no-local-endpoint" || d.severity == crate::diagnostic::Severity::Info)
    );
}

#[test]
fn cluster_policy_then_only_the_pods_own_address_is_judged_and_the_mend_is_told() {
    let built = build(&index(
        &with(
            &whole(),
            "externalTrafficPolicy: Local",
            "externalTrafficPolicy: Cluster",
        ),
        &[],
    ));
    let keys: Vec<String> = built.desired.tuples.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["10.244.0.5:8080/tcp"]);
    let whys = built.reports[0].why.join("; ");
    for part in [
        "this node sees the client's address and the gateway a node's",
        "kubectl -n istio-system patch service",
    ] {
        assert!(whys.contains(part), "{whys}");
    }
}

#[test]
fn pods_of_other_nodes_then_what_may_mean_them_is_no_doubt_here() {
    let filter = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: lua, namespace: istio-system}
spec:
  workloadSelector: {labels: {version: canary}}
  configPatches: [{applyTo: NETWORK_FILTER, patch: {operation: MERGE, value: {}}}]
---
"#;
    let built = build(&index(&format!("{}{filter}", whole()), &[]));
    assert_eq!(refused(&built), "deny root token rev default");
    let for_all = filter.replace("  workloadSelector: {labels: {version: canary}}\n", "");
    let built = build(&index(&format!("{}{for_all}", whole()), &[]));
    assert_eq!(refused(&built), "-");
    assert!(
        built.reports[0].why[0].starts_with("envoy-filter"),
        "{:?}",
        built.reports[0].why
    );
}

#[test]
fn an_istiod_that_two_watches_tell_differently_then_the_one_of_its_node_counts_and_nothing_is_lost() {
    let mut index = index(&whole(), &[]);
    let pod = |phase: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "istiod-1", "namespace": "istio-system", "labels": {"app": "istiod"}},
            "spec": {"nodeName": "node-a", "containers": [{"name": "discovery", "env": [{"name": "REVISION", "value": "canary"}]}]},
            "status": {"phase": phase}})
    };
    let both = |index: &mut Index| {
        for (name, phase) in [(source(Kind::Pod), "Running"), (ISTIODS.to_owned(), "Pending")] {
            for object in object::decode(&pod(phase)).0 {
                index.apply(&name, object, Vec::new());
            }
        }
    };
    both(&mut index);
    // The other istiods not known, the one that is seen need not serve the gateway.
    index.remove(ISTIODS);
    index.declare(ISTIODS, Subject::Istiods);
    assert_eq!(refused(&build(&index)), "deny root token default");
    both(&mut index);
    let snapshot = index.snapshot();
    assert_eq!(
        (&snapshot.lost[..], &snapshot.diagnostics[..]),
        (&[][..], &[][..])
    );
    let phases: Vec<_> = snapshot
        .pods
        .iter()
        .filter(|p| p.meta.name == "istiod-1")
        .map(|p| p.phase.as_str())
        .collect();
    assert_eq!(phases, ["Running"]);
    assert_eq!(refused(&build(&index)), "deny root token rev default");
}

/// What the API server takes and only Istio's webhook refuses is what Envoy runs: compiled as the law says, and told.
#[test]
fn policies_that_only_the_webhook_refuses_then_holes_or_no_refusal_and_the_others_are_enforced() {
    let rule = |rest: &str| format!("rules: [{{{rest}}}]");
    let anyone = "from: [{source: {ipBlocks: [0.0.0.0/0]}}]";
    // What becomes of a client that only `allow`'s default-deny refuses: with the odd policy as another ALLOW policy; and as a
    // DENY policy, without `allow`. And the code that is told.
    let cases = [
        (
            rule("from: [{source: {ipBlocks: [10.0.0.0/33]}}]"),
            "pass",
            "pass",
            "bad-value",
        ),
        (
            rule("from: [{source: {ipBlocks: [\"\"]}}]"),
            "pass",
            "pass",
            "bad-value",
        ),
        (
            rule("from: [{source: {notIpBlocks: [x]}}]"),
            "pass",
            "pass",
            "bad-value",
        ),
        (
            rule(&format!("{anyone}, to: [{{operation: {{ports: [\"99999\"]}}}}]")),
            "pass",
            "pass",
            "bad-value",
        ),
        (
            rule(&format!("{anyone}, to: [{{operation: {{ports: [http]}}}}]")),
            "pass",
            "pass",
            "bad-value",
        ),
        (
            rule(&format!("{anyone}, when: [{{key: source.wrong, values: [a]}}]")),
            "pass",
            "pass",
            "bad-when-key",
        ),
        (
            rule(&format!("{anyone}, when: [{{key: source.ip}}]")),
            "pass",
            "drop",
            "",
        ),
        (rule("from: [{source: {}}]"), "pass", "drop", ""),
        (rule("from: []"), "pass", "drop", ""),
        ("rules: []".to_owned(), "drop", "pass", ""),
        (String::new(), "drop", "pass", ""),
    ];
    let policy = |action: &str, annotations: &str, rest: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: odd, namespace: istio-system{annotations}}}\n\
             spec: {{action: {action}, {rest}}}\n---\n"
        )
    };
    let without = whole().replacen(
        "rules: [{from: [{source: {ipBlocks: [198.51.100.0/24]}}]}]",
        "action: AUDIT",
        1,
    );
    let outcome = |manifests: &str| {
        let built = build(&index(manifests, &[]));
        let refused = refused(&built);
        assert!(
            refused.starts_with("deny root token rev"),
            "the others are enforced: {refused}"
        );
        (
            if refused.ends_with("default") {
                "drop"
            } else {
                "pass"
            },
            built,
        )
    };
    for (rest, as_allow, as_deny, code) in &cases {
        for (action, base, wanted) in [("ALLOW", &whole(), as_allow), ("DENY", &without, as_deny)] {
            let (found, built) = outcome(&format!("{base}{}", policy(action, "", rest)));
            assert_eq!(found, *wanted, "{action} {rest}");
            let told = built
                .diagnostics
                .iter()
                .any(|d| d.code == *code && d.object.name == "odd");
            assert_eq!(
                told,
                !code.is_empty(),
                "{action} {rest}: {:#?}",
                built.diagnostics
            );
        }
    }
    let whole = whole();
    let everyone = rule("");
    let odd = [
        // A value that is no boolean does not switch dry-run on.
        (
            &without,
            policy("DENY", ", annotations: {istio.io/dry-run: maybe}", &everyone),
            "drop",
        ),
        (
            &without,
            policy("DENY", ", annotations: {istio.io/dry-run: \"true\"}", &everyone),
            "pass",
        ),
        (&without, policy("CUSTOM", "", &everyone), "pass"),
        (&whole, policy("MAYBE", "", &everyone), "pass"),
        (
            &without,
            policy("ALLOW", "", "").replace("spec: {action: ALLOW, }", "spec: null"),
            "drop",
        ),
        (
            &without,
            policy("ALLOW", "", "").replace("spec: {action: ALLOW, }", ""),
            "drop",
        ),
    ];
    for (base, text, wanted) in odd {
        assert_eq!(outcome(&format!("{base}{text}")).0, wanted, "{text}");
    }
}

#[test]
fn probe_sources_unknown_then_default_deny_is_counted_and_passes_unless_a_deny_rule_drops_there() {
    use crate::explain::{Explainer, Query};
    let only_allow = whole().replacen("gwfilter.io/never-drop: \"\"", "", 1);
    let deny = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny";
    let only_allow: String = only_allow
        .split_inclusive("---\n")
        .filter(|document| !document.contains("action: DENY"))
        .collect();
    let ask = |built: &Built, source: &str| {
        let explainer = Explainer::new(built.clone()).expect("it fits");
        explainer.verify_boundaries().expect("tables and evaluator agree");
        let dest = "203.0.113.10:80".parse().expect("a destination");
        let query =
            Query::new(source.parse().expect("an address"), dest, Protocol::Tcp, None).expect("one family");
        let answer = explainer.answer(&query).expect("an answer");
        (answer.verdict, answer.reason, answer.policy)
    };
    let built = build(&index(&only_allow, &[]));
    let id = Some("ns[istio-system]-policy[allow]".to_owned());
    assert_eq!(ask(&built, "192.0.2.77"), ("pass", "observed", id));
    assert_eq!(ask(&built, "198.51.100.7"), ("pass", "allowed", None));
    let report = &built.reports[0];
    assert!(!report.enforced, "nothing is dropped: {report:?}");
    assert!(
        report
            .why
            .iter()
            .any(|why| why.starts_with("probe-sources-unknown")),
        "{:?}",
        report.why
    );
    // A DENY rule drops, and must: the listener is not observed.
    let both = whole().replacen("gwfilter.io/never-drop: \"\"", "", 1);
    assert!(both.contains(deny.trim_start_matches("---\n")));
    let built = build(&index(&both, &[]));
    assert_eq!(ask(&built, "192.0.2.77"), ("pass", "allowed", None));
    assert_eq!(ask(&built, "198.51.100.7").0, "drop");
    assert!(built.reports[0].enforced);
}
