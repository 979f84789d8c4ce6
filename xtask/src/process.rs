//! Child processes with their output at hand, and gone when the test is.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::netns::Namespace;
use crate::poll;

/// How many lines of a log an error shows.
const TAIL: usize = 40;

/// The memory that a process has in use now (its resident set), in bytes.
///
/// # Errors
/// If there is no such process.
pub fn rss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kib: u64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .with_context(|| format!("{path} tells no resident set"))?;
    Ok(kib * 1024)
}

/// A child process in a namespace. Standard output and error go to one file, in the order they were written.
/// Killed (that process, by its id) and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    folder: TempDir,
}

impl Process {
    /// Starts `command` in `namespace`. `name` stands in messages only.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(namespace: &Namespace, name: &str, command: Command) -> Result<Self> {
        Self::spawn_prepared(namespace, name, command, || Ok(()))
    }

    /// Starts `command` in `namespace` from a thread that `prepare` has run on: mounts, capabilities and the like that it
    /// takes for itself are the child's, and nobody else's.
    ///
    /// # Errors
    /// If `prepare` fails or the command cannot be started.
    pub fn spawn_prepared(
        namespace: &Namespace,
        name: &str,
        mut command: Command,
        prepare: impl FnOnce() -> Result<()> + Send,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("lab-")
            .tempdir()
            .context("a folder for a log")?;
        let path = folder.path().join("log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        let errors = log.try_clone().context("a second handle on a log")?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = namespace
            .enter(move || {
                prepare()?;
                command.spawn().context("spawning")
            })?
            .with_context(|| format!("starting {name} in `{}`", namespace.label()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            ended: None,
            folder,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds all it wrote.
    #[must_use]
    pub fn log_path(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// All it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines it wrote, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// Waits until a line holds `needle`, and hands that line back.
    ///
    /// # Errors
    /// If none does within the time, or the process ends first; the message has the end of the log.
    pub fn wait_line(&mut self, needle: &str, within: Duration) -> Result<String> {
        self.wait_log(needle, within, |log| {
            log.lines()
                .find(|line| line.contains(needle))
                .map(ToOwned::to_owned)
        })
    }

    /// Waits until `find` finds what it looks for in the log. `what` names it in messages.
    ///
    /// # Errors
    /// If it does not within the time, or the process ends first; the message has the end of the log.
    pub fn wait_log<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let found = poll::until(within, || {
            // First whether it lives, then what it wrote: the last words of one that ended still count.
            let ended = self.status();
            match (find(&self.log()), ended) {
                (Some(found), _) => Some(Ok(found)),
                (None, Some(status)) => Some(Err(status)),
                (None, None) => None,
            }
        });
        match found {
            Some(Ok(found)) => Ok(found),
            Some(Err(status)) => {
                bail!(
                    "{} ended ({status}) before its log showed `{what}`:\n{}",
                    self.name,
                    self.tail()
                )
            }
            None => bail!(
                "{} did not log `{what}` within {within:?}:\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.status() {
            bail!("{} has ended already ({status}):\n{}", self.name, self.tail());
        }
        let pid = i32::try_from(self.child.id()).context("a process id beyond its range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(0)));
        }
        self.ended
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs when the time is over.
    pub fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        match poll::until(within, || self.status()) {
            Some(status) => Ok(status),
            None => bail!("{} still runs after {within:?}:\n{}", self.name, self.tail()),
        }
    }

    /// Ends it as Ctrl-C does, and waits for its end.
    ///
    /// # Errors
    /// If it has ended already or does not end in time.
    pub fn interrupt(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGINT)?;
        self.wait_exit(within)
    }

    /// The folder its log is in, for other files of the same life.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
