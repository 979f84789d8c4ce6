//! The event loop: objects, interfaces and addresses, deadlines, counters and signals in; tables, links and log lines out.
//!
//! One thread and one loop, so nothing is locked and the order of things is the order of this code. What is wanted is decided by the
//! pure modules; this one only sees to it that they are asked at the right time and that what failed is tried again.

mod api;
mod aside;
mod changes;
mod disk;
mod doctor;
mod enforce;
mod error;
mod exit;
mod feed;
mod figures;
mod health;
mod interfaces;
mod last_good;
mod lease;
mod look;
mod metrics;
mod numbers;
mod past;
mod pulse;
mod samples;
mod state;
mod tell;
mod told;
mod vouch;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aya_log::EbpfLogger;
use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

pub use api::socket;
pub use aside::{RUN_DIR, Settings as AsideSettings};
pub use enforce::EnforceError;
pub use error::AgentError;
pub use exit::OnExit;
pub use feed::From;
pub use interfaces::InterfacesError;
pub use lease::Settings as LeaseSettings;
pub use state::{counter_names, left};

use crate::dataplane::attach::AttachError;
use crate::dataplane::choice::XdpMode;
use crate::dataplane::control::now_ns;
use crate::dataplane::netlink::Netlink;
use crate::dataplane::pins::{self, PinsError};
use crate::dataplane::{Dataplane, PacketLog};
use crate::gateway;
use crate::index::Index;
use crate::node::NodeFacts;
use crate::notice;
use crate::pipeline::{self, Refuse};
use crate::plan::{self, Past};
use crate::telemetry::counters::Book;
use crate::telemetry::metrics::carry::Carry;
use crate::telemetry::metrics::groups::Groups;
use crate::telemetry::packet::Sink;
use crate::telemetry::{LogFormat, chain};

use api::{Api, Call, Shared, Tokens};
use aside::Aside;
use changes::Changes;
use enforce::Enforcer;
use exit::Cause;
use feed::Feed;
use health::Health;
use interfaces::{Interfaces, Kernel};
use lease::Lease;
use look::{ENTRIES, SLICES, Sweep};
use metrics::Metrics;
use past::Shelf;
use pulse::{Beat, Pulse};
use samples::Watchers;

/// After Cluster→Local, connections from before it show another peer address, and nothing drains them.
const REWRITTEN_DRAIN: Duration = Duration::from_secs(24 * 3600);
/// A burst of link and address changes is answered once, this long after its first one.
const NETWORK_REST: Duration = Duration::from_millis(200);
/// Time between two looks at the pins: somebody may have unloaded everything.
const PINS: Duration = Duration::from_millis(500);
/// Time between two looks at the packet log, if it is on. The kernel side writes no more than a hundred lines a second and CPU.
const PACKETS: Duration = Duration::from_millis(100);

/// What the user set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the objects come from.
    pub from: From,
    /// `--interface`; empty: chosen.
    pub interfaces: Vec<String>,
    /// `--node`.
    pub node: Option<String>,
    /// `--on-exit`.
    pub on_exit: OnExit,
    /// `--observe`.
    pub observe: bool,
    /// `--xdp-mode`.
    pub xdp_mode: XdpMode,
    /// `--packet-log`.
    pub packet_log: PacketLog,
    /// `--refuse`.
    pub refuse: Refuse,
    /// `--drain`.
    pub drain: Duration,
    /// `--lease`, `--pod-lease`.
    pub lease: LeaseSettings,
    /// `--never-drop`.
    pub never_drop: Vec<IpNet>,
    /// `--counters-every`.
    pub counters_every: Duration,
    /// `--verify-every`.
    pub verify_every: Duration,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// Snapshot, status, health, own DaemonSet.
    pub aside: AsideSettings,
}

