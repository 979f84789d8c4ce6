//! What a full run leaves in a folder: the report, its figures as a page with plots, and a line of the history.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{plot, text};

/// A run of which not everything is measured does not replace one that is complete.
pub(super) fn may_replace(folder: &Path, complete: bool) -> Result<()> {
    let Ok(text) = fs::read_to_string(folder.join("report.json")) else {
        return Ok(());
    };
    let partial =
        serde_json::from_str::<Value>(&text).is_ok_and(|old| old.get("complete") == Some(&json!(false)));
    if !complete && !partial {
        bail!(
            "{} has the report of a full run, which --only, --entries or --quick would replace by a part: name another folder",
            folder.display()
        );
    }
    Ok(())
}

/// Writes all of it.
pub(super) fn write(folder: &Path, report: &Value) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let path = folder.join("report.json");
    fs::write(&path, format!("{report:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    let plots = plot::all(report)?;
    for (id, svg) in &plots {
        let path = folder.join(format!("{id}.svg"));
        fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
    }
    let path = folder.join("figures.md");
    fs::write(&path, page(report, plots.keys())).with_context(|| format!("writing {}", path.display()))?;
    if !text::is(report, "complete") {
        return Ok(());
    }
    let path = folder.join("history.jsonl");
    let mut history = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    writeln!(history, "{}", history_line(report)).with_context(|| format!("writing {}", path.display()))
}

/// The run in one line: when, what, and each ratio's middle.
fn history_line(report: &Value) -> Value {
    let of = |key: &str| {
        report
            .pointer(&format!("/machine/{key}"))
            .cloned()
            .unwrap_or_default()
    };
    let ratios: serde_json::Map<String, Value> = text::list(report, "ratios")
        .iter()
        .map(|ratio| {
            (
                text::words(ratio, "id").to_owned(),
                ratio.get("value").cloned().unwrap_or_default(),
            )
        })
        .collect();
    let failed: Vec<&str> = text::list(report, "failures")
        .iter()
        .map(|failure| text::words(failure, "failed"))
        .collect();
    json!({
        "date": of("date"), "commit": of("commit"), "kernel": of("kernel"), "cpu": of("cpu"), "failed": failed, "ratios": ratios,
    })
}

/// The figures for people: goals first, why they are missed where they are, then plots with their numbers.
fn page<'p>(report: &Value, plots: impl Iterator<Item = &'p String>) -> String {
    let what = if text::is(report, "complete") {
        "the last full run"
    } else {
        "a run of which not everything was measured"
    };
    let mut page = format!(
        "# Figures of {what}\n\nWritten by `cargo xtask bench --write docs/bench`; how to read them: \
        [README.md](README.md).\n\n## Machine\n\n"
    );
    if let Some(machine) = report.get("machine").and_then(Value::as_object) {
        for (key, value) in machine {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            let _ = writeln!(page, "- {key}: {value}");
        }
    }
    goals(report, &mut page);
    let failures = text::list(report, "failures");
    if !failures.is_empty() {
        page.push_str("\n## Failed\n\n");
    }
    for failure in failures {
        let reason: Vec<&str> = text::words(failure, "reason").split_whitespace().collect();
        let _ = writeln!(page, "- {}: {}", text::words(failure, "failed"), reason.join(" "));
    }
    page.push_str("\n## Plots\n");
    for id in plots {
        let _ = writeln!(page, "\n![{id}]({id}.svg)\n");
        table(report, id, &mut page);
    }
    let times = text::list(report, "times");
    if !times.is_empty() {
        page.push_str("\n## What the run itself took\n\n| part | s |\n|---|---|\n");
    }
    for time in times {
        let seconds = text::short(text::number(time.get("seconds")));
        let _ = writeln!(page, "| {} | {seconds} |", text::words(time, "part"));
    }
    page
}

fn goals(report: &Value, page: &mut String) {
    page.push_str(
        "\n## Goals\n\n| figure | value | range | goal | met | what |\n|---|---|---|---|---|---|\n",
    );
    let mut missed = String::new();
    for ratio in text::list(report, "ratios") {
        let number = |pointer: &str| text::short(text::number(ratio.pointer(pointer)));
        let id = text::words(ratio, "id");
        let _ = writeln!(
            page,
            "| `{id}` | {} | {} to {} | {} | {} | {} |",
            number("/value"),
            number("/range/0"),
            number("/range/1"),
            number("/goal"),
            if text::is(ratio, "met") { "yes" } else { "**no**" },
            text::words(ratio, "of"),
        );
        if let Some(reason) = text::reason(ratio) {
            let _ = writeln!(missed, "- `{id}`: {reason}");
        }
    }
    if !missed.is_empty() {
        let _ = write!(page, "\n## Why goals are missed, and what was tried\n\n{missed}");
    }
}

