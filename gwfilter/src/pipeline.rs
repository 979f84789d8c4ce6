//! Objects and node facts to a whole generation, in one call.
//!
//! Finds the gateways, compiles their policies, and settles who owns each destination: a drop must hold for every gateway that
//! may receive the packet, so a destination that two gateways claim is judged only if they would judge it alike.

mod bearing;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::desired::{Desired, ENDLESS, Judge, Matrix, ProxyTables, SourceTables, Target};
use crate::diagnostic::{Diagnostic, ObjectRef, listed};
use crate::gateway::model::{ClientAddress, Gateway, Listener, Mesh, TupleKey, Why};
use crate::gateway::{self, Found, find};
use crate::node::NodeFacts;
use crate::object::drain::Drain;
use crate::policy::{self, Compiled, CompiledListener, Memo, Policy};
use crate::report::GatewayReport;
use crate::snapshot::Snapshot;

/// The code of destinations that packets reach with another source than they came with.
const REWRITTEN: &str = "rewritten-source";

/// By so much connections are let live for longer than the gateway's Envoys say that they drain: a change reaches them later than the node.
const DRAIN_MARGIN: Duration = Duration::from_secs(15);

/// What the user set.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How gateways are found.
    pub gateway: gateway::Settings,
    /// Judge and count everywhere, drop nowhere.
    pub observe: bool,
    /// How a refusal ends the connection.
    pub refuse: Refuse,
}

/// How a refusal ends the connection (`--refuse`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// A reset where the PROXY header is judged (the peer is a load balancer), silence elsewhere.
    #[default]
    Auto,
    /// The packet vanishes.
    Drop,
    /// Both ends get a reset.
    Reset,
}

impl Refuse {
    /// Whether a destination that is judged by the packet's source answers with a reset.
    #[must_use]
    pub const fn resets_by_source(self) -> bool {
        matches!(self, Self::Reset)
    }

    /// Whether a destination that is judged by the PROXY header answers with a reset.
    #[must_use]
    pub const fn resets_by_header(self) -> bool {
        !matches!(self, Self::Drop)
    }
}

/// Which listener speaks for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Index into [`Built::gateways`].
    pub gateway: usize,
    /// Index into its listeners.
    pub listener: usize,
}

/// A destination of a gateway that is not judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unjudged {
    /// Indices into [`Built::gateways`], of all that claim it; never empty.
    pub gateways: Vec<usize>,
    /// Why.
    pub why: Why,
}

/// A generation with everything that can be said of it.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the kernel tables should say.
    pub desired: Desired,
    /// The mesh, as the policies were compiled for it.
    pub mesh: Mesh,
    /// The gateways of this node, enforced or not.
    pub gateways: Vec<Gateway>,
    /// The decoded policies.
    pub policies: Vec<Arc<Policy>>,
    /// One for each gateway, in the same order.
    pub reports: Vec<GatewayReport>,
    /// Findings, without repetitions, most severe first.
    pub diagnostics: Vec<Diagnostic>,
    /// Every listener that claims a judged destination; the first one names the counters. Never empty.
    pub owners: BTreeMap<TupleKey, Vec<Owner>>,
    /// Destinations of gateways that are not judged.
    pub unjudged: BTreeMap<TupleKey, Unjudged>,
    /// One for each gateway: whether every policy that may mean it could be read; if not, no default-deny is enforced there.
    pub complete: Vec<bool>,
    /// Listeners whose default-deny is only counted ([`CompiledListener::observe`]).
    pub withheld: BTreeSet<Owner>,
    /// [`Snapshot::not_given`].
    pub not_given: Vec<&'static str>,
}

/// From objects to a generation.
#[must_use]
pub fn build(snapshot: &Snapshot, node: &NodeFacts, settings: &Settings) -> Built {
    build_after(&mut Memo::default(), snapshot, node, settings)
}

