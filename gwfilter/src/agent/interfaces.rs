//! Which interfaces are served, and by which hook: followed as devices come and go.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info, warn};

use super::attach_failed;
use super::enforce::Apply;
use super::past::Shelf;
use super::told::Told;
use super::watch::{Watch, Weight};
use crate::dataplane::Dataplane;
use crate::dataplane::attach::{AttachError, Attached, in_the_way, told};
use crate::dataplane::choice::{Device, Lost, Wanted, World, XdpMode, lost, wanted};
use crate::dataplane::examine::Trouble;
use crate::dataplane::pins::{Hook, Pin, interface_name};
use crate::dataplane::tables::TablesError;
use crate::plan::{Counters, Op};
use crate::telemetry::chain;

/// Why no interface is served at the start.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// A name that no device has.
    #[error("there is no interface {}; there are: {}", missing.join(", "), there.join(", "))]
    Unknown {
        /// Names that no device has.
        missing: Vec<String>,
        /// Names that there are.
        there: Vec<String>,
    },
    /// Nothing could be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

#[derive(Debug)]
struct Served {
    name: String,
    hook: Hook,
    /// Where the TC program beside XDP sits, if it does.
    beside: Option<Hook>,
    mtu: Option<u32>,
}

impl Served {
    fn hooks(&self) -> String {
        let all = [Some(self.hook), self.beside].into_iter().flatten();
        all.map(Hook::name).collect::<Vec<_>>().join("+")
    }
}

/// The interfaces of this network namespace, as far as they are served.
#[derive(Debug)]
pub(super) struct Interfaces {
    names: Vec<String>,
    mode: XdpMode,
    served: BTreeMap<u32, Served>,
    failures: Told<String>,
    missing: Told<String>,
    idle: bool,
    /// Some destination is judged in TC everywhere.
    wants_tc: bool,
    beside_failures: Told<String>,
    limitations: Told<String>,
    /// The first interfaces are attached: from now on a new one is news.
    settled: bool,
    /// Interfaces that were served once and are still there.
    known: BTreeSet<u32>,
    /// Why a program with tables of an earlier agent may still be attached.
    stale: Option<String>,
    watch: Watch,
}

impl Interfaces {
    pub(super) fn new(names: Vec<String>, mode: XdpMode) -> Self {
        Self {
            names,
            mode,
            served: BTreeMap::new(),
            failures: Told::default(),
            missing: Told::default(),
            idle: false,
            wants_tc: false,
            beside_failures: Told::default(),
            limitations: Told::default(),
            settled: false,
            known: BTreeSet::new(),
            stale: None,
            watch: Watch::default(),
        }
    }

    /// Those that are served, by index and name.
    pub(super) fn devices(&self) -> Vec<Device> {
        let devices = self.served.iter().map(|(index, served)| Device {
            index: *index,
            name: served.name.clone(),
            ..Device::default()
        });
        devices.collect()
    }

    /// How often what was found otherwise than it was left.
    pub(super) fn finds(&self) -> BTreeMap<String, u64> {
        let counts = self.watch.counts().iter();
        counts.map(|(name, times)| ((*name).to_owned(), *times)).collect()
    }

