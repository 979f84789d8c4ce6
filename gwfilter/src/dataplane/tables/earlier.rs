//! What an earlier agent left in force, against what this one is about to bring into force: destination by destination.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData, MapError};
use gwfilter_common::abi::{
    BUCKETS_START, FLAT_TABLE, Leaf, PROXY_START, Proxy, Slot, TUPLE_NEW_ONLY, TUPLE_PROXY, Tuple,
    VERDICT_DROP, VERDICT_DROP_NEW, table_index,
};
use gwfilter_common::flat::{Line, unpack};
use ipnet::{Ipv4Net, Ipv6Net};

use super::shelf::Shelf;
use super::verify::Place;
use super::{Tables, TablesError};
use crate::plan::ranges::Prefix;
use crate::plan::{Kind, flat};

/// How the tables of an earlier agent compare with ours, in destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Judged as before.
    pub same: usize,
    /// Judged otherwise: other sources are refused, or in another way.
    pub otherwise: usize,
    /// Judged no longer.
    pub no_longer: usize,
    /// Judged anew.
    pub anew: usize,
}

/// Address, port and protocol.
type Destination = ([u8; 16], u16, u8);
/// What a table answers, as a number that equal ones share: whether an address is refused, without indices of rules and drain windows.
type Digest = Option<u64>;

impl Tables {
    /// Compares what the one earlier agent has left with what was written here; nothing if there was none, or if remains of several lie
    /// there, so that nobody can say which are in force.
    ///
    /// # Errors
    /// Something is there and cannot be read.
    pub fn compare_earlier(&self) -> Result<Option<Compared>, TablesError> {
        let (Some(shelf), Some(image)) = (&self.shelf, &self.written.root) else {
            return Ok(None);
        };
        let [theirs] = shelf.others()?.try_into().unwrap_or([0]);
        if theirs == 0 {
            return Ok(None);
        }
        let theirs = shelf.of(theirs);
        let Some(map) = opened(&theirs, Place::Root)? else {
            return Ok(None);
        };
        let unreadable = |source| TablesError::Unreadable {
            name: Place::Root.name(),
            source: Box::new(source),
        };
        let root = Array::<_, Slot>::try_from(&map).map_err(unreadable)?;
        let mut seen = BTreeMap::new();
        let before = destinations(
            |index| root.get(&index, 0).map_err(unreadable),
            |place| {
                if let Some(known) = seen.get(&place) {
                    return Ok(*known);
                }
                let digest = pinned(&theirs, place)?;
                seen.insert(place, digest);
                Ok(digest)
            },
        )?;
        let now = destinations(
            |index| Ok(image.get(index).copied().unwrap_or_default()),
            |place| Ok(self.digest(place)),
        )?;
        let mut compared = Compared::default();
        for (destination, how) in &now {
            match before.get(destination) {
                Some(was) if was == how => compared.same += 1,
                Some(_) => compared.otherwise += 1,
                None => compared.anew += 1,
            }
        }
        compared.no_longer = before.keys().filter(|d| !now.contains_key(*d)).count();
        Ok(Some(compared))
    }

    fn digest(&self, place: Place) -> Digest {
        match place {
            Place::Root => None,
            Place::Table(kind, index) => {
                let key = &(kind, index);
                if let Some(entries) = self.written.four.get(key) {
                    return of_entries(entries);
                }
                if let Some(entries) = self.written.six.get(key) {
                    return of_entries(entries);
                }
                self.written.flat.get(key).and_then(|lines| of_lines(kind, lines))
            }
        }
    }
}

/// Each destination of a root table, with all that decides what becomes of its packets.
fn destinations(
    slot: impl Fn(u32) -> Result<Slot, TablesError>,
    mut table: impl FnMut(Place) -> Result<Digest, TablesError>,
) -> Result<BTreeMap<Destination, (u32, Vec<Digest>)>, TablesError> {
    let mut found = BTreeMap::new();
    for index in BUCKETS_START..PROXY_START {
        let slot_here = slot(index)?;
        if slot_here == Slot::default() {
            continue;
        }
        let tuple = Tuple::from_slot(&slot_here);
        let tables = tables_of(&tuple, &slot)?;
        let digests = tables.into_iter().map(|place| match place {
            Some(place) => table(place),
            None => Ok(None),
        });
        let digests = digests.collect::<Result<Vec<_>, _>>()?;
        found.insert(
            (tuple.addr, tuple.port, tuple.protocol),
            (tuple.flags & !TUPLE_NEW_ONLY, digests),
        );
    }
    Ok(found)
}

