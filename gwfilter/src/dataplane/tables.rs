//! Applies the planner's operations to the kernel's maps, in their order.

mod earlier;
mod flat;
pub mod pinned;
pub mod seen;
mod shelf;
mod verify;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, IterableMap as _, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use gwfilter_common::abi::{
    COUNT_MAP, FLAT4_MAP, FLAT6_MAP, LOGLIM_MAP, Leaf, LogLimit, NEVER4_MAP, NEVER6_MAP, REASONS, ROOT_LEN,
    ROOT_MAP, RULES_MAP, SRC4_MAP, SRC6_MAP, Slot, Tally,
};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::plan::{Entries4, Entries6, FlatTable, Kind, Op, RootImage};

use flat::{Flats, LineArray};
use shelf::{Old, Shelf};
use verify::{Cursor, Place};

pub use earlier::Compared;
pub use shelf::ShelfError;
pub(super) use shelf::empty;
pub use verify::{Find, Look};

type Trie<const N: usize> = LpmTrie<MapData, [u8; N], Leaf>;
type Tries<const N: usize> = ArrayOfMaps<MapData, Trie<N>>;
type Root = Array<MapData, Slot>;

/// Tries need it (`kernel/bpf/lpm_trie.c`).
const BPF_F_NO_PREALLOC: u32 = 1;
/// The allocator behind tries answers ENOMEM while it is being refilled; that takes milliseconds.
const ENOMEM_TRIES: u32 = 100;
const ENOMEM_WAIT: Duration = Duration::from_millis(5);

