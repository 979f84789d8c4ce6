//! What was told already: each finding is logged when it appears and when it goes, and not in between. Pure.

use std::collections::BTreeSet;

/// Remembers a set of findings.
#[derive(Debug)]
pub(super) struct Told<T> {
    known: BTreeSet<T>,
}

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self {
            known: BTreeSet::new(),
        }
    }
}

/// What is new and what is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News<T> {
    pub(super) new: Vec<T>,
    pub(super) over: Vec<T>,
}

impl<T: Ord + Clone> Told<T> {
    /// Takes the findings of now for those of before.
    pub(super) fn update(&mut self, now: impl IntoIterator<Item = T>) -> News<T> {
        let now: BTreeSet<T> = now.into_iter().collect();
        let news = News {
            new: now.difference(&self.known).cloned().collect(),
            over: self.known.difference(&now).cloned().collect(),
        };
        self.known = now;
        news
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.known.len()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_when_it_comes_and_when_it_goes() {
        let mut told = Told::default();
        assert_eq!(
            told.update([1, 2]),
            News {
                new: vec![1, 2],
                over: vec![]
            }
        );
        assert_eq!(
            told.update([1, 2, 2]),
            News {
                new: vec![],
                over: vec![]
            }
        );
        assert_eq!(
            told.update([2, 3]),
            News {
                new: vec![3],
                over: vec![1]
            }
        );
        assert_eq!(
            told.update([]),
            News {
                new: vec![],
                over: vec![2, 3]
            }
        );
    }
}
