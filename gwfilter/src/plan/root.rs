//! A root table: header, port bitmap and the hash table of tuples ([`gwfilter_common::abi`]).

use std::collections::BTreeMap;

use gwfilter_common::abi::{
    self, ABI_VERSION, Header, MAX_PROBES, MAX_TUPLES, PROXY_START, ROOT_LEN, Slot, Tuple,
};

use super::op::PlanError;

/// Seeds tried before giving up. With a load of at most a quarter one of the first few does.
const SEEDS: u32 = 64;

/// The elements of a root table that are not zero. A fresh array map is all zero, so these are all that must be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootImage {
    slots: BTreeMap<u32, Slot>,
}

impl RootImage {
    /// Elements to write, in ascending order.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = (u32, &Slot)> {
        self.slots.iter().map(|(i, s)| (*i, s))
    }

    /// The element at `index`; `None` outside of the table.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&Slot> {
        const ZERO: &Slot = &[0; 8];
        (index < ROOT_LEN).then(|| self.slots.get(&index).unwrap_or(ZERO))
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> Header {
        Header::from_slot(&self.slots.get(&0).copied().unwrap_or_default())
    }

    /// Whether some destination is judged in TC also where XDP judges: by its PROXY header, or because it answers with resets.
    #[must_use]
    pub fn wants_tc(&self) -> bool {
        self.slots
            .range(abi::BUCKETS_START..PROXY_START)
            .any(|(_, slot)| Tuple::from_slot(slot).flags & (abi::TUPLE_PROXY | abi::TUPLE_RESET) != 0)
    }

    /// The same table but for the generation's number.
    pub(super) fn same_but_generation(&self, other: &Self) -> bool {
        let (a, b) = (self.header(), other.header());
        Header {
            generation: b.generation,
            ..a
        } == b
            && self.slots.range(1..).eq(other.slots.range(1..))
    }

    /// Lays out `tuples` (distinct destinations) and the elements that those with a PROXY header name, starting the search for a seed at `seed`.
    ///
    /// # Errors
    /// [`PlanError::TooManyTuples`] and [`PlanError::NoSeed`].
    pub(super) fn build(
        tuples: &[Tuple],
        proxies: &[Slot],
        seed: u32,
        generation: u64,
        flags: u32,
    ) -> Result<Self, PlanError> {
        if tuples.len() > MAX_TUPLES {
            return Err(PlanError::TooManyTuples {
                tuples: tuples.len(),
                max: MAX_TUPLES,
            });
        }
        let count = u32::try_from(tuples.len()).unwrap_or(u32::MAX);
        (0..SEEDS)
            .find_map(|step| {
                let seed = seed.wrapping_add(step);
                let mut slots = place(tuples, seed)?;
                let header = Header {
                    abi_version: ABI_VERSION,
                    seed,
                    generation,
                    flags,
                    tuples: count,
                    _reserved: [0; 5],
                };
                slots.insert(0, header.to_slot());
                slots.extend((PROXY_START..).zip(proxies.iter().copied()));
                Some(Self { slots })
            })
            .ok_or(PlanError::NoSeed {
                tuples: tuples.len(),
                seeds: SEEDS,
            })
    }
}

/// `None` if some tuple finds no free bucket within [`MAX_PROBES`].
fn place(tuples: &[Tuple], seed: u32) -> Option<BTreeMap<u32, Slot>> {
    let mut slots: BTreeMap<u32, Slot> = BTreeMap::new();
    for t in tuples {
        let (slot, word, bit) = abi::port_bit(t.port);
        if let Some(w) = slots.entry(slot).or_default().get_mut(word) {
            *w |= bit;
        }
        let hash = abi::hash(seed, &t.addr, t.port, t.protocol);
        let index = (0..MAX_PROBES)
            .map(|p| abi::bucket(hash, p))
            .find(|i| !slots.contains_key(i))?;
        slots.insert(index, t.to_slot());
    }
    Some(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(n: u32) -> Tuple {
        let mut addr = [0; 16];
        addr[..4].copy_from_slice(&n.to_be_bytes());
        Tuple {
            addr,
            port: 443,
            protocol: 6,
            family: 4,
            flags: 0,
            source_table: 0,
            never_table: 0,
            listener: 1,
            proxy: 0,
            _reserved: [0; 6],
        }
    }

    #[test]
    fn build_given_tuples_that_share_their_first_bucket_then_another_seed() {
        // Destinations that all start at the same bucket under seed 0: one more than can be probed.
        let crowd: Vec<Tuple> = (0..20_000_000)
            .map(tuple)
            .filter(|t| abi::hash(0, &t.addr, t.port, t.protocol) & (abi::BUCKETS - 1) == 7)
            .take(MAX_PROBES as usize + 1)
            .collect();
        assert_eq!(crowd.len(), MAX_PROBES as usize + 1);
        assert!(place(&crowd, 0).is_none());
        let root = RootImage::build(&crowd, &[], 0, 1, 0).unwrap();
        assert_ne!(root.header().seed, 0);
    }

    #[test]
    fn build_given_as_many_tuples_as_allowed_then_it_fits_and_one_more_is_refused() {
        let most: Vec<Tuple> = (0..4096).map(tuple).collect();
        let root = RootImage::build(&most, &[], 0, 1, 0).unwrap();
        assert_eq!(root.slots().len(), 1 + 1 + 4096);
        let more: Vec<Tuple> = (0..4097).map(tuple).collect();
        assert_eq!(
            RootImage::build(&more, &[], 0, 1, 0),
            Err(PlanError::TooManyTuples {
                tuples: 4097,
                max: 4096
            })
        );
    }
}