/// The tables that decide what becomes of a destination's packets, each in its place.
pub(super) fn tables_of(
    tuple: &Tuple,
    slot: impl Fn(u32) -> Result<Slot, TablesError>,
) -> Result<Vec<Option<Place>>, TablesError> {
    let six = tuple.family == 6;
    let mut tables = vec![
        place(six, Kind::Source4, tuple.source_table),
        place(six, Kind::Never4, tuple.never_table),
    ];
    if tuple.flags & TUPLE_PROXY != 0 {
        let proxy = Proxy::from_slot(&slot(tuple.proxy)?);
        for (four, six) in [
            (proxy.peer4, proxy.peer6),
            (proxy.client4, proxy.client6),
            (proxy.dest4, proxy.dest6),
        ] {
            tables.extend([place(false, Kind::Source4, four), place(true, Kind::Source4, six)]);
        }
        for (four, six) in [(proxy.never4, proxy.never6), (proxy.trusted4, proxy.trusted6)] {
            tables.extend([place(false, Kind::Never4, four), place(true, Kind::Never4, six)]);
        }
        tables.extend([
            place(false, Kind::Source4, proxy.ports),
            place(false, Kind::Source4, proxy.verdicts),
        ]);
    }
    Ok(tables)
}

/// The table of this number of the purpose of this kind; 0 is none.
pub(super) fn place(six: bool, kind: Kind, number: u32) -> Option<Place> {
    let flat = number & FLAT_TABLE != 0;
    let kind = match (kind, six) {
        (Kind::Never4, true) => Kind::Never6,
        (Kind::Source4, false) if flat => Kind::Flat4,
        (Kind::Source4, true) if flat => Kind::Flat6,
        (Kind::Source4, true) => Kind::Source6,
        (kind, _) => kind,
    };
    (number != 0).then_some(Place::Table(kind, table_index(number)))
}

fn opened(shelf: &Shelf, place: Place) -> Result<Option<Map>, TablesError> {
    let Some(table) = shelf.get(&place.name())? else {
        return Ok(None);
    };
    let map = Map::from_map_data(table).map_err(|source| TablesError::Unreadable {
        name: place.name(),
        source: Box::new(source),
    })?;
    Ok(Some(map))
}

/// Of a table that an earlier agent pinned.
fn pinned(shelf: &Shelf, place: Place) -> Result<Digest, TablesError> {
    let Some(map) = opened(shelf, place)? else {
        return Ok(None);
    };
    let read = || match place {
        Place::Root => Ok(None),
        Place::Table(kind @ (Kind::Flat4 | Kind::Flat6), _) => {
            let array = Array::<_, Line>::try_from(&map)?;
            let lines: Result<Vec<Line>, _> = array.iter().collect();
            Ok(of_lines(kind, &lines?))
        }
        Place::Table(kind, _) if kind.is_six() => {
            all::<16, Ipv6Net>(&LpmTrie::try_from(&map)?, u128::from_be_bytes)
        }
        Place::Table(..) => {
            all::<4, Ipv4Net>(&LpmTrie::try_from(&map)?, |addr| u32::from_be_bytes(addr).into())
        }
    };
    read().map_err(|source| TablesError::Unreadable {
        name: place.name(),
        source: Box::new(source),
    })
}

fn all<const N: usize, P: Prefix>(
    trie: &LpmTrie<&MapData, [u8; N], Leaf>,
    address: impl Fn([u8; N]) -> u128,
) -> Result<Digest, MapError>
where
    [u8; N]: aya::Pod,
{
    let entry = |(key, leaf): (Key<[u8; N]>, Leaf)| {
        let len = u8::try_from(key.prefix_len()).ok()?;
        Some((P::of(address(key.data()), len)?, leaf))
    };
    let entries: Result<Vec<_>, _> = trie.iter().map(|found| found.map(entry)).collect();
    Ok(of_entries(
        entries?
            .into_iter()
            .flatten()
            .collect::<Vec<(P, Leaf)>>()
            .as_slice(),
    ))
}

fn of_entries<P: Prefix>(entries: &[(P, Leaf)]) -> Digest {
    flat::changes(entries).ok().map(digest)
}

fn of_lines(kind: Kind, lines: &[Line]) -> Digest {
    let changes = if kind.is_six() {
        flat::changes6(lines)
    } else {
        flat::changes4(lines)
    };
    Some(digest(changes))
}

/// Of a table in whatever shape, as the addresses at which the answer changes.
fn digest(changes: Vec<(u128, u32)>) -> u64 {
    let answer = |word| {
        let leaf = unpack(word)?;
        let refused = matches!(leaf.verdict, VERDICT_DROP | VERDICT_DROP_NEW);
        // In a refusal it is the index of a rule, which another agent may have chosen otherwise; in a class it is the class.
        Some(if refused {
            (VERDICT_DROP, 0)
        } else {
            (leaf.verdict, leaf.rule)
        })
    };
    let mut answers: Vec<_> = changes.into_iter().map(|(at, word)| (at, answer(word))).collect();
    answers.dedup_by_key(|(_, answer)| *answer);
    let mut hasher = DefaultHasher::new();
    answers.hash(&mut hasher);
    hasher.finish()
}
