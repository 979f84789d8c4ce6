//! Ports behind which Envoy has no listener, or of which that is not certain: nothing may be refused there.

use super::*;

const NODE_ADDRESS: [&str; 1] = ["172.18.0.2"];

/// The Service with a second port, that leads to 9090.
fn two_ports() -> String {
    with(
        SERVICE,
        "  - {name: http2",
        "  - {name: admin, port: 9090, targetPort: 9090, nodePort: 30090}\n  - {name: http2",
    )
}

/// The pod with a second container.
fn with_dex(ports: &str) -> String {
    with(
        POD,
        "args: [proxy, router]}]",
        &format!("args: [proxy, router]}}, {{name: dex, ports: {ports}}}]"),
    )
}

/// An istiod with these variables. One that is seen reads policies for gateways of the Gateway API, too.
fn istiod(env: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: istiod-0, namespace: istio-system, labels: {{app: istiod}}}}\nspec: \
         {{nodeName: node-b, containers: [{{name: discovery, env: [{env}]}}]}}\nstatus: {{phase: Running}}\n---\n"
    )
}

/// The pod as one of the Gateway API's.
fn named(pod: &str) -> String {
    with(
        pod,
        "istio: ingressgateway}",
        "istio: ingressgateway, gateway.networking.k8s.io/gateway-name: gw}",
    )
}

const HTTP2: [&str; 3] = [
    "10.244.0.5:8080/tcp",
    "172.18.0.2:30080/tcp",
    "203.0.113.10:80/tcp",
];

#[test]
fn a_port_that_no_server_names_then_nobody_is_refused_there_and_it_is_said() {
    let manifests = format!("{}{POD}{GATEWAY}", two_ports());
    assert_eq!(refusing(&manifests, &NODE_ADDRESS), set(&HTTP2));
    let gateway = here(&manifests);
    let text = remark(&gateway, "no-server");
    assert!(text.contains("port admin (9090 of its pods)"), "{text}");
    assert!(!text.contains("http2"), "{text}");
    // With a server it is judged, whatever namespace the Gateway is in, and by an empty selector too.
    let second = with(
        &with(GATEWAY, "httpbin-gateway", "admin"),
        "number: 80",
        "number: 9090",
    );
    for second in [
        second.clone(),
        with(&second, "  selector: {istio: ingressgateway}\n", ""),
    ] {
        let manifests = format!("{manifests}{second}");
        assert_eq!(refusing(&manifests, &NODE_ADDRESS).len(), 6, "{second}");
        assert_eq!(remarks(&here(&manifests)), [""; 0]);
    }
    // One for other pods is none for these.
    let other = with(&second, "{istio: ingressgateway}", "{istio: eastwest}");
    assert_eq!(
        refusing(&format!("{manifests}{other}"), &NODE_ADDRESS),
        set(&HTTP2)
    );
}

#[test]
fn no_gateway_at_all_then_nothing_is_refused_in_a_cluster_and_files_are_judged_as_before() {
    // A pod of a Gateway API Gateway that is gone is a gateway all the same.
    let pod = named(POD);
    let manifests = format!("{SERVICE}{pod}{}", istiod(""));
    assert_eq!(refusing(&manifests, &NODE_ADDRESS), set(&[]));
    assert_eq!(remarks(&here(&manifests)), ["no-server"]);
    // A server that is named by another's labels only is none; one that is for these pods is judged.
    let own = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: istio-system}\nspec: \
               {gatewayClassName: istio, listeners: [{name: a, port: 80, protocol: HTTP}]}\n---\n";
    let other = with(own, "name: gw", "name: other");
    assert_eq!(refusing(&format!("{manifests}{other}"), &NODE_ADDRESS), set(&[]));
    assert_eq!(refusing(&format!("{manifests}{own}"), &NODE_ADDRESS), set(&HTTP2));
    let gateway = one(find_in(&format!("{manifests}{NODE}")));
    assert_eq!(remarks(&gateway), [""; 0]);
    assert_eq!(
        gateway.listeners[0].receivers[0].chains[0].kind,
        ChainKind::Unknown
    );
}

