//! Destinations of gateways behind the PROXY protocol: which are judged, and what is known of the peer there.

use super::*;

const HEADER: &str = "gwfilter.io/client-address: proxy-header";
const PP: &str = "env: [{name: PROXY_CONFIG, value: '{\"gatewayTopology\": {\"proxyProtocol\": {}}}'}]";

fn to_cluster(service: &str) -> String {
    with(
        service,
        "externalTrafficPolicy: Local\n  healthCheckNodePort: 32000",
        "externalTrafficPolicy: Cluster",
    )
}

fn reading(pod: &str) -> String {
    with(pod, "args: [proxy, router]", PP)
}

/// A second pod on another node, with another label.
fn elsewhere(pod: &str) -> String {
    let pod = with(&with(pod, "gw-0", "gw-1"), "node-a", "node-b");
    with(
        &with(&pod, "10.244.0.5", "10.244.1.5"),
        "istio: ingressgateway}",
        "istio: ingressgateway, canary: \"1\"}",
    )
}

/// Destinations with whether the peer is known.
fn tuples(gateway: &Gateway) -> Vec<(String, bool)> {
    let tuples = gateway.listeners.iter().flat_map(|l| &l.tuples);
    tuples.map(|t| (t.key.to_string(), t.peer_known)).collect()
}

fn at_a(manifests: &str) -> Gateway {
    one(find_with(manifests, &node("node-a"), &files()))
}

const FRONT: [&str; 2] = ["172.18.0.2:30080/tcp", "203.0.113.10:80/tcp"];
const POD_TUPLE: &str = "10.244.0.5:8080/tcp";

fn expected(front: Option<bool>) -> BTreeSet<(String, bool)> {
    let front = front
        .into_iter()
        .flat_map(|known| FRONT.map(|key| (key.to_owned(), known)));
    front.chain([(POD_TUPLE.to_owned(), true)]).collect()
}

#[test]
fn either_traffic_policy_then_judged_and_the_peer_is_known_where_nothing_rewrites_it() {
    let stated = annotated(HEADER);
    for (service, peer) in [(stated.clone(), true), (to_cluster(&stated), false)] {
        let gateway = at_a(&format!("{service}{NODE}{POD}{GATEWAY}"));
        assert_eq!(
            (gateway.client_address, why(&gateway)),
            (ClientAddress::ProxyHeader, None)
        );
        assert_eq!(
            tuples(&gateway).into_iter().collect::<BTreeSet<_>>(),
            expected(Some(peer))
        );
        assert_eq!(remarks(&gateway), Vec::<&str>::new());
        // The planner has to know, for the day when the packet's source counts.
        assert_eq!(gateway.rewritten.is_empty(), peer);
    }
}

#[test]
fn pods_on_another_node_then_a_drop_must_hold_for_them_too() {
    let both = format!("{NODE}{POD}{}{GATEWAY}", elsewhere(POD));
    for service in [annotated(HEADER), to_cluster(&annotated(HEADER))] {
        let gateway = at_a(&format!("{service}{both}"));
        assert_eq!(gateway.workloads.len(), 2);
        let receivers = |key: &str| {
            let of = |l: &&Listener| l.tuples.iter().any(|t| t.key.to_string() == key);
            gateway.listeners.iter().find(of).unwrap().receivers.len()
        };
        assert_eq!((receivers(FRONT[1]), receivers(POD_TUPLE)), (2, 1));
    }
}

#[test]
fn no_pod_on_the_node_then_judged_under_cluster_only() {
    let other = elsewhere(POD);
    let run = |service: &str| at_a(&format!("{service}{NODE}{other}{GATEWAY}"));
    let gateway = run(&to_cluster(&annotated(HEADER)));
    assert_eq!(tuples(&gateway).len(), 2, "{gateway:#?}");
    let gateway = run(&annotated(HEADER));
    assert_eq!(
        (tuples(&gateway).len(), remarks(&gateway)),
        (0, vec!["no-local-endpoint"])
    );
}

