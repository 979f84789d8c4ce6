//! Where things are: the workspace, its target folder, and what xtask keeps there.

use std::path::PathBuf;

/// The workspace's root. Right in xtask itself and in the tests of every crate that lies directly below the root.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), PathBuf::from)
}

/// The target folder: `CARGO_TARGET_DIR` where it is set, else `target` in the workspace.
#[must_use]
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The eBPF object that `gwfilter/build.rs` embeds.
#[must_use]
pub fn ebpf_object() -> PathBuf {
    target().join("bpf/gwfilter")
}

/// The hash of the sources the object was built from, beside it.
#[must_use]
pub fn ebpf_stamp() -> PathBuf {
    target().join("bpf/gwfilter.sources")
}

/// Where `setup` keeps the Envoy binaries, one folder a version.
#[must_use]
pub fn envoy() -> PathBuf {
    target().join("envoy")
}

/// The container image that `cargo xtask image` writes.
#[must_use]
pub fn image() -> PathBuf {
    target().join("image/gwfilter.oci.tar")
}

/// The folder that `cargo xtask dist` writes to.
#[must_use]
pub fn dist() -> PathBuf {
    target().join("dist")
}

/// The image that tests run, which may be of an agent that is not for nodes: not where somebody takes one from to publish it.
#[must_use]
pub fn tested_image() -> PathBuf {
    target().join("tested/gwfilter.oci.tar")
}

/// The folder of the archives that tests look at, which may hold a program that is not for users.
#[must_use]
pub fn tested_dist() -> PathBuf {
    target().join("tested/dist")
}

/// Where `setup` keeps Prometheus and promtool, where the machine has none.
#[must_use]
pub fn prometheus() -> PathBuf {
    target().join("tools/prometheus")
}

/// Where `setup` keeps the Kubernetes programs and CRDs.
#[must_use]
pub fn kube() -> PathBuf {
    target().join("tools/kube")
}
