use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use gwfilter_common::abi::{TUPLE_NEW_ONLY, Tuple};
use ipnet::Ipv4Net;

use super::*;
use crate::desired::{Desired, Judge, Outcome, SourceTables, Target, Verdict};
use crate::gateway::model::{Protocol, TupleKey};
use gwfilter_common::reason::Reason;

const SETTINGS: Settings = Settings {
    drain_ms: 60_000,
    rewritten_drain_ms: 86_400_000,
};

fn key(n: u32) -> TupleKey {
    TupleKey {
        addr: IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + n)),
        port: 443,
        protocol: Protocol::Tcp,
    }
}

/// Destinations with the hosts that are denied there, each by a rule of its own name.
fn desired(tuples: &[(u32, &[u32])]) -> Desired {
    let rule = |host: &u32| Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(format!("deny-{host}").into()),
    };
    let target = |hosts: &[u32]| Target {
        listener: "a/b:x".into(),
        judge: Judge::Source(SourceTables {
            table4: Some(Arc::new(
                hosts
                    .iter()
                    .map(|h| (Ipv4Net::from(Ipv4Addr::from_bits(0x0a00_0000 + h)), rule(h)))
                    .collect(),
            )),
            ..SourceTables::default()
        }),
        observe: false,
        node_address: false,
        pod_address: false,
        reset: false,
        drain_ms: 0,
    };
    Desired {
        tuples: tuples.iter().map(|(n, hosts)| (key(*n), target(hosts))).collect(),
        rewritten: Vec::new(),
    }
}

#[track_caller]
fn go(planner: &mut Planner, desired: &Desired, now_ms: u64) -> Plan {
    let plan = planner.plan(desired, now_ms).unwrap();
    planner.commit(&plan);
    plan
}

/// The next agent, after a restart.
fn restart(planner: &Planner) -> Planner {
    let past = Past::decode(&planner.draining().encode()).unwrap();
    Planner::resume(SETTINGS, Some(&planner.counters(None)), past)
}

/// Whether only new connections are refused at the destinations in force, whatever the source.
fn new_only(plan: &Plan) -> Vec<bool> {
    let root = plan.ops.iter().find_map(|op| match op {
        Op::Swap { root } => Some(root.clone()),
        _ => None,
    });
    let root = root.unwrap();
    let tuples = root
        .slots()
        .map(|(_, slot)| Tuple::from_slot(slot))
        .filter(|t| t.port == 443);
    tuples.map(|t| t.flags & TUPLE_NEW_ONLY != 0).collect()
}

#[test]
fn a_restart_within_the_window_then_its_end_is_where_it_was_and_nothing_else_drains() {
    let mut planner = Planner::new(SETTINGS);
    go(&mut planner, &desired(&[(1, &[1])]), 1_000);
    let mut planner = restart(&planner);
    let plan = go(&mut planner, &desired(&[(1, &[1])]), 31_000);
    assert_eq!(
        (new_only(&plan), plan.next_deadline_ms),
        (vec![true], Some(61_000))
    );
    let plan = go(&mut planner, &desired(&[(1, &[1])]), 61_000);
    assert_eq!((new_only(&plan), plan.next_deadline_ms), (vec![false], None));
    // Settled before the restart, settled after it: only what is refused anew drains.
    let mut planner = restart(&planner);
    let plan = go(&mut planner, &desired(&[(1, &[1])]), 70_000);
    assert_eq!((new_only(&plan), plan.next_deadline_ms), (vec![false], None));
    let mut planner = restart(&planner);
    let plan = go(&mut planner, &desired(&[(1, &[1, 2])]), 80_000);
    assert_eq!(plan.next_deadline_ms, Some(140_000));
}

#[test]
fn settled_and_then_let_in_for_a_time_then_it_drains_anew_without_a_restart() {
    let mut planner = Planner::new(SETTINGS);
    let one = desired(&[(1, &[1])]);
    go(&mut planner, &one, 1_000);
    go(&mut planner, &one, 61_000);
    assert!(go(&mut planner, &one, 70_000).ops.is_empty(), "settled");
    planner.revise(Past::let_in);
    let plan = go(&mut planner, &one, 80_000);
    assert_eq!(
        (new_only(&plan), plan.next_deadline_ms),
        (vec![true], Some(140_000))
    );
    let plan = go(&mut planner, &one, 140_000);
    assert_eq!((new_only(&plan), plan.next_deadline_ms), (vec![false], None));
}

#[test]
fn a_restart_after_cluster_became_local_then_the_long_window_goes_on() {
    let mut planner = Planner::new(SETTINGS);
    let cluster = Desired {
        tuples: BTreeMap::new(),
        rewritten: vec![key(1)],
    };
    go(&mut planner, &cluster, 0);
    let mut planner = restart(&planner);
    let plan = go(&mut planner, &desired(&[(1, &[1])]), 10_000);
    let end = 10_000 + SETTINGS.rewritten_drain_ms;
    assert_eq!(new_only(&plan), [true]);
    // Also where all else is forgotten.
    let past = Past::decode(&planner.draining().encode()).unwrap().let_in();
    let mut planner = Planner::resume(SETTINGS, None, past);
    let plan = go(&mut planner, &desired(&[(1, &[1])]), 200_000);
    assert_eq!(new_only(&plan), [true]);
    let plan = go(&mut planner, &desired(&[(1, &[1])]), 300_000);
    assert_eq!(plan.next_deadline_ms, Some(end));
    assert!(plan.ops.is_empty() || new_only(&plan) == [true]);
    assert_eq!(new_only(&go(&mut planner, &desired(&[(1, &[1])]), end)), [false]);
}

