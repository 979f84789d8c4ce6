//! The rules of diagnosis. Each looks at one thing and says nothing where it saw too little.

use super::mend;
use super::seen::{Counted, Seen};
use super::sources::{sources, too_little};
use super::words::{entries, few, hops, is_node, set_up, told};
use super::{CLIENT, Certainty, ENOUGH, Finding, Mend, PEER, Patient, Verdict, Way};
use crate::gateway::model::{ClientAddress, Tri};
use crate::gateway::setup::OwnAddresses;

/// Addresses that may be those of one load balancer.
pub(super) const FEW: usize = 2;

/// All that can be said of a gateway; never empty.
pub(super) fn findings(patient: &Patient, seen: Option<&Seen>, own: &OwnAddresses) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [
        judged_differently(patient),
        rewritten(patient, seen),
        one_sided(patient, seen),
    ]
    .into_iter()
    .flatten()
    .collect();
    findings.extend(doubts(patient, seen));
    findings.extend(peer_fields(patient));
    let Some(seen) = seen else {
        if findings.iter().all(|f| f.verdict < Verdict::NotEnough) {
            findings.push(finding(
                "not-observed",
                Verdict::NotEnough,
                "the objects do not contradict each other, and no traffic was looked at",
                vec!["add --observe 30s: the evidence then comes from traffic".to_owned()],
            ));
        }
        return findings;
    };
    let known: Vec<Finding> = [
        header(patient, seen),
        forwarded(patient, seen, own),
        sources(patient, seen, own, !findings.iter().any(|f| f.code == REWRITTEN)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if known.is_empty() && findings.iter().all(|f| f.verdict < Verdict::Unknown) {
        findings.push(too_little(patient, seen));
    }
    findings.extend(known);
    findings
}

/// [`rewritten`]'s.
const REWRITTEN: &str = "source-rewritten-by-policy";
/// [`judged_differently`]'s.
pub(super) const JUDGED_DIFFERENTLY: &str = "judged-differently";

pub(super) fn finding(
    code: &'static str,
    verdict: Verdict,
    what: impl Into<String>,
    evidence: Vec<String>,
) -> Finding {
    Finding {
        code: code.into(),
        verdict,
        certainty: Certainty::Certain,
        what: what.into(),
        evidence,
        follows: Vec::new(),
        mends: Vec::new(),
    }
}

pub(super) fn contradiction(
    code: &'static str,
    what: impl Into<String>,
    evidence: Vec<String>,
    follows: Vec<String>,
    mends: Vec<Way>,
) -> Finding {
    Finding {
        follows,
        mends,
        ..finding(code, Verdict::Contradiction, what, evidence)
    }
}

/// 95 of 100 or more.
pub(super) const fn nearly_all(part: u64, whole: u64) -> bool {
    part.saturating_mul(20) >= whole.saturating_mul(19)
}

/// 5 of 100 or fewer.
pub(super) const fn nearly_none(part: u64, whole: u64) -> bool {
    part.saturating_mul(20) <= whole
}

/// What the policies are compared with, where that is not the client's address. `all`: fields of the peer too.
pub(super) fn compared(patient: &Patient, with: &str, all: bool) -> Vec<String> {
    let uses = patient.policies.iter().filter_map(|policy| {
        let wanted = |field: &&String| {
            CLIENT.iter().any(|word| field.contains(word))
                || (all && PEER.iter().any(|word| field.contains(word)))
        };
        let fields: Vec<&str> = policy.fields.iter().filter(wanted).map(String::as_str).collect();
        (!fields.is_empty()).then(|| {
            format!(
                "policy {} ({}): {} {} compared with {with}, not with clients: all clients are let in or refused alike, by that address",
                policy.name,
                policy.action,
                fields.join(" and "),
                if fields.len() == 1 { "is" } else { "are" }
            )
        })
    });
    let uses: Vec<String> = uses.collect();
    if uses.is_empty() {
        return vec![format!(
            "no policy here compares addresses yet; one that did would compare {with}, and the gateway's access log and X-Forwarded-For name it for every client"
        )];
    }
    uses
}

/// Policies that compare the peer, as a mend names them.
pub(super) fn comparing_peers(patient: &Patient) -> Option<Mend> {
    let policies = patient.policies.iter();
    let names: Vec<String> = policies
        .filter(|policy| policy.fields.iter().any(|field| is_peer(field)))
        .map(|policy| format!("policy {} ({})", policy.name, policy.action))
        .collect();
    mend::compare_clients(&names)
}

fn is_peer(field: &str) -> bool {
    PEER.iter().any(|word| field.contains(word)) && !field.contains("emote")
}

/// The gateway reads the header from now on, and policies compare clients.
fn read_header(patient: &Patient) -> Way {
    Way::of(std::iter::once(mend::expect_header(&patient.setup)).chain(comparing_peers(patient)))
}

/// The gateway trusts so many proxies from now on.
pub(super) fn trust(patient: &Patient, proxies: usize) -> Way {
    let policies = comparing_peers(patient).filter(|_| proxies > 0);
    Way::of(std::iter::once(mend::trust(&patient.setup, proxies)).chain(policies))
}

/// This node judges by another address than the gateway. Nothing is worse: clients may be dropped here that the gateway would let in.
fn judged_differently(patient: &Patient) -> Option<Finding> {
    let (setup, node) = (&patient.setup, &patient.node);
    let gateway = match (setup.trusted_proxies, setup.reads_header) {
        // With both, X-Forwarded-For wins.
        (Some(1..), _) => ClientAddress::XForwardedFor,
        (Some(0), Tri::True) => ClientAddress::ProxyHeader,
        _ => return None,
    };
    if node.judged.is_empty() || node.client_address == gateway.name() {
        return None;
    }
    let words = |mode: &str| match mode {
        "packet-source" => "the packet's source",
        "proxy-header" => "the PROXY header",
        _ => "X-Forwarded-For",
    };
    Some(contradiction(
        JUDGED_DIFFERENTLY,
        format!(
            "this node judges {}, the gateway {}: clients may be dropped here that the gateway would let in",
            words(&node.client_address),
            words(gateway.name())
        ),
        vec![format!("judged here: {}", few(&node.judged)), set_up(patient)],
        vec!["what this node drops is not what the policies say".to_owned()],
        vec![mend::unstate(setup).into()],
    ))
}

/// `externalTrafficPolicy: Cluster` and nothing else that names the client.
fn rewritten(patient: &Patient, seen: Option<&Seen>) -> Option<Finding> {
    let setup = &patient.setup;
    let by_packet = setup.reads_header == Tri::False && setup.trusted_proxies == Some(0);
    if !by_packet || setup.local_policy || !setup.service || patient.node.rewritten.is_empty() {
        return None;
    }
    let mut evidence = vec![format!(
        "Service {} has externalTrafficPolicy Cluster: kube-proxy writes a node's address over the source of what comes in at {}",
        patient.name(),
        few(&patient.node.rewritten)
    )];
    if let Some(seen) = seen.filter(|seen| seen.streams() > 0) {
        evidence.push(format!(
            "{} new connections with data arrived at this node, from {}; behind kube-proxy each has a node's address",
            seen.streams(),
            told(&seen.sources, None)
        ));
    }
    if patient.policies.is_empty() {
        return Some(Finding {
            mends: vec![mend::keep_source(setup)],
            ..finding(
                REWRITTEN,
                Verdict::Note,
                "the gateway sees a node's address for every client; no policy here compares addresses, so nothing is wrong yet",
                evidence,
            )
        });
    }
    Some(Finding {
        certainty: if setup.stated == Some(ClientAddress::PacketSource) {
            Certainty::Likely
        } else {
            Certainty::Certain
        },
        ..contradiction(
            REWRITTEN,
            "the gateway sees a node's address for every client",
            evidence,
            compared(patient, "the addresses of nodes", true),
            vec![mend::keep_source(setup)],
        )
    })
}

/// The balancer is told to write a header, and the gateway not to read it; without traffic that says more.
fn one_sided(patient: &Patient, seen: Option<&Seen>) -> Option<Finding> {
    let setup = &patient.setup;
    let sign = setup.balancer.as_ref()?;
    if setup.reads_header != Tri::False || seen.is_some_and(|seen| seen.streams() >= ENOUGH) {
        return None;
    }
    Some(contradiction(
        "proxy-header-one-sided",
        "the load balancer is told to write a PROXY header, and the gateway is not told to read it",
        vec![sign.clone(), set_up(patient)],
        vec![
            "the gateway takes the header for a part of the request and refuses that as malformed".to_owned(),
        ],
        vec![read_header(patient), mend::send_no_header(setup).into()],
    ))
}

/// What is not known of the gateway.
fn doubts(patient: &Patient, seen: Option<&Seen>) -> Option<Finding> {
    let setup = &patient.setup;
    let doubt = setup.doubts.first()?;
    let by_header =
        seen.is_some_and(|seen| seen.streams() >= ENOUGH && nearly_all(seen.with_header(), seen.streams()));
    let (mode, when) = if by_header {
        (
            ClientAddress::ProxyHeader,
            "if the gateway reads the PROXY header that is seen, say so",
        )
    } else {
        (
            ClientAddress::PacketSource,
            "if the gateway judges the packet's source all the same, say so",
        )
    };
    Some(Finding {
        mends: vec![mend::state(setup, mode, when).into()],
        ..finding(
            "gateway-not-known",
            Verdict::Unknown,
            "what the gateway is set to see is not known",
            vec![format!("{}: {}", doubt.code, doubt.text)],
        )
    })
}

/// Fields that compare the peer, where the client is named elsewhere.
fn peer_fields(patient: &Patient) -> Option<Finding> {
    let setup = &patient.setup;
    let elsewhere = setup.reads_header == Tri::True || setup.trusted_proxies.is_some_and(|n| n > 0);
    let uses: Vec<String> = patient
        .policies
        .iter()
        .filter(|policy| policy.fields.iter().any(|field| is_peer(field)))
        .map(|policy| {
            let fields: Vec<&str> = policy
                .fields
                .iter()
                .map(String::as_str)
                .filter(|field| is_peer(field))
                .collect();
            format!(
                "policy {} ({}): {}",
                policy.name,
                policy.action,
                fields.join(", ")
            )
        })
        .collect();
    if !elsewhere || uses.is_empty() {
        return None;
    }
    Some(Finding {
        follows: vec!["as it stands this policy lets in or refuses by the balancer's address, the same for every client; if clients are meant, write remoteIpBlocks (remote.ip)".to_owned()],
        ..finding(
            "peer-fields-behind-a-proxy",
            Verdict::Note,
            "a proxy in front names the client, and a policy compares the proxy's own address",
            uses,
        )
    })
}

/// Whether streams begin with a PROXY header, and whether the gateway expects it.
fn header(patient: &Patient, seen: &Seen) -> Option<Finding> {
    let setup = &patient.setup;
    let (streams, with) = (seen.streams(), seen.with_header());
    if streams < ENOUGH {
        return None;
    }
    let share = format!(
        "{with} of {streams} new connections begin with a PROXY header (version 1: {}, version 2: {}); their sources: {}",
        seen.proxy_v1,
        seen.proxy_v2,
        told(&seen.sources, None)
    );
    let evidence = vec![share, set_up(patient)];
    let (all, none) = (nearly_all(with, streams), nearly_none(with, streams));
    match setup.reads_header {
        Tri::True if all => Some(finding(
            "proxy-header-on-both-sides",
            Verdict::Agree,
            "the load balancer writes a PROXY header and the gateway reads it",
            evidence,
        )),
        Tri::True if none => Some(missing_header(patient, seen, evidence)),
        Tri::False if none => None,
        Tri::False if all => Some(contradiction(
            "proxy-header-not-expected",
            "the load balancer writes a PROXY header, and the gateway does not expect one",
            evidence,
            vec![
                "the gateway takes the header for the beginning of the request and refuses it as malformed: nobody gets through".to_owned(),
            ],
            vec![read_header(patient), mend::send_no_header(setup).into()],
        )),
        Tri::Unknown => all.then(|| {
            finding(
                "proxy-header-seen",
                Verdict::Unknown,
                "streams begin with a PROXY header; whether the gateway expects it is not known",
                evidence,
            )
        }),
        Tri::True | Tri::False => Some(Finding {
            certainty: Certainty::Likely,
            ..contradiction(
                "proxy-header-mixed",
                "some connections begin with a PROXY header and some do not: two ways lead to the gateway, and it can read only one of them",
                [evidence, vec![format!("without a header: {}", told(&seen.bare, None))]].concat(),
                vec![if setup.reads_header == Tri::True {
                    "those without a header are refused by the gateway, whoever sends them".to_owned()
                } else {
                    "those with a header are refused by the gateway as malformed".to_owned()
                }],
                if setup.reads_header == Tri::True {
                    vec![mend::send_header(setup).into()]
                } else {
                    vec![mend::send_no_header(setup).into()]
                },
            )
        }),
    }
}

/// The gateway expects a header that nobody writes.
fn missing_header(patient: &Patient, seen: &Seen, evidence: Vec<String>) -> Finding {
    let setup = &patient.setup;
    // Where everything comes from a few addresses, the clients are behind them, and the header is what names them.
    let hidden = seen.sources.distinct() <= FEW;
    let write = Way::from(mend::send_header(setup));
    let leave = mend::expect_no_header(setup);
    let mends = if hidden {
        vec![write, leave]
    } else {
        vec![leave, write]
    };
    contradiction(
        "proxy-header-missing",
        "the gateway expects a PROXY header, and connections begin without one",
        evidence,
        vec!["the gateway closes every connection without a header: nobody gets through".to_owned()],
        mends,
    )
}

/// Policies that compare the client's address, where the gateway finds none in the header.
fn packets(patient: &Patient) -> Vec<String> {
    let uses = patient.policies.iter().filter_map(|policy| {
        let fields = policy.fields.iter().filter(|field| !is_peer(field));
        let fields: Vec<&str> = fields.map(String::as_str).collect();
        (!fields.is_empty()).then(|| {
            format!(
                "policy {} ({}): {} compares the addresses that packets come from",
                policy.name,
                policy.action,
                fields.join(" and ")
            )
        })
    });
    uses.collect()
}

/// X-Forwarded-For against `numTrustedProxies`, where that is set.
fn forwarded(patient: &Patient, seen: &Seen, own: &OwnAddresses) -> Option<Finding> {
    let trusted = usize::try_from(patient.setup.trusted_proxies.filter(|n| *n > 0)?).ok()?;
    let counts = &seen.forwarded;
    let (known, with) = (counts.known(), counts.with());
    if known < ENOUGH {
        return None;
    }
    let evidence = vec![hops(seen), set_up(patient)];
    if nearly_none(with, known) {
        return Some(contradiction(
            "forwarded-for-missing",
            "the gateway is set to trust X-Forwarded-For, and requests come without it",
            evidence,
            [
                packets(patient),
                vec!["whoever reaches the gateway directly can write the header, and so choose the address that policies judge".to_owned()],
            ]
            .concat(),
            vec![trust(patient, 0)],
        ));
    }
    if with < ENOUGH {
        return None;
    }
    let usual = usual(seen)?;
    let taken = counts.from_right.get(trusted - 1);
    let short = counts.fewer(trusted);
    if usual < trusted && short.saturating_mul(2) >= with {
        return Some(contradiction(
            "too-many-trusted-proxies",
            format!("X-Forwarded-For has {} where the gateway looks for entry {trusted} from the right", entries(usual)),
            [
                evidence,
                vec![format!("{short} of {with} requests with the header have fewer than {trusted} entries")],
            ]
            .concat(),
            [
                compared(patient, "the address of the proxy in front", false),
                vec!["a client that writes the header itself fills the missing entries, and so chooses the address that policies judge".to_owned()],
            ]
            .concat(),
            vec![trust(patient, usual)],
        ));
    }
    if usual > trusted
        && let Some(taken) = taken
        && proxies(taken, counts.from_right.get(usual - 1), own)
    {
        return Some(contradiction(
            "too-few-trusted-proxies",
            format!(
                "X-Forwarded-For has {usual} entries or more, and the gateway takes entry {trusted} from the right, which a proxy wrote for another proxy"
            ),
            [
                evidence,
                vec![format!(
                    "entry {trusted} from the right: {}",
                    told(taken, Some(own))
                )],
            ]
            .concat(),
            compared(
                patient,
                &format!("{}, which are proxies", told(taken, Some(own))),
                false,
            ),
            vec![trust(patient, usual)],
        ));
    }
    Some(finding(
        "forwarded-for-as-set",
        Verdict::Agree,
        format!(
            "X-Forwarded-For has the {} or more that the gateway counts on",
            entries(trusted)
        ),
        evidence,
    ))
}

/// Whether an entry that is the same for (nearly) all requests names proxies: few addresses, and the entry to the left of them tells clients apart.
fn proxies(taken: &Counted, left: Option<&Counted>, own: &OwnAddresses) -> bool {
    let few = taken.distinct() <= FEW;
    let further = left.is_some_and(|left| left.distinct() >= 2 * taken.distinct());
    let total = taken.total();
    few && (further || nearly_all(taken.of(|address| is_node(address, own)), total))
}

/// The number of entries that the proxies in front write: the smallest that is not rare, since each writes one, and a client may only add.
pub(super) fn usual(seen: &Seen) -> Option<usize> {
    let with = seen.forwarded.with();
    let mut entries = seen.forwarded.entries.iter();
    entries
        .find(|(_, count)| count.saturating_mul(50) >= with)
        .map(|(entries, _)| *entries)
}
