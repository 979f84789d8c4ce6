//! What `promtool` says of the text, the rules and their logic; and that each alert has what a person needs.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use xtask::prometheus::program;

use crate::alerts;
use crate::lab::Lab;
use crate::rules::{groups, hasty};

/// All rules of them.
fn all(groups: &Value) -> Vec<Value> {
    let groups = groups["groups"].as_array().expect("groups").iter();
    groups
        .flat_map(|group| group["rules"].as_array().expect("rules").clone())
        .collect()
}

/// The name of an alert.
fn name(rule: &Value) -> String {
    rule["alert"].as_str().expect("a name").to_owned()
}

/// What is wrong with the rules and tests in a folder, if something is.
#[track_caller]
fn promtool(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program("promtool"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("promtool; this test needs `cargo xtask setup`");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn the_shipped_rules_then_promtool_has_nothing_to_say() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, groups) in [("shipped.yaml", groups()), ("hasty.yaml", hasty())] {
        std::fs::write(folder.path().join(name), groups.to_string()).expect("written");
        let said = promtool(folder.path(), &["check", "rules", name]);
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn the_logic_of_every_alert_then_as_its_test_says() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("rules.yaml"), groups().to_string()).expect("written");
    let tests = include_str!("logic.yaml");
    std::fs::write(folder.path().join("logic.yaml"), tests).expect("written");
    promtool(folder.path(), &["test", "rules", "logic.yaml"]);
    for rule in all(&groups()) {
        let alert = format!("alertname=\"{}\"", name(&rule));
        // Once it fires, and once it does not.
        assert!(
            tests.matches(&alert).count() >= 2,
            "{alert} is not tested both ways"
        );
    }
}

#[test]
fn every_alert_then_a_severity_words_a_page_of_the_book_and_a_real_fault() {
    let root = xtask::paths::root();
    let mut faults: Vec<&str> = alerts::ALL.concat();
    for rule in all(&groups()) {
        let alert = name(&rule);
        assert!(alert.starts_with("Gwfilter"), "{alert}");
        let severity = rule["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("critical" | "warning" | "info")),
            "{alert}"
        );
        let annotation = |name: &str| rule["annotations"][name].as_str().unwrap_or_default().to_owned();
        for name in ["summary", "description"] {
            assert!(annotation(name).ends_with('.'), "{alert}: {name} is a sentence");
        }
        // A link is what the user makes of it: the book has no address.
        assert_eq!(annotation("runbook_url"), "", "{alert}");
        let runbook = annotation("runbook");
        assert!(
            runbook.starts_with("docs/book/src/runbooks/"),
            "{alert}: {runbook}"
        );
        let (page, heading) = runbook.split_once('#').unwrap_or((&runbook, ""));
        let path = root.join(page);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{alert}: {}: {e}", path.display()));
        let slug = |line: &str| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            words.replace(' ', "-").replace(['?', ',', '`'], "")
        };
        let has = text
            .lines()
            .filter(|line| line.starts_with("## "))
            .any(|line| slug(line) == heading);
        assert!(heading.is_empty() || has, "{alert}: {runbook}: no such heading");
        assert!(
            text.contains(&alert),
            "{alert} is not named on its page, {}",
            path.display()
        );
        let at = faults.iter().position(|fault| **fault == *alert);
        faults.remove(at.unwrap_or_else(|| panic!("{alert} is fired by no real fault")));
    }
    assert!(faults.is_empty(), "{faults:?} are no alerts, or twice");
}

#[test]
fn the_text_of_an_agent_then_promtool_has_nothing_to_say() {
    use std::io::Write as _;

    let lab = Lab::new(&[]);
    lab.enforced();
    let text = lab.text();
    let mut promtool = Command::new(program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; this test needs `cargo xtask setup`");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("written");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "{said}\n{text}"
    );
    assert!(text.contains("# TYPE gwfilter_build_info gauge\n"), "{text}");
}
