//! Whether a DaemonSet still wants its pod on a node, from the object as the API server has it. Pure and total.
//!
//! It is asked when the agent is told to end: only what certainly says no counts, everything that is not understood says yes.

use std::collections::BTreeMap;

use serde_json::Value;

/// What becomes of a DaemonSet's pod on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The DaemonSet wants a pod on it, for all that is known: this is an upgrade, or a restart.
    Stays,
    /// The API server does not tell.
    Unknown,
    /// The DaemonSet is deleted.
    Gone,
    /// The DaemonSet is being deleted.
    Deleting,
    /// Its namespace is being deleted.
    NamespaceDeleting,
    /// Its node selector or affinity selects other nodes.
    Elsewhere,
}

/// What becomes of the pod on a node of this name, with these labels; `None`: they are not known.
#[must_use]
pub fn fate(daemonset: &Value, node: &str, labels: Option<&BTreeMap<String, String>>) -> Fate {
    if deleted(daemonset) {
        return Fate::Deleting;
    }
    let spec = daemonset.pointer("/spec/template/spec");
    match (spec, labels) {
        (Some(spec), Some(labels)) if !selects(spec, node, labels) => Fate::Elsewhere,
        _ => Fate::Stays,
    }
}

/// Whether an object is being deleted.
#[must_use]
pub fn deleted(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|at| !at.is_null())
}

/// Kubernetes: `component-helpers/scheduling/corev1/nodeaffinity`, `GetRequiredNodeAffinity`.
fn selects(spec: &Value, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let wanted = spec.get("nodeSelector").and_then(Value::as_object);
    let by_selector = wanted
        .into_iter()
        .flatten()
        .all(|(key, value)| match value.as_str() {
            Some(value) => labels.get(key).is_some_and(|v| v == value),
            None => true,
        });
    let terms = spec
        .pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
        .and_then(Value::as_array);
    // Terms are alternatives; one without any requirement selects nothing.
    by_selector && terms.is_none_or(|terms| terms.iter().any(|term| term_selects(term, node, labels)))
}

fn term_selects(term: &Value, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let list = |key: &str| {
        term.get(key)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    let (expressions, fields) = (list("matchExpressions"), list("matchFields"));
    let by_label = |e: &Value| {
        holds(
            e,
            text(e, "key").and_then(|key| labels.get(key)).map(String::as_str),
        )
    };
    let by_field = |e: &Value| text(e, "key") != Some("metadata.name") || holds(e, Some(node));
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(by_label)
        && fields.iter().all(by_field)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn holds(expression: &Value, value: Option<&str>) -> bool {
    let values = expression.get("values").and_then(Value::as_array);
    let values: Vec<&str> = values.into_iter().flatten().filter_map(Value::as_str).collect();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let ordered = |wanted: fn(i64, i64) -> bool| {
        number(value)
            .zip(number(values.first().copied()))
            .is_some_and(|(have, limit)| wanted(have, limit))
    };
    match text(expression, "operator") {
        Some("In") => value.is_some_and(|v| values.contains(&v)),
        Some("NotIn") => value.is_none_or(|v| !values.contains(&v)),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        Some("Gt") => ordered(|have, limit| have > limit),
        Some("Lt") => ordered(|have, limit| have < limit),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: Value, wanted: Fate) {
        let set = json!({"spec": {"template": {"spec": spec}}});
        let labels = [("kubernetes.io/os", "linux"), ("edge", "yes"), ("rank", "7")];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(fate(&set, "node-1", Some(&labels)), wanted, "{set}");
        assert_eq!(
            fate(&set, "node-1", None),
            Fate::Stays,
            "of labels that are not known nothing follows"
        );
    }

    fn affinity(terms: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
        affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
    }

    #[test]
    fn a_selector_that_holds_or_not_then_a_pod_or_elsewhere() {
        check(json!({}), Fate::Stays);
        check(
            json!({"nodeSelector": {"kubernetes.io/os": "linux", "edge": "yes"}}),
            Fate::Stays,
        );
        check(
            json!({"nodeSelector": {"kubernetes.io/os": "linux", "edge": "no"}}),
            Fate::Elsewhere,
        );
        check(json!({"nodeSelector": {"missing": ""}}), Fate::Elsewhere);
        for (operator, values, wanted) in [
            ("In", &["no", "yes"][..], Fate::Stays),
            ("In", &["no"], Fate::Elsewhere),
            ("NotIn", &["no"], Fate::Stays),
            ("NotIn", &["yes"], Fate::Elsewhere),
            ("Exists", &[], Fate::Stays),
            ("DoesNotExist", &[], Fate::Elsewhere),
        ] {
            check(expression("edge", operator, values), wanted);
        }
        for (operator, limit, wanted) in [
            ("Gt", "6", Fate::Stays),
            ("Gt", "7", Fate::Elsewhere),
            ("Lt", "8", Fate::Stays),
            ("Lt", "7", Fate::Elsewhere),
            ("Lt", "x", Fate::Elsewhere),
        ] {
            check(expression("rank", operator, &[limit]), wanted);
        }
        check(expression("missing", "DoesNotExist", &[]), Fate::Stays);
        check(expression("missing", "NotIn", &["x"]), Fate::Stays);
    }

    #[test]
    fn terms_then_any_of_them_and_all_within_one() {
        let yes = json!({"key": "edge", "operator": "Exists"});
        let no = json!({"key": "edge", "operator": "DoesNotExist"});
        check(
            affinity(json!([{"matchExpressions": [no]}, {"matchExpressions": [yes]}])),
            Fate::Stays,
        );
        check(
            affinity(json!([{"matchExpressions": [no, yes]}])),
            Fate::Elsewhere,
        );
        check(affinity(json!([{}])), Fate::Elsewhere);
        let named = |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        check(affinity(named("node-1")), Fate::Stays);
        check(affinity(named("node-2")), Fate::Elsewhere);
    }

    #[test]
    fn what_is_not_understood_then_a_pod() {
        for spec in [
            json!(null),
            json!([1]),
            json!({"nodeSelector": 5, "affinity": "x"}),
            json!({"nodeSelector": {"a": 5}}),
            expression("edge", "Resembles", &["x"]),
        ] {
            check(spec, Fate::Stays);
        }
        for set in [
            json!(null),
            json!({}),
            json!({"metadata": {"deletionTimestamp": null}}),
        ] {
            assert_eq!(fate(&set, "n", Some(&BTreeMap::new())), Fate::Stays);
        }
    }

    #[test]
    fn being_deleted_then_nothing() {
        let set = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(fate(&set, "n", None), Fate::Deleting);
    }
}
