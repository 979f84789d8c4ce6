//! Which table is at which index of which array-of-maps.
//!
//! A table has a *number*: its index, with [`FLAT_TABLE`] where it is a flat one and [`WIDE_TABLE`] where it is a wide one. Large source tables are; small ones are tries, which take less
//! memory than the 4 MiB that a flat IPv4 table begins with.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::abi::{FLAT_TABLE, Leaf, TABLE_SLOTS, WIDE_TABLE, table_index};
use gwfilter_common::flat::v4::is_wide;
use ipnet::{Ipv4Net, Ipv6Net};

use super::flat::{self, FlatError, Lines};
use super::leaves::Leaves;
use super::op::{FlatTable, Kind, Op, PlanError};
use super::ranges::Prefix;

type Entries<N> = Arc<Vec<(N, Leaf)>>;

/// Entries from which on a flat table is the faster one.
const FLAT_FROM: usize = 1024;
/// From this number of entries on a flat table takes no more memory than a trie.
const FLAT_ALWAYS: usize = 32_768;
/// Flat tables below that which one generation may have: for IPv4, 128 MiB.
const SMALL_FLATS: usize = 32;
/// One part in so many of a table's lines may be out of use before it is built anew.
const WASTE: usize = 8;

/// What differs between the families.
pub(super) trait Family: Prefix {
    /// The flat form.
    const FLAT: Kind;
    fn flat(entries: &[(Self, Leaf)]) -> Result<Lines, FlatError>;
    fn flat_leaves(leaves: &Leaves<Self>) -> Result<Lines, FlatError>;
    /// The same from another table and the shards that changed; `None`: it is to be built anew.
    fn renew(
        _: (&Leaves<Self>, &Lines),
        _: &Leaves<Self>,
        _changed: &[usize],
    ) -> Result<Option<Lines>, FlatError> {
        Ok(None)
    }
    /// The bits of the number of a flat table with these lines.
    fn bits(lines: &Lines) -> u32;
    fn build(kind: Kind, index: u32, entries: Entries<Self>) -> Op;
}

impl Family for Ipv4Net {
    const FLAT: Kind = Kind::Flat4;

    fn flat(entries: &[(Self, Leaf)]) -> Result<Lines, FlatError> {
        flat::build4(entries)
    }

    fn flat_leaves(leaves: &Leaves<Self>) -> Result<Lines, FlatError> {
        let mut changes = Vec::new();
        leaves.changes(|at, word| changes.push((at, word)))?;
        flat::build4_from(&changes)
    }

    fn renew(
        (before, lines): (&Leaves<Self>, &Lines),
        after: &Leaves<Self>,
        changed: &[usize],
    ) -> Result<Option<Lines>, FlatError> {
        let shards = changed
            .iter()
            .map(|shard| (before.pieces(*shard), after.pieces(*shard)));
        flat::renew4(lines, shards)
    }

    fn bits(lines: &Lines) -> u32 {
        if is_wide(lines.len()) {
            FLAT_TABLE | WIDE_TABLE
        } else {
            FLAT_TABLE
        }
    }

    fn build(kind: Kind, index: u32, entries: Entries<Self>) -> Op {
        Op::Build4 { kind, index, entries }
    }
}

impl Family for Ipv6Net {
    const FLAT: Kind = Kind::Flat6;

    fn flat(entries: &[(Self, Leaf)]) -> Result<Lines, FlatError> {
        flat::build6(entries)
    }

    fn flat_leaves(leaves: &Leaves<Self>) -> Result<Lines, FlatError> {
        let mut tree = flat::Tree6::default();
        leaves.changes(|at, word| tree.change(at, word))?;
        tree.finish()
    }

    fn bits(_: &Lines) -> u32 {
        FLAT_TABLE
    }

    fn build(kind: Kind, index: u32, entries: Entries<Self>) -> Op {
        Op::Build6 { kind, index, entries }
    }
}

/// The tables of one family and purpose that a generation uses, by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Pool<N: Prefix> {
    tables: BTreeMap<u32, Held<N>>,
}

#[derive(Clone, Debug)]
struct Held<N: Prefix> {
    content: Content<N>,
    /// Its flat form, if it is flat.
    lines: Option<FlatTable>,
    /// So many lines it had when it was built from nothing.
    fresh: usize,
}

/// What a table says.
#[derive(Clone, Debug, PartialEq)]
enum Content<N: Prefix> {
    Entries(Entries<N>),
    /// Never of a trie.
    Leaves(Box<Leaves<N>>),
}

impl<N: Prefix> Default for Pool<N> {
    fn default() -> Self {
        Self {
            tables: BTreeMap::new(),
        }
    }
}

/// The pool of the next generation in the making.
pub(super) struct Next<'a, N: Prefix> {
    kind: Kind,
    before: &'a Pool<N>,
    pool: Pool<N>,
    /// Numbers of the tables that are not in force.
    builds: Vec<u32>,
    /// Tables for which there was no index.
    homeless: Vec<Content<N>>,
}

impl<'a, N: Family> Next<'a, N> {
    pub(super) fn after(kind: Kind, before: &'a Pool<N>) -> Self {
        Self {
            kind,
            before,
            pool: Pool::default(),
            builds: Vec::new(),
            homeless: Vec::new(),
        }
    }

    /// The number of a table with these entries: one in force keeps its own, equal ones share.
    pub(super) fn place(&mut self, entries: &Entries<N>) -> u32 {
        let sources = matches!(self.kind, Kind::Source4 | Kind::Source6);
        let large = sources && self.is_large(entries.len());
        self.place_as(Content::Entries(Arc::clone(entries)), |_| {
            large.then(|| N::flat(entries).ok()).flatten()
        })
    }

