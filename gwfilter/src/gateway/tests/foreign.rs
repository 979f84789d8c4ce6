//! Destinations that look like a gateway's and are not: what kube-proxy leaves alone, what other pods have, what Envoy is not bound to.

use super::*;

const TWO: [&str; 2] = ["172.18.0.2", "192.0.2.11"];

const HTTP2: [&str; 4] = [
    "10.244.0.5:8080/tcp",
    "172.18.0.2:30080/tcp",
    "192.0.2.11:30080/tcp",
    "203.0.113.10:80/tcp",
];

/// A second Service of the same pods, with the node's own address and the ports of sshd and the API server.
const OTHER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: other, namespace: istio-system}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  clusterIP: 10.96.0.11
  selector: {istio: ingressgateway}
  externalIPs: [172.18.0.2]
  ports: [{name: a, port: 22, targetPort: 8080, nodePort: 30022}, {name: b, port: 6443, targetPort: 8080, nodePort: 30643}]
---
"#;

/// The pod on the host's network.
fn on_host() -> String {
    with(
        &with(POD, "spec:\n", "spec:\n  hostNetwork: true\n"),
        "10.244.0.5",
        "172.18.0.2",
    )
}

/// A pod of somebody else's.
fn app(spec: &str, status: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: q, namespace: app, labels: {{app: q}}}}\nspec: {{nodeName: node-a, {spec}}}\n\
         status: {{{status}}}\n---\n"
    )
}

#[test]
fn service_that_kube_proxy_skips_then_its_addresses_are_not_the_gateways_and_its_pods_are() {
    let manifests = |other: &str| format!("{SERVICE}{other}{POD}{GATEWAY}");
    let all = refusing(&manifests(OTHER), &TWO);
    assert!(
        all.contains("172.18.0.2:22/tcp") && all.contains("192.0.2.11:30022/tcp"),
        "{all:?}"
    );
    let headless = with(OTHER, "clusterIP: 10.96.0.11", "clusterIP: None");
    let plural = with(OTHER, "clusterIP: 10.96.0.11", "clusterIPs: [None]");
    let elsewhere = with(
        OTHER,
        "namespace: istio-system",
        "namespace: istio-system, labels: {service.kubernetes.io/service-proxy-name: mine}",
    );
    for other in [&headless, &plural, &elsewhere] {
        assert_eq!(refusing(&manifests(other), &TWO), set(&HTTP2), "{other}");
    }
    // Alone, its pods are judged, and what is not is said.
    for (other, word) in [(&headless, "headless"), (&elsewhere, "service-proxy-name")] {
        let manifests = format!("{other}{POD}{}", with(GATEWAY, "number: 80", "number: 8080"));
        assert_eq!(
            refusing(&manifests, &TWO),
            set(&["10.244.0.5:8080/tcp"]),
            "{other}"
        );
        let text = remark(&here(&manifests), "not-by-kube-proxy");
        assert!(
            text.contains(word) && text.contains("172.18.0.2:22/tcp"),
            "{text}"
        );
    }
    let quiet = with(&headless, "  externalIPs: [172.18.0.2]\n", "");
    let quiet = quiet
        .replace(", nodePort: 30022", "")
        .replace(", nodePort: 30643", "");
    let named = with(GATEWAY, "number: 80", "number: 8080");
    assert_eq!(remarks(&here(&format!("{quiet}{POD}{named}"))), [""; 0]);
}

#[test]
fn headless_service_of_somebody_else_then_it_takes_no_destination_and_any_other_is_named() {
    let other = |more: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: sneak, namespace: evil}}\nspec: {{externalIPs: [203.0.113.10], \
             selector: {{app: x}}, ports: [{{port: 80}}]{more}}}\n---\n"
        )
    };
    let of = |more: &str| format!("{SERVICE}{POD}{GATEWAY}{}", other(more));
    assert_eq!(refusing(&of(", clusterIP: None"), &TWO), set(&HTTP2));
    assert_eq!(remarks(&here(&of(", clusterIP: None"))), [""; 0]);
    let taken = of(", clusterIP: 10.96.0.99");
    assert!(!refusing(&taken, &TWO).contains("203.0.113.10:80/tcp"));
    let text = remark(&here(&taken), "tuple-of-another-service");
    assert!(
        text.contains("203.0.113.10:80/tcp") && text.contains("Service evil/sneak"),
        "{text}"
    );
}

