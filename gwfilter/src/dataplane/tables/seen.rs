//! The tables of the generation in force as their pins show them, for who is no agent. Reads only.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError};
use gwfilter_common::abi::{ABI_VERSION, BUCKETS_START, HEADER_OBSERVE, Header, PROXY_START, Slot, Tuple};

use super::TablesError;
use super::earlier::tables_of;
use super::shelf::Shelf;
use super::verify::Place;
use crate::dataplane::{query, seen};

/// A generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub generation: u64,
    /// Since when it is in force, in seconds since 1970.
    pub since: Option<u64>,
    /// Nothing is dropped.
    pub observe: bool,
    /// Each destination, with the names of its tables.
    pub tuples: Vec<(Tuple, Vec<String>)>,
    /// The memory of each table, the root table among them, in bytes, as the kernel accounts for it; `None`: it does not say.
    pub tables: BTreeMap<String, Option<u64>>,
}

/// What is pinned with the root table at `path`; `None` if that is of another ABI.
///
/// # Errors
/// It cannot be read.
pub fn look(path: &Path) -> Result<Option<Seen>, TablesError> {
    let unreadable = |source: MapError| TablesError::Unreadable {
        name: path.display().to_string(),
        source: Box::new(source),
    };
    let data = MapData::from_pin(path).map_err(unreadable)?;
    let root_takes = takes(&data);
    let map = Map::Array(data);
    let root = Array::<_, Slot>::try_from(&map).map_err(unreadable)?;
    let slot = |index| root.get(&index, 0).map_err(unreadable);
    let header = Header::from_slot(&slot(0)?);
    if header.abi_version != ABI_VERSION {
        return Ok(None);
    }
    let shelf = Shelf::at(path);
    let (mut tuples, mut tables) = (Vec::new(), BTreeMap::new());
    tables.insert(Place::Root.name(), root_takes);
    for index in BUCKETS_START..PROXY_START {
        // What the header counts is all there is.
        if u32::try_from(tuples.len()).is_ok_and(|found| found >= header.tuples) {
            break;
        }
        let bucket = slot(index)?;
        if bucket == Slot::default() {
            continue;
        }
        let tuple = Tuple::from_slot(&bucket);
        let places = tables_of(&tuple, slot)?;
        let mut names: Vec<String> = places.into_iter().flatten().map(Place::name).collect();
        names.sort();
        names.dedup();
        for name in &names {
            if !tables.contains_key(name) {
                let bytes = shelf.as_ref().and_then(|shelf| bytes(shelf, name));
                tables.insert(name.clone(), bytes);
            }
        }
        tuples.push((tuple, names));
    }
    Ok(Some(Seen {
        generation: header.generation,
        since: seen::since(path),
        observe: header.flags & HEADER_OBSERVE != 0,
        tuples,
        tables,
    }))
}

/// What the table of this name takes.
fn bytes(shelf: &Shelf, name: &str) -> Option<u64> {
    takes(&shelf.get(name).ok()??)
}

fn takes(map: &MapData) -> Option<u64> {
    let about = query::about(map.fd().as_fd()).ok()?;
    query::field(&about, "memlock")
}
