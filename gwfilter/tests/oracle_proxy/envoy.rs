//! An Envoy that reads PROXY headers, sends back what follows them, and logs whom it takes the ends of the connection for.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use xtask::netns::Namespace;
use xtask::poll;
use xtask::process::Process;

/// Where headers are read.
pub(crate) const LISTENERS: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7001),
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 7002),
];
const READY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7000);
const START: Duration = Duration::from_secs(120);
/// How long Envoy waits for the rest of a header. It is what a header that never ends costs.
const HEADER_WAIT: &str = "1s";
const LOG_WAIT: Duration = Duration::from_secs(60);

/// Source and destination of a connection, as Envoy sees them.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// A running Envoy; ended when dropped.
pub(crate) struct Envoy {
    _process: Process,
    log: PathBuf,
    /// Bytes of the log that are read.
    read: usize,
    _files: tempfile::TempDir,
}

impl Envoy {
    /// Starts `binary` in `namespace` and waits until it serves.
    pub(crate) fn start(namespace: &Namespace, binary: &Path) -> Result<Self> {
        let files = tempfile::tempdir().context("making a directory for Envoy's configuration")?;
        let (config, log) = (files.path().join("envoy.json"), files.path().join("access.log"));
        std::fs::write(&config, serde_json::to_vec(&bootstrap(&log))?)
            .context("writing Envoy's configuration")?;
        let mut command = Command::new(binary);
        command.arg("--config-path").arg(&config);
        command.args(["--concurrency", "1", "--disable-hot-restart"]);
        command.args(["--log-level", "warning", "--file-flush-interval-msec", "20"]);
        let mut process = Process::spawn(namespace, "Envoy", command)?;
        let ready = namespace.enter(|| {
            poll::until(START, || {
                let answers = TcpStream::connect_timeout(&READY, Duration::from_secs(1)).is_ok();
                (answers || process.status().is_some()).then_some(answers)
            })
        })?;
        if ready != Some(true) {
            bail!(
                "Envoy did not serve (state {:?}):\n{}",
                process.status(),
                process.tail()
            );
        }
        Ok(Self {
            _process: process,
            log,
            read: 0,
            _files: files,
        })
    }

    /// The ends that the log names for connections which came from `clients`; they must be closed. What it says of others, which Envoy
    /// refused, is dropped.
    pub(crate) fn logged(&mut self, clients: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, Ends>> {
        let mut found = BTreeMap::new();
        let complete = poll::until(LOG_WAIT, || {
            if let Err(error) = self.read_on(&mut found) {
                return Some(Err(error));
            }
            clients
                .iter()
                .all(|client| found.contains_key(client))
                .then_some(Ok(()))
        });
        complete.context("Envoy's access log misses connections that it took")??;
        Ok(found)
    }

    fn read_on(&mut self, found: &mut BTreeMap<SocketAddr, Ends>) -> Result<()> {
        let text = std::fs::read_to_string(&self.log).context("reading Envoy's access log")?;
        let fresh = text.get(self.read..).context("Envoy's access log shrank")?;
        let whole = fresh.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole;
        for line in fresh.get(..whole).unwrap_or_default().lines() {
            let fields: Vec<SocketAddr> = line
                .split(' ')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .with_context(|| format!("Envoy's access log says {line:?}"))?;
            let [client, source, destination] = fields.as_slice() else {
                bail!("Envoy's access log says {line:?}");
            };
            found.insert(*client, (*source, *destination));
        }
        Ok(())
    }
}

fn bootstrap(log: &Path) -> Value {
    let mut listeners: Vec<Value> = LISTENERS.iter().map(|at| listener(*at, Some(log))).collect();
    // The last listener: when it answers, the others do.
    listeners.push(listener(READY, None));
    json!({
        "node": {"id": "oracle", "cluster": "oracle"},
        "static_resources": {"listeners": listeners},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {
            "overload": {"global_downstream_max_connections": 50000},
        }}]},
    })
}

/// With a log: reads headers, by the configuration that Istio writes, an empty one.
fn listener(at: SocketAddr, log: Option<&Path>) -> Value {
    let mut listener = json!({
        "name": at.to_string(),
        "address": {"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}},
        "listener_filters_timeout": HEADER_WAIT,
        "filter_chains": [{"filters": [typed(
            "envoy.filters.network.echo",
            "envoy.extensions.filters.network.echo.v3.Echo",
            json!({}),
        )]}],
    });
    if let (Some(log), Some(fields)) = (log, listener.as_object_mut()) {
        let header = typed(
            "envoy.filters.listener.proxy_protocol",
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            json!({}),
        );
        let line =
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%\n";
        let file = typed(
            "envoy.access_loggers.file",
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            json!({"path": log, "log_format": {"text_format_source": {"inline_string": line}}}),
        );
        fields.insert("listener_filters".to_owned(), json!([header]));
        fields.insert("access_log".to_owned(), json!([file]));
    }
    listener
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    if let Some(fields) = config.as_object_mut() {
        fields.insert("@type".to_owned(), json!(format!("type.googleapis.com/{kind}")));
    }
    json!({"name": name, "typed_config": config})
}
