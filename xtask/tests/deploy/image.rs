//! The archive of `cargo xtask image`, unpacked as a runtime does, and what is in it run.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::Value;
use xtask::{oci, paths};

use super::objects::{arguments, kustomize};

/// A blob by its descriptor, with size and hash checked.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap();
    let bytes = fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
    assert_eq!(oci::digest(&bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Unpacks the image's root file system into `root` and returns its configuration.
fn unpack(archive: &Path, root: &Path) -> Value {
    let file = File::open(archive)
        .unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask test kube`", archive.display()));
    let layout = tempfile::tempdir().unwrap();
    tar::Archive::new(file).unpack(layout.path()).unwrap();
    let layout = layout.path();
    let index = json(&fs::read(layout.join("index.json")).unwrap());
    let manifest = json(&blob(layout, &index["manifests"][0]));
    let config = json(&blob(layout, &manifest["config"]));
    let mut layer = Vec::new();
    let compressed = blob(layout, &manifest["layers"][0]);
    GzDecoder::new(compressed.as_slice())
        .read_to_end(&mut layer)
        .unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], oci::digest(&layer));
    tar::Archive::new(layer.as_slice()).unpack(root).unwrap();
    config
}

/// Unpacks the image, runs its agent with nothing else around it, and returns what that said.
fn run(arguments: &[&str]) -> String {
    xtask::rights::require_root().unwrap();
    let root = tempfile::tempdir().unwrap();
    let config = unpack(&paths::tested_image(), root.path());
    let entrypoint = config["config"]["Entrypoint"][0].as_str().unwrap();
    let mut command = Command::new("chroot");
    command.arg(root.path()).arg(entrypoint).args(arguments);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn image_unpacked_then_its_agent_runs_where_there_is_nothing_else() {
    let wanted = format!("gwfilter {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]).trim(), wanted);
}

#[test]
fn image_unpacked_then_the_licences_of_all_that_is_in_it_are_there() {
    let root = tempfile::tempdir().unwrap();
    unpack(&paths::tested_image(), root.path());
    let folder = root.path().join("usr/share/doc/gwfilter");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(read("LICENSE-APACHE").contains("Apache License"));
    let others = read("THIRD-PARTY.txt");
    for part in ["tokio ", "aya-ebpf ", "glibc 2.", "Permission is hereby granted"] {
        assert!(others.contains(part), "{part}");
    }
}

#[test]
fn flags_of_the_manifests_then_the_agent_in_the_image_knows_them() {
    let help = run(&["run", "--help"]);
    let objects = kustomize("overlays/observe");
    let unknown: Vec<_> = arguments(&objects)
        .into_iter()
        .filter_map(|word| word.split('=').next()?.strip_prefix("--"))
        .filter(|flag| !help.contains(&format!("--{flag}")))
        .collect();
    assert!(unknown.is_empty(), "no flags of `gwfilter run`: {unknown:?}");
}
