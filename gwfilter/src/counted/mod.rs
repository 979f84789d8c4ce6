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
    /// Passed that would have been dropped.
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
    fn since(&mut self, before: Packets, seconds: f64) {
        self.per_second = Some(Rates::of(self.packets.since(before), seconds));
    }

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
            let reason = u8::try_from(code).ok().and_then(Reason::from_code);
            let name = reason.map_or_else(|| format!("(reason {code})"), |reason| reason.name().to_owned());
            let count = self.reasons.entry(name).or_default();
            count.packets = count.packets.plus(packets);
            self.all.packets = self.all.packets.plus(packets);
        }
    }

    fn since(&mut self, before: Option<&Self>, seconds: f64) {
        let of = |reason: &str| Some(before?.reasons.get(reason)?.packets);
        for (reason, count) in &mut self.reasons {
            count.since(of(reason).unwrap_or_default(), seconds);
        }
        // Of the sum of reasons: one of several listeners may have begun anew.
        let rates = self.reasons.values().filter_map(|count| count.per_second);
        self.all.per_second = Some(rates.fold(Rates::default(), |sum, rates| Rates {
            passed: sum.passed + rates.passed,
            dropped: sum.dropped + rates.dropped,
            would_drop: sum.would_drop + rates.would_drop,
        }));
    }
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
            if *index == NO_LISTENER {
                counted.unattributed.add(tallies);
            } else {
                let block = counted.gateways.entry(gateway_of(names, *index)).or_default();
                block.add(tallies);
            }
        }
        for (index, tally) in rules {
            let name = names.rules.get(index).map_or_else(
                || format!("(rule {index}, its name is not known)"),
                ToString::to_string,
            );
            let count = counted.rules.entry(name).or_default();
            count.packets = count.packets.plus((*tally).into());
        }
        counted
    }

    /// With rates since `before`, which was so many seconds ago.
    #[must_use]
    pub fn after(mut self, before: &Self, seconds: f64) -> Self {
        for (name, block) in &mut self.gateways {
            block.since(before.gateways.get(name), seconds);
        }
        for (name, count) in &mut self.rules {
            let before = before.rules.get(name).map(|count| count.packets);
            count.since(before.unwrap_or_default(), seconds);
        }
        self.unattributed.since(Some(&before.unattributed), seconds);
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
