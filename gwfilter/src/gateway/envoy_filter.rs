//! What an EnvoyFilter does to the assumptions that a drop stands on.
//!
//! Only two things are told apart from "it may do anything": adding the PROXY protocol listener filter, as Istio's page
//! "Ingress Access Control" does it, and patches that come after authorization.

use serde_json::Value;

use crate::object::extension::{ConfigPatch, EnvoyFilter};

/// What an EnvoyFilter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    /// Nothing that bears on client addresses or authorization.
    None,
    /// It makes the gateway read the PROXY header, and nothing else.
    ProxyHeader,
    /// It touches listeners, connection managers or filters in a way that is not followed.
    Doubt,
}

/// The effect of all patches together.
pub(super) fn effect(filter: &EnvoyFilter) -> Effect {
    filter
        .patches
        .iter()
        .filter(|p| may_reach_gateway(p))
        .map(of_patch)
        .max()
        .unwrap_or(Effect::None)
}

/// Whether a patch is for gateways at all.
pub(super) fn may_reach_gateway(patch: &ConfigPatch) -> bool {
    let context = patch
        .matches
        .get("context")
        .and_then(Value::as_str)
        .unwrap_or("ANY");
    !matches!(context, "SIDECAR_INBOUND" | "SIDECAR_OUTBOUND")
}

fn of_patch(patch: &ConfigPatch) -> Effect {
    let speaks_of_rbac = || patch.value.to_string().to_ascii_lowercase().contains("rbac");
    match patch.apply_to.as_str() {
        "CLUSTER" => Effect::None,
        // A route may switch RBAC off for itself; an extension may be a filter's configuration.
        "ROUTE_CONFIGURATION" | "VIRTUAL_HOST" | "HTTP_ROUTE" | "EXTENSION_CONFIG" if !speaks_of_rbac() => {
            Effect::None
        }
        "LISTENER" if patch.operation == "MERGE" && is_proxy_listener(&patch.value) && matches_all(patch) => {
            Effect::ProxyHeader
        }
        "LISTENER_FILTER"
            if adds(&patch.operation) && is_proxy_filter(&patch.value) && matches_all(patch) =>
        {
            Effect::ProxyHeader
        }
        "HTTP_FILTER" if is_before_router(patch) && !speaks_of_rbac() => Effect::None,
        _ => Effect::Doubt,
    }
}

fn adds(operation: &str) -> bool {
    matches!(
        operation,
        "ADD" | "INSERT_FIRST" | "INSERT_BEFORE" | "INSERT_AFTER"
    )
}

/// No condition narrows the patch to some listeners: those would then read another address than the rest.
fn matches_all(patch: &ConfigPatch) -> bool {
    match &patch.matches {
        Value::Null => true,
        Value::Object(map) => map.keys().all(|key| key == "context"),
        _ => false,
    }
}

/// `listener_filters` with the PROXY filter, besides it at most the TLS inspector, and nothing else.
fn is_proxy_listener(value: &Value) -> bool {
    let Value::Object(map) = value else { return false };
    let filters = map.get("listener_filters").or_else(|| map.get("listenerFilters"));
    let Some(Value::Array(filters)) = filters else {
        return false;
    };
    map.len() == 1
        && filters.iter().any(is_proxy_filter)
        && filters
            .iter()
            .all(|f| is_proxy_filter(f) || is_filter(f, "tls_inspector", "TlsInspector"))
}

/// One that reads both versions. A version that is disallowed is the payload to Envoy where requests without a header are allowed.
fn is_proxy_filter(filter: &Value) -> bool {
    let config = filter.get("typed_config").or_else(|| filter.get("typedConfig"));
    let narrowed = |c: &Value| {
        c.get("disallowed_versions")
            .or(c.get("disallowedVersions"))
            .is_some()
    };
    is_filter(filter, "proxy_protocol", "ProxyProtocol") && !config.is_some_and(narrowed)
}

/// By the old or the new name, or by the type of its configuration.
fn is_filter(filter: &Value, name: &str, message: &str) -> bool {
    let config = filter.get("typed_config").or_else(|| filter.get("typedConfig"));
    if let Some(url) = config.and_then(|c| c.get("@type")).and_then(Value::as_str) {
        return url.ends_with(&format!(".{message}"));
    }
    let found = filter.get("name").and_then(Value::as_str).unwrap_or_default();
    found == format!("envoy.listener.{name}") || found == format!("envoy.filters.listener.{name}")
}

