//! `gwfilter check`: reports, exit codes and bad input.

mod cli;

use std::fs;
use std::path::Path;

use cli::{Run, beside, gwfilter, ingress};
use serde_json::Value;

fn check(from: &Path) -> Run {
    gwfilter(&["check", "--from", &from.to_string_lossy()], b"")
}

fn check_json(input: &str) -> (Run, Value) {
    let run = gwfilter(&["check", "--from", "-", "-o", "json"], input.as_bytes());
    let json = run.json();
    (run, json)
}

/// Codes of the diagnostics of one severity, with their objects.
fn found(json: &Value, severity: &str) -> Vec<String> {
    let all = json["diagnostics"].as_array().into_iter().flatten();
    all.filter(|d| d["severity"] == severity)
        .map(|d| {
            format!(
                "{} {}",
                d["code"].as_str().unwrap_or(""),
                d["object"].as_str().unwrap_or("")
            )
        })
        .collect()
}

#[test]
fn check_given_the_example_then_the_kept_text() {
    let golden = beside("manifests/ingress.check.txt");
    let run = check(&beside("manifests/ingress.yaml"));
    if std::env::var_os("GWFILTER_BLESS").is_some() {
        fs::write(&golden, &run.out).unwrap();
    }
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    let kept = fs::read_to_string(&golden).unwrap();
    assert_eq!(
        run.out, kept,
        "run again with GWFILTER_BLESS=1 if the new text is the better one"
    );
}

fn check_text(input: &str) -> String {
    gwfilter(&["check", "--from", "-"], input.as_bytes()).out
}

#[test]
fn check_given_policies_that_drop_nobody_then_the_headline_does_not_say_enforced() {
    let (objects, _) = ingress()
        .split_once("---\napiVersion: security.istio.io/v1\n")
        .map(|(objects, rest)| (objects.to_owned(), rest.to_owned()))
        .unwrap();
    let policy = |spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: istio-system}}\n\
             spec: {spec}\n"
        )
    };
    let here = "rules: [{from: [{source: {ipBlocks: [\"1.2.3.4\"]}}]}]";
    let path = "rules: [{to: [{operation: {paths: [\"/x\"]}}]}]";
    for (policies, headline, sum) in [
        (
            String::new(),
            "nothing to drop: no policy applies",
            "nothing to drop",
        ),
        (
            policy(&format!("{{action: DENY, {path}}}")),
            "nothing to drop: no rule refuses anybody by what the node sees",
            "nothing to drop",
        ),
        (
            policy(&format!("{{action: AUDIT, {here}}}")),
            "nothing to drop: no rule refuses anybody by what the node sees",
            "nothing to drop",
        ),
        (
            policy("{action: DENY}"),
            "nothing to drop: no rule refuses anybody by what the node sees",
            "nothing to drop",
        ),
        (
            policy(&format!("{{action: DENY, {here}}}")),
            "would be enforced",
            "would be enforced",
        ),
        (
            policy("{action: ALLOW}"),
            "would be enforced",
            "would be enforced",
        ),
        (policy("{}"), "would be enforced", "would be enforced"),
    ] {
        let text = check_text(&format!("{objects}{policies}"));
        let first = format!("gateway istio-system/istio-ingressgateway - {headline}\n");
        assert!(text.starts_with(&first), "{policies}: {text}");
        assert!(
            text.contains(&format!(
                "\n1 gateway, {sum} (from these files; what a node does now: `gwfilter status`)\n"
            )),
            "{policies}: {text}"
        );
    }
}

#[test]
fn check_given_a_port_that_no_server_names_then_its_destinations_are_told_as_left_and_the_others_are_not() {
    let server = "    - port: {number: 443, name: https, protocol: HTTPS}\n      hosts: [\"*\"]\n      tls: {mode: SIMPLE, credentialName: public}\n";
    assert!(ingress().contains(server));
    let text = check_text(&ingress().replace(server, ""));
    assert!(
        text.contains("  ! no-server: port https (8443 of its pods): "),
        "{text}"
    );
    for (destination, left) in [
        ("203.0.113.10:443/tcp", true),
        ("10.244.1.5:8443/tcp", true),
        ("203.0.113.10:80/tcp", false),
        ("203.0.113.10:443/udp", false),
    ] {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(destination))
            .unwrap();
        assert_eq!(line.ends_with(": left to the gateway"), left, "{line}");
    }
}

