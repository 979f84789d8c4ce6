//! `gwfilter run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use ipnet::IpNet;

use super::{address, duration, origin};
use crate::agent::{self, AsideSettings, From, OnExit, Settings};
use crate::dataplane::PacketLog;
use crate::dataplane::choice::XdpMode;
use crate::kube;
use crate::pipeline::Refuse;
use crate::source::Origin;
use crate::telemetry::{self, LogFormat};

/// Arguments of `gwfilter run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifests instead of a cluster: a file, a directory (its .yaml, .yml and .json files; not recursive), or - for
    /// standard input
    #[arg(long, value_name = "PATH", value_parser = origin)]
    from: Option<Origin>,
    /// Cluster to watch; without it, and without --from, the one that this pod runs in
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    kubeconfig: Option<PathBuf>,
    /// ConfigMap with the mesh configuration
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        value_parser = namespaced,
        default_value = "istio-system/istio",
        conflicts_with = "from"
    )]
    mesh_configmap: (String, String),
    /// Interface to serve; may be repeated. Without it: every card that is up and every device with a default route
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// Name of this node, needed in a cluster; with manifests, without it, a node that runs every gateway pod of them
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
    /// What becomes of enforcement when the agent ends; auto: Ctrl-C takes it off, SIGTERM keeps it
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    on_exit: OnExitArg,
    /// Judge and count everything, drop nothing
    #[arg(long)]
    observe: bool,
    /// Native XDP falls back to TCX; generic XDP is slower than TCX and used only on request
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    xdp_mode: XdpModeArg,
    /// Log single packets to gateways, rate-limited
    #[arg(long, value_name = "WHICH", value_enum, default_value_t)]
    packet_log: PacketLogArg,
    /// What a refused connection gets: silence, or a reset at both ends. Without it: resets where the client is in a PROXY
    /// header, silence where it is the packet's source
    #[arg(long, value_name = "HOW", value_enum)]
    refuse: Option<RefuseArg>,
    /// How long connections from before a tightening live on, at least. Envoy drains them for its drainDuration, by default 45 s; where a pod or
    /// the mesh states it, that and 15 s more count if it is longer
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "60s")]
    drain: Duration,
    /// How long refusals go on without a confirmed view of the policies (an agent that does not run, an API server that is away); then
    /// everything passes. off: for ever
    #[arg(long, value_name = "TIME|off", value_parser = lease, default_value = "1h")]
    lease: Lease,
    /// The same at addresses of pods, which may soon be another pod's
    #[arg(long, value_name = "TIME|off", value_parser = lease, default_value = "60s")]
    pod_lease: Lease,
    /// Sources that no gateway may drop
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', value_parser = address::network)]
    never_drop: Vec<IpNet>,
    /// Time between counter lines
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "30s")]
    counters_every: Duration,
    /// Time between two looks whether programs and tables are as they were left
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "30s")]
    verify_every: Duration,
    /// Directory for the last good snapshot, with which an agent begins whose API server does not answer; none: it is not kept
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address to answer /livez, /readyz and, to who has the right, /metrics at
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,
    /// Address to answer the API at over TLS, to who has a token and the right: what `kubectl gwfilter` and Prometheus ask. An IPv6 address
    /// needs no brackets
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address::listen)]
    api_listen: Option<SocketAddr>,
    /// File with the bearer token that reads /metrics, for root alone to write; without it, a cluster's API server says whose token may,
    /// and with manifests there are no /metrics
    #[arg(long, value_name = "FILE")]
    metrics_token_file: Option<PathBuf>,
    /// DaemonSet that this agent belongs to, in POD_NAMESPACE; on SIGTERM enforcement goes off if it is gone or no longer selects this node
    #[arg(
        long,
        value_name = "NAME",
        env = "GWFILTER_DAEMONSET",
        requires = "pod_namespace"
    )]
    own_daemonset: Option<String>,
    /// Namespace of this agent's pod
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", hide = true)]
    pod_namespace: Option<String>,
    /// Name of this agent's pod
    #[arg(long, value_name = "NAME", env = "POD_NAME", hide = true)]
    pod_name: Option<String>,
    /// Form of the log
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    log_format: LogFormatArg,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OnExitArg {
    #[default]
    Auto,
    Keep,
    Detach,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum XdpModeArg {
    #[default]
    Native,
    Generic,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PacketLogArg {
    #[default]
    Off,
    Drops,
    All,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RefuseArg {
    Drop,
    Reset,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormatArg {
    #[default]
    Text,
    Json,
}

/// A time, or none for `off`.
#[derive(Clone, Copy, Debug)]
struct Lease(Option<Duration>);

fn lease(text: &str) -> Result<Lease, String> {
    if text == "off" {
        return Ok(Lease(None));
    }
    match duration::parse(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(Lease(Some(time))),
        Ok(_) => Err("at least 1s, or off".to_owned()),
        Err(e) => Err(format!("{e}, or off")),
    }
}

/// `NAMESPACE/NAME`.
fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}

/// Runs the agent until it is told to end. The exit code is 0, or 1 if it failed and the log, in JSON, says why.
///
/// # Errors
/// What kept it from running, as one chain, for the caller to print.
pub fn run(args: Args) -> anyhow::Result<u8> {
    ensure!(
        args.counters_every >= Duration::from_secs(1),
        "--counters-every: at least 1s"
    );
    ensure!(
        args.verify_every >= Duration::from_secs(1),
        "--verify-every: at least 1s"
    );
    ensure!(
        args.metrics_token_file.is_none() || args.health_listen.is_some() || args.api_listen.is_some(),
        "--metrics-token-file: nobody can come with the token; --health-listen or --api-listen says where /metrics are"
    );
    ensure!(
        args.api_listen.is_none() || args.from.is_none() || args.metrics_token_file.is_some(),
        "--api-listen: without a cluster nobody can say whose token it is; --metrics-token-file FILE opens /metrics there, and the rest is \
         answered on the socket of this node"
    );
    let log_format = match args.log_format {
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
    };
    telemetry::init(log_format);
    let node = args.node.filter(|node| !node.is_empty());
    let from = match args.from {
        Some(origin) => From::Files(origin),
        None => From::Cluster(kube::Settings {
            kubeconfig: args.kubeconfig,
            node: node
                .clone()
                .context(
                    "nothing says where the policies come from: --from PATH for manifests; in a cluster, --node NAME (or \
                     NODE_NAME) has to say which node this is",
                )?,
            mesh_config_map: args.mesh_configmap,
        }),
    };
    let outcome = agent::run(Settings {
        from,
        interfaces: args.interface,
        node,
        on_exit: match args.on_exit {
            OnExitArg::Auto => OnExit::Auto,
            OnExitArg::Keep => OnExit::Keep,
            OnExitArg::Detach => OnExit::Detach,
        },
        observe: args.observe,
        xdp_mode: match args.xdp_mode {
            XdpModeArg::Native => XdpMode::Native,
            XdpModeArg::Generic => XdpMode::Generic,
        },
        packet_log: match args.packet_log {
            PacketLogArg::Off => PacketLog::Off,
            PacketLogArg::Drops => PacketLog::Drops,
            PacketLogArg::All => PacketLog::All,
        },
        refuse: match args.refuse {
            None => Refuse::default(),
            Some(RefuseArg::Drop) => Refuse::Drop,
            Some(RefuseArg::Reset) => Refuse::Reset,
        },
        drain: args.drain,
        lease: agent::LeaseSettings {
            lease: args.lease.0,
            pods: args.pod_lease.0,
        },
        never_drop: args.never_drop,
        counters_every: args.counters_every,
        verify_every: args.verify_every,
        aside: AsideSettings {
            state_dir: args.state_dir,
            health_listen: args.health_listen,
            api_listen: args.api_listen,
            metrics_token_file: args.metrics_token_file,
            own_daemonset: args
                .own_daemonset
                .zip(args.pod_namespace)
                .map(|(name, namespace)| kube::own::Name { namespace, name }),
            pod: args.pod_name.unwrap_or_default(),
        },
        log_format,
    });
    match (outcome, log_format) {
        (Ok(()), _) => Ok(0),
        (Err(e), LogFormat::Text) => Err(e.into()),
        // Whoever asked for JSON reads standard error by machine, to the last line.
        (Err(e), LogFormat::Json) => {
            tracing::error!(error = telemetry::chain(&e), "the agent failed");
            Ok(1)
        }
    }
}
