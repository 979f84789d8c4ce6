//! Pages of the reference that are made from the code: commands and flags, reasons, codes, annotations. Pure: text from definitions.
//!
//! `cargo xtask docs` writes them, and a test fails for one that is out of date. What they say stands beside what it is said of: in
//! the definition of the command line, in [`gwfilter_common::reason`], [`crate::code`] and [`crate::gateway::ANNOTATIONS`].

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::{Arg, Command, Id};
use gwfilter_common::reason::Reason;

use crate::code::{self, Code, Of};
use crate::gateway;

/// The first lines of each page.
fn begin(title: &str, source: &str) -> String {
    format!("<!-- Made by `cargo xtask docs` from {source}: change it there. -->\n# {title}\n\n")
}

/// Every command with every flag. `command` is the whole command line.
#[must_use]
pub fn commands(command: &Command) -> String {
    let mut command = command.clone();
    command.build();
    let mut page = begin("Commands and flags", "the definition of the command line");
    let _ = writeln!(
        page,
        "What they mean together, JSON and exit codes: [command line](cli.md). A default in `$` is a variable of the environment; the flag wins over it.\n"
    );
    let globals: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .collect();
    page.push_str("## Every command\n\n");
    flags(&mut page, globals.iter().copied());
    let told: BTreeSet<&Id> = globals.iter().map(|arg| arg.get_id()).collect();
    for verb in command.get_subcommands() {
        if verb.is_hide_set() || verb.get_name() == "help" {
            continue;
        }
        one(&mut page, verb, "gwfilter", 2, &told);
    }
    page.truncate(page.trim_end().len());
    page + "\n"
}

/// A command, and those below it, with headings of this level; `told` are flags from above, which hold here too. Writing to a String does not
/// fail: what `write!` gives is of no interest.
fn one(page: &mut String, verb: &Command, above: &str, level: usize, told: &BTreeSet<&Id>) {
    let mut verb = verb.clone();
    let name = format!("{above} {}", verb.get_name());
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = verb.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let heading = "#".repeat(level);
    let _ = write!(
        page,
        "\n{heading} `{name}`\n\n{about}.\n\n```text\n{usage}\n```\n"
    );
    let own = |arg: &&Arg| !told.contains(arg.get_id()) && !arg.is_hide_set() && arg.get_id() != "help";
    if verb.get_arguments().any(|arg| own(&arg)) {
        page.push('\n');
        flags(page, verb.get_arguments().filter(own));
    }
    if let Some(more) = verb.get_after_help() {
        let _ = write!(page, "\n```text\n{}\n```\n", more.to_string().trim());
    }
    let below = verb.get_subcommands();
    let global = verb.get_arguments().filter(|arg| arg.is_global_set());
    let told = told.iter().copied().chain(global.map(Arg::get_id)).collect();
    for inner in below.filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        one(page, inner, &name, level + 1, &told);
    }
}

fn flags<'a>(page: &mut String, all: impl Iterator<Item = &'a Arg>) {
    page.push_str("| flag | default | what |\n|---|---|---|\n");
    for arg in all {
        let _ = writeln!(page, "| {} | {} | {} |", name(arg), default(arg), help(arg));
    }
}

/// As it is typed: `-o`, `--output text|json`.
fn name(arg: &Arg) -> String {
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name().to_owned())
        .collect();
    let value = if !arg.get_action().takes_values() {
        String::new()
    } else if choices.is_empty() {
        let names = arg.get_value_names().unwrap_or_default();
        names
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    } else {
        choices.join("|")
    };
    let mut parts = Vec::new();
    if let Some(short) = arg.get_short() {
        parts.push(format!("`-{short}`"));
    }
    let whole = match arg.get_long() {
        Some(long) if value.is_empty() => format!("--{long}"),
        Some(long) => format!("--{long} {value}"),
        None => value,
    };
    parts.push(format!("`{}`", cell(&whole)));
    parts.join(", ")
}

