//! The kernel's tables as the agent writes, pins, looks at and frees them, without packets.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, ProgramArray};
use gwfilter::dataplane::choice::{Device, XdpMode};
use gwfilter::dataplane::{Dataplane, PacketLog};
use gwfilter::desired::{Desired, Judge, Outcome, SourceTables, Target, Verdict};
use gwfilter::gateway::model::{Protocol, TupleKey};
use gwfilter::plan::{Op, Planner, Settings};
use gwfilter_common::abi::{Header, NEXT_HEADER, Slot};
use gwfilter_common::flat::Line;
use gwfilter_common::reason::Reason;
use ipnet::Ipv4Net;
use xtask::netns::{Namespace, veth};

/// A machine of its own, with a card.
struct Node {
    node: Namespace,
    _peer: Namespace,
}

fn node() -> Node {
    xtask::rights::require_root().expect("rights");
    let node = Namespace::new("node").expect("a namespace");
    let peer = Namespace::new("peer").expect("a namespace");
    veth((&node, "eth0"), (&peer, "eth0")).expect("a cable");
    Node { node, _peer: peer }
}

fn planner() -> Planner {
    Planner::new(Settings {
        drain_ms: 0,
        rewritten_drain_ms: 0,
    })
}

/// One destination that refuses `count` sources, the first of them `first`.
fn refusing(first: u32, count: u32) -> Desired {
    let outcome = Outcome {
        verdict: Verdict::Drop,
        reason: Reason::NoRuleAllows,
        rule: None,
    };
    // Every other address, so that nothing can be joined.
    let table = (0..count).map(|n| {
        let address = Ipv4Addr::from(first + 2 * n);
        (Ipv4Net::new(address, 32).expect("a length"), outcome.clone())
    });
    let tables = SourceTables {
        table4: Some(Arc::new(table.collect())),
        ..SourceTables::default()
    };
    let key = TupleKey {
        addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        port: 443,
        protocol: Protocol::Tcp,
    };
    let target = Target {
        listener: "a/gw|https".into(),
        judge: Judge::Source(tables),
        observe: false,
        node_address: false,
        pod_address: false,
        reset: false,
        drain_ms: 0,
    };
    Desired {
        tuples: [(key, target)].into(),
        ..Desired::default()
    }
}

/// The same with so many sources that are never dropped.
fn sparing(first: u32, count: u32) -> Desired {
    let mut desired = refusing(first, 1);
    for target in desired.tuples.values_mut() {
        if let Judge::Source(tables) = &mut target.judge {
            let never = (0..count).map(|n| Ipv4Net::from(Ipv4Addr::from(first + 2 * n)));
            tables.never4 = Arc::new(never.collect());
        }
    }
    desired
}

/// Names of what is pinned, of this machine's only agent.
fn pinned(dataplane: &Dataplane) -> BTreeSet<String> {
    let names = std::fs::read_dir(dataplane.pins().dir()).expect("listed");
    names
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}

/// The generation whose root is pinned.
fn generation(dataplane: &Dataplane) -> u64 {
    let name = pinned(dataplane).into_iter().find(|n| n.ends_with("-root"));
    let path = dataplane.pins().dir().join(name.expect("a root"));
    let map = Map::from_map_data(MapData::from_pin(path).expect("opened")).expect("a map");
    let root = Array::<_, Slot>::try_from(map).expect("an array");
    Header::from_slot(&root.get(&0, 0).expect("read")).generation
}

/// What a look at all tables finds.
fn finds(dataplane: &mut Dataplane) -> Vec<&'static str> {
    let mut finds = Vec::new();
    loop {
        let look = dataplane.tables().verify(1000);
        finds.extend(look.finds.iter().map(|f| f.name));
        if !look.more {
            return finds;
        }
    }
}

#[test]
fn a_generation_that_is_cut_off_after_any_step_then_the_old_one_stays_whole() {
    let node = node();
    let run = || {
        let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
        let mut planner = planner();
        let first = planner.plan(&refusing(1 << 24, 50), 0).expect("a plan");
        assert!(dataplane.tables().apply(&first.ops).expect("applied").is_empty());
        planner.commit(&first);
        let next = planner.plan(&refusing(2 << 24, 70), 1).expect("a plan");
        let swap = next.ops.iter().position(|op| matches!(op, Op::Swap { .. }));
        let swap = swap.expect("a swap");
        assert!(swap > 0, "something is built first");
        for cut in 0..=swap {
            let begun = next.ops.get(..cut).expect("that many");
            assert!(dataplane.tables().apply(begun).expect("applied").is_empty());
            assert_eq!(generation(&dataplane), 1, "cut off after {cut} steps");
            assert!(finds(&mut dataplane).is_empty(), "cut off after {cut} steps");
        }
        assert!(dataplane.tables().apply(&next.ops).expect("applied").is_empty());
        assert_eq!(generation(&dataplane), 2);
        assert!(finds(&mut dataplane).is_empty());
    };
    node.node.enter(run).expect("entered");
}

