//! Where the client address comes from, and when that is in doubt.

use super::*;

/// The EnvoyFilter of Istio's page.
const PAGE_FILTER: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: proxy-protocol, namespace: istio-system}
spec:
  configPatches:
  - applyTo: LISTENER
    patch:
      operation: MERGE
      value:
        listener_filters: [{name: envoy.listener.proxy_protocol}, {name: envoy.listener.tls_inspector}]
  workloadSelector: {labels: {istio: ingressgateway}}
---
"#;

fn mode(manifests: &str) -> (ClientAddress, Option<&'static str>) {
    let gateway = one(find_in(manifests));
    (gateway.client_address, why(&gateway))
}

const PACKET: (ClientAddress, Option<&str>) = (ClientAddress::PacketSource, None);
const PROXY: (ClientAddress, Option<&str>) = (ClientAddress::ProxyHeader, None);
const ONE_SIDED: (ClientAddress, Option<&str>) =
    (ClientAddress::ProxyHeader, Some("proxy-header-not-enforced"));
const FORWARDED: (ClientAddress, Option<&str>) =
    (ClientAddress::XForwardedFor, Some("x-forwarded-for-not-enforced"));

fn doubt(code: &'static str) -> (ClientAddress, Option<&'static str>) {
    (ClientAddress::Unknown, Some(code))
}

fn pod_env(config: &str) -> String {
    with(
        POD,
        "args: [proxy, router]",
        &format!("env: [{{name: PROXY_CONFIG, value: '{config}'}}]"),
    )
}

fn pod_annotation(annotation: &str) -> String {
    with(
        POD,
        "  labels:",
        &format!("  annotations: {{{annotation}}}\n  labels:"),
    )
}

fn mesh(config: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         {config}\n---\n"
    )
}

#[test]
fn nothing_points_to_a_proxy_then_the_packet() {
    assert_eq!(mode(&format!("{SERVICE}{NODE}{POD}{GATEWAY}")), PACKET);
    assert_eq!(
        mode(&format!("{SERVICE}{NODE}{}{GATEWAY}", pod_env("{}"))),
        PACKET
    );
}

#[test]
fn stated_by_hand_then_as_stated() {
    let run = |value: &str| {
        mode(&format!(
            "{}{NODE}",
            annotated(&format!("gwfilter.io/client-address: {value}"))
        ))
    };
    assert_eq!(run("packet-source"), PACKET);
    assert_eq!(run("auto"), PACKET);
    assert_eq!(run("proxy-header"), PROXY);
    assert_eq!(run("x-forwarded-for"), FORWARDED);
    let pod = pod_annotation("gwfilter.io/client-address: proxy-header");
    assert_eq!(mode(&format!("{SERVICE}{NODE}{pod}{GATEWAY}")), PROXY);
    // The Service wins.
    let service = annotated("gwfilter.io/client-address: packet-source");
    assert_eq!(mode(&format!("{service}{NODE}{pod}{GATEWAY}")), PACKET);
}

#[test]
fn proxy_configuration_then_by_its_precedence() {
    let n1 = "{\"gatewayTopology\": {\"numTrustedProxies\": 1}}";
    let pp = "{\"gatewayTopology\": {\"proxyProtocol\": {}}}";
    let both = "{\"gatewayTopology\": {\"numTrustedProxies\": 2, \"proxyProtocol\": {}}}";
    let null = "{\"gatewayTopology\": {\"proxyProtocol\": null}}";
    let run = |pod: &str, more: &str| mode(&format!("{SERVICE}{NODE}{pod}{GATEWAY}{more}"));
    assert_eq!(run(&pod_env(n1), ""), FORWARDED);
    assert_eq!(run(&pod_env(pp), ""), PROXY);
    assert_eq!(run(&pod_env(both), ""), FORWARDED);
    assert_eq!(run(&pod_env(null), ""), PACKET);
    let yaml = pod_annotation("proxy.istio.io/config: \"gatewayTopology:\\n  numTrustedProxies: 1\\n\"");
    assert_eq!(run(&yaml, ""), FORWARDED);
    let default = mesh("defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}");
    assert_eq!(run(POD, &default), FORWARDED);
    // What the pod runs with was fixed when it was made.
    assert_eq!(run(&pod_env("{}"), &default), PACKET);
    // An annotation lays over the default what it states.
    let zero = pod_annotation("proxy.istio.io/config: '{\"gatewayTopology\": {\"numTrustedProxies\": 0}}'");
    assert_eq!(run(&zero, &default), PACKET);
    // Without pods the mesh's default counts, from an IstioOperator too.
    let operator = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: o, namespace: \
                    istio-system}\nspec: {meshConfig: {defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}}}\n---\n";
    assert_eq!(mode(&format!("{SERVICE}{NODE}{operator}")), FORWARDED);
}