fn default(arg: &Arg) -> String {
    let values = arg.get_default_values().iter();
    let mut all: Vec<String> = values
        .map(|value| format!("`{}`", cell(&value.to_string_lossy())))
        .collect();
    if let Some(variable) = arg.get_env() {
        all.insert(0, format!("`${}`", variable.to_string_lossy()));
    }
    // A switch has the default that it is off.
    if !arg.get_action().takes_values() {
        all.retain(|value| value != "`false`");
    }
    if arg.is_required_set() && all.is_empty() {
        return "required".to_owned();
    }
    all.join(", ")
}

fn help(arg: &Arg) -> String {
    let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let each = arg.get_possible_values();
    let told: Vec<String> = each
        .iter()
        .filter_map(|value| Some(format!("`{}`: {}", value.get_name(), value.get_help()?)))
        .collect();
    let told = if told.is_empty() {
        String::new()
    } else {
        format!(". {}", told.join("; "))
    };
    cell(&format!("{text}{told}"))
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Every reason of a packet and every code. `runbooks` is the way from the page to the book's runbooks.
#[must_use]
pub fn reasons(runbooks: &str) -> String {
    let source = "`gwfilter-common/src/reason` and `gwfilter/src/code.rs`";
    let mut page = begin("Reasons and codes", source);
    page.push_str(
        "A reason is what became of one packet: counters, the packet log, `monitor` and `explain` use the same. A code is why a gateway \
         is not enforced, or a finding about an object: `check`, `status`, the log and Events use the same.\n\n## Reasons\n\n\
         | reason | verdict | counted | means | to do |\n|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let words = reason.words();
        let counted = if reason.is_counted() { "yes" } else { "no" };
        let _ = writeln!(
            page,
            "| `{}` | {} | {counted} | {} | {} |",
            reason.name(),
            words.outcome.name(),
            cell(words.meaning),
            with_page(words.to_do, runbooks, words.runbook)
        );
    }
    page.push_str(
        "\n`would-drop` passes. Those that are not counted would cost a write for nearly every packet of the card.\n\n\
         ## Codes\n\nWhy a gateway is not enforced, or not in full:\n\n| code | means | to do |\n|---|---|---|\n",
    );
    for code in code::ALL.iter().filter(|code| !matches!(code.of, Of::Finding(_))) {
        let _ = writeln!(page, "| {} |", row(code, runbooks));
    }
    page.push_str("\nFindings about objects:\n\n| code | severity | means | to do |\n|---|---|---|---|\n");
    for code in &code::ALL {
        let severity = match code.of {
            Of::Gateway => continue,
            Of::Finding(severity) | Of::Both(severity) => severity,
        };
        let line = row(code, runbooks);
        let (name, rest) = line.split_once(" | ").unwrap_or((&line, ""));
        let _ = writeln!(page, "| {name} | {severity} | {rest} |");
    }
    page
}

fn row(code: &Code, runbooks: &str) -> String {
    format!(
        "`{}` | {} | {}",
        code.name,
        cell(code.meaning),
        with_page(code.to_do, runbooks, code.runbook)
    )
}

fn with_page(to_do: &str, runbooks: &str, page: &str) -> String {
    if page.is_empty() {
        cell(to_do)
    } else {
        format!("{} ([runbook]({runbooks}/{page}))", cell(to_do))
    }
}

/// The annotations.
#[must_use]
pub fn annotations() -> String {
    let mut page = begin("Annotations", "`gwfilter/src/gateway/annotations.rs`");
    page.push_str(
        "On the Service, or on the pods (the Service wins). One that cannot be read is an error, and the gateway is not enforced.\n\n\
         | annotation | value | what |\n|---|---|---|\n",
    );
    for known in gateway::ANNOTATIONS {
        let _ = writeln!(
            page,
            "| `{}{}` | {} | {} |",
            gateway::ANNOTATION_PREFIX,
            known.name,
            cell(known.values),
            cell(known.meaning)
        );
    }
    page
}
