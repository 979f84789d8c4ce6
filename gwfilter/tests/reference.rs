//! The pages of the reference that are made from the code are as the code would make them; `cargo xtask docs` writes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use gwfilter::telemetry::metrics::table;
use gwfilter::{cli, code, reference};
use gwfilter_common::reason::Reason;

/// Set: pages are written, not compared.
const WRITE: &str = "GWFILTER_BLESS";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[track_caller]
#[expect(clippy::panic, reason = "test helper")]
fn hold(path: &str, page: &str) {
    let file = root().join(path);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&file, page).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    let line = kept.lines().zip(page.lines()).position(|(kept, new)| kept != new);
    assert!(
        kept == page,
        "{path} is out of date (line {}): run `cargo xtask docs`",
        line.unwrap_or_default() + 1
    );
}

#[test]
fn commands_then_their_page() {
    hold(
        "docs/reference/commands.md",
        &reference::commands(&cli::command()),
    );
}

#[test]
fn each_flag_of_each_command_then_a_row() {
    fn flags(command: &Command, found: &mut BTreeSet<String>) {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        found.extend(
            shown
                .filter_map(Arg::get_long)
                .filter(|long| !["help", "version"].contains(long))
                .map(|long| format!("`--{long}")),
        );
        let below = command.get_subcommands();
        below
            .filter(|inner| !inner.is_hide_set())
            .for_each(|inner| flags(inner, found));
    }
    let page = reference::commands(&cli::command());
    let mut found = BTreeSet::new();
    flags(&cli::command(), &mut found);
    assert!(found.len() > 30, "{found:?}");
    for flag in found {
        assert!(
            page.lines()
                .any(|line| line.starts_with('|') && line.contains(&flag)),
            "{flag}"
        );
    }
}

#[test]
fn reasons_and_codes_then_their_page_and_that_of_the_book() {
    hold(
        "docs/reference/reasons.md",
        &reference::reasons("../book/src/runbooks"),
    );
    // From there the runbooks are elsewhere, so an include would have links that lead nowhere.
    hold(
        "docs/book/src/docs/reference/reasons.md",
        &reference::reasons("../../runbooks"),
    );
}

#[test]
fn metrics_then_the_rows_of_their_page() {
    const END: &str = "<!-- End of what is made. -->";
    let path = "docs/reference/metrics.md";
    let kept = fs::read_to_string(root().join(path)).unwrap();
    let (before, rest) = kept.split_once("| name | kind |").unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    hold(path, &format!("{before}{}{END}{after}", table::markdown()));
}

#[test]
fn annotations_then_their_page() {
    hold("docs/reference/annotations.md", &reference::annotations());
}

#[test]
fn runbooks_of_reasons_and_codes_then_pages_and_sections_that_are_there() {
    let pages = Reason::ALL.map(|reason| reason.words().runbook);
    let pages = pages.into_iter().chain(code::ALL.iter().map(|code| code.runbook));
    for page in pages.filter(|page| !page.is_empty()) {
        let (file, section) = page.split_once('#').unwrap_or((page, ""));
        let text = fs::read_to_string(root().join("docs/book/src/runbooks").join(file));
        let text = text.unwrap_or_else(|e| panic!("{file}: {e}"));
        let found = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .any(|title| anchor(title) == section);
        assert!(section.is_empty() || found, "{page}: no such section");
    }
}

/// A title as mdBook links to it.
fn anchor(title: &str) -> String {
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// What stands before a code where one is made.
const MAKES: [&str; 7] = [
    "Diagnostic::error(",
    "Diagnostic::warning(",
    "Diagnostic::info(",
    "notes.error(",
    "notes.warning(",
    "code:",
    "code =",
];

#[test]
fn codes_that_the_code_makes_then_all_of_them_are_known_and_no_others() {
    let mut files = Vec::new();
    collect(&root().join("gwfilter/src"), &mut files);
    let (mut made, mut all) = (BTreeSet::new(), String::new());
    for path in files {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        all.push_str(code);
        for before in MAKES {
            for (_, rest) in code
                .match_indices(before)
                .map(|(at, _)| code.split_at(at + before.len()))
            {
                let literal = rest
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|rest| rest.split('"').next());
                made.extend(literal.filter(|name| is_code(name)).map(ToOwned::to_owned));
            }
        }
    }
    assert!(made.len() > 20, "the search finds too little: {made:?}");
    for name in &made {
        assert!(
            code::find(name).is_some(),
            "{name} has no row in gwfilter/src/code.rs"
        );
    }
    let names: BTreeSet<&str> = code::ALL.iter().map(|code| code.name).collect();
    assert_eq!(names.len(), code::ALL.len(), "a code stands twice");
    for name in names {
        let literal = all.contains(&format!("\"{name}\"")) || all.contains(&format!("\"{name}: "));
        assert!(literal, "{name} is made nowhere");
    }
}

fn is_code(text: &str) -> bool {
    text.contains('-') && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// The sources of the library, but for tests, the list itself, and the doctor, whose findings have a page of their own.
#[expect(clippy::panic, reason = "test helper")]
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if ["tests", "tests.rs", "code.rs", "doctor"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

#[test]
fn command_with_others_below_it_then_the_flags_of_each() {
    let inner = Command::new("inner")
        .about("Do less")
        .arg(
            Arg::new("n")
                .long("number")
                .value_name("N")
                .default_value("1|2")
                .help("How many"),
        )
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .help("All of them"),
        );
    let verb = Command::new("verb")
        .about("Do it")
        .subcommand(inner)
        .after_help("Exit: 0.");
    let page = reference::commands(&Command::new("gwfilter").subcommand(verb));
    let (_, verb) = page.split_once("\n\n## `gwfilter verb`").unwrap();
    insta::assert_snapshot!(verb.trim(), @r"
    Do it.

    ```text
    gwfilter verb [COMMAND]
    ```

    ```text
    Exit: 0.
    ```

    ### `gwfilter verb inner`

    Do less.

    ```text
    gwfilter verb inner [OPTIONS]
    ```

    | flag | default | what |
    |---|---|---|
    | `--number N` | `1\|2` | How many |
    | `--all` |  | All of them |
    ");
}
