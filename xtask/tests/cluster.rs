//! The control plane itself: what it promises to the tests that stand on it. Needs root, and fails without.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::cluster::caps::Capabilities;
use xtask::cluster::container::{Host, Program, Which};
use xtask::cluster::tools::{Crds, helm};
use xtask::cluster::{Cluster, objects};
use xtask::manifests;
use xtask::netns::Namespace;
use xtask::poll;

const SOON: Duration = Duration::from_secs(20);

fn cluster() -> Cluster {
    Cluster::start().expect("a cluster; this test needs root, and `cargo xtask setup`")
}

/// What a GET with that kubeconfig is answered.
fn asks(cluster: &Cluster, kubeconfig: &std::path::Path, path: &str) -> Result<String, String> {
    let mut command = cluster.kubectl_command();
    command.env("KUBECONFIG", kubeconfig).args(["get", "--raw", path]);
    let output = cluster.control.output(&mut command).expect("kubectl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn a_new_cluster_then_ready_with_both_sets_of_crds_and_the_sites_objects_with_their_status() {
    let cluster = cluster();
    let version = cluster
        .get("/version")
        .and_then(|answer| answer.json())
        .expect("a version");
    assert_eq!(version["major"], "1", "the version is in the binary: {version}");
    for crds in Crds::ALL {
        cluster.install(crds).expect("accepted");
    }
    let served = cluster
        .kubectl(&["api-resources", "-o", "name"])
        .expect("resources");
    for name in [
        "authorizationpolicies.security.istio.io",
        "envoyfilters.networking.istio.io",
        "gateways.gateway.networking.k8s.io",
    ] {
        assert!(served.contains(name), "{name} in {served}");
    }
    for namespace in ["istio-system", "foo"] {
        cluster.namespace(namespace).expect("a namespace");
    }
    cluster
        .put_manifest(&manifests::cluster())
        .expect("the site's objects");
    let pod = cluster
        .kubectl(&[
            "get",
            "pods",
            "-n",
            "istio-system",
            "-o",
            "jsonpath={.items[0].status.podIPs[*].ip}",
        ])
        .expect("a pod");
    assert_eq!(
        pod, "10.244.1.5 fd00:244::5",
        "the status is there, as a kubelet writes it"
    );
    let vip = cluster
        .kubectl(&[
            "get",
            "service",
            "istio-ingressgateway",
            "-n",
            "istio-system",
            "-o",
            "jsonpath={.status.loadBalancer.ingress[0].ip}",
        ])
        .expect("a service");
    assert_eq!(vip, "203.0.113.80");
    let addresses = [("10.244.1.5".parse().expect("an address"), "node-1", "gateway-1")];
    for object in [
        objects::node("node-2", &["10.0.0.11"], &["10.244.2.0/24"]),
        objects::gateway_pod(
            "istio-system",
            "gateway-1",
            "node-2",
            "10.0.0.11",
            &["10.244.2.5"],
            8080,
        ),
        objects::endpoint_slice(
            "istio-system",
            "istio-ingressgateway",
            ("http2", 8080),
            &addresses,
        ),
    ] {
        let written = cluster.put(&object).expect("written");
        assert_eq!(
            written.get("status").is_some(),
            object.get("status").is_some(),
            "{written}"
        );
        cluster.delete(&object).expect("deleted");
        let gone = cluster
            .get(&objects::path(&object).expect("a path"))
            .expect("an answer");
        assert_eq!(gone.status, 404, "{}", gone.body);
    }
    // As a user types it. The webhook that would refuse the prefix is not there.
    let said = cluster
        .apply(&manifests::ingress_policy(
            "ALLOW",
            "ipBlocks",
            &["1.2.3.4", "5.6.7.0/99"],
        ))
        .expect("accepted");
    assert!(said.contains("created"), "{said}");
    let refused = cluster
        .apply(&manifests::ingress_policy("ALLOW", "ipBlock", &["1.2.3.4"]))
        .expect_err("kubectl is strict");
    assert!(format!("{refused:#}").contains("ipBlock"), "{refused:#}");
}

#[test]
fn a_narrow_role_then_that_and_nothing_else_for_the_account() {
    let cluster = cluster();
    cluster.namespace("system").expect("a namespace");
    cluster
        .apply(
            "\
{apiVersion: v1, kind: ServiceAccount, metadata: {name: agent, namespace: system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: agent}
rules:
  - {apiGroups: [\"\"], resources: [services], verbs: [list]}
  - {apiGroups: [\"\"], resources: [configmaps], resourceNames: [istio], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent}
subjects: [{kind: ServiceAccount, name: agent, namespace: system}]
",
        )
        .expect("applied");
    let account = cluster.kubeconfig("system", "agent").expect("a token");
    let granted = poll::until(SOON, || asks(&cluster, &account, "/api/v1/services").ok());
    assert!(
        granted.is_some(),
        "{:?}",
        asks(&cluster, &account, "/api/v1/services")
    );
    for refused in [
        "/api/v1/pods",
        "/api/v1/services?watch=1&timeoutSeconds=1",
        "/api/v1/namespaces/default/configmaps",
    ] {
        let said = asks(&cluster, &account, refused).expect_err(refused);
        assert!(
            said.contains("forbidden") || said.contains("Forbidden"),
            "{refused}: {said}"
        );
    }
    asks(
        &cluster,
        &account,
        "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Distio",
    )
    .expect("with the field selector that the role implies");
}

#[test]
fn killed_frozen_and_started_again_then_what_was_written_is_there() {
    let mut cluster = cluster();
    cluster.namespace("kept").expect("a namespace");
    cluster.stop_hard().expect("killed");
    assert_eq!(cluster.get("/readyz").expect("the proxy answers").status, 500);
    cluster.restart().expect("back");
    assert_eq!(
        cluster.get("/api/v1/namespaces/kept").expect("an answer").status,
        200
    );
    cluster.freeze().expect("frozen");
    let kubectl = ["get", "namespaces", "--request-timeout=1s"];
    assert!(cluster.kubectl(&kubectl).is_err(), "frozen, it answers nobody");
    cluster.thaw().expect("thawed");
    assert!(
        cluster
            .kubectl(&["get", "namespaces"])
            .expect("an answer")
            .contains("kept")
    );
    cluster.freeze().expect("frozen");
    cluster.restart().expect("back from frozen, too");
}

#[test]
fn history_compacted_and_server_restarted_then_a_watch_from_before_is_gone() {
    let mut cluster = cluster();
    let version = |cluster: &Cluster| {
        let list = cluster
            .get("/api/v1/namespaces")
            .and_then(|answer| answer.granted())
            .expect("a list");
        list.pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .expect("a version")
            .to_owned()
    };
    let before = version(&cluster);
    for number in 0..3 {
        cluster.namespace(&format!("n{number}")).expect("a namespace");
    }
    cluster.stop_hard().expect("killed");
    cluster.compact().expect("compacted");
    cluster.restart().expect("back");
    let watch = |from: &str| {
        let path = format!("/api/v1/namespaces?watch=1&timeoutSeconds=1&resourceVersion={from}");
        cluster.get(&path).expect("an answer")
    };
    let gone = watch(&before);
    assert!(
        gone.status == 410 || gone.body.contains("\"code\":410"),
        "{gone:?}"
    );
    let fine = watch(&version(&cluster));
    assert_eq!(fine.status, 200, "{fine:?}");
    assert!(!fine.body.contains("410"), "{fine:?}");
}

#[test]
fn a_daemonset_then_its_container_has_what_its_template_says_and_no_more() {
    let mut cluster = cluster();
    let node = Namespace::new("node").expect("a namespace");
    cluster.join(&node, "eth0").expect("a cable");
    cluster.namespace("system").expect("a namespace");
    cluster
        .put(&objects::node("node-1", &["10.0.0.10"], &[]))
        .expect("a node");
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "system"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {
                "hostNetwork": true,
                "containers": [{
                    "name": "agent", "image": "localhost/agent",
                    "args": ["-c", "\
                        grep -E '^(Cap|NoNewPrivs)' /proc/self/status; ls /; echo node=$0 $NODE; \
                        touch /nothing || echo read-only; touch /state/kept; ls -A /sys/fs/bpf; mkdir /sys/fs/bpf/pins; \
                        ls /run/secrets/kubernetes.io/serviceaccount /var/run/secrets/kubernetes.io/serviceaccount; \
                        curl -s --cacert /var/run/secrets/kubernetes.io/serviceaccount/ca.crt \
                          -H \"Authorization: Bearer $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)\" \
                          https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/apis/authentication.k8s.io/v1/selfsubjectreviews \
                          -X POST -H 'Content-Type: application/json' -d '{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"SelfSubjectReview\"}'; \
                        echo; echo done", "$(NODE)"],
                    "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]},
                    },
                    "volumeMounts": [{"name": "state", "mountPath": "/state"}, {"name": "bpffs", "mountPath": "/sys/fs/bpf"}],
                }],
                "volumes": [
                    {"name": "state", "hostPath": {"path": "/var/lib/agent", "type": "DirectoryOrCreate"}},
                    {"name": "bpffs", "hostPath": {"path": "/sys/fs/bpf", "type": "Directory"}},
                ],
            }},
        },
    });
    cluster.put(&set).expect("a DaemonSet");
    let disk = tempfile::tempdir().expect("a disk");
    let host = Host {
        name: "node-1",
        address: "10.0.0.10",
        namespace: &node,
        disk: disk.path(),
    };
    let which = Which {
        namespace: "system",
        name: "agent",
        container: "agent",
    };
    let shell = std::fs::canonicalize("/bin/sh").expect("a shell");
    let mut container = cluster
        .run_daemonset_container(&host, &which, Program::Binary(&shell))
        .expect("started");
    container.process.wait_line("done", SOON).expect("ran");
    let log = container.process.log();
    let wanted = Capabilities::of_container(&["BPF", "NET_ADMIN", "PERFMON"], &["ALL"]).expect("names");
    assert_eq!(container.granted(), wanted);
    for (set, expected) in [
        ("CapBnd", wanted),
        ("CapPrm", wanted),
        ("CapEff", wanted),
        ("CapInh", Capabilities::default()),
        ("CapAmb", Capabilities::default()),
    ] {
        let line = log
            .lines()
            .find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
        let found = Capabilities::from_hex(line.unwrap_or_else(|| panic!("{set} in\n{log}"))).expect("a set");
        assert_eq!(found, expected, "{set}");
    }
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("node=node-1 node-1"), "{log}");
    assert!(log.contains("read-only"), "{log}");
    assert!(
        !log.contains("home"),
        "this machine's folders are not there:\n{log}"
    );
    assert!(
        log.contains("\"username\": \"system:serviceaccount:system:default\""),
        "{log}"
    );
    assert!(
        log.contains(container.pod_name()),
        "the token is bound to the pod:\n{log}"
    );
    assert!(
        disk.path().join("var/lib/agent/kept").exists(),
        "the state is on the node's disk"
    );
    let pins = node.run("ls", &["/sys/fs/bpf"]).expect("listed");
    assert!(
        pins.lines().any(|line| line == "pins"),
        "the bpffs is the node's: {pins}"
    );
    let owner = container.pod.pointer("/metadata/ownerReferences/0/kind");
    assert_eq!(owner.and_then(Value::as_str), Some("DaemonSet"));
    let text = cluster
        .kubectl(&["get", "pods", "-n", "system", "-o", "wide"])
        .expect("pods");
    assert!(text.contains("node-1") && text.contains("Running"), "{text}");
    // As a kubelet does it, which asks nobody.
    cluster.stop_hard().expect("killed");
    container.restart(&host).expect("started again");
    container.process.wait_line("done", SOON).expect("ran again");
    let log = container.process.log();
    assert!(
        log.contains("node=node-1 node-1") && !log.contains("username"),
        "{log}"
    );
}

#[test]
fn helm_then_it_runs() {
    let output = Command::new(helm().expect("helm"))
        .arg("version")
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("GoVersion"), "{said}");
}
