//! What a DaemonSet's controller and a node's kubelet do: a pod from the template, and its container as a process.
//!
//! The template is read from the API server, and the pod goes there before anything starts, so what runs is what a user's
//! cluster would run: admitted, defaulted, with the token volume that admission adds. A seccomp profile of the node's is read from
//! the node's disk, as the kubelet does, and installed. Left out are what needs a kubelet's surroundings: the image, cgroups, the runtime's
//! own seccomp profile and a process namespace.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::caps::Capabilities;
use super::rootfs::{Bind, Root};
use super::seccomp::{self, Profile};
use super::template::{self, Mount, Probe, Projection, Rights, Volume};
use super::{API_PORT, API_V4, Cluster, objects};
use crate::http::{self, Answer};
use crate::netns::Namespace;
use crate::process::Process;

/// The machine that a pod runs on.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The Node's name.
    pub name: &'a str,
    /// Its first address.
    pub address: &'a str,
    /// Its network, `/sys` and bpffs.
    pub namespace: &'a Namespace,
    /// The folder that stands for its disk: a hostPath is looked for there, but for those below `/sys`.
    pub disk: &'a Path,
}

/// A container of a DaemonSet.
#[derive(Clone, Copy, Debug)]
pub struct Which<'a> {
    /// The DaemonSet's namespace.
    pub namespace: &'a str,
    /// The DaemonSet's name.
    pub name: &'a str,
    /// The container's name.
    pub container: &'a str,
}

/// What stands in the image's place.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// A binary of this machine; it sees this machine's libraries, read-only, and nothing else.
    Binary(&'a Path),
    /// An unpacked image, and the path of the binary in it.
    Image(&'a Path, &'a str),
}

/// A running container.
#[derive(Debug)]
pub struct Container {
    /// The process itself.
    pub process: Process,
    /// The pod, as the API server had it when the container started.
    pub pod: Value,
    readiness: Option<Probe>,
    liveness: Option<Probe>,
    recipe: Recipe,
    _files: TempDir,
}

/// All that it takes to start the container's process, the API server aside.
#[derive(Clone, Debug)]
struct Recipe {
    name: String,
    root: Root,
    words: Vec<String>,
    env: BTreeMap<String, String>,
    rights: Rights,
    seccomp: Option<Profile>,
}

impl Recipe {
    fn start(&self, namespace: &Namespace) -> Result<Process> {
        let (first, rest) = self
            .words
            .split_first()
            .context("a container without a command")?;
        let mut command = Command::new(first);
        command.args(rest).env_clear().envs(&self.env);
        if let Some(profile) = &self.seccomp {
            if !self.rights.no_new_privileges {
                bail!("a seccomp profile without no_new_privs is not known here");
            }
            profile.confine(&mut command);
        }
        Process::spawn_prepared(namespace, &self.name, command, || {
            self.root.enter()?;
            self.rights.capabilities.confine()?;
            if self.rights.no_new_privileges {
                nix::sys::prctl::set_no_new_privs().context("setting no_new_privs")?;
            }
            Ok(())
        })
    }
}

impl Container {
    /// The pod's name.
    #[must_use]
    pub fn pod_name(&self) -> &str {
        self.pod
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The capabilities that the template grants.
    #[must_use]
    pub fn granted(&self) -> Capabilities {
        self.recipe.rights.capabilities
    }

    /// Starts the process again as the kubelet does after its end, in the same pod, with the same volumes and token: the API server
    /// is not asked. One that still runs is killed first.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self, host: &Host<'_>) -> Result<()> {
        if self.process.status().is_none() {
            self.process.signal(Signal::SIGKILL)?;
            self.process.wait_exit(Duration::from_secs(10))?;
        }
        self.process = self.recipe.start(host.namespace)?;
        Ok(())
    }

