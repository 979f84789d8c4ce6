use serde_json::json;

use super::*;
use crate::explain::{Explainer, Query};
use crate::gateway::model::{
    Chain, ChainKind, ChainTls, ClientAddress, Protocol, Receiver, Tri, Tuple, Why, Workload,
};
use crate::object::authorization_policy::AuthorizationPolicy;
use crate::object::drain::Drain;
use crate::object::meta::Meta;

const VIP: &str = "192.0.2.1";

fn key(port: u16) -> TupleKey {
    TupleKey {
        addr: VIP.parse().expect("an address"),
        port,
        protocol: Protocol::Tcp,
    }
}

pub(super) fn gateway(name: &str, ports: &[u16]) -> Gateway {
    let tuples = ports
        .iter()
        .map(|p| Tuple {
            key: key(*p),
            origin: "load-balancer",
            node_address: false,
            peer_known: true,
        })
        .collect();
    let receiver = Receiver {
        workload: 0,
        port: 8080,
        addresses: None,
        chains: vec![Chain {
            kind: ChainKind::Http,
            tls: ChainTls::Plain,
        }],
    };
    Gateway {
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        client_address: ClientAddress::PacketSource,
        workloads: vec![Workload {
            namespace: "ns".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            labels_complete: true,
            revision: Some(String::new()),
        }],
        listeners: vec![Listener {
            name: "http".to_owned(),
            tuples,
            receivers: vec![receiver],
        }],
        rewritten: Vec::new(),
        never_drop: Vec::new(),
        trusted_proxies: None,
        probe_sources_known: true,
        not_enforced: None,
        observe: None,
        drain: Drain::Unstated,
        remarks: Vec::new(),
    }
}

/// A policy that denies 10.0.0.0/8 in `ns`, at pods with `app: NAME` or at all.
fn deny(app: Option<&str>) -> AuthorizationPolicy {
    let mut spec = json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]});
    if let Some(app) = app {
        spec["selector"] = json!({"matchLabels": {"app": app}});
    }
    let meta = Meta {
        name: "deny".to_owned(),
        namespace: "ns".to_owned(),
        ..Meta::default()
    };
    AuthorizationPolicy {
        meta,
        spec: spec.into(),
    }
}

fn built(gateways: Vec<Gateway>, policy: AuthorizationPolicy) -> Built {
    let mesh = Mesh {
        root_namespace: Some("istio-system".to_owned()),
        discovery_selectors: false,
        istiod_revision: Some(String::new()),
        selector_based_gateway_policy: Tri::False,
        request_authentication: Tri::False,
        unread: false,
    };
    let (policies, diagnostics) = policy::decode(&[policy]);
    let complete = vec![true; gateways.len()];
    assemble(
        &mut Memo::default(),
        Found {
            mesh,
            gateways,
            diagnostics,
        },
        policies,
        complete,
        &Settings::default(),
        &BTreeSet::new(),
    )
}

fn ask(built: &Built, source: &str, port: u16) -> (&'static str, &'static str) {
    let explainer = Explainer::new(built.clone()).expect("a small generation fits");
    let dest = format!("{VIP}:{port}").parse().expect("a destination");
    let query =
        Query::new(source.parse().expect("an address"), dest, Protocol::Tcp, None).expect("one family");
    let answer = explainer.answer(&query).expect("tables and evaluator agree");
    (answer.verdict, answer.reason)
}

fn codes(built: &Built) -> Vec<&'static str> {
    built
        .diagnostics
        .iter()
        .map(|d| d.code)
        .filter(|c| *c == "tuple-conflict")
        .collect()
}

#[test]
fn two_gateways_that_judge_alike_then_one_tuple_with_both_never_drop_sets() {
    let (mut a, mut b) = (gateway("a", &[80]), gateway("b", &[80]));
    a.never_drop = vec!["10.0.0.1/32".parse().unwrap()];
    b.never_drop = vec!["10.0.0.2/32".parse().unwrap()];
    let built = built(vec![a, b], deny(None));
    assert_eq!(built.owners[&key(80)].len(), 2);
    for (source, expected) in [
        ("10.0.0.1", ("pass", "never-drop-source")),
        ("10.0.0.2", ("pass", "never-drop-source")),
        ("10.0.0.3", ("drop", "denied-by-rule")),
        ("11.0.0.0", ("pass", "allowed")),
    ] {
        assert_eq!(ask(&built, source, 80), expected, "{source}");
    }
    assert!(codes(&built).is_empty());
}

