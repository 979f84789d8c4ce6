//! From JSON to [`Policy`]: total, with a diagnostic for everything that will not be enforced as it is written.
//!
//! Four kinds of fault, in order of harm: a value of the wrong *type*, which istiod cannot decode, so that nothing is certain of the whole policy;
//! an unknown field of the spec, likewise; a bad *value* or unknown key, which makes its rule unknown; an unknown field, which makes its entry unknown.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::spec::{Action, Attribute, Entry, Field, Policy, Rule, Target, TargetRef, Values};
use super::value::{parse_bool, parse_port, parse_range};
use crate::diagnostic::{Diagnostic, ObjectRef};
use crate::object::authorization_policy::AuthorizationPolicy;

/// The annotation that keeps a policy from being enforced.
const DRY_RUN: &str = "istio.io/dry-run";
/// The label that ties a policy to a revision of istiod.
const REVISION: &str = "istio.io/rev";

/// Fields of a `source`: name, negated name, what is compared (Istio `security/v1beta1/authorization_policy.proto`).
const SOURCE: [(&str, &str, Attribute); 7] = [
    ("ipBlocks", "notIpBlocks", Attribute::SourceIp),
    ("remoteIpBlocks", "notRemoteIpBlocks", Attribute::RemoteIp),
    ("principals", "notPrincipals", Attribute::Identity),
    ("namespaces", "notNamespaces", Attribute::Identity),
    ("serviceAccounts", "notServiceAccounts", Attribute::NewIdentity),
    ("trustDomains", "notTrustDomains", Attribute::NewIdentity),
    ("requestPrincipals", "notRequestPrincipals", Attribute::Token),
];

/// Fields of an `operation`.
const OPERATION: [(&str, &str, Attribute); 4] = [
    ("ports", "notPorts", Attribute::DestinationPort),
    ("hosts", "notHosts", Attribute::Request),
    ("methods", "notMethods", Attribute::Request),
    ("paths", "notPaths", Attribute::Request),
];

/// A value of the wrong type: what was expected where.
#[derive(Debug)]
struct WrongType(String);

type Decoded<T> = Result<T, WrongType>;

/// Decodes policies; in order of namespace and name.
#[must_use]
pub fn decode<P: Borrow<AuthorizationPolicy>>(policies: &[P]) -> (Vec<Arc<Policy>>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let decode = |object: &P| Arc::new(policy(object.borrow(), &mut diagnostics));
    let mut decoded: Vec<Arc<Policy>> = policies.iter().map(decode).collect();
    decoded.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    (decoded, diagnostics)
}

pub(super) fn policy(object: &AuthorizationPolicy, diagnostics: &mut Vec<Diagnostic>) -> Policy {
    let mut notes = Notes {
        object: object.meta.reference("AuthorizationPolicy"),
        diagnostics,
    };
    let mut policy = Policy {
        namespace: object.meta.namespace.clone(),
        name: object.meta.name.clone(),
        action: Action::Allow,
        dry_run: false,
        revision: object.meta.labels.get(REVISION).cloned(),
        target: Target::default(),
        rules: Vec::new(),
        undecodable: None,
    };
    if let Some(text) = object.meta.annotations.get(DRY_RUN) {
        policy.dry_run = parse_bool(text).unwrap_or_else(|| {
            let message =
                format!("annotation {DRY_RUN}: {text:?} is no boolean, so Istio enforces this policy; write \"true\" or \"false\"");
            notes.diagnostics.push(Diagnostic::error("bad-dry-run", notes.object.clone(), message));
            false
        });
    }
    let empty = Map::new();
    let value = object.spec.value();
    let spec = match &value {
        Ok(Value::Null) => &empty,
        Ok(Value::Object(spec)) => spec,
        other => {
            policy.action = Action::Unknown;
            policy.target.unclear = true;
            let what = match other {
                Ok(other) => format!("spec is {}, not an object", kind_of(other)),
                Err(fault) => format!("spec cannot be read: {fault}"),
            };
            give_up(&mut policy, &mut notes, what);
            return policy;
        }
    };
    policy.action = action(spec.get("action"), &mut notes);
    match target(spec, &mut notes) {
        Ok(target) => policy.target = target,
        Err(WrongType(what)) => {
            policy.target.unclear = true;
            give_up(&mut policy, &mut notes, what);
        }
    }
    for name in spec.keys() {
        if ![
            "action",
            "selector",
            "targetRef",
            "targetRefs",
            "rules",
            "provider",
        ]
        .contains(&name.as_str())
        {
            policy.target.unclear = true;
            give_up(
                &mut policy,
                &mut notes,
                format!("spec.{name} is not a field of this kind"),
            );
        }
    }
    match rules(&policy, spec.get("rules"), &mut notes) {
        Ok(rules) => policy.rules = rules,
        Err(WrongType(what)) => give_up(&mut policy, &mut notes, what),
    }
    if policy.action == Action::Unknown {
        policy
            .undecodable
            .get_or_insert_with(|| "its action is not known".to_owned());
    }
    policy
}

