//! The manifests on a real API server.

use serde_json::{Value, json};
use xtask::cluster::Cluster;
use xtask::cluster::tools::Crds;

use super::objects::{deploy, kustomize};

/// Runs `kubectl` and returns whether it succeeded and all that it said.
fn kubectl(cluster: &Cluster, arguments: &[&str], stdin: &str) -> (bool, String) {
    let output = cluster.kubectl_with(arguments, stdin).unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// `kubectl apply -k` of a folder as a dry run by the server, unknown fields refused.
fn dry_run(cluster: &Cluster, folder: &str) -> (bool, String) {
    let folder = deploy(folder);
    let folder = folder.to_str().unwrap();
    kubectl(
        cluster,
        &["apply", "--dry-run=server", "--validate=strict", "-k", folder],
        "",
    )
}

/// A Pod as the DaemonSet's controller makes it from the template.
fn pod(namespace: &str) -> String {
    let objects = kustomize("base");
    let template = &objects["DaemonSet gwfilter-system/gwfilter"]["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"], "metadata": template["metadata"]});
    pod["metadata"]["name"] = json!("gwfilter-x");
    pod["metadata"]["namespace"] = json!(namespace);
    pod.to_string()
}

fn created_dry(cluster: &Cluster, pod: &str) -> (bool, String) {
    kubectl(
        cluster,
        &["create", "--dry-run=server", "--validate=strict", "-f", "-"],
        pod,
    )
}

#[test]
fn manifests_then_the_server_takes_them_without_a_warning() {
    let cluster = Cluster::start().unwrap();
    let base = deploy("base");
    let base = base.to_str().unwrap();

    // Without Istio one right has no place to be bound in; everything else is there, and the same command mends it.
    let (done, said) = kubectl(&cluster, &["apply", "-k", base], "");
    assert!(!done && said.contains("istio-system"), "{said}");
    assert!(said.contains("daemonset.apps/gwfilter created"), "{said}");
    cluster.namespace("istio-system").unwrap();
    cluster.install(Crds::Istio).unwrap();
    let (done, said) = kubectl(&cluster, &["apply", "-k", base], "");
    assert!(done && !said.contains("Warning"), "{said}");

    for folder in ["base", "overlays/observe", "overlays/gke"] {
        let (done, said) = dry_run(&cluster, folder);
        assert!(done && !said.contains("Warning"), "{folder}: {said}");
    }

    let (done, said) = created_dry(&cluster, &pod("gwfilter-system"));
    assert!(done && !said.contains("Warning"), "{said}");
    // Why the namespace carries its label.
    for level in ["baseline", "restricted"] {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": level, "labels": {"pod-security.kubernetes.io/enforce": level}},
        });
        cluster.put(&namespace).unwrap();
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "gwfilter", "namespace": level},
        });
        cluster.put(&account).unwrap();
        let (done, said) = created_dry(&cluster, &pod(level));
        assert!(!done && said.contains("violates PodSecurity"), "{level}: {said}");
    }

    rights(&cluster);

    let (done, said) = kubectl(&cluster, &["delete", "--wait=false", "-k", base], "");
    assert!(done, "{said}");
    let left = cluster
        .get("/apis/apps/v1/namespaces/gwfilter-system/daemonsets")
        .unwrap();
    let left: Value = left.granted().unwrap();
    assert_eq!(left["items"], json!([]));
}

/// What the ServiceAccount may do and may not.
fn rights(cluster: &Cluster) {
    // What the plugin is asked with, and nothing beside: its right to tokens is for who is bound to the Role, which nobody is.
    for (may, question) in [
        (true, "get /v1/status"),
        (true, "get /v1/samples"),
        (false, "get /metrics"),
        (false, "get /v1/other"),
        (false, "list pods -n gwfilter-system"),
        (false, "get pods --subresource=proxy -n gwfilter-system"),
        (
            false,
            "create serviceaccounts/gwfilter-viewer --subresource=token -n gwfilter-system",
        ),
    ] {
        let account = "--as=system:serviceaccount:gwfilter-system:gwfilter-viewer";
        let mut words = vec!["auth", "can-i", account];
        words.extend(question.split(' '));
        let (can, said) = kubectl(cluster, &words, "");
        assert_eq!(can, may, "{question}: {said}");
    }
    for (may, question) in [
        (true, "list authorizationpolicies.security.istio.io -A"),
        (true, "watch wasmplugins.extensions.istio.io -A"),
        (true, "watch trafficextensions.extensions.istio.io -A"),
        (true, "watch pods -A"),
        (true, "create events -A"),
        (true, "create tokenreviews.authentication.k8s.io"),
        (true, "create subjectaccessreviews.authorization.k8s.io"),
        (false, "get /metrics"),
        (true, "get configmaps/istio -n istio-system"),
        (true, "watch daemonsets.apps/gwfilter -n gwfilter-system"),
        (false, "get configmaps/other -n istio-system"),
        (false, "list configmaps -n istio-system"),
        (false, "get secrets -n gwfilter-system"),
        (false, "list secrets -A"),
        (false, "patch authorizationpolicies.security.istio.io -A"),
        (false, "patch daemonsets.apps/gwfilter -n gwfilter-system"),
        (false, "get daemonsets.apps/other -n gwfilter-system"),
        (false, "create pods -n gwfilter-system"),
        (false, "patch nodes"),
        (false, "create pods --subresource=exec -n gwfilter-system"),
        (
            false,
            "create serviceaccounts --subresource=token -n gwfilter-system",
        ),
    ] {
        let account = "--as=system:serviceaccount:gwfilter-system:gwfilter";
        let mut words = vec!["auth", "can-i", account];
        words.extend(question.split(' '));
        let (can, said) = kubectl(cluster, &words, "");
        assert_eq!(can, may, "{question}: {said}");
    }
}
