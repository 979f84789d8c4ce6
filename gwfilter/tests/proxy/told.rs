//! What the node says of its verdicts, against what happened: the packet log, the counters, `check`, `explain` and `status`.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::balancer::{Check, Sends, Way};
use xtask::http::{Answer, Connection};
use xtask::manifests::{cluster_with_proxy_protocol, ingress_policy};
use xtask::site::{BALANCER_V4, CLIENT_V4, Client, NIC, NODE_PORT, NODE_V4, PEER_V4, Site};

use crate::lab::{A, B, Lab, POLICY, SOON, listeners, to};

const RULE: &str = "ns[istio-system]-policy[ingress-policy]-rule[0]";

/// What a gwfilter command says, as JSON lines.
fn gwfilter(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_gwfilter")));
    command.args(arguments);
    let output = site.node.output(&mut command).expect("gwfilter");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let values: Vec<Value> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| vec![json!({"error": error.to_string(), "said": text})]);
    assert!(
        output.status.success(),
        "{arguments:?}: {}{values:?}",
        String::from_utf8_lossy(&output.stderr)
    );
    values
}

/// One request; what came of it, and from which address it was sent.
fn ask(lab: &Lab, client: Client, at: SocketAddr) -> (Answer, SocketAddr) {
    let mut connection =
        Connection::open(lab.site.client(client), None, at, SOON).expect("haproxy takes the connection");
    let from = connection.local().expect("an address");
    (connection.get(), from)
}

/// A line of the log without what differs from run to run: time, and the port of the balancer.
fn settled(line: &str) -> String {
    let from = line.find("requestedServerName").unwrap_or(0);
    let mut text = line.get(from..).unwrap_or_default().to_owned();
    for field in ["sourceIP: ", "directRemoteIP: "] {
        let start = format!("{field}{PEER_V4}:");
        if let Some((before, after)) = text.clone().split_once(&start) {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            text = format!("{before}{start}PORT{rest}");
        }
    }
    text
}

#[test]
fn a_packet_then_its_line_has_the_direct_peer_and_the_client_as_envoy_has_them() {
    let mut lab = Lab::with("DENY", "remoteIpBlocks", &A, &[]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V1, Sends::V2], Check::Never);
    for way in ways.iter().filter(|way| way.at.is_ipv4()) {
        for (client, answer, verdict) in [
            (
                Client::A,
                Answer::Reset,
                format!("verdict: drop, reason: denied-by-rule, policy: {RULE}"),
            ),
            (
                Client::B,
                Answer::Status(200),
                "verdict: pass, reason: allowed, policy: ".to_owned(),
            ),
        ] {
            let (got, from) = ask(&lab, client, way.at);
            assert_eq!(got, answer);
            let needle = format!("remoteIP: {from},");
            let line = lab.agent.wait_line(&needle, SOON).expect("a line");
            assert_eq!(
                settled(&line),
                format!(
                    "requestedServerName: , sourceIP: {PEER_V4}:PORT, directRemoteIP: {PEER_V4}:PORT, remoteIP: {from}, \
                     localAddress: {NODE_V4}:{NODE_PORT}, protocol: tcp, interface: {NIC}, hook: tc, \
                     gateway: istio-system/istio-ingressgateway, {verdict}"
                )
            );
            assert_eq!(
                lab.agent.log().matches(&needle).count(),
                1,
                "one line for one connection"
            );
        }
    }
    // Envoy's own line for the client that it saw has the same address.
    let at = ways.first().expect("a way").at;
    let (_, from) = ask(&lab, Client::B, at);
    let seen = xtask::poll::until(SOON, || {
        lab.gateway
            .accesses()
            .contains(&format!("{from} 200"))
            .then_some(())
    });
    assert!(seen.is_some(), "{from} in {:?}", lab.gateway.accesses());
    lab.agent
        .wait_line(&format!("remoteIP: {from},"), SOON)
        .expect("a line");
}

#[test]
fn the_log_as_json_then_the_same_fields() {
    let mut lab = Lab::with("DENY", "remoteIpBlocks", &A, &["--log-format", "json"]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V2], Check::Never);
    let at = ways.first().expect("a way").at;
    let (answer, from) = ask(&lab, Client::A, at);
    assert_eq!(answer, Answer::Reset);
    let needle = format!("\"client\":\"{}\"", from.ip());
    let line = lab.agent.wait_line(&needle, SOON).expect("a line");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    let fields = line.get("fields").unwrap_or(&line);
    for (name, value) in [
        ("destination", json!(format!("{NODE_V4}:{NODE_PORT}"))),
        ("protocol", json!("tcp")),
        ("interface", json!(NIC)),
        ("hook", json!("tc")),
        ("gateway", json!("istio-system/istio-ingressgateway")),
        ("verdict", json!("drop")),
        ("reason", json!("denied-by-rule")),
        ("policy", json!(RULE)),
    ] {
        assert_eq!(fields.get(name), Some(&value), "{name}: {line:#}");
    }
    let source = fields.get("source").and_then(Value::as_str).unwrap_or_default();
    assert!(source.starts_with(&format!("{PEER_V4}:")), "{line:#}");
}

