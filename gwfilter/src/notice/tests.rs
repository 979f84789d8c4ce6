use super::*;
use crate::index::Index;
use crate::node::NodeFacts;
use crate::pipeline;

const WORLD: &str = include_str!("../../tests/manifests/ingress.yaml");

fn built(manifest: &str, node: &str) -> Built {
    let mut index = Index::new();
    index.load("test", manifest.as_bytes()).expect("readable");
    let facts = NodeFacts {
        name: Some(node.to_owned()),
        local_addresses: None,
    };
    let mut settings = pipeline::Settings::default();
    settings.gateway.never_drop = vec!["192.0.2.1/32".parse().expect("a network")];
    pipeline::build(&index.snapshot(), &facts, &settings)
}

/// As `Kind name: Reason`, what is enforced with a dash.
fn said(manifest: &str, node: &str) -> Vec<String> {
    select(&built(manifest, node))
        .iter()
        .map(|(object, notice)| {
            let reason = notice.as_ref().map_or("-", |n| n.reason.as_str());
            format!("{} {}: {reason}", object.kind, object.name)
        })
        .collect()
}

const POLICY: &str = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: more, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [BLOCK]}}]}]}
";

#[test]
fn a_gateway_here_then_its_policies_and_service_are_spoken_of() {
    let base = [
        "AuthorizationPolicy blocklist: LeftToGateway",
        "AuthorizationPolicy ingress-policy: -",
        "Service istio-ingressgateway: -",
    ];
    assert_eq!(said(WORLD, "node-a"), base);
    let good = format!("{WORLD}{}", POLICY.replace("BLOCK", "192.0.2.0/24"));
    assert!(said(&good, "node-a").contains(&"AuthorizationPolicy more: -".to_owned()));
    let bad = format!("{WORLD}{}", POLICY.replace("BLOCK", "192.0.2.0/99"));
    let notices = select(&built(&bad, "node-a"));
    let more = ObjectRef::new("AuthorizationPolicy", "istio-system", "more");
    let notice = notices[&more].clone().expect("it is faulty");
    assert!(notice.message.contains("192.0.2.0/99"), "{notice:?}");
    let cluster = WORLD.replacen(
        "externalTrafficPolicy: Local",
        "externalTrafficPolicy: Cluster",
        1,
    );
    assert!(said(&cluster, "node-a").contains(&"Service istio-ingressgateway: EnforcedInPart".to_owned()));
    let proxied = WORLD.replacen(
        "metadata:\n  name: istio-ingressgateway\n",
        "metadata:\n  name: istio-ingressgateway\n  annotations: {gwfilter.io/client-address: x-forwarded-for}\n",
        1,
    );
    assert!(said(&proxied, "node-a").contains(&"Service istio-ingressgateway: NotEnforced".to_owned()));
}

#[test]
fn no_pod_of_the_gateway_here_then_other_nodes_speak() {
    let bad = format!("{WORLD}{}", POLICY.replace("BLOCK", "192.0.2.0/99"));
    assert_eq!(said(&bad, "node-b"), [""; 0]);
}

#[test]
fn a_policy_of_no_gateway_here_then_nothing_is_said_unless_it_cannot_be_read() {
    let elsewhere = POLICY
        .replace("BLOCK", "192.0.2.0/99")
        .replace("istio-system", "foo");
    // A known root namespace; else a policy of any namespace may be for the gateway.
    let mesh = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"\"}}";
    let elsewhere = format!("{mesh}{elsewhere}");
    let all = said(&format!("{WORLD}{elsewhere}"), "node-a");
    assert_eq!(all.iter().filter(|s| s.contains(" more")).count(), 0, "{all:?}");
    let unreadable = elsewhere.replace("name: more", "name: more, labels: {x: 1}");
    let all = said(&format!("{WORLD}{unreadable}"), "node-a");
    assert!(
        all.contains(&"AuthorizationPolicy more: UnreadableObject".to_owned()),
        "{all:?}"
    );
}

fn policy(name: &str) -> ObjectRef {
    ObjectRef::new("AuthorizationPolicy", "ns", name)
}

fn notice(message: &str) -> Notice {
    Notice {
        reason: "LeftToGateway".to_owned(),
        warning: false,
        message: message.to_owned(),
    }
}

#[test]
fn an_events_name_then_legal_and_of_what_is_said_alone() {
    let name = event_name(&policy("a"), &notice("m"));
    assert_eq!(name, event_name(&policy("a"), &notice("m")));
    for other in [
        event_name(&policy("b"), &notice("m")),
        event_name(&policy("a"), &notice("n")),
        event_name(&ObjectRef::new("Service", "ns", "a"), &notice("m")),
    ] {
        assert_ne!(name, other);
    }
    for object in ["a".repeat(253), format!("{}.b", "a".repeat(199)), String::new()] {
        let name = event_name(&policy(&object), &notice("m"));
        assert!(
            name.len() <= 253 && !name.contains("..") && !name.contains("-."),
            "{name}"
        );
    }
}

#[test]
fn a_long_message_then_cut_between_characters() {
    assert_eq!(cut("äöü", 3), "ä");
    assert_eq!(cut("äöü", 0), "");
    assert_eq!(cut("abc", 9), "abc");
    assert_eq!(camel("unreadable-object"), "UnreadableObject");
}

#[test]
fn what_holds_then_said_once_and_its_end_too() {
    let mut speaker = Speaker::new(0);
    let state = |notice: Option<Notice>| Notices::from([(policy("a"), notice)]);
    let (left, well) = (state(Some(notice("m"))), state(None));
    assert_eq!(
        speaker.speak(&well, 0),
        (vec![], 0),
        "that all is well is no news"
    );
    assert_eq!(speaker.speak(&left, 0).0, [(policy("a"), notice("m"))]);
    assert_eq!(speaker.speak(&left, 0), (vec![], 0));
    let other = state(Some(notice("n")));
    assert_eq!(speaker.speak(&other, 0).0, [(policy("a"), notice("n"))]);
    assert_eq!(speaker.speak(&well, 0).0, [(policy("a"), all_well())]);
    assert_eq!(speaker.speak(&well, 0), (vec![], 0));
    speaker.speak(&left, 0);
    assert_eq!(
        speaker.speak(&Notices::new(), 0),
        (vec![], 0),
        "the gateway's pod is elsewhere now"
    );
}

#[test]
fn more_to_say_than_may_be_said_then_the_rest_comes_later() {
    let all: Notices = (0..25)
        .map(|i| (policy(&format!("p{i:02}")), Some(notice("m"))))
        .collect();
    let mut speaker = Speaker::new(1_000);
    let (first, kept) = speaker.speak(&all, 1_000);
    assert_eq!((first.len(), kept), (20, 5));
    assert_eq!(speaker.speak(&all, 10_999).0.len(), 0);
    let (next, kept) = speaker.speak(&all, 31_000);
    assert_eq!((next.len(), kept), (3, 2));
    assert!(next.iter().all(|said| !first.contains(said)));
    assert_eq!(speaker.speak(&all, 500_000).0.len(), 2);
    assert_eq!(speaker.speak(&all, 0), (vec![], 0), "a clock that jumps back");
}
