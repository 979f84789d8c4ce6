//! What every command keeps to: colour only where it is wanted, exit codes as documented.

#![expect(clippy::indexing_slicing, reason = "a wrong index fails the test")]

mod cli;
#[path = "cli/shell.rs"]
mod shell;

use std::collections::BTreeSet;

use cli::{Run, beside, gwfilter, gwfilter_with, ingress};

const ESCAPE: char = '\u{1b}';

/// A command with the example's manifests.
fn with_example(args: &[&str], variables: &[(&str, &str)]) -> Run {
    let example = beside("manifests/ingress.yaml");
    let example = example.to_string_lossy();
    let args: Vec<&str> = args
        .iter()
        .map(|&arg| if arg == "EXAMPLE" { &example } else { arg })
        .collect();
    gwfilter_with(&args, variables, b"")
}

const CHECK: [&str; 3] = ["check", "--from", "EXAMPLE"];
const DOCTOR: [&str; 3] = ["doctor", "--from", "EXAMPLE"];
const EXPLAIN: [&str; 7] = [
    "explain",
    "--from",
    "EXAMPLE",
    "--source",
    "198.51.100.7",
    "--dest",
    "203.0.113.10:80",
];

#[test]
fn output_into_a_pipe_then_plain_unless_it_is_asked_for() {
    for command in [&CHECK[..], &EXPLAIN, &DOCTOR] {
        for (flags, variables, coloured) in [
            (&[][..], &[][..], false),
            (&["--color=always"], &[], true),
            (&["--color=always"], &[("NO_COLOR", "1")], true),
            (&[], &[("CLICOLOR_FORCE", "1")], true),
            (&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
            (&["--color=never"], &[("CLICOLOR_FORCE", "1")], false),
            (
                &["--color=always", "-o", "json"],
                &[("CLICOLOR_FORCE", "1")],
                false,
            ),
        ] {
            let run = with_example(&[command, flags].concat(), variables);
            assert_eq!(run.code, Some(0), "{run:#?}");
            if flags.contains(&"json") {
                run.json();
            }
            assert_eq!(
                run.out.contains(ESCAPE),
                coloured,
                "{command:?} {flags:?} {variables:?}"
            );
        }
    }
}

#[test]
fn coloured_output_then_the_words_of_the_plain_one() {
    for command in [&CHECK[..], &EXPLAIN, &DOCTOR] {
        let plain = with_example(command, &[]).out;
        let coloured = with_example(&[command, &["--color=always"]].concat(), &[]).out;
        let mut words = String::new();
        let mut parts = coloured.split(ESCAPE);
        words.push_str(parts.next().unwrap());
        for part in parts {
            words.push_str(part.split_once('m').unwrap().1);
        }
        assert_eq!(words, plain);
    }
}

#[test]
fn error_into_a_pipe_then_plain_unless_it_is_asked_for() {
    let nowhere = ["check", "--from", "/nowhere"];
    assert!(gwfilter(&nowhere, b"").err.starts_with("error: "));
    let run = gwfilter(&[&nowhere[..], &["--color=always"]].concat(), b"");
    assert!(run.err.starts_with(ESCAPE), "{run:?}");
}

#[test]
fn an_error_whose_cause_is_told_by_its_parent_too_then_said_once() {
    let run = gwfilter(&["kubectl", "--kubeconfig", "/nowhere", "status"], b"");
    assert_eq!(run.err.matches("No such file").count(), 1, "{}", run.err);
    assert!(run.err.contains("/nowhere"), "{}", run.err);
}

/// The table of the reference: command and code of each cell that says something.
#[expect(clippy::unwrap_used, reason = "test helper")]
fn documented() -> BTreeSet<(String, i32)> {
    let page = std::fs::read_to_string(beside("../../docs/reference/cli.md")).unwrap();
    let (_, section) = page.split_once("## Exit codes").unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---"));
    let mut found = BTreeSet::new();
    for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names = cells[1].split('`').skip(1).step_by(2);
        for name in names {
            for (code, cell) in (0..).zip(&cells[2..cells.len() - 1]) {
                if !cell.is_empty() {
                    found.insert((name.to_owned(), code));
                }
            }
        }
    }
    found
}

/// What the tests of other files see: the agent's codes, and those of commands that need root.
const ELSEWHERE: [(&str, i32); 19] = [
    ("kubectl", 0),
    ("run", 0),
    ("run", 1),
    ("status", 0),
    ("status", 1),
    ("doctor", 0),
    ("doctor", 1),
    ("monitor", 0),
    ("monitor", 1),
    ("counters", 0),
    ("counters", 1),
    ("top", 0),
    ("top", 1),
    ("pause", 0),
    ("pause", 1),
    ("resume", 0),
    ("resume", 1),
    ("unload", 0),
    ("unload", 1),
];

#[test]
fn each_documented_exit_code_then_a_run_that_ends_with_it() {
    let broken = ingress().replace("1.2.3.4", "1.2.3.400");
    assert_ne!(broken, ingress());
    let mut seen: BTreeSet<(String, i32)> = ELSEWHERE.map(|(name, code)| (name.to_owned(), code)).into();
    let bad_query: &[u8] = b"{\"source\":\"nobody\"}\n";
    let from_example = |verb| [verb, "--from", "EXAMPLE"];
    for (args, input, code) in [
        (&CHECK[..], &b""[..], 0),
        (&["check", "--from", "-"], broken.as_bytes(), 1),
        (&["check", "--from", "/nowhere"], b"", 2),
        (&["check"], b"", 2),
        (&EXPLAIN, b"", 0),
        (
            &[&from_example("explain")[..], &["--queries", "-"]].concat(),
            bad_query,
            2,
        ),
        (&from_example("explain"), b"", 2),
        (&["run", "--drain", "soon"], b"", 2),
        (&["status", "--nothing"], b"", 2),
        (&["doctor", "--nothing"], b"", 2),
        (&["monitor", "--rate", "soon"], b"", 2),
        (&["counters", "--watch", "soon"], b"", 2),
        (&["top", "--nothing"], b"", 2),
        (&["pause", "--for", "soon"], b"", 2),
        (&["resume", "--for", "1h"], b"", 2),
        (&["unload", "--nothing"], b"", 2),
        (&["kubectl", "--kubeconfig", "/nowhere", "status"], b"", 1),
        (&["kubectl", "--nothing"], b"", 2),
        (&["monitor", "--nothing"], b"", 2),
        (&["version"], b"", 0),
        (&["version", "--nothing"], b"", 2),
        (&["completions", "fish"], b"", 0),
        (&["completions", "cmd.exe"], b"", 2),
        (&["help"], b"", 0),
        (&["--help"], b"", 0),
        (&["--version"], b"", 0),
    ] {
        let example = beside("manifests/ingress.yaml");
        let example = example.to_string_lossy();
        let typed: Vec<&str> = args
            .iter()
            .map(|&arg| if arg == "EXAMPLE" { &example } else { arg })
            .collect();
        let run = gwfilter(&typed, input);
        assert_eq!(run.code, Some(code), "{args:?}: {run:#?}");
        seen.insert((args[0].to_owned(), code));
    }
    let documented = documented();
    assert!(!documented.is_empty());
    for pair in &documented {
        assert!(
            seen.contains(pair),
            "{pair:?} is documented, and no run ends with it"
        );
    }
    for pair in &seen {
        assert!(
            documented.contains(pair),
            "{pair:?} happens, and is not documented"
        );
    }
}
