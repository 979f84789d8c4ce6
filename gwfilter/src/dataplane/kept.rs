//! Maps that outlive the agent: the next one goes on with them instead of beginning anew.
//!
//! They hold facts and not policy: what was counted, where streams begin, until when tables are vouched for. They are pinned beside the
//! links, before the first program is attached, and opened again by the next agent if they are what this ABI says. Where streams begin is
//! gone on with over a change of the ABI, too: for a moment the programs of both write it, and no first segment is unknown for it.

use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{Map, MapData, MapType};
use aya::pin::PinError;
use aya::{Ebpf, EbpfLoader};
use gwfilter_common::abi::{
    CONTROL_LEN, CONTROL_MAP, COUNT_MAP, MAX_LISTENERS, MAX_RULES, REASONS, RULES_MAP, SYN_ENTRIES, SYN_MAP,
    SynEntry, SynKey, Tally,
};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::pins::{Pins, PinsError};
use super::tables::TablesError;

/// What a map of this ABI looks like.
#[derive(Debug)]
struct Shape {
    /// Its name in the object.
    map: &'static str,
    /// The name of its pin.
    pin: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    entries: u32,
}

const SHAPES: [Shape; 3] = [
    Shape {
        map: CONTROL_MAP,
        pin: Pins::CONTROL,
        kind: MapType::Array,
        key_size: size_of::<u32>(),
        value_size: size_of::<u64>(),
        entries: CONTROL_LEN,
    },
    Shape {
        map: COUNT_MAP,
        pin: "count",
        kind: MapType::PerCpuArray,
        key_size: size_of::<u32>(),
        value_size: size_of::<Tally>(),
        entries: MAX_LISTENERS * REASONS,
    },
    Shape {
        map: RULES_MAP,
        pin: "rules",
        kind: MapType::PerCpuArray,
        key_size: size_of::<u32>(),
        value_size: size_of::<Tally>(),
        entries: MAX_RULES,
    },
];

const STREAMS: Shape = Shape {
    map: SYN_MAP,
    pin: Pins::STREAMS,
    kind: MapType::LruHash,
    key_size: size_of::<SynKey>(),
    value_size: size_of::<SynEntry>(),
    entries: SYN_ENTRIES,
};

impl Shape {
    fn fits(&self, map: &MapData) -> bool {
        let is = |size: u32, wanted: usize| usize::try_from(size).is_ok_and(|size| size == wanted);
        map.info().is_ok_and(|info| {
            info.map_type().is_ok_and(|kind| kind == self.kind)
                && is(info.key_size(), self.key_size)
                && is(info.value_size(), self.value_size)
                && info.max_entries() == self.entries
        })
    }

    /// What is pinned there, if it is such a map.
    fn pinned_at(&self, path: &Path) -> Option<MapData> {
        MapData::from_pin(path).ok().filter(|map| self.fits(map))
    }

    /// Removes our pin of it.
    fn forget(&self, pins: &Pins) -> Result<(), PinsError> {
        if pins.map_path(self.pin).exists() && pins.forget_map(self.pin)? {
            warn!(
                map = self.map,
                "a pinned map cannot be gone on with, and is made anew"
            );
        }
        Ok(())
    }
}

/// Why a map cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Its pin.
    #[error("cannot pin the map {map} at {path}")]
    Pin {
        /// The map.
        map: &'static str,
        /// Where.
        path: String,
        /// Why.
        source: PinError,
    },
}

/// The kernel's numbers of the maps of counters: within one boot, no other map ever has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterMaps {
    /// Of those of listeners.
    pub count: u32,
    /// Of those of rules.
    pub rules: u32,
}

/// Which of the maps an earlier agent has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Lease and pause.
    pub control: bool,
    /// Counters of listeners and of rules, both.
    pub counters: bool,
}

/// Has `loader` go on with the maps that are pinned: with those of counters only if `known` says that the names behind their indices are. A pin
/// that holds something else is removed: the kernel would not load a program over it.
///
/// # Errors
/// Such a pin cannot be removed.
pub(super) fn adopt(
    loader: &mut EbpfLoader<'_>,
    pins: &Pins,
    known: impl FnOnce(CounterMaps) -> bool,
) -> Result<Adopted, PinsError> {
    let pinned = |shape: &Shape| {
        let map = shape.pinned_at(&pins.map_path(shape.pin))?;
        map.info().ok().map(|info| info.id())
    };
    let [control, count, rules] = &SHAPES;
    let adopted = Adopted {
        control: pinned(control).is_some(),
        counters: match (pinned(count), pinned(rules)) {
            (Some(count), Some(rules)) => known(CounterMaps { count, rules }),
            _ => false,
        },
    };
    for (shape, adopts) in [
        (control, adopted.control),
        (count, adopted.counters),
        (rules, adopted.counters),
    ] {
        if adopts {
            loader.map_pin_path(shape.map, pins.map_path(shape.pin));
        } else {
            shape.forget(pins)?;
        }
    }
    Ok(adopted)
}

