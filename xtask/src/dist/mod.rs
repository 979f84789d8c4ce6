//! `dist`: what a user downloads. An archive with the static program, completions, manual pages, manifests and notices; the chart; a
//! bill of materials; and the hashes of them all.
//!
//! The same sources with the same compiler give the same bytes, as for the image, whose program this is. There is no debug file: the
//! program's lines would have to be linked a second time, and the image's program has none.

mod notices;
mod sbom;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use xtask::archive::{self, Entry};
use xtask::cluster::tools::Tools;
use xtask::{oci, paths};

use crate::build_ebpf;
use crate::image::{LICENCES, static_binary};
use crate::progress;
use crate::run::{cargo, output, read, say, which};

/// What `dist` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Folder for the archives; the default is target/dist, and target/tested/dist with --as-tested.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With the program as the tests are built, in seconds instead of minutes: less optimised, and not for users.
    #[arg(long)]
    as_tested: bool,
}

impl Options {
    /// The archive that tests look at.
    pub(crate) fn for_tests(as_tested: bool) -> Self {
        Self {
            out: Some(paths::tested_dist()),
            as_tested,
        }
    }
}

/// Overlays of `deploy/`, and the base.
const MANIFESTS: [(&str, &str); 4] = [
    ("gwfilter.yaml", "base"),
    ("gwfilter-observe.yaml", "overlays/observe"),
    ("gwfilter-gke.yaml", "overlays/gke"),
    ("gwfilter-seccomp.yaml", "overlays/seccomp"),
];

/// Where each shell looks for completions below `share`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/gwfilter"),
    ("zsh", "zsh/site-functions/_gwfilter"),
    ("fish", "fish/vendor_completions.d/gwfilter.fish"),
];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The file with the licences of what is inside.
pub(crate) const NOTICES: &str = "THIRD-PARTY.txt";

/// What [`NOTICES`] has to say of the program.
pub(crate) fn notices() -> Result<String> {
    notices::text(&crates()?, &linked()?)
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let place = if options.as_tested {
        paths::tested_dist
    } else {
        paths::dist
    };
    let out = options.out.clone().unwrap_or_else(place);
    let binary = static_binary(options.as_tested)?;
    let (crates, linked) = (crates()?, linked()?);

    let mut tree = program(&binary)?;
    tree.extend(texts()?);
    for (file, folder) in MANIFESTS {
        tree.insert(format!("manifests/{file}"), Entry::text(rendered(folder)?));
    }
    let seccomp = "deploy/seccomp/gwfilter.json";
    tree.insert(
        "manifests/seccomp-gwfilter.json".to_owned(),
        Entry::text(bytes(seccomp)?),
    );
    tree.insert(NOTICES.to_owned(), Entry::text(notices::text(&crates, &linked)?));
    let object = oci::digest(&fs::read(paths::ebpf_object()).context("reading the eBPF object")?);
    let bill = serde_json::to_string_pretty(&sbom::document(VERSION, &object, &crates, &linked))
        .context("writing JSON")?
        + "\n";
    tree.insert("gwfilter.cdx.json".to_owned(), Entry::text(bill.clone()));
    let sums = sums(tree.iter().filter_map(|(path, entry)| match entry {
        Entry::File { bytes, .. } => Some((path.as_str(), bytes.as_slice())),
        Entry::Link(_) => None,
    }));
    tree.insert("SHA256SUMS".to_owned(), Entry::text(sums));

    let name = format!(
        "gwfilter-{VERSION}-linux-{}",
        oci::architecture(std::env::consts::ARCH)
    );
    let step = progress::step("packing the archives");
    let files = BTreeMap::from([
        (format!("{name}.tar.gz"), packed(&name, tree)?),
        (
            format!("gwfilter-chart-{VERSION}.tgz"),
            packed("gwfilter", chart()?)?,
        ),
        (format!("{name}.cdx.json"), bill.into_bytes()),
    ]);
    drop(step);
    write(&out, &files)
}

/// Writes the files and their hashes; what an earlier run left there goes, so that the hashes are of all there is.
fn write(out: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    if out.exists() {
        let ours = fs::read_dir(out).with_context(|| format!("listing {}", out.display()))?;
        for entry in ours.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("gwfilter-") || name == "SHA256SUMS" {
                fs::remove_file(entry.path())
                    .with_context(|| format!("removing {}", entry.path().display()))?;
            }
        }
    }
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    for (name, bytes) in files {
        let path = out.join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        say(format_args!(
            "dist: {}  {} bytes  {}",
            path.display(),
            bytes.len(),
            oci::digest(bytes)
        ));
    }
    let path = out.join("SHA256SUMS");
    let all = sums(
        files
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice())),
    );
    fs::write(&path, all).with_context(|| format!("writing {}", path.display()))?;
    say(format_args!("dist: {}", path.display()));
    Ok(())
}

