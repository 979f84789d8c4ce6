//! Gets the programs onto an interface, by the steps that [`super::choice`] lists, and pins the links.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;

use aya::Ebpf;
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{
    Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaMode, loaded_programs,
};
use gwfilter_common::abi::{TC_PROGRAM, TC_PROXY_PROGRAM};

use super::choice::{self, Device, Entry, Step, XdpMode, leftovers, other_mode, steps};
use super::clsact;
use super::headers::Headers;
use super::pins::{Hook, Pin, Pins, PinsError};
use super::twins::{Twins, entry_name};
use crate::telemetry::chain;

/// Why one step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The object lacks the program or the map.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// The kernel refused to load the program.
    #[error("the kernel does not load {program} ({log})")]
    Load {
        /// The program.
        program: &'static str,
        /// The end of the verifier's log.
        log: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the program here.
    #[error("refused")]
    Refused(#[source] Box<ProgramError>),
    /// The kernel cannot be asked what is in a map of programs, or in a line of them.
    #[error("the kernel does not say which programs are there")]
    Question(#[source] io::Error),
    /// A link that is not one.
    #[error("the kernel gave no link for it, and an attachment without one would die with the agent")]
    NoLink,
    /// The pinned link could not be opened.
    #[error("the pinned link cannot be opened")]
    Open(#[source] LinkError),
    /// The pin could not be replaced.
    #[error("the pin {path} cannot be replaced")]
    Rename {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The link could not be pinned.
    #[error("the link cannot be pinned at {path}")]
    Pin {
        /// Where.
        path: String,
        /// Why.
        source: PinError,
    },
}

impl StepError {
    /// The system's error number at the end of the chain.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let mut next: Option<&dyn Error> = Some(self);
        let mut errno = None;
        while let Some(e) = next {
            errno = e
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error)
                .or(errno);
            next = e.source();
        }
        errno
    }

    /// Whether somebody else's program is in the way.
    fn is_occupied(&self) -> bool {
        matches!(self.errno(), Some(libc::EBUSY | libc::EEXIST))
    }
}

/// What was tried in vain.
pub type Refusals = Vec<(Step, StepError)>;

/// Somebody else's XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its id, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Its name, where the rights allow to ask for it.
    pub name: Option<String>,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({})",
            self.id,
            self.name.as_deref().unwrap_or("name not readable")
        )
    }
}

/// A program is on the interface.
#[derive(Debug)]
pub struct Attached {
    /// Where.
    pub hook: Hook,
    /// An older agent's link was taken over, without a gap.
    pub adopted: bool,
    /// Better places that were refused.
    pub refusals: Refusals,
    /// Other people's XDP programs in the way.
    pub foreign: Vec<Foreign>,
    /// The TC program beside XDP: where it is, if it is there, or why not although it was asked for.
    pub beside: Result<Option<Hook>, BesideError>,
}

/// Why there is no TC program beside XDP.
#[derive(Debug, thiserror::Error)]
pub enum BesideError {
    /// Every way was refused.
    #[error("no TC program can be attached to {interface} beside XDP: {}", told(refusals))]
    Nowhere {
        /// The interface.
        interface: String,
        /// What was tried.
        refusals: Refusals,
    },
    /// Pins could not be read or removed.
    #[error("pins of {interface}")]
    Pins {
        /// The interface.
        interface: String,
        /// Why.
        source: PinsError,
    },
}

/// Why an interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Every way was refused.
    #[error(
        "no program can be attached to {interface}: {}{}",
        told(refusals),
        in_the_way(foreign)
    )]
    Nowhere {
        /// The interface.
        interface: String,
        /// What was tried.
        refusals: Refusals,
        /// Other people's XDP programs in the way.
        foreign: Vec<Foreign>,
    },
    /// Pins could not be read or removed.
    #[error("pins of {interface}")]
    Pins {
        /// The interface.
        interface: String,
        /// Why.
        source: PinsError,
    },
}

/// The refusals as one text.
#[must_use]
pub fn told(refusals: &Refusals) -> String {
    let one = |(step, error): &(Step, StepError)| format!("{}: {}", step.name(), chain(error));
    refusals.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The other people's programs as one text, with a leading separator; empty if there are none.
#[must_use]
pub fn in_the_way(foreign: &[Foreign]) -> String {
    if foreign.is_empty() {
        return String::new();
    }
    let list: Vec<String> = foreign.iter().map(ToString::to_string).collect();
    format!(
        "; XDP program {} is attached by somebody else and is left alone",
        list.join(" and ")
    )
}

/// What attaching needs.
pub(super) struct Kit<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) headers: &'a mut Headers,
    pub(super) pins: &'a Pins,
    /// Which of them are in place.
    pub(super) twins: &'a mut Twins,
    /// Numbers of the programs that this agent attached, with the names of the plain ones.
    pub(super) own: &'a mut BTreeMap<u32, &'static str>,
}

