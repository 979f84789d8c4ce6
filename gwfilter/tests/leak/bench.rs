//! A site, an agent on its node, and the streams that run while something happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use xtask::cluster::tools::Crds;
use xtask::cluster::{Cluster, objects};
use xtask::foreign;
use xtask::meter::{End, Meter};
use xtask::poll;
use xtask::process::Process;
use xtask::site::{NIC, NODE, POD_PORT, POD_V4, POD_V6, Site};

use crate::events::{Event, OTHER_BUILD};
use crate::streams::{Mode, policy};
use crate::table::Row;

/// How long a change may take to show.
const SOON: Duration = Duration::from_secs(60);
/// How long the streams run before and after what happens.
const CALM: Duration = Duration::from_millis(300);
/// How long an event is repeated in the long form.
const LONG: Duration = Duration::from_secs(5);

/// The file of the policy that all streams hang on.
pub(crate) const POLICY: &str = "ingress-policy.yaml";

/// Where our program sits, and what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// In the driver.
    Xdp,
    /// In TC, as somebody else's XDP program is there.
    Tcx,
    /// In TC beside our XDP program, at PROXY headers.
    Proxy,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
            Self::Proxy => "tcx, PROXY",
        }
    }

    fn mode(self) -> Mode {
        match self {
            Self::Xdp | Self::Tcx => Mode::Local,
            Self::Proxy => Mode::Proxy,
        }
    }
}

/// Where the agent's objects come from.
enum Origin {
    /// The site's folder.
    Files,
    /// An API server, and a directory for the agent's own state.
    Cluster(Box<Cluster>, TempDir),
}

/// What an event is done to.
pub(crate) struct Bench<'a> {
    pub(crate) site: &'a Site,
    pub(crate) agent: Process,
    pub(crate) meter: Meter<'a>,
    /// The flags of the event.
    flags: Vec<&'static str>,
    origin: Origin,
}