    /// The same for a table that is never flat.
    pub(super) fn place_trie(&mut self, entries: &Entries<N>) -> u32 {
        self.place_as(Content::Entries(Arc::clone(entries)), |_| None)
    }

    /// The same for a table of verdicts.
    pub(super) fn place_leaves(&mut self, leaves: Leaves<N>) -> u32 {
        if !self.is_large(leaves.len()) {
            return self.place_trie(&leaves.entries());
        }
        let content = Content::Leaves(Box::new(leaves.clone()));
        if let Some(number) = self.find(&content) {
            return number;
        }
        if let Some((lines, fresh)) = self.renewed(&leaves) {
            return self.put(content, Some(lines), fresh);
        }
        match N::flat_leaves(&leaves) {
            Ok(lines) => {
                let fresh = lines.len();
                self.put(content, Some(lines), fresh)
            }
            // What cannot be flat is a trie.
            Err(_) => self.place_trie(&leaves.entries()),
        }
    }

    /// The flat form made from that of a table in force that differs in few shards, and how large it was when it was built from nothing.
    fn renewed(&self, leaves: &Leaves<N>) -> Option<(Lines, usize)> {
        let near = self.before.tables.values().filter_map(|held| {
            let Content::Leaves(before) = &held.content else {
                return None;
            };
            let changed = leaves.changed(before)?;
            Some((changed, before, held.lines.as_ref()?, held.fresh))
        });
        let (changed, before, lines, fresh) = near.min_by_key(|(changed, ..)| changed.len())?;
        let renewed = N::renew((before, lines), leaves, &changed).ok().flatten()?;
        (renewed.len() <= fresh + fresh / WASTE + 1024).then_some((renewed, fresh))
    }

    /// Whether a table of so many entries is flat.
    fn is_large(&self, entries: usize) -> bool {
        let flats = self.pool.tables.values().filter(|held| held.lines.is_some());
        entries >= FLAT_ALWAYS || (entries >= FLAT_FROM && flats.count() < SMALL_FLATS)
    }

    fn place_as(&mut self, content: Content<N>, lines: impl FnOnce(&Content<N>) -> Option<Lines>) -> u32 {
        if let Some(number) = self.find(&content) {
            return number;
        }
        let lines = lines(&content);
        self.put(content, lines, 0)
    }

    /// The number of a table that is there.
    fn find(&mut self, content: &Content<N>) -> Option<u32> {
        if let Some(number) = find(&self.pool.tables, content) {
            return Some(number);
        }
        let number = find(&self.before.tables, content)?;
        let mut held = self.before.tables.get(&number)?.clone();
        // What says the same may be shared with more that is in use.
        held.content = content.clone();
        self.pool.tables.insert(number, held);
        Some(number)
    }

    /// The number of a table that is not there.
    fn put(&mut self, content: Content<N>, lines: Option<Lines>, fresh: usize) -> u32 {
        let lines = lines.map(Arc::new);
        let bits = lines.as_deref().map_or(0, N::bits);
        let taken = |index: u32| {
            let numbers = if bits == 0 {
                [index; 2]
            } else {
                // Of one array-of-maps.
                [index | FLAT_TABLE, index | FLAT_TABLE | WIDE_TABLE]
            };
            let taken =
                |number| self.before.tables.contains_key(number) || self.pool.tables.contains_key(number);
            numbers.iter().any(taken)
        };
        let free = (1..TABLE_SLOTS)
            .find(|index| !taken(*index))
            .map(|index| index | bits);
        match free {
            Some(number) => {
                self.pool.tables.insert(
                    number,
                    Held {
                        content,
                        lines,
                        fresh,
                    },
                );
                self.builds.push(number);
                number
            }
            None => {
                if !self.homeless.contains(&content) {
                    self.homeless.push(content);
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
                kind: self.kind,
                wanted: self.builds.len() + self.homeless.len(),
                in_force: self.before.tables.len(),
                max: TABLE_SLOTS - 1,
            });
        }
        let builds = self.builds.iter().filter_map(|number| {
            let index = table_index(*number);
            let held = self.pool.tables.get(number)?.clone();
            match (held.lines, held.content) {
                (Some(lines), _) => Some(Op::BuildFlat {
                    kind: N::FLAT,
                    index,
                    lines,
                }),
                (None, Content::Entries(entries)) => Some(N::build(self.kind, index, entries)),
                (None, Content::Leaves(_)) => None,
            }
        });
        let builds = builds.collect();
        let clears = self
            .before
            .tables
            .keys()
            .filter(|number| !self.pool.tables.contains_key(number))
            .map(|number| Op::Clear {
                kind: if number & FLAT_TABLE == 0 {
                    self.kind
                } else {
                    N::FLAT
                },
                index: table_index(*number),
            })
            .collect();
        Ok(Finished {
            pool: self.pool,
            builds,
            clears,
        })
    }
}

fn find<N: Prefix>(tables: &BTreeMap<u32, Held<N>>, content: &Content<N>) -> Option<u32> {
    let same = |held: &Held<N>| match (&held.content, content) {
        (Content::Entries(a), Content::Entries(b)) => Arc::ptr_eq(a, b) || a == b,
        (a, b) => a == b,
    };
    tables
        .iter()
        .find(|(_, held)| same(held))
        .map(|(number, _)| *number)
}

pub(super) struct Finished<N: Prefix> {
    pub(super) pool: Pool<N>,
    pub(super) builds: Vec<Op>,
    pub(super) clears: Vec<Op>,
}
