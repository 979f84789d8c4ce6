//! How much the kernel side is to write, and what each sample stands for.

use std::collections::BTreeMap;

use gwfilter_common::abi::sample::{Sample, Sampling, VERDICTS, WINDOW_BITS};

use super::Verdict;
use super::filter::Filter;

/// Samples a second of one kind of verdict, on all CPUs together, that the ring holds between two readings with room to spare.
const TOTAL: u64 = 16_000;
/// Verdicts a second and CPU that may be looked at whatever is written: a few nanoseconds each.
const LOOKS: u64 = 8_000;
/// The widest mask: one in a million.
const WIDEST: u64 = (1 << 20) - 1;
const SECOND: u64 = 1_000_000_000;

/// What each sample stands for: how many verdicts its counter counted since the sample before.
#[derive(Debug, Default)]
pub struct Weights(BTreeMap<(u32, u32, u8, u8), u64>);

impl Weights {
    /// The weight of a sample, 1 or more. The first one of a counter stands for itself.
    pub fn of(&mut self, sample: &Sample) -> u64 {
        let Sample {
            cpu,
            listener,
            reason,
            verdict,
            count,
            ..
        } = *sample;
        match self.0.insert((cpu, listener, reason, verdict), count) {
            None => 1,
            Some(before) if before < count => count - before,
            // It began anew, with another owner.
            Some(_) => count.max(1),
        }
    }

    /// What is to be written changes from `before` to `now`: what counters of verdicts that nobody wanted counted meanwhile is no sample's.
    pub fn change(&mut self, before: &Sampling, now: &Sampling) {
        let budget =
            |of: &Sampling, verdict: u8| of.budgets.get(usize::from(verdict)).copied().unwrap_or_default();
        self.0
            .retain(|(_, _, _, verdict), _| budget(before, *verdict) > 0 || budget(now, *verdict) == 0);
    }
}

/// How much is to be written for these listeners, with the masks as they are.
#[must_use]
pub fn sampling<'f>(
    filters: impl Iterator<Item = &'f Filter> + Clone,
    masks: &[u64; 3],
    cpus: u64,
) -> Sampling {
    let mut sampling = Sampling {
        masks: [u64::MAX; VERDICTS],
        budgets: [0; VERDICTS],
    };
    for verdict in Verdict::ALL {
        let wanted = filters.clone().filter(|filter| filter.wants(verdict));
        let Some(rate) = wanted.map(|filter| u64::from(filter.rate)).max() else {
            continue;
        };
        let (Some(budget), Some(mask)) = (
            sampling.budgets.get_mut(verdict.index()),
            sampling.masks.get_mut(verdict.index()),
        ) else {
            continue;
        };
        let cpus = cpus.max(1);
        // All may come by one CPU.
        let each = (rate / cpus).max(rate.min(TOTAL / cpus)).max(1);
        *budget = (each << WINDOW_BITS).div_ceil(SECOND);
        *mask = masks.get(verdict.index()).copied().unwrap_or_default();
    }
    sampling
}

