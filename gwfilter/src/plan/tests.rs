//! Capacities, sharing and scale. Verdicts over time are tested in `tests/plan_model.rs`.

mod shared;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use gwfilter_common::abi::{self, MAX_LISTENERS, MAX_RULES, MAX_TUPLES, TABLE_SLOTS};
use gwfilter_common::decide::{Action, decide};
use gwfilter_common::packet::Packet;
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;

use super::*;
use crate::desired::{ENDLESS, Judge, Outcome, SourceTables, Table4, Target, Verdict};
use crate::gateway::model::{Protocol, TupleKey};

const SETTINGS: Settings = Settings {
    drain_ms: 60_000,
    rewritten_drain_ms: 86_400_000,
};

fn key(n: u32) -> TupleKey {
    let addr = IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + n));
    TupleKey {
        addr,
        port: 443,
        protocol: Protocol::Tcp,
    }
}

fn target(listener: &str, table: Table4) -> Target {
    Target {
        listener: listener.into(),
        judge: Judge::Source(SourceTables {
            table4: Some(Arc::new(table)),
            ..SourceTables::default()
        }),
        observe: false,
        node_address: false,
        pod_address: false,
        reset: false,
        drain_ms: 0,
    }
}

/// Denies one host, by a rule of this name.
fn deny(host: u32, rule: &str) -> Table4 {
    let outcome = Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(rule.into()),
    };
    Table4::from([(Ipv4Net::from(Ipv4Addr::from_bits(0x0a00_0000 + host)), outcome)])
}

fn desired(tuples: impl IntoIterator<Item = (TupleKey, Target)>) -> Desired {
    Desired {
        tuples: tuples.into_iter().collect(),
        rewritten: Vec::new(),
    }
}

fn counts(plan: &Plan) -> [usize; 4] {
    plan.ops
        .iter()
        .fold([0; 4], |[zero, build, swap, clear], op| match op {
            Op::ZeroRule { .. } | Op::ZeroListener { .. } => [zero + 1, build, swap, clear],
            Op::Build4 { .. } | Op::Build6 { .. } | Op::BuildFlat { .. } => [zero, build + 1, swap, clear],
            Op::Swap { .. } => [zero, build, swap + 1, clear],
            Op::Clear { .. } => [zero, build, swap, clear + 1],
        })
}

#[test]
fn plan_given_equal_tables_then_they_share_a_slot_and_nothing_is_built_twice() {
    let mut planner = Planner::new(SETTINGS);
    let both = desired([
        (key(1), target("a/b:x", deny(1, "r"))),
        (key(2), target("a/b:y", deny(1, "r"))),
    ]);
    let plan = planner.plan(&both, 0).unwrap();
    assert_eq!(counts(&plan), [3, 1, 1, 0]);
    planner.commit(&plan);
    let again = planner.plan(&both, 1).unwrap();
    assert_eq!((counts(&again), again.generation), ([0; 4], 1), "nothing to do");
    // When the window is over a flag goes; the table stays as it is.
    let later = planner.plan(&both, 60_000).unwrap();
    assert_eq!(counts(&later), [0, 0, 1, 0]);
    assert_eq!(
        (plan.next_deadline_ms, later.next_deadline_ms),
        (Some(60_000), None)
    );
    planner.commit(&later);
    // One of the two changes: its table is new, the other's is left alone and nothing is freed.
    let mut changed = both.clone();
    changed.tuples.insert(key(2), target("a/b:y", deny(2, "r")));
    let plan = planner.plan(&changed, 100_000).unwrap();
    assert_eq!(counts(&plan), [0, 1, 1, 0]);
    planner.commit(&plan);
    assert_eq!(
        counts(&planner.plan(&Desired::default(), 100_001).unwrap()),
        [0, 0, 1, 2]
    );
}

#[test]
fn plan_given_more_than_a_capacity_then_an_error_with_the_numbers_and_nothing_changes() {
    let planner = Planner::new(SETTINGS);
    let tuples = u32::try_from(MAX_TUPLES).unwrap() + 1;
    let one = target("a/b:x", deny(1, "r"));
    let error = planner
        .plan(&desired((0..tuples).map(|n| (key(n), one.clone()))), 0)
        .unwrap_err();
    assert_eq!(
        error,
        PlanError::TooManyTuples {
            tuples: 4097,
            max: 4096
        }
    );

    let listeners = (0..MAX_LISTENERS).map(|n| (key(n), target(&format!("a/b:{n}"), deny(1, "r"))));
    let error = planner.plan(&desired(listeners), 0).unwrap_err();
    assert_eq!(
        error,
        PlanError::TooManyListeners {
            wanted: 512,
            in_force: 0,
            max: 511
        }
    );

    // Two generations of different tables do not fit beside each other; one does.
    let tables = |from: u32| desired((0..300).map(|n| (key(n), target("a/b:x", deny(from + n, "r")))));
    let mut planner = Planner::new(SETTINGS);
    let plan = planner.plan(&tables(0), 0).unwrap();
    planner.commit(&plan);
    let error = planner.plan(&tables(1000), 0).unwrap_err();
    let expected = PlanError::TooManyTables {
        kind: Kind::Source4,
        wanted: 300,
        in_force: 300,
        max: TABLE_SLOTS - 1,
    };
    assert_eq!(error, expected);
    assert!(
        error
            .to_string()
            .contains("300 new IPv4 source tables, but 300 are in force"),
        "{error}"
    );
    // A smaller step still goes.
    let mut step = tables(0);
    step.tuples.extend(tables(1000).tuples.into_iter().take(200));
    assert!(planner.plan(&step, 0).is_ok());
}

