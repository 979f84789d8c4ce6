//! Small files that only root may read: written whole or not at all, read only if nobody else could have written them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// A file operation failed.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error(
        "{path} is not a regular file of this user that nobody else may write, or has more than {} MiB",
        MAX_BYTES >> 20
    )]
    NotOurs {
        /// The path.
        path: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.display().to_string();
    move |source| DiskError::Io { what, path, source }
}

/// Writes `dir/name` for root only. Whoever reads it at any time, also after a power cut, finds the old file or the new one.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
    put(dir, name, bytes, true)
}

/// As [`write()`], but not flushed: after a power cut it may be damaged.
pub(crate) fn write_for_this_boot(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
    put(dir, name, bytes, false)
}

fn put(dir: &Path, name: &str, bytes: &[u8], flush: bool) -> Result<(), DiskError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("cannot make", dir))?;
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    let outcome = write_new(&new, bytes, flush).and_then(|()| {
        fs::rename(&new, &path).map_err(failed("cannot put in place", &path))?;
        if !flush {
            return Ok(());
        }
        let folder = File::open(dir).map_err(failed("cannot open", dir))?;
        folder.sync_all().map_err(failed("cannot write out", dir))
    });
    if outcome.is_err() {
        // A full disk must not be kept full by half a file.
        let _ = fs::remove_file(&new);
    }
    outcome
}

fn write_new(path: &PathBuf, bytes: &[u8], flush: bool) -> Result<(), DiskError> {
    // What an agent that was killed has left; also a link that somebody put there is removed, not followed.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("cannot remove", path)(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("cannot make", path))?;
    file.write_all(bytes).map_err(failed("cannot write", path))?;
    if flush {
        file.sync_all().map_err(failed("cannot write out", path))?;
    }
    Ok(())
}

/// Reads a file that [`write()`] wrote; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    // Not a link, and no pipe that blocks.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("cannot open", path)(e)),
    };
    let about = file.metadata().map_err(failed("cannot look at", path))?;
    if !about.is_file()
        || about.uid() != geteuid().as_raw()
        || about.mode() & 0o022 != 0
        || about.len() > MAX_BYTES
    {
        return Err(DiskError::NotOurs {
            path: path.display().to_string(),
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed("cannot read", path))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_written_twice_then_the_second_one_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("made/for/it");
        let path = inner.join("f");
        assert_eq!(read(&path).unwrap(), None);
        for text in ["one", "two"] {
            // What a killed writer leaves is in nobody's way.
            let _ = fs::create_dir_all(&inner);
            fs::write(inner.join("f.new"), "half").unwrap();
            write(&inner, "f", text.as_bytes()).unwrap();
            assert_eq!(read(&path).unwrap().as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_somebody_else_could_have_written_then_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(DiskError::NotOurs { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        read(&path).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        read(&link).unwrap_err();
        read(dir.path()).unwrap_err();
    }

    #[test]
    fn a_disk_that_takes_nothing_then_an_error_and_the_old_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "f", b"old").unwrap();
        // A folder in the place of the new file: it can be neither removed nor written.
        fs::create_dir(dir.path().join("f.new")).unwrap();
        write(dir.path(), "f", b"new").unwrap_err();
        assert_eq!(
            read(&dir.path().join("f")).unwrap().as_deref(),
            Some(b"old".as_slice())
        );
        write(Path::new("/proc/no"), "f", b"new").unwrap_err();
    }
}
