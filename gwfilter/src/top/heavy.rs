//! Who is seen most, in bounded memory: the space-saving sketch (Metwally, Agrawal, El Abbadi 2005) with weights that fade. Pure.
//!
//! While there is room every key has its own count, and the counts are exact. Then a new key takes the place of the smallest, and its count
//! with it: nobody who is frequent is missed, and a count is too high by at most what it took over, which is kept beside it.

use std::collections::BTreeMap;

/// Below this a count says nothing any more.
const DUST: f64 = 1e-3;

/// The counts of the most frequent keys.
#[derive(Clone, Debug)]
pub struct Heavy<K> {
    room: usize,
    counts: BTreeMap<K, Weight>,
    /// Somebody's place was taken.
    full: bool,
}

/// How much was seen of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weight {
    /// At most this.
    pub most: f64,
    /// Of which this may have been another's.
    pub doubt: f64,
}

impl Weight {
    /// At least so much was seen.
    #[must_use]
    pub fn least(self) -> f64 {
        self.most - self.doubt
    }
}

impl<K: Ord + Clone> Heavy<K> {
    /// Room for so many keys.
    #[must_use]
    pub const fn new(room: usize) -> Self {
        Self {
            room,
            counts: BTreeMap::new(),
            full: false,
        }
    }

    /// Counts a key.
    pub fn add(&mut self, key: K, weight: f64) {
        if let Some(count) = self.counts.get_mut(&key) {
            count.most += weight;
            return;
        }
        let mut new = Weight {
            most: weight,
            doubt: 0.0,
        };
        if self.counts.len() >= self.room {
            let least = self
                .counts
                .iter()
                .min_by(|(_, a), (_, b)| a.most.total_cmp(&b.most));
            let Some((least, taken)) = least.map(|(key, count)| (key.clone(), *count)) else {
                return;
            };
            self.counts.remove(&least);
            self.full = true;
            new.most += taken.most;
            new.doubt = taken.most;
        }
        self.counts.insert(key, new);
    }

    /// Everything weighs so much of what it did; what weighs nothing any more goes.
    pub fn fade(&mut self, factor: f64) {
        for count in self.counts.values_mut() {
            count.most *= factor;
            count.doubt *= factor;
        }
        self.counts.retain(|_, count| count.most > DUST);
        if self.counts.is_empty() {
            self.full = false;
        }
    }

    /// The keys, those that were certainly seen most first.
    #[must_use]
    pub fn top(&self) -> Vec<(&K, Weight)> {
        let mut all: Vec<(&K, Weight)> = self.counts.iter().map(|(key, count)| (key, *count)).collect();
        all.sort_by(|(_, a), (_, b)| b.least().total_cmp(&a.least()));
        all
    }

    /// Whether there were more keys than room: then counts are at least so high, and rare keys may be missing.
    #[must_use]
    pub const fn is_approximate(&self) -> bool {
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_keys_than_room_then_exact() {
        let mut heavy = Heavy::new(4);
        for (key, weight) in [('a', 1.0), ('b', 5.0), ('a', 2.0), ('c', 4.0)] {
            heavy.add(key, weight);
        }
        let top: Vec<(char, f64, f64)> = heavy
            .top()
            .into_iter()
            .map(|(k, w)| (*k, w.most, w.doubt))
            .collect();
        assert_eq!(top, [('b', 5.0, 0.0), ('c', 4.0, 0.0), ('a', 3.0, 0.0)]);
        assert!(!heavy.is_approximate());
        heavy.fade(0.5);
        assert!((heavy.top()[0].1.most - 2.5).abs() < 1e-9);
        for _ in 0..20 {
            heavy.fade(0.5);
        }
        assert!(heavy.top().is_empty(), "what has faded is forgotten");
    }

    #[test]
    fn a_flood_of_new_keys_then_bounded_and_the_frequent_one_still_first() {
        let mut heavy = Heavy::new(16);
        for n in 0..10_000_u32 {
            heavy.add(n, 1.0);
            if n % 4 == 0 {
                heavy.add(u32::MAX, 1.0);
            }
        }
        let top = heavy.top();
        assert_eq!((top.len(), *top[0].0), (16, u32::MAX));
        assert!(heavy.is_approximate());
        let Weight { most, doubt } = top[0].1;
        assert!(
            most >= 2_500.0 && top[0].1.least() <= 2_500.0,
            "the true count lies between: {most} {doubt}"
        );
    }
}