    /// To count and say what was found.
    pub(super) const fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// Looks whether each program is attached, ours, and first in line, and puts right what is not: what was detached is attached by
    /// [`Self::follow`], which is to be called next.
    pub(super) fn verify(&mut self, world: &World, dataplane: &mut Dataplane) {
        if !dataplane.pins().present() {
            return;
        }
        let mut bare = BTreeSet::new();
        for (ifindex, served) in &mut self.served {
            let Some(device) = world.device(*ifindex) else {
                continue;
            };
            if device.mtu != served.mtu {
                let mtu = |m: Option<u32>| m.map_or_else(|| "unknown".to_owned(), |m| m.to_string());
                let what = format!("{} before, {} now", mtu(served.mtu), mtu(device.mtu));
                self.watch
                    .found("mtu-changed", Weight::Change, &served.name, &what);
                served.mtu = device.mtu;
            }
            let hooks = [Some(served.hook), served.beside];
            for hook in hooks.into_iter().flatten() {
                let trouble = match dataplane.examine(device, hook) {
                    Ok(None) => continue,
                    Ok(Some(trouble)) => trouble,
                    Err(e) => {
                        warn!(
                            interface = served.name,
                            hook = hook.name(),
                            error = chain(&e),
                            "whether the program is attached cannot be told"
                        );
                        continue;
                    }
                };
                let (weight, what) = match trouble {
                    Trouble::NotFirst(before) => (
                        Weight::Touched,
                        match dataplane.to_head(device, served.beside.is_some()) {
                            Ok(()) => {
                                format!("{before} TC programs were asked before ours; ours is first again")
                            }
                            Err(e) => format!(
                                "{before} TC programs are asked before ours, and it cannot be brought to the head: {}",
                                chain(&e)
                            ),
                        },
                    ),
                    Trouble::LinkDetached => (
                        Weight::Hole,
                        format!(
                            "somebody detached the {} program by force; it is being attached again",
                            hook.name()
                        ),
                    ),
                    Trouble::ProgramReplaced => (
                        Weight::Hole,
                        format!(
                            "another program is behind our {} link; ours is being put back",
                            hook.name()
                        ),
                    ),
                };
                self.watch.found(trouble.name(), weight, &served.name, &what);
                match trouble {
                    Trouble::NotFirst(_) => {}
                    Trouble::LinkDetached | Trouble::ProgramReplaced if served.hook == hook => {
                        bare.insert(*ifindex);
                    }
                    Trouble::LinkDetached | Trouble::ProgramReplaced => served.beside = None,
                }
            }
        }
        self.served.retain(|ifindex, _| !bare.contains(ifindex));
        match dataplane.verify_headers() {
            Ok(finds) => {
                for (name, what) in finds {
                    self.watch.found(name, Weight::Hole, "", &what);
                }
            }
            Err(e) => warn!(error = chain(&e), "what TC programs go on to cannot be looked at"),
        }
    }

    /// Whether every interface that the user named is there.
    pub(super) fn check(&self, world: &World) -> Result<(), InterfacesError> {
        let Wanted { missing, .. } = wanted(world, &self.names, &BTreeSet::new());
        if missing.is_empty() {
            return Ok(());
        }
        let there = world.devices.iter().map(|d| d.name.clone()).collect();
        Err(InterfacesError::Unknown { missing, there })
    }

    /// Attaches for the first time. If that fails everywhere, the agent has no work.
    pub(super) fn first(&mut self, world: &World, dataplane: &mut Dataplane) -> Result<(), InterfacesError> {
        let failures = self.attach_all(world, dataplane);
        if self.served.is_empty()
            && let Some(failure) = failures.into_iter().next()
        {
            return Err(failure.into());
        }
        self.drop_leftovers(dataplane);
        self.settled = true;
        Ok(())
    }

    /// Follows a change: what is new is attached, what is gone is forgotten, what failed or was lost is tried again.
    pub(super) fn follow(&mut self, world: &World, dataplane: &mut Dataplane) {
        if !dataplane.pins().present() {
            // Unloaded by somebody, so the agent is about to end.
            return;
        }
        let pins = match dataplane.pins().list() {
            Ok(pins) => pins,
            Err(e) => {
                warn!(error = chain(&e), "pins cannot be listed");
                return;
            }
        };
        for (ifindex, served) in &mut self.served {
            if let Some(hook) = served.beside
                && !pins.contains(&Pin {
                    ifindex: *ifindex,
                    hook,
                })
            {
                served.beside = None;
                let what = "somebody detached the TC program: what XDP leaves to TC was not enforced here; it is being attached again";
                self.watch.found("pin-removed", Weight::Hole, &served.name, what);
            }
        }
        let hooks = self.served.iter().map(|(i, s)| (*i, s.hook)).collect();
        for (ifindex, why) in lost(&hooks, &pins, world, &self.names) {
            let Some(Served { name, hook, .. }) = self.served.remove(&ifindex) else {
                continue;
            };
            match why {
                Lost::Gone => {
                    self.known.remove(&ifindex);
                    self.watch
                        .found("interface-gone", Weight::Touched, &name, "interface is gone");
                }
                Lost::Renamed => warn!(
                    interface = name,
                    ifindex, "interface has a name that is not to be served"
                ),
                Lost::Detached => {
                    let there = pins.contains(&Pin { ifindex, hook });
                    self.watch.found(
                        if there { "link-detached" } else { "pin-removed" },
                        Weight::Hole,
                        &name,
                        &format!(
                            "somebody detached the program: nothing was enforced here by {}; it is being attached again",
                            hook.name()
                        ),
                    );
                }
            }
        }
        for served in &mut self.served {
            if let Some(device) = world.device(*served.0)
                && device.name != served.1.name
            {
                info!(
                    interface = device.name,
                    was = served.1.name,
                    ifindex = device.index,
                    "interface has a new name"
                );
                served.1.name.clone_from(&device.name);
            }
        }
        self.attach_all(world, dataplane);
        if self.wants_tc {
            self.join_tc(dataplane);
        }
        self.drop_leftovers(dataplane);
    }

