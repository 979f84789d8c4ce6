//! What single rules do: tables small enough to be read, reports, sharing, and the time of large lists.

use std::sync::Arc;
use std::time::Instant;

use gwfilter::desired::Verdict;
use gwfilter::gateway::model::{Chain, ChainKind, ChainTls, ClientAddress, Receiver, Tri};
use gwfilter::object::authorization_policy::AuthorizationPolicy;
use gwfilter::policy::{Compiled, compile, decode};
use gwfilter::report::EnforcedAt;
use serde_json::{Value, json};

use crate::world::{World, gateway, mesh, policy, receiver};

fn http() -> Receiver {
    receiver(ChainKind::Http, ChainTls::Plain)
}

fn tcp() -> Receiver {
    receiver(ChainKind::Tcp, ChainTls::Plain)
}

fn world(policies: Vec<AuthorizationPolicy>, listeners: Vec<Vec<Receiver>>) -> World {
    World {
        mesh: mesh(),
        policies,
        gateway: gateway(listeners),
        complete: true,
    }
}

fn p(name: &str, spec: Value) -> AuthorizationPolicy {
    policy("istio-system", name, spec)
}

/// The IPv4 table of the first listener as `prefix id`.
fn table4(compiled: &Compiled) -> Vec<String> {
    let first = compiled.listeners.first().and_then(|l| l.table4.as_ref());
    first
        .iter()
        .flat_map(|t| t.iter())
        .map(|(net, o)| format!("{net} {}", o.rule.as_deref().unwrap_or("-")))
        .collect()
}

/// Where the rules of the first gateway's policies are enforced, in order.
fn enforced(compiled: &Compiled) -> Vec<EnforcedAt> {
    compiled
        .report
        .policies
        .iter()
        .flat_map(|p| &p.rules)
        .map(|r| r.enforced_at)
        .collect()
}

#[test]
fn the_walk_through_drops_everyone_but_the_listed() {
    let allow = p(
        "ingress-policy",
        json!({"selector": {"matchLabels": {"app": "gw"}}, "action": "ALLOW",
               "rules": [{"from": [{"source": {"ipBlocks": ["0.0.0.0/1", "192.0.0.0/2", "128.0.0.0/3"]}}]}]}),
    );
    let compiled = world(vec![allow], vec![vec![http()]]).compile();
    assert_eq!(
        table4(&compiled),
        ["160.0.0.0/3 ns[istio-system]-policy[ingress-policy]"]
    );
    let table6 = compiled.listeners[0].table6.as_ref().unwrap();
    assert_eq!(
        table6.keys().map(|net| net.to_string()).collect::<Vec<_>>(),
        ["::/0"]
    );
    assert_eq!(
        (compiled.report.prefixes.written, compiled.report.prefixes.table),
        (3, 2)
    );
    assert_eq!(enforced(&compiled), [EnforcedAt::Node]);
}

#[test]
fn the_rule_that_envoy_would_name_is_named() {
    let deny = |name, ranges: Value| {
        p(
            name,
            json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ranges}}]}]}),
        )
    };
    let compiled = world(
        vec![
            deny("b", json!(["10.0.0.0/8"])),
            deny("a", json!(["10.0.0.0/9"])),
            p(
                "c",
                json!({"rules": [{"from": [{"source": {"ipBlocks": ["0.0.0.0/1"]}}]}]}),
            ),
        ],
        vec![vec![http()]],
    )
    .compile();
    assert_eq!(
        table4(&compiled),
        [
            "10.0.0.0/9 ns[istio-system]-policy[a]-rule[0]",
            "10.128.0.0/9 ns[istio-system]-policy[b]-rule[0]",
            "128.0.0.0/1 ns[istio-system]-policy[c]",
        ]
    );
    // Ids compare as text, as in Envoy's map: rule[10] comes before rule[2].
    let rules: Vec<Value> = (0..11)
        .map(|_| json!({"from": [{"source": {"ipBlocks": ["9.9.9.9"]}}]}))
        .collect();
    let mut rules = rules;
    rules[0] = json!({"from": [{"source": {"ipBlocks": ["1.1.1.1"]}}]});
    rules[1] = rules[0].clone();
    let compiled = world(
        vec![p("a", json!({"action": "DENY", "rules": rules}))],
        vec![vec![http()]],
    )
    .compile();
    assert_eq!(
        table4(&compiled)[1],
        "9.9.9.9/32 ns[istio-system]-policy[a]-rule[10]"
    );
}

