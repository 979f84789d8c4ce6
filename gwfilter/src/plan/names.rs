//! Counter indices: stable by name over generations, reused only when nothing in force counts there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A listener's name, for logs and counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerName {
    /// `ns/service`.
    pub gateway: Arc<str>,
    /// The listener within it.
    pub listener: Arc<str>,
}

impl ListenerName {
    /// The two parts of `ns/service:listener`.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let (gateway, listener) = name.split_once(':').unwrap_or((name, ""));
        Self {
            gateway: gateway.into(),
            listener: listener.into(),
        }
    }
}

/// Names behind indices. A name that is no longer in use stays, with its counters, until another one needs the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// By index of the listener's block of counters.
    pub listeners: BTreeMap<u32, ListenerName>,
    /// By index of the rule's counter: Envoy's policy id.
    pub rules: BTreeMap<u32, Arc<str>>,
}

/// Who has which index of one counter map.
#[derive(Clone, Debug, Default)]
pub(super) struct Indices {
    pub(super) by_name: BTreeMap<Arc<str>, Holder>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) index: u32,
    /// The last generation that used it.
    pub(super) used: u64,
}

/// What [`Indices::assign`] found out.
pub(super) struct Assigned {
    pub(super) next: Indices,
    /// Indices with a new owner: to be zeroed before the swap.
    pub(super) zero: Vec<u32>,
    /// Names for which there was no index left.
    pub(super) without: Vec<Arc<str>>,
}

impl Indices {
    pub(super) fn get(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).map(|h| h.index)
    }

    /// How many a generation uses.
    pub(super) fn used_in(&self, generation: u64) -> usize {
        self.by_name.values().filter(|h| h.used == generation).count()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<str>)> {
        self.by_name.iter().map(|(name, h)| (h.index, name))
    }

    /// Gives each of `names` an index in `1..limit` for `generation`. `in_force` is the generation whose indices packets
    /// use now: those are kept from new owners. Index 0 is never given.
    pub(super) fn assign(
        &self,
        names: &BTreeSet<Arc<str>>,
        in_force: u64,
        generation: u64,
        limit: u32,
    ) -> Assigned {
        let mut next = self.clone();
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        let mut new: Vec<&Arc<str>> = Vec::new();
        for name in names {
            match next.by_name.get_mut(name) {
                Some(h) => h.used = generation,
                None => new.push(name),
            }
        }
        taken.extend(next.by_name.values().map(|h| h.index));
        let mut never_used = (1..limit).filter(|i| !taken.contains(i));
        // The one out of use for longest goes first.
        let mut retired: Vec<(u64, Arc<str>, u32)> = next
            .by_name
            .iter()
            .filter(|(_, h)| h.used != generation && h.used < in_force)
            .map(|(name, h)| (h.used, name.clone(), h.index))
            .collect();
        retired.sort();
        let mut retired = retired.into_iter();
        let (mut zero, mut without) = (Vec::new(), Vec::new());
        for name in new {
            let index = never_used.next().or_else(|| {
                let (_, old, index) = retired.next()?;
                next.by_name.remove(&old);
                Some(index)
            });
            match index {
                Some(index) => {
                    zero.push(index);
                    next.by_name.insert(
                        name.clone(),
                        Holder {
                            index,
                            used: generation,
                        },
                    );
                }
                None => without.push(name.clone()),
            }
        }
        zero.sort_unstable();
        Assigned { next, zero, without }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<Arc<str>> {
        list.iter().map(|n| Arc::from(*n)).collect()
    }

    #[test]
    fn assign_given_a_name_that_goes_and_comes_back_then_its_index_and_counts_stay() {
        let one = Indices::default().assign(&names(&["a", "b"]), 0, 1, 8);
        assert_eq!(one.zero, [1, 2]);
        let two = one.next.assign(&names(&["b"]), 1, 2, 8);
        let three = two.next.assign(&names(&["a", "b"]), 2, 3, 8);
        assert!(three.zero.is_empty());
        assert_eq!(three.next.get("a"), Some(1));
    }

    #[test]
    fn assign_given_no_free_index_then_one_in_force_is_never_taken() {
        let one = Indices::default().assign(&names(&["a", "b"]), 0, 1, 3);
        // Both indices are in force: the new name gets none.
        let two = one.next.assign(&names(&["b", "c"]), 1, 2, 3);
        assert_eq!(two.without, names(&["c"]).into_iter().collect::<Vec<_>>());
        // "a" went out of force with generation 2: now its index is free, and zeroed for "c".
        let three = two.next.assign(&names(&["b", "c"]), 2, 3, 3);
        assert_eq!(
            (three.next.get("c"), three.zero.as_slice()),
            (Some(1), [1].as_slice())
        );
        assert_eq!(three.next.get("a"), None);
    }
}
