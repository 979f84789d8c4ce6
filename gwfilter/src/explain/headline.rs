//! What a reason says of the packet that was asked for. Pure.

use gwfilter_common::reason::Reason;

/// In words; those of [`Reason::words`], where a packet that was asked for needs no others.
#[must_use]
pub fn headline(reason: &str) -> &'static str {
    match reason {
        "denied-by-rule" => "a DENY rule matches this source",
        "no-rule-allows" => "an ALLOW policy applies and none of its rules can match this source",
        "observed" => "it would be dropped, but the gateway is only observed",
        "never-drop-source" => "this source is never dropped",
        "not-a-gateway" => "the destination is no gateway's",
        "no-policy" => "no policy speaks of this destination",
        "left-to-gateway" => "left to the gateway",
        "no-header" => "no PROXY header to judge",
        "header-invalid" => "the gateway refuses such a PROXY header itself",
        "untrusted-proxy" => {
            "nothing that the node can see refuses it, but the header comes from a peer that is not listed"
        }
        "odd-source" => "such a source is not judged",
        "allowed" => "nothing that the node can see refuses it",
        _ => Reason::ALL
            .into_iter()
            .find(|known| known.name() == reason)
            .map_or("for a reason that this version does not know", |known| {
                known.words().meaning
            }),
    }
}
