//! Which policies apply to which pods: a table by hand, so that a misreading that compiler and evaluator share is found.

use std::collections::BTreeMap;

use gwfilter::desired::Verdict;
use gwfilter::gateway::model::{ChainKind, ChainTls, Mesh, Tri, Workload};
use gwfilter::object::authorization_policy::AuthorizationPolicy;
use gwfilter::policy::{decode, evaluate};
use serde_json::{Value, json};

use crate::world::{World, gateway, look_up, mesh, policy, receiver, written};

/// What a policy with this target does to a pod, found by what it does as DENY of everybody and as ALLOW of everybody beside an ALLOW of nobody.
#[expect(clippy::expect_used, clippy::panic, reason = "a helper of the tests below")]
fn attached(mesh: &Mesh, target: &AuthorizationPolicy, workload: &Workload) -> Tri {
    let verdict = |policies: Vec<AuthorizationPolicy>| {
        let mut gateway = gateway(vec![vec![receiver(ChainKind::Http, ChainTls::Plain)]]);
        gateway.workloads = vec![workload.clone()];
        let world = World {
            mesh: mesh.clone(),
            policies,
            gateway,
            complete: true,
        };
        let source = [10, 1, 1, 1].into();
        let listener = world.gateway.listeners.first().expect("one listener");
        let slow = evaluate(
            &world.mesh,
            &decode(&world.policies).0,
            &world.gateway,
            listener,
            true,
            source,
        );
        let fast = look_up(world.compile().listeners.first().expect("one listener"), source);
        assert_eq!(slow, fast);
        slow.verdict
    };
    let with = |action: &str| {
        let mut policy = target.clone();
        let mut spec = written(&policy);
        let map = spec.as_object_mut().expect("a spec");
        map.insert("action".to_owned(), json!(action));
        map.insert("rules".to_owned(), json!([{}]));
        policy.spec = spec.into();
        policy
    };
    // It certainly applies, even where selectors are not read.
    let by_name = workload.labels.contains_key(GATEWAY.0) && !mesh.discovery_selectors;
    let spec = if by_name {
        json!({"targetRefs": [reference("Gateway", "gw", "")]})
    } else {
        json!({})
    };
    let nobody = policy(&workload.namespace, "nobody", spec);
    match (verdict(vec![with("DENY")]), verdict(vec![with("ALLOW"), nobody])) {
        (Verdict::Drop, Verdict::Pass) => Tri::True,
        (Verdict::Pass, Verdict::Pass) => Tri::Unknown,
        (Verdict::Pass, Verdict::Drop) => Tri::False,
        (Verdict::Drop, Verdict::Drop) => panic!("{target:?} denies certainly and allows certainly not"),
    }
}

fn pod(namespace: &str, labels: &[(&str, &str)]) -> Workload {
    Workload {
        namespace: namespace.to_owned(),
        labels: labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        labels_complete: true,
        revision: Some(String::new()),
    }
}

const GATEWAY: (&str, &str) = ("gateway.networking.k8s.io/gateway-name", "gw");

fn reference(kind: &str, name: &str, namespace: &str) -> Value {
    json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name, "namespace": namespace})
}