    /// Puts the TC program beside XDP wherever it is not, or takes it off everywhere.
    fn set_tc(&mut self, wanted: bool, dataplane: &mut Dataplane) {
        self.wants_tc = wanted;
        if wanted {
            self.join_tc(dataplane);
            return;
        }
        for (ifindex, served) in self.served.iter_mut().filter(|(_, s)| s.beside.is_some()) {
            match dataplane.detach_beside(*ifindex) {
                Ok(_) => {
                    served.beside = None;
                    info!(
                        interface = served.name,
                        ifindex, "nothing is left to TC any more: its program is detached"
                    );
                }
                Err(e) => warn!(
                    interface = served.name,
                    error = chain(&e),
                    "the TC program cannot be detached; it judges nothing"
                ),
            }
        }
    }

    fn join_tc(&mut self, dataplane: &mut Dataplane) {
        let mut failures = Vec::new();
        for (ifindex, served) in &mut self.served {
            if served.beside.is_some() || !served.hook.is_xdp() {
                continue;
            }
            let device = Device {
                index: *ifindex,
                name: served.name.clone(),
                ..Device::default()
            };
            match dataplane.attach_beside(&device) {
                Ok(hook) => {
                    served.beside = Some(hook);
                    let hook = served.hooks();
                    info!(interface = served.name, ifindex, hook, "attached");
                }
                Err(e) => failures.push(chain(&e)),
            }
        }
        self.tell_tc(failures, dataplane);
    }

    /// Says once what TC cannot do here.
    fn tell_tc(&mut self, failures: Vec<String>, dataplane: &Dataplane) {
        for text in self.beside_failures.update(failures).new {
            error!(
                error = text,
                "what XDP leaves to TC (PROXY headers, resets) is left to the gateway on this interface"
            );
        }
        let limitations = if self.wants_tc {
            dataplane.limitations()
        } else {
            Vec::new()
        };
        for text in self.limitations.update(limitations).new {
            warn!(limitation = text, "not everything can be enforced on this kernel");
        }
    }

    fn attach_all(&mut self, world: &World, dataplane: &mut Dataplane) -> Vec<AttachError> {
        let indices = self.served.keys().copied().collect();
        let Wanted { devices, missing } = wanted(world, &self.names, &indices);
        for name in self.missing.update(missing).new {
            warn!(
                interface = name,
                "interface is not there; it is served as soon as it is"
            );
        }
        // Where names are given, those that are missing have been told.
        if devices.is_empty() && !self.idle && self.names.is_empty() {
            warn!(
                "no interface to serve: no card is up and no device has a default route; name one with --interface"
            );
        }
        self.idle = devices.is_empty();
        let (mut failures, mut without_tc) = (Vec::new(), Vec::new());
        for device in devices.iter().filter(|d| !indices.contains(&d.index)) {
            match dataplane.attach(device, self.mode, self.wants_tc) {
                Ok(attached) => {
                    let served = Served {
                        name: device.name.clone(),
                        hook: attached.hook,
                        beside: *attached.beside.as_ref().unwrap_or(&None),
                        mtu: device.mtu,
                    };
                    log_attached(&device.name, device.index, &served.hooks(), &attached);
                    if self.settled && !attached.adopted && !self.known.contains(&device.index) {
                        self.watch.found(
                            "interface-new",
                            Weight::Change,
                            &device.name,
                            "interface is served",
                        );
                    }
                    if !attached.foreign.is_empty() {
                        self.watch.found(
                            "foreign-xdp",
                            Weight::Touched,
                            &device.name,
                            &format!("another XDP program is attached{}", in_the_way(&attached.foreign)),
                        );
                    }
                    self.known.insert(device.index);
                    self.served.insert(device.index, served);
                    without_tc.extend(attached.beside.err().map(|e| chain(&e)));
                }
                Err(e) => failures.push(e),
            }
        }
        if self.wants_tc {
            self.tell_tc(without_tc, dataplane);
        }
        for text in self.failures.update(failures.iter().map(attach_failed)).new {
            error!(error = text, "interface is not served");
        }
        failures
    }

