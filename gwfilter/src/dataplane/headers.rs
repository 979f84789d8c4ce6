//! The programs that the TC programs go on to: the reader of PROXY headers in the form that this kernel takes, and those that answer with
//! a reset; and the maps that must outlive the agent.
//!
//! They are reached through a program array. The kernel empties such an array when no process and no pin holds it, and
//! headers would then pass unread; so it is pinned beside the links, and so is what was seen of the beginnings of streams.

use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, ProgramArray};
use aya::programs::{Program, ProgramError};
use gwfilter_common::abi::{
    NEXT_HEADER, NEXT_MAP, NEXT_REFUSE, NEXT_RESET, SYN_MAP, TC_HEADER_PROGRAM, TC_HEADER_V2ONLY_PROGRAM,
    TC_REFUSE_PROGRAM, TC_RESET_PROGRAM,
};

use super::attach::{StepError, refused};
use super::pins::Pins;
use super::query;
use super::tables::TablesError;
use super::twins::{self, Twins};
use crate::telemetry::chain;

/// Which headers the kernel side reads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reads {
    /// Versions 1 and 2.
    Both,
    /// Version 2; why not version 1 (before Linux 5.17 there is no `bpf_loop`).
    V2Only(String),
    /// None, and why: whatever has a header is left to the gateway.
    Nothing(String),
}

impl Reads {
    /// What is left to the gateway for this, for people; nothing if nothing is.
    fn limitation(&self) -> Option<String> {
        match self {
            Self::Both => None,
            Self::V2Only(why) => Some(format!(
                "headers of PROXY version 1 are left to the gateway (this kernel takes only the reader of version 2: {why})"
            )),
            Self::Nothing(why) => Some(format!(
                "PROXY headers are left to the gateway (this kernel takes none of their readers: {why})"
            )),
        }
    }
}

/// What is in the program array.
#[derive(Debug)]
pub(super) struct Headers {
    /// The kernel's number of the array, which names its pin.
    id: u32,
    reads: Option<Reads>,
    /// Why refused connections end in silence although a reset is wanted.
    no_resets: Option<String>,
}

