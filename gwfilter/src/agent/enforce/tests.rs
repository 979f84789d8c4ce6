use aya::maps::MapError;

use super::*;

/// Takes operations and fails on command.
#[derive(Default)]
struct Fake {
    fails: bool,
    fails_once: bool,
    /// Only what needs a new table.
    fails_to_build: bool,
    leaks: bool,
    applied: Vec<Op>,
}

fn failure() -> TablesError {
    TablesError::Access {
        what: "set",
        map: "GWF_ROOT",
        index: 0,
        source: Box::new(MapError::ElementNotFound),
    }
}

impl Apply for Fake {
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<TablesError>, TablesError> {
        let builds = || {
            ops.iter()
                .any(|op| matches!(op, Op::Build4 { .. } | Op::Build6 { .. } | Op::BuildFlat { .. }))
        };
        if self.fails || std::mem::take(&mut self.fails_once) || (self.fails_to_build && builds()) {
            return Err(failure());
        }
        self.applied.extend_from_slice(ops);
        Ok(if self.leaks { vec![failure()] } else { Vec::new() })
    }
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: gw, namespace: a}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {istio: gw}
  ports: [{name: http, port: 80, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.80}]}}
";

fn policy(blocks: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: a}}
spec:
  action: DENY
  rules: [{{from: [{{source: {{ipBlocks: [{blocks}]}}}}]}}]
"
    )
}

fn index(policy: &str) -> Index {
    let mut index = Index::new();
    index.load("s", SERVICE.as_bytes()).unwrap();
    index.load("p", policy.as_bytes()).unwrap();
    index
}

fn enforcer() -> Enforcer {
    enforcer_after(None)
}

/// One that goes on with an earlier agent's counters, and so its numbers of generations.
fn enforcer_after(counters: Option<&Counters>) -> Enforcer {
    let plan = plan::Settings {
        drain_ms: 60_000,
        rewritten_drain_ms: 60_000,
    };
    let gateway = crate::gateway::Settings {
        never_drop: Vec::new(),
        from_files: true,
    };
    Enforcer::new(
        plan,
        pipeline::Settings {
            gateway,
            ..pipeline::Settings::default()
        },
        counters,
        Past::default(),
    )
}

