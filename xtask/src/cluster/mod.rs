//! A Kubernetes control plane for tests: a real etcd and a real API server, in a namespace of their own.
//!
//! There are no nodes, no kubelets and no controllers. What they would write, a test writes ([`Cluster::put`],
//! [`Cluster::put_manifest`]: with status, as they do), and what a kubelet would start, [`container`] starts as the API
//! server's own copy of the pod template says.
//!
//! Ports are fixed, as the namespace is its own; [`Cluster::join`] lays a cable to whoever must reach the API server at
//! [`API_V4`].

pub mod caps;
pub mod container;
pub mod objects;
pub mod rest;
mod rootfs;
pub mod seccomp;
mod template;
pub mod tools;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::netns::{Namespace, veth};
use crate::process::Process;
use crate::{poll, rights};
use rest::Response;
use tools::{Crds, Tools};

/// The API server's address, once [`Cluster::join`] has laid a cable.
pub const API_V4: &str = "10.100.0.1";
/// The API server's port.
pub const API_PORT: u16 = 6443;

/// Where `kubectl proxy` listens, on the control plane's loopback.
const PROXY_PORT: u16 = 8001;
/// Where etcd's clients come, on the control plane's loopback.
const ETCD_PORT: u16 = 2379;

/// How long a server may take to be ready: 3 s on an idle machine.
const START: Duration = Duration::from_secs(180);

/// A control plane. Its processes end and its files go with it.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they have to end.
    proxy: Process,
    api: Process,
    etcd: Process,
    /// The machine that the servers and `kubectl` run on.
    pub control: Namespace,
    cables: AtomicU8,
    tools: Tools,
    folder: TempDir,
}

impl Cluster {
    /// Starts one, without CRDs, and waits until it serves. There are the namespaces `default` and `kube-system`, fit for pods.
    ///
    /// # Errors
    /// If a program is missing (`cargo xtask setup`), or does not get ready. This needs root.
    pub fn start() -> Result<Self> {
        rights::require_root()?;
        let tools = Tools::find()?;
        let folder = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir()
            .context("a folder for a cluster")?;
        let control = Namespace::new("control-plane")?;
        control.address("lo", &format!("{API_V4}/32"))?;
        let token = secret()?;
        files(folder.path(), &token)?;
        let etcd = etcd(&control, &tools, folder.path())?;
        let mut api = api(&control, &tools, folder.path())?;
        let proxy = proxy(&control, &tools, folder.path(), &mut api)?;
        let mut cluster = Self {
            proxy,
            api,
            etcd,
            control,
            cables: AtomicU8::new(0),
            tools,
            folder,
        };
        cluster.ready()?;
        for namespace in ["default", "kube-system"] {
            cluster.furnish(namespace)?;
        }
        Ok(cluster)
    }

    /// Waits until the API server is ready and answers the administrator.
    fn ready(&mut self) -> Result<()> {
        let ready = poll::until(START, || {
            let ended = self.api.status();
            let answer = |path| self.get(path).is_ok_and(|answer| answer.status == 200);
            if answer("/readyz") && answer("/api/v1/namespaces/kube-system") {
                return Some(Ok(()));
            }
            ended.map(Err)
        });
        match ready {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => bail!("kube-apiserver ended ({status}):\n{}", self.api.tail()),
            None => bail!(
                "kube-apiserver is not ready after {START:?}:\n{}",
                self.api.tail()
            ),
        }
    }

    /// Lays a cable from the control plane to `peer`, whose end is called `device`: from there, and from whoever `peer` forwards
    /// for, [`API_V4`] can be reached. The first peer is the control plane's way to everything else.
    ///
    /// # Errors
    /// If the device's name is taken there.
    pub fn join(&self, peer: &Namespace, device: &str) -> Result<()> {
        let number = self.cables.fetch_add(1, Ordering::SeqCst);
        let ours = format!("cable{number}");
        veth((&self.control, &ours), (peer, device))?;
        let (left, right) = (format!("10.101.{number}.1"), format!("10.101.{number}.2"));
        self.control.address(&ours, &format!("{left}/30"))?;
        peer.address(device, &format!("{right}/30"))?;
        peer.route(&format!("{API_V4}/32"), &left)?;
        if number == 0 {
            self.control.route("default", &right)?;
        }
        Ok(())
    }

