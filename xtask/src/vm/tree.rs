//! What a guest's root file system holds: programs of this machine with the libraries they ask for, and kernel modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cpio::{File, Tree};
use crate::run::{read, which};

/// Adds a file under a path of the guest.
pub(crate) fn put(tree: &mut Tree, path: impl AsRef<Path>, mode: u32, bytes: impl Into<Vec<u8>>) {
    let path = path.as_ref().to_string_lossy();
    let file = File {
        mode,
        bytes: bytes.into(),
    };
    tree.insert(path.trim_start_matches('/').to_owned(), file);
}

/// Adds a program of our own under the path it has here, without its debug lines.
pub(crate) fn program(tree: &mut Tree, path: &Path) -> Result<()> {
    let scratch = tempfile::NamedTempFile::new().context("a scratch file")?;
    read(Command::new("strip").arg("-o").arg(scratch.path()).arg(path))
        .with_context(|| format!("stripping {}", path.display()))?;
    let bytes = fs::read(scratch.path()).with_context(|| format!("reading {}", path.display()))?;
    put(tree, path, 0o755, bytes);
    libraries(tree, path)
}

/// Adds a program of the machine, by its name.
pub(crate) fn tool(tree: &mut Tree, name: &str) -> Result<()> {
    let path = which(name)
        .or_else(|| which(&format!("../sbin/{name}")))
        .with_context(|| format!("there is no `{name}` here"))?;
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    put(tree, Path::new("usr/bin").join(name), 0o755, bytes);
    libraries(tree, &path)
}

/// The shared libraries that a program asks for, and the loader that finds them, at the places where they are here.
fn libraries(tree: &mut Tree, program: &Path) -> Result<()> {
    let told = read(Command::new("ldd").arg(program))
        .with_context(|| format!("asking for the libraries of {}", program.display()))?;
    for library in named_by(&told)? {
        let bytes = fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
        put(tree, library, 0o755, bytes);
    }
    Ok(())
}

/// Reads `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn named_by(ldd: &str) -> Result<BTreeSet<PathBuf>> {
    if let Some(missing) = ldd.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", missing.trim());
    }
    Ok(ldd
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

/// Adds modules with those that they stand on; their paths, in an order in which they can be loaded. A module that the kernel does
/// not have is built in, or is not there at all: then what needs it fails, and says so.
pub(crate) fn modules(tree: &mut Tree, folder: &Path, names: &[&str]) -> Result<Vec<String>> {
    let all = files(folder)?;
    let mut loaded = Vec::new();
    for name in names {
        module(tree, &all, name, &mut loaded)?;
    }
    Ok(loaded)
}

fn module(tree: &mut Tree, all: &[PathBuf], name: &str, loaded: &mut Vec<String>) -> Result<()> {
    let place = format!("/lib/modules/{name}.ko");
    if loaded.contains(&place) {
        return Ok(());
    }
    let Some(path) = all.iter().find(|path| module_name(path).as_deref() == Some(name)) else {
        return Ok(());
    };
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => unpacked("xz", path)?,
        Some("zst") => unpacked("zstd", path)?,
        _ => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
    };
    for other in depends(&bytes) {
        module(tree, all, &other, loaded)?;
    }
    put(tree, &place, 0o644, bytes);
    loaded.push(place);
    Ok(())
}

fn unpacked(program: &str, path: &Path) -> Result<Vec<u8>> {
    let output = crate::run::output(Command::new(program).args(["-dc"]).arg(path))?;
    if !output.status.success() {
        bail!("`{program} -dc {}` ended with {}", path.display(), output.status);
    }
    Ok(output.stdout)
}

/// The name the kernel has for it: without its folder and endings, and with underscores.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// The modules that a module stands on: the string `depends=a,b` that the kernel's build leaves in each.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module.get(start + KEY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("listing {}", folder.display()))?
            .path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_says_then_the_paths_in_it() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let paths: Vec<PathBuf> = named_by(said).unwrap().into_iter().collect();
        assert_eq!(
            paths,
            ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert!(named_by("\tstatically linked\n").unwrap().is_empty());
        named_by("\tlibx.so => not found\n").unwrap_err();
    }

    #[test]
    fn a_module_then_its_name_and_what_it_stands_on() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(
            name("net/sched/sch_ingress.ko.xz").as_deref(),
            Some("sch_ingress")
        );
        assert_eq!(name("x/nf-tables.ko").as_deref(), Some("nf_tables"));
        assert_eq!(name("x/modules.order"), None);
        assert_eq!(
            depends(b"..\0license=GPL\0depends=nf-tables,x\0name=y\0"),
            ["nf_tables", "x"]
        );
        assert!(depends(b"\0depends=\0").is_empty());
        assert!(depends(b"").is_empty());
    }
}
