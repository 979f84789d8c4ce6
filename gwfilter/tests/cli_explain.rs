//! `gwfilter explain`: answers, queries and bad input.

mod cli;

use std::fs;

use cli::{Run, beside, gwfilter, ingress};
use serde_json::{Value, json};

fn explain(args: &[&str]) -> Run {
    let from = beside("manifests/ingress.yaml");
    gwfilter(
        &[&["explain", "--from", &from.to_string_lossy()], args].concat(),
        b"",
    )
}

/// Standard output as JSON lines.
#[expect(clippy::expect_used, reason = "test helper")]
fn lines(run: &Run) -> Vec<Value> {
    run.out
        .lines()
        .map(|l| serde_json::from_str(l).expect("a line of JSON"))
        .collect()
}

const ALLOW: &str = "ns[istio-system]-policy[ingress-policy]";
const DENY: &str = "ns[istio-system]-policy[blocklist]-rule[0]";

#[test]
fn explain_given_the_example_then_verdict_reason_and_rule_of_each_client() {
    let cases = [
        // (source, destination, protocol, verdict, reason, policy, hook)
        (
            "1.2.3.4",
            "203.0.113.10:80",
            "tcp",
            "pass",
            "allowed",
            None,
            Some("xdp"),
        ),
        (
            "1.2.3.5",
            "203.0.113.10:80",
            "tcp",
            "drop",
            "no-rule-allows",
            Some(ALLOW),
            Some("xdp"),
        ),
        (
            "5.6.7.63",
            "203.0.113.10:443",
            "tcp",
            "pass",
            "allowed",
            None,
            Some("xdp"),
        ),
        (
            "5.6.7.64",
            "203.0.113.10:443",
            "tcp",
            "drop",
            "denied-by-rule",
            Some(DENY),
            Some("xdp"),
        ),
        (
            "5.6.7.127",
            "198.51.100.7:30080",
            "tcp",
            "drop",
            "denied-by-rule",
            Some(DENY),
            Some("xdp"),
        ),
        (
            "5.6.7.128",
            "10.244.1.5:8080",
            "tcp",
            "pass",
            "allowed",
            None,
            Some("xdp"),
        ),
        (
            "1.2.3.5",
            "203.0.113.10:443",
            "udp",
            "pass",
            "left-to-gateway",
            None,
            None,
        ),
        (
            "2001:db8:1::1",
            "[2001:db8::10]:443",
            "tcp",
            "pass",
            "allowed",
            None,
            Some("xdp"),
        ),
        (
            "2001:db8:1:bad::1",
            "[2001:db8::10]:443",
            "tcp",
            "drop",
            "no-rule-allows",
            Some(ALLOW),
            Some("xdp"),
        ),
        // A v4-mapped address is an IPv6 address.
        (
            "::ffff:1.2.3.4",
            "[2001:db8::10]:443",
            "tcp",
            "drop",
            "no-rule-allows",
            Some(ALLOW),
            Some("xdp"),
        ),
    ];
    for (source, dest, protocol, verdict, reason, policy, hook) in cases {
        let run = explain(&[
            "--source",
            source,
            "--dest",
            dest,
            "--protocol",
            protocol,
            "-o",
            "json",
        ]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        let mut answer = run.json();
        assert!(
            answer["notes"].as_array().is_some_and(|n| !n.is_empty()),
            "{run:#?}"
        );
        answer["notes"] = json!([]);
        let expected = json!({
            "verdict": verdict, "reason": reason, "gateway": "istio-system/istio-ingressgateway", "policy": policy,
            "hook": hook, "client_address": "packet-source", "notes": [],
        });
        assert_eq!(answer, expected, "{source} -> {dest}");
    }
}

#[test]
fn explain_given_destinations_that_are_no_gateways_then_untouched() {
    // SSH and the kubelet of the node, a port next to the gateway's, an application without Envoy under a namespace-wide policy.
    for dest in [
        "198.51.100.7:22",
        "198.51.100.7:10250",
        "203.0.113.10:81",
        "203.0.113.25:25",
        "10.244.1.5:15021",
    ] {
        let run = explain(&["--source", "9.9.9.9", "--dest", dest, "-o", "json"]);
        let mut answer = run.json();
        answer["notes"] = json!([]);
        let expected = json!({
            "verdict": "pass", "reason": "not-a-gateway", "gateway": null, "policy": null, "hook": null, "client_address": null, "notes": [],
        });
        assert_eq!(answer, expected, "{dest}");
    }
}

#[test]
fn explain_given_text_then_it_says_what_why_and_which_rule() {
    let run = explain(&["--source", "5.6.7.64", "--dest", "203.0.113.10:80"]);
    assert_eq!(
        (run.code, run.out.lines().next()),
        (
            Some(0),
            Some("DROP: a DENY rule matches this source (denied-by-rule)")
        ),
        "{run:#?}"
    );
    assert!(run.out.contains(DENY) && run.out.contains("timeout"), "{run:#?}");
    let run = explain(&["--source", "5.6.7.1", "--dest", "203.0.113.10:80"]);
    assert!(
        run.out.contains("blocklist]-rule[1]"),
        "the rule that the gateway decides is named: {run:#?}"
    );
}

#[test]
fn explain_given_the_keys_of_an_answer_then_in_the_public_order() {
    let run = explain(&["--source", "5.6.7.64", "--dest", "203.0.113.10:80", "-o", "json"]);
    let mut at = 0;
    for key in [
        "verdict",
        "reason",
        "gateway",
        "policy",
        "hook",
        "client_address",
        "notes",
    ] {
        let next = run.out.find(&format!("\"{key}\":")).unwrap();
        assert!(next >= at, "{}", run.out);
        at = next;
    }
}

#[test]
fn explain_given_queries_then_one_answer_a_line_in_order_and_bad_lines_are_errors() {
    let from = beside("manifests/ingress.yaml");
    let good = "{\"source\":\"1.2.3.4\",\"dest\":\"203.0.113.10:80\"}\n{\"source\":\"1.2.3.5\",\"dest\":\"203.0.113.10:80\",\"protocol\":\"tcp\"}";
    let args = ["explain", "--from", &from.to_string_lossy(), "--queries", "-"];
    let run = gwfilter(&args, good.as_bytes());
    assert_eq!(run.code, Some(0), "{run:#?}");
    let verdicts: Vec<_> = lines(&run).iter().map(|l| l["verdict"].clone()).collect();
    assert_eq!(verdicts, ["pass", "drop"]);

    let bad = format!("{good}\n\nnot json\n{{\"source\":\"::1\",\"dest\":\"203.0.113.10:80\"}}\n{good}\n");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queries");
    fs::write(&file, bad).unwrap();
    let run = gwfilter(
        &[
            "explain",
            "--from",
            &from.to_string_lossy(),
            "--queries",
            &file.to_string_lossy(),
        ],
        b"",
    );
    assert_eq!(run.code, Some(2));
    let lines = lines(&run);
    assert_eq!(lines.len(), 7, "{run:#?}");
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["error"].is_string(), (2..5).contains(&i), "line {i}: {line}");
        assert_eq!(
            line["verdict"].is_string(),
            !(2..5).contains(&i),
            "line {i}: {line}"
        );
    }
}

