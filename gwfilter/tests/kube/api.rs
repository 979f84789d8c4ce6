//! The agent's API: who gets an answer at its two doors.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: their panic is the report"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use xtask::poll;
use xtask::site::NODE_V4;

use crate::lab::{A, Lab, SOON};

/// The port of the shipped DaemonSet.
pub(crate) const PORT: u16 = 9470;

/// `curl ARGS…` on the node: the status, 0 where there is no answer, and the body.
fn curl(lab: &Lab, uid: u32, args: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args([
        "-sk",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "-w",
        "\n%{http_code}",
    ]);
    command.args(args).uid(uid);
    let output = lab.site.node.output(&mut command).expect("curl");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

/// One question at the port, with a header.
fn ask(lab: &Lab, path: &str, header: &str) -> (u16, String) {
    let url = format!("https://{NODE_V4}:{PORT}{path}");
    curl(lab, 0, &["-H", header, &url])
}

/// A token of a ServiceAccount.
pub(crate) fn token(lab: &Lab, namespace: &str, account: &str, audience: Option<&str>) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let mut ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    if let Some(audience) = audience {
        ask["spec"]["audiences"] = json!([audience]);
    }
    let answer = lab
        .cluster
        .request("POST", &path, "application/json", &ask.to_string());
    let answer = answer.and_then(|answer| answer.granted()).expect("a token");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

#[test]
fn a_question_over_tls_then_an_answer_only_to_the_right_token() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    for account in ["stranger", "reader"] {
        lab.kubectl(&["create", "serviceaccount", account, "-n", "foo"]);
    }
    lab.kubectl(&[
        "create",
        "clusterrolebinding",
        "reads-metrics",
        "--clusterrole=gwfilter-metrics",
        "--serviceaccount=foo:reader",
    ]);
    let viewer = |audience| token(&lab, "gwfilter-system", "gwfilter-viewer", audience);
    let (own, usual) = (viewer(Some("gwfilter")), viewer(None));
    let other = viewer(Some("somebody-else"));
    let stranger = token(&lab, "foo", "stranger", Some("gwfilter"));
    let reader = token(&lab, "foo", "reader", None);
    let (header, bearer) = ("X-Gwfilter-Token: ", "Authorization: Bearer ");
    // The bindings are new: the API server may need a moment.
    let open = poll::until(SOON, || {
        let metrics = ask(&lab, "/metrics", &format!("{bearer}{reader}"));
        let status = ask(&lab, "/v1/status", &format!("{header}{own}"));
        (metrics.0 == 200 && status.0 == 200).then_some(())
    });
    assert!(open.is_some(), "agent:\n{}", agent.process.tail());
    for (what, path, header, token, wanted) in [
        ("the plugin's", "/v1/status", header, own.as_str(), 200),
        ("the plugin's, other header", "/v1/status", bearer, &own, 401),
        ("usual token in our header", "/v1/status", header, &usual, 401),
        ("usual token", "/v1/status", bearer, &usual, 200),
        ("another audience", "/v1/status", header, &other, 401),
        ("another audience", "/v1/status", bearer, &other, 401),
        ("no right", "/v1/status", header, &stranger, 403),
        ("no right", "/metrics", header, &stranger, 403),
        ("Prometheus's", "/metrics", bearer, &reader, 200),
        ("Prometheus's, elsewhere", "/v1/status", bearer, &reader, 403),
        ("the plugin's, elsewhere", "/metrics", header, &own, 403),
        ("none", "/v1/status", header, "", 401),
        ("nonsense", "/v1/status", header, "nonsense", 401),
        ("no such page", "/v1/nothing", header, &own, 404),
    ] {
        let (status, body) = ask(&lab, path, &format!("{header}{token}"));
        assert_eq!(
            status,
            wanted,
            "{what} at {path}: {body}\n{}",
            agent.process.tail()
        );
        if status != 200 {
            assert!(
                body.lines().count() == 1 && !body.contains("ingress"),
                "{what}: {body}"
            );
        }
    }
    let (_, status) = ask(&lab, "/v1/status", &format!("{header}{own}"));
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["agent"], "running", "{status}");

    // Not without TLS, and not on another address of the node.
    let head = format!("{header}{own}");
    let plain = format!("http://{NODE_V4}:{PORT}/v1/status");
    assert_eq!(curl(&lab, 0, &["-H", &head, &plain]).0, 0);
    let loopback = format!("https://127.0.0.1:{PORT}/v1/status");
    assert_eq!(curl(&lab, 0, &["-H", &head, &loopback]).0, 0);
    // A body, another method, a head that is too large.
    let url = format!("https://{NODE_V4}:{PORT}/v1/status");
    assert_eq!(curl(&lab, 0, &["-H", &head, "-d", "x", &url]).0, 405);
    let large = format!("X-Large: {}", "x".repeat(40 << 10));
    assert_eq!(curl(&lab, 0, &["-H", &head, "-H", &large, &url]).0, 431);
}

#[test]
fn the_socket_of_a_shipped_agent_then_for_root_of_the_node_alone() {
    let lab = Lab::new();
    let mut agent = lab.start();
    let folder = lab.host().disk.join("run/gwfilter");
    let sockets = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&folder).expect("the folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "sock"))
            .collect()
    };
    let found = sockets();
    let [socket] = found.as_slice() else {
        panic!("one socket, not {found:?}; agent:\n{}", agent.process.tail());
    };
    let meta = fs::symlink_metadata(socket).expect("a socket");
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, 0));
    let at = socket.display().to_string();
    let ask = |uid| curl(&lab, uid, &["--unix-socket", &at, "http://agent/v1/status"]);
    let (status, body) = ask(0);
    assert!(
        status == 200 && body.contains("\"agent\":\"running\""),
        "{status}: {body}"
    );

    // Also where the file system would let everybody in, the kernel is asked who comes.
    assert_eq!(ask(65534).0, 0);
    for path in socket.ancestors().skip(1).take(3) {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("opened");
    }
    fs::set_permissions(lab.host().disk, Permissions::from_mode(0o755)).expect("opened");
    fs::set_permissions(socket, Permissions::from_mode(0o666)).expect("opened");
    let (status, body) = ask(65534);
    assert_eq!((status, body.as_str()), (0, ""));
    assert_eq!(ask(0).0, 200);

    // It goes with the agent.
    agent.process.signal(Signal::SIGTERM).expect("told");
    let gone = poll::until(SOON, || sockets().is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", sockets());
}
