//! `gwfilter unload`.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::progress::Progress;
use super::{Output, written};
use crate::dataplane::netlink::Netlink;
use crate::dataplane::pins::{self, Agent, BPFFS, interface_name};
use crate::dataplane::probe;

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
    let progress = Progress::new("taking it off and waiting for the agent to end", None);
    let unloaded = pins::unload()
        .context("gwfilter cannot be taken off this network namespace (root, who put it on, can)")?;
    drop(progress);
    for device in unloaded
        .links
        .iter()
        .filter_map(|pin| interface_name(pin.ifindex))
    {
        probe::sweep(&device);
    }
    let removed: Vec<Removed> = unloaded
        .links
        .iter()
        .map(|pin| Removed {
            interface: interface_name(pin.ifindex).unwrap_or_else(|| "(gone)".to_owned()),
            ifindex: pin.ifindex,
            hook: pin.hook.name(),
        })
        .collect();
    let text = match args.output {
        Output::Json => json(&removed, unloaded.agent),
        Output::Text => text(&removed, unloaded.agent, pins::mounted()),
    };
    // Whether somebody reads it or not: what follows is to be done.
    written(out.write_all(text.as_bytes()))?;
    let _progress = Progress::new("waiting until the kernel has detached the programs", None);
    ensure!(
        gone(&programs)? && pins::tc_gone(&tc),
        "the pins are removed, but the kernel still shows a program of them (`ip link`, `bpftool net`): another process holds it; end it"
    );
    Ok(())
}

/// A link that was removed.
#[derive(Debug, Serialize)]
struct Removed {
    interface: String,
    ifindex: u32,
    hook: &'static str,
}

fn json(removed: &[Removed], agent: Agent) -> String {
    format!(
        "{}\n",
        serde_json::json!({ "removed": removed, "agent": agent.name() })
    )
}

/// For people. `mounted`: there is a bpffs to be seen.
fn text(removed: &[Removed], agent: Agent, mounted: bool) -> String {
    let mut lines = Vec::new();
    if removed.is_empty() && agent == Agent::None {
        lines.push("nothing to remove: no gwfilter link is pinned for this network namespace".to_owned());
        if !mounted {
            lines.push(format!(
                "there is no bpffs at {BPFFS} to be seen from here; `ip netns exec` hides it, `nsenter --net=…` does not"
            ));
        }
    }
    for link in removed {
        lines.push(format!(
            "removed {} from {} (ifindex {})",
            link.hook, link.interface, link.ifindex
        ));
    }
    match agent {
        Agent::None => {}
        Agent::Ended => lines.push(
            "the agent that ran here has ended; a DaemonSet starts it again, and it attaches again. To stop drops: `gwfilter pause`; for good: delete the DaemonSet"
                .to_owned(),
        ),
        Agent::Remains => lines.push(
            "the agent that ran here has not ended yet: it is stuck (stopped or frozen?); nothing is enforced meanwhile, and it ends by itself as soon as it runs again"
                .to_owned(),
        ),
    }
    lines.join("\n") + "\n"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_off_then_what_is_said() {
        let removed = |interface: &str, ifindex, hook| Removed {
            interface: interface.to_owned(),
            ifindex,
            hook,
        };
        let both = [removed("eth0", 2, "xdp"), removed("(gone)", 7, "tcx")];
        insta::assert_snapshot!(text(&both, Agent::Ended, true), @r"
        removed xdp from eth0 (ifindex 2)
        removed tcx from (gone) (ifindex 7)
        the agent that ran here has ended; a DaemonSet starts it again, and it attaches again. To stop drops: `gwfilter pause`; for good: delete the DaemonSet
        ");
        insta::assert_snapshot!(text(&[], Agent::Remains, true), @"the agent that ran here has not ended yet: it is stuck (stopped or frozen?); nothing is enforced meanwhile, and it ends by itself as soon as it runs again");
        insta::assert_snapshot!(text(&[], Agent::None, true), @"nothing to remove: no gwfilter link is pinned for this network namespace");
        insta::assert_snapshot!(text(&[], Agent::None, false), @r"
        nothing to remove: no gwfilter link is pinned for this network namespace
        there is no bpffs at /sys/fs/bpf to be seen from here; `ip netns exec` hides it, `nsenter --net=…` does not
        ");
        insta::assert_snapshot!(json(&both, Agent::Ended), @r#"{"agent":"ended","removed":[{"hook":"xdp","ifindex":2,"interface":"eth0"},{"hook":"tcx","ifindex":7,"interface":"(gone)"}]}"#);
    }
}
