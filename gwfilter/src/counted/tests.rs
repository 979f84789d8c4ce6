use insta::assert_snapshot;

use super::*;
use crate::palette::Palette;
use crate::plan::ListenerName;
use crate::status::{NOT_RUNNING, RUNNING};

fn tally(passed: u64, dropped: u64, would_drop: u64) -> Tally {
    Tally {
        passed,
        dropped,
        would_drop,
    }
}

fn block(counts: &[(Reason, Tally)]) -> Vec<Tally> {
    let mut block = vec![Tally::default(); 32];
    for (reason, tally) in counts {
        block[usize::from(reason.code())] = *tally;
    }
    block
}

fn names() -> Names {
    let name = |listener: &str| ListenerName {
        gateway: "istio-system/istio-ingressgateway".into(),
        listener: listener.into(),
    };
    let idle = ListenerName {
        gateway: "shop/idle".into(),
        listener: "http".into(),
    };
    Names {
        listeners: [(1, name("http")), (2, name("https")), (3, idle)].into(),
        rules: [
            (1, "ns[istio-system]-policy[ingress-policy]-rule[0]".into()),
            (2, "ns[istio-system]-policy[ingress-policy]-rule[1]".into()),
        ]
        .into(),
    }
}

fn counted(times: u64) -> Counted {
    let listeners = [
        (0, block(&[(Reason::Fragment, tally(3, 0, 0))])),
        (
            1,
            block(&[
                (Reason::Allowed, tally(1000 * times, 0, 0)),
                (Reason::DeniedByRule, tally(0, 20 * times, 0)),
            ]),
        ),
        (
            2,
            block(&[
                (Reason::Allowed, tally(200, 0, 0)),
                (Reason::Paused, tally(13, 0, 13)),
            ]),
        ),
        (7, block(&[(Reason::NoPolicy, tally(5, 0, 0))])),
    ];
    let rules = [(1, tally(13, 20 * times, 13)), (9, tally(0, 1, 0))];
    Counted {
        at: 1_795_708_800 + times,
        since: Some(1_795_708_800 - 11_520),
        agent: RUNNING.into(),
        ..Counted::of(&listeners, &rules, &names())
    }
}

