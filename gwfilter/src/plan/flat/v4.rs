//! The IPv4 table.

use gwfilter_common::abi::Leaf;
use gwfilter_common::flat::LEAF_BITS;
use gwfilter_common::flat::v4::{
    CROWDED, DIRECT, DIRECT_LINES, FRONT_LINES, INDEX, LINE, LOW_BITS, QUARTER, WIDE_BITS, WIDE_LINES,
    is_wide, pointer,
};
use ipnet::Ipv4Net;

use super::{FlatError, Lines, changes, end, set};

const PER_LINE: usize = 16;
/// Changes from which on a wide table, whose front takes 16 MiB, is no larger than the other and takes fewer accesses.
const WIDE_FROM: usize = 400_000;

/// Where in a stretch of addresses a run begins, and its leaf.
type Run = (u32, u32);

/// The table of these entries.
///
/// # Errors
/// [`FlatError`].
pub fn build(entries: &[(Ipv4Net, Leaf)]) -> Result<Lines, FlatError> {
    build_from(&runs(entries)?)
}

/// The table of these changes.
///
/// # Errors
/// [`FlatError`].
pub(crate) fn build_from(changes: &[Run]) -> Result<Lines, FlatError> {
    if changes.len() < WIDE_FROM {
        let lines = narrow(changes)?;
        if !is_wide(lines.len()) {
            return Ok(lines);
        }
    }
    wide(changes)
}

/// As [`build`], not wide unless it has so many lines.
///
/// # Errors
/// [`FlatError`].
pub fn build_narrow(entries: &[(Ipv4Net, Leaf)]) -> Result<Lines, FlatError> {
    narrow(&runs(entries)?)
}

/// As [`build`], wide.
///
/// # Errors
/// [`FlatError`].
pub fn build_wide(entries: &[(Ipv4Net, Leaf)]) -> Result<Lines, FlatError> {
    wide(&runs(entries)?)
}

fn runs(entries: &[(Ipv4Net, Leaf)]) -> Result<Vec<Run>, FlatError> {
    let word = |(at, value): (u128, u32)| Some((u32::try_from(at).ok()?, value));
    Ok(changes(entries)?.into_iter().filter_map(word).collect())
}

/// Calls `each` for each stretch of `2^bits` addresses in order: its number and its runs, of which the first begins at 0.
fn stretches(
    changes: &[Run],
    bits: u32,
    mut each: impl FnMut(u32, &[Run]) -> Result<(), FlatError>,
) -> Result<(), FlatError> {
    let mut changes = changes.iter().peekable();
    let mut value = 0;
    let mut runs: Vec<Run> = Vec::new();
    for number in 0..=(u32::MAX >> bits) {
        runs.clear();
        let first = number << bits;
        if changes.peek().is_none_or(|(at, _)| *at != first) {
            runs.push((0, value));
        }
        while let Some((at, to)) = changes.next_if(|(at, _)| *at >> bits == number) {
            value = *to;
            runs.push((at & ((1 << bits) - 1), value));
        }
        each(number, &runs)?;
    }
    Ok(())
}

fn narrow(changes: &[Run]) -> Result<Lines, FlatError> {
    let mut builder = Builder::new(FRONT_LINES);
    stretches(changes, LOW_BITS, |front, runs| {
        let word = builder.word(runs)?;
        if word != 0 {
            builder.set(front >> 4, front & 15, word);
        }
        Ok(())
    })?;
    Ok(builder.lines)
}

fn wide(changes: &[Run]) -> Result<Lines, FlatError> {
    let mut builder = Builder::new(WIDE_LINES);
    stretches(changes, WIDE_BITS, |number, runs| builder.wide(number, runs))?;
    Ok(builder.lines)
}

/// The bits of an address within one of the stretches of [`renew`], for a table of so many lines.
pub(crate) const fn stretch_bits(lines: usize) -> u32 {
    if is_wide(lines) { WIDE_BITS } else { LOW_BITS }
}

/// The same table with other runs in some stretches, given by number with where they begin in it and their leaves, the first at 0. What stood
/// for them stays as waste; a table that is mostly that is to be built anew, and so is one that has become as long as a wide one is.
///
/// # Errors
/// [`FlatError`].
pub(crate) fn renew(old: &Lines, stretches: &[(u32, Vec<Run>)]) -> Result<Lines, FlatError> {
    let mut lines = Lines::with_capacity(old.len() + stretches.len());
    lines.extend_from_slice(old);
    let mut builder = Builder {
        lines,
        quarters: None,
    };
    for (number, runs) in stretches {
        if is_wide(old.len()) {
            builder.wide(*number, runs)?;
        } else {
            let word = builder.word(runs)?;
            builder.set(*number >> 4, *number & 15, word);
        }
    }
    Ok(builder.lines)
}

