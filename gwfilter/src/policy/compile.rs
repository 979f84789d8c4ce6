//! The compiler: per listener, the sources that every gateway pod and filter chain behind it certainly refuses, as disjoint prefixes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::atoms::{Place, Sight};
use super::attach::attaches;
use super::flatten::Rank;
use super::look::Looked;
use super::memo::{Memo, Unit, address};
use super::rules::{self, Reading, RuleSets};
use super::shards::{Kept, Terms};
use super::spec::{Action, Policy};
use super::voice::{Voice, denied, unmatched, voice};
use super::{proxy, report};
use crate::desired::{Matrix, Outcome, Table4, Table6};
use crate::diagnostic::Diagnostic;
use crate::gateway::model::{ClientAddress, Gateway, Listener, Mesh, Tri, Why};
use crate::report::GatewayReport;

/// The tables of one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompiledListener {
    /// IPv4 sources; `None` if no policy speaks of this listener, or none may be enforced.
    pub table4: Option<Arc<Table4>>,
    /// IPv6 sources.
    pub table6: Option<Arc<Table6>>,
    /// Verdicts by PROXY header for tuples where the packet's source is the gateway's peer
    /// ([`peer_known`](crate::gateway::model::Tuple::peer_known)).
    pub matrix: Option<Arc<Matrix>>,
    /// The same for the other tuples.
    pub matrix_without_peer: Option<Arc<Matrix>>,
    /// Why nothing of it can be judged, although policies speak of it.
    pub left: Option<Why>,
    /// All that the tables refuse is default-deny, which may not be enforced while the sources of health probes are not known
    /// ([`Gateway::probe_sources_known`]): counted, and passed.
    pub observe: bool,
}

impl CompiledListener {
    /// What both say: each for the tuples that it was compiled for.
    fn or(self, other: Self) -> Self {
        Self {
            table4: self.table4.or(other.table4),
            table6: self.table6.or(other.table6),
            matrix: self.matrix.or(other.matrix),
            matrix_without_peer: self.matrix_without_peer.or(other.matrix_without_peer),
            left: self.left.or(other.left),
            observe: self.observe || other.observe,
        }
    }
}

/// What a gateway compiles to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// In the order of [`Gateway::listeners`].
    pub listeners: Vec<CompiledListener>,
    /// What is enforced where, and why.
    pub report: GatewayReport,
    /// Findings about the gateway's policies as a whole.
    pub diagnostics: Vec<Diagnostic>,
}

/// Compiles the policies for one gateway. `complete` is false if some input could not be read: no default-deny then.
///
/// Never-drop sources are not looked at: the kernel asks them first.
#[must_use]
pub fn compile(mesh: &Mesh, policies: &[Arc<Policy>], gateway: &Gateway, complete: bool) -> Compiled {
    compile_after(&mut Memo::default(), mesh, policies, gateway, complete)
}

/// As [`compile`], with what an earlier compilation kept. What comes out is the same.
#[must_use]
pub fn compile_after(
    memo: &mut Memo,
    mesh: &Mesh,
    policies: &[Arc<Policy>],
    gateway: &Gateway,
    complete: bool,
) -> Compiled {
    let policies = bearing_on(mesh, policies, gateway);
    let mut compiler = Compiler::new(memo, mesh, &policies, gateway, complete);
    let mut judged = Vec::with_capacity(gateway.listeners.len());
    let mut listeners = Vec::with_capacity(gateway.listeners.len());
    for listener in &gateway.listeners {
        let parts = if gateway.client_address == ClientAddress::ProxyHeader {
            proxy::listeners(&mut compiler, listener)
        } else {
            vec![compiler.listener(listener)]
        };
        let tables = parts.iter().map(|p| p.tables.clone());
        listeners.push(tables.fold(CompiledListener::default(), CompiledListener::or));
        judged.extend(parts);
    }
    let (report, diagnostics) = report::make(&compiler, &judged);
    Compiled {
        listeners,
        report,
        diagnostics,
    }
}

/// The policies that apply or may apply to some pod of a gateway. Nothing is computed of others.
fn bearing_on(mesh: &Mesh, policies: &[Arc<Policy>], gateway: &Gateway) -> Vec<Arc<Policy>> {
    let bears = |policy: &&Arc<Policy>| {
        let mut workloads = gateway.workloads.iter();
        workloads.any(|workload| attaches(mesh, policy, workload) != Tri::False)
    };
    policies.iter().filter(bears).cloned().collect()
}

