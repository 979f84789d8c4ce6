//! The whole cost of a frame, over a cable: refused and passed, gwfilter beside every peer, the same lists for all.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::figure::{Lines, Plot, Ratio, Rounds, attempt, failed, progress};
use crate::judged::gateway;
use crate::peers::{Peer, Ready};
use crate::sources::{Family, List};
use crate::wire::{Sender, Work};
use crate::{Size, at};

const COST: Plot<'_> = Plot {
    id: "frame-cost",
    title: "CPU time of refusing a frame (IPv4, 65,536 random sources)",
    unit: "ns of the receiving thread a frame",
};
const COST6: Plot<'_> = Plot {
    id: "frame-cost-v6",
    title: "CPU time of refusing a frame (IPv6, 65,536 random sources)",
    unit: "ns of the receiving thread a frame",
};
const RATE: Plot<'_> = Plot {
    id: "frame-rate",
    title: "Frames refused by one CPU (IPv4, 65,536 random sources)",
    unit: "frames a second",
};
const PASSED: Plot<'_> = Plot {
    id: "frame-passed",
    title: "CPU time of letting a frame in (IPv4, 65,536 random sources), as far as the beginning of the IP stack",
    unit: "ns of the receiving thread a frame",
};
const LOAD: Plot<'_> = Plot {
    id: "load-time",
    title: "Time until a list is in force, from its text",
    unit: "s",
};

/// How long frames come each time.
const TIME: Duration = Duration::from_millis(200);

/// What was measured.
#[derive(Default)]
struct Found {
    cost: Lines,
    rate: Lines,
    passed: Lines,
    load: Lines,
    six: Lines,
}

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    let mut found = Found::default();
    for family in Family::ALL {
        for &entries in &size.entries {
            attempt(&format!("frames, {entries} {} prefixes", family.name()), || {
                one(family, entries, size, &mut found)
            })?;
        }
    }
    for (plot, lines) in [
        (COST, &found.cost),
        (RATE, &found.rate),
        (PASSED, &found.passed),
        (LOAD, &found.load),
        (COST6, &found.six),
    ] {
        lines.tell(&plot)?;
    }
    Ok(())
}

/// One list.
fn one(family: Family, entries: usize, size: &Size, found: &mut Found) -> Result<()> {
    let list = List::mixed(family, entries);
    let hosts = List::hosts(family, entries.min(Peer::XdpFilter.most()));
    let mut sender = Sender::new()?;
    let all = set_up(&mut sender, &Peer::ALL, &list, &hosts)?;
    let denied = |peer: Peer| peer.list(&list, &hosts).inside();
    if family == Family::V6 {
        for (peer, works) in rounds(&sender, &all, family, denied, size.rounds)? {
            found.six.add(COST6.id, peer.name(), entries, costs(&works));
        }
        return Ok(());
    }
    for ready in all
        .iter()
        .filter(|ready| !matches!(ready.peer, Peer::Nothing | Peer::Reads | Peer::Passes))
    {
        let took = Rounds(vec![ready.load.as_secs_f64()]);
        found.load.add(LOAD.id, ready.peer.name(), entries, took);
    }
    for (peer, works) in rounds(&sender, &all, family, denied, size.rounds)? {
        found.cost.add(COST.id, peer.name(), entries, costs(&works));
        let rates = Rounds(works.iter().map(|work| work.rate).collect());
        found.rate.add(RATE.id, peer.name(), entries, rates);
    }
    ratios(&found.cost, entries, size)?;
    let other = |peer: Peer| peer.list(&list, &hosts).outside();
    for (peer, works) in rounds(&sender, &all, family, other, size.rounds)? {
        if !matches!(peer, Peer::Nothing | Peer::Reads) {
            found.passed.add(PASSED.id, peer.name(), entries, costs(&works));
        }
    }
    Ok(())
}

fn costs(works: &[Work]) -> Rounds {
    Rounds(works.iter().map(|work| work.cost).collect())
}

