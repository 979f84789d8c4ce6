//! Whether what was attached still is: by the pinned links, by netlink, and by the order in which packets meet the TC programs.

use super::attach::StepError;
use super::choice::Device;
use super::pins::{Hook, Pin};
use super::{Dataplane, attach, clsact, query};

/// What is wrong with an attachment. That its pin is gone is not of these: the list of pins tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The link is there, but no packet meets its program any more: somebody detached it by force.
    LinkDetached,
    /// The link carries a program that is not ours.
    ProgramReplaced,
    /// This many programs are asked before ours, and may let packets pass it by.
    NotFirst(usize),
}

impl Trouble {
    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkDetached => "link-detached",
            Self::ProgramReplaced => "program-replaced",
            Self::NotFirst(_) => "not-first-in-line",
        }
    }
}

impl Dataplane {
    /// What is wrong with the program at a hook of `device`, which must be fresh. That its pin is gone is nothing wrong here.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn examine(&self, device: &Device, hook: Hook) -> Result<Option<Trouble>, StepError> {
        let pin = Pin {
            ifindex: device.index,
            hook,
        };
        if !self.pins.path(pin).exists() {
            return Ok(None);
        }
        if hook == Hook::Clsact {
            // Whose program is in it is not asked: with rights of their own, others can replace it at any time.
            return Ok(clsact::is_gone(device.index).then_some(Trouble::LinkDetached));
        }
        let program = attach::program_of(&self.pins, pin)?;
        if !self.own.contains_key(&program) {
            return Ok(Some(Trouble::ProgramReplaced));
        }
        if hook != Hook::Tcx {
            let detached = !device.xdp_programs.contains(&program);
            return Ok(detached.then_some(Trouble::LinkDetached));
        }
        let line = match query::tcx_ingress(device.index) {
            Ok(line) => line,
            // The device is just going.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            Err(e) => return Err(StepError::Question(e)),
        };
        Ok(match line.iter().position(|id| *id == program) {
            Some(0) => None,
            Some(before) => Some(Trouble::NotFirst(before)),
            None => Some(Trouble::LinkDetached),
        })
    }
}
