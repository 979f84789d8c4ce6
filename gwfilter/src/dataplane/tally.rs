//! The pinned counters, for who is no agent: every counter by its index, named or not. Reads only.

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use gwfilter_common::abi::{COUNT_MAP, MAX_LISTENERS, MAX_RULES, RULES_MAP, Tally};

use super::kept::{self, CounterMaps};
use super::pins::{self, PinsError};
use super::seen;
use super::tables::{TablesError, block, sum};

/// The maps.
pub struct Counters {
    count: PerCpuArray<MapData, Tally>,
    rules: PerCpuArray<MapData, Tally>,
    maps: CounterMaps,
    since: Option<u64>,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters")
            .field("maps", &self.maps)
            .finish_non_exhaustive()
    }
}

/// Why they cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TallyError {
    /// The pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// A map is not what it seemed.
    #[error("the pinned map {name} cannot be used")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// Reading one.
    #[error(transparent)]
    Access(#[from] TablesError),
}

/// What was counted, by index; what never counted is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// By index of the listener's block, one tally for each reason code. Block 0 is of no listener.
    pub listeners: Vec<(u32, Vec<Tally>)>,
    /// By index of the rule.
    pub rules: Vec<(u32, Tally)>,
}

impl Counters {
    /// Those of this network namespace, of this version of gwfilter; `None` if there are none.
    ///
    /// # Errors
    /// They are there and cannot be opened.
    pub fn open() -> Result<Option<Self>, TallyError> {
        let Some(dir) = pins::own_directory()? else {
            return Ok(None);
        };
        let Some((count, rules)) = kept::counters_at(&dir) else {
            return Ok(None);
        };
        let number = |name, map: &MapData| match map.info() {
            Ok(info) => Ok(info.id()),
            Err(source) => Err(wrong(name)(source)),
        };
        let maps = CounterMaps {
            count: number(COUNT_MAP, &count)?,
            rules: number(RULES_MAP, &rules)?,
        };
        Ok(Some(Self {
            count: PerCpuArray::try_from(Map::PerCpuArray(count)).map_err(wrong(COUNT_MAP))?,
            rules: PerCpuArray::try_from(Map::PerCpuArray(rules)).map_err(wrong(RULES_MAP))?,
            maps,
            since: seen::since(&kept::counters_pin(&dir)),
        }))
    }

    /// The kernel's numbers of the maps, by which a file of names says that it is about them.
    #[must_use]
    pub const fn maps(&self) -> CounterMaps {
        self.maps
    }

    /// Since when they are there, in seconds since 1970.
    #[must_use]
    pub const fn since(&self) -> Option<u64> {
        self.since
    }

    /// All that was counted, summed over the CPUs.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(&self) -> Result<Tallies, TablesError> {
        let mut tallies = Tallies::default();
        for listener in 0..MAX_LISTENERS {
            let counted: Result<Vec<Tally>, _> =
                block(listener).map(|i| sum(&self.count, COUNT_MAP, i)).collect();
            let counted = counted?;
            if counted.iter().any(|tally| *tally != Tally::default()) {
                tallies.listeners.push((listener, counted));
            }
        }
        for rule in 0..MAX_RULES {
            let counted = sum(&self.rules, RULES_MAP, rule)?;
            if counted != Tally::default() {
                tallies.rules.push((rule, counted));
            }
        }
        Ok(tallies)
    }
}

fn wrong(name: &'static str) -> impl FnOnce(MapError) -> TallyError {
    move |source| TallyError::Map {
        name,
        source: Box::new(source),
    }
}
