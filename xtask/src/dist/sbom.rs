//! The bill of materials: CycloneDX 1.6 as JSON, from what cargo says. Pure.
//!
//! Written here and not by `cargo cyclonedx`: what is wanted is a hundred lines, that program would have to be built first, and it
//! knows nothing of the eBPF object, whose crates are in the agent too. There is no time and no serial number in it, which the
//! specification leaves open: the same sources give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A crate that is in the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    /// An SPDX expression.
    pub(super) licence: Option<String>,
    pub(super) authors: Vec<String>,
    pub(super) repository: Option<String>,
    /// Of its archive, as the registry has it; none for our own.
    pub(super) sha256: Option<String>,
    /// Where its sources are.
    pub(super) folder: PathBuf,
    /// What it stands on, as `name version`, of those that are in the program.
    pub(super) needs: BTreeSet<(String, String)>,
}

/// What is linked into the program and is no crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// An SPDX expression.
    pub(super) licence: &'static str,
    pub(super) authors: &'static str,
    pub(super) source: &'static str,
}

/// The crates that `cargo tree` names (a line each: `name vVERSION …`), with what `cargo metadata` and the lock file know of them.
pub(super) fn crates(tree: &str, metadata: &Value, lock: &str) -> Result<Vec<Crate>> {
    let named: BTreeSet<(String, String)> = tree.lines().filter_map(named).collect();
    let sums = checksums(lock);
    let mut ids = BTreeMap::new();
    for package in list(metadata, "/packages") {
        let key = (text(package, "/name"), text(package, "/version"));
        ids.insert(text(package, "/id"), key);
    }
    let mut edges: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for node in list(metadata, "/resolve/nodes") {
        let Some(key) = ids.get(&text(node, "/id")) else {
            continue;
        };
        let needs = list(node, "/dependencies")
            .iter()
            .filter_map(|id| ids.get(id.as_str()?));
        let needs = needs.filter(|key| named.contains(*key)).cloned();
        edges.entry(key.clone()).or_default().extend(needs);
    }
    let packages: BTreeMap<_, _> = list(metadata, "/packages")
        .iter()
        .map(|package| ((text(package, "/name"), text(package, "/version")), package))
        .collect();
    named
        .iter()
        .map(|key| {
            let (name, version) = key;
            let package = packages
                .get(key)
                .with_context(|| format!("{name} {version} is unknown to `cargo metadata`"))?;
            let some = |pointer| Some(text(package, pointer)).filter(|text| !text.is_empty());
            let authors = list(package, "/authors").iter().filter_map(Value::as_str);
            let mut folder = PathBuf::from(text(package, "/manifest_path"));
            folder.pop();
            Ok(Crate {
                name: name.clone(),
                version: version.clone(),
                licence: some("/license"),
                authors: authors.map(str::to_owned).collect(),
                repository: some("/repository"),
                sha256: sums.get(key).cloned(),
                folder,
                needs: edges.get(key).cloned().unwrap_or_default(),
            })
        })
        .collect()
}

/// Name and version of a line of `cargo tree`.
fn named(line: &str) -> Option<(String, String)> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?);
    Some((name.to_owned(), version.strip_prefix('v')?.to_owned()))
}

