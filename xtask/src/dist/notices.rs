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

/// The standard texts of licences, by their names of SPDX: for what names its licence and brings no text of it. Members of a workspace do
/// that, whose text lies in the folder above and is not packed with them; and so does what is no crate.
const STANDARD: [(&str, &str); 3] = [
    ("Apache-2.0", include_str!("../../../LICENSE-APACHE")),
    ("LGPL-2.1-or-later", include_str!("licences/LGPL-2.1.txt")),
    ("MIT", include_str!("licences/MIT.txt")),
];

/// The whole text.
///
/// # Errors
/// A folder cannot be read, or a crate has no text and its licence none here.
pub(super) fn text(crates: &[Crate], linked: &[Linked]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for found in crates.iter().filter(|found| found.sha256.is_some()) {
        let (name, version) = (&found.name, &found.version);
        let licence = found.licence.as_deref();
        let files = licences(&found.folder)?;
        if files.is_empty() {
            let licence = licence
                .with_context(|| format!("{name} {version} states no licence and has no text of one"))?;
            let authors = match found.authors.as_slice() {
                [] => format!("the authors of {name}"),
                authors => authors.join(", "),
            };
            let from = found.repository.as_deref();
            add(&mut texts, (name, version, licence), (&authors, from))?;
        }
        for file in files {
            let licence = licence.unwrap_or("licence not stated");
            let names = texts.entry(file).or_default();
            names.push(format!("{name} {version} ({licence})"));
        }
    }
    for library in linked {
        let (name, licence) = (library.name, library.licence);
        let by = (library.authors, Some(library.source));
        add(&mut texts, (name, &library.version, licence), by)?;
    }
    Ok(page(&texts, linked))
}

/// The standard text of each licence that an expression names: which of them holds is the reader's to choose, where it says `OR`.
fn add(
    texts: &mut BTreeMap<String, Vec<String>>,
    (name, version, licence): (&str, &str, &str),
    (authors, from): (&str, Option<&str>),
) -> Result<()> {
    let from = from.map(|from| format!(", {from}")).unwrap_or_default();
    let line = format!("{name} {version} ({licence}), by {authors}{from}");
    for id in ids(licence) {
        let (_, text) = STANDARD.iter().find(|(known, _)| *known == id).with_context(|| {
            format!(
                "{name} {version} has no text of its licence {id}: put it to those in xtask/src/dist/licences"
            )
        })?;
        let names = texts.entry(text.trim_end().to_owned()).or_default();
        names.push(line.clone());
    }
    Ok(())
}

/// The licences in an SPDX expression, exceptions among them; also where `/` stands for `OR`.
fn ids(licence: &str) -> impl Iterator<Item = &str> {
    licence
        .split(|c: char| c.is_whitespace() || "()/".contains(c))
        .filter(|word| !matches!(*word, "" | "OR" | "AND" | "WITH"))
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

fn page(texts: &BTreeMap<String, Vec<String>>, linked: &[Linked]) -> String {
    let mut page =
        "gwfilter is made with these libraries. Each text stands once, below those that come with it, and those that name it and come with none.\n"
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
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folder: &Path, name: &str, licence: Option<&str>, files: &[(&str, &str)]) -> Crate {
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
        Crate {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: licence.map(str::to_owned),
            authors: vec!["Ann <ann@example.com>".to_owned(), "Bob".to_owned()],
            repository: Some(format!("https://{name}.example")),
            sha256: Some("00".to_owned()),
            folder,
            needs: Default::default(),
        }
    }

    #[test]
    fn crates_with_the_same_text_then_it_stands_once() {
        let folder = tempfile::tempdir().unwrap();
        let found = |name, files: &[_]| found(folder.path(), name, Some("MIT"), files);
        let crates = [
            found(
                "a",
                &[("LICENSE-MIT", "You may.\r\n"), ("license.rs", "fn main() {}")],
            ),
            found("b", &[("COPYING", "You may."), ("NOTICE", "By B.")]),
        ];
        let page = text(&crates, &[]).unwrap();
        assert_eq!(page.matches("You may.").count(), 1, "{page}");
        assert!(page.contains("a 1.0.0 (MIT)\nb 1.0.0 (MIT)\n"), "{page}");
        assert!(page.contains("By B."), "{page}");
        assert!(!page.contains("fn main") && !page.contains("Permission is hereby granted"));
    }

    #[test]
    fn no_text_of_a_licence_that_is_named_then_the_standard_one_once_with_the_authors() {
        let folder = tempfile::tempdir().unwrap();
        let found = |name, licence, files: &[_]| found(folder.path(), name, Some(licence), files);
        let apache = include_str!("../../../LICENSE-APACHE");
        let crates = [
            found("a", "MIT OR Apache-2.0", &[]),
            Crate {
                authors: Vec::new(),
                repository: None,
                ..found("b", "Apache-2.0/MIT", &[])
            },
            found("c", "Apache-2.0", &[("LICENSE", apache)]),
        ];
        let page = text(&crates, &[]).unwrap();
        for words in ["Permission is hereby granted", "END OF TERMS AND CONDITIONS"] {
            assert_eq!(page.matches(words).count(), 1, "{words}: {page}");
        }
        let bare = "a 1.0.0 (MIT OR Apache-2.0), by Ann <ann@example.com>, Bob, https://a.example\n\
            b 1.0.0 (Apache-2.0/MIT), by the authors of b\n";
        assert!(
            page.contains(&format!("{bare}c 1.0.0 (Apache-2.0)\n===")),
            "{page}"
        );
        assert!(page.contains(&format!("{bare}===")), "{page}");
        let libc = Linked {
            name: "libc",
            version: "2".to_owned(),
            licence: "LGPL-2.1-or-later",
            authors: "its authors",
            source: "https://libc.example",
        };
        let page = text(&[], &[libc]).unwrap();
        let above = "===\nlibc 2 (LGPL-2.1-or-later), by its authors, https://libc.example\n===";
        assert!(
            page.contains(above) && page.contains("GNU LESSER GENERAL PUBLIC LICENSE"),
            "{page}"
        );
    }

    #[test]
    fn no_text_to_be_had_then_an_error_that_names_the_crate() {
        let folder = tempfile::tempdir().unwrap();
        for (name, licence, words) in [
            (
                "a",
                Some("MIT OR Zlib"),
                "a 1.0.0 has no text of its licence Zlib",
            ),
            (
                "b",
                Some("(Apache-2.0 WITH LLVM-exception)"),
                "b 1.0.0 has no text of its licence LLVM-exception",
            ),
            ("c", None, "c 1.0.0 states no licence"),
        ] {
            let crates = [found(folder.path(), name, licence, &[])];
            let error = text(&crates, &[]).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }
}
