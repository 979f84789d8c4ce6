//! The maps of [`gwfilter_common::abi`] and, over them, the [`Tables`] that the decision asks.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, LruHashMap, PerCpuArray};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::ProgramArray;
use gwfilter_common::abi::{
    CONTROL_LEN, FLAT_TABLE, LogLimit, MAX_LISTENERS, MAX_RULES, NEXT_LEN, REASONS, SYN_ENTRIES, Slot,
    SynEntry, SynKey, TABLE_SLOTS, Tally,
};
use gwfilter_common::decide::{RootTable, Source, Streams, Tables};

use crate::flat;
use crate::header::SCRATCH_WORDS;
use crate::inner::{RootArray, Trie};
use crate::packet_log::LINE_WORDS;

type Tries<const N: usize, const KEY: usize> = ArrayOfMaps<Trie<N, KEY>, { TABLE_SLOTS as usize }>;
type Tries4 = Tries<4, 8>;
type Tries6 = Tries<16, 20>;

#[btf_map]
static GWF_ROOT: ArrayOfMaps<RootArray, 1> = ArrayOfMaps::new();
#[btf_map]
static GWF_SRC4: Tries4 = ArrayOfMaps::new();
#[btf_map]
static GWF_SRC6: Tries6 = ArrayOfMaps::new();
#[btf_map]
static GWF_NEVER4: Tries4 = ArrayOfMaps::new();
#[btf_map]
static GWF_NEVER6: Tries6 = ArrayOfMaps::new();
#[btf_map]
pub(crate) static GWF_COUNT: PerCpuArray<Tally, { (MAX_LISTENERS * REASONS) as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static GWF_RULES: PerCpuArray<Tally, { MAX_RULES as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static GWF_LOGLIM: PerCpuArray<LogLimit, 1> = PerCpuArray::new();

#[btf_map]
static GWF_SYN: LruHashMap<SynKey, SynEntry, { SYN_ENTRIES as usize }> = LruHashMap::new();
#[btf_map]
pub(crate) static GWF_SCRATCH: PerCpuArray<[u64; SCRATCH_WORDS], 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static GWF_LINE: PerCpuArray<[u64; LINE_WORDS], 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static GWF_RSTLIM: PerCpuArray<LogLimit, 1> = PerCpuArray::new();
/// What the TC programs go on to, by `abi::NEXT_*`. Not a BTF map: the kernel refuses types of keys and values for this kind.
#[map]
pub(crate) static GWF_NEXT: ProgramArray = ProgramArray::with_max_entries(NEXT_LEN, 0);
#[btf_map]
static GWF_CONTROL: Array<u64, { CONTROL_LEN as usize }> = Array::new();

/// [`gwfilter_common::abi::COARSE_CLOCK_GLOBAL`].
#[unsafe(no_mangle)]
static GWF_COARSE_CLOCK: Global<u32> = Global::new(0);

/// The maps of this object.
pub(crate) struct Maps;

/// The root table of one generation. The kernel frees it only when no program that got it is running any more.
pub(crate) struct Root<'a>(&'a RootArray);

impl RootTable for Root<'_> {
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<&Slot> {
        self.0.get(index)
    }
}

impl Tables for Maps {
    type Root<'a> = Root<'a>;

    #[inline(always)]
    fn root(&self) -> Option<Root<'_>> {
        GWF_ROOT.get(0).map(Root)
    }

    #[inline(always)]
    fn source4(&self, table: u32, addr: [u8; 4]) -> Source {
        if table & FLAT_TABLE != 0 {
            return flat::source4(table, addr);
        }
        source(&GWF_SRC4, table, addr)
    }

    #[inline(always)]
    fn source6(&self, table: u32, addr: [u8; 16]) -> Source {
        if table & FLAT_TABLE != 0 {
            return flat::source6(table, addr);
        }
        source(&GWF_SRC6, table, addr)
    }

    #[inline(always)]
    fn never4(&self, table: u32, addr: [u8; 4]) -> Option<bool> {
        covers(&GWF_NEVER4, table, addr)
    }

    #[inline(always)]
    fn never6(&self, table: u32, addr: [u8; 16]) -> Option<bool> {
        covers(&GWF_NEVER6, table, addr)
    }

    #[inline(always)]
    fn control(&self, element: u32) -> Option<u64> {
        GWF_CONTROL.get(element).copied()
    }

    #[inline(always)]
    fn clock_ns(&self) -> u64 {
        // The global is read-only, so the verifier sees only one of them.
        if GWF_COARSE_CLOCK.load() == 0 {
            return monotonic_ns();
        }
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }
}

impl Streams for Maps {
    #[inline(always)]
    fn syn_seen(&self, key: &SynKey, entry: &SynEntry) {
        // What is not remembered is not judged: nothing to do if it fails.
        let _ = GWF_SYN.insert(key, entry, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn syn(&self, key: &SynKey) -> Option<SynEntry> {
        // SAFETY: the element may be given to another connection while it is copied; its sequence number then fits this one's segment by
        // chance only, once in 2^32, and only the segment that it fits is judged, by its own header.
        unsafe { GWF_SYN.get(key) }.copied()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

#[inline(always)]
fn monotonic_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn source<const N: usize, const KEY: usize>(tries: &Tries<N, KEY>, table: u32, addr: [u8; N]) -> Source {
    let Some(trie) = tries.get(table) else {
        return Source::TableMissing;
    };
    match trie.get(&whole(addr)) {
        Some(leaf) => Source::Covered(*leaf),
        None => Source::Uncovered,
    }
}

#[inline(always)]
fn covers<const N: usize, const KEY: usize>(
    tries: &Tries<N, KEY>,
    table: u32,
    addr: [u8; N],
) -> Option<bool> {
    Some(tries.get(table)?.get(&whole(addr)).is_some())
}

/// The key of one address.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an address has 32 or 128 bits")]
const fn whole<const N: usize>(addr: [u8; N]) -> Key<[u8; N]> {
    Key::new(8 * N as u32, addr)
}
