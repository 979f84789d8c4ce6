//! The map ABI: names, sizes and layouts that the kernel and user sides must agree on.
//!
//! One generation of enforcement is one *root table*: an array whose elements are [`Slot`]s of eight 64-bit words,
//! held by the single element of [`ROOT_MAP`]. Replacing that element is the swap. A root table is laid out as
//!
//! | elements | content |
//! |---|---|
//! | 0 | [`Header`] |
//! | [`BITMAP_START`] .. + [`BITMAP_SLOTS`] | bitmap of the destination ports (host order) that some tuple has |
//! | [`BUCKETS_START`] .. + [`BUCKETS`] | hash table of [`Tuple`]s, open addressing, linear probing, [`MAX_PROBES`] |
//! | [`PROXY_START`] .. + [`PROXY_SLOTS`] | [`Proxy`]s: how tuples with [`TUPLE_PROXY`] are judged |
//!
//! A tuple names the numbers of its source table and of its never-drop trie: an index of [`SRC4_MAP`] or [`SRC6_MAP`], or with [`FLAT_TABLE`]
//! of [`FLAT4_MAP`] or [`FLAT6_MAP`]; an index of [`NEVER4_MAP`] or [`NEVER6_MAP`]. Index 0 of each is never written: 0 means "no such table".
//! Changing anything here changes [`ABI_VERSION`].
//!
//! All words are in the machine's own order; addresses and trie keys are in network order.

mod probe;
mod proxy;
pub mod sample;

pub use probe::*;
pub use proxy::{MAX_CELLS, MAX_CLASSES, Proxy, SYN_ENTRIES, SynEntry, SynKey};

use crate::wire::Family;

/// The number both sides must share; the object carries it in the global [`ABI_GLOBAL`].
pub const ABI_VERSION: u32 = 4;

/// Array-of-maps of length 1 whose element is the root table.
pub const ROOT_MAP: &str = "GWF_ROOT";
/// Array-of-maps of IPv4 source tries.
pub const SRC4_MAP: &str = "GWF_SRC4";
/// Array-of-maps of IPv6 source tries.
pub const SRC6_MAP: &str = "GWF_SRC6";
/// Array-of-maps of IPv4 source tables in flat form ([`crate::flat`]).
pub const FLAT4_MAP: &str = "GWF_FLAT4";
/// Array-of-maps of IPv6 source tables in flat form.
pub const FLAT6_MAP: &str = "GWF_FLAT6";
/// Array-of-maps of IPv4 never-drop tries.
pub const NEVER4_MAP: &str = "GWF_NEVER4";
/// Array-of-maps of IPv6 never-drop tries.
pub const NEVER6_MAP: &str = "GWF_NEVER6";
/// Per-CPU array of [`Tally`], index `listener × REASONS + reason`.
pub const COUNT_MAP: &str = "GWF_COUNT";
/// Per-CPU array of [`Tally`], one for each policy rule: what it dropped or, in `would_drop` and `passed`, would have.
pub const RULES_MAP: &str = "GWF_RULES";
/// Per-CPU array of length 1: [`LogLimit`], the budget of the packet log.
pub const LOGLIM_MAP: &str = "GWF_LOGLIM";
/// LRU hash from [`SynKey`] to [`SynEntry`]: where the streams of recent connections to PROXY tuples begin.
pub const SYN_MAP: &str = "GWF_SYN";
/// Program array: what the TC programs go on to, by `NEXT_*`. Pinned, or the kernel empties it when the agent ends.
pub const NEXT_MAP: &str = "GWF_NEXT";
/// Element of [`NEXT_MAP`]: [`TC_HEADER_PROGRAM`] or its twin.
pub const NEXT_HEADER: u32 = 0;
/// Element of [`NEXT_MAP`]: [`TC_RESET_PROGRAM`].
pub const NEXT_RESET: u32 = 1;
/// Element of [`NEXT_MAP`]: [`TC_REFUSE_PROGRAM`].
pub const NEXT_REFUSE: u32 = 2;
/// Elements of [`NEXT_MAP`].
pub const NEXT_LEN: u32 = 3;
/// Per-CPU array of length 1: [`LogLimit`], the budget of resets that are sent to peers.
pub const RSTLIM_MAP: &str = "GWF_RSTLIM";
/// Array of 64-bit words, `CONTROL_*`: moments of `CLOCK_MONOTONIC` in nanoseconds. A word that is never written is 0. Pinned and kept
/// over restarts of the agent.
pub const CONTROL_MAP: &str = "GWF_CONTROL";
/// Element of [`CONTROL_MAP`]: from this moment on nothing is refused. 0: nothing is refused before somebody vouches for the tables;
/// [`FOREVER`]: there is no lease.
pub const CONTROL_LEASE: u32 = 0;
/// Element of [`CONTROL_MAP`]: as [`CONTROL_LEASE`], for tuples with [`TUPLE_POD`], which need both.
pub const CONTROL_POD_LEASE: u32 = 1;
/// Element of [`CONTROL_MAP`]: until this moment everything is only observed. 0: not paused; [`FOREVER`]: until somebody resumes.
pub const CONTROL_PAUSED: u32 = 2;
/// Elements of [`CONTROL_MAP`].
pub const CONTROL_LEN: u32 = 3;
/// The moment that does not come.
pub const FOREVER: u64 = u64::MAX;

