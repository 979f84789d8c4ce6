use insta::assert_snapshot;

use super::*;
use crate::control::Words;
use crate::palette::words;
use crate::status::{NOT_RUNNING, Prefixes};

const SECOND: u64 = 1_000_000_000;

/// 2026-11-26T16:00:00Z.
const NOW: u64 = 1_795_708_800;

fn attached(hook: &'static str, mode: &'static str) -> Attached {
    Attached {
        interface: "eth0".to_owned(),
        ifindex: 2,
        hook: hook.into(),
        mode: mode.into(),
        multi_buffer: (hook == "xdp").then_some(true),
        in_place: Some(true),
        ahead: Some(0),
        program_id: Some(57),
        program: Some(if hook == "xdp" { "gwf_xdp_frags" } else { "gwf_tc" }.to_owned()),
        since: Some(NOW - 7 * 86_400),
        loaded_since: Some(NOW - 11_520),
    }
}

fn gateway(name: &str, state: &str) -> Gateway {
    Gateway {
        name: name.to_owned(),
        client_address: Some("packet-source".to_owned()),
        enforced: true,
        state: state.to_owned(),
        why: Vec::new(),
        tuples: Some(vec![
            "203.0.113.10:443/tcp".to_owned(),
            "[2001:db8::10]:443/tcp".to_owned(),
        ]),
        prefixes: Some(Prefixes { v4: 38, v6: 2 }),
        tables: Some(2),
        memory_bytes: Some(12_345),
        packets: Some(Packets {
            passed: 1204,
            dropped: 33,
            would_drop: 0,
        }),
    }
}

fn left() -> Left {
    Left {
        written_at: NOW - 42,
        from: "the cluster".to_owned(),
        generation: 7,
        observe: false,
        ready: true,
        not_ready: None,
        gateways: Vec::new(),
        finds: BTreeMap::new(),
        lease_length: Some(3600),
    }
}

/// A calm node.
fn status() -> Status {
    let words = Words {
        lease: 3541 * SECOND,
        pod_lease: 42 * SECOND,
        paused: 0,
    };
    Status {
        agent: RUNNING.into(),
        agent_seen: Some(NOW - 19),
        attached: vec![attached("xdp", "native")],
        control: Some(Control::of(words, SECOND)),
        generation: Some(7),
        generation_since: Some(NOW - 720),
        gateways: vec![gateway("ns/gw", "enforced")],
        memory_bytes: Some(1_234_567),
        counted_since: Some(NOW - 90_000),
        pins_seen: true,
        unknown: Vec::new(),
        last: Some(left()),
    }
}

fn text(change: impl Fn(&mut Status)) -> String {
    let mut status = status();
    change(&mut status);
    status.text(NOW, Palette::PLAIN)
}