/// Attaches to `device`, taking over what an earlier agent left pinned there, and removes the pins that are then left over. Where
/// XDP judges and `beside_xdp` is asked for, the TC program joins it.
///
/// # Errors
/// Every way was refused. What was attached before stays as it was.
pub(super) fn attach(
    kit: &mut Kit<'_>,
    device: &Device,
    mode: XdpMode,
    beside_xdp: bool,
) -> Result<Attached, AttachError> {
    let pins = kit.pins;
    let fail = |source| AttachError::Pins {
        interface: device.name.clone(),
        source,
    };
    pins.gather(device.index).map_err(fail)?;
    let mut pinned = of_interface(pins, device.index).map_err(fail)?;
    let ours: Vec<u32> = pinned
        .iter()
        .filter(|p| p.hook != Hook::Clsact)
        .filter_map(|p| program_of(pins, *p).ok())
        .collect();
    // Two modes of XDP exclude each other, so a change of mode has a gap. Nobody changes it but the user.
    if let Some(other) = other_mode(mode, &pinned) {
        pins.remove(other).map_err(fail)?;
        pinned.retain(|p| *p != other);
    }
    let mut refusals = Refusals::new();
    let mut done = None;
    for step in steps(mode, &pinned) {
        match take(kit, device, step, TC_PROGRAM) {
            Ok(()) => {
                done = Some(step);
                break;
            }
            Err(error) => {
                // The interface that the link was for is gone; its number was given to another one.
                if error.errno() == Some(libc::ENOLINK) {
                    pins.remove(Pin {
                        ifindex: device.index,
                        hook: step.hook(),
                    })
                    .map_err(fail)?;
                }
                refusals.push((step, error));
            }
        }
    }
    let foreign = if refusals.iter().any(|(_, e)| e.is_occupied()) {
        foreign(device, &ours)
    } else {
        Vec::new()
    };
    let Some(step) = done else {
        return Err(AttachError::Nowhere {
            interface: device.name.clone(),
            refusals,
            foreign,
        });
    };
    let beside = if beside_xdp && step.hook().is_xdp() {
        beside(kit, device).map(Some)
    } else {
        Ok(None)
    };
    let hooks = [Some(step.hook()), *beside.as_ref().unwrap_or(&None)];
    for pin in leftovers(&pinned, &hooks.into_iter().flatten().collect::<Vec<_>>()) {
        pins.remove(pin).map_err(fail)?;
    }
    refusals.retain(|(refused, _)| refused.is_better_than(step));
    let adopted = match step {
        Step::AdoptXdp(..) | Step::AdoptTcx => true,
        Step::AttachXdp(..) | Step::AttachTcx => false,
        Step::Clsact => pinned.iter().any(|p| p.hook == Hook::Clsact),
    };
    Ok(Attached {
        hook: step.hook(),
        adopted,
        refusals,
        foreign,
        beside,
    })
}

/// Puts the TC program that leaves to XDP what XDP judges onto `device`.
///
/// # Errors
/// Every way was refused.
pub(super) fn beside(kit: &mut Kit<'_>, device: &Device) -> Result<Hook, BesideError> {
    let fail = |source| BesideError::Pins {
        interface: device.name.clone(),
        source,
    };
    let pinned = of_interface(kit.pins, device.index).map_err(fail)?;
    let mut refusals = Refusals::new();
    for step in choice::beside(&pinned) {
        match take(kit, device, step, TC_PROXY_PROGRAM) {
            Ok(()) => return Ok(step.hook()),
            Err(error) => {
                // As in `attach`, but for any reason: what is pinned there holds other tables than ours.
                if step == Step::AdoptTcx {
                    let pin = Pin {
                        ifindex: device.index,
                        hook: Hook::Tcx,
                    };
                    kit.pins.remove(pin).map_err(fail)?;
                }
                refusals.push((step, error));
            }
        }
    }
    Err(BesideError::Nowhere {
        interface: device.name.clone(),
        refusals,
    })
}

