//! The IPv4 table.

use gwfilter_common::abi::Leaf;
use gwfilter_common::flat::LEAF_BITS;
use gwfilter_common::flat::v4::{DIRECT, DIRECT_LINES, FRONT_LINES, INDEX, LINE, LOW_BITS, QUARTER, pointer};
use ipnet::Ipv4Net;

use super::{FlatError, Lines, changes, end, set};

const LOW: u32 = (1 << LOW_BITS) - 1;
const PER_LINE: usize = 16;

/// The table of these entries.
///
/// # Errors
/// [`FlatError`].
pub fn build(entries: &[(Ipv4Net, Leaf)]) -> Result<Lines, FlatError> {
    let changes = changes(entries)?.into_iter();
    let changes: Vec<(u32, u32)> = changes
        .filter_map(|(at, value)| Some((u32::try_from(at).ok()?, value)))
        .collect();
    build_from(&changes)
}

/// The table of these changes.
///
/// # Errors
/// [`FlatError`].
pub(crate) fn build_from(changes: &[(u32, u32)]) -> Result<Lines, FlatError> {
    let mut changes = changes.iter().copied().peekable();
    let mut builder = Builder {
        lines: vec![[0; 8]; usize::try_from(FRONT_LINES).unwrap_or_default()],
        quarters: None,
    };
    let mut value = 0;
    // Runs of one /20: where in it they begin, and their leaf.
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for front in 0..=(u32::MAX >> LOW_BITS) {
        runs.clear();
        let first = front << LOW_BITS;
        if changes.peek().is_none_or(|(at, _)| *at != first) {
            runs.push((0, value));
        }
        while let Some((at, to)) = changes.next_if(|(at, _)| *at >> LOW_BITS == front) {
            value = to;
            runs.push((at & LOW, value));
        }
        let word = match runs.as_slice() {
            [(_, only)] => *only,
            runs => builder.block(runs)?,
        };
        if word != 0
            && let Some(line) = builder.lines.get_mut((front >> 4) as usize)
        {
            set(line, (front & 15) as usize, word);
        }
    }
    Ok(builder.lines)
}

/// The bits of an address within one of the stretches of [`renew`], for a table of so many lines.
pub(crate) const fn stretch_bits(_lines: usize) -> u32 {
    LOW_BITS
}

/// The same table with other runs in some stretches, given by number with where they begin in it and their leaves, the first at 0. What stood
/// for them stays as waste; a table that is mostly that is to be built anew.
///
/// # Errors
/// [`FlatError`].
pub(crate) fn renew(old: &Lines, stretches: &[(u32, Vec<(u32, u32)>)]) -> Result<Lines, FlatError> {
    let mut lines = Lines::with_capacity(old.len() + stretches.len());
    lines.extend_from_slice(old);
    let mut builder = Builder {
        lines,
        quarters: None,
    };
    for (front, runs) in stretches {
        let word = match runs.as_slice() {
            [(_, only)] => *only,
            runs => builder.block(runs)?,
        };
        if let Some(line) = builder.lines.get_mut((front >> 4) as usize) {
            set(line, (front & 15) as usize, word);
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
    /// Writes a block; the word that points to it.
    fn block(&mut self, runs: &[(u32, u32)]) -> Result<u32, FlatError> {
        let (kind, place) = match runs.len() {
            0..=4 => (QUARTER, self.quarter(runs)?),
            5..=PER_LINE => (LINE, self.line(runs)?),
            17..=256 => (INDEX, self.index(runs)?),
            _ => (DIRECT, self.direct(runs)?),
        };
        pointer(kind, place).ok_or(FlatError::TooLarge)
    }

    fn quarter(&mut self, runs: &[(u32, u32)]) -> Result<u32, FlatError> {
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

    fn line(&mut self, runs: &[(u32, u32)]) -> Result<u32, FlatError> {
        let place = end(&self.lines)?;
        let mut line = [0; 8];
        (0..PER_LINE)
            .zip(filled(runs))
            .for_each(|(at, run)| set(&mut line, at, run));
        self.lines.push(line);
        Ok(place)
    }

    fn index(&mut self, runs: &[(u32, u32)]) -> Result<u32, FlatError> {
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

    fn direct(&mut self, runs: &[(u32, u32)]) -> Result<u32, FlatError> {
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
fn filled(runs: &[(u32, u32)]) -> impl Iterator<Item = u32> {
    let word = |(from, leaf): &(u32, u32)| from << LEAF_BITS | leaf;
    let last = runs.last().map_or(0, word);
    runs.iter().map(word).chain(std::iter::repeat(last))
}
