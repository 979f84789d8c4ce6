//! A real Envoy as the ingress gateway: its listeners as Istio lays them out, with the PROXY protocol's listener filter first where it is
//! asked for, and the RBAC filter that Istio would generate for a policy.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::envoy::{self, Release};
use crate::netns::Namespace;
use crate::poll;
use crate::process::Process;

/// Envoy is slow to start on a busy machine.
const START: Duration = Duration::from_secs(120);

/// A policy with one rule with one source, as [`crate::manifests::ingress_policy`] writes it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `ALLOW` or `DENY`.
    pub action: String,
    /// `ipBlocks` or `remoteIpBlocks`.
    pub field: String,
    /// Addresses and prefixes.
    pub blocks: Vec<String>,
}

/// What a listener does with a connection.
#[derive(Clone, Debug)]
pub enum Serves {
    /// Answers every request with 200 and, as the body, the client's address as it sees it.
    Http,
    /// The same with `numTrustedProxies`: the client's address is in X-Forwarded-For.
    HttpBehind(u32),
    /// The first behind TLS, with a certificate of its own making.
    Https,
    /// Looks at the server name and passes the bytes on, as a Gateway server of mode `PASSTHROUGH`.
    Passthrough(SocketAddr),
    /// Sends back what it gets.
    Echo,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where.
    pub at: SocketAddr,
    /// Each connection must begin with a PROXY header (`gatewayTopology.proxyProtocol: {}`).
    pub proxy_protocol: bool,
    /// What it enforces itself.
    pub policy: Option<Policy>,
    /// What it does.
    pub serves: Serves,
}

impl Listener {
    /// One that answers HTTP.
    #[must_use]
    pub fn http(at: SocketAddr, proxy_protocol: bool) -> Self {
        Self {
            at,
            proxy_protocol,
            policy: None,
            serves: Serves::Http,
        }
    }
}

/// A running Envoy; ended when dropped.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    files: TempDir,
}

/// A running Envoy whose listeners can be changed, as istiod does it: connections of a listener that was replaced are drained.
#[derive(Debug)]
pub struct Changing {
    gateway: Gateway,
    updates: u32,
}

impl Gateway {
    /// Starts the newest supported Envoy in `namespace` and waits until each listener takes connections.
    ///
    /// # Errors
    /// If Envoy is not installed, or does not serve.
    pub fn start(namespace: &Namespace, listeners: &[Listener]) -> Result<Self> {
        let files = tempfile::tempdir().context("a folder for Envoy's configuration")?;
        let built = build_all(listeners, &files)?;
        let clusters: Vec<Value> = listeners.iter().enumerate().filter_map(cluster).collect();
        let resources = json!({"static_resources": {"listeners": built, "clusters": clusters}});
        Self::run(namespace, listeners, files, resources, &[])
    }

    fn run(
        namespace: &Namespace,
        listeners: &[Listener],
        files: TempDir,
        resources: Value,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut config = json!({
            "node": {"id": "gateway", "cluster": "gateway"},
            "layered_runtime": {"layers": [{"name": "static", "static_layer": {
                "overload": {"global_downstream_max_connections": 50000},
            }}]},
        });
        if let (Some(fields), Value::Object(resources)) = (config.as_object_mut(), resources) {
            fields.extend(resources);
        }
        let path = files.path().join("envoy.json");
        fs::write(&path, serde_json::to_vec(&config)?)
            .with_context(|| format!("writing {}", path.display()))?;
        let mut command = Command::new(envoy::binary(Release::Newest)?);
        command.arg("--config-path").arg(&path).args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]);
        command.args(arguments);
        let mut process = Process::spawn(namespace, "Envoy", command)?;
        for listener in listeners {
            let at = listener.at;
            let serves = namespace.enter(|| {
                poll::until(START, || {
                    let answers = TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok();
                    (answers || process.status().is_some()).then_some(answers)
                })
            })?;
            if serves != Some(true) {
                bail!(
                    "Envoy does not serve {at} (state {:?}):\n{}",
                    process.status(),
                    process.tail()
                );
            }
        }
        Ok(Self { process, files })
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The requests and connections that ended so far, a line each: client address as Envoy sees it, a space, the status (0: no HTTP).
    #[must_use]
    pub fn accesses(&self) -> Vec<String> {
        let text = fs::read_to_string(self.access_log()).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    fn access_log(&self) -> PathBuf {
        self.files.path().join("access.log")
    }
}

