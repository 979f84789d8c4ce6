//! Archives whose bytes depend on what is in them and on nothing else: entries are sorted, owned by root, and from 1970.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// What is at a path of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File {
        /// The permission bits.
        mode: u32,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A symbolic link, and where it leads to.
    Link(String),
}

impl Entry {
    /// A file to be read.
    #[must_use]
    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::File {
            mode: 0o644,
            bytes: text.into(),
        }
    }
}

/// A tar of the entries and the folders above them: each folder once, before what is in it.
///
/// # Errors
/// A path is absolute or too long for a tar header, or `out` cannot be written.
pub fn tar(entries: &BTreeMap<String, Entry>, out: impl Write) -> Result<()> {
    let mut tar = Builder::new(out);
    let mut folders = BTreeSet::new();
    for (path, entry) in entries {
        ensure!(
            !path.is_empty() && !path.starts_with('/'),
            "path {path:?} of an archive does not start at its root"
        );
        let mut above: Vec<_> = Path::new(path).ancestors().skip(1).collect();
        above.reverse();
        for folder in above.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
            if folders.insert(folder) {
                let name = format!("{}/", folder.display());
                append(&mut tar, &name, &mut header(EntryType::Directory, 0o755), &[])?;
            }
        }
        match entry {
            Entry::File { mode, bytes } => {
                append(&mut tar, path, &mut header(EntryType::Regular, *mode), bytes)?;
            }
            Entry::Link(to) => {
                let mut header = header(EntryType::Symlink, 0o777);
                header
                    .set_link_name(to)
                    .with_context(|| format!("link {path} to {to}"))?;
                append(&mut tar, path, &mut header, &[])?;
            }
        }
    }
    tar.into_inner()
        .and_then(|mut out| out.flush())
        .context("ending the tar")
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(tar: &mut Builder<impl Write>, path: &str, header: &mut Header, bytes: &[u8]) -> Result<()> {
    header
        .set_path(path)
        .with_context(|| format!("path {path} of an archive"))?;
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(header, bytes)
        .with_context(|| format!("writing {path} into the tar"))
}

/// Compresses; without a time or a name in the header.
///
/// # Errors
/// None that memory has not.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut compressed = GzBuilder::new().write(Vec::new(), Compression::best());
    compressed.write_all(bytes).context("compressing")?;
    compressed.finish().context("compressing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_packed_twice_then_the_same_bytes_with_folders_and_links() {
        let program = Entry::File {
            mode: 0o755,
            bytes: b"program".to_vec(),
        };
        let entries = BTreeMap::from([
            ("a/bin/x".to_owned(), program),
            ("a/bin/y".to_owned(), Entry::Link("x".to_owned())),
            ("a/README".to_owned(), Entry::text("text")),
        ]);
        let pack = || {
            let mut bytes = Vec::new();
            tar(&entries, &mut bytes).unwrap();
            gzip(&bytes).unwrap()
        };
        assert_eq!(pack(), pack());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::io::Cursor::new(pack())));
        let seen: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let to = entry.link_name().unwrap().map(|to| to.display().to_string());
                let path = entry.path().unwrap().display().to_string();
                (path, entry.header().mode().unwrap(), to)
            })
            .collect();
        let at = |path: &str, mode, to: Option<&str>| (path.to_owned(), mode, to.map(ToOwned::to_owned));
        assert_eq!(
            seen,
            [
                at("a/", 0o755, None),
                at("a/README", 0o644, None),
                at("a/bin/", 0o755, None),
                at("a/bin/x", 0o755, None),
                at("a/bin/y", 0o777, Some("x")),
            ]
        );
        for path in ["", "/etc/passwd"] {
            let wrong = BTreeMap::from([(path.to_owned(), Entry::text(""))]);
            assert!(tar(&wrong, Vec::new()).is_err(), "{path:?}");
        }
    }
}
