//! `AuthorizationPolicy` as it arrives: the spec stays JSON here, since only [`crate::policy`] knows what a fault in it means.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::Meta;

/// A policy of `security.istio.io/v1` or `v1beta1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationPolicy {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// `spec`; `Value::Null` where it is missing or null (both mean `{}`).
    pub spec: Value,
}
