//! Links in Markdown lead somewhere.

use super::{Finding, Source};

/// Relative links whose file is not there. `exists` is asked with a path relative to the workspace.
pub(super) fn dead(file: &Source, exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            match resolve(folder, path) {
                Some(path) if exists(&path) => {}
                _ => found.push(Finding::new(
                    index + 1,
                    format!("the link to `{target}` leads nowhere"),
                )),
            }
        }
    }
    found
}

/// A page of `docs` that the book does not have, though pages that it has may link to it.
pub(super) fn left_out(file: &Source, summary: &str) -> Vec<Finding> {
    let page = file.path.starts_with("docs/") && file.path.ends_with(".md");
    if !page || file.path.starts_with("docs/book/") || summary.contains(&format!("({})", file.path)) {
        return Vec::new();
    }
    vec![Finding::new(
        1,
        "the book does not have this page: docs/book/src/SUMMARY.md, and a file there that includes it",
    )]
}

/// What stands in the brackets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
}

/// `folder` and `path` put together, without `.` and `..`; `None` if it leaves the workspace.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn page_that_the_book_has_not_then_found() {
        let summary = "- [A](docs/a.md)\n  - [B](docs/adr/0001-b.md)\n";
        for (path, found) in [
            ("docs/a.md", 0),
            ("docs/adr/0001-b.md", 0),
            ("docs/adr/0002-c.md", 1),
            ("docs/book/src/c.md", 0),
            ("docs/picture.svg", 0),
            ("README.md", 0),
        ] {
            assert_eq!(left_out(&source(path, ""), summary).len(), found, "{path}");
        }
    }

    #[test]
    fn link_to_a_missing_file_then_found() {
        let exists = |path: &str| path == "README.md" || path == "docs/adr/0001.md";
        for (path, text, found) in [
            ("README.md", "[x](docs/adr/0001.md) and [y](docs/none.md)", 1),
            (
                "docs/a.md",
                "[x](adr/0001.md) [r](../README.md#top) [t](#here)",
                0,
            ),
            ("docs/a.md", "[x](../../outside.md)", 1),
            ("docs/a.md", "[w](https://istio.io/latest/x) [m](mailto:a@b)", 0),
            ("docs/a.md", "```\n[x](none.md)\n```\n", 0),
            ("docs/a.rs", "[x](none.md)", 0),
        ] {
            assert_eq!(dead(&source(path, text), &exists).len(), found, "{path}: {text}");
        }
    }
}