#[test]
fn counters_then_each_gateway_reason_and_rule_and_what_has_no_name_by_its_index() {
    assert_snapshot!(counted(1).text(Palette::PLAIN), @r"
    2026-11-26T16:00:01Z: packets since 2026-11-26T12:48:00Z (3h12m)
    gateway                              reason                passed       dropped    would-drop
    (listener 7, its name is not known)  (all)                      5             0             0
                                         no-policy                  5             0             0
    istio-system/istio-ingressgateway    (all)                   1213            20            13
                                         allowed                 1200             0             0
                                         denied-by-rule             0            20             0
                                         paused                    13             0            13
    shop/idle                            (all)                      0             0             0
    (no known destination)               fragment                   3             0             0

    rule                                                   passed       dropped    would-drop
    (rule 9, its name is not known)                             0             1             0
    ns[istio-system]-policy[ingress-policy]-rule[0]            13            20            13
    ns[istio-system]-policy[ingress-policy]-rule[1]             0             0             0

    would-drop is a part of passed: paused, or observed only
    ");
}

#[test]
fn two_readings_then_rates_of_what_stirred() {
    let first = counted(1);
    let mut second = counted(4).after(&first, 2.0);
    second.agent = NOT_RUNNING.into();
    assert_snapshot!(second.text(Palette::PLAIN), @r"
    2026-11-26T16:00:04Z: packets a second, over 2.0s; no agent runs; what it left goes on counting, and dropping until the lease ends (`gwfilter status`)
    gateway                              reason                passed       dropped    would-drop
    (listener 7, its name is not known)  (all)                      0             0             0
    istio-system/istio-ingressgateway    (all)                   1500            30             0
                                         allowed                 1500             0             0
                                         denied-by-rule             0            30             0
    shop/idle                            (all)                      0             0             0

    rule                                                   passed       dropped    would-drop
    ns[istio-system]-policy[ingress-policy]-rule[0]             0            30             0
    ");
    let silent = counted(4).after(&counted(4), 1.0);
    assert_snapshot!(silent.text(Palette::PLAIN), @r"
    2026-11-26T16:00:04Z: packets a second, over 1.0s
    gateway                              reason        passed       dropped    would-drop
    (listener 7, its name is not known)  (all)              0             0             0
    istio-system/istio-ingressgateway    (all)              0             0             0
    shop/idle                            (all)              0             0             0
    ");
}

#[test]
fn a_counter_that_began_anew_then_no_rate_from_before() {
    let rates = counted(1).after(&counted(4), 1.0);
    let block = &rates.gateways["istio-system/istio-ingressgateway"];
    let denied = block.reasons["denied-by-rule"].per_second.unwrap();
    assert!((denied.dropped - 20.0).abs() < 1e-9, "{denied:?}");
    let quiet = block.reasons["paused"].per_second.unwrap();
    assert!(quiet.passed.abs() < 1e-9 && !block.reasons["paused"].stirs());
}

#[test]
fn one_of_several_counters_goes_or_has_a_new_owner_then_no_rate_of_what_the_others_had() {
    let dropped = |n| block(&[(Reason::DeniedByRule, tally(0, n, 0))]);
    let of = |listeners: &[(u32, u64)], names: &Names| {
        let listeners: Vec<_> = listeners.iter().map(|(i, n)| (*i, dropped(*n))).collect();
        let rules: Vec<_> = listeners
            .iter()
            .map(|(i, block)| (*i, block[usize::from(Reason::DeniedByRule.code())]))
            .collect();
        Counted::of(&listeners, &rules, names)
    };
    let gateway = "istio-system/istio-ingressgateway";
    let rate = |counted: &Counted| counted.gateways[gateway].all.per_second.unwrap().dropped;
    let before = of(&[(1, 1_000_000), (2, 9_000_000)], &names());
    // Index 1 is of another gateway now, and began from zero.
    let mut given = names();
    given.listeners.insert(
        1,
        ListenerName {
            gateway: "shop/new".into(),
            listener: "http".into(),
        },
    );
    given.rules.insert(1, "ns[shop]-policy[new]-rule[0]".into());
    let after = of(&[(1, 2_000_000), (2, 9_000_007)], &given).after(&before, 1.0);
    assert!((rate(&after) - 7.0).abs() < 1e-9, "{after:?}");
    let new = after.gateways["shop/new"].reasons["denied-by-rule"]
        .per_second
        .unwrap();
    assert!((new.dropped - 2_000_000.0).abs() < 1e-3, "{new:?}");
    let rule = after.rules["ns[shop]-policy[new]-rule[0]"].per_second.unwrap();
    assert!((rule.dropped - 2_000_000.0).abs() < 1e-3, "{rule:?}");
    // It is gone, or began anew.
    for listeners in [vec![(2, 9_000_007)], vec![(1, 0), (2, 9_000_007)]] {
        let after = of(&listeners, &names()).after(&before, 1.0);
        assert!((rate(&after) - 7.0).abs() < 1e-9, "{after:?}");
        assert_eq!(after.raw, Raw::default());
    }
    // Its name could not be read for once.
    let nameless = of(&[(1, 1_000_000), (2, 9_000_000)], &Names::default());
    let after = of(&[(1, 1_000_000), (2, 9_000_000)], &names()).after(&nameless, 1.0);
    assert!(rate(&after).abs() < 1e-9, "{after:?}");
}

#[test]
fn nothing_counted_then_said() {
    let nothing = Counted {
        at: 1_795_708_800,
        agent: RUNNING.into(),
        ..Counted::default()
    };
    assert_snapshot!(nothing.text(Palette::PLAIN), @r"
    2026-11-26T16:00:00Z: packets since the counters began
    no gateway has a counter, and nothing was counted
    ");
}

#[test]
fn json_then_figures_by_name_and_rates_only_where_there_are() {
    let json = serde_json::to_value(counted(1)).unwrap();
    let gateway = &json["gateways"]["istio-system/istio-ingressgateway"];
    assert_eq!(gateway["passed"], 1213);
    assert_eq!(gateway["reasons"]["denied-by-rule"]["dropped"], 20);
    assert!(gateway.get("per_second").is_none() && json["seconds"].is_null());
    let rated = counted(4).after(&counted(1), 2.0);
    let json = serde_json::to_value(&rated).unwrap();
    let rule = &json["rules"]["ns[istio-system]-policy[ingress-policy]-rule[0]"];
    assert_eq!(
        (&rule["dropped"], &rule["per_second"]["dropped"]),
        (&80.into(), &30.0.into())
    );
    assert_eq!(serde_json::from_value::<Counted>(json).unwrap(), rated);
}
