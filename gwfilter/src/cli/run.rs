//! `gwfilter run`.

use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;
use ipnet::IpNet;

use super::{From, address, duration};
use crate::agent::{self, OnExit, Settings};
use crate::dataplane::PacketLog;
use crate::dataplane::choice::XdpMode;
use crate::telemetry::{self, LogFormat};

/// Arguments of `gwfilter run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    from: From,
    /// Interface to serve; may be repeated. Without it: every card that is up and every device with a default route
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// Name of this node in the manifests; without it, a node that runs every gateway pod of the manifests
    #[arg(long, value_name = "NAME")]
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
    /// How long connections from before a tightening live on; Envoy drains them for 45 s
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "60s")]
    drain: Duration,
    /// Sources that no gateway may drop
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', value_parser = address::network)]
    never_drop: Vec<IpNet>,
    /// Time between counter lines
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "30s")]
    counters_every: Duration,
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

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormatArg {
    #[default]
    Text,
    Json,
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
    let log_format = match args.log_format {
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
    };
    telemetry::init(log_format);
    let outcome = agent::run(Settings {
        from: args.from.from,
        interfaces: args.interface,
        node: args.node,
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
        drain: args.drain,
        never_drop: args.never_drop,
        counters_every: args.counters_every,
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
