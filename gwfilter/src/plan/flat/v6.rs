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
    build_from(&changes(entries)?)
}

/// The table of these changes.
///
/// # Errors
/// [`FlatError`].
pub(crate) fn build_from(changes: &[(u128, u32)]) -> Result<Lines, FlatError> {
    // The root of the tree over upper halves.
    let mut lines: Lines = vec![[0; 8]];
    let mut upper: Vec<Change> = Vec::with_capacity(changes.len());
    let mut value = 0;
    for group in changes.chunk_by(|(a, _), (b, _)| half(*a) == half(*b)) {
        let Some(&(first, to)) = group.first() else {
            continue;
        };
        let high = half(first);
        let starts = low(first) == 0;
        let before = value;
        value = group.last().map_or(value, |(_, last)| *last);
        if starts && group.len() == 1 {
            push(&mut upper, high, to);
            continue;
        }
        // This /64 is divided: what it begins with, and the changes in it.
        let mut lower: Vec<Change> = Vec::with_capacity(group.len() + 1);
        if !starts {
            lower.push((0, before));
        }
        lower.extend(group.iter().map(|(at, to)| (low(*at), *to)));
        let place = if lower.len() <= LEAF_KEYS as usize {
            let place = end(&lines)?;
            lines.push(leaf(&lower));
            pointer(false, place)
        } else {
            let root = end(&lines)?;
            lines.push([0; 8]);
            tree(&mut lines, root, &lower)?;
            pointer(true, root)
        };
        push(&mut upper, high, place.ok_or(FlatError::TooLarge)?);
        if let Some(next) = high.checked_add(1) {
            push(&mut upper, next, value);
        }
    }
    tree(&mut lines, 0, &upper)?;
    Ok(lines)
}

const fn half(address: u128) -> u64 {
    halves(address).0
}

const fn low(address: u128) -> u64 {
    halves(address).1
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
