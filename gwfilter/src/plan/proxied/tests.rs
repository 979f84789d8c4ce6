//! From matrices to verdicts of the kernel's own code over time.

use std::collections::BTreeMap;
use std::sync::Arc;

use gwfilter_common::decide::{Action, decide};
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::Connections;
use gwfilter_common::testing::proxied::{header2, segment};

use super::super::{Image, Op, PlanError, Planner, Settings, withdraw};
use crate::desired::{
    Counts, Desired, Judge, Matrix, Outcome, ProxyTables, SourceTables, Table4, Target, Verdict,
};
use crate::gateway::model::{Protocol, TupleKey};

const VIP: &str = "203.0.113.9:443";
const SYN: u8 = 0x02;
const DATA: u8 = 0x18;

fn key() -> TupleKey {
    TupleKey {
        addr: "203.0.113.9".parse().unwrap(),
        port: 443,
        protocol: Protocol::Tcp,
    }
}

/// Refuses one client, if it comes through the peer 192.0.2.77 to port 8443.
fn matrix(client: &str) -> Matrix {
    let counts = Counts {
        peers: 2,
        clients: 2,
        dests: 1,
        ports: 2,
    };
    let outcome = Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some("r".into()),
    };
    Matrix {
        peers4: Arc::new(BTreeMap::from([("192.0.2.77/32".parse().unwrap(), 1)])),
        peers6: Arc::default(),
        clients4: Arc::new(BTreeMap::from([(client.parse().unwrap(), 1)])),
        clients6: Arc::default(),
        dests4: Arc::default(),
        dests6: Arc::default(),
        ports: Arc::new(BTreeMap::from([(8443, 1)])),
        counts,
        verdicts: Arc::new(BTreeMap::from([(counts.cell(1, 1, 0, 1), outcome)])),
    }
}

fn tables(matrix: Option<Matrix>) -> ProxyTables {
    ProxyTables {
        matrix: matrix.map(Arc::new),
        never4: Arc::new(vec!["10.0.0.66/32".parse().unwrap()]),
        never6: Arc::default(),
        trusted4: None,
        trusted6: None,
    }
}

fn target(tables: ProxyTables) -> Target {
    Target {
        listener: "a/gw:https".into(),
        judge: Judge::Proxy(Arc::new(tables)),
        observe: false,
        node_address: true,
        pod_address: false,
        reset: true,
        drain_ms: 0,
    }
}

fn one(target: Target) -> Desired {
    Desired {
        tuples: [(key(), target)].into(),
        rewritten: vec![key()],
    }
}

/// A planner with the maps that it writes.
struct Bench {
    planner: Planner,
    image: Image,
    streams: Connections,
}

impl Bench {
    fn new() -> Self {
        Self {
            planner: Planner::new(Settings {
                drain_ms: 60_000,
                rewritten_drain_ms: 86_400_000,
            }),
            image: Image::default(),
            streams: Connections::default(),
        }
    }

    fn bring(&mut self, desired: &Desired, now_ms: u64) -> (usize, Option<u64>) {
        let plan = self.planner.plan(desired, now_ms).unwrap();
        plan.ops.iter().for_each(|op| self.image.apply(op));
        self.planner.commit(&plan);
        let builds = plan
            .ops
            .iter()
            .filter(|op| matches!(op, Op::Build4 { .. } | Op::Build6 { .. } | Op::BuildFlat { .. }));
        (builds.count(), plan.next_deadline_ms)
    }

    fn syn(&mut self, port: u16, at_ms: u64) {
        self.streams.now_ns = at_ms * 1_000_000;
        let frame = segment(port, VIP, SYN, 0, &[]);
        let decision = decide(&SliceReader(&frame), &self.image, &self.streams);
        assert_eq!(decision.action, Action::Pass);
    }

