//! Which destinations are judged, and who receives behind them.

use super::*;

const V6_NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDR: 10.244.0.0/24}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: ExternalIP, address: "2001:db8::2"}]}
---
"#;

/// A second pod on another node.
fn second(labels: &str) -> String {
    let pod = with(
        &with(&with(POD, "gw-0", "gw-1"), "node-a", "node-b"),
        "10.244.0.5",
        "10.244.1.5",
    );
    with(&pod, "istio: ingressgateway}", labels)
}

#[test]
fn service_of_the_walk_through_alone_then_one_gateway_with_its_addresses() {
    let found = find_in(&format!("{SERVICE}{NODE}{GATEWAY}"));
    assert_eq!(found.diagnostics, []);
    let gateway = one(found);
    assert_eq!(gateway.id(), "istio-system/istio-ingressgateway");
    assert_eq!(
        (gateway.client_address, why(&gateway)),
        (ClientAddress::PacketSource, None)
    );
    assert_eq!(remarks(&gateway), Vec::<&str>::new());
    let [listener] = &gateway.listeners[..] else {
        panic!("{:#?}", gateway.listeners)
    };
    assert_eq!(listener.name, "http2");
    assert_eq!(keys(listener), ["172.18.0.2:30080/tcp", "203.0.113.10:80/tcp"]);
    assert_eq!(
        listener
            .tuples
            .iter()
            .map(|t| (t.origin, t.node_address))
            .collect::<Vec<_>>(),
        [("node-port", true), ("load-balancer", false)]
    );
    assert_eq!(
        (listener.receivers[0].port, &listener.receivers[0].addresses),
        (8080, &None)
    );
    assert!(!gateway.workloads[0].labels_complete);
}

#[test]
fn pod_then_its_own_address_and_labels_too() {
    let gateway = one(find_in(&format!("{SERVICE}{NODE}{POD}{GATEWAY}")));
    let [listener] = &gateway.listeners[..] else {
        panic!("{:#?}", gateway.listeners)
    };
    assert_eq!(
        keys(listener),
        [
            "10.244.0.5:8080/tcp",
            "172.18.0.2:30080/tcp",
            "203.0.113.10:80/tcp"
        ]
    );
    assert!(gateway.workloads[0].labels_complete);
    let own: IpAddr = "10.244.0.5".parse().unwrap();
    assert_eq!(listener.receivers[0].addresses, Some(vec![own]));
}

#[test]
fn cluster_policy_then_only_the_pod_is_judged_and_the_rest_is_remembered() {
    for service in [
        with(
            SERVICE,
            "externalTrafficPolicy: Local",
            "externalTrafficPolicy: Cluster",
        ),
        with(SERVICE, "  externalTrafficPolicy: Local\n", ""),
    ] {
        let gateway = one(find_in(&format!("{service}{NODE}{POD}{GATEWAY}")));
        assert_eq!(all_keys(&gateway), set(&["10.244.0.5:8080/tcp"]));
        let rewritten: Vec<_> = gateway.rewritten.iter().map(ToString::to_string).collect();
        assert_eq!(rewritten, ["172.18.0.2:30080/tcp", "203.0.113.10:80/tcp"]);
        assert_eq!(remarks(&gateway), ["external-traffic-policy-cluster"]);
        let mend = "kubectl -n istio-system patch service istio-ingressgateway -p \
                    '{\"spec\":{\"externalTrafficPolicy\":\"Local\"}}'";
        assert!(
            gateway.remarks[0].text.contains(mend),
            "{}",
            gateway.remarks[0].text
        );
    }
}