/// As [`build`], with what an earlier call kept. What comes out is the same, sooner where little changed.
#[must_use]
pub fn build_after(memo: &mut Memo, snapshot: &Snapshot, node: &NodeFacts, settings: &Settings) -> Built {
    let mut found = find(snapshot, node, &settings.gateway);
    bearing::leave_out(&mut found, snapshot, &settings.gateway);
    let (bearing, too_many) = bearing::policies(&found, snapshot, node, &settings.gateway);
    let all_bear = too_many.is_none();
    let (policies, diagnostics) = memo.decode(&bearing);
    found.diagnostics.extend(too_many);
    found.diagnostics.extend(diagnostics);
    let stale = &snapshot.stale_addresses;
    // What a condition on the gateway's own address compares is not known either.
    let listeners = found.gateways.iter_mut().flat_map(|g| &mut g.listeners);
    for receiver in listeners.flat_map(|l| &mut l.receivers) {
        receiver.addresses = receiver
            .addresses
            .take()
            .filter(|own| own.iter().all(|addr| !stale.contains(addr)));
    }
    let root = found.mesh.root_namespace.as_deref();
    let known = |gateway: &Gateway| all_bear && snapshot.knows_policies_of(&gateway.namespace, root);
    let complete = found.gateways.iter().map(known).collect();
    Built {
        not_given: snapshot.not_given(),
        ..assemble(memo, found, policies, complete, settings, stale)
    }
}

/// From gateways and policies to a generation. `complete` as in [`Built::complete`], `stale` as in [`Snapshot::stale_addresses`].
fn assemble(
    memo: &mut Memo,
    found: Found,
    policies: Vec<Arc<Policy>>,
    complete: Vec<bool>,
    settings: &Settings,
    stale: &BTreeSet<IpAddr>,
) -> Built {
    let Found {
        mesh,
        mut gateways,
        mut diagnostics,
    } = found;
    let mut compiled: Vec<Compiled> = Vec::with_capacity(gateways.len());
    for (gateway, complete) in gateways.iter().zip(&complete) {
        compiled.push(policy::compile_after(memo, &mesh, &policies, gateway, *complete));
    }
    // Once more for each time that something does not fit: what is left out may settle who owns what.
    let (settled, tables) = loop {
        let tables: Vec<_> = compiled.iter().map(|c| c.listeners.clone()).collect();
        let settled = Claims {
            gateways: &gateways,
            tables: &tables,
            observe: settings.observe,
            refuse: settings.refuse,
            stale,
        }
        .settle();
        let mut without = room::without(&gateways, &settled);
        if without.is_empty() {
            break (settled, tables);
        }
        let all = gateways.iter_mut().zip(&mut compiled).zip(&complete);
        for (index, ((gateway, compiled), complete)) in all.enumerate() {
            let Some(why) = without.remove(&index) else {
                continue;
            };
            let object = ObjectRef::new("Service", &gateway.namespace, &gateway.name);
            diagnostics.push(Diagnostic::error(why.code, object, why.text.as_str()));
            gateway.not_enforced = Some(why);
            *compiled = policy::compile_after(memo, &mesh, &policies, gateway, *complete);
        }
    };
    memo.end();
    let withheld = withheld(&tables);
    let mut reports = Vec::with_capacity(compiled.len());
    for compiled in compiled {
        diagnostics.extend(compiled.diagnostics);
        reports.push(compiled.report);
    }
    diagnostics.extend(settled.diagnostics);
    remark(&gateways, &mut reports, &settled.desired, &settled.unjudged);
    Built {
        desired: settled.desired,
        mesh,
        gateways,
        policies,
        reports,
        diagnostics: tidy(diagnostics),
        owners: settled.owners,
        unjudged: settled.unjudged,
        complete,
        withheld,
        not_given: Vec::new(),
    }
}

fn withheld(tables: &[Vec<CompiledListener>]) -> BTreeSet<Owner> {
    let mut withheld = BTreeSet::new();
    for (gateway, listeners) in tables.iter().enumerate() {
        let observed = listeners.iter().enumerate().filter(|(_, tables)| tables.observe);
        withheld.extend(observed.map(|(listener, _)| Owner { gateway, listener }));
    }
    withheld
}

