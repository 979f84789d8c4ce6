//! `kubectl gwfilter`, which is `gwfilter kubectl` under another name: what the agents of all nodes say.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::doctor::OBSERVED;
use super::progress::Progress;
use super::{Output, address, duration, written};
use crate::client::block_on;
use crate::kube::fleet::{Fleet, Settings};
use crate::palette::Palette;
use crate::params;
use crate::plugin::{self, Asked, Reading};

/// How much longer than the traffic is looked at an answer may take.
const MARGIN: Duration = Duration::from_secs(10);

/// Arguments of `kubectl gwfilter`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct Cluster {
    /// The cluster's kubeconfig; without it, what kubectl takes
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig; without it, the current one
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace that gwfilter is installed in
    #[arg(
        short,
        long,
        global = true,
        value_name = "NAME",
        default_value = "gwfilter-system"
    )]
    namespace: String,
    /// Port of the agents' API; without it, the port `api` of their pods
    #[arg(long, global = true, value_name = "PORT")]
    port: Option<u16>,
    /// How long a node may take to answer
    #[arg(long, global = true, value_name = "TIME", value_parser = duration::parse, default_value = "10s")]
    timeout: Duration,
    /// The form of the answer
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show a row for each node, and each gateway's state
    Status,
    /// Show what happens to one packet, on each node
    Explain(Packet),
    /// Show rates of all nodes together, again and again
    Top(Top),
    /// Show whether gateways, policies and load balancers agree on the client address
    Doctor(Doctor),
}

#[derive(Debug, clap::Args)]
struct Packet {
    /// The packet's source address
    #[arg(long, value_name = "IP")]
    source: IpAddr,
    /// The packet's destination (IPv6 in brackets)
    #[arg(long, value_name = "IP:PORT", value_parser = address::endpoint)]
    dest: SocketAddr,
    /// The packet's transport protocol
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = ["tcp", "udp"])]
    protocol: String,
    /// The source in the PROXY header that the packet carries
    #[arg(long, value_name = "IP:PORT", value_parser = address::endpoint, requires = "proxy_dest")]
    proxy_source: Option<SocketAddr>,
    /// The destination in the PROXY header that the packet carries
    #[arg(long, value_name = "IP:PORT", value_parser = address::endpoint, requires = "proxy_source")]
    proxy_dest: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct Top {
    /// Time between two readings
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "2s")]
    every: Duration,
    /// One table, and end
    #[arg(long)]
    once: bool,
}

#[derive(Debug, clap::Args)]
struct Doctor {
    /// Look at the traffic for so long, on every node
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    observe: Option<Duration>,
    /// Only this gateway
    #[arg(long, value_name = "NAMESPACE/SERVICE")]
    gateway: Option<String>,
}

/// Runs the verb. The exit code is 0 if any node answered, 1 if none did.
///
/// # Errors
/// Nobody can be asked, or `out` cannot be written.
pub fn run(args: &Args, palette: Palette, out: &mut (impl Write + IsTerminal)) -> anyhow::Result<u8> {
    let cluster = &args.cluster;
    let settings = Settings {
        kubeconfig: cluster.kubeconfig.clone(),
        context: cluster.context.clone(),
        namespace: cluster.namespace.clone(),
        port: cluster.port,
    };
    block_on(async {
        let opening = Progress::new("finding the agents in the cluster", None);
        let fleet = Fleet::open(&settings).await?;
        drop(opening);
        let (target, patience) = match &args.verb {
            Verb::Top(top) => return rates(&fleet, top, cluster, palette, out).await,
            Verb::Status => ("/v1/status".to_owned(), cluster.timeout),
            Verb::Explain(packet) => (packet.target(), cluster.timeout.max(MARGIN * 4)),
            Verb::Doctor(doctor) => {
                let observe = doctor.observe.unwrap_or_default();
                (doctor.target(), cluster.timeout.max(observe + MARGIN))
            }
        };
        let asked = ask(&fleet, &target, patience, args.verb.observed()).await;
        let text = match (cluster.output, &args.verb) {
            (Output::Json, _) => plugin::json(&asked).to_string() + "\n",
            (Output::Text, Verb::Explain(_)) => {
                // The tables are what an answer is of; whether a node drops at all, its status says.
                let statuses = ask(&fleet, "/v1/status", cluster.timeout, None).await;
                plugin::explain(&asked, &statuses, palette)
            }
            (Output::Text, Verb::Doctor(_)) => plugin::doctor(&asked, palette),
            (Output::Text, Verb::Status | Verb::Top(_)) => plugin::status(&asked, palette),
        };
        written(out.write_all(text.as_bytes()))?;
        Ok(code(&asked))
    })
}