/// Nothing of the policy can be relied on.
fn give_up(policy: &mut Policy, notes: &mut Notes<'_>, what: String) {
    let consequence = match policy.action {
        Action::Deny => "none of its rules is enforced at the node",
        Action::Audit | Action::Custom => "it has no bearing on what the node drops",
        Action::Allow | Action::Unknown => {
            "it may admit anyone, so no client is refused at the node for want of an ALLOW rule wherever this policy may apply"
        }
    };
    notes.error("undecodable-policy", format!("{what}: {consequence}; correct it"));
    policy.undecodable.get_or_insert(what);
}

fn action(value: Option<&Value>, notes: &mut Notes<'_>) -> Action {
    match value {
        None | Some(Value::Null) => Action::Allow,
        Some(Value::String(text)) if text == "ALLOW" => Action::Allow,
        Some(Value::String(text)) if text == "DENY" => Action::Deny,
        Some(Value::String(text)) if text == "AUDIT" => Action::Audit,
        Some(Value::String(text)) if text == "CUSTOM" => Action::Custom,
        Some(other) => {
            notes.error(
                "unknown-action",
                format!(
                    "spec.action {other} is none of ALLOW, DENY, AUDIT, CUSTOM: the policy may admit anyone, so no client is refused at the \
                     node for want of an ALLOW rule wherever it may apply; correct it"
                ),
            );
            Action::Unknown
        }
    }
}

fn target(spec: &Map<String, Value>, notes: &mut Notes<'_>) -> Decoded<Target> {
    let mut target = Target::default();
    if let Some(selector) = member(spec, "selector", "spec")? {
        for (name, value) in selector {
            match (name.as_str(), value) {
                ("matchLabels", Value::Null) => {}
                ("matchLabels", Value::Object(labels)) => {
                    for (key, value) in labels {
                        let Value::String(value) = value else {
                            return Err(WrongType(format!(
                                "spec.selector.matchLabels.{key} is {}, not text",
                                kind_of(value)
                            )));
                        };
                        target.labels.insert(key.clone(), value.clone());
                    }
                }
                ("matchLabels", other) => {
                    return Err(WrongType(format!(
                        "spec.selector.matchLabels is {}, not an object",
                        kind_of(other)
                    )));
                }
                _ => {
                    target.unclear = true;
                    notes.unknown_field(
                        "spec.selector",
                        name,
                        "the policy may be for any workload of its namespace",
                    );
                }
            }
        }
    }
    for (at, value) in list(spec, "targetRefs", "spec")?.iter().enumerate() {
        let reference = target_ref(
            &format!("spec.targetRefs[{at}]"),
            value,
            &mut target.unclear,
            notes,
        )?;
        target.refs.push(reference);
    }
    if let Some(value) = spec.get("targetRef").filter(|v| !v.is_null()) {
        let reference = target_ref("spec.targetRef", value, &mut target.unclear, notes)?;
        if target.refs.is_empty() {
            target.refs.push(reference);
        }
    }
    Ok(target)
}

fn target_ref(path: &str, value: &Value, unclear: &mut bool, notes: &mut Notes<'_>) -> Decoded<TargetRef> {
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in object(value, path)? {
        match (name.as_str(), value) {
            ("group" | "kind" | "name" | "namespace", Value::Null) => {}
            ("group" | "kind" | "name" | "namespace", Value::String(text)) => {
                texts.insert(name, text.clone());
            }
            ("group" | "kind" | "name" | "namespace", other) => {
                return Err(WrongType(format!(
                    "{path}.{name} is {}, not text",
                    kind_of(other)
                )));
            }
            _ => {
                *unclear = true;
                notes.unknown_field(path, name, "the policy may be for any workload of its namespace");
            }
        }
    }
    let mut take = |name| texts.remove(name).unwrap_or_default();
    Ok(TargetRef {
        group: take("group"),
        kind: take("kind"),
        name: take("name"),
        namespace: take("namespace"),
    })
}