#[test]
fn refusals_then_counted_one_by_one_for_the_gateway_and_the_rule() {
    const EACH: u64 = 7;
    let mut lab = Lab::with("DENY", "remoteIpBlocks", &A, &[]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V1, Sends::V2], Check::Never);
    for way in &ways {
        for _ in 0..EACH {
            assert_eq!(ask(&lab, Client::A, way.at).0, Answer::Reset);
            assert_eq!(ask(&lab, Client::B, way.at).0, Answer::Status(200));
        }
    }
    let all = EACH * u64::try_from(ways.len()).expect("few");
    let (gateway, rule) = lab
        .agent
        .wait_log("the counters", SOON, |log| {
            let last = |kind: &str| {
                log.lines()
                    .rev()
                    .find(|line| line.contains(kind))
                    .map(ToOwned::to_owned)
            };
            let (gateway, rule) = (last("gateway traffic")?, last("policy rule refused")?);
            let whole = format!(" dropped_total={all} ");
            (gateway.contains(&whole) && rule.contains(&whole)).then_some((gateway, rule))
        })
        .expect("counted");
    assert!(
        gateway.contains("gateway=istio-system/istio-ingressgateway interfaces=\"eth0(xdp+tcx)\""),
        "{gateway}"
    );
    assert!(gateway.contains(" would_drop_total=0 "), "{gateway}");
    assert!(rule.contains(&format!("policy={RULE} ")), "{rule}");
    // Nothing is counted later either: a header is sent again by nobody.
    let again = ask(&lab, Client::A, ways.first().expect("a way").at).0;
    assert_eq!(again, Answer::Reset);
    lab.agent
        .wait_line(&format!(" dropped_total={} ", all + 1), SOON)
        .expect("one more");
    let log = lab.agent.log();
    let reasons: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("gateway traffic"))
        .filter_map(|line| line.split("reasons=\"").nth(1))
        .flat_map(|reasons| reasons.split(['=', ' ', '"']))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    for reason in ["denied-by-rule", "allowed"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
    for reason in [
        "table-missing",
        "unparseable",
        "first-segment-unknown",
        "header-incomplete",
    ] {
        assert!(!reasons.contains(&reason), "{reasons:?}");
    }
}

/// A policy with one rule that also names a port of the header.
fn with_port(action: &str, blocks: &[&str], port: u16) -> String {
    let policy = ingress_policy(action, "remoteIpBlocks", blocks);
    format!("{policy}      to:\n        - operation:\n            ports: [\"{port}\"]\n")
}

#[test]
fn explain_and_check_then_they_say_what_happens() {
    let site = Site::without_gateway().expect("a site");
    site.write("cluster.yaml", &cluster_with_proxy_protocol())
        .expect("objects");
    site.write(POLICY, &ingress_policy("DENY", "remoteIpBlocks", &["192.0.2.99"]))
        .expect("a policy");
    let serves = listeners(&xtask::gateway::Serves::Http, true);
    let lab = Lab::on(site, &serves, &["--drain", "1s"]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V1, Sends::V2], Check::Never);
    let from = lab.site.manifests().display().to_string();
    let mut verdicts = Vec::new();
    for policy in [
        ingress_policy("DENY", "remoteIpBlocks", &A),
        ingress_policy("ALLOW", "remoteIpBlocks", &A),
        ingress_policy("ALLOW", "ipBlocks", &B),
        ingress_policy("DENY", "notIpBlocks", &B),
        // The port is the one in the header: that of haproxy.
        with_port("DENY", &A, 8001),
        with_port("ALLOW", &B, 8002),
    ] {
        let before = lab.generations();
        lab.site.write(POLICY, &policy).expect("a policy");
        let changed = xtask::poll::until(SOON, || (lab.generations() > before).then_some(()));
        assert!(changed.is_some(), "{}", lab.agent.tail());
        for way in ways.iter().filter(|way| way.at.is_ipv4()) {
            for client in Client::ALL {
                let answer = explained(&lab.site, &from, client, way);
                let verdict = answer.get("verdict").cloned().unwrap_or_default();
                let wanted = if verdict == "drop" {
                    Answer::Reset
                } else {
                    Answer::Status(200)
                };
                lab.sees(client, way.at, &format!("{policy}, {answer}: {wanted}"), |got| {
                    *got == wanted
                });
                assert_eq!(
                    answer.get("client_address"),
                    Some(&json!("proxy-header")),
                    "{answer}"
                );
                assert_eq!(answer.get("hook"), Some(&json!("tc")), "{answer}");
                verdicts.push(verdict);
            }
        }
        let report = gwfilter(&lab.site, &["check", "--from", &from, "-o", "json"]);
        let gateway = report.first().and_then(|report| report.pointer("/gateways/0"));
        let at = |path: &str| gateway.and_then(|gateway| gateway.pointer(path));
        assert_eq!(at("/client_address"), Some(&json!("proxy-header")), "{report:?}");
        assert_eq!(at("/enforced"), Some(&json!(true)), "{report:?}");
        assert_eq!(
            at("/policies/0/rules/0/enforced_at"),
            Some(&json!("node")),
            "{policy}: {report:?}"
        );
    }
    let dropped = verdicts.iter().filter(|verdict| **verdict == "drop").count();
    assert_eq!(
        (dropped, verdicts.len()),
        (2 + 2 + 4 + 4 + 1 + 3, 24),
        "{verdicts:?}"
    );
}