#[test]
fn what_was_let_in_meanwhile_then_it_drains_again() {
    let mut planner = Planner::new(SETTINGS);
    let mut both = desired(&[(1, &[1]), (2, &[1])]);
    both.tuples.get_mut(&key(2)).unwrap().pod_address = true;
    go(&mut planner, &both, 0);
    go(&mut planner, &both, 60_000);
    let past = || Past::decode(&planner.draining().encode()).unwrap();
    for (past, wanted) in [
        (past(), [false, false]),
        (past().let_in(), [true, true]),
        (past().let_in_at_pods(), [false, true]),
    ] {
        let mut next = Planner::resume(SETTINGS, None, past);
        let plan = go(&mut next, &both, 100_000);
        let mut seen = new_only(&plan);
        seen.sort_unstable();
        assert_eq!(seen, wanted);
    }
}

#[test]
fn counters_after_a_restart_then_each_name_has_its_index_and_none_is_zeroed() {
    let mut planner = Planner::new(SETTINGS);
    go(&mut planner, &desired(&[(1, &[5, 6])]), 0);
    go(&mut planner, &desired(&[(1, &[6, 7])]), 1);
    let before = planner.names().clone();
    let mut planner = restart(&planner);
    assert_eq!(planner.names(), &before);
    let plan = planner.plan(&desired(&[(1, &[6, 7])]), 2).unwrap();
    assert!(plan.parts().0.is_empty(), "{:?}", plan.parts().0);
    assert_eq!(plan.generation, 3);
    planner.commit(&plan);
    assert_eq!(planner.names(), &before);
}

#[test]
fn a_crash_between_the_note_and_the_swap_then_no_index_in_use_is_given_away() {
    let limit = super::super::draft::RULES;
    let many: Vec<u32> = (1..limit).collect();
    let mut planner = Planner::new(SETTINGS);
    // Every counter has an owner in force.
    go(&mut planner, &desired(&[(1, &many)]), 0);
    // The next generation is noted, and never comes into force.
    let fewer: Vec<u32> = (2..limit).collect();
    let plan = planner.plan(&desired(&[(1, &fewer)]), 1).unwrap();
    let noted = planner.counters(Some(&plan));
    let mut planner = Planner::resume(SETTINGS, Some(&noted), Past::default());
    let newcomer: Vec<u32> = (2..=limit).collect();
    let plan = go(&mut planner, &desired(&[(1, &newcomer)]), 2);
    // Packets are still counted for deny-1 until the programs are replaced.
    assert_eq!(plan.uncounted_rules, [Arc::from(format!("deny-{limit}"))]);
    let plan = go(&mut planner, &desired(&[(1, &newcomer)]), 3);
    assert!(
        plan.uncounted_rules.is_empty(),
        "and after the swap its counter is free"
    );
}

#[test]
fn the_owners_of_new_counters_then_noted_between_the_zeroing_and_all_else() {
    let planner = Planner::new(SETTINGS);
    let plan = planner.plan(&desired(&[(1, &[1])]), 0).unwrap();
    let (zero, rest) = plan.parts();
    assert_eq!(zero.len(), 2, "a rule and a listener");
    assert!(
        !rest
            .iter()
            .any(|op| matches!(op, Op::ZeroRule { .. } | Op::ZeroListener { .. }))
    );
    assert_eq!(zero.len() + rest.len(), plan.ops.len());
    let noted = planner.counters(Some(&plan));
    assert_eq!((noted.in_force, noted.generation), (0, 1));
    assert_eq!(noted.rules, [("deny-1".to_owned(), 1, 1)]);
}

#[test]
fn text_that_is_damaged_then_not_believed() {
    assert_eq!(Past::decode(b""), None);
    assert_eq!(Past::decode(b"{}"), None);
    let text = |refused: &str| {
        format!(
            r#"{{"groups":[{{"refused":[{refused}],"draining":[]}}],"tuples":[],"rewritten":[],"pods":[]}}"#
        )
    };
    let decode = |refused: &str| Past::decode(text(refused).as_bytes()).is_some();
    assert!(decode(r#"[1,2],[3,3]"#));
    // As earlier agents wrote it.
    let older = r#"{"first":1,"last":2},{"first":3,"last":340282366920938463463374607431768211455}"#;
    let newer = "[1,2],[3,340282366920938463463374607431768211455]";
    assert!(decode(older));
    assert_eq!(
        Past::decode(text(older).as_bytes()),
        Past::decode(text(newer).as_bytes())
    );
    for wrong in [r#"[2,1]"#, r#"[1,3],[3,4]"#, r#"[5,5],[1,1]"#] {
        assert!(!decode(wrong), "{wrong}");
    }
}

#[test]
fn counters_that_are_damaged_then_what_fits_is_taken() {
    let counters = Counters {
        in_force: 1,
        generation: 1,
        listeners: vec![("a/b:x".to_owned(), 0, 1), ("a/b:y".to_owned(), u32::MAX, 1)],
        rules: vec![("r".to_owned(), 3, 1), ("s".to_owned(), 3, 1)],
    };
    let planner = Planner::resume(SETTINGS, Some(&counters), Past::default());
    assert!(planner.names().listeners.is_empty());
    assert_eq!(planner.names().rules.len(), 1);
}