/// As `sha256sum` writes it.
fn sums<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    files
        .map(|(name, bytes)| format!("{}  {name}\n", oci::digest(bytes).trim_start_matches("sha256:")))
        .collect()
}

/// A compressed tar with everything below one folder.
fn packed(folder: &str, tree: BTreeMap<String, Entry>) -> Result<Vec<u8>> {
    let entries = tree
        .into_iter()
        .map(|(path, entry)| (format!("{folder}/{path}"), entry));
    let mut tar = Vec::new();
    archive::tar(&entries.collect(), &mut tar)?;
    archive::gzip(&tar)
}

/// The program, under its second name too, and what it says of itself: completions and manual pages.
fn program(binary: &Path) -> Result<BTreeMap<String, Entry>> {
    let agent = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let file = Entry::File {
        mode: 0o755,
        bytes: agent,
    };
    let mut tree = BTreeMap::from([
        ("bin/gwfilter".to_owned(), file),
        // kubectl finds a plugin by its name.
        (
            "bin/kubectl-gwfilter".to_owned(),
            Entry::Link("gwfilter".to_owned()),
        ),
    ]);
    for (shell, place) in COMPLETIONS {
        let script = read(Command::new(binary).args(["completions", shell]))?;
        tree.insert(format!("share/{place}"), Entry::text(script));
    }
    let pages = tempfile::tempdir().context("a folder for the manual pages")?;
    read(Command::new(binary).args([OsStr::new("man"), OsStr::new("--dir"), pages.path().as_os_str()]))?;
    for (name, page) in files(pages.path())? {
        tree.insert(format!("share/man/man1/{name}"), Entry::text(page));
    }
    Ok(tree)
}

/// Our own texts.
fn texts() -> Result<BTreeMap<String, Entry>> {
    let mut tree = BTreeMap::from([(
        "README.md".to_owned(),
        Entry::text(README.replace("VERSION", VERSION)),
    )]);
    for name in LICENCES.into_iter().chain(["CHANGELOG.md"]) {
        tree.insert(name.to_owned(), Entry::text(bytes(name)?));
    }
    Ok(tree)
}

/// The chart's files, as `helm package` would pack them, but that its archive differs each time.
fn chart() -> Result<BTreeMap<String, Entry>> {
    let chart = files(&paths::root().join("deploy/chart/gwfilter"))?;
    ensure!(chart.contains_key("Chart.yaml"), "the chart has no Chart.yaml");
    let entries = chart.into_iter().map(|(path, bytes)| (path, Entry::text(bytes)));
    Ok(entries.collect())
}

/// What `kubectl apply -k` of the folder would apply.
fn rendered(folder: &str) -> Result<String> {
    let kubectl = Tools::find().map(|tools| tools.program("kubectl")).ok();
    let kubectl = kubectl
        .or_else(|| which("kubectl"))
        .context("no kubectl, which renders the manifests: run `cargo xtask setup`")?;
    read(
        Command::new(kubectl)
            .arg("kustomize")
            .arg(paths::root().join("deploy").join(folder)),
    )
}

/// The files of a folder and of those below it, by their path from there.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            let inner = files(&path)?;
            found.extend(
                inner
                    .into_iter()
                    .map(|(file, bytes)| (format!("{name}/{file}"), bytes)),
            );
        } else {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            found.insert(name, bytes);
        }
    }
    Ok(found)
}

/// A file of the workspace.
fn bytes(path: &str) -> Result<Vec<u8>> {
    let path = paths::root().join(path);
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// The crates that the program and the eBPF object inside are made of: which ones is what `cargo tree` says, since it knows each
/// one's features; what they are is what `cargo metadata` says.
fn crates() -> Result<Vec<sbom::Crate>> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut names = Vec::new();
    for (package, target) in [("gwfilter", host.as_str()), ("gwfilter-ebpf", build_ebpf::TARGET)] {
        let mut command = cargo();
        command.args(["tree", "--locked", "--package", package, "--target", target]);
        names.push(read(
            command.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]),
        )?);
    }
    let mut command = cargo();
    command.args(["metadata", "--locked", "--format-version", "1"]);
    // Else it would fetch what is only built on systems that are not these.
    command.args([
        "--filter-platform",
        &host,
        "--filter-platform",
        build_ebpf::TARGET,
    ]);
    let output = output(&mut command)?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata = serde_json::from_slice(&output.stdout).context("reading `cargo metadata`")?;
    let lock = String::from_utf8(bytes("Cargo.lock")?).context("reading Cargo.lock")?;
    sbom::crates(&names.concat(), &metadata, &lock)
}

