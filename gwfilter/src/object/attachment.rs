//! How an Istio object chooses workloads: `selector`, `targetRef`, `targetRefs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::read::Cursor;

/// What an object attaches to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Labels that a workload must have; empty: every workload in scope.
    pub selector: BTreeMap<String, String>,
    /// Kind and name of what `targetRefs` (or the older `targetRef`) names; empty: none.
    pub targets: Vec<(String, String)>,
}

impl Attachment {
    /// Reads it from a `spec`. `selector_field` is the field with the labels (`matchLabels` or, in an EnvoyFilter, `labels`).
    pub(super) fn read(spec: &Cursor<'_>, selector: &str, selector_field: &str) -> Self {
        let target = spec.field("targetRef");
        let targets = spec
            .field("targetRefs")
            .list()
            .into_iter()
            .chain((!target.is_absent()).then_some(target));
        let text = |cursor: &Cursor<'_>, key: &str| cursor.field(key).string().unwrap_or_default().to_owned();
        Self {
            selector: spec.field(selector).field(selector_field).string_map(),
            targets: targets.map(|t| (text(&t, "kind"), text(&t, "name"))).collect(),
        }
    }
}