#[test]
fn configuration_that_cannot_be_read_then_in_doubt() {
    let run = |pod: &str| mode(&format!("{SERVICE}{NODE}{pod}{GATEWAY}"));
    assert_eq!(run(&pod_env("{")), doubt("proxy-config-not-readable"));
    // Kubernetes puts the variable's value there, which may say anything.
    assert_eq!(
        run(&pod_env("{\"image\": {\"imageType\": \"$(TYPE)\"}}")),
        doubt("proxy-config-not-readable")
    );
    assert_eq!(
        run(&pod_env("{\"gatewayTopology\": 1}")),
        doubt("proxy-config-not-readable")
    );
    assert_eq!(
        run(&pod_env("{\"gatewayTopology\": {\"numTrustedProxies\": -1}}")),
        doubt("proxy-config-not-readable")
    );
    let elsewhere = with(
        POD,
        "args: [proxy, router]",
        "env: [{name: PROXY_CONFIG, valueFrom: {configMapKeyRef: {}}}]",
    );
    assert_eq!(run(&elsewhere), doubt("proxy-config-not-readable"));
    let env_from = with(
        POD,
        "args: [proxy, router]",
        "envFrom: [{configMapRef: {name: x}}]",
    );
    assert_eq!(run(&env_from), doubt("proxy-config-not-readable"));
    let other = with(
        &with(
            &pod_env("{\"gatewayTopology\": {\"numTrustedProxies\": 1}}"),
            "gw-0",
            "gw-1",
        ),
        "10.244.0.5",
        "10.244.0.6",
    );
    assert_eq!(run(&format!("{}{other}", pod_env("{}"))), doubt("pods-differ"));
}

#[test]
fn envoy_filters_then_recognised_or_in_doubt_or_of_others() {
    let run = |filter: &str| mode(&format!("{SERVICE}{NODE}{POD}{GATEWAY}{filter}"));
    assert_eq!(run(PAGE_FILTER), PROXY);
    let other_pods = with(PAGE_FILTER, "istio: ingressgateway", "istio: egressgateway");
    assert_eq!(run(&other_pods), PACKET);
    let other_namespace = with(PAGE_FILTER, "namespace: istio-system", "namespace: foo");
    assert_eq!(run(&other_namespace), PACKET);
    let rbac = with(PAGE_FILTER, "applyTo: LISTENER", "applyTo: NETWORK_FILTER");
    assert_eq!(run(&rbac), doubt("envoy-filter"));
    let whole_namespace = with(
        &rbac,
        "  workloadSelector: {labels: {istio: ingressgateway}}\n",
        "",
    );
    assert_eq!(run(&whole_namespace), doubt("envoy-filter"));
    let gateway_api = with(
        &rbac,
        "workloadSelector: {labels: {istio: ingressgateway}}",
        "targetRefs: [{kind: Gateway, name: gw}]",
    );
    assert_eq!(run(&gateway_api), PACKET);
    // From the root namespace it reaches gateways elsewhere; from an unknown root, any may.
    let elsewhere = |text: &str| text.replace("istio-system", "ingress");
    let root = format!("{}{NODE}{}{GATEWAY}{rbac}", elsewhere(SERVICE), elsewhere(POD));
    assert_eq!(mode(&root), doubt("envoy-filter"));
    let moved = format!("{root}{}", mesh("rootNamespace: roots"));
    assert_eq!(mode(&moved), PACKET);
}