fn facts() -> NodeFacts {
    NodeFacts {
        name: None,
        local_addresses: Some(["192.0.2.1".parse().unwrap()].into()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_generation_and_is_repeated_ever_more_slowly_until_it_works() {
    let (mut enforcer, mut fake) = (enforcer(), Fake::default());
    fake.fails = true;
    enforcer.try_enforce(&index(&policy("198.51.100.7")), &facts(), &mut fake);
    let said = |enforcer: &mut Enforcer| enforcer.gateways.update(Vec::new()).over.len();
    assert_eq!(
        said(&mut enforcer),
        0,
        "nothing is enforced, so nothing is said to be"
    );
    fake.fails = false;
    enforcer
        .enforce(&index(&policy("198.51.100.7")), &facts(), &mut fake)
        .unwrap();
    assert_eq!(said(&mut enforcer), 1);
    enforcer.retry = None;
    let (generation, names) = (enforcer.planner.generation(), enforcer.names().clone());
    assert_eq!(generation, 1);

    fake.fails = true;
    let next = index(&policy("198.51.100.8"));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        enforcer.try_enforce(&next, &facts(), &mut fake);
        assert_eq!(
            (enforcer.planner.generation(), enforcer.names()),
            (generation, &names)
        );
        let due = enforcer.due().unwrap();
        pauses.push((due - Instant::now()).as_secs());
        tokio::time::sleep_until(due).await;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert!(enforcer.failure.is_some());

    fake.fails = false;
    fake.applied.clear();
    enforcer.try_enforce(&next, &facts(), &mut fake);
    assert_eq!(enforcer.planner.generation(), generation + 1);
    assert!(fake.applied.iter().any(|op| matches!(op, Op::Swap { .. })));
    assert_eq!((enforcer.failure.as_deref(), enforcer.retry), (None, None));
}

/// Destinations of the last generation that was applied.
fn destinations(fake: &Fake) -> Option<u32> {
    fake.applied.iter().rev().find_map(|op| match op {
        Op::Swap { root } => Some(root.header().tuples),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn tables_that_cannot_be_loosened_are_withdrawn_and_those_that_are_right_stay() {
    let (mut enforcer, mut fake) = (enforcer(), Fake::default());
    enforcer
        .enforce(&index(&policy("198.51.100.7, 198.51.100.9")), &facts(), &mut fake)
        .unwrap();
    let all = destinations(&fake);
    assert!(all.is_some_and(|n| n > 0));
    fake.fails_to_build = true;
    // Tighter: what is in force is right as far as it goes.
    let tighter = index(&policy("198.51.100.0/24"));
    enforcer.enforce(&tighter, &facts(), &mut fake).unwrap_err();
    assert_eq!((destinations(&fake), enforcer.planner.generation()), (all, 1));
    // Looser: the gateway lets 198.51.100.7 in now.
    let looser = index(&policy("198.51.100.9"));
    enforcer.enforce(&looser, &facts(), &mut fake).unwrap_err();
    assert_eq!((destinations(&fake), enforcer.planner.generation()), (Some(0), 2));
    fake.fails_to_build = false;
    enforcer.enforce(&looser, &facts(), &mut fake).unwrap();
    assert_eq!(destinations(&fake), all);
}

#[tokio::test(start_paused = true)]
async fn memory_that_cannot_be_freed_does_not_keep_a_generation_out_of_force() {
    let (mut enforcer, mut fake) = (
        enforcer(),
        Fake {
            leaks: true,
            ..Fake::default()
        },
    );
    enforcer
        .enforce(&index(&policy("198.51.100.7")), &facts(), &mut fake)
        .unwrap();
    assert_eq!(enforcer.planner.generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_drain_window_is_due_and_then_nothing_is() {
    let (mut enforcer, mut fake) = (enforcer(), Fake::default());
    let index = index(&policy("198.51.100.7"));
    enforcer.enforce(&index, &facts(), &mut fake).unwrap();
    let due = enforcer.due().unwrap();
    assert_eq!((due - enforcer.start).as_secs(), 60);
    tokio::time::sleep_until(due).await;
    enforcer.try_enforce(&index, &facts(), &mut fake);
    assert_eq!(enforcer.planner.generation(), 2, "the same policy, drained");
    assert_eq!(enforcer.due(), None);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_breaks_changes_nothing_in_force() {
    let (mut enforcer, mut fake) = (enforcer(), Fake::default());
    let mut index = index(&policy("198.51.100.7"));
    enforcer.enforce(&index, &facts(), &mut fake).unwrap();
    fake.applied.clear();
    index.load("p", b"kind: [").unwrap_err();
    enforcer.enforce(&index, &facts(), &mut fake).unwrap();
    assert!(fake.applied.is_empty(), "{:?}", fake.applied);
}

#[tokio::test(start_paused = true)]
async fn first_tables_that_cannot_be_built_then_empty_ones_are_in_force_and_it_is_tried_again() {
    let (mut enforcer, mut fake) = (enforcer(), Fake::default());
    fake.fails_to_build = true;
    let wanted = index(&policy("198.51.100.7"));
    enforcer.first(&wanted, &facts(), &mut fake).unwrap();
    assert_eq!((destinations(&fake), enforcer.planner.generation()), (Some(0), 1));
    assert!(enforcer.failure().is_some(), "so it is not ready");
    let report = &enforcer.built().unwrap().reports[0];
    assert!(
        !report.enforced && report.why[0].starts_with("tables-not-in-force: "),
        "{report:?}"
    );
    assert_eq!(enforcer.vouched(), Ok(()), "nothing is refused that is let in");
    let due = enforcer.due().unwrap();
    assert_eq!((due - Instant::now()).as_secs(), 1);
    tokio::time::sleep_until(due).await;
    enforcer.try_enforce(&wanted, &facts(), &mut fake);
    assert_eq!(
        (
            destinations(&fake),
            enforcer.retry.map(|(_, pause)| pause.as_secs())
        ),
        (Some(0), Some(2))
    );

    fake.fails_to_build = false;
    enforcer.try_enforce(&wanted, &facts(), &mut fake);
    assert!(destinations(&fake).is_some_and(|n| n > 0));
    assert_eq!(
        (enforcer.failure(), enforcer.built().unwrap().reports[0].enforced),
        (None, true)
    );
}

#[tokio::test(start_paused = true)]
async fn first_tables_then_a_call_that_fails_once_opens_nothing_and_one_that_always_fails_ends_the_start() {
    let (mut one, mut fake) = (
        enforcer(),
        Fake {
            fails_once: true,
            ..Fake::default()
        },
    );
    let wanted = index(&policy("198.51.100.7"));
    one.first(&wanted, &facts(), &mut fake).unwrap();
    assert_eq!((one.failure(), one.planner.generation()), (None, 1));
    assert!(destinations(&fake).is_some_and(|n| n > 0));

    let counters = one.planner.counters(None);
    for left in [None, Some(&counters)] {
        let (mut other, mut fake) = (
            enforcer_after(left),
            Fake {
                fails: true,
                ..Fake::default()
            },
        );
        other.first(&wanted, &facts(), &mut fake).unwrap_err();
        assert_eq!((other.failure(), fake.applied.len()), (None, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_asks_for_more_than_tables_hold_then_the_others_are_enforced() {
    let (mut enforcer, mut fake) = (enforcer(), Fake::default());
    let mut index = index(&policy("198.51.100.7"));
    let ports: Vec<String> = (1..=45)
        .map(|n| format!("{{name: p{n}, port: {n}, targetPort: 8080}}"))
        .collect();
    let addresses: Vec<String> = (1..=100).map(|n| format!("192.0.2.{n}")).collect();
    let greedy = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: greedy, namespace: b}}
spec:
  externalTrafficPolicy: Local
  selector: {{istio: greedy}}
  externalIPs: [{}]
  ports: [{}]
",
        addresses.join(", "),
        ports.join(", ")
    );
    index.load("greedy", greedy.as_bytes()).unwrap();
    enforcer.first(&index, &facts(), &mut fake).unwrap();
    assert_eq!(enforcer.failure(), None);
    let reports = &enforcer.built().unwrap().reports;
    let enforced: Vec<_> = reports.iter().map(|r| (r.name.as_str(), r.enforced)).collect();
    assert_eq!(enforced, [("a/gw", true), ("b/greedy", false)]);
    assert!(reports[1].why[0].starts_with("no-room: "), "{:?}", reports[1].why);
}

/// Three hundred ports, each with a rule and a table of its own; `blocks`: whom the rule of a number refuses.
fn each_its_own(blocks: impl Fn(u32) -> String) -> Index {
    let numbers = || (0..300_u32).map(|n| (n, 20_000 + n));
    let ports: Vec<String> = numbers()
        .map(|(n, port)| format!("{{name: p{n}, port: {port}, targetPort: {port}}}"))
        .collect();
    let rules: Vec<String> = numbers()
        .map(|(n, port)| {
            let blocks = blocks(n);
            format!(
                "{{from: [{{source: {{ipBlocks: [{blocks}]}}}}], to: [{{operation: {{ports: ['{port}']}}}}]}}"
            )
        })
        .collect();
    let mut index = index("");
    let service = SERVICE.replace("{name: http, port: 80, targetPort: 8080}", &ports.join(", "));
    index.load("s", service.as_bytes()).unwrap();
    let policy = policy("").replace("{from: [{source: {ipBlocks: []}}]}", &rules.join(", "));
    index.load("p", policy.as_bytes()).unwrap();
    index
}

#[tokio::test(start_paused = true)]
async fn tables_that_have_no_room_beside_those_in_force_then_these_stay_and_it_is_told() {
    let (mut enforcer, mut fake) = (enforcer(), Fake::default());
    let old = each_its_own(|n| format!("198.18.{}.{}", n / 250, n % 250));
    enforcer.first(&old, &facts(), &mut fake).unwrap();
    assert_eq!((destinations(&fake), enforcer.failure()), (Some(300), None));
    // Tighter, each of them: what is in force is right as far as it goes, and so keeps its place.
    let new = each_its_own(|n| format!("198.18.{0}.{1}, 198.19.{0}.{1}", n / 250, n % 250));
    enforcer.try_enforce(&new, &facts(), &mut fake);
    assert!(
        enforcer
            .failure()
            .is_some_and(|why| why.contains("both generations together")),
        "{:?}",
        enforcer.failure()
    );
    assert_eq!(destinations(&fake), Some(300));
    let report = &enforcer.built().unwrap().reports[0];
    assert!(report.enforced, "by the old ones");
    assert!(
        report.why[0].starts_with("tables-not-in-force: "),
        "{:?}",
        report.why
    );
}