#[test]
fn a_calm_node_then_few_lines_and_wide_has_all() {
    assert_snapshot!(status().text(NOW, Palette::PLAIN), @r"
    agent: running
    attached: eth0 by xdp
    lease of all destinations: 59m left, the agent renews it
    lease of pods' addresses: 41s left, the agent renews it
    generation: 7 from the cluster, in force for 12m
    gateway ns/gw: enforced, client address packet-source; in 25h: passed 1204, dropped 33
    ");
    assert_snapshot!(status().wide(NOW, Palette::PLAIN), @r"
    agent: running
    last sign of life of an agent: 19s ago, at 2026-11-26T15:59:41Z
    attached: eth0 (ifindex 2) by xdp; native XDP for multi-buffer frames too, first in line, program 57 gwf_xdp_frags, loaded 3h12m ago, served for 7d
    lease of all destinations: 59m left, the agent renews it
    lease of pods' addresses: 41s left, the agent renews it
    generation: 7 from the cluster, in force for 12m; written down 42s ago
    gateway ns/gw: enforced, client address packet-source; in 25h: passed 1204, dropped 33
      tuples: 203.0.113.10:443/tcp, [2001:db8::10]:443/tcp
      prefixes: 38 IPv4, 2 IPv6; 2 tables, 12 KiB
    tables in force: 1205 KiB
    counters: since 2026-11-25T15:00:00Z (25h)
    ");
}

#[test]
fn a_dead_agent_then_said_with_its_last_sign_of_life_and_what_goes_on() {
    let dead = |status: &mut Status| {
        status.agent = NOT_RUNNING.into();
        status.agent_seen = Some(NOW - 900);
        let words = Words {
            lease: 2701 * SECOND,
            pod_lease: 0,
            paused: 0,
        };
        status.control = Some(Control::of(words, SECOND));
        let state = "still enforced, by the last policies, but for pods' addresses";
        status.gateways = vec![gateway("ns/gw", state)];
        if let Some(last) = &mut status.last {
            last.not_ready = Some("it is of no interest any more".to_owned());
        }
    };
    assert_snapshot!(text(dead), @r"
    agent: NOT RUNNING; the last policies are still enforced until the lease ends, and changes since are not (a client allowed since may be refused). Start the agent; to stop dropping meanwhile: `gwfilter pause`
    last sign of life of an agent: 15m ago, at 2026-11-26T15:45:00Z
    attached: eth0 by xdp
    lease of all destinations: ends in 45m, then everything passes there
    lease of pods' addresses: EXPIRED, nothing is refused there until it is renewed
    generation: 7 from the cluster, in force for 12m
    gateway ns/gw: still enforced, by the last policies, but for pods' addresses, client address packet-source; in 25h: passed 1204, dropped 33
    ");
    // What the lease or a pause has ended is not called enforced.
    let first = |lease, paused| {
        let words = Words {
            lease,
            pod_lease: lease,
            paused,
        };
        let of = |status: &mut Status| {
            dead(status);
            status.control = Some(Control::of(words, SECOND));
        };
        text(of).lines().next().unwrap().to_owned()
    };
    for (lease, paused) in [(0, 0), (u64::MAX, 61 * SECOND)] {
        let line = first(lease, paused);
        assert!(
            line.contains("NOT RUNNING") && !line.contains("enforced"),
            "{line}"
        );
    }
    assert!(first(u64::MAX, 0).contains("still enforced, without an end"));
    let unknown = |status: &mut Status| {
        dead(status);
        status.control = None;
    };
    assert!(text(unknown).contains("may still be enforced"));
}

#[test]
fn nothing_attached_then_nothing_is_in_force() {
    let off = |status: &mut Status| {
        status.agent = NOT_RUNNING.into();
        status.attached.clear();
        status.control = None;
        status.generation = None;
        status.gateways = vec![Gateway {
            tuples: None,
            tables: None,
            memory_bytes: None,
            packets: None,
            ..gateway("ns/gw", "was enforced, nothing is attached now")
        }];
    };
    assert_snapshot!(text(off), @r"
    agent: not running; nothing is enforced on this node
    last sign of life of an agent: 19s ago, at 2026-11-26T15:59:41Z
    generation: none is in force; the last was 7 from the cluster, as of 42s ago
    gateway ns/gw: was enforced, nothing is attached now, client address packet-source
    ");
    // The root table is pinned still.
    let root = |status: &mut Status| {
        off(status);
        status.generation = Some(8);
    };
    assert_eq!(text(root), text(off));
    let never = |status: &mut Status| {
        off(status);
        (status.last, status.agent_seen) = (None, None);
        status.gateways.clear();
    };
    assert_snapshot!(text(never), @"agent: not running; nothing is enforced on this node");
}

#[test]
fn pins_that_cannot_be_seen_from_here_then_nothing_is_said_to_be_off() {
    let hidden = |status: &mut Status| {
        status.agent = NOT_RUNNING.into();
        status.attached.clear();
        (status.control, status.generation, status.pins_seen) = (None, None, false);
        status.unknown = vec!["there is no bpffs to be seen from here".to_owned()];
        status.gateways = vec![Gateway {
            tuples: None,
            tables: None,
            memory_bytes: None,
            packets: None,
            ..gateway(
                "ns/gw",
                "enforced as the agent wrote down, if neither lease nor pause is in the way",
            )
        }];
    };
    assert_snapshot!(text(hidden), @r"
    agent: NOT KNOWN from here, nor what is attached: this node may enforce all the same; ask where its bpffs is seen
    last sign of life of an agent: 19s ago, at 2026-11-26T15:59:41Z
    generation: not known; an agent wrote down 7 from the cluster, 42s ago
    gateway ns/gw: enforced as the agent wrote down, if neither lease nor pause is in the way, client address packet-source
    not known: there is no bpffs to be seen from here
    ");
    let never = |status: &mut Status| {
        hidden(status);
        (status.last, status.agent_seen) = (None, None);
        status.gateways.clear();
    };
    assert_snapshot!(text(never), @r"
    agent: NOT KNOWN from here, nor what is attached: this node may enforce all the same; ask where its bpffs is seen
    generation: not known; the agent left nothing that can be read (--state-dir?)
    not known: there is no bpffs to be seen from here
    ");
}

#[test]
fn another_generation_in_force_or_none_that_was_written_down_then_said() {
    let other = |status: &mut Status| status.generation = Some(8);
    let ended = text(|status| {
        other(status);
        status.agent = NOT_RUNNING.into();
    });
    assert!(
        ended.contains(
            "; the agent ended before it wrote down what it held, so gateways below are of 7 (42s old)\n"
        ),
        "{ended}"
    );
    assert_snapshot!(text(other), @r"
    agent: running
    attached: eth0 by xdp
    lease of all destinations: 59m left, the agent renews it
    lease of pods' addresses: 41s left, the agent renews it
    generation: 8, in force for 12m; the agent has not yet written down what it holds, so gateways below are of 7 (42s old); if this stays for more than a minute, see its log
    gateway ns/gw: enforced, client address packet-source; in 25h: passed 1204, dropped 33
    ");
    let unread = |status: &mut Status| {
        status.last = None;
        status.gateways = vec![Gateway {
            client_address: None,
            prefixes: None,
            ..gateway("ns/gw", "enforced")
        }];
    };
    assert_snapshot!(text(unread), @r"
    agent: running
    attached: eth0 by xdp
    lease of all destinations: ends in 59m unless the agent renews it, then everything passes there
    lease of pods' addresses: ends in 41s unless the agent renews it, then everything passes there
    generation: 7, in force for 12m; the agent left nothing that can be read (--state-dir?)
    gateway ns/gw: enforced; in 25h: passed 1204, dropped 33
    ");
    let just_begun = text(|status| {
        unread(status);
        status.generation_since = Some(NOW - 2);
    });
    let line =
        "generation: 7, in force for 2s; the agent has just begun, and not yet written down what it holds";
    assert!(just_begun.lines().any(|each| each == line), "{just_begun}");
    let nothing = |status: &mut Status| {
        unread(status);
        (status.generation, status.generation_since) = (None, None);
        status.gateways.clear();
        status.unknown = vec!["the tables in force: they are of another version of gwfilter; use the gwfilter of the agent's own version (kubectl exec into its pod)".to_owned()];
    };
    assert_snapshot!(text(nothing), @r"
    agent: running
    attached: eth0 by xdp
    lease of all destinations: ends in 59m unless the agent renews it, then everything passes there
    lease of pods' addresses: ends in 41s unless the agent renews it, then everything passes there
    generation: not known; the agent left nothing that can be read (--state-dir?)
    not known: the tables in force: they are of another version of gwfilter; use the gwfilter of the agent's own version (kubectl exec into its pod)
    ");
}

#[test]
fn what_is_not_as_it_should_be_then_told_in_the_short_form_too() {
    let odd = |status: &mut Status| {
        status.attached = vec![
            Attached {
                ahead: Some(2),
                ..attached("tcx", "tc")
            },
            Attached {
                interface: "eth1".to_owned(),
                in_place: Some(false),
                ahead: None,
                ..attached("xdp", "native")
            },
        ];
        status.gateways = vec![Gateway {
            enforced: false,
            why: vec!["code: text".to_owned()],
            packets: Some(Packets {
                passed: 9,
                dropped: 0,
                would_drop: 4,
            }),
            ..gateway("ns/gw", "not enforced")
        }];
        if let Some(last) = &mut status.last {
            last.observe = true;
            (last.ready, last.not_ready) = (false, Some("the wanted generation is not in force".to_owned()));
            last.finds = [("link-detached".to_owned(), 2), ("mtu-changed".to_owned(), 1)].into();
        }
    };
    assert_snapshot!(text(odd), @r"
    agent: running
    attached: eth0 by tcx; behind 2 other programs, whose verdict comes first
    attached: eth1 by xdp; DETACHED by somebody else: nothing is judged there, the gateway judges; a running agent attaches it again within 30s
    lease of all destinations: ends in 59m unless the agent renews it, then everything passes there
    lease of pods' addresses: ends in 41s unless the agent renews it, then everything passes there
    generation: 7 from the cluster, in force for 12m
    observe: packets are judged and counted, none is dropped
    not ready: the wanted generation is not in force
    found and put right since the agent started: link-detached 2×, mtu-changed 1×
    gateway ns/gw: not enforced, client address packet-source; in 25h: passed 9 (4 of them would have been dropped), dropped 0
      code: text
    ");
    let bare = |status: &mut Status| {
        status.attached.clear();
        status.gateways.clear();
    };
    assert_snapshot!(text(bare), @r"
    agent: running
    attached: nothing: nothing is judged on this node, every packet goes to the gateway; the agent's log says why
    lease of all destinations: 59m left, the agent renews it
    lease of pods' addresses: 41s left, the agent renews it
    generation: 7 from the cluster
    gateways: none is known here, so every packet passes
    ");
}

#[test]
fn figures_that_are_not_known_then_wide_says_so() {
    let mut status = status();
    status.attached = vec![
        Attached {
            multi_buffer: None,
            in_place: None,
            ahead: None,
            program: None,
            loaded_since: None,
            ..attached("xdp", "native")
        },
        Attached {
            multi_buffer: Some(false),
            program: Some("gwf_xdp".to_owned()),
            ..attached("xdp-generic", "generic")
        },
        attached("clsact", "tc"),
    ];
    status.gateways = vec![
        Gateway {
            tuples: None,
            prefixes: None,
            tables: None,
            memory_bytes: None,
            packets: None,
            ..gateway("ns/a", "enforced")
        },
        Gateway {
            tuples: Some(Vec::new()),
            memory_bytes: None,
            tables: Some(1),
            ..gateway("ns/b", "not enforced")
        },
    ];
    assert_snapshot!(status.wide(NOW, Palette::PLAIN), @r"
    agent: running
    last sign of life of an agent: 19s ago, at 2026-11-26T15:59:41Z
    attached: eth0 (ifindex 2) by xdp; native XDP, program 57 (name not readable), served for 7d
    attached: eth0 (ifindex 2) by xdp-generic; generic XDP, not for multi-buffer frames, first in line, program 57 gwf_xdp, loaded 3h12m ago, served for 7d
    attached: eth0 (ifindex 2) by clsact; traffic control, first in line, program 57 gwf_tc, loaded 3h12m ago, served for 7d
    lease of all destinations: 59m left, the agent renews it
    lease of pods' addresses: 41s left, the agent renews it
    generation: 7 from the cluster, in force for 12m; written down 42s ago
    gateway ns/a: enforced, client address packet-source
      tuples: not known, for the tables cannot be read
      prefixes: not known
    gateway ns/b: not enforced, client address packet-source; in 25h: passed 1204, dropped 33
      tuples: none is in force
      prefixes: 38 IPv4, 2 IPv6; 1 table
    tables in force: 1205 KiB
    counters: since 2026-11-25T15:00:00Z (25h)
    ");
}

#[test]
fn lease_and_pause_then_the_lines_that_tell_them() {
    let lines = |lease, pod_lease, paused| {
        let words = Words {
            lease,
            pod_lease,
            paused,
        };
        Control::of(words, SECOND)
            .lines(Renews::Nobody, Palette::PLAIN)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        lines(61 * SECOND, u64::MAX, 0),
        [
            "lease of all destinations: ends in 60s, then everything passes there",
            "lease of pods' addresses: off"
        ]
    );
    let expired = "EXPIRED, nothing is refused there until it is renewed";
    assert_eq!(
        lines(SECOND, 0, u64::MAX),
        [
            "PAUSED until `gwfilter resume`: nothing is dropped on this node; what would have been is counted".to_owned(),
            format!("lease of all destinations: {expired}"),
            format!("lease of pods' addresses: {expired}"),
        ]
    );
    assert!(lines(0, 0, 3 * SECOND)[0].starts_with("PAUSED for 2s more: "));
    for pods in [61 * SECOND, u64::MAX] {
        let of_pods = &lines(0, pods, 0)[1];
        assert!(
            of_pods.ends_with("of no use until that of all destinations is renewed"),
            "{of_pods}"
        );
    }
}

#[test]
fn spans_moments_and_sizes_then_short_and_true() {
    for (seconds, text) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7_199, "119m"),
        (7_200, "2h"),
        (11_520, "3h12m"),
        (172_799, "47h59m"),
        (172_800, "2d"),
        (446_400, "5d4h"),
    ] {
        assert_eq!(span(seconds), text);
    }
    assert_eq!(clock(NOW), "2026-11-26T16:00:00Z");
    assert_eq!(clock(u64::MAX), "(no such time)");
    for (bytes, text) in [
        (10_239, "10239 B"),
        (10_240, "10 KiB"),
        (10_485_759, "10239 KiB"),
        (10_485_760, "10 MiB"),
    ] {
        assert_eq!(memory(bytes), text);
    }
}

#[test]
fn coloured_then_what_needs_a_person_is_red_and_the_words_are_the_plain_ones() {
    const RED: &str = "\u{1b}[1m\u{1b}[31m";
    const YELLOW: &str = "\u{1b}[33m";
    let mut status = status();
    status.agent = NOT_RUNNING.into();
    status.gateways = [
        "enforced",
        "enforced in part",
        "still enforced, by the last policies",
        "counted only",
        "not enforced",
        "was enforced, nothing is attached now",
    ]
    .map(|state| gateway("ns/gw", state))
    .to_vec();
    let coloured = status.wide(NOW, Palette::COLOURED);
    let in_colour = |word: &str, code: &str| coloured.contains(&format!("{code}{word}\u{1b}[0m"));
    assert!(in_colour("NOT RUNNING", RED), "{coloured}");
    for (gateway, code) in status
        .gateways
        .iter()
        .zip(["\u{1b}[32m", YELLOW, YELLOW, YELLOW, RED, RED])
    {
        assert!(in_colour(&gateway.state, code), "{}: {coloured}", gateway.state);
    }
    assert_eq!(words(&coloured), status.wide(NOW, Palette::PLAIN));
    // As on most nodes: nobody has to come.
    status.gateways = vec![gateway("ns/gw", "not enforced")];
    status.gateways[0].why = vec!["no-local-endpoint: no ready pod of the gateway is here".to_owned()];
    let calm = status.text(NOW, Palette::COLOURED);
    assert!(calm.contains(&format!("{YELLOW}not enforced\u{1b}[0m")), "{calm}");
}