/// What the loop waits for.
#[derive(Debug)]
enum Event {
    /// The index may mean something else.
    Changed,
    /// Time to look at the pins.
    Pins,
    /// Links or addresses change.
    NetworkStirs,
    /// They have come to rest, or it is time to look again.
    Network,
    /// Time to tell the counters.
    Counters,
    /// Time to look whether everything is as it was left.
    Verify,
    /// Time to go on reading or freeing tables.
    Slice,
    /// A drain window ends, or a failed attempt is to be repeated.
    Enforce,
    /// Time to look at the packet log.
    Packets,
    /// Time to look at samples of verdicts.
    Samples,
    /// Time to say and write what changed.
    Aside,
    /// Whether the view of the policies holds was asked.
    Beat(Beat),
    /// Somebody who may asks.
    Call(Call),
    /// A signal to end.
    Signal(Cause),
}

/// Runs until a signal comes, or somebody unloads gwfilter.
///
/// # Errors
/// It could not start, or not take enforcement off at the end. Once it runs, what fails is logged and tried again.
pub fn run(settings: Settings) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AgentError::Runtime)?;
    runtime.block_on(async {
        let (agent, wires) = Agent::start(settings).await?;
        agent.run(wires).await
    })
}

/// What the loop listens to.
struct Wires {
    network: mpsc::Receiver<()>,
    pulse: Pulse,
    calls: mpsc::Receiver<Call>,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

struct Agent {
    /// Closed before the lock of the dataplane is let go: what lies there then is the next agent's.
    api: Api,
    settings: Settings,
    index: Index,
    feed: Feed,
    netlink: Netlink,
    facts: NodeFacts,
    dataplane: Dataplane,
    enforcer: Enforcer,
    changes: Changes,
    interfaces: Interfaces,
    book: Book,
    carry: Carry,
    groups: Groups,
    suppressed: u64,
    packet_log: Option<(EbpfLogger<Sink>, Sink)>,
    network_error: Option<String>,
    aside: Aside,
    health: Health,
    lease: Lease,
    shelf: Shelf,
    sweep: Sweep,
    control_error: Option<String>,
    watchers: Watchers,
}

impl Agent {
    /// Reads, compiles, loads, applies; attaches last, so that no packet meets an empty program.
    async fn start(settings: Settings) -> Result<(Self, Wires), AgentError> {
        let interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Runtime)?;
        let terminate = signal(SignalKind::terminate()).map_err(AgentError::Runtime)?;
        let hangup = signal(SignalKind::hangup()).map_err(AgentError::Runtime)?;
        let health = Health::new(settings.aside.health_listen);
        let dir = settings.aside.state_dir.clone();
        let mut shelf = Shelf::new(dir.unwrap_or_else(|| RUN_DIR.into()), aside::namespace());
        let mut left = None;
        let mut dataplane = Dataplane::load_after(settings.packet_log, |maps| {
            left = shelf.read_counters(maps).map(|counters| (maps, counters));
            left.is_some()
        })?;
        if let Some(maps) = dataplane.counter_maps() {
            shelf.set_maps(maps);
        }
        let packet_log = match settings.packet_log {
            PacketLog::Off => None,
            PacketLog::Drops | PacketLog::All => {
                let sink = Sink::default();
                let reader = dataplane.packet_log(sink.clone())?;
                Some((reader, sink))
            }
        };

        let last_good = match (&settings.from, &settings.aside.state_dir) {
            (From::Cluster(_), Some(dir)) => {
                last_good::load(dir, settings.node.as_deref().unwrap_or_default())
            }
            _ => None,
        };
        let told = last_good.as_ref().map(|last| (last.age_secs, last.restarted));
        let mut index = last_good.map_or_else(Index::new, |last| last.index);
        let feed = Feed::open(&settings.from, &mut index, told.is_some()).await?;

