//! What a run found, in numbers.

use std::collections::BTreeMap;
use std::fmt;

use crate::batch::Outcome;
use crate::set::{Chain, Class, Set};

/// Counts of one class of sets at one kind of listener.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    /// Questions asked.
    pub(crate) cases: usize,
    /// Envoy refused everything.
    pub(crate) refused: usize,
    /// Envoy refused everything, and addresses alone say so.
    pub(crate) visible: usize,
    /// Of the refused: the node drops.
    pub(crate) dropped: usize,
    /// Of the visible: the node drops.
    pub(crate) visible_dropped: usize,
}

/// All counts.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(Class, Chain), Count>);

impl Figures {
    /// Counts an outcome that is no disagreement.
    pub(crate) fn add(&mut self, set: &Set, outcome: &Outcome) {
        let count = self.0.entry((set.class(), outcome.chain)).or_default();
        count.cases += 1;
        if !outcome.any_allowed {
            let visible = outcome.visible();
            count.refused += 1;
            count.visible += usize::from(visible);
            count.dropped += usize::from(outcome.dropped);
            count.visible_dropped += usize::from(outcome.dropped && visible);
        }
    }

    /// Cases in all.
    pub(crate) fn cases(&self) -> usize {
        self.0.values().map(|count| count.cases).sum()
    }

    /// The counts of a class.
    pub(crate) fn of(&self, class: Class) -> Count {
        let mut sum = Count::default();
        for (_, count) in self.0.iter().filter(|((of, _), _)| *of == class) {
            sum.cases += count.cases;
            sum.refused += count.refused;
            sum.visible += count.visible;
            sum.dropped += count.dropped;
            sum.visible_dropped += count.visible_dropped;
        }
        sum
    }
}

impl Count {
    /// Share of the visible refusals that the node drops, in thousandths; 1000 where there is none.
    pub(crate) fn visible_share(&self) -> usize {
        (self.visible_dropped * 1000)
            .checked_div(self.visible)
            .unwrap_or(1000)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((class, chain), count) in &self.0 {
            writeln!(
                f,
                "  {class:?} {chain:?}: {} cases, {} refused, of them {} dropped at the node; {} of {} visible refusals dropped",
                count.cases, count.refused, count.dropped, count.visible_dropped, count.visible
            )?;
        }
        Ok(())
    }
}
