//! Completions and manual pages: made from the command line itself, and held against a real shell and a real formatter.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::cli::gwfilter;

/// What bash offers when Tab is typed behind `line`.
#[expect(clippy::panic, reason = "test helper")]
fn bash_offers(line: &str) -> Vec<String> {
    let script = gwfilter(&["completions", "bash"], b"");
    assert_eq!(script.code, Some(0), "{script:?}");
    let words: Vec<&str> = line.split(' ').collect();
    let asks = format!(
        "{}\n\
         COMP_WORDS=({})\nCOMP_CWORD={}\n\
         function=$(complete -p gwfilter | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
         $function gwfilter '{}' '{}'\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        script.out,
        words
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" "),
        words.len() - 1,
        words.last().copied().unwrap_or_default(),
        words.iter().rev().nth(1).copied().unwrap_or_default(),
    );
    let run = Command::new("bash").args(["--norc", "-c", &asks]).output();
    let run = run.unwrap_or_else(|e| panic!("bash cannot be started: {e}"));
    assert!(run.status.success(), "{run:?}");
    let offered = String::from_utf8_lossy(&run.stdout);
    offered
        .lines()
        .filter(|word| !word.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn tab_in_bash_then_commands_flags_and_values() {
    for (line, offered) in [
        ("gwfilter che", &["check"][..]),
        ("gwfilter res", &["resume"]),
        ("gwfilter check --outp", &["--output"]),
        ("gwfilter check --output ", &["text", "json"]),
        ("gwfilter run --on-exit ", &["auto", "keep", "detach"]),
        ("gwfilter --color ", &["auto", "always", "never"]),
        ("gwfilter nothing-of-the-kin", &[]),
    ] {
        assert_eq!(bash_offers(line), offered, "{line}");
    }
}

#[test]
fn other_shells_then_scripts_that_know_every_command() {
    for (shell, begins) in [("zsh", "#compdef gwfilter"), ("fish", "# Print an optspec")] {
        let run = gwfilter(&["completions", shell], b"");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(
            run.out.starts_with(begins),
            "{shell}: {}",
            &run.out[..80.min(run.out.len())]
        );
        for verb in verbs() {
            assert!(run.out.contains(&verb), "{shell}: {verb}");
        }
    }
    assert_eq!(gwfilter(&["completions", "cmd.exe"], b"").code, Some(2));
}

/// The commands that `--help` names.
fn verbs() -> Vec<String> {
    let command = gwfilter::cli::command();
    let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    shown.map(|verb| verb.get_name().to_owned()).collect()
}

/// The page of a command, and those of the commands below it.
fn pages(name: &str, command: &clap::Command) -> Vec<String> {
    let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let below = shown.flat_map(|verb| pages(&format!("{name}-{}", verb.get_name()), verb));
    std::iter::once(format!("{name}.1")).chain(below).collect()
}

#[test]
fn manual_pages_then_one_for_each_command_and_the_formatter_has_no_complaint() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    let run = gwfilter(&["man", "--dir", &folder.to_string_lossy()], b"");
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(0), "", ""));
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut wanted = pages("gwfilter", &gwfilter::cli::command());
    wanted.sort();
    assert_eq!(names, wanted);
    for name in names {
        let page = fs::read_to_string(folder.join(&name)).unwrap();
        assert!(page.contains(".TH ") && page.contains(".SH NAME"), "{name}");
        let Some(text) = formatted(&page) else {
            continue;
        };
        // A long synopsis may be broken between its words.
        let title = name.trim_end_matches(".1");
        let verb = title.replace('-', " ");
        assert!(text.contains(&verb) || text.contains(title), "{name}:\n{text}");
        for title in ["NAME", "SYNOPSIS", "OPTIONS"] {
            assert!(text.contains(title), "{name}: {title}\n{text}");
        }
    }
}

/// A page as people read it, without warnings; `None` on a machine without groff, where nothing can be said.
#[expect(clippy::panic, reason = "test helper")]
fn formatted(page: &str) -> Option<String> {
    let child = Command::new("groff")
        .args(["-man", "-Kutf8", "-Tutf8", "-ww", "-P-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(page.as_bytes())
            .unwrap_or_else(|e| panic!("groff: {e}"));
    }
    let output = child.wait_with_output().unwrap_or_else(|e| panic!("groff: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    // Bold is a letter over itself.
    let text = String::from_utf8_lossy(&output.stdout);
    let mut plain = String::new();
    for letter in text.chars() {
        if letter == '\u{8}' {
            plain.pop();
        } else {
            plain.push(letter);
        }
    }
    Some(plain)
}
