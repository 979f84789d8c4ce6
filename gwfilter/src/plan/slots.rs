//! Which table is at which index of one array-of-maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::abi::{Leaf, TABLE_SLOTS};

use super::op::{Kind, PlanError};

type Entries<N> = Arc<Vec<(N, Leaf)>>;

/// The tables of one kind that a generation uses.
#[derive(Clone, Debug)]
pub(super) struct Pool<N> {
    kind: Kind,
    tables: BTreeMap<u32, Entries<N>>,
}

impl<N> Pool<N> {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            tables: BTreeMap::new(),
        }
    }
}

/// The pool of the next generation in the making.
pub(super) struct Next<'a, N> {
    before: &'a Pool<N>,
    pool: Pool<N>,
    builds: Vec<(u32, Entries<N>)>,
    /// Tables for which there was no index.
    homeless: Vec<Entries<N>>,
}

impl<'a, N: PartialEq> Next<'a, N> {
    pub(super) fn after(before: &'a Pool<N>) -> Self {
        Self {
            before,
            pool: Pool::new(before.kind),
            builds: Vec::new(),
            homeless: Vec::new(),
        }
    }

    /// The index of a table with these entries: one in force keeps its own, equal ones share.
    pub(super) fn place(&mut self, entries: &Entries<N>) -> u32 {
        if let Some(index) = find(&self.pool.tables, entries) {
            return index;
        }
        if let Some(index) = find(&self.before.tables, entries) {
            self.pool.tables.insert(index, entries.clone());
            return index;
        }
        let free = (1..TABLE_SLOTS)
            .find(|i| !self.before.tables.contains_key(i) && !self.pool.tables.contains_key(i));
        match free {
            Some(index) => {
                self.pool.tables.insert(index, entries.clone());
                self.builds.push((index, entries.clone()));
                index
            }
            None => {
                if !self.homeless.contains(entries) {
                    self.homeless.push(entries.clone());
                }
                0
            }
        }
    }

    /// The finished pool, what to build before the swap and what to clear after it.
    ///
    /// # Errors
    /// [`PlanError::TooManyTables`].
    pub(super) fn finish(self) -> Result<Finished<N>, PlanError> {
        if !self.homeless.is_empty() {
            return Err(PlanError::TooManyTables {
                kind: self.pool.kind,
                wanted: self.builds.len() + self.homeless.len(),
                in_force: self.before.tables.len(),
                max: TABLE_SLOTS - 1,
            });
        }
        let clears = self
            .before
            .tables
            .keys()
            .filter(|i| !self.pool.tables.contains_key(i))
            .copied()
            .collect();
        Ok(Finished {
            kind: self.pool.kind,
            pool: self.pool,
            builds: self.builds,
            clears,
        })
    }
}

fn find<N: PartialEq>(tables: &BTreeMap<u32, Entries<N>>, entries: &Entries<N>) -> Option<u32> {
    tables
        .iter()
        .find(|(_, e)| Arc::ptr_eq(e, entries) || e == &entries)
        .map(|(i, _)| *i)
}

pub(super) struct Finished<N> {
    pub(super) kind: Kind,
    pub(super) pool: Pool<N>,
    pub(super) builds: Vec<(u32, Entries<N>)>,
    pub(super) clears: Vec<u32>,
}