/// Program for NICs whose driver takes multi-buffer frames.
pub const XDP_FRAGS_PROGRAM: &str = "gwf_xdp_frags";
/// Program for kernels or drivers that refuse the frags flag.
pub const XDP_PROGRAM: &str = "gwf_xdp";
/// TC, for interfaces without XDP: judges every tuple.
pub const TC_PROGRAM: &str = "gwf_tc";
/// TC, for interfaces where XDP judges: only tuples with [`TUPLE_PROXY`] or [`TUPLE_RESET`], which XDP passes on.
pub const TC_PROXY_PROGRAM: &str = "gwf_tc_proxy";
/// What both TC programs go on to where the payload has to be looked into.
pub const TC_HEADER_PROGRAM: &str = "gwf_tc_header";
/// [`TC_HEADER_PROGRAM`] for kernels without `bpf_loop` (before 5.17): headers of PROXY version 1 are not read.
pub const TC_HEADER_V2ONLY_PROGRAM: &str = "gwf_tc_header_v2only";
/// What a refused segment of PROXY mode ends in: a reset to each end.
pub const TC_RESET_PROGRAM: &str = "gwf_tc_reset";
/// What a refused segment of local mode ends in, with [`TUPLE_RESET`]: a reset to the peer.
pub const TC_REFUSE_PROGRAM: &str = "gwf_tc_refuse";

/// Global: the object's [`ABI_VERSION`].
pub const ABI_GLOBAL: &str = "GWF_ABI";
/// Global: which packets are logged, one of the `PACKET_LOG_*` values.
pub const PACKET_LOG_GLOBAL: &str = "GWF_PACKET_LOG";
/// Global: packet-log lines a second and CPU.
pub const LOG_RATE_GLOBAL: &str = "GWF_LOG_RATE";
/// Global: resets to peers a second and CPU.
pub const RST_RATE_GLOBAL: &str = "GWF_RST_RATE";

/// Global: 1 where the kernel has `bpf_ktime_get_coarse_ns` (since Linux 5.11), which is the time of the last tick without asking the clock.
pub const COARSE_CLOCK_GLOBAL: &str = "GWF_COARSE_CLOCK";

/// No packet is logged.
pub const PACKET_LOG_OFF: u32 = 0;
/// Packets that are dropped, or would be, are logged.
pub const PACKET_LOG_DROPS: u32 = 1;
/// Every packet to a gateway is logged.
pub const PACKET_LOG_ALL: u32 = 2;