    fn header(&self, port: u16, client: &str, dest: &str) -> (Action, Reason) {
        let header = header2(1, &format!("{client}:5000"), dest);
        let frame = segment(port, VIP, DATA, 1, &header);
        let decision = decide(&SliceReader(&frame), &self.image, &self.streams);
        assert_eq!(decision.reset, decision.action == Action::Drop);
        (decision.action, decision.reason)
    }

    fn refuses(&self, port: u16, client: &str) -> bool {
        self.header(port, client, "198.18.0.1:8443").0 == Action::Drop
    }
}

#[test]
fn a_matrix_in_force_then_peer_client_and_port_decide_together() {
    let mut bench = Bench::new();
    bench.bring(&one(target(tables(Some(matrix("10.0.0.0/8"))))), 0);
    bench.syn(1, 5);
    let ask = |client: &str, dest: &str| bench.header(1, client, dest);
    assert_eq!(
        ask("10.1.1.1", "198.18.0.1:8443"),
        (Action::Drop, Reason::DeniedByRule)
    );
    assert_eq!(
        ask("11.1.1.1", "198.18.0.1:8443"),
        (Action::Pass, Reason::Allowed)
    );
    assert_eq!(ask("10.1.1.1", "198.18.0.1:443"), (Action::Pass, Reason::Allowed));
    // Never to be dropped is asked of the client.
    assert_eq!(
        ask("10.0.0.66", "198.18.0.1:8443"),
        (Action::Pass, Reason::NeverDropSource)
    );
    // A node's own address makes no difference: no reply begins a stream.
    let without = one(target(tables(None)));
    bench.bring(&without, 10);
    assert_eq!(
        bench.header(1, "10.1.1.1", "198.18.0.1:8443"),
        (Action::Pass, Reason::NoPolicy)
    );
}

#[test]
fn a_header_from_a_peer_that_is_not_listed_then_counted_under_its_reason_and_passed() {
    let mut bench = Bench::new();
    let listed = |peer: &str| ProxyTables {
        trusted4: Some(Arc::new(vec![peer.parse().unwrap()])),
        trusted6: Some(Arc::default()),
        ..tables(Some(matrix("10.0.0.0/8")))
    };
    for (peer, reason) in [
        ("192.0.2.77/32", Reason::Allowed),
        ("192.0.2.78/32", Reason::UntrustedProxy),
    ] {
        bench.bring(&one(target(listed(peer))), 0);
        bench.syn(1, 1);
        assert_eq!(
            bench.header(1, "11.1.1.1", "198.18.0.1:8443"),
            (Action::Pass, reason)
        );
        assert!(
            bench.refuses(1, "10.1.1.1"),
            "what the policies refuse stays refused"
        );
    }
}

#[test]
fn a_change_then_connections_from_before_it_pass_until_the_window_is_over() {
    let mut bench = Bench::new();
    let first = one(target(tables(Some(matrix("10.0.0.0/8")))));
    assert_eq!(bench.bring(&first, 1_000), (5, Some(61_000)));
    bench.syn(1, 1_000);
    assert!(
        bench.refuses(1, "10.1.1.1"),
        "a connection that began with the generation"
    );
    // A second time nothing changes, and the window goes on.
    assert_eq!(bench.bring(&first.clone(), 2_000), (0, Some(61_000)));
    bench.syn(2, 29_999);
    bench.syn(3, 30_001);
    let second = one(target(tables(Some(matrix("11.0.0.0/8")))));
    assert_eq!(bench.bring(&second, 30_000), (1, Some(90_000)));
    // Loosening is at once; tightening is for connections that began after it.
    assert!(!bench.refuses(2, "10.1.1.1") && !bench.refuses(3, "10.1.1.1"));
    assert!(!bench.refuses(2, "11.1.1.1") && bench.refuses(3, "11.1.1.1"));
    assert_eq!(bench.bring(&second, 90_000), (0, None));
    assert!(bench.refuses(2, "11.1.1.1"), "the window is over");
    // Observed only, and back: that is a change too.
    let observed = Target {
        observe: true,
        ..target(tables(Some(matrix("11.0.0.0/8"))))
    };
    bench.bring(&one(observed), 100_000);
    assert!(!bench.refuses(3, "11.1.1.1"));
    bench.bring(&second, 110_000);
    assert!(!bench.refuses(3, "11.1.1.1"), "it began before");
}

