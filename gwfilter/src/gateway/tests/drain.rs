//! For how long a gateway's Envoys drain: read where `gatewayTopology` is read, and the longest counts.

use std::time::Duration;

use super::*;
use crate::object::drain::Drain;
use crate::pipeline;

const PLAIN: &str = "containers: [{name: istio-proxy, args: [proxy, router]}]";

fn stated(seconds: u64) -> Drain {
    Drain::Stated(Duration::from_secs(seconds))
}

fn env(variable: &str) -> String {
    with(
        POD,
        PLAIN,
        &format!(
            "containers: [{{name: istio-proxy, args: [proxy, router], env: [{{name: PROXY_CONFIG, {variable}}}]}}]"
        ),
    )
}

fn annotation(config: &str) -> String {
    with(
        POD,
        "  namespace: istio-system\n",
        &format!("  namespace: istio-system\n  annotations: {{proxy.istio.io/config: '{config}'}}\n"),
    )
}

fn mesh(name: &str, drain: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: istio-system}}\ndata: {{mesh: \"{{rootNamespace: \
         istio-system, defaultConfig: {{drainDuration: {drain}}}}}\"}}\n---\n"
    )
}

#[test]
fn drain_duration_then_of_the_pod_or_else_of_the_mesh_and_the_longest_of_them() {
    let long = mesh("istio", "300s");
    let second = with(&annotation("drainDuration: 400s"), "name: gw-0", "name: gw-1");
    let operator = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: o}\nspec: {meshConfig: {defaultConfig: \
                    {drainDuration: 200s}}}\n---\n";
    let cases = [
        ("nothing", POD.to_owned(), Drain::Unstated),
        ("mesh", format!("{POD}{long}"), stated(300)),
        ("mesh, without pods", long.clone(), stated(300)),
        (
            "mesh by an IstioOperator",
            format!("{POD}{operator}"),
            stated(200),
        ),
        (
            "two meshes",
            format!("{POD}{long}{}", mesh("istio-canary", "500s")),
            stated(500),
        ),
        (
            "mesh, not readable",
            format!("{POD}{}", mesh("istio", "soon")),
            Drain::Unknown,
        ),
        (
            "annotation over mesh",
            format!("{}{long}", annotation("drainDuration: 10s")),
            stated(10),
        ),
        (
            "annotation without it",
            format!("{}{long}", annotation("concurrency: 2")),
            stated(300),
        ),
        (
            "annotation, not readable",
            annotation("drainDuration: 7"),
            Drain::Unknown,
        ),
        ("annotation that is none", annotation("{"), Drain::Unknown),
        (
            "environment",
            format!("{}{long}", env("value: \"{\\\"drainDuration\\\": \\\"90s\\\"}\"")),
            stated(90),
        ),
        (
            "environment without it",
            format!("{}{long}", env("value: \"{}\"")),
            Drain::Unstated,
        ),
        (
            "environment from elsewhere",
            env("valueFrom: {configMapKeyRef: {}}"),
            Drain::Unknown,
        ),
        (
            "environment with a variable",
            env("value: \"{drainDuration: $(X)}\""),
            Drain::Unknown,
        ),
        (
            "two pods",
            format!("{}{second}", annotation("drainDuration: 300s")),
            stated(400),
        ),
        (
            "two pods, of one not known",
            format!("{}{second}", annotation("drainDuration: x")),
            Drain::Unknown,
        ),
    ];
    for (name, manifests, wanted) in cases {
        // What is not read of the pod keeps its client address from being known, too, unless that is stated.
        let service = annotated("gwfilter.io/client-address: packet-source");
        let found = find_in(&format!("{service}{NODE}{GATEWAY}{manifests}"));
        let told = |code: &str| found.diagnostics.iter().any(|d| d.code == code);
        assert_eq!(told("drain-time-unknown"), wanted == Drain::Unknown, "{name}");
        assert_eq!(
            told("long-drain-time"),
            matches!(wanted, Drain::Stated(d) if d.as_secs() > 45),
            "{name}"
        );
        assert!(!told("unreadable-object"), "{name}");
        let gateway = one(found);
        assert_eq!(gateway.drain, wanted, "{name}");
        assert_eq!(why(&gateway), None, "{name}");
        assert_eq!(
            remarks(&gateway).contains(&"drain-time-unknown"),
            wanted == Drain::Unknown,
            "{name}"
        );
    }
}

/// As the planner gets it: with a margin, and without an end where it is not known.
#[test]
fn a_generation_then_each_destination_has_the_window_of_its_gateway() {
    for (drain, wanted) in [("45s", 60_000), ("300s", 315_000), ("soon", u64::MAX)] {
        let manifests = format!("{SERVICE}{NODE}{POD}{GATEWAY}{}", mesh("istio", drain));
        let mut index = Index::new();
        index.load("m", manifests.as_bytes()).unwrap();
        let settings = pipeline::Settings {
            gateway: files(),
            ..pipeline::Settings::default()
        };
        let built = pipeline::build(&index.snapshot(), &NodeFacts::default(), &settings);
        assert!(!built.desired.tuples.is_empty());
        let windows: BTreeSet<u64> = built.desired.tuples.values().map(|t| t.drain_ms).collect();
        assert_eq!(windows, BTreeSet::from([wanted]), "{drain}");
    }
}