#[test]
fn check_given_a_reason_with_two_ways_to_mend_it_then_it_stays_one_and_each_way_has_a_line() {
    let text = ingress().replace(
        "args: [proxy, router]",
        "args: [proxy, router], env: [{name: PROXY_CONFIG, value: '{\"gatewayTopology\": {\"numTrustedProxies\": 1}}'}]",
    );
    let text = check_text(&text);
    let lines: Vec<&str> = text.lines().collect();
    for (first, further) in [("  ! ", "      "), ("            - ", "                ")] {
        let at = lines
            .iter()
            .position(|line| line.starts_with(&format!("{first}x-forwarded-for-not-enforced: ")))
            .unwrap();
        assert!(
            lines[at].ends_with("so every policy is left to the gateway"),
            "{text}"
        );
        for (line, begin) in [
            (lines[at + 1], "either: if no"),
            (lines[at + 2], "or: if the sign misleads, "),
        ] {
            assert!(line.starts_with(&format!("{further}{begin}")), "{line} in {text}");
        }
        assert!(!lines[at + 3].starts_with(further), "{text}");
    }
}

#[test]
fn run_without_a_word_outside_of_a_cluster_then_the_error_says_where_policies_may_come_from() {
    let run = gwfilter(&["run"], b"");
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(
        run.err.contains("--from PATH") && run.err.contains("--node NAME"),
        "{}",
        run.err
    );
}

