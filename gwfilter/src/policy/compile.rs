//! The compiler: per listener, the sources that every gateway pod and filter chain behind it certainly refuses, as disjoint prefixes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use gwfilter_common::reason::Reason;

use super::atoms::{Place, Sight};
use super::attach::attaches;
use super::flatten::{Rank, Segments};
use super::interval::{Address, Set};
use super::rules::{self, Cache, Known, Reading, RuleSets};
use super::spec::{Action, Policy};
use super::{proxy, report};
use crate::desired::{Matrix, Outcome, Table4, Table6, Verdict};
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
pub fn compile(mesh: &Mesh, policies: &[Policy], gateway: &Gateway, complete: bool) -> Compiled {
    let mut compiler = Compiler::new(mesh, policies, gateway, complete);
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

/// Whether tables are compiled for a gateway at all.
pub(super) fn enforceable(gateway: &Gateway) -> bool {
    let read = matches!(
        gateway.client_address,
        ClientAddress::PacketSource | ClientAddress::ProxyHeader
    );
    gateway.not_enforced.is_none() && read
}

/// What the policies say at one place, for one family.
#[derive(Debug)]
pub(super) struct Side<A> {
    /// What is certainly refused there, by whom.
    pub(super) refused: Segments<A>,
    /// The same with default-deny, where health probes alone speak against that.
    pub(super) withheld: Segments<A>,
    /// What some ALLOW rule certainly matches.
    pub(super) admitted: Set<A>,
    /// What some ALLOW rule may match.
    pub(super) open: Set<A>,
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
    pub(super) sets: Rc<RuleSets>,
}

/// What the policies say at one place.
#[derive(Debug)]
pub(super) struct Judged {
    /// Some policy that counts applies or may apply.
    pub(super) spoken: bool,
    /// Rules of ALLOW and DENY policies that apply or may apply.
    pub(super) rules: Vec<JudgedRule>,
    pub(super) v4: Side<u32>,
    pub(super) v6: Side<u128>,
    /// Indices of ALLOW policies that certainly apply.
    pub(super) allowing: Vec<usize>,
    /// Indices of policies that may admit anything here.
    pub(super) holes: Vec<usize>,
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
    /// What is dropped.
    pub(super) dropped4: Rc<Set<u32>>,
    pub(super) dropped6: Rc<Set<u128>>,
}

impl<'a> JudgedListener<'a> {
    pub(super) fn new(listener: &'a Listener) -> Self {
        Self {
            listener,
            tables: CompiledListener::default(),
            no_rbac: false,
            places: Vec::new(),
            dropped4: Rc::new(Set::empty()),
            dropped6: Rc::new(Set::empty()),
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

#[derive(Clone, Debug)]
struct Flat {
    table4: Arc<Table4>,
    table6: Arc<Table6>,
    dropped4: Rc<Set<u32>>,
    dropped6: Rc<Set<u128>>,
}

#[derive(Debug)]
pub(super) struct Compiler<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) policies: &'a [Policy],
    pub(super) gateway: &'a Gateway,
    pub(super) complete: bool,
    /// Per workload, per policy.
    pub(super) attached: Vec<Vec<Tri>>,
    pub(super) judged: Vec<Judged>,
    /// Every drop that can come out, in order of precedence.
    outcomes: Vec<Outcome>,
    ranks: BTreeMap<Outcome, Rank>,
    cache: Cache,
    place_keys: BTreeMap<Vec<(usize, bool, Vec<usize>)>, usize>,
    pub(super) matrices: proxy::Cache,
    flat: BTreeMap<(Vec<usize>, bool), Flat>,
}

impl<'a> Compiler<'a> {
    fn new(mesh: &'a Mesh, policies: &'a [Policy], gateway: &'a Gateway, complete: bool) -> Self {
        let attached = gateway
            .workloads
            .iter()
            .map(|w| policies.iter().map(|p| attaches(mesh, p, w)).collect())
            .collect();
        let mut outcomes: Vec<Outcome> = policies.iter().filter(|p| counts(p)).flat_map(drops).collect();
        outcomes.sort();
        outcomes.dedup();
        let ranks = outcomes.iter().cloned().zip(0..).collect();
        Self {
            mesh,
            policies,
            gateway,
            complete,
            attached,
            judged: Vec::new(),
            outcomes,
            ranks,
            cache: Cache::default(),
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
        if result.no_rbac || !speaks || !enforceable(self.gateway) {
            return result;
        }
        let mut key: Vec<usize> = result.places.iter().map(|&(_, at)| at).collect();
        key.sort_unstable();
        key.dedup();
        let mut flat = self.flat(&key, false);
        (result.dropped4, result.dropped6) = (flat.dropped4.clone(), flat.dropped6.clone());
        // Only a whole listener can be observed, so where a DENY rule drops, default-deny is not even counted.
        let mut observe = false;
        if self.complete && !self.gateway.probe_sources_known && flat.is_empty() {
            flat = self.flat(&key, true);
            observe = !flat.is_empty();
        }
        result.tables = CompiledListener {
            table4: Some(flat.table4),
            table6: Some(flat.table6),
            observe,
            ..CompiledListener::default()
        };
        result
    }

    /// [`Self::flatten`], once for equal places.
    fn flat(&mut self, places: &[usize], withheld: bool) -> Flat {
        let key = (places.to_vec(), withheld);
        if let Some(flat) = self.flat.get(&key) {
            return flat.clone();
        }
        let flat = self.flatten(places, withheld);
        self.flat.insert(key, flat.clone());
        flat
    }

    /// What every one of these places refuses, or would.
    fn flatten(&self, places: &[usize], withheld: bool) -> Flat {
        let judged = || places.iter().filter_map(|&at| self.judged.get(at));
        let segments4 = refused_by_all(judged().map(|j| j.v4.segments(withheld)));
        let segments6 = refused_by_all(judged().map(|j| j.v6.segments(withheld)));
        let (table4, table6) = (segments4.table(&self.outcomes), segments6.table(&self.outcomes));
        let share4 = self.flat.values().map(|f| &f.table4).find(|t| ***t == table4);
        let share6 = self.flat.values().map(|f| &f.table6).find(|t| ***t == table6);
        Flat {
            table4: share4.map_or_else(|| Arc::new(table4), Arc::clone),
            table6: share6.map_or_else(|| Arc::new(table6), Arc::clone),
            dropped4: Rc::new(segments4.set()),
            dropped6: Rc::new(segments6.set()),
        }
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
                for (index, rule) in policy.rules.iter().enumerate() {
                    let (number, sets) = self.cache.sets((at, index), policy.action, rule, place);
                    numbers.push(number);
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
        let v4 = self.side(&rules, &allowing, &holes, |sets| &sets.v4);
        let v6 = self.side(&rules, &allowing, &holes, |sets| &sets.v6);
        self.judged.push(Judged {
            spoken: !key.is_empty(),
            rules,
            v4,
            v6,
            allowing,
            holes,
        });
        let at = self.judged.len() - 1;
        self.place_keys.insert(key, at);
        at
    }

    pub(super) fn side<A: Address>(
        &self,
        rules: &[JudgedRule],
        allowing: &[usize],
        holes: &[usize],
        family: impl Fn(&RuleSets) -> &Known<A>,
    ) -> Side<A> {
        let mut refused = Vec::new();
        let (mut admitted, mut open) = (Vec::new(), Vec::new());
        for judged in rules {
            let Some(policy) = self.policies.get(judged.policy) else {
                continue;
            };
            let Some(rule) = policy.rules.get(judged.rule) else {
                continue;
            };
            let known = family(&judged.sets);
            if policy.action == Action::Deny {
                if let (true, Some(&rank)) = (judged.certain, self.ranks.get(&denied(&rule.id))) {
                    refused.extend(known.yes.ranges().iter().map(|&(low, high)| (low, high, rank)));
                }
            } else {
                open.extend(known.maybe.ranges());
                if judged.certain {
                    admitted.extend(known.yes.ranges());
                }
            }
        }
        let open = if holes.is_empty() {
            Set::from_ranges(open)
        } else {
            Set::full()
        };
        let turned_on = allowing
            .iter()
            .filter_map(|&at| self.policies.get(at))
            .map(unmatched);
        let mut withheld = Vec::new();
        if let Some(&rank) = turned_on.min().and_then(|first| self.ranks.get(&first))
            && self.complete
        {
            let closed = open.not();
            let closed = closed.ranges().iter().map(|&(low, high)| (low, high, rank));
            if self.default_deny() {
                refused.extend(closed);
            } else {
                withheld = refused.clone();
                withheld.extend(closed);
            }
        }
        Side {
            refused: Segments::sweep(refused),
            withheld: Segments::sweep(withheld),
            admitted: Set::from_ranges(admitted),
            open,
        }
    }
}

impl<A> Side<A> {
    pub(super) fn segments(&self, withheld: bool) -> &Segments<A> {
        if withheld { &self.withheld } else { &self.refused }
    }
}

impl Flat {
    /// Nothing is refused.
    fn is_empty(&self) -> bool {
        self.table4.is_empty() && self.table6.is_empty()
    }
}

pub(super) fn refused_by_all<'s, A: Address + 's>(
    mut all: impl Iterator<Item = &'s Segments<A>>,
) -> Segments<A> {
    let first = all.next().cloned().unwrap_or_else(Segments::none);
    all.fold(first, |all, next| all.and(next))
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

fn denied(id: &Arc<str>) -> Outcome {
    Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(Arc::clone(id)),
    }
}

fn unmatched(policy: &Policy) -> Outcome {
    Outcome {
        verdict: Verdict::Drop,
        reason: Reason::NoRuleAllows,
        rule: Some(policy.id().into()),
    }
}
