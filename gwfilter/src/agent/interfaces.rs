//! Which interfaces are served, and by which hook: followed as devices come and go.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info, warn};

use super::attach_failed;
use super::told::Told;
use crate::dataplane::Dataplane;
use crate::dataplane::attach::{AttachError, Attached, told};
use crate::dataplane::choice::{Lost, Wanted, World, XdpMode, lost, wanted};
use crate::dataplane::pins::{Hook, interface_name};
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
        let hooks = self.served.iter().map(|(i, s)| (*i, s.hook)).collect();
        for (ifindex, why) in lost(&hooks, &pins, world, &self.names) {
            let Some(Served { name, hook }) = self.served.remove(&ifindex) else {
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
        self.drop_leftovers(dataplane);
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
        let mut failures = Vec::new();
        for device in devices.iter().filter(|d| !indices.contains(&d.index)) {
            match dataplane.attach(device, self.mode) {
                Ok(attached) => {
                    log_attached(&device.name, device.index, &attached);
                    let served = Served {
                        name: device.name.clone(),
                        hook: attached.hook,
                    };
                    self.served.insert(device.index, served);
                }
                Err(e) => failures.push(e),
            }
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
                Err(e) => warn!(ifindex, error = chain(&e), "an old pin cannot be removed"),
            }
        }
    }

    /// `eth0(xdp) eth1(tcx)`.
    pub(super) fn summary(&self) -> String {
        let each = self
            .served
            .values()
            .map(|s| format!("{}({})", s.name, s.hook.name()));
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

fn log_attached(interface: &str, ifindex: u32, attached: &Attached) {
    let hook = attached.hook.name();
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