#[test]
fn without_a_policy_there_is_no_table() {
    let elsewhere = policy("other", "a", json!({"action": "DENY", "rules": [{}]}));
    let audit = p("b", json!({"action": "AUDIT", "rules": [{}]}));
    let mut dry = p("c", json!({"action": "DENY", "rules": [{}]}));
    dry.meta
        .annotations
        .insert("istio.io/dry-run".to_owned(), "true".to_owned());
    for policies in [vec![], vec![elsewhere], vec![audit], vec![dry]] {
        let compiled = world(policies, vec![vec![http()]]).compile();
        assert_eq!(
            (&compiled.listeners[0].table4, &compiled.listeners[0].table6),
            (&None, &None)
        );
    }
}

#[test]
fn a_drop_holds_for_every_pod_and_chain_behind_a_port() {
    let deny_paths = p(
        "a",
        json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}], "to": [{"operation": {"paths": ["/x"]}}]}]}),
    );
    let drops = |receivers: Vec<Receiver>| {
        !table4(&world(vec![deny_paths.clone()], vec![receivers]).compile()).is_empty()
    };
    assert!(drops(vec![tcp()]));
    assert!(!drops(vec![http()]));
    assert!(!drops(vec![tcp(), http()]));
    assert!(!drops(vec![receiver(ChainKind::Unknown, ChainTls::Unknown)]));
    assert!(!drops(vec![
        tcp(),
        receiver(ChainKind::NoRbac, ChainTls::Unknown)
    ]));
    assert!(!drops(vec![]));
    let mut both = tcp();
    both.chains.push(Chain {
        kind: ChainKind::Http,
        tls: ChainTls::Simple,
    });
    assert!(!drops(vec![both]));
    let mut nowhere = tcp();
    nowhere.workload = 7;
    assert!(!drops(vec![nowhere]));
}

#[test]
fn workloads_that_differ_behind_one_port_must_both_refuse() {
    let mut w = world(
        vec![p(
            "a",
            json!({"selector": {"matchLabels": {"tier": "x"}}, "action": "DENY", "rules": [{}]}),
        )],
        vec![vec![http()]],
    );
    w.gateway.workloads[0]
        .labels
        .insert("tier".to_owned(), "x".to_owned());
    assert_eq!(table4(&w.compile()).len(), 1);
    let mut other = w.gateway.workloads[0].clone();
    other.labels.insert("tier".to_owned(), "y".to_owned());
    w.gateway.workloads.push(other);
    w.gateway.listeners[0].receivers.push(Receiver {
        workload: 1,
        ..http()
    });
    assert_eq!(table4(&w.compile()).len(), 0);
}

#[test]
fn default_deny_waits_for_complete_input_and_known_probes() {
    let policies = vec![
        p(
            "allow",
            json!({"rules": [{"from": [{"source": {"ipBlocks": ["0.0.0.0/1"]}}]}]}),
        ),
        p(
            "deny",
            json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["1.0.0.0/8"]}}]}]}),
        ),
    ];
    let mut w = world(policies, vec![vec![http()]]);
    assert_eq!(enforced(&w.compile()), [EnforcedAt::Node, EnforcedAt::Node]);
    for spoil in [
        |w: &mut World| w.complete = false,
        |w: &mut World| w.gateway.probe_sources_known = false,
    ] {
        let mut spoilt = w.clone();
        spoil(&mut spoilt);
        let compiled = spoilt.compile();
        assert_eq!(
            table4(&compiled),
            ["1.0.0.0/8 ns[istio-system]-policy[deny]-rule[0]"]
        );
        assert_eq!(enforced(&compiled), [EnforcedAt::Gateway, EnforcedAt::Node]);
        assert_eq!(compiled.report.why.len(), 1, "{:?}", compiled.report.why);
    }
    w.gateway.probe_sources_known = false;
    assert!(w.compile().report.why[0].starts_with("probe-sources-unknown: "));
}

