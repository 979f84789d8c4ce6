//! Filter chains behind a port.

use super::*;

const HTTP: Chain = Chain {
    kind: ChainKind::Http,
    tls: ChainTls::Plain,
};
const UNKNOWN: Chain = Chain {
    kind: ChainKind::Unknown,
    tls: ChainTls::Unknown,
};
const NO_LISTENER: Chain = Chain {
    kind: ChainKind::NoListener,
    tls: ChainTls::Unknown,
};

fn chains(manifests: &str) -> Vec<Chain> {
    let gateway = one(find_in(&format!("{SERVICE}{NODE}{POD}{manifests}")));
    gateway.listeners[0].receivers[0].chains.clone()
}

#[test]
fn servers_then_their_chain() {
    use ChainKind::{Http, NoRbac, Tcp, Unknown};
    use ChainTls::{Plain, Simple, Unknown as Any};
    let cases = [
        ("HTTP", "", Http, Plain),
        ("http2", "", Http, Plain),
        ("GRPC", "", Http, Plain),
        ("GRPC-WEB", "", Http, Plain),
        ("HTTP_PROXY", "", Http, Plain),
        ("HTTP", "{mode: SIMPLE}", Http, Plain),
        ("HTTP", "{httpsRedirect: true}", Http, Plain),
        ("HTTPS", "{mode: SIMPLE}", Http, Simple),
        ("HTTPS", "{mode: MUTUAL}", Http, Any),
        ("HTTPS", "{mode: OPTIONAL_MUTUAL}", Http, Any),
        ("HTTPS", "{mode: ISTIO_MUTUAL}", Http, Any),
        ("HTTPS", "{mode: PASSTHROUGH}", Tcp, Any),
        ("HTTPS", "{credentialName: x}", Tcp, Any),
        ("HTTPS", "", Unknown, Any),
        ("HTTPS", "{mode: AUTO_PASSTHROUGH}", NoRbac, Any),
        ("TLS", "{mode: AUTO_PASSTHROUGH}", NoRbac, Any),
        ("TLS", "{mode: PASSTHROUGH}", Tcp, Any),
        ("TLS", "{mode: SIMPLE}", Tcp, Simple),
        ("TLS", "", Tcp, Any),
        ("TCP", "", Tcp, Plain),
        ("TCP", "{mode: SIMPLE}", Tcp, Simple),
        ("MONGO", "", Tcp, Plain),
        ("UNHEARD-OF", "", Unknown, Any),
    ];
    for (protocol, tls, kind, want) in cases {
        let tls = if tls.is_empty() {
            String::new()
        } else {
            format!(", tls: {tls}")
        };
        let gateway = with(
            GATEWAY,
            "protocol: HTTP}",
            &format!("protocol: {protocol}}}{tls}"),
        );
        assert_eq!(chains(&gateway), [Chain { kind, tls: want }], "{protocol}{tls}");
    }
}

#[test]
fn several_servers_on_a_port_then_all_their_chains() {
    let other = with(
        &with(
            &with(GATEWAY, "httpbin-gateway", "other"),
            "protocol: HTTP}",
            "protocol: TLS}, tls: {mode: SIMPLE}",
        ),
        "namespace: foo",
        "namespace: bar",
    );
    let want = [
        HTTP,
        Chain {
            kind: ChainKind::Tcp,
            tls: ChainTls::Simple,
        },
    ];
    assert_eq!(chains(&format!("{GATEWAY}{other}")), want);
    let pass = with(&other, "mode: SIMPLE", "mode: AUTO_PASSTHROUGH");
    assert_eq!(
        chains(&format!("{GATEWAY}{pass}"))
            .iter()
            .filter(|c| c.kind == ChainKind::NoRbac)
            .count(),
        1
    );
}