fn rules(policy: &Policy, value: Option<&Value>, notes: &mut Notes<'_>) -> Decoded<Vec<Rule>> {
    let mut rules = Vec::new();
    for (at, value) in items(value, "spec.rules")?.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        let map = object(value, &path)?;
        let mut rule = Rule {
            id: policy.rule_id(at).into(),
            from: Vec::new(),
            to: Vec::new(),
            when: Vec::new(),
            faults: Vec::new(),
        };
        for name in map.keys() {
            if !["from", "to", "when"].contains(&name.as_str()) {
                notes.unknown_field(&path, name, "the rule is left to the gateway");
                rule.faults.push(format!("`{name}` is not a field of a rule"));
            }
        }
        rule.from = entries(map, &path, ("from", "source"), &SOURCE, &mut rule.faults, notes)?;
        rule.to = entries(
            map,
            &path,
            ("to", "operation"),
            &OPERATION,
            &mut rule.faults,
            notes,
        )?;
        for (at, value) in list(map, "when", &path)?.iter().enumerate() {
            condition(&format!("{path}.when[{at}]"), value, &mut rule, notes)?;
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// `from` or `to`: a list of objects that each hold one `source` or `operation`.
fn entries(
    rule: &Map<String, Value>,
    path: &str,
    (outer, inner): (&str, &str),
    known: &[(&str, &str, Attribute)],
    faults: &mut Vec<String>,
    notes: &mut Notes<'_>,
) -> Decoded<Vec<Entry>> {
    let mut entries = Vec::new();
    for (at, value) in list(rule, outer, path)?.iter().enumerate() {
        let path = format!("{path}.{outer}[{at}]");
        let mut entry = Entry::default();
        let map = object(value, &path)?;
        for name in map.keys().filter(|name| *name != inner) {
            notes.unknown_field(&path, name, "whether the entry matches is not known at the node");
            entry.unknown.push(name.clone());
        }
        if let Some(fields) = member(map, inner, &path)? {
            let path = format!("{path}.{inner}");
            for (name, value) in fields {
                let Some(&(positive, _, attribute)) = known.iter().find(|(p, n, _)| p == name || n == name)
                else {
                    notes.unknown_field(&path, name, "whether the entry matches is not known at the node");
                    entry.unknown.push(name.clone());
                    continue;
                };
                let at = format!("{path}.{name}");
                if let Some(values) = values(attribute, value, &at, faults, notes)? {
                    entry.fields.push(Field {
                        name: name.clone(),
                        attribute,
                        negated: name != positive,
                        values,
                    });
                }
            }
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// One entry of `when`, as up to two fields.
fn condition(path: &str, value: &Value, rule: &mut Rule, notes: &mut Notes<'_>) -> Decoded<()> {
    let map = object(value, path)?;
    for name in map.keys() {
        if !["key", "values", "notValues"].contains(&name.as_str()) {
            notes.unknown_field(path, name, "the rule is left to the gateway");
            rule.faults
                .push(format!("`{name}` is not a field of a condition"));
        }
    }
    let key = match map.get("key") {
        None | Some(Value::Null) => "",
        Some(Value::String(key)) => key.as_str(),
        Some(other) => return Err(WrongType(format!("{path}.key is {}, not text", kind_of(other)))),
    };
    let attribute = key_attribute(key);
    if let Err(fault) = attribute {
        let message = format!(
            "{path}.key {key:?} {fault}, so Istio skips the rule or the condition: the rule is left to the gateway; correct the key"
        );
        notes.error("bad-when-key", message);
        rule.faults.push(format!("the key `{key}` {fault}"));
    }
    for (name, negated) in [("values", false), ("notValues", true)] {
        let Some(value) = map.get(name) else { continue };
        // Also where the key is not known: a value of the wrong type makes the whole policy undecodable.
        let attribute = attribute.unwrap_or(Attribute::Metadata);
        if let Some(values) = values(
            attribute,
            value,
            &format!("{path}.{name}"),
            &mut rule.faults,
            notes,
        )? {
            rule.when.push(Field {
                name: format!("when {key} {name}"),
                attribute,
                negated,
                values,
            });
        }
    }
    Ok(())
}

/// What a `when` key compares (Istio `pilot/pkg/security/authz/model/model.go`), or what is wrong with it.
fn key_attribute(key: &str) -> Result<Attribute, &'static str> {
    const BRACKETS: &str = "lacks its `[name]`";
    match key {
        "source.ip" => Ok(Attribute::SourceIp),
        "remote.ip" => Ok(Attribute::RemoteIp),
        "source.namespace" | "source.principal" => Ok(Attribute::Identity),
        "source.serviceAccount" | "source.trustDomain" => Ok(Attribute::NewIdentityKey),
        "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter" => {
            Ok(Attribute::Token)
        }
        "destination.ip" => Ok(Attribute::DestinationIp),
        "destination.port" => Ok(Attribute::DestinationPort),
        "connection.sni" => Ok(Attribute::Sni),
        _ => {
            if let Some(rest) = key.strip_prefix("request.headers") {
                if brackets(rest) == Some(1) {
                    Ok(Attribute::Request)
                } else {
                    Err(BRACKETS)
                }
            } else if let Some(rest) = key.strip_prefix("request.auth.claims") {
                if brackets(rest).is_some() {
                    Ok(Attribute::Token)
                } else {
                    Err(BRACKETS)
                }
            } else if let Some(rest) = key.strip_prefix("experimental.envoy.filters.") {
                let name = rest.find('[').map(|at| rest.split_at(at));
                match name {
                    Some((name, rest)) if !name.is_empty() && brackets(rest).is_some() => {
                        Ok(Attribute::Metadata)
                    }
                    _ => Err(BRACKETS),
                }
            } else {
                Err("is not known")
            }
        }
    }
}

/// How many `[name]` a text consists of; `None` if it is anything else.
fn brackets(mut text: &str) -> Option<usize> {
    let mut count = 0;
    while !text.is_empty() {
        let (name, rest) = text.strip_prefix('[')?.split_once(']')?;
        if name.is_empty() || name.contains('[') {
            return None;
        }
        text = rest;
        count += 1;
    }
    (count > 0).then_some(count)
}

/// The values of a field; `None` where there are none, which is no constraint.
fn values(
    attribute: Attribute,
    value: &Value,
    path: &str,
    faults: &mut Vec<String>,
    notes: &mut Notes<'_>,
) -> Decoded<Option<Values>> {
    let mut texts = Vec::new();
    for (at, value) in items(Some(value), path)?.iter().enumerate() {
        let Value::String(text) = value else {
            let hint = if value.is_number() {
                "; put it in quotes"
            } else {
                ""
            };
            return Err(WrongType(format!(
                "{path}[{at}] is {}, not text{hint}",
                kind_of(value)
            )));
        };
        texts.push(text.as_str());
    }
    if texts.is_empty() {
        return Ok(None);
    }
    let mut bad = |text: &str, what: &str| {
        let message = format!(
            "{path}: {text:?} is no {what}, so Istio does not generate the rule as written: the rule is left to the gateway; correct the value"
        );
        notes.error("bad-value", message);
        faults.push(format!("{text:?} is no {what}"));
    };
    Ok(Some(match attribute {
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
            let mut ranges = Vec::with_capacity(texts.len());
            for text in texts {
                match parse_range(text) {
                    Some(range) => ranges.push(range),
                    None => bad(text, "IP address or CIDR"),
                }
            }
            Values::Ranges(ranges)
        }
        Attribute::DestinationPort => {
            let mut ports = Vec::with_capacity(texts.len());
            for text in texts {
                match parse_port(text) {
                    Some(port) => ports.push(port),
                    None => bad(text, "port"),
                }
            }
            Values::Ports(ports)
        }
        _ => Values::Text {
            has_empty: texts.contains(&""),
        },
    }))
}

/// Where findings go.
struct Notes<'a> {
    object: ObjectRef,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Notes<'_> {
    fn error(&mut self, code: &'static str, message: String) {
        self.diagnostics
            .push(Diagnostic::error(code, self.object.clone(), message));
    }

    fn unknown_field(&mut self, path: &str, name: &str, consequence: &str) {
        let message =
            format!("{path}.{name} is not a field that is known: {consequence}; correct or remove it");
        self.diagnostics
            .push(Diagnostic::warning("unknown-field", self.object.clone(), message));
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn object<'a>(value: &'a Value, path: &str) -> Decoded<&'a Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| WrongType(format!("{path} is {}, not an object", kind_of(value))))
}

/// A list; absent and null are empty.
fn items<'a>(value: Option<&'a Value>, path: &str) -> Decoded<&'a [Value]> {
    match value {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(WrongType(format!("{path} is {}, not a list", kind_of(other)))),
    }
}

fn list<'a>(map: &'a Map<String, Value>, name: &str, path: &str) -> Decoded<&'a [Value]> {
    items(map.get(name), &format!("{path}.{name}"))
}

/// A member that is an object; absent and null are `None`.
fn member<'a>(
    map: &'a Map<String, Value>,
    name: &str,
    path: &str,
) -> Decoded<Option<&'a Map<String, Value>>> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => object(value, &format!("{path}.{name}")).map(Some),
    }
}
