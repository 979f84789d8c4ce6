//! Looks at the disk: the manifests of a directory, their versions, their bytes.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::settle::{Fingerprint, Listing, Tracker};
use super::{MAX_BYTES, Origin, SourceError};

/// News of one file.
#[derive(Debug)]
pub struct Change {
    /// How the file is named to people and in the index: its path, or `-`.
    pub name: String,
    /// What became of it.
    pub news: News,
}

/// What became of a file.
#[derive(Debug)]
pub enum News {
    /// New content.
    Bytes(Vec<u8>),
    /// Deleted: its objects are gone.
    Gone,
    /// There, but not readable: its last good version stays.
    Unreadable(SourceError),
}

/// Watches one origin.
#[derive(Debug)]
pub struct Files {
    origin: Origin,
    tracker: Tracker,
    /// Hashes of what was handed out, so that a second reading of the same bytes is no news.
    told: BTreeMap<PathBuf, u64>,
    started: bool,
    /// Identity of the directory when it last had manifests.
    directory: Option<(u64, u64)>,
    /// Standard input or a pipe, already read.
    finished: bool,
}

impl Files {
    /// A watcher that has seen nothing yet.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            tracker: Tracker::default(),
            told: BTreeMap::new(),
            started: false,
            directory: None,
            finished: false,
        }
    }

    /// What is new since the last call. The first call reads everything; nothing blocks but standard input and pipes.
    ///
    /// A file of a directory that is deleted is [`News::Gone`].
    ///
    /// # Errors
    /// The origin itself is away or unreadable. That is not a deletion: whatever was read from it stays, and is told once more when the
    /// origin is back.
    pub fn poll(&mut self) -> Result<Vec<Change>, SourceError> {
        if self.finished {
            return Ok(Vec::new());
        }
        let changes = self.look();
        if changes.is_err() {
            self.tracker.forget_versions();
            self.told.clear();
        }
        changes
    }

    /// Whether the origin is a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    fn look(&mut self) -> Result<Vec<Change>, SourceError> {
        let path = match &self.origin {
            Origin::Stdin => {
                self.finished = true;
                let bytes = read_to_limit(io::stdin().lock(), "standard input")?;
                return Ok(vec![Change {
                    name: "-".to_owned(),
                    news: News::Bytes(bytes),
                }]);
            }
            Origin::Path(p) => p.clone(),
        };
        let meta = fs::metadata(&path).map_err(|e| unreadable(&path, e))?;
        let kind = meta.file_type();
        if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
            // A shell's `<(command)`: it can be read only once.
            self.finished = true;
            let file = File::open(&path).map_err(|e| unreadable(&path, e))?;
            let bytes = read_to_limit(file, &path.display().to_string())?;
            return Ok(vec![Change {
                name: path.display().to_string(),
                news: News::Bytes(bytes),
            }]);
        }
        let listing = if meta.is_dir() {
            let listing = list(&path)?;
            let identity = (meta.dev(), meta.ino());
            // A directory that is another one now, and empty, is what an unmount leaves behind.
            if listing.is_empty() && self.directory.is_some_and(|d| d != identity) {
                return Err(SourceError::Replaced {
                    path: path.display().to_string(),
                });
            }
            self.directory = Some(identity);
            listing
        } else if meta.is_file() {
            [(path.clone(), Some(fingerprint(&meta)))].into()
        } else {
            return Err(SourceError::NotAFile {
                path: path.display().to_string(),
            });
        };
        Ok(self.take(listing))
    }

    fn take(&mut self, listing: Listing) -> Vec<Change> {
        let ripe = self.tracker.look(listing);
        // What was written in the very moment of the first reading has the same time stamp: it is read once more.
        let settled = std::mem::replace(&mut self.started, true);
        let mut changes = Vec::new();
        for path in ripe.gone {
            self.told.remove(&path);
            changes.push(Change {
                name: path.display().to_string(),
                news: News::Gone,
            });
        }
        for path in ripe.read {
            let news = match read(&path) {
                Ok((bytes, version)) => {
                    if settled {
                        self.tracker.took(path.clone(), version);
                    }
                    let hash = hash(&bytes);
                    if self.told.insert(path.clone(), hash) == Some(hash) {
                        continue;
                    }
                    News::Bytes(bytes)
                }
                Err(e) => {
                    self.told.remove(&path);
                    News::Unreadable(e)
                }
            };
            changes.push(Change {
                name: path.display().to_string(),
                news,
            });
        }
        changes
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn unreadable(path: &Path, source: io::Error) -> SourceError {
    SourceError::Read {
        path: path.display().to_string(),
        source,
    }
}

fn fingerprint(m: &Metadata) -> Fingerprint {
    Fingerprint {
        identity: (m.dev(), m.ino()),
        len: m.len(),
        modified: (m.mtime(), m.mtime_nsec()),
        changed: (m.ctime(), m.ctime_nsec()),
    }
}

/// The manifests of a directory. Names that begin with a dot are editors' and ConfigMaps' own (`..data`, `.#a.yaml`): left
/// out. Subdirectories are not entered.
fn list(dir: &Path) -> Result<Listing, SourceError> {
    let mut listing = Listing::new();
    for entry in fs::read_dir(dir).map_err(|e| unreadable(dir, e))? {
        let path = entry.map_err(|e| unreadable(dir, e))?.path();
        if !is_manifest(&path) {
            continue;
        }
        match fs::metadata(&path) {
            Ok(m) if m.is_dir() => {}
            Ok(m) => {
                listing.insert(path, Some(fingerprint(&m)));
            }
            // Listed and then away: it will be missing from the next listing too, or back.
            Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {}
            Err(_) => {
                listing.insert(path, None);
            }
        }
    }
    Ok(listing)
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .map(str::to_ascii_lowercase);
    !hidden && matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}

fn read(path: &Path) -> Result<(Vec<u8>, Fingerprint), SourceError> {
    let fail = |e| unreadable(path, e);
    let name = path.display().to_string();
    if !fs::metadata(path).map_err(fail)?.is_file() {
        // Opening a pipe would block.
        return Err(SourceError::NotAFile { path: name });
    }
    let file = File::open(path).map_err(fail)?;
    let before = fingerprint(&file.metadata().map_err(fail)?);
    let bytes = read_to_limit(&file, &name)?;
    let after = fingerprint(&file.metadata().map_err(fail)?);
    if before == after {
        Ok((bytes, after))
    } else {
        Err(SourceError::Moving { path: name })
    }
}

fn read_to_limit(reader: impl Read, name: &str) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| SourceError::Read {
            path: name.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SourceError::TooLarge {
            path: name.to_owned(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// What a poll tells, as `name=content`, `name gone` or `name unreadable`, in order.
    fn tell(files: &mut Files) -> Vec<String> {
        let short = |name: &str| {
            Path::new(name)
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        };
        let one = |c: Change| match c.news {
            News::Bytes(b) => format!("{}={}", short(&c.name), String::from_utf8(b).unwrap()),
            News::Gone => format!("{} gone", short(&c.name)),
            News::Unreadable(_) => format!("{} unreadable", short(&c.name)),
        };
        files.poll().unwrap().into_iter().map(one).collect()
    }

    /// Polls until the first reading and its repetition are over.
    fn start(origin: &Path) -> (Files, Vec<String>) {
        let mut files = Files::new(Origin::Path(origin.to_owned()));
        let first = tell(&mut files);
        assert!(tell(&mut files).is_empty());
        (files, first)
    }

    #[test]
    fn a_directory_gives_its_manifests_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "a.yaml",
            "b.yml",
            "c.json",
            "D.YAML",
            "e.txt",
            ".f.yaml",
            "g.yaml.swp",
        ] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("h.yaml")).unwrap();
        fs::write(dir.path().join("h.yaml/i.yaml"), "x").unwrap();
        symlink("nowhere", dir.path().join(".#a.yaml")).unwrap();
        let (_, first) = start(dir.path());
        assert_eq!(
            first,
            ["D.YAML=D.YAML", "a.yaml=a.yaml", "b.yml=b.yml", "c.json=c.json"]
        );
    }

    #[test]
    fn a_rename_over_of_equal_length_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "one").unwrap();
        let (mut files, _) = start(dir.path());
        fs::write(dir.path().join("a.yaml~"), "two").unwrap();
        fs::rename(dir.path().join("a.yaml~"), dir.path().join("a.yaml")).unwrap();
        assert!(tell(&mut files).is_empty(), "not yet at rest");
        assert_eq!(tell(&mut files), ["a.yaml=two"]);
        assert!(tell(&mut files).is_empty());
    }

    #[test]
    fn a_config_map_swap_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("a.yaml"), text).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        let (mut files, first) = start(dir.path());
        assert_eq!(first, ["a.yaml=one"]);
        symlink("..2", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        fs::remove_dir_all(dir.path().join("..1")).unwrap();
        tell(&mut files);
        assert_eq!(tell(&mut files), ["a.yaml=two"]);
    }

    #[test]
    fn a_deleted_file_is_gone_but_a_vanished_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("d");
        fs::create_dir(&sub).unwrap();
        fs::write(sub.join("a.yaml"), "a").unwrap();
        fs::write(sub.join("b.yaml"), "b").unwrap();
        let (mut files, _) = start(&sub);
        fs::remove_file(sub.join("a.yaml")).unwrap();
        tell(&mut files);
        assert_eq!(tell(&mut files), ["a.yaml gone"]);
        fs::rename(&sub, dir.path().join("away")).unwrap();
        for _ in 0..3 {
            let e = files.poll().unwrap_err();
            assert!(e.to_string().contains("cannot be read"), "{e}");
        }
        fs::create_dir(&sub).unwrap();
        let e = files.poll().unwrap_err();
        assert!(e.to_string().contains("another directory"), "{e}");
        fs::remove_dir(&sub).unwrap();
        fs::rename(dir.path().join("away"), &sub).unwrap();
        assert_eq!(tell(&mut files), ["b.yaml=b"], "back, and told once more");
        assert!(tell(&mut files).is_empty());
    }

    #[test]
    fn a_dangling_symlink_and_a_pipe_are_unreadable_and_block_nothing() {
        let dir = tempfile::tempdir().unwrap();
        symlink("nowhere", dir.path().join("a.yaml")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("b.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let mut files = Files::new(Origin::Path(dir.path().to_owned()));
        assert_eq!(tell(&mut files), ["a.yaml unreadable", "b.yaml unreadable"]);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        fs::write(dir.path().join("a.yaml"), "a").unwrap();
        fs::set_permissions(dir.path().join("a.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
        tell(&mut files);
        assert_eq!(tell(&mut files), ["a.yaml=a", "b.yaml unreadable"]);
    }

    #[test]
    fn a_single_file_that_vanishes_is_an_error_not_a_deletion() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy");
        fs::write(&path, "x").unwrap();
        let (mut files, first) = start(&path);
        assert_eq!(first, ["policy=x"]);
        fs::remove_file(&path).unwrap();
        assert!(files.poll().is_err());
        assert!(!files.is_directory());
        fs::write(&path, "y").unwrap();
        tell(&mut files);
        assert_eq!(tell(&mut files), ["policy=y"]);
    }

    #[test]
    fn a_reader_that_never_ends_is_cut_off() {
        let e = read_to_limit(io::repeat(b'x'), "big").unwrap_err();
        assert!(matches!(e, SourceError::TooLarge { .. }), "{e}");
    }
}