#[test]
fn check_given_none_of_a_kind_then_named_and_one_that_is_given_or_broken_is_not() {
    let named = |input: &str| -> Vec<String> {
        let (_, json) = check_json(input);
        let names = json["not_given"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let none = named(&ingress());
    assert!(
        none.contains(&"EnvoyFilter".to_owned()) && none.contains(&"WasmPlugin".to_owned()),
        "{none:?}"
    );
    for (spec, what) in [("{}", "given"), ("[]", "broken")] {
        let filter = format!(
            "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
        );
        let fewer = named(&format!("{}\n{filter}", ingress()));
        let wanted: Vec<&String> = none.iter().filter(|name| *name != "EnvoyFilter").collect();
        assert_eq!(fewer.iter().collect::<Vec<_>>(), wanted, "{what}");
    }
    let line = format!("not given, so taken as not there: {}\n", none.join(", "));
    assert!(check_text(&ingress()).contains(&line));
}

#[test]
fn check_given_json_then_exactly_the_public_keys() {
    let (run, json) = check_json(&ingress());
    assert_eq!(run.code, Some(0));
    let keys = |v: &Value| {
        v.as_object()
            .map(|o| o.keys().cloned().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    assert_eq!(keys(&json), ["diagnostics", "gateways", "not_given"]);
    assert_eq!(
        json["gateways"].as_array().unwrap().len(),
        1,
        "the mail service is no gateway"
    );
    let gateway = &json["gateways"][0];
    assert_eq!(gateway["name"], "istio-system/istio-ingressgateway");
    assert_eq!(gateway["client_address"], "packet-source");
    assert_eq!(
        (&gateway["enforced"], &gateway["refuses"]),
        (&true.into(), &true.into())
    );
    assert!(gateway["why"].is_array());
    for tuple in [
        "203.0.113.10:80/tcp",
        "[2001:db8::10]:443/tcp",
        "203.0.113.10:443/udp",
        "198.51.100.7:30080/tcp",
        "10.244.1.5:8080/tcp",
    ] {
        assert!(
            gateway["tuples"].as_array().unwrap().iter().any(|t| t == tuple),
            "{tuple}: {gateway:#}"
        );
    }
    let rules: Vec<(String, String)> = gateway["policies"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|p| p["rules"].as_array().unwrap())
        .map(|r| {
            (
                r["id"].as_str().unwrap().to_owned(),
                r["enforced_at"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let rule = |policy: &str, n: usize| format!("ns[istio-system]-policy[{policy}]-rule[{n}]");
    for (id, at) in [
        (rule("ingress-policy", 0), "node"),
        (rule("ingress-policy", 1), "node"),
        (rule("blocklist", 0), "node"),
        (rule("blocklist", 1), "gateway"),
    ] {
        assert!(
            rules.contains(&(id.clone(), at.to_owned())),
            "{id} is not at {at}: {rules:?}"
        );
    }
    let dry: Vec<&Value> = gateway["policies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["dry_run"] == true)
        .collect();
    assert_eq!(dry.len(), 1);
    assert_eq!(dry[0]["name"], "istio-system/tomorrow");
    for d in json["diagnostics"].as_array().unwrap() {
        assert_eq!(keys(d), ["code", "message", "object", "severity"]);
    }
}

#[test]
fn check_given_the_same_objects_in_other_forms_then_the_same_report() {
    let (_, plain) = check_json(&ingress());
    let bom_crlf = format!("\u{feff}{}", ingress().replace('\n', "\r\n"));
    let documents: Vec<Value> = ingress()
        .split("\n---\n")
        .map(|d| serde_yaml::from_str(d).unwrap())
        .collect();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": documents}).to_string();
    let stream: String = documents.iter().map(|d| format!("{d}\n")).collect();
    for (form, text) in [
        ("BOM and CRLF", &bom_crlf),
        ("kind: List", &list),
        ("JSON stream", &stream),
    ] {
        let (run, json) = check_json(text);
        assert_eq!(run.code, Some(0), "{form}: {run:#?}");
        assert_eq!(json, plain, "{form}");
    }
}

#[test]
fn check_given_a_directory_then_its_files_count_together_and_a_broken_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<String> = ingress().split("\n---\n").map(str::to_owned).collect();
    for (i, d) in documents.iter().enumerate() {
        fs::write(dir.path().join(format!("{i}.yml")), d).unwrap();
    }
    fs::write(dir.path().join("README.md"), "no manifest: {").unwrap();
    let whole = check(dir.path());
    assert_eq!(whole.code, Some(0), "{whole:#?}");
    fs::write(dir.path().join("broken.yaml"), "kind: Service\n  metadata: [").unwrap();
    let run = gwfilter(
        &["check", "-o", "json", "--from", &dir.path().to_string_lossy()],
        b"",
    );
    assert_eq!(run.code, Some(1), "{run:#?}");
    let json = run.json();
    assert!(
        found(&json, "error")
            .iter()
            .any(|d| d.starts_with("unreadable-input File ") && d.ends_with("broken.yaml")),
        "{json:#}"
    );
    // What the broken file may hold could be another ALLOW rule.
    let why = json["gateways"][0]["why"].to_string();
    assert!(why.contains("incomplete-input: "), "{why}");
}

#[test]
fn check_given_unusable_input_then_one_error_chain_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("broken.yaml"), "a: 1\n---\nkind: [\n").unwrap();
    fs::write(at("latin1.yaml"), b"kind: \xe9").unwrap();
    fs::write(at("blank.yaml"), "\n\n").unwrap();
    // Unreadable for root as well, who may read what nobody may.
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
    for (name, expected) in [
        ("missing", "No such file"),
        ("empty", ".yaml, .yml or .json"),
        ("broken.yaml", "document 2"),
        ("latin1.yaml", "not UTF-8"),
        ("blank.yaml", "is empty"),
        ("loop", "symbolic links"),
    ] {
        let run = check(&at(name));
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{name}: {run:#?}");
        assert!(
            run.err.starts_with("error: ") && run.err.lines().count() == 1,
            "{name}: {run:#?}"
        );
        assert!(
            run.err.contains(expected) && run.err.contains(name),
            "{name}: {run:#?}"
        );
    }
    let run = gwfilter(&["check", "--from", "-"], b"");
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("standard input is empty"), "{run:#?}");
}

#[test]
fn check_given_faulty_objects_then_a_diagnostic_names_each_and_the_rest_counts() {
    let cases = [
        // (what, replaced, by, severity, diagnostic)
        (
            "a bad CIDR",
            "5.6.7.64/26",
            "5.6.7.64/33",
            "error",
            "AuthorizationPolicy istio-system/blocklist",
        ),
        (
            "an unquoted boolean",
            "istio.io/dry-run: \"true\"",
            "istio.io/dry-run: true",
            "error",
            "AuthorizationPolicy istio-system/tomorrow",
        ),
        (
            "a wrong version",
            "security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: blocklist",
            "security.istio.io/v9\nkind: AuthorizationPolicy\nmetadata: {name: blocklist",
            "error",
            "AuthorizationPolicy istio-system/blocklist",
        ),
    ];
    for (what, from, to, severity, object) in cases {
        let text = ingress();
        assert!(text.contains(from), "{what}");
        let (run, json) = check_json(&text.replace(from, to));
        assert_eq!(run.code, Some(1), "{what}: {json:#}");
        assert!(
            found(&json, severity).iter().any(|d| d.ends_with(object)),
            "{what}: {:?}",
            found(&json, severity)
        );
        assert_eq!(
            json["gateways"][0]["name"], "istio-system/istio-ingressgateway",
            "{what}"
        );
    }
}

#[test]
fn check_given_unknown_kinds_then_they_are_passed_over() {
    let more = format!(
        "{}\n---\napiVersion: example.org/v1\nkind: Sprocket\nmetadata: {{name: s}}\nspec: {{teeth: 3}}\n",
        ingress()
    );
    let (run, json) = check_json(&more);
    assert_eq!(run.code, Some(0), "{json:#}");
    let (_, plain) = check_json(&ingress());
    assert_eq!(json["gateways"], plain["gateways"]);
}

#[test]
fn check_given_a_node_that_nothing_speaks_of_then_a_warning_names_those_that_there_are() {
    let from = beside("manifests/ingress.yaml");
    let node = |name: &str| {
        let from = from.to_string_lossy();
        gwfilter(&["check", "-o", "json", "--from", &from, "--node", name], b"").json()
    };
    let json = node("node-b");
    assert_eq!(
        found(&json, "warning").last().map(String::as_str),
        Some("unknown-node Node node-b")
    );
    let text = json["diagnostics"].to_string();
    assert!(text.contains("the names there are: node-a"), "{json:#}");
    assert!(!node("node-a").to_string().contains("unknown-node"));
}

#[test]
fn check_given_a_single_address_as_never_drop_then_taken_and_anything_else_refused() {
    let from = beside("manifests/ingress.yaml");
    let never_drop = |value: &str| {
        gwfilter(
            &["check", "--from", &from.to_string_lossy(), "--never-drop", value],
            b"",
        )
    };
    assert_eq!(never_drop("192.0.2.7,198.51.100.0/24").code, Some(0));
    let run = never_drop("lb.example.com");
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("neither a CIDR nor an address"), "{run:#?}");
}

#[test]
fn check_given_a_service_without_the_wanted_traffic_policy_then_its_destinations_are_left_out_and_it_says_why()
 {
    let text = ingress().replacen(
        "externalTrafficPolicy: Local",
        "externalTrafficPolicy: Cluster",
        1,
    );
    let (run, json) = check_json(&text);
    assert_eq!(run.code, Some(0));
    let gateway = &json["gateways"][0];
    let why = gateway["why"].to_string();
    assert!(why.contains("externalTrafficPolicy"), "{gateway:#}");
    let warnings = found(&json, "warning");
    let expected = "external-traffic-policy-cluster Service istio-system/istio-ingressgateway";
    assert!(warnings.iter().any(|w| w == expected), "{warnings:?}");
    // Only what comes straight to the pod's address is dropped here.
    let at: Vec<&Value> = gateway["policies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["dry_run"] == false)
        .flat_map(|p| p["rules"].as_array().unwrap())
        .map(|r| &r["enforced_at"])
        .collect();
    assert_eq!(at, ["both", "gateway", "both", "both"], "{gateway:#}");
    let tuples = gateway["tuples"].to_string();
    assert!(
        !tuples.contains("203.0.113.10") && !tuples.contains(":30080"),
        "{tuples}"
    );
}
