//! An in-memory image of the tables and one table of cases, for the tests of both sides and for fuzz targets.
//!
//! The cases that the host reader is held against are the very ones that the kernel programs are held against. Needs `std`; not part of what
//! is shipped.
#![expect(
    clippy::missing_panics_doc,
    reason = "test support: a fixture that cannot be made is a bug of the test"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use crate::abi::{self, Header, Leaf, Slot, SynEntry, SynKey, Tuple};
use crate::decide::{RootTable, Source, Streams, Tables};
use crate::wire::Family;

pub mod cases;
pub mod control;
pub mod headers;
mod lengths;
pub mod matrix;
pub mod mutate;
pub mod property;
pub mod proxied;
pub mod proxy;
pub mod streams;
pub mod tables;

/// A trie: address, prefix length, value. The list is searched from end to end: slow and obvious.
pub type Trie<const N: usize, V> = Vec<([u8; N], u32, V)>;

/// The kernel's maps, in memory.
#[derive(Clone, Debug)]
pub struct Image {
    /// The root table, if one is in force.
    pub root: Option<Vec<Slot>>,
    /// IPv4 source tables by index.
    pub source4: BTreeMap<u32, Trie<4, Leaf>>,
    /// IPv6 source tables by index.
    pub source6: BTreeMap<u32, Trie<16, Leaf>>,
    /// IPv4 never-drop tables by index.
    pub never4: BTreeMap<u32, Trie<4, Leaf>>,
    /// IPv6 never-drop tables by index.
    pub never6: BTreeMap<u32, Trie<16, Leaf>>,
    /// The words of the control map.
    pub control: [u64; abi::CONTROL_LEN as usize],
    /// What [`Tables::clock_ns`] says.
    pub clock_ns: u64,
}

/// Without lease and pause.
pub const UNCONTROLLED: [u64; abi::CONTROL_LEN as usize] = [abi::FOREVER, abi::FOREVER, 0];

impl Default for Image {
    fn default() -> Self {
        Self {
            root: None,
            source4: BTreeMap::new(),
            source6: BTreeMap::new(),
            never4: BTreeMap::new(),
            never6: BTreeMap::new(),
            control: UNCONTROLLED,
            clock_ns: 0,
        }
    }
}

/// The kernel's memory of connections, without a bound, and a clock that the test sets.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    syns: RefCell<BTreeMap<SynKey, SynEntry>>,
    /// What [`Streams::now_ns`] says.
    pub now_ns: u64,
}

impl Streams for Connections {
    fn syn_seen(&self, key: &SynKey, entry: &SynEntry) {
        self.syns.borrow_mut().insert(*key, *entry);
    }

    fn syn(&self, key: &SynKey) -> Option<SynEntry> {
        self.syns.borrow().get(key).copied()
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

/// A root table of an [`Image`].
#[derive(Clone, Copy, Debug)]
pub struct Root<'a>(&'a [Slot]);

impl RootTable for Root<'_> {
    fn slot(&self, index: u32) -> Option<&Slot> {
        self.0.get(usize::try_from(index).ok()?)
    }
}

impl Tables for Image {
    type Root<'a> = Root<'a>;

    fn root(&self) -> Option<Root<'_>> {
        self.root.as_deref().map(Root)
    }

    fn source4(&self, table: u32, addr: [u8; 4]) -> Source {
        source(self.source4.get(&table), addr)
    }

    fn source6(&self, table: u32, addr: [u8; 16]) -> Source {
        source(self.source6.get(&table), addr)
    }

    fn never4(&self, table: u32, addr: [u8; 4]) -> Option<bool> {
        self.never4.get(&table).map(|t| longest(t, addr).is_some())
    }

    fn never6(&self, table: u32, addr: [u8; 16]) -> Option<bool> {
        self.never6.get(&table).map(|t| longest(t, addr).is_some())
    }

    fn control(&self, element: u32) -> Option<u64> {
        self.control.get(usize::try_from(element).ok()?).copied()
    }

    fn clock_ns(&self) -> u64 {
        self.clock_ns
    }
}

fn source<const N: usize>(trie: Option<&Trie<N, Leaf>>, addr: [u8; N]) -> Source {
    match trie {
        None => Source::TableMissing,
        Some(trie) => longest(trie, addr).map_or(Source::Uncovered, Source::Covered),
    }
}

/// The value of the longest prefix that covers `addr`.
pub fn longest<const N: usize, V: Copy>(trie: &Trie<N, V>, addr: [u8; N]) -> Option<V> {
    trie.iter()
        .filter(|(net, len, _)| covers(net, *len, &addr))
        .max_by_key(|(_, len, _)| *len)
        .map(|t| t.2)
}

fn covers<const N: usize>(net: &[u8; N], len: u32, addr: &[u8; N]) -> bool {
    let mut left = len;
    net.iter().zip(addr).all(|(n, a)| {
        let bits = left.min(8);
        left -= bits;
        let mask = !(0xff_u32 >> bits);
        u32::from(n ^ a) & mask & 0xff == 0
    })
}

/// A root table with these tuples.
#[must_use]
#[expect(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a fixture that does not fit is a bug of the test"
)]
pub fn root_table(header_flags: u32, seed: u32, tuples: &[Tuple]) -> Vec<Slot> {
    let mut slots = vec![[0; 8]; abi::ROOT_LEN as usize];
    slots[0] = Header {
        abi_version: abi::ABI_VERSION,
        seed,
        generation: 1,
        flags: header_flags,
        tuples: u32::try_from(tuples.len()).unwrap_or(u32::MAX),
        _reserved: [0; 5],
    }
    .to_slot();
    for tuple in tuples {
        let (slot, word, mask) = abi::port_bit(tuple.port);
        slots[slot as usize][word] |= mask;
        let hash = abi::hash(seed, &tuple.addr, tuple.port, tuple.protocol);
        let free = (0..abi::MAX_PROBES)
            .map(|probe| abi::bucket(hash, probe) as usize)
            .find(|i| slots[*i] == [0; 8])
            .unwrap_or_else(|| panic!("no bucket for {tuple:?}"));
        slots[free] = tuple.to_slot();
    }
    slots
}

/// A tuple without flags and tables.
#[must_use]
pub fn tuple(destination: core::net::SocketAddr, protocol: u8, listener: u32) -> Tuple {
    let (addr, family) = match destination.ip() {
        core::net::IpAddr::V4(a) => (widen(a.octets()), Family::V4),
        core::net::IpAddr::V6(a) => (a.octets(), Family::V6),
    };
    Tuple {
        addr,
        port: destination.port(),
        protocol,
        family: match family {
            Family::V4 => 4,
            Family::V6 => 6,
        },
        flags: 0,
        source_table: 0,
        never_table: 0,
        listener,
        proxy: 0,
        _reserved: [0; 6],
    }
}

fn widen(a: [u8; 4]) -> [u8; 16] {
    let mut wide = [0; 16];
    if let Some(first) = wide.first_chunk_mut() {
        *first = a;
    }
    wide
}