    /// One request to the API server as its administrator. `kind` is the content type of `body`.
    ///
    /// # Errors
    /// If there is no answer at all; a refusal is one, and so is the 500 that stands for a dead server.
    pub fn request(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Response> {
        rest::request(&self.control, PROXY_PORT, method, path, kind, body)
    }

    /// A GET as the administrator.
    ///
    /// # Errors
    /// If there is no answer at all.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.request("GET", path, "application/json", "")
    }

    /// Writes an object, and its status if it has one, as the controller or kubelet that owns it would. Hands back the object as the
    /// server has it.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn put(&self, object: &Value) -> Result<Value> {
        let path = objects::path(object)?;
        let write = |path: &str, kind: &str, body: &Value| {
            self.request("PATCH", path, kind, &body.to_string())?
                .granted()
                .with_context(|| format!("writing {path}"))
        };
        let mut desired = object.clone();
        let status = desired.as_object_mut().and_then(|fields| fields.remove("status"));
        let apply = format!("{path}?fieldManager=lab&force=true");
        let written = write(&apply, "application/apply-patch+yaml", &desired)?;
        match status {
            // Not server-side apply: it takes a Node's addresses for a map by their type.
            Some(status) => write(
                &format!("{path}/status"),
                "application/merge-patch+json",
                &json!({"status": status}),
            ),
            None => Ok(written),
        }
    }

    /// Writes every object of a manifest as [`Cluster::put`] does.
    ///
    /// # Errors
    /// If `kubectl` cannot read it, or the server refuses one.
    pub fn put_manifest(&self, yaml: &str) -> Result<()> {
        let args = [
            "create",
            "--dry-run=client",
            "--validate=false",
            "-o",
            "json",
            "-f",
            "-",
        ];
        let printed = succeeded(&args, self.kubectl_with(&args, yaml)?)?;
        for value in serde_json::Deserializer::from_str(&printed).into_iter::<Value>() {
            let value = value.context("reading what kubectl printed")?;
            match value.get("items").and_then(Value::as_array) {
                Some(items) => items.iter().try_for_each(|item| self.put(item).map(|_| ()))?,
                None => self.put(&value).map(|_| ())?,
            }
        }
        Ok(())
    }

    /// Deletes an object at once, without a grace period.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let path = format!("{}?gracePeriodSeconds=0", objects::path(object)?);
        self.request("DELETE", &path, "application/json", "")?
            .granted()
            .map(|_| ())
            .with_context(|| format!("deleting {path}"))
    }

    /// Makes a namespace, and puts into it what controllers would ([`Cluster::furnish`]).
    ///
    /// # Errors
    /// If the server refuses.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
        self.furnish(name)
    }

    /// Puts the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt` into a namespace: without the former it takes no pods,
    /// without the latter their tokens lack the CA.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn furnish(&self, namespace: &str) -> Result<()> {
        self.put(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace},
        }))?;
        self.put(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": namespace},
            "data": {"ca.crt": self.ca()?},
        }))?;
        Ok(())
    }

    /// Installs a project's CRDs with `kubectl apply`, and waits until they are served.
    ///
    /// # Errors
    /// If the server refuses them.
    pub fn install(&self, crds: Crds) -> Result<()> {
        let path = crds.path();
        if !path.is_file() {
            bail!("no CRDs at {}: run `cargo xtask setup`", path.display());
        }
        let path = path.display().to_string();
        // Server-side: some are longer than the annotation that a client-side apply leaves.
        self.kubectl(&["apply", "--server-side", "-f", &path])?;
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ])
        .map(|_| ())
    }

    /// `kubectl ARGS…` as the administrator, on the control plane's machine; its standard output.
    ///
    /// # Errors
    /// If it fails; the message has what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        succeeded(args, self.kubectl_with(args, "")?)
    }

    /// The same with something on standard input, and whatever came of it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn kubectl_with(&self, args: &[&str], stdin: &str) -> Result<Output> {
        let mut command = self.kubectl_command();
        command.args(args);
        self.control.enter(|| feed(&mut command, stdin))?
    }

    /// A `kubectl` with the administrator's rights and a cache of its own, for [`Process::spawn`].
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        kubectl(&self.tools, self.folder.path())
    }

    /// `kubectl apply -f -`, as a user types it.
    ///
    /// # Errors
    /// If it fails; the message has what it said.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let args = ["apply", "-f", "-"];
        succeeded(&args, self.kubectl_with(&args, yaml)?)
    }

    /// The administrator's kubeconfig. Its server is [`API_V4`].
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// A kubeconfig for a ServiceAccount, with a token of an hour.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn kubeconfig(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let path = self
            .folder
            .path()
            .join(format!("{namespace}.{account}.kubeconfig"));
        write_kubeconfig(
            &path,
            &self.folder.path().join("pki"),
            &self.token(namespace, account)?,
        )?;
        Ok(path)
    }

    /// A token of an hour for a ServiceAccount, from the TokenRequest API.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let ask = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        });
        let token = self
            .request("POST", &path, "application/json", &ask.to_string())?
            .granted()
            .with_context(|| format!("a token for {namespace}/{account}"))?;
        token
            .pointer("/status/token")
            .and_then(Value::as_str)
            .map(ToOwned::to_owned)
            .context("the server granted a token request without a token")
    }

    /// The certificate that clients check the API server's against, in PEM.
    ///
    /// # Errors
    /// If it has none yet.
    pub fn ca(&self) -> Result<String> {
        let path = self.folder.path().join("pki/apiserver.crt");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// A path for a file that goes with the cluster.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Kills the API server (SIGKILL): connections break, and nobody listens. SIGTERM would be no outage: the old process serves its
    /// watches for up to a minute.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn stop_hard(&mut self) -> Result<()> {
        self.api.signal(Signal::SIGKILL)?;
        self.api.wait_exit(START).map(|_| ())
    }

    /// Stops the API server in its tracks (SIGSTOP): connections stay, and nothing comes over them.
    ///
    /// # Errors
    /// If it has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.api.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen API server go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.api.signal(Signal::SIGCONT)
    }

    /// Starts the API server again, killing it first if it runs, and waits until it serves.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn restart(&mut self) -> Result<()> {
        if self.api.status().is_none() {
            self.stop_hard()?;
        }
        self.api = api(&self.control, &self.tools, self.folder.path())?;
        self.ready()
    }

    /// Makes etcd forget all history up to now. With the API server's own cache gone ([`Cluster::restart`]), a watch from before
    /// is answered 410 Gone.
    ///
    /// # Errors
    /// If etcd refuses.
    pub fn compact(&self) -> Result<()> {
        let ask = |path: &str, body: &Value| {
            rest::request(
                &self.control,
                ETCD_PORT,
                "POST",
                path,
                "application/json",
                &body.to_string(),
            )?
            .granted()
            .context("asking etcd")
        };
        // One key that does not exist: the answer's header has the revision. Keys are in base64.
        let now = ask("/v3/kv/range", &json!({"key": "AA=="}))?;
        let revision = now.pointer("/header/revision").context("etcd told no revision")?;
        ask(
            "/v3/kv/compaction",
            &json!({"revision": revision, "physical": true}),
        )
        .map(|_| ())
    }

    /// The API server's memory in use now, in bytes.
    ///
    /// # Errors
    /// If it has ended.
    pub fn api_rss(&self) -> Result<u64> {
        crate::process::rss(self.api.pid())
    }

    /// The last lines of the API server's log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.api.tail()
    }

    /// The last lines of the logs of all three processes.
    #[must_use]
    pub fn tails(&self) -> String {
        let logs = [
            ("etcd", &self.etcd),
            ("kube-apiserver", &self.api),
            ("kubectl proxy", &self.proxy),
        ];
        logs.map(|(name, process)| format!("---- {name}\n{}", process.tail()))
            .join("\n")
    }
}

