//! `/metrics` and the API server that says who may read them.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: their panic is the report"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use xtask::poll;
use xtask::site::Client;

use crate::lab::{A, Lab, SOON, to, vip};

/// Where the shipped DaemonSet answers.
fn health() -> SocketAddr {
    to("127.0.0.1", 9469)
}

/// One `GET` on the node, with a token or none: status, head and body.
fn get(lab: &Lab, path: &str, token: Option<&str>) -> (u16, String, String) {
    let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let asked = lab.site.node.enter(|| {
        let mut stream = TcpStream::connect(health())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: agent\r\nAccept: application/openmetrics-text\r\n{authorization}Connection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = asked.expect("the node's namespace").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), head.to_lowercase(), body.to_owned())
}

/// A token of a ServiceAccount of this name.
fn account(lab: &Lab, name: &str) -> String {
    lab.kubectl(&["create", "serviceaccount", name, "-n", "foo"]);
    let url = format!("/api/v1/namespaces/foo/serviceaccounts/{name}/token");
    let ask =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}).to_string();
    let answer = lab
        .cluster
        .request("POST", &url, "application/json", &ask)
        .and_then(|answer| answer.granted())
        .expect("a token");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

#[test]
fn a_token_then_what_its_owner_may_is_what_the_api_server_says() {
    let mut lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    let (reader, stranger) = (account(&lab, "reader"), account(&lab, "stranger"));
    lab.kubectl(&[
        "create",
        "clusterrolebinding",
        "reads-metrics",
        "--clusterrole=gwfilter-metrics",
        "--serviceaccount=foo:reader",
    ]);
    let wrong = format!("{}x", reader.trim_end_matches('x'));
    for (token, wanted) in [
        (None, 401),
        (Some(""), 401),
        (Some("nonsense"), 401),
        (Some(wrong.as_str()), 401),
        (Some(stranger.as_str()), 403),
    ] {
        let (status, head, body) = get(&lab, "/metrics", token);
        assert_eq!(status, wanted, "{head}\n{body}\nagent:\n{}", agent.process.tail());
        assert_eq!(head.contains("www-authenticate: bearer"), wanted == 401, "{head}");
        for secret in ["gateway", "ingress", A, "gwfilter_"] {
            assert!(!body.contains(secret), "{secret} in {body}");
        }
    }
    // The binding is new: the API server may need a moment.
    let answer = poll::until(SOON, || {
        Some(get(&lab, "/metrics", Some(&reader))).filter(|(status, _, _)| *status == 200)
    });
    let (_, head, body) = answer.expect("a reader may read");
    assert!(
        head.contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    let dropped = body.lines().find(|line| {
        line.starts_with("gwfilter_packets_total{gateway=\"istio-system/istio-ingressgateway\"")
            && line.contains("reason=\"denied-by-rule\",verdict=\"drop\"")
    });
    let dropped = dropped.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(dropped.is_some_and(|packets| packets > 0), "{body}");
    assert!(
        body.contains(
            "gwfilter_gateway_enforced{gateway=\"istio-system/istio-ingressgateway\",reason=\"\"} 1\n"
        ),
        "{body}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");

    // What is open to all says nothing of policies, also when something is wrong.
    for path in ["/livez", "/readyz", "/", "/metrics/", "/status"] {
        let (_, _, body) = get(&lab, path, None);
        assert!(
            !body.contains("ingress") && body.lines().count() == 1,
            "{path}: {body}"
        );
    }

    // Without the API server nobody's token can be checked: closed, not open. What was said before is kept for seconds only.
    lab.cluster.stop_hard().expect("killed");
    let closed = poll::until(SOON, || {
        Some(get(&lab, "/metrics", Some(&reader))).filter(|(status, _, _)| *status != 200)
    });
    let (status, _, body) = closed.expect("no longer open");
    assert_eq!(status, 503, "{body}");
    assert!(!body.contains("gateway"), "{body}");
    assert_eq!(get(&lab, "/metrics", None).0, 401);
    agent
        .process
        .wait_line("nobody gets the metrics", SOON)
        .expect("told");
    lab.refused(&agent, Client::A, vip());
    lab.cluster.restart().expect("back");
    let open = poll::until(SOON, || {
        (get(&lab, "/metrics", Some(&reader)).0 == 200).then_some(())
    });
    assert!(open.is_some(), "{:?}", get(&lab, "/metrics", Some(&reader)));
}
