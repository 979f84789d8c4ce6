use serde_json::json;

use super::*;

fn codes(diagnostics: &[Diagnostic]) -> Vec<&'static str> {
    diagnostics.iter().map(|d| d.code).collect()
}

#[test]
fn every_kind_and_version_then_decoded_to_an_object_of_its_key() {
    for (kind, name, group, versions) in KINDS {
        for version in *versions {
            let document = json!({"apiVersion": join(group, version), "kind": name, "data": {"mesh": ""},
                                  "metadata": {"name": "istio", "namespace": "n"}});
            let (objects, diagnostics) = decode(&document);
            assert_eq!(diagnostics, [], "{name}");
            let [object] = &objects[..] else {
                panic!("{name} {version}: {objects:?}")
            };
            assert!(!matches!(object, Object::Refused(_)), "{name}");
            let namespace = if kind.is_namespaced() { "n" } else { "" };
            let want = Key {
                kind: *kind,
                namespace: namespace.to_owned(),
                name: "istio".to_owned(),
            };
            assert_eq!(object.key(), Some(want));
        }
    }
}

#[test]
fn lists_then_their_items_one_by_one() {
    let item = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    let bare = json!({"metadata": {"name": "b"}});
    let cases = [
        (
            json!({"apiVersion": "v1", "kind": "List", "items": [item, item]}),
            2,
        ),
        (
            json!({"apiVersion": "v1", "kind": "NamespaceList", "items": [bare, item]}),
            2,
        ),
        (
            json!({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "List", "items": [item]}]}),
            1,
        ),
        (json!({"apiVersion": "v1", "kind": "List", "items": null}), 0),
    ];
    for (document, want) in cases {
        let (objects, diagnostics) = decode(&document);
        assert_eq!(diagnostics, [], "{document}");
        assert_eq!(
            objects
                .iter()
                .filter(|o| matches!(o, Object::Namespace(_)))
                .count(),
            want,
            "{document}"
        );
    }
}

#[test]
fn documents_that_are_no_objects_of_ours_then_a_diagnostic() {
    let policy = |api_version: &str, metadata: Value| json!({"apiVersion": api_version, "kind": "AuthorizationPolicy", "metadata": metadata});
    let named = json!({"name": "p", "namespace": "n"});
    // Document, codes, whether something is refused (and so a possible hole).
    let cases: Vec<(Value, &[&str], bool)> = vec![
        (
            json!({"kind": "VirtualService", "apiVersion": "networking.istio.io/v1", "metadata": named}),
            &["ignored-kind"],
            false,
        ),
        (
            json!({"kind": "Gateway", "apiVersion": "example.com/v1", "metadata": named}),
            &["ignored-kind"],
            false,
        ),
        (json!({"a": 1}), &["no-kind"], false),
        (json!([]), &["no-kind"], false),
        (
            json!({"kind": "AuthorizationPolicy", "metadata": named}),
            &["no-kind"],
            true,
        ),
        (
            policy("policy.linkerd.io/v1alpha1", named.clone()),
            &["ignored-kind"],
            false,
        ),
        (
            policy("security.istio.io/v2", named.clone()),
            &["unsupported-version"],
            true,
        ),
        (
            policy("security.istio.io/v1", json!({})),
            &["unreadable-object"],
            true,
        ),
        (
            policy(
                "security.istio.io/v1",
                json!({"name": "p", "annotations": {"istio.io/dry-run": true}}),
            ),
            &["unreadable-object"],
            true,
        ),
        (
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "x", "labels": {"a": 1}}}),
            &[],
            false,
        ),
        (
            json!({"kind": "List", "apiVersion": "v1", "items": "x"}),
            &["unreadable-list"],
            true,
        ),
    ];
    for (document, want, refused) in cases {
        let (objects, diagnostics) = decode(&document);
        assert_eq!(codes(&diagnostics), want, "{document}");
        assert_eq!(
            objects.iter().any(|o| matches!(o, Object::Refused(_))),
            refused,
            "{document}"
        );
        assert!(
            objects.iter().all(|o| matches!(o, Object::Refused(_))),
            "{document}"
        );
    }
}

#[test]
fn policy_without_a_spec_then_null_and_with_any_spec_then_kept_as_it_is() {
    for spec in [json!(null), json!({}), json!("nonsense"), json!({"rules": 1})] {
        let document = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                              "metadata": {"name": "p"}, "spec": spec});
        let (objects, diagnostics) = decode(&document);
        assert_eq!(diagnostics, []);
        let [Object::AuthorizationPolicy(policy)] = &objects[..] else {
            panic!("{objects:?}")
        };
        assert_eq!(
            (policy.spec.value().unwrap(), policy.meta.namespace.as_str()),
            (spec, "default")
        );
    }
}

#[test]
fn a_spec_as_text_then_the_same_value_the_same_on_the_disk_and_equal_whatever_the_order_it_was_written_in() {
    let spec = json!({"rules": [{"to": [{"operation": {"ports": ["1"]}}], "from": []}], "action": "DENY"});
    let kept = authorization_policy::Spec::from(&spec);
    assert_eq!((kept.value().unwrap(), kept.objects()), (spec.clone(), 4));
    assert_eq!(serde_json::to_value(&kept).unwrap(), spec);
    let read: authorization_policy::Spec = serde_json::from_str(
        r#"{"rules": [{"from": [], "to": [{"operation": {"ports": ["1"]}}]}], "action": "DENY"}"#,
    )
    .unwrap();
    assert_eq!(read, kept);
    // Deeper than JSON is read: an error, and never an empty spec, which would refuse everyone.
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    assert!(authorization_policy::Spec::from(deep).value().is_err());
}