#[test]
fn doubt_and_stated_by_hand_then_enforced_with_a_warning() {
    let filter = with(PAGE_FILTER, "applyTo: LISTENER", "applyTo: NETWORK_FILTER");
    let service = annotated("gwfilter.io/client-address: packet-source");
    let found = find_in(&format!("{service}{NODE}{POD}{GATEWAY}{filter}"));
    assert_eq!(codes(&found), ["client-address-assumed"]);
    assert_eq!(why(&one(found)), None);
}

#[test]
fn stated_against_what_the_gateway_certainly_does_then_not_enforced() {
    let service = annotated("gwfilter.io/client-address: packet-source");
    let pod = pod_env("{\"gatewayTopology\": {\"numTrustedProxies\": 1}}");
    for more in [format!("{pod}{GATEWAY}"), format!("{POD}{GATEWAY}{PAGE_FILTER}")] {
        let found = find_in(&format!("{service}{NODE}{more}"));
        assert_eq!(codes(&found), ["client-address-contradicted"]);
        assert_eq!(why(&one(found)), Some("client-address-contradicted"));
    }
}

#[test]
fn plugins_before_authorization_then_in_doubt() {
    let plugin = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: p, namespace: \
                  istio-system}\nspec: {phase: AUTHN}\n---\n";
    let run = |plugin: &str| mode(&format!("{SERVICE}{NODE}{POD}{GATEWAY}{plugin}"));
    assert_eq!(run(plugin), doubt("wasm-before-authorization"));
    assert_eq!(
        run(&with(plugin, "WasmPlugin", "TrafficExtension")),
        doubt("wasm-before-authorization")
    );
    assert_eq!(run(&with(plugin, "AUTHN", "STATS")), PACKET);
    assert_eq!(run(&with(plugin, "{phase: AUTHN}", "{}")), PACKET);
    assert_eq!(
        run(&with(plugin, "AUTHN", "AUTHN, selector: {matchLabels: {a: b}}")),
        PACKET
    );
    let config = "apiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {name: c, namespace: \
                  istio-system}\nspec: {concurrency: 1, gatewayTopology: {}}\n---\n";
    assert_eq!(run(config), doubt("proxy-config-unknown"));
}

