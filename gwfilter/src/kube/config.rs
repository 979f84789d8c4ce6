//! How the API server is reached: the pod's service account, or a kubeconfig.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::kube::client::{ClientBuilder, ConfigExt};
use ::kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Client, Config};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the server may say nothing. On a watch it sends a bookmark about once a minute.
const SILENCE: Duration = Duration::from_secs(75);
/// The kernel asks a silent peer after so long, …
const PROBE_AFTER: Duration = Duration::from_secs(10);
/// … again after so long, …
const PROBE_EVERY: Duration = Duration::from_secs(3);
/// … and takes it for dead after so many questions.
const PROBES: u32 = 3;

/// Why the API server cannot even be addressed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither in a pod, nor told where else.
    #[error(
        "this is no pod with a service account; give --from for manifests, or --kubeconfig for a cluster"
    )]
    InCluster(#[source] InClusterError),
    /// The file of `--kubeconfig`.
    #[error("{path}: cannot be used as a kubeconfig")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<KubeconfigError>,
    },
    /// Certificates, tokens or addresses in either.
    #[error("the cluster's address, certificates or token cannot be used")]
    Client(#[source] Box<::kube::Error>),
}

/// A client with deadlines.
pub(super) async fn client(kubeconfig: Option<&Path>) -> Result<Client, ConfigError> {
    let config = match kubeconfig {
        // By address: no name has to be resolved.
        None => Config::incluster_env().map_err(ConfigError::InCluster)?,
        Some(path) => of_file(path).await.map_err(|e| ConfigError::Kubeconfig {
            path: path.to_owned(),
            source: Box::new(e),
        })?,
    };
    build_with_deadlines(config).map_err(|e| ConfigError::Client(Box::new(e)))
}

/// A client of this configuration, with deadlines.
pub(super) fn build_with_deadlines(mut config: Config) -> Result<Client, ::kube::Error> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(CONNECT);
    build(config)
}

/// As kube's own, but with probes: a peer that vanished without a word is else noticed after [`SILENCE`] only, and what
/// changes in the meantime is not.
fn build(config: Config) -> Result<Client, ::kube::Error> {
    if config.proxy_url.is_some() {
        // Proxies are not compiled in; kube says so.
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp.set_tcp_user_timeout(Some(PROBE_AFTER + PROBE_EVERY * PROBES));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

async fn of_file(path: &Path) -> Result<Config, KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}