/// Asks all, and shows how far that is: traffic is `observed` for so long by all of them, or nodes answer one by one.
async fn ask(fleet: &Fleet, target: &str, patience: Duration, observed: Option<Duration>) -> Vec<Asked> {
    let progress = match observed.filter(|_| fleet.is_asked_at_once()) {
        Some(time) => Progress::timed(OBSERVED, time),
        None => Progress::new("nodes asked", Some(fleet.size())),
    };
    fleet.ask(target, patience, |done| progress.at(done)).await
}

/// Readings, one after the other, until nobody looks any more.
async fn rates(
    fleet: &Fleet,
    top: &Top,
    cluster: &Cluster,
    palette: Palette,
    out: &mut (impl Write + IsTerminal),
) -> anyhow::Result<u8> {
    /// Puts the cursor to the upper left, and clears what is below.
    const HOME: &str = "\u{1b}[H\u{1b}[J";
    let start = Instant::now();
    let mut before = Reading::default();
    loop {
        let asked = fleet.ask("/v1/counters", cluster.timeout, |_| ()).await;
        let code = code(&asked);
        let at = start.elapsed().as_secs_f64();
        let now = Reading { at, asked };
        if !before.asked.is_empty() || code != 0 {
            let text = match cluster.output {
                Output::Json => plugin::json(&now.asked).to_string() + "\n",
                Output::Text => plugin::top(&before, &now, palette),
            };
            let home = if out.is_terminal() && !top.once { HOME } else { "" };
            let print = write!(out, "{home}{text}").and_then(|()| out.flush());
            if !written(print)? || top.once || code != 0 {
                return Ok(code);
            }
        }
        before = now;
        tokio::time::sleep(top.every).await;
    }
}

/// A node that does not answer is no failure; none that does, is.
fn code(asked: &[Asked]) -> u8 {
    u8::from(asked.iter().all(|one| one.answer.is_err()))
}

impl Verb {
    /// How long this one looks at traffic.
    fn observed(&self) -> Option<Duration> {
        match self {
            Self::Doctor(doctor) => doctor.observe,
            Self::Status | Self::Explain(_) | Self::Top(_) => None,
        }
    }
}

impl Packet {
    fn target(&self) -> String {
        let (source, dest) = (self.source.to_string(), self.dest.to_string());
        let header = self.proxy_source.zip(self.proxy_dest);
        let header = header.map(|(source, dest)| (source.to_string(), dest.to_string()));
        let mut pairs = vec![
            ("source", source.as_str()),
            ("dest", &dest),
            ("protocol", &self.protocol),
        ];
        if let Some((source, dest)) = &header {
            pairs.extend([("proxy_source", source.as_str()), ("proxy_dest", dest)]);
        }
        params::target("/v1/explain", &pairs)
    }
}

impl Doctor {
    fn target(&self) -> String {
        let observe = self.observe.map(|time| format!("{}ms", time.as_millis()));
        let pairs = [
            ("observe", observe.as_deref()),
            ("gateway", self.gateway.as_deref()),
        ];
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .filter_map(|(key, value)| Some((*key, (*value)?)))
            .collect();
        params::target("/v1/doctor", &pairs)
    }
}
