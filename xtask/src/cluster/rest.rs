//! Plain HTTP to a loopback port of a namespace: the API server behind `kubectl proxy`, and etcd's gateway.
//!
//! `kubectl` takes about 140 ms a call as a process; a request here takes what the API server takes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::netns::Namespace;

/// How long one step of an exchange may take. A watch ends by its own time-out.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body, whole.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON in an answer: {}", self.body))
    }

    /// The body as JSON, of a request that was granted.
    ///
    /// # Errors
    /// If it was not; the message has the server's own.
    pub fn granted(&self) -> Result<Value> {
        if !(200..300).contains(&self.status) {
            let said = self.json().ok();
            let message = said.as_ref().and_then(|said| said.get("message")?.as_str());
            bail!(
                "the server answered {}: {}",
                self.status,
                message.unwrap_or(&self.body)
            );
        }
        self.json()
    }
}

/// One request on a new connection. `kind` is the content type of `body`.
///
/// # Errors
/// If there is no answer.
pub fn request(
    namespace: &Namespace,
    port: u16,
    method: &str,
    path: &str,
    kind: &str,
    body: &str,
) -> Result<Response> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    namespace
        .enter(|| exchange(to, method, path, kind, body))?
        .with_context(|| format!("{method} {path} at port {port} of `{}`", namespace.label()))
}

fn exchange(to: SocketAddr, method: &str, path: &str, kind: &str, body: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(to).context("connecting")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("setting a time-out")?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .context("setting a time-out")?;
    // HTTP/1.0: the body comes in one piece and ends with the connection.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {to}\r\nAccept: application/json\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).context("asking")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading the answer")?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Response> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no HTTP answer: {answer:?}"))?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status in {head:?}"))?;
    Ok(Response {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_then_its_status_body_and_verdict() {
        let granted = parse("HTTP/1.0 201 Created\r\nA: b\r\n\r\n{\"kind\":\"Pod\"}").expect("an answer");
        assert_eq!(granted.status, 201);
        assert_eq!(granted.granted().expect("granted")["kind"], "Pod");
        let refused =
            parse("HTTP/1.0 403 Forbidden\r\n\r\n{\"message\":\"no verb list\"}").expect("an answer");
        let said = format!("{:#}", refused.granted().expect_err("refused"));
        assert!(said.contains("403") && said.contains("no verb list"), "{said}");
        assert!(parse("nonsense").is_err());
    }
}
