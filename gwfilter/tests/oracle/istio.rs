//! Istio's reading of AuthorizationPolicies, written a second time: policy objects in, Envoy RBAC filters out.
//!
//! It follows istio/istio `pilot/pkg/security/authz/{builder,model,matcher}` and `pilot/pkg/model/policyattachment.go` and
//! uses nothing of gwfilter, so that a misreading there shows as a disagreement here. CUSTOM is left out: an external
//! authorizer can only refuse more.

use serde_json::{Map, Value, json};

use crate::matcher::{Fault, Kind, match_value};
use crate::set::{Chain, Placed, Set, TcpServer};

/// The RBAC filters of a chain in their order: AUDIT, DENY, ALLOW; each is `{"rules":…,"shadow_rules":…}` in the form that
/// the HTTP and the network filter share.
pub(crate) fn rbac_filters(placed: &Placed, chain: Chain) -> Vec<Value> {
    let set = &placed.set;
    if chain == Chain::Tcp && set.tcp_server == TcpServer::AutoPassthrough {
        return Vec::new();
    }
    let attached: Vec<&Value> = set
        .policies
        .iter()
        .filter(|policy| attaches(set, policy))
        .collect();
    ["AUDIT", "DENY", "ALLOW"]
        .iter()
        .filter_map(|action| bucket(&attached, action, chain, set.old_istiod))
        .collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn action(policy: &Value) -> &str {
    text(policy, "/spec/action").unwrap_or("ALLOW")
}

/// `ShouldAttachPolicy`, and which policies istiod sees at all.
fn attaches(set: &Set, policy: &Value) -> bool {
    let namespace = text(policy, "/metadata/namespace").unwrap_or("default");
    if namespace != set.namespace && namespace != set.root_namespace {
        return false;
    }
    if let Some(revision) = policy
        .pointer("/metadata/labels/istio.io~1rev")
        .and_then(Value::as_str)
    {
        let kept = match set.revision.as_deref() {
            None | Some("default") => set.foreign_revisions_kept,
            Some(own) => own == revision,
        };
        if !kept {
            return false;
        }
    }
    let mut refs: Vec<&Value> = policy
        .pointer("/spec/targetRefs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    if refs.is_empty() {
        refs.extend(policy.pointer("/spec/targetRef"));
    }
    if !refs.is_empty() {
        return set.gateway_api
            && namespace == set.namespace
            && refs.iter().any(|target| {
                text(target, "/kind") == Some("Gateway")
                    && text(target, "/group") == Some("gateway.networking.k8s.io")
                    && text(target, "/name") == Some("gw")
                    && text(target, "/namespace").is_none_or(|ns| ns.is_empty() || ns == namespace)
            });
    }
    let labels = set.labels();
    policy
        .pointer("/spec/selector/matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|wanted| {
            wanted.iter().all(|(key, value)| {
                labels
                    .iter()
                    .any(|(k, v)| k == key && Some(v.as_str()) == value.as_str())
            })
        })
}

/// Go's `strconv.ParseBool` on the annotation; what it refuses is enforced.
fn dry_run(policy: &Value) -> bool {
    policy
        .pointer("/metadata/annotations/istio.io~1dry-run")
        .and_then(Value::as_str)
        .is_some_and(|value| matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True"))
}

/// What Istio writes for a policy without rules, so that it still turns on the default.
fn never_match() -> Value {
    json!({
        "permissions": [{"not_rule": {"any": true}}],
        "principals": [{"not_id": {"any": true}}],
    })
}

fn bucket(attached: &[&Value], wanted: &str, chain: Chain, old: bool) -> Option<Value> {
    let mut enforced: Option<Map<String, Value>> = None;
    let mut shadow: Option<Map<String, Value>> = None;
    for policy in attached.iter().filter(|policy| action(policy) == wanted) {
        let into = if dry_run(policy) {
            &mut shadow
        } else {
            &mut enforced
        }
        .get_or_insert_default();
        let (namespace, name) = (
            text(policy, "/metadata/namespace").unwrap_or("default"),
            text(policy, "/metadata/name").unwrap_or_default(),
        );
        let id = |index: usize| format!("ns[{namespace}]-policy[{name}]-rule[{index}]");
        let rules: Vec<&Value> = policy
            .pointer("/spec/rules")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        for (index, rule) in rules.iter().enumerate() {
            if rule.is_null() {
                continue;
            }
            if let Ok(generated) = generate(rule, namespace, wanted, chain, old) {
                into.insert(id(index), generated);
            }
        }
        if rules.is_empty() {
            into.insert(id(0), never_match());
        }
    }
    if enforced.is_none() && shadow.is_none() {
        return None;
    }
    let envoy_action = if wanted == "AUDIT" { "LOG" } else { wanted };
    let mut config = Map::new();
    if let Some(policies) = enforced {
        config.insert(
            "rules".to_owned(),
            json!({"action": envoy_action, "policies": policies}),
        );
    }
    if let Some(policies) = shadow {
        config.insert(
            "shadow_rules".to_owned(),
            json!({"action": envoy_action, "policies": policies}),
        );
        config.insert(
            "shadow_rules_stat_prefix".to_owned(),
            json!(format!("istio_dry_run_{}_", wanted.to_lowercase())),
        );
    }
    Some(Value::Object(config))
}

/// One field with its values: a generator and what it is applied to.
struct Field {
    kind: Kind,
    key: String,
    values: Vec<String>,
    not_values: Vec<String>,
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|item| item.as_str().map_or_else(|| item.to_string(), ToOwned::to_owned))
        .collect()
}

