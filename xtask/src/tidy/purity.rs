//! The pure modules of `gwfilter` have no I/O, no clock and no randomness.

use super::{Finding, Source};

/// What of `gwfilter/src` may do I/O; all else is pure, new modules too.
const EDGE: [&str; 10] = [
    "source",
    "kube",
    "dataplane",
    "agent",
    "client",
    "telemetry",
    "survey",
    "cli",
    "main.rs",
    "lib.rs",
];

/// Pure all the same.
const PURE: [&str; 4] = [
    "agent/told.rs",
    "kube/kinds.rs",
    "kube/pace.rs",
    "source/settle.rs",
];

/// What no pure module names.
const FORBIDDEN: [&str; 19] = [
    "tokio",
    "aya",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::std",
    "std::time::SystemTime",
    "SystemTime",
    "Instant",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "rand",
    "nix",
    "libc",
    "rtnetlink",
    "netlink_packet_route",
    "tracing",
];

/// Names of I/O, clocks and randomness in a pure module, outside its tests.
pub(super) fn imports(file: &Source) -> Vec<Finding> {
    let Some(module) = file.path.strip_prefix("gwfilter/src/") else {
        return Vec::new();
    };
    let first = module.split('/').next().unwrap_or_default();
    let stem = first.strip_suffix(".rs").unwrap_or(first);
    let edge = (EDGE.contains(&first) || EDGE.contains(&stem)) && !PURE.contains(&module);
    if !file.is_rust() || edge || is_test_file(module) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, code) in file.code() {
        // Tests stand last in a file and may do more.
        if code.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        for name in FORBIDDEN {
            if names(code, name) {
                found.push(Finding::new(
                    number,
                    format!("`{name}` in a pure module: I/O, clocks and randomness stay at the edge"),
                ));
            }
        }
    }
    found
}

fn is_test_file(module: &str) -> bool {
    module
        .split('/')
        .any(|part| part == "tests.rs" || part == "tests")
}

/// Whether `code` holds `name` as a whole path segment (or path).
fn names(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let rest = code.get(at + name.len()..).unwrap_or_default();
        let after = rest.chars().next();
        // A crate is named with `::` behind it or alone in a `use`; a type and a module path stand for themselves.
        let whole = !before.is_some_and(word) && (name.ends_with("::std") || !after.is_some_and(word));
        let is_crate = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let used = rest.starts_with("::") || code.trim_start().starts_with("use ") || !is_crate;
        whole && used && !quoted(code, at)
    })
}

/// Whether the position lies in a string.
fn quoted(code: &str, at: usize) -> bool {
    code.get(..at).unwrap_or_default().matches('"').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, lines: &[usize]) {
        let found: Vec<usize> = imports(&source(path, text))
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(found, lines, "{path}: {text}");
    }

    #[test]
    fn forbidden_name_in_a_pure_module_then_found() {
        for text in [
            "use tokio::fs;",
            "use std::time::Instant;",
            "let now = std::time::Instant::now();",
            "use std::fs;",
            "let x = std::fs::read(p);",
            "use rand::Rng as _;",
            "fn f(s: std::net::TcpStream) {}",
            "let m: aya::maps::MapData = x;",
            "std::io::stdout();",
        ] {
            let findings = imports(&source("gwfilter/src/policy/compile.rs", text));
            assert!(!findings.is_empty(), "{text}");
        }
    }

    #[test]
    fn the_same_name_at_the_edge_in_tests_comments_strings_or_longer_words_then_fine() {
        check("gwfilter/src/agent/mod.rs", "use tokio::fs;", &[]);
        check("gwfilter/src/plan/mod.rs", "// like tokio::fs", &[]);
        check(
            "gwfilter/src/plan/mod.rs",
            "#[cfg(test)]\nmod tests { use rand::Rng; }",
            &[],
        );
        check("gwfilter/src/plan/tests.rs", "use rand::Rng;", &[]);
        check("gwfilter/src/plan/mod.rs", "let operand = randomise(x);", &[]);
        check("gwfilter/src/plan/mod.rs", "let s = \"tokio::fs\";", &[]);
        check("gwfilter-common/src/lib.rs", "use aya::Pod;", &[]);
    }

    #[test]
    fn a_new_module_then_pure_until_named_an_edge() {
        check("gwfilter/src/brand_new.rs", "use std::fs;", &[1]);
        check("gwfilter/src/kube/watch.rs", "use tokio::time;", &[]);
        check("gwfilter/src/kube/pace.rs", "use tokio::time;", &[1]);
    }
}
