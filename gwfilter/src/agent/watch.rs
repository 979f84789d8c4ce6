//! What is found otherwise than it was left: said, and counted by name.

use std::collections::BTreeMap;

use tracing::{error, info, warn};

use crate::dataplane::tables::Find;

/// How bad a find is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// The world moves.
    Change,
    /// Somebody touched what is ours; nothing was let through, or kept out, for it.
    Touched,
    /// Something was not enforced, or wrongly.
    Hole,
}

/// The finds so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    counts: BTreeMap<&'static str, u64>,
}

impl Watch {
    /// How often each find was made.
    pub(super) const fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// Counts a find and says it. `interface` may be empty; `what` says what was found and what is done about it.
    pub(super) fn found(&mut self, name: &'static str, weight: Weight, interface: &str, what: &str) {
        let times = self.counts.entry(name).or_default();
        *times = times.saturating_add(1);
        let times = *times;
        match weight {
            Weight::Change => info!(find = name, interface, what, times, "found"),
            Weight::Touched => warn!(find = name, interface, what, times, "found"),
            Weight::Hole => error!(find = name, interface, what, times, "found"),
        }
    }

    /// The same for a find in the tables.
    pub(super) fn table(&mut self, find: &Find) {
        let weight = if find.name == "table-pin-gone" {
            Weight::Touched
        } else {
            Weight::Hole
        };
        let what = match &find.failure {
            None => format!("{}; written anew", find.what),
            Some(why) => format!("{}; it cannot be written anew: {why}", find.what),
        };
        self.found(find.name, weight, "", &what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_counted_for_itself() {
        let mut watch = Watch::default();
        watch.found("interface-new", Weight::Change, "eth0", "served");
        watch.found("interface-new", Weight::Change, "eth1", "served");
        watch.table(&Find {
            name: "table-changed",
            what: "root".to_owned(),
            failure: None,
        });
        assert_eq!(
            watch.counts().iter().map(|(n, c)| (*n, *c)).collect::<Vec<_>>(),
            [("interface-new", 2), ("table-changed", 1)]
        );
    }
}
