//! Why a goal is missed, where one is: what it comes from, and what was tried. It goes with the figure wherever that is shown.
//!
//! A reason is looked for only where a goal is missed, so what was written once may stay when the figure gets better.

/// What figures' names begin with, and why they miss their goals, as the end of a sentence "missed because …; tried: …". The first that fits
/// counts, so longer beginnings come first.
const REASONS: &[(&str, &str)] = &[
    (
        "proxy-data-segment",
        "the segment's first bytes are compared with the beginnings of a header of either version, behind the way to a gateway's tuple, which is 10 ns of it; tried: a way of its own for such segments, which cost refused packets more than it gave",
    ),
    (
        "lpm-1m-v4",
        "a source that nobody asked for lately costs one or two accesses to memory, each some 100 ns with the walk of page tables in a virtual machine (DIR-24-8, with one access, takes 123), and the rest of a verdict 33; tried: a front of /20s (two to three accesses: 0.25), wide lines that hold 16 runs of a /18 (this)",
    ),
    (
        "lpm-1m-v6",
        "a host is found by a tree of seven lines, of which the last three are in no cache; tried: nodes of eight keys, leaves of five, hosts in leaves of their own. One table for hosts beside the tree would spare two accesses for them and cost all others one",
    ),
    (
        "hot-1m-v6",
        "seven lines are compared, eight keys each, without branches: 90 of these ns; the rest is as for hot-1m-v4",
    ),
    (
        "hot-1m",
        "a whole verdict is more than a lookup: 10 ns to the tuple, 8 for the time of the last tick, 5 for two counters, 16 for the comparison of 16 runs, and what a list of 1,000 instructions takes; tried: headers at offsets known when it is built, entry points inlined, the coarse clock (together 106 to 62). The 13 to 16 ns of a lookup in a bare array name no rule, count nothing and never end",
    ),
    (
        "frame-10k",
        "xdp-filter looks a host up in one hash table by its address, and takes no prefixes, ports, destinations, leases or counters of rules; tried: what hot-1m and lpm-1m-v4 name (1.7 to 1.4)",
    ),
    (
        "frame-1m-over-empty",
        "an empty program does not even read the frame; one that reads the source costs the same on this machine, and a lookup among a million is one or two accesses to memory more, 100 ns each; tried: wide lines (4.4 to 3.4)",
    ),
    (
        "frame-1m-over",
        "a lookup among a million is memory's latency, ours too (frame-1m-over-empty): ipset pays it about once and nft more often, each on top of a packet buffer of 300 ns; tried: wide lines (0.62 to 0.32 of ipset's, 0.28 to 0.15 of nft's)",
    ),
    (
        "sampling-verdict",
        "a packet that is not looked at costs a twin two loads and a branch (the number of its counter against a mask), and the registers in which the frame stays at hand for the look are not there for the verdict; it is paid only while somebody watches; tried: a countdown on each CPU (a second per-CPU lookup and the clock, 8 ns)",
    ),
];

/// The reason, if one is written down.
pub(crate) fn reason(id: &str) -> Option<&'static str> {
    let fits = REASONS.iter().find(|(begins, _)| id.starts_with(begins));
    fits.map(|(_, reason)| *reason)
}
