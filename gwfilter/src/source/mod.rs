//! Manifests from files and standard input: what changed, and the last good version of each.
//!
//! [`files`] looks at the disk, [`settle`] (pure) decides which changes are ripe, [`Input`] hands them to the index, which keeps the
//! last good version of what became unreadable. Nothing here knows what an object means.
//!
//! Changes are found by polling, not by inotify. A poll is one `stat` per file, twice a second, and it is right
//! where inotify is not: a ConfigMap's `..data` symlink swap, an editor's rename-over, a network file system, a directory that
//! vanishes and comes back, an overflowing queue. With inotify a poll would still be needed for those; and
//! what is found must come to rest before it is used (see [`settle`]), so inotify would not even be faster.

pub mod files;
pub mod settle;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::index::Index;
use crate::telemetry::chain;
use files::{Change, Files, News};

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
    /// Empty, and not the directory it was.
    #[error("{path}: is another directory than before, and has no manifests")]
    Replaced {
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

/// Keeps an index in step with an origin.
#[derive(Debug)]
pub struct Input {
    name: String,
    files: Files,
    failure: Option<String>,
    /// Files that cannot be read, and why.
    unreadable: BTreeMap<String, String>,
}

impl Input {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            name: origin.to_string(),
            files: Files::new(origin),
            failure: None,
            unreadable: BTreeMap::new(),
        }
    }

    /// Reads everything for the first time.
    ///
    /// # Errors
    /// The origin itself cannot be read. A file in it that cannot is a finding of the index.
    pub fn first(&mut self, index: &mut Index) -> Result<(), SourceError> {
        let changes = self.files.poll()?;
        self.feed(index, changes);
        Ok(())
    }

    /// Reads what is new; says whether the index may have changed.
    pub fn poll(&mut self, index: &mut Index) -> bool {
        match self.files.poll() {
            Ok(changes) => {
                // Taken in any case: the same failure may come again, and must be told again.
                let back = self.failure.take().is_some();
                let news = back || !changes.is_empty();
                if news {
                    self.feed(index, changes);
                }
                news
            }
            Err(e) => {
                let why = why(&self.name, &e);
                let news = self.failure.as_ref() != Some(&why);
                if news {
                    index.unreadable(&self.name, &why);
                    self.failure = Some(why);
                }
                news
            }
        }
    }

    /// Whether everything could be read at the last look; a file that is broken was read. The error says what could not.
    ///
    /// # Errors
    /// The origin, or a file of it, cannot be read.
    pub fn readable(&self) -> Result<(), String> {
        if let Some(why) = &self.failure {
            return Err(format!("{}: {why}", self.name));
        }
        match self.unreadable.first_key_value() {
            Some((name, why)) => Err(format!("{name}: {why}")),
            None => Ok(()),
        }
    }

    fn feed(&mut self, index: &mut Index, changes: Vec<Change>) {
        if self.files.is_directory() {
            index.directory(&self.name);
        }
        for Change { name, news } in changes {
            self.unreadable.remove(&name);
            match news {
                // The index keeps the last good version, and why the new one is none.
                News::Bytes(bytes) => drop(index.load(&name, &bytes)),
                News::Gone => index.remove(&name),
                News::Unreadable(e) => {
                    let why = why(&name, &e);
                    index.unreadable(&name, &why);
                    self.unreadable.insert(name, why);
                }
            }
        }
    }
}

/// The error without the name, which the finding has already.
fn why(name: &str, error: &SourceError) -> String {
    let text = chain(error);
    text.strip_prefix(name)
        .and_then(|t| t.strip_prefix(": "))
        .map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: a}