#[test]
fn another_client_address_mode_then_a_new_window_both_ways() {
    let outcome = matrix("10.0.0.0/8").verdicts.values().next().unwrap().clone();
    let by_source = Target {
        judge: Judge::Source(SourceTables {
            table4: Some(Arc::new(Table4::from([(
                "192.0.2.0/24".parse().unwrap(),
                outcome,
            )]))),
            ..SourceTables::default()
        }),
        node_address: false,
        pod_address: false,
        ..target(tables(None))
    };
    let by_source = Desired {
        rewritten: Vec::new(),
        ..one(by_source)
    };
    let by_header = one(target(tables(Some(matrix("10.0.0.0/8")))));
    let mut bench = Bench::new();
    bench.bring(&by_header, 0);
    bench.bring(&by_header, 60_000);
    bench.syn(1, 60_000);
    assert!(bench.refuses(1, "10.1.1.1"));
    // Sources were rewritten on the way: connections from then carry another peer, for a day.
    let (_, deadline) = bench.bring(&by_source, 70_000);
    assert_eq!(deadline, Some(130_000));
    let frame = segment(1, VIP, DATA, 1, &[]);
    let decision = decide(&SliceReader(&frame), &bench.image, &bench.streams);
    assert_eq!(
        (decision.action, decision.reason),
        (Action::Pass, Reason::Draining)
    );
    let (_, deadline) = bench.bring(&by_source, 130_000);
    assert_eq!(deadline, Some(70_000 + 86_400_000));
    bench.bring(&by_header, 140_000);
    assert!(
        !bench.refuses(1, "10.1.1.1"),
        "it began before the header counted again"
    );
}

#[test]
fn more_different_tables_than_elements_then_an_error_with_the_numbers() {
    let planner = Planner::new(Settings {
        drain_ms: 0,
        rewritten_drain_ms: 0,
    });
    // Only never-drop lists differ, so tries are few and elements many.
    let tuples = |count: u16| -> Desired {
        let many = (0..count).map(|n| {
            let never = format!("10.0.{}.{}/32", n % 16, n / 16);
            let other = format!("10.1.{}.{}/32", n / 16, n % 16);
            let tables = ProxyTables {
                never4: Arc::new(vec![never.parse().unwrap()]),
                trusted4: Some(Arc::new(vec![other.parse().unwrap()])),
                trusted6: Some(Arc::default()),
                ..tables(None)
            };
            let key = TupleKey {
                port: 1000 + n,
                ..key()
            };
            (key, target(tables))
        });
        Desired {
            tuples: many.collect(),
            rewritten: Vec::new(),
        }
    };
    assert!(planner.plan(&tuples(250), 0).is_ok());
    let error = planner.plan(&tuples(257), 0).unwrap_err();
    assert!(
        matches!(
            error,
            PlanError::TooManyProxies {
                wanted: 257,
                max: 256
            } | PlanError::TooManyTables { .. }
        ),
        "{error}"
    );
}

#[test]
fn what_cannot_be_updated_then_only_the_same_tables_stay() {
    let old = one(target(tables(Some(matrix("10.0.0.0/8")))));
    let stays = |new: &Desired| withdraw(&old, new).tuples.contains_key(&key());
    let with = |tables: ProxyTables| one(target(tables));
    assert!(stays(&with(tables(Some(matrix("10.0.0.0/8"))))));
    assert!(!stays(&with(tables(Some(matrix("10.0.0.0/9"))))));
    assert!(!stays(&with(tables(None))));
    assert!(!stays(&Desired::default()));
}
