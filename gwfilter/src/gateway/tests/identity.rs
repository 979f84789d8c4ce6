//! What is a gateway and what is left alone.

use super::*;

const APP_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: app-0, namespace: istio-system, labels: {app: istio-ingressgateway, istio: ingressgateway}}
spec: {nodeName: node-a, containers: [{name: app}]}
status: {podIP: 10.244.0.9, phase: Running}
---
"#;

#[test]
fn service_whose_pods_run_no_envoy_then_never_judged() {
    // The case of the law: an app behind a load balancer, in a namespace with policies, even labelled like a gateway.
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d, namespace: \
                istio-system}\nspec: {action: DENY, rules: [{}]}\n---\n";
    assert_eq!(
        find_in(&format!("{SERVICE}{NODE}{APP_POD}{GATEWAY}{deny}")).gateways,
        []
    );
    // Nor if only some of them run it: which one gets a connection is not known.
    assert_eq!(
        find_in(&format!("{SERVICE}{NODE}{POD}{APP_POD}{GATEWAY}")).gateways,
        []
    );
}

#[test]
fn pods_then_a_gateway_only_if_they_run_the_router_for_a_gateway_object() {
    let gateway_api = with(
        POD,
        "istio: ingressgateway}",
        "istio: ingressgateway, gateway.networking.k8s.io/gateway-name: gw}",
    );
    let cases = [
        ("router for a Gateway", format!("{POD}{GATEWAY}"), true),
        (
            "no args",
            format!("{}{GATEWAY}", with(POD, ", args: [proxy, router]", "")),
            true,
        ),
        (
            "sidecar",
            format!("{}{GATEWAY}", with(POD, "router", "sidecar")),
            false,
        ),
        (
            "other container",
            format!("{}{GATEWAY}", with(POD, "istio-proxy", "envoy")),
            false,
        ),
        ("no Gateway object", POD.to_owned(), false),
        (
            "a Gateway for others",
            format!("{POD}{}", with(GATEWAY, "ingressgateway", "egressgateway")),
            false,
        ),
        (
            "a Gateway without a selector names nobody",
            format!("{POD}{}", with(GATEWAY, "{istio: ingressgateway}", "{}")),
            false,
        ),
        ("label of a Gateway API Gateway", gateway_api.clone(), true),
        (
            "waypoint",
            with(
                &gateway_api,
                "istio: ingressgateway,",
                "istio: ingressgateway, gateway.istio.io/managed: istio.io-mesh-controller,",
            ),
            false,
        ),
    ];
    for (name, pods, want) in cases {
        let found = find_in(&format!("{SERVICE}{NODE}{pods}"));
        assert_eq!(!found.gateways.is_empty(), want, "{name}");
    }
}

#[test]
fn no_pods_then_by_selector_gateway_or_annotation() {
    let plain = with(
        SERVICE,
        "{app: istio-ingressgateway, istio: ingressgateway}",
        "{app: web}",
    );
    let cases = [
        ("key istio", SERVICE.to_owned(), true),
        (
            "label of a Gateway API Gateway",
            with(
                &plain,
                "{app: web}",
                "{gateway.networking.k8s.io/gateway-name: gw}",
            ),
            true,
        ),
        ("plain app", plain.clone(), false),
        (
            "plain app, a Gateway selects it",
            format!("{plain}{}", with(GATEWAY, "istio: ingressgateway", "app: web")),
            true,
        ),
        (
            "plain app, our annotation",
            with(
                &plain,
                "  name: istio-ingressgateway",
                "  annotations: {gwfilter.io/never-drop: \"\"}\n  name: x",
            ),
            true,
        ),
        (
            "ExternalName",
            with(SERVICE, "type: LoadBalancer", "type: ExternalName"),
            false,
        ),
    ];
    for (name, manifests, want) in cases {
        assert_eq!(
            !find_in(&format!("{manifests}{NODE}")).gateways.is_empty(),
            want,
            "{name}"
        );
    }
}

#[test]
fn template_of_an_app_then_never_judged() {
    let template = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: gw, namespace: istio-system}
spec:
  template:
    metadata: {labels: {app: istio-ingressgateway, istio: ingressgateway, more: x}}
    spec: {containers: [{name: istio-proxy, image: auto}]}
---
"#;
    let gateway = one(find_in(&format!("{SERVICE}{NODE}{template}")));
    assert_eq!(
        gateway.workloads[0].labels.get("more").map(String::as_str),
        Some("x")
    );
    assert!(!gateway.workloads[0].labels_complete);
    let app = with(template, "istio-proxy", "app");
    assert_eq!(find_in(&format!("{SERVICE}{NODE}{app}")).gateways, []);
}

#[test]
fn our_annotation_on_what_is_no_gateway_then_a_warning() {
    let found = find_in(&format!(
        "{}{NODE}{APP_POD}",
        annotated("gwfilter.io/enforce: \"true\"")
    ));
    assert_eq!(found.gateways, []);
    assert_eq!(codes(&found), ["not-a-gateway"]);
}

#[test]
fn pods_on_the_host_without_a_service_then_a_gateway_named_by_their_owner() {
    let host = with(POD, "spec:\n", "spec:\n  hostNetwork: true\n");
    let host = with(&host, "podIP: 10.244.0.5", "podIP: 172.18.0.2");
    let owned = with(
        &with(&host, "labels: {", "labels: {pod-template-hash: abc, "),
        "  name: gw-0\n",
        "  name: gw-0\n  ownerReferences: [{kind: ReplicaSet, name: gw-abc, controller: true}]\n",
    );
    let gateway = one(find_in(&format!("{owned}{NODE}{GATEWAY}")));
    assert_eq!(gateway.id(), "istio-system/gw");
    assert_eq!(all_keys(&gateway), set(&["172.18.0.2:80/tcp"]));
    assert_eq!(gateway.listeners[0].tuples[0].origin, "host-network");
    assert!(gateway.listeners[0].tuples[0].node_address);
    // Selected by a Service, it is that gateway and no second one.
    assert_eq!(
        one(find_in(&format!("{SERVICE}{host}{NODE}{GATEWAY}"))).name,
        "istio-ingressgateway"
    );
}