/// The pins of one interface.
///
/// # Errors
/// They cannot be listed.
pub fn of_interface(pins: &Pins, ifindex: u32) -> Result<Vec<Pin>, PinsError> {
    Ok(pins
        .list()?
        .into_iter()
        .filter(|p| p.ifindex == ifindex)
        .collect())
}

/// One step. `tc_program`: the program for steps to TC.
pub(super) fn take(
    kit: &mut Kit<'_>,
    device: &Device,
    step: Step,
    tc_program: &'static str,
) -> Result<(), StepError> {
    let Kit {
        ebpf,
        headers,
        pins,
        twins,
        own,
    } = kit;
    let pin = Pin {
        ifindex: device.index,
        hook: step.hook(),
    };
    match step {
        Step::AdoptXdp(_, entry) => {
            let link = XdpLink::try_from(open(pins, pin)?).map_err(StepError::Open)?;
            let program = xdp(ebpf, twins, entry)?;
            own.insert(program.info().map_err(refused)?.id(), entry_name(entry));
            let id = program.attach_to_link(link).map_err(refused)?;
            // The pin holds the link; our own handle of it must not.
            program.take_link(id).map(drop).map_err(refused)
        }
        Step::AttachXdp(hook, entry) => {
            let mode = if hook == Hook::XdpGeneric {
                AyaMode::Skb
            } else {
                AyaMode::Driver
            };
            let program = xdp(ebpf, twins, entry)?;
            own.insert(program.info().map_err(refused)?.id(), entry_name(entry));
            let id = program.attach_to_if_index(device.index, mode).map_err(refused)?;
            // aya falls back to a netlink attachment without a word, and taking such a link out and
            // failing to convert it would leave the program attached for good. Only the id's text tells.
            if format!("{id:?}").contains("NlLink") {
                program.detach(id).map_err(refused)?;
                return Err(StepError::NoLink);
            }
            let link = program.take_link(id).map_err(refused)?;
            let link = FdLink::try_from(link).map_err(|_| StepError::NoLink)?;
            keep(pins, pin, link)
        }
        Step::AdoptTcx => {
            let link = SchedClassifierLink::try_from(open(pins, pin)?).map_err(StepError::Open)?;
            headers.ready(ebpf, pins, twins)?;
            let program = tc(ebpf, twins, tc_program)?;
            own.insert(program.info().map_err(refused)?.id(), tc_program);
            let id = program.attach_to_link(link).map_err(refused)?;
            program.take_link(id).map(drop).map_err(refused)
        }
        Step::AttachTcx => {
            let link = at_head(kit, device, tc_program)?;
            keep(kit.pins, pin, link)
        }
        Step::Clsact => {
            headers.ready(ebpf, pins, twins)?;
            let program = tc(ebpf, twins, tc_program)?;
            own.insert(program.info().map_err(refused)?.id(), tc_program);
            clsact::attach(program, &device.name, pins, pin)
        }
    }
}

/// A new link at the head of the TCX chain.
fn at_head(kit: &mut Kit<'_>, device: &Device, name: &'static str) -> Result<FdLink, StepError> {
    let Kit {
        ebpf,
        headers,
        pins,
        twins,
        own,
    } = kit;
    headers.ready(ebpf, pins, twins)?;
    let program = tc(ebpf, twins, name)?;
    own.insert(program.info().map_err(refused)?.id(), name);
    let head = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&device.name, TcAttachType::Ingress, head)
        .map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    FdLink::try_from(link).map_err(|_| StepError::NoLink)
}

/// Brings our TC program back to the head of the line, without a gap: a second copy of it goes there, then the first one goes. (The
/// kernel takes no program twice.) `beside`: it is the one beside XDP.
///
/// # Errors
/// It stays where it is.
pub(super) fn to_head(kit: &mut Kit<'_>, device: &Device, beside: bool) -> Result<(), StepError> {
    let name = if beside { TC_PROXY_PROGRAM } else { TC_PROGRAM };
    // The link holds the first copy.
    tc(kit.ebpf, kit.twins, name)?.unload().map_err(refused)?;
    let link = at_head(kit, device, name)?;
    let path = kit.pins.path(Pin {
        ifindex: device.index,
        hook: Hook::Tcx,
    });
    let aside = kit.pins.next_path(device.index);
    let failed = |source| StepError::Rename {
        path: path.display().to_string(),
        source,
    };
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    link.pin(&aside).map(drop).map_err(|source| StepError::Pin {
        path: aside.display().to_string(),
        source,
    })?;
    // In one step the new pin is there and the old one, and with it its link, is gone.
    fs::rename(&aside, &path).map_err(failed)
}

