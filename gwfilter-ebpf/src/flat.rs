//! Lookups in flat tables. They are global functions, which the verifier walks once for any arguments; walked again from each state of each
//! caller, programs would be too long for it.

use aya_ebpf::btf_maps::ArrayOfMaps;
use aya_ebpf::macros::btf_map;
use gwfilter_common::abi::{TABLE_SLOTS, WIDE_TABLE, table_index};
use gwfilter_common::decide::Source;
use gwfilter_common::flat::{self, Flat, v4, v6};

use crate::inner::LineArray;

type Tables = ArrayOfMaps<LineArray, { TABLE_SLOTS as usize }>;

#[btf_map]
static GWF_FLAT4: Tables = Tables::new();
#[btf_map]
static GWF_FLAT6: Tables = Tables::new();

/// No value: there is no such table, or it leads nowhere.
const NONE: u64 = u64::MAX;

/// An IPv4 address in a flat table, by its number.
#[inline(always)]
pub(crate) fn source4(table: u32, addr: [u8; 4]) -> Source {
    told(gwf_flat4(table, u32::from_be_bytes(addr)))
}

/// An IPv6 address in a flat table, by its number.
#[inline(always)]
pub(crate) fn source6(table: u32, addr: [u8; 16]) -> Source {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    let (upper, lower) = (
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    );
    told(gwf_flat6(table, upper, lower))
}

#[unsafe(no_mangle)]
extern "C" fn gwf_flat4(table: u32, address: u32) -> u64 {
    let lines = GWF_FLAT4.get(table_index(table));
    word(lines.map(|lines| {
        if table & WIDE_TABLE == 0 {
            v4::find(lines, address)
        } else {
            v4::find_wide(lines, address)
        }
    }))
}

#[unsafe(no_mangle)]
extern "C" fn gwf_flat6(table: u32, upper: u64, lower: u64) -> u64 {
    word(
        GWF_FLAT6
            .get(table_index(table))
            .map(|lines| v6::find(lines, upper, lower)),
    )
}

#[inline(always)]
fn word(found: Option<Flat>) -> u64 {
    match found {
        Some(Flat::Value(word)) => u64::from(word),
        Some(Flat::Damaged) | None => NONE,
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a word has 32 bits")]
fn told(word: u64) -> Source {
    if word == NONE {
        return Source::TableMissing;
    }
    flat::unpack(word as u32).map_or(Source::Uncovered, Source::Covered)
}
