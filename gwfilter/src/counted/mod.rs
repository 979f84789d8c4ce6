//! What the kernel counted, by name: per gateway and reason, per rule, and of no known destination; and what of it came since the reading
//! before. Pure.

mod text;

use std::collections::BTreeMap;

use gwfilter_common::abi::{NO_LISTENER, Tally};
use gwfilter_common::reason::Reason;
use serde::{Deserialize, Serialize};

use crate::plan::Names;
use crate::status::{Packets, Word, rows::gateway_of};

impl From<Tally> for Packets {
    fn from(tally: Tally) -> Self {
        Self {
            passed: tally.passed,
            dropped: tally.dropped,
            would_drop: tally.would_drop,
        }
    }
}

/// Packets a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Passed, those of `would_drop` included.
    pub passed: f64,
    /// Dropped.
    pub dropped: f64,
    /// Passed that would have been dropped: observed, or paused.
    pub would_drop: f64,
}

impl Rates {
    /// `packets` in so many seconds.
    #[must_use]
    pub fn of(packets: Packets, seconds: f64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "2⁵³ packets between two readings are out of reach"
        )]
        let rate = |n: u64| n as f64 / seconds.max(1e-9);
        Self {
            passed: rate(packets.passed),
            dropped: rate(packets.dropped),
            would_drop: rate(packets.would_drop),
        }
    }
}

/// Since a counter began, and a second since the reading before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Since the counter began.
    #[serde(flatten)]
    pub packets: Packets,
    /// A second; `None`: there is no reading before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_second: Option<Rates>,
}

impl Count {
    /// Whether something came since the reading before; without one, whether something ever came.
    #[must_use]
    pub fn stirs(&self) -> bool {
        match self.per_second {
            Some(rates) => rates.passed > 0.0 || rates.dropped > 0.0,
            None => !self.packets.is_none(),
        }
    }
}

/// A gateway, or the packets of no known destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// All reasons together.
    #[serde(flatten)]
    pub all: Count,
    /// By reason; those that never came are left out.
    pub reasons: BTreeMap<String, Count>,
}

impl Block {
    fn add(&mut self, tallies: &[Tally]) {
        for (code, tally) in tallies.iter().enumerate() {
            let packets = Packets::from(*tally);
            if packets.is_none() {
                continue;
            }
            let count = self.reasons.entry(reason_of(code)).or_default();
            count.packets = count.packets.plus(packets);
            self.all.packets = self.all.packets.plus(packets);
        }
    }

    /// With rates of what came in so many seconds, by reason.
    fn came(&mut self, came: Option<&BTreeMap<String, Packets>>, seconds: f64) {
        let of = |reason: &str| came?.get(reason).copied();
        for (reason, count) in &mut self.reasons {
            count.per_second = Some(Rates::of(of(reason).unwrap_or_default(), seconds));
        }
        let all = came.into_iter().flat_map(BTreeMap::values);
        let all = all.fold(Packets::default(), |sum, packets| sum.plus(*packets));
        self.all.per_second = Some(Rates::of(all, seconds));
    }
}

fn reason_of(code: usize) -> String {
    let reason = u8::try_from(code).ok().and_then(Reason::from_code);
    reason.map_or_else(|| format!("(reason {code})"), |reason| reason.name().to_owned())
}

fn rule_of(name: Option<&str>, index: u32) -> String {
    name.map_or_else(|| format!("(rule {index}, its name is not known)"), str::to_owned)
}

/// What one index of a reading says, and whose it was then, where that is known.
#[derive(Clone, Debug, PartialEq)]
struct Read<T> {
    name: Option<String>,
    /// The row that it is a part of; `None`: of no gateway, or a rule.
    row: Option<String>,
    tallies: T,
}

impl<T> Read<T> {
    /// What it said in the reading before; nothing, if it was somebody else's: an index begins from zero for a new owner.
    fn before<'a>(&self, of: Option<&'a Self>) -> Option<&'a T> {
        let of = of?;
        let other = self.name.is_some() && of.name.is_some() && self.name != of.name;
        (!other).then_some(&of.tallies)
    }
}

