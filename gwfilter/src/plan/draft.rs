//! One generation in the making.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use gwfilter_common::abi::{
    MAX_LISTENERS, MAX_RULES, MAX_TUPLES, TUPLE_MAYBE_REPLY, TUPLE_NEW_ONLY, TUPLE_OBSERVE, TUPLE_POD,
    TUPLE_PROXY, TUPLE_RESET, Tuple,
};
use ipnet::{Ipv4Net, Ipv6Net};

use super::drain::{Group, Memory};
use super::leaves::Leaves;
use super::names::Indices;
use super::op::{Kind, Op, PlanError};
use super::proxied::{self, Elements, Pools};
use super::root::RootImage;
use super::slots::{Family, Next};
use super::zones::Zones;
use super::{Plan, Settings, State, leaves, saved};
use crate::desired::{Desired, ENDLESS, Outcome, ProxyTables, SourceTables, Target, Verdict};
use crate::gateway::model::{Protocol, TupleKey};
use crate::table::{Net, Table};

/// Indices of listeners are below this, …
pub(super) const LISTENERS: u32 = MAX_LISTENERS;
/// … and those of rules below this.
pub(super) const RULES: u32 = MAX_RULES;

/// What all tuples with the same past and the same target share.
#[derive(Clone, Copy, Debug)]
struct Placed {
    group: usize,
    source_table: u32,
    never_table: u32,
    new_only: bool,
}

/// Identity of the inputs of a [`Placed`]: the past's group, the addresses of the target's shared parts, the flags, and the window.
type PlacedKey = (Option<usize>, usize, usize, [bool; 3], u64);