/// Sorted by severity, object and code, without repetitions, and as many as can be read.
#[must_use]
pub fn tidy(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by(Diagnostic::order);
    diagnostics.dedup();
    listed(diagnostics)
}

/// Destinations that turned out not to be judged belong into the reports of their gateways.
fn remark(
    gateways: &[Gateway],
    reports: &mut [GatewayReport],
    desired: &Desired,
    unjudged: &BTreeMap<TupleKey, Unjudged>,
) {
    for (index, (gateway, report)) in gateways.iter().zip(reports).enumerate() {
        if gateway.not_enforced.is_some() {
            continue;
        }
        // The gateway's own remarks speak of rewritten sources already.
        let whys: BTreeSet<&Why> = unjudged
            .values()
            .filter(|u| u.gateways.contains(&index) && u.why.code != REWRITTEN)
            .map(|u| &u.why)
            .collect();
        let whys = whys.into_iter().map(|w| format!("{}: {}", w.code, w.text));
        // What the compiler left to the gateway it has told already.
        let news: Vec<String> = whys.filter(|why| !report.why.contains(why)).collect();
        report.why.extend(news);
        let judged = |l: &Listener| l.tuples.iter().any(|t| desired.tuples.contains_key(&t.key));
        report.enforced &= gateway.listeners.iter().any(judged);
    }
}

/// Everybody's claims to destinations.
struct Claims<'a> {
    gateways: &'a [Gateway],
    /// Per gateway, per listener.
    tables: &'a [Vec<CompiledListener>],
    observe: bool,
    refuse: Refuse,
    stale: &'a BTreeSet<IpAddr>,
}

#[derive(Default)]
struct Settled {
    desired: Desired,
    owners: BTreeMap<TupleKey, Vec<Owner>>,
    unjudged: BTreeMap<TupleKey, Unjudged>,
    diagnostics: Vec<Diagnostic>,
}

/// One listener's claim to one destination.
#[derive(Clone, Copy)]
struct Claim<'a> {
    owner: Owner,
    gateway: &'a Gateway,
    listener: &'a Listener,
    tables: Option<&'a CompiledListener>,
    node_address: bool,
    pod_address: bool,
    peer_known: bool,
}

impl<'a> Claim<'a> {
    /// The PROXY header names the client.
    fn by_header(&self) -> bool {
        self.gateway.client_address == ClientAddress::ProxyHeader
    }

    fn matrix(&self) -> Option<&'a Arc<Matrix>> {
        let tables = self.tables?;
        if self.peer_known {
            tables.matrix.as_ref()
        } else {
            tables.matrix_without_peer.as_ref()
        }
    }

    /// Whether both judge alike.
    fn agrees(&self, other: &Self) -> bool {
        let sources = |c: &Self| c.tables.map(|t| (&t.table4, &t.table6));
        self.by_header() == other.by_header()
            && if self.by_header() {
                self.matrix() == other.matrix()
            } else {
                sources(self) == sources(other)
            }
    }
}

/// The sets of sources that are never dropped, by family.
type Never = (Arc<Vec<Ipv4Net>>, Arc<Vec<Ipv6Net>>);

