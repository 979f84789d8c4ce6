//! Whether the kernel's tables hold what was written, and putting right what does not.
//!
//! Asked of the kernel without any right but `CAP_BPF`: an array of maps answers with the number of the map at an index, and a pinned table
//! with its own; then its entries. A trie was made just as large as its entries need, so one that holds all of them holds no other.

use std::os::fd::AsFd as _;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData, MapError};
use gwfilter_common::abi::{Leaf, ROOT_LEN, Slot};

use super::{Tables, TablesError, flat, key4, key6};
use crate::dataplane::query;
use crate::plan::Kind;
use crate::telemetry::chain;

/// Something that was not as it was left.
#[derive(Debug)]
pub struct Find {
    /// A public name, in kebab-case.
    pub name: &'static str,
    /// On what, and what was wrong.
    pub what: String,
    /// Why it could not be put right, if it could not.
    pub failure: Option<String>,
}

/// What came of a look.
#[derive(Debug, Default)]
pub struct Look {
    /// What was wrong.
    pub finds: Vec<Find>,
    /// Not everything was looked at yet: the next look goes on.
    pub more: bool,
}

/// A table, in the order in which they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Root,
    Table(Kind, u32),
}

impl Place {
    /// The name of its pin.
    pub(super) fn name(self) -> String {
        match self {
            Self::Root => "root".to_owned(),
            Self::Table(kind, index) => format!("{}-{index}", short(kind)),
        }
    }
}

const fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Source4 => "source4",
        Kind::Source6 => "source6",
        Kind::Never4 => "never4",
        Kind::Never6 => "never6",
        Kind::Flat4 => "flat4",
        Kind::Flat6 => "flat6",
    }
}

/// Where the next look goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    place: Place,
    entry: usize,
}

/// What is wrong with one table.
pub(super) enum Wrong {
    /// It is not the one that was put there.
    Replaced,
    /// Its pin is gone.
    PinGone,
    /// This many of its entries.
    Entries(usize),
}

impl Tables {
    /// Looks whether the tables hold what was written, and writes anew the ones that do not: each packet meets the wrong table or the right
    /// one. Reads at most about `budget` entries; the next call goes on where this one ended.
    pub fn verify(&mut self, budget: usize) -> Look {
        let mut look = Look::default();
        if self.shelf.is_none() {
            return look;
        }
        let places: Vec<Place> = self.written.places().collect();
        let from = self.cursor.take();
        let mut left = budget.max(1);
        for place in places.into_iter().filter(|p| from.is_none_or(|f| *p >= f.place)) {
            if left == 0 {
                self.cursor = Some(Cursor { place, entry: 0 });
                look.more = true;
                return look;
            }
            let first = from.filter(|f| f.place == place).map_or(0, |f| f.entry);
            match self.examine(place, first, &mut left) {
                Ok((None, None)) => {}
                Ok((None, Some(entry))) => {
                    self.cursor = Some(Cursor { place, entry });
                    look.more = true;
                    return look;
                }
                Ok((Some(wrong), _)) => look.finds.push(self.mend(place, &wrong)),
                Err(e) => look.finds.push(Find {
                    name: "table-unreadable",
                    what: place.name(),
                    failure: Some(chain(&e)),
                }),
            }
        }
        look
    }

    /// What is wrong with a table, or where to go on if `left` did not last.
    fn examine(
        &self,
        place: Place,
        first: usize,
        left: &mut usize,
    ) -> Result<(Option<Wrong>, Option<usize>), TablesError> {
        let name = place.name();
        let Some(shelf) = &self.shelf else {
            return Ok((None, None));
        };
        let Some(table) = shelf.get(&name)? else {
            return Ok((Some(Wrong::PinGone), None));
        };
        let array = self.numbers.at(place);
        let failed = |source| TablesError::Unreadable {
            name: name.clone(),
            source: Box::new(source),
        };
        let number = table.info().map_err(failed)?.id();
        let index = match place {
            Place::Root => 0,
            Place::Table(_, index) => index,
        };
        let there = query::number_at(array.as_fd(), index).map_err(|e| TablesError::Question {
            name: name.clone(),
            source: e,
        })?;
        if there != Some(number) {
            return Ok((Some(Wrong::Replaced), None));
        }
        let map = Map::from_map_data(table).map_err(failed)?;
        match place {
            Place::Root => {
                *left = left.saturating_sub(ROOT_LEN as usize).max(1);
                let wrong = self.wrong_slots(&map).map_err(failed)?;
                Ok(((wrong > 0).then_some(Wrong::Entries(wrong)), None))
            }
            Place::Table(kind, index) => self.wrong_entries(kind, index, &map, first, left).map_err(failed),
        }
    }

