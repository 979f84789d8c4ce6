//! The IPv4 table: a front of one word for each /20, and behind it what a /20 holds. A *wide* table has one line for each /18 instead, which most
//! times holds all that there is to know of it: for a million prefixes one access to memory, not two, and no more of it.
//!
//! | lines | content |
//! |---|---|
//! | 0 .. [`FRONT_LINES`] | front: the word of a /20 is in line `address >> 16`, word `(address >> 12) & 15` |
//! | wide: 0 .. [`WIDE_LINES`] | front: line `address >> 14` has the 16 runs of that /18 or, if its last word is [`CROWDED`], begins with the words of its four /20s |
//! | behind | blocks, one for each /20 in which the value changes; in a wide table only those of crowded lines |
//!
//! A *run* is a word: in its high bits where in the /20 (the /18) it begins, in the low 18 bits its leaf. Runs are in ascending order, the first begins
//! at 0, and a block is filled up with its last run. A front word that points has in bits 29 and 30 the kind of its block and below them where it is:
//!
//! | kind | block |
//! |---|---|
//! | [`QUARTER`] | 4 runs in a quarter of a line; the number is that of the quarter |
//! | [`LINE`] | 16 runs in a line |
//! | [`INDEX`] | a line of up to 16 words whose high bits say where the runs of each of the lines behind it begin, 16 runs each; the low bits are 0, and it is filled up with ones |
//! | [`DIRECT`] | [`DIRECT_LINES`] lines: a word for each address |

use super::{Flat, LEAF_BITS, LEAF_MASK, Line, Lines, POINTER, below, low, word};

/// Bits of an address behind the front.
pub const LOW_BITS: u32 = 12;
/// Lines of the front.
pub const FRONT_LINES: u32 = 1 << 16;
/// Bits of an address behind the front of a wide table.
pub const WIDE_BITS: u32 = 14;
/// Lines of the front of a wide table. A table is wide if, and only if, it has as many lines.
pub const WIDE_LINES: u32 = 1 << 18;
/// The last word of a line of a wide table's front that has no runs. No leaf is all ones.
pub const CROWDED: u32 = u32::MAX;
/// Lines of a block with a word for each address.
pub const DIRECT_LINES: u32 = 1 << (LOW_BITS - 4);
/// Kind: 4 runs.
pub const QUARTER: u32 = 0;
/// Kind: 16 runs.
pub const LINE: u32 = 1;
/// Kind: 256 runs.
pub const INDEX: u32 = 2;
/// Kind: one word for each address.
pub const DIRECT: u32 = 3;

const KIND_SHIFT: u32 = 29;
const PLACE_MASK: u32 = (1 << KIND_SHIFT) - 1;

/// Whether a table of so many lines is wide.
#[must_use]
pub const fn is_wide(lines: usize) -> bool {
    lines >= WIDE_LINES as usize
}

/// The word that points to a block; `None` if its place needs more than 29 bits.
#[must_use]
pub const fn pointer(kind: u32, place: u32) -> Option<u32> {
    if place > PLACE_MASK || kind > DIRECT {
        return None;
    }
    Some(POINTER | kind << KIND_SHIFT | place)
}

/// Where in a line the last run is that begins at or before `key`, a run's word; the first run begins at 0, so there is one.
#[inline(always)]
fn last<L: Lines + ?Sized>(line: &Line, key: u64) -> u32 {
    let mut later = 0;
    for pair in line {
        later += below::<L>(key, *pair & 0xffff_ffff);
        later += below::<L>(key, *pair >> 32);
    }
    15_u32.wrapping_sub(later)
}

/// The value of an address, in host order.
#[inline(always)]
pub fn find<L: Lines + ?Sized>(lines: &L, address: u32) -> Flat {
    let Some(front) = lines
        .line(address >> 16)
        .and_then(|line| word(line, (address >> LOW_BITS) & 15))
    else {
        return Flat::Damaged;
    };
    told(lines, front, address)
}

/// The value of an address, in host order, in a wide table.
#[inline(always)]
pub fn find_wide<L: Lines + ?Sized>(lines: &L, address: u32) -> Flat {
    let Some(line) = lines.line(address >> WIDE_BITS) else {
        return Flat::Damaged;
    };
    let [front, second, .., last_pair] = line;
    if low(*last_pair >> 32) == CROWDED {
        let pair = if address >> 13 & 1 == 0 { front } else { second };
        return told(lines, low(*pair >> ((address >> LOW_BITS & 1) * 32)), address);
    }
    let key = (address & ((1 << WIDE_BITS) - 1)) << LEAF_BITS | LEAF_MASK;
    match word(line, last::<L>(line, key.into())) {
        Some(run) => Flat::Value(run & LEAF_MASK),
        None => Flat::Damaged,
    }
}

/// The value of an address from the word of its /20.
#[inline(always)]
fn told<L: Lines + ?Sized>(lines: &L, front: u32, address: u32) -> Flat {
    if front & POINTER == 0 {
        return Flat::Value(front);
    }
    behind(lines, front, address).map_or(Flat::Damaged, Flat::Value)
}

/// The value in the block that a front word points to.
#[inline(always)]
fn behind<L: Lines + ?Sized>(lines: &L, front: u32, address: u32) -> Option<u32> {
    let at = address & ((1 << LOW_BITS) - 1);
    let place = front & PLACE_MASK;
    // The greatest run that begins at or before the address.
    let key = u64::from(at << LEAF_BITS | LEAF_MASK);
    let found = match (front >> KIND_SHIFT) & 3 {
        QUARTER => {
            let line = lines.line(place >> 2)?;
            let first = (place & 3) * 2;
            let (a, b) = (*line.get(first as usize)?, *line.get(first as usize + 1)?);
            let later =
                below::<L>(key, a >> 32) + below::<L>(key, b & 0xffff_ffff) + below::<L>(key, b >> 32);
            word(line, first * 2 + 3 - later)
        }
        LINE => {
            let line = lines.line(place)?;
            word(line, last::<L>(line, key))
        }
        INDEX => {
            let child = last::<L>(lines.line(place)?, u64::from(at << LEAF_BITS));
            let line = lines.line(place + 1 + (child & 15))?;
            word(line, last::<L>(line, key))
        }
        _ => word(lines.line(place + (at >> 4))?, at & 15),
    };
    // Runs and direct words alike: below the leaf stands only where a run begins.
    Some(found? & LEAF_MASK)
}
