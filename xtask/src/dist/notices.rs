//! The licences of what is inside, word by word: each text once, below the crates that come with it.
//!
//! From the crates' own archives, which cargo has unpacked. `cargo about` would ask a server for the texts, and would have to be
//! built first; which licences there may be is `cargo deny`'s part (`deny.toml`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::sbom::{Crate, Linked};

/// How the files begin that hold licences and what must be said with them.
const NAMES: [&str; 6] = [
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "unlicense",
];

/// The whole text.
pub(super) fn text(crates: &[Crate], linked: &[Linked]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for found in crates.iter().filter(|found| found.sha256.is_some()) {
        let licence = found.licence.as_deref().unwrap_or("licence not stated");
        let name = format!("{} {} ({licence})", found.name, found.version);
        let files = licences(&found.folder)?;
        if files.is_empty() {
            without.push(name.clone());
        }
        for file in files {
            texts.entry(file).or_default().push(name.clone());
        }
    }
    Ok(page(&texts, &without, linked))
}

/// The texts in a folder, with line ends of one kind.
fn licences(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("listing {}", folder.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if path.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) && !name.ends_with(".rs") {
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
            found.push(text.trim_end().to_owned());
        }
    }
    found.sort();
    Ok(found)
}

fn page(texts: &BTreeMap<String, Vec<String>>, without: &[String], linked: &[Linked]) -> String {
    let mut page =
        "gwfilter is made with these libraries. Each text stands once, below those that come with it.\n"
            .to_owned();
    let rule = "=".repeat(100);
    // Writing to a String does not fail.
    for library in linked {
        let _ = writeln!(
            page,
            "\n{} {} ({}): {}",
            library.name, library.version, library.licence, library.source
        );
    }
    page.push_str(
        "\nThe C library is linked statically. Who wants to link another version of it builds the program anew from its sources, with\n\
         `cargo xtask dist`; they are open.\n",
    );
    // By the first name, so that a new crate changes one place.
    let mut sorted: Vec<_> = texts.iter().map(|(text, names)| (names, text)).collect();
    sorted.sort();
    for (names, text) in sorted {
        let _ = writeln!(page, "\n{rule}\n{}\n{rule}\n\n{text}", names.join("\n"));
    }
    if !without.is_empty() {
        let _ = writeln!(
            page,
            "\n{rule}\nThese name their licence and have no text of it in their archives (that of Apache-2.0 is LICENSE-APACHE, beside this file):\n{}\n{rule}",
            without.join("\n")
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_with_the_same_text_then_it_stands_once() {
        let folder = tempfile::tempdir().unwrap();
        let found = |name: &str, files: &[(&str, &str)]| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).unwrap();
            for (file, text) in files {
                fs::write(folder.join(file), text).unwrap();
            }
            Crate {
                name: name.to_owned(),
                version: "1.0.0".to_owned(),
                licence: Some("MIT".to_owned()),
                repository: None,
                sha256: Some("00".to_owned()),
                folder,
                needs: Default::default(),
            }
        };
        let crates = [
            found(
                "a",
                &[("LICENSE-MIT", "You may.\r\n"), ("license.rs", "fn main() {}")],
            ),
            found("b", &[("COPYING", "You may."), ("NOTICE", "By B.")]),
            found("c", &[]),
        ];
        let page = text(&crates, &[]).unwrap();
        assert_eq!(page.matches("You may.").count(), 1, "{page}");
        assert!(page.contains("a 1.0.0 (MIT)\nb 1.0.0 (MIT)\n"), "{page}");
        assert!(
            page.contains("By B.") && page.contains("file):\nc 1.0.0 (MIT)"),
            "{page}"
        );
        assert!(!page.contains("fn main"));
    }
}