#[test]
fn cloud_annotation_then_proxy_header_with_a_remark() {
    let service = annotated("service.beta.kubernetes.io/aws-load-balancer-proxy-protocol: \"*\"");
    let gateway = one(find_in(&format!("{service}{NODE}")));
    assert_eq!((gateway.client_address, why(&gateway)), ONE_SIDED);
    assert_eq!(remarks(&gateway), ["proxy-header-one-sided"]);
    // The same through an IstioOperator, as on Istio's page.
    let operator = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: o, namespace: \
                    istio-system}\nspec: {components: {ingressGateways: [{name: istio-ingressgateway, k8s: \
                    {serviceAnnotations: {service.beta.kubernetes.io/aws-load-balancer-proxy-protocol: \"*\"}}}]}}\n---\n";
    assert_eq!(mode(&format!("{SERVICE}{NODE}{operator}")), ONE_SIDED);
    let overlay = with(
        operator,
        "k8s: {",
        "k8s: {overlays: [{patches: [{value: {name: PROXY_CONFIG}}]}], ",
    );
    assert_eq!(
        mode(&format!("{SERVICE}{NODE}{overlay}")),
        doubt("operator-patches-proxy")
    );
    // With both sides there is no remark.
    let gateway = one(find_in(&format!("{service}{NODE}{PAGE_FILTER}")));
    assert_eq!(
        (gateway.client_address, remarks(&gateway)),
        (ClientAddress::ProxyHeader, vec![])
    );
}

#[test]
fn two_services_of_the_same_pods_then_what_one_states_holds_for_both() {
    let other = with(
        &with(SERVICE, "name: istio-ingressgateway\n", "name: internal\n"),
        "203.0.113.10",
        "203.0.113.11",
    );
    let stated = annotated("gwfilter.io/client-address: proxy-header");
    for pods in ["", POD] {
        let found = find_in(&format!("{stated}{other}{NODE}{pods}{GATEWAY}"));
        let modes: Vec<_> = found
            .gateways
            .iter()
            .map(|g| (g.name.as_str(), g.client_address))
            .collect();
        assert_eq!(
            modes,
            [
                ("internal", ClientAddress::ProxyHeader),
                ("istio-ingressgateway", ClientAddress::ProxyHeader)
            ]
        );
    }
}

#[test]
fn annotation_that_cannot_be_read_then_an_error_and_not_enforced() {
    for annotation in [
        "gwfilter.io/never-drop: nonsense",
        "gwfilter.io/enforce: \"no\"",
        "gwfilter.io/odd: x",
    ] {
        let found = find_in(&format!("{}{NODE}", annotated(annotation)));
        assert_eq!(codes(&found), ["unreadable-annotation"], "{annotation}");
        assert_eq!(why(&one(found)), Some("unreadable-annotation"), "{annotation}");
    }
}

#[test]
fn enforce_false_then_observed_only() {
    let gateway = one(find_in(&format!(
        "{}{NODE}",
        annotated("gwfilter.io/enforce: \"false\"")
    )));
    assert_eq!(gateway.observe.map(|w| w.code), Some("observe-annotation"));
    assert_eq!(gateway.not_enforced, None);
    assert_eq!(
        one(find_in(&format!(
            "{}{NODE}",
            annotated("gwfilter.io/enforce: \"true\"")
        )))
        .observe,
        None
    );
}

#[test]
fn every_reason_then_it_says_what_each_sees_whether_they_agree_and_the_change() {
    let annotate = "kubectl -n istio-system annotate --overwrite service istio-ingressgateway \
                    gwfilter.io/client-address=packet-source";
    let pod = |config: &str| format!("{SERVICE}{NODE}{}{GATEWAY}", pod_env(config));
    let doubtful = PAGE_FILTER.replace(
        "envoy.listener.tls_inspector",
        "envoy.filters.listener.original_src",
    );
    let contradicted = format!(
        "{}{NODE}{}{GATEWAY}",
        annotated("gwfilter.io/client-address: packet-source"),
        pod_env("{gatewayTopology: {numTrustedProxies: 1}}")
    );
    let cases = [
        (
            pod("{gatewayTopology: {numTrustedProxies: 2}}"),
            vec![
                "PROXY_CONFIG of Pod gw-0 sets numTrustedProxies 2",
                "they do not agree",
                annotate,
            ],
        ),
        (
            format!(
                "{}{NODE}",
                annotated("service.beta.kubernetes.io/aws-load-balancer-proxy-protocol: \"*\"")
            ),
            vec![
                "the load balancer writes a PROXY header",
                "gwfilter.io/client-address=proxy-header",
                annotate,
            ],
        ),
        (
            format!("{SERVICE}{NODE}{doubtful}"),
            vec![
                "EnvoyFilter",
                "it is not known whether the gateway judges the address that this node sees",
                annotate,
            ],
        ),
        (
            contradicted,
            vec![
                "sets numTrustedProxies 1",
                "they do not agree",
                "kubectl -n istio-system annotate service istio-ingressgateway gwfilter.io/client-address-",
            ],
        ),
    ];
    for (manifests, parts) in cases {
        let text = one(find_in(&manifests))
            .not_enforced
            .map(|why| why.text)
            .unwrap_or_default();
        for part in ["this node sees"].into_iter().chain(parts) {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}
