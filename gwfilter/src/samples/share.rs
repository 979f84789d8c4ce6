//! Thins samples to what a listener asked for: none of the kinds of verdicts hides the others, and what is left out is in the weights of what is not.

use std::collections::BTreeMap;

use super::filter::Filter;
use super::{Line, Loss, Verdict};

const SECOND: u64 = 1_000_000_000;

/// A line, and what it is counted with: listener and reason.
#[derive(Clone, Debug)]
pub struct Weighed {
    /// Listener and code of the reason.
    pub key: (u32, u8),
    /// The line.
    pub line: Line,
}

/// What one listener gets.
#[derive(Debug)]
pub struct Share {
    filter: Filter,
    /// Billionths of lines that may still be sent.
    credit: u64,
    /// The weights of lines that were left out.
    carried: BTreeMap<(u32, u8), u64>,
    loss: Loss,
    told_ns: u64,
    last_ns: u64,
}

impl Share {
    /// Nothing was sent yet. `now_ns`: of any clock that does not jump.
    #[must_use]
    pub fn new(filter: Filter, now_ns: u64) -> Self {
        let mut share = Self {
            filter,
            credit: 0,
            carried: BTreeMap::new(),
            loss: Loss::default(),
            told_ns: now_ns,
            last_ns: now_ns,
        };
        share.credit = share.most();
        share
    }

    /// What is wanted.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// A quarter of a second's lines may come at once, and one always.
    fn most(&self) -> u64 {
        (u64::from(self.filter.rate) * SECOND / 4).max(SECOND)
    }

    /// Of what was sampled since the last call, what is to be sent, in order.
    pub fn choose(&mut self, lines: &[Weighed], now_ns: u64) -> Vec<Weighed> {
        let elapsed = now_ns.saturating_sub(self.last_ns);
        self.last_ns = now_ns;
        let earned = elapsed.saturating_mul(u64::from(self.filter.rate));
        self.credit = self.credit.saturating_add(earned).min(self.most());
        let wanted: Vec<&Weighed> = lines.iter().filter(|l| self.filter.matches(&l.line)).collect();
        let mut counts = [0; Verdict::ALL.len()];
        for line in &wanted {
            if let Some(count) = counts.get_mut(line.line.verdict.index()) {
                *count += 1;
            }
        }
        let shares = shares(counts, self.credit / SECOND);
        let mut seen = [0_u64; Verdict::ALL.len()];
        let mut chosen = Vec::new();
        for line in wanted {
            let index = line.line.verdict.index();
            let (Some(seen), Some(count), Some(share)) =
                (seen.get_mut(index), counts.get(index), shares.get(index))
            else {
                continue;
            };
            // Evenly over the time.
            let takes = (*seen + 1) * share / count > *seen * share / count;
            *seen += 1;
            let carried = self.carried.entry(line.key).or_default();
            if takes {
                let mut line = line.clone();
                line.line.weight = line.line.weight.saturating_add(std::mem::take(carried));
                self.credit = self.credit.saturating_sub(SECOND);
                chosen.push(line);
            } else {
                *carried = carried.saturating_add(line.line.weight);
            }
        }
        chosen
    }

    /// A line was sent.
    pub fn sent(&mut self, line: &Weighed) {
        let rest = line.line.weight.saturating_sub(1);
        self.loss.unsampled = self.loss.unsampled.saturating_add(rest);
    }

    /// A line could not be sent: the listener reads too slowly. Others will stand for it.
    pub fn not_sent(&mut self, line: &Weighed) {
        self.loss.lost = self.loss.lost.saturating_add(1);
        let carried = self.carried.entry(line.key).or_default();
        *carried = carried.saturating_add(line.line.weight);
    }

    /// Samples were lost before anybody could say whose they are.
    pub const fn lost(&mut self, samples: u64) {
        self.loss.lost = self.loss.lost.saturating_add(samples);
    }

    /// What is to be told of what was not seen: once a second, if there is something.
    #[must_use]
    pub fn due(&self, now_ns: u64) -> Option<Loss> {
        let due = now_ns.saturating_sub(self.told_ns) >= SECOND && self.loss != Loss::default();
        due.then_some(self.loss)
    }

    /// It was told.
    pub const fn told(&mut self, loss: Loss, now_ns: u64) {
        self.told_ns = now_ns;
        self.loss.lost = self.loss.lost.saturating_sub(loss.lost);
        self.loss.unsampled = self.loss.unsampled.saturating_sub(loss.unsampled);
    }
}

