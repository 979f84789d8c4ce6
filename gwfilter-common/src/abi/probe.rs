//! What the doctor's probe and its reader share: a program and maps of its own, none of which any verdict depends on.
//!
//! The probe looks at connections to the destinations of [`PROBE_DEST_MAP`]: that they begin, and what their first segment with data says. It
//! passes everything. What it sees goes through [`PROBE_RING_MAP`] within a budget; what does not is counted in [`PROBE_TALLY_MAP`].

use super::SynKey;

/// TC, behind the judging program: the doctor's.
pub const PROBE_PROGRAM: &str = "gwf_probe";
/// Hash from [`ProbeDest`] to the number that the reader gave to its gateway.
pub const PROBE_DEST_MAP: &str = "GWF_PROBE_DEST";
/// LRU hash from [`SynKey`] to the sequence number of the connection's SYN, while no data came.
pub const PROBE_SYN_MAP: &str = "GWF_PROBE_SYN";
/// Ring buffer: [`ProbeEvent`], or its beginning, [`ProbeHead`], where there is no data.
pub const PROBE_RING_MAP: &str = "GWF_PROBE_RING";
/// Per-CPU array of length 1: [`ProbeTally`].
pub const PROBE_TALLY_MAP: &str = "GWF_PROBE_TALLY";
/// Global: from this moment of `CLOCK_MONOTONIC` on, in nanoseconds, the probe looks at nothing, whoever forgot to take it off.
pub const PROBE_UNTIL_GLOBAL: &str = "GWF_PROBE_UNTIL";

/// Destinations that can be looked at.
pub const PROBE_DESTS: u32 = 4096;
/// Connections whose beginning is remembered.
pub const PROBE_SYNS: u32 = 16_384;
/// Bytes of the ring buffer.
pub const PROBE_RING: u32 = 1 << 20;
/// Bytes of a stream's beginning that are looked at, at most. A power of two.
pub const PROBE_BYTES: u32 = 1024;
/// Bits of a window of the budgets: 2^27 ns are 134 ms.
pub const PROBE_WINDOW_BITS: u32 = 27;
/// Beginnings of streams that a CPU tells of in a window: about 480 a second.
pub const PROBE_DATA_BUDGET: u32 = 64;
/// SYNs that a CPU tells of in a window: about 950 a second.
pub const PROBE_SYN_BUDGET: u32 = 128;

/// [`ProbeHead::kind`]: a connection begins.
pub const PROBE_SYN: u32 = 0;
/// [`ProbeHead::kind`]: the first segment with data, right behind the SYN.
pub const PROBE_DATA: u32 = 1;

/// A destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ProbeDest {
    /// Address, network order; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
    /// Port, host order.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
    /// 4 or 6.
    pub family: u32,
}

/// What is told of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeHead {
    /// The connection.
    pub flow: SynKey,
    /// The gateway's number.
    pub gateway: u32,
    /// [`PROBE_SYN`] or [`PROBE_DATA`].
    pub kind: u32,
    /// Bytes that are told.
    pub told: u32,
    /// Bytes of the segment's payload.
    pub payload: u32,
}

/// What is told of a segment with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeEvent {
    /// Of whom.
    pub head: ProbeHead,
    /// The beginning of the payload; what lies behind [`ProbeHead::told`] is zero.
    pub bytes: [u8; PROBE_BYTES as usize],
}

/// What a CPU has told and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeTally {
    /// The window that the budgets are of.
    pub window: u64,
    /// Told in this window: SYNs in the lower half, data in the upper.
    pub used: u64,
    /// SYNs seen.
    pub syns: u64,
    /// First segments with data seen.
    pub data: u64,
    /// Of both, those left out by the budgets.
    pub over_budget: u64,
    /// Of both, those for which the ring buffer had no room.
    pub lost: u64,
}

const _: () = {
    assert!(size_of::<ProbeDest>() == 24);
    assert!(size_of::<ProbeHead>() == 56);
    assert!(size_of::<ProbeEvent>() == 56 + PROBE_BYTES as usize);
    assert!(PROBE_BYTES.is_power_of_two());
};

impl ProbeHead {
    /// Reads the beginning of a record; `None` if it is too short.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<56>()?;
        let word = |at: usize| {
            head.get(at..at + 4)?
                .first_chunk::<4>()
                .map(|b| u32::from_ne_bytes(*b))
        };
        let half = |at: usize| {
            head.get(at..at + 2)?
                .first_chunk::<2>()
                .map(|b| u16::from_ne_bytes(*b))
        };
        let address = |at: usize| head.get(at..at + 16)?.first_chunk::<16>().copied();
        let told = word(48)?;
        let head = Self {
            flow: SynKey {
                source: address(0)?,
                destination: address(16)?,
                source_port: half(32)?,
                destination_port: half(34)?,
                family: word(36)?,
            },
            gateway: word(40)?,
            kind: word(44)?,
            told,
            payload: word(52)?,
        };
        let told = usize::try_from(told).ok()?.min(rest.len());
        Some((head, rest.get(..told)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_then_its_fields_and_only_the_bytes_that_it_tells() {
        let mut record = [0_u8; 64];
        record[..4].copy_from_slice(&[192, 0, 2, 7]);
        record[16..20].copy_from_slice(&[203, 0, 113, 80]);
        record[32..34].copy_from_slice(&40_000_u16.to_ne_bytes());
        record[34..36].copy_from_slice(&80_u16.to_ne_bytes());
        for (at, word) in [(36, 4_u32), (40, 3), (44, PROBE_DATA), (48, 5), (52, 700)] {
            record[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        record[56..61].copy_from_slice(b"PROXY");
        let (head, bytes) = ProbeHead::read(&record).unwrap();
        assert_eq!(bytes, b"PROXY");
        assert_eq!((head.flow.source_port, head.flow.destination_port), (40_000, 80));
        assert_eq!((head.flow.source[0], head.flow.destination[3]), (192, 80));
        assert_eq!(
            (head.gateway, head.kind, head.told, head.payload),
            (3, PROBE_DATA, 5, 700)
        );
        record[48..52].copy_from_slice(&9_u32.to_ne_bytes());
        assert_eq!(
            ProbeHead::read(&record).unwrap().1.len(),
            8,
            "no more than there is"
        );
        assert!(ProbeHead::read(&record[..55]).is_none());
    }
}