/// Keys, tokens and the administrator's kubeconfig.
fn files(folder: &Path, token: &str) -> Result<()> {
    let pki = folder.join("pki");
    for sub in ["pki", "home", "etcd"] {
        let path = folder.join(sub);
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
    }
    let key = pki.join("sa.key");
    let made = Command::new("openssl")
        .args(["genrsa", "-out"])
        .arg(&key)
        .arg("2048")
        .output()
        .context("starting openssl, which makes the key of ServiceAccount tokens")?;
    if !made.status.success() {
        bail!(
            "openssl made no key: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        );
    }
    let tokens = format!("{token},admin,admin,\"system:masters\"\n");
    let path = folder.join("tokens.csv");
    fs::write(&path, tokens).with_context(|| format!("writing {}", path.display()))?;
    write_kubeconfig(&folder.join("admin.kubeconfig"), &pki, token)
}

/// Names the CA by its path: the API server makes it when it first starts.
fn write_kubeconfig(path: &Path, pki: &Path, token: &str) -> Result<()> {
    let ca = pki.join("apiserver.crt");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{API_V4}:{API_PORT}"), "certificate-authority": ca,
        }}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    });
    fs::write(path, text.to_string()).with_context(|| format!("writing {}", path.display()))
}

/// A word that nobody guesses.
fn secret() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path)
        .with_context(|| format!("reading {path}"))?
        .trim()
        .to_owned())
}