/// A generation in the making.
pub(super) struct Draft<'a> {
    before: &'a State,
    settings: Settings,
    now_ms: u64,
    generation: u64,
    judged: Vec<(TupleKey, &'a Target)>,
    listeners: Indices,
    rules: Indices,
    zero: Vec<Op>,
    uncounted_rules: Vec<Arc<str>>,
    rewritten: BTreeMap<TupleKey, Option<u64>>,
    source4: Next<'a, Ipv4Net>,
    source6: Next<'a, Ipv6Net>,
    never4: Next<'a, Ipv4Net>,
    never6: Next<'a, Ipv6Net>,
    groups: BTreeMap<Group, usize>,
    placed: BTreeMap<PlacedKey, Placed>,
    elements: Elements,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        before: &'a State,
        settings: Settings,
        desired: &'a Desired,
        now_ms: u64,
    ) -> Result<Self, PlanError> {
        let generation = before.generation.saturating_add(1);
        let rewritten = before
            .memory
            .rewritten_next(&desired.rewritten, now_ms, settings.rewritten_drain_ms);
        // A destination whose sources are rewritten for some packets cannot be judged for any.
        let judged: Vec<_> = desired
            .tuples
            .iter()
            .filter(|(k, t)| t.source().is_none() || rewritten.get(k) != Some(&None))
            .map(|(k, t)| (*k, t))
            .collect();
        if judged.len() > MAX_TUPLES {
            return Err(PlanError::TooManyTuples {
                tuples: judged.len(),
                max: MAX_TUPLES,
            });
        }
        let names: BTreeSet<Arc<str>> = judged.iter().map(|(_, t)| t.listener.clone()).collect();
        let listeners = before
            .listeners
            .assign(&names, before.generation, generation, LISTENERS);
        if !listeners.without.is_empty() {
            return Err(PlanError::TooManyListeners {
                wanted: listeners.zero.len() + listeners.without.len(),
                in_force: before.listeners.used_in(before.generation),
                max: MAX_LISTENERS - 1,
            });
        }
        let rules = before
            .rules
            .assign(&rule_names(&judged), before.generation, generation, RULES);
        let zero = (rules.zero.iter().map(|i| Op::ZeroRule { index: *i }))
            .chain(listeners.zero.iter().map(|i| Op::ZeroListener { index: *i }))
            .collect();
        Ok(Self {
            before,
            settings,
            now_ms,
            generation,
            judged,
            listeners: listeners.next,
            rules: rules.next,
            zero,
            uncounted_rules: rules.without,
            rewritten,
            source4: Next::after(Kind::Source4, &before.source4),
            source6: Next::after(Kind::Source6, &before.source6),
            never4: Next::after(Kind::Never4, &before.never4),
            never6: Next::after(Kind::Never6, &before.never6),
            groups: BTreeMap::new(),
            placed: BTreeMap::new(),
            elements: Elements::default(),
        })
    }

    pub(super) fn finish(mut self) -> Result<Plan, PlanError> {
        let mut tuples = Vec::with_capacity(self.judged.len());
        let mut members: BTreeMap<TupleKey, usize> = BTreeMap::new();
        let mut pods: BTreeSet<TupleKey> = BTreeSet::new();
        let mut deadlines: Vec<u64> = Vec::new();
        for (key, target) in std::mem::take(&mut self.judged) {
            let mut tuple = self.tuple(&key, target);
            let drain_ms = self.settings.drain_ms.max(target.drain_ms);
            if let (Protocol::Tcp, Some(tables)) = (key.protocol, target.proxy()) {
                let placed = self.place_proxy(key, tables, target.observe, drain_ms);
                tuple.proxy = placed.element;
                tuple.flags |= TUPLE_PROXY | if placed.new_only { TUPLE_NEW_ONLY } else { 0 };
            }
            // UDP is never dropped, so it has neither tables nor a past.
            if let (Protocol::Tcp, Some(tables)) = (key.protocol, target.source()) {
                let left = self.rewritten.get(&key).copied().flatten();
                deadlines.extend(left);
                let placed = self.place(&key, tables, target.observe, left.is_some(), drain_ms);
                tuple.source_table = placed.source_table;
                tuple.never_table = placed.never_table;
                tuple.flags |= if placed.new_only { TUPLE_NEW_ONLY } else { 0 };
                members.insert(key, placed.group);
                if target.pod_address {
                    pods.insert(key);
                }
            }
            tuples.push(tuple);
        }
        let seed = self.before.root.header().seed;
        let root = RootImage::build(&tuples, self.elements.finish()?, seed, self.generation, 0)?;
        let windows = self.elements.pasts.values().map(|past| past.until_ms);
        deadlines.extend(windows.filter(|until| *until > self.now_ms));
        let mut groups: Vec<(usize, Group)> = self.groups.into_iter().map(|(g, i)| (i, g)).collect();
        groups.sort_unstable_by_key(|(i, _)| *i);
        let groups: Vec<Group> = groups.into_iter().map(|(_, g)| g).collect();
        deadlines.extend(groups.iter().filter_map(Group::next_deadline));
        let memory = Memory {
            groups,
            tuples: members,
            rewritten: self.rewritten,
            pods,
        };
        let next_deadline_ms = deadlines.into_iter().filter(|until| *until != ENDLESS).min();

        let (source4, source6) = (self.source4.finish()?, self.source6.finish()?);
        let (never4, never6) = (self.never4.finish()?, self.never6.finish()?);
        if self.before.generation > 0 && self.before.root.same_but_generation(&root) {
            // Equal roots name equal tables, so nothing is to be built or cleared either.
            let next = Arc::new(State {
                memory,
                proxied: self.elements.pasts,
                ..self.before.clone()
            });
            let generation = self.before.generation;
            return Ok(Plan {
                ops: Vec::new(),
                next_deadline_ms,
                generation,
                uncounted_rules: self.uncounted_rules,
                next,
            });
        }
        let mut ops = self.zero;
        ops.extend(source4.builds);
        ops.extend(source6.builds);
        ops.extend(never4.builds);
        ops.extend(never6.builds);
        let root = Arc::new(root);
        ops.push(Op::Swap { root: root.clone() });
        ops.extend(source4.clears);
        ops.extend(source6.clears);
        ops.extend(never4.clears);
        ops.extend(never6.clears);
        let names = saved::names(&self.listeners, &self.rules);
        let next = State {
            generation: self.generation,
            root,
            source4: source4.pool,
            source6: source6.pool,
            never4: never4.pool,
            never6: never6.pool,
            listeners: self.listeners,
            rules: self.rules,
            names,
            memory,
            proxied: self.elements.pasts,
        };
        Ok(Plan {
            ops,
            next_deadline_ms,
            generation: self.generation,
            uncounted_rules: self.uncounted_rules,
            next: Arc::new(next),
        })
    }

    /// The tuple without its tables.
    fn tuple(&self, key: &TupleKey, target: &Target) -> Tuple {
        let (addr, family) = match key.addr {
            IpAddr::V4(a) => {
                let [a, b, c, d] = a.octets();
                ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
            }
            IpAddr::V6(a) => (a.octets(), 6),
        };
        // A segment by the PROXY header is judged only if its connection's SYN came in here: it is no reply.
        let maybe_reply = target.node_address && target.proxy().is_none();
        let reset = target.reset && key.protocol == Protocol::Tcp;
        let flags = if target.observe { TUPLE_OBSERVE } else { 0 }
            | if maybe_reply { TUPLE_MAYBE_REPLY } else { 0 }
            | if reset { TUPLE_RESET } else { 0 }
            | if target.pod_address { TUPLE_POD } else { 0 };
        Tuple {
            addr,
            port: key.port,
            protocol: key.protocol.number(),
            family,
            flags,
            source_table: 0,
            never_table: 0,
            listener: self.listeners.get(&target.listener).unwrap_or(0),
            proxy: 0,
            _reserved: [0; 6],
        }
    }

    fn place_proxy(
        &mut self,
        key: TupleKey,
        tables: &Arc<ProxyTables>,
        observe: bool,
        drain_ms: u64,
    ) -> proxied::Placed {
        let mut pools = Pools {
            source4: &mut self.source4,
            source6: &mut self.source6,
            never4: &mut self.never4,
            never6: &mut self.never6,
        };
        self.elements.place(
            key,
            tables,
            observe,
            self.before.proxied.get(&key),
            self.now_ms,
            drain_ms,
            &self.rules,
            &mut pools,
        )
    }

    /// The tables of a TCP tuple. `all_new`: only new connections may be refused, whatever the source.
    fn place(
        &mut self,
        key: &TupleKey,
        tables: &SourceTables,
        observe: bool,
        all_new: bool,
        drain_ms: u64,
    ) -> Placed {
        let past = self.before.memory.group(key);
        let v4 = key.addr.is_ipv4();
        let table = if v4 {
            address(tables.table4.as_ref())
        } else {
            address(tables.table6.as_ref())
        };
        let never = if v4 {
            address(Some(&tables.never4))
        } else {
            address(Some(&tables.never6))
        };
        let id = (
            past.map(|(i, _)| i),
            table,
            never,
            [v4, observe, all_new],
            drain_ms,
        );
        if let Some(placed) = self.placed.get(&id) {
            return *placed;
        }
        let when = Drain {
            now_ms: self.now_ms,
            drain_ms,
            observe,
            all_new,
            rules: &self.rules,
        };
        let read = past.map(|(_, group)| group);
        let (group, placed) = if v4 {
            let before = match read {
                Some(Group::V4(zones)) => Some(Cow::Borrowed(zones)),
                Some(Group::Read(flat)) => Some(Cow::Owned(Zones::read(flat))),
                _ => None,
            };
            let (zones, placed) = when.place(
                before.as_deref(),
                tables.table4.as_deref(),
                &tables.never4,
                &mut self.source4,
                &mut self.never4,
            );
            (Group::V4(zones), placed)
        } else {
            let before = match read {
                Some(Group::V6(zones)) => Some(Cow::Borrowed(zones)),
                Some(Group::Read(flat)) => Some(Cow::Owned(Zones::read(flat))),
                _ => None,
            };
            let (zones, placed) = when.place(
                before.as_deref(),
                tables.table6.as_deref(),
                &tables.never6,
                &mut self.source6,
                &mut self.never6,
            );
            (Group::V6(zones), placed)
        };
        let count = self.groups.len();
        let group = *self.groups.entry(group).or_insert(count);
        let placed = Placed { group, ..placed };
        self.placed.insert(id, placed);
        placed
    }
}

