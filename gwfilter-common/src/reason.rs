//! Why a packet was passed or dropped: one list for the kernel, the counters, the logs and the documentation.

mod words;

pub use words::{Outcome, Words};

/// The outcome of one packet to a gateway destination. The code is the index into a listener's block of counters
/// ([`crate::abi::REASONS`] wide), so codes are never reused; the kebab-case name is a public contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The destination is no gateway's: untouched and not counted.
    NotAGateway = 0,
    /// The listener has no verdict table for this family: no policy speaks of it.
    NoPolicy = 1,
    /// The source table says pass.
    Allowed = 2,
    /// A DENY rule certainly matches this source.
    DeniedByRule = 3,
    /// An ALLOW policy certainly applies and none of its rules can match this source.
    NoRuleAllows = 4,
    /// The source is in the listener's never-drop set.
    NeverDropSource = 5,
    /// The source would be refused, but the packet opens no connection and the drain window is open.
    Draining = 6,
    /// UDP to a gateway destination: QUIC connections may migrate, so the gateway decides.
    LeftToGateway = 7,
    /// A fragment that carries no ports; only first fragments are judged.
    Fragment = 8,
    /// The packet could not be parsed as far as its ports; or its lengths contradict each other, or a header before the
    /// ports may change what the gateway sees as source or destination.
    Unparseable = 9,
    /// More IPv6 extension headers or VLAN tags than the parser follows.
    TooManyHeaders = 10,
    /// A slot of the tables is missing or does not hold what the tuple says: never a reason to drop.
    TableMissing = 11,
    /// The packet's source is one that must never be judged: loopback, unspecified, multicast, limited broadcast.
    OddSource = 12,
    /// The listener or agent only observes: what would have been dropped was passed.
    Observed = 13,
    /// The source would be refused, but the packet opens no connection and the destination is an address of this node: it
    /// may be a reply to a connection of the node whose source port, picked by SNAT, equals the tuple's port.
    MaybeReply = 14,
    /// A segment to a gateway in PROXY mode that does not begin like a PROXY header: data, or nothing. Not counted.
    NoHeader = 15,
    /// It begins like a PROXY header, but where its stream begins is not known: the SYN was not seen, or is forgotten.
    FirstSegmentUnknown = 16,
    /// It begins like a PROXY header, but is not the first of its stream: payload that looks like one.
    NotFirstSegment = 17,
    /// The first segment holds only a part of the PROXY header.
    HeaderIncomplete = 18,
    /// A PROXY header of the balancer for itself (version 2, LOCAL): a health check.
    HeaderLocal = 19,
    /// A PROXY header that names no client (version 1, UNKNOWN), or one whose version this kernel cannot read.
    HeaderUnknown = 20,
    /// What begins like a PROXY header is none that Envoy takes.
    HeaderInvalid = 21,
    /// The PROXY header comes from a peer that is not among the trusted proxies, and its client is let in.
    UntrustedProxy = 22,
    /// The source would be refused, but nobody has vouched for the tables for too long: the agent does not run, or cannot see whether
    /// they still hold.
    LeaseExpired = 23,
    /// The source would be refused, but `gwfilter pause` is in force.
    Paused = 24,
}

impl Reason {
    /// Every reason, in order of its code.
    pub const ALL: [Self; 25] = [
        Self::NotAGateway,
        Self::NoPolicy,
        Self::Allowed,
        Self::DeniedByRule,
        Self::NoRuleAllows,
        Self::NeverDropSource,
        Self::Draining,
        Self::LeftToGateway,
        Self::Fragment,
        Self::Unparseable,
        Self::TooManyHeaders,
        Self::TableMissing,
        Self::OddSource,
        Self::Observed,
        Self::MaybeReply,
        Self::NoHeader,
        Self::FirstSegmentUnknown,
        Self::NotFirstSegment,
        Self::HeaderIncomplete,
        Self::HeaderLocal,
        Self::HeaderUnknown,
        Self::HeaderInvalid,
        Self::UntrustedProxy,
        Self::LeaseExpired,
        Self::Paused,
    ];

    /// The public kebab-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAGateway => "not-a-gateway",
            Self::NoPolicy => "no-policy",
            Self::Allowed => "allowed",
            Self::DeniedByRule => "denied-by-rule",
            Self::NoRuleAllows => "no-rule-allows",
            Self::NeverDropSource => "never-drop-source",
            Self::Draining => "draining",
            Self::LeftToGateway => "left-to-gateway",
            Self::Fragment => "fragment",
            Self::Unparseable => "unparseable",
            Self::TooManyHeaders => "too-many-headers",
            Self::TableMissing => "table-missing",
            Self::OddSource => "odd-source",
            Self::Observed => "observed",
            Self::MaybeReply => "maybe-reply",
            Self::NoHeader => "no-header",
            Self::FirstSegmentUnknown => "first-segment-unknown",
            Self::NotFirstSegment => "not-first-segment",
            Self::HeaderIncomplete => "header-incomplete",
            Self::HeaderLocal => "header-local",
            Self::HeaderUnknown => "header-unknown",
            Self::HeaderInvalid => "header-invalid",
            Self::UntrustedProxy => "untrusted-proxy",
            Self::LeaseExpired => "lease-expired",
            Self::Paused => "paused",
        }
    }

    /// Whether packets of this outcome are counted: all, but those that nearly every packet is and whose cost would show.
    #[inline(always)]
    #[must_use]
    pub const fn is_counted(self) -> bool {
        !matches!(self, Self::NotAGateway | Self::NoHeader)
    }

    /// The counter index.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}
