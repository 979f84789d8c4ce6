//! `AuthorizationPolicy` as it arrives: the spec stays JSON here, since only [`crate::policy`] knows what a fault in it means.

use std::fmt;

use serde::de::Deserializer;
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::Meta;

/// A policy of `security.istio.io/v1` or `v1beta1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationPolicy {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// `spec`; null where it is missing or null (both mean `{}`).
    pub spec: Spec,
}

/// A `spec` as text. As a tree of values it takes some fifty times the memory, and whoever may write policies anywhere makes every agent hold it.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    /// Compact JSON, keys in order: equal values have equal texts.
    text: Box<str>,
    objects: usize,
}

impl Spec {
    /// As a tree of values.
    ///
    /// # Errors
    /// It is nested more deeply than is read.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_str(&self.text)
    }

    /// How many JSON objects it is made of: what it costs to decode and to compile, roughly, without its values.
    #[must_use]
    pub const fn objects(&self) -> usize {
        self.objects
    }
}

impl From<&Value> for Spec {
    fn from(value: &Value) -> Self {
        Self {
            text: value.to_string().into_boxed_str(),
            objects: objects(value),
        }
    }
}

impl From<Value> for Spec {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

fn objects(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(objects).sum(),
        Value::Object(map) => 1 + map.values().map(objects).sum::<usize>(),
        _ => 0,
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Spec {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value().map_err(S::Error::custom)?.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Value::deserialize(from).map(Self::from)
    }
}