fn etcd(control: &Namespace, tools: &Tools, folder: &Path) -> Result<Process> {
    let mut command = Command::new(tools.program("etcd"));
    let client = format!("http://127.0.0.1:{ETCD_PORT}");
    let peer = "http://127.0.0.1:2380";
    command
        .arg(option("--data-dir", folder.join("etcd")))
        .arg(option("--listen-client-urls", &client))
        .arg(option("--advertise-client-urls", &client))
        .arg(option("--listen-peer-urls", peer))
        .arg(option("--initial-advertise-peer-urls", peer))
        .arg(option("--initial-cluster", format!("default={peer}")))
        // The data is not to outlive the test.
        .arg("--unsafe-no-fsync")
        .arg("--logger=zap");
    Process::spawn(control, "etcd", command)
}

fn api(control: &Namespace, tools: &Tools, folder: &Path) -> Result<Process> {
    let pki = folder.join("pki");
    let mut command = Command::new(tools.program("kube-apiserver"));
    command
        .arg(option("--etcd-servers", format!("http://127.0.0.1:{ETCD_PORT}")))
        .arg(option("--secure-port", API_PORT.to_string()))
        .arg("--bind-address=0.0.0.0")
        .arg(option("--advertise-address", API_V4))
        .arg(option("--cert-dir", &pki))
        .arg(option("--service-account-key-file", pki.join("sa.key")))
        .arg(option("--service-account-signing-key-file", pki.join("sa.key")))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg("--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112")
        .arg("--authorization-mode=Node,RBAC")
        .arg(option("--token-auth-file", folder.join("tokens.csv")));
    Process::spawn(control, "kube-apiserver", command)
}

fn proxy(control: &Namespace, tools: &Tools, folder: &Path, api: &mut Process) -> Result<Process> {
    let mut command = kubectl(tools, folder);
    // It reads the CA when it starts; the API server writes it within its first second.
    let ca = folder.join("pki/apiserver.crt");
    poll::until(START, || (ca.is_file() || api.status().is_some()).then_some(()));
    if !ca.is_file() {
        bail!(
            "kube-apiserver made no certificate at {}:\n{}",
            ca.display(),
            api.tail()
        );
    }
    command.args(["proxy", &format!("--port={PROXY_PORT}"), "--reject-paths=^$"]);
    Process::spawn(control, "kubectl proxy", command)
}

fn kubectl(tools: &Tools, folder: &Path) -> Command {
    let mut command = Command::new(tools.program("kubectl"));
    command
        .env("KUBECONFIG", folder.join("admin.kubeconfig"))
        // It caches what a server offers by address, and all labs have the same.
        .env("HOME", folder.join("home"));
    command
}

fn option(name: &str, value: impl AsRef<OsStr>) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(name);
    text.push("=");
    text.push(value.as_ref());
    text
}

fn succeeded(args: &[&str], output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "`kubectl {}` ended with {}: {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end with `stdin` as its input.
fn feed(command: &mut Command, stdin: &str) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that does not read to the end says so itself.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    child
        .wait_with_output()
        .with_context(|| format!("waiting for {program}"))
}