#[test]
fn plan_given_more_rules_than_counters_then_the_rest_drop_uncounted() {
    let outcome = |n: u32| Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(format!("rule[{n:05}]").into()),
    };
    let table: Table4 = (0..MAX_RULES + 10)
        .map(|n| (Ipv4Net::from(Ipv4Addr::from_bits(0x0a00_0000 + n)), outcome(n)))
        .collect();
    let plan = Planner::new(SETTINGS)
        .plan(&desired([(key(1), target("a/b:x", table))]), 0)
        .unwrap();
    // Index 0 is nobody's, so one rule less than there are counters has one.
    assert_eq!(plan.uncounted_rules.len(), 11);
    let mut image = Image::default();
    plan.ops.iter().for_each(|op| image.apply(op));
    for n in [0, MAX_RULES - 2, MAX_RULES - 1, MAX_RULES + 9] {
        let source = SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 1);
        let frame = Packet::syn(source, SocketAddr::new(key(1).addr, 443))
            .build()
            .unwrap();
        let decision = decide(&SliceReader(frame.bytes()), &image, &());
        assert_eq!(
            (decision.action, decision.rule == 0),
            (Action::Drop, n >= MAX_RULES - 1),
            "{n}"
        );
    }
}

/// A table of 100,000 refused prefixes of which a part is tightened again and again: each plan must stay far from
/// quadratic. The bound is loose, for slow machines; quadratic would take minutes.
#[test]
fn plan_given_100_000_prefixes_and_overlapping_windows_then_it_ends_soon() {
    let deny = Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some("r".into()),
    };
    let full: Table4 = (0..100_000)
        .map(|n| (Ipv4Net::new_assert(Ipv4Addr::from_bits(n << 9), 24), deny.clone()))
        .collect();
    let mut planner = Planner::new(SETTINGS);
    let started = Instant::now();
    for (step, parts) in [4, 3, 2, 1].into_iter().enumerate() {
        let table: Table4 = full
            .iter()
            .enumerate()
            .filter(|(i, _)| i % parts == 0)
            .map(|(_, (n, o))| (n, o.clone()))
            .collect();
        let plan = planner
            .plan(
                &desired([(key(1), target("a/b:x", table))]),
                step as u64 * 61_000 / 2,
            )
            .unwrap();
        assert_eq!(counts(&plan)[1], 1);
        planner.commit(&plan);
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn plan_given_gateways_that_drain_for_longer_then_each_for_its_own_time_and_one_without_an_end() {
    let mut planner = Planner::new(SETTINGS);
    let windows = [0, 315_000, ENDLESS];
    let wanted = |windows: [u64; 3]| {
        desired((1..).zip(windows).map(|(n, drain_ms)| {
            let target = target("a/b:x", deny(1, "r"));
            (key(n), Target { drain_ms, ..target })
        }))
    };
    let spared = |planner: &Planner| {
        let root = planner.state.root.clone();
        let mut flags: Vec<(u32, bool)> = root
            .slots()
            .filter(|(at, _)| (abi::BUCKETS_START..abi::PROXY_START).contains(at))
            .map(|(_, slot)| abi::Tuple::from_slot(slot))
            .map(|t| (u32::from(t.addr[3]), t.flags & abi::TUPLE_NEW_ONLY != 0))
            .collect();
        flags.sort_unstable();
        flags
            .into_iter()
            .map(|(_, new_only)| new_only)
            .collect::<Vec<_>>()
    };
    let mut at = |now_ms: u64, windows| {
        let plan = planner.plan(&wanted(windows), now_ms).unwrap();
        planner.commit(&plan);
        (spared(&planner), plan.next_deadline_ms)
    };
    assert_eq!(at(0, windows), (vec![true, true, true], Some(60_000)));
    assert_eq!(at(60_000, windows), (vec![false, true, true], Some(315_000)));
    assert_eq!(at(314_999, windows), (vec![false, true, true], Some(315_000)));
    assert_eq!(at(315_000, windows), (vec![false, false, true], None));
    let late = 1_000_000_000_000;
    assert_eq!(at(late, windows), (vec![false, false, true], None));
    // It became known: from then on it is a window like others.
    let known = [0, 315_000, 100_000];
    assert_eq!(at(late, known), (vec![false, false, true], Some(late + 100_000)));
    assert_eq!(at(late + 100_000, known), (vec![false, false, false], None));
}
