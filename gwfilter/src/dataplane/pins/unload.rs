//! Takes everything off, and makes a running agent stand down first.
//!
//! The first step takes the directory out of the agent's sight, in one rename: from then on it cannot pin what it attaches, and what is not
//! pinned does not last. Only then the pins go. So an agent that is just about to repair something, or that was frozen, brings nothing back.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{OLD, Pin, PinsError, TABLES, directories, entries, failed, namespace, remove, unloading_name};
use crate::dataplane::clsact;
use crate::dataplane::tables::empty;

/// How long an agent may take to see that it was unloaded. It looks twice a second, but may be in the middle of something.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// What became of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// There was none.
    None,
    /// It has ended.
    Ended,
    /// It has not ended in time: it may be frozen. It can attach nothing that lasts, and ends when it goes on.
    Remains,
}

impl Agent {
    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ended => "ended",
            Self::Remains => "remains",
        }
    }
}

/// What was taken off.
#[derive(Debug)]
pub struct Unloaded {
    /// The links.
    pub links: Vec<Pin>,
    /// The agent.
    pub agent: Agent,
}

/// Takes gwfilter off this network namespace, whichever version of it put it on: every pin is removed, and then the
/// directories, which makes a running agent end. Doing it again removes nothing.
///
/// # Errors
/// Something is there and cannot be removed. What could be removed is removed all the same.
pub fn unload() -> Result<Unloaded, PinsError> {
    let aside = unloading_name(namespace()?);
    let mut links = Vec::new();
    let mut held = Vec::new();
    let mut first_error = None;
    for dir in directories()? {
        match take_off(&dir, &aside, &mut links) {
            Ok(lock) => held.extend(lock),
            Err(e) => {
                first_error.get_or_insert(e);
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let mut agent = Agent::None;
    for lock in held {
        agent = match wait(lock, deadline) {
            true if agent != Agent::Remains => Agent::Ended,
            _ => Agent::Remains,
        };
    }
    first_error.map_or(Ok(Unloaded { links, agent }), Err)
}

/// Removes one directory and all in it; gives it back if an agent holds it.
fn take_off(dir: &Path, aside: &str, links: &mut Vec<Pin>) -> Result<Option<File>, PinsError> {
    let file = File::open(dir).map_err(failed("cannot open", dir))?;
    let held = match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => None,
        Err((file, Errno::EWOULDBLOCK)) => Some(file),
        Err((_, e)) => return Err(failed("cannot look at the lock of", dir)(e.into())),
    };
    let hidden = hide(dir, aside)?;
    let (mut first_error, mut all) = (None, usize::MAX);
    // Links come first, as their names begin with a digit: what is out of use then is emptied before the kernel has to free it.
    for name in entries(&hidden)? {
        let path = hidden.join(&name);
        if name.starts_with(TABLES) || name.starts_with(OLD) {
            // What cannot be emptied is freed in one go.
            let _ = empty(&path, &mut all);
        }
        if let Some(pin) = Pin::parse(&name) {
            clsact::detach(pin);
        }
        match remove(&path) {
            Ok(true) => links.extend(Pin::parse(&name)),
            Ok(false) => {}
            Err(e) => {
                first_error.get_or_insert(e);
            }
        }
    }
    match fs::remove_dir(&hidden) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            first_error.get_or_insert(failed("cannot remove", &hidden)(e));
        }
        _ => {}
    }
    // Other network namespaces may have theirs in it; then it is not empty, and stays.
    hidden.parent().map(fs::remove_dir);
    first_error.map_or(Ok(held), Err)
}

/// Out of the agent's sight.
fn hide(dir: &Path, aside: &str) -> Result<PathBuf, PinsError> {
    let hidden = dir.with_file_name(aside);
    if hidden == dir {
        // Left by an `unload` that was cut off.
        return Ok(hidden);
    }
    if hidden.exists() {
        // The same, and an agent was started since; its own go first, by being put where those are.
        for name in entries(dir)? {
            let (from, to) = (dir.join(&name), hidden.join(&name));
            fs::rename(&from, &to).map_err(failed("cannot move", &from))?;
        }
        fs::remove_dir(dir).map_err(failed("cannot remove", dir))?;
        return Ok(hidden);
    }
    fs::rename(dir, &hidden).map_err(failed("cannot move", dir))?;
    Ok(hidden)
}

/// Whether the agent has let go of its directory.
fn wait(mut file: File, deadline: Instant) -> bool {
    loop {
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => return true,
            Err((back, _)) if Instant::now() < deadline => file = back,
            Err(_) => return false,
        }
        thread::sleep(PAUSE);
    }
}
