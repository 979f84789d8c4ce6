use gwfilter_common::abi::{TUPLE_OBSERVE, Tuple};

use super::rows::{Facts, in_force, rows, state};
use super::*;
use crate::plan::{ListenerName, Names};

const SECOND: u64 = 1_000_000_000;

fn left() -> Left {
    Left {
        written_at: 1_000,
        from: "the cluster".to_owned(),
        generation: 7,
        observe: false,
        ready: true,
        not_ready: None,
        gateways: vec![GatewayState {
            name: "ns/gw".to_owned(),
            client_address: "packet-source".to_owned(),
            enforced: true,
            why: Vec::new(),
            prefixes: Some(Prefixes { v4: 3, v6: 1 }),
        }],
        finds: BTreeMap::new(),
        lease_length: Some(60),
    }
}

#[test]
fn what_is_left_then_read_back_also_from_an_agent_that_says_less() {
    let left = left();
    let text = serde_json::to_string(&left).unwrap();
    assert_eq!(serde_json::from_str::<Left>(&text).unwrap(), left);
    let older = r#"{"written_at":1000,"from":"the cluster","generation":7,"observe":false,"ready":true,"not_ready":null,
        "gateways":[{"name":"ns/gw","client_address":"packet-source","enforced":true,"why":[]}]}"#;
    let older: Left = serde_json::from_str(older).unwrap();
    assert_eq!((older.lease_length, older.gateways[0].prefixes), (None, None));
}

#[test]
fn what_was_written_and_when_the_lease_was_renewed_then_the_later_one_is_the_sign_of_life() {
    let words = |lease| {
        Some(Words {
            lease,
            pod_lease: 0,
            paused: 0,
        })
    };
    let silent = Left {
        lease_length: None,
        ..left()
    };
    let now = 2_000;
    for (last, lease, seen) in [
        // Renewed at 90 s of a clock that says 100 s now.
        (Some(&left()), words(150 * SECOND), Some(1_990)),
        // Long run out.
        (Some(&left()), words(61 * SECOND), Some(1_901)),
        // Never renewed, without an end, of another length than was said, or not known: what was written.
        (Some(&left()), words(0), Some(1_000)),
        (Some(&left()), words(FOREVER), Some(1_000)),
        (Some(&left()), words(500 * SECOND), Some(1_000)),
        (Some(&left()), None, Some(1_000)),
        (Some(&silent), words(150 * SECOND), Some(1_000)),
        (None, words(150 * SECOND), None),
    ] {
        assert_eq!(
            seen_alive(last, lease, 100 * SECOND, now),
            seen,
            "{last:?} {lease:?}"
        );
    }
}

#[test]
fn what_the_kernel_does_then_the_word_for_what_the_agent_had_enforced() {
    let (over, runs) = (0, 5_000_000_000_000);
    for (agent, [lease, pod_lease, paused], observe, word) in [
        (RUNNING, [runs, runs, over], false, "enforced"),
        (
            NOT_RUNNING,
            [runs, runs, over],
            false,
            "still enforced, by the last policies",
        ),
        (
            RUNNING,
            [runs, over, over],
            false,
            "enforced but for pods' addresses",
        ),
        (
            NOT_RUNNING,
            [runs, over, over],
            false,
            "still enforced, by the last policies, but for pods' addresses",
        ),
        (
            RUNNING,
            [over, runs, over],
            false,
            "was enforced, until the lease ran out",
        ),
        (
            NOT_RUNNING,
            [over, over, runs],
            true,
            "was enforced, until the lease ran out",
        ),
        (
            RUNNING,
            [runs, runs, runs],
            false,
            "counted only, enforced when the pause ends",
        ),
        (RUNNING, [runs, runs, over], true, "counted only"),
    ] {
        let words = Words {
            lease,
            pod_lease,
            paused,
        };
        let control = Control::of(words, 1);
        let none = BTreeMap::new();
        let facts = Facts {
            agent,
            attached: true,
            control: Some(&control),
            in_force: None,
            tables: &none,
            packets: None,
        };
        assert_eq!(state(true, &[], observe, &facts), word);
        assert_eq!(state(false, &[], observe, &facts), "not enforced");
        let unknown = Facts {
            control: None,
            ..facts
        };
        let said = state(true, &[], false, &unknown);
        assert!(
            said.starts_with("enforced as the agent wrote down, if "),
            "{said}"
        );
        let off = Facts {
            attached: false,
            ..facts
        };
        assert_eq!(
            state(true, &["code: text".to_owned()], observe, &off),
            "was enforced in part, nothing is attached now"
        );
        // A port where Envoy does not listen has nothing to enforce.
        assert_eq!(
            state(true, &["no-server: port 443".to_owned()], observe, &facts),
            word
        );
    }
}

