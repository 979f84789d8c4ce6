//! `kubectl gwfilter`: a real kubectl that finds the plugin, the API server's pod proxy, and nodes that answer or do not.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use xtask::poll;
use xtask::site::{NODE, VIP_PORT, VIP_V4};

use crate::api::PORT;
use crate::lab::{A, Lab, SOON, binary};

/// `kubectl gwfilter ARGS…` with this kubeconfig, where a user would be: code, standard output and error.
fn plugin(lab: &Lab, kubeconfig: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let folder = lab.cluster.file("plugins");
    if !folder.is_dir() {
        std::fs::create_dir(&folder).expect("a folder");
        symlink(binary(), folder.join("kubectl-gwfilter")).expect("a link");
    }
    let mut command: Command = lab.cluster.kubectl_command();
    command.arg("gwfilter").args(args);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", folder.display()));
    command.env("KUBECONFIG", kubeconfig);
    // The cluster's control plane is reached from the node.
    let said: Output = lab.site.node.output(&mut command).expect("kubectl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (said.status.code(), text(&said.stdout), text(&said.stderr))
}

/// Another node, with a pod of the agent's that nobody answers for.
fn dead_node(lab: &Lab) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-dead"}});
    lab.cluster.put(&node).expect("a node");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "gwfilter-dead", "namespace": "gwfilter-system", "labels": {"app.kubernetes.io/name": "gwfilter"}},
        "spec": {"nodeName": "node-dead", "hostNetwork": true, "containers": [
            {"name": "gwfilter", "image": "x", "ports": [{"name": "api", "containerPort": PORT}]}]},
    });
    let made = lab.cluster.request(
        "POST",
        "/api/v1/namespaces/gwfilter-system/pods",
        "application/json",
        &pod.to_string(),
    );
    made.and_then(|answer| answer.granted()).expect("a pod");
    // The control plane's own address, where nobody listens on that port.
    let at = xtask::cluster::API_V4;
    let status = json!({"status": {"phase": "Running", "podIP": at, "podIPs": [{"ip": at}], "hostIP": at}});
    let path = "/api/v1/namespaces/gwfilter-system/pods/gwfilter-dead/status";
    let set = lab
        .cluster
        .request("PATCH", path, "application/merge-patch+json", &status.to_string());
    set.and_then(|answer| answer.granted()).expect("an address");
}

#[test]
fn the_plugin_of_a_real_kubectl_then_a_row_for_each_node_by_the_users_own_rights() {
    let lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, xtask::site::Client::A, crate::lab::vip());
    dead_node(&lab);
    lab.kubectl(&["create", "serviceaccount", "sre", "-n", "foo"]);
    let sre = lab.cluster.kubeconfig("foo", "sre").expect("a kubeconfig");

    // Without the Role: no token, no answer, and the error says what to ask for.
    let (code, out, err) = plugin(&lab, &sre, &["status"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("403") && err.contains("gwfilter-plugin"), "{err}");

    lab.kubectl(&[
        "create",
        "rolebinding",
        "gwfilter-plugin",
        "-n",
        "gwfilter-system",
        "--role=gwfilter-plugin",
        "--serviceaccount=foo:sre",
    ]);
    let answered = poll::until(SOON, || {
        let (code, out, _) = plugin(&lab, &sre, &["status"]);
        (code == Some(0)).then_some(out)
    });
    let out = answered.expect("an answer");
    let row = |node: &str| {
        out.lines()
            .find(|line| line.starts_with(node))
            .unwrap_or_default()
    };
    assert!(
        row(NODE).contains("running") && row(NODE).contains("1 of 1 gateway"),
        "{out}"
    );
    assert!(row("node-dead").contains("no answer"), "{out}");
    assert!(out.contains("connection refused"), "{out}");
    assert!(out.contains("gateway istio-system/istio-ingressgateway"), "{out}");

    let dest = format!("{VIP_V4}:{VIP_PORT}");
    let (code, out, err) = plugin(&lab, &sre, &["explain", "--source", A, "--dest", &dest]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.starts_with(&format!(
            "DROP: a DENY rule matches this source (denied-by-rule), on {NODE}\n"
        )),
        "{out}"
    );
    assert!(
        out.contains("ns[istio-system]-policy[ingress-policy]-rule[0]"),
        "{out}"
    );
    let (code, out, _) = plugin(
        &lab,
        &sre,
        &["explain", "--source", A, "--dest", &dest, "-o", "json"],
    );
    let json: Value = serde_json::from_str(&out).expect("JSON");
    let nodes = json["nodes"].as_array().expect("nodes");
    assert_eq!((code, nodes.len()), (Some(0), 2), "{json}");
    let of = |name: &str| nodes.iter().find(|node| node["node"] == name).expect("the node");
    assert_eq!(of(NODE)["answer"]["verdict"], "drop", "{json}");
    assert!(of("node-dead")["error"].is_string(), "{json}");

    // Counted and looked at: with the same right, of the agent that is there.
    let (code, out, err) = plugin(&lab, &sre, &["top", "--once", "--every", "1s"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let counted = out
        .lines()
        .find(|line| line.starts_with("istio-system/istio-ingressgateway"));
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{out}");
    assert!(out.contains("no answer from node-dead"), "{out}");
    for observe in [&[][..], &["--observe", "2s"]] {
        let args = [&["doctor"], observe].concat();
        let (code, out, err) = plugin(&lab, &sre, &args);
        assert_eq!(code, Some(0), "{args:?}: {out}{err}");
        let headline = out.lines().next().unwrap_or_default();
        assert!(
            headline.starts_with("istio-system/istio-ingressgateway - ")
                && headline.ends_with(&format!(", on {NODE}")),
            "{args:?}: {out}"
        );
        assert!(!out.contains("another version"), "{args:?}: {out}");
        assert!(
            out.contains("look: kubectl -n gwfilter-system describe pod gwfilter-dead"),
            "{args:?}: {out}"
        );
    }

    // An agent that is gone too: nobody answered, which is said and no success.
    agent.process.interrupt(SOON).expect("ended");
    let (code, out, err) = plugin(&lab, &sre, &["status", "--timeout", "5s"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains(&format!("no answer from {NODE}")), "{out}");

    let (code, _, err) = plugin(&lab, &lab.cluster.admin_kubeconfig(), &["status", "-n", "foo"]);
    assert!(code == Some(1) && err.contains("-n says where"), "{err}");
}