/// How many of each kind there is room for: what is rare is not left out for what there is much of.
fn shares(counts: [u64; 3], room: u64) -> [u64; 3] {
    let mut order = [0, 1, 2];
    order.sort_by_key(|index: &usize| counts.get(*index).copied());
    let (mut shares, mut room, mut left) = ([0; 3], room, 3);
    for index in order {
        let count = counts.get(index).copied().unwrap_or_default();
        // The last one takes all that is left.
        let share = count.min(room.div_ceil(left));
        if let Some(slot) = shares.get_mut(index) {
            *slot = share;
        }
        room -= share;
        left -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::tests::{line, sample};

    fn lines(verdict: Verdict, count: usize) -> Vec<Weighed> {
        let one = Weighed {
            key: (1, 3),
            line: Line {
                verdict,
                weight: 2,
                ..line(&sample()).unwrap()
            },
        };
        vec![one; count]
    }

    #[test]
    fn room_then_the_rare_whole_and_the_rest_for_what_there_is_much_of() {
        for (counts, room, want) in [
            ([0, 0, 0], 10, [0, 0, 0]),
            ([3, 4, 5], 100, [3, 4, 5]),
            ([1000, 2, 0], 10, [8, 2, 0]),
            ([1000, 1000, 1], 10, [4, 5, 1]),
            ([1000, 1000, 1000], 9, [3, 3, 3]),
            ([1000, 1000, 1000], 0, [0, 0, 0]),
            ([0, 5, 0], 1, [0, 1, 0]),
        ] {
            let shares = shares(counts, room);
            assert_eq!(shares.iter().sum::<u64>(), counts.iter().sum::<u64>().min(room));
            let (mut a, mut b) = (shares, want);
            // Which of two equal ones gets the odd one is of no matter.
            a.sort_unstable();
            b.sort_unstable();
            assert_eq!(a, b, "{counts:?} {room}: {shares:?}");
        }
    }

    #[test]
    fn more_than_was_asked_for_then_thinned_evenly_and_the_weights_carried() {
        let filter = Filter {
            rate: 100,
            ..Filter::default()
        };
        let mut share = Share::new(filter, 0);
        // 25 may come at once.
        let chosen = share.choose(&lines(Verdict::Drop, 100), 0);
        assert_eq!(chosen.len(), 25);
        assert!(chosen.iter().all(|line| line.line.weight == 8), "{chosen:?}");
        assert!(share.choose(&lines(Verdict::Drop, 100), 0).is_empty());
        // 200 weights were left out; ten lines are earned in a tenth of a second.
        let chosen = share.choose(&lines(Verdict::Drop, 10), SECOND / 10);
        assert_eq!(chosen.len(), 10);
        assert_eq!(chosen.iter().map(|line| line.line.weight).sum::<u64>(), 220);
        chosen.iter().for_each(|line| share.sent(line));
        assert_eq!(share.due(SECOND / 2), None);
        let loss = share.due(SECOND).unwrap();
        assert_eq!(
            loss,
            Loss {
                lost: 0,
                unsampled: 210
            }
        );
        share.told(loss, SECOND);
        assert_eq!(share.due(SECOND * 9), None);
    }

    #[test]
    fn lines_left_out_then_only_those_of_their_listener_and_reason_stand_for_them() {
        let of = |key, count| {
            let mut lines = lines(Verdict::Drop, count);
            lines.iter_mut().for_each(|line| line.key = key);
            lines
        };
        let filter = Filter {
            rate: 1,
            ..Filter::default()
        };
        let mut share = Share::new(filter, 0);
        assert_eq!(share.choose(&of((1, 3), 1), 0).len(), 1);
        assert!(share.choose(&of((1, 3), 4), 0).is_empty());
        for (second, key, weight) in [(1, (2, 3), 2), (2, (1, 4), 2), (3, (1, 3), 10)] {
            let chosen = share.choose(&of(key, 1), second * SECOND);
            assert_eq!(chosen[0].line.weight, weight, "{key:?}");
        }
    }

    #[test]
    fn a_flood_of_what_passes_then_no_drop_is_left_out() {
        let mut share = Share::new(Filter::default(), 0);
        let both = [
            lines(Verdict::Pass, 500),
            lines(Verdict::Drop, 3),
            lines(Verdict::Pass, 500),
        ]
        .concat();
        let chosen = share.choose(&both, 0);
        assert_eq!(chosen.len(), 250);
        let drops: Vec<usize> = (0..chosen.len())
            .filter(|index| chosen[*index].line.verdict == Verdict::Drop)
            .collect();
        assert_eq!(drops.len(), 3);
        assert!((100..150).contains(&drops[0]), "in order: {drops:?}");
    }

    #[test]
    fn a_listener_that_is_slow_then_told_what_it_lost_and_later_lines_stand_for_it() {
        let only = Filter {
            verdicts: [Verdict::Drop].into(),
            ..Filter::default()
        };
        let mut share = Share::new(only, 0);
        assert!(share.choose(&lines(Verdict::Pass, 5), 0).is_empty());
        for line in share.choose(&lines(Verdict::Drop, 3), 0) {
            share.not_sent(&line);
        }
        share.lost(4);
        let chosen = share.choose(&lines(Verdict::Drop, 1), 1);
        assert_eq!(chosen[0].line.weight, 8);
        let loss = share.due(SECOND).unwrap();
        assert_eq!((loss.lost, loss.unsampled), (7, 0));
        // What comes in while it is told is told the next time.
        share.lost(1);
        share.told(loss, SECOND);
        assert_eq!(share.due(2 * SECOND).unwrap().lost, 1);
    }

    #[test]
    fn the_lowest_rate_then_a_line_a_second() {
        let filter = Filter {
            rate: 1,
            ..Filter::default()
        };
        let mut share = Share::new(filter, 0);
        let mut at = |now| share.choose(&lines(Verdict::Drop, 5), now).len();
        assert_eq!(
            [at(0), at(SECOND / 2), at(SECOND), at(SECOND), at(10 * SECOND)],
            [1, 0, 1, 0, 1]
        );
    }
}