#[test]
fn pods_elsewhere_that_may_not_read_the_header_then_only_the_nodes_own_pods_are_judged() {
    let run = |more: &str, settings: &Settings| {
        let manifests = format!("{}{NODE}{}{more}{GATEWAY}", to_cluster(SERVICE), reading(POD));
        let gateway = one(find_with(&manifests, &node("node-a"), settings));
        assert_eq!(gateway.client_address, ClientAddress::ProxyHeader);
        (
            tuples(&gateway).into_iter().collect::<BTreeSet<_>>(),
            remarks(&gateway),
        )
    };
    let everywhere = (expected(Some(false)), Vec::new());
    let here = (expected(None), vec!["proxy-header-elsewhere"]);
    assert_eq!(run("", &files()), everywhere);
    assert_eq!(run(&elsewhere(&reading(POD)), &files()), everywhere);
    assert_eq!(run(&elsewhere(POD), &files()), here);
    // An agent in a cluster does not see them at all.
    assert_eq!(run("", &cluster()), here);
}

#[test]
fn signs_that_are_not_certain_then_not_enforced() {
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
                defaultConfig: {gatewayTopology: {proxyProtocol: {}}}\n---\n";
    let manifests = format!("{SERVICE}{NODE}{POD}{mesh}{GATEWAY}");
    let run = |settings: &Settings| why(&one(find_with(&manifests, &node("node-a"), settings)));
    assert_eq!(run(&files()), None);
    assert_eq!(run(&cluster()), Some("proxy-header-not-enforced"));
    // Without either version the payload may be what Envoy takes the header for.
    let filter = |config: &str| {
        format!(
            "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: p, namespace: istio-system}}\n\
             spec:\n  configPatches:\n  - applyTo: LISTENER_FILTER\n    patch: {{operation: INSERT_FIRST, value: {{name: p, \
             typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol{config}}}}}}}\n---\n"
        )
    };
    let run = |config: &str| {
        let gateway = one(find_in(&format!(
            "{SERVICE}{NODE}{POD}{GATEWAY}{}",
            filter(config)
        )));
        (gateway.client_address, why(&gateway))
    };
    assert_eq!(run(""), (ClientAddress::ProxyHeader, None));
    assert_eq!(
        run(", disallowed_versions: [V1], allow_requests_without_proxy_protocol: true"),
        (ClientAddress::Unknown, Some("envoy-filter"))
    );
}

#[test]
fn stated_against_trusted_hops_then_contradicted_and_against_silence_then_a_warning() {
    let run = |config: &str| {
        let pod = with(
            POD,
            "args: [proxy, router]",
            &format!("env: [{{name: PROXY_CONFIG, value: '{config}'}}]"),
        );
        let found = find_in(&format!("{}{NODE}{pod}{GATEWAY}", annotated(HEADER)));
        (codes(&found), why(&one(found)))
    };
    let hops = "{\"gatewayTopology\": {\"numTrustedProxies\": 1}}";
    let contradicted = "client-address-contradicted";
    assert_eq!(run(hops), (vec![contradicted], Some(contradicted)));
    // The mesh's default is no certain sign, but enough not to know the client.
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
                defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}\n---\n";
    let found = find_in(&format!("{}{NODE}{POD}{mesh}{GATEWAY}", annotated(HEADER)));
    assert_eq!(why(&one(found)), Some(contradicted));
    assert_eq!(run("{}"), (vec!["client-address-assumed"], None));
    assert_eq!(
        run("{\"gatewayTopology\": {\"proxyProtocol\": {}}}"),
        (vec![], None)
    );
}

#[test]
fn balancers_that_name_themselves_then_probes_are_known_where_that_is_stated() {
    let run = |annotations: &str| {
        let service = annotated(annotations);
        let manifests = format!("{service}{NODE}{}{GATEWAY}", reading(POD));
        let gateway = one(find_with(&manifests, &node("node-a"), &cluster()));
        let lb = "10.9.9.9/32".parse().unwrap();
        (gateway.probe_sources_known, gateway.never_drop.contains(&lb))
    };
    assert_eq!(run("a: b"), (false, false));
    assert_eq!(run("gwfilter.io/trusted-proxies: 10.9.9.9"), (true, true));
    assert_eq!(
        run("service.beta.kubernetes.io/aws-load-balancer-type: external"),
        (true, false)
    );
    assert_eq!(
        run("service.beta.kubernetes.io/aws-load-balancer-type: clb"),
        (false, false)
    );
}
