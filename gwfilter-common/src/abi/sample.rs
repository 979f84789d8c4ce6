//! Samples of verdicts, for who watches: what a program that samples writes into a ring buffer, and how much of it.
//!
//! Each program that judges has a twin that samples too. The plain ones hold none of this: while nobody watches, it costs nothing.
//! A twin looks at every verdict whose number, in its own counter, is a multiple of a power of two ([`Sampling::masks`]), and writes what
//! it looks at into the ring as long as the CPU's budget of the window lasts ([`Sampling::budgets`]).

/// Ring buffer of [`Sample`]s.
pub const SAMPLES_MAP: &str = "GWF_SAMPLES";
/// Bytes of the ring buffer: some 2,500 samples.
pub const SAMPLES_BYTES: u32 = 256 * 1024;
/// Per-CPU array of [`Sampler`], by verdict.
pub const SAMPLER_MAP: &str = "GWF_SAMPLER";
/// Section, and so array of length 1, of the [`Sampling`] in force. The user side writes it while programs read it.
pub const SAMPLING_MAP: &str = ".data.sampling";

/// Twin of [`super::XDP_FRAGS_PROGRAM`].
pub const XDP_FRAGS_SAMPLED_PROGRAM: &str = "gwf_xdp_frags_sampled";
/// Twin of [`super::XDP_PROGRAM`].
pub const XDP_SAMPLED_PROGRAM: &str = "gwf_xdp_sampled";
/// Twin of [`super::TC_PROGRAM`].
pub const TC_SAMPLED_PROGRAM: &str = "gwf_tc_sampled";
/// Twin of [`super::TC_PROXY_PROGRAM`].
pub const TC_PROXY_SAMPLED_PROGRAM: &str = "gwf_tc_proxy_sampled";
/// Twin of [`super::TC_HEADER_PROGRAM`].
pub const TC_HEADER_SAMPLED_PROGRAM: &str = "gwf_tc_header_sampled";
/// Twin of [`super::TC_HEADER_V2ONLY_PROGRAM`].
pub const TC_HEADER_V2ONLY_SAMPLED_PROGRAM: &str = "gwf_tc_header_v2only_sampled";

/// Verdicts ([`crate::logline::VERDICT_PASSED`] and so on), rounded up for a mask.
pub const VERDICTS: usize = 4;
/// A window of the budget is this many bits of nanoseconds of `CLOCK_MONOTONIC`: 16.8 ms.
pub const WINDOW_BITS: u32 = 24;

/// How much is sampled, by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampling {
    /// A verdict is looked at if its number in its counter has none of these bits: a power of two less one.
    pub masks: [u64; VERDICTS],
    /// Samples a window and CPU.
    pub budgets: [u64; VERDICTS],
}

/// What a CPU did for verdicts of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampler {
    /// The window that `used` belongs to: the clock, less [`WINDOW_BITS`].
    pub window: u64,
    /// Samples written in it.
    pub used: u64,
    /// Verdicts looked at since the object was loaded.
    pub looked: u64,
    /// Samples that the ring had no room for since the object was loaded.
    pub lost: u64,
}

/// One verdict. Addresses in network order, IPv4 in the first four bytes and the rest zero; ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The number of this verdict in the counter of this listener, reason and CPU ([`super::COUNT_MAP`]): against the one before, it tells how
    /// many this sample stands for.
    pub count: u64,
    /// Source of the packet.
    pub source: [u8; 16],
    /// Its destination.
    pub destination: [u8; 16],
    /// Source in the PROXY header that was judged.
    pub client: [u8; 16],
    /// Index of the interface that the packet came in by.
    pub ifindex: u32,
    /// The CPU that judged.
    pub cpu: u32,
    /// The policy rule that decided, 0 for none.
    pub rule: u32,
    /// The block of counters.
    pub listener: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Port of the client.
    pub client_port: u16,
    /// IP protocol: 6 or 17.
    pub protocol: u8,
    /// Of the packet: 4 or 6.
    pub family: u8,
    /// Of the client: 4 or 6, 0 if no header was judged.
    pub client_family: u8,
    /// [`crate::logline::HOOK_XDP`] or [`crate::logline::HOOK_TC`].
    pub hook: u8,
    /// [`crate::logline::VERDICT_PASSED`], [`crate::logline::VERDICT_DROPPED`] or [`crate::logline::VERDICT_WOULD_DROP`].
    pub verdict: u8,
    /// Code of a [`crate::reason::Reason`].
    pub reason: u8,
    /// Zero.
    pub _pad: u32,
}