impl Changing {
    /// Starts Envoy in `namespace` with listeners that drain for so long when they are changed.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start(namespace: &Namespace, listeners: &[Listener], drain: Duration) -> Result<Self> {
        let files = tempfile::tempdir().context("a folder for Envoy's configuration")?;
        write_listeners(&files, listeners, 0)?;
        let source = json!({"resource_api_version": "V3", "path_config_source": {"path": files.path().join(LISTENERS)}});
        let resources = json!({"dynamic_resources": {"lds_config": source}, "admin": {"address": {"socket_address":
            {"address": "127.0.0.1", "port_value": ADMIN}}}});
        let seconds = drain.as_secs().to_string();
        let arguments = ["--drain-time-s", &seconds, "--drain-strategy", "immediate"];
        let gateway = Gateway::run(namespace, listeners, files, resources, &arguments)?;
        Ok(Self { gateway, updates: 0 })
    }

    /// Replaces the listeners, and waits until Envoy has taken them. `namespace`: its own.
    ///
    /// # Errors
    /// If it does not take them.
    pub fn change(&mut self, namespace: &Namespace, listeners: &[Listener]) -> Result<()> {
        self.updates += 1;
        write_listeners(&self.gateway.files, listeners, self.updates)?;
        let wanted = format!("version_text: \"{}\"", self.updates);
        let taken = namespace.enter(|| {
            poll::until(START, || {
                let says = ask("/stats?filter=listener_manager.lds.version_text");
                says.is_ok_and(|text| text.contains(&wanted)).then_some(())
            })
        })?;
        taken.with_context(|| format!("Envoy does not take its listeners:\n{}", self.gateway.tail()))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.gateway.tail()
    }
}

/// The file of the listeners of a [`Changing`].
const LISTENERS: &str = "listeners.json";
/// The port at which it answers questions about itself.
const ADMIN: u16 = 15000;

/// One question to its administration.
fn ask(path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], ADMIN).into(), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Writes listeners in one step, as Envoy wants to see it.
fn write_listeners(files: &TempDir, listeners: &[Listener], version: u32) -> Result<()> {
    let mut built = build_all(listeners, files)?;
    for listener in &mut built {
        if let Some(fields) = listener.as_object_mut() {
            let kind = "type.googleapis.com/envoy.config.listener.v3.Listener";
            fields.insert("@type".to_owned(), json!(kind));
        }
    }
    let text = json!({"version_info": version.to_string(), "resources": built});
    let (new, path) = (files.path().join("listeners.new"), files.path().join(LISTENERS));
    fs::write(&new, serde_json::to_vec(&text)?).with_context(|| format!("writing {}", new.display()))?;
    fs::rename(&new, &path).with_context(|| format!("replacing {}", path.display()))
}

fn build_all(listeners: &[Listener], files: &TempDir) -> Result<Vec<Value>> {
    let each = listeners.iter().enumerate();
    each.map(|(index, listener)| build(index, listener, files))
        .collect()
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    if let Some(fields) = config.as_object_mut() {
        fields.insert("@type".to_owned(), json!(format!("type.googleapis.com/{kind}")));
    }
    json!({"name": name, "typed_config": config})
}