impl<'a> Claims<'a> {
    fn settle(&self) -> Settled {
        let mut settled = Settled::default();
        let rewritten: BTreeSet<TupleKey> = self
            .gateways
            .iter()
            .flat_map(|g| g.rewritten.iter().copied())
            .collect();
        let mut never: BTreeMap<Vec<usize>, Never> = BTreeMap::new();
        let mut names: BTreeMap<Owner, Arc<str>> = BTreeMap::new();
        let mut proxies: BTreeMap<(Owner, bool, Vec<usize>), Arc<ProxyTables>> = BTreeMap::new();
        for (key, claims) in self.by_destination() {
            let Some(first) = claims.first().copied() else {
                continue;
            };
            if let Some((why, diagnostic)) = self.objection(&key, &claims, &rewritten) {
                settled.diagnostics.extend(diagnostic);
                settled.unjudged.insert(
                    key,
                    Unjudged {
                        gateways: claims.iter().map(|c| c.owner.gateway).collect(),
                        why,
                    },
                );
                continue;
            }
            let mut gateways: Vec<usize> = claims.iter().map(|c| c.owner.gateway).collect();
            gateways.dedup();
            let (never4, never6) = never
                .entry(gateways.clone())
                .or_insert_with_key(|gateways| self.never(gateways))
                .clone();
            let listener = names
                .entry(first.owner)
                .or_insert_with(|| format!("{}:{}", first.gateway.id(), first.listener.name).into())
                .clone();
            let by_header = first.by_header();
            let judge = if by_header {
                let trusted = self.trusted(&claims);
                let shared = proxies.entry((first.owner, first.peer_known, gateways.clone()));
                let tables = shared.or_insert_with(|| {
                    Arc::new(ProxyTables {
                        matrix: first.matrix().cloned(),
                        never4,
                        never6,
                        trusted4: trusted.as_ref().map(|(v4, _)| v4.clone()),
                        trusted6: trusted.as_ref().map(|(_, v6)| v6.clone()),
                    })
                });
                Judge::Proxy(tables.clone())
            } else {
                Judge::Source(SourceTables {
                    table4: first.tables.and_then(|t| t.table4.clone()),
                    table6: first.tables.and_then(|t| t.table6.clone()),
                    never4,
                    never6,
                })
            };
            let target = Target {
                listener,
                judge,
                observe: self.observe
                    || claims.iter().any(|c| c.gateway.observe.is_some())
                    || claims.iter().any(|c| c.tables.is_some_and(|t| t.observe)),
                node_address: claims.iter().any(|c| c.node_address),
                pod_address: claims.iter().any(|c| c.pod_address),
                reset: if by_header {
                    self.refuse.resets_by_header()
                } else {
                    self.refuse.resets_by_source()
                },
                drain_ms: claims
                    .iter()
                    .map(|c| drain_ms(c.gateway.drain))
                    .max()
                    .unwrap_or(0),
            };
            settled.desired.tuples.insert(key, target);
            settled
                .owners
                .insert(key, claims.iter().map(|c| c.owner).collect());
        }
        for (index, gateway) in self.gateways.iter().enumerate() {
            for key in &gateway.rewritten {
                if settled.desired.tuples.contains_key(key) {
                    continue;
                }
                let text = if gateway.client_address == ClientAddress::ProxyHeader {
                    "a pod on another node may receive packets to this destination (externalTrafficPolicy: Cluster), and whether it \
                     reads the PROXY header is not known; gwfilter.io/client-address: proxy-header on the Service states it"
                } else {
                    "packets to this destination may reach the gateway with another source address \
                     (externalTrafficPolicy: Cluster); set it to Local to have them judged here"
                };
                settled.unjudged.entry(*key).or_insert_with(|| Unjudged {
                    gateways: vec![index],
                    why: Why {
                        code: REWRITTEN,
                        text: text.to_owned(),
                    },
                });
            }
        }
        settled.desired.rewritten = rewritten.into_iter().collect();
        settled
    }

    fn objection(
        &self,
        key: &TupleKey,
        claims: &[Claim<'_>],
        rewritten: &BTreeSet<TupleKey>,
    ) -> Option<(Why, Option<Diagnostic>)> {
        if self.stale.contains(&key.addr) {
            let text = format!(
                "{} was a pod's address before the node restarted and may be another pod's by now: it is not judged \
                 until the API server answers",
                key.addr
            );
            let code = "pod-address-from-before-restart";
            return Some((Why { code, text }, None));
        }
        objection(key, claims, rewritten)
    }

    fn by_destination(&self) -> BTreeMap<TupleKey, Vec<Claim<'a>>> {
        let mut all: BTreeMap<TupleKey, Vec<Claim<'a>>> = BTreeMap::new();
        for (g, gateway) in self.gateways.iter().enumerate() {
            for (l, listener) in gateway.listeners.iter().enumerate() {
                let tables = self.tables.get(g).and_then(|t| t.get(l));
                for tuple in &listener.tuples {
                    let owner = Owner {
                        gateway: g,
                        listener: l,
                    };
                    let claim = Claim {
                        owner,
                        gateway,
                        listener,
                        tables,
                        node_address: tuple.node_address,
                        pod_address: tuple.pod_address(),
                        peer_known: tuple.peer_known,
                    };
                    all.entry(tuple.key).or_default().push(claim);
                }
            }
        }
        all
    }

