//! What a full run leaves in a folder: the report, and a line of the history.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::text;

/// Writes all of it.
pub(super) fn write(folder: &Path, report: &Value) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let path = folder.join("report.json");
    fs::write(&path, format!("{report:#}\n")).with_context(|| format!("writing {}", path.display()))?;
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