";

    /// Polls until two polls in a row bring nothing.
    fn rest(input: &mut Input, index: &mut Index) {
        let mut quiet = 0;
        while quiet < 2 {
            quiet = if input.poll(index) { 0 } else { quiet + 1 };
        }
    }

    fn state(index: &Index) -> (usize, bool, usize) {
        let snapshot = index.snapshot();
        (
            snapshot.policies.len(),
            snapshot.complete,
            snapshot.diagnostics.len(),
        )
    }

    #[test]
    fn a_directory_that_vanishes_and_returns_then_its_policies_stay_and_nothing_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("p.yaml"), POLICY).unwrap();
        let (mut index, mut input) = (Index::new(), Input::new(Origin::Path(from.clone())));
        input.first(&mut index).unwrap();
        rest(&mut input, &mut index);
        assert_eq!(state(&index), (1, true, 0));

        fs::rename(&from, dir.path().join("away")).unwrap();
        assert!(input.poll(&mut index));
        assert_eq!(state(&index), (1, true, 1), "as it was, with a finding");
        let of = index.snapshot().diagnostics[0].object.clone();
        assert_eq!(of.to_string(), format!("Directory {}", from.display()));
        assert!(!input.poll(&mut index), "no news");

        fs::rename(dir.path().join("away"), &from).unwrap();
        rest(&mut input, &mut index);
        assert_eq!(state(&index), (1, true, 0));
    }

    #[test]
    fn a_single_file_that_vanishes_and_returns_then_its_policies_stay() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("p");
        fs::write(&from, POLICY).unwrap();
        let (mut index, mut input) = (Index::new(), Input::new(Origin::Path(from.clone())));
        input.first(&mut index).unwrap();
        rest(&mut input, &mut index);
        fs::rename(&from, dir.path().join("away")).unwrap();
        assert!(input.poll(&mut index));
        assert_eq!(state(&index), (1, true, 1));
        fs::rename(dir.path().join("away"), &from).unwrap();
        rest(&mut input, &mut index);
        assert_eq!(state(&index), (1, true, 0));
    }

    #[test]
    fn a_file_that_breaks_keeps_its_last_good_version_and_one_that_never_was_good_is_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("p.yaml"), POLICY).unwrap();
        let (mut index, mut input) = (Index::new(), Input::new(Origin::Path(dir.path().to_owned())));
        input.first(&mut index).unwrap();
        fs::write(dir.path().join("p.yaml"), "kind: [").unwrap();
        rest(&mut input, &mut index);
        assert_eq!(state(&index), (1, true, 1));
        fs::write(dir.path().join("q.yaml"), "kind: [").unwrap();
        rest(&mut input, &mut index);
        assert_eq!(state(&index), (1, false, 2));
        fs::remove_file(dir.path().join("q.yaml")).unwrap();
        fs::remove_file(dir.path().join("p.yaml")).unwrap();
        rest(&mut input, &mut index);
        assert_eq!(state(&index), (0, true, 0));
    }

    #[test]
    fn an_origin_that_is_not_there_at_the_start_is_an_error() {
        let (mut index, mut input) = (Index::new(), Input::new(Origin::from("/nowhere/at/all")));
        let e = input.first(&mut index).unwrap_err();
        assert!(chain(&e).contains("/nowhere/at/all"), "{e}");
    }

    #[test]
    fn a_directory_that_vanishes_twice_is_told_twice() {
        let place = tempfile::tempdir().unwrap();
        let (here, away) = (place.path().join("here"), place.path().join("away"));
        fs::create_dir(&here).unwrap();
        fs::write(
            here.join("a.yaml"),
            "{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
        )
        .unwrap();
        let mut index = Index::new();
        let mut input = Input::new(Origin::Path(here.clone()));
        input.first(&mut index).unwrap();
        let told = |index: &Index| !index.snapshot().diagnostics.is_empty();
        for time in 1..=2 {
            fs::rename(&here, &away).unwrap();
            assert!(input.poll(&mut index), "away, time {time}");
            assert!(told(&index), "away, time {time}");
            assert!(!input.poll(&mut index), "still away, time {time}");
            fs::rename(&away, &here).unwrap();
            assert!(input.poll(&mut index), "back, time {time}");
            assert!(!told(&index), "back, time {time}");
        }
        assert_eq!(index.snapshot().namespaces.len(), 1);
    }
}
