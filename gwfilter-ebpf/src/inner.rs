//! The templates of the maps that lie in other maps: like `aya_ebpf`'s, but told by sizes and not by types.
//!
//! What the agent puts in has no types. From Linux 5.15 to 6.1 the kernel takes a map into another only if both have types or neither has:
//! it compares where in a value a timer lies, and "nowhere" and "not known" are two answers (`bpf_map_meta_equal`, `kernel/bpf/map_in_map.c`).

use core::ptr;

use aya_ebpf::bindings::bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_LPM_TRIE};
use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use gwfilter_common::abi::{Leaf, ROOT_LEN, Slot};
use gwfilter_common::flat::{Line, Lines};

/// A trie over addresses of `N` bytes, whose keys have `KEY` bytes. Its `max_entries` is the template's; that of a trie in a map is its own.
#[repr(C)]
pub(crate) struct Trie<const N: usize, const KEY: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_LPM_TRIE as usize],
    key_size: *const [i32; KEY],
    value_size: *const [i32; size_of::<Leaf>()],
    max_entries: *const [i32; 1],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

impl<const N: usize, const KEY: usize> Trie<N, KEY> {
    const SIZE: () = assert!(KEY == size_of::<Key<[u8; N]>>());

    /// The leaf of the longest prefix that covers the key.
    #[inline(always)]
    pub(crate) fn get(&self, key: &Key<[u8; N]>) -> Option<&Leaf> {
        let () = Self::SIZE;
        // SAFETY: a reference to it is what the kernel gave for a map of this kind, whose keys and values have these sizes. A leaf lives until
        // the program ends; it is written whole, in one word.
        unsafe {
            bpf_map_lookup_elem(ptr::from_ref(self).cast_mut().cast(), ptr::from_ref(key).cast())
                .cast::<Leaf>()
                .as_ref()
        }
    }
}

/// A root table.
#[repr(C)]
pub(crate) struct RootArray {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Slot>()],
    max_entries: *const [i32; ROOT_LEN as usize],
}

impl RootArray {
    /// A slot.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> Option<&Slot> {
        // SAFETY: as for `Trie::get`; a slot is not written while programs read the table.
        unsafe {
            bpf_map_lookup_elem(
                ptr::from_ref(self).cast_mut().cast(),
                ptr::from_ref(&index).cast(),
            )
            .cast::<Slot>()
            .as_ref()
        }
    }
}

/// A flat table. An array in a map may have another length than the template's with `BPF_F_INNER_MAP`; lines begin where lines of the
/// cache do with `BPF_F_MMAPABLE`, whose memory is whole pages.
#[repr(C)]
pub(crate) struct LineArray {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Line>()],
    max_entries: *const [i32; 1],
    map_flags: *const [i32; (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize],
}

impl Lines for LineArray {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "one bit is left")]
    fn top_bit(word: u64) -> u32 {
        #[cfg(target_arch = "bpf")]
        let bit = {
            let mut word = word;
            // SAFETY: one instruction on one register.
            unsafe {
                core::arch::asm!("{0} >>= 63", inout(reg) word, options(pure, nomem, nostack, preserves_flags));
            }
            word
        };
        #[cfg(not(target_arch = "bpf"))]
        let bit = word >> 63;
        bit as u32
    }

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        // SAFETY: as for `RootArray::get`. A line that is written while it is read is one that no front points to yet.
        unsafe {
            bpf_map_lookup_elem(
                ptr::from_ref(self).cast_mut().cast(),
                ptr::from_ref(&index).cast(),
            )
            .cast::<Line>()
            .as_ref()
        }
    }
}