/// The next mask of a kind of verdict, of which the busiest CPU looked at so many in this time: enough are looked at to write what was asked
/// for, and not many more.
#[must_use]
pub fn next_mask(mask: u64, looked: u64, elapsed_ns: u64) -> u64 {
    let a_second = looked.saturating_mul(SECOND) / elapsed_ns.max(1);
    let (few, many) = (LOOKS / 4, LOOKS * 2);
    let every = mask.saturating_add(1).max(1);
    let every = if a_second > many {
        every.saturating_mul((a_second / LOOKS).next_power_of_two())
    } else if a_second < few {
        // By and by: a flood that comes in bursts is met with most of it still there.
        (every / 2).max(1)
    } else {
        every
    };
    (every - 1).min(WIDEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::tests::sample;

    #[test]
    fn counts_then_weights_that_sum_up_to_what_was_counted() {
        let mut weights = Weights::default();
        let mut of = |cpu, listener, count| {
            weights.of(&Sample {
                cpu,
                listener,
                count,
                ..sample()
            })
        };
        assert_eq!([of(0, 1, 100), of(0, 1, 101), of(0, 1, 150)], [1, 1, 49]);
        // Each CPU and listener counts for itself.
        assert_eq!([of(1, 1, 7), of(0, 2, 9), of(0, 1, 151)], [1, 1, 1]);
        // The counter began anew.
        assert_eq!([of(0, 1, 4), of(0, 1, 5), of(0, 1, 0)], [4, 1, 1]);
    }

    #[test]
    fn two_reasons_of_a_listener_then_each_counts_for_itself() {
        let mut weights = Weights::default();
        let mut of = |reason, count| {
            weights.of(&Sample {
                reason,
                count,
                ..sample()
            })
        };
        assert_eq!([of(1, 100), of(2, 7), of(1, 101), of(2, 9)], [1, 1, 1, 2]);
    }

    #[test]
    fn a_verdict_that_nobody_wanted_for_a_while_then_its_first_sample_stands_for_itself() {
        let of = |filters: &[&Filter]| sampling(filters.iter().copied(), &[0; 3], 1);
        let only = |verdict| Filter {
            verdicts: [verdict].into(),
            ..Filter::default()
        };
        let (drops, passes) = (only(Verdict::Drop), only(Verdict::Pass));
        let (both, one, none) = (of(&[&drops, &passes]), of(&[&drops]), of(&[]));
        let mut weights = Weights::default();
        let weigh = |weights: &mut Weights, verdict: Verdict, count| {
            weights.of(&Sample {
                verdict: u8::try_from(verdict.index()).unwrap(),
                count,
                ..sample()
            })
        };
        weights.change(&none, &both);
        assert_eq!(weigh(&mut weights, Verdict::Drop, 10), 1);
        assert_eq!(weigh(&mut weights, Verdict::Pass, 10), 1);
        weights.change(&both, &one);
        // Written before that was known.
        assert_eq!(weigh(&mut weights, Verdict::Pass, 12), 2);
        assert_eq!(weigh(&mut weights, Verdict::Drop, 30), 20);
        weights.change(&one, &both);
        assert_eq!(weigh(&mut weights, Verdict::Pass, 5_000_000), 1);
        assert_eq!(weigh(&mut weights, Verdict::Drop, 40), 10);
    }

    #[test]
    fn who_listens_then_budgets_of_the_verdicts_that_somebody_wants() {
        let drops = Filter {
            verdicts: [Verdict::Drop].into(),
            ..Filter::default()
        };
        let all = Filter {
            rate: 100,
            ..Filter::default()
        };
        let of = |filters: &[&Filter], cpus| sampling(filters.iter().copied(), &[0, 7, 0], cpus);
        // 1,000 a second are 17 in a window of 16.8 ms.
        let one = of(&[&drops], 2);
        assert_eq!(
            (one.budgets, one.masks),
            ([0, 17, 0, 0], [u64::MAX, 7, u64::MAX, u64::MAX])
        );
        let both = of(&[&drops, &all], 2);
        assert_eq!((both.budgets, both.masks), ([2, 17, 2, 0], [0, 7, 0, u64::MAX]));
        // With many CPUs each has its part.
        assert_eq!(of(&[&drops], 64).budgets, [0, 5, 0, 0]);
        let most = Filter {
            rate: 10_000,
            ..Filter::default()
        };
        assert_eq!(of(&[&most], 2).budgets, [135, 135, 135, 0]);
        assert_eq!(of(&[], 2).budgets, [0; 4]);
    }

    #[test]
    fn a_rate_of_verdicts_then_a_mask_that_lets_some_thousands_a_second_be_looked_at() {
        for rate in [
            0,
            10,
            3000,
            20_000,
            100_000,
            1_000_000,
            20_000_000,
            10_000_000_000,
        ] {
            // As if a twentieth of a second passed again and again.
            let (mut mask, mut steps) = (0, 0);
            let looked = |mask: u64| rate / 20 / (mask + 1);
            while next_mask(mask, looked(mask), SECOND / 20) != mask {
                mask = next_mask(mask, looked(mask), SECOND / 20);
                steps += 1;
                assert!(steps < 5, "{rate}: {mask}");
            }
            let a_second = rate / (mask + 1);
            assert!((mask + 1).is_power_of_two());
            assert!(a_second <= LOOKS * 2 || mask == WIDEST, "{rate}: {mask}");
            assert!(mask == 0 || a_second >= LOOKS / 4, "{rate}: {mask}");
            // And back, when the flood is over.
            let mut steps = 0;
            while mask > 0 {
                mask = next_mask(mask, 0, SECOND / 20);
                steps += 1;
                assert!(steps <= 20, "{rate}: {mask}: a second at most");
            }
        }
        assert_eq!(next_mask(u64::MAX, 5, 0), WIDEST);
    }
}