/// The numbers of a plot: the middle for each line and length, and the range.
fn table(report: &Value, id: &str, page: &mut String) {
    let lines = || {
        let all = text::list(report, "series").iter();
        all.filter(|series| text::words(series, "plot") == id)
    };
    let mut lengths: Vec<u64> = lines()
        .flat_map(|series| text::list(series, "points"))
        .filter_map(|point| point.get("entries").and_then(Value::as_u64))
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    let unit = lines().next().map_or("?", |series| text::words(series, "unit"));
    let _ = write!(page, "| {unit} |");
    for length in &lengths {
        let _ = write!(page, " {} |", text::entries(&json!({"entries": length})));
    }
    let _ = writeln!(page, "\n|---|{}", "---|".repeat(lengths.len()));
    for series in lines() {
        let _ = write!(page, "| {} |", text::words(series, "line"));
        for length in &lengths {
            let of = |point: &&Value| point.get("entries").and_then(Value::as_u64) == Some(*length);
            let cell = match text::list(series, "points").iter().find(of) {
                Some(point) => {
                    let number = |pointer: &str| text::short(text::number(point.pointer(pointer)));
                    format!(
                        "{} ({} to {})",
                        number("/value"),
                        number("/range/0"),
                        number("/range/1")
                    )
                }
                None => String::new(),
            };
            let _ = write!(page, " {cell} |");
        }
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_then_a_page_that_names_the_missed_and_a_line_of_history_a_run() {
        let report = json!({
            "complete": true,
            "machine": {"kernel": "6.18", "date": "d", "commit": "c"},
            "ratios": [
                {"id": "a", "value": 2.0, "goal": 1.0, "met": false, "range": [1.5, 2.5], "of": "x / y", "reason": "why"},
                {"id": "b", "value": 2.0, "goal": 1.0, "met": false, "range": [1.5, 2.5], "of": "x / y", "reason": null},
                {"id": "c", "value": 1.0, "goal": 1.0, "met": true, "range": [1, 1], "of": "x / y", "reason": null},
            ],
            "series": [{"plot": "p", "title": "T", "unit": "ns", "line": "us", "points": [
                {"entries": 1000, "value": 5, "range": [4, 6]}, {"entries": 1_000_000, "value": 7, "range": [7, 8]},
            ]}],
            "failures": [{"failed": "f", "reason": "one\n two"}],
            "times": [{"part": "p-", "seconds": 12.5}],
        });
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &report).unwrap();
        write(folder.path(), &report).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let page = read("figures.md");
        for wanted in [
            "| `a` | 2.00 | 1.50 to 2.50 | 1.00 | **no** | x / y |",
            "- `a`: why\n- `b`: (no reason is written down)\n\n## Failed\n\n- f: one two\n",
            "![p](p.svg)\n\n| ns | 1K | 1M |\n|---|---|---|\n| us | 5.00 (4.00 to 6.00) | 7.00 (7.00 to 8.00) |\n",
            "| p- | 12.5 |",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        assert!(read("p.svg").starts_with("<svg"));
        assert_eq!(read("history.jsonl").lines().count(), 2);
        let last: Value = serde_json::from_str(read("history.jsonl").lines().last().unwrap()).unwrap();
        assert_eq!(
            (&last["ratios"]["a"], &last["failed"]),
            (&json!(2.0), &json!(["f"]))
        );
    }

    #[test]
    fn part_of_a_run_then_it_replaces_no_full_one_and_leaves_no_history() {
        let folder = tempfile::tempdir().unwrap();
        let report = |complete: bool| json!({"complete": complete, "ratios": [], "series": []});
        may_replace(folder.path(), false).unwrap();
        write(folder.path(), &report(false)).unwrap();
        assert!(!folder.path().join("history.jsonl").exists());
        may_replace(folder.path(), false).unwrap();
        may_replace(folder.path(), true).unwrap();
        write(folder.path(), &report(true)).unwrap();
        may_replace(folder.path(), true).unwrap();
        let refused = may_replace(folder.path(), false).unwrap_err();
        assert!(refused.to_string().contains("full run"), "{refused}");
    }
}
