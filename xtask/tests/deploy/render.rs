//! The kustomize base, its overlays and the chart, against each other.

use std::process::Command;

use serde_json::{Value, json};

use super::objects::{Objects, arguments, chart, container, deploy, helm, kustomize, parse};

/// Where two values differ, as JSON pointers with both sides.
fn differences(at: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let side =
                    |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                differences(&format!("{at}/{key}"), &side(a), &side(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{at}/{index}"), a, b, found);
            }
        }
        _ if left == right => {}
        _ => found.push(format!("{at}: kustomize {left}, chart {right}")),
    }
}

#[track_caller]
fn assert_same(what: &str, kustomize: &Objects, chart: &Objects) {
    let value = |objects: &Objects| serde_json::to_value(objects).unwrap();
    let mut found = Vec::new();
    differences("", &value(kustomize), &value(chart), &mut found);
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn chart_with_its_default_values_then_the_kustomize_base() {
    assert_same("default values", &kustomize("base"), &chart(&[]));
}

#[test]
fn chart_with_the_value_of_an_overlay_then_that_overlay() {
    for (overlay, value) in [
        ("observe", "mode=observe"),
        ("gke", "priorityQuota=true"),
        ("seccomp", "seccompLocalhostProfile=gwfilter.json"),
    ] {
        let overlay = kustomize(&format!("overlays/{overlay}"));
        assert_same(value, &overlay, &chart(&["--set", value]));
        assert_ne!(overlay, kustomize("base"), "{value} changes nothing");
    }
}

#[test]
fn chart_with_monitoring_then_the_base_and_what_is_for_beside_it() {
    let mut wanted = kustomize("base");
    let beside = kustomize("monitoring");
    for kind in ["PrometheusRule", "PodMonitor"] {
        assert!(
            beside.contains_key(&format!("{kind} gwfilter-system/gwfilter")),
            "{kind}"
        );
    }
    wanted.extend(beside);
    assert_same(
        "monitoring",
        &wanted,
        &chart(&["--set", "monitoring.enabled=true"]),
    );
    let objects = chart(&["--set", "monitoring.enabled=true,namespace.name=edge"]);
    assert!(objects.contains_key("PrometheusRule edge/gwfilter"));
    assert!(objects.contains_key("PodMonitor edge/gwfilter"));
    assert!(objects.contains_key("ConfigMap edge/gwfilter-dashboard"));
}

/// Where the alerts say that their pages are: the annotations of that name.
fn runbooks<'a>(rules: &'a Value, annotation: &str) -> Vec<&'a str> {
    let groups = rules["spec"]["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    rules
        .filter_map(|rule| rule["annotations"][annotation].as_str())
        .collect()
}

#[test]
fn book_served_somewhere_then_each_alert_links_to_its_page_and_else_names_its_path() {
    let shipped = kustomize("monitoring")["PrometheusRule gwfilter-system/gwfilter"].clone();
    let paths = runbooks(&shipped, "runbook");
    assert!(paths.len() > 10 && paths.contains(&"docs/book/src/runbooks/lease.md"));
    assert_eq!(runbooks(&shipped, "runbook_url"), [""; 0]);
    for (book, end) in [
        ("https://book.example/", ".html"),
        ("https://git.example/gwfilter/blob/main/docs/book/src", ".md"),
    ] {
        let values = format!("monitoring.enabled=true,monitoring.runbooks={book}");
        let rules = chart(&["--set", &values])["PrometheusRule gwfilter-system/gwfilter"].clone();
        let link = |path: &&str| {
            let page = path.trim_start_matches("docs/book/src/").replace(".md", end);
            format!("{}/{page}", book.trim_end_matches('/'))
        };
        let wanted: Vec<String> = paths.iter().map(link).collect();
        assert_eq!(runbooks(&rules, "runbook_url"), wanted);
        assert_eq!(runbooks(&rules, "runbook"), [""; 0]);
    }
    // Without the chart: the line that the README names.
    let readme = std::fs::read_to_string(deploy("README.md")).unwrap();
    let line = readme
        .lines()
        .find_map(|line| line.strip_prefix("$ sed "))
        .unwrap();
    let output = Command::new("sh")
        .args(["-c", &format!("sed {line}")])
        .current_dir(xtask::paths::root())
        .output()
        .unwrap();
    let made = parse(&String::from_utf8(output.stdout).unwrap());
    let rules = &made["PrometheusRule gwfilter-system/gwfilter"];
    let link = |path: &&str| {
        path.replace("docs/book/src", "https://book.example")
            .replace(".md", ".html")
    };
    let wanted: Vec<String> = paths.iter().map(link).collect();
    assert_eq!(runbooks(rules, "runbook_url"), wanted);
}

#[test]
fn values_then_what_the_agent_is_told() {
    let fixed = [
        "run",
        "--state-dir=/var/lib/gwfilter",
        "--health-listen=127.0.0.1:9469",
        "--api-listen=$(POD_IP):9470",
    ];
    for (values, more) in [
        (
            "neverDrop={192.0.2.0/24,2001:db8::1}",
            "--never-drop=192.0.2.0/24,2001:db8::1",
        ),
        ("packetLog=drops", "--packet-log=drops"),
        ("logFormat=json", "--log-format=json"),
        ("extraArgs={--drain=90s}", "--drain=90s"),
    ] {
        let objects = chart(&["--set", values]);
        assert_eq!(
            arguments(&objects),
            [fixed.as_slice(), &[more]].concat(),
            "{values}"
        );
    }
    let objects = chart(&["--set", "healthPort=9999"]);
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container(&objects)[probe]["httpGet"]["port"], 9999);
    }
    assert!(arguments(&objects).contains(&"--health-listen=127.0.0.1:9999"));

    let objects = chart(&["--set", "apiPort=9998"]);
    assert!(arguments(&objects).contains(&"--api-listen=$(POD_IP):9998"));
    assert_eq!(container(&objects)["ports"][0]["containerPort"], 9998);
    let policy = "NetworkPolicy gwfilter-system/gwfilter";
    assert_eq!(objects[policy]["spec"]["ingress"][0]["ports"][0]["port"], 9998);
    let objects = chart(&["--set", "apiPort=0"]);
    assert!(
        arguments(&objects)
            .iter()
            .all(|word| !word.starts_with("--api-listen"))
    );
    assert!(container(&objects).get("ports").is_none());
    assert!(objects[policy]["spec"]["ingress"].as_array().unwrap().is_empty());
}