#[test]
fn explain_given_faulty_policies_then_an_answer_and_the_diagnostics_on_stderr() {
    let text = ingress().replace("5.6.7.64/26", "5.6.7.64/33");
    let run = gwfilter(
        &[
            "explain",
            "--from",
            "-",
            "--source",
            "5.6.7.64",
            "--dest",
            "203.0.113.10:80",
            "-o",
            "json",
        ],
        text.as_bytes(),
    );
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(
        run.json()["verdict"],
        "pass",
        "a DENY rule with a faulty value is left to the gateway"
    );
    assert!(
        run.err.contains("AuthorizationPolicy istio-system/blocklist"),
        "{run:#?}"
    );
}

#[test]
fn explain_given_bad_arguments_then_exit_2_and_what_to_do() {
    let from = beside("manifests/ingress.yaml").to_string_lossy().into_owned();
    for (args, expected) in [
        (vec!["--source", "1.2.3.4", "--dest", "203.0.113.10"], "--dest"),
        (
            vec!["--source", "1.2.3.400", "--dest", "203.0.113.10:80"],
            "--source",
        ),
        (
            vec!["--source", "::1", "--dest", "203.0.113.10:80"],
            "different families",
        ),
        (vec!["--source", "1.2.3.4"], "--dest"),
        (
            vec![
                "--source",
                "1.2.3.4",
                "--dest",
                "203.0.113.10:80",
                "--proxy-source",
                "1.1.1.1:1",
            ],
            "--proxy-dest",
        ),
        (vec!["--queries", "/nonexistent/queries"], "/nonexistent/queries"),
        (vec!["--queries", "-", "--source", "1.2.3.4"], "--queries"),
    ] {
        let run = gwfilter(&[&["explain", "--from", &from], args.as_slice()].concat(), b"");
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{args:?}: {run:#?}");
        assert!(run.err.contains(expected), "{args:?}: {run:#?}");
    }
    let run = gwfilter(&["explain", "--from", "-", "--queries", "-"], b"");
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("standard input cannot hold both"), "{run:#?}");
}

