//! Which interfaces are served, and by which hook: followed as devices come and go.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info, warn};

use super::attach_failed;
use super::enforce::Apply;
use super::past::Shelf;
use super::told::Told;
use crate::dataplane::Dataplane;
use crate::dataplane::attach::{AttachError, Attached, told};
use crate::dataplane::choice::{Device, Lost, Wanted, World, XdpMode, lost, wanted};
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
    /// The TC program sits beside XDP.
    beside: bool,
}

impl Served {
    fn hooks(&self) -> String {
        let beside = if self.beside { "+tcx" } else { "" };
        format!("{}{beside}", self.hook.name())
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
            let pin = Pin {
                ifindex: *ifindex,
                hook: Hook::Tcx,
            };
            if served.beside && !pins.contains(&pin) {
                served.beside = false;
                error!(
                    interface = served.name,
                    ifindex,
                    "somebody detached the TC program: what XDP leaves to TC was not enforced here; it is attached again"
                );
            }
        }
        let hooks = self.served.iter().map(|(i, s)| (*i, s.hook)).collect();
        for (ifindex, why) in lost(&hooks, &pins, world, &self.names) {
            let Some(Served { name, hook, .. }) = self.served.remove(&ifindex) else {
                continue;
            };
            match why {
                Lost::Gone => warn!(interface = name, ifindex, "interface is gone"),
                Lost::Renamed => warn!(
                    interface = name,
                    ifindex, "interface has a name that is not to be served"
                ),
                Lost::Detached => error!(
                    interface = name,
                    ifindex,
                    hook = hook.name(),
                    "somebody detached the program: nothing was enforced here; it is attached again"
                ),
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
        for (ifindex, served) in self.served.iter_mut().filter(|(_, s)| s.beside) {
            match dataplane.detach_beside(*ifindex) {
                Ok(_) => {
                    served.beside = false;
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
            if served.beside || served.hook == Hook::Tcx {
                continue;
            }
            let device = Device {
                index: *ifindex,
                name: served.name.clone(),
                ..Device::default()
            };
            match dataplane.attach_beside(&device) {
                Ok(()) => {
                    served.beside = true;
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
                        beside: matches!(attached.beside, Ok(true)),
                    };
                    log_attached(&device.name, device.index, &served.hooks(), &attached);
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

    /// Removes pins of interfaces that are gone, or that this agent does not or cannot serve: their tables would never
    /// change again, and a stale refusal is worse than none.
    fn drop_leftovers(&self, dataplane: &Dataplane) {
        let pins = match dataplane.pins().list() {
            Ok(pins) => pins,
            Err(e) => {
                warn!(error = chain(&e), "pins cannot be listed");
                return;
            }
        };
        let left: BTreeSet<u32> = pins
            .iter()
            .map(|p| p.ifindex)
            .filter(|i| !self.served.contains_key(i))
            .collect();
        for ifindex in left {
            match dataplane.detach(ifindex) {
                Ok(removed) => {
                    let hooks: Vec<&str> = removed.iter().map(|p| p.hook.name()).collect();
                    let interface = interface_name(ifindex).unwrap_or_else(|| "(gone)".to_owned());
                    info!(
                        interface,
                        ifindex,
                        hooks = hooks.join(" "),
                        "detached from an interface that is not served"
                    );
                }
                Err(e) => {
                    warn!(ifindex, error = chain(&e), "an old pin cannot be removed");
                    return;
                }
            }
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
            Err(e) => warn!(error = chain(&e), "an old pin cannot be removed"),
        }
    }

    /// `eth0(xdp+tcx) eth1(tcx)`.
    pub(super) fn summary(&self) -> String {
        let each = self.served.values().map(|s| format!("{}({})", s.name, s.hooks()));
        each.collect::<Vec<_>>().join(" ")
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
    for program in &attached.foreign {
        warn!(interface, program = %program, "another XDP program is attached; it is left alone");
    }
    if !attached.refusals.is_empty() {
        warn!(
            interface,
            hook,
            refused = told(&attached.refusals),
            "better hooks were refused"
        );
    }
}
