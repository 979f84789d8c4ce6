//! `gwfilter unload`.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, ensure};

use super::Output;
use crate::dataplane::netlink::Netlink;
use crate::dataplane::pins::{self, Agent, BPFFS, interface_name};

/// Arguments of `gwfilter unload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Removes every pin of this network namespace and says what it removed. A running agent ends by itself.
///
/// # Errors
/// Something cannot be removed, or `out` cannot be written.
pub fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    // Only to know when they are gone; the removal does not depend on it.
    let programs = pins::xdp_programs().unwrap_or_default();
    let tc = pins::tc_programs().unwrap_or_default();
    let unloaded = pins::unload()
        .context("gwfilter cannot be taken off this network namespace (root, who put it on, can)")?;
    let (removed, agent) = (unloaded.links, unloaded.agent);
    let name = |ifindex| interface_name(ifindex).unwrap_or_else(|| "(gone)".to_owned());
    match args.output {
        Output::Json => {
            let list: Vec<_> = removed
                .iter()
                .map(|p| serde_json::json!({"interface": name(p.ifindex), "ifindex": p.ifindex, "hook": p.hook.name()}))
                .collect();
            writeln!(
                out,
                "{}",
                serde_json::json!({ "removed": list, "agent": agent.name() })
            )?;
        }
        Output::Text if removed.is_empty() && agent == Agent::None => {
            writeln!(
                out,
                "nothing to remove: no gwfilter link is pinned for this network namespace"
            )?;
            if !pins::mounted() {
                writeln!(
                    out,
                    "there is no bpffs at {BPFFS} to be seen from here; `ip netns exec` hides it, `nsenter --net=…` does not",
                )?;
            }
        }
        Output::Text => {
            for p in &removed {
                writeln!(
                    out,
                    "removed {} from {} (ifindex {})",
                    p.hook.name(),
                    name(p.ifindex),
                    p.ifindex
                )?;
            }
            match agent {
                Agent::None => {}
                Agent::Ended => writeln!(out, "the agent that ran here has ended")?,
                Agent::Remains => writeln!(
                    out,
                    "the agent that ran here has not ended yet (is it frozen?); it can attach nothing that lasts, and ends when it goes on"
                )?,
            }
        }
    }
    ensure!(
        gone(&programs)? && pins::tc_gone(&tc),
        "the pins are removed, but the kernel still shows a program of them (`ip link`, `bpftool net`): another process holds it; end it"
    );
    Ok(())
}

/// Waits until the kernel has detached what was removed.
fn gone(programs: &BTreeSet<u32>) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let (mut netlink, _changes) = Netlink::open()?;
        Ok(netlink.gone(programs).await?)
    })
}
