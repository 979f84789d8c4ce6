//! How a tuple in PROXY mode is judged: peer, client, header destination and header port each fall into a class; the four classes name a
//! cell of a matrix of verdicts.
//!
//! Class tables and the matrix are tries of [`SRC4_MAP`](super::SRC4_MAP) and [`SRC6_MAP`](super::SRC6_MAP), so one generation, and one
//! planner, holds them all:
//!
//! | table | key | leaf |
//! |---|---|---|
//! | peers, clients, destinations | address | [`VERDICT_CLASS`](super::VERDICT_CLASS), class in [`Leaf::rule`](super::Leaf::rule) |
//! | ports | `[high, low, 0, 0]`, prefix 16 | the same |
//! | verdicts | cell number in network order, prefix 32 or shorter | as in a source table |
//!
//! Class tables of addresses may be flat, as source tables may.
//!
//! What no prefix covers, and everything where there is no table, is class 0; a cell that is not covered passes. Classes are
//! numbered across both families.

use super::{Slot, join, split};

/// Cells that one matrix may have.
pub const MAX_CELLS: u32 = 4096;
/// Classes that one axis may have.
pub const MAX_CLASSES: u16 = 64;
/// Connections whose beginning is remembered.
pub const SYN_ENTRIES: u32 = 65_536;

/// One element of a root table. Table indices are 0 for "no such table".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Proxy {
    /// Classes of the packet's source, IPv4.
    pub peer4: u32,
    /// The same, IPv6.
    pub peer6: u32,
    /// Classes of the header's source address, IPv4.
    pub client4: u32,
    /// The same, IPv6.
    pub client6: u32,
    /// Classes of the header's destination address, IPv4.
    pub dest4: u32,
    /// The same, IPv6.
    pub dest6: u32,
    /// Classes of the header's destination port.
    pub ports: u32,
    /// The matrix.
    pub verdicts: u32,
    /// Never-drop trie for IPv4 clients: the peer is the balancer and is never asked.
    pub never4: u32,
    /// The same, IPv6.
    pub never6: u32,
    /// Trie of [`NEVER4_MAP`](super::NEVER4_MAP) with the peers whose headers are expected; 0: any.
    pub trusted4: u32,
    /// The same, of [`NEVER6_MAP`](super::NEVER6_MAP).
    pub trusted6: u32,
    /// Classes of clients, 1 or more.
    pub client_classes: u16,
    /// Classes of header destinations, 1 or more.
    pub dest_classes: u16,
    /// Classes of header ports, 1 or more.
    pub port_classes: u16,
    /// `PROXY_*` bits.
    pub flags: u16,
    /// [`VERDICT_DROP_NEW`](super::VERDICT_DROP_NEW) refuses only connections whose SYN was seen at or after this: milliseconds of
    /// `CLOCK_MONOTONIC`.
    pub since_ms: u64,
}

/// Names a TCP connection by its ends. An agent of another ABI goes on with the map, by the name of its pin (`dataplane::pins`): another layout
/// or meaning of this or of [`SynEntry`] changes that name too. Addresses in network order, IPv4 in the first four bytes; ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SynKey {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// 4 or 6.
    pub family: u32,
}

/// Where a connection's stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SynEntry {
    /// When the SYN was seen: nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The SYN's sequence number, host order: the stream begins at the next one.
    pub isn: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = {
    assert!(size_of::<Proxy>() == size_of::<Slot>());
    assert!(size_of::<SynKey>() == 40);
    assert!(size_of::<SynEntry>() == 16);
    assert!((MAX_CLASSES as u32) <= MAX_CELLS);
};

impl Proxy {
    /// The number of a cell of the matrix; `None` if it lies outside.
    #[inline(always)]
    #[must_use]
    pub fn cell(&self, peer: u32, client: u32, dest: u32, port: u32) -> Option<u32> {
        let (clients, dests, ports) = (
            u32::from(self.client_classes),
            u32::from(self.dest_classes),
            u32::from(self.port_classes),
        );
        if peer >= u32::from(MAX_CLASSES) || client >= clients || dest >= dests || port >= ports {
            return None;
        }
        let cell = u64::from((peer * clients + client) & 0xffff) * u64::from(dests);
        let cell = (cell + u64::from(dest)) * u64::from(ports) + u64::from(port);
        if cell >= u64::from(MAX_CELLS) {
            return None;
        }
        u32::try_from(cell).ok()
    }

    /// The element in a slot.
    #[inline(always)]
    #[must_use]
    pub const fn from_slot(s: &Slot) -> Self {
        let &[w0, w1, w2, w3, w4, w5, w6, since_ms] = s;
        let ((peer4, peer6), (client4, client6), (dest4, dest6)) = (split(w0), split(w1), split(w2));
        let ((ports, verdicts), (never4, never6), (trusted4, trusted6)) = (split(w3), split(w4), split(w5));
        let [c0, c1, d0, d1, p0, p1, f0, f1] = w6.to_ne_bytes();
        Self {
            peer4,
            peer6,
            client4,
            client6,
            dest4,
            dest6,
            ports,
            verdicts,
            never4,
            never6,
            trusted4,
            trusted6,
            client_classes: u16::from_ne_bytes([c0, c1]),
            dest_classes: u16::from_ne_bytes([d0, d1]),
            port_classes: u16::from_ne_bytes([p0, p1]),
            flags: u16::from_ne_bytes([f0, f1]),
            since_ms,
        }
    }

    /// The slot that holds this element.
    #[must_use]
    pub fn to_slot(&self) -> Slot {
        let [c0, c1] = self.client_classes.to_ne_bytes();
        let [d0, d1] = self.dest_classes.to_ne_bytes();
        let [p0, p1] = self.port_classes.to_ne_bytes();
        let [f0, f1] = self.flags.to_ne_bytes();
        [
            join(self.peer4, self.peer6),
            join(self.client4, self.client6),
            join(self.dest4, self.dest6),
            join(self.ports, self.verdicts),
            join(self.never4, self.never6),
            join(self.trusted4, self.trusted6),
            u64::from_ne_bytes([c0, c1, d0, d1, p0, p1, f0, f1]),
            self.since_ms,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_are_numbered_without_gaps_and_outside_is_none() {
        let proxy = Proxy {
            client_classes: 3,
            dest_classes: 2,
            port_classes: 4,
            ..Proxy::default()
        };
        let mut next = 0;
        for peer in 0..2 {
            for client in 0..3 {
                for dest in 0..2 {
                    for port in 0..4 {
                        assert_eq!(proxy.cell(peer, client, dest, port), Some(next));
                        next += 1;
                    }
                }
            }
        }
        assert_eq!(proxy.cell(0, 3, 0, 0), None);
        assert_eq!(proxy.cell(0, 0, 2, 0), None);
        assert_eq!(proxy.cell(0, 0, 0, 4), None);
        assert_eq!(proxy.cell(64, 0, 0, 0), None);
        let huge = Proxy {
            client_classes: u16::MAX,
            dest_classes: u16::MAX,
            port_classes: u16::MAX,
            ..Proxy::default()
        };
        assert_eq!(huge.cell(63, 65_534, 65_534, 65_534), None);
    }

    proptest! {
        #[test]
        fn a_slot_keeps_every_field(slot in any::<[u64; 8]>()) {
            prop_assert_eq!(Proxy::from_slot(&slot).to_slot(), slot);
        }
    }
}
