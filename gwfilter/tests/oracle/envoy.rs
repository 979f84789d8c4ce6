//! One Envoy that serves a batch of policy sets, each at its pod's addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use xtask::netns::Namespace;
use xtask::poll;
use xtask::process::Process;

use crate::ask::NO_TOKEN;
use crate::istio::rbac_filters;
use crate::set::{Chain, Placed, TcpServer, Topology};

const READY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 243, 0, 1)), 9);
const START: Duration = Duration::from_secs(120);

/// A running Envoy; ended when dropped.
pub(crate) struct Envoy {
    _process: Process,
    _files: tempfile::TempDir,
}

impl Envoy {
    /// Starts `binary` with the listeners of `batch` in `namespace` and waits until it serves.
    pub(crate) fn start(namespace: &Namespace, binary: &Path, batch: &[Placed]) -> Result<Self> {
        let files = tempfile::tempdir().context("making a directory for Envoy's configuration")?;
        let config = files.path().join("envoy.json");
        std::fs::write(&config, serde_json::to_vec(&bootstrap(batch))?)
            .context("writing Envoy's configuration")?;
        let mut command = Command::new(binary);
        command.arg("--config-path").arg(&config);
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]);
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
            _files: files,
        })
    }
}

fn address(ip: IpAddr, port: u16) -> Value {
    json!({"socket_address": {"address": ip.to_string(), "port_value": port}})
}

fn bootstrap(batch: &[Placed]) -> Value {
    let mut listeners: Vec<Value> = Vec::new();
    for (index, placed) in batch.iter().enumerate() {
        for chain in [Chain::Http, Chain::Tcp] {
            let filters = match chain {
                Chain::Http => http(placed),
                Chain::Tcp => tcp(placed),
            };
            listeners.push(listener(
                &format!("{index}-{chain:?}"),
                &[placed.pod4.into(), placed.pod6.into()],
                placed.port(chain),
                listener_filters(placed, chain),
                &filters,
            ));
        }
    }
    // The last listener: when it answers, the others do.
    let echo = vec![echo()];
    listeners.push(listener("ready", &[READY.ip()], READY.port(), Vec::new(), &echo));
    json!({
        "node": {"id": "oracle", "cluster": "oracle"},
        "static_resources": {"listeners": listeners},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {
            "overload": {"global_downstream_max_connections": 50000},
        }}]},
    })
}

/// The PROXY protocol comes first, then the TLS inspector, as Istio has them.
fn listener_filters(placed: &Placed, chain: Chain) -> Vec<Value> {
    let mut filters = Vec::new();
    if placed.set.topology == Topology::Proxy {
        filters.push(typed(
            "envoy.filters.listener.proxy_protocol",
            "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            json!({}),
        ));
    }
    if chain == Chain::Tcp && placed.set.tcp_server != TcpServer::Tcp {
        filters.push(typed(
            "envoy.filters.listener.tls_inspector",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            json!({}),
        ));
    }
    filters
}

fn listener(name: &str, at: &[IpAddr], port: u16, listener_filters: Vec<Value>, filters: &[Value]) -> Value {
    let mut addresses = at.iter().map(|ip| address(*ip, port));
    let first = addresses.next();
    let others: Vec<Value> = addresses.map(|address| json!({"address": address})).collect();
    json!({
        "name": name,
        "address": first,
        "additional_addresses": others,
        "listener_filters": listener_filters,
        "filter_chains": [{"filters": filters}],
    })
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    if let Some(fields) = config.as_object_mut() {
        fields.insert("@type".to_owned(), json!(format!("type.googleapis.com/{kind}")));
    }
    json!({"name": name, "typed_config": config})
}

fn echo() -> Value {
    typed(
        "envoy.filters.network.echo",
        "envoy.extensions.filters.network.echo.v3.Echo",
        json!({}),
    )
}

fn tcp(placed: &Placed) -> Vec<Value> {
    let mut filters: Vec<Value> = rbac_filters(placed, Chain::Tcp)
        .into_iter()
        .map(|mut rbac| {
            if let Some(fields) = rbac.as_object_mut() {
                fields.insert("stat_prefix".to_owned(), json!("tcp."));
            }
            typed(
                "envoy.filters.network.rbac",
                "envoy.extensions.filters.network.rbac.v3.RBAC",
                rbac,
            )
        })
        .collect();
    filters.push(echo());
    filters
}

/// Writes what Istio's token filter writes for `issuer/subject`, and what another filter might, except where a request
/// says that it has no token: that spares the oracle keys and signatures.
fn token_metadata() -> Value {
    let token = json!({
        "metadata_namespace": "envoy.filters.http.jwt_authn",
        "value": {"payload": {"iss": "issuer", "sub": "subject", "aud": "me", "azp": "me", "groups": "admin"}},
    });
    let other = json!({
        "metadata_namespace": "envoy.filters.network.mysql_proxy",
        "value": {"db.table": "x"},
    });
    let none = json!({"action": typed(
        "skip",
        "envoy.extensions.filters.common.matcher.action.v3.SkipFilter",
        json!({}),
    )});
    typed(
        "token",
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        json!({
            "extension_config": typed(
                "envoy.filters.http.set_metadata",
                "envoy.extensions.filters.http.set_metadata.v3.Config",
                json!({"metadata": [token, other]}),
            ),
            "xds_matcher": {"matcher_tree": {
                "input": typed(
                    "request-headers",
                    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                    json!({"header_name": NO_TOKEN}),
                ),
                "exact_match_map": {"map": {"1": none}},
            }},
        }),
    )
}

fn http(placed: &Placed) -> Vec<Value> {
    let mut filters = Vec::new();
    if placed.set.tokens {
        filters.push(token_metadata());
    }
    filters.extend(rbac_filters(placed, Chain::Http).into_iter().map(|rbac| {
        typed(
            "envoy.filters.http.rbac",
            "envoy.extensions.filters.http.rbac.v3.RBAC",
            rbac,
        )
    }));
    filters.push(typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({"suppress_envoy_headers": true}),
    ));
    let hops = u32::from(placed.set.topology == Topology::XForwardedFor);
    vec![typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "http",
            "use_remote_address": true,
            "xff_num_trusted_hops": hops,
            "forward_client_cert_details": "SANITIZE_SET",
            "normalize_path": true,
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
            }]},
        }),
    )]
}
