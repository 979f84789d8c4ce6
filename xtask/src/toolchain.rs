//! The eBPF toolchain: a compiler with unstable features and its own `core` sources, and a linker on the same LLVM.
//!
//! Two ways lead there (both are looked for, the first that is whole is used):
//! - rustup: a nightly toolchain with the component `rust-src`;
//! - Debian: the packages `rustc-web`, `cargo-web` and `rust-web-src`, which live in `/usr/bin` beside rustup's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::run;

/// The release of bpf-linker that is used.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// Clippy of Debian's compiler (package `rust-web-clippy`). By its path: cargo would find rustup's first.
pub(crate) const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// Where a compiler comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A rustup toolchain, by name.
    Rustup(String),
    /// Debian's packages in `/usr/bin`.
    Debian,
}

/// A compiler that can build for `bpfel-unknown-none`.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) origin: Origin,
    /// What `rustc -vV` says, whole: part of the object's source hash.
    pub(crate) version: String,
    /// The LLVM major version, which the linker has to share.
    pub(crate) llvm: u32,
}

impl Compiler {
    /// The first compiler that is whole; else an error that says for each way what is missing.
    pub(crate) fn find() -> Result<Self> {
        let mut missing = Vec::new();
        for (what, found) in [("rustup", Self::rustup()), ("Debian", Self::debian())] {
            match found {
                Ok(compiler) => return Ok(compiler),
                Err(error) => missing.push(format!("  {what}: {error:#}")),
            }
        }
        bail!(
            "no compiler for eBPF here: it takes unstable features and the sources of its own `core`\n{}\n  \
             `cargo xtask setup` installs the Debian way; `rustup toolchain install nightly --component rust-src` the other",
            missing.join("\n")
        )
    }

    /// A rustup nightly with `rust-src`.
    fn rustup() -> Result<Self> {
        let rustup = run::which("rustup").ok_or_else(|| anyhow!("rustup is not installed"))?;
        let list = run::read(Command::new(&rustup).args(["toolchain", "list"]))?;
        let mut reason = anyhow!("no nightly toolchain is installed");
        for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
            if !name.starts_with("nightly") {
                continue;
            }
            let mut rustc = Command::new(&rustup);
            run::without_outer_cargo(&mut rustc).args(["run", name, "rustc"]);
            match Self::probe(Origin::Rustup(name.to_owned()), rustc) {
                Ok(compiler) => return Ok(compiler),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    /// Debian's `rustc-web` family.
    fn debian() -> Result<Self> {
        for (file, package) in [("/usr/bin/rustc", "rustc-web"), ("/usr/bin/cargo", "cargo-web")] {
            if !Path::new(file).exists() {
                bail!("{file} is missing (package {package})");
            }
        }
        let mut rustc = Command::new("/usr/bin/rustc");
        run::without_outer_cargo(&mut rustc);
        Self::probe(Origin::Debian, rustc)
    }

    fn probe(origin: Origin, rustc: Command) -> Result<Self> {
        let program = rustc.get_program().to_owned();
        let args: Vec<_> = rustc.get_args().map(ToOwned::to_owned).collect();
        let ask = |question: &[&str]| {
            let mut command = Command::new(&program);
            run::without_outer_cargo(&mut command).args(&args).args(question);
            run::read(&mut command)
        };
        let version = ask(&["-vV"])?;
        let llvm = llvm_major(&version)
            .with_context(|| format!("`{} -vV` names no LLVM version", program.display()))?;
        if release(&version) < release(concat!("release: ", env!("CARGO_PKG_RUST_VERSION"))) {
            bail!(
                "{} is too old, {} is needed (Debian: the security archive has it)",
                version.lines().next().unwrap_or_default(),
                env!("CARGO_PKG_RUST_VERSION")
            );
        }
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !core.is_file() {
            match &origin {
                Origin::Rustup(name) => bail!(
                    "toolchain {name} has no component rust-src (looked for {}): rustup component add rust-src --toolchain {name}",
                    core.display()
                ),
                Origin::Debian => {
                    bail!(
                        "the sources of `core` are missing (looked for {}; package rust-web-src)",
                        core.display()
                    )
                }
            }
        }
        Ok(Self {
            origin,
            version,
            llvm,
        })
    }

    /// A `cargo` of this compiler, in a clean environment, with unstable features allowed.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match &self.origin {
            Origin::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, "cargo"]);
                command
            }
            Origin::Debian => Command::new("/usr/bin/cargo"),
        };
        run::without_outer_cargo(&mut command);
        // rustup's proxy would look at rust-toolchain.toml; a set RUSTC and toolchain name are stronger.
        match &self.origin {
            Origin::Rustup(name) => command.env("RUSTUP_TOOLCHAIN", name),
            Origin::Debian => command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1"),
        };
        command
    }

    /// Clippy of this compiler, as a command that takes clippy's arguments; `None` where it is not installed.
    pub(crate) fn clippy(&self) -> Option<Command> {
        match &self.origin {
            Origin::Rustup(_) => {
                let mut command = self.cargo();
                command.arg("clippy");
                let there = run::output(self.cargo().args(["clippy", "--version"]));
                there
                    .is_ok_and(|output| output.status.success())
                    .then_some(command)
            }
            Origin::Debian => {
                let mut command = Command::new(DEBIAN_CLIPPY);
                run::without_outer_cargo(&mut command);
                command
                    .env("CARGO", "/usr/bin/cargo")
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1");
                command.arg("clippy");
                Path::new(DEBIAN_CLIPPY).exists().then_some(command)
            }
        }
    }

    /// In a few words, for a person.
    pub(crate) fn describe(&self) -> String {
        let release = self.version.lines().next().unwrap_or_default();
        match &self.origin {
            Origin::Rustup(name) => format!("{release}, rustup {name}, LLVM {}", self.llvm),
            Origin::Debian => format!("{release}, Debian's package, LLVM {}", self.llvm),
        }
    }
}