        let (mut netlink, network) = Netlink::open()?;
        let world = netlink.world(settings.interfaces.is_empty()).await?;
        let facts = NodeFacts {
            name: settings.node.clone(),
            local_addresses: Some(world.addresses.clone()),
        };
        let plan = plan::Settings {
            drain_ms: millis(settings.drain),
            rewritten_drain_ms: millis(REWRITTEN_DRAIN),
        };
        let pipeline = pipeline::Settings {
            gateway: gateway::Settings {
                never_drop: settings.never_drop.clone(),
                from_files: settings.from.is_files(),
            },
            observe: settings.observe,
            refuse: settings.refuse,
        };
        let mut interfaces = Interfaces::new(settings.interfaces.clone(), settings.xdp_mode);
        interfaces.check(&world)?;
        let asked_at = now_ns();
        let adopted = dataplane.adopted();
        let words = dataplane.control().words()?;
        let past = left.as_ref().and_then(|(maps, _)| shelf.read_draining(*maps));
        let past = past.map_or_else(Past::default, |past| past::still(past, words, asked_at));
        let counters = left.as_ref().map(|(_, counters)| counters);
        let mut enforcer = Enforcer::new(plan, pipeline, counters, past);
        if settings.observe {
            warn!("observe mode: packets are judged and counted, none is dropped");
        }
        let lease = Lease::new(settings.lease);
        let words = lease.begin(adopted.control.then_some(words), asked_at);
        // Their map is not ours; what a person wants of the node is the same.
        let paused = dataplane.paused_elsewhere();
        let control = dataplane.control();
        if !adopted.control
            && let Some(until) = paused
        {
            control.pause(until)?;
        }
        control.lease(words.lease)?;
        control.pod_lease(words.pod_lease)?;
        let mut kernel = Kernel {
            dataplane: &mut dataplane,
            interfaces: &mut interfaces,
            shelf: &mut shelf,
        };
        enforcer.first(&index, &facts, &mut kernel)?;
        // From here on it is this agent's tables that packets meet, and what they do is its news: before it attaches, and says that it runs.
        let book = if adopted.counters {
            numbers::begun(enforcer.names(), dataplane.tables())
        } else {
            Book::default()
        };
        let mut changes = Changes::default();
        if enforcer.failure().is_some() {
            changes.came(Instant::now());
        }
        dataplane.keep()?;
        // From here on who pauses or resumes writes our map too. What was said while the tables were made was said to theirs alone.
        if let Some(until) = dataplane
            .paused_elsewhere()
            .filter(|until| Some(*until) != paused)
        {
            dataplane.control().pause(until)?;
        }
        look::compare(&mut dataplane);
        interfaces.first(&world, &mut dataplane)?;
        if let Some(unread) = feed.unread().filter(|unread| !unread.is_empty()) {
            let sources: Vec<&str> = unread.iter().map(String::as_str).collect();
            let sources = sources.join(", ");
            match told {
                Some((age, restarted)) => warn!(
                    sources,
                    age = last_good::age(age),
                    restarted,
                    "not read yet; the last good snapshot is in force for them"
                ),
                None => warn!(
                    sources,
                    "not read yet; what depends on them is left to the gateways"
                ),
            }
        }
        info!(from = %settings.from, pins = %dataplane.pins().dir().display(), "agent runs");
        let server = feed.client().zip(settings.node.as_deref());
        let (shared, calls) = Shared::new(settings.aside.state_dir.clone());
        let tokens = Tokens::new(settings.aside.metrics_token_file.clone(), feed.client()).map(Arc::new);
        health.open(Metrics::open(tokens.as_ref(), &shared));
        let api = Api::open(settings.aside.api_listen, tokens.as_ref(), &shared);
        let wires = Wires {
            network,
            pulse: Pulse::start(settings.lease.period(), server),
            calls,
            interrupt,
            terminate,
            hangup,
        };
        let mut aside = Aside::start(&settings.aside, settings.node.as_deref(), feed.client());
        aside.changed();
        let mut agent = Self {
            api,
            settings,
            index,
            feed,
            netlink,
            facts,
            dataplane,
            enforcer,
            changes,
            interfaces,
            book,
            carry: Carry::default(),
            groups: Groups::default(),
            suppressed: 0,
            packet_log,
            network_error: None,
            aside,
            health,
            lease,
            shelf,
            sweep: Sweep::default(),
            control_error: None,
            watchers: Watchers::default(),
        };
        // What was read at the start was read after this moment.
        agent.beat(Beat {
            at: asked_at,
            answer: Ok(()),
        });
        Ok((agent, wires))
    }

