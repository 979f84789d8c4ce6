//! The IPv6 table.

use gwfilter_common::abi::Leaf;
use gwfilter_common::flat::Line;
use gwfilter_common::flat::v6::{FANOUT, LEAF_KEYS, LEVELS, VALUES, pointer};
use ipnet::Ipv6Net;

use super::{FlatError, Lines, changes, end, halves, set};

/// A key and the value from there on.
type Change = (u64, u32);

/// The table of these entries.
///
/// # Errors
/// [`FlatError`].
pub fn build(entries: &[(Ipv6Net, Leaf)]) -> Result<Lines, FlatError> {
    let mut tree = Tree::default();
    for (at, value) in changes(entries)? {
        tree.change(at, value);
    }
    tree.finish()
}

/// A table in the making.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The first is the root of the tree over upper halves.
    lines: Lines,
    upper: Vec<Change>,
    /// The changes in the /64 at hand, the first at its beginning.
    lower: Vec<Change>,
    high: u64,
    value: u32,
    failure: Option<FlatError>,
}

impl Tree {
    /// From `at` on the value is another: told in ascending order.
    pub(crate) fn change(&mut self, at: u128, value: u32) {
        let (high, low) = halves(at);
        if high != self.high || self.lower.is_empty() {
            self.close();
            self.high = high;
            if low != 0 {
                self.lower.push((0, self.value));
            }
        }
        self.lower.push((low, value));
        self.value = value;
    }

    /// The table.
    ///
    /// # Errors
    /// [`FlatError`].
    pub(crate) fn finish(mut self) -> Result<Lines, FlatError> {
        self.close();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.lines.is_empty() {
            self.lines.push([0; 8]);
        }
        tree(&mut self.lines, 0, &self.upper)?;
        Ok(self.lines)
    }

    /// The /64 at hand is told.
    fn close(&mut self) {
        match self.lower.as_slice() {
            [] => {}
            [(_, value)] => push(&mut self.upper, self.high, *value),
            _ => match self.divided() {
                Ok(place) => {
                    push(&mut self.upper, self.high, place);
                    if let Some(next) = self.high.checked_add(1) {
                        push(&mut self.upper, next, self.value);
                    }
                }
                Err(failure) => self.failure = Some(failure),
            },
        }
        self.lower.clear();
    }

    /// Writes what a divided /64 holds; what points to it.
    fn divided(&mut self) -> Result<u32, FlatError> {
        if self.lines.is_empty() {
            // The root of the tree over upper halves.
            self.lines.push([0; 8]);
        }
        let place = end(&self.lines)?;
        let small = self.lower.len() <= LEAF_KEYS as usize;
        if small {
            self.lines.push(leaf(&self.lower));
        } else {
            self.lines.push([0; 8]);
            tree(&mut self.lines, place, &self.lower)?;
        }
        pointer(!small, place).ok_or(FlatError::TooLarge)
    }
}

/// The change at a key replaces one that was put there as the end of the /64 before.
fn push(changes: &mut Vec<Change>, key: u64, value: u32) {
    match changes.last_mut() {
        Some(last) if last.0 == key => last.1 = value,
        _ => changes.push((key, value)),
    }
}

/// Writes a tree, and its root at `root`.
fn tree(lines: &mut Lines, root: u32, changes: &[Change]) -> Result<(), FlatError> {
    let leaves: Vec<&[Change]> = changes.chunks(LEAF_KEYS as usize).collect();
    // Per level, from the leaves up, the first key of each line.
    let mut firsts: Vec<Vec<u64>> = vec![
        leaves
            .iter()
            .map(|keys| keys.first().map_or(0, |(key, _)| *key))
            .collect(),
    ];
    while let Some(below) = firsts.last().filter(|below| below.len() > 1) {
        let above = below
            .chunks(FANOUT as usize)
            .map(|children| children.first().copied().unwrap_or(0))
            .collect();
        firsts.push(above);
    }
    if firsts.len() > LEVELS as usize {
        return Err(FlatError::TooLarge);
    }
    let mut told: Line = [0; 8];
    for (slot, level) in told.iter_mut().zip((0..firsts.len()).rev()) {
        let first = end(lines)?;
        let before = lines.len();
        match level.checked_sub(1).and_then(|below| firsts.get(below)) {
            Some(below) => lines.extend(below.chunks(FANOUT as usize).map(node)),
            None => lines.extend(leaves.iter().map(|keys| leaf(keys))),
        }
        let count = u32::try_from(lines.len() - before).map_err(|_| FlatError::TooLarge)?;
        end(lines)?;
        *slot = u64::from(first) | u64::from(count) << 32;
    }
    if let Some(line) = usize::try_from(root).ok().and_then(|root| lines.get_mut(root)) {
        *line = told;
    }
    Ok(())
}

/// A node, from the first keys of its children: all but the first separate.
fn node(children: &[u64]) -> Line {
    let mut line = [u64::MAX; 8];
    for (slot, key) in line.iter_mut().zip(children.iter().skip(1)) {
        *slot = *key;
    }
    line
}

fn leaf(changes: &[Change]) -> Line {
    let mut line = [0; 8];
    let last = changes.last().copied().unwrap_or_default();
    let filled = changes.iter().copied().chain(std::iter::repeat(last));
    for (at, (key, value)) in filled.take(LEAF_KEYS as usize).enumerate() {
        if let Some(slot) = line.get_mut(at) {
            *slot = key;
        }
        set(&mut line, VALUES as usize + at, value);
    }
    line
}
