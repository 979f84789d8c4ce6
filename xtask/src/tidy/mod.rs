//! House rules that no compiler checks: each rule is a pure function from a file's text to findings.

mod code;
mod links;
mod names;
mod purity;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xtask::paths;

use crate::run::say;

/// Folders that hold no source of ours, relative to the workspace.
const SKIPPED: [&str; 5] = ["target", ".git", "fuzz/target", "fuzz/corpus", "fuzz/artifacts"];

/// One text file of the workspace.
#[derive(Debug)]
struct Source {
    /// Relative to the workspace, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their numbers, comments cut off.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| {
            let code = line.split("//").next().unwrap_or_default();
            (index + 1, code)
        })
    }
}

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    message: String,
}

impl Finding {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
        }
    }
}

/// Holds every file of the workspace against every rule.
pub(crate) fn check() -> Result<()> {
    let root = paths::root();
    let mut files = Vec::new();
    walk(&root, &root, &mut files)?;
    let mut findings = Vec::new();
    let exists = |path: &str| root.join(path).exists();
    let summary =
        fs::read_to_string(root.join("docs/book/src/SUMMARY.md")).context("reading the book's summary")?;
    for file in &files {
        let found = [
            code::length(file),
            code::words(file),
            code::unsafe_places(file),
            code::machine_paths(file),
            purity::imports(file),
            names::kernel_names(file),
            links::dead(file, &exists),
            links::left_out(file, &summary),
        ];
        findings.extend(found.into_iter().flatten().map(|finding| (&file.path, finding)));
    }
    for (path, finding) in &findings {
        say(format_args!("{path}:{}: {}", finding.line, finding.message));
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings in {} files", findings.len(), files.len());
    }
    say(format_args!("tidy: {} files, nothing to say", files.len()));
    Ok(())
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<Source>) -> Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("listing {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    entries.sort();
    for entry in entries {
        let path = entry
            .strip_prefix(root)
            .unwrap_or(&entry)
            .to_string_lossy()
            .into_owned();
        if SKIPPED.contains(&path.as_str()) || entry.is_symlink() {
            continue;
        }
        if entry.is_dir() {
            walk(root, &entry, files)?;
        } else if let Ok(text) = fs::read_to_string(&entry) {
            // What is not text (a packet, a crash input) has no rules here.
            files.push(Source { path, text });
        }
    }
    Ok(())
}

#[cfg(test)]
fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}
