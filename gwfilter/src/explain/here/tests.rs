use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use gwfilter_common::abi::{CONTROL_PAUSED, FOREVER};
use gwfilter_common::decide::Source;
use insta::assert_snapshot;

use super::*;
use crate::desired::{Desired, Judge, Outcome, SourceTables, Target, Verdict};
use crate::gateway::model::TupleKey;
use crate::plan::{Image, Planner, Settings};
use crate::status::{Attached, GatewayState, NOT_RUNNING, rows};

const DEST: &str = "203.0.113.9:443";
const REFUSED: &str = "198.51.100.7";
const RULE: &str = "ns[istio-system]-policy[deny]-rule[0]";

/// Tables that refuse one source at [`DEST`], as a drain window of this length leaves them; and the names in them.
fn tables(drain_ms: u64) -> (Image, Names) {
    let outcome = Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some(RULE.into()),
    };
    let table = [(format!("{REFUSED}/32").parse().unwrap(), outcome)].into();
    let target = Target {
        listener: "istio-system/ingress:https".into(),
        judge: Judge::Source(SourceTables {
            table4: Some(Arc::new(table)),
            ..SourceTables::default()
        }),
        observe: false,
        node_address: false,
        pod_address: false,
        reset: false,
        drain_ms: 0,
    };
    let dest: SocketAddr = DEST.parse().unwrap();
    let key = TupleKey {
        addr: dest.ip(),
        port: dest.port(),
        protocol: Protocol::Tcp,
    };
    let mut planner = Planner::new(Settings {
        drain_ms,
        rewritten_drain_ms: drain_ms,
    });
    let mut image = Image::default();
    // A source that was let in once drains.
    for tuples in [BTreeMap::new(), [(key, target)].into()] {
        let desired = Desired {
            tuples,
            rewritten: Vec::new(),
        };
        let plan = planner.plan(&desired, 0).unwrap();
        plan.ops.iter().for_each(|op| image.apply(op));
        planner.commit(&plan);
    }
    (image, planner.names().clone())
}

fn status(hooks: &[&'static str]) -> Status {
    let at = |hook: &&'static str| Attached {
        interface: "eth0".to_owned(),
        ifindex: 2,
        hook: (*hook).into(),
        mode: "native".into(),
        multi_buffer: None,
        in_place: Some(true),
        ahead: None,
        program_id: None,
        program: None,
        since: None,
        loaded_since: None,
    };
    let gateway = |name: &str, tuples: &[&str], why: &[&str]| Gateway {
        name: name.to_owned(),
        client_address: Some("packet-source".to_owned()),
        enforced: why.is_empty(),
        state: String::new(),
        why: why.iter().map(ToString::to_string).collect(),
        tuples: Some(tuples.iter().map(ToString::to_string).collect()),
        prefixes: None,
        tables: None,
        memory_bytes: None,
        packets: None,
    };
    Status {
        agent: RUNNING.into(),
        agent_seen: None,
        attached: hooks.iter().map(at).collect(),
        control: None,
        generation: Some(2),
        generation_since: None,
        gateways: vec![
            gateway("istio-system/ingress", &["203.0.113.9:443/tcp"], &[]),
            gateway("web/edge", &[], &["snat: the source of packets is a node's"]),
        ],
        memory_bytes: None,
        counted_since: None,
        unknown: Vec::new(),
        pins_seen: true,
        last: None,
    }
}

fn ask(
    status: &Status,
    names: &Names,
    tables: &impl Tables,
    source: &str,
    dest: &str,
    protocol: Protocol,
) -> Answer {
    let query = Query::new(source.parse().unwrap(), dest.parse().unwrap(), protocol, None).unwrap();
    Here { status, names }.answer(&query, tables).unwrap()
}

/// The tables under another lease or pause.
struct Under<'a> {
    image: &'a Image,
    lease: u64,
    paused: u64,
}

impl Tables for Under<'_> {
    type Root<'a>
        = <Image as Tables>::Root<'a>
    where
        Self: 'a;

    fn root(&self) -> Option<Self::Root<'_>> {
        self.image.root()
    }

    fn source4(&self, table: u32, addr: [u8; 4]) -> Source {
        self.image.source4(table, addr)
    }

    fn source6(&self, table: u32, addr: [u8; 16]) -> Source {
        self.image.source6(table, addr)
    }

    fn never4(&self, table: u32, addr: [u8; 4]) -> Option<bool> {
        self.image.never4(table, addr)
    }

    fn never6(&self, table: u32, addr: [u8; 16]) -> Option<bool> {
        self.image.never6(table, addr)
    }

    fn control(&self, element: u32) -> Option<u64> {
        Some(if element == CONTROL_PAUSED {
            self.paused
        } else {
            self.lease
        })
    }

    fn clock_ns(&self) -> u64 {
        7
    }
}

