//! The tables held against the reference evaluator.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use gwfilter_common::decide::{Action, Decision};
use gwfilter_common::reason::Reason;
use gwfilter_common::wire::{ipv4, ipv6};
use ipnet::IpNet;

use super::{ExplainError, Explainer, Query, segments};
use crate::desired::{ProxyTables, Verdict};
use crate::gateway::model::{Gateway, Protocol, TupleKey};
use crate::pipeline::Owner;
use crate::policy::spec::{Field, Values};

/// Addresses looked at for one listener and family, at most.
const ADDRESSES: usize = 4096;
/// Addresses times prefixes looked at for one listener and family, about at most: the evaluator tries every prefix.
const EFFORT: usize = 40_000_000;

/// Tables and evaluator differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "internal error: for source {source_ip} to {key} the tables say {tables}, the reference evaluator says {evaluator}; \
     do not trust this build with these policies, and report it with the manifests"
)]
pub struct Disagreement {
    /// The packet's source.
    pub source_ip: IpAddr,
    /// Its destination.
    pub key: TupleKey,
    /// What the tables do.
    pub tables: String,
    /// What the evaluator says.
    pub evaluator: String,
}

/// What [`Explainer::verify_boundaries`] looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Addresses asked, over all listeners.
    pub addresses: usize,
    /// Whether some were left out to keep it short.
    pub sampled: bool,
}

/// Whether no packet of a client can have this source.
fn odd_source(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(addr) => ipv4::odd_source(addr.octets()),
        IpAddr::V6(addr) => ipv6::odd_source(addr.octets()),
    }
}

impl Explainer {
    /// Holds one decision against the evaluator, for every listener that claims the destination.
    pub(super) fn verify(&self, query: &Query, decision: &Decision) -> Result<(), Disagreement> {
        let key = query.key();
        let differ = |expected: String| Disagreement {
            source_ip: query.source,
            key,
            tables: format!("{:?} ({})", decision.action, decision.reason.name()),
            evaluator: expected,
        };
        let Some(owners) = self.built.owners.get(&key) else {
            let untouched = decision.action == Action::Pass && decision.reason == Reason::NotAGateway;
            return if untouched {
                Ok(())
            } else {
                Err(differ("not judged".to_owned()))
            };
        };
        let observe = self.built.desired.tuples.get(&key).is_some_and(|t| t.observe);
        for owner in owners {
            let expected = self.expected(*owner, query, observe);
            let got = (decision.action, decision.reason);
            // Loopback and the like are never judged, whatever the policies say; nor headers that Envoy refuses.
            let odd = match self.by_header(query).and(query.proxy) {
                None => got == (Action::Pass, Reason::OddSource) && odd_source(query.source),
                Some((client, dest)) => {
                    got == (Action::Pass, Reason::HeaderInvalid)
                        && [client, dest].iter().any(|a| !is_unicast(a.ip()))
                }
            };
            let Some((action, reason, rule)) = expected else {
                return Err(differ("no such listener".to_owned()));
            };
            let named = self.names.rules.get(&decision.rule);
            let same_rule =
                action == Action::Pass || named.is_none() || named.map(|n| &**n) == rule.as_deref();
            if !odd && (got != (action, reason) || !same_rule) {
                let rule = rule.unwrap_or_default();
                return Err(differ(format!("{action:?} ({}) {rule}", reason.name())));
            }
        }
        Ok(())
    }

