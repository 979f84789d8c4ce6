//! The tables in force as a packet would find them, for who is no agent: the kernel's own decision can be made over them on the host. Reads
//! only, and only what is asked for: a table of a million prefixes costs a lookup.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, IterableMap as _, Map, MapData, MapError};
use gwfilter_common::abi::{
    ABI_VERSION, CONTROL_LEASE, CONTROL_PAUSED, CONTROL_POD_LEASE, Header, Leaf, ROOT_LEN, Slot, WIDE_TABLE,
};
use gwfilter_common::decide::{RootTable, Source, Tables};
use gwfilter_common::flat::{Flat, Line, Lines, unpack, v4, v6};

use super::TablesError;
use super::earlier::place;
use super::shelf::Shelf;
use super::verify::Place;
use crate::dataplane::control::{Control, now_ns};
use crate::plan::Kind;

/// Lines that one lookup may ask for: of IPv6, a root and eight levels, twice, are the most.
const LINES: usize = 20;

/// A generation as it is pinned, with lease and pause.
pub struct Pinned {
    path: PathBuf,
    shelf: Shelf,
    root: Root,
    control: Control,
    opened: RefCell<BTreeMap<Place, Option<Table>>>,
    failure: RefCell<Option<TablesError>>,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

struct Root {
    map: Array<MapData, Slot>,
    slots: Vec<OnceCell<Slot>>,
}

enum Table {
    Four(LpmTrie<MapData, [u8; 4], Leaf>),
    Six(LpmTrie<MapData, [u8; 16], Leaf>),
    Flat(Array<MapData, Line>),
}

impl Pinned {
    /// What is pinned with the root table at `path`, under the lease and the pause of `control`; `None` if it is of another ABI.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path, control: Control) -> Result<Option<Self>, TablesError> {
        let Some(shelf) = Shelf::at(path) else {
            return Ok(None);
        };
        let unreadable = unreadable(path.display().to_string());
        let map = MapData::from_pin(path).and_then(|data| Array::try_from(Map::Array(data)));
        let root = Root {
            map: map.map_err(unreadable)?,
            slots: (0..ROOT_LEN).map(|_| OnceCell::new()).collect(),
        };
        let pinned = Self {
            path: path.to_owned(),
            shelf,
            root,
            control,
            opened: RefCell::default(),
            failure: RefCell::default(),
        };
        let header = pinned.header();
        pinned.trouble()?;
        Ok(header
            .is_some_and(|header| header.abi_version == ABI_VERSION)
            .then_some(pinned))
    }

    /// Number of the generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.header().map_or(0, |header| header.generation)
    }

    /// Whether it still is the one in force. A table may be another one's as soon as it is not: what was answered from it counts for nothing then.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn in_force(&self) -> Result<bool, TablesError> {
        let name = || self.path.display().to_string();
        // The pin of who took over has another name.
        if !self.path.exists() {
            return Ok(false);
        }
        let number = |map: &MapData| map.info().map(|info| info.id());
        let now = MapData::from_pin(&self.path).and_then(|map| number(&map));
        let ours = number(self.root.map.map());
        Ok(now.map_err(unreadable(name()))? == ours.map_err(unreadable(name()))?)
    }

    /// Why a lookup since the last call could not be made, if one could not.
    ///
    /// # Errors
    /// That reason.
    pub fn trouble(&self) -> Result<(), TablesError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    fn header(&self) -> Option<Header> {
        RootTable::slot(&self, 0).map(Header::from_slot)
    }

    /// What `read` finds in this table; `None`: there is no such table, or it cannot be read.
    fn read<T>(&self, place: Option<Place>, read: impl FnOnce(&Table) -> Result<T, MapError>) -> Option<T> {
        let place = place?;
        let mut opened = self.opened.borrow_mut();
        let found = match opened.get(&place) {
            Some(found) => found,
            None => match self.table(place) {
                Ok(table) => opened.entry(place).or_insert(table),
                Err(e) => return self.failed(e),
            },
        };
        match read(found.as_ref()?) {
            Ok(answer) => Some(answer),
            Err(e) => self.failed(unreadable(place.name())(e)),
        }
    }

    fn failed<T>(&self, error: TablesError) -> Option<T> {
        self.failure.borrow_mut().get_or_insert(error);
        None
    }

    fn table(&self, place: Place) -> Result<Option<Table>, TablesError> {
        let Place::Table(kind, _) = place else {
            return Ok(None);
        };
        let Some(data) = self.shelf.get(&place.name())? else {
            return Ok(None);
        };
        let map = Map::from_map_data(data).map_err(unreadable(place.name()))?;
        let table = match kind {
            Kind::Flat4 | Kind::Flat6 => Array::try_from(map).map(Table::Flat),
            Kind::Source4 | Kind::Never4 => LpmTrie::try_from(map).map(Table::Four),
            Kind::Source6 | Kind::Never6 => LpmTrie::try_from(map).map(Table::Six),
        };
        table.map(Some).map_err(unreadable(place.name()))
    }

    fn source(&self, kind: Kind, six: bool, table: u32, address: [u8; 16]) -> Source {
        let found = self.read(place(six, kind, table), |table_| table_.find(table, six, address));
        found.unwrap_or(Source::TableMissing)
    }
}