/// Whether tables are compiled for a gateway at all.
pub(super) fn enforceable(gateway: &Gateway) -> bool {
    let read = matches!(
        gateway.client_address,
        ClientAddress::PacketSource | ClientAddress::ProxyHeader
    );
    gateway.not_enforced.is_none() && read
}

/// A rule at a place.
#[derive(Debug)]
pub(super) struct JudgedRule {
    /// Index of its policy.
    pub(super) policy: usize,
    /// Its index there.
    pub(super) rule: usize,
    /// The policy certainly applies.
    pub(super) certain: bool,
    pub(super) sets: Arc<RuleSets>,
}

/// What the policies say at one place.
#[derive(Debug)]
pub(super) struct Judged {
    /// Some policy that counts applies or may apply.
    pub(super) spoken: bool,
    /// Rules of ALLOW and DENY policies that apply or may apply.
    pub(super) rules: Vec<JudgedRule>,
    /// Indices of ALLOW policies that certainly apply.
    pub(super) allowing: Vec<usize>,
    /// Indices of policies that may admit anything here.
    pub(super) holes: Vec<usize>,
}

/// What was seen at a place behind a listener.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) v4: Looked,
    pub(super) v6: Looked,
}

/// A listener's tables, and what they came from.
#[derive(Debug)]
pub(super) struct JudgedListener<'a> {
    pub(super) listener: &'a Listener,
    pub(super) tables: CompiledListener,
    /// Some chain behind it has no RBAC.
    pub(super) no_rbac: bool,
    /// Its places, with the index into [`Compiler::judged`] of what the policies say there.
    pub(super) places: Vec<(Place<'a>, usize)>,
    /// Per place.
    pub(super) seen: Vec<Arc<Seen>>,
}

impl<'a> JudgedListener<'a> {
    pub(super) fn new(listener: &'a Listener) -> Self {
        Self {
            listener,
            tables: CompiledListener::default(),
            no_rbac: false,
            places: Vec::new(),
            seen: Vec::new(),
        }
    }
}

/// Which policies bear on a place, and how each of their rules reads there. Places with equal keys are judged alike.
pub(super) type PlaceKey = Vec<(usize, bool, Vec<Reading>)>;

/// The policies that bear on a place, by index.
#[derive(Debug, Default)]
pub(super) struct Bearing {
    /// All that count and apply or may apply; whether they certainly apply.
    pub(super) policies: Vec<(usize, bool)>,
    /// ALLOW policies that certainly apply.
    pub(super) allowing: Vec<usize>,
    /// What may admit anything.
    pub(super) holes: Vec<usize>,
}

/// The tables of a set of places, as they are and with the default-deny that is counted only, and what was seen at each.
#[derive(Clone, Debug)]
struct Flat {
    refused: (Arc<Table4>, Arc<Table6>),
    withheld: (Arc<Table4>, Arc<Table6>),
    seen: Vec<Arc<Seen>>,
}

#[derive(Debug)]
pub(super) struct Compiler<'a> {
    memo: &'a mut Memo,
    pub(super) mesh: &'a Mesh,
    pub(super) policies: &'a [Arc<Policy>],
    pub(super) gateway: &'a Gateway,
    pub(super) complete: bool,
    /// Per workload, per policy.
    pub(super) attached: Vec<Vec<Tri>>,
    pub(super) judged: Vec<Judged>,
    /// Every drop that can come out, in order of precedence.
    outcomes: Vec<Outcome>,
    ranks: BTreeMap<Outcome, Rank>,
    /// The number of each rank.
    numbers: Vec<u32>,
    place_keys: BTreeMap<Vec<(usize, bool, Vec<usize>)>, usize>,
    pub(super) matrices: proxy::Cache,
    /// By places, and whether anything is dropped there.
    flat: BTreeMap<(Vec<usize>, bool), Flat>,
}