/// Reads major and minor of the compiler from what `rustc -vV` prints.
fn release(version: &str) -> Option<(u32, u32)> {
    let line = version.lines().find_map(|line| line.strip_prefix("release: "))?;
    let mut parts = line.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Reads the LLVM major from what `rustc -vV` prints.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// Finds bpf-linker and checks that it stands on LLVM `llvm`.
pub(crate) fn linker(llvm: u32) -> Result<PathBuf> {
    let linker = run::which("bpf-linker").ok_or_else(|| {
        anyhow!("bpf-linker is missing: it turns LLVM bitcode into the eBPF object; `cargo xtask setup` installs it")
    })?;
    let version = run::read(Command::new(&linker).arg("--version")).with_context(|| {
        format!(
            "asking {} for its version (`cargo xtask setup` rebuilds it)",
            linker.display()
        )
    })?;
    if version.split_whitespace().nth(1) != Some(BPF_LINKER) {
        bail!(
            "{} is `{}`, wanted is {BPF_LINKER}: `cargo xtask setup` installs it",
            linker.display(),
            version.trim()
        );
    }
    // A linker on another LLVM cannot read the compiler's bitcode and says so in riddles. One that carries its
    // LLVM inside shows none here; then the build itself tells.
    let libraries = run::read(Command::new("ldd").arg(&linker)).unwrap_or_default();
    if let Some(found) = linked_llvm(&libraries)
        && found != llvm
    {
        bail!(
            "{} is built on LLVM {found}, the compiler on LLVM {llvm}: `cargo xtask setup` rebuilds it",
            linker.display()
        );
    }
    Ok(linker)
}

/// The LLVM major a program is linked to, from what `ldd` prints: `libLLVM.so.22.1` or `libLLVM-19.so.1`.
fn linked_llvm(ldd: &str) -> Option<u32> {
    let name = ldd.lines().find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_line_of_rustc_then_its_major() {
        assert_eq!(
            llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
        assert_eq!(llvm_major("LLVM version: \n"), None);
    }

    #[test]
    fn release_line_then_major_and_minor_in_order() {
        assert_eq!(release("rustc x\nrelease: 1.96.0\n"), Some((1, 96)));
        assert_eq!(release("release: 1.97.0-nightly\n"), Some((1, 97)));
        assert!(release("release: 1.85.0") < release("release: 1.95"));
        assert!(release("") < release("release: 1.95"));
    }

    #[test]
    fn library_names_of_ldd_then_the_llvm_major() {
        assert_eq!(
            linked_llvm("\tlibc.so.6 => x\n\tlibLLVM.so.22.1 => /usr/lib/x (0x0)\n"),
            Some(22)
        );
        assert_eq!(linked_llvm("\tlibLLVM-19.so.1 => /usr/lib/x (0x0)\n"), Some(19));
        assert_eq!(linked_llvm("\tlibc.so.6 => x\n"), None);
    }
}
