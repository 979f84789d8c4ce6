//! Writes a root file system as the kernel unpacks it at boot: a cpio archive of the "newc" kind
//! (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// `S_IFDIR` and `S_IFREG` of `stat.h`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
/// The name of the last entry.
const TRAILER: &str = "TRAILER!!!";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Files by their path, without a leading slash. Folders come by themselves.
pub(crate) type Tree = BTreeMap<String, File>;

/// Writes the archive: `tree`, and the empty `folders` beside it.
pub(crate) fn write(tree: &Tree, folders: &[&str], out: &mut impl Write) -> io::Result<()> {
    let mut number = 0;
    let all: BTreeSet<&str> = tree
        .keys()
        .flat_map(|path| parents(path))
        .chain(folders.iter().copied())
        .chain(folders.iter().flat_map(|path| parents(path)))
        .collect();
    // A folder sorts before what is in it.
    for folder in all {
        number += 1;
        entry(out, number, FOLDER | 0o755, folder, &[])?;
    }
    for (path, file) in tree {
        number += 1;
        entry(out, number, FILE | file.mode, path, &file.bytes)?;
    }
    entry(out, 0, 0, TRAILER, &[])
}

/// `usr`, `usr/bin` of `usr/bin/ip`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(end, _)| path.get(..end))
}

fn entry(out: &mut impl Write, number: u32, mode: u32, name: &str, bytes: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::other(format!("{name} is too long for a cpio archive"));
    let size = u32::try_from(bytes.len()).map_err(too_long)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
    // Magic, inode, mode, uid, gid, links, time, size, device and special device (major, minor), length of the name, check sum.
    let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    // The header is 110 bytes long; what follows begins at a multiple of four.
    pad(out, 110 + name.len() + 1)?;
    out.write_all(bytes)?;
    pad(out, bytes.len())
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    const ZEROS: [u8; 3] = [0; 3];
    let missing = written.next_multiple_of(4) - written;
    out.write_all(ZEROS.get(..missing).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_then_what_the_archive_format_says_of_it() {
        let file = File {
            mode: 0o755,
            bytes: b"12345".to_vec(),
        };
        let mut out = Vec::new();
        write(&Tree::from([("a/b".to_owned(), file)]), &["proc"], &mut out).unwrap();
        assert_eq!(out.len() % 4, 0);
        let text = String::from_utf8(out).unwrap();
        // Inode, mode, uid, gid, links, time, size, 4 × device, length of the name, check sum.
        let head = |number: u32, mode: u32, size: u32, name: &str| {
            let zeros = "00000000".repeat(4);
            let length = name.len() + 1;
            format!(
                "070701{number:08x}{mode:08x}0000000000000000{:08x}00000000{size:08x}{zeros}{length:08x}00000000{name}\0",
                1
            )
        };
        let expected = [
            head(1, 0o040_755, 0, "a"),
            head(2, 0o040_755, 0, "proc"),
            "\0".to_owned(),
            head(3, 0o100_755, 5, "a/b") + "\0\0" + "12345\0\0\0",
            head(0, 0, 0, TRAILER) + "\0\0\0",
        ];
        assert_eq!(text, expected.concat());
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        assert_eq!(parents("usr/lib/x").collect::<Vec<_>>(), ["usr", "usr/lib"]);
        assert_eq!(parents("init").count(), 0);
    }
}