const _: () = {
    assert!(size_of::<Sampling>() == 64);
    assert!(size_of::<Sampler>() == 32);
    // No byte of it is padding: programs may write nothing that they have not set.
    assert!(size_of::<Sample>() == 2 * 8 + 3 * 16 + 4 * 4 + 3 * 2 + 6 + 4);
    assert!(core::mem::offset_of!(Sample, _pad) + 4 == size_of::<Sample>());
    assert!(SAMPLES_BYTES.is_power_of_two());
};

impl Sample {
    /// Bytes of a sample.
    pub const LEN: usize = size_of::<Self>();

    /// The sample in an entry of the ring; `None` if it is no such entry.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let mut rest = bytes.as_slice();
        let sample = Self {
            time_ns: u64::from_ne_bytes(take(&mut rest)?),
            count: u64::from_ne_bytes(take(&mut rest)?),
            source: take(&mut rest)?,
            destination: take(&mut rest)?,
            client: take(&mut rest)?,
            ifindex: u32::from_ne_bytes(take(&mut rest)?),
            cpu: u32::from_ne_bytes(take(&mut rest)?),
            rule: u32::from_ne_bytes(take(&mut rest)?),
            listener: u32::from_ne_bytes(take(&mut rest)?),
            source_port: u16::from_ne_bytes(take(&mut rest)?),
            destination_port: u16::from_ne_bytes(take(&mut rest)?),
            client_port: u16::from_ne_bytes(take(&mut rest)?),
            protocol: u8::from_ne_bytes(take(&mut rest)?),
            family: u8::from_ne_bytes(take(&mut rest)?),
            client_family: u8::from_ne_bytes(take(&mut rest)?),
            hook: u8::from_ne_bytes(take(&mut rest)?),
            verdict: u8::from_ne_bytes(take(&mut rest)?),
            reason: u8::from_ne_bytes(take(&mut rest)?),
            _pad: u32::from_ne_bytes(take(&mut rest)?),
        };
        Some(sample)
    }
}

/// The first `N` bytes, which are taken away.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}

/// The twin of a program that judges, by name.
#[must_use]
pub fn twin(program: &str) -> Option<&'static str> {
    TWINS
        .into_iter()
        .find_map(|(plain, twin)| (plain == program).then_some(twin))
}

/// The programs that judge, each with its twin.
pub const TWINS: [(&str, &str); 6] = [
    (super::XDP_FRAGS_PROGRAM, XDP_FRAGS_SAMPLED_PROGRAM),
    (super::XDP_PROGRAM, XDP_SAMPLED_PROGRAM),
    (super::TC_PROGRAM, TC_SAMPLED_PROGRAM),
    (super::TC_PROXY_PROGRAM, TC_PROXY_SAMPLED_PROGRAM),
    (super::TC_HEADER_PROGRAM, TC_HEADER_SAMPLED_PROGRAM),
    (super::TC_HEADER_V2ONLY_PROGRAM, TC_HEADER_V2ONLY_SAMPLED_PROGRAM),
];

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn fields_are_read_from_where_programs_write_them() {
        let offsets = [
            offset_of!(Sample, time_ns),
            offset_of!(Sample, count),
            offset_of!(Sample, source),
            offset_of!(Sample, destination),
            offset_of!(Sample, client),
            offset_of!(Sample, ifindex),
            offset_of!(Sample, cpu),
            offset_of!(Sample, rule),
            offset_of!(Sample, listener),
            offset_of!(Sample, source_port),
            offset_of!(Sample, destination_port),
            offset_of!(Sample, client_port),
            offset_of!(Sample, protocol),
            offset_of!(Sample, family),
            offset_of!(Sample, client_family),
            offset_of!(Sample, hook),
            offset_of!(Sample, verdict),
            offset_of!(Sample, reason),
        ];
        let at = [
            0, 8, 16, 32, 48, 64, 68, 72, 76, 80, 82, 84, 86, 87, 88, 89, 90, 91,
        ];
        assert_eq!(offsets, at);
        let mut bytes = [0; Sample::LEN];
        for (byte, value) in bytes.iter_mut().zip(0..) {
            *byte = value;
        }
        let sample = Sample::from_bytes(&bytes).unwrap();
        assert_eq!(sample.source.first(), Some(&16));
        assert_eq!(sample.client.last(), Some(&63));
        assert_eq!(sample.cpu, u32::from_ne_bytes([68, 69, 70, 71]));
        assert_eq!(sample.client_port, u16::from_ne_bytes([84, 85]));
        assert_eq!(
            [
                sample.protocol,
                sample.family,
                sample.client_family,
                sample.hook,
                sample.verdict,
                sample.reason
            ],
            [86, 87, 88, 89, 90, 91]
        );
    }

    #[test]
    fn what_is_not_one_sample_then_none() {
        for length in [0, 1, Sample::LEN - 1, Sample::LEN + 1] {
            let bytes = std::vec![0; length];
            assert_eq!(Sample::from_bytes(&bytes), None, "{length}");
        }
    }
}