#[test]
fn input_that_cannot_be_read_then_only_the_peers_address_is_certain() {
    let deny = |field: &str| {
        let rule = json!({"action": "DENY", "rules": [{"from": [{"source": {field: ["1.0.0.0/8"]}}]}]});
        let mut w = world(vec![p("deny", rule)], vec![vec![http()]]);
        w.complete = false;
        w.mesh.unread = true;
        w.compile()
    };
    assert_eq!(enforced(&deny("ipBlocks")), [EnforcedAt::Node]);
    let client = deny("remoteIpBlocks");
    assert_eq!(table4(&client), [""; 0]);
    assert_eq!(enforced(&client), [EnforcedAt::Gateway]);
}

#[test]
fn no_tables_where_the_node_does_not_see_the_client_address() {
    for client in [ClientAddress::XForwardedFor, ClientAddress::Unknown] {
        let mut w = world(
            vec![p("a", json!({"action": "DENY", "rules": [{}]}))],
            vec![vec![http()]],
        );
        w.gateway.client_address = client;
        let compiled = w.compile();
        assert_eq!(compiled.listeners[0].table4, None);
        assert!(!compiled.report.enforced);
        assert_eq!(enforced(&compiled), [EnforcedAt::Gateway]);
        assert!(
            compiled.report.why[0].starts_with("client-address: "),
            "{:?}",
            compiled.report.why
        );
    }
}

