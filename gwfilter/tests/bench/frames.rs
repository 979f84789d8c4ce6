//! The whole cost of a frame, over a cable: refused and passed, gwfilter beside every peer, the same lists for all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use xtask::site::{VIP_PORT, VIP_V4, VIP_V6, destination};

use crate::figure::{Line, Plot, Ratio, Rounds, progress, remark};
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
const TIME: Duration = Duration::from_millis(300);

type Measured = BTreeMap<(Peer, usize), Rounds>;

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    let (mut cost, mut rate, mut passed, mut load) = <(Measured, Measured, Measured, Measured)>::default();
    for &entries in &size.entries {
        let list = List::mixed(Family::V4, entries);
        let hosts = List::hosts(Family::V4, entries.min(Peer::XdpFilter.most()));
        let mut sender = Sender::new()?;
        let all = set_up(&mut sender, &Peer::ALL, &list, &hosts)?;
        let loaded = all
            .iter()
            .filter(|ready| !matches!(ready.peer, Peer::Nothing | Peer::Passes));
        for ready in loaded {
            let took = Rounds(vec![ready.load.as_secs_f64()]);
            load.insert((ready.peer, entries), took);
        }
        let denied = |peer: Peer| peer.list(&list, &hosts).inside();
        for (peer, works) in rounds(&sender, &all, Family::V4, denied, size.rounds)? {
            let of = |what: fn(&Work) -> f64| Rounds(works.iter().map(what).collect());
            cost.insert((peer, entries), of(|work| work.cost));
            rate.insert((peer, entries), of(|work| work.rate));
        }
        let other = |peer: Peer| peer.list(&list, &hosts).outside();
        for (peer, works) in rounds(&sender, &all, Family::V4, other, size.rounds)? {
            if peer != Peer::Nothing {
                passed.insert(
                    (peer, entries),
                    Rounds(works.iter().map(|work| work.cost).collect()),
                );
            }
        }
    }
    ratios(&cost, size)?;
    for (plot, measured) in [(COST, &cost), (RATE, &rate), (PASSED, &passed), (LOAD, &load)] {
        lines(&plot, measured)?;
    }
    let mut six = Measured::new();
    for &entries in &size.entries {
        let list = List::mixed(Family::V6, entries);
        let mut sender = Sender::new()?;
        let all = set_up(&mut sender, &Peer::ALL, &list, &list)?;
        for (peer, works) in rounds(&sender, &all, Family::V6, |_| list.inside(), size.rounds)? {
            six.insert(
                (peer, entries),
                Rounds(works.iter().map(|work| work.cost).collect()),
            );
        }
    }
    lines(&COST6, &six)
}

/// Refusing a frame costs us less than an interval set of nftables, and not ten times what it costs to do nothing.
pub(crate) fn guard() -> Result<Vec<Ratio>> {
    let entries = 10_000;
    let list = List::mixed(Family::V4, entries);
    let mut sender = Sender::new()?;
    let peers = [Peer::Nothing, Peer::Ours, Peer::NftNetdev];
    let all = set_up(&mut sender, &peers, &list, &list)?;
    let works = rounds(&sender, &all, Family::V4, |_| list.inside(), 3)?;
    let cost = |peer: Peer| {
        let works = works.get(&peer).with_context(|| peer.name())?;
        Ok::<_, anyhow::Error>(Rounds(works.iter().map(|work| work.cost).collect()))
    };
    let ours = cost(Peer::Ours)?;
    [(Peer::Nothing, 10.0), (Peer::NftNetdev, 1.0)]
        .into_iter()
        .map(|(peer, goal)| {
            Ok(Ratio {
                id: format!("frame-{}", at(entries)),
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
        if !peer.takes(list.family()) || list.len() > peer.most() {
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
            Err(error) if !matches!(peer, Peer::Nothing | Peer::Passes | Peer::Ours) => {
                remark(format_args!("{} is not here: {error:#}", peer.name()))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Everybody in turn, again and again; the first round is not counted.
fn rounds(
    sender: &Sender,
    all: &[Ready],
    family: Family,
    pool: impl Fn(Peer) -> crate::sources::Pool,
    rounds: usize,
) -> Result<BTreeMap<Peer, Vec<Work>>> {
    let to = gateway(family)?;
    let streams = all
        .iter()
        .map(|ready| ready.receiver.stream(to, &pool(ready.peer)))
        .collect::<Result<Vec<_>>>()?;
    let mut works: BTreeMap<Peer, Vec<Work>> = BTreeMap::new();
    for round in 0..=rounds {
        for (ready, stream) in all.iter().zip(&streams) {
            let work = ready.receiver.measure(sender, stream, TIME);
            let work = work.with_context(|| ready.peer.name())?;
            if round > 0 {
                works.entry(ready.peer).or_default().push(work);
            }
        }
    }
    Ok(works)
}

fn gateway(family: Family) -> Result<SocketAddr> {
    let address = match family {
        Family::V4 => VIP_V4,
        Family::V6 => VIP_V6,
    };
    destination(address, VIP_PORT)
}

fn ratios(cost: &Measured, size: &Size) -> Result<()> {
    let goals = [
        ("empty", Peer::Nothing, 1_000_000, 1.5),
        ("ipset", Peer::Ipset, 1_000_000, 1.0 / 6.0),
        ("nft-netdev", Peer::NftNetdev, 1_000_000, 1.0 / 15.0),
        ("xdp-filter", Peer::XdpFilter, 10_000, 1.0),
    ];
    for (name, peer, entries, goal) in goals {
        let entries = size.at_most(entries);
        let (Some(ours), Some(theirs)) = (cost.get(&(Peer::Ours, entries)), cost.get(&(peer, entries)))
        else {
            continue;
        };
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

/// A line for everybody.
fn lines(plot: &Plot<'_>, measured: &Measured) -> Result<()> {
    for peer in Peer::ALL {
        let of = measured.iter().filter(|((who, _), _)| *who == peer);
        let points: Vec<_> = of
            .map(|((_, entries), rounds)| (*entries, rounds.clone()))
            .collect();
        if !points.is_empty() {
            let line = Line {
                name: peer.name().to_owned(),
                points,
            };
            line.tell(plot)?;
        }
    }
    Ok(())
}