    fn wrong_entries(
        &self,
        kind: Kind,
        index: u32,
        map: &Map,
        first: usize,
        left: &mut usize,
    ) -> Result<(Option<Wrong>, Option<usize>), MapError> {
        let key = (kind, index);
        if let Some(entries) = self.written.four.get(&key) {
            let trie = LpmTrie::<_, [u8; 4], Leaf>::try_from(map)?;
            return compare(&trie, entries, |net| key4(*net), first, left);
        }
        if let Some(entries) = self.written.six.get(&key) {
            let trie = LpmTrie::<_, [u8; 16], Leaf>::try_from(map)?;
            return compare(&trie, entries, |net| key6(*net), first, left);
        }
        if let Some(lines) = self.written.flat.get(&key) {
            return flat::compare(&Array::try_from(map)?, lines, first, left);
        }
        Ok((None, None))
    }

    fn wrong_slots(&self, map: &Map) -> Result<usize, MapError> {
        let root = Array::<_, Slot>::try_from(map)?;
        let Some(image) = &self.written.root else {
            return Ok(0);
        };
        let mut wrong = 0;
        for index in 0..ROOT_LEN {
            if Some(&root.get(&index, 0)?) != image.get(index) {
                wrong += 1;
            }
        }
        Ok(wrong)
    }

    fn mend(&mut self, place: Place, wrong: &Wrong) -> Find {
        let (name, what) = match wrong {
            Wrong::Replaced => (
                "table-replaced",
                format!("{}: another table is in its place", place.name()),
            ),
            Wrong::PinGone => ("table-pin-gone", format!("{}: its pin was removed", place.name())),
            Wrong::Entries(n) => (
                "table-changed",
                format!("{}: {n} entries are not as written", place.name()),
            ),
        };
        let failure = match self.write_again(place) {
            Ok(not_pinned) => not_pinned,
            Err(e) => Some(e),
        };
        Find {
            name,
            what,
            failure: failure.map(|e| chain(&e)),
        }
    }

    fn write_again(&mut self, place: Place) -> Result<Option<TablesError>, TablesError> {
        match place {
            Place::Root => match self.written.root.clone() {
                Some(image) => self.swap(&image),
                None => Ok(None),
            },
            Place::Table(kind, index) => {
                let key = (kind, index);
                if let Some(entries) = self.written.four.get(&key).cloned() {
                    self.build4(kind, index, &entries)
                } else if let Some(entries) = self.written.six.get(&key).cloned() {
                    self.build6(kind, index, &entries)
                } else if let Some(lines) = self.written.flat.get(&key).cloned() {
                    self.build_flat(kind, index, &lines)
                } else {
                    Ok(None)
                }
            }
        }
    }
}

/// Looks up each entry from number `first` on; how many are not as written, or where to go on.
fn compare<const N: usize, P>(
    trie: &LpmTrie<&MapData, [u8; N], Leaf>,
    entries: &[(P, Leaf)],
    key: impl Fn(&P) -> Key<[u8; N]>,
    first: usize,
    left: &mut usize,
) -> Result<(Option<Wrong>, Option<usize>), MapError>
where
    [u8; N]: aya::Pod,
{
    let mut wrong = 0;
    for (at, (net, leaf)) in entries.iter().enumerate().skip(first) {
        if *left == 0 && wrong == 0 {
            return Ok((None, Some(at)));
        }
        *left = left.saturating_sub(1);
        match trie.get(&key(net), 0) {
            Ok(found) if found == *leaf => {}
            Ok(_) | Err(MapError::KeyNotFound) => wrong += 1,
            Err(e) => return Err(e),
        }
    }
    // The smallest trie holds one entry.
    if entries.is_empty() && trie.keys().next().is_some() {
        wrong += 1;
    }
    Ok(((wrong > 0).then_some(Wrong::Entries(wrong)), None))
}
