//! A real Prometheus reads an agent in a cluster with the shipped configuration: over TLS, with a ServiceAccount's token of our audience.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests: their panic is the report"
)]

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::poll;
use xtask::prometheus::{Prometheus, Series};

use crate::api::token;
use crate::lab::{A, Lab, SOON};
use crate::rules::{hasty, shipped};

/// Binds what the reader of metrics needs, as deploy/README.md says.
fn bind(lab: &Lab) {
    lab.kubectl(&[
        "create",
        "clusterrolebinding",
        "prometheus-gwfilter",
        "--clusterrole=gwfilter-metrics",
        "--serviceaccount=monitoring:prometheus",
    ]);
}

/// What Prometheus' discovery would say of the pods: a target for each port, with the labels that the shipped example goes by. Debian's Prometheus is
/// built without that discovery, so its part is played here, from the API server's own list.
fn discovered(lab: &Lab) -> Value {
    let list = lab.kubectl(&["get", "pods", "-n", "gwfilter-system", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let mut targets = Vec::new();
    for pod in list["items"].as_array().expect("pods") {
        let address = pod["status"]["podIP"].as_str().expect("an address");
        for port in pod["spec"]["containers"][0]["ports"].as_array().expect("ports") {
            let labels = json!({
                "__meta_kubernetes_pod_label_app_kubernetes_io_name": pod["metadata"]["labels"]["app.kubernetes.io/name"],
                "__meta_kubernetes_pod_container_port_name": port["name"],
                "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
            });
            targets
                .push(json!({"targets": [format!("{address}:{}", port["containerPort"])], "labels": labels}));
        }
    }
    // Somebody else's pod, which is not to be scraped.
    targets.push(
        json!({"targets": ["127.0.0.1:1"], "labels": {"__meta_kubernetes_pod_container_port_name": "api"}}),
    );
    targets.into()
}

/// The shipped example, but for how often it asks and where the token lies.
fn start(lab: &Lab) -> Prometheus {
    let own = token(lab, "monitoring", "prometheus", Some("gwfilter"));
    let configure = |folder: &std::path::Path| {
        let at = |name: &str| folder.join(name).display().to_string();
        fs::write(at("token"), &own)?;
        fs::write(at("rules.yaml"), hasty().to_string())?;
        fs::write(at("targets.json"), discovered(lab).to_string())?;
        let example: Value = serde_yaml::from_str(&shipped("prometheus.yaml"))?;
        let mut job = example["scrape_configs"][0].clone();
        assert_eq!(
            (&job["scheme"], &job["authorization"]["type"]),
            (&"https".into(), &"Bearer".into())
        );
        let fields = job.as_object_mut().expect("a job");
        fields.remove("kubernetes_sd_configs").expect("discovery");
        fields.insert("scrape_interval".to_owned(), "1s".into());
        fields.insert(
            "file_sd_configs".to_owned(),
            json!([{"files": [at("targets.json")]}]),
        );
        job["authorization"]["credentials_file"] = at("token").into();
        Ok(
            json!({"global": {"evaluation_interval": "1s"}, "rule_files": [at("rules.yaml")], "scrape_configs": [job]}),
        )
    };
    Prometheus::start(&lab.site.node, configure).expect("a Prometheus")
}

#[track_caller]
fn sees(lab: &Lab, prometheus: &Prometheus, query: &str) -> Vec<Series> {
    let seen = poll::every(Duration::from_millis(300), SOON, || {
        let found = prometheus.query(&lab.site.node, query).expect("an answer");
        Some(found).filter(|found| !found.is_empty())
    });
    seen.unwrap_or_else(|| {
        let targets = prometheus.ask(&lab.site.node, "/api/v1/targets");
        panic!("nothing for `{query}`: {targets:?}\n{}", prometheus.tail())
    })
}

/// An alert fires, or no longer does.
#[track_caller]
fn alert(lab: &Lab, prometheus: &Prometheus, name: &str, fires: bool) {
    let mut last = Vec::new();
    let done = poll::every(Duration::from_millis(300), SOON, || {
        last = prometheus.firing(&lab.site.node).expect("alerts");
        (last.iter().any(|alert| alert["labels"]["alertname"] == name) == fires).then_some(())
    });
    assert!(done.is_some(), "{name}: fires is to be {fires}: {last:?}");
}

#[test]
fn the_shipped_scrape_configuration_then_agents_are_found_read_and_alerted_on() {
    let lab = Lab::new();
    lab.cluster.namespace("monitoring").expect("a namespace");
    lab.kubectl(&["create", "serviceaccount", "prometheus", "-n", "monitoring"]);
    bind(&lab);
    // A kind that the agent may not read.
    let rules = lab.kubectl(&["get", "clusterrole", "gwfilter", "-o", "json"]);
    let rules: Value = serde_json::from_str(&rules).expect("JSON");
    let at = rules["rules"].as_array().expect("rules").iter();
    let at = at
        .enumerate()
        .find(|(_, rule)| rule["apiGroups"] == json!(["discovery.k8s.io"]));
    let path = format!(
        r#"[{{"op": "remove", "path": "/rules/{}"}}]"#,
        at.expect("a rule").0
    );
    lab.kubectl(&["patch", "clusterrole", "gwfilter", "--type=json", "-p", &path]);
    lab.policy("DENY", &[A]);
    let mut agent = lab.launch();
    let prometheus = start(&lab);
    let up = sees(&lab, &prometheus, "up{job=\"gwfilter\"} == 1");
    assert!(up.len() == 1 && up[0].0["node"] == "node-1", "{up:?}");
    alert(&lab, &prometheus, "GwfilterSourceUnread", true);
    let unread = sees(&lab, &prometheus, "gwfilter_source_unread == 1");
    assert_eq!(unread[0].0["source"], "Kubernetes EndpointSlice", "{unread:?}");
    let base = xtask::paths::root()
        .join("deploy/base/rbac.yaml")
        .display()
        .to_string();
    lab.kubectl(&["apply", "-f", &base]);
    alert(&lab, &prometheus, "GwfilterSourceUnread", false);
    lab.wait_ready(&mut agent);
    sees(&lab, &prometheus, "gwfilter_gateway_enforced == 1");

    // Nobody may read them any more: that is seen, too.
    lab.kubectl(&["delete", "clusterrolebinding", "prometheus-gwfilter"]);
    alert(&lab, &prometheus, "GwfilterAgentDown", true);
    bind(&lab);
    alert(&lab, &prometheus, "GwfilterAgentDown", false);
}
