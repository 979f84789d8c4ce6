//! Patients of every kind, made by hand, and what is said of them.

mod told;
mod wire;

use std::net::IpAddr;

use gwfilter_common::abi::{PROBE_DATA, PROBE_SYN, ProbeHead, SynKey};

use super::*;
use crate::gateway::model::ClientAddress;
use crate::gateway::setup::By;

/// A gateway whose Envoy takes the packet's source.
pub(super) fn setup() -> Setup {
    Setup {
        namespace: "istio-system".to_owned(),
        name: "istio-ingressgateway".to_owned(),
        service: true,
        local_policy: true,
        reads_header: Tri::False,
        trusted_proxies: Some(0),
        signs: Vec::new(),
        by: BTreeSet::new(),
        filter_shared_with: Vec::new(),
        doubts: Vec::new(),
        stated: None,
        owner: Some(("deployment".to_owned(), "istio-ingressgateway".to_owned())),
        proxy_config: None,
        balancer: None,
        provider: None,
    }
}

fn patient(edit: impl FnOnce(&mut Setup)) -> Patient {
    let mut setup = setup();
    edit(&mut setup);
    let by_header = setup.reads_header == Tri::True || setup.trusted_proxies.is_some_and(|n| n > 0);
    Patient {
        policies: vec![PolicyUse {
            name: "istio-system/ingress-policy".to_owned(),
            action: "ALLOW".to_owned(),
            fields: BTreeSet::from([if by_header { "remoteIpBlocks" } else { "ipBlocks" }.to_owned()]),
        }],
        node: NodeSide {
            client_address: match (setup.trusted_proxies, setup.reads_header) {
                (Some(1..), _) => ClientAddress::XForwardedFor,
                (_, Tri::True) => ClientAddress::ProxyHeader,
                _ => ClientAddress::PacketSource,
            }
            .name()
            .into(),
            external_traffic_policy: Some(if setup.local_policy { "Local" } else { "Cluster" }.into()),
            judged: (!by_header)
                .then(|| "203.0.113.80:80/tcp".to_owned())
                .into_iter()
                .collect(),
            rewritten: if setup.local_policy {
                Vec::new()
            } else {
                vec!["203.0.113.80:80/tcp".to_owned(), "10.0.0.10:30080/tcp".to_owned()]
            },
        },
        destinations: Vec::new(),
        setup,
    }
}

fn own() -> OwnAddresses {
    OwnAddresses {
        nodes: [("10.0.0.5", "node-1"), ("10.0.0.6", "node-2")]
            .map(|(address, name)| (address.parse().unwrap(), name.to_owned()))
            .into(),
        pods: vec!["10.244.0.0/16".parse().unwrap()],
    }
}

fn head(source: &str, kind: u32) -> ProbeHead {
    let source: IpAddr = source.parse().unwrap();
    let (bytes, family) = match source {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, 4)
        }
        IpAddr::V6(v6) => (v6.octets(), 6),
    };
    ProbeHead {
        flow: SynKey {
            source: bytes,
            destination: [0; 16],
            source_port: 40_000,
            destination_port: 80,
            family,
        },
        gateway: 0,
        kind,
        told: 0,
        payload: 0,
    }
}

/// So many connections from each of these sources, each of which begins with these bytes.
fn seen(times: u64, sources: &[&str], bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    more(&mut seen, times, sources, bytes);
    seen
}

fn more(seen: &mut Seen, times: u64, sources: &[&str], bytes: &[u8]) {
    for _ in 0..times {
        for source in sources {
            seen.note(&head(source, PROBE_SYN), b"");
            seen.note(&head(source, PROBE_DATA), bytes);
        }
    }
}

