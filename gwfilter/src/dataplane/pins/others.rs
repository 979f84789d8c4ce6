//! What agents of another ABI left for this network namespace: found, locked, taken over link by link, and cleared away.
//!
//! A link does not care which directory its pin lies in, and a program that replaces another one under a link need not be of the same
//! ABI: the maps come with the program. So a take-over is a rename, and then what is done with a link of our own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::super::clsact;
use super::{HEADERS, OLD, Pin, Pins, PinsError, TABLES, directories, entries, failed, lock, remove};

/// The directory of another ABI. Held locked, so that no agent of it starts beside us.
#[derive(Debug)]
pub(super) struct Other {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// Locks the directories of all other ABIs.
///
/// # Errors
/// An agent of one of them runs.
pub(super) fn claim(ours: &Path) -> Result<Vec<Other>, PinsError> {
    let mut others = Vec::new();
    for dir in directories()?.into_iter().filter(|dir| dir != ours) {
        if let Some(lock) = lock(&dir)? {
            others.push(Other { dir, _lock: lock });
        }
    }
    Ok(others)
}

impl Pins {
    /// Where other ABIs may have pinned a map.
    pub(in crate::dataplane) fn paths_of_others(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        self.others.iter().map(move |other| other.dir.join(name))
    }

    /// Makes the links of other ABIs on this interface ours, where we have none at the same hook, and with them what their TC programs
    /// go on to. Nothing is attached or detached by it.
    ///
    /// # Errors
    /// A directory cannot be read, or a pin not be moved.
    pub(in crate::dataplane) fn gather(&self, ifindex: u32) -> Result<(), PinsError> {
        for other in &self.others {
            for name in entries(&other.dir)? {
                let wanted = match Pin::parse(&name) {
                    Some(pin) => pin.ifindex == ifindex,
                    None => name.starts_with(HEADERS),
                };
                let (theirs, ours) = (other.dir.join(&name), self.dir.join(&name));
                if !wanted || ours.exists() {
                    continue;
                }
                match fs::rename(&theirs, &ours) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(failed("cannot take over", &theirs)(e)),
                }
            }
        }
        Ok(())
    }

    /// Removes what other ABIs have left: links that were not taken over, maps, directories. Gives back the links. To be
    /// called when our own links are in force.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clear_others(&self) -> Result<Vec<Pin>, PinsError> {
        let mut removed = Vec::new();
        for other in &self.others {
            let abi = other.dir.parent().and_then(Path::file_name).unwrap_or_default();
            for name in entries(&other.dir)? {
                // Tables are freed by and by, as our own old ones are.
                if name.starts_with(TABLES) || name.starts_with(OLD) {
                    let to = self.dir.join(format!("{OLD}{}-{name}", abi.display()));
                    if !to.exists() && fs::rename(other.dir.join(&name), to).is_ok() {
                        continue;
                    }
                }
                let pin = Pin::parse(&name);
                // A filter has one place whatever the ABI: where we have a pin, it is our own by now.
                if let Some(pin) = pin
                    && !self.path(pin).exists()
                {
                    clsact::detach(pin);
                }
                if remove(&other.dir.join(&name))? {
                    removed.extend(pin);
                }
            }
            match fs::remove_dir(&other.dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("cannot remove", &other.dir)(e)),
            }
            // Other network namespaces may have theirs in it; then it is not empty, and stays.
            other.dir.parent().map(fs::remove_dir);
        }
        Ok(removed)
    }
}