/// A reading by index. Only there can it be seen what began anew: in the sum of several counters it cannot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raw {
    listeners: BTreeMap<u32, Read<Vec<Tally>>>,
    rules: BTreeMap<u32, Read<Tally>>,
}

/// One reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Since when counters count, in seconds since 1970; one of a name may have begun later.
    pub since: Option<u64>,
    /// `running` or `not-running`.
    pub agent: Word,
    /// From the reading before to this one; `None`: there is none.
    pub seconds: Option<f64>,
    /// By `ns/service`. What has no name is called by its index.
    pub gateways: BTreeMap<String, Block>,
    /// By Envoy's policy id: what it dropped, or would have. What has no name is called by its index.
    pub rules: BTreeMap<String, Count>,
    /// Packets whose destination could not be known, or for which there were no tables.
    pub unattributed: Block,
    /// As it was read, for the rates of the next reading; those that have rates themselves are without.
    #[serde(skip)]
    pub raw: Raw,
}

impl Counted {
    /// Tallies by index, under their names. Who has a name and never counted has a row, too.
    #[must_use]
    pub fn of(listeners: &[(u32, Vec<Tally>)], rules: &[(u32, Tally)], names: &Names) -> Self {
        let mut counted = Self::default();
        for index in names.listeners.keys() {
            counted.gateways.entry(gateway_of(names, *index)).or_default();
        }
        for name in names.rules.values() {
            counted.rules.entry(name.to_string()).or_default();
        }
        for (index, tallies) in listeners {
            let name = names
                .listeners
                .get(index)
                .map(|name| format!("{}:{}", name.gateway, name.listener));
            let row = (*index != NO_LISTENER).then(|| gateway_of(names, *index));
            let block = match &row {
                None => &mut counted.unattributed,
                Some(gateway) => counted.gateways.entry(gateway.clone()).or_default(),
            };
            block.add(tallies);
            let tallies = tallies.clone();
            counted.raw.listeners.insert(*index, Read { name, row, tallies });
        }
        for (index, tally) in rules {
            let name = names.rules.get(index).map(ToString::to_string);
            let count = counted.rules.entry(rule_of(name.as_deref(), *index)).or_default();
            count.packets = count.packets.plus((*tally).into());
            counted.raw.rules.insert(
                *index,
                Read {
                    name,
                    row: None,
                    tallies: *tally,
                },
            );
        }
        counted
    }

    /// With rates since `before`, which was so many seconds ago: of each counter by itself, and then summed.
    #[must_use]
    pub fn after(mut self, before: &Self, seconds: f64) -> Self {
        let raw = std::mem::take(&mut self.raw);
        let mut blocks: BTreeMap<Option<String>, BTreeMap<String, Packets>> = BTreeMap::new();
        for (index, read) in &raw.listeners {
            let block = blocks.entry(read.row.clone()).or_default();
            let before = read.before(before.raw.listeners.get(index));
            for (code, tally) in read.tallies.iter().enumerate() {
                let before = before.and_then(|tallies| tallies.get(code)).copied();
                let came = Packets::from(*tally).since(before.unwrap_or_default().into());
                let sum = block.entry(reason_of(code)).or_default();
                *sum = sum.plus(came);
            }
        }
        for (name, block) in &mut self.gateways {
            block.came(blocks.get(&Some(name.clone())), seconds);
        }
        self.unattributed.came(blocks.get(&None), seconds);
        let mut rules: BTreeMap<String, Packets> = BTreeMap::new();
        for (index, read) in &raw.rules {
            let before = read.before(before.raw.rules.get(index)).copied();
            let came = Packets::from(read.tallies).since(before.unwrap_or_default().into());
            let sum = rules.entry(rule_of(read.name.as_deref(), *index)).or_default();
            *sum = sum.plus(came);
        }
        for (name, count) in &mut self.rules {
            let came = rules.get(name).copied().unwrap_or_default();
            count.per_second = Some(Rates::of(came, seconds));
        }
        self.seconds = Some(seconds);
        self
    }

    /// All packets of each gateway.
    #[must_use]
    pub fn by_gateway(&self) -> BTreeMap<String, Packets> {
        let all = self.gateways.iter();
        all.map(|(name, block)| (name.clone(), block.all.packets))
            .collect()
    }
}

#[cfg(test)]
mod tests;
