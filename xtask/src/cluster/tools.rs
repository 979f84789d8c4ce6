//! Where the Kubernetes programs and the CRDs are: `cargo xtask setup` builds them into the target folder.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::paths;

/// The programs that the tests need, and Helm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    folder: PathBuf,
}

/// A set of CRDs, as its project ships them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crds {
    /// Istio's, all of them.
    Istio,
    /// The standard channel of the Gateway API.
    GatewayApi,
}

impl Crds {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Istio, Self::GatewayApi];

    /// The Go module that they come from, as `xtask/kube/go.mod` names it.
    #[must_use]
    pub fn module(self) -> &'static str {
        match self {
            Self::Istio => "istio.io/api",
            Self::GatewayApi => "sigs.k8s.io/gateway-api",
        }
    }

    /// The file or folder with them in that module.
    #[must_use]
    pub fn within(self) -> &'static str {
        match self {
            Self::Istio => "kubernetes/customresourcedefinitions.gen.yaml",
            Self::GatewayApi => "config/crd/standard",
        }
    }

    /// The file that `setup` copies them to, a multi-document one.
    #[must_use]
    pub fn path(self) -> PathBuf {
        paths::kube().join(match self {
            Self::Istio => "crds-istio.yaml",
            Self::GatewayApi => "crds-gateway-api.yaml",
        })
    }
}

impl Tools {
    /// The programs without which there is no cluster.
    pub const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

    /// Looks where `KUBEBUILDER_ASSETS` says, as other projects' tests do, and else where `setup` builds to.
    ///
    /// # Errors
    /// If one is missing; the message says how to get it.
    pub fn find() -> Result<Self> {
        let (folder, way) = match assets() {
            Some(folder) => (folder, "KUBEBUILDER_ASSETS names that folder"),
            None => (paths::kube(), "run `cargo xtask setup`"),
        };
        for program in Self::PROGRAMS {
            if !folder.join(program).is_file() {
                bail!("no {program} in {}: {way}", folder.display());
            }
        }
        Ok(Self { folder })
    }

    /// A program of the folder.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder itself: tests put it first on `PATH`, so that `kubectl` is this one.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The folder that the user says has the programs.
#[must_use]
pub fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
}

/// Where Helm is: `setup` builds it beside the others.
///
/// # Errors
/// If it is not there; the message says how to get it.
pub fn helm() -> Result<PathBuf> {
    let path = paths::kube().join("helm");
    if !path.is_file() {
        bail!("no helm at {}: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}