struct Builder {
    lines: Lines,
    /// The next free quarter of a line that is used in part.
    quarters: Option<u32>,
}

impl Builder {
    fn new(front: u32) -> Self {
        Self {
            lines: vec![[0; 8]; usize::try_from(front).unwrap_or_default()],
            quarters: None,
        }
    }

    fn set(&mut self, line: u32, at: u32, word: u32) {
        if let Some(line) = self.lines.get_mut(line as usize) {
            set(line, at as usize, word);
        }
    }

    /// Writes the line of a /18 in a wide table's front.
    fn wide(&mut self, number: u32, runs: &[Run]) -> Result<(), FlatError> {
        let mut line = [0; 8];
        if runs.len() <= PER_LINE {
            (0..PER_LINE)
                .zip(filled(runs))
                .for_each(|(at, run)| set(&mut line, at, run));
        } else {
            set(&mut line, PER_LINE - 1, CROWDED);
            let mut value = 0;
            for quarter in 0..1 << (WIDE_BITS - LOW_BITS) {
                let first = quarter << LOW_BITS;
                let mut here: Vec<Run> = Vec::new();
                for (at, to) in runs.iter().filter(|(at, _)| at >> LOW_BITS == quarter) {
                    if here.is_empty() && *at != first {
                        here.push((0, value));
                    }
                    value = *to;
                    here.push((at - first, value));
                }
                if here.is_empty() {
                    here.push((0, value));
                }
                set(&mut line, quarter as usize, self.word(&here)?);
            }
        }
        if let Some(place) = self.lines.get_mut(number as usize) {
            *place = line;
        }
        Ok(())
    }

    /// The word of a /20, whose block it writes if it has one.
    fn word(&mut self, runs: &[Run]) -> Result<u32, FlatError> {
        match runs {
            [(_, only)] => Ok(*only),
            runs => self.block(runs),
        }
    }

    /// Writes a block; the word that points to it.
    fn block(&mut self, runs: &[Run]) -> Result<u32, FlatError> {
        let (kind, place) = match runs.len() {
            0..=4 => (QUARTER, self.quarter(runs)?),
            5..=PER_LINE => (LINE, self.line(runs)?),
            17..=256 => (INDEX, self.index(runs)?),
            _ => (DIRECT, self.direct(runs)?),
        };
        pointer(kind, place).ok_or(FlatError::TooLarge)
    }

    fn quarter(&mut self, runs: &[Run]) -> Result<u32, FlatError> {
        let place = match self.quarters {
            Some(place) => place,
            None => {
                let line = end(&self.lines)?;
                self.lines.push([0; 8]);
                line.checked_mul(4).ok_or(FlatError::TooLarge)?
            }
        };
        self.quarters = Some(place + 1).filter(|next| next % 4 != 0);
        let first = (place % 4 * 4) as usize;
        if let Some(line) = self.lines.get_mut((place / 4) as usize) {
            (first..first + 4)
                .zip(filled(runs))
                .for_each(|(at, run)| set(line, at, run));
        }
        Ok(place)
    }

    fn line(&mut self, runs: &[Run]) -> Result<u32, FlatError> {
        let place = end(&self.lines)?;
        let mut line = [0; 8];
        (0..PER_LINE)
            .zip(filled(runs))
            .for_each(|(at, run)| set(&mut line, at, run));
        self.lines.push(line);
        Ok(place)
    }

    fn index(&mut self, runs: &[Run]) -> Result<u32, FlatError> {
        let place = end(&self.lines)?;
        // No address reaches what it is filled up with.
        let mut line = [u64::MAX; 8];
        for (at, chunk) in runs.chunks(PER_LINE).enumerate() {
            let first = chunk.first().map_or(0, |(from, _)| *from);
            set(&mut line, at, first << LEAF_BITS);
        }
        self.lines.push(line);
        for chunk in runs.chunks(PER_LINE) {
            self.line(chunk)?;
        }
        Ok(place)
    }

    fn direct(&mut self, runs: &[Run]) -> Result<u32, FlatError> {
        let place = end(&self.lines)?;
        let mut runs = runs.iter().peekable();
        let mut value = 0;
        for number in 0..DIRECT_LINES {
            let mut line = [0; 8];
            for at in 0..16 {
                let low = number << 4 | at;
                while let Some((_, to)) = runs.next_if(|(from, _)| *from <= low) {
                    value = *to;
                }
                set(&mut line, at as usize, value);
            }
            self.lines.push(line);
        }
        end(&self.lines)?;
        Ok(place)
    }
}

/// The runs' words, and then the last one again and again.
fn filled(runs: &[Run]) -> impl Iterator<Item = u32> {
    let word = |(from, leaf): &Run| from << LEAF_BITS | leaf;
    let last = runs.last().map_or(0, word);
    runs.iter().map(word).chain(std::iter::repeat(last))
}