#[test]
fn image_values_then_the_reference() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (values, wanted) in [
        (
            "image.repository=r.example/g",
            format!("r.example/g:{}", env!("CARGO_PKG_VERSION")),
        ),
        ("image.tag=x", "localhost/gwfilter:x".to_owned()),
        (
            &format!("image.tag=x,image.digest={digest}"),
            format!("localhost/gwfilter@{digest}"),
        ),
    ] {
        assert_eq!(container(&chart(&["--set", values]))["image"], wanted, "{values}");
    }
}

#[test]
fn other_namespaces_then_every_reference_follows() {
    let objects = chart(&[
        "--set",
        "namespace.name=edge,namespace.create=false,istio.namespace=mesh",
    ]);
    let text = serde_json::to_string(&objects).unwrap();
    for gone in ["gwfilter-system", "istio-system", "Namespace /"] {
        assert!(!text.contains(gone), "{gone} is still there: {text}");
    }
    for wanted in [
        "Role mesh/gwfilter",
        "Role edge/gwfilter",
        "DaemonSet edge/gwfilter",
    ] {
        assert!(objects.contains_key(wanted), "{wanted}");
    }
}

#[test]
fn value_that_means_nothing_then_refused_by_the_schema() {
    for values in [
        "mode=audit",
        "neverDrop={example.org}",
        "nevrDrop={192.0.2.1}",
        "istio.meshConfigMaps=[]",
        "image.digest=sha256:12",
        "healthPort=0",
        "monitoring.runbooks=book",
        "monitoring.runbooks=https://",
        "monitoring.alerts=true",
        "extraArgs={run}",
        "packetLog=everything",
        "stateDir=relative",
        "seccompLocalhostProfile=/var/lib/kubelet/seccomp/gwfilter.json",
    ] {
        let flag = if values.ends_with("[]") {
            "--set-json"
        } else {
            "--set"
        };
        let output = helm(&[flag, values]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values} was taken");
        assert!(errors.contains("schema"), "{values}: {errors}");
    }
}

#[test]
fn version_of_the_workspace_then_that_of_the_image_in_the_base() {
    let wanted = format!("localhost/gwfilter:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container(&kustomize("base"))["image"], wanted);
}

#[test]
fn roles_then_reading_by_kind_and_writing_of_events_only() {
    let objects = kustomize("base");
    // For people, who are bound to it by themselves.
    let plugin = "Role gwfilter-system/gwfilter-plugin";
    assert!(objects.contains_key(plugin));
    for (name, binding) in objects.iter().filter(|(name, _)| name.contains("RoleBinding ")) {
        assert_ne!(binding["roleRef"]["name"], "gwfilter-plugin", "{name}");
        assert_ne!(binding["roleRef"]["name"], "gwfilter-metrics", "{name}");
    }
    let roles = objects
        .iter()
        .filter(|(name, _)| name.contains("Role ") && *name != plugin);
    let mut rules = 0;
    for (name, role) in roles {
        for rule in role["rules"].as_array().unwrap() {
            rules += 1;
            let list = |key: &str| -> Vec<&str> {
                let values = rule[key].as_array().map(Vec::as_slice).unwrap_or_default();
                values.iter().map(|value| value.as_str().unwrap()).collect()
            };
            let (resources, verbs) = (list("resources"), list("verbs"));
            let allowed: &[&str] = match resources.as_slice() {
                ["events"] => &["create", "patch"],
                // Questions, which the API server keeps nothing of.
                ["tokenreviews" | "subjectaccessreviews"] => &["create"],
                // A right that others are given, to read what the agent says.
                [] => {
                    assert_eq!(verbs, ["get"], "{name}");
                    for path in list("nonResourceURLs") {
                        let ours = path == "/metrics" || path.starts_with("/v1/");
                        assert!(ours && !path.contains('*'), "{name}: {path}");
                    }
                    continue;
                }
                // Where names are given, one object may be got.
                ["configmaps" | "daemonsets"] => &["get", "list", "watch"],
                _ => &["list", "watch"],
            };
            assert_eq!(verbs, allowed, "{name}: {resources:?}");
            let named = !list("resourceNames").is_empty();
            assert_eq!(named, verbs.contains(&"get"), "{name}: {resources:?} by name");
            for resource in resources {
                assert!(!resource.contains(['*', '/']), "{name}: {resource}");
                assert_ne!(resource, "secrets");
            }
        }
    }
    assert_eq!(rules, 13);
}

#[test]
fn container_then_three_capabilities_and_no_way_to_more() {
    let objects = kustomize("base");
    let security = &container(&objects)["securityContext"];
    assert_eq!(
        security["capabilities"],
        json!({"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]})
    );
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    let pod = &objects["DaemonSet gwfilter-system/gwfilter"]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["hostNetwork"], true);
    for other in ["hostPID", "hostIPC"] {
        assert_eq!(pod[other], Value::Null);
    }
}