#[test]
fn a_host_port_that_no_server_uses_then_nobody_is_refused_there() {
    let pod = with(
        &with(
            &with(POD, "spec:\n", "spec:\n  hostNetwork: true\n"),
            "10.244.0.5",
            "172.18.0.2",
        ),
        "args: [proxy, router]",
        "args: [proxy, router], ports: [{containerPort: 80}, {containerPort: 8080}]",
    );
    assert_eq!(
        refusing(&format!("{pod}{GATEWAY}"), &NODE_ADDRESS),
        set(&["172.18.0.2:80/tcp"])
    );
    assert_eq!(remarks(&here(&format!("{pod}{GATEWAY}"))), ["no-server"]);
}

#[test]
fn another_container_declares_the_port_then_nobody_is_refused_there_though_a_server_names_it() {
    let second = with(
        &with(GATEWAY, "httpbin-gateway", "admin"),
        "number: 80",
        "number: 9090",
    );
    let dex = with_dex("[{containerPort: 9090}]");
    let manifests = format!("{}{dex}{GATEWAY}{second}", two_ports());
    assert_eq!(refusing(&manifests, &NODE_ADDRESS), set(&HTTP2));
    let text = remark(&here(&manifests), "no-server");
    assert!(text.contains("container dex"), "{text}");
    // In files too, with or without a Gateway.
    for gateways in ["", GATEWAY] {
        let gateway = one(find_in(&format!(
            "{}{NODE}{}{gateways}",
            two_ports(),
            named(&dex)
        )));
        let admin = gateway.listeners.iter().find(|l| l.name == "admin").unwrap();
        assert!(
            admin.receivers[0]
                .chains
                .iter()
                .all(|c| !matches!(c.kind, ChainKind::Http | ChainKind::Tcp | ChainKind::Unknown)),
            "{admin:?}"
        );
    }
    // UDP is another port; and what istio-proxy declares too is its own.
    for dex in [
        with_dex("[{containerPort: 9090, protocol: UDP}]"),
        with(
            &dex,
            "args: [proxy, router]",
            "args: [proxy, router], ports: [{containerPort: 9090}]",
        ),
    ] {
        let manifests = format!("{}{dex}{GATEWAY}{second}", two_ports());
        assert_eq!(refusing(&manifests, &NODE_ADDRESS).len(), 6, "{dex}");
    }
}

#[test]
fn envoys_own_ports_by_its_environment_then_nobody_is_refused_there() {
    let second = with(
        &with(GATEWAY, "httpbin-gateway", "admin"),
        "number: 80",
        "number: 9090",
    );
    for name in ["ENVOY_STATUS_PORT", "ENVOY_PROMETHEUS_PORT"] {
        let pod = with(
            POD,
            "args: [proxy, router]",
            &format!("args: [proxy, router], env: [{{name: {name}, value: \"9090\"}}]"),
        );
        let manifests = format!("{}{pod}{GATEWAY}{second}", two_ports());
        assert_eq!(refusing(&manifests, &NODE_ADDRESS), set(&HTTP2), "{name}");
        assert_eq!(remarks(&here(&manifests)), ["no-server"]);
    }
}

#[test]
fn a_number_that_a_service_leads_elsewhere_then_it_opens_no_listener_of_that_number() {
    // The server's 8080 is the Service's port, which leads to 9000; nothing listens at 8080 itself.
    let service = with(
        SERVICE,
        "  - {name: http2",
        "  - {name: moved, port: 8080, targetPort: 9000}\n  - {name: http2",
    );
    let gateway = with(GATEWAY, "number: 80", "number: 8080");
    assert_eq!(
        refusing(&format!("{service}{POD}{gateway}"), &NODE_ADDRESS),
        set(&["10.244.0.5:9000/tcp", "203.0.113.10:8080/tcp"])
    );
    // Two Services that lead it to different ports: which of them Envoy opens is not certain.
    let internal = "apiVersion: v1\nkind: Service\nmetadata: {name: internal, namespace: istio-system}\nspec: {clusterIP: \
                    10.96.0.11, selector: {istio: ingressgateway}, ports: [{port: 80, targetPort: 9999}]}\n---\n";
    let manifests = format!("{SERVICE}{internal}{POD}{GATEWAY}");
    assert_eq!(refusing(&manifests, &NODE_ADDRESS), set(&[]));
    let same = with(internal, "targetPort: 9999", "targetPort: 8080");
    let manifests = format!("{SERVICE}{same}{POD}{GATEWAY}");
    assert_eq!(refusing(&manifests, &NODE_ADDRESS), set(&HTTP2));
}