/// The time, and what holds of a tuple besides its tables.
struct Drain<'a> {
    now_ms: u64,
    drain_ms: u64,
    observe: bool,
    all_new: bool,
    rules: &'a Indices,
}

impl Drain<'_> {
    /// `before`: what the tuple refused.
    fn place<N: Family>(
        &self,
        before: Option<&Zones<N>>,
        table: Option<&Table<N>>,
        never: &Arc<Vec<N>>,
        sources: &mut Next<'_, N>,
        nevers: &mut Next<'_, N>,
    ) -> (Zones<N>, Placed) {
        let refusing = table.filter(|_| !self.observe);
        let zones = Zones::next(before, refusing, never, self.now_ms, self.drain_ms);
        // All of what is refused is draining: a flag says so, and the table need not be built twice.
        let new_only = self.all_new || zones.drains_all();
        let source_table = table.map_or(0, |table| {
            let leaves = if new_only || !zones.drains() {
                Leaves::plain(table, self.rules)
            } else {
                Leaves::mixed(table, &zones, self.rules)
            };
            sources.place_leaves(leaves)
        });
        let never_table = if never.is_empty() {
            0
        } else {
            nevers.place(&leaves::never(never))
        };
        let placed = Placed {
            group: 0,
            source_table,
            never_table,
            new_only,
        };
        (zones, placed)
    }
}

/// Names of the rules that can drop, in the tables that are used.
fn rule_names(judged: &[(TupleKey, &Target)]) -> BTreeSet<Arc<str>> {
    let mut seen: BTreeSet<usize> = BTreeSet::new();
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    let tcp = judged.iter().filter(|(k, _)| k.protocol == Protocol::Tcp);
    let matrices = tcp.clone().filter_map(|(_, t)| t.proxy()?.matrix.as_ref());
    for matrix in matrices.filter(|m| seen.insert(address(Some(*m)))) {
        names.extend(matrix.verdicts.values().filter_map(refusing_rule));
    }
    for tables in tcp.filter_map(|(_, t)| t.source()) {
        if let Some(table) = &tables.table4
            && seen.insert(address(Some(table)))
        {
            names.extend(used(table).filter_map(refusing_rule));
        }
        if let Some(table) = &tables.table6
            && seen.insert(address(Some(table)))
        {
            names.extend(used(table).filter_map(refusing_rule));
        }
    }
    names
}

/// The outcomes that a table has.
fn used<N: Net>(table: &Table<N>) -> impl Iterator<Item = &Outcome> {
    let used = table.used().into_iter().zip(table.outcomes().iter());
    used.filter(|(used, _)| *used).map(|(_, outcome)| outcome)
}

fn refusing_rule(outcome: &Outcome) -> Option<Arc<str>> {
    outcome.rule.clone().filter(|_| outcome.verdict == Verdict::Drop)
}

/// Where a shared value lies, as its identity within one plan; 0 for none.
fn address<T>(shared: Option<&Arc<T>>) -> usize {
    shared.map_or(0, |a| Arc::as_ptr(a).addr())
}
