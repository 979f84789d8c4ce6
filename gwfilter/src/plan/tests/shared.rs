//! Tables that share shards with those before them are planned as the same tables that share nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use gwfilter_common::decide::{Action, decide};
use gwfilter_common::packet::{Frame, Packet};
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;
use proptest::prelude::*;

use super::super::*;
use crate::desired::{Judge, Outcome, SourceTables, Table4, Target, Verdict};
use crate::gateway::model::Protocol;
use crate::table::{Piece, Shard};

const DRAIN: Settings = Settings {
    drain_ms: 60,
    rewritten_drain_ms: 60,
};

/// What the tables of all steps have in common.
fn outcomes() -> Vec<Outcome> {
    let drop = |rule: &str| Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(rule.into()),
    };
    let pass = Outcome {
        verdict: Verdict::Pass,
        reason: Reason::Allowed,
        rule: None,
    };
    vec![drop("a"), drop("b"), pass]
}

/// Small prefixes of 10.0.0.0/25, so that every address can be tried.
fn net() -> impl Strategy<Value = Ipv4Net> {
    (0..128_u8, 26..=32_u8).prop_map(|(host, length)| {
        Ipv4Net::new(Ipv4Addr::new(10, 0, 0, host), length)
            .unwrap_or_default()
            .trunc()
    })
}

#[derive(Clone, Debug)]
struct Step {
    wait: u64,
    /// Prefixes that change, with their outcome or none.
    changes: Vec<(Ipv4Net, Option<u32>)>,
    never: Vec<Ipv4Net>,
    observe: bool,
    recut: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (net(), prop::option::weighted(0.7, 0..3_u32));
    (
        0..80_u64,
        prop::collection::vec(change, 0..4),
        prop::collection::vec(net(), 0..2),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(wait, changes, never, observe, recut)| Step {
            wait,
            changes,
            never,
            observe,
            recut,
        })
}

/// The table cut at every eighth address, or once; shards that say what those before say are the same.
fn cut_like(whole: &Table4, before: Option<&Table4>, step: u32) -> Table4 {
    let starts: Vec<u32> = [0]
        .into_iter()
        .chain((0..128).step_by(step as usize).map(|host| 0x0a00_0000 + host))
        .collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u32::MAX]);
    let number = |outcome| (0..).zip(outcomes()).find(|(_, o)| o == outcome);
    let numbers: Vec<u32> = whole
        .outcomes()
        .iter()
        .filter_map(|outcome| Some(number(outcome)?.0))
        .collect();
    let shards = starts.iter().zip(ends).enumerate().map(|(at, (&from, to))| {
        let inside = |(low, high, n): Piece<u32>| {
            let (low, high) = (low.max(from), high.min(to));
            (low <= high).then_some((low, high, numbers.get(n as usize).copied().unwrap_or(9)))
        };
        let shard = Shard::new(whole.pieces().filter_map(inside).collect());
        let old = before.filter(|before| before.starts().as_slice() == starts);
        let old = old
            .and_then(|before| before.shards().get(at))
            .filter(|old| ***old == shard);
        old.cloned().unwrap_or_else(|| Arc::new(shard))
    });
    let shards = shards.collect();
    Table4::new(Arc::new(outcomes()), Arc::new(starts), shards)
}

fn key() -> TupleKey {
    TupleKey {
        addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        port: 443,
        protocol: Protocol::Tcp,
    }
}

fn desired(table: Table4, step: &Step) -> Desired {
    let target = Target {
        listener: "a/b:x".into(),
        judge: Judge::Source(SourceTables {
            table4: Some(Arc::new(table)),
            never4: Arc::new(step.never.clone()),
            ..SourceTables::default()
        }),
        observe: step.observe,
        node_address: false,
        pod_address: false,
        reset: false,
        drain_ms: 0,
    };
    Desired {
        tuples: [(key(), target)].into(),
        rewritten: Vec::new(),
    }
}

fn dropped(image: &Image, host: u8, syn: bool) -> bool {
    let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), 40_000);
    let dest = SocketAddr::new(key().addr, key().port);
    let packet = if syn {
        Packet::syn(source, dest)
    } else {
        Packet::tcp(source, dest, 0x10)
    };
    let packet = packet.build();
    let bytes = packet.as_ref().map(Frame::bytes).unwrap_or_default();
    decide(&SliceReader(bytes), image, &()).action == Action::Drop
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_tables_that_share_shards_then_as_if_they_did_not(steps in prop::collection::vec(step(), 1..12)) {
        let mut nets: BTreeMap<Ipv4Net, u32> = BTreeMap::new();
        let (mut sharing, mut apart) = (Planner::new(DRAIN), Planner::new(DRAIN));
        let mut images = (Image::default(), Image::default());
        let (mut now, mut last, mut cuts) = (0, None, 8);
        for step in &steps {
            now += step.wait;
            for (net, outcome) in &step.changes {
                match outcome {
                    Some(outcome) => drop(nets.insert(*net, *outcome)),
                    None => drop(nets.remove(net)),
                }
            }
            cuts = if step.recut { 40 - cuts } else { cuts };
            let whole: Table4 = nets
                .iter()
                .filter_map(|(net, n)| Some((*net, outcomes().get(*n as usize)?.clone())))
                .collect();
            let table = cut_like(&whole, last.as_ref(), cuts);
            prop_assert_eq!(&table, &whole);
            let one = sharing.plan(&desired(table.clone(), step), now).unwrap();
            let two = apart.plan(&desired(whole, step), now).unwrap();
            last = Some(table);
            one.ops.iter().for_each(|op| images.0.apply(op));
            two.ops.iter().for_each(|op| images.1.apply(op));
            sharing.commit(&one);
            apart.commit(&two);
            prop_assert_eq!(one.next_deadline_ms, two.next_deadline_ms);
            let past = |planner: &Planner| Past::decode(&planner.draining().encode());
            prop_assert_eq!(past(&sharing), past(&apart));
            for host in 0..130 {
                for syn in [true, false] {
                    prop_assert_eq!(dropped(&images.0, host, syn), dropped(&images.1, host, syn), "{} {}", host, syn);
                }
            }
        }
    }
}
