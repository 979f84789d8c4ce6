//! The words that the kernel asks before it drops: until when the tables are vouched for, and until when refusals are only counted
//! ([`gwfilter_common::abi::CONTROL_MAP`]).
//!
//! They are moments of the monotonic clock: setting the wall clock moves none of them. The map is pinned, so that the next agent and
//! `gwfilter pause` write the same words; when a node restarts it is gone, with all enforcement.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError};
use gwfilter_common::abi::{CONTROL_LEASE, CONTROL_MAP, CONTROL_PAUSED, CONTROL_POD_LEASE, FOREVER};
use nix::time::{ClockId, clock_gettime};

use super::tables::TablesError;
use crate::control::Words;

/// Now, in nanoseconds of `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` says. Linux has the clock always; were it not so, all leases
/// would have run out.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(FOREVER, |now| u64::try_from(now.as_nanos()).unwrap_or(FOREVER))
}

/// The map.
pub struct Control {
    map: Array<MapData, u64>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// Why a map that is pinned cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Opening it.
    #[error("cannot open {path}")]
    Open {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// Using it.
    #[error(transparent)]
    Access(#[from] TablesError),
}

impl Control {
    /// The map of a loaded object.
    ///
    /// # Errors
    /// It is missing, or of another shape.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, TablesError> {
        let map = super::tables::map(ebpf, CONTROL_MAP)?;
        Ok(Self { map })
    }

    /// The map that an agent has pinned.
    ///
    /// # Errors
    /// There is none, it is another map, or the rights are missing.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Open {
            path: path.to_owned(),
            source,
        };
        let data = MapData::from_pin(path).map_err(failed)?;
        let map = Array::try_from(Map::Array(data)).map_err(failed)?;
        Ok(Self { map })
    }

    /// All words.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn words(&self) -> Result<Words, TablesError> {
        let read = |element| {
            let word = self.map.get(&element, 0);
            word.map_err(super::tables::failed("read", CONTROL_MAP, element))
        };
        Ok(Words {
            lease: read(CONTROL_LEASE)?,
            pod_lease: read(CONTROL_POD_LEASE)?,
            paused: read(CONTROL_PAUSED)?,
        })
    }

    /// Until when refusals are carried out.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn lease(&mut self, until: u64) -> Result<(), TablesError> {
        self.set(CONTROL_LEASE, until)
    }

    /// Until when refusals at addresses of pods are carried out.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn pod_lease(&mut self, until: u64) -> Result<(), TablesError> {
        self.set(CONTROL_POD_LEASE, until)
    }

    /// Until when refusals are only counted; 0: no longer.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn pause(&mut self, until: u64) -> Result<(), TablesError> {
        self.set(CONTROL_PAUSED, until)
    }

    fn set(&mut self, element: u32, until: u64) -> Result<(), TablesError> {
        let set = self.map.set(element, until, 0);
        set.map_err(super::tables::failed("set", CONTROL_MAP, element))
    }
}
