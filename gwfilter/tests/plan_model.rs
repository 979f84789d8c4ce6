//! The planner against a slow model that keeps the whole history.
//!
//! Random histories of desired generations, some of which fail while they are applied; after each step every packet of a small
//! world (all destinations × all sources × SYN or not) is decided by the real `decide()` over the image of the maps, and compared
//! with what the history says. While operations are applied, every packet meets the old or the new generation.

#![expect(clippy::expect_used, clippy::panic, reason = "test helpers")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use gwfilter::desired::{Desired, Judge, Outcome, SourceTables, Target, Verdict};
use gwfilter::gateway::model::{Protocol, TupleKey};
use gwfilter::plan::{Image, Op, Planner, Settings};
use gwfilter_common::decide::{Action, Decision, decide};
use gwfilter_common::packet::Packet;
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

const DRAIN: u64 = 60;
const REWRITTEN: u64 = 200;

/// What is asked: a packet of the small world.
#[derive(Clone, Copy, Debug)]
struct Query {
    key: TupleKey,
    source: IpAddr,
    syn: bool,
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn v6(last: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into()
}

/// Destinations: four of IPv4 (one of them UDP), one of IPv6.
fn keys() -> Vec<TupleKey> {
    let four = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let key = |addr, port, protocol| TupleKey { addr, port, protocol };
    vec![
        key(four, 80, Protocol::Tcp),
        key(four, 443, Protocol::Tcp),
        key(four, 30080, Protocol::Tcp),
        key(four, 443, Protocol::Udp),
        key(v6(0x100), 443, Protocol::Tcp),
    ]
}

fn queries() -> Vec<Query> {
    let mut all = Vec::new();
    for key in keys() {
        for last in 0..16 {
            let source = if key.addr.is_ipv4() {
                v4(last)
            } else {
                v6(last.into())
            };
            all.extend([true, false].map(|syn| Query { key, source, syn }));
        }
    }
    all
}

fn ask(image: &Image, q: Query) -> Decision {
    let (source, dest) = (
        SocketAddr::new(q.source, 40000),
        SocketAddr::new(q.key.addr, q.key.port),
    );
    let packet = match (q.key.protocol, q.syn) {
        (Protocol::Udp, _) => Packet::udp(source, dest),
        (Protocol::Tcp, true) => Packet::syn(source, dest),
        (Protocol::Tcp, false) => Packet::tcp(source, dest, 0x10),
    };
    decide(
        &SliceReader(packet.build().expect("a packet of one family").bytes()),
        image,
        &(),
    )
}

/// The outcome that refuses `source` at `key` in this generation, if any does: straight from the definition.
fn refusal(desired: &Desired, key: &TupleKey, source: IpAddr) -> Option<Outcome> {
    let target = desired.tuples.get(key)?;
    if key.protocol == Protocol::Udp || target.observe || desired.rewritten.contains(key) {
        return None;
    }
    let tables = target.source()?;
    let found = match source {
        IpAddr::V4(a) if !tables.never4.iter().any(|n| n.contains(&a)) => {
            let table = tables.table4.as_ref()?;
            table
                .iter()
                .filter(|(n, _)| n.contains(&a))
                .max_by_key(|(n, _)| n.prefix_len())
                .map(|(_, o)| o)
        }
        IpAddr::V6(a) if !tables.never6.iter().any(|n| n.contains(&a)) => {
            let table = tables.table6.as_ref()?;
            table
                .iter()
                .filter(|(n, _)| n.contains(&a))
                .max_by_key(|(n, _)| n.prefix_len())
                .map(|(_, o)| o)
        }
        _ => None,
    };
    found.filter(|o| o.verdict == Verdict::Drop).cloned()
}

/// Every generation that came into force, with the time of it.
#[derive(Default)]
struct History(Vec<(u64, Desired)>);

impl History {
    /// Whether the packet is to be dropped at `now`, and by what.
    fn expected(&self, q: Query, now: u64) -> Option<Outcome> {
        let (_, last) = self.0.last()?;
        let outcome = refusal(last, &q.key, q.source)?;
        if q.syn {
            return Some(outcome);
        }
        if last.tuples.get(&q.key).is_some_and(|t| t.node_address) {
            return None;
        }
        // Refused without a break since when?
        let since = self
            .0
            .iter()
            .rev()
            .take_while(|(_, d)| refusal(d, &q.key, q.source).is_some())
            .last()
            .map_or(now, |(t, _)| *t);
        // Rewritten last until when?
        let rewritten = self
            .0
            .iter()
            .zip(self.0.iter().skip(1))
            .filter(|((_, d), _)| d.rewritten.contains(&q.key))
            .map(|(_, (until, _))| *until)
            .next_back();
        let over = now >= since + DRAIN && rewritten.is_none_or(|t| now >= t + REWRITTEN);
        over.then_some(outcome)
    }
}

/// The maps, the planner and the history.
struct World {
    planner: Planner,
    image: Image,
    history: History,
    now: u64,
    deadline: Option<u64>,
    /// Whose packets each rule's counter has counted since it was zeroed.
    counted: BTreeMap<u32, BTreeSet<Arc<str>>>,
}

impl World {
    fn new() -> Self {
        Self {
            planner: Planner::new(Settings {
                drain_ms: DRAIN,
                rewritten_drain_ms: REWRITTEN,
            }),
            image: Image::default(),
            history: History::default(),
            now: 1000,
            deadline: None,
            counted: BTreeMap::new(),
        }
    }