#[test]
fn two_gateways_that_judge_differently_then_the_shared_tuple_is_not_judged_and_said_so() {
    let built = built(
        vec![gateway("a", &[80, 81]), gateway("b", &[80])],
        deny(Some("a")),
    );
    assert_eq!(ask(&built, "10.0.0.1", 80), ("pass", "left-to-gateway"));
    assert_eq!(ask(&built, "10.0.0.1", 81), ("drop", "denied-by-rule"));
    assert_eq!(codes(&built), ["tuple-conflict"]);
    assert!(built.reports[0].enforced && !built.reports[1].enforced);
    for report in &built.reports {
        let told = report.why.iter().any(|w| w.starts_with("tuple-conflict: "));
        assert!(told, "{report:?}");
    }
}

#[test]
fn a_tuple_of_an_unenforced_gateway_too_then_it_is_not_judged() {
    let mut b = gateway("b", &[80]);
    b.not_enforced = Some(Why {
        code: "client-address",
        text: "a proxy is in front".to_owned(),
    });
    let built = built(vec![gateway("a", &[80]), b], deny(None));
    assert_eq!(ask(&built, "10.0.0.1", 80), ("pass", "left-to-gateway"));
    assert_eq!(codes(&built), ["tuple-conflict"]);
}

#[test]
fn a_tuple_that_is_rewritten_elsewhere_then_it_is_not_judged() {
    let mut b = gateway("b", &[]);
    b.rewritten = vec![key(80), key(90)];
    let built = built(vec![gateway("a", &[80]), b], deny(None));
    assert_eq!(ask(&built, "10.0.0.1", 80), ("pass", "left-to-gateway"));
    assert_eq!(ask(&built, "10.0.0.1", 90), ("pass", "left-to-gateway"));
    assert_eq!(built.desired.rewritten, [key(80), key(90)]);
    assert_eq!(codes(&built), ["tuple-conflict"]);
}

#[test]
fn an_observed_gateway_then_nothing_is_dropped_and_the_rule_is_named() {
    let mut a = gateway("a", &[80]);
    a.observe = Some(Why {
        code: "observe",
        text: "as annotated".to_owned(),
    });
    let built = built(vec![a], deny(None));
    assert_eq!(ask(&built, "10.0.0.1", 80), ("pass", "observed"));
}

#[test]
fn a_listener_without_receivers_then_it_is_not_judged() {
    let mut a = gateway("a", &[80]);
    a.listeners[0].receivers.clear();
    let built = built(vec![a], deny(None));
    assert_eq!(ask(&built, "10.0.0.1", 80), ("pass", "left-to-gateway"));
    assert!(!built.reports[0].enforced);
}

#[test]
fn explain_given_tables_that_say_otherwise_than_the_rules_then_an_error_and_no_answer() {
    let mut built = built(vec![gateway("a", &[80])], deny(None));
    // What a defect of the compiler would look like: one prefix too wide.
    let target = built.desired.tuples.get_mut(&key(80)).unwrap();
    let Judge::Source(tables) = &mut target.judge else {
        panic!("judged by source")
    };
    let written = tables.table4.as_ref().unwrap().iter();
    let wider = |net: Ipv4Net| {
        if net == "10.0.0.0/8".parse().unwrap() {
            "10.0.0.0/7".parse().unwrap()
        } else {
            net
        }
    };
    let table = written
        .map(|(net, outcome)| (wider(net), outcome.clone()))
        .collect();
    tables.table4 = Some(Arc::new(table));
    let explainer = Explainer::new(built).unwrap();
    let dest = format!("{VIP}:80").parse().unwrap();
    let query = Query::new("11.0.0.0".parse().unwrap(), dest, Protocol::Tcp, None).unwrap();
    assert!(
        explainer
            .answer(&query)
            .unwrap_err()
            .to_string()
            .contains("internal error")
    );
    assert!(
        explainer.verify_boundaries().is_err(),
        "check looks at the edges of every written prefix"
    );
}