/// What else is in a program that is linked statically: Rust's standard library, and the machine's C library.
fn linked() -> Result<[sbom::Linked; 2]> {
    let libc = read(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let rustc = read(Command::new("rustc").current_dir(paths::root()).arg("--version"))?;
    let second = |text: &str| text.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    Ok([
        sbom::Linked {
            name: "glibc",
            version: second(&libc),
            licence: "LGPL-2.1-or-later",
            authors: "the Free Software Foundation and others",
            source: "https://sourceware.org/glibc/",
        },
        sbom::Linked {
            name: "rust-std",
            version: second(&rustc),
            licence: "MIT OR Apache-2.0",
            authors: "the Rust Project contributors",
            source: "https://github.com/rust-lang/rust",
        },
    ])
}

/// The text for who unpacks the archive.
const README: &str = "\
# gwfilter VERSION

Drops at a node's network card what the Istio ingress gateway would refuse by client address.

| here | what |
|---|---|
| `bin/gwfilter` | the program, static: agent and command line |
| `bin/kubectl-gwfilter` | the same; on the `PATH` it is `kubectl gwfilter` |
| `share/` | completions of bash, zsh and fish, and manual pages, where packages put them |
| `manifests/gwfilter.yaml` | the DaemonSet with all it needs; `-observe`: drops nothing; `-gke`, `-seccomp`: for those who need it. Set the image first |
| `gwfilter.cdx.json` | bill of materials (CycloneDX) |
| `LICENSE-*`, `THIRD-PARTY.txt` | our licences, and those of what is inside |
| `SHA256SUMS` | `sha256sum -c SHA256SUMS` |

```console
$ sudo cp -a bin/. /usr/local/bin/ && sudo cp -a share/. /usr/local/share/
$ gwfilter version
$ gwfilter check --from manifests-of-yours/
```

Nothing is enforced before `gwfilter run`; begin with `--observe`.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_chart_packed_twice_then_the_same_bytes() {
        let pack = || packed("x", texts().unwrap()).unwrap();
        assert_eq!(pack(), pack());
        let chart = || packed("gwfilter", chart().unwrap()).unwrap();
        assert_eq!(chart(), chart());
    }

    #[test]
    fn hashes_then_as_sha256sum_writes_them() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sums([("a/b", &b""[..])].into_iter()), format!("{empty}  a/b\n"));
    }

    #[test]
    fn folder_written_again_then_nothing_of_before_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        fs::write(out.join("gwfilter-0.0.1.tar.gz"), "old").unwrap();
        fs::write(out.join("somebody-elses"), "kept").unwrap();
        write(
            out,
            &BTreeMap::from([("gwfilter-1.tar.gz".to_owned(), b"new".to_vec())]),
        )
        .unwrap();
        let names: Vec<_> = files(out).unwrap().into_keys().collect();
        assert_eq!(names, ["SHA256SUMS", "gwfilter-1.tar.gz", "somebody-elses"]);
    }

    #[test]
    fn this_workspace_then_its_crates_have_licences_hashes_and_notices() {
        let crates = crates().unwrap();
        let find = |name: &str| crates.iter().find(|found| found.name == name);
        assert!(find("gwfilter").is_some() && find("aya-ebpf").is_some() && find("tokio").is_some());
        assert!(find("insta").is_none(), "tests are not in the program");
        for found in &crates {
            assert!(found.licence.is_some(), "{found:?}");
            assert_eq!(
                found.sha256.is_some(),
                !found.name.starts_with("gwfilter"),
                "{found:?}"
            );
        }
        let text = notices::text(&crates, &linked().unwrap()).unwrap();
        assert!(text.contains("glibc 2.") && text.contains("LGPL"));
        assert!(text.contains("tokio ") && text.contains("Permission is hereby granted"));
        // Each is above a text, also whose archive has none.
        let above = |name: &str| {
            text.lines()
                .filter(|line| line.starts_with(&format!("{name} ")))
                .count()
        };
        for found in crates.iter().filter(|found| found.sha256.is_some()) {
            assert!(above(&found.name) > 0, "{}", found.name);
        }
        assert!(text.contains("GNU LESSER GENERAL PUBLIC LICENSE") && above("glibc") == 2);
    }
}