    /// A line of `/proc/PID/status`: `CapEff`, `CapBnd`, `NoNewPrivs`….
    ///
    /// # Errors
    /// If the process is gone, or there is no such line.
    pub fn status(&self, line: &str) -> Result<String> {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        status
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("{path} has no line {line}"))
    }

    /// Asks as the kubelet does whether it is ready, from the node.
    ///
    /// # Errors
    /// If it has no readiness probe.
    pub fn ready(&self, host: &Host<'_>) -> Result<Answer> {
        ask(
            host,
            self.readiness
                .as_ref()
                .context("the container has no readiness probe")?,
        )
    }

    /// Asks as the kubelet does whether it lives, from the node.
    ///
    /// # Errors
    /// If it has no liveness probe.
    pub fn alive(&self, host: &Host<'_>) -> Result<Answer> {
        ask(
            host,
            self.liveness
                .as_ref()
                .context("the container has no liveness probe")?,
        )
    }
}

fn ask(host: &Host<'_>, probe: &Probe) -> Result<Answer> {
    let address = probe.host.as_deref().unwrap_or(host.address);
    let to = SocketAddr::new(
        address.parse().with_context(|| format!("probe of `{address}`"))?,
        probe.port,
    );
    Ok(http::get_path(
        host.namespace,
        to,
        &probe.path,
        Duration::from_secs(2),
    ))
}

