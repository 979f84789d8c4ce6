//! A key and a certificate that it signs itself, made on the spot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The certificate's file in its folder.
pub const FILE: &str = "certificate.pem";

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The private key.
    pub key: PathBuf,
    /// The certificate, for `gateway.test`.
    pub certificate: PathBuf,
}

impl Certificate {
    /// Makes one in `folder`, or finds the one that was made there.
    ///
    /// # Errors
    /// If `openssl` is not installed or makes none.
    pub fn make(folder: &Path) -> Result<Self> {
        let [key, certificate] = ["key.pem", FILE].map(|name| folder.join(name));
        let made = Self { key, certificate };
        if made.key.exists() {
            return Ok(made);
        }
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=gateway.test", "-keyout"])
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate)
            .output()
            .context("running openssl: `cargo xtask setup` installs it")?;
        if !output.status.success() {
            bail!(
                "openssl made no certificate: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(made)
    }

    /// Certificate and key in one text.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn both(&self) -> Result<String> {
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
        Ok(read(&self.certificate)? + &read(&self.key)?)
    }
}
