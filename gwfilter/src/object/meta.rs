//! The part of `metadata` that gwfilter reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::read::Cursor;
use crate::diagnostic::ObjectRef;

/// Name, namespace, labels and annotations of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Meta {
    /// Name, never empty.
    pub name: String,
    /// Namespace; `default` where a namespaced object states none, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Meta {
    /// How diagnostics name this object.
    #[must_use]
    pub fn reference(&self, kind: &str) -> ObjectRef {
        ObjectRef::new(kind, &self.namespace, &self.name)
    }

    /// Whether it is of the same object, among objects of one kind.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.namespace == other.namespace
    }

    /// Whether all of `selector` is among the labels. An empty selector matches.
    #[must_use]
    pub fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        subset(selector, &self.labels)
    }

    pub(super) fn read(top: &Cursor<'_>, namespaced: bool) -> Self {
        let meta = top.field("metadata");
        let name = meta.field("name").string().unwrap_or_default().to_owned();
        if name.is_empty() {
            meta.field("name").fault("an object needs a name");
        }
        let namespace = match (namespaced, meta.field("namespace").string()) {
            (false, _) => String::new(),
            (true, None | Some("")) => "default".to_owned(),
            (true, Some(namespace)) => namespace.to_owned(),
        };
        Self {
            name,
            namespace,
            labels: meta.field("labels").string_map(),
            annotations: meta.field("annotations").string_map(),
        }
    }
}

/// Whether every pair of `part` is in `whole`.
#[must_use]
pub fn subset(part: &BTreeMap<String, String>, whole: &BTreeMap<String, String>) -> bool {
    part.iter().all(|(key, value)| whole.get(key) == Some(value))
}