impl Cluster {
    /// Makes a pod from a DaemonSet's template, as its controller does, and starts its container on `host`, as the kubelet does.
    ///
    /// # Errors
    /// If the server refuses the pod, the template asks for something that is not known here, or nothing can be started.
    pub fn run_daemonset_container(
        &self,
        host: &Host<'_>,
        which: &Which<'_>,
        program: Program<'_>,
    ) -> Result<Container> {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"namespace": which.namespace, "name": which.name},
        });
        let set = self
            .get(&objects::path(&set)?)?
            .granted()
            .context("reading the DaemonSet")?;
        let pod = self.schedule(&set, which, host)?;
        let read = template::read(&pod, which.container, (API_V4, API_PORT))
            .with_context(|| format!("the pod of {}/{}", which.namespace, which.name))?;
        let files = tempfile::Builder::new()
            .prefix("container-")
            .tempdir()
            .context("a folder for a container")?;
        let (mut binds, entry) = image(program)?;
        for (number, mount) in read.mounts.iter().enumerate() {
            let own = files.path().join(format!("volume-{number}"));
            binds.push(self.volume(mount, own, &pod, host)?);
        }
        let at = files.path().join("root");
        fs::create_dir(&at).with_context(|| format!("creating {}", at.display()))?;
        let mut words = if read.command.is_empty() {
            vec![entry]
        } else {
            read.command
        };
        words.extend(read.args);
        let seccomp = match &read.rights.seccomp {
            Some(path) => Some(Profile::load(&host.disk.join(seccomp::FOLDER).join(path))?),
            None => None,
        };
        let recipe = Recipe {
            name: which.container.to_owned(),
            root: Root {
                at,
                binds,
                read_only: read.rights.read_only_root,
            },
            words,
            env: read.env,
            rights: read.rights,
            seccomp,
        };
        Ok(Container {
            process: recipe.start(host.namespace)?,
            pod,
            readiness: read.readiness,
            liveness: read.liveness,
            recipe,
            _files: files,
        })
    }

    /// The pod that the DaemonSet's controller would make for that node, admitted.
    fn schedule(&self, set: &Value, which: &Which<'_>, host: &Host<'_>) -> Result<Value> {
        let part = |pointer: &str| {
            set.pointer(pointer)
                .cloned()
                .with_context(|| format!("the DaemonSet has no {pointer}"))
        };
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": part("/spec/template/metadata")?, "spec": part("/spec/template/spec")?,
        });
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": which.name, "uid": part("/metadata/uid")?,
            "controller": true, "blockOwnerDeletion": true,
        }]);
        for (pointer, value) in [
            ("/metadata", ("generateName", json!(format!("{}-", which.name)))),
            ("/metadata", ("ownerReferences", owner)),
            ("/spec", ("nodeName", json!(host.name))),
        ] {
            if let Some(Value::Object(map)) = pod.pointer_mut(pointer) {
                map.insert(value.0.to_owned(), value.1);
            }
        }
        let pods = format!("/api/v1/namespaces/{}/pods", which.namespace);
        let made = self
            .request("POST", &pods, "application/json", &pod.to_string())?
            .granted()
            .context("making the DaemonSet's pod")?;
        let name = made.pointer("/metadata/name").and_then(Value::as_str);
        let path = format!("{pods}/{}/status", name.context("a pod without a name")?);
        let ips = json!([{"ip": host.address}]);
        let status = json!({"status": {
            "phase": "Running", "hostIP": host.address, "hostIPs": ips, "podIP": host.address, "podIPs": ips,
        }});
        self.request(
            "PATCH",
            &path,
            "application/merge-patch+json",
            &status.to_string(),
        )?
        .granted()
        .context("writing the pod's addresses")
    }

    /// Fills a volume, and says what is to be mounted where.
    fn volume(&self, mount: &Mount, own: PathBuf, pod: &Value, host: &Host<'_>) -> Result<Bind> {
        let from = match &mount.volume {
            Volume::HostPath { path, .. } if path.starts_with("/sys/") => PathBuf::from(path),
            Volume::HostPath { path, make } => {
                let path = host.disk.join(path.trim_start_matches('/'));
                if *make {
                    fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
                } else if !path.is_dir() {
                    bail!("the node has no folder {}", path.display());
                }
                path
            }
            Volume::Empty => {
                fs::create_dir(&own).with_context(|| format!("creating {}", own.display()))?;
                own
            }
            Volume::Projected(files) => {
                fs::create_dir(&own).with_context(|| format!("creating {}", own.display()))?;
                for file in files {
                    let (name, text) = self.projected(file, pod)?;
                    let path = own.join(name);
                    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                        .with_context(|| format!("closing {}", path.display()))?;
                }
                own
            }
        };
        Ok(Bind {
            from,
            to: PathBuf::from(&mount.at),
            read_only: mount.read_only,
        })
    }

    /// Name and content of a projected file.
    fn projected(&self, file: &Projection, pod: &Value) -> Result<(String, String)> {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let namespace = text("/metadata/namespace");
        match file {
            Projection::Text { path, text } => Ok((path.clone(), text.clone())),
            Projection::ConfigKey { path, map, key } => {
                let map = self
                    .get(&format!("/api/v1/namespaces/{namespace}/configmaps/{map}"))?
                    .granted()
                    .with_context(|| format!("ConfigMap {namespace}/{map}"))?;
                let value = map.get("data").and_then(|data| data.get(key)?.as_str());
                Ok((
                    path.clone(),
                    value
                        .with_context(|| format!("no key {key} in {map}"))?
                        .to_owned(),
                ))
            }
            Projection::Token {
                path,
                seconds,
                audience,
            } => {
                let account = text("/spec/serviceAccountName");
                let url = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
                let audiences: Vec<&str> = audience.as_deref().into_iter().collect();
                let ask = json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                    "spec": {
                        "expirationSeconds": seconds, "audiences": audiences,
                        "boundObjectRef": {
                            "apiVersion": "v1", "kind": "Pod",
                            "name": text("/metadata/name"), "uid": text("/metadata/uid"),
                        },
                    },
                });
                let token = self
                    .request("POST", &url, "application/json", &ask.to_string())?
                    .granted()
                    .with_context(|| format!("a token for {namespace}/{account}"))?;
                let token = token.pointer("/status/token").and_then(Value::as_str);
                Ok((path.clone(), token.context("no token in the answer")?.to_owned()))
            }
        }
    }
}

/// Where a binary of this machine is seen in its container.
const ENTRY: &str = "/gwfilter";

/// The folders of the image, and the entry point's path there.
fn image(program: Program<'_>) -> Result<(Vec<Bind>, String)> {
    match program {
        Program::Binary(path) => {
            let mut binds: Vec<Bind> = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
                .map(Path::new)
                .into_iter()
                .filter(|folder| folder.exists())
                .map(|folder| Bind {
                    from: folder.to_owned(),
                    to: folder.to_owned(),
                    read_only: true,
                })
                .collect();
            binds.push(Bind {
                from: path.to_owned(),
                to: PathBuf::from(ENTRY),
                read_only: true,
            });
            Ok((binds, ENTRY.to_owned()))
        }
        Program::Image(folder, entry) => {
            let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
            let mut binds = Vec::new();
            for found in entries {
                let found = found.context("reading an image's folder")?;
                binds.push(Bind {
                    from: found.path(),
                    to: Path::new("/").join(found.file_name()),
                    read_only: true,
                });
            }
            Ok((binds, entry.to_owned()))
        }
    }
}
