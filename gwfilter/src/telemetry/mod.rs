//! Log set-up, counter lines, packet log, metrics.
//!
//! Messages are constant and in lower case; what varies is in fields. Only the packet log in text form is one sentence, since
//! people cut it up with the pipelines they know from Envoy's log.

pub mod counters;
pub mod metrics;
pub mod packet;

use std::error::Error;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged without `RUST_LOG`. Of the libraries nothing: what fails in them is told by whoever called them.
const FILTER: &str = "info,netlink_proto=error,netlink_packet_route=error,kube_client=off,kube_runtime=off";

/// Sends the log of this process to standard error. `RUST_LOG` chooses levels; without it, `info` and above.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(io::stderr);
    let done = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    // A test process has a log already.
    drop(done);
}

/// An error with its causes, as one line: `what: why: why`. A cause that its parent has said already is left out.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let cause = e.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = e.source();
    }
    text
}