/// Refusing a frame costs us less than an interval set of nftables, and not three times what it costs to do nothing.
pub(crate) fn guard() -> Result<Vec<Ratio>> {
    let entries = 10_000;
    let list = List::mixed(Family::V4, entries);
    let mut sender = Sender::new()?;
    let peers = [Peer::Nothing, Peer::Ours, Peer::NftNetdev];
    let all = set_up(&mut sender, &peers, &list, &list)?;
    let works = rounds(&sender, &all, Family::V4, |_| list.inside(), 3)?;
    let cost = |peer: Peer| {
        let works = works.get(&peer).with_context(|| peer.name())?;
        Ok::<_, anyhow::Error>(costs(works))
    };
    let ours = cost(Peer::Ours)?;
    let bounds = [
        ("empty", Peer::Nothing, 3.2),
        ("nft-netdev", Peer::NftNetdev, 0.55),
    ];
    bounds
        .into_iter()
        .map(|(name, peer, goal)| {
            Ok(Ratio {
                id: format!("frame-{}-over-{name}", at(entries)),
                of: format!(
                    "CPU time of refusing a frame, {entries} prefixes: gwfilter in XDP / {}",
                    peer.name()
                ),
                goal,
                rounds: ours.over(&cost(peer)?),
            })
        })
        .collect()
}

/// Everybody who takes such a list. Who refuses to be set up is named and left out, but for those that all is compared with.
fn set_up(sender: &mut Sender, peers: &[Peer], list: &List, hosts: &List) -> Result<Vec<Ready>> {
    let mut all = Vec::new();
    for &peer in peers {
        let own = peer.list(list, hosts);
        if list.len() > peer.most() {
            continue;
        }
        progress(format_args!(
            "{}, {} {} prefixes",
            peer.name(),
            own.len(),
            own.family().name()
        ));
        match Ready::new(sender, peer, own) {
            Ok(ready) => all.push(ready),
            Err(error) if !matches!(peer, Peer::Nothing | Peer::Ours) => {
                let part = format!("{}, {} {} prefixes", peer.name(), own.len(), own.family().name());
                failed(&part, format_args!("{error:#}"))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Everybody in turn, again and again; the first round is not counted. Whoever fails is named, and left out from then on.
fn rounds(
    sender: &Sender,
    all: &[Ready],
    family: Family,
    pool: impl Fn(Peer) -> crate::sources::Pool,
    rounds: usize,
) -> Result<BTreeMap<Peer, Vec<Work>>> {
    let to = gateway(family)?;
    let mut streams = all
        .iter()
        .map(|ready| Ok((ready, ready.receiver.stream(to, &pool(ready.peer))?)))
        .collect::<Result<Vec<_>>>()?;
    let mut works: BTreeMap<Peer, Vec<Work>> = BTreeMap::new();
    for round in 0..=rounds {
        let mut left = Vec::new();
        for (ready, stream) in streams {
            match ready.receiver.measure(sender, &stream, TIME) {
                Ok(_) if round == 0 => {}
                Ok(work) => works.entry(ready.peer).or_default().push(work),
                Err(error) => {
                    failed(ready.peer.name(), format_args!("{error:#}"))?;
                    works.remove(&ready.peer);
                    continue;
                }
            }
            left.push((ready, stream));
        }
        streams = left;
    }
    Ok(works)
}

/// Those that there are goals for at this length.
fn ratios(cost: &Lines, entries: usize, size: &Size) -> Result<()> {
    let goals = [
        ("empty", Peer::Nothing, 1_000_000, 1.5),
        ("ipset", Peer::Ipset, 1_000_000, 1.0 / 6.0),
        ("nft-netdev", Peer::NftNetdev, 1_000_000, 1.0 / 15.0),
        ("xdp-filter", Peer::XdpFilter, 10_000, 1.0),
    ];
    for (name, peer, at_most, goal) in goals {
        let of = |peer: Peer| cost.of(peer.name(), entries);
        let (Some(ours), Some(theirs)) = (of(Peer::Ours), of(peer)) else {
            continue;
        };
        if entries != size.at_most(at_most) {
            continue;
        }
        let ratio = Ratio {
            id: format!("frame-{}-over-{name}", at(entries)),
            of: format!(
                "CPU time of refusing a frame over a cable, {entries} IPv4 prefixes: gwfilter in XDP / {}",
                peer.name()
            ),
            goal,
            rounds: ours.over(theirs),
        };
        ratio.tell()?;
    }
    Ok(())
}
