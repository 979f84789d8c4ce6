//! Container images as OCI archives, written without any container tool.
//!
//! An archive is a tar of an image layout: `oci-layout`, `index.json`, and `blobs/sha256/` with one layer, the configuration and the
//! manifest. It is what `ctr images import`, `podman load`, `skopeo copy oci-archive:…` and `kind load image-archive` take.
//!
//! The same input gives the same bytes: entries are sorted, owned by root, and from 1970. What must not be here: how the files
//! come to be.
//!
//! Source: the OCI image specification 1.1, `image-layout.md`, `manifest.md`, `config.md`, `layer.md`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::archive::{self, Entry};

const EPOCH: &str = "1970-01-01T00:00:00Z";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image of one layer.
#[derive(Clone, Debug)]
pub struct Image {
    /// The whole reference, `registry/name:tag`.
    pub reference: String,
    /// The processor, as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// The program that containers start, an absolute path in the image.
    pub entrypoint: String,
    /// The labels `org.opencontainers.image.*`.
    pub labels: BTreeMap<String, String>,
    /// The files by their path from the root, without a leading slash. Their folders are made.
    pub files: BTreeMap<String, Entry>,
}

/// Go's name of a processor that Rust calls `arch`.
#[must_use]
pub fn architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes the archive and returns the digest of the manifest, `sha256:…`: what a registry knows the image by.
///
/// # Errors
/// A path is absolute or too long for a tar header, the reference has no tag, or `out` cannot be written.
pub fn write(image: &Image, out: impl Write) -> Result<String> {
    let (_, tag) = image
        .reference
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .with_context(|| format!("image reference {} has no tag", image.reference))?;
    let mut layer = Vec::new();
    archive::tar(&image.files, &mut layer)?;
    let compressed = archive::gzip(&layer)?;

    let config = bytes(&json!({
        "architecture": image.architecture,
        "config": {
            "Entrypoint": [image.entrypoint],
            "Env": ["PATH=/usr/bin"],
            "Labels": image.labels,
        },
        "created": EPOCH,
        "history": [{"created": EPOCH, "created_by": "cargo xtask image"}],
        "os": "linux",
        "rootfs": {"diff_ids": [digest(&layer)], "type": "layers"},
    }))?;
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &compressed)],
        "annotations": image.labels,
    }))?;
    let mut entry = descriptor(MANIFEST, &manifest);
    if let Some(entry) = entry.as_object_mut() {
        let platform = json!({"architecture": image.architecture, "os": "linux"});
        entry.insert("platform".to_owned(), platform);
        // The first name is containerd's, and whole; the second the specification's.
        let names =
            json!({"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": tag});
        entry.insert("annotations".to_owned(), names);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });

    let mut entries = BTreeMap::from([
        ("index.json".to_owned(), bytes(&index)?),
        (
            "oci-layout".to_owned(),
            bytes(&json!({"imageLayoutVersion": "1.0.0"}))?,
        ),
    ]);
    let name = digest(&manifest);
    for blob in [compressed, config, manifest] {
        entries.insert(format!("blobs/{}", digest(&blob).replace(':', "/")), blob);
    }
    let entries = entries
        .into_iter()
        .map(|(path, bytes)| (path, Entry::File { mode: 0o644, bytes }));
    archive::tar(&entries.collect(), out)?;
    Ok(name)
}

/// `sha256:` and the hash in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