fn request(forwarded: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {forwarded}\r\n\r\n").into_bytes()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 203.0.113.80 4000 80\r\n";
const CLIENTS: [&str; 4] = ["198.51.100.7", "192.0.2.20", "203.0.113.9", "2001:db8::7"];

fn seen_of_clients() -> Seen {
    seen(ENOUGH_SOURCES, &CLIENTS, GET)
}

/// The codes of what is found, with what they come to.
fn codes(patient: &Patient, seen: Option<&Seen>) -> Vec<(String, Verdict)> {
    let diagnosis = examine(patient, seen, &own());
    let findings = diagnosis.findings.into_iter();
    findings.map(|f| (f.code.into_owned(), f.verdict)).collect()
}

#[track_caller]
fn only(patient: &Patient, seen: &Seen, code: &str, verdict: Verdict) {
    assert_eq!(
        codes(patient, Some(seen)),
        [(code.to_owned(), verdict)],
        "{seen:#?}"
    );
}

fn reads_header(setup: &mut Setup) {
    setup.reads_header = Tri::True;
    setup.by = BTreeSet::from([By::Pod]);
    setup.proxy_config = Some("{\"gatewayTopology\":{\"proxyProtocol\":{}}}".to_owned());
    setup.signs = vec!["PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol".to_owned()];
}

fn trusts(proxies: u32) -> impl FnOnce(&mut Setup) {
    move |setup| {
        setup.trusted_proxies = Some(proxies);
        setup.by = BTreeSet::from([By::Pod]);
        setup.signs = vec![format!("PROXY_CONFIG of Pod x sets numTrustedProxies {proxies}")];
    }
}

#[test]
fn clients_with_sources_of_their_own_then_right() {
    let seen = seen(ENOUGH_SOURCES / 4, &CLIENTS, GET);
    only(&patient(|_| {}), &seen, "packet-source-seen", Verdict::Agree);
}

#[test]
fn too_few_connections_then_nothing_is_claimed() {
    for (set, few) in [
        (
            patient(|_| {}),
            seen(ENOUGH_SOURCES / 2 - 1, &["10.0.0.5", "10.0.0.6"], GET),
        ),
        (patient(|_| {}), seen(ENOUGH - 1, &["198.51.100.7"], V1)),
        (patient(reads_header), seen(ENOUGH - 1, &["198.51.100.7"], GET)),
        (
            patient(trusts(2)),
            seen(ENOUGH - 1, &["10.9.0.1"], &request("192.0.2.1")),
        ),
        (
            patient(|_| {}),
            seen(ENOUGH - 1, &["10.9.0.1"], &request("192.0.2.1")),
        ),
        (patient(|_| {}), Seen::default()),
    ] {
        let codes = codes(&set, Some(&few));
        assert!(
            codes.iter().all(|(_, verdict)| *verdict < Verdict::Contradiction),
            "{codes:?}"
        );
        assert!(
            codes.iter().any(|(_, verdict)| *verdict == Verdict::NotEnough),
            "{codes:?}"
        );
    }
}

#[test]
fn probes_without_data_then_nothing_is_claimed_of_their_sources() {
    let mut seen = Seen::default();
    for _ in 0..1000 {
        seen.note(&head("10.0.0.5", PROBE_SYN), b"");
    }
    only(&patient(|_| {}), &seen, "not-enough-traffic", Verdict::NotEnough);
}

#[test]
fn all_from_nodes_then_their_addresses_are_named_as_such() {
    let seen = seen(ENOUGH_SOURCES, &["10.0.0.5", "10.0.0.6"], GET);
    let diagnosis = examine(&patient(|_| {}), Some(&seen), &own());
    let [finding] = &diagnosis.findings[..] else {
        panic!("{diagnosis:#?}");
    };
    assert_eq!(
        (finding.code.as_ref(), finding.verdict),
        ("source-is-a-node", Verdict::Contradiction)
    );
    assert!(finding.evidence[0].contains("80 new connections"), "{finding:#?}");
    assert!(
        finding.evidence[0].contains("10.0.0.5 (node node-1)"),
        "{finding:#?}"
    );
    assert!(
        finding.follows[0].contains("istio-system/ingress-policy (ALLOW): ipBlocks"),
        "{finding:#?}"
    );
    assert_eq!(finding.certainty, Certainty::Likely);
    // Both sides and the policies, as one way.
    assert_eq!(finding.mends[0].steps.len(), 3, "{finding:#?}");
    // Who says that they are clients is believed.
    let stated = patient(|setup| setup.stated = Some(ClientAddress::PacketSource));
    only(&stated, &seen, "packet-source-seen", Verdict::Agree);
}

#[test]
fn all_from_pods_then_they_are_the_clients_and_nothing_is_to_be_mended() {
    for sources in [&["10.244.3.7", "10.244.9.1"][..], &["10.244.3.7", "10.0.0.5"]] {
        let seen = seen(ENOUGH_OF_ONE, sources, GET);
        only(&patient(|_| {}), &seen, "clients-are-pods", Verdict::Note);
    }
}

#[test]
fn refused_and_not_known_from_whom_then_no_rule_speaks_of_sources() {
    // The one permitted client among many that are dropped before they could be seen, and everything else that would be said of sources.
    let mut proxied = Seen::default();
    for client in CLIENTS {
        more(&mut proxied, ENOUGH, &["10.9.0.1"], &request(client));
    }
    for seen in [
        seen(ENOUGH_OF_ONE, &["10.0.0.9"], GET),
        seen(ENOUGH_OF_ONE, &["10.0.0.5"], GET),
        seen(ENOUGH_OF_ONE, &["10.244.0.9"], GET),
        seen_of_clients(),
        proxied,
    ] {
        let mut some = seen;
        some.dropped = 1;
        only(&patient(|_| {}), &some, "refused-not-seen", Verdict::NotEnough);
    }
    // The samples tell from whom: then it is right.
    let mut known = seen(ENOUGH_OF_ONE, &["10.0.0.9"], GET);
    known.dropped = 300;
    for client in ["198.51.100.7", "192.0.2.20", "203.0.113.9"] {
        known.note_refused(client.parse().unwrap(), 90);
    }
    only(&patient(|_| {}), &known, "packet-source-seen", Verdict::Agree);
}

#[test]
fn forwarded_for_of_a_few_direct_clients_then_nothing_is_advised() {
    // As many addresses in the header as packets have, or a few more: whoever sends them writes the header himself.
    let mut direct = Seen::default();
    for (source, named) in [
        ("198.51.100.7", "192.168.0.1"),
        ("203.0.113.9", "192.168.0.2"),
        ("192.0.2.20", "192.168.0.3"),
    ] {
        more(&mut direct, ENOUGH, &[source], &request(named));
    }
    more(&mut direct, 1, &["192.0.2.20"], &request("192.168.0.4"));
    only(&patient(|_| {}), &direct, "packet-source-seen", Verdict::Agree);
    // A proxy: likely, and nothing where the user says where the address is.
    let mut proxied = Seen::default();
    for client in CLIENTS {
        more(&mut proxied, ENOUGH, &["198.51.100.1"], &request(client));
    }
    let found = examine(&patient(|_| {}), Some(&proxied), &own()).findings;
    assert_eq!(
        (found[0].code.as_ref(), found[0].certainty),
        ("forwarded-for-not-read", Certainty::Likely)
    );
    assert!(
        found[0].mends[0].steps[0]
            .what
            .contains("Only if nobody reaches the gateway but through that proxy")
    );
    let stated = patient(|setup| setup.stated = Some(ClientAddress::PacketSource));
    only(&stated, &proxied, "packet-source-seen", Verdict::Agree);
}

#[test]
fn another_address_judged_here_than_at_the_gateway_then_that_comes_first() {
    for edit in [reads_header as fn(&mut Setup), |setup| trusts(1)(setup)] {
        let mut differs = patient(edit);
        differs.node.client_address = "packet-source".into();
        assert!(
            codes(&differs, None)
                .iter()
                .all(|(code, _)| code != "judged-differently"),
            "nothing is judged"
        );
        differs.node.judged = vec!["203.0.113.80:80/tcp".to_owned()];
        for seen in [None, Some(seen_of_clients())] {
            let found = codes(&differs, seen.as_ref());
            assert_eq!(
                found[0],
                ("judged-differently".to_owned(), Verdict::Contradiction)
            );
        }
    }
}

#[test]
fn some_from_nodes_and_more_from_clients_then_right() {
    let mut seen = seen(ENOUGH_SOURCES, &CLIENTS, GET);
    more(&mut seen, ENOUGH_SOURCES, &["10.0.0.5", "10.244.1.7"], GET);
    only(&patient(|_| {}), &seen, "packet-source-seen", Verdict::Agree);
}

#[test]
fn refused_before_they_are_seen_then_their_sources_count_all_the_same() {
    let mut seen = Seen {
        dropped: 300,
        ..Seen::default()
    };
    only(&patient(|_| {}), &seen, "not-enough-traffic", Verdict::NotEnough);
    seen.note_refused("10.0.0.5".parse().unwrap(), 300);
    only(
        &patient(|_| {}),
        &seen,
        "source-is-a-node",
        Verdict::Contradiction,
    );
    seen.refused = seen::Counted::default();
    seen.note_refused("10.77.0.1".parse().unwrap(), 300);
    only(&patient(|_| {}), &seen, "one-source", Verdict::Contradiction);
}

#[test]
fn one_private_source_then_a_likely_balancer_unless_the_user_says_otherwise() {
    let seen = seen(ENOUGH_OF_ONE, &["10.9.0.1"], GET);
    let diagnosis = examine(&patient(|_| {}), Some(&seen), &own());
    assert_eq!(diagnosis.findings[0].code, "one-source");
    assert_eq!(diagnosis.findings[0].certainty, Certainty::Likely);
    let stated = patient(|setup| setup.stated = Some(ClientAddress::PacketSource));
    only(&stated, &seen, "packet-source-seen", Verdict::Agree);
}

#[test]
fn one_public_source_or_several_private_ones_then_right() {
    for sources in [&["198.51.100.7"][..], &["10.9.0.1", "10.9.0.2", "10.9.0.3"]] {
        let seen = seen(ENOUGH_OF_ONE, sources, GET);
        only(&patient(|_| {}), &seen, "packet-source-seen", Verdict::Agree);
    }
}

#[test]
fn policy_cluster_then_known_without_traffic() {
    let cluster = patient(|setup| setup.local_policy = false);
    assert_eq!(
        codes(&cluster, None),
        [("source-rewritten-by-policy".to_owned(), Verdict::Contradiction)]
    );
    // Another node sends its packets on to a pod of this one, with its own address.
    let seen = seen(ENOUGH_SOURCES, &["10.0.0.6"], GET);
    let diagnosis = examine(&cluster, Some(&seen), &own());
    assert!(
        diagnosis.findings.iter().all(|finding| {
            finding.mends.iter().all(|way| {
                way.steps[0].command.as_deref()
                    == Some(
                        r#"kubectl -n istio-system patch service istio-ingressgateway --type merge -p '{"spec":{"externalTrafficPolicy":"Local"}}'"#,
                    )
            })
        }),
        "{diagnosis:#?}"
    );
    // Nobody compares addresses: something to know.
    let mut unused = cluster;
    unused.policies.clear();
    assert!(codes(&unused, None).contains(&("source-rewritten-by-policy".to_owned(), Verdict::Note)));
    // Sources of their own at the card say nothing of what comes behind kube-proxy.
    only(
        &patient(|setup| setup.local_policy = false),
        &seen_of_clients(),
        "source-rewritten-by-policy",
        Verdict::Contradiction,
    );
    // Where a header names the client, kube-proxy takes nothing away.
    for edit in [reads_header as fn(&mut Setup), |setup| trusts(1)(setup)] {
        let by_header = patient(|setup| {
            setup.local_policy = false;
            edit(setup);
        });
        let codes = codes(&by_header, None);
        assert!(
            codes.iter().all(|(_, v)| *v < Verdict::Contradiction),
            "{codes:?}"
        );
    }
}

#[test]
fn fields_of_the_peer_behind_a_proxy_then_said_and_nothing_to_mend() {
    let mut set = patient(reads_header);
    set.policies[0].fields = BTreeSet::from(["ipBlocks".to_owned()]);
    let seen = seen(ENOUGH, &["10.9.0.1"], V1);
    let diagnosis = examine(&set, Some(&seen), &own());
    assert_eq!(diagnosis.verdict, Verdict::Note, "{diagnosis:#?}");
    set.policies[0].fields = BTreeSet::from(["remoteIpBlocks".to_owned(), "notRemoteIpBlocks".to_owned()]);
    only(&set, &seen, "proxy-header-on-both-sides", Verdict::Agree);
}

#[test]
fn a_gateway_that_is_not_known_then_no_contradiction() {
    use crate::gateway::model::Why;
    let set = patient(|setup| {
        setup.reads_header = Tri::Unknown;
        setup.trusted_proxies = None;
        setup.doubts = vec![Why {
            code: "envoy-filter",
            text: "EnvoyFilter a/b changes listeners".to_owned(),
        }];
    });
    for seen in [
        seen(ENOUGH * 2, &["10.0.0.5"], GET),
        seen(ENOUGH * 2, &["10.9.0.1"], V1),
        seen(ENOUGH * 2, &["10.9.0.1"], &request("192.0.2.1")),
    ] {
        let codes = codes(&set, Some(&seen));
        assert!(codes.iter().all(|(_, v)| *v <= Verdict::Unknown), "{codes:?}");
        assert_eq!(codes[0].0, "gateway-not-known");
    }
}

#[test]
fn nothing_looked_at_then_said_and_content() {
    assert_eq!(
        codes(&patient(|_| {}), None),
        [("not-observed".to_owned(), Verdict::NotEnough)]
    );
    let one_sided =
        patient(|setup| setup.balancer = Some("Service a/b carries x-proxy-protocol: \"true\"".to_owned()));
    assert_eq!(
        codes(&one_sided, None)[0],
        ("proxy-header-one-sided".to_owned(), Verdict::Contradiction)
    );
    // Traffic knows better than an annotation.
    only(
        &one_sided,
        &seen_of_clients(),
        "packet-source-seen",
        Verdict::Agree,
    );
}
