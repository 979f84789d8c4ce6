//! The doctor's probe: loads it apart from all that enforces, attaches it behind the judging program for as long as it is held, and hands on what it
//! tells. Nothing of it is pinned, so it goes with the process; where the kernel knows no such links, its own deadline ends it.

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{Link as _, ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError, EbpfLoader};
use gwfilter_common::abi::{
    self, COARSE_CLOCK_GLOBAL, PROBE_DEST_MAP, PROBE_DESTS, PROBE_PROGRAM, PROBE_RING_MAP, PROBE_TALLY_MAP,
    PROBE_UNTIL_GLOBAL, ProbeDest, ProbeHead, ProbeTally,
};

use super::attach::{StepError, load_error, refused};
use super::choice::Device;
use super::object::{self, ObjectError};
use super::pins::{self, Hook, PinsError};
use super::rights;
use crate::gateway::model::TupleKey;

/// Behind every filter that is there, as a rule: the last priority that the kernel itself would choose.
const PRIORITY: u16 = 0xbfff;
/// Tells ours among the filters of this priority.
const HANDLE: TcHandle = TcHandle::new(0x6777, 0x6602);

/// Maps of the object that the probe does not use: they are made as small as they can be.
const UNUSED: [(&str, u32); 14] = [
    (abi::SRC4_MAP, 1),
    (abi::SRC6_MAP, 1),
    (abi::FLAT4_MAP, 1),
    (abi::FLAT6_MAP, 1),
    (abi::NEVER4_MAP, 1),
    (abi::NEVER6_MAP, 1),
    (abi::COUNT_MAP, 1),
    (abi::RULES_MAP, 1),
    (abi::LOGLIM_MAP, 1),
    (abi::SYN_MAP, 64),
    (abi::RSTLIM_MAP, 1),
    (abi::NEXT_MAP, 1),
    (abi::CONTROL_MAP, 1),
    // A page: there is no smaller ring.
    (abi::sample::SAMPLES_MAP, 4096),
];

/// Maps of the probe's, as small as they can be, for who judges.
pub(super) const UNUSED_BY_AGENTS: [(&str, u32); 3] = [
    (PROBE_DEST_MAP, 1),
    (abi::PROBE_SYN_MAP, 64),
    // A page: there is no smaller ring.
    (PROBE_RING_MAP, 4096),
];