/// Why the maps could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The object has no such map, or one of another type.
    #[error("the eBPF object has no usable map {name}")]
    Missing {
        /// The map.
        name: &'static str,
        /// What is wrong with it, if it is there.
        source: Option<Box<MapError>>,
    },
    /// A system call on it failed.
    #[error("cannot {what} {map} at index {index}")]
    Access {
        /// What was tried.
        what: &'static str,
        /// On what.
        map: &'static str,
        /// Where.
        index: u32,
        /// Why it failed.
        source: Box<MapError>,
    },
    /// A table in force is not pinned as it should be. It is in force all the same.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// A table in force cannot be looked at.
    #[error("cannot read table {name}")]
    Unreadable {
        /// Which.
        name: String,
        /// Why it failed.
        source: Box<MapError>,
    },
    /// The array that a table is in cannot be asked.
    #[error("cannot ask which table is in the place of {name}")]
    Question {
        /// Which.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The number of CPUs is not known.
    #[error("cannot learn the number of CPUs")]
    Cpus(#[source] io::Error),
}

pub(super) fn failed(
    what: &'static str,
    map: &'static str,
    index: u32,
) -> impl FnOnce(MapError) -> TablesError {
    move |source| TablesError::Access {
        what,
        map,
        index,
        source: Box::new(source),
    }
}

/// The maps of one loaded object.
pub struct Tables {
    root: ArrayOfMaps<MapData, Root>,
    source4: Tries<4>,
    source6: Tries<16>,
    never4: Tries<4>,
    never6: Tries<16>,
    flat4: Flats,
    flat6: Flats,
    /// What freed indices hold.
    empty4: Trie<4>,
    empty6: Trie<16>,
    empty_flat: LineArray,
    count: PerCpuArray<MapData, Tally>,
    rules: PerCpuArray<MapData, Tally>,
    log_limit: PerCpuArray<MapData, LogLimit>,
    cpus: usize,
    numbers: Numbers,
    /// What is in force, as it was written.
    written: Written,
    /// Where it is pinned, if it is.
    shelf: Option<Shelf>,
    old: Old,
    cursor: Option<Cursor>,
}

/// The arrays of maps again, for questions that aya does not ask.
#[derive(Debug)]
struct Numbers {
    root: OwnedFd,
    source4: OwnedFd,
    source6: OwnedFd,
    never4: OwnedFd,
    never6: OwnedFd,
    flat4: OwnedFd,
    flat6: OwnedFd,
}

impl Numbers {
    fn of(ebpf: &Ebpf) -> Result<Self, TablesError> {
        let again = |name| {
            let Some(Map::ArrayOfMaps(data)) = ebpf.map(name) else {
                return Err(TablesError::Missing { name, source: None });
            };
            let again = data.fd().as_fd().try_clone_to_owned();
            again.map_err(|source| TablesError::Question {
                name: name.to_owned(),
                source,
            })
        };
        Ok(Self {
            root: again(ROOT_MAP)?,
            source4: again(SRC4_MAP)?,
            source6: again(SRC6_MAP)?,
            never4: again(NEVER4_MAP)?,
            never6: again(NEVER6_MAP)?,
            flat4: again(FLAT4_MAP)?,
            flat6: again(FLAT6_MAP)?,
        })
    }

    const fn at(&self, place: Place) -> &OwnedFd {
        match place {
            Place::Root => &self.root,
            Place::Table(Kind::Source4, _) => &self.source4,
            Place::Table(Kind::Source6, _) => &self.source6,
            Place::Table(Kind::Never4, _) => &self.never4,
            Place::Table(Kind::Never6, _) => &self.never6,
            Place::Table(Kind::Flat4, _) => &self.flat4,
            Place::Table(Kind::Flat6, _) => &self.flat6,
        }
    }
}

/// Shares its entries with the planner.
#[derive(Debug, Default)]
struct Written {
    root: Option<Arc<RootImage>>,
    four: BTreeMap<(Kind, u32), Entries4>,
    six: BTreeMap<(Kind, u32), Entries6>,
    flat: BTreeMap<(Kind, u32), FlatTable>,
}

impl Written {
    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let root = self.root.iter().map(|_| Place::Root);
        let tables = self.four.keys().chain(self.six.keys()).chain(self.flat.keys());
        root.chain(tables.map(|(kind, index)| Place::Table(*kind, *index)))
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Tables {
    /// Takes the maps out of the object.
    ///
    /// # Errors
    /// One is missing or of another shape.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, TablesError> {
        let numbers = Numbers::of(ebpf)?;
        Ok(Self {
            root: map(ebpf, ROOT_MAP)?,
            source4: map(ebpf, SRC4_MAP)?,
            source6: map(ebpf, SRC6_MAP)?,
            never4: map(ebpf, NEVER4_MAP)?,
            never6: map(ebpf, NEVER6_MAP)?,
            flat4: map(ebpf, FLAT4_MAP)?,
            flat6: map(ebpf, FLAT6_MAP)?,
            empty_flat: flat::create(1).map_err(failed("make an empty table for", FLAT4_MAP, 0))?,
            empty4: Trie::create(1, BPF_F_NO_PREALLOC).map_err(failed(
                "make an empty table for",
                SRC4_MAP,
                0,
            ))?,
            empty6: Trie::create(1, BPF_F_NO_PREALLOC).map_err(failed(
                "make an empty table for",
                SRC6_MAP,
                0,
            ))?,
            count: map(ebpf, COUNT_MAP)?,
            rules: map(ebpf, RULES_MAP)?,
            log_limit: map(ebpf, LOGLIM_MAP)?,
            cpus: aya::util::nr_cpus().map_err(|(_, e)| TablesError::Cpus(e))?,
            numbers,
            written: Written::default(),
            shelf: None,
            old: Old::default(),
            cursor: None,
        })
    }

    /// Pins from now on what comes into force, in `dir`; `owner` is a number that no other object has there.
    pub fn keep_in(&mut self, dir: PathBuf, owner: u32) {
        self.shelf = Some(Shelf::new(dir, owner));
    }

    /// Takes out of use what earlier agents left pinned. To be called when no link of theirs is left.
    ///
    /// # Errors
    /// A pin cannot be moved.
    pub fn retire_earlier(&mut self) -> Result<(), TablesError> {
        if let Some(shelf) = &self.shelf {
            shelf.retire_others(&mut self.old)?;
        }
        Ok(())
    }

    /// Whether tables out of use are still to be freed.
    #[must_use]
    pub fn has_old(&self) -> bool {
        !self.old.is_empty()
    }

    /// Frees at most about `entries` entries of tables out of use. What comes back is why one is freed in one go instead.
    pub fn free_old(&mut self, entries: usize) -> Vec<TablesError> {
        self.old
            .free(entries)
            .into_iter()
            .map(TablesError::Shelf)
            .collect()
    }

    /// Applies operations in order. What comes back are failures to pin a table, and to free memory after the swap: the generation is in
    /// force all the same.
    ///
    /// # Errors
    /// An operation up to and with the swap failed: the generation in force is untouched.
    pub fn apply(&mut self, ops: &[Op]) -> Result<Vec<TablesError>, TablesError> {
        let mut left = Vec::new();
        for op in ops {
            match op {
                Op::ZeroRule { index } => self.zero_rule(*index)?,
                Op::ZeroListener { index } => self.zero_listener(*index)?,
                Op::Build4 { kind, index, entries } => left.extend(self.build4(*kind, *index, entries)?),
                Op::Build6 { kind, index, entries } => left.extend(self.build6(*kind, *index, entries)?),
                Op::BuildFlat { kind, index, lines } => left.extend(self.build_flat(*kind, *index, lines)?),
                Op::Swap { root } => left.extend(self.swap(root)?),
                Op::Clear { kind, index } => {
                    if let Err(e) = self.clear(*kind, *index) {
                        left.push(e);
                    }
                }
            }
        }
        Ok(left)
    }

    fn tries4(&mut self, kind: Kind) -> (&mut Tries<4>, &'static str) {
        if kind == Kind::Never4 {
            (&mut self.never4, NEVER4_MAP)
        } else {
            (&mut self.source4, SRC4_MAP)
        }
    }

    fn tries6(&mut self, kind: Kind) -> (&mut Tries<16>, &'static str) {
        if kind == Kind::Never6 {
            (&mut self.never6, NEVER6_MAP)
        } else {
            (&mut self.source6, SRC6_MAP)
        }
    }

    /// What comes back is why the table is not pinned; it is in its place all the same.
    fn build4(
        &mut self,
        kind: Kind,
        index: u32,
        entries: &Entries4,
    ) -> Result<Option<TablesError>, TablesError> {
        let (tries, name) = self.tries4(kind);
        let list = entries.iter().map(|(net, leaf)| (key4(*net), *leaf));
        let trie = build(list).map_err(failed("fill a table for", name, index))?;
        tries.set(index, &trie, 0).map_err(failed("set", name, index))?;
        self.written.four.insert((kind, index), entries.clone());
        Ok(self.pin(Place::Table(kind, index), trie.map()))
    }

    /// As [`Self::build4`].
    fn build6(
        &mut self,
        kind: Kind,
        index: u32,
        entries: &Entries6,
    ) -> Result<Option<TablesError>, TablesError> {
        let (tries, name) = self.tries6(kind);
        let list = entries.iter().map(|(net, leaf)| (key6(*net), *leaf));
        let trie = build(list).map_err(failed("fill a table for", name, index))?;
        tries.set(index, &trie, 0).map_err(failed("set", name, index))?;
        self.written.six.insert((kind, index), entries.clone());
        Ok(self.pin(Place::Table(kind, index), trie.map()))
    }

    /// As [`Self::build4`].
    fn swap(&mut self, image: &Arc<RootImage>) -> Result<Option<TablesError>, TablesError> {
        let mut root = Root::create(ROOT_LEN, 0).map_err(failed("make a root table for", ROOT_MAP, 0))?;
        for (index, slot) in image.slots() {
            root.set(index, slot, 0)
                .map_err(failed("fill the root table for", ROOT_MAP, index))?;
        }
        self.root.set(0, &root, 0).map_err(failed("set", ROOT_MAP, 0))?;
        self.written.root = Some(image.clone());
        Ok(self.pin(Place::Root, root.map()))
    }

    fn pin(&self, place: Place, table: &MapData) -> Option<TablesError> {
        let pinned = self.shelf.as_ref()?.put(&place.name(), table);
        pinned.err().map(TablesError::Shelf)
    }

    fn clear(&mut self, kind: Kind, index: u32) -> Result<(), TablesError> {
        let (done, name) = match kind {
            Kind::Source4 => (self.source4.set(index, &self.empty4, 0), SRC4_MAP),
            Kind::Never4 => (self.never4.set(index, &self.empty4, 0), NEVER4_MAP),
            Kind::Source6 => (self.source6.set(index, &self.empty6, 0), SRC6_MAP),
            Kind::Never6 => (self.never6.set(index, &self.empty6, 0), NEVER6_MAP),
            Kind::Flat4 => (self.flat4.set(index, &self.empty_flat, 0), FLAT4_MAP),
            Kind::Flat6 => (self.flat6.set(index, &self.empty_flat, 0), FLAT6_MAP),
        };
        done.map_err(failed("clear", name, index))?;
        self.written.four.remove(&(kind, index));
        self.written.six.remove(&(kind, index));
        self.written.flat.remove(&(kind, index));
        match &self.shelf {
            Some(shelf) => Ok(shelf.retire(&Place::Table(kind, index).name(), &mut self.old)?),
            None => Ok(()),
        }
    }

    fn zero_rule(&mut self, index: u32) -> Result<(), TablesError> {
        let zero = zeros(self.cpus)?;
        self.rules
            .set(index, zero, 0)
            .map_err(failed("zero", RULES_MAP, index))
    }

    fn zero_listener(&mut self, index: u32) -> Result<(), TablesError> {
        for i in block(index) {
            let zero = zeros(self.cpus)?;
            self.count.set(i, zero, 0).map_err(failed("zero", COUNT_MAP, i))?;
        }
        Ok(())
    }

    /// A listener's counters, one for each reason code, summed over the CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn listener(&self, index: u32) -> Result<Vec<Tally>, TablesError> {
        block(index).map(|i| sum(&self.count, COUNT_MAP, i)).collect()
    }

    /// A rule's counter, summed over the CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn rule(&self, index: u32) -> Result<Tally, TablesError> {
        sum(&self.rules, RULES_MAP, index)
    }

    /// Destinations in the generation in force.
    #[must_use]
    pub fn tuples(&self) -> u64 {
        self.written
            .root
            .as_ref()
            .map_or(0, |root| root.header().tuples.into())
    }

    /// Packet-log lines that the kernel side did not write since it was loaded.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn suppressed_lines(&self) -> Result<u64, TablesError> {
        let values = self.log_limit.get(&0, 0).map_err(failed("read", LOGLIM_MAP, 0))?;
        Ok(values.iter().fold(0, |sum, l| l.suppressed.saturating_add(sum)))
    }
}