#[test]
fn gateways_that_istiod_may_not_give_to_the_pods_then_nobody_is_refused() {
    let scope = "{name: PILOT_SCOPE_GATEWAY_TO_NAMESPACE, value: \"true\"}";
    let own = with(GATEWAY, "namespace: foo", "namespace: istio-system");
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: \
                \"discoverySelectors: [{matchLabels: {istio: here}}]\"}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: \
                istio-system, labels: {istio: here}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: foo, labels: {istio: \
                there}}\n---\n";
    let labelled = |rev: &str| {
        with(
            GATEWAY,
            "namespace: foo}",
            &format!("namespace: foo, labels: {{istio.io/rev: {rev}}}}}"),
        )
    };
    let unprivileged = with(SERVICE, "targetPort: 8080", "targetPort: 80");
    let cases = [
        (
            "scoped to the namespace",
            format!("{}{GATEWAY}", istiod(scope)),
            false,
        ),
        ("scoped, and its own", format!("{}{own}", istiod(scope)), true),
        (
            "not known whether it is scoped",
            format!(
                "{}{GATEWAY}",
                istiod("{name: PILOT_SCOPE_GATEWAY_TO_NAMESPACE, valueFrom: {}}")
            ),
            false,
        ),
        (
            "not scoped",
            format!("{}{GATEWAY}", istiod(&with(scope, "\"true\"", "\"false\""))),
            true,
        ),
        (
            "of another revision",
            format!(
                "{}{}",
                istiod("{name: REVISION, value: canary}"),
                labelled("stable")
            ),
            false,
        ),
        (
            "of this revision",
            format!(
                "{}{}",
                istiod("{name: REVISION, value: canary}"),
                labelled("canary")
            ),
            true,
        ),
    ];
    for (name, gateways, judged) in cases {
        let refusing = refusing(&format!("{SERVICE}{POD}{gateways}"), &NODE_ADDRESS);
        assert_eq!(!refusing.is_empty(), judged, "{name}: {refusing:?}");
    }
    // In a namespace that istiod does not read.
    let chains = |gateway: &str| {
        let gateway = one(find_in(&format!("{SERVICE}{NODE}{POD}{mesh}{gateway}")));
        gateway.listeners[0].receivers[0].chains.clone()
    };
    assert_eq!(chains(&own).len(), 1);
    assert_eq!(chains(GATEWAY).len(), 2, "{:?}", chains(GATEWAY));
    // An unprivileged pod opens no port below 1024.
    let pod = with(
        POD,
        "args: [proxy, router]",
        "args: [proxy, router], env: [{name: ISTIO_META_UNPRIVILEGED_POD, value: \"true\"}]",
    );
    assert_eq!(
        refusing(&format!("{unprivileged}{pod}{GATEWAY}"), &NODE_ADDRESS),
        set(&[])
    );
    assert_eq!(
        refusing(&format!("{SERVICE}{pod}{GATEWAY}"), &NODE_ADDRESS),
        set(&HTTP2)
    );
}

#[test]
fn listener_sets_may_add_listeners_then_the_port_stays_unknown() {
    let pod = named(POD);
    let gateway = |more: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: istio-system}}\nspec: \
             {{gatewayClassName: istio, listeners: [{{name: a, port: 80, protocol: HTTP}}]{more}}}\n---\n"
        )
    };
    let of = |more: &str| {
        let manifests = format!("{}{pod}{}{}", two_ports(), gateway(more), istiod(""));
        refusing(&manifests, &NODE_ADDRESS)
    };
    assert_eq!(of(""), set(&HTTP2));
    assert_eq!(of(", allowedListeners: {namespaces: {from: Same}}").len(), 6);
}