/// Why nothing can be observed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Rights are missing.
    #[error("missing rights: {}; run as root, or grant them", .0.join(", "))]
    Rights(Vec<&'static str>),
    /// The object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Loading it.
    #[error("the eBPF object cannot be loaded into this kernel")]
    Load(#[source] Box<EbpfError>),
    /// A map.
    #[error("the probe's map {name} cannot be used")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// The object lacks a map or the program.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// The pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// Whoever looked ended.
    #[error("the look was broken off")]
    Ended,
    /// Every way onto an interface was refused.
    #[error("the probe cannot be attached to {interface}; nor as a clsact filter: {clsact}")]
    Attach {
        /// Which.
        interface: String,
        /// Why not as a filter.
        clsact: String,
        /// Why not at TCX.
        source: Box<StepError>,
    },
}

/// A loaded probe. Dropped, it is off.
pub struct Probe {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    tally: PerCpuArray<MapData, ProbeTally>,
    /// Until the program is loaded nobody else holds it.
    _dests: HashMap<MapData, ProbeDest, u32>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

impl Probe {
    /// Loads it for these destinations, each with a number that what it tells carries. `until`: the moment of `CLOCK_MONOTONIC`, in nanoseconds, at which
    /// it looks no more. Of more destinations than fit, the last are left out.
    ///
    /// # Errors
    /// Each thing that is missing, by name.
    pub fn load(destinations: &[(TupleKey, u32)], until: u64) -> Result<Self, ProbeError> {
        let bytes = object::embedded()?;
        let missing = rights::missing();
        if !missing.is_empty() {
            return Err(ProbeError::Rights(missing));
        }
        let coarse_clock = object::coarse_clock();
        let mut loader = EbpfLoader::new();
        loader
            .override_global(COARSE_CLOCK_GLOBAL, &coarse_clock, true)
            .override_global(PROBE_UNTIL_GLOBAL, &until, true);
        for (name, entries) in UNUSED {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader.load(bytes).map_err(|e| ProbeError::Load(Box::new(e)))?;
        let failed = |name| move |source| ProbeError::Map { name, source };
        let take = |ebpf: &mut Ebpf, name| ebpf.take_map(name).ok_or(ProbeError::Missing(name));
        let map = take(&mut ebpf, PROBE_DEST_MAP)?;
        let mut dests: HashMap<MapData, ProbeDest, u32> =
            HashMap::try_from(map).map_err(failed(PROBE_DEST_MAP))?;
        let most = usize::try_from(PROBE_DESTS).unwrap_or(usize::MAX);
        for (key, gateway) in destinations.iter().take(most) {
            dests
                .insert(destination(key), gateway, 0)
                .map_err(failed(PROBE_DEST_MAP))?;
        }
        let ring = RingBuf::try_from(take(&mut ebpf, PROBE_RING_MAP)?).map_err(failed(PROBE_RING_MAP))?;
        let tally =
            PerCpuArray::try_from(take(&mut ebpf, PROBE_TALLY_MAP)?).map_err(failed(PROBE_TALLY_MAP))?;
        Ok(Self {
            ebpf,
            ring,
            tally,
            _dests: dests,
        })
    }

    /// Attaches it to an interface: right behind our judging program, or at the head where there is none. It passes everything.
    ///
    /// # Errors
    /// Every way was refused.
    pub fn attach(&mut self, device: &Device) -> Result<Hook, ProbeError> {
        let judging = pins::path_of(device.index, Hook::Tcx)?;
        let program = self.program()?;
        let judging =
            judging.map(|path| SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(path)?)));
        // The link has to live until its place is taken.
        let order = match &judging {
            Some(Ok(link)) => LinkOrder::after_link(link).unwrap_or_default(),
            // Its pin is there and cannot be opened: then behind all that is there.
            Some(Err(_)) => LinkOrder::last(),
            None => LinkOrder::first(),
        };
        let place = TcAttachOptions::TcxOrder(order);
        let Err(source) = program.attach_with_options(&device.name, TcAttachType::Ingress, place) else {
            return Ok(Hook::Tcx);
        };
        match clsact(program, &device.name) {
            Ok(()) => Ok(Hook::Clsact),
            Err(clsact) => Err(ProbeError::Attach {
                interface: device.name.clone(),
                clsact: crate::telemetry::chain(&clsact),
                source: Box::new(refused(source)),
            }),
        }
    }

    fn program(&mut self) -> Result<&mut SchedClassifier, ProbeError> {
        let program = self.ebpf.program_mut(PROBE_PROGRAM);
        let program: &mut SchedClassifier = program
            .and_then(|program| program.try_into().ok())
            .ok_or(ProbeError::Missing(PROBE_PROGRAM))?;
        if program.fd().is_err() {
            program.load().map_err(|e| ProbeError::Attach {
                interface: "any interface".to_owned(),
                clsact: "not tried".to_owned(),
                source: Box::new(load_error(PROBE_PROGRAM, e)),
            })?;
        }
        Ok(program)
    }

    /// Hands on all that was told since the last call. The bytes lie in the buffer that the kernel writes, and nobody keeps them.
    pub fn drain(&mut self, mut each: impl FnMut(&ProbeHead, &[u8])) {
        while let Some(record) = self.ring.next() {
            if let Some((head, bytes)) = ProbeHead::read(&record) {
                each(&head, bytes);
            }
        }
    }

    /// What all CPUs saw, and did not tell.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn tally(&self) -> Result<ProbeTally, ProbeError> {
        let cpus = self.tally.get(&0, 0).map_err(|source| ProbeError::Map {
            name: PROBE_TALLY_MAP,
            source,
        })?;
        let mut all = ProbeTally::default();
        for cpu in cpus.iter() {
            all.syns += cpu.syns;
            all.data += cpu.data;
            all.over_budget += cpu.over_budget;
            all.lost += cpu.lost;
        }
        Ok(all)
    }
}

/// Takes off the filter that a doctor left who ended suddenly, if there is one. It has no link that would go with him.
pub(crate) fn sweep(device: &str) {
    let left = SchedClassifierLink::attached(device, TcAttachType::Ingress, PRIORITY, HANDLE, None);
    if let Ok(left) = left {
        // Not there is as good as taken off.
        let _ = left.detach();
    }
}

/// As a filter, before Linux 6.6. One that a doctor left who ended suddenly is replaced: it looks at nothing any more.
fn clsact(program: &mut SchedClassifier, device: &str) -> Result<(), StepError> {
    match qdisc_add_clsact(device) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(refused(e.into())),
    }
    let place = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    sweep(device);
    program
        .attach_with_options(device, TcAttachType::Ingress, place)
        .map(drop)
        .map_err(|e: ProgramError| refused(e))
}

fn destination(key: &TupleKey) -> ProbeDest {
    let (address, family) = match key.addr {
        std::net::IpAddr::V4(addr) => {
            let [a, b, c, d] = addr.octets();
            ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
        }
        std::net::IpAddr::V6(addr) => (addr.octets(), 6),
    };
    ProbeDest {
        address,
        port: key.port,
        _pad: 0,
        family,
    }
}