/// A gateway behind the PROXY protocol, under `externalTrafficPolicy: Cluster`, with one policy on clients and one on the balancer.
const BEHIND_A_PROXY: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: gw
  namespace: a
  annotations: {gwfilter.io/client-address: proxy-header, gwfilter.io/trusted-proxies: 10.9.0.0/16}
spec:
  type: LoadBalancer
  selector: {istio: gw}
  ports: [{name: https, port: 443, targetPort: 8443, nodePort: 30443}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: gw-0, namespace: a, labels: {istio: gw}}
spec: {nodeName: n, containers: [{name: istio-proxy}]}
status: {podIP: 10.244.0.5, phase: Running}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: a}
spec: {selector: {istio: gw}, servers: [{port: {number: 443, name: tcp, protocol: TCP}, hosts: ["*"]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: clients, namespace: a}
spec: {rules: [{from: [{source: {remoteIpBlocks: [198.51.100.0/24]}}], to: [{operation: {ports: ["443"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: balancer, namespace: a}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [10.66.0.0/16]}}]}]}
"#;

#[test]
fn explain_given_proxy_headers_then_client_peer_and_destination_decide_together() {
    const CLIENTS: Option<&str> = Some("ns[a]-policy[clients]");
    const BALANCER: Option<&str> = Some("ns[a]-policy[balancer]-rule[0]");
    let (vip, pod) = ("203.0.113.10:443", "10.244.0.5:8443");
    let cases = [
        // (source, destination, header, verdict, reason, policy)
        (
            "10.9.0.1",
            vip,
            Some(("198.51.100.7", "192.0.2.1:443")),
            "pass",
            "allowed",
            None,
        ),
        (
            "10.9.0.1",
            vip,
            Some(("198.51.101.7", "192.0.2.1:443")),
            "drop",
            "no-rule-allows",
            CLIENTS,
        ),
        (
            "10.9.0.1",
            vip,
            Some(("198.51.100.7", "192.0.2.1:80")),
            "drop",
            "no-rule-allows",
            CLIENTS,
        ),
        (
            "10.9.0.1",
            vip,
            Some(("2001:db8::7", "[2001:db8::1]:443")),
            "drop",
            "no-rule-allows",
            CLIENTS,
        ),
        // The gateway's peer is not known at the load balancer's address; it is at the pod's.
        (
            "10.66.0.1",
            vip,
            Some(("198.51.100.7", "192.0.2.1:443")),
            "pass",
            "untrusted-proxy",
            None,
        ),
        (
            "10.66.0.1",
            pod,
            Some(("198.51.100.7", "192.0.2.1:443")),
            "drop",
            "denied-by-rule",
            BALANCER,
        ),
        // A balancer that names itself is probing.
        (
            "10.9.0.1",
            vip,
            Some(("10.9.0.1", "192.0.2.1:443")),
            "pass",
            "never-drop-source",
            None,
        ),
        (
            "10.9.0.1",
            vip,
            Some(("224.0.0.1", "192.0.2.1:443")),
            "pass",
            "header-invalid",
            None,
        ),
        ("10.9.0.1", vip, None, "pass", "no-header", None),
    ];
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("gateway.yaml");
    fs::write(&manifests, BEHIND_A_PROXY).unwrap();
    let queries: String = cases
        .iter()
        .map(|(source, dest, header, ..)| {
            let mut query = json!({"source": source, "dest": dest});
            if let Some((client, destination)) = header {
                let client: std::net::IpAddr = client.parse().unwrap();
                query["proxy_source"] = json!(std::net::SocketAddr::new(client, 5000).to_string());
                query["proxy_dest"] = json!(destination);
            }
            format!("{query}\n")
        })
        .collect();
    let from = manifests.to_string_lossy().into_owned();
    let run = gwfilter(
        &["explain", "--from", &from, "--queries", "-"],
        queries.as_bytes(),
    );
    assert_eq!(run.code, Some(0), "{run:#?}");
    let answers = lines(&run);
    assert_eq!(answers.len(), cases.len());
    for (answer, (source, dest, header, verdict, reason, policy)) in answers.iter().zip(cases) {
        let about = format!("{source} to {dest} with {header:?}: {answer}");
        assert_eq!(
            (&answer["verdict"], &answer["reason"]),
            (&json!(verdict), &json!(reason)),
            "{about}"
        );
        assert_eq!(
            (&answer["policy"], &answer["hook"]),
            (&json!(policy), &json!("tc")),
            "{about}"
        );
        assert_eq!(answer["client_address"], json!("proxy-header"), "{about}");
    }
    // The same by flags, as text.
    let flags = [
        "--source",
        "10.9.0.1",
        "--dest",
        vip,
        "--proxy-source",
        "198.51.101.7:1",
        "--proxy-dest",
        "192.0.2.1:443",
    ];
    let run = gwfilter(&[&["explain", "--from", &from][..], &flags].concat(), b"");
    assert!(
        run.out
            .contains("PROXY header    198.51.101.7:1 -> 192.0.2.1:443"),
        "{run:#?}"
    );
    assert!(
        run.out.starts_with("DROP:") && run.out.contains("reset on both sides"),
        "{run:#?}"
    );
    // Two families in one header are no header.
    let query = r#"{"source":"10.9.0.1","dest":"203.0.113.10:443","proxy_source":"198.51.100.7:1","proxy_dest":"[::1]:1"}"#;
    let run = gwfilter(&["explain", "--from", &from, "--queries", "-"], query.as_bytes());
    assert_eq!(run.code, Some(2), "{run:#?}");
    // Nothing is left to the gateway but what compares the balancer at rewritten destinations.
    let report = gwfilter(&["check", "--from", &from, "-o", "json"], b"").json();
    let rules = |n: usize| &report["gateways"][0]["policies"][n]["rules"][0];
    assert_eq!(report["gateways"][0]["enforced"], json!(true), "{report:#}");
    assert_eq!(rules(1)["enforced_at"], json!("node"), "{report:#}");
    assert_eq!(rules(0)["enforced_at"], json!("both"), "{report:#}");
    assert!(
        rules(0)["why"].to_string().contains("rewritten on the way"),
        "{report:#}"
    );
}

#[test]
fn answers_for_people_then_the_kept_texts() {
    let said = |source: &str, dest: &str| explain(&["--source", source, "--dest", dest]).out;
    insta::assert_snapshot!(said("1.2.3.5", "203.0.113.10:80"), @r"
    DROP: an ALLOW policy applies and none of its rules can match this source (no-rule-allows)
      packet          1.2.3.5 -> 203.0.113.10:80/tcp
      gateway         istio-system/istio-ingressgateway
      client address  packet-source
      policy          ns[istio-system]-policy[ingress-policy]
      judged in       xdp (tc where the card's driver has no XDP)
      - 203.0.113.10:80/tcp is the load-balancer destination of listener http2 of istio-system/istio-ingressgateway (gateway port 8080)
      - the gateway would refuse it too (403, or a closed connection); refused at the node, the client sees a timeout
      - a connection from before the policy changed lives on until the drain window is over
    ");
    insta::assert_snapshot!(said("5.6.7.64", "203.0.113.10:443"), @r"
    DROP: a DENY rule matches this source (denied-by-rule)
      packet          5.6.7.64 -> 203.0.113.10:443/tcp
      gateway         istio-system/istio-ingressgateway
      client address  packet-source
      policy          ns[istio-system]-policy[blocklist]-rule[0]
      judged in       xdp (tc where the card's driver has no XDP)
      - 203.0.113.10:443/tcp is the load-balancer destination of listener https of istio-system/istio-ingressgateway (gateway port 8443)
      - the gateway would refuse it too (403, or a closed connection); refused at the node, the client sees a timeout
      - a connection from before the policy changed lives on until the drain window is over
    ");
    insta::assert_snapshot!(said("1.2.3.4", "203.0.113.10:80"), @r"
    pass: nothing that the node can see refuses it (allowed)
      packet          1.2.3.4 -> 203.0.113.10:80/tcp
      gateway         istio-system/istio-ingressgateway
      client address  packet-source
      policy          none decides
      judged in       xdp (tc where the card's driver has no XDP)
      - 203.0.113.10:80/tcp is the load-balancer destination of listener http2 of istio-system/istio-ingressgateway (gateway port 8080)
      - no rule certainly refuses this source; the gateway decides by what the node cannot see:
      - ns[istio-system]-policy[blocklist]-rule[1]: `paths` is in the HTTP request, which the node does not see
    ");
    insta::assert_snapshot!(said("1.2.3.5", "203.0.113.25:25"), @r"
    pass: the destination is no gateway's (not-a-gateway)
      packet          1.2.3.5 -> 203.0.113.25:25/tcp
      gateway         none
      policy          none decides
      - no gateway of this node has the address 203.0.113.25: the packet is not touched
    ");
}