#[test]
fn server_number_then_the_listener_it_leads_to() {
    // 80 leads to 8080 through the Service; 8080 is the listener as written; 443 is another, and then nothing listens at 8080.
    assert_eq!(chains(GATEWAY), [HTTP]);
    assert_eq!(chains(&with(GATEWAY, "number: 80", "number: 8080")), [HTTP]);
    assert_eq!(chains(&with(GATEWAY, "number: 80", "number: 443")), [NO_LISTENER]);
    // Another Service of the same pods translates too.
    let internal = "apiVersion: v1\nkind: Service\nmetadata: {name: internal, namespace: istio-system}\nspec: \
                    {selector: {istio: ingressgateway}, ports: [{port: 81, targetPort: 8080}]}\n---\n";
    let found = find_in(&format!(
        "{SERVICE}{NODE}{POD}{internal}{}",
        with(GATEWAY, "number: 80", "number: 81")
    ));
    assert!(
        found
            .gateways
            .iter()
            .all(|g| g.listeners[0].receivers[0].chains == [HTTP])
    );
    assert_eq!(found.gateways.len(), 2);
}

#[test]
fn gateways_that_do_not_select_the_pod_then_no_chain_of_theirs() {
    let other = with(
        &with(GATEWAY, "protocol: HTTP", "protocol: TCP"),
        "ingressgateway",
        "eastwest",
    );
    assert_eq!(
        chains(&format!("{GATEWAY}{}", with(&other, "httpbin-gateway", "o"))),
        [HTTP]
    );
    // One that may select what the Service's selector does not tell counts.
    let maybe = with(
        &with(GATEWAY, "protocol: HTTP", "protocol: TCP"),
        "{istio: ingressgateway}",
        "{more: x}",
    );
    let gateway = one(find_in(&format!(
        "{SERVICE}{NODE}{GATEWAY}{}",
        with(&maybe, "httpbin-gateway", "o")
    )));
    assert_eq!(gateway.listeners[0].receivers[0].chains.len(), 2);
}

#[test]
fn no_server_known_then_unknown_but_for_ports_without_rbac_by_convention() {
    let service = with(
        SERVICE,
        "port: 80, targetPort: 8080",
        "port: 15443, targetPort: 15443",
    );
    let gateway = one(find_in(&format!("{service}{NODE}")));
    assert_eq!(
        gateway.listeners[0].receivers[0].chains[0].kind,
        ChainKind::NoRbac
    );
    assert_eq!(
        one(find_in(&format!("{SERVICE}{NODE}"))).listeners[0].receivers[0].chains,
        [UNKNOWN]
    );
}

#[test]
fn listeners_of_gateway_api_then_their_chain() {
    let pod = with(
        POD,
        "istio: ingressgateway}",
        "istio: ingressgateway, gateway.networking.k8s.io/gateway-name: gw}",
    );
    let run = |class: &str, listener: &str| {
        let gateway = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: \
             istio-system}}\nspec: {{gatewayClassName: {class}, listeners: [{{name: a, port: 80, {listener}}}]}}\n---\n"
        );
        let gateway = one(find_in(&format!("{SERVICE}{NODE}{pod}{gateway}")));
        gateway.listeners[0].receivers[0].chains.clone()
    };
    let tcp = |tls| {
        vec![Chain {
            kind: ChainKind::Tcp,
            tls,
        }]
    };
    let http = |tls| {
        vec![Chain {
            kind: ChainKind::Http,
            tls,
        }]
    };
    assert_eq!(run("istio", "protocol: HTTP"), [HTTP]);
    assert_eq!(
        run("istio", "protocol: HTTPS, tls: {mode: Terminate}"),
        http(ChainTls::Simple)
    );
    assert_eq!(run("istio", "protocol: HTTPS"), http(ChainTls::Simple));
    let mutual = "protocol: HTTPS, tls: {options: {gateway.istio.io/tls-terminate-mode: MUTUAL}}";
    assert_eq!(run("istio", mutual), http(ChainTls::Unknown));
    assert_eq!(
        run("istio", "protocol: TLS, tls: {mode: Terminate}"),
        tcp(ChainTls::Simple)
    );
    assert_eq!(
        run("istio", "protocol: TLS, tls: {mode: Passthrough}"),
        tcp(ChainTls::Unknown)
    );
    assert_eq!(run("istio", "protocol: TCP"), tcp(ChainTls::Plain));
    assert_eq!(run("istio", "protocol: example.com/odd"), [UNKNOWN]);
    assert_eq!(run("nginx", "protocol: HTTP"), [UNKNOWN]);
}