    /// What the kernel should do at one listener, by the evaluator.
    fn expected(
        &self,
        owner: Owner,
        query: &Query,
        observe: bool,
    ) -> Option<(Action, Reason, Option<String>)> {
        if query.protocol == Protocol::Udp {
            return Some((Action::Pass, Reason::LeftToGateway, None));
        }
        let owners = self.built.owners.get(&query.key())?;
        let by_header = self.by_header(query).is_some();
        let client = match (by_header, query.proxy) {
            (true, None) => return Some((Action::Pass, Reason::NoHeader, None)),
            (true, Some((client, _))) => client.ip(),
            (false, _) => query.source,
        };
        let gateways = || owners.iter().filter_map(|o| self.built.gateways.get(o.gateway));
        if gateways().any(|g| g.never_drop.iter().any(|n| n.contains(&client))) {
            return Some((Action::Pass, Reason::NeverDropSource, None));
        }
        let outcome = self.evaluate(owner, query)?;
        let expected = |g: &Gateway| {
            let list = g.trusted_proxies.as_ref();
            list.is_none_or(|list| list.iter().any(|n| n.contains(&query.source)))
        };
        if by_header && outcome.reason == Reason::Allowed && !gateways().any(expected) {
            return Some((Action::Pass, Reason::UntrustedProxy, None));
        }
        let rule = outcome.rule.map(|r| r.to_string());
        Some(match outcome.verdict {
            Verdict::Pass => (Action::Pass, outcome.reason, None),
            Verdict::Drop if observe => (Action::Pass, Reason::Observed, rule),
            Verdict::Drop => (Action::Drop, outcome.reason, rule),
        })
    }

    /// Asks tables and evaluator for the first and last address of every prefix, written or compiled, and their
    /// neighbours outside, within a bound.
    ///
    /// # Errors
    /// The first source for which they differ.
    pub fn verify_boundaries(&self) -> Result<Verified, ExplainError> {
        let mut verified = Verified::default();
        let mut seen: BTreeSet<(&[Owner], bool, bool)> = BTreeSet::new();
        let written = self.written();
        for (key, owners) in &self.built.owners {
            if key.protocol == Protocol::Udp
                || !seen.insert((owners, key.addr.is_ipv4(), self.peer_known(owners, key)))
            {
                continue;
            }
            let addresses = self.boundaries(key, &written);
            let bound = ADDRESSES.min(EFFORT / written.len().max(1)).max(64);
            let step = addresses.len().div_ceil(bound).max(1);
            verified.sampled |= step > 1;
            if let Some(target) = self.built.desired.tuples.get(key)
                && let Some(tables) = target.proxy()
            {
                let addresses = Axes::new(tables, &written, addresses);
                verified.sampled = true;
                for (source, client, destination) in addresses.sample(bound) {
                    let dest = SocketAddr::new(key.addr, key.port);
                    let query = Query::new(source, dest, key.protocol, Some((client, destination)))?;
                    let decision = segments::decided(&query, &self.image)?;
                    self.verify(&query, &decision).map_err(Box::new)?;
                    verified.addresses += 1;
                }
                continue;
            }
            for source in addresses.into_iter().step_by(step) {
                let dest = SocketAddr::new(key.addr, key.port);
                let query = Query::new(source, dest, key.protocol, None)?;
                let decision = segments::decided(&query, &self.image)?;
                self.verify(&query, &decision).map_err(Box::new)?;
                verified.addresses += 1;
            }
        }
        Ok(verified)
    }

    fn peer_known(&self, owners: &[Owner], key: &TupleKey) -> bool {
        let listener = owners.first().and_then(|owner| self.owner(*owner));
        let tuples = listener.map(|(_, l)| l.tuples.as_slice()).unwrap_or_default();
        tuples.iter().any(|t| t.key == *key && t.peer_known)
    }

    /// Every prefix that a policy states.
    fn written(&self) -> Vec<IpNet> {
        let rules = self.built.policies.iter().flat_map(|p| &p.rules);
        let fields = rules.flat_map(|r| r.from.iter().chain(&r.to).flat_map(|e| &e.fields).chain(&r.when));
        fields.flat_map(ranges).copied().collect()
    }

    fn boundaries(&self, key: &TupleKey, written: &[IpNet]) -> BTreeSet<IpAddr> {
        let mut out = BTreeSet::new();
        let Some(target) = self.built.desired.tuples.get(key) else {
            return out;
        };
        let family = written
            .iter()
            .filter(|n| n.addr().is_ipv4() == key.addr.is_ipv4());
        family.for_each(|n| edges(*n, &mut out));
        let Some(source) = target.source() else {
            return out;
        };
        match key.addr {
            IpAddr::V4(_) => {
                let table = source.table4.iter().flat_map(|t| t.keys());
                table
                    .chain(source.never4.iter().copied())
                    .for_each(|n| edges(IpNet::V4(n), &mut out));
                edges(IpNet::V4(ipnet::Ipv4Net::default()), &mut out);
            }
            IpAddr::V6(_) => {
                let table = source.table6.iter().flat_map(|t| t.keys());
                table
                    .chain(source.never6.iter().copied())
                    .for_each(|n| edges(IpNet::V6(n), &mut out));
                edges(IpNet::V6(ipnet::Ipv6Net::default()), &mut out);
            }
        }
        out
    }
}

