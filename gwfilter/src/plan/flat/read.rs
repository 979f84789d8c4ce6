//! A flat table read as a whole: what it says of every address, in ascending order. Whatever stands in the table, this ends.

use gwfilter_common::flat::v4::{
    CROWDED, DIRECT, DIRECT_LINES, FRONT_LINES, INDEX, LINE, LOW_BITS, QUARTER, WIDE_BITS, WIDE_LINES,
    is_wide,
};
use gwfilter_common::flat::v6::{LEAF_KEYS, VALUES};
use gwfilter_common::flat::{LEAF_BITS, Line, POINTER};

const LEAF: u32 = (1 << LEAF_BITS) - 1;
const PLACE: u32 = (1 << 29) - 1;
const PLACE6: u32 = (1 << 30) - 1;
const IS_ROOT: u32 = 1 << 30;

/// The addresses at which the value changes, and to what word; the first is 0. Lines that are not there say 0.
#[must_use]
pub fn changes4(lines: &[Line]) -> Vec<(u128, u32)> {
    let mut out = Changes::default();
    if !is_wide(lines.len()) {
        for front in 0..FRONT_LINES * 16 {
            let word = at(lines, front >> 4, front & 15);
            block4(lines, front << LOW_BITS, word, &mut out);
        }
        return out.0;
    }
    for front in 0..WIDE_LINES {
        let base = front << WIDE_BITS;
        if at(lines, front, 15) == CROWDED {
            for quarter in 0..1 << (WIDE_BITS - LOW_BITS) {
                block4(
                    lines,
                    base | quarter << LOW_BITS,
                    at(lines, front, quarter),
                    &mut out,
                );
            }
        } else {
            runs4(lines, base, (front, 0, 16), &mut out);
        }
    }
    out.0
}

/// Some of the runs in a line: its number, the first, how many.
fn runs4(lines: &[Line], base: u32, (line, first, count): (u32, u32, u32), out: &mut Changes) {
    for number in first..first + count {
        let word = at(lines, line, number);
        out.put((base | word >> LEAF_BITS).into(), word & LEAF);
    }
}

/// The /20 at `base`, from its word.
fn block4(lines: &[Line], base: u32, word: u32, out: &mut Changes) {
    if word & POINTER == 0 {
        return out.put(base.into(), word);
    }
    let place = word & PLACE;
    match word >> 29 & 3 {
        QUARTER => runs4(lines, base, (place >> 2, (place & 3) * 4, 4), out),
        LINE => runs4(lines, base, (place, 0, 16), out),
        INDEX => {
            for child in 0..16 {
                let begins = at(lines, place, child);
                if begins & LEAF != 0 {
                    break;
                }
                runs4(lines, base, (place + 1 + child, 0, 16), out);
            }
        }
        _ => {
            debug_assert_eq!(word >> 29 & 3, DIRECT, "two bits");
            for low in 0..DIRECT_LINES * 16 {
                let word = at(lines, place + (low >> 4), low & 15);
                out.put((base | low).into(), word & LEAF);
            }
        }
    }
}

/// As [`changes4`].
#[must_use]
pub fn changes6(lines: &[Line]) -> Vec<(u128, u32)> {
    let mut out = Changes::default();
    walk(lines, 0, &mut |key, value| {
        let base = u128::from(key) << 64;
        if value & POINTER == 0 {
            return out.put(base, value);
        }
        let mut low = |key: u64, value| out.put(base | u128::from(key), value & !POINTER);
        let place = value & PLACE6;
        if value & IS_ROOT == 0 {
            leaf(lines, place, &mut low);
        } else {
            walk(lines, place, &mut low);
        }
    });
    out.0
}

/// The leaves of the tree at `root`.
fn walk(lines: &[Line], root: u32, each: &mut impl FnMut(u64, u32)) {
    let levels = line(lines, root);
    let Some(last) = levels.iter().take_while(|told| **told >> 32 != 0).last() else {
        return;
    };
    let first = last & 0xffff_ffff;
    let end = first.saturating_add(last >> 32).min(lines.len() as u64);
    for number in first..end {
        leaf(lines, u32::try_from(number).unwrap_or(u32::MAX), each);
    }
}

fn leaf(lines: &[Line], number: u32, each: &mut impl FnMut(u64, u32)) {
    let keys = line(lines, number);
    for (slot, key) in (0..LEAF_KEYS).zip(keys) {
        each(key, at(lines, number, VALUES + slot));
    }
}

fn line(lines: &[Line], number: u32) -> Line {
    let line = usize::try_from(number).ok().and_then(|number| lines.get(number));
    line.copied().unwrap_or_default()
}

/// One of the sixteen words of a line.
fn at(lines: &[Line], number: u32, index: u32) -> u32 {
    let pair = line(lines, number)
        .get((index / 2) as usize)
        .copied()
        .unwrap_or(0);
    #[expect(clippy::cast_possible_truncation, reason = "the half that is meant")]
    let word = (pair >> (index % 2 * 32)) as u32;
    word
}

#[derive(Default)]
struct Changes(Vec<(u128, u32)>);

impl Changes {
    /// Repeated runs and equal neighbours are no changes.
    fn put(&mut self, address: u128, value: u32) {
        match self.0.last_mut() {
            Some((_, last)) if *last == value => {}
            Some((at, last)) if *at == address => *last = value,
            _ => self.0.push((address, value)),
        }
    }
}
