//! Source tables whose cost does not grow with the number of prefixes: exact longest-prefix match in one to three memory accesses for
//! IPv4, in a few more for IPv6.
//!
//! A flat table is one array of [`Line`]s of 64 bytes, the unit in which memory comes. The user side builds it whole from the disjoint stretches
//! of addresses that the prefixes make (`gwfilter::plan::flat`); what is here finds an address in it, in the kernel and on the host.
//! Nothing that may stand in a table can lead outside of it: an index beyond it finds no line, and that is [`Flat::Damaged`].
//!
//! A *value* is a word of 32 bits. With bit 31 clear it is a leaf ([`pack`]), and 0 is "no prefix covers it". With bit 31 set it points on, and what
//! the bits mean is the family's ([`v4`], [`v6`]).

pub mod v4;
pub mod v6;

use crate::abi::{Leaf, Slot};

/// 64 bytes: eight words of 64 bits, or sixteen of 32 bits, the low half of each first.
pub type Line = Slot;

/// Bits of a leaf's word.
pub const LEAF_BITS: u32 = 18;
/// Marks a word that points on.
pub const POINTER: u32 = 1 << 31;

const RULE_BITS: u32 = 12;
const REASON_BITS: u32 = 4;
const LEAF_MASK: u32 = (1 << LEAF_BITS) - 1;

/// The lines of a table.
pub trait Lines {
    /// The line at `index`, `None` beyond the end.
    fn line(&self, index: u32) -> Option<&Line>;

    /// The highest bit of a word. The kernel side hides from the compiler how it is found: else that makes each comparison a branch again, and
    /// sixteen in a row are more ways than the verifier will walk.
    #[inline(always)]
    #[must_use]
    fn top_bit(word: u64) -> u32 {
        low(word >> 63)
    }
}

impl Lines for [Line] {
    fn line(&self, index: u32) -> Option<&Line> {
        self.get(usize::try_from(index).ok()?)
    }
}

/// What a flat table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flat {
    /// A word that leads nowhere.
    Damaged,
    /// A leaf, or 0 where no prefix covers the address: to be read by [`unpack`].
    Value(u32),
}

/// A leaf in [`LEAF_BITS`] bits: rule, reason, verdict from the lowest bit on. `None` if it does not fit, or would be all zeros or all ones,
/// which mean something else: the planner has no such leaf.
#[must_use]
pub const fn pack(leaf: &Leaf) -> Option<u32> {
    if leaf.rule >> RULE_BITS != 0 || leaf.reason >> REASON_BITS != 0 || leaf.verdict > 3 {
        return None;
    }
    let word =
        leaf.rule | (leaf.reason as u32) << RULE_BITS | (leaf.verdict as u32) << (RULE_BITS + REASON_BITS);
    if word == 0 || word == LEAF_MASK {
        return None;
    }
    Some(word)
}

/// The leaf in a word; `None` for 0.
#[inline(always)]
#[must_use]
pub const fn unpack(word: u32) -> Option<Leaf> {
    let word = word & LEAF_MASK;
    if word == 0 {
        return None;
    }
    Some(Leaf {
        verdict: (word >> (RULE_BITS + REASON_BITS)) as u8,
        reason: ((word >> RULE_BITS) & ((1 << REASON_BITS) - 1)) as u8,
        _pad: 0,
        rule: word & ((1 << RULE_BITS) - 1),
    })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(word: u64) -> u32 {
    word as u32
}

/// One of the sixteen words of 32 bits of a line.
#[inline(always)]
fn word(line: &Line, index: u32) -> Option<u32> {
    let pair = line.get((index as usize >> 1) & 7)?;
    Some(low(*pair >> ((index & 1) * 32)))
}

/// 1 if `a < b`, else 0, for values below 2⁶³: without a branch, since which way it goes is random.
#[inline(always)]
fn below<L: Lines + ?Sized>(a: u64, b: u64) -> u32 {
    L::top_bit(a.wrapping_sub(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi;

    #[test]
    fn a_leaf_survives_packing_and_what_does_not_fit_is_refused() {
        for verdict in 0..4_u8 {
            for reason in 0..16_u8 {
                for rule in [0, 1, 7, abi::MAX_RULES - 1] {
                    let leaf = Leaf {
                        verdict,
                        reason,
                        _pad: 0,
                        rule,
                    };
                    match pack(&leaf) {
                        Some(word) => {
                            assert!(word < LEAF_MASK && word != 0);
                            assert_eq!(unpack(word), Some(leaf));
                        }
                        None => assert!(
                            [(0, 0, 0), (3, 15, abi::MAX_RULES - 1)].contains(&(verdict, reason, rule))
                        ),
                    }
                }
            }
        }
        let leaf = |verdict, reason, rule| Leaf {
            verdict,
            reason,
            _pad: 0,
            rule,
        };
        assert_eq!(pack(&leaf(4, 2, 0)), None);
        assert_eq!(pack(&leaf(1, 16, 0)), None);
        assert_eq!(pack(&leaf(1, 2, abi::MAX_RULES)), None);
        assert_eq!(unpack(0), None);
    }

    #[test]
    fn words_of_a_line_are_read_low_half_first() {
        let line: Line = core::array::from_fn(|i| (i as u64 * 2) | (i as u64 * 2 + 1) << 32);
        for i in 0..16 {
            assert_eq!(word(&line, i), Some(i));
        }
    }

    #[test]
    fn below_is_a_comparison() {
        for (a, b) in [
            (0, 0),
            (0, 1),
            (1, 0),
            (u64::from(u32::MAX), 1),
            (1, u64::from(u32::MAX)),
        ] {
            assert_eq!(below::<[Line]>(a, b), u32::from(a < b), "{a} {b}");
        }
    }
}