#[test]
fn a_source_that_is_refused_then_the_rule_by_its_name_and_the_hook_that_is_there() {
    let (image, names) = tables(0);
    let answer = ask(
        &status(&["xdp", "tcx"]),
        &names,
        &image,
        REFUSED,
        DEST,
        Protocol::Tcp,
    );
    assert_snapshot!(serde_json::to_string_pretty(&answer).unwrap(), @r#"
    {
      "verdict": "drop",
      "reason": "denied-by-rule",
      "gateway": "istio-system/ingress",
      "policy": "ns[istio-system]-policy[deny]-rule[0]",
      "hook": "xdp",
      "client_address": "packet-source",
      "notes": [
        "the gateway would refuse it too (403, or a closed connection); refused at the node, the client sees a timeout",
        "answered from the tables in force on this node, of generation 2"
      ]
    }
    "#);
    let answer = ask(&status(&["tcx"]), &names, &image, REFUSED, DEST, Protocol::Tcp);
    assert_eq!(answer.hook, Some("tc"));
}

#[test]
fn within_the_drain_window_then_an_open_connection_is_said_to_live_on() {
    let (image, names) = tables(60_000);
    let answer = ask(&status(&["xdp"]), &names, &image, REFUSED, DEST, Protocol::Tcp);
    assert_eq!(answer.verdict, "drop");
    let notes = answer.notes.join("\n");
    assert!(
        notes.contains("a connection that is open already lives on"),
        "{notes}"
    );
}

#[test]
fn nothing_attached_or_no_agent_or_no_names_then_said() {
    let (image, names) = tables(0);
    let detached = ask(&status(&[]), &names, &image, REFUSED, DEST, Protocol::Tcp);
    assert_eq!((detached.verdict, detached.hook), ("drop", None));
    assert!(
        detached.notes[0].starts_with("nothing is attached on this node"),
        "{detached:?}"
    );
    let dead = Status {
        agent: NOT_RUNNING.into(),
        ..status(&["xdp"])
    };
    let dead = ask(&dead, &names, &image, REFUSED, DEST, Protocol::Tcp);
    assert!(dead.notes[0].starts_with("no agent runs"), "{dead:?}");
    let nameless = ask(
        &status(&["xdp"]),
        &Names::default(),
        &image,
        REFUSED,
        DEST,
        Protocol::Tcp,
    );
    assert_eq!(
        (nameless.verdict, &nameless.gateway, &nameless.policy),
        ("drop", &None, &None)
    );
    let notes = nameless.notes.join("\n");
    assert!(notes.contains("the name of rule 1 is not known"), "{notes}");
    assert!(notes.contains("left the name of listener 1"), "{notes}");
}

#[test]
fn lease_over_or_paused_then_a_pass_that_names_the_rule_which_would_refuse() {
    let (image, names) = tables(0);
    for (lease, paused, reason, to_do) in [
        (
            7,
            0,
            "lease-expired",
            "what to do: start the agent, or mend its way to the API server",
        ),
        (FOREVER, FOREVER, "paused", "what to do: `gwfilter resume`"),
    ] {
        let under = Under {
            image: &image,
            lease,
            paused,
        };
        let answer = ask(&status(&["xdp"]), &names, &under, REFUSED, DEST, Protocol::Tcp);
        assert_eq!(
            (answer.verdict, answer.reason, answer.policy.as_deref()),
            ("pass", reason, Some(RULE))
        );
        assert_eq!(answer.notes[0], to_do);
        // Nobody refuses this one.
        let answer = ask(
            &status(&["xdp"]),
            &names,
            &under,
            "198.51.100.8",
            DEST,
            Protocol::Tcp,
        );
        assert_eq!(
            (answer.verdict, answer.reason, answer.policy),
            ("pass", "allowed", None)
        );
    }
}

#[test]
fn a_destination_in_no_table_then_what_is_near_and_which_gateways_have_none() {
    let (image, names) = tables(0);
    let notes = |dest, protocol| {
        let mut notes = ask(&status(&["xdp"]), &names, &image, REFUSED, dest, protocol).notes;
        notes.pop();
        notes
    };
    let without = "web/edge has no destination in the tables: snat: the source of packets is a node's";
    assert_eq!(
        notes("203.0.113.9:80", Protocol::Tcp),
        [
            "no table of this node has this destination; of another port at this address there are 203.0.113.9:443/tcp",
            without
        ]
    );
    assert_eq!(
        notes(DEST, Protocol::Udp),
        [
            "no table of this node has this destination; of another protocol at this address there are 203.0.113.9:443/tcp",
            without
        ]
    );
    assert_eq!(
        notes("203.0.113.10:443", Protocol::Tcp),
        [
            "no table of this node has the address 203.0.113.10: the packet is not touched",
            without
        ]
    );
}

/// What `status` makes of tuples is what `nobody` reads.
#[test]
fn tuples_as_status_prints_them_then_read_back() {
    let noted = GatewayState {
        name: "a/b".to_owned(),
        client_address: "packet-source".to_owned(),
        enforced: true,
        why: Vec::new(),
        prefixes: None,
    };
    let key = TupleKey {
        addr: "2001:db8::1".parse().unwrap(),
        port: 443,
        protocol: Protocol::Tcp,
    };
    let in_force = [(
        noted.name.clone(),
        rows::InForce {
            tuples: vec![key],
            ..rows::InForce::default()
        },
    )]
    .into();
    let facts = rows::Facts {
        agent: RUNNING,
        attached: true,
        control: None,
        in_force: Some(&in_force),
        tables: &BTreeMap::new(),
        packets: None,
    };
    let status = Status {
        gateways: rows::rows(None, &facts),
        ..status(&["xdp"])
    };
    let (image, names) = tables(0);
    let answer = ask(
        &status,
        &names,
        &image,
        "2001:db8::7",
        "[2001:db8::1]:80",
        Protocol::Tcp,
    );
    assert!(
        answer.notes[0].ends_with("at this address there are [2001:db8::1]:443/tcp"),
        "{answer:?}"
    );
}