/// `serde_json`'s maps are sorted by key, so equal values give equal bytes.
fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("writing JSON")
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;

    fn image() -> Image {
        let file = |mode, text: &str| Entry::File {
            mode,
            bytes: text.as_bytes().to_vec(),
        };
        Image {
            reference: "registry.example:5000/team/thing:1.2".to_owned(),
            architecture: "amd64".to_owned(),
            entrypoint: "/usr/bin/thing".to_owned(),
            labels: BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1.2".to_owned())]),
            files: BTreeMap::from([
                ("usr/share/doc/thing/LICENSE".to_owned(), file(0o644, "text")),
                ("usr/bin/thing".to_owned(), file(0o755, "program")),
            ]),
        }
    }

    /// (path, kind, mode, mtime, uid) of every entry, in the archive's order, with its content.
    fn entries(archive: &[u8]) -> Vec<(String, EntryType, u32, u64, u64, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                std::io::copy(&mut entry, &mut content).unwrap();
                let header = entry.header();
                (
                    entry.path().unwrap().display().to_string(),
                    header.entry_type(),
                    header.mode().unwrap(),
                    header.mtime().unwrap(),
                    header.uid().unwrap(),
                    content,
                )
            })
            .collect()
    }

    #[test]
    fn layer_then_each_folder_once_before_its_files_from_1970_and_root() {
        let mut layer = Vec::new();
        archive::tar(&image().files, &mut layer).unwrap();
        let names: Vec<_> = entries(&layer)
            .into_iter()
            .map(|(path, kind, mode, mtime, uid, _)| {
                assert_eq!((mtime, uid), (0, 0), "{path}");
                (path, kind, mode)
            })
            .collect();
        let folder = |path: &str| (path.to_owned(), EntryType::Directory, 0o755);
        let file = |path: &str, mode| (path.to_owned(), EntryType::Regular, mode);
        assert_eq!(
            names,
            [
                folder("usr/"),
                folder("usr/bin/"),
                file("usr/bin/thing", 0o755),
                folder("usr/share/"),
                folder("usr/share/doc/"),
                folder("usr/share/doc/thing/"),
                file("usr/share/doc/thing/LICENSE", 0o644),
            ]
        );
    }

    #[test]
    fn archive_then_every_descriptor_names_a_blob_of_that_size_and_hash() {
        let mut archive = Vec::new();
        let digest_of_manifest = write(&image(), &mut archive).unwrap();
        let files: BTreeMap<_, _> = entries(&archive)
            .into_iter()
            .filter(|entry| entry.1 == EntryType::Regular)
            .map(|entry| (entry.0, entry.5))
            .collect();
        for (path, content) in &files {
            if let Some(hash) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(content), format!("sha256:{hash}"));
            }
        }
        let blob = |descriptor: &Value| {
            let name = descriptor["digest"].as_str().unwrap().replace(':', "/");
            let blob = &files[&format!("blobs/{name}")];
            assert_eq!(descriptor["size"], blob.len());
            blob
        };
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();

        assert_eq!(read(&files["oci-layout"]), json!({"imageLayoutVersion": "1.0.0"}));
        let index = read(&files["index.json"]);
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], digest_of_manifest);
        assert_eq!(
            entry["annotations"],
            json!({"io.containerd.image.name": "registry.example:5000/team/thing:1.2",
                "org.opencontainers.image.ref.name": "1.2"})
        );
        let manifest = read(blob(entry));
        let config = read(blob(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/thing"]));
        let mut layer = Vec::new();
        let compressed = blob(&manifest["layers"][0]);
        std::io::copy(
            &mut flate2::read::GzDecoder::new(compressed.as_slice()),
            &mut layer,
        )
        .unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&layer)]));
        assert_eq!(files.len(), 5, "three blobs, the index and the layout");
    }

    #[test]
    fn same_image_twice_then_the_same_bytes() {
        let write_once = || {
            let mut archive = Vec::new();
            let digest = write(&image(), &mut archive).unwrap();
            (digest, archive)
        };
        assert_eq!(write_once(), write_once());
    }

    #[test]
    fn reference_without_tag_or_absolute_path_then_refused() {
        for reference in ["thing", "registry.example:5000/thing"] {
            let image = Image {
                reference: reference.to_owned(),
                ..image()
            };
            assert!(write(&image, std::io::sink()).is_err(), "{reference}");
        }
        let mut image = image();
        let file = image.files["usr/bin/thing"].clone();
        image.files.insert("/etc/passwd".to_owned(), file);
        assert!(write(&image, std::io::sink()).is_err());
    }
}
