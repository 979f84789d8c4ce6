//! What `cargo xtask dist` writes, unpacked and used as its reader would.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use xtask::cluster::tools;
use xtask::paths;

use super::objects::{chart, parse};

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The file of `dist` that ends like this.
#[track_caller]
fn file(end: &str) -> PathBuf {
    let folder = paths::tested_dist();
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask dist`", folder.display()));
    let found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    assert_eq!(found.len(), 1, "{end}: {found:?}");
    found[0].clone()
}

/// The archive, unpacked: the folder to keep and the one inside.
fn unpacked() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("tar")
        .arg("xzf")
        .arg(file(".tar.gz"))
        .arg("-C")
        .arg(folder.path()));
    let inner = fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    (folder, inner)
}

#[test]
fn hashes_of_the_files_and_of_those_in_the_archive_then_right() {
    let (_kept, inside) = unpacked();
    for folder in [paths::tested_dist().as_path(), &inside] {
        let said = run(Command::new("sha256sum")
            .args(["-c", "--strict", "SHA256SUMS"])
            .current_dir(folder));
        assert!(said.lines().count() >= 3, "{said}");
    }
    let listed = fs::read_to_string(inside.join("SHA256SUMS")).unwrap();
    for file in [
        "bin/gwfilter",
        "share/man/man1/gwfilter.1",
        "manifests/gwfilter.yaml",
        "README.md",
        "THIRD-PARTY.txt",
    ] {
        assert!(listed.contains(&format!("  {file}\n")), "{file}");
    }
}

#[test]
fn program_in_an_empty_root_then_it_says_what_it_is() {
    xtask::rights::require_root().unwrap();
    let (_kept, inside) = unpacked();
    let says = |arguments: &[&str]| {
        run(Command::new("chroot")
            .arg(inside.join("bin"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))
    };
    let said = says(&["/gwfilter", "version", "-o", "json"]);
    let version: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let programs = version["object"]["programs"].as_array();
    assert!(programs.is_some_and(|all| all.len() > 3), "{said}");
    assert_ne!(version["commit"], "");
    // By that name it may know other commands.
    let said = says(&["/kubectl-gwfilter", "--version"]);
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}

#[test]
fn bill_of_materials_then_every_crate_that_cargo_names() {
    let bill: Value = serde_json::from_slice(&fs::read(file(".cdx.json")).unwrap()).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"]),
        (&"CycloneDX".into(), &"1.6".into())
    );
    let components = bill["components"].as_array().unwrap();
    let named: BTreeSet<String> = components
        .iter()
        .chain([&bill["metadata"]["component"]])
        .map(|component| {
            format!(
                "{} v{}",
                component["name"].as_str().unwrap(),
                component["version"].as_str().unwrap()
            )
        })
        .collect();
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut wanted = BTreeSet::new();
    for package in ["gwfilter", "gwfilter-ebpf"] {
        let tree = run(Command::new("cargo")
            .current_dir(paths::root())
            .args([
                "tree",
                "--locked",
                "--offline",
                "-p",
                package,
                "--target",
                &target,
            ])
            .args(["-e", "normal", "--prefix", "none"]));
        wanted.extend(tree.lines().filter_map(|line| {
            let mut words = line.split(' ');
            Some(format!("{} {}", words.next()?, words.next()?))
        }));
    }
    assert!(wanted.len() > 100, "{wanted:?}");
    let missing: Vec<_> = wanted.difference(&named).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for component in components
        .iter()
        .filter(|component| component["type"] == "library")
    {
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
}

#[test]
fn chart_from_its_archive_then_what_the_folder_renders() {
    let output = Command::new(tools::helm().unwrap())
        .args(["template", "gwfilter"])
        .arg(file(".tgz"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(parse(&String::from_utf8(output.stdout).unwrap()), chart(&[]));
}

#[test]
fn manifests_and_completions_then_they_are_whole() {
    let (_kept, inside) = unpacked();
    let text =
        |path: &str| fs::read_to_string(inside.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for name in ["gwfilter", "gwfilter-observe", "gwfilter-gke", "gwfilter-seccomp"] {
        let objects = parse(&text(&format!("manifests/{name}.yaml")));
        assert!(
            objects.keys().any(|object| object.starts_with("DaemonSet ")),
            "{name}"
        );
    }
    let script = inside.join("share/bash-completion/completions/gwfilter");
    run(Command::new("bash").arg("-n").arg(script));
    for name in [
        "zsh/site-functions/_gwfilter",
        "fish/vendor_completions.d/gwfilter.fish",
    ] {
        assert!(text(&format!("share/{name}")).contains("explain"), "{name}");
    }
    assert!(Path::new(&inside).ends_with(format!(
        "gwfilter-{}-linux-{}",
        env!("CARGO_PKG_VERSION"),
        xtask::oci::architecture(std::env::consts::ARCH)
    )));
}
