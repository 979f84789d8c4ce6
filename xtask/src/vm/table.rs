//! The table of kernels: printed, and held against the one in `docs/kernels.md`.
//!
//! What a kernel takes, and by which hook, must be as kept. Figures and the last numbers of a release may move: they change with each
//! build of the programs and each update of a kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xtask::paths;

/// Where in the file the table is.
const BEGIN: &str = "<!-- table: written by `cargo xtask test vm --write-table` -->\n";
const END: &str = "<!-- end of table -->\n";
const HEAD: &str =
    "| Linux | what | result | program | verified instructions | stack |\n|---|---|---|---|---|---|\n";

/// A row that names programs: what it is called, the `hook` it is told under, and the program that does it.
const HOOKS: [(&str, &str); 4] = [
    ("native XDP", "native"),
    ("generic XDP", "generic"),
    ("TC beside XDP", "beside"),
    ("TC alone", "tc"),
];

/// One kernel's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The series.
    pub(crate) label: String,
    pub(crate) rows: Vec<String>,
}

/// The rows of a kernel, from what its tests told.
pub(crate) fn part(label: &str, release: &str, figures: &[Value]) -> Part {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let programs: BTreeMap<String, &Value> = figures
        .iter()
        .filter_map(|figure| Some((text(figure, "program")?, figure)))
        .collect();
    let costs = |program: &str| {
        let figure = programs.get(program);
        let number = figure.and_then(|f| f.get("instructions")?.as_u64());
        let stack = figure.and_then(|f| text(f, "stack")).unwrap_or_default();
        (number.map(|n| n.to_string()).unwrap_or_default(), stack)
    };
    let row = |what: &str, result: &str, program: &str| {
        let (instructions, stack) = costs(program);
        let program = if program.is_empty() {
            String::new()
        } else {
            format!("`{program}`")
        };
        format!("| {label} | {what} | {result} | {program} | {instructions} | {stack} |")
    };
    let mut rows = vec![row("release", release, "")];
    for (what, hook) in HOOKS {
        let told = figures
            .iter()
            .find(|figure| text(figure, "hook").as_deref() == Some(hook));
        let result = told
            .and_then(|t| text(t, "result"))
            .unwrap_or_else(|| "**nothing**".to_owned());
        let program = told.and_then(|t| text(t, "by")).unwrap_or_default();
        rows.push(row(what, &result, &program));
    }
    let taken = |program: &str| {
        programs
            .get(program)
            .is_some_and(|f| f.get("instructions").is_some())
    };
    rows.push(if taken("gwf_tc_header") {
        row("PROXY headers", "versions 1 and 2", "gwf_tc_header")
    } else if taken("gwf_tc_header_v2only") {
        row(
            "PROXY headers",
            "version 2; version 1 is left to the gateway",
            "gwf_tc_header_v2only",
        )
    } else {
        row("PROXY headers", "left to the gateway", "")
    });
    for (what, program) in [
        ("reset in PROXY mode", "gwf_tc_reset"),
        ("reset of a SYN", "gwf_tc_refuse"),
    ] {
        let result = if taken(program) {
            "sent"
        } else {
            "refused connections end in silence"
        };
        rows.push(row(what, result, program));
    }
    Part {
        label: label.to_owned(),
        rows,
    }
}

/// The table as it is printed and kept.
pub(crate) fn text(parts: &[Part]) -> String {
    let rows: String = parts
        .iter()
        .flat_map(|part| &part.rows)
        .map(|row| format!("{row}\n"))
        .collect();
    format!("{HEAD}{rows}")
}

fn page() -> PathBuf {
    paths::root().join("docs/kernels.md")
}

/// Writes the table into the page.
pub(crate) fn write(parts: &[Part]) -> Result<()> {
    let path = page();
    let old = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (before, _, after) = split(&old)?;
    let new = format!("{before}{BEGIN}{}{END}{after}", text(parts));
    fs::write(&path, new).with_context(|| format!("writing {}", path.display()))
}

/// Holds the rows of these kernels against those that are kept: the rows that differ in more than figures.
pub(crate) fn differences(parts: &[Part]) -> Result<Vec<String>> {
    let path = page();
    let kept = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(compare(split(&kept)?.1, parts))
}

fn split(page: &str) -> Result<(&str, &str, &str)> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (table, after) = rest.split_once(END)?;
        Some((before, table, after))
    });
    match parts {
        Some(parts) => Ok(parts),
        None => bail!("docs/kernels.md has no table between its two marks"),
    }
}

fn compare(kept: &str, parts: &[Part]) -> Vec<String> {
    let mut found = Vec::new();
    for part in parts {
        let begin = format!("| {} |", part.label);
        let kept: Vec<&str> = kept.lines().filter(|line| line.starts_with(&begin)).collect();
        for line in &kept {
            if !part.rows.iter().any(|row| words(row) == words(line)) {
                found.push(format!("kept: {line}"));
            }
        }
        for row in &part.rows {
            if !kept.iter().any(|line| words(row) == words(line)) {
                found.push(format!("now:  {row}"));
            }
        }
    }
    found
}

/// A row without what may move: the release and the figures.
fn words(row: &str) -> Vec<String> {
    let mut cells: Vec<String> = row.split('|').map(|cell| cell.trim().to_owned()).collect();
    let release = cells.get(2).is_some_and(|cell| cell == "release");
    for (index, cell) in cells.iter_mut().enumerate() {
        if index > 4 || (index == 3 && release) {
            cell.clear();
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example(reset: &Value) -> Part {
        let figures = [
            json!({"program": "gwf_tc", "instructions": 25_000, "stack": "384"}),
            json!({"program": "gwf_tc_header", "refused": "no bpf_loop"}),
            json!({"program": "gwf_tc_header_v2only", "instructions": 9, "stack": "8+16"}),
            reset.clone(),
            json!({"hook": "tc", "result": "`clsact`", "by": "gwf_tc"}),
        ];
        part("5.10", "5.10.0-46", &figures)
    }

    #[test]
    fn figures_then_rows() {
        let part = example(&json!({}));
        assert_eq!(part.rows[0], "| 5.10 | release | 5.10.0-46 |  |  |  |");
        assert_eq!(part.rows[1], "| 5.10 | native XDP | **nothing** |  |  |  |");
        assert_eq!(
            part.rows[4],
            "| 5.10 | TC alone | `clsact` | `gwf_tc` | 25000 | 384 |"
        );
        assert!(
            part.rows[5].contains("version 1 is left to the gateway | `gwf_tc_header_v2only` | 9 | 8+16 |")
        );
    }

    #[test]
    fn kept_table_then_only_what_a_kernel_takes_is_compared() {
        let kept = text(&[example(&json!({}))]);
        let moved = kept.replace("25000", "26000").replace("5.10.0-46", "5.10.0-47");
        assert!(compare(&moved, &[example(&json!({}))]).is_empty());
        let found = compare(
            &kept,
            &[example(
                &json!({"program": "gwf_tc_reset", "instructions": 7, "stack": "8"}),
            )],
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("silence") && found[1].contains("sent"),
            "{found:?}"
        );
        assert!(!compare("", &[example(&json!({}))]).is_empty(), "nothing kept");
    }
}
