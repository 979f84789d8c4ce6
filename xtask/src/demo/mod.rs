//! `demo`: Istio's page "Ingress Access Control", walked through on this machine with the real agent.
//!
//! Everything is made in network namespaces and goes away at the end. Each step is checked; a surprise ends the demo
//! with the agent's last log lines and a failure. A second part puts a load balancer in front that writes PROXY headers.

mod proxy;
mod walk;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xtask::process::Process;
use xtask::rights;
use xtask::site::{self, CLIENT_V4, NIC, NODE, NODE_PORT, NODE_V4, POD_PORT, POD_V4, Site, VIP_PORT, VIP_V4};

use crate::run::say;
use crate::setup::{self, Part, Voice};
use crate::{build_ebpf, test};
use walk::{Variant, Walk};

/// How long a change may take to show.
pub(super) const SOON: Duration = Duration::from_secs(15);

/// The verb.
pub(crate) fn main() -> Result<()> {
    let began = Instant::now();
    rights::require_root()?;
    setup::ensure(&[Part::Ebpf, Part::Lab, Part::Envoy, Part::Proxy], Voice::Changes)?;
    let binary = build()?;
    first_part(&binary)?;
    proxy::second_part(&binary)?;
    say(format_args!(
        "\nAll steps went as they should. {} s in all.",
        began.elapsed().as_secs()
    ));
    Ok(())
}

/// The clients come straight to the node.
fn first_part(binary: &Path) -> Result<()> {
    let site = Site::new().context("building the demo's networks")?;
    picture();
    let mut agent = start(&site, binary)?;
    let walked = Variant::ALL
        .into_iter()
        .try_for_each(|variant| {
            Walk {
                site: &site,
                agent: &mut agent,
                variant,
            }
            .run()
        })
        .and_then(|()| counters(&mut agent))
        .and_then(|()| stop(&site, &mut agent));
    if let Err(error) = walked {
        say(format_args!("\nThe agent's last log lines:\n{}", agent.tail()));
        return Err(error);
    }
    Ok(())
}

/// The agent, with the eBPF object inside.
fn build() -> Result<PathBuf> {
    build_ebpf::build_if_stale()?;
    // As the tests have it, to the last feature: what one of the two has built serves the other whole.
    let (_, agent) = test::built(&["reference"])?;
    Ok(agent)
}

fn picture() {
    let [a, b] = CLIENT_V4;
    say(format_args!(
        "
gwfilter demo: Istio's \"Ingress Access Control\", enforced at the node's network card

  client-a {a} ──┐
                          ├── router ── {NIC} {NODE} {NODE_V4} ── gateway pod {POD_V4}:{POD_PORT}
  client-b {b}   ──┘

  The gateway is Service istio-ingressgateway (externalTrafficPolicy: Local): load balancer {VIP_V4}:{VIP_PORT}, node port {NODE_PORT}.
  A small HTTP server stands in Envoy's place: what reaches it gets a 200. What gwfilter refuses reaches nothing:
  the client sees no answer, its attempt times out. There is no 403, as nobody is there to send one.
"
    ));
}

fn start(site: &Site, binary: &Path) -> Result<Process> {
    let manifests = site.manifests().display().to_string();
    let arguments = [
        "run",
        "--from",
        &manifests,
        "--interface",
        NIC,
        "--packet-log",
        "all",
        "--counters-every",
        "2s",
    ];
    say(format_args!("On the node: $ gwfilter {}", arguments.join(" ")));
    let mut agent = site.start("gwfilter run", binary, &arguments)?;
    agent.wait_line("agent runs", SOON)?;
    if hook(site).is_none() {
        bail!(
            "gwfilter runs, but the kernel shows no XDP program at {NIC}:\n{}",
            agent.tail()
        );
    }
    for line in agent.log().lines() {
        say(format_args!("  | {line}"));
    }
    Ok(agent)
}

/// The line in which `ip` shows an XDP program at the node's device.
fn hook(site: &Site) -> Option<String> {
    let shown = site.node.ip(&["-details", "link", "show", NIC]).ok()?;
    shown
        .lines()
        .find(|line| line.contains("prog/xdp"))
        .map(|line| line.trim().to_owned())
}

/// Shows the last counter lines: one of the gateway and one of the policy's rule.
fn counters(agent: &mut Process) -> Result<()> {
    say(
        "\nWhat the agent counted (its log has such lines every 2 s here and every 30 s by default, where there was traffic):",
    );
    for kind in ["gateway traffic", "policy rule refused"] {
        let line = agent.wait_log(kind, SOON, |log| {
            log.lines()
                .rev()
                .find(|line| line.contains(kind))
                .map(ToOwned::to_owned)
        })?;
        say(format_args!("  | {line}"));
    }
    Ok(())
}

/// Ctrl-C takes everything off again.
fn stop(site: &Site, agent: &mut Process) -> Result<()> {
    say("\nCtrl-C for the agent: enforcement goes off with it");
    let status = agent.interrupt(SOON)?;
    if !status.success() {
        bail!("gwfilter ended with {status} after Ctrl-C");
    }
    if let Some(left) = hook(site) {
        bail!("a program is still attached to {NIC} after Ctrl-C: {left}");
    }
    let to = site::destination(VIP_V4, VIP_PORT)?;
    for client in site::Client::ALL {
        let answer = site.get(client, to);
        if !answer.arrived() {
            bail!("{} got `{answer}` with the agent gone", client.name());
        }
    }
    say("  no program is attached any more, and both clients get 200");
    Ok(())
}
