//! Where packets come from, and what is said where too little was seen.

use super::mend;
use super::rules::{
    FEW, compared, comparing_peers, contradiction, finding, nearly_all, nearly_none, trust, usual,
};
use super::seen::{Counted, Seen};
use super::words::{hops, is_node, is_pod, is_private, set_up, told};
use super::{Certainty, ENOUGH, ENOUGH_OF_ONE, ENOUGH_SOURCES, Finding, Patient, Verdict, Way};
use crate::gateway::model::{ClientAddress, Tri};
use crate::gateway::setup::OwnAddresses;

/// Addresses from which all requests of a proxy come.
const SOME: usize = 8;
/// Both sides or neither.
const WINDOW: &str =
    "both, in one maintenance window (with only one of them done the gateway refuses every connection)";

/// Where packets come from, if that is what the gateway judges. `agree`: it may be right.
pub(super) fn sources(patient: &Patient, seen: &Seen, own: &OwnAddresses, agree: bool) -> Option<Finding> {
    let setup = &patient.setup;
    if setup.reads_header != Tri::False || setup.trusted_proxies != Some(0) {
        return None;
    }
    if seen.streams() >= ENOUGH && !nearly_none(seen.with_header(), seen.streams()) {
        return None;
    }
    if seen.refused_from_nobody_knows() {
        return None;
    }
    let mut all = seen.sources.clone();
    for (address, times) in seen.refused.most() {
        all.add(address, times);
    }
    let total = all.total();
    let evidence = if seen.refused.total() == 0 {
        format!(
            "{total} new connections with data came from {}",
            told(&all, Some(own))
        )
    } else {
        format!(
            "{} new connections with data, and about {} packets that gwfilter refused, came from {}",
            seen.streams(),
            seen.refused.total(),
            told(&all, Some(own))
        )
    };
    // What the user says of the sources is not argued with.
    let stated = setup.stated == Some(ClientAddress::PacketSource);
    if setup.stated.is_none()
        && let Some(found) = not_read(patient, seen, &all, &evidence)
    {
        return Some(found);
    }
    let (nodes, pods) = (
        all.of(|address| is_node(address, own)),
        all.of(|address| is_pod(address, own)),
    );
    if total >= ENOUGH_SOURCES && nearly_all(nodes, total) && !stated {
        return Some(rewritten_before(
            patient,
            &all,
            own,
            [
                evidence,
                format!(
                    "{nodes} of {total} came from addresses of nodes; that of a node's own processes, or of a pod in its network, looks the same"
                ),
            ],
            agree,
        ));
    }
    if total >= ENOUGH_SOURCES && pods > 0 && nearly_all(nodes.saturating_add(pods), total) {
        return agree.then(|| {
            finding(
                "clients-are-pods",
                Verdict::Note,
                "the clients are pods of this cluster, and the gateway judges their addresses",
                vec![evidence],
            )
        });
    }
    let private = all.of(is_private);
    if total >= ENOUGH_OF_ONE && all.distinct() <= FEW && private == total && !stated {
        return Some(one_source(patient, &all, evidence));
    }
    (agree && total >= ENOUGH_SOURCES).then(|| {
        finding(
            "packet-source-seen",
            Verdict::Agree,
            "the gateway judges the packet's source, and packets come with sources of their own",
            vec![evidence],
        )
    })
}

/// A proxy in front writes X-Forwarded-For. Clients that write it themselves look alike, so it is likely at most, and only where the header tells
/// clearly more addresses apart than packets do.
fn not_read(patient: &Patient, seen: &Seen, all: &Counted, evidence: &str) -> Option<Finding> {
    let (known, with) = (seen.forwarded.known(), seen.forwarded.with());
    if known < ENOUGH || !nearly_all(with, known) || all.distinct() > SOME {
        return None;
    }
    let usual = usual(seen)?;
    let named = seen.forwarded.from_right.get(usual.checked_sub(1)?)?;
    if named.distinct() < all.distinct().saturating_mul(2) {
        return None;
    }
    Some(Finding {
        certainty: Certainty::Likely,
        ..contradiction(
            "forwarded-for-not-read",
            "a proxy in front names the client in X-Forwarded-For, and the gateway does not look there",
            vec![
                evidence.to_owned(),
                hops(seen),
                format!(
                    "entry {usual} from the right names {} addresses or more, packets come from {}",
                    named.distinct(),
                    all.distinct()
                ),
                set_up(patient),
            ],
            compared(patient, "the address of the proxy in front", true),
            vec![trust(patient, usual)],
        )
    })
}