/// Takes a map out of the object.
pub(super) fn map<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, TablesError> {
    let map = ebpf
        .take_map(name)
        .ok_or(TablesError::Missing { name, source: None })?;
    M::try_from(map).map_err(|e| TablesError::Missing {
        name,
        source: Some(Box::new(e)),
    })
}

fn key4(net: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

fn key6(net: Ipv6Net) -> Key<[u8; 16]> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}

fn build<const N: usize>(
    entries: impl ExactSizeIterator<Item = (Key<[u8; N]>, Leaf)>,
) -> Result<Trie<N>, MapError> {
    let size = u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1);
    let mut trie = Trie::create(size, BPF_F_NO_PREALLOC)?;
    for (key, leaf) in entries {
        with_patience(|| trie.insert(&key, leaf, 0), thread::sleep)?;
    }
    Ok(trie)
}

/// Repeats what fails with ENOMEM only.
fn with_patience(
    mut attempt: impl FnMut() -> Result<(), MapError>,
    wait: impl Fn(Duration),
) -> Result<(), MapError> {
    let mut left = ENOMEM_TRIES;
    loop {
        match attempt() {
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOMEM) && left > 0 => {
                left -= 1;
                wait(ENOMEM_WAIT);
            }
            other => return other,
        }
    }
}