impl Headers {
    /// Of an object just loaded: no program is in its array.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, TablesError> {
        let unusable = |source: Option<MapError>| TablesError::Missing {
            name: NEXT_MAP,
            source: source.map(Box::new),
        };
        let Some(Map::ProgramArray(data)) = ebpf.map(NEXT_MAP) else {
            return Err(unusable(None));
        };
        let id = data.info().map_err(|e| unusable(Some(e)))?.id();
        Ok(Self {
            id,
            reads: None,
            no_resets: None,
        })
    }

    /// The number that names its pin.
    pub(super) const fn id(&self) -> u32 {
        self.id
    }

    /// What this kernel cannot do, for people; nothing before it was asked for.
    pub(super) fn limitations(&self) -> Vec<String> {
        let headers = self.reads.as_ref().and_then(Reads::limitation);
        let resets = self.no_resets.as_ref().map(|why| {
            format!("refused connections end in silence (this kernel does not take the programs that reset them: {why})")
        });
        headers.into_iter().chain(resets).collect()
    }

    /// Sees to it that a reader is in place, and that the maps behind it are pinned. To be called before a TC program is attached.
    ///
    /// # Errors
    /// A map cannot be pinned. That a program cannot be loaded is no error: see [`Self::limitations`].
    pub(super) fn ready(&mut self, ebpf: &mut Ebpf, pins: &Pins, twins: &mut Twins) -> Result<(), StepError> {
        if self.reads.is_none() {
            self.reads = Some(match put(ebpf, NEXT_HEADER, TC_HEADER_PROGRAM) {
                Ok(()) => Reads::Both,
                Err(v1) => match put(ebpf, NEXT_HEADER, TC_HEADER_V2ONLY_PROGRAM) {
                    Ok(()) => Reads::V2Only(chain(&v1)),
                    Err(v2) => Reads::Nothing(chain(&v2)),
                },
            });
            let resets = [(NEXT_RESET, TC_RESET_PROGRAM), (NEXT_REFUSE, TC_REFUSE_PROGRAM)];
            let failed = resets
                .into_iter()
                .find_map(|(index, name)| put(ebpf, index, name).err());
            self.no_resets = failed.map(|e| chain(&e));
            if twins.wanted() {
                self.exchange(ebpf, twins)?;
            }
        }
        self.pin(ebpf, pins).map(drop)
    }

    /// Which reader is in place, or its twin; none, if none was ever wanted, or this kernel takes none.
    const fn reader(&self) -> Option<&'static str> {
        match &self.reads {
            None | Some(Reads::Nothing(_)) => None,
            Some(Reads::Both) => Some(TC_HEADER_PROGRAM),
            Some(Reads::V2Only(_)) => Some(TC_HEADER_V2ONLY_PROGRAM),
        }
    }

    /// Puts the twin in the reader's place, or the reader in the twin's, as they are wanted: one write, and no segment meets neither.
    ///
    /// # Errors
    /// What is there stays there.
    pub(super) fn exchange(&self, ebpf: &mut Ebpf, twins: &mut Twins) -> Result<(), StepError> {
        match self.reader() {
            None => Ok(()),
            Some(reader) => {
                let name = twins.choose(ebpf, reader)?;
                put(ebpf, NEXT_HEADER, name)
            }
        }
    }

    /// Pins what is not pinned; gives back which maps.
    fn pin(&self, ebpf: &Ebpf, pins: &Pins) -> Result<Vec<&'static str>, StepError> {
        let mut pinned = Vec::new();
        for (name, path) in [
            (NEXT_MAP, pins.headers_path(self.id)),
            (SYN_MAP, pins.map_path(Pins::STREAMS)),
        ] {
            if !path.exists() {
                let map = ebpf.map(name).ok_or(StepError::Missing(name))?;
                map.pin(&path).map_err(|source| StepError::Pin {
                    path: path.display().to_string(),
                    source,
                })?;
                pinned.push(name);
            }
        }
        Ok(pinned)
    }

    /// Whether everything that was put somewhere is there; what is not is put there again, and told by name.
    ///
    /// # Errors
    /// The array cannot be asked, or not be written.
    pub(super) fn verify(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &Pins,
        twins: &mut Twins,
    ) -> Result<Vec<(&'static str, String)>, StepError> {
        let mut finds = Vec::new();
        if self.reads.is_none() {
            // No TC program was ever wanted.
            return Ok(finds);
        }
        let reader = match self.reader() {
            Some(reader) => Some((NEXT_HEADER, twins.choose(ebpf, reader)?)),
            None => None,
        };
        let resets = [(NEXT_RESET, TC_RESET_PROGRAM), (NEXT_REFUSE, TC_REFUSE_PROGRAM)];
        let resets = resets.into_iter().filter(|_| self.no_resets.is_none());
        for (index, name) in reader.into_iter().chain(resets) {
            let Some(Map::ProgramArray(array)) = ebpf.map(NEXT_MAP) else {
                return Err(StepError::Missing(NEXT_MAP));
            };
            let there = query::number_at(array.fd().as_fd(), index).map_err(StepError::Question)?;
            let program = ebpf.program(name).ok_or(StepError::Missing(name))?;
            if there != Some(program.info().map_err(refused)?.id()) {
                put(ebpf, index, name)?;
                finds.push((
                    "tail-program-gone",
                    format!("{name} was not where TC programs look for it; it is put back"),
                ));
            }
        }
        for name in self.pin(ebpf, pins)? {
            finds.push((
                "map-pin-gone",
                format!("the pin of {name} was removed; it is pinned again"),
            ));
        }
        Ok(finds)
    }
}

/// Loads a program and puts it into the program array.
fn put(ebpf: &mut Ebpf, index: u32, name: &'static str) -> Result<(), StepError> {
    twins::load(ebpf, name)?;
    let Some(Program::SchedClassifier(program)) = ebpf.program_mut(name) else {
        return Err(StepError::Missing(name));
    };
    let clone = program.fd().map_err(refused)?.try_clone();
    let program = clone.map_err(|e| refused(ProgramError::IOError(e)))?;
    let map = ebpf.map_mut(NEXT_MAP).ok_or(StepError::Missing(NEXT_MAP))?;
    let array = ProgramArray::<&mut MapData>::try_from(map);
    let put = array.and_then(|mut array| array.set(index, &program, 0));
    put.map_err(|e| refused(ProgramError::MapError(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_cannot_read_is_named_and_why() {
        assert_eq!(Reads::Both.limitation(), None);
        let told = Reads::V2Only("no bpf_loop".to_owned()).limitation().unwrap();
        assert!(
            told.contains("version 1 are left to the gateway") && told.contains("no bpf_loop"),
            "{told}"
        );
        let told = Reads::Nothing("too old".to_owned()).limitation().unwrap();
        assert!(
            told.starts_with("PROXY headers are left to the gateway"),
            "{told}"
        );
    }
}
