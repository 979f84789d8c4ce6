use gwfilter_common::abi::Tally;
use gwfilter_common::reason::Reason;
use insta::assert_snapshot;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::control::Words;
use crate::plan::{ListenerName, Names};
use crate::status::{Attached, Control, NOT_RUNNING, RUNNING};

/// 2026-11-26T16:00:00Z.
const NOW: u64 = 1_795_708_800;
const SECOND: u64 = 1_000_000_000;

fn counted(dropped: u64, passed: u64) -> Counted {
    let refused = Tally {
        dropped,
        ..Tally::default()
    };
    of(Reason::DeniedByRule, refused, passed)
}

/// As [`counted`] while paused.
fn paused(would_drop: u64, passed: u64) -> Counted {
    let refused = Tally {
        passed: would_drop,
        would_drop,
        dropped: 0,
    };
    of(Reason::Paused, refused, passed)
}

fn of(reason: Reason, refused: Tally, passed: u64) -> Counted {
    let mut block = vec![Tally::default(); 32];
    block[usize::from(Reason::Allowed.code())].passed = passed;
    block[usize::from(reason.code())] = refused;
    let name = |gateway: &str| ListenerName {
        gateway: gateway.into(),
        listener: "http".into(),
    };
    let names = Names {
        listeners: [
            (1, name("istio-system/istio-ingressgateway")),
            (2, name("shop/gw")),
        ]
        .into(),
        rules: [(1, "ns[istio-system]-policy[ingress-policy]-rule[0]".into())].into(),
    };
    Counted {
        at: NOW,
        agent: RUNNING.into(),
        ..Counted::of(&[(1, block)], &[(1, refused)], &names)
    }
}

fn status(agent: &'static str, paused: u64) -> Status {
    let words = Words {
        lease: 3541 * SECOND,
        pod_lease: 42 * SECOND,
        paused,
    };
    Status {
        agent: agent.into(),
        agent_seen: None,
        attached: vec![Attached {
            interface: "eth0".to_owned(),
            ifindex: 2,
            hook: "xdp".into(),
            mode: "native".into(),
            multi_buffer: None,
            in_place: None,
            ahead: None,
            program_id: None,
            program: None,
            since: None,
            loaded_since: None,
        }],
        control: Some(Control::of(words, SECOND)),
        generation: Some(7),
        generation_since: Some(NOW - 720),
        gateways: Vec::new(),
        memory_bytes: None,
        counted_since: None,
        pins_seen: true,
        unknown: Vec::new(),
        last: None,
    }
}

fn line(text: &str) -> Line {
    serde_json::from_str(text).unwrap()
}

/// As `/v1/samples` gives them.
const SAMPLES: [&str; 6] = [
    r#"{"time":"2026-11-26T16:00:00.1Z","interface":"eth0","hook":"xdp","verdict":"drop","reason":"denied-by-rule","gateway":"istio-system/istio-ingressgateway","policy":"ns[istio-system]-policy[ingress-policy]-rule[0]","protocol":"tcp","source":"198.51.100.7:40000","dest":"203.0.113.10:443","client":null,"weight":30}"#,
    r#"{"time":"2026-11-26T16:00:00.2Z","interface":"eth0","hook":"xdp","verdict":"drop","reason":"denied-by-rule","gateway":"istio-system/istio-ingressgateway","policy":null,"protocol":"tcp","source":"198.51.100.8:40000","dest":"203.0.113.10:443","client":null,"weight":10}"#,
    r#"{"time":"2026-11-26T16:00:00.3Z","interface":"eth0","hook":"tc","verdict":"drop","reason":"no-rule-allows","gateway":"shop/gw","policy":null,"protocol":"tcp","source":"10.0.0.1:1000","dest":"10.0.0.10:443","client":"[2001:db8:7::9]:40000","weight":20}"#,
    r#"{"time":"2026-11-26T16:00:00.4Z","interface":"eth0","hook":"xdp","verdict":"pass","reason":"allowed","gateway":"shop/gw","policy":null,"protocol":"tcp","source":"192.0.2.1:1","dest":"203.0.113.10:443","client":null,"weight":40}"#,
    r#"{"lost":3,"unsampled":96}"#,
    r#"{"notice":"paused: nothing is dropped"}"#,
];

/// A busy node, five readings in.
fn busy() -> Top {
    let mut top = Top::default();
    top.status(status(RUNNING, 0));
    let mut before = counted(0, 0);
    top.counted(Ok(before.clone()));
    for n in 1..=5 {
        for text in SAMPLES {
            top.line(&line(text));
        }
        let now = counted(60 * n * n, 1_000 * n);
        top.counted(Ok(now.clone().after(&before, 1.0)));
        before = now;
    }
    top
}

fn screen(top: &Top, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(top, NOW, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width));
    let text = rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
    text.map(|row| row.trim_end().to_owned() + "\n").collect()
}

