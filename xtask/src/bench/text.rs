//! The report as text: ratios first.

use std::fmt::Write as _;

use serde_json::Value;

/// All of it.
pub(super) fn report(report: &Value) -> String {
    let mut text = String::new();
    for ratio in list(report, "ratios") {
        let _ = writeln!(text, "{}", line(ratio));
    }
    let mut plot = None;
    for series in list(report, "series") {
        let title = words(series, "title");
        if plot != Some(title) {
            let _ = writeln!(text, "\n{title}, {}", words(series, "unit"));
            plot = Some(title);
        }
        let points: Vec<String> = list(series, "points")
            .iter()
            .map(|point| format!("{} {}", entries(point), short(number(point.get("value")))))
            .collect();
        let _ = writeln!(text, "  {:<36} {}", words(series, "line"), points.join("   "));
    }
    for time in list(report, "times") {
        let seconds = short(number(time.get("seconds")));
        let _ = writeln!(text, "\n{} took {seconds} s", words(time, "part"));
    }
    for failure in list(report, "failures") {
        let _ = writeln!(
            text,
            "\nFAILED: {}: {}",
            words(failure, "failed"),
            words(failure, "reason")
        );
    }
    text.trim_end().to_owned()
}

/// `id: value (range), goal: met; what it is of`.
pub(super) fn line(ratio: &Value) -> String {
    let range = |at: usize| short(number(ratio.get("range").and_then(|range| range.get(at))));
    let reason = match reason(ratio) {
        Some(reason) => format!("; missed because {reason}"),
        None => String::new(),
    };
    format!(
        "{}: {} ({} to {}), goal {}: {}; {}{reason}",
        words(ratio, "id"),
        short(number(ratio.get("value"))),
        range(0),
        range(1),
        short(number(ratio.get("goal"))),
        if is(ratio, "met") { "met" } else { "MISSED" },
        words(ratio, "of"),
    )
}

/// Why a goal is missed.
pub(super) fn reason(ratio: &Value) -> Option<&str> {
    if is(ratio, "met") {
        return None;
    }
    let reason = ratio.get("reason").and_then(Value::as_str);
    Some(reason.unwrap_or("(no reason is written down)"))
}

pub(super) fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool) == Some(true)
}

pub(super) fn words<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or("?")
}

pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(super) fn number(value: Option<&Value>) -> f64 {
    value.and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// How long a list was, in words: `10K`.
pub(super) fn entries(point: &Value) -> String {
    entries_text(number(point.get("entries")))
}

/// A large number in words.
pub(super) fn entries_text(value: f64) -> String {
    match value {
        1_000_000.0.. => format!("{}M", value / 1_000_000.0),
        1_000.0.. => format!("{}K", value / 1_000.0),
        _ => format!("{value}"),
    }
}

/// A number with as many digits as it is worth.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_then_ratios_first_and_a_line_for_everybody() {
        let given = serde_json::json!({
            "ratios": [{"id": "a", "value": 0.1194, "goal": 0.125, "met": true, "range": [0.11, 0.13], "of": "x / y"}],
            "series": [{"plot": "p", "title": "Cost", "unit": "ns", "line": "us", "points": [{"entries": 10_000, "value": 130.26, "range": [1, 2]}]}],
            "failures": [{"failed": "f", "reason": "nobody"}],
        });
        let text = report(&given);
        assert!(
            text.starts_with("a: 0.1194 (0.1100 to 0.1300), goal 0.1250: met; x / y\n\nCost, ns\n"),
            "{text}"
        );
        assert!(
            text.contains("10K 130.3") && text.ends_with("FAILED: f: nobody"),
            "{text}"
        );
    }
}