#[test]
fn a_large_trie_out_of_use_then_it_is_freed_slice_by_slice() {
    const LARGE: u32 = 50_000;
    const SLICE: usize = 4096;
    let node = node();
    let run = || {
        let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
        let mut planner = planner();
        // Large tables of sources are flat, and arrays cost nothing to free.
        for desired in [
            sparing(1 << 24, LARGE),
            refusing(2 << 24, LARGE),
            refusing(3 << 24, 1),
        ] {
            let plan = planner.plan(&desired, 0).expect("a plan");
            dataplane.tables().apply(&plan.ops).expect("applied");
            planner.commit(&plan);
        }
        let old = |dataplane: &Dataplane| pinned(dataplane).iter().filter(|n| n.starts_with("old-")).count();
        assert_eq!(
            old(&dataplane),
            3,
            "two of sources, one of those that are never dropped"
        );
        let (mut slices, mut longest) = (0, Duration::ZERO);
        while dataplane.tables().has_old() {
            let began = Instant::now();
            assert!(dataplane.tables().free_old(SLICE).is_empty());
            longest = longest.max(began.elapsed());
            slices += 1;
        }
        eprintln!("{LARGE} entries freed in {slices} slices, the longest {longest:?}");
        assert!(slices > LARGE as usize / SLICE, "{slices} slices");
        assert_eq!(old(&dataplane), 0);
        assert!(finds(&mut dataplane).is_empty(), "what is in use is untouched");
    };
    node.node.enter(run).expect("entered");
}

#[test]
fn a_flat_table_that_somebody_wrote_into_or_took_away_then_it_is_written_anew() {
    let node = node();
    let run = || {
        let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
        let plan = planner().plan(&refusing(11 << 24, 3000), 0).expect("a plan");
        dataplane.tables().apply(&plan.ops).expect("applied");
        assert!(finds(&mut dataplane).is_empty());
        let path = |dataplane: &Dataplane| {
            let name = pinned(dataplane).into_iter().find(|n| n.ends_with("-flat4-1"));
            dataplane.pins().dir().join(name.expect("a flat table"))
        };
        let map = Map::from_map_data(MapData::from_pin(path(&dataplane)).expect("opened")).expect("a map");
        let mut lines = Array::<_, Line>::try_from(map).expect("an array");
        let front = (11 << 24) >> 16;
        let mut line = lines.get(&front, 0).expect("read");
        assert_ne!(line, Line::default(), "the front of what is refused");
        line[0] ^= 1;
        lines.set(front, line, 0).expect("written");
        assert_eq!(finds(&mut dataplane), ["table-changed"]);
        assert!(finds(&mut dataplane).is_empty());
        std::fs::remove_file(path(&dataplane)).expect("removed");
        assert_eq!(finds(&mut dataplane), ["table-pin-gone"]);
        assert!(finds(&mut dataplane).is_empty());
    };
    node.node.enter(run).expect("entered");
}

#[test]
fn tables_of_an_agent_that_died_then_the_next_one_frees_them_once_its_own_are_in_force() {
    let node = node();
    let device = || Device {
        index: nix::net::if_::if_nametoindex("eth0").expect("a card"),
        name: "eth0".to_owned(),
        ..Device::default()
    };
    let run = || {
        for agent in 1..=2 {
            let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
            let plan = planner().plan(&refusing(1 << 24, 50), 0).expect("a plan");
            dataplane.tables().apply(&plan.ops).expect("applied");
            let tables = |d: &Dataplane| pinned(d).iter().filter(|n| n.starts_with("tables-")).count();
            assert_eq!(tables(&dataplane), 2 * agent, "a root and a trie each");
            dataplane
                .attach(&device(), XdpMode::Native, false)
                .expect("attached");
            dataplane.forget_earlier_agents().expect("forgotten");
            assert_eq!(tables(&dataplane), 2);
            assert_eq!(dataplane.tables().has_old(), agent == 2);
            while dataplane.tables().has_old() {
                assert!(dataplane.tables().free_old(10).is_empty());
            }
            let names = pinned(&dataplane);
            assert!(!names.iter().any(|n| n.starts_with("old-")), "{names:?}");
            assert!(finds(&mut dataplane).is_empty());
        }
    };
    node.node.enter(run).expect("entered");
}

#[test]
fn what_tc_programs_go_on_to_is_taken_away_then_it_is_put_back() {
    let node = node();
    let run = || {
        let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
        dataplane.keep().expect("pinned");
        assert!(
            dataplane.verify_headers().expect("looked").is_empty(),
            "nothing yet"
        );
        let device = Device {
            index: nix::net::if_::if_nametoindex("eth0").expect("a card"),
            name: "eth0".to_owned(),
            ..Device::default()
        };
        dataplane
            .attach(&device, XdpMode::Native, true)
            .expect("attached");
        assert!(dataplane.verify_headers().expect("looked").is_empty());
        let names = pinned(&dataplane);
        let array = names
            .iter()
            .find(|n| n.starts_with("headers-"))
            .expect("an array");
        let map = MapData::from_pin(dataplane.pins().dir().join(array)).expect("opened");
        let map = Map::from_map_data(map).expect("a map");
        let mut array = ProgramArray::try_from(map).expect("an array of programs");
        array.clear_index(&NEXT_HEADER).expect("cleared");
        let names = |d: &mut Dataplane| -> Vec<&'static str> {
            let finds = d.verify_headers().expect("looked");
            finds.iter().map(|(name, _)| *name).collect()
        };
        assert_eq!(names(&mut dataplane), ["tail-program-gone"]);
        for pin in ["streams", "control", "count", "rules"] {
            std::fs::remove_file(dataplane.pins().dir().join(pin)).expect("removed");
            assert_eq!(names(&mut dataplane), ["map-pin-gone"], "{pin}");
        }
        assert!(names(&mut dataplane).is_empty());
    };
    node.node.enter(run).expect("entered");
}
