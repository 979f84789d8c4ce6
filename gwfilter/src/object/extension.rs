//! Istio objects that change what a gateway's Envoy does before, or besides, authorization: `EnvoyFilter`,
//! `WasmPlugin`, `TrafficExtension`, `RequestAuthentication`, `ProxyConfig`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attachment::Attachment;
use super::meta::Meta;
use super::read::Cursor;

/// One patch of an EnvoyFilter, uninterpreted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigPatch {
    /// `applyTo`; empty where it is missing.
    pub apply_to: String,
    /// `match`.
    pub matches: Value,
    /// `patch.operation`; empty where it is missing.
    pub operation: String,
    /// `patch.value`.
    pub value: Value,
}

/// An EnvoyFilter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnvoyFilter {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// Workloads it patches.
    pub attachment: Attachment,
    /// Patches.
    pub patches: Vec<ConfigPatch>,
}

impl EnvoyFilter {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let spec = top.field("spec");
        let patches = spec.field("configPatches").list().into_iter().map(|patch| {
            let inner = patch.field("patch");
            inner.expect_object();
            patch.field("match").expect_object();
            ConfigPatch {
                apply_to: patch.field("applyTo").string().unwrap_or_default().to_owned(),
                matches: patch.field("match").value().clone(),
                operation: inner.field("operation").string().unwrap_or_default().to_owned(),
                value: inner.field("value").value().clone(),
            }
        });
        let patches = patches.collect();
        Self {
            attachment: Attachment::read(&spec, "workloadSelector", "labels"),
            patches,
            meta,
        }
    }
}

/// A WasmPlugin or TrafficExtension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WasmPlugin {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// Workloads it runs in.
    pub attachment: Attachment,
    /// `phase`; empty where it is not stated.
    pub phase: String,
}

impl WasmPlugin {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let spec = top.field("spec");
        Self {
            attachment: Attachment::read(&spec, "selector", "matchLabels"),
            phase: spec.field("phase").string().unwrap_or_default().to_owned(),
            meta,
        }
    }
}

/// A RequestAuthentication.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestAuthentication {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// Workloads it applies to.
    pub attachment: Attachment,
}

impl RequestAuthentication {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        Self {
            attachment: Attachment::read(&top.field("spec"), "selector", "matchLabels"),
            meta,
        }
    }
}

/// A ProxyConfig. It cannot set the gateway topology; what it might set beyond the known fields is a doubt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyConfig {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// Workloads it applies to.
    pub attachment: Attachment,
    /// Fields of the spec other than `selector`, `concurrency`, `environmentVariables` and `image`, and
    /// environment variables that carry a proxy configuration.
    pub unknown: Vec<String>,
}

impl ProxyConfig {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let spec = top.field("spec");
        let fields = spec.entries().into_iter().map(|(key, _)| key);
        let fields =
            fields.filter(|k| !matches!(*k, "selector" | "concurrency" | "environmentVariables" | "image"));
        let env = spec
            .field("environmentVariables")
            .entries()
            .into_iter()
            .map(|(key, _)| key);
        let env = env.filter(|key| key.contains("PROXY_CONFIG"));
        let unknown = fields.chain(env).map(str::to_owned).collect();
        Self {
            attachment: Attachment::read(&spec, "selector", "matchLabels"),
            unknown,
            meta,
        }
    }
}
