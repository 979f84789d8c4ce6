//! Which of two programs is in place: the plain one, or its twin that samples. Both decide the same, so one may take the other's place at any
//! moment, by one write each: an update of the link, or of the array that TC programs go on by.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::programs::{Program, ProgramError};
use gwfilter_common::abi::sample::twin;
use gwfilter_common::abi::{XDP_FRAGS_PROGRAM, XDP_PROGRAM};

use super::attach::{StepError, load_error, refused};
use super::choice::Entry;
use crate::telemetry::chain;

/// Whether twins are wanted, and which of them this kernel does not take.
#[derive(Debug, Default)]
pub(super) struct Twins {
    wanted: bool,
    refused: BTreeMap<&'static str, String>,
}

impl Twins {
    /// Whether twins are wanted from now on.
    pub(super) const fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    pub(super) const fn wanted(&self) -> bool {
        self.wanted
    }

    /// The twins that this kernel does not take, and why; each was asked for, and the plain program stands in its place.
    pub(super) const fn refused(&self) -> &BTreeMap<&'static str, String> {
        &self.refused
    }

    /// The program to put in place for a plain one, which is loaded then. A twin that the kernel does not take costs samples and nothing else.
    ///
    /// # Errors
    /// The kernel does not take the plain one.
    pub(super) fn choose(&mut self, ebpf: &mut Ebpf, plain: &'static str) -> Result<&'static str, StepError> {
        if self.wanted
            && let Some(twin) = twin(plain)
            && !self.refused.contains_key(twin)
        {
            match load(ebpf, twin) {
                Ok(()) => return Ok(twin),
                Err(e) => drop(self.refused.insert(twin, chain(&e))),
            }
        }
        load(ebpf, plain).map(|()| plain)
    }
}

/// The plain program of an entry of XDP.
pub(super) const fn entry_name(entry: Entry) -> &'static str {
    match entry {
        Entry::Frags => XDP_FRAGS_PROGRAM,
        Entry::Plain => XDP_PROGRAM,
    }
}

/// The entry of XDP that a plain program is.
pub(super) fn entry(plain: &str) -> Option<Entry> {
    [Entry::Frags, Entry::Plain]
        .into_iter()
        .find(|entry| entry_name(*entry) == plain)
}

/// Loads a program, if it is not loaded.
///
/// # Errors
/// The kernel does not take it.
pub(super) fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), StepError> {
    let program = ebpf.program_mut(name).ok_or(StepError::Missing(name))?;
    let loaded = match program {
        Program::Xdp(program) if program.fd().is_err() => program.load(),
        Program::SchedClassifier(program) if program.fd().is_err() => program.load(),
        Program::Xdp(_) | Program::SchedClassifier(_) => Ok(()),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    match loaded {
        Err(ProgramError::UnexpectedProgramType) => Err(refused(ProgramError::UnexpectedProgramType)),
        loaded => loaded.map_err(|e| load_error(name, e)),
    }
}
