//! The part of `metadata` that gwfilter reads.

use std::collections::BTreeMap;

use crate::diagnostic::ObjectRef;

/// Name, namespace, labels and annotations of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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
}
