//! What is known of the mesh as a whole.

use super::*;

fn mesh(name: &str, config: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         {config}\n---\n"
    )
}

fn istiod(env: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: istiod, namespace: istio-system}}\nspec: {{template: \
         {{metadata: {{labels: {{app: istiod}}}}, spec: {{containers: [{{name: discovery, env: [{env}]}}]}}}}}}\n---\n"
    )
}

fn of(manifests: &str) -> Mesh {
    find_in(&format!("{SERVICE}{NODE}{manifests}")).mesh
}

#[test]
fn root_namespace_then_stated_or_default_or_unknown() {
    assert_eq!(of("").root_namespace.as_deref(), Some("istio-system"));
    assert_eq!(
        of(&mesh("istio", "rootNamespace: roots"))
            .root_namespace
            .as_deref(),
        Some("roots")
    );
    assert_eq!(
        of(&mesh("istio-canary", "rootNamespace: roots"))
            .root_namespace
            .as_deref(),
        Some("roots")
    );
    assert_eq!(
        of(&mesh("other", "rootNamespace: roots"))
            .root_namespace
            .as_deref(),
        Some("istio-system")
    );
    assert_eq!(
        of(&mesh("istio", "accessLogFile: /dev/stdout"))
            .root_namespace
            .as_deref(),
        Some("istio-system")
    );
    let two = format!(
        "{}{}",
        mesh("istio", "rootNamespace: roots"),
        mesh("istio-canary", "a: b")
    );
    assert_eq!(of(&two).root_namespace, None);
    let operator = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: o}\nspec: \
                    {meshConfig: {rootNamespace: roots}}\n---\n";
    assert_eq!(of(operator).root_namespace.as_deref(), Some("roots"));
    // In a cluster, not to see it is not to know it.
    let found = find_with(SERVICE, &NodeFacts::default(), &cluster());
    assert_eq!(found.mesh.root_namespace, None);
    assert_eq!(found.mesh.selector_based_gateway_policy, Tri::Unknown);
}

#[test]
fn discovery_selectors_then_uncertain_unless_every_namespace_is_selected() {
    let selectors = mesh("istio", "discoverySelectors: [{matchLabels: {mesh: \"yes\"}}]");
    let expression = mesh(
        "istio",
        "discoverySelectors: [{matchExpressions: [{key: mesh, operator: In, values: [\"yes\"]}]}]",
    );
    let namespace = |name: &str, label: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{mesh: \"{label}\"}}}}\n---\n"
        )
    };
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: foo}\n---\n";
    assert!(!of("").discovery_selectors);
    for selectors in [selectors, expression] {
        assert!(of(&selectors).discovery_selectors);
        assert!(!of(&format!("{selectors}{}", namespace("istio-system", "yes"))).discovery_selectors);
        assert!(of(&format!("{selectors}{}", namespace("istio-system", "no"))).discovery_selectors);
        let foo = format!("{selectors}{policy}{}", namespace("istio-system", "yes"));
        assert!(of(&foo).discovery_selectors);
        assert!(!of(&format!("{foo}{}", namespace("foo", "yes"))).discovery_selectors);
    }
}

#[test]
fn istiod_then_its_revision_and_switch() {
    let switch = |value: &str| {
        istiod(&format!(
            "{{name: ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY, value: \"{value}\"}}"
        ))
    };
    assert_eq!(of("").istiod_revision, None);
    assert_eq!(of(&istiod("")).istiod_revision.as_deref(), Some(""));
    assert_eq!(
        of(&istiod("{name: REVISION, value: canary}"))
            .istiod_revision
            .as_deref(),
        Some("canary")
    );
    let two = format!(
        "{}{}",
        istiod(""),
        with(
            &istiod("{name: REVISION, value: canary}"),
            "name: istiod",
            "name: i2"
        )
    );
    assert_eq!(of(&two).istiod_revision, None);
    assert_eq!(of("").selector_based_gateway_policy, Tri::True);
    assert_eq!(of(&istiod("")).selector_based_gateway_policy, Tri::True);
    assert_eq!(of(&switch("false")).selector_based_gateway_policy, Tri::False);
    assert_eq!(of(&switch("maybe")).selector_based_gateway_policy, Tri::Unknown);
    let other = with(&switch("false"), "name: istiod", "name: i2");
    assert_eq!(
        of(&format!("{}{other}", istiod(""))).selector_based_gateway_policy,
        Tri::Unknown
    );
}

#[test]
fn request_authentication_then_false_only_where_none_can_attach() {
    let object = |kind: &str, namespace: &str, spec: &str| {
        format!("apiVersion: {kind}\nmetadata: {{name: a, namespace: {namespace}}}\nspec: {spec}\n---\n")
    };
    let jwt = "security.istio.io/v1\nkind: RequestAuthentication";
    assert_eq!(of("").request_authentication, Tri::False);
    assert_eq!(of(&object(jwt, "foo", "{}")).request_authentication, Tri::False);
    assert_eq!(
        of(&object(jwt, "istio-system", "{}")).request_authentication,
        Tri::Unknown
    );
    let other = "{selector: {matchLabels: {istio: other}}}";
    assert_eq!(
        of(&object(jwt, "istio-system", other)).request_authentication,
        Tri::False
    );
    // Without pods there may be more labels than the Service's selector says.
    let maybe = "{selector: {matchLabels: {more: x}}}";
    assert_eq!(
        of(&object(jwt, "istio-system", maybe)).request_authentication,
        Tri::Unknown
    );
    assert_eq!(
        of(&format!("{POD}{GATEWAY}{}", object(jwt, "istio-system", maybe))).request_authentication,
        Tri::False
    );
    let wasm = "extensions.istio.io/v1alpha1\nkind: WasmPlugin";
    assert_eq!(
        of(&object(wasm, "istio-system", "{phase: STATS}")).request_authentication,
        Tri::Unknown
    );
}

#[test]
fn revision_of_a_pod_then_from_its_annotation() {
    let run = |annotation: &str| {
        let pod = with(
            POD,
            "  labels:",
            &format!("  annotations: {{{annotation}}}\n  labels:"),
        );
        one(find_in(&format!("{SERVICE}{NODE}{pod}{GATEWAY}"))).workloads[0]
            .revision
            .clone()
    };
    assert_eq!(run("istio.io/rev: default").as_deref(), Some(""));
    assert_eq!(run("istio.io/rev: canary").as_deref(), Some("canary"));
    assert_eq!(run("other: x"), None);
}
