//! Manifests from files and standard input: what changed, and the last good version of each.
//!
//! [`files`] looks at the disk, [`settle`] (pure) decides which changes are ripe, [`intake`] turns bytes into objects of the
//! index and keeps the last good version of a file that became unreadable. Nothing here knows what an object means.
//!
//! Changes are found by polling, not by inotify. A poll is one `stat` per file, twice a second, and it is right
//! where inotify is not: a ConfigMap's `..data` symlink swap, an editor's rename-over, a network file system, a directory that
//! vanishes and comes back, an overflowing queue. With inotify a poll would still be needed for those; and
//! what is found must come to rest before it is used (see [`settle`]), so inotify would not even be faster.

pub mod files;
pub mod settle;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Time between two looks at the disk.
pub const POLL: Duration = Duration::from_millis(500);

/// The largest manifest that is read, in bytes: about a million prefixes.
pub const MAX_BYTES: u64 = 256 << 20;

/// Where manifests come from: the value of `--from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `-`: standard input, read to its end, once.
    Stdin,
    /// A file, or a directory whose `.yaml`, `.yml` and `.json` files are read (not those of its subdirectories, as `kubectl
    /// apply -f` has it, and none whose name begins with a dot).
    Path(PathBuf),
}

impl From<&str> for Origin {
    fn from(s: &str) -> Self {
        if s == "-" {
            Self::Stdin
        } else {
            Self::Path(PathBuf::from(s))
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::Path(p) => p.display().fmt(f),
        }
    }
}

/// Why manifests could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file or directory itself.
    #[error("{path}: cannot be read")]
    Read {
        /// What was to be read.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Neither a regular file nor a directory.
    #[error("{path}: is no regular file")]
    NotAFile {
        /// What was to be read.
        path: String,
    },
    /// It changed while it was read.
    #[error("{path}: is being written")]
    Moving {
        /// What was to be read.
        path: String,
    },
    /// More than [`MAX_BYTES`].
    #[error("{path}: is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge {
        /// What was to be read.
        path: String,
    },
}