#[test]
fn ports_without_rbac_then_never_judged() {
    // As a Service port, as a target behind another port, by name, and behind the health check's number.
    let status = with(
        SERVICE,
        "port: 80, targetPort: 8080",
        "port: 80, targetPort: 15021",
    );
    assert_eq!(
        one(find_in(&format!("{status}{NODE}{POD}{GATEWAY}"))).listeners,
        []
    );
    let named = with(SERVICE, "port: 80, targetPort: 8080", "port: 80, targetPort: s");
    let pod = with(
        POD,
        "args: [proxy, router]",
        "ports: [{name: s, containerPort: 15090}]",
    );
    assert_eq!(
        one(find_in(&format!("{named}{NODE}{pod}{GATEWAY}"))).listeners,
        []
    );
    let health = with(
        SERVICE,
        "healthCheckNodePort: 32000",
        "healthCheckNodePort: 30080",
    );
    let gateway = one(find_in(&format!("{health}{NODE}{POD}{GATEWAY}")));
    assert_eq!(
        all_keys(&gateway),
        set(&["10.244.0.5:8080/tcp", "203.0.113.10:80/tcp"])
    );
    // The cluster address never, not even where IPVS has put it on an interface of the node.
    let facts = NodeFacts {
        name: Some("node-a".to_owned()),
        local_addresses: Some(
            ["172.18.0.2", "10.96.0.10"]
                .iter()
                .map(|a| a.parse().unwrap())
                .collect(),
        ),
    };
    let gateway = one(find_with(
        &format!("{SERVICE}{NODE}{POD}{GATEWAY}"),
        &facts,
        &files(),
    ));
    assert_eq!(
        all_keys(&gateway),
        set(&[
            "10.244.0.5:8080/tcp",
            "172.18.0.2:30080/tcp",
            "203.0.113.10:80/tcp"
        ])
    );
}

#[test]
fn external_addresses_and_families_then_their_tuples() {
    let service = with(
        SERVICE,
        "  clusterIP:",
        "  externalIPs: [198.51.100.7, \"2001:db8:e::7\"]\n  clusterIP:",
    );
    let gateway = one(find_in(&format!("{service}{V6_NODE}{GATEWAY}")));
    let want = [
        "172.18.0.2:30080/tcp",
        "198.51.100.7:80/tcp",
        "203.0.113.10:80/tcp",
        "[2001:db8::2]:30080/tcp",
        "[2001:db8:e::7]:80/tcp",
    ];
    assert_eq!(all_keys(&gateway), set(&want));
    // A Service of one family has no nodePort on the other's addresses.
    let single = with(&service, "  clusterIP:", "  ipFamilies: [IPv4]\n  clusterIP:");
    assert!(!all_keys(&one(find_in(&format!("{single}{V6_NODE}")))).contains("[2001:db8::2]:30080/tcp"));
}

#[test]
fn udp_port_then_a_listener_of_its_own() {
    let service = with(
        SERVICE,
        "  - {name: http2",
        "  - {name: quic, port: 80, targetPort: 8080, protocol: UDP}\n  - {name: http2",
    );
    let gateway = one(find_in(&format!("{service}{NODE}{POD}{GATEWAY}")));
    let udp = gateway.listeners.iter().find(|l| l.name == "quic").unwrap();
    assert_eq!(keys(udp), ["10.244.0.5:8080/udp", "203.0.113.10:80/udp"]);
    let tcp = gateway.listeners.iter().find(|l| l.name == "http2").unwrap();
    assert_eq!(
        tcp.receivers[0].chains[0].kind,
        ChainKind::Http,
        "UDP must not blur what is known of TCP"
    );
    assert!(tcp.tuples.iter().all(|t| t.key.protocol == Protocol::Tcp));
}

#[test]
fn nodes_then_each_judges_for_its_own_pods() {
    let manifests = format!(
        "{SERVICE}{NODE}{POD}{}{GATEWAY}",
        second("istio: ingressgateway, v: two}")
    );
    let here = one(find_with(&manifests, &node("node-a"), &files()));
    assert_eq!(
        all_keys(&here),
        set(&[
            "10.244.0.5:8080/tcp",
            "172.18.0.2:30080/tcp",
            "203.0.113.10:80/tcp"
        ])
    );
    assert_eq!(here.listeners[0].receivers.len(), 1);
    let elsewhere = one(find_with(&manifests, &node("node-c"), &files()));
    assert_eq!(elsewhere.listeners, []);
    assert_eq!(remarks(&elsewhere), ["no-local-endpoint"]);
    // Without a name it is a node that runs both: what leads to either must be refused by both.
    let both = one(find_in(&manifests));
    let front = both.listeners.iter().find(|l| l.name == "http2").unwrap();
    assert_eq!(keys(front), ["172.18.0.2:30080/tcp", "203.0.113.10:80/tcp"]);
    assert_eq!(front.receivers.len(), 2);
    let own: Vec<_> = both.listeners.iter().filter(|l| l.name != "http2").collect();
    assert_eq!(
        own.iter().map(|l| keys(l).join(",")).collect::<Vec<_>>(),
        ["10.244.0.5:8080/tcp", "10.244.1.5:8080/tcp"]
    );
    assert!(own.iter().all(|l| l.receivers.len() == 1));
}

