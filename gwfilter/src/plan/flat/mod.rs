//! Builds flat tables ([`gwfilter_common::flat`]) from the entries of a trie: the same answers, in another shape.
//!
//! Both families begin alike: the prefixes become the addresses at which the value changes, in ascending order ([`changes`]).

mod read;
mod renew;
mod v4;
mod v6;

use gwfilter_common::abi::Leaf;
use gwfilter_common::flat::{self, Line};

use super::ranges::{self, Prefix};
pub use read::{changes4, changes6};
pub(crate) use renew::renew4;
pub(crate) use v4::build_from as build4_from;
pub use v4::{build as build4, build_narrow as narrow4, build_wide as wide4};
pub(crate) use v6::Tree as Tree6;
pub use v6::build as build6;

/// Lines that one table may have: 1 GiB.
const MAX_LINES: usize = 1 << 24;

/// Why there is no flat table for some entries. A trie takes them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlatError {
    /// A leaf that has no word.
    #[error("a leaf does not fit a flat table's word")]
    Leaf,
    /// Too large.
    #[error("a flat table would be larger than {} MiB", MAX_LINES >> 14)]
    TooLarge,
}

/// A finished table.
pub type Lines = Vec<Line>;

/// The addresses at which the value changes, and to what word; the first is 0. 0 is the word of what no prefix covers.
///
/// # Errors
/// [`FlatError::Leaf`].
pub(crate) fn changes<N: Prefix>(entries: &[(N, Leaf)]) -> Result<Vec<(u128, u32)>, FlatError> {
    let pieces = ranges::flatten(entries.iter().map(|(net, leaf)| (*net, leaf)));
    let mut all: Vec<(u128, u32)> = Vec::with_capacity(2 * pieces.len() + 1);
    all.push((0, 0));
    let mut put = |at: u128, value: u32| match all.last_mut() {
        Some(last) if last.0 == at => last.1 = value,
        _ => all.push((at, value)),
    };
    for (range, leaf) in pieces {
        put(range.first, flat::pack(leaf).ok_or(FlatError::Leaf)?);
        if let Some(next) = range.last.checked_add(1) {
            put(next, 0);
        }
    }
    all.dedup_by_key(|(_, value)| *value);
    // An IPv4 table ends where 32 bits do.
    if N::BITS == 32 {
        all.retain(|(at, _)| *at <= u128::from(u32::MAX));
    }
    Ok(all)
}

/// The two halves of an IPv6 address, as the table is asked for it.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "each half is meant")]
pub const fn halves(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, address as u64)
}

/// Sets one of the sixteen words of 32 bits of a line.
fn set(line: &mut Line, index: usize, value: u32) {
    if let Some(pair) = line.get_mut(index / 2) {
        let shift = (index % 2) * 32;
        *pair = *pair & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }
}

/// Where the next line goes.
fn end(lines: &Lines) -> Result<u32, FlatError> {
    if lines.len() >= MAX_LINES {
        return Err(FlatError::TooLarge);
    }
    u32::try_from(lines.len()).map_err(|_| FlatError::TooLarge)
}

#[cfg(test)]
mod tests;
