//! A site, an agent on its node, and the streams that run while something happens.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use xtask::foreign;
use xtask::manifests::{self, ingress_policy};
use xtask::meter::{End, Fate, Meter, Stream};
use xtask::process::Process;
use xtask::site::{
    NIC, NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, POD_V6, Site, VIP_PORT, VIP_V4, VIP_V6, destination,
};

use crate::events::Event;
use crate::table::Row;

/// How long a change may take to show.
const SOON: Duration = Duration::from_secs(60);
/// How long the streams run before and after what happens.
const CALM: Duration = Duration::from_millis(300);
/// How long an event is repeated in the long form.
const LONG: Duration = Duration::from_secs(15);
/// Frames a second, of each stream; 10,000 are promised.
const RATE: u32 = 11_000;

/// Sources: those that the policy lets in, and others.
const ALLOWED: [&str; 2] = ["192.0.2.0", "2001:db8:b::"];
const ALLOWED_NETS: [&str; 2] = ["192.0.2.0/25", "2001:db8:b::/64"];
const DENIED: [&str; 2] = ["198.51.100.0", "2001:db8:a::"];
const SOURCES: u32 = 128;

/// The file of the policy that both streams hang on.
pub(crate) const POLICY: &str = "ingress-policy.yaml";

/// Where our program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// In the driver.
    Xdp,
    /// In TC, as somebody else's XDP program is there.
    Tcx,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
        }
    }
}

/// What an event is done to.
pub(crate) struct Bench<'a> {
    pub(crate) site: &'a Site,
    pub(crate) agent: Process,
    pub(crate) meter: Meter<'a>,
    /// The flags of the event.
    flags: Vec<&'static str>,
}

impl Bench<'_> {
    /// Builds a site, lets the event happen while the streams run, and counts.
    pub(crate) fn measure(event: &Event, hook: Hook, full: bool) -> Result<Row> {
        let site = Site::without_gateway()?;
        site.write("cluster.yaml", &manifests::cluster())?;
        site.write(POLICY, &policy())?;
        if hook == Hook::Tcx {
            foreign::attach_xdp(&site.node, NIC)?;
        }
        (event.prepare)(&site)?;
        let flags = event.flags.to_vec();
        // Frames before the first attachment are not sent.
        let agent = start(&site, &flags)?;
        let on = format!("hook=\"{}\"", hook.name());
        if !agent.log().contains(&on) {
            anyhow::bail!("the agent is not on this hook:\n{}", agent.tail());
        }
        let from = End {
            namespace: &site.router,
            device: "to-node",
        };
        let to = End {
            namespace: &site.node,
            device: NIC,
        };
        let meter = Meter::start(from, to, streams()?, RATE)?;
        let mut bench = Bench {
            site: &site,
            agent,
            meter,
            flags,
        };
        bench.calm()?;
        let began = Instant::now();
        let mut times = 0;
        let outcome = loop {
            let done = (event.act)(&mut bench).and_then(|()| bench.calm());
            times += 1;
            if done.is_err() || !full || event.once || began.elapsed() >= LONG {
                break done;
            }
        };
        let Bench { mut agent, meter, .. } = bench;
        let outcome = outcome
            .and_then(|()| meter.stop())
            .and_then(|counted| match agent.status() {
                Some(status) => Err(anyhow::anyhow!("the agent has ended ({status})")),
                None => Ok(counted),
            });
        let counted = outcome.with_context(|| format!("agent:\n{}", agent.tail()))?;
        Ok(Row::new(event, hook, times, &counted))
    }

    /// Lets the streams run.
    pub(crate) fn calm(&self) -> Result<()> {
        self.meter.run_for(CALM)
    }

    /// Ends the agent by a signal, and starts another one with these flags besides the event's own.
    pub(crate) fn restart(&mut self, signal: Signal, more: &[&str]) -> Result<()> {
        self.agent.signal(signal)?;
        self.agent.wait_exit(SOON)?;
        self.start(more)
    }

    /// Starts another agent, with these flags besides the event's own. The one before has ended.
    pub(crate) fn start(&mut self, more: &[&str]) -> Result<()> {
        self.agent = start(self.site, &[&self.flags, more].concat())?;
        Ok(())
    }

    /// Does something, and waits until the agent has brought another generation into force.
    pub(crate) fn generation(&mut self, change: impl FnOnce(&Site) -> Result<()>) -> Result<()> {
        self.told("generation in force", change)
    }

    /// Does something, and waits until the agent has said this once more.
    pub(crate) fn told(&mut self, what: &str, change: impl FnOnce(&Site) -> Result<()>) -> Result<()> {
        let before = self.agent.log().matches(what).count();
        change(self.site)?;
        self.agent.wait_log(what, SOON, |log| {
            (log.matches(what).count() > before).then_some(())
        })
    }

    /// `gwfilter unload` on the node.
    pub(crate) fn unload(&mut self) -> Result<()> {
        self.site.node.run(&binary().display().to_string(), &["unload"])?;
        self.agent.wait_exit(SOON)?;
        self.start(&[])
    }
}

/// The policy that both streams hang on: what is not allowed is denied.
pub(crate) fn policy() -> String {
    ingress_policy("ALLOW", "ipBlocks", &ALLOWED_NETS)
}

/// A stream for each family and fate, to every address of the gateway.
fn streams() -> Result<Vec<Stream>> {
    let to = [
        [(VIP_V4, VIP_PORT), (NODE_V4, NODE_PORT), (POD_V4, POD_PORT)],
        [(VIP_V6, VIP_PORT), (NODE_V6, NODE_PORT), (POD_V6, POD_PORT)],
    ];
    let mut streams = Vec::new();
    for (fate, what, sources) in [
        (Fate::Never, "denied", DENIED),
        (Fate::Always, "allowed", ALLOWED),
    ] {
        for ((first, to), family) in sources.iter().zip(to).zip(["IPv4", "IPv6"]) {
            let to = to.iter().map(|(address, port)| destination(address, *port));
            streams.push(Stream {
                name: format!("{what} {family}"),
                fate,
                first: first.parse().context("an address")?,
                sources: SOURCES,
                to: to.collect::<Result<_>>()?,
            });
        }
    }
    Ok(streams)
}

/// Starts an agent and waits until it serves.
fn start(site: &Site, flags: &[&str]) -> Result<Process> {
    let from = site.manifests().display().to_string();
    let mut arguments = vec!["run", "--from", &from, "--interface", NIC, "--on-exit", "keep"];
    arguments.extend(flags);
    let mut agent = site.start("gwfilter run", &binary(), &arguments)?;
    agent.wait_line("agent runs", SOON)?;
    Ok(agent)
}

/// The agent under test.
fn binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_gwfilter")).to_owned()
}
