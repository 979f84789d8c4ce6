//! `gwfilter status`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::{Output, written};
use crate::agent;
use crate::dataplane::control::{Control, now_ns};
use crate::dataplane::pins::{self, interface_name};
use crate::dataplane::tables;
use crate::status::{self, Attached, Left, Status};

/// Arguments of `gwfilter status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that the agent was given by the same flag
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gwfilter")]
    state_dir: PathBuf,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Says what is attached in this network namespace, and what the agent left.
///
/// # Errors
/// The pins cannot be read, or `out` cannot be written.
pub fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let context = "what is attached here cannot be read (root can)";
    let attached = pins::attached().context(context)?;
    let running = pins::held().context(context)?;
    let name = |ifindex| interface_name(ifindex).unwrap_or_else(|| "(gone)".to_owned());
    let status = Status {
        agent: if running { "running" } else { "not-running" },
        attached: attached
            .into_iter()
            .map(|pin| Attached {
                interface: name(pin.ifindex),
                ifindex: pin.ifindex,
                hook: pin.hook.name(),
            })
            .collect(),
        control: control().context(context)?,
        generation: tables::in_force(&pins::roots().context(context)?),
        last: last(&args.state_dir),
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let text = match args.output {
        Output::Json => serde_json::to_string(&status)? + "\n",
        Output::Text => status.text(now),
    };
    written(out.write_all(text.as_bytes())).map(|_| ())
}

/// Lease and pause. A map that cannot be opened is told, for what is attached is known all the same.
fn control() -> anyhow::Result<Option<status::Control>> {
    let Some(path) = pins::controls()?.into_iter().next() else {
        return Ok(None);
    };
    let words = Control::open(&path)?.words()?;
    Ok(Some(status::Control::of(words, now_ns())))
}

/// The newest of what agents left.
fn last(state_dir: &Path) -> Option<Left> {
    let read = |dir: &Path| serde_json::from_slice::<Left>(&agent::left(dir)?).ok();
    [state_dir, Path::new(agent::RUN_DIR)]
        .into_iter()
        .filter_map(read)
        .max_by_key(|left| left.written_at)
}
