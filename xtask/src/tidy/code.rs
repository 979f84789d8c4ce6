//! Rules about any code: length, words that must not stay, where `unsafe` may be, no paths of one machine.

use super::{Finding, Source};

/// A file is one concept; one that needs more lines is two.
const MAX_LINES: usize = 600;

/// Written apart, so that this file does not break its own rule.
const WORDS: [(&str, &str); 6] = [
    (concat!("to", "do!"), "finish it or leave it out"),
    (concat!("unimpl", "emented!"), "finish it or leave it out"),
    (concat!("FIX", "ME"), "mend it, or file an issue"),
    (concat!("TO", "DO"), "do it, or file an issue"),
    (concat!("#[ig", "nore"), "a test that does not run has not passed"),
    (
        concat!("allow(dead", "_code)"),
        "take it out until something uses it",
    ),
];

/// Where `unsafe` may stand: the eBPF entry points and readers, `Pod` impls, the user side of the maps, and the lab's
/// system calls that no crate here wraps as it is built: bpf(2), those that give a process a container's capabilities and filters,
/// those of the leak meter, and those of a terminal.
const UNSAFE: [&str; 8] = [
    "gwfilter-ebpf/src/",
    "gwfilter-common/src/abi/",
    "gwfilter/src/dataplane/",
    "gwfilter/tests/netns/pty.rs",
    "xtask/src/bpf/",
    "xtask/src/cluster/caps.rs",
    "xtask/src/cluster/seccomp.rs",
    "xtask/src/meter/kernel.rs",
];

/// How far above its use a `SAFETY` comment may begin.
const SAFETY_LINES: usize = 8;

/// Folders that exist on somebody's machine only.
const MACHINE: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/var/", "tmp/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
];

/// Rust files have at most [`MAX_LINES`] lines.
pub(super) fn length(file: &Source) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if file.is_rust() && lines > MAX_LINES {
        return vec![Finding::new(
            lines,
            format!("{lines} lines, {MAX_LINES} at most: split it by concept"),
        )];
    }
    Vec::new()
}

/// Words that mark unfinished work.
pub(super) fn words(file: &Source) -> Vec<Finding> {
    if !file.is_rust() && !file.path.ends_with(".toml") && !file.path.ends_with(".yaml") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for (word, advice) in WORDS {
            if line.contains(word) {
                found.push(Finding::new(index + 1, format!("`{word}`: {advice}")));
            }
        }
    }
    found
}

/// `unsafe` only in the places named, and with its reason above it.
pub(super) fn unsafe_places(file: &Source) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for (number, code) in file.code() {
        // As a keyword: not in a lint's name, a string or an attribute that opens with it.
        let keyword = code
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == KEYWORD);
        if !keyword || code.contains('"') {
            continue;
        }
        if !UNSAFE.iter().any(|place| file.path.starts_with(place)) {
            found.push(Finding::new(number, format!("{KEYWORD} code has no place here")));
        } else if !code.contains(concat!("#[uns", "afe(")) {
            let above = lines
                .get(number.saturating_sub(SAFETY_LINES + 1)..number)
                .unwrap_or_default();
            if !above
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
            {
                found.push(Finding::new(
                    number,
                    format!("{KEYWORD} without a SAFETY comment above it"),
                ));
            }
        }
    }
    found
}

const KEYWORD: &str = concat!("uns", "afe");

/// No path that exists on one machine only.
pub(super) fn machine_paths(file: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for path in MACHINE {
            if line.contains(path) {
                found.push(Finding::new(
                    index + 1,
                    format!("`{path}…` is a path of one machine"),
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[track_caller]
    fn check(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str, lines: &[usize]) {
        let found: Vec<usize> = rule(&source(path, text))
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(found, lines, "{path}: {text}");
    }

    #[test]
    fn file_over_the_limit_then_found() {
        check(length, "a.rs", &"x\n".repeat(600), &[]);
        check(length, "a.rs", &"x\n".repeat(601), &[601]);
        check(length, "a.md", &"x\n".repeat(601), &[]);
    }

    #[test]
    fn word_of_unfinished_work_then_found() {
        for (word, _) in WORDS {
            check(words, "a.rs", &format!("fine\n    {word}\n"), &[2]);
            check(words, "a.md", word, &[]);
        }
    }

    #[test]
    fn unsafe_in_the_wrong_place_or_without_reason_then_found() {
        let block = format!("let x = {KEYWORD} {{ f() }};");
        check(unsafe_places, "gwfilter/src/plan/mod.rs", &block, &[1]);
        check(unsafe_places, "gwfilter/src/dataplane/load.rs", &block, &[1]);
        check(
            unsafe_places,
            "gwfilter/src/dataplane/load.rs",
            &format!("// SAFETY: x\n{block}"),
            &[],
        );
        check(
            unsafe_places,
            "gwfilter/src/plan/mod.rs",
            "#![forbid(unsafe_code)] // unsafe",
            &[],
        );
        check(
            unsafe_places,
            "gwfilter-ebpf/src/main.rs",
            &format!("#[{KEYWORD}(no_mangle)]"),
            &[],
        );
    }

    #[test]
    fn path_of_one_machine_then_found() {
        for path in MACHINE {
            check(machine_paths, "README.md", &format!("see {path}x"), &[1]);
        }
        check(machine_paths, "README.md", "see /usr/bin/rustc", &[]);
    }
}
