//! How the API server is reached: the pod's service account, or a kubeconfig.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Client, Config};

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the server may say nothing. On a watch it sends a bookmark about once a minute.
const SILENCE: Duration = Duration::from_secs(75);

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
    let mut config = match kubeconfig {
        // By address: no name has to be resolved.
        None => Config::incluster_env().map_err(ConfigError::InCluster)?,
        Some(path) => of_file(path).await.map_err(|e| ConfigError::Kubeconfig {
            path: path.to_owned(),
            source: Box::new(e),
        })?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|e| ConfigError::Client(Box::new(e)))
}

async fn of_file(path: &Path) -> Result<Config, KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}
