//! The IPv6 table: a tree over the upper 64 bits of addresses and, where a /64 is divided further, trees over the lower 64 bits.
//!
//! | line | content |
//! |---|---|
//! | 0 | root of the tree over the upper halves |
//! | behind | nodes, leaves and further roots |
//!
//! A *root* is a line that tells of the levels of its tree, top first, one word of 64 bits each: in the low half its first line, in the high half how many lines it has,
//! 0 where there is no such level. The last level that there is holds the *leaves*, each other one *nodes*. A node is eight
//! keys: with `c` of them at or below the key that is looked for, the search goes on in line `9 n + c` of the next level, where `n` is the node's number in its
//! own. It is filled up with `u64::MAX`. A leaf is five keys, then five values in the words of 32 bits from the eleventh on; the value of a key
//! holds from there to the next key. The first key of the first leaf is 0. A leaf is filled up with its last key and value.
//!
//! A value that points has in bit 30 what to, in a tree over upper halves only: clear, a leaf of lower halves; set, a root over lower halves.

use super::{Flat, Line, Lines, POINTER, low, word};

/// Keys of a node.
pub const NODE_KEYS: u32 = 8;
/// Lines of the next level that a node leads to.
pub const FANOUT: u32 = NODE_KEYS + 1;
/// Keys of a leaf.
pub const LEAF_KEYS: u32 = 5;
/// The first value's word of 32 bits in a leaf.
pub const VALUES: u32 = 2 * LEAF_KEYS;
/// Levels that a root can tell of.
pub const LEVELS: u32 = 8;

const IS_ROOT: u32 = 1 << 30;
const PLACE_MASK: u32 = IS_ROOT - 1;

/// The value that points to a leaf or, with `root`, to a root, of lower halves; `None` if its line needs more than 30 bits.
#[must_use]
pub const fn pointer(root: bool, line: u32) -> Option<u32> {
    if line > PLACE_MASK {
        return None;
    }
    Some(if root {
        POINTER | IS_ROOT | line
    } else {
        POINTER | line
    })
}

/// 1 if `a <= b`, else 0, without a branch.
#[inline(always)]
fn reached<L: Lines + ?Sized>(a: u64, b: u64) -> u32 {
    // The borrow of `b - a` (Hacker's Delight §2–13), as full words have no bit to spare.
    let borrow = L::top_bit((!b & a) | ((!b | a) & b.wrapping_sub(a)));
    1 - borrow
}

/// The value of an address, its two halves in host order.
#[inline(always)]
pub fn find<L: Lines + ?Sized>(lines: &L, upper: u64, lower: u64) -> Flat {
    let Some(value) = descend(lines, 0, upper) else {
        return Flat::Damaged;
    };
    if value & POINTER == 0 {
        return Flat::Value(value);
    }
    let place = value & PLACE_MASK;
    let found = if value & IS_ROOT == 0 {
        lines.line(place).and_then(|line| in_leaf::<L>(line, lower))
    } else {
        descend(lines, place, lower)
    };
    match found {
        // Lower halves are not divided further.
        Some(value) if value & POINTER == 0 => Flat::Value(value),
        _ => Flat::Damaged,
    }
}

/// From a root to the value of a key.
#[inline(always)]
fn descend<L: Lines + ?Sized>(lines: &L, root: u32, key: u64) -> Option<u32> {
    let root = lines.line(root)?;
    let mut number = 0_u32;
    for (level, told) in root.iter().enumerate() {
        let (first, count) = (low(*told), low(*told >> 32));
        if count == 0 {
            return None;
        }
        // Only a key that fills nodes up leads behind the last line.
        let line = lines.line(first.wrapping_add(if number < count { number } else { count - 1 }))?;
        if root.get(level + 1).is_none_or(|next| *next == 0) {
            return in_leaf::<L>(line, key);
        }
        let mut child = 0;
        for separator in line {
            child += reached::<L>(*separator, key);
        }
        number = number.wrapping_mul(FANOUT).wrapping_add(child);
    }
    None
}

/// The value of a key in its leaf.
#[inline(always)]
fn in_leaf<L: Lines + ?Sized>(line: &Line, key: u64) -> Option<u32> {
    let [_, second, third, fourth, fifth, ..] = line;
    let at = reached::<L>(*second, key)
        + reached::<L>(*third, key)
        + reached::<L>(*fourth, key)
        + reached::<L>(*fifth, key);
    word(line, VALUES + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reached_is_a_comparison_of_full_words() {
        let ends = [0, 1, 2, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX];
        for a in ends {
            for b in ends {
                assert_eq!(reached::<[Line]>(a, b), u32::from(a <= b), "{a} {b}");
            }
        }
    }
}