#[test]
fn pods_that_policies_cannot_tell_apart_then_one_listener() {
    let manifests = format!(
        "{SERVICE}{NODE}{POD}{}{GATEWAY}",
        second("istio: ingressgateway}")
    );
    let gateway = one(find_in(&manifests));
    let [listener] = &gateway.listeners[..] else {
        panic!("{:#?}", gateway.listeners)
    };
    assert_eq!(listener.receivers.len(), 1);
    assert_eq!(listener.receivers[0].addresses.as_ref().map(Vec::len), Some(2));
}

#[test]
fn readiness_then_who_receives() {
    let slice = |conditions: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, namespace: istio-system, \
             labels: {{kubernetes.io/service-name: istio-ingressgateway}}}}\naddressType: IPv4\nendpoints: \
             [{{addresses: [10.244.0.5], nodeName: node-a, targetRef: {{kind: Pod, name: gw-0}}, conditions: \
             {conditions}}}]\nports: [{{name: http2, port: 8080, protocol: TCP}}]\n---\n"
        )
    };
    let ready = |status: &str| {
        with(
            POD,
            "phase: Running",
            &format!("phase: Running, conditions: [{{type: Ready, status: \"{status}\"}}]"),
        )
    };
    let cases = [
        ("no sign: it runs", POD.to_owned(), true),
        ("pending", with(POD, "Running", "Pending"), false),
        ("condition true", ready("True"), true),
        ("condition false", ready("False"), false),
        (
            "slice says ready, condition not",
            format!("{}{}", ready("False"), slice("{ready: true}")),
            true,
        ),
        (
            "slice says no",
            format!("{}{}", ready("True"), slice("{ready: false}")),
            false,
        ),
        (
            "serving while it terminates",
            format!(
                "{POD}{}",
                slice("{ready: false, serving: true, terminating: true}")
            ),
            true,
        ),
        (
            "terminating",
            format!(
                "{POD}{}",
                slice("{ready: false, serving: false, terminating: true}")
            ),
            false,
        ),
        ("slice without conditions", format!("{POD}{}", slice("{}")), true),
    ];
    for (name, pod, receives) in cases {
        let gateway = one(find_in(&format!("{SERVICE}{NODE}{pod}{GATEWAY}")));
        assert_eq!(
            all_keys(&gateway).contains("203.0.113.10:80/tcp"),
            receives,
            "{name}"
        );
        assert_eq!(
            remarks(&gateway).contains(&"no-local-endpoint"),
            !receives,
            "{name}"
        );
        // What is sent to the pod itself meets it either way.
        assert!(all_keys(&gateway).contains("10.244.0.5:8080/tcp"), "{name}");
    }
    let finished = with(POD, "Running", "Succeeded");
    assert!(!all_keys(&one(find_in(&format!("{SERVICE}{NODE}{finished}")))).contains("10.244.0.5:8080/tcp"));
}

#[test]
fn a_pod_that_is_not_ready_any_more_then_its_old_connections_count() {
    let old = with(
        &second("istio: ingressgateway, v: two}"),
        "phase: Running",
        "phase: Running, conditions: [{type: Ready, status: \"False\"}]",
    );
    let gateway = one(find_in(&format!("{SERVICE}{NODE}{POD}{old}{GATEWAY}")));
    let front = gateway.listeners.iter().find(|l| l.name == "http2").unwrap();
    assert!(keys(front).contains(&"203.0.113.10:80/tcp".to_owned()));
    assert_eq!(front.receivers.len(), 2);
}