#[test]
fn the_report_says_where_each_rule_is_enforced_and_why() {
    let ip = json!([{"source": {"ipBlocks": ["10.0.0.0/8"]}}]);
    let paths = json!([{"operation": {"paths": ["/admin"]}}]);
    let rule = |from: &Value, to: &Value| json!({"from": from, "to": to});
    let allow = |rules: Value| json!({"rules": rules});
    let deny = |rules: Value| json!({"action": "DENY", "rules": rules});
    let none = json!([]);
    let (node, both, at_gateway) = (EnforcedAt::Node, EnforcedAt::Both, EnforcedAt::Gateway);
    for (spec, receivers, expected, word) in [
        (
            allow(json!([rule(&ip, &none)])),
            vec![http()],
            vec![node],
            "dropped at the node",
        ),
        (
            allow(json!([rule(&ip, &paths)])),
            vec![http()],
            vec![both],
            "`paths` is in the HTTP request",
        ),
        (
            allow(json!([rule(&none, &paths)])),
            vec![http()],
            vec![at_gateway],
            "`paths`",
        ),
        (
            allow(json!([rule(&none, &paths)])),
            vec![tcp()],
            vec![node],
            "dropped",
        ),
        (
            allow(json!([rule(&none, &none)])),
            vec![http()],
            vec![node],
            "refuses nobody",
        ),
        (
            allow(json!([rule(&ip, &none), rule(&none, &paths)])),
            vec![http()],
            vec![at_gateway, at_gateway],
            "rule[1] may admit",
        ),
        (
            allow(json!([
                rule(&ip, &none),
                rule(&json!([{"source": {"ipBlocks": ["11.0.0.0/8"]}}]), &paths)
            ])),
            vec![http()],
            vec![node, both],
            "dropped",
        ),
        (allow(json!([])), vec![http()], vec![node], "no rules"),
        (
            allow(json!([{"from": [{"source": {"ipBlocks": ["10.0.0.*"]}}]}])),
            vec![http()],
            vec![at_gateway],
            "10.0.0.*",
        ),
        (
            deny(json!([rule(&ip, &none)])),
            vec![http()],
            vec![node],
            "client addresses and ports",
        ),
        (
            deny(json!([rule(&ip, &paths)])),
            vec![http()],
            vec![at_gateway],
            "`paths`",
        ),
        (
            deny(json!([rule(&ip, &paths)])),
            vec![tcp()],
            vec![node],
            "client addresses",
        ),
        (
            deny(json!([rule(&ip, &paths)])),
            vec![receiver(ChainKind::Unknown, ChainTls::Unknown)],
            vec![at_gateway],
            "HTTP or as TCP",
        ),
        (
            deny(
                json!([{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}, {"source": {"principals": ["*"]}}]}]),
            ),
            vec![receiver(ChainKind::Http, ChainTls::Unknown)],
            vec![both],
            "client certificate",
        ),
        (deny(json!([])), vec![http()], vec![node], "refuses nobody"),
        (
            deny(json!([{"when": [{"key": "source.zone", "values": ["a"]}]}])),
            vec![http()],
            vec![at_gateway],
            "source.zone",
        ),
        (
            json!({"action": "AUDIT", "rules": [{}]}),
            vec![http()],
            vec![at_gateway],
            "logs",
        ),
    ] {
        let compiled = world(vec![p("a", spec.clone())], vec![receivers]).compile();
        assert_eq!(
            enforced(&compiled),
            expected,
            "{spec}: {:#?}",
            compiled.report.policies
        );
        let why = compiled.report.policies[0].rules[0].whole_why();
        assert!(why.contains(word), "{spec}: {why}");
        let left = compiled
            .diagnostics
            .iter()
            .filter(|d| d.code == "left-to-gateway")
            .count();
        let counts = spec["action"] != "AUDIT";
        assert_eq!(
            left,
            if counts {
                expected.iter().filter(|e| **e != node).count()
            } else {
                0
            },
            "{spec}"
        );
    }
}

#[test]
fn equal_tables_are_one() {
    let deny = p(
        "a",
        json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]}),
    );
    // The same table from the same places, and from places that read the rules differently.
    let compiled = world(vec![deny], vec![vec![http()], vec![http()], vec![tcp(), http()]]).compile();
    let tables: Vec<_> = compiled
        .listeners
        .iter()
        .map(|l| l.table4.as_ref().unwrap())
        .collect();
    assert!(Arc::ptr_eq(tables[0], tables[1]) && Arc::ptr_eq(tables[0], tables[2]));
    assert_eq!(
        (compiled.report.prefixes.written, compiled.report.prefixes.table),
        (1, 1),
        "one rule, however many listeners it bears on"
    );
}

#[test]
fn faults_are_diagnosed_and_named() {
    for (spec, codes) in [
        (json!("x"), vec!["undecodable-policy"]),
        (json!({"rules": {}}), vec!["undecodable-policy"]),
        (json!({"rules": [null]}), vec!["undecodable-policy"]),
        (
            json!({"rules": [{"to": [{"operation": {"ports": [8080]}}]}]}),
            vec!["undecodable-policy"],
        ),
        (json!({"action": "FORBID"}), vec!["unknown-action"]),
        (json!({"rulez": []}), vec!["undecodable-policy"]),
        (
            json!({"rules": [{"from": [{"source": {"ipBlock": ["1.2.3.4"]}}]}]}),
            vec!["unknown-field"],
        ),
        (
            json!({"rules": [{"from": [{"source": {"ipBlocks": ["1.2.3.*", "x"]}}]}]}),
            vec!["bad-value", "bad-value"],
        ),
        (
            json!({"rules": [{"when": [{"key": "request.headers", "values": ["x"]}]}]}),
            vec!["bad-when-key"],
        ),
        (
            json!({"selector": {"matchExpressions": []}}),
            vec!["unknown-field"],
        ),
        (
            json!({"targetRefs": [{"kind": "Gateway", "sectionName": "x"}]}),
            vec!["unknown-field"],
        ),
        (
            json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]}),
            vec![],
        ),
        (Value::Null, vec![]),
    ] {
        let (_, diagnostics) = decode(&[p("a", spec.clone())]);
        assert_eq!(
            diagnostics.iter().map(|d| d.code).collect::<Vec<_>>(),
            codes,
            "{spec}"
        );
        assert!(
            diagnostics
                .iter()
                .all(|d| d.object.to_string() == "AuthorizationPolicy istio-system/a")
        );
    }
}

