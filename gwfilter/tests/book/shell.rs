//! One `bash` that types a page, at a desk with a copy of what the page reads.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use xtask::netns::Namespace;

use crate::page::{self, How, Step};

/// How long a step may take. The slowest wait for a line that comes every 30 s.
const LIMIT: Duration = Duration::from_secs(90);

/// The folder that a page is typed in: a copy of `deploy`, so that a checkout stays as it is.
#[derive(Debug)]
pub(crate) struct Desk {
    folder: TempDir,
}

impl Desk {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("book-").tempdir()?;
        for sub in ["bin", "tmp", "disk"] {
            fs::create_dir(folder.path().join(sub))?;
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gwfilter"), folder.path().join("bin/gwfilter"))?;
        let desk = Self { folder };
        copy(&xtask::paths::root().join("deploy"), &desk.at().join("deploy"))?;
        Ok(desk)
    }

    /// The root of the repository, as the page has it.
    pub(crate) fn at(&self) -> PathBuf {
        self.folder.path().join("gwfilter")
    }

    /// A path for a file that no page sees.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Covers folders of the machine with empty ones, for `machine` alone.
    pub(crate) fn cover(&self, machine: &Namespace, folders: &[&str]) -> Result<()> {
        machine.enter(|| {
            for &folder in folders {
                let none = None::<&str>;
                mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), none)
                    .with_context(|| format!("covering {folder}"))?;
            }
            Ok(())
        })?
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        if entry.is_dir() {
            copy(&entry, &to)?;
        } else {
            fs::copy(&entry, &to).with_context(|| format!("copying {}", entry.display()))?;
        }
    }
    Ok(())
}

/// The shell. It ends when dropped, with all that it has started.
#[derive(Debug)]
pub(crate) struct Shell {
    bash: Child,
    printed: mpsc::Receiver<String>,
    script: PathBuf,
}

impl Shell {
    /// Starts one on `machine`. `path` are folders that its `PATH` begins with, behind the one with `gwfilter`.
    pub(crate) fn start(machine: &Namespace, desk: &Desk, path: &[&Path]) -> Result<Self> {
        let mut folders = vec![desk.file("bin")];
        folders.extend(path.iter().map(|&folder| folder.to_owned()));
        folders.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let (reader, writer) = std::io::pipe().context("a pipe")?;
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc"])
            .current_dir(desk.at())
            .env("PATH", std::env::join_paths(folders)?)
            .env("TMPDIR", desk.file("tmp"))
            .env("HOME", desk.file("tmp"))
            .env("KUBECONFIG", desk.file("kubeconfig"))
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().context("a second handle on a pipe")?)
            .stderr(writer)
            .process_group(0);
        let bash = machine.enter(move || command.spawn())?.context("starting bash")?;
        let (lines, printed) = mpsc::channel();
        // It ends with the last process that has the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            bash,
            printed,
            script: desk.file("step.sh"),
        })
    }

    /// Follows a page. `provide` says what stands in a provided step's place.
    pub(crate) fn follow(
        &mut self,
        page: &str,
        provide: &mut dyn FnMut(&str) -> Result<String>,
    ) -> Result<()> {
        for step in page::read(page)? {
            self.step(&step, provide)
                .with_context(|| format!("docs/book/src/{page}, step {}", step.name))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, provide: &mut dyn FnMut(&str) -> Result<String>) -> Result<()> {
        let provided;
        let commands = match step.how {
            How::Shown => return Ok(()),
            How::Typed => &step.commands,
            How::Provided => {
                provided = provide(&step.name)?;
                &provided
            }
        };
        let printed = self.run(commands)?;
        match step.lacks(&printed) {
            Some((number, line)) if step.how == How::Typed => bail!(
                "line {number} of the page is not in what the step printed, or not in this place:\n  {line}\nprinted:\n{}",
                shown(&printed)
            ),
            _ => Ok(()),
        }
    }

    /// Runs commands in this shell; what they printed.
    fn run(&mut self, commands: &str) -> Result<Vec<String>> {
        const END: &str = "---- end of the step";
        fs::write(&self.script, commands).context("writing a step")?;
        let line = format!(
            ". {} < /dev/null\nprintf '\\n%s\\n' '{END}'\n",
            self.script.display()
        );
        let stdin = self.bash.stdin.as_mut().context("the shell takes no input")?;
        stdin.write_all(line.as_bytes()).context("the shell has ended")?;
        let deadline = Instant::now() + LIMIT * xtask::poll::patience();
        let mut printed = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.printed.recv_timeout(left) {
                Ok(line) if line == END => return Ok(printed),
                Ok(line) => printed.push(line),
                Err(_) => bail!("it did not end within {LIMIT:?}; printed:\n{}", shown(&printed)),
            }
        }
    }
}

/// The last lines, each set in.
fn shown(printed: &[String]) -> String {
    let from = printed.len().saturating_sub(60);
    let lines = printed.iter().skip(from).map(|line| format!("  | {line}\n"));
    lines.collect()
}

impl Drop for Shell {
    fn drop(&mut self) {
        // What a step left in the background is of the same group.
        if let Ok(pid) = i32::try_from(self.bash.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.bash.wait();
    }
}
