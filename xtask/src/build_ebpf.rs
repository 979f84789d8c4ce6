//! `build-ebpf`: the one builder of the eBPF object.
//!
//! Writes `<target>/bpf/gwfilter` and, beside it, the hash of everything the object is made from: its sources, the
//! manifests, the lock file, the compiler, the linker and the flags. A fresh object is not built again; a stale
//! one is seen by `build`, which refuses it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use xtask::paths;

use crate::run::{run, say};
use crate::toolchain::{self, Compiler};

/// What the eBPF object is built for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Without `--btf` a map that holds maps cannot be created: the kernel wants its inner type from BTF.
const FLAGS: [&str; 2] = ["-Cdebuginfo=2", "-Clink-arg=--btf"];

/// What takes part in the object, relative to the workspace. Folders count with all files in them.
const SOURCES: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "gwfilter-ebpf/Cargo.toml",
    "gwfilter-ebpf/src",
    "gwfilter-common/Cargo.toml",
    "gwfilter-common/src",
];

/// The verb.
pub(crate) fn main() -> Result<()> {
    build_if_stale().map(|_| ())
}

/// Builds the object unless the one that is there was made from these very sources; returns its path.
pub(crate) fn build_if_stale() -> Result<PathBuf> {
    let compiler = Compiler::find()?;
    let linker = toolchain::linker(compiler.llvm)?;
    let wanted = source_hash(&compiler)?;
    let object = paths::ebpf_object();
    if object.is_file() && fs::read_to_string(paths::ebpf_stamp()).is_ok_and(|have| have == wanted) {
        report(&object, "up to date")?;
        return Ok(object);
    }
    say(format_args!("eBPF compiler: {}", compiler.describe()));
    compile(&compiler, &linker)?;
    let built = paths::target().join(format!("ebpf/{TARGET}/release/gwfilter-ebpf"));
    install(&built, &object, &wanted)?;
    report(&object, "built")?;
    Ok(object)
}

/// Whether the object is there and made from the sources as they are now. `Err` says what is wrong with it.
pub(crate) fn require_fresh() -> Result<PathBuf> {
    let object = paths::ebpf_object();
    let size = fs::metadata(&object)
        .with_context(|| {
            format!(
                "no eBPF object at {}: run `cargo xtask build-ebpf`",
                object.display()
            )
        })?
        .len();
    if size == 0 {
        bail!(
            "the eBPF object {} is an empty stub: run `cargo xtask build-ebpf`",
            object.display()
        );
    }
    let stamp = fs::read_to_string(paths::ebpf_stamp()).unwrap_or_default();
    if stamp != source_hash(&Compiler::find()?)? {
        bail!(
            "the eBPF object {} is older than its sources: run `cargo xtask build-ebpf`",
            object.display()
        );
    }
    Ok(object)
}

fn compile(compiler: &Compiler, linker: &Path) -> Result<()> {
    let root = paths::root();
    let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    // Paths end up in the BTF line info: the same sources give the same object in any folder.
    flags.push(format!("--remap-path-prefix={}=", root.display()));
    let mut cargo = compiler.cargo();
    cargo
        .current_dir(&root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "gwfilter-ebpf",
            "-Z",
            "build-std=core",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(paths::target().join("ebpf"));
    run(&mut cargo).context("building the eBPF object")
}

/// Puts the object in place; the stamp goes away first and comes last, so a broken run never looks fresh.
fn install(built: &Path, object: &Path, stamp: &str) -> Result<()> {
    let folder = object.parent().context("the object has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let _ = fs::remove_file(paths::ebpf_stamp());
    let fresh = folder.join("gwfilter.new");
    fs::copy(built, &fresh).with_context(|| format!("copying {}", built.display()))?;
    fs::rename(&fresh, object).with_context(|| format!("replacing {}", object.display()))?;
    fs::write(paths::ebpf_stamp(), stamp).context("writing the source hash")
}

fn report(object: &Path, what: &str) -> Result<()> {
    let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    if bytes.is_empty() {
        bail!("{} is empty", object.display());
    }
    say(format_args!(
        "eBPF object {what}: {}  {} bytes  sha256 {}",
        object.display(),
        bytes.len(),
        hex(&Sha256::digest(&bytes))
    ));
    Ok(())
}

/// One hash over all that the object is made from.
fn source_hash(compiler: &Compiler) -> Result<String> {
    let root = paths::root();
    let mut hash = Sha256::new();
    for part in [compiler.version.as_str(), toolchain::BPF_LINKER, &FLAGS.join(" ")] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for source in SOURCES {
        for file in files_under(&root.join(source))? {
            let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            hash.update(
                file.strip_prefix(&root)
                    .unwrap_or(&file)
                    .to_string_lossy()
                    .as_bytes(),
            );
            hash.update([0]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The file itself, or all files below a folder, in a stable order.
fn files_under(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let listing = fs::read_dir(path).with_context(|| format!("listing {}", path.display()))?;
    for entry in listing {
        files.extend(files_under(&entry?.path())?);
    }
    files.sort();
    Ok(files)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_folder_then_all_of_them_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b", "a", "sub/c"] {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(file, name).expect("written");
        }
        let names: Vec<_> = files_under(folder.path())
            .expect("listed")
            .iter()
            .map(|file| {
                file.strip_prefix(folder.path())
                    .expect("below")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(names, ["a", "b", "sub/c"]);
    }

    #[test]
    fn every_named_source_exists() {
        for source in SOURCES {
            assert!(
                paths::root().join(source).exists(),
                "{source} is hashed but not there"
            );
        }
    }

    #[test]
    fn bytes_then_lower_case_hex() {
        assert_eq!(hex(&[0, 0xab, 0x0f]), "00ab0f");
    }
}