    /// Plans and applies; with `fail_at` only so many operations before the swap, and then nothing is committed.
    fn apply(&mut self, desired: &Desired, fail_at: Option<usize>) {
        let plan = self.planner.plan(desired, self.now).expect("a small world fits");
        let old: Vec<Decision> = queries().into_iter().map(|q| ask(&self.image, q)).collect();
        let swap = plan.ops.iter().position(|op| matches!(op, Op::Swap { .. }));
        let mut new: Option<Vec<Decision>> = None;
        for (i, op) in plan.ops.iter().enumerate() {
            if fail_at.is_some_and(|at| i >= at.min(swap.unwrap_or(0))) {
                return;
            }
            self.image.apply(op);
            // No counter in force is ever zeroed.
            match op {
                Op::ZeroRule { index } => {
                    assert!(old.iter().all(|d| d.rule != *index), "{op:?}");
                    self.counted.remove(index);
                }
                Op::ZeroListener { index } => assert!(old.iter().all(|d| d.listener != *index), "{op:?}"),
                _ => {}
            }
            let seen: Vec<Decision> = queries().into_iter().map(|q| ask(&self.image, q)).collect();
            if Some(i) < swap {
                assert_eq!(
                    seen, old,
                    "an operation before the swap changed a verdict: {op:?}"
                );
            } else if let Some(new) = &new {
                assert_eq!(
                    &seen, new,
                    "an operation after the swap changed a verdict: {op:?}"
                );
            } else {
                new = Some(seen);
            }
        }
        if fail_at.is_some() {
            return;
        }
        self.planner.commit(&plan);
        self.deadline = plan.next_deadline_ms;
        if self.history.0.last().map(|(_, d)| d) != Some(desired) {
            self.history.0.push((self.now, desired.clone()));
        }
        self.check();
    }

    /// Time passes; the agent plans again whenever the planner asked for it.
    fn pass(&mut self, time: u64) {
        let until = self.now + time;
        while let Some(deadline) = self.deadline.filter(|d| *d <= until) {
            assert!(deadline > self.now, "a deadline in the past");
            self.now = deadline;
            let desired = self
                .history
                .0
                .last()
                .map(|(_, d)| d.clone())
                .expect("a deadline has a generation");
            self.apply(&desired, None);
        }
        self.now = until;
        self.check();
    }