pub(super) fn refused(e: ProgramError) -> StepError {
    StepError::Refused(Box::new(e))
}

fn open(pins: &Pins, pin: Pin) -> Result<FdLink, StepError> {
    PinnedLink::from_pin(pins.path(pin))
        .map(FdLink::from)
        .map_err(StepError::Open)
}

/// Pins the link and lets go of it: from now on the file is what holds it.
fn keep(pins: &Pins, pin: Pin, link: FdLink) -> Result<(), StepError> {
    let path = pins.path(pin);
    link.pin(&path).map(drop).map_err(|source| StepError::Pin {
        path: path.display().to_string(),
        source,
    })
}

/// The id of the program behind the pin of a link.
pub(super) fn program_of(pins: &Pins, pin: Pin) -> Result<u32, StepError> {
    let link = open(pins, pin)?.info().map_err(StepError::Open)?;
    Ok(link.program_id())
}

/// The program, loaded: the plain one or its twin.
fn xdp<'a>(ebpf: &'a mut Ebpf, twins: &mut Twins, entry: Entry) -> Result<&'a mut Xdp, StepError> {
    let name = twins.choose(ebpf, entry_name(entry))?;
    match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => Err(StepError::Missing(name)),
    }
}

/// As [`xdp`].
fn tc<'a>(
    ebpf: &'a mut Ebpf,
    twins: &mut Twins,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, StepError> {
    let name = twins.choose(ebpf, name)?;
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(StepError::Missing(name)),
    }
}

pub(super) fn load_error(program: &'static str, error: ProgramError) -> StepError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => StepError::Load {
            program,
            log: end_of(&verifier_log.to_string()),
            source: io_error,
        },
        other => refused(other),
    }
}

/// The last two lines of a verifier log that say something: where it stopped, and why. Figures come after them.
fn end_of(log: &str) -> String {
    const FIGURES: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    let says = |l: &&str| !l.is_empty() && !FIGURES.iter().any(|f| l.starts_with(f));
    let lines: Vec<&str> = log.lines().map(str::trim).filter(says).collect();
    if lines.is_empty() {
        return "the verifier gave no log".to_owned();
    }
    lines
        .get(lines.len().saturating_sub(2)..)
        .unwrap_or_default()
        .join("; ")
}

/// The XDP programs on the device that are not ours. Names need rights that an agent need not have.
fn foreign(device: &Device, ours: &[u32]) -> Vec<Foreign> {
    let ids = device.xdp_programs.iter().filter(|id| !ours.contains(id));
    ids.map(|id| Foreign {
        id: *id,
        name: name_of(*id),
    })
    .collect()
}

fn name_of(id: u32) -> Option<String> {
    let mut programs = loaded_programs().map_while(Result::ok);
    programs
        .find(|p| p.id() == id)
        .and_then(|p| p.name_as_str().map(str::to_owned))
        .filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_every_refusal_and_the_program_in_the_way() {
        let busy = || {
            StepError::Refused(Box::new(ProgramError::SyscallError(aya::sys::SyscallError {
                call: "bpf_link_create",
                io_error: io::Error::from_raw_os_error(libc::EBUSY),
            })))
        };
        assert!(busy().is_occupied());
        let refusals = vec![
            (Step::AttachXdp(Hook::Xdp, Entry::Plain), busy()),
            (Step::AttachTcx, StepError::NoLink),
        ];
        let error = AttachError::Nowhere {
            interface: "eth0".to_owned(),
            refusals,
            foreign: vec![Foreign {
                id: 57,
                name: Some("xdp_lb".to_owned()),
            }],
        };
        let text = error.to_string();
        for part in [
            "eth0",
            "native XDP: refused",
            "busy",
            "TCX: the kernel gave no link",
            "57 (xdp_lb)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_verifier_log_is_cut_to_its_end() {
        assert_eq!(
            end_of(
                "1: r0 = 1\n2: exit\nR0 bad\nverification time 5 usec\nstack depth 0+0\nprocessed 7 insns\n\n"
            ),
            "2: exit; R0 bad"
        );
        assert_eq!(end_of(""), "the verifier gave no log");
        assert_eq!(end_of("one"), "one");
    }
}
