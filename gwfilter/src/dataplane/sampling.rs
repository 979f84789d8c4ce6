//! Samples of verdicts: putting the twins that write them in place and taking them out again, how much they write, and reading it.
//!
//! Nothing about enforcement changes by it: see [`super::twins`].

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError, PerCpuArray, RingBuf};
use gwfilter_common::abi::sample::{
    SAMPLER_MAP, SAMPLES_MAP, SAMPLING_MAP, Sample, Sampler, Sampling, VERDICTS,
};

use super::attach::{self, Kit, StepError};
use super::choice::{Device, Step};
use super::pins::{Hook, Pin, PinsError, interface_name};
use super::tables::TablesError;
use super::{Dataplane, clsact, twins};
use crate::telemetry::chain;

/// Samples taken out at one reading: all that the ring holds.
const MOST: usize = 4096;

/// The user side's end of sampling.
pub(super) struct Ring {
    samples: RingBuf<MapData>,
    sampling: Array<MapData, Sampling>,
    sampler: PerCpuArray<MapData, Sampler>,
}

fn missing(name: &'static str) -> impl Fn(MapError) -> TablesError {
    move |source| TablesError::Missing {
        name,
        source: Some(Box::new(source)),
    }
}

impl Ring {
    /// Of an object just loaded.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, TablesError> {
        let mut map = |name: &'static str| {
            ebpf.take_map(name)
                .ok_or(TablesError::Missing { name, source: None })
        };
        let (samples, sampling, sampler) = (map(SAMPLES_MAP)?, map(SAMPLING_MAP)?, map(SAMPLER_MAP)?);
        Ok(Self {
            samples: RingBuf::try_from(samples).map_err(missing(SAMPLES_MAP))?,
            sampling: Array::try_from(sampling).map_err(missing(SAMPLING_MAP))?,
            sampler: PerCpuArray::try_from(sampler).map_err(missing(SAMPLER_MAP))?,
        })
    }
}

/// What is not sampled although it was asked for, for people.
pub type Unsampled = Vec<String>;

impl Dataplane {
    /// Puts the twins that sample in the places of the plain programs, wherever those are; gives back what is not sampled, and why. Enforcement
    /// is what it was, whatever fails. Until [`Self::set_sampling`] says how much, nothing is written.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn sample(&mut self) -> Result<Unsampled, PinsError> {
        self.twins.want(true);
        let mut unsampled = self.exchange()?;
        let refused = self.twins.refused().iter();
        unsampled.extend(refused.map(|(twin, why)| {
            format!("this kernel does not take {twin}, and what it would sample is not: {why}")
        }));
        Ok(unsampled)
    }

    /// Puts the plain programs back; gives back where that failed, and why. There the twin judges on, as the plain program would.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn stop_sampling(&mut self) -> Result<Unsampled, PinsError> {
        self.twins.want(false);
        self.exchange()
    }

    /// Puts what is wanted, plain or twin, in each place where the other one is. What is not ours there is left for the next look.
    fn exchange(&mut self) -> Result<Vec<String>, PinsError> {
        let mut failed = Vec::new();
        let mut kit = self.kit();
        if let Err(e) = kit.headers.exchange(kit.ebpf, kit.twins) {
            failed.push(format!("the reader of PROXY headers: {}", chain(&e)));
        }
        for pin in kit.pins.list()? {
            match renew(&mut kit, pin) {
                Ok(()) => {}
                // The interface is gone, or somebody took the program off: there is nothing to exchange.
                Err(e) if e.errno() == Some(libc::ENOLINK) || !kit.pins.path(pin).exists() => {}
                Err(e) => {
                    let interface = interface_name(pin.ifindex).unwrap_or_else(|| pin.ifindex.to_string());
                    failed.push(format!("{}@{interface}: {}", pin.hook.name(), chain(&e)));
                }
            }
        }
        Ok(failed)
    }

    /// Whether twins are wanted.
    #[must_use]
    pub const fn is_sampling(&self) -> bool {
        self.twins.wanted()
    }

    /// Says how much the twins write.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_sampling(&mut self, sampling: Sampling) -> Result<(), TablesError> {
        let set = self.ring.sampling.set(0, sampling, 0);
        set.map_err(super::tables::failed("set", SAMPLING_MAP, 0))
    }

    /// The samples that were written since the last reading, in order for each CPU.
    pub fn samples(&mut self) -> Vec<Sample> {
        let ring = &mut self.ring.samples;
        let next = || ring.next().map(|entry| Sample::from_bytes(&entry));
        std::iter::from_fn(next).take(MOST).flatten().collect()
    }

    /// What each CPU did for verdicts of each kind.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn samplers(&self) -> Result<[Vec<Sampler>; VERDICTS], TablesError> {
        let mut all: [Vec<Sampler>; VERDICTS] = Default::default();
        for (verdict, samplers) in (0..).zip(&mut all) {
            let read = self.ring.sampler.get(&verdict, 0);
            let read = read.map_err(super::tables::failed("read", SAMPLER_MAP, verdict))?;
            samplers.extend(read.iter().copied());
        }
        Ok(all)
    }
}

/// Puts the program that is wanted in the place of the one behind a pin, if that is one of ours.
fn renew(kit: &mut Kit<'_>, pin: Pin) -> Result<(), StepError> {
    let Some(plain) = plain(kit, pin)? else {
        return Ok(());
    };
    let step = match (pin.hook, twins::entry(plain)) {
        (Hook::Xdp | Hook::XdpGeneric, Some(entry)) => Step::AdoptXdp(pin.hook, entry),
        (Hook::Tcx, None) => Step::AdoptTcx,
        (Hook::Clsact, None) if !clsact::is_gone(pin.ifindex) => Step::Clsact,
        // No program of ours sits there.
        _ => return Ok(()),
    };
    let Some(name) = interface_name(pin.ifindex) else {
        return Ok(());
    };
    let device = Device {
        index: pin.ifindex,
        name,
        ..Device::default()
    };
    attach::take(kit, &device, step, plain)
}

/// The plain one of the two programs of which one is behind a pin, if they are ours.
fn plain(kit: &Kit<'_>, pin: Pin) -> Result<Option<&'static str>, StepError> {
    let program = match pin.hook {
        Hook::Clsact => clsact::program_of(kit.pins, pin)?,
        Hook::Xdp | Hook::XdpGeneric | Hook::Tcx => attach::program_of(kit.pins, pin)?,
    };
    Ok(kit.own.get(&program).copied())
}
