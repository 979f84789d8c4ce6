//! The six topologies, each wrong in its way or right.

use std::collections::BTreeSet;

use serde_json::json;
use xtask::balancer::Sends;
use xtask::site::{CLIENT_V4, CLIENT_V6, NIC, PEER_V4, PEER_V6};

use crate::ward::Ward;

/// The router as a node.
const NODE_2: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node-2}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: \"fd00:10::1\"}]}
";

/// The clients' true addresses.
fn clients() -> BTreeSet<String> {
    CLIENT_V4
        .into_iter()
        .chain(CLIENT_V6)
        .map(str::to_owned)
        .collect()
}

/// The doctor is content, and right to be.
#[track_caller]
fn content(ward: &Ward, agrees: &str) {
    let said = ward.examine();
    assert_eq!(said.code, Some(0), "{:#}", said.report);
    assert_eq!(said.codes("agree"), [agrees], "{:#}", said.report);
    assert_eq!(ward.clients_as_the_gateway_sees_them(), clients());
}

/// The doctor finds this, and is right; its mend number `way` makes it content.
#[track_caller]
fn mended(ward: &mut Ward, code: &str, way: usize, agrees: &str) {
    ward.settle();
    assert_ne!(ward.clients_as_the_gateway_sees_them(), clients(), "it is wrong");
    let said = ward.examine();
    assert_eq!(said.code, Some(1), "{:#}", said.report);
    assert_eq!(said.codes("contradiction"), [code], "{:#}", said.report);
    ward.mend(&said, way);
    content(ward, agrees);
}

#[test]
fn policy_cluster_then_local_is_the_mend() {
    let mut ward = Ward::new(&[], json!({}));
    ward.policy("ipBlocks");
    ward.traffic_policy("Cluster");
    mended(&mut ward, "source-rewritten-by-policy", 0, "packet-source-seen");
}

#[test]
fn something_on_a_node_rewrites_sources_then_the_proxy_protocol_on_both_sides_is_the_mend() {
    let mut ward = Ward::new(&[], json!({}));
    ward.policy("ipBlocks");
    // The router is a node, and on it something masquerades, as k3s' balancer does.
    ward.add(NODE_2);
    ward.site()
        .router
        .nft(
            "table inet balancer { chain postrouting { type nat hook postrouting priority srcnat; oifname \"to-node\" \
             meta l4proto tcp masquerade; }; }",
        )
        .expect("rules");
    ward.settle();
    let seen = ward.clients_as_the_gateway_sees_them();
    assert_eq!(seen, [PEER_V4, PEER_V6].map(str::to_owned).into());
    let said = ward.examine();
    assert_eq!(said.code, Some(1), "{:#}", said.report);
    assert_eq!(
        said.codes("contradiction"),
        ["source-is-a-node"],
        "{:#}",
        said.report
    );
    let evidence = said
        .report
        .pointer("/gateways/0/findings/0/evidence/0")
        .and_then(|e| e.as_str());
    assert!(
        evidence.is_some_and(|e| e.contains("10.0.0.1 (node node-2)")),
        "{:#}",
        said.report
    );
    ward.mend(&said, 0);
    content(&ward, "proxy-header-on-both-sides");
}

#[test]
fn packets_with_sources_of_their_own_then_content() {
    let mut ward = Ward::new(&[], json!({}));
    ward.policy("ipBlocks");
    ward.settle();
    content(&ward, "packet-source-seen");
    // With an agent that judges, too: the probe sits behind its program.
    let from = ward.site().manifests().display().to_string();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_gwfilter"));
    let mut agent = ward
        .site()
        .start(
            "gwfilter run",
            binary,
            &["run", "--from", &from, "--interface", NIC, "--refuse", "reset"],
        )
        .expect("started");
    agent
        .wait_line("agent runs", std::time::Duration::from_secs(20))
        .expect("a running agent");
    content(&ward, "packet-source-seen");
    // And the agent itself answers alike.
    let said = ward.ask_agent();
    assert_eq!(said.code, Some(0), "{:#}", said.report);
    assert_eq!(said.codes("agree"), ["packet-source-seen"], "{:#}", said.report);
}

#[test]
fn no_traffic_then_not_enough_and_no_claim() {
    for topology in [
        json!({}),
        json!({"proxyProtocol": {}}),
        json!({"numTrustedProxies": 2}),
    ] {
        let mut ward = Ward::new(&[], topology);
        ward.policy("remoteIpBlocks");
        ward.settle();
        let said = ward.ask(&["--observe", "1s", "--interface", NIC], false);
        assert_eq!(said.code, Some(0), "{:#}", said.report);
        assert_eq!(
            said.codes("not-enough"),
            ["not-enough-traffic"],
            "{:#}",
            said.report
        );
        assert!(said.codes("agree").is_empty() && said.codes("contradiction").is_empty());
    }
}

#[test]
fn header_is_written_and_not_expected_then_either_side_is_a_mend() {
    for sends in [Sends::V1, Sends::V2] {
        let mut ward = Ward::new(&[sends], json!({}));
        ward.policy("ipBlocks");
        mended(
            &mut ward,
            "proxy-header-not-expected",
            0,
            "proxy-header-on-both-sides",
        );
    }
}

#[test]
fn header_is_expected_and_not_written_then_it_is_written_or_no_longer_expected() {
    let mut behind = Ward::new(&[Sends::Nothing], json!({"proxyProtocol": {}}));
    behind.policy("remoteIpBlocks");
    mended(
        &mut behind,
        "proxy-header-missing",
        0,
        "proxy-header-on-both-sides",
    );
    let mut straight = Ward::new(&[], json!({"proxyProtocol": {}}));
    straight.policy("remoteIpBlocks");
    mended(&mut straight, "proxy-header-missing", 0, "packet-source-seen");
}

#[test]
fn header_on_both_sides_then_content() {
    let mut ward = Ward::new(&[Sends::V2Tlvs], json!({"proxyProtocol": {}}));
    ward.policy("remoteIpBlocks");
    ward.settle();
    content(&ward, "proxy-header-on-both-sides");
}

#[test]
fn a_wrong_number_of_trusted_proxies_then_the_right_one_is_the_mend() {
    for (proxies, trusted, code) in [
        (1, 0, "forwarded-for-not-read"),
        (1, 2, "too-many-trusted-proxies"),
        (2, 1, "too-few-trusted-proxies"),
        (2, 3, "too-many-trusted-proxies"),
    ] {
        let mut ward = Ward::new(
            &vec![Sends::ForwardedFor; proxies],
            json!({"numTrustedProxies": trusted}),
        );
        ward.policy("remoteIpBlocks");
        mended(&mut ward, code, 0, "forwarded-for-as-set");
    }
}

#[test]
fn nobody_writes_forwarded_for_then_none_is_trusted() {
    let mut ward = Ward::new(&[], json!({"numTrustedProxies": 1}));
    ward.policy("remoteIpBlocks");
    ward.settle();
    // Envoy falls back to the peer, which happens to be right; but whoever writes the header chooses.
    let said = ward.examine();
    assert_eq!(
        said.codes("contradiction"),
        ["forwarded-for-missing"],
        "{:#}",
        said.report
    );
    ward.mend(&said, 0);
    content(&ward, "packet-source-seen");
}

#[test]
fn the_right_number_of_trusted_proxies_then_content() {
    for proxies in [1, 2] {
        let mut ward = Ward::new(
            &vec![Sends::ForwardedFor; proxies],
            json!({"numTrustedProxies": proxies}),
        );
        ward.policy("remoteIpBlocks");
        ward.settle();
        content(&ward, "forwarded-for-as-set");
    }
}