/// Tables of one kind that can exist at a time, two generations together.
pub const TABLE_SLOTS: u32 = 512;
/// Set in the number of a source table that is flat; the bits below [`WIDE_TABLE`] are its index.
pub const FLAT_TABLE: u32 = 1 << 15;
/// Set beside [`FLAT_TABLE`] in the number of an IPv4 table that is wide ([`crate::flat::v4`]).
pub const WIDE_TABLE: u32 = 1 << 14;
/// Blocks of counters: [`NO_LISTENER`] and one for each listener.
pub const MAX_LISTENERS: u32 = 512;
/// The block of packets that no listener can be named for: fragments and IP packets whose ports cannot be known, of
/// whatever destination, and everything while there is no usable root table. No tuple may name it.
pub const NO_LISTENER: u32 = 0;
/// Counters in a listener's block.
pub const REASONS: u32 = 32;
/// Policy rules with a counter of their own. Index 0 is "no rule".
pub const MAX_RULES: u32 = 4096;
/// Tuples one generation may hold: a quarter of [`BUCKETS`], so that probes stay short.
pub const MAX_TUPLES: usize = 4096;
/// Buckets of the tuple table.
pub const BUCKETS: u32 = 16_384;
/// Buckets looked at for one key; the user side refuses a set of tuples that needs more.
pub const MAX_PROBES: u32 = 16;
/// First element of the port bitmap.
pub const BITMAP_START: u32 = 1;
/// Elements of the port bitmap: 65,536 bits in slots of 512.
pub const BITMAP_SLOTS: u32 = 128;
/// First bucket.
pub const BUCKETS_START: u32 = BITMAP_START + BITMAP_SLOTS;
/// First element of the [`Proxy`]s.
pub const PROXY_START: u32 = BUCKETS_START + BUCKETS;
/// Elements for [`Proxy`]s.
pub const PROXY_SLOTS: u32 = 256;
/// Elements of a root table.
pub const ROOT_LEN: u32 = PROXY_START + PROXY_SLOTS;

/// One element of a root table.
pub type Slot = [u64; 8];

/// The first element of a root table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`ABI_VERSION`]; anything else passes every packet.
    pub abi_version: u32,
    /// Seed of [`hash`].
    pub seed: u32,
    /// Counts up with every swap.
    pub generation: u64,
    /// `HEADER_*` bits.
    pub flags: u32,
    /// Tuples in the table.
    pub tuples: u32,
    /// Zero.
    pub _reserved: [u64; 5],
}

/// Header flag: everything is judged and counted, nothing is dropped.
pub const HEADER_OBSERVE: u32 = 1;

/// One bucket: a destination and where its tables are. An empty bucket is all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    /// Destination address, network order; IPv4 in the first four bytes, the rest zero.
    pub addr: [u8; 16],
    /// Destination port, host order.
    pub port: u16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// 4 or 6; an empty bucket is all zero.
    pub family: u8,
    /// `TUPLE_*` bits.
    pub flags: u32,
    /// Number of the source table of this tuple's family, 0 for none.
    pub source_table: u32,
    /// Index of the never-drop trie of this tuple's family, 0 for none.
    pub never_table: u32,
    /// Index of the listener's block of counters, never [`NO_LISTENER`].
    pub listener: u32,
    /// With [`TUPLE_PROXY`]: the element of the root table that holds the [`Proxy`]; else 0.
    pub proxy: u32,
    /// Zero.
    pub _reserved: [u32; 6],
}

/// Tuple flag: judged and counted, never dropped.
pub const TUPLE_OBSERVE: u32 = 1;
/// Tuple flag: `VERDICT_DROP` leaves are read as `VERDICT_DROP_NEW`.
pub const TUPLE_NEW_ONLY: u32 = 2;
/// Tuple flag: the destination is an address of this node with a port from which the node itself may open connections
/// (SNAT `--random-fully`): only a SYN without ACK is refused, the rest passes as [`crate::reason::Reason::MaybeReply`]. Stands
/// before [`TUPLE_NEW_ONLY`] and [`VERDICT_DROP_NEW`].
pub const TUPLE_MAYBE_REPLY: u32 = 4;
/// Tuple flag: the client is in the PROXY header at the start of the stream; TC judges by the [`Proxy`] that [`Tuple::proxy`] names, XDP
/// passes. The tuple's own source and never-drop tables are 0.
pub const TUPLE_PROXY: u32 = 8;
/// Tuple flag: a refusal is answered with a reset. TC judges such a tuple, XDP passes.
pub const TUPLE_RESET: u32 = 16;
/// Tuple flag: the destination is an address of a pod, which may be another pod's soon: [`CONTROL_POD_LEASE`] bears on it too.
pub const TUPLE_POD: u32 = 32;

