//! What a full run leaves in a folder: the report, its figures as a page with plots, and a line of the history.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{plot, text};

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
    json!({"date": of("date"), "commit": of("commit"), "kernel": of("kernel"), "cpu": of("cpu"), "ratios": ratios})
}

/// The figures for people: ratios first, missed goals named, then plots.
fn page<'p>(report: &Value, plots: impl Iterator<Item = &'p String>) -> String {
    let mut page = "# Figures of the last full run\n\nWritten by `cargo xtask bench --write docs/bench`; how to read them: \
        [README.md](README.md).\n\n## Machine\n\n"
        .to_owned();
    if let Some(machine) = report.get("machine").and_then(Value::as_object) {
        for (key, value) in machine {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            let _ = writeln!(page, "- {key}: {value}");
        }
    }
    page.push_str(
        "\n## Ratios\n\n| figure | value | range | goal | met | what |\n|---|---|---|---|---|---|\n",
    );
    for ratio in text::list(report, "ratios") {
        let number = |pointer: &str| text::short(text::number(ratio.pointer(pointer)));
        let _ = writeln!(
            page,
            "| `{}` | {} | {} to {} | {} | {} | {} |",
            text::words(ratio, "id"),
            number("/value"),
            number("/range/0"),
            number("/range/1"),
            number("/goal"),
            if text::is(ratio, "met") { "yes" } else { "**no**" },
            text::words(ratio, "of"),
        );
    }
    page.push_str("\n## Plots\n");
    for id in plots {
        let _ = writeln!(page, "\n![{id}]({id}.svg)");
    }
    let remarks = text::list(report, "remarks");
    if !remarks.is_empty() {
        page.push_str("\n## Remarks\n\n");
        for remark in remarks.iter().filter_map(Value::as_str) {
            let line: Vec<&str> = remark.split_whitespace().collect();
            let _ = writeln!(page, "- {}", line.join(" "));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_then_a_page_that_names_the_missed_and_a_line_of_history_a_run() {
        let report = json!({
            "machine": {"kernel": "6.18", "date": "d", "commit": "c"},
            "ratios": [{"id": "a", "value": 2.0, "goal": 1.0, "met": false, "range": [1.5, 2.5], "of": "x / y"}],
            "series": [{"plot": "p", "title": "T", "unit": "ns", "line": "us", "points": [{"entries": 1000, "value": 5}]}],
            "remarks": ["one\n two"],
        });
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &report).unwrap();
        write(folder.path(), &report).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let page = read("figures.md");
        assert!(
            page.contains("| `a` | 2.00 | 1.50 to 2.50 | 1.00 | **no** | x / y |"),
            "{page}"
        );
        assert!(
            page.contains("![p](p.svg)") && page.contains("- one two"),
            "{page}"
        );
        assert!(read("p.svg").starts_with("<svg"));
        assert_eq!(read("history.jsonl").lines().count(), 2);
        let last: Value = serde_json::from_str(read("history.jsonl").lines().last().unwrap()).unwrap();
        assert_eq!(last["ratios"]["a"], 2.0);
    }
}