#[test]
fn endpoint_whose_pod_is_not_known_then_it_receives_with_uncertain_labels() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: istio-system, \
                 labels: {kubernetes.io/service-name: istio-ingressgateway}}\naddressType: IPv4\nendpoints: \
                 [{addresses: [10.244.0.7], nodeName: node-a, targetRef: {kind: Pod, name: gw-7}}]\nports: [{name: \
                 http2, port: 8081}]\n---\n";
    let gateway = one(find_in(&format!("{SERVICE}{NODE}{slice}{GATEWAY}")));
    assert!(!gateway.workloads[0].labels_complete);
    assert_eq!(gateway.listeners[0].receivers[0].port, 8081);
    assert!(all_keys(&gateway).contains("10.244.0.7:8081/tcp"));
}

#[test]
fn named_target_port_then_each_pod_resolves_it() {
    let service = with(SERVICE, "targetPort: 8080", "targetPort: web");
    let pod = |pod: &str, port: u16| {
        with(
            pod,
            "args: [proxy, router]",
            &format!("ports: [{{name: web, containerPort: {port}}}]"),
        )
    };
    let two = pod(&second("istio: ingressgateway}"), 9090);
    let gateway = one(find_in(&format!(
        "{service}{NODE}{}{two}{GATEWAY}",
        pod(POD, 8080)
    )));
    let keys = all_keys(&gateway);
    assert!(
        keys.contains("10.244.0.5:8080/tcp") && keys.contains("10.244.1.5:9090/tcp"),
        "{keys:?}"
    );
    let front = gateway.listeners.iter().find(|l| l.name == "http2").unwrap();
    assert_eq!(
        front.receivers.iter().map(|r| r.port).collect::<Vec<_>>(),
        [8080, 9090]
    );
    // Without pods the number is not known: nothing is judged, and it is said.
    let gateway = one(find_in(&format!("{service}{NODE}{GATEWAY}")));
    assert_eq!(
        (all_keys(&gateway), remarks(&gateway)),
        (set(&[]), vec!["named-target-port"])
    );
    // A ready pod that has no port of that name receives nothing there: that is said, and not that no pod is ready.
    let nameless = with(
        POD,
        "args: [proxy, router]",
        "ports: [{name: other, containerPort: 8080}]",
    );
    let gateway = one(find_in(&format!("{service}{NODE}{nameless}{GATEWAY}")));
    assert_eq!(
        (all_keys(&gateway), remarks(&gateway)),
        (set(&[]), vec!["named-target-port"])
    );
    let text = &gateway.remarks[0].text;
    assert!(
        text.contains("the port named web") && text.contains("no container of Pod "),
        "{text}"
    );
}

#[test]
fn host_ports_then_judged_whatever_the_traffic_policy() {
    let cluster = with(
        SERVICE,
        "externalTrafficPolicy: Local",
        "externalTrafficPolicy: Cluster",
    );
    let pod = with(
        POD,
        "args: [proxy, router]",
        "ports: [{containerPort: 8080, hostPort: 8000}]",
    );
    let gateway = one(find_in(&format!("{cluster}{NODE}{pod}{GATEWAY}")));
    assert_eq!(
        all_keys(&gateway),
        set(&["10.244.0.5:8080/tcp", "172.18.0.2:8000/tcp"])
    );
    let bound = with(&pod, "hostPort: 8000", "hostPort: 8000, hostIP: 192.0.2.9");
    assert!(
        all_keys(&one(find_in(&format!("{cluster}{NODE}{bound}{GATEWAY}")))).contains("192.0.2.9:8000/tcp")
    );
    let host = with(
        &with(POD, "spec:\n", "spec:\n  hostNetwork: true\n"),
        "10.244.0.5",
        "172.18.0.2",
    );
    let gateway = one(find_in(&format!("{cluster}{NODE}{host}{GATEWAY}")));
    assert_eq!(all_keys(&gateway), set(&["172.18.0.2:8080/tcp"]));
}

#[test]
fn destination_that_also_belongs_to_another_service_then_not_judged() {
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: app, namespace: web}\nspec: {externalIPs: \
                 [172.18.0.2], selector: {app: web}, ports: [{port: 8080}]}\n---\n";
    let host = with(
        &with(POD, "spec:\n", "spec:\n  hostNetwork: true\n"),
        "10.244.0.5",
        "172.18.0.2",
    );
    let gateway = one(find_in(&format!("{SERVICE}{NODE}{host}{GATEWAY}{other}")));
    assert!(!all_keys(&gateway).contains("172.18.0.2:8080/tcp"));
    assert_eq!(remarks(&gateway), ["tuple-of-another-service"]);
}