/// What Envoy takes for a unicast address (`source/common/network/address_impl.cc`).
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_unspecified() && !a.is_broadcast() && !a.is_multicast(),
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast(),
    }
}

/// Values worth asking for, on each axis of a matrix.
struct Axes {
    peers: Vec<IpAddr>,
    /// Of both families.
    addresses: [Vec<IpAddr>; 2],
    ports: Vec<u16>,
}

impl Axes {
    fn new(tables: &ProxyTables, written: &[IpNet], peers: BTreeSet<IpAddr>) -> Self {
        let mut all = BTreeSet::new();
        written.iter().for_each(|n| edges(*n, &mut all));
        let (never4, never6) = (tables.never4.iter(), tables.never6.iter());
        never4.for_each(|n| edges(IpNet::V4(*n), &mut all));
        never6.for_each(|n| edges(IpNet::V6(*n), &mut all));
        let mut peers = peers;
        let mut ports = BTreeSet::from([0, 80, 443, u16::MAX]);
        if let Some(matrix) = &tables.matrix {
            let four = [&matrix.peers4, &matrix.clients4, &matrix.dests4];
            let six = [&matrix.peers6, &matrix.clients6, &matrix.dests6];
            for net in four.iter().flat_map(|t| t.keys()) {
                edges(IpNet::V4(*net), &mut all);
            }
            for net in six.iter().flat_map(|t| t.keys()) {
                edges(IpNet::V6(*net), &mut all);
            }
            ports.extend(
                matrix
                    .ports
                    .keys()
                    .flat_map(|p| [p.saturating_sub(1), *p, p.saturating_add(1)]),
            );
        }
        all.extend([
            IpAddr::from([192, 0, 2, 1]),
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        ]);
        let v4 = peers.first().is_none_or(IpAddr::is_ipv4);
        peers.extend(all.iter().filter(|a| a.is_ipv4() == v4));
        let family = |v4: bool| all.iter().copied().filter(|a| a.is_ipv4() == v4).collect();
        Self {
            peers: peers.into_iter().collect(),
            addresses: [family(true), family(false)],
            ports: ports.into_iter().collect(),
        }
    }

    /// So many combinations, each client among them as early as possible.
    fn sample(&self, count: usize) -> impl Iterator<Item = (IpAddr, SocketAddr, SocketAddr)> {
        // Knuth's MMIX generator: the same combinations every time.
        let mut state = 1_u64;
        let mut next = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap_or(0)
        };
        (0..count).filter_map(move |n| {
            let family = self.addresses.get(n % 2)?;
            let pick = |at: usize| family.get(at % family.len().max(1)).copied();
            let peer = *self.peers.get(next() % self.peers.len().max(1))?;
            let port = *self.ports.get(next() % self.ports.len().max(1))?;
            let client = SocketAddr::new(pick(n / 2)?, 40_001);
            Some((peer, client, SocketAddr::new(pick(next())?, port)))
        })
    }
}

fn ranges(field: &Field) -> &[IpNet] {
    match &field.values {
        Values::Ranges(ranges) => ranges,
        _ => &[],
    }
}

/// First and last address, and the ones just outside.
fn edges(net: IpNet, out: &mut BTreeSet<IpAddr>) {
    out.extend([net.network(), net.broadcast()]);
    match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            out.extend(first.to_bits().checked_sub(1).map(|a| IpAddr::V4(a.into())));
            out.extend(last.to_bits().checked_add(1).map(|a| IpAddr::V4(a.into())));
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            out.extend(first.to_bits().checked_sub(1).map(|a| IpAddr::V6(a.into())));
            out.extend(last.to_bits().checked_add(1).map(|a| IpAddr::V6(a.into())));
        }
        _ => {}
    }
}