/// Leaf of a source table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Leaf {
    /// One of the `VERDICT_*` values; anything else passes.
    pub verdict: u8,
    /// Code of the [`crate::reason::Reason`] to count: `allowed`, `denied-by-rule` or `no-rule-allows`.
    pub reason: u8,
    /// Zero.
    pub _pad: u16,
    /// Index into [`RULES_MAP`], 0 for none.
    pub rule: u32,
}

/// Pass.
pub const VERDICT_PASS: u8 = 0;
/// Drop.
pub const VERDICT_DROP: u8 = 1;
/// Drop what opens a connection (SYN without ACK), pass the rest.
pub const VERDICT_DROP_NEW: u8 = 2;
/// Leaf of a class trie ([`Proxy`]): [`Leaf::rule`] is the number of the class.
pub const VERDICT_CLASS: u8 = 3;

/// One per-CPU counter. Each packet that is counted adds one to `passed` or to `dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Packets passed, those of `would_drop` included.
    pub passed: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Packets passed that would have been dropped, were it not for observe mode.
    pub would_drop: u64,
}

/// The budget of the packet log on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LogLimit {
    /// The window, in units of 2³⁰ ns of the monotonic clock, that `used` belongs to.
    pub window: u64,
    /// Lines written in it.
    pub used: u64,
    /// Lines that were not written since the program was loaded, for want of budget or of room in the ring.
    pub suppressed: u64,
}

const _: () = {
    assert!(size_of::<Header>() == size_of::<Slot>());
    assert!(size_of::<Tuple>() == size_of::<Slot>());
    assert!(size_of::<Leaf>() == 8);
    assert!(size_of::<Tally>() == 24);
    assert!(size_of::<LogLimit>() == 24);
    assert!(BITMAP_SLOTS as usize * 512 == 65_536);
    assert!(BUCKETS.is_power_of_two());
    assert!(TABLE_SLOTS <= WIDE_TABLE && WIDE_TABLE < FLAT_TABLE);
};

/// The index in its array-of-maps of the table with this number.
#[inline(always)]
#[must_use]
pub const fn table_index(number: u32) -> u32 {
    number & !(FLAT_TABLE | WIDE_TABLE)
}

/// The bucket at which the search for a destination starts (before masking with `BUCKETS - 1`). Both sides use it.
#[inline(always)]
#[must_use]
pub fn hash(seed: u32, addr: &[u8; 16], port: u16, protocol: u8) -> u32 {
    hash_of_words(seed, halves(addr), port, protocol)
}

/// [`hash`] of an address as the two words that a [`Tuple`] begins with.
#[inline(always)]
#[must_use]
pub fn hash_of_words(seed: u32, [a, b]: [u64; 2], port: u16, protocol: u8) -> u32 {
    // Seed, port and protocol are mixed before an address meets them: if they were not, addresses that differ in the bits of their ports'
    // difference would collide under every seed.
    let mut h = u64::from(seed) | (u64::from(port) << 32) | (u64::from(protocol) << 48);
    h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^= h >> 32;
    h = (h ^ a).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 32;
    h = (h ^ b).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^= h >> 32;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half of a mixed word is the hash"
    )]
    let low = h as u32;
    low
}

/// Where the bit of a destination port is: the element of the root table, the word in it, the mask.
#[inline(always)]
#[must_use]
pub const fn port_bit(port: u16) -> (u32, usize, u64) {
    (
        BITMAP_START + (port >> 9) as u32,
        ((port >> 6) & 7) as usize,
        1 << (port & 63),
    )
}

/// The element of the root table that is looked at `probe` steps after a key's first.
#[inline(always)]
#[must_use]
pub const fn bucket(hash: u32, probe: u32) -> u32 {
    BUCKETS_START + (hash.wrapping_add(probe) & (BUCKETS - 1))
}

#[inline(always)]
fn halves(a: &[u8; 16]) -> [u64; 2] {
    let &[b0, b1, b2, b3, b4, b5, b6, b7, c0, c1, c2, c3, c4, c5, c6, c7] = a;
    [
        u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
        u64::from_ne_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
    ]
}

