//! A site with an agent, and a Prometheus on the node that scrapes it with a token.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests: their panic is the report"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::http::Answer;
use xtask::manifests::ingress_policy;
use xtask::netns::Namespace;
use xtask::poll;
use xtask::process::Process;
use xtask::prometheus::{Prometheus, Series};
use xtask::site::{self, Client, NIC, NODE, Site, VIP_PORT, VIP_V4};

use crate::rules::{hasty, shipped};

/// How long a change may take to show.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// The file that holds the policy under test.
pub(crate) const POLICY: &str = "ingress-policy.yaml";

/// Where the agent answers on the node.
const AGENT: &str = "127.0.0.1:9469";

const TOKEN: &str = "of-this-test";

/// The file that says which agents there are.
const TARGETS: &str = "targets.json";

/// Prometheus looks at the file when it changes.
fn write_targets(path: &Path, targets: &[&str]) {
    let aside = path.with_extension("new");
    let list = if targets.is_empty() {
        json!([])
    } else {
        json!([{"targets": targets, "labels": {"node": NODE}}])
    };
    fs::write(&aside, list.to_string()).expect("written");
    fs::rename(&aside, path).expect("in its place");
}

/// One `GET` on a node: head and body. HTTP/1.0, so that the body comes in one piece.
pub(crate) fn get(
    node: &Namespace,
    to: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> (String, String) {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let asked = node.enter(|| {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n{headers}\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = asked
        .expect("the node's namespace")
        .unwrap_or_else(|e| panic!("{to}{path}: {e}"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// A Prometheus that scrapes and evaluates each second: the shipped example, but that the agent is named to it, and asked in the plain on its
/// node's own loopback.
fn configure(folder: &Path) -> anyhow::Result<Value> {
    let at = |name: &str| folder.join(name);
    fs::write(at("rules.yaml"), hasty().to_string())?;
    let example: Value = serde_yaml::from_str(&shipped("prometheus.yaml"))?;
    let mut job = example["scrape_configs"][0].clone();
    let fields = job.as_object_mut().expect("a job");
    fields.remove("kubernetes_sd_configs");
    fields.remove("relabel_configs");
    for (name, value) in [
        ("scrape_interval", "1s".into()),
        ("scheme", "http".into()),
        ("authorization", json!({"type": "Bearer", "credentials": TOKEN})),
        ("file_sd_configs", json!([{"files": [at(TARGETS)]}])),
    ] {
        fields.insert(name.to_owned(), value);
    }
    write_targets(&at(TARGETS), &[AGENT]);
    Ok(json!({
        "global": {"evaluation_interval": "1s"},
        "rule_files": [at("rules.yaml")],
        "scrape_configs": [job],
    }))
}

/// A site, an agent with manifests, and a Prometheus.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) prometheus: Prometheus,
    pub(crate) agent: Process,
    pub(crate) site: Site,
    flags: Vec<String>,
    _disk: TempDir,
}

impl Lab {
    /// Client a is refused, client b is not. Waits until Prometheus has seen the agent, and nothing fires.
    pub(crate) fn new(flags: &[&str]) -> Self {
        let site = Site::new().expect("a site; this test needs root, and `cargo xtask setup`");
        site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &[site::CLIENT_V4[0]]))
            .expect("a policy");
        let disk = tempfile::tempdir().expect("a disk");
        let token = disk.path().join("token");
        fs::write(&token, TOKEN).expect("written");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("root's");
        let mut all: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let state = disk.path().join("state").display().to_string();
        for (flag, value) in [
            ("--interface", NIC),
            ("--health-listen", AGENT),
            ("--metrics-token-file", &token.display().to_string()),
            ("--state-dir", &state),
        ] {
            all.extend([flag.to_owned(), value.to_owned()]);
        }
        let agent = start(&site, &all);
        let prometheus = Prometheus::start(&site.node, configure).expect("a Prometheus");
        let lab = Self {
            prometheus,
            agent,
            site,
            flags: all,
            _disk: disk,
        };
        lab.sees("up == 1 and on (instance) gwfilter_ready == 1");
        lab.calm();
        lab
    }

    /// Another agent in the place of one that ended, with these flags before its own.
    pub(crate) fn restart(&mut self, more: &[&str]) {
        let more = more.iter().map(|&flag| flag.to_owned());
        let flags: Vec<String> = more.chain(self.flags.iter().cloned()).collect();
        self.agent = start(&self.site, &flags);
    }

    /// What the agent answers to a scrape, in the form that no header asks for.
    pub(crate) fn text(&self) -> String {
        let token = format!("Bearer {TOKEN}");
        let to = AGENT.parse().expect("an address");
        let (head, body) = get(&self.site.node, to, "/metrics", &[("Authorization", &token)]);
        assert!(
            head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"),
            "{head}\n{body}"
        );
        body
    }

    /// A query has a result, soon.
    #[track_caller]
    pub(crate) fn sees(&self, query: &str) -> Vec<Series> {
        let seen = poll::every(Duration::from_millis(300), SOON, || {
            let found = self.prometheus.query(&self.site.node, query).expect("an answer");
            Some(found).filter(|found| !found.is_empty())
        });
        seen.unwrap_or_else(|| {
            panic!(
                "nothing for `{query}`; agent:\n{}\nPrometheus:\n{}\n{}",
                self.agent.tail(),
                self.prometheus.tail(),
                self.text()
            )
        })
    }

    /// No alert fires, soon.
    #[track_caller]
    pub(crate) fn calm(&self) {
        let mut last = Vec::new();
        let calm = poll::every(Duration::from_millis(300), SOON, || {
            last = self.firing();
            last.is_empty().then_some(())
        });
        assert!(calm.is_some(), "{last:?} fire; agent:\n{}", self.agent.tail());
    }

    /// These alerts fire, soon; others may, too. All that fired until then.
    #[track_caller]
    pub(crate) fn fire(&self, alerts: &[&str]) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        let all = poll::every(Duration::from_millis(300), SOON, || {
            seen.extend(self.firing());
            let fired = |alert: &&str| seen.iter().any(|seen| seen == alert);
            alerts.iter().all(fired).then_some(())
        });
        seen.dedup();
        assert!(
            all.is_some(),
            "of {alerts:?} only {seen:?} fired; agent:\n{}",
            self.agent.tail()
        );
        seen
    }

    /// Names of the alerts that fire now. Their words are whole: no template of them failed.
    #[track_caller]
    pub(crate) fn firing(&self) -> Vec<String> {
        let alerts = self.prometheus.firing(&self.site.node).expect("alerts");
        let name = |alert: &Value| {
            let words = alert["annotations"].to_string();
            for broken in ["<error", "<no value>", "{{", "$labels"] {
                assert!(!words.contains(broken), "{alert}");
            }
            alert["labels"]["alertname"].as_str().map(str::to_owned)
        };
        alerts.iter().filter_map(name).collect()
    }

    /// Which agents Prometheus is to scrape.
    pub(crate) fn targets(&self, agents: bool) {
        let targets: &[&str] = if agents { &[AGENT] } else { &[] };
        write_targets(&self.prometheus.folder().join(TARGETS), targets);
    }

    /// `gwfilter ARGUMENTS` on the node.
    pub(crate) fn gwfilter(&self, arguments: &[&str]) -> String {
        self.site
            .node
            .run(&binary().display().to_string(), arguments)
            .expect("it succeeds")
    }

    /// Where the agent pins.
    pub(crate) fn pins(&self) -> PathBuf {
        let log = self.agent.log();
        let dir = log
            .split("pins=")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next());
        dir.expect("the directory is told").into()
    }

    /// Client a gets nothing at the load balancer's address, and client b an answer.
    #[track_caller]
    pub(crate) fn enforced(&self) {
        let vip = vip();
        let a = self
            .site
            .get_until(Client::A, vip, SOON, |answer| *answer == Answer::Timeout);
        assert_eq!(a, Answer::Timeout, "{}", self.agent.tail());
        let b = self.site.get_until(Client::B, vip, SOON, Answer::arrived);
        assert!(b.arrived(), "{b}: {}", self.agent.tail());
    }
}

fn start(site: &Site, flags: &[String]) -> Process {
    let from = site.manifests().display().to_string();
    let mut arguments = vec!["run", "--from", &from];
    arguments.extend(flags.iter().map(String::as_str));
    let mut agent = site.start("gwfilter run", binary(), &arguments).expect("started");
    agent.wait_line("agent runs", SOON).expect("a running agent");
    agent
}

/// The agent under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_gwfilter"))
}

/// The load balancer's IPv4 address.
pub(crate) fn vip() -> SocketAddr {
    site::destination(VIP_V4, VIP_PORT).expect("an address")
}