fn unreadable(name: String) -> impl FnOnce(MapError) -> TablesError {
    move |source| TablesError::Unreadable {
        name,
        source: Box::new(source),
    }
}

impl Table {
    /// The leaf of an address; one of IPv4 stands in the first four bytes.
    fn find(&self, number: u32, six: bool, address: [u8; 16]) -> Result<Source, MapError> {
        let [a, b, c, d, ..] = address;
        let found = match self {
            Self::Four(trie) => trie.get(&Key::new(32, [a, b, c, d]), 0),
            Self::Six(trie) => trie.get(&Key::new(128, address), 0),
            Self::Flat(array) => return Found::in_array(array, number, six, address),
        };
        match found {
            Ok(leaf) => Ok(Source::Covered(leaf)),
            Err(MapError::KeyNotFound) => Ok(Source::Uncovered),
            Err(e) => Err(e),
        }
    }
}

/// The lines of one lookup, each read once.
struct Found<'a> {
    array: &'a Array<MapData, Line>,
    lines: [OnceCell<Line>; LINES],
    count: Cell<usize>,
    failure: OnceCell<MapError>,
}

impl<'a> Found<'a> {
    fn in_array(
        array: &'a Array<MapData, Line>,
        number: u32,
        six: bool,
        address: [u8; 16],
    ) -> Result<Source, MapError> {
        let lines = Self {
            array,
            lines: [const { OnceCell::new() }; LINES],
            count: Cell::new(0),
            failure: OnceCell::new(),
        };
        let whole = u128::from_be_bytes(address);
        let word = |shift: u32| u64::try_from(whole >> shift & u128::from(u64::MAX)).unwrap_or_default();
        let four = u32::try_from(whole >> 96).unwrap_or_default();
        let found = if six {
            v6::find(&lines, word(64), word(0))
        } else if number & WIDE_TABLE == 0 {
            v4::find(&lines, four)
        } else {
            v4::find_wide(&lines, four)
        };
        match (lines.failure.into_inner(), found) {
            (Some(failure), _) => Err(failure),
            (None, Flat::Damaged) => Ok(Source::TableMissing),
            (None, Flat::Value(word)) => Ok(unpack(word).map_or(Source::Uncovered, Source::Covered)),
        }
    }
}

impl Lines for Found<'_> {
    fn line(&self, index: u32) -> Option<&Line> {
        if index >= self.array.len() {
            return None;
        }
        match self.array.get(&index, 0) {
            Ok(line) => {
                let place = self.lines.get(self.count.replace(self.count.get() + 1))?;
                Some(place.get_or_init(|| line))
            }
            Err(e) => {
                // The first one says enough.
                let _ = self.failure.set(e);
                None
            }
        }
    }
}

impl RootTable for &Pinned {
    fn slot(&self, index: u32) -> Option<&Slot> {
        let cell = self.root.slots.get(usize::try_from(index).ok()?)?;
        if cell.get().is_none() {
            match self.root.map.get(&index, 0) {
                Ok(slot) => drop(cell.set(slot)),
                Err(e) => return self.failed(unreadable(Place::Root.name())(e)),
            }
        }
        cell.get()
    }
}

const fn widened([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

impl Tables for Pinned {
    type Root<'a> = &'a Self;

    fn root(&self) -> Option<Self::Root<'_>> {
        Some(self)
    }

    fn source4(&self, table: u32, addr: [u8; 4]) -> Source {
        self.source(Kind::Source4, false, table, widened(addr))
    }

    fn source6(&self, table: u32, addr: [u8; 16]) -> Source {
        self.source(Kind::Source4, true, table, addr)
    }

    fn never4(&self, table: u32, addr: [u8; 4]) -> Option<bool> {
        covered(self.source(Kind::Never4, false, table, widened(addr)))
    }

    fn never6(&self, table: u32, addr: [u8; 16]) -> Option<bool> {
        covered(self.source(Kind::Never4, true, table, addr))
    }

    fn control(&self, element: u32) -> Option<u64> {
        let words = match self.control.words() {
            Ok(words) => words,
            Err(e) => return self.failed(e),
        };
        match element {
            CONTROL_LEASE => Some(words.lease),
            CONTROL_POD_LEASE => Some(words.pod_lease),
            CONTROL_PAUSED => Some(words.paused),
            _ => None,
        }
    }

    fn clock_ns(&self) -> u64 {
        now_ns()
    }
}

fn covered(source: Source) -> Option<bool> {
    match source {
        Source::TableMissing => None,
        Source::Uncovered => Some(false),
        Source::Covered(_) => Some(true),
    }
}
