//! Flat tables in the kernel: arrays of lines, each as long as its table.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use aya::maps::{Array, ArrayOfMaps, IterableMap as _, MapData, MapError};
use aya::sys::SyscallError;
use gwfilter_common::abi::{FLAT4_MAP, FLAT6_MAP};
use gwfilter_common::flat::Line;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::verify::{Place, Wrong};
use super::{Tables, TablesError, failed};
use crate::plan::{FlatTable, Kind};

/// A flat table.
pub(super) type LineArray = Array<MapData, Line>;
/// Those of one family.
pub(super) type Flats = ArrayOfMaps<MapData, LineArray>;

/// Whole pages, so that a line of the table is one of the cache (`kernel/bpf/arraymap.c`).
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Arrays in a map may be of different lengths.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// An array of so many lines, all zero.
pub(super) fn create(lines: u32) -> Result<LineArray, MapError> {
    Array::create(lines.max(1), BPF_F_MMAPABLE | BPF_F_INNER_MAP)
}

/// An array with these lines. Through its memory: a system call for each line would take a hundred times as long.
fn filled(lines: &[Line]) -> Result<LineArray, MapError> {
    let array = create(u32::try_from(lines.len()).unwrap_or(u32::MAX))?;
    let Some(bytes) = NonZeroUsize::new(size_of_val(lines)) else {
        return Ok(array);
    };
    let failed = |error: Errno| {
        MapError::SyscallError(SyscallError {
            call: "mmap",
            io_error: error.into(),
        })
    };
    // SAFETY: a new mapping, nobody else's memory; as long as the array's elements at least, of which each is a line of 64 bytes
    // (`array_map_mmap`, `kernel/bpf/arraymap.c`). Nobody else writes to an array that is in no map yet, and none of its lines is a reference.
    unsafe {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let at = mmap(None, bytes, prot, MapFlags::MAP_SHARED, array.map().fd(), 0).map_err(failed)?;
        at.cast::<Line>()
            .copy_from_nonoverlapping(NonNull::from(lines).cast(), lines.len());
        munmap(at, bytes.get()).map_err(failed)?;
    }
    Ok(array)
}

/// How many lines are not as written from number `first` on, or where to go on.
pub(super) fn compare(
    array: &Array<&MapData, Line>,
    lines: &[Line],
    first: usize,
    left: &mut usize,
) -> Result<(Option<Wrong>, Option<usize>), MapError> {
    let mut wrong = 0;
    for (at, line) in lines.iter().enumerate().skip(first) {
        if *left == 0 && wrong == 0 {
            return Ok((None, Some(at)));
        }
        *left = left.saturating_sub(1);
        if array.get(&u32::try_from(at).unwrap_or(u32::MAX), 0)? != *line {
            wrong += 1;
        }
    }
    Ok(((wrong > 0).then_some(Wrong::Entries(wrong)), None))
}

impl Tables {
    /// As `build4`.
    pub(super) fn build_flat(
        &mut self,
        kind: Kind,
        index: u32,
        lines: &FlatTable,
    ) -> Result<Option<TablesError>, TablesError> {
        let (flats, name) = self.flats(kind);
        let array = filled(lines).map_err(failed("fill a table for", name, index))?;
        flats.set(index, &array, 0).map_err(failed("set", name, index))?;
        self.written.flat.insert((kind, index), lines.clone());
        Ok(self.pin(Place::Table(kind, index), array.map()))
    }

    fn flats(&mut self, kind: Kind) -> (&mut Flats, &'static str) {
        if kind.is_six() {
            (&mut self.flat6, FLAT6_MAP)
        } else {
            (&mut self.flat4, FLAT4_MAP)
        }
    }
}
