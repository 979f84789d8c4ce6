//! `curl`, where a test or the demo speaks TLS.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::certificate::Certificate;
use crate::netns::Namespace;

/// The name in the certificates of this lab.
const NAME: &str = "gateway.test";

/// One question. Whose certificate it is that the other side shows is not looked at.
#[derive(Debug)]
pub struct Curl<'a> {
    /// Whom to ask.
    pub at: SocketAddr,
    /// Who asks: then by the lab's name for a gateway, so that the server is told it, and the client's certificate.
    pub certificate: Option<&'a Certificate>,
    /// How long it may take.
    pub seconds: u32,
}

impl Curl<'_> {
    /// Asks for `/headers` by HTTPS, from `namespace`: the status, or what curl says of a connection that came to nothing.
    ///
    /// # Errors
    /// There is no curl.
    pub fn ask(&self, namespace: &Namespace) -> Result<Result<u16, String>> {
        let mut command = Command::new("curl");
        command.args(["-skS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}"]);
        command.args(["--max-time", &self.seconds.to_string()]);
        match self.certificate {
            Some(certificate) => {
                let port = self.at.port();
                command.args(["--connect-to", &format!("{NAME}:{port}:{}", self.at)]);
                command.arg("--cert").arg(&certificate.certificate);
                command.arg("--key").arg(&certificate.key);
                command.arg(format!("https://{NAME}:{port}/headers"));
            }
            None => {
                command.arg(format!("https://{}/headers", self.at));
            }
        }
        let output = namespace
            .output(&mut command)
            .context("curl; `cargo xtask setup` installs it")?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.trim()
            .parse()
            .map(Ok)
            .with_context(|| format!("curl said {said:?}"))
    }
}