#[test]
fn targets_are_read_as_istio_reads_them() {
    let classic = || pod("ingress", &[("app", "gw")]);
    let of_api = || pod("ingress", &[("app", "gw"), GATEWAY]);
    let partial = || Workload {
        labels_complete: false,
        ..classic()
    };
    let waypoint = || {
        pod(
            "ingress",
            &[GATEWAY, ("gateway.istio.io/managed", "istio.io-mesh-controller")],
        )
    };
    let selector = |labels: Value| json!({"selector": {"matchLabels": labels}});
    let refs = |refs: Value| json!({"targetRefs": refs});
    let gw = || refs(json!([reference("Gateway", "gw", "")]));
    let (yes, no, maybe) = (Tri::True, Tri::False, Tri::Unknown);
    for (namespace, spec, workload, expected) in [
        ("ingress", json!({}), classic(), yes),
        ("istio-system", json!({}), classic(), yes),
        ("other", json!({}), classic(), no),
        ("istio-system", json!({}), of_api(), yes),
        ("ingress", selector(json!({})), classic(), yes),
        ("ingress", selector(json!({"app": "gw"})), classic(), yes),
        ("istio-system", selector(json!({"app": "gw"})), classic(), yes),
        ("ingress", selector(json!({"app": "g"})), classic(), no),
        (
            "ingress",
            selector(json!({"app": "gw", "tier": "a"})),
            classic(),
            no,
        ),
        (
            "ingress",
            selector(json!({"app": "gw", "tier": "a"})),
            partial(),
            maybe,
        ),
        (
            "ingress",
            selector(json!({"app": "other", "tier": "a"})),
            partial(),
            no,
        ),
        ("ingress", selector(json!({"app": "gw"})), partial(), yes),
        // References: only Gateways, by name, from their own namespace.
        ("ingress", gw(), classic(), no),
        ("ingress", gw(), of_api(), yes),
        ("ingress", gw(), partial(), maybe),
        (
            "ingress",
            json!({"targetRef": reference("Gateway", "gw", "")}),
            of_api(),
            yes,
        ),
        (
            "ingress",
            json!({"targetRefs": [], "targetRef": reference("Gateway", "gw", "")}),
            of_api(),
            yes,
        ),
        (
            "ingress",
            json!({"targetRefs": [reference("Gateway", "x", "")], "targetRef": reference("Gateway", "gw", "")}),
            of_api(),
            no,
        ),
        (
            "ingress",
            refs(json!([
                reference("Gateway", "x", ""),
                reference("Gateway", "gw", "ingress")
            ])),
            of_api(),
            yes,
        ),
        (
            "ingress",
            refs(json!([reference("Gateway", "gw", "other")])),
            of_api(),
            no,
        ),
        (
            "ingress",
            refs(json!([reference("Service", "gw", "")])),
            of_api(),
            no,
        ),
        (
            "ingress",
            refs(json!([reference("GatewayClass", "gw", "")])),
            of_api(),
            no,
        ),
        (
            "ingress",
            refs(json!([{"group": "", "kind": "Gateway", "name": "gw"}])),
            of_api(),
            no,
        ),
        ("istio-system", gw(), of_api(), no),
        ("istio-system", gw(), pod("istio-system", &[GATEWAY]), yes),
        // The selector is not looked at beside references, on either kind of pod.
        (
            "ingress",
            json!({"selector": {"matchLabels": {"app": "gw"}}, "targetRefs": [reference("Gateway", "gw", "")]}),
            classic(),
            no,
        ),
        (
            "ingress",
            json!({"selector": {"matchLabels": {"app": "x"}}, "targetRefs": [reference("Gateway", "gw", "")]}),
            of_api(),
            yes,
        ),
        // What is not understood.
        (
            "ingress",
            json!({"selector": {"matchExpressions": []}}),
            classic(),
            maybe,
        ),
        (
            "ingress",
            refs(
                json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw", "sectionName": "x"}]),
            ),
            of_api(),
            maybe,
        ),
        ("ingress", json!({}), waypoint(), maybe),
    ] {
        let found = attached(&mesh(), &policy(namespace, "p", spec.clone()), &workload);
        assert_eq!(found, expected, "{namespace} {spec} on {workload:?}");
    }
}

#[test]
fn what_is_not_known_of_the_mesh_makes_policies_uncertain() {
    let classic = pod("ingress", &[("app", "gw")]);
    let of_api = pod("ingress", &[("app", "gw"), GATEWAY]);
    let own = policy("ingress", "p", json!({}));
    let other = policy("other", "p", json!({}));
    let no_root = Mesh {
        root_namespace: None,
        ..mesh()
    };
    assert_eq!(attached(&no_root, &own, &classic), Tri::True);
    assert_eq!(attached(&no_root, &other, &classic), Tri::Unknown);
    let discovery = Mesh {
        discovery_selectors: true,
        ..mesh()
    };
    assert_eq!(attached(&discovery, &own, &classic), Tri::Unknown);
    for selectors in [Tri::False, Tri::Unknown] {
        let mesh = Mesh {
            selector_based_gateway_policy: selectors,
            ..mesh()
        };
        assert_eq!(attached(&mesh, &own, &of_api), selectors);
        assert_eq!(attached(&mesh, &own, &classic), Tri::True);
    }
}

#[test]
fn a_revision_label_is_for_the_istiod_of_that_revision() {
    let text = |t: Option<&str>| t.map(str::to_owned);
    let (yes, no, maybe) = (Tri::True, Tri::False, Tri::Unknown);
    for (label, of_pod, of_istiod, expected) in [
        (None, None, None, yes),
        (Some("canary"), None, None, maybe),
        (Some("canary"), Some("canary"), None, yes),
        (Some("canary"), None, Some("canary"), yes),
        (Some("canary"), Some("stable"), Some("stable"), no),
        (Some("canary"), Some("stable"), Some("canary"), maybe),
        // The default revision's istiod runs with an empty revision, which keeps all, or with the name `default`.
        (Some("default"), Some(""), None, yes),
        (Some("canary"), Some(""), Some(""), maybe),
    ] {
        let workload = Workload {
            revision: text(of_pod),
            ..pod("ingress", &[])
        };
        let mesh = Mesh {
            istiod_revision: text(of_istiod),
            ..mesh()
        };
        let mut labelled = policy("ingress", "p", json!({}));
        labelled.meta.labels = label
            .map(|l| BTreeMap::from([("istio.io/rev".to_owned(), l.to_owned())]))
            .unwrap_or_default();
        assert_eq!(
            attached(&mesh, &labelled, &workload),
            expected,
            "{label:?} {of_pod:?} {of_istiod:?}"
        );
    }
}