fn rewritten_before(
    patient: &Patient,
    all: &Counted,
    own: &OwnAddresses,
    evidence: [String; 2],
    agree: bool,
) -> Finding {
    let setup = &patient.setup;
    let mends = if agree {
        vec![
            Way::when(
                "if something in front rewrites them, both belong together: from the first step until the gateway's pods have restarted with the second, it refuses every \
                 connection; plan a window",
                mend::both_sides(setup, comparing_peers(patient)),
            ),
            mend::state(
                setup,
                ClientAddress::PacketSource,
                "if these are clients of yours (processes of the nodes, pods in their network), only say so",
            )
            .into(),
        ]
    } else {
        vec![mend::keep_source(setup)]
    };
    Finding {
        certainty: Certainty::Likely,
        ..contradiction(
            "source-is-a-node",
            "something in front writes a node's address over the client's, before the packets reach this node",
            evidence.to_vec(),
            compared(patient, &told(all, Some(own)), true),
            mends,
        )
    }
}

fn one_source(patient: &Patient, all: &Counted, evidence: String) -> Finding {
    let setup = &patient.setup;
    Finding {
        certainty: Certainty::Likely,
        ..contradiction(
            "one-source",
            "everything comes from one or two addresses of a private network, as from a load balancer that hides its clients",
            vec![evidence],
            compared(patient, &told(all, None), true),
            vec![
                Way::when(
                    format!("if it is a balancer, {WINDOW}"),
                    mend::both_sides(setup, comparing_peers(patient)),
                ),
                mend::state(
                    setup,
                    ClientAddress::PacketSource,
                    "if these are clients of yours and no balancer, only say so",
                )
                .into(),
            ],
        )
    }
}

/// Too little to say anything.
pub(super) fn too_little(patient: &Patient, seen: &Seen) -> Finding {
    let streams = seen.streams();
    let needed = match streams {
        ENOUGH_SOURCES.. => String::new(),
        ENOUGH.. => format!("; at least {ENOUGH_SOURCES} are needed to judge where they come from"),
        _ => format!(
            "; at least {ENOUGH} are needed to judge how connections begin, {ENOUGH_SOURCES} to judge where they come from"
        ),
    };
    let mut evidence = vec![format!(
        "{streams} new connections with data were seen ({} began at all){needed}",
        seen.connections
    )];
    let behind = patient.setup.trusted_proxies.is_some_and(|n| n > 0) && streams >= ENOUGH;
    let in_tls = behind && seen.tls.saturating_mul(2) >= streams;
    if behind {
        evidence.push(format!(
            "the client's address is in X-Forwarded-For, and only {} requests could be read ({} streams are TLS, {} requests are longer than what is looked at)",
            seen.forwarded.known(),
            seen.tls,
            seen.forwarded.cut
        ));
    }
    let unknown = seen.refused_from_nobody_knows();
    if seen.dropped > 0 {
        evidence.push(format!(
            "{} packets were refused by gwfilter meanwhile, before they could be looked at{}: gwfilter monitor --verdict drop --gateway {}",
            seen.dropped,
            if unknown {
                ", and from whom is not known here (the agent of this node knows it; with --from it is not asked)"
            } else {
                "; from whom"
            },
            patient.name()
        ));
    }
    if in_tls {
        return finding(
            "client-inside-tls",
            Verdict::NotEnough,
            "the client is named inside TLS, which cannot be read here: looking longer will not help; compare X-Forwarded-For in the gateway's access log",
            evidence,
        );
    }
    if unknown && streams >= ENOUGH_SOURCES {
        return finding(
            "refused-not-seen",
            Verdict::NotEnough,
            "clients that gwfilter refuses are missing in what was seen: where connections come from cannot be judged",
            evidence,
        );
    }
    finding(
        "not-enough-traffic",
        Verdict::NotEnough,
        if behind {
            "what names the client could not be seen"
        } else {
            "not enough traffic was seen to say anything; look longer, or at a busier time"
        },
        evidence,
    )
}