/// What `explain` says of a client's connection by a way.
fn explained(site: &Site, from: &str, client: Client, way: &Way) -> Value {
    let proxy_source = SocketAddr::new(to(client.address(way.at), 0).ip(), 40_000).to_string();
    let (dest, proxy_dest) = (way.to.to_string(), way.at.to_string());
    let arguments = [
        "explain",
        "--from",
        from,
        "--source",
        PEER_V4,
        "--dest",
        &dest,
        "--proxy-source",
        &proxy_source,
        "--proxy-dest",
        &proxy_dest,
        "-o",
        "json",
    ];
    gwfilter(site, &arguments).into_iter().next().unwrap_or_default()
}

#[test]
fn status_then_both_programs() {
    let lab = Lab::with("DENY", "remoteIpBlocks", &A, &[]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V2], Check::Never);
    lab.cut_off(Client::A, ways.first().expect("a way").at);
    let status = gwfilter(&lab.site, &["status", "-o", "json"]);
    let text = json!(status).to_string();
    for part in ["\"agent\":\"running\"", "\"hook\":\"xdp\"", "\"hook\":\"tcx\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_is_left_to_the_gateway_then_each_under_its_reason() {
    use crate::raw::{self, Outcome, Stream};
    let mut lab = Lab::serving(
        &listeners(&xtask::gateway::Serves::Echo, true),
        "DENY",
        "remoteIpBlocks",
        &A,
        &[],
    );
    raw::ready(&lab.site);
    let header = raw::v2(CLIENT_V4[0], 40_000, BALANCER_V4, 80);
    let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\0"[..], b"hello"].concat();
    let unknown = b"PROXY UNKNOWN 198.51.100.7 10.0.0.10 1 2\r\nhello".to_vec();
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[7; 216]].concat();
    let third = [
        &b"\r\n\r\n\0\r\nQUIT\n\x31"[..],
        header.get(13..).unwrap_or_default(),
    ]
    .concat();
    let closed = |outcome: &Outcome| matches!(outcome, Outcome::Closed | Outcome::Reset);
    for (bytes, reason, let_in) in [
        (local, "header-local", true),
        (unknown, "header-unknown", true),
        (unix, "header-invalid", false),
        (third, "header-invalid", false),
        (raw::v2("224.0.0.1", 1, NODE_V4, 80), "header-invalid", false),
    ] {
        let before = lab.agent.log().matches(&format!("reason: {reason}")).count();
        let mut stream = Stream::open(&lab.site, to(NODE_V4, NODE_PORT));
        stream.send(0, &bytes);
        let outcome = stream.outcome(5);
        if let_in {
            assert_eq!(outcome, Outcome::Bytes(b"hello".to_vec()), "{reason}");
        } else {
            // Envoy's own word.
            assert!(closed(&outcome), "{reason}: {outcome:?}");
        }
        lab.logged(reason, before + 1);
    }
    // In two parts; and in the middle of a stream.
    let mut stream = Stream::open(&lab.site, to(NODE_V4, NODE_PORT));
    stream.send(0, header.get(..20).unwrap_or_default());
    stream.send(20, header.get(20..).unwrap_or_default());
    stream.send(header.len(), &header);
    assert_eq!(stream.outcome(header.len()), Outcome::Bytes(header));
    lab.logged("header-incomplete", 1);
    lab.logged("not-first-segment", 1);
    // Of other bytes there is no line, but a count.
    lab.agent
        .wait_log("segments without a header", Duration::from_secs(10), |log| {
            log.lines()
                .any(|line| line.contains("gateway traffic") && line.contains("not-first-segment=1"))
                .then_some(())
        })
        .expect("counted");
}