#[test]
fn a_busy_node_then_all_of_it_on_a_wide_screen() {
    assert_snapshot!(screen(&busy(), 120, 26), @r"
    gwfilter top  agent running  generation 7, 12m  lease 59m
    a second: passed 1000, dropped 540, would-drop 0 · 1 of 25 sampled, 15 lost
    ┌dropped a second, at most 540─────────────────────────────────────────────────────────────────────────────────────────┐
    │   ▂█                                                                                                                 │
    │  ▅██                                                                                                                 │
    │▂████                                                                                                                 │
    └──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
    ┌gateways, a second, by dropped──────────────────────────────────────────────┐┌prefixes: drop, estimated───────────────┐
    │gateway                                      dropped      passed  would-drop││prefix (/24, /48)            ~  a second│
    │istio-system/istio-ingressgateway                540        1000           0││198.51.100.0/24                       40│
    │shop/gw                                            0           0           0││2001:db8:7::/48                       20│
    │                                                                            ││                                        │
    │                                                                            ││                                        │
    │                                                                            ││                                        │
    │                                                                            ││                                        │
    └────────────────────────────────────────────────────────────────────────────┘└────────────────────────────────────────┘
    ┌rules, a second, by dropped─────────────────────────────────────────────────┐┌sources: drop, estimated────────────────┐
    │rule                                                     dropped  would-drop││source                       ~  a second│
    │ns[istio-system]-policy[ingress-policy]-rule[0]              540           0││198.51.100.7                          30│
    │                                                                            ││2001:db8:7::9                         20│
    │                                                                            ││198.51.100.8                          10│
    │                                                                            ││                                        │
    │                                                                            ││                                        │
    │                                                                            ││                                        │
    └────────────────────────────────────────────────────────────────────────────┘└────────────────────────────────────────┘
    q quit  p pause display  Tab table  ↑↓ scroll  order: d dropped a passed w would-drop n name  v verdict
    ");
}

#[test]
fn a_small_screen_then_the_pane_that_was_chosen() {
    let mut top = busy();
    top.press(Key::Turn { back: true });
    assert_snapshot!(screen(&top, 80, 16), @r"
    gwfilter top  agent running  generation 7, 12m  lease 59m
    a second: passed 1000, dropped 540, would-drop 0 · 1 of 25 sampled, 15 lost
    ┌sources: drop, estimated──────────────────────────────────────────────────────┐
    │source                                                             ~  a second│
    │198.51.100.7                                                                30│
    │2001:db8:7::9                                                               20│
    │198.51.100.8                                                                10│
    │                                                                              │
    │                                                                              │
    │                                                                              │
    │                                                                              │
    │                                                                              │
    │                                                                              │
    │                                                                              │
    └──────────────────────────────────────────────────────────────────────────────┘
    q quit  p pause display  Tab table  ↑↓ scroll  d a w n order  v verdict
    ");
}

#[test]
fn a_name_that_is_too_long_then_its_end_and_all_keys_on_a_small_screen() {
    let mut top = busy();
    top.press(Key::Turn { back: false });
    let shown = screen(&top, 60, 10);
    assert!(shown.contains("…m]-policy[ingress-policy]-rule[0] "), "{shown}");
    for key in ["q quit", "v verdict"] {
        assert!(screen(&top, 80, 16).contains(key));
    }
}

#[test]
fn no_agent_then_no_sources_and_why() {
    let mut top = Top::default();
    top.status(status(NOT_RUNNING, u64::MAX));
    top.sampling(Sampling::None(
        "no agent runs here, so there are no samples; rates are the kernel's own".to_owned(),
    ));
    top.counted(Ok(paused(10, 10)));
    top.counted(Ok(paused(40, 20).after(&paused(10, 10), 2.0)));
    assert_snapshot!(screen(&top, 110, 22), @r"
    gwfilter top  PAUSED  NO AGENT  generation 7, 12m  lease 59m
    a second: passed 20, dropped 0, would-drop 15
    ┌dropped a second, at most 0─────────────────────────────────────────────────────────────────────────────────┐
    │                                                                                                            │
    │                                                                                                            │
    │                                                                                                            │
    └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
    ┌gateways, a second, by dropped────────────────────────────────────────┐┌prefixes: drop, estimated───────────┐
    │gateway                                dropped      passed  would-drop││no agent runs here, so there are no │
    │istio-system/istio-ingressgateway            0          20          15││samples; rates are the kernel's own │
    │shop/gw                                      0           0           0││                                    │
    │                                                                      ││                                    │
    │                                                                      ││                                    │
    └──────────────────────────────────────────────────────────────────────┘└────────────────────────────────────┘
    ┌rules, a second, by dropped───────────────────────────────────────────┐┌sources: drop, estimated────────────┐
    │rule                                               dropped  would-drop││no agent runs here, so there are no │
    │…[istio-system]-policy[ingress-policy]-rule[0]           0          15││samples; rates are the kernel's own │
    │                                                                      ││                                    │
    │                                                                      ││                                    │
    │                                                                      ││                                    │
    └──────────────────────────────────────────────────────────────────────┘└────────────────────────────────────┘
    q quit  p pause display  Tab table  ↑↓ scroll  order: d dropped a passed w would-drop n name  v verdict
    ");
}

#[test]
fn no_counters_then_said_in_the_head_line() {
    let mut top = Top::default();
    top.counted(Err("no counters are pinned here".to_owned()));
    let shown = screen(&top, 80, 8);
    assert!(
        shown.contains("NO FIGURES: no counters are pinned here"),
        "{shown}"
    );
}

#[test]
fn each_state_of_the_node_then_its_alarm() {
    let shown = |change: fn(&mut Status)| {
        let mut top = busy();
        let mut status = status(RUNNING, 0);
        change(&mut status);
        top.status(status);
        screen(&top, 120, 8).lines().next().unwrap().to_owned()
    };
    assert!(!shown(|_| {}).contains("PAUSED"));
    for (change, alarm) in [
        (
            (|s| {
                s.control = Some(Control::of(
                    Words {
                        lease: 0,
                        pod_lease: 0,
                        paused: 0,
                    },
                    1,
                ))
            }) as fn(&mut Status),
            "LEASE EXPIRED",
        ),
        (|s| *s = status(RUNNING, 61 * SECOND), "PAUSED for 60s"),
        (|s| s.control = None, "LEASE NOT KNOWN"),
        (|s| s.attached.clear(), "NOTHING ATTACHED"),
        (|s| s.agent = NOT_RUNNING.into(), "NO AGENT"),
    ] {
        let head = shown(change);
        assert!(head.contains(alarm), "{alarm}: {head}");
    }
}

#[test]
fn keys_then_panes_order_verdict_and_a_picture_that_stops() {
    let mut top = busy();
    for pane in [Pane::Rules, Pane::Prefixes, Pane::Sources, Pane::Gateways] {
        top.press(Key::Turn { back: false });
        assert_eq!(top.pane, pane);
    }
    let first_gateway = |top: &Top| screen(top, 80, 12).lines().nth(4).unwrap().to_owned();
    assert!(first_gateway(&top).contains("istio-ingressgateway"));
    top.press(Key::Scroll { down: 1 });
    assert!(first_gateway(&top).contains("shop/gw"));
    top.press(Key::Scroll { down: 50 });
    top.press(Key::Scroll { down: -50 });
    assert!(first_gateway(&top).contains("istio-ingressgateway"));
    for sort in [Sort::Passed, Sort::WouldDrop, Sort::Name, Sort::Dropped] {
        top.press(Key::Sort(sort));
        let shown = screen(&top, 80, 12);
        assert!(shown.contains(&format!("by {}", sort.name())), "{shown}");
    }
    top.press(Key::Turn { back: true });
    for (verdict, part) in [
        ("would-drop", "no such verdict"),
        ("pass", "192.0.2.1"),
        ("drop", "198.51.100.7"),
    ] {
        top.press(Key::Verdict);
        let shown = screen(&top, 80, 12);
        assert!(
            shown.contains(&format!("sources: {verdict}")) && shown.contains(part),
            "{shown}"
        );
    }
    top.press(Key::Pause);
    let before = screen(&top, 120, 26);
    assert!(before.contains("DISPLAY PAUSED"), "{before}");
    top.counted(Ok(counted(9_999, 9_999).after(&counted(0, 0), 1.0)));
    assert_eq!(
        screen(&top, 120, 26),
        before,
        "it goes on behind a picture that stands"
    );
    top.press(Key::Pause);
    assert!(screen(&top, 120, 26).contains("9999"));
    assert!(!top.is_over());
    top.press(Key::Quit);
    assert!(top.is_over());
}

#[test]
fn a_steady_source_then_its_rate_from_the_weights_of_few_samples() {
    let mut top = Top::default();
    let reading = counted(1, 1);
    for second in 0..60 {
        // Five samples a second, each for ten verdicts.
        for _ in 0..5 {
            top.line(&Line::Sample {
                verdict: Verdict::Drop,
                source: "198.51.100.7:1".parse().unwrap(),
                client: None,
                weight: 10,
            });
        }
        top.counted(Ok(reading.clone().after(&reading, 1.0)));
        let heavy = &top.live.sources[&Verdict::Drop];
        let rate = heavy.top()[0].1.most / top.live.scale;
        assert!((rate - 50.0).abs() < 5.0, "after {second} s: {rate}");
    }
}

#[test]
fn a_flood_of_sources_then_bounded_and_said() {
    let mut top = busy();
    for n in 0..20_000_u32 {
        top.line(&Line::Sample {
            verdict: Verdict::Drop,
            source: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::from(n.wrapping_mul(7_919))), 1),
            client: None,
            weight: 1,
        });
    }
    top.press(Key::Turn { back: true });
    assert_eq!(top.rows(), ROOM);
    let shown = screen(&top, 120, 26);
    assert!(shown.contains("sources: drop, at least"), "{shown}");
    let second = shown.lines().filter(|row| row.contains("2001:db8:7::9")).count();
    assert_eq!(
        second, 1,
        "who was certainly seen stands before the flood: {shown}"
    );
    for _ in 0..PAST + 10 {
        top.counted(Ok(counted(1, 1).after(&counted(1, 1), 1.0)));
    }
    assert_eq!(top.live.drops.len(), PAST);
}