#[test]
fn links_that_were_detached_by_force_then_nothing_is_in_place() {
    let at = |in_place| Attached {
        interface: "eth0".to_owned(),
        ifindex: 2,
        hook: "xdp".into(),
        mode: "native".into(),
        multi_buffer: None,
        in_place,
        ahead: None,
        program_id: None,
        program: None,
        since: None,
        loaded_since: None,
    };
    for (links, wanted) in [
        (vec![], false),
        (vec![at(Some(false))], false),
        (vec![at(Some(false)), at(Some(true))], true),
        (vec![at(None)], true),
    ] {
        assert_eq!(in_place(&links), wanted, "{links:?}");
    }
}

fn tuple(addr: [u8; 4], protocol: u8, listener: u32, flags: u32) -> Tuple {
    let mut tuple = Tuple::from_slot(&[0; 8]);
    tuple.addr[..4].copy_from_slice(&addr);
    (tuple.family, tuple.port, tuple.protocol) = (4, 443, protocol);
    (tuple.listener, tuple.flags) = (listener, flags);
    tuple
}

#[test]
fn tables_counters_and_notes_then_one_row_for_each_gateway() {
    let name = |gateway: &str, listener: &str| ListenerName {
        gateway: gateway.into(),
        listener: listener.into(),
    };
    let names = Names {
        listeners: [
            (1, name("ns/gw", "http")),
            (2, name("ns/gw", "https")),
            (3, name("ns/new", "http")),
        ]
        .into(),
        rules: BTreeMap::new(),
    };
    let shared = || vec!["source4-1".to_owned()];
    let tuples = [
        (tuple([10, 0, 0, 2], 6, 1, 0), shared()),
        (
            tuple([10, 0, 0, 1], 6, 2, 0),
            [shared(), vec!["never4-1".to_owned()]].concat(),
        ),
        (tuple([10, 0, 0, 1], 17, 2, 0), shared()),
        (tuple([10, 0, 0, 3], 6, 3, TUPLE_OBSERVE), shared()),
        (tuple([10, 0, 0, 4], 6, 9, 0), vec!["source4-2".to_owned()]),
    ];
    let found = in_force(&tuples, false, &names);
    let tables = [
        ("source4-1".to_owned(), Some(100)),
        ("never4-1".to_owned(), Some(20)),
        ("source4-2".to_owned(), None),
    ]
    .into();
    let packets = [(
        "ns/gw".to_owned(),
        Packets {
            passed: 5,
            dropped: 2,
            would_drop: 1,
        },
    )]
    .into();
    let words = Words {
        lease: u64::MAX,
        pod_lease: u64::MAX,
        paused: 0,
    };
    let facts = Facts {
        agent: RUNNING,
        attached: true,
        control: Some(&Control::of(words, 1)),
        in_force: Some(&found),
        tables: &tables,
        packets: Some(&packets),
    };
    let rows = rows(Some(&left()), &facts);
    let short = |gateway: &Gateway| {
        (
            gateway.name.clone(),
            gateway.state.clone(),
            gateway.tuples.clone().unwrap_or_default().join(" "),
            (gateway.tables, gateway.memory_bytes),
            gateway.packets.map(|p| (p.passed, p.dropped, p.would_drop)),
        )
    };
    let row = |name: &str, state: &str, tuples: &str, takes, packets| {
        (
            name.to_owned(),
            state.to_owned(),
            tuples.to_owned(),
            takes,
            packets,
        )
    };
    assert_eq!(
        rows.iter().map(short).collect::<Vec<_>>(),
        [
            row(
                "(listener 9, its name is not known)",
                "enforced",
                "10.0.0.4:443/tcp",
                (Some(1), None),
                Some((0, 0, 0))
            ),
            row(
                "ns/gw",
                "enforced",
                "10.0.0.1:443/tcp 10.0.0.1:443/udp 10.0.0.2:443/tcp",
                (Some(2), Some(120)),
                Some((5, 2, 1))
            ),
            row(
                "ns/new",
                "not enforced",
                "10.0.0.3:443/tcp",
                (Some(1), Some(100)),
                Some((0, 0, 0))
            ),
        ]
    );
    assert_eq!(rows[1].prefixes, Some(Prefixes { v4: 3, v6: 1 }));
    assert_eq!((&rows[0].client_address, rows[0].prefixes), (&None, None));
    assert!(
        in_force(&tuples, true, &names).values().all(|row| !row.drops),
        "observed as a whole"
    );
    let udp = [(tuple([10, 0, 0, 1], 17, 3, 0), shared())];
    let found = in_force(&udp, false, &names);
    assert!(!found["ns/new"].drops, "UDP is never dropped");
}