impl<'a> Compiler<'a> {
    fn new(
        memo: &'a mut Memo,
        mesh: &'a Mesh,
        policies: &'a [Arc<Policy>],
        gateway: &'a Gateway,
        complete: bool,
    ) -> Self {
        let attached = gateway
            .workloads
            .iter()
            .map(|w| policies.iter().map(|p| attaches(mesh, p, w)).collect())
            .collect();
        let counted = policies.iter().filter(|p| counts(p));
        let mut outcomes: Vec<Outcome> = counted.flat_map(|p| drops(p)).collect();
        outcomes.sort();
        outcomes.dedup();
        let ranks = outcomes.iter().cloned().zip(0..).collect();
        let numbers = outcomes.iter().map(|outcome| memo.numbers.of(outcome)).collect();
        Self {
            memo,
            mesh,
            policies,
            gateway,
            complete,
            attached,
            judged: Vec::new(),
            outcomes,
            ranks,
            numbers,
            place_keys: BTreeMap::new(),
            matrices: proxy::Cache::default(),
            flat: BTreeMap::new(),
        }
    }

    /// Whether what no ALLOW rule may match is dropped.
    pub(super) fn default_deny(&self) -> bool {
        self.complete && self.gateway.probe_sources_known
    }

    /// Every outcome that refuses, in order of precedence: what ranks are indices of.
    pub(super) fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// The places behind a listener, without those of receivers that have no RBAC or of which nothing is known.
    pub(super) fn places(&self, listener: &'a Listener, sight: Sight, no_rbac: &mut bool) -> Vec<Place<'a>> {
        let mut all = Vec::new();
        for receiver in &listener.receivers {
            let known = self.gateway.workloads.get(receiver.workload).is_some();
            match Place::all(self.mesh, receiver, sight).filter(|_| known) {
                Some(places) => all.extend(places),
                None => *no_rbac = true,
            }
        }
        all
    }

    /// What bears on a place.
    pub(super) fn at(&self, place: &Place<'_>) -> Bearing {
        let mut bearing = Bearing::default();
        let attached = self.attached.get(place.receiver.workload);
        for (at, policy) in self.policies.iter().enumerate() {
            let attached = attached.and_then(|a| a.get(at)).copied().unwrap_or(Tri::Unknown);
            if attached == Tri::False || !counts(policy) {
                continue;
            }
            let certain = attached == Tri::True;
            if policy.undecodable.is_some() {
                if policy.action != Action::Deny {
                    bearing.holes.push(at);
                }
            } else if policy.action == Action::Allow && certain {
                bearing.allowing.push(at);
            }
            bearing.policies.push((at, certain));
        }
        bearing
    }

    /// The key of a place.
    pub(super) fn place_key(&self, place: &Place<'_>) -> PlaceKey {
        let bearing = self.at(place);
        let readings = |at: usize| {
            let policy = self.policies.get(at).filter(|p| p.undecodable.is_none());
            let rules = policy.map(|p| p.rules.as_slice()).unwrap_or_default();
            rules.iter().map(|rule| rules::reading(rule, place)).collect()
        };
        let all = bearing.policies.into_iter();
        all.map(|(at, certain)| (at, certain, readings(at))).collect()
    }

    fn listener(&mut self, listener: &'a Listener) -> JudgedListener<'a> {
        let mut result = JudgedListener::new(listener);
        for place in self.places(listener, Sight::Packet, &mut result.no_rbac) {
            let judged = self.place(&place);
            result.places.push((place, judged));
        }
        let speaks = result
            .places
            .iter()
            .any(|&(_, at)| self.judged.get(at).is_some_and(|j| j.spoken));
        let drops = !result.no_rbac && speaks && enforceable(self.gateway);
        let mut key: Vec<usize> = result.places.iter().map(|&(_, at)| at).collect();
        key.sort_unstable();
        key.dedup();
        let flat = self.flat(&key, drops, listener);
        let seen = |(_, at): &(Place<'_>, usize)| flat.seen.get(key.binary_search(at).ok()?).cloned();
        result.seen = result
            .places
            .iter()
            .map(|place| seen(place).unwrap_or_default())
            .collect();
        if !drops {
            return result;
        }
        let (mut tables, mut observe) = (flat.refused, false);
        // Only a whole listener can be observed, so where a DENY rule drops, default-deny is not even counted.
        if self.complete && !self.gateway.probe_sources_known && is_empty(&tables) {
            tables = flat.withheld;
            observe = !is_empty(&tables);
        }
        result.tables = CompiledListener {
            table4: Some(tables.0),
            table6: Some(tables.1),
            observe,
            ..CompiledListener::default()
        };
        result
    }

    /// What every one of these places refuses, once for equal places.
    fn flat(&mut self, places: &[usize], drops: bool, listener: &Listener) -> Flat {
        let key = (places.to_vec(), drops);
        if let Some(flat) = self.flat.get(&key) {
            return flat.clone();
        }
        let voices: Vec<Voice> = places.iter().map(|at| self.voice(*at)).collect();
        let terms = Terms {
            complete: self.complete,
            default_deny: self.default_deny(),
            drops,
        };
        let unit_key = (self.gateway.id(), listener.name.clone(), drops);
        let Unit { v4, v6, .. } = self.memo.take(&unit_key);
        let outcomes = self.memo.numbers.list();
        let v4 = Kept::renew(v4, self.memo.cut, terms, &voices, &self.numbers, outcomes);
        let v6 = Kept::renew(v6, self.memo.cut, terms, &voices, &self.numbers, outcomes);
        let mut flat = Flat {
            refused: (Arc::clone(&v4.refused), Arc::clone(&v6.refused)),
            withheld: (Arc::clone(&v4.withheld), Arc::clone(&v6.withheld)),
            seen: v4
                .looked
                .iter()
                .zip(&v6.looked)
                .map(|(v4, v6)| {
                    Arc::new(Seen {
                        v4: v4.clone(),
                        v6: v6.clone(),
                    })
                })
                .collect(),
        };
        self.memo.put(unit_key, Unit::of(v4, v6));
        for other in self.flat.values() {
            for (ours, theirs) in [
                (&mut flat.refused, &other.refused),
                (&mut flat.withheld, &other.withheld),
            ] {
                share(&mut ours.0, &theirs.0);
                share(&mut ours.1, &theirs.1);
            }
        }
        self.flat.insert(key, flat.clone());
        flat
    }

    /// The index of what the policies say at a place; equal places share it.
    fn place(&mut self, place: &Place<'_>) -> usize {
        let mut key = Vec::new();
        let mut rules = Vec::new();
        let Bearing {
            policies,
            allowing,
            holes,
        } = self.at(place);
        for (at, certain) in policies {
            let mut numbers = Vec::new();
            if let Some(policy) = self.policies.get(at).filter(|p| p.undecodable.is_none()) {
                for index in 0..policy.rules.len() {
                    let Some(sets) = self.memo.sets(policy, index, place) else {
                        continue;
                    };
                    numbers.push(address(&sets));
                    rules.push(JudgedRule {
                        policy: at,
                        rule: index,
                        certain,
                        sets,
                    });
                }
            }
            key.push((at, certain, numbers));
        }
        if let Some(&known) = self.place_keys.get(&key) {
            return known;
        }
        self.judged.push(Judged {
            spoken: !key.is_empty(),
            rules,
            allowing,
            holes,
        });
        let at = self.judged.len() - 1;
        self.place_keys.insert(key, at);
        at
    }

    /// What is said at a place, as far as sets of addresses go.
    fn voice(&mut self, at: usize) -> Voice {
        match self.judged.get(at) {
            Some(judged) => voice(judged, self.policies, &self.ranks, &mut self.memo.numbers),
            None => Voice::silent(),
        }
    }

    /// The same, of what is not among [`Self::judged`].
    pub(super) fn voice_of(&mut self, judged: &Judged) -> Voice {
        voice(judged, self.policies, &self.ranks, &mut self.memo.numbers)
    }
}

/// Nothing is refused.
fn is_empty((table4, table6): &(Arc<Table4>, Arc<Table6>)) -> bool {
    table4.is_empty() && table6.is_empty()
}

/// Equal tables become one.
fn share<T: PartialEq>(ours: &mut Arc<T>, theirs: &Arc<T>) {
    if !Arc::ptr_eq(ours, theirs) && ours == theirs {
        *ours = Arc::clone(theirs);
    }
}

/// Whether a policy bears on verdicts: dry-run policies, AUDIT and CUSTOM do not.
pub(super) fn counts(policy: &Policy) -> bool {
    !policy.dry_run && matches!(policy.action, Action::Allow | Action::Deny | Action::Unknown)
}

/// The drops that a policy can cause.
fn drops(policy: &Policy) -> Vec<Outcome> {
    match policy.action {
        Action::Deny => policy.rules.iter().map(|rule| denied(&rule.id)).collect(),
        Action::Allow => vec![unmatched(policy)],
        _ => Vec::new(),
    }
}