    fn check(&mut self) {
        for q in queries() {
            let got = ask(&self.image, q);
            let expected = self.history.expected(q, self.now);
            let last = self.history.0.last().map(|(_, d)| d);
            let context = || format!("{q:?} at {} gave {got:?}, expected {expected:?}", self.now);
            match &expected {
                None => assert_eq!(got.action, Action::Pass, "{}", context()),
                Some(o) => {
                    assert_eq!(
                        (got.action, got.reason),
                        (Action::Drop, o.reason),
                        "{}",
                        context()
                    );
                    let name = self.planner.names().rules.get(&got.rule);
                    assert_eq!(name, o.rule.as_ref(), "{}", context());
                    if let Some(name) = name {
                        let owners = self.counted.entry(got.rule).or_default();
                        owners.insert(name.clone());
                        assert_eq!(
                            owners.len(),
                            1,
                            "two rules were counted at {}: {owners:?}",
                            got.rule
                        );
                    }
                }
            }
            let Some(last) = last else {
                assert_eq!(got.reason, Reason::TableMissing, "{}", context());
                continue;
            };
            let judged = !last.rewritten.contains(&q.key);
            let target = last.tuples.get(&q.key).filter(|_| judged);
            match target {
                None => assert_eq!(got.reason, Reason::NotAGateway, "{}", context()),
                Some(t) => {
                    let name = self
                        .planner
                        .names()
                        .listeners
                        .get(&got.listener)
                        .expect("a listener's name");
                    assert_eq!(
                        format!("{}:{}", name.gateway, name.listener),
                        *t.listener,
                        "{}",
                        context()
                    );
                }
            }
        }
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome { verdict: Verdict::Pass, reason: Reason::Allowed, rule: None }),
        3 => (0..5u8).prop_map(|n| Outcome {
            verdict: Verdict::Drop,
            reason: if n % 2 == 0 { Reason::DeniedByRule } else { Reason::NoRuleAllows },
            rule: (n > 0).then(|| format!("ns[a]-policy[p]-rule[{n}]").into()),
        }),
    ]
}

fn net4() -> impl Strategy<Value = Ipv4Net> {
    (0u8..16, prop_oneof![Just(0u8), 24..=32u8]).prop_map(|(a, len)| {
        Ipv4Net::new(Ipv4Addr::new(10, 0, 0, a), len)
            .expect("a length of IPv4")
            .trunc()
    })
}

fn net6() -> impl Strategy<Value = Ipv6Net> {
    (0u16..16, prop_oneof![Just(0u8), 120..=128u8]).prop_map(|(a, len)| {
        let IpAddr::V6(addr) = v6(a) else { panic!("IPv6") };
        Ipv6Net::new(addr, len).expect("a length of IPv6").trunc()
    })
}

fn target() -> impl Strategy<Value = Target> {
    (
        0..3u8,
        prop::option::weighted(0.9, prop::collection::btree_map(net4(), outcome(), 0..6)),
        prop::option::weighted(0.9, prop::collection::btree_map(net6(), outcome(), 0..6)),
        prop::collection::vec(net4().prop_filter("not all", |n| n.prefix_len() > 0), 0..2),
        prop::collection::vec(net6().prop_filter("not all", |n| n.prefix_len() > 0), 0..2),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.15),
    )
        .prop_map(
            |(name, table4, table6, never4, never6, observe, node_address)| Target {
                listener: format!("ns/gw:{name}").into(),
                judge: Judge::Source(SourceTables {
                    table4: table4.map(|t| Arc::new(t.into_iter().collect())),
                    table6: table6.map(|t| Arc::new(t.into_iter().collect())),
                    never4: Arc::new(never4),
                    never6: Arc::new(never6),
                }),
                observe,
                node_address,
                pod_address: false,
                reset: false,
                drain_ms: 0,
            },
        )
}

/// Few targets, and tuples that pick from them, so that equal tables, flaps and returns are common.
#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    pick: Vec<Option<usize>>,
    rewritten: Vec<bool>,
    fail_at: Option<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop_oneof![0..30u64, 50..70u64, 100..250u64],
        prop::collection::vec(prop::option::weighted(0.85, 0..4usize), 5),
        prop::collection::vec(prop::bool::weighted(0.1), 5),
        prop::option::weighted(0.2, 0..6usize),
    )
        .prop_map(|(wait, pick, rewritten, fail_at)| Step {
            wait,
            pick,
            rewritten,
            fail_at,
        })
}

fn desired(targets: &[Target], step: &Step) -> Desired {
    let tuples = keys()
        .into_iter()
        .zip(&step.pick)
        .filter_map(|(k, p)| Some((k, targets.get((*p)?)?.clone())));
    let rewritten = keys()
        .into_iter()
        .zip(&step.rewritten)
        .filter(|(_, r)| **r)
        .map(|(k, _)| k);
    Desired {
        tuples: tuples.collect(),
        rewritten: rewritten.collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_generations_then_the_maps_do_what_the_history_says(
        targets in prop::collection::vec(target(), 4),
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.apply(&desired(&targets, step), step.fail_at);
            world.pass(step.wait);
        }
    }
}