fn zeros(cpus: usize) -> Result<PerCpuValues<Tally>, TablesError> {
    PerCpuValues::try_from(vec![Tally::default(); cpus]).map_err(TablesError::Cpus)
}

pub(super) fn block(listener: u32) -> std::ops::Range<u32> {
    let start = listener.saturating_mul(REASONS);
    start..start.saturating_add(REASONS)
}

pub(super) fn sum(
    map: &PerCpuArray<MapData, Tally>,
    name: &'static str,
    index: u32,
) -> Result<Tally, TablesError> {
    let values = map.get(&index, 0).map_err(failed("read", name, index))?;
    Ok(values.iter().fold(Tally::default(), |sum, t| Tally {
        passed: sum.passed.saturating_add(t.passed),
        dropped: sum.dropped.saturating_add(t.dropped),
        would_drop: sum.would_drop.saturating_add(t.would_drop),
    }))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use aya::sys::SyscallError;

    use super::*;

    fn error(errno: i32) -> MapError {
        MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(errno),
        })
    }

    #[test]
    fn a_short_shortage_of_memory_is_waited_for() {
        let (calls, waits) = (Cell::new(0), Cell::new(0));
        let attempt = || {
            calls.set(calls.get() + 1);
            if calls.get() < 4 {
                Err(error(libc::ENOMEM))
            } else {
                Ok(())
            }
        };
        with_patience(attempt, |_| waits.set(waits.get() + 1)).unwrap();
        assert_eq!((calls.get(), waits.get()), (4, 3));
    }

    #[test]
    fn a_lasting_shortage_and_any_other_failure_are_told() {
        let calls = Cell::new(0);
        let count = |errno| {
            calls.set(0);
            let attempt = || {
                calls.set(calls.get() + 1);
                Err(error(errno))
            };
            with_patience(attempt, |_| ()).unwrap_err();
            calls.get()
        };
        assert_eq!(count(libc::ENOMEM), ENOMEM_TRIES + 1);
        assert_eq!(count(libc::ENOSPC), 1);
    }

    #[test]
    fn keys_carry_the_network_in_network_order() {
        let key = key4("192.0.2.77/24".parse().unwrap());
        assert_eq!((key.prefix_len(), key.data()), (24, [192, 0, 2, 0]));
        let key = key6("2001:db8::7/32".parse().unwrap());
        assert_eq!(
            (key.prefix_len(), key.data()[..5].to_vec()),
            (32, vec![0x20, 0x01, 0x0d, 0xb8, 0])
        );
    }
}