/// A filter right before the router comes after authorization: what is refused never reaches it.
fn is_before_router(patch: &ConfigPatch) -> bool {
    let sub = patch
        .matches
        .pointer("/listener/filterChain/filter/subFilter/name")
        .and_then(Value::as_str);
    patch.operation == "INSERT_BEFORE" && sub == Some("envoy.filters.http.router")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patch(apply_to: &str, matches: Value, operation: &str, value: Value) -> ConfigPatch {
        ConfigPatch {
            apply_to: apply_to.to_owned(),
            matches,
            operation: operation.to_owned(),
            value,
        }
    }

    fn router() -> Value {
        json!({"context": "GATEWAY", "listener": {"filterChain": {"filter": {
            "name": "envoy.filters.network.http_connection_manager",
            "subFilter": {"name": "envoy.filters.http.router"}}}}})
    }

    #[test]
    fn patches_then_their_effect() {
        let page = json!({"listener_filters": [{"name": "envoy.listener.proxy_protocol"},
                                               {"name": "envoy.listener.tls_inspector"}]});
        let typed = json!({"name": "x", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}});
        let lua = json!({"name": "envoy.filters.http.lua"});
        let rbac = json!({"name": "envoy.filters.http.rbac"});
        let gateway = json!({"context": "GATEWAY"});
        let cases = [
            (
                "the page's own",
                patch("LISTENER", Value::Null, "MERGE", page.clone()),
                Effect::ProxyHeader,
            ),
            (
                "for one listener",
                patch(
                    "LISTENER",
                    json!({"listener": {"portNumber": 80}}),
                    "MERGE",
                    page.clone(),
                ),
                Effect::Doubt,
            ),
            (
                "new name by type",
                patch("LISTENER_FILTER", gateway.clone(), "INSERT_FIRST", typed),
                Effect::ProxyHeader,
            ),
            (
                "removed",
                patch(
                    "LISTENER_FILTER",
                    gateway.clone(),
                    "REMOVE",
                    json!({"name": "envoy.listener.proxy_protocol"}),
                ),
                Effect::Doubt,
            ),
            (
                "with more",
                patch(
                    "LISTENER",
                    Value::Null,
                    "MERGE",
                    json!({"listener_filters": [{"name": "envoy.listener.proxy_protocol"}], "use_original_dst": true}),
                ),
                Effect::Doubt,
            ),
            (
                "original_src",
                patch(
                    "LISTENER",
                    Value::Null,
                    "MERGE",
                    json!({"listener_filters": [{"name": "envoy.filters.listener.original_src"}]}),
                ),
                Effect::Doubt,
            ),
            (
                "connection manager",
                patch(
                    "NETWORK_FILTER",
                    gateway.clone(),
                    "MERGE",
                    json!({"typed_config": {"use_remote_address": false}}),
                ),
                Effect::Doubt,
            ),
            (
                "first HTTP filter",
                patch("HTTP_FILTER", gateway.clone(), "INSERT_FIRST", lua.clone()),
                Effect::Doubt,
            ),
            (
                "right before the router",
                patch("HTTP_FILTER", router(), "INSERT_BEFORE", lua),
                Effect::None,
            ),
            (
                "RBAC before the router",
                patch("HTTP_FILTER", router(), "INSERT_BEFORE", rbac),
                Effect::Doubt,
            ),
            (
                "sidecars only",
                patch(
                    "LISTENER",
                    json!({"context": "SIDECAR_INBOUND"}),
                    "MERGE",
                    json!({}),
                ),
                Effect::None,
            ),
            (
                "cluster",
                patch("CLUSTER", gateway.clone(), "MERGE", json!({})),
                Effect::None,
            ),
            (
                "route without RBAC",
                patch(
                    "HTTP_ROUTE",
                    gateway.clone(),
                    "MERGE",
                    json!({"typed_per_filter_config": {"envoy.filters.http.rbac": {}}}),
                ),
                Effect::Doubt,
            ),
            (
                "route",
                patch(
                    "VIRTUAL_HOST",
                    gateway.clone(),
                    "MERGE",
                    json!({"request_headers_to_remove": ["x"]}),
                ),
                Effect::None,
            ),
            (
                "bootstrap",
                patch("BOOTSTRAP", Value::Null, "MERGE", json!({})),
                Effect::Doubt,
            ),
            ("nothing", patch("", Value::Null, "", Value::Null), Effect::Doubt),
        ];
        for (name, patch, want) in cases {
            let filter = EnvoyFilter {
                meta: Default::default(),
                attachment: Default::default(),
                patches: vec![patch],
            };
            assert_eq!(effect(&filter), want, "{name}");
        }
    }
}