    /// Whether every program that asks our lease has our tables.
    pub(super) fn vouched(&self) -> Result<(), String> {
        self.stale.clone().map_or(Ok(()), Err)
    }

    /// Removes pins of interfaces that are gone, or that this agent does not or cannot serve: their tables would never
    /// change again, and a stale refusal is worse than none.
    fn drop_leftovers(&mut self, dataplane: &mut Dataplane) {
        self.stale = self.try_drop_leftovers(dataplane).err();
    }

    fn try_drop_leftovers(&self, dataplane: &mut Dataplane) -> Result<(), String> {
        let pins = dataplane.pins().list().map_err(|e| {
            warn!(error = chain(&e), "pins cannot be listed");
            format!(
                "whether an earlier agent's programs are attached cannot be told: {}",
                chain(&e)
            )
        })?;
        let left: BTreeSet<u32> = pins
            .iter()
            .map(|p| p.ifindex)
            .filter(|i| !self.served.contains_key(i))
            .collect();
        for ifindex in left {
            let removed = dataplane.detach(ifindex).map_err(|e| {
                warn!(ifindex, error = chain(&e), "an old pin cannot be removed");
                format!("a program with old tables cannot be detached: {}", chain(&e))
            })?;
            let hooks: Vec<&str> = removed.iter().map(|p| p.hook.name()).collect();
            let interface = interface_name(ifindex).unwrap_or_else(|| "(gone)".to_owned());
            info!(
                interface,
                ifindex,
                hooks = hooks.join(" "),
                "detached from an interface that is not served"
            );
        }
        // Only now is no link of an earlier agent left that could need them.
        match dataplane.forget_earlier_agents() {
            Ok(links) => {
                for pin in links {
                    let interface = interface_name(pin.ifindex).unwrap_or_else(|| "(gone)".to_owned());
                    info!(
                        interface,
                        ifindex = pin.ifindex,
                        hook = pin.hook.name(),
                        "detached what an agent of another version left"
                    );
                }
            }
            // Those of another ABI ask a lease of their own, which nobody renews.
            Err(e) => warn!(error = chain(&e), "an old pin cannot be removed"),
        }
        Ok(())
    }

    /// `eth0(xdp+tcx) eth1(tcx)`.
    pub(super) fn summary(&self) -> String {
        let each = self.served.values().map(|s| format!("{}({})", s.name, s.hooks()));
        each.collect::<Vec<_>>().join(" ")
    }

    /// How many are served.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.served.len()).unwrap_or(u64::MAX)
    }

    /// Whether something is served, or nothing is to be.
    pub(super) fn content(&self) -> bool {
        !self.served.is_empty() || (self.idle && self.names.is_empty())
    }

    pub(super) fn name(&self, ifindex: u32) -> String {
        self.served
            .get(&ifindex)
            .map_or_else(|| ifindex.to_string(), |s| s.name.clone())
    }
}

/// The kernel's tables, with the programs that they need.
pub(super) struct Kernel<'a> {
    pub(super) dataplane: &'a mut Dataplane,
    pub(super) interfaces: &'a mut Interfaces,
    pub(super) shelf: &'a mut Shelf,
}

impl Apply for Kernel<'_> {
    /// The TC program is there before a generation that needs it, and goes after one that does not.
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<TablesError>, TablesError> {
        let wants_tc = ops.iter().rev().find_map(|op| match op {
            Op::Swap { root } => Some(root.wants_tc()),
            _ => None,
        });
        if wants_tc == Some(true) {
            self.interfaces.set_tc(true, self.dataplane);
        }
        let not_freed = self.dataplane.tables().apply(ops)?;
        if wants_tc == Some(false) {
            self.interfaces.set_tc(false, self.dataplane);
        }
        Ok(not_freed)
    }

    fn note(&mut self, counters: &Counters) {
        self.shelf.note(counters);
    }
}

fn log_attached(interface: &str, ifindex: u32, hook: &str, attached: &Attached) {
    info!(interface, ifindex, hook, adopted = attached.adopted, "attached");
    if !attached.refusals.is_empty() {
        warn!(
            interface,
            hook,
            refused = told(&attached.refusals),
            "better hooks were refused"
        );
    }
}