    async fn run(mut self, mut wires: Wires) -> Result<(), AgentError> {
        let mut look = interval(PINS);
        let mut counters = interval(self.settings.counters_every);
        let mut verify = interval(self.settings.verify_every);
        let (mut slice_at, mut unread): (Option<Instant>, usize) = (None, 0);
        let (mut packets, mut samples) = (interval(PACKETS), interval(samples::READ));
        for timer in [&mut look, &mut counters, &mut packets, &mut samples] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer.reset();
        }
        // The first look is at once: what was taken over may not be where it should be.
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut network_at: Option<Instant> = None;
        loop {
            self.health.turned();
            let ready = self.ready();
            if ready != self.health.ready() {
                self.health.set_ready(ready);
                self.aside.changed();
            }
            if slice_at.is_none() && (unread > 0 || self.dataplane.tables().has_old()) {
                slice_at = Some(Instant::now() + SLICES);
            }
            let (enforce_at, aside_at) = (self.enforcer.due(), self.aside.due());
            let event = tokio::select! {
                () = self.feed.changed(&mut self.index) => Event::Changed,
                _ = look.tick() => Event::Pins,
                Some(()) = wires.network.recv() => Event::NetworkStirs,
                () = at(network_at) => Event::Network,
                _ = counters.tick() => Event::Counters,
                _ = verify.tick() => Event::Verify,
                () = at(slice_at) => Event::Slice,
                () = at(enforce_at) => Event::Enforce,
                _ = packets.tick(), if self.packet_log.is_some() => Event::Packets,
                _ = samples.tick(), if self.watchers.any() => Event::Samples,
                () = at(aside_at) => Event::Aside,
                beat = wires.pulse.next() => Event::Beat(beat),
                Some(call) = wires.calls.recv() => Event::Call(call),
                _ = wires.interrupt.recv() => Event::Signal(Cause::Interrupt),
                _ = wires.terminate.recv() => Event::Signal(Cause::Terminate),
                _ = wires.hangup.recv() => Event::Signal(Cause::Hangup),
            };
            match event {
                Event::Changed => {
                    self.changes.came(self.feed.received());
                    self.enforce();
                }
                Event::Pins => {
                    if !self.dataplane.pins().present() {
                        warn!("gwfilter was unloaded by somebody else: enforcement is off, the agent ends");
                        return Ok(());
                    }
                    self.look_at_lease();
                    self.stop_sampling_if_unwatched();
                }
                Event::NetworkStirs => {
                    network_at.get_or_insert(Instant::now() + NETWORK_REST);
                }
                Event::Network => {
                    network_at = None;
                    self.network().await;
                }
                Event::Counters => {
                    self.tell_counters();
                    self.lease.tell_pause(now_ns());
                    // Messages can be lost, and default routes come and go without one.
                    self.network().await;
                }
                Event::Verify => {
                    unread = ENTRIES;
                    self.network_and(true).await;
                }
                Event::Slice => {
                    slice_at = None;
                    unread = self.slice(unread);
                }
                Event::Enforce => self.enforce(),
                Event::Packets => self.tell_packets(),
                Event::Samples => self.tell_samples(),
                Event::Aside => self.catch_up(),
                Event::Beat(beat) => self.beat(beat),
                Event::Call(call) => self.take(call),
                Event::Signal(cause) => {
                    self.tell_packets();
                    self.tell_counters();
                    return self.leave(cause).await;
                }
            }
        }
    }

    fn enforce(&mut self) {
        let (began, before) = (Instant::now(), self.enforcer.generation());
        let mut kernel = Kernel {
            dataplane: &mut self.dataplane,
            interfaces: &mut self.interfaces,
            shelf: &mut self.shelf,
        };
        self.enforcer.try_enforce(&self.index, &self.facts, &mut kernel);
        if self.enforcer.failure().is_none() {
            let swapped = self.enforcer.generation() != before;
            self.changes.done(Instant::now(), swapped);
        }
        self.feed.answered(began.elapsed());
        self.aside.changed();
    }

    /// Whether everything that is wanted is there; the error says what is missing.
    fn ready(&self) -> Result<(), String> {
        if let Some(failure) = self.enforcer.failure() {
            return Err(format!("the wanted tables are not in force: {failure}"));
        }
        if let Some(source) = self.feed.unread().and_then(BTreeSet::first) {
            return Err(format!("{source} was not read yet"));
        }
        if !self.interfaces.content() {
            return Err("no interface is served".to_owned());
        }
        self.lease.ready()
    }

    /// Says and writes what changed.
    fn catch_up(&mut self) {
        let left = self.left();
        // In force, and not only what the last one said.
        let good = (self.enforcer.failure().is_none() && self.feed.is_news()).then_some(&self.index);
        let notices = || self.enforcer.built().map(notice::select).unwrap_or_default();
        let draining = (self.shelf.clone(), self.enforcer.draining());
        self.aside.catch_up(good, &left, draining, notices);
    }

    async fn leave(mut self, cause: Cause) -> Result<(), AgentError> {
        // Who watched sees the end; what stays in force is what nobody watches.
        self.watchers = Watchers::default();
        self.stop_sampling_if_unwatched();
        let served = self.interfaces.summary();
        let node = self.settings.node.as_deref();
        let own = if exit::asks(self.settings.on_exit, cause) {
            let nodes = self.index.snapshot().nodes;
            let this = nodes.iter().find(|n| Some(n.meta.name.as_str()) == node);
            self.aside.fate(node, this.map(|n| &n.meta.labels)).await
        } else {
            None
        };
        let left = self.left();
        let good = (self.enforcer.failure().is_none() && self.feed.is_news()).then_some(&self.index);
        let draining = (self.shelf.clone(), self.enforcer.draining());
        self.aside.finish(good, &left, draining).await;
        drop(self.api);
        let (keeps, why) = exit::keeps(self.settings.on_exit, cause, own);
        if keeps {
            info!(
                cause = cause.name(),
                why,
                interfaces = served,
                "enforcement stays on without an agent, with the tables as they are; `gwfilter unload` takes it off"
            );
            return Ok(());
        }
        // Only to know when they are gone; the removal does not depend on it.
        let programs = pins::xdp_programs().unwrap_or_default();
        let tc = pins::tc_programs().unwrap_or_default();
        let pins = self.dataplane.pins().list().map_err(AgentError::Detach)?;
        // One that cannot be removed must not keep the others on.
        let failed = pins
            .iter()
            .filter_map(|pin| self.dataplane.pins().remove(*pin).err());
        let failed: Vec<PinsError> = failed.collect();
        if let Some(first) = failed.into_iter().next() {
            return Err(AgentError::Detach(first));
        }
        if !self.netlink.gone(&programs).await? || !pins::tc_gone(&tc) {
            warn!("pins are removed, but the kernel still shows a program of them");
        }
        info!(
            cause = cause.name(),
            why,
            interfaces = served,
            "enforcement is off; `gwfilter run` puts it on again"
        );
        self.dataplane.close();
        Ok(())
    }
}

/// Waits for a moment, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The moment that the planner calls `ms`.
fn moment(start: Instant, ms: u64) -> Option<Instant> {
    start.checked_add(Duration::from_millis(ms))
}

/// For people: why an interface is not served.
fn attach_failed(error: &AttachError) -> String {
    chain(error)
}