impl Header {
    /// The header in a slot.
    #[inline(always)]
    #[must_use]
    pub const fn from_slot(s: &Slot) -> Self {
        let &[w0, w1, w2, r0, r1, r2, r3, r4] = s;
        let (abi_version, seed) = split(w0);
        let (flags, tuples) = split(w2);
        Self {
            abi_version,
            seed,
            generation: w1,
            flags,
            tuples,
            _reserved: [r0, r1, r2, r3, r4],
        }
    }

    /// The slot that holds this header.
    #[must_use]
    pub fn to_slot(&self) -> Slot {
        let [r0, r1, r2, r3, r4] = self._reserved;
        [
            join(self.abi_version, self.seed),
            self.generation,
            join(self.flags, self.tuples),
            r0,
            r1,
            r2,
            r3,
            r4,
        ]
    }
}

impl Tuple {
    /// The three words by which a destination is found: the address, then port, protocol and family.
    #[inline(always)]
    #[must_use]
    pub fn key([a, b]: [u64; 2], port: u16, protocol: u8, family: Family) -> [u64; 3] {
        let family = match family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let [p0, p1] = port.to_ne_bytes();
        [a, b, u64::from(u32::from_ne_bytes([p0, p1, protocol, family]))]
    }

    /// The [`key`](Self::key) of the tuple in a slot; the last word is 0 in an empty bucket.
    #[inline(always)]
    #[must_use]
    pub fn key_of_slot(s: &Slot) -> [u64; 3] {
        let &[a, b, c, ..] = s;
        [a, b, u64::from(split(c).0)]
    }

    /// The tuple in a slot.
    #[inline(always)]
    #[must_use]
    pub const fn from_slot(s: &Slot) -> Self {
        let &[w0, w1, w2, w3, w4, w5, w6, w7] = s;
        let [a0, a1, a2, a3, a4, a5, a6, a7] = w0.to_ne_bytes();
        let [b0, b1, b2, b3, b4, b5, b6, b7] = w1.to_ne_bytes();
        let [p0, p1, protocol, family, f0, f1, f2, f3] = w2.to_ne_bytes();
        let (source_table, never_table) = split(w3);
        let (listener, proxy) = split(w4);
        let (r0, r1) = split(w5);
        let (r2, r3) = split(w6);
        let (r4, r5) = split(w7);
        Self {
            addr: [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7],
            port: u16::from_ne_bytes([p0, p1]),
            protocol,
            family,
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            source_table,
            never_table,
            listener,
            proxy,
            _reserved: [r0, r1, r2, r3, r4, r5],
        }
    }

    /// The slot that holds this tuple.
    #[must_use]
    pub fn to_slot(&self) -> Slot {
        let [w0, w1] = halves(&self.addr);
        let [p0, p1] = self.port.to_ne_bytes();
        let [f0, f1, f2, f3] = self.flags.to_ne_bytes();
        let [r0, r1, r2, r3, r4, r5] = self._reserved;
        [
            w0,
            w1,
            u64::from_ne_bytes([p0, p1, self.protocol, self.family, f0, f1, f2, f3]),
            join(self.source_table, self.never_table),
            join(self.listener, self.proxy),
            join(r0, r1),
            join(r2, r3),
            join(r4, r5),
        ]
    }
}

/// The two 32-bit fields that share a word of a `#[repr(C)]` struct.
#[inline(always)]
const fn split(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

fn join(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "Pod is an unsafe trait")]
    // SAFETY: `#[repr(C)]`, integers only, no padding (sizes asserted above), every bit pattern valid.
    unsafe impl aya::Pod for super::Leaf {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Tally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::LogLimit {}
    // SAFETY: as above (sizes asserted in `proxy`).
    unsafe impl aya::Pod for super::SynKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SynEntry {}
    // SAFETY: as above (sizes asserted in `sample`).
    unsafe impl aya::Pod for super::sample::Sampling {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::sample::Sampler {}
    // SAFETY: as above (sizes asserted in `probe`).
    unsafe impl aya::Pod for super::ProbeDest {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ProbeTally {}
}
