//! A batch of sets in one Envoy: every client asked for real, and held against what the node does.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use xtask::netns::Namespace;

use crate::ask::{Requests, ask};
use crate::envoy::Envoy;
use crate::node;
use crate::set::{Chain, Placed, Set, own_network};
use crate::visible::{Certain, certain};

/// Threads that ask at the same time.
const CLIENTS: usize = 3;

/// One client at one listener, and all that was said about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Index of the set in its batch.
    pub(crate) set: usize,
    /// Who asks.
    pub(crate) client: IpAddr,
    /// Which listener.
    pub(crate) chain: Chain,
    /// Envoy let something through.
    pub(crate) any_allowed: bool,
    /// The node drops the first packet.
    pub(crate) dropped: bool,
    /// What follows from addresses alone.
    pub(crate) certain: Certain,
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disagreement {
    /// The node drops what Envoy lets through.
    WrongDrop,
    /// The oracle's own reading of its configuration is not Envoy's.
    Misread,
}

impl Outcome {
    /// Whether the law is broken.
    pub(crate) fn disagreement(&self) -> Option<Disagreement> {
        match (self.dropped, self.any_allowed, self.certain) {
            (true, true, _) => Some(Disagreement::WrongDrop),
            (_, true, Certain::Refused) | (_, false, Certain::Allowed) => Some(Disagreement::Misread),
            _ => None,
        }
    }
}

impl Outcome {
    /// Envoy refuses and addresses alone say so. The node's own addresses and its pods' do not count: health probes and
    /// traffic within the node come from there, and the node never drops them.
    pub(crate) fn visible(&self) -> bool {
        !self.any_allowed && self.certain == Certain::Refused && !own_network(self.client)
    }

    /// A visible refusal that the node leaves to Envoy.
    pub(crate) fn missed(&self) -> bool {
        self.visible() && !self.dropped
    }
}

/// A namespace in which every address is local.
pub(crate) fn everywhere() -> Result<Namespace> {
    xtask::rights::require_root()?;
    let namespace = Namespace::new("oracle")?;
    for prefix in ["0.0.0.0/1", "128.0.0.0/1", "::/0"] {
        namespace.local(prefix)?;
    }
    // IPv6 does not count a local route as an address of its own.
    namespace.sysctl("net/ipv6/ip_nonlocal_bind", "1")?;
    Ok(namespace)
}

/// Asks an Envoy for every client of every set, in the order of sets, clients and chains.
pub(crate) fn run(namespace: &Namespace, binary: &Path, sets: &[Set]) -> Result<Vec<Outcome>> {
    let mut batch: Vec<Placed> = Vec::new();
    for (slot, set) in sets.iter().enumerate() {
        batch.push(set.place(u16::try_from(slot).context("a batch has at most 65536 sets")?)?);
    }
    let _envoy = Envoy::start(namespace, binary, &batch)?;
    let next = AtomicUsize::new(0);
    let mut outcomes = namespace.enter(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..CLIENTS)
                .map(|_| scope.spawn(|| worker(&batch, &next)))
                .collect();
            let mut outcomes = Vec::new();
            for worker in workers {
                outcomes.extend(worker.join().map_err(|_| anyhow!("a client thread panicked"))??);
            }
            anyhow::Ok(outcomes)
        })
    })??;
    outcomes.sort_by_key(|outcome| (outcome.set, outcome.client, outcome.chain));
    Ok(outcomes)
}

fn worker(batch: &[Placed], next: &AtomicUsize) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(placed) = batch.get(index) else {
            return Ok(outcomes);
        };
        let about = || format!("seed {}", placed.set.seed);
        let requests = Requests::new(placed);
        let connections: Vec<(IpAddr, Chain)> = placed
            .set
            .clients
            .iter()
            .flat_map(|client| [(*client, Chain::Http), (*client, Chain::Tcp)])
            .collect();
        let drops = node::drops(placed, &connections).with_context(about)?;
        for ((client, chain), dropped) in connections.into_iter().zip(drops) {
            outcomes.push(Outcome {
                set: index,
                client,
                chain,
                any_allowed: ask(placed, &requests, client, chain).with_context(about)?,
                dropped,
                certain: certain(placed, client, chain),
            });
        }
    }
}
