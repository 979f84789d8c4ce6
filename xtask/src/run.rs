//! Running other programs: said before, checked after, and free of the outer cargo's environment.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::progress;

/// One line for the person who watches. A closed pipe is no reason to stop.
pub(crate) fn say(line: impl Display) {
    progress::aside(|| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    });
}

/// The command as a person would type it (environment changes first).
pub(crate) fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            text.push_str(&format!("{}={} ", key.display(), quoted(value)));
        }
    }
    text.push_str(&quoted(command.get_program()));
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&quoted(arg));
    }
    text
}

/// Quoted for a shell where that is needed.
fn quoted(word: &OsStr) -> String {
    // Cargo's encoded flags are separated by a control character.
    let word = word.to_string_lossy().replace('\u{1f}', " ");
    if !word.is_empty()
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c))
    {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Says the command, runs it with our own output, and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(format_args!("$ {}", shown(command)));
    let _step = (!speaks(command)).then(|| progress::step(shown(command)));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Whether the program shows by itself how far it is.
fn speaks(command: &Command) -> bool {
    let quiet = command.get_args().any(|arg| arg == "--quiet" || arg == "-qq");
    let program = std::path::Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    !quiet && ["cargo", "apt-get"].iter().any(|name| program == *name)
}

/// Runs the command quietly and hands back its standard output; its error output goes into the error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the command quietly and hands back all it said, however it ended.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let _step = progress::step(shown(command));
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))
}

/// A `cargo` of the workspace's toolchain, in the workspace's folder, with the environment of one that is typed.
///
/// `cargo xtask` is a `cargo run`, which tells the program about its own package. Some build scripts (ring's) ask to be run again when
/// that changes: everything above them would be built anew each time that `cargo xtask` follows a typed cargo, and the reverse.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(xtask::paths::root());
    for (key, _) in std::env::vars_os().filter(|(key, _)| tells_of_a_package(&key.to_string_lossy())) {
        command.env_remove(&key);
    }
    command
}

/// What `gwfilter/build.rs` takes the commit from.
pub(crate) const COMMIT: &str = "GWFILTER_COMMIT";

/// The commit that is checked out, with `-dirty` behind it where files differ from it; empty outside a checkout.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        read(command.current_dir(xtask::paths::root()).args(args))
    };
    let Ok(head) = git(&["rev-parse", "HEAD"]) else {
        return String::new();
    };
    let clean =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|changes| changes.is_empty());
    format!("{}{}", head.trim(), if clean { "" } else { "-dirty" })
}

/// Whether cargo sets the variable for the program of a package.
fn tells_of_a_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&variable)
}

/// Takes away what the outer cargo and rustup put into the environment, so that another toolchain can be run.
///
/// `cargo xtask` runs under rustup's proxy, which sets `RUSTUP_TOOLCHAIN`, `CARGO`, `LD_LIBRARY_PATH` and more:
/// a second toolchain that inherits them mixes two compilers. What a user sets on purpose (registries,
/// proxies, home folders) stays.
pub(crate) fn without_outer_cargo(command: &mut Command) -> &mut Command {
    const KEPT: [&str; 11] = [
        "CARGO_HOME",
        "RUSTUP_HOME",
        "RUSTUP_AUTO",
        "RUSTUP_DIST",
        "RUSTUP_UPDATE",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
        "RUST_BACKTRACE",
        "CARGO_BUILD_JOBS",
    ];
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        let ours = name.starts_with("CARGO") || name.starts_with("RUST") || name == "LD_LIBRARY_PATH";
        if ours && !KEPT.iter().any(|kept| name.starts_with(kept)) {
            command.env_remove(&key);
        }
    }
    command
}

/// Finds a program on `PATH` or in cargo's own `bin` folder.
pub(crate) fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| std::path::PathBuf::from(home).join(".cargo")));
    std::env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_then_whether_it_shows_how_far_it_is() {
        let command = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args);
            speaks(&command)
        };
        assert!(command("cargo", &["build"]) && command("/usr/bin/cargo", &["build"]));
        assert!(command("apt-get", &["-q", "update"]));
        assert!(!command("cargo", &["clippy", "--quiet"]));
        assert!(!command("go", &["build"]) && !command("python3", &["-m", "pip"]));
    }

    #[test]
    fn a_cargo_then_it_hears_nothing_of_the_package_that_starts_it() {
        // Cargo tells a test of its package, as it tells a program.
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some());
        let command = cargo();
        let kept = |name: &str| {
            !command
                .get_envs()
                .any(|(key, value)| key == name && value.is_none())
        };
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR"] {
            assert!(!kept(name), "{name}");
        }
        for name in ["CARGO_TARGET_DIR", "CARGO_HOME", "PATH"] {
            assert!(kept(name), "{name}");
        }
    }
}