#[test]
fn balancer_that_passes_connections_on_itself_then_its_address_is_not_judged() {
    let service = |mode: &str| {
        with(
            SERVICE,
            "[{ip: 203.0.113.10}]",
            &format!("[{{ip: 203.0.113.10}}, {{ip: 192.0.2.11, ipMode: {mode}}}]"),
        )
    };
    let of = |mode: &str| format!("{}{POD}{GATEWAY}", service(mode));
    let mut vip = set(&HTTP2);
    vip.insert("192.0.2.11:80/tcp".to_owned());
    assert_eq!(refusing(&of("VIP"), &TWO), vip);
    assert_eq!(remarks(&here(&of("VIP"))), [""; 0]);
    assert_eq!(refusing(&of("Proxy"), &TWO), set(&HTTP2));
    let text = remark(&here(&of("Proxy")), "not-by-kube-proxy");
    assert!(
        text.contains("192.0.2.11:80/tcp") && text.contains("ipMode"),
        "{text}"
    );
    // Nor where a gateway on the host's network may have the same: whose it is depends on who was there first. That goes for a
    // Service that is no gateway, too.
    let host = on_host();
    let stranger = "apiVersion: v1\nkind: Service\nmetadata: {name: app, namespace: web}\nspec: {clusterIP: 10.96.0.98, selector: \
                    {app: web}, ports: [{port: 8080}]}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.11, ipMode: Proxy}]}}\n---\n";
    let refused = refusing(&format!("{SERVICE}{host}{GATEWAY}{stranger}"), &TWO);
    assert!(
        refused.contains("172.18.0.2:8080/tcp") && !refused.contains("192.0.2.11:8080/tcp"),
        "{refused:?}"
    );
    let own = with(
        &service("Proxy"),
        "port: 80, targetPort: 8080",
        "port: 8080, targetPort: 8080",
    );
    let gateway = with(GATEWAY, "number: 80", "number: 8080");
    let refused = refusing(&format!("{own}{host}{gateway}"), &TWO);
    assert!(
        refused.contains("172.18.0.2:8080/tcp") && !refused.contains("192.0.2.11:8080/tcp"),
        "{refused:?}"
    );
}

#[test]
fn server_bound_to_one_address_then_only_that_one_is_envoys_on_the_hosts_network() {
    let bound = |bind: &str| {
        with(
            GATEWAY,
            "hosts: [\"*\"]",
            &format!("hosts: [\"*\"], bind: \"{bind}\""),
        )
    };
    let host = on_host();
    let of = |gateways: &str| refusing(&format!("{host}{gateways}"), &TWO);
    let both = set(&["172.18.0.2:80/tcp", "192.0.2.11:80/tcp"]);
    assert_eq!(of(GATEWAY), both);
    assert_eq!(of(&bound("0.0.0.0")), both);
    assert_eq!(of(&bound("192.0.2.11")), set(&["192.0.2.11:80/tcp"]));
    for bind in ["::", "node.example.com", "127.0.0.1"] {
        assert_eq!(of(&bound(bind)), set(&[]), "{bind}");
    }
    let gateway = here(&format!("{host}{}", bound("node.example.com")));
    assert!(remark(&gateway, "server-bind").contains("node.example.com"));
    // Two that differ: what wins is not known.
    let two = format!(
        "{}{}",
        bound("192.0.2.11"),
        with(&bound("172.18.0.2"), "httpbin-gateway", "second")
    );
    assert_eq!(of(&two), set(&[]));
    assert!(remark(&here(&format!("{host}{two}")), "server-bind").contains("172.18.0.2"));
    // A unix socket has no port.
    let unix = with(
        GATEWAY,
        "{number: 80, name: http, protocol: HTTP}",
        "{number: 0, name: unix, protocol: HTTP}, bind: \"unix:///run/gw.sock\"",
    );
    let unix = with(&unix, "httpbin-gateway", "unix");
    assert_eq!(of(&format!("{GATEWAY}{unix}")), both);
}

#[test]
fn server_bound_to_another_address_than_the_pods_then_nobody_is_refused_on_the_way_to_it() {
    let bound = |bind: &str| {
        with(
            GATEWAY,
            "hosts: [\"*\"]",
            &format!("hosts: [\"*\"], bind: {bind}"),
        )
    };
    let of = |pod: &str, bind: &str| refusing(&format!("{SERVICE}{pod}{}", bound(bind)), &TWO);
    assert_eq!(of(POD, "10.244.0.5"), set(&HTTP2));
    assert_eq!(of(POD, "127.0.0.1"), set(&[]));
    // Through the Service it would come to the first address, where another process may be.
    assert_eq!(of(&on_host(), "192.0.2.11"), set(&["192.0.2.11:8080/tcp"]));
}