#[test]
fn an_unenforced_gateway_alone_then_its_destinations_are_known_but_not_judged() {
    let mut a = gateway("a", &[80]);
    a.not_enforced = Some(Why {
        code: "client-address",
        text: "a proxy is in front".to_owned(),
    });
    let built = built(vec![a], deny(None));
    assert!(built.desired.tuples.is_empty());
    assert_eq!(ask(&built, "10.0.0.1", 80), ("pass", "left-to-gateway"));
    assert!(codes(&built).is_empty(), "the gateway's own reason is enough");
}

/// A gateway of its own namespace with so many destinations, spread over so many listeners.
fn many(namespace: &str, name: &str, listeners: u16, destinations: u16) -> Gateway {
    let mut many = gateway(name, &[1]);
    namespace.clone_into(&mut many.namespace);
    many.workloads[0].namespace = "ns".to_owned();
    let [block, own] = [namespace, name].map(|text| text.bytes().fold(0_u8, u8::wrapping_add));
    let one = many.listeners.remove(0);
    for listener in 0..listeners {
        let key = |n: u16| TupleKey {
            addr: IpAddr::from([10, block, own, u8::try_from(n / 250).unwrap()]),
            port: 1000 + listener * 2 + n % 250 * 200,
            protocol: Protocol::Tcp,
        };
        let tuple = |n: u16| Tuple {
            key: key(n),
            ..one.tuples[0].clone()
        };
        many.listeners.push(Listener {
            name: format!("port-{listener}"),
            tuples: (0..destinations / listeners).map(tuple).collect(),
            ..one.clone()
        });
    }
    many
}

#[test]
fn gateways_that_ask_for_more_than_tables_hold_then_the_greediest_are_left_out_and_the_rest_is_enforced() {
    let left_out = |gateways: Vec<Gateway>| {
        let built = built(gateways, deny(None));
        let planner = crate::plan::Planner::new(crate::plan::Settings {
            drain_ms: 0,
            rewritten_drain_ms: 0,
        });
        planner.plan(&built.desired, 1).expect("what is left fits");
        let out: Vec<String> = built
            .gateways
            .iter()
            .filter(|g| g.not_enforced.is_some())
            .map(Gateway::id)
            .collect();
        let told: Vec<&Diagnostic> = built.diagnostics.iter().filter(|d| d.code == "no-room").collect();
        assert_eq!(told.len(), out.len());
        for (gateway, report) in built.gateways.iter().zip(&built.reports) {
            let said = report
                .why
                .iter()
                .any(|why| why.starts_with("no-room: ") && why.contains("hold"));
            assert_eq!(
                (said, report.enforced),
                (out.contains(&gateway.id()), !out.contains(&gateway.id()))
            );
        }
        let judged = built.desired.tuples.len();
        (out.join(" "), judged)
    };
    // The node's table holds 4,096 destinations.
    let real = || gateway("real", &[80, 443]);
    assert_eq!(
        left_out(vec![real(), many("ns", "all", 1, 4094)]),
        (String::new(), 4096)
    );
    assert_eq!(
        left_out(vec![many("ns", "all", 1, 4095), real()]),
        ("ns/all".to_owned(), 2)
    );
    assert_eq!(
        left_out(vec![many("a", "x", 1, 1000), many("ns", "y", 1, 3100), real()]),
        ("ns/y".to_owned(), 1002),
        "the largest"
    );
    let crowd = (0..5).map(|n| many("evil", &format!("{n}"), 1, 900));
    assert_eq!(
        left_out(
            [real(), many("ns", "large", 1, 1200)]
                .into_iter()
                .chain(crowd)
                .collect()
        ),
        ("evil/3 evil/4".to_owned(), 2 + 1200 + 2700),
        "of a crowd, not the one that is larger than each of them"
    );
    // It has 511 blocks of counters.
    assert_eq!(
        left_out(vec![many("a", "x", 510, 510), real()]),
        (String::new(), 512)
    );
    assert_eq!(
        left_out(vec![many("a", "x", 300, 300), many("b", "y", 211, 211), real()]),
        ("a/x".to_owned(), 213)
    );
}