fn build(index: usize, listener: &Listener, files: &TempDir) -> Result<Value> {
    let mut before = Vec::new();
    if listener.proxy_protocol {
        before.push(typed(
            "envoy.filters.listener.proxy_protocol",
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            json!({}),
        ));
    }
    let log = json!([typed(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        json!({
            "path": files.path().join("access.log"),
            "log_format": {"text_format_source": {"inline_string": "%DOWNSTREAM_REMOTE_ADDRESS% %RESPONSE_CODE%\n"}},
        }),
    )]);
    let mut filters = Vec::new();
    let mut chain = json!({});
    match &listener.serves {
        Serves::Http | Serves::HttpBehind(_) => filters.push(http(listener, &log)),
        Serves::Https => {
            filters.push(http(listener, &log));
            chain = json!({"transport_socket": tls(files)?});
        }
        Serves::Passthrough(_) => {
            before.push(typed(
                "envoy.filters.listener.tls_inspector",
                "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
                json!({}),
            ));
            filters.extend(network_rbac(listener));
            filters.push(typed(
                "envoy.filters.network.tcp_proxy",
                "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                json!({"stat_prefix": "tcp", "cluster": format!("to-{index}"), "access_log": log}),
            ));
        }
        Serves::Echo => {
            filters.extend(network_rbac(listener));
            filters.push(typed(
                "envoy.filters.network.echo",
                "envoy.extensions.filters.network.echo.v3.Echo",
                json!({}),
            ));
        }
    }
    if let Some(fields) = chain.as_object_mut() {
        fields.insert("filters".to_owned(), json!(filters));
    }
    Ok(json!({
        "name": format!("{index}"),
        "address": {"socket_address": {"address": listener.at.ip().to_string(), "port_value": listener.at.port()}},
        "listener_filters": before,
        "filter_chains": [chain],
    }))
}

fn cluster((index, listener): (usize, &Listener)) -> Option<Value> {
    let Serves::Passthrough(to) = &listener.serves else {
        return None;
    };
    let name = format!("to-{index}");
    Some(json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
            {"socket_address": {"address": to.ip().to_string(), "port_value": to.port()}}}}]}]},
    }))
}

fn http(listener: &Listener, log: &Value) -> Value {
    let mut filters: Vec<Value> = listener
        .policy
        .iter()
        .map(|policy| {
            typed(
                "envoy.filters.http.rbac",
                "envoy.extensions.filters.http.rbac.v3.RBAC",
                json!({"rules": rules(policy)}),
            )
        })
        .collect();
    filters.push(typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({"suppress_envoy_headers": true}),
    ));
    let hops = match listener.serves {
        Serves::HttpBehind(hops) => hops,
        _ => 0,
    };
    typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "http",
            "use_remote_address": true,
            "xff_num_trusted_hops": hops,
            "normalize_path": true,
            "access_log": log,
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
            }]},
        }),
    )
}

fn network_rbac(listener: &Listener) -> Option<Value> {
    listener.policy.as_ref().map(|policy| {
        typed(
            "envoy.filters.network.rbac",
            "envoy.extensions.filters.network.rbac.v3.RBAC",
            json!({"stat_prefix": "tcp.", "rules": rules(policy)}),
        )
    })
}

/// As Istio's `pilot/pkg/security/authz/model` has it: `ipBlocks` is the peer, `remoteIpBlocks` the client behind the PROXY header.
fn rules(policy: &Policy) -> Value {
    let kind = if policy.field == "ipBlocks" {
        "direct_remote_ip"
    } else {
        "remote_ip"
    };
    let ids: Vec<Value> = policy
        .blocks
        .iter()
        .map(|block| {
            let whole = if block.contains(':') { 128 } else { 32 };
            let (address, bits) = match block.split_once('/') {
                Some((address, bits)) => (address, bits.parse().unwrap_or(whole)),
                None => (block.as_str(), whole),
            };
            json!({kind: {"address_prefix": address, "prefix_len": bits}})
        })
        .collect();
    json!({
        "action": policy.action,
        "policies": {"ns[istio-system]-policy[ingress-policy]-rule[0]": {
            "permissions": [{"and_rules": {"rules": [{"any": true}]}}],
            "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": ids}}]}}],
        }},
    })
}

/// A certificate for anybody.
fn tls(files: &TempDir) -> Result<Value> {
    let Certificate { key, certificate } = Certificate::make(files.path())?;
    Ok(typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        json!({"common_tls_context": {"tls_certificates": [{
            "certificate_chain": {"filename": certificate},
            "private_key": {"filename": key},
        }]}}),
    ))
}