/// The fields of `source` and `operation`: positive name, negative name, what generates them, and the key.
const SOURCE: [(&str, &str, Kind); 7] = [
    ("ipBlocks", "notIpBlocks", Kind::SourceIp),
    ("remoteIpBlocks", "notRemoteIpBlocks", Kind::RemoteIp),
    ("namespaces", "notNamespaces", Kind::SourceNamespace),
    (
        "serviceAccounts",
        "notServiceAccounts",
        Kind::SourceServiceAccount,
    ),
    ("trustDomains", "notTrustDomains", Kind::SourceTrustDomain),
    (
        "requestPrincipals",
        "notRequestPrincipals",
        Kind::RequestPrincipal,
    ),
    ("principals", "notPrincipals", Kind::SourcePrincipal),
];
const OPERATION: [(&str, &str, Kind); 4] = [
    ("ports", "notPorts", Kind::DestinationPort),
    ("paths", "notPaths", Kind::Path),
    ("methods", "notMethods", Kind::Method),
    ("hosts", "notHosts", Kind::Host),
];

/// `Model.New`'s reading of a `when` key.
fn when_kind(key: &str) -> Option<Kind> {
    Some(match key {
        "source.ip" => Kind::SourceIp,
        "remote.ip" => Kind::RemoteIp,
        "source.namespace" => Kind::SourceNamespace,
        "source.principal" => Kind::SourcePrincipal,
        "source.serviceAccount" => Kind::SourceServiceAccount,
        "source.trustDomain" => Kind::SourceTrustDomain,
        "request.auth.principal" => Kind::RequestPrincipal,
        "request.auth.audiences" => Kind::Audiences,
        "request.auth.presenter" => Kind::Presenter,
        "destination.ip" => Kind::DestinationIp,
        "destination.port" => Kind::DestinationPort,
        "connection.sni" => Kind::Sni,
        _ if key.starts_with("request.headers") => Kind::Header,
        _ if key.starts_with("request.auth.claims") => Kind::Claim,
        _ if key.starts_with("experimental.envoy.filters.") => Kind::EnvoyFilter,
        _ => return None,
    })
}

fn generate(rule: &Value, namespace: &str, action: &str, chain: Chain, old: bool) -> Result<Value, Fault> {
    let mut whens = Vec::new();
    for when in rule.get("when").and_then(Value::as_array).into_iter().flatten() {
        let key = text(when, "/key").unwrap_or_default();
        let kind = when_kind(key)
            .filter(|kind| !(old && kind.recent()))
            .ok_or(Fault)?;
        whens.push(Field {
            kind,
            key: key.to_owned(),
            values: strings(when.get("values")),
            not_values: strings(when.get("notValues")),
        });
    }
    let entries = |list: &str, inner: &str, table: &[(&str, &str, Kind)], destination: bool| {
        let whens = || {
            whens
                .iter()
                .filter(move |field| field.kind.of_destination() == destination)
        };
        let written: Vec<&Value> = rule
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        let mut out: Vec<Value> = Vec::new();
        for entry in &written {
            let mut matchers = Vec::new();
            for (yes, no, kind) in table.iter().filter(|(_, _, kind)| !(old && kind.recent())) {
                let field = Field {
                    kind: *kind,
                    key: String::new(),
                    values: strings(entry.get(inner).and_then(|object| object.get(*yes))),
                    not_values: strings(entry.get(inner).and_then(|object| object.get(*no))),
                };
                matchers.extend(field_matchers(&field, namespace, action, chain)?);
            }
            for field in whens() {
                matchers.extend(field_matchers(field, namespace, action, chain)?);
            }
            out.push(all_of(matchers, destination));
        }
        if written.is_empty() {
            let mut matchers = Vec::new();
            for field in whens() {
                matchers.extend(field_matchers(field, namespace, action, chain)?);
            }
            out.push(all_of(matchers, destination));
        }
        Ok(out)
    };
    Ok(json!({
        "permissions": entries("to", "operation", &OPERATION, true)?,
        "principals": entries("from", "source", &SOURCE, false)?,
    }))
}

fn all_of(mut matchers: Vec<Value>, destination: bool) -> Value {
    if matchers.is_empty() {
        matchers.push(json!({"any": true}));
    }
    if destination {
        json!({"and_rules": {"rules": matchers}})
    } else {
        json!({"and_ids": {"ids": matchers}})
    }
}

fn any_of(matchers: &[Value], destination: bool) -> Value {
    if destination {
        json!({"or_rules": {"rules": matchers}})
    } else {
        json!({"or_ids": {"ids": matchers}})
    }
}

/// At most two matchers: one for the values, one for the negated ones. A value that cannot be written is an error of the
/// whole rule under ALLOW, and simply missing otherwise.
fn field_matchers(field: &Field, namespace: &str, action: &str, chain: Chain) -> Result<Vec<Value>, Fault> {
    let destination = field.kind.of_destination();
    let collect = |values: &[String]| {
        let mut matchers = Vec::new();
        for value in values {
            match match_value(field.kind, &field.key, value, namespace, chain) {
                Ok(matcher) => matchers.push(matcher),
                Err(fault) if action == "ALLOW" => return Err(fault),
                Err(Fault) => {}
            }
        }
        Ok(matchers)
    };
    let mut out = Vec::new();
    let positive = collect(&field.values)?;
    if !positive.is_empty() {
        out.push(any_of(&positive, destination));
    }
    let negative = collect(&field.not_values)?;
    if !negative.is_empty() {
        let inner = any_of(&negative, destination);
        out.push(if destination {
            json!({"not_rule": inner})
        } else {
            json!({"not_id": inner})
        });
    }
    Ok(out)
}