    /// Whose headers all of the gateways expect; `None` where one has no such list.
    fn trusted(&self, claims: &[Claim<'_>]) -> Option<Never> {
        let lists: Option<Vec<_>> = claims
            .iter()
            .map(|c| c.gateway.trusted_proxies.as_ref())
            .collect();
        Some(by_family(lists?.into_iter().flatten()))
    }

    /// What any of these gateways never drops.
    fn never(&self, gateways: &[usize]) -> Never {
        let gateways = gateways.iter().filter_map(|g| self.gateways.get(*g));
        by_family(gateways.flat_map(|g| &g.never_drop))
    }
}

/// [`Target::drain_ms`] of a gateway.
fn drain_ms(drain: Drain) -> u64 {
    match drain {
        Drain::Unstated => 0,
        Drain::Stated(time) => {
            u64::try_from(time.saturating_add(DRAIN_MARGIN).as_millis()).unwrap_or(ENDLESS)
        }
        Drain::Unknown => ENDLESS,
    }
}

fn by_family<'n>(nets: impl Iterator<Item = &'n IpNet>) -> Never {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in nets {
        match net {
            IpNet::V4(n) => v4.push(n.trunc()),
            IpNet::V6(n) => v6.push(n.trunc()),
        }
    }
    (
        Arc::new(Ipv4Net::aggregate(&v4)),
        Arc::new(Ipv6Net::aggregate(&v6)),
    )
}

/// Why a destination may not be judged, with the diagnostic where nothing else speaks of it.
fn objection(
    key: &TupleKey,
    claims: &[Claim<'_>],
    rewritten: &BTreeSet<TupleKey>,
) -> Option<(Why, Option<Diagnostic>)> {
    let first = claims.first()?;
    let conflict = |text: String| {
        let object = ObjectRef::new("Service", &first.gateway.namespace, &first.gateway.name);
        let diagnostic = Diagnostic::warning("tuple-conflict", object, &*text);
        let code = "tuple-conflict";
        Some((Why { code, text }, Some(diagnostic)))
    };
    if let Some(why) = claims.iter().find_map(|c| c.gateway.not_enforced.as_ref()) {
        if claims.iter().all(|c| c.gateway.not_enforced.is_some()) {
            return Some((why.clone(), None));
        }
        return conflict(format!(
            "{key} is a destination of {}, one of which is not enforced ({}): it is not judged for any of them; give them destinations of their own",
            names(claims),
            why.code
        ));
    }
    if rewritten.contains(key) && !claims.iter().all(Claim::by_header) {
        return conflict(format!(
            "{key} is also reached with rewritten source addresses (externalTrafficPolicy: Cluster): it is not judged; set every Service of it to Local"
        ));
    }
    if claims.iter().any(|c| c.listener.receivers.is_empty()) {
        let text = format!("nothing on this node is known to receive {key}: it is not judged");
        let code = "no-receiver";
        return Some((Why { code, text }, None));
    }
    if let Some(left) = claims.iter().find_map(|c| c.tables?.left.as_ref()) {
        return Some((left.clone(), None));
    }
    if !claims.iter().all(|c| c.agrees(first)) {
        return conflict(format!(
            "{key} is a destination of {}, whose policies differ: it is not judged; give them destinations of their own or the same policies",
            names(claims)
        ));
    }
    None
}

/// `a/b and c/d`.
fn names(claims: &[Claim<'_>]) -> String {
    let names: BTreeSet<String> = claims
        .iter()
        .map(|c| format!("{}:{}", c.gateway.id(), c.listener.name))
        .collect();
    names.into_iter().collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests;
