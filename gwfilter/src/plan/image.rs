//! The kernel's maps in memory: what a list of operations makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gwfilter_common::abi::{CONTROL_PAUSED, FLAT_TABLE, FOREVER, Leaf, Slot, WIDE_TABLE, table_index};
use gwfilter_common::decide::{RootTable, Source, Tables};
use gwfilter_common::flat::{Flat, unpack, v4, v6};
use ipnet::{Ipv4Net, Ipv6Net};

use super::flat;
use super::op::{FlatTable, Kind, Op};
use super::ranges::Prefix;
use super::root::RootImage;

/// Maps as the operations leave them. It answers lookups as the kernel's tries do: the longest prefix, tried length by
/// length, so that it shares no thought with the code that makes the tables.
#[derive(Clone, Debug, Default)]
pub struct Image {
    root: Option<Arc<RootImage>>,
    source4: BTreeMap<u32, Trie<Ipv4Net>>,
    source6: BTreeMap<u32, Trie<Ipv6Net>>,
    never4: BTreeMap<u32, Trie<Ipv4Net>>,
    never6: BTreeMap<u32, Trie<Ipv6Net>>,
    flat4: BTreeMap<u32, FlatTable>,
    flat6: BTreeMap<u32, FlatTable>,
}

#[derive(Clone, Debug)]
struct Trie<N> {
    lengths: BTreeSet<u8>,
    entries: BTreeMap<N, Leaf>,
}

impl<N: Prefix> Trie<N> {
    fn new(entries: &[(N, Leaf)], length: impl Fn(&N) -> u8) -> Self {
        Self {
            lengths: entries.iter().map(|(n, _)| length(n)).collect(),
            entries: entries.iter().copied().collect(),
        }
    }

    fn lookup(&self, addr: u128) -> Option<Leaf> {
        self.lengths
            .iter()
            .rev()
            .find_map(|len| self.entries.get(&N::of(addr, *len)?).copied())
    }
}

impl Image {
    /// Does what the kernel's maps do on this operation. Counters are not part of the image.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::ZeroRule { .. } | Op::ZeroListener { .. } => {}
            Op::Build4 { kind, index, entries } => {
                let trie = Trie::new(entries, Ipv4Net::prefix_len);
                match kind {
                    Kind::Source4 => self.source4.insert(*index, trie),
                    Kind::Never4 => self.never4.insert(*index, trie),
                    _ => None,
                };
            }
            Op::Build6 { kind, index, entries } => {
                let trie = Trie::new(entries, Ipv6Net::prefix_len);
                match kind {
                    Kind::Source6 => self.source6.insert(*index, trie),
                    Kind::Never6 => self.never6.insert(*index, trie),
                    _ => None,
                };
            }
            Op::BuildFlat { kind, index, lines } => {
                match kind {
                    Kind::Flat4 => self.flat4.insert(*index, lines.clone()),
                    Kind::Flat6 => self.flat6.insert(*index, lines.clone()),
                    _ => None,
                };
            }
            Op::Swap { root } => self.root = Some(root.clone()),
            Op::Clear { kind, index } => match kind {
                Kind::Source4 => drop(self.source4.remove(index)),
                Kind::Source6 => drop(self.source6.remove(index)),
                Kind::Never4 => drop(self.never4.remove(index)),
                Kind::Never6 => drop(self.never6.remove(index)),
                Kind::Flat4 => drop(self.flat4.remove(index)),
                Kind::Flat6 => drop(self.flat6.remove(index)),
            },
        }
    }
}

impl Tables for Image {
    type Root<'a> = &'a RootImage;

    fn root(&self) -> Option<Self::Root<'_>> {
        self.root.as_deref()
    }

    fn source4(&self, table: u32, addr: [u8; 4]) -> Source {
        let address = u32::from_be_bytes(addr);
        if table & FLAT_TABLE != 0 {
            let lines = self.flat4.get(&table_index(table)).map(|lines| lines.as_slice());
            return flat_source(lines.map(|lines| {
                if table & WIDE_TABLE == 0 {
                    v4::find(lines, address)
                } else {
                    v4::find_wide(lines, address)
                }
            }));
        }
        source(self.source4.get(&table), address.into())
    }

    fn source6(&self, table: u32, addr: [u8; 16]) -> Source {
        let address = u128::from_be_bytes(addr);
        if table & FLAT_TABLE != 0 {
            let lines = self.flat6.get(&table_index(table));
            let (upper, lower) = flat::halves(address);
            return flat_source(lines.map(|lines| v6::find(lines.as_slice(), upper, lower)));
        }
        source(self.source6.get(&table), address)
    }

    fn never4(&self, table: u32, addr: [u8; 4]) -> Option<bool> {
        Some(
            self.never4
                .get(&table)?
                .lookup(u32::from_be_bytes(addr).into())
                .is_some(),
        )
    }

    fn never6(&self, table: u32, addr: [u8; 16]) -> Option<bool> {
        Some(
            self.never6
                .get(&table)?
                .lookup(u128::from_be_bytes(addr))
                .is_some(),
        )
    }

    /// As an agent that runs and is not paused keeps it.
    fn control(&self, element: u32) -> Option<u64> {
        Some(if element == CONTROL_PAUSED { 0 } else { FOREVER })
    }

    fn clock_ns(&self) -> u64 {
        0
    }
}

fn flat_source(found: Option<Flat>) -> Source {
    match found {
        None | Some(Flat::Damaged) => Source::TableMissing,
        Some(Flat::Value(word)) => unpack(word).map_or(Source::Uncovered, Source::Covered),
    }
}

fn source<N: Prefix>(trie: Option<&Trie<N>>, addr: u128) -> Source {
    match trie.map(|t| t.lookup(addr)) {
        None => Source::TableMissing,
        Some(None) => Source::Uncovered,
        Some(Some(leaf)) => Source::Covered(leaf),
    }
}

impl RootTable for &RootImage {
    fn slot(&self, index: u32) -> Option<&Slot> {
        self.get(index)
    }
}
