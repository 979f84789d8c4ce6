use std::sync::Arc;

use gwfilter_common::abi::Tally;
use gwfilter_common::reason::Reason;

use super::figures::{GatewayFigures, LeaseFigures};
use super::process::Process;
use super::table::{Base, Kind, METRICS, RULES};
use super::*;
use crate::telemetry::counters::Reading;

const NUMBER: usize = 10_000;

/// Everything is known, and there is a lot of it.
fn figures() -> Figures {
    let mut tallies = vec![Tally::default(); 32];
    tallies[usize::from(Reason::DeniedByRule.code())].dropped = 7;
    let mut reading = Reading::default();
    // Two listeners of one gateway: one sum.
    for listener in ["80", "443"] {
        reading
            .listeners
            .insert(("a/gw".into(), listener.into()), tallies.clone());
    }
    let rules: Vec<Arc<str>> = (0..NUMBER)
        .map(|n| format!("ns[a]-policy[p]-rule[{n}]").into())
        .collect();
    let refused = Tally {
        dropped: 2,
        ..Tally::default()
    };
    reading.rules = rules.iter().map(|name| (Arc::clone(name), refused)).collect();
    let gateway = |enforced, left: &[&'static str]| GatewayFigures {
        enforced: [(left.first().copied().unwrap_or_default(), enforced)].into(),
        left: left.to_vec(),
        rules: [("node", 2), ("gateway", 1), ("both", 0)],
        prefixes: 5,
        tuples: 3,
    };
    let lease = LeaseFigures {
        remaining: 3599.5,
        granted: Some(3600.0),
    };
    Figures {
        generation: 5,
        generation_at: Some(1_700_000_000.5),
        ready: true,
        gateways: [
            ("a/gw".to_owned(), gateway(true, &[])),
            ("b/gw".to_owned(), gateway(false, &["no-tuples", "other"])),
        ]
        .into(),
        leases: [("node", lease)].into(),
        reading: Some(reading),
        rules,
        finds: [("link-detached".to_owned(), 2)].into(),
        sources: [("manifests".to_owned(), false)].into(),
        lost_lines: Some(0),
        map_bytes: Some(4096),
        process: Some(Process {
            max_fds: Some(1024),
            ..Process::default()
        }),
        ..Figures::default()
    }
}

fn lines(figures: &Figures, form: Form) -> Vec<String> {
    let text = render(figures, form).unwrap();
    assert_eq!(text.ends_with("# EOF\n"), form == Form::OpenMetrics, "{text}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn figures_then_samples_of_both_forms() {
    for form in [Form::OpenMetrics, Form::Prometheus] {
        let lines = lines(&figures(), form);
        for wanted in [
            "gwfilter_generation 5",
            "gwfilter_generation_timestamp_seconds 1700000000.5",
            "gwfilter_ready 1",
            "gwfilter_observe 0",
            "gwfilter_gateway_enforced{gateway=\"a/gw\",reason=\"\"} 1",
            "gwfilter_gateway_enforced{gateway=\"b/gw\",reason=\"no-tuples\"} 0",
            "gwfilter_gateway_left{gateway=\"b/gw\",reason=\"other\"} 1",
            "gwfilter_gateway_rules{gateway=\"a/gw\",enforced_at=\"node\"} 2",
            "gwfilter_lease_remaining_seconds{lease=\"node\"} 3599.5",
            "gwfilter_counters_readable 1",
            "gwfilter_packets_total{gateway=\"a/gw\",reason=\"denied-by-rule\",verdict=\"drop\"} 14",
            "gwfilter_packets_total{gateway=\"a/gw\",reason=\"lease-expired\",verdict=\"pass\"} 0",
            "gwfilter_packets_total{gateway=\"\",reason=\"table-missing\",verdict=\"pass\"} 0",
            "gwfilter_finds_total{find=\"link-detached\"} 2",
            "gwfilter_finds_total{find=\"pin-removed\"} 0",
            "gwfilter_change_to_enforced_seconds_bucket{le=\"+Inf\"} 0",
            "gwfilter_change_to_enforced_seconds_count 0",
            "gwfilter_source_unread{source=\"manifests\"} 0",
        ] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted} in {lines:#?}");
        }
    }
}

#[test]
fn what_is_gone_then_in_the_sums_still() {
    let mut figures = figures();
    let mut gone = vec![Tally::default(); 32];
    gone[usize::from(Reason::DeniedByRule.code())].dropped = 1000;
    figures.carried.gateways = [("a/gw".into(), gone)].into();
    figures.carried.rules.dropped = 5;
    let lines = lines(&figures, Form::Prometheus);
    let summed = 2 * (NUMBER - RULES) + 5;
    for wanted in [
        "gwfilter_packets_total{gateway=\"a/gw\",reason=\"denied-by-rule\",verdict=\"drop\"} 1014".to_owned(),
        format!("gwfilter_rule_packets_total{{policy=\"other\",verdict=\"drop\"}} {summed}"),
    ] {
        assert!(lines.contains(&wanted), "{wanted} in {lines:#?}");
    }
}