/// Has `loader` go on with the beginnings of streams that an earlier agent has left, of whatever ABI.
///
/// # Errors
/// A pin that holds something else cannot be removed.
pub(super) fn adopt_streams(loader: &mut EbpfLoader<'_>, pins: &Pins) -> Result<(), PinsError> {
    let ours = pins.map_path(STREAMS.pin);
    if STREAMS.pinned_at(&ours).is_some() {
        loader.map_pin_path(STREAMS.map, ours);
        return Ok(());
    }
    STREAMS.forget(pins)?;
    let mut theirs = pins.paths_of_others(STREAMS.pin);
    if let Some(path) = theirs.find(|path| STREAMS.pinned_at(path).is_some()) {
        loader.map_pin_path(STREAMS.map, path);
    }
    Ok(())
}

/// The pinned maps of counters: of listeners, and of rules. `None`: there are none that this version can read.
pub(super) fn counters_at(dir: &Path) -> Option<(MapData, MapData)> {
    let [_, count, rules] = &SHAPES;
    let open = |shape: &Shape| shape.pinned_at(&dir.join(shape.pin));
    Some((open(count)?, open(rules)?))
}

/// The path of the pin of one of them.
pub(super) fn counters_pin(dir: &Path) -> std::path::PathBuf {
    let [_, count, _] = &SHAPES;
    dir.join(count.pin)
}

/// Handles of the maps, to pin them by.
#[derive(Debug)]
pub(super) struct Kept(Vec<(&'static str, &'static str, MapData)>);

impl Kept {
    /// Of an object just loaded, whose maps nobody has taken yet.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, TablesError> {
        let handle = |shape: &Shape| {
            let name = shape.map;
            let missing = |source| TablesError::Missing { name, source };
            let (Map::Array(map) | Map::PerCpuArray(map)) = ebpf.map(name).ok_or_else(|| missing(None))?
            else {
                return Err(missing(None));
            };
            let fd = map.fd().as_fd().try_clone_to_owned();
            let fd = fd.map_err(|e| missing(Some(Box::new(aya::maps::MapError::IoError(e)))))?;
            let data = MapData::from_fd(fd).map_err(|e| missing(Some(Box::new(e))))?;
            Ok((name, shape.pin, data))
        };
        SHAPES.iter().map(handle).collect::<Result<_, _>>().map(Self)
    }

    /// Numbers of the maps of counters.
    pub(super) fn counters(&self) -> Option<CounterMaps> {
        let id = |name| {
            let (_, _, map) = self.0.iter().find(|(map, ..)| *map == name)?;
            map.info().ok().map(|info| info.id())
        };
        Some(CounterMaps {
            count: id(COUNT_MAP)?,
            rules: id(RULES_MAP)?,
        })
    }

    /// Which are not pinned.
    pub(super) fn gone(&self, pins: &Pins) -> Vec<&'static str> {
        let gone = self.0.iter().filter(|(_, pin, _)| !pins.map_path(pin).exists());
        gone.map(|(map, ..)| *map).collect()
    }

    /// Pins what is not pinned.
    pub(super) fn pin(&self, pins: &Pins) -> Result<(), KeptError> {
        for (map, pin, data) in &self.0 {
            let path = pins.map_path(pin);
            if !path.exists() {
                data.pin(&path).map_err(|source| KeptError::Pin {
                    map,
                    path: path.display().to_string(),
                    source,
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_beginnings_of_streams_then_laid_out_as_the_name_of_their_pin_says() {
        let key = [
            offset_of!(SynKey, source),
            offset_of!(SynKey, destination),
            offset_of!(SynKey, source_port),
            offset_of!(SynKey, destination_port),
            offset_of!(SynKey, family),
        ];
        let entry = [offset_of!(SynEntry, at_ns), offset_of!(SynEntry, isn)];
        // Other ABIs go on with what is pinned by this name. Whoever changes the layout changes the name.
        assert_eq!(
            (STREAMS.pin, STREAMS.key_size, key, STREAMS.value_size, entry),
            ("streams", 40, [0, 16, 32, 34, 36], 16, [0, 8])
        );
    }
}
