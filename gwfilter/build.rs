//! Puts the eBPF object beside the compiled crate, so that the binary can carry it.
//!
//! The object is made by `cargo xtask build-ebpf`, at `<target dir>/bpf/gwfilter`; `GWFILTER_BPF_OBJECT` names another one. Where
//! there is none, an empty file takes its place and `gwfilter run` says so: host crates compile, and their tests run, without
//! any eBPF toolchain.
//!
//! And what `gwfilter version` says of the build. The commit is what `GWFILTER_COMMIT` names (`cargo xtask build`, `image` and `dist` set
//! it), not what git says here: else each commit would build the crate anew, and a build from an archive of the sources would differ.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    // The pure part alone carries nothing.
    if env::var_os("CARGO_FEATURE_NODE").is_none() {
        return Ok(());
    }
    tell_of_the_build();
    println!("cargo:rerun-if-env-changed=GWFILTER_BPF_OBJECT");
    let out_dir =
        PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?);
    let embedded = out_dir.join("gwfilter.bpf.o");

    if let Some(object) = env::var_os("GWFILTER_BPF_OBJECT") {
        let object = PathBuf::from(object);
        println!("cargo:rerun-if-changed={}", object.display());
        let copied = fs::copy(&object, &embedded);
        return copied.map(drop).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("GWFILTER_BPF_OBJECT: cannot copy {}: {e}", object.display()),
            )
        });
    }

    let folder = target_dir(&out_dir)?.join("bpf");
    // A missing file in rerun-if-changed would rebuild the crate every time, so the folder is watched, and made.
    fs::create_dir_all(&folder)?;
    println!("cargo:rerun-if-changed={}", folder.display());
    let object = folder.join("gwfilter");
    if object.is_file() {
        fs::copy(&object, &embedded)?;
    } else {
        println!(
            "cargo:warning=no eBPF object at {}: `gwfilter run` will not work; `cargo xtask build` makes both",
            object.display()
        );
        fs::write(&embedded, b"")?;
    }
    Ok(())
}

/// Sets what `cli::version` reads with `env!`.
fn tell_of_the_build() {
    println!("cargo:rerun-if-env-changed=GWFILTER_COMMIT");
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let rustc = || {
        let output = Command::new(env::var_os("RUSTC")?)
            .arg("--version")
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    for (name, value) in [
        ("GWFILTER_BUILT_COMMIT", variable("GWFILTER_COMMIT")),
        ("GWFILTER_BUILT_TARGET", variable("TARGET")),
        ("GWFILTER_BUILT_RUSTC", rustc()),
    ] {
        println!(
            "cargo:rustc-env={name}={}",
            value.unwrap_or_else(|| "unknown".to_owned())
        );
    }
}

/// The target directory, from `<target dir>[/<triple>]/<profile>/build/<package>/out`.
fn target_dir(out_dir: &Path) -> io::Result<&Path> {
    let above = out_dir
        .ancestors()
        .nth(4)
        .ok_or_else(|| io::Error::other("OUT_DIR is too short"))?;
    let triple = env::var_os("TARGET").unwrap_or_default();
    if above.file_name() == Some(OsStr::new(&triple)) {
        above
            .parent()
            .ok_or_else(|| io::Error::other("OUT_DIR is too short"))
    } else {
        Ok(above)
    }
}