/// The hashes in a lock file. Its form is fixed: a line for each key, `name`, `version` and `checksum` in that order.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) = (value("name"), value("version"), value("checksum")) {
            found.insert((name, version), sum);
        }
    }
    found
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// The document. `object` is the digest of the eBPF object inside, `sha256:…`.
pub(super) fn document(version: &str, object: &str, crates: &[Crate], linked: &[Linked]) -> Value {
    let reference = |name: &str, version: &str| format!("pkg:cargo/{name}@{version}");
    let own = reference("gwfilter", version);
    let components: Vec<Value> = crates
        .iter()
        .filter(|found| found.name != "gwfilter")
        .map(|found| {
            let purl = reference(&found.name, &found.version);
            let mut component = json!({
                "type": "library", "bom-ref": purl, "purl": purl, "name": found.name, "version": found.version, "scope": "required",
            });
            let mut set = |key: &str, value: Option<Value>| {
                if let (Some(object), Some(value)) = (component.as_object_mut(), value) {
                    object.insert(key.to_owned(), value);
                }
            };
            // The old way to write `OR`, which is no SPDX expression.
            let licence = found.licence.as_ref().map(|licence| licence.replace('/', " OR "));
            set("licenses", licence.map(|licence| json!([{"expression": licence}])));
            set("hashes", found.sha256.as_ref().map(|sum| json!([{"alg": "SHA-256", "content": sum}])));
            let vcs = |url: &String| json!([{"type": "vcs", "url": url}]);
            set("externalReferences", found.repository.as_ref().map(vcs));
            component
        })
        .collect();
    let ebpf = "file:gwfilter.bpf.o";
    let sum = object.trim_start_matches("sha256:");
    let file = json!({
        "type": "file", "bom-ref": ebpf, "name": "gwfilter.bpf.o", "version": version,
        "hashes": [{"alg": "SHA-256", "content": sum}],
        "description": "the eBPF object inside the program",
    });
    let libraries = linked.iter().map(|library| {
        let purl = format!("pkg:generic/{}@{}", library.name, library.version);
        json!({
            "type": "library", "bom-ref": purl, "purl": purl, "name": library.name, "version": library.version, "scope": "required",
            "licenses": [{"expression": library.licence}],
            "externalReferences": [{"type": "website", "url": library.source}],
        })
    });
    let libraries: Vec<Value> = libraries.collect();
    let mut dependencies: Vec<Value> = crates
        .iter()
        .map(|found| {
            let mut needs: Vec<String> = found
                .needs
                .iter()
                .map(|(name, version)| reference(name, version))
                .collect();
            let name = reference(&found.name, &found.version);
            if name == own {
                needs.push(ebpf.to_owned());
                needs.extend(libraries.iter().map(|library| text(library, "/bom-ref")));
            }
            json!({"ref": name, "dependsOn": needs})
        })
        .collect();
    dependencies.push(json!({"ref": ebpf, "dependsOn": [reference("gwfilter-ebpf", version)]}));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": own, "purl": own, "name": "gwfilter", "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": components.into_iter().chain([file]).chain(libraries.iter().cloned()).collect::<Vec<_>>(),
        "dependencies": dependencies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_says_then_the_crates_of_the_tree_alone_with_hash_and_needs() {
        let tree = "gwfilter v1.0.0 (/src/gwfilter)\na v0.1.0\nb v2.0.0 (proc-macro)\n\na v0.1.0 (*)\n";
        let package = |name: &str, version: &str| {
            json!({"id": format!("{name}-id"), "name": name, "version": version, "license": "MIT/Apache-2.0",
                "authors": ["A <a@example.com>", "B"], "repository": null, "manifest_path": format!("/registry/{name}/Cargo.toml")})
        };
        let metadata = json!({
            "packages": [package("gwfilter", "1.0.0"), package("a", "0.1.0"), package("b", "2.0.0"), package("tests", "9.0.0")],
            "resolve": {"nodes": [
                {"id": "gwfilter-id", "dependencies": ["a-id", "tests-id"]},
                {"id": "a-id", "dependencies": ["b-id"]},
            ]},
        });
        let lock = "[[package]]\nname = \"a\"\nversion = \"0.1.0\"\nsource = \"registry\"\nchecksum = \"00ff\"\n\n\
            [[package]]\nname = \"gwfilter\"\nversion = \"1.0.0\"\n";
        let crates = crates(tree, &metadata, lock).unwrap();
        let names: Vec<_> = crates.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "gwfilter"]);
        assert_eq!(crates[0].sha256.as_deref(), Some("00ff"));
        assert_eq!(crates[0].authors, ["A <a@example.com>", "B"]);
        assert_eq!(crates[0].folder, PathBuf::from("/registry/a"));
        assert_eq!(
            crates[2].needs,
            BTreeSet::from([("a".to_owned(), "0.1.0".to_owned())])
        );

        let libc = Linked {
            name: "glibc",
            version: "2.36".to_owned(),
            licence: "LGPL-2.1-or-later",
            authors: "its authors",
            source: "https://libc.example",
        };
        let document = document("1.0.0", "sha256:abcd", &crates, &[libc]);
        assert_eq!(document["components"][3]["purl"], "pkg:generic/glibc@2.36");
        let own = list(&document, "/dependencies")
            .iter()
            .find(|edge| edge["ref"] == "pkg:cargo/gwfilter@1.0.0")
            .unwrap();
        assert_eq!(
            own["dependsOn"],
            json!([
                "pkg:cargo/a@0.1.0",
                "file:gwfilter.bpf.o",
                "pkg:generic/glibc@2.36"
            ])
        );
        assert_eq!(document["components"][0]["purl"], "pkg:cargo/a@0.1.0");
        assert_eq!(
            document["components"][0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(document["components"][2]["hashes"][0]["content"], "abcd");
        assert_eq!(document["metadata"]["component"]["version"], "1.0.0");
        let references: BTreeSet<_> = list(&document, "/components")
            .iter()
            .chain([&document["metadata"]["component"]])
            .map(|component| text(component, "/bom-ref"))
            .collect();
        assert!(super::crates("unknown v1.0.0\n", &metadata, lock).is_err());
        for edge in list(&document, "/dependencies") {
            // The crate of the object is not in this small tree.
            let needs = list(edge, "/dependsOn").iter().filter_map(Value::as_str);
            for name in needs.filter(|name| !name.contains("gwfilter-ebpf")) {
                assert!(references.contains(name), "{name}");
            }
        }
    }
}