#[test]
fn host_port_of_another_pod_then_what_comes_there_is_that_pods() {
    let host = on_host();
    let of = |pod: &str| format!("{host}{GATEWAY}{pod}");
    let both = set(&["172.18.0.2:80/tcp", "192.0.2.11:80/tcp"]);
    let port = |more: &str| {
        app(
            &format!("containers: [{{name: app, ports: [{{containerPort: 8080, hostPort: 80{more}}}]}}]"),
            "phase: Running, podIP: 10.244.0.6",
        )
    };
    assert_eq!(refusing(&of(&port("")), &TWO), set(&[]));
    let text = remark(&here(&of(&port(""))), "tuple-of-another-service");
    assert!(
        text.contains("Pod app/q") && text.contains("host port") && text.contains("172.18.0.2:80/tcp"),
        "{text}"
    );
    assert_eq!(
        refusing(&of(&port(", hostIP: 192.0.2.11")), &TWO),
        set(&["172.18.0.2:80/tcp"])
    );
    for free in [
        port(", protocol: UDP"),
        with(&port(""), "Running", "Succeeded"),
        with(&port(""), "node-a", "node-b"),
    ] {
        assert_eq!(refusing(&of(&free), &TWO), both, "{free}");
    }
    // The gateway's own are its own.
    let own = with(
        POD,
        "args: [proxy, router]",
        "args: [proxy, router], ports: [{containerPort: 8080, hostPort: 8000}]",
    );
    let refused = refusing(&format!("{SERVICE}{own}{GATEWAY}"), &TWO);
    assert!(refused.contains("172.18.0.2:8000/tcp"), "{refused:?}");
}

#[test]
fn an_address_that_another_pod_has_too_then_it_is_not_judged() {
    let q = app(
        "containers: [{name: app, ports: [{containerPort: 8080}]}]",
        "phase: Running, podIP: 10.244.0.5",
    );
    let ending = with(
        POD,
        "  labels: {app",
        "  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n  labels: {app",
    );
    for pod in [POD, ending.as_str()] {
        let manifests = format!("{SERVICE}{pod}{GATEWAY}{q}");
        // What comes by the Service would end there, too.
        assert_eq!(refusing(&manifests, &TWO), set(&[]), "{pod}");
        let text = remark(&here(&manifests), "tuple-of-another-service");
        assert!(
            text.contains("Pod app/q") && text.contains("10.244.0.5"),
            "{text}"
        );
    }
    // One that is over has none any more; one on the host's network has the node's.
    for q in [
        with(&q, "Running", "Failed"),
        with(&q, "nodeName: node-a", "hostNetwork: true, nodeName: node-a"),
    ] {
        let manifests = format!("{SERVICE}{POD}{GATEWAY}{q}");
        assert_eq!(refusing(&manifests, &TWO), set(&HTTP2), "{q}");
    }
}

#[test]
fn a_pod_that_ends_and_receives_nothing_then_its_own_address_may_be_anothers() {
    let ending = with(
        &with(
            POD,
            "  labels: {app",
            "  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n  labels: {app",
        ),
        "phase: Running",
        "phase: Running, conditions: [{type: Ready, status: \"False\"}]",
    );
    assert_eq!(refusing(&format!("{SERVICE}{ending}{GATEWAY}"), &TWO), set(&[]));
    // While another receives, the rest is judged as ever.
    let new = with(&with(POD, "gw-0", "gw-1"), "10.244.0.5", "10.244.0.8");
    let refused = refusing(&format!("{SERVICE}{ending}{new}{GATEWAY}"), &TWO);
    assert!(
        refused.contains("203.0.113.10:80/tcp") && refused.contains("10.244.0.8:8080/tcp"),
        "{refused:?}"
    );
    assert!(!refused.contains("10.244.0.5:8080/tcp"), "{refused:?}");
    // One that serves while it ends is judged.
    let serving = with(&ending, "\"False\"", "\"True\"");
    assert_eq!(
        refusing(&format!("{SERVICE}{serving}{GATEWAY}"), &TWO),
        set(&HTTP2)
    );
}