#[test]
fn ten_thousand_rules_then_the_first_of_them_by_themselves_and_the_rest_as_one() {
    let lines = lines(&figures(), Form::OpenMetrics);
    let rules = |verdict: &str| {
        let end = format!("verdict=\"{verdict}\"}}");
        let is = |line: &&String| line.starts_with("gwfilter_rule_packets_total{") && line.contains(&end);
        lines.iter().filter(is).count()
    };
    assert_eq!([rules("drop"), rules("would-drop")], [RULES + 1, RULES + 1]);
    let summed = NUMBER - RULES;
    for wanted in [
        format!("gwfilter_rules_summed {summed}"),
        format!(
            "gwfilter_rule_packets_total{{policy=\"other\",verdict=\"drop\"}} {}",
            2 * summed
        ),
        "gwfilter_rule_packets_total{policy=\"ns[a]-policy[p]-rule[199]\",verdict=\"drop\"} 2".to_owned(),
    ] {
        assert!(lines.contains(&wanted), "{wanted}");
    }
    assert!(lines.len() < 1000, "{} lines", lines.len());
}

#[test]
fn counters_that_cannot_be_read_then_said_and_no_zeros_in_their_place() {
    let lines = lines(&Figures::default(), Form::OpenMetrics);
    assert!(
        lines.iter().any(|line| line == "gwfilter_counters_readable 0"),
        "{lines:#?}"
    );
    for missing in [
        "packets",
        "process_",
        "gwfilter_map_memory",
        "generation_timestamp",
    ] {
        assert!(
            !lines
                .iter()
                .any(|line| line.contains(missing) && !line.starts_with("# HELP")),
            "{missing} in {lines:#?}"
        );
    }
}

#[test]
fn every_metric_then_a_name_by_the_conventions_and_a_help() {
    let units = ["seconds", "bytes"];
    let lines = lines(&figures(), Form::OpenMetrics);
    let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
    for metric in METRICS {
        let name = metric.name;
        assert!(
            name.starts_with("gwfilter_") || name.starts_with("process_"),
            "{name}"
        );
        assert!(
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_info"), metric.kind == Kind::Info, "{name}");
        let before = name.strip_suffix("_total").unwrap_or(name);
        let unit = units
            .into_iter()
            .find(|unit| before.ends_with(&format!("_{unit}")));
        assert_eq!(
            unit,
            metric.unit.map(Base::name),
            "{name}: the unit is the end of the name"
        );
        assert!(
            metric.kind != Kind::Histogram || metric.unit == Some(Base::Seconds),
            "{name}"
        );
        assert!(metric.help.len() > 10 && metric.help.ends_with('.'), "{name}");
        let told = |start: &str| lines.iter().any(|line| line.starts_with(start));
        let family = before.strip_suffix("_info").unwrap_or(before);
        assert!(told(&format!("# HELP {family} ")), "{name} has no help");
        assert!(
            told(&format!("# TYPE {family} {}", metric.kind.name())),
            "{name} has no type"
        );
        let sample = if metric.kind == Kind::Histogram {
            format!("{name}_bucket")
        } else {
            name.to_owned()
        };
        let labels = lines
            .iter()
            .find_map(|line| line.strip_prefix(&sample)?.strip_prefix(['{', ' ']));
        let labels = labels.unwrap_or_else(|| panic!("{name} has no sample"));
        for label in metric.labels {
            assert!(labels.contains(&format!("{}=\"", label.name)), "{name}: {labels}");
        }
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), METRICS.len(), "a name twice");
    // The closed lists aside, only these grow, and each with something that is bounded.
    for metric in METRICS {
        for label in metric.labels {
            let closed = [
                "version",
                "reason",
                "enforced_at",
                "verdict",
                "lease",
                "source",
                "find",
            ];
            assert!(
                closed.contains(&label.name) || ["gateway", "policy"].contains(&label.name),
                "{}: is {} bounded?",
                metric.name,
                label.name
            );
        }
    }
}

#[test]
fn an_accept_header_then_the_form_that_is_asked_for() {
    for (accept, form) in [
        (None, Form::Prometheus),
        (Some("*/*"), Form::Prometheus),
        (Some("text/plain;version=0.0.4"), Form::Prometheus),
        (
            Some(
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5",
            ),
            Form::OpenMetrics,
        ),
    ] {
        assert_eq!(Form::wanted(accept), form, "{accept:?}");
    }
}
