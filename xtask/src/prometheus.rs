//! A real Prometheus on a machine of the lab: it scrapes, evaluates rules and answers queries. Gone when dropped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::Namespace;
use crate::paths;
use crate::process::Process;

/// Where it listens, on the machine's own loopback.
const ADDRESS: &str = "127.0.0.1:9090";

/// How long it may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(40);

/// A series: its labels and its value now.
pub type Series = (Value, f64);

/// The programs that `cargo xtask setup` provides.
pub const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Where one of [`PROGRAMS`] is: what `setup` unpacked, else the machine's own, by the search path.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let unpacked = paths::prometheus().join(name);
    if unpacked.is_file() { unpacked } else { name.into() }
}

/// The process with its folder.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    folder: TempDir,
}

impl Prometheus {
    /// Starts one. `configure` is given the folder of its files and says its configuration (JSON is YAML).
    ///
    /// # Errors
    /// If `configure` fails, or the program `prometheus` is missing or does not take the configuration.
    pub fn start(machine: &Namespace, configure: impl FnOnce(&Path) -> Result<Value>) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for Prometheus")?;
        let config = folder.path().join("prometheus.yaml");
        let text = configure(folder.path())?.to_string();
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = Command::new(program("prometheus"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={ADDRESS}"));
        let mut process = Process::spawn(machine, "prometheus", command)
            .context("Prometheus; `cargo xtask setup` installs it")?;
        process.wait_line("Server is ready to receive web requests", PATIENCE)?;
        Ok(Self { process, folder })
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The last lines it wrote, for an error message.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// The data of an answer of its API. `machine`: where it was started.
    ///
    /// # Errors
    /// If it does not answer, or answers with an error.
    pub fn ask(&self, machine: &Namespace, path: &str) -> Result<Value> {
        let mut answer: Value =
            serde_json::from_str(&get(machine, path)?).with_context(|| format!("{path}: no JSON"))?;
        if answer.get("status").and_then(Value::as_str) != Some("success") {
            bail!("{path}: {answer}");
        }
        Ok(answer.get_mut("data").map(Value::take).unwrap_or_default())
    }

    /// What a query is now.
    ///
    /// # Errors
    /// As [`Self::ask`], or if it is no vector.
    pub fn query(&self, machine: &Namespace, query: &str) -> Result<Vec<Series>> {
        let data = self.ask(machine, &format!("/api/v1/query?query={}", escaped(query)))?;
        let all = data.get("result").and_then(Value::as_array);
        let all = all.with_context(|| format!("`{query}` is no vector: {data}"))?;
        let series = all.iter().map(|one| {
            let labels = one.get("metric").cloned().unwrap_or_default();
            let value = one.pointer("/value/1").and_then(Value::as_str);
            let value = value.and_then(|text| text.parse().ok());
            Ok((labels, value.with_context(|| format!("{one} has no value"))?))
        });
        series.collect()
    }

    /// What a query was from one second since 1970 to another, second by second: a list of `metric` and `values`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn range(&self, machine: &Namespace, query: &str, from: u64, to: u64) -> Result<Value> {
        let query = escaped(query);
        let path = format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=1");
        let mut data = self.ask(machine, &path)?;
        Ok(data.get_mut("result").map(Value::take).unwrap_or_default())
    }

    /// The alerts that fire now.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn firing(&self, machine: &Namespace) -> Result<Vec<Value>> {
        let data = self.ask(machine, "/api/v1/alerts")?;
        let alerts = data.get("alerts").and_then(Value::as_array).cloned();
        let mut alerts = alerts.unwrap_or_default();
        alerts.retain(|alert| alert.get("state").and_then(Value::as_str) == Some("firing"));
        Ok(alerts)
    }
}

/// The body of an answer. HTTP/1.0, so that it comes in one piece.
fn get(machine: &Namespace, path: &str) -> Result<String> {
    let asked = machine.enter(|| {
        let mut stream = TcpStream::connect(ADDRESS)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: lab\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    })?;
    let answer = asked.with_context(|| format!("asking Prometheus for {path}"))?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .context("Prometheus' answer has no head")?;
    Ok(body.to_owned())
}

/// For a query in a URL.
fn escaped(text: &str) -> String {
    let each = text.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_then_nothing_of_it_is_the_urls_own() {
        assert_eq!(escaped("a{b=\"c d\"}"), "a%7Bb%3D%22c%20d%22%7D");
    }
}
