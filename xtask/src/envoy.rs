//! Where Envoy is: `cargo xtask setup` fetches two releases into the target folder.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::paths;

/// The two Envoy releases that the oracle is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// The newest supported one.
    Newest,
    /// The oldest supported one.
    Oldest,
}

impl Release {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Newest, Self::Oldest];

    /// The version, as the package index knows it.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Newest => "1.40.0",
            Self::Oldest => "1.36.4",
        }
    }

    /// Where its binary is, once installed.
    #[must_use]
    pub fn path(self) -> PathBuf {
        paths::envoy().join(self.version()).join("envoy")
    }
}

/// The path of an installed Envoy.
///
/// # Errors
/// If it is not installed; the message says how to install it.
pub fn binary(release: Release) -> Result<PathBuf> {
    let path = release.path();
    if !path.is_file() {
        bail!(
            "no Envoy {} at {}: run `cargo xtask setup`",
            release.version(),
            path.display()
        );
    }
    Ok(path)
}
