//! Load, attach, pin, apply, count. Decides nothing: what to attach is [`choice`]'s (pure), what to write the planner's.

pub mod attach;
pub mod choice;
mod clsact;
pub mod control;
pub mod examine;
mod headers;
pub mod kept;
pub mod memory;
pub mod netlink;
pub mod object;
pub mod observe;
pub mod pins;
pub mod probe;
mod query;
pub mod rights;
pub mod sampling;
pub mod seen;
pub mod tables;
pub mod tally;
mod twins;

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use gwfilter_common::abi::{
    COARSE_CLOCK_GLOBAL, LOG_RATE_GLOBAL, PACKET_LOG_ALL, PACKET_LOG_DROPS, PACKET_LOG_GLOBAL, PACKET_LOG_OFF,
};

use attach::{AttachError, Attached, BesideError, Kit, StepError};
use choice::{Device, XdpMode};
use control::Control;
use headers::Headers;
use kept::{Adopted, CounterMaps, Kept, KeptError};
use pins::{Hook, Pin, Pins, PinsError};
use sampling::Ring;
use tables::{Tables, TablesError};
use tracing::warn;
use twins::Twins;

use crate::telemetry::chain;

/// `--packet-log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketLog {
    /// No line.
    #[default]
    Off,
    /// Lines for packets that are dropped, or would be under observe.
    Drops,
    /// Lines for all packets to gateways.
    All,
}

/// Packet-log lines a second and CPU.
const LINES_PER_SECOND: u32 = 100;