impl Bench<'_> {
    /// Builds a site, lets the event happen while the streams run, and counts.
    pub(crate) fn measure(event: &Event, hook: Hook, full: bool) -> Result<Row> {
        let site = Site::without_gateway()?;
        let mode = hook.mode();
        site.write("cluster.yaml", &mode.cluster())?;
        site.write(POLICY, &policy())?;
        if hook == Hook::Tcx {
            foreign::attach_xdp(&site.node, NIC)?;
        }
        (event.prepare)(&site)?;
        let flags = event.flags.to_vec();
        let origin = if event.kube {
            cluster(&site, mode)?
        } else {
            Origin::Files
        };
        // Frames before the first attachment are not sent.
        let agent = start(&binary(), &site, &origin, &flags, Some(hook))?;
        let from = End {
            namespace: &site.router,
            device: "to-node",
        };
        let to = End {
            namespace: &site.node,
            device: NIC,
        };
        let meter = Meter::start(from, to, mode.streams()?, mode.rate())?;
        let mut bench = Bench {
            site: &site,
            agent,
            meter,
            flags,
            origin,
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
        let counted = outcome.and_then(|()| match agent.status() {
            Some(status) => bail!("the agent has ended ({status})"),
            None => meter.stop(),
        });
        let counted = counted.with_context(|| format!("agent:\n{}", agent.tail()))?;
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

    /// Ends the agent, and starts one of another build.
    pub(crate) fn restart_other(&mut self) -> Result<()> {
        let binary = std::env::var_os(OTHER_BUILD).context("no other build")?;
        self.agent.signal(Signal::SIGTERM)?;
        self.agent.wait_exit(SOON)?;
        self.agent = start(Path::new(&binary), self.site, &self.origin, &self.flags, None)?;
        Ok(())
    }

    /// Starts another agent, with these flags besides the event's own. The one before has ended.
    pub(crate) fn start(&mut self, more: &[&str]) -> Result<()> {
        self.agent = start(
            &binary(),
            self.site,
            &self.origin,
            &[&self.flags, more].concat(),
            None,
        )?;
        Ok(())
    }

    /// Does something, and waits until the agent has brought another generation into force.
    pub(crate) fn generation(&mut self, change: impl FnOnce(&Site) -> Result<()>) -> Result<()> {
        self.told(&["generation in force"], change)
    }

    /// Does something, and waits until the agent has said once more a line with these words.
    pub(crate) fn told(&mut self, words: &[&str], change: impl FnOnce(&Site) -> Result<()>) -> Result<()> {
        let count = |log: &str| {
            let said = |line: &&str| words.iter().all(|word| line.contains(word));
            log.lines().filter(said).count()
        };
        let before = count(&self.agent.log());
        change(self.site)?;
        self.agent
            .wait_log(&words.join(" "), SOON, |log| (count(log) > before).then_some(()))
    }

    /// Somebody watches for a moment: each program is exchanged for the one that samples, and back.
    pub(crate) fn watch(&mut self) -> Result<()> {
        let mut monitor = None;
        self.told(&["verdicts are sampled"], |site| {
            monitor = Some(site.start("gwfilter monitor", &binary(), &["monitor"])?);
            Ok(())
        })?;
        let mut monitor = monitor.context("nobody watches")?;
        monitor.wait_line("watching verdicts", SOON)?;
        self.told(&["verdicts are not sampled"], |_| {
            monitor.interrupt(SOON)?;
            Ok(())
        })
    }

    /// The API server goes away, and comes back when `meanwhile` is done.
    pub(crate) fn without_api(&mut self, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let api = |bench: &mut Self, what: fn(&mut Cluster) -> Result<()>| match &mut bench.origin {
            Origin::Files => bail!("there is no API server"),
            Origin::Cluster(cluster, _) => what(cluster),
        };
        api(self, Cluster::stop_hard)?;
        let done = meanwhile(self);
        api(self, Cluster::restart)?;
        done
    }

    /// `gwfilter unload` on the node, and another agent.
    pub(crate) fn unload(&mut self) -> Result<()> {
        self.site.node.run(&binary().display().to_string(), &["unload"])?;
        self.agent.wait_exit(SOON)?;
        self.start(&[])
    }
}

/// A cluster with the site's gateway and the policy, and a cable to the site's router.
fn cluster(site: &Site, mode: Mode) -> Result<Origin> {
    let cluster = Cluster::start()?;
    cluster.join(&site.router, "to-control")?;
    for crds in Crds::ALL {
        cluster.install(crds)?;
    }
    for namespace in ["istio-system", "foo"] {
        cluster.namespace(namespace)?;
    }
    // As in a cluster where no source is exempt: else a default-deny is observed only.
    let annotated = mode.cluster().replacen(
        "  namespace: istio-system\n",
        "  namespace: istio-system\n  annotations: {gwfilter.io/never-drop: \"\"}\n",
        1,
    );
    cluster.put_manifest(&annotated)?;
    for address in [POD_V4, POD_V6] {
        let address = address.parse().context("an address")?;
        let endpoint = (address, NODE, "istio-ingressgateway-7d9c6b8f5-x2x9k");
        let mut slice = objects::endpoint_slice(
            "istio-system",
            "istio-ingressgateway",
            ("http2", POD_PORT),
            &[endpoint],
        );
        if address.is_ipv6()
            && let Some(name) = slice.pointer_mut("/metadata/name")
        {
            *name = "istio-ingressgateway-ipv6".into();
        }
        if address.is_ipv6()
            && let Some(family) = slice.get_mut("addressType")
        {
            *family = "IPv6".into();
        }
        cluster.put(&slice)?;
    }
    cluster.apply(&policy())?;
    Ok(Origin::Cluster(Box::new(cluster), tempfile::tempdir()?))
}

/// Starts an agent and waits until it serves; the first one, until it enforces by `hook`.
fn start(binary: &Path, site: &Site, origin: &Origin, flags: &[&str], hook: Option<Hook>) -> Result<Process> {
    let (from, state) = match origin {
        Origin::Files => (site.manifests().to_owned(), None),
        Origin::Cluster(cluster, state) => (
            cluster.admin_kubeconfig(),
            Some(state.path().display().to_string()),
        ),
    };
    let from = from.display().to_string();
    let mut arguments = vec!["run", "--interface", NIC, "--on-exit", "keep"];
    match &state {
        None => arguments.extend(["--from", &from]),
        Some(state) => arguments.extend(["--kubeconfig", &from, "--node", NODE, "--state-dir", state]),
    }
    arguments.extend(flags);
    let mut agent = site.start("gwfilter run", binary, &arguments)?;
    agent.wait_line("agent runs", SOON)?;
    if let Some(hook) = hook {
        agent.wait_line("gateway is enforced", SOON)?;
        let on = match hook {
            Hook::Xdp => "hook=\"xdp\"",
            Hook::Tcx => "hook=\"tcx\"",
            Hook::Proxy => "hook=\"xdp+tcx\"",
        };
        if !agent.log().contains(on) {
            bail!("the agent is not on this hook:\n{}", agent.tail());
        }
        // The next agent may have nothing but what this one has put on the disk, a second after it came into force.
        if let Some(state) = &state {
            let snapshot = Path::new(state).join("snapshot.json");
            let saved = poll::until(SOON, || {
                let text = fs::read_to_string(&snapshot).ok()?;
                text.contains("ingress-policy").then_some(())
            });
            saved.with_context(|| format!("no snapshot:\n{}", agent.tail()))?;
        }
    }
    Ok(agent)
}

/// The agent under test.
fn binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_gwfilter")).to_owned()
}