#[test]
fn a_hundred_thousand_prefixes_compile_in_a_moment() {
    // 100 policies, half of them ALLOW, with 10 rules of 100 prefixes each; overlapping, and five listeners.
    let mut bits = 1_u64;
    let mut prefix = || {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [a, b, c, d, len, ..] = bits.to_be_bytes();
        format!("{a}.{b}.{c}.{d}/{}", 16 + len % 17)
    };
    let policies: Vec<AuthorizationPolicy> = (0..100)
        .map(|at| {
            let rules: Vec<Value> = (0..10)
                .map(|_| json!({"from": [{"source": {"ipBlocks": (0..100).map(|_| prefix()).collect::<Vec<_>>()}}]}))
                .collect();
            p(&format!("p{at}"), json!({"action": if at % 2 == 0 { "ALLOW" } else { "DENY" }, "rules": rules}))
        })
        .collect();
    let gateway = gateway(vec![
        vec![http()],
        vec![tcp()],
        vec![http(), tcp()],
        vec![http()],
        vec![tcp()],
    ]);
    let started = Instant::now();
    let (decoded, _) = decode(&policies);
    let decoded_after = started.elapsed();
    let compiled = compile(&mesh(), &decoded, &gateway, true);
    let took = started.elapsed();
    println!(
        "decoded in {decoded_after:?}, compiled after {took:?}: {:?}",
        compiled.report.prefixes
    );
    assert!(compiled.report.prefixes.table > 10_000);
    // Far above what it takes, far below what anything quadratic would.
    assert!(took.as_secs() < 10, "{took:?}");
    let table = compiled.listeners[0].table4.as_ref().unwrap();
    assert!(table.values().all(|o| o.verdict == Verdict::Drop));
}

#[test]
fn request_principals_are_absent_where_no_request_authentication_can_be() {
    let allow = p(
        "a",
        json!({"rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]}),
    );
    let mut w = world(vec![allow], vec![vec![http()]]);
    assert_eq!(table4(&w.compile()).len(), 0);
    w.mesh.request_authentication = Tri::False;
    assert_eq!(table4(&w.compile()), ["0.0.0.0/0 ns[istio-system]-policy[a]"]);
}

#[test]
fn a_destination_address_counts_only_if_every_pod_agrees() {
    let deny = p(
        "a",
        json!({"action": "DENY", "rules": [{"when": [{"key": "destination.ip", "values": ["10.244.0.0/24"]}]}]}),
    );
    for (addresses, drops) in [
        (Some(vec!["10.244.0.1"]), true),
        (Some(vec!["10.244.0.1", "10.244.0.2", "2001:db8:a::1"]), true),
        (Some(vec!["10.244.0.1", "10.244.1.1"]), false),
        (Some(vec!["2001:db8:a::1"]), false),
        (Some(vec![]), false),
        (None, false),
    ] {
        let mut receiver = http();
        receiver.addresses = addresses
            .clone()
            .map(|all| all.iter().map(|a| a.parse().unwrap()).collect());
        let compiled = world(vec![deny.clone()], vec![vec![receiver]]).compile();
        assert_eq!(!table4(&compiled).is_empty(), drops, "{addresses:?}");
        assert_eq!(compiled.listeners[0].table6.as_ref().map(|t| t.len()), Some(0));
    }
}