/// Why the programs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Rights are missing.
    #[error("missing rights: {}; run as root, or grant them", .0.join(", "))]
    Rights(Vec<&'static str>),
    /// The object.
    #[error(transparent)]
    Object(#[from] object::ObjectError),
    /// Loading it.
    #[error("the eBPF object cannot be loaded into this kernel")]
    Load(#[source] Box<EbpfError>),
    /// Its maps.
    #[error("the maps of the eBPF object cannot be used")]
    Tables(#[from] TablesError),
    /// Its log.
    #[error("the packet log cannot be opened")]
    Log(#[source] aya_log::Error),
    /// The pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// What TC programs go on to.
    #[error("what TC programs go on to cannot be looked at, or not be put back")]
    Step(#[from] StepError),
    /// What is to outlive the agent.
    #[error(transparent)]
    Kept(#[from] KeptError),
}

/// The loaded object and the pins of this network namespace.
pub struct Dataplane {
    ebpf: Ebpf,
    tables: Tables,
    control: Control,
    kept: Kept,
    adopted: Adopted,
    headers: Headers,
    twins: Twins,
    ring: Ring,
    pins: Pins,
    /// Numbers of the programs that this agent attached, with the names of the plain ones.
    own: BTreeMap<u32, &'static str>,
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl Dataplane {
    /// As [`Self::load_after`], with counters that begin anew.
    ///
    /// # Errors
    /// Each thing that is missing, by name.
    pub fn load(packet_log: PacketLog) -> Result<Self, DataplaneError> {
        Self::load_after(packet_log, |_| false)
    }

    /// Checks the rights, takes the lock of this network namespace and loads the object: maps, but no program yet.
    /// Nothing is attached and nothing that is attached is touched. `known` is asked whether the names behind the indices of an earlier
    /// agent's counters are known; if not, counters begin anew.
    ///
    /// # Errors
    /// Each thing that is missing, by name.
    pub fn load_after(
        packet_log: PacketLog,
        known: impl FnOnce(CounterMaps) -> bool,
    ) -> Result<Self, DataplaneError> {
        let bytes = object::embedded()?;
        let missing = rights::missing();
        if !missing.is_empty() {
            return Err(DataplaneError::Rights(missing));
        }
        let pins = Pins::open()?;
        let which = match packet_log {
            PacketLog::Off => PACKET_LOG_OFF,
            PacketLog::Drops => PACKET_LOG_DROPS,
            PacketLog::All => PACKET_LOG_ALL,
        };
        let coarse_clock = object::coarse_clock();
        let mut loader = EbpfLoader::new();
        loader
            .override_global(PACKET_LOG_GLOBAL, &which, true)
            .override_global(LOG_RATE_GLOBAL, &LINES_PER_SECOND, true)
            .override_global(COARSE_CLOCK_GLOBAL, &coarse_clock, true);
        // The doctor's, who loads the object for himself.
        for (name, entries) in probe::UNUSED_BY_AGENTS {
            loader.map_max_entries(name, entries);
        }
        kept::adopt_streams(&mut loader, &pins)?;
        let adopted = kept::adopt(&mut loader, &pins, known)?;
        let mut ebpf = loader
            .load(bytes)
            .map_err(|e| DataplaneError::Load(Box::new(e)))?;
        let kept = Kept::of(&ebpf)?;
        let control = Control::take(&mut ebpf)?;
        let mut tables = Tables::take(&mut ebpf)?;
        let headers = Headers::of(&ebpf)?;
        let ring = Ring::take(&mut ebpf)?;
        // No two objects have an array of the same number.
        tables.keep_in(pins.dir().to_path_buf(), headers.id());
        Ok(Self {
            ebpf,
            tables,
            control,
            kept,
            adopted,
            headers,
            twins: Twins::default(),
            ring,
            pins,
            own: BTreeMap::new(),
        })
    }

    /// The reading end of the packet log; its lines go to `sink`. To be called once, and kept: the programs need its map.
    ///
    /// # Errors
    /// The object has no log.
    pub fn packet_log<L: log::Log>(&mut self, sink: L) -> Result<EbpfLogger<L>, DataplaneError> {
        EbpfLogger::init_with_logger(&mut self.ebpf, sink).map_err(DataplaneError::Log)
    }

    /// The maps.
    pub const fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Lease and pause.
    pub const fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Until when agents of other ABIs were paused here, as far as that can be read.
    #[must_use]
    pub fn paused_elsewhere(&self) -> Option<u64> {
        let read = |path: &PathBuf| match Control::open(path).and_then(|map| Ok(map.words()?)) {
            Ok(words) => Some(words.paused),
            Err(e) => {
                warn!(
                    error = chain(&e),
                    "whether the agent of another version was paused cannot be read; if it was, pause again"
                );
                None
            }
        };
        let paths = self.pins.paths_of_others(Pins::CONTROL);
        paths
            .filter(|path| path.exists())
            .filter_map(|path| read(&path))
            .max()
    }

    /// What of an earlier agent's maps is gone on with.
    #[must_use]
    pub const fn adopted(&self) -> Adopted {
        self.adopted
    }

    /// Numbers of the maps of counters.
    #[must_use]
    pub fn counter_maps(&self) -> Option<CounterMaps> {
        self.kept.counters()
    }

    /// Pins what is to outlive the agent. To be called before the first program is attached; doing it again pins what is not pinned any more.
    ///
    /// # Errors
    /// A map cannot be pinned.
    pub fn keep(&self) -> Result<(), DataplaneError> {
        Ok(self.kept.pin(&self.pins)?)
    }

    /// The pins.
    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    fn kit(&mut self) -> Kit<'_> {
        Kit {
            ebpf: &mut self.ebpf,
            headers: &mut self.headers,
            twins: &mut self.twins,
            pins: &self.pins,
            own: &mut self.own,
        }
    }

    /// Attaches to an interface, or takes over what is pinned there. `beside`: where XDP is to judge, with the TC program for what it
    /// leaves to TC.
    ///
    /// # Errors
    /// Every way was refused.
    pub fn attach(&mut self, device: &Device, mode: XdpMode, beside: bool) -> Result<Attached, AttachError> {
        probe::sweep(&device.name);
        attach::attach(&mut self.kit(), device, mode, beside)
    }

    /// Puts the TC program for what XDP leaves to TC onto an interface where XDP judges.
    ///
    /// # Errors
    /// Every way was refused.
    pub fn attach_beside(&mut self, device: &Device) -> Result<Hook, BesideError> {
        attach::beside(&mut self.kit(), device)
    }

    /// Brings the TC program of an interface back to the head of the line, without a gap. `beside`: it sits beside XDP.
    ///
    /// # Errors
    /// It stays where it is.
    pub fn to_head(&mut self, device: &Device, beside: bool) -> Result<(), StepError> {
        attach::to_head(&mut self.kit(), device, beside)
    }

    /// Takes that program off; `false` if it is not there.
    ///
    /// # Errors
    /// Its pin cannot be removed.
    pub fn detach_beside(&self, ifindex: u32) -> Result<bool, PinsError> {
        let mut removed = false;
        for hook in [Hook::Tcx, Hook::Clsact] {
            removed |= self.pins.remove(Pin { ifindex, hook })?;
        }
        Ok(removed)
    }

    /// Looks whether what TC programs go on to is in its place, and every map that outlives the agent pinned, and puts right what is not: the names and words of the finds.
    ///
    /// # Errors
    /// It cannot be looked at, or not be put right.
    pub fn verify_headers(&mut self) -> Result<Vec<(&'static str, String)>, DataplaneError> {
        let mut finds = self.headers.verify(&mut self.ebpf, &self.pins, &mut self.twins)?;
        for name in self.kept.gone(&self.pins) {
            let what = format!("the pin of {name} was removed; it is pinned again");
            finds.push(("map-pin-gone", what));
        }
        self.kept.pin(&self.pins)?;
        Ok(finds)
    }

    /// What this kernel cannot do in TC, for people; nothing if no TC program was ever wanted.
    #[must_use]
    pub fn limitations(&self) -> Vec<String> {
        self.headers.limitations()
    }

    /// Lets go of everything that earlier agents left and that is not in use: links and maps of other ABIs, and what TC programs of our own
    /// went on to. To be called when our own links are in force. Gives back the links.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn forget_earlier_agents(&mut self) -> Result<Vec<Pin>, DataplaneError> {
        let links = self.pins.clear_others()?;
        self.pins.forget_headers(self.headers.id())?;
        self.tables.retire_earlier()?;
        Ok(links)
    }

    /// Detaches from an interface; gives back what was there.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn detach(&self, ifindex: u32) -> Result<Vec<Pin>, PinsError> {
        let mut removed = Vec::new();
        for pin in attach::of_interface(&self.pins, ifindex)? {
            if self.pins.remove(pin)? {
                removed.push(pin);
            }
        }
        Ok(removed)
    }

    /// The programs of this object that are loaded.
    #[must_use]
    pub fn programs(&self) -> seen::Programs {
        seen::programs_of(&self.ebpf)
    }

    /// Ends. What is pinned stays in force.
    pub fn close(self) {
        self.pins.close();
    }
}