#[test]
fn two_service_ports_to_one_listener_then_each_destination_once() {
    let service = with(
        SERVICE,
        "  - {name: http2",
        "  - {name: alt, port: 8080, targetPort: 8080}\n  - {name: http2",
    );
    let gateway = one(find_in(&format!("{service}{NODE}{POD}{GATEWAY}")));
    let keys: Vec<_> = gateway.listeners.iter().flat_map(keys).collect();
    assert_eq!(keys.len(), all_keys(&gateway).len(), "{keys:?}");
    assert!(keys.contains(&"203.0.113.10:8080/tcp".to_owned()));
}

#[test]
fn no_address_known_then_a_remark() {
    let bare = with(
        SERVICE,
        "status:\n  loadBalancer:\n    ingress: [{ip: 203.0.113.10}]\n",
        "",
    );
    assert_eq!(remarks(&one(find_in(&bare))), ["no-tuples"]);
}

#[test]
fn never_dropped_sources_then_nodes_pods_probes_and_what_users_name() {
    let service = annotated("gwfilter.io/never-drop: \"192.0.2.0/25,192.0.2.128/25\"");
    let google = with(NODE, "spec: {", "spec: {providerID: gce://p/z/n, ");
    let settings = Settings {
        never_drop: vec!["198.51.100.0/24".parse().unwrap()],
        from_files: true,
    };
    let gateway = one(find_with(
        &format!("{service}{google}"),
        &NodeFacts::default(),
        &settings,
    ));
    let never: Vec<_> = gateway.never_drop.iter().map(ToString::to_string).collect();
    for net in [
        "172.18.0.2/32",
        "10.244.0.0/24",
        "192.0.2.0/24",
        "198.51.100.0/24",
        "35.191.0.0/16",
    ] {
        assert!(never.contains(&net.to_owned()), "{net} in {never:?}");
    }
    assert!(never.contains(&"2600:1901:8001::/48".to_owned()));
}

#[test]
fn probe_sources_then_known_only_by_one_of_the_five_ways() {
    let run = |manifests: &str, settings: &Settings| {
        let manifests = format!("{manifests}{POD}{GATEWAY}");
        one(find_with(&manifests, &NodeFacts::default(), settings)).probe_sources_known
    };
    let google = with(NODE, "spec: {", "spec: {providerID: gce://p/z/n, ");
    let amazon = with(NODE, "spec: {", "spec: {providerID: aws:///z/n, ");
    assert!(!run(&format!("{SERVICE}{NODE}"), &cluster()));
    assert!(!run(&format!("{SERVICE}{amazon}"), &cluster()));
    assert!(!run(
        &format!("{SERVICE}{google}{}", with(&amazon, "node-a", "node-b")),
        &cluster()
    ));
    assert!(!run(
        &format!("{}{NODE}", annotated("gwfilter.io/client-address: auto")),
        &cluster()
    ));
    assert!(run(&format!("{SERVICE}{NODE}"), &files()));
    assert!(run(&format!("{SERVICE}{google}"), &cluster()));
    assert!(run(
        &format!("{}{NODE}", annotated("gwfilter.io/never-drop: \"\"")),
        &cluster()
    ));
    assert!(run(
        &format!("{}{NODE}", annotated("gwfilter.io/client-address: packet-source")),
        &cluster()
    ));
    let named = Settings {
        never_drop: vec!["198.51.100.0/24".parse().unwrap()],
        from_files: false,
    };
    assert!(run(&format!("{SERVICE}{NODE}"), &named));
}

#[test]
fn shipped_example_then_enforced_without_a_finding() {
    let found = find_in(include_str!("../../../../deploy/examples/ingress.yaml"));
    assert_eq!(found.diagnostics, []);
    let gateway = one(found);
    assert_eq!(
        (gateway.client_address, why(&gateway)),
        (ClientAddress::PacketSource, None)
    );
    assert_eq!(gateway.remarks, []);
    assert!(all_keys(&gateway).contains("203.0.113.10:443/tcp"));
    assert!(gateway.workloads[0].labels_complete);
}
