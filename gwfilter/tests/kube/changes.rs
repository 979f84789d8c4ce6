//! Policies, Services, pods and CRDs change while the agent runs.

use serde_json::json;
use xtask::cluster::objects;
use xtask::cluster::tools::Crds;
use xtask::site::{Client, POD_PORT};

use crate::lab::{A, B, Lab, POD, SOON, node_port, pod, vip};

#[test]
fn a_policy_added_edited_and_deleted_then_each_change_is_seen_by_packets() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    lab.let_in(&agent, Client::B, vip());
    lab.policy("DENY", &[B]);
    lab.refused(&agent, Client::B, vip());
    lab.let_in(&agent, Client::A, vip());
    lab.delete_policy();
    lab.let_in(&agent, Client::B, vip());
}

#[test]
fn traffic_policy_flipped_to_cluster_and_back_then_only_the_pods_own_address_is_judged_meanwhile() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    let flip = |to: &str| {
        let patch = json!({"spec": {"externalTrafficPolicy": to}}).to_string();
        lab.kubectl(&[
            "patch",
            "service",
            "istio-ingressgateway",
            "-n",
            "istio-system",
            "-p",
            &patch,
        ]);
    };
    flip("Cluster");
    // Another node may have rewritten the source by now.
    lab.let_in(&agent, Client::A, vip());
    lab.let_in(&agent, Client::A, node_port());
    lab.refused(&agent, Client::A, pod());
    flip("Local");
    lab.refused(&agent, Client::A, vip());
    lab.refused(&agent, Client::A, node_port());
}

#[test]
fn the_gateways_pod_relabelled_then_the_policy_no_longer_attaches() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    lab.kubectl(&[
        "label",
        "pod",
        POD,
        "-n",
        "istio-system",
        "--overwrite",
        "app=other",
    ]);
    lab.let_in(&agent, Client::A, vip());
    lab.kubectl(&[
        "label",
        "pod",
        POD,
        "-n",
        "istio-system",
        "--overwrite",
        "app=istio-ingressgateway",
    ]);
    lab.refused(&agent, Client::A, vip());
}

#[test]
fn the_gateways_pod_rescheduled_to_another_node_then_nothing_is_judged_here_until_it_is_back() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    let old =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": "istio-system"}});
    lab.cluster.delete(&old).expect("deleted");
    lab.cluster
        .put(&objects::node("node-2", &["10.0.0.11"], &["10.244.2.0/24"]))
        .expect("a node");
    let elsewhere = objects::gateway_pod(
        "istio-system",
        "gateway-2",
        "node-2",
        "10.0.0.11",
        &["10.244.2.5"],
        POD_PORT,
    );
    lab.cluster.put(&elsewhere).expect("a pod");
    lab.endpoints(Some(("node-2", "gateway-2")));
    lab.let_in(&agent, Client::A, vip());
    lab.cluster
        .put_manifest(&xtask::manifests::cluster())
        .expect("back");
    lab.endpoints(Some(("node-1", POD)));
    lab.refused(&agent, Client::A, vip());
}

#[test]
fn a_crds_schema_changed_then_the_policies_after_it_are_seen() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    // A changed schema ends every watch of the kind.
    let patch = json!([{
        "op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "changed",
    }])
    .to_string();
    lab.kubectl(&[
        "patch",
        "crd",
        "authorizationpolicies.security.istio.io",
        "--type=json",
        "-p",
        &patch,
    ]);
    lab.policy("DENY", &[B]);
    lab.let_in(&agent, Client::A, vip());
    lab.refused(&agent, Client::B, vip());
}

#[test]
fn crds_that_come_after_the_agent_then_they_are_used_and_their_going_ends_what_they_hold() {
    let lab = Lab::new();
    let crds = [
        "authorizationpolicies.security.istio.io",
        "envoyfilters.networking.istio.io",
    ];
    for crd in crds {
        lab.kubectl(&["delete", "crd", crd]);
    }
    let mut agent = lab.start();
    for crd in crds {
        agent
            .process
            .wait_log("that it is missing", SOON, |log| {
                log.lines()
                    .any(|line| line.contains("does not have this kind") && line.contains(crd))
                    .then_some(())
            })
            .expect(crd);
    }
    lab.cluster.install(Crds::Istio).expect("CRDs");
    lab.policy("ALLOW", &[B]);
    lab.refused(&agent, Client::A, vip());
    lab.let_in(&agent, Client::B, vip());
    lab.kubectl(&["delete", "crd", crds[0]]);
    lab.let_in(&agent, Client::A, vip());
}
