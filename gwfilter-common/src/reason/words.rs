//! What each reason means and what to do about it, for people: the reference is made from these words. Nothing of the kernel's side
//! uses them.

use super::Reason;

/// What becomes of the packets of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They pass, and the gateway judges.
    Pass,
    /// They are dropped, or answered with a reset.
    Drop,
    /// They pass, and would be dropped if the node enforced: counted as `would-drop`.
    WouldDrop,
}

impl Outcome {
    /// The public name, as in the label `verdict`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::WouldDrop => "would-drop",
        }
    }
}

/// A reason in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// What becomes of such packets.
    pub outcome: Outcome,
    /// What was found.
    pub meaning: &'static str,
    /// What an operator does about it; "nothing" where that is all.
    pub to_do: &'static str,
    /// The page below the book's `runbooks` that says more.
    pub runbook: &'static str,
}

const fn words(outcome: Outcome, meaning: &'static str, to_do: &'static str, runbook: &'static str) -> Words {
    Words {
        outcome,
        meaning,
        to_do,
        runbook,
    }
}

const NODE: &str = "client-let-in.md#reasons";
const HEADER: &str = "client-let-in.md#behind-the-proxy-protocol";
const REFUSED: &str = "client-refused.md";

impl Reason {
    /// This reason for people.
    #[must_use]
    pub const fn words(self) -> Words {
        use Outcome::{Drop, Pass, WouldDrop};
        match self {
            Self::NotAGateway => words(
                Pass,
                "no gateway has this destination; the packet is not touched",
                "nothing; if it is a gateway's, `check` says why it is not judged",
                "no-destination.md",
            ),
            Self::NoPolicy => words(
                Pass,
                "no policy that counts applies there",
                "if one should: its selector, its namespace, `istio.io/rev`, dry run",
                NODE,
            ),
            Self::Allowed => words(
                Pass,
                "no rule certainly refuses this source; the gateway decides the rest",
                "nothing; `check` says for each rule what is left to the gateway",
                NODE,
            ),
            Self::DeniedByRule => words(
                Drop,
                "a DENY rule certainly matches this source",
                "nothing; if the client is to get in, change the rule that `explain` names",
                REFUSED,
            ),
            Self::NoRuleAllows => words(
                Drop,
                "an ALLOW policy certainly applies and none of its rules can match this source",
                "nothing; if the client is to get in, add it to a rule",
                REFUSED,
            ),
            Self::NeverDropSource => words(
                Pass,
                "a node, a node's `podCIDR`, a health probe, or what `never-drop` names",
                "nothing, or correct the list",
                NODE,
            ),
            Self::Draining => words(
                Pass,
                "an open connection from before a tightening; new ones of this source are refused",
                "nothing: it ends with the drain window (`--drain`)",
                NODE,
            ),
            Self::LeftToGateway => words(
                Pass,
                "UDP, or a destination of a gateway that is not judged",
                "the gateway's code in `check` or `status` says why; for UDP nothing",
                NODE,
            ),
            Self::Fragment => words(
                Pass,
                "a later fragment, which has no ports; the first one was judged, so a refused datagram never completes",
                "nothing",
                NODE,
            ),
            Self::Unparseable => words(
                Pass,
                "the packet cannot be read as far as its ports, its lengths contradict each other, or a header may change its addresses",
                "nothing; many of them are a sign of somebody's experiments",
                NODE,
            ),
            Self::TooManyHeaders => words(
                Pass,
                "more IPv6 extension headers or VLAN tags than are followed (six, two)",
                "nothing",
                NODE,
            ),
            Self::TableMissing => words(
                Pass,
                "a table is missing or does not hold what it should: somebody touched it",
                "the agent puts it right at its next look; find out who",
                "tampered.md",
            ),
            Self::OddSource => words(
                Pass,
                "the source is loopback, unspecified, multicast or limited broadcast",
                "nothing",
                NODE,
            ),
            Self::Observed => words(
                WouldDrop,
                "it would be dropped, but the gateway or the agent only observes",
                "take `--observe` or `gwfilter.io/enforce: \"false\"` away when the counters look right; `probe-sources-unknown` in `status` is another cause",
                "paused.md#or-only-observed",
            ),
            Self::MaybeReply => words(
                Pass,
                "the source would be refused, but the segment opens no connection and goes to an address of the node's own: it may answer a connection that the node opened",
                "nothing: new connections of this source are refused",
                NODE,
            ),
            Self::NoHeader => words(
                Pass,
                "a segment to a gateway in PROXY mode that does not begin like a PROXY header",
                "data is none of its business; if whole streams have none, the balancer does not write headers",
                HEADER,
            ),
            Self::FirstSegmentUnknown => words(
                Pass,
                "it begins like a PROXY header, but the SYN of its stream was not seen or is forgotten",
                "right after a start, nothing; later, more than 65,536 streams began at once",
                HEADER,
            ),
            Self::NotFirstSegment => words(
                Pass,
                "it begins like a PROXY header in the middle of a stream: a client's bytes",
                "nothing",
                HEADER,
            ),
            Self::HeaderIncomplete => words(
                Pass,
                "the first segment holds only a part of the PROXY header",
                "nothing: the gateway judges",
                HEADER,
            ),
            Self::HeaderLocal => words(
                Pass,
                "a PROXY header of the balancer for itself (version 2, LOCAL): a health check",
                "nothing",
                HEADER,
            ),
            Self::HeaderUnknown => words(
                Pass,
                "a PROXY header that names no client (version 1, UNKNOWN), or of a version that this kernel cannot be made to read",
                "before Linux 5.17 have the balancer write version 2; else nothing",
                HEADER,
            ),
            Self::HeaderInvalid => words(
                Pass,
                "it begins like a PROXY header and is none that Envoy takes: the gateway refuses it itself",
                "nothing; if it is the balancer's, its configuration",
                HEADER,
            ),
            Self::UntrustedProxy => words(
                Pass,
                "the PROXY header comes from a peer that `gwfilter.io/trusted-proxies` does not list, and its client is let in",
                "add a balancer that is missing; keep a stranger away by a firewall or a policy",
                HEADER,
            ),
            Self::LeaseExpired => words(
                Pass,
                "the source would be refused, but nobody has vouched for the tables for too long",
                "start the agent, or mend its way to the API server",
                "lease.md",
            ),
            Self::Paused => words(
                WouldDrop,
                "the source would be refused, but `gwfilter pause` is in force",
                "`gwfilter resume`",
                "paused.md",
            ),
        }
    }
}
