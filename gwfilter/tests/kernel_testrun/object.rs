//! The real object in the running kernel, its maps filled straight from an [`Image`], and `BPF_PROG_TEST_RUN`.
//!
//! A writer of its own, apart from the agent's: it knows only the ABI, so that the two can disagree.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray, RingBuf};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions};
use gwfilter::dataplane::object::coarse_clock;
use gwfilter_common::abi::sample::{SAMPLER_MAP, SAMPLES_MAP, SAMPLING_MAP, Sample, Sampler, Sampling, twin};
use gwfilter_common::abi::{self, Leaf, LogLimit, Slot, SynEntry, SynKey, Tally};
use gwfilter_common::decide::Action;
use gwfilter_common::testing::{Image, Trie};
use xtask::kernel::lacks;

/// The hooks, by the program that serves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    XdpFrags,
    Xdp,
    /// TC without XDP.
    Tc,
    /// TC beside XDP.
    TcProxy,
}

impl Hook {
    /// Those that judge alone, as far as this kernel has them.
    pub(crate) fn all() -> Vec<Self> {
        let all = [Self::XdpFrags, Self::Xdp, Self::Tc];
        all.into_iter().filter(|hook| !lacks(hook.program())).collect()
    }

    pub(crate) fn is_tc(self) -> bool {
        matches!(self, Self::Tc | Self::TcProxy)
    }

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::XdpFrags => abi::XDP_FRAGS_PROGRAM,
            Self::Xdp => abi::XDP_PROGRAM,
            Self::Tc => abi::TC_PROGRAM,
            Self::TcProxy => abi::TC_PROXY_PROGRAM,
        }
    }

    /// The shortest frame that TEST_RUN takes at this hook.
    pub(crate) fn takes(self, frame: &[u8]) -> bool {
        let ip = match frame.get(12..14) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 0,
        };
        frame.len() >= if self.is_tc() { 14 + ip } else { 14 }
    }

    fn action(self, code: u32) -> Result<Action> {
        // XDP_DROP and XDP_PASS; TC_ACT_SHOT and TC_ACT_UNSPEC. Nothing else may be returned.
        match (self, code) {
            (Self::XdpFrags | Self::Xdp, 1) | (Self::Tc | Self::TcProxy, 2) => Ok(Action::Drop),
            (Self::XdpFrags | Self::Xdp, 2) | (Self::Tc | Self::TcProxy, u32::MAX) => Ok(Action::Pass),
            _ => bail!("{} returned {code}", self.program()),
        }
    }
}

/// A counter of the kernel, as (listener, reason) or rule.
pub(crate) type Counters = BTreeMap<(u32, u32), Tally>;

/// How much of a map of counters is read: a whole one takes some ten milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scan {
    /// All of it.
    Whole,
    /// What the cases name: the first 16 listeners and some rules.
    Cases,
}

/// The loaded object.
pub(crate) struct Object {
    pub(crate) ebpf: Ebpf,
    /// Those are loaded that sample.
    twins: bool,
    /// Emptied by the kernel when nobody holds it.
    next: ProgramArray<MapData>,
}

/// Where the object is; an error that says how to make it if it is not there.
pub(crate) fn path() -> Result<PathBuf> {
    let path = std::env::var_os("GWFILTER_BPF_OBJECT").map_or_else(xtask::paths::ebpf_object, PathBuf::from);
    if !path.is_file() {
        bail!(
            "no eBPF object at {}: run `cargo xtask build-ebpf`, or set GWFILTER_BPF_OBJECT",
            path.display()
        );
    }
    Ok(path)
}

impl Object {
    /// Loads the object and its three programs.
    pub(crate) fn load(packet_log: u32, log_rate: u32) -> Result<Self> {
        Self::load_all(packet_log, log_rate, 1000, false)
    }

    /// With the twins that sample in place of the plain programs. How much is sampled is [`sampling`](Self::sampling)'s.
    pub(crate) fn load_twins() -> Result<Self> {
        Self::load_all(abi::PACKET_LOG_OFF, 0, 1000, true)
    }

    /// Without a log, and with this budget of resets to peers.
    pub(crate) fn load_with_rate(resets: u32) -> Result<Self> {
        Self::load_all(abi::PACKET_LOG_OFF, 0, resets, false)
    }

    fn load_all(packet_log: u32, log_rate: u32, resets: u32, twins: bool) -> Result<Self> {
        xtask::rights::require_root()?;
        let path = path()?;
        let coarse_clock = coarse_clock();
        let mut ebpf = EbpfLoader::new()
            .override_global(abi::PACKET_LOG_GLOBAL, &packet_log, true)
            .override_global(abi::LOG_RATE_GLOBAL, &log_rate, true)
            .override_global(abi::RST_RATE_GLOBAL, &resets, true)
            .override_global(abi::COARSE_CLOCK_GLOBAL, &coarse_clock, true)
            .load_file(&path)
            .with_context(|| format!("load {}", path.display()))?;
        let all = [Hook::XdpFrags, Hook::Xdp, Hook::Tc, Hook::TcProxy];
        for hook in all.into_iter().filter(|hook| !lacks(hook.program())) {
            let name = entry(hook.program(), twins)?;
            let program = ebpf.program_mut(name).context(name)?;
            match hook {
                Hook::Tc | Hook::TcProxy => <&mut SchedClassifier>::try_from(program)?.load(),
                _ => <&mut Xdp>::try_from(program)?.load(),
            }
            .with_context(|| format!("load {name}"))?;
        }
        let header = if lacks(abi::TC_HEADER_PROGRAM) {
            abi::TC_HEADER_V2ONLY_PROGRAM
        } else {
            abi::TC_HEADER_PROGRAM
        };
        let mut next = ProgramArray::try_from(ebpf.take_map(abi::NEXT_MAP).context(abi::NEXT_MAP)?)?;
        let nexts = [
            (abi::NEXT_HEADER, entry(header, twins)?),
            (abi::NEXT_RESET, abi::TC_RESET_PROGRAM),
            (abi::NEXT_REFUSE, abi::TC_REFUSE_PROGRAM),
        ];
        for (index, name) in nexts.into_iter().filter(|(_, name)| !lacks(name)) {
            let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("load {name}"))?;
            next.set(index, program.fd()?, 0)?;
        }
        Ok(Self { ebpf, twins, next })
    }

    /// From now on, headers of version 1 are not read, as on kernels without `bpf_loop`.
    pub(crate) fn without_text(&mut self) -> Result<()> {
        let name = abi::TC_HEADER_V2ONLY_PROGRAM;
        let program: &mut SchedClassifier = self.ebpf.program_mut(name).context(name)?.try_into()?;
        // A kernel that lacks the reader of both versions has this one from the beginning.
        if !lacks(abi::TC_HEADER_PROGRAM) {
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(self.next.set(abi::NEXT_HEADER, program.fd()?, 0)?)
    }

    /// Forgets where streams begin.
    pub(crate) fn forget(&mut self) -> Result<()> {
        let mut map = HashMap::<_, SynKey, SynEntry>::try_from(self.map(abi::SYN_MAP)?)?;
        let keys = map.keys().collect::<Result<Vec<_>, _>>()?;
        for key in keys {
            map.remove(&key)?;
        }
        Ok(())
    }

    /// Resets that were sent to peers in the last window, on all CPUs.
    pub(crate) fn resets(&mut self) -> Result<u64> {
        let map = PerCpuArray::<_, LogLimit>::try_from(self.map(abi::RSTLIM_MAP)?)?;
        Ok(map.get(&0, 0)?.iter().map(|limit| limit.used).sum())
    }

    /// Runs a program once over a frame.
    pub(crate) fn run(&self, hook: Hook, frame: &[u8]) -> Result<Action> {
        self.run_with(hook, frame, None, 1)
    }

    /// As [`run`](Self::run), with a context (`xdp_md`) or more than once; the last run's action.
    pub(crate) fn run_with(
        &self,
        hook: Hook,
        frame: &[u8],
        ctx: Option<&[u8]>,
        repeat: u32,
    ) -> Result<Action> {
        let name = self.name(hook);
        let program = self.ebpf.program(name).context(name)?;
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: ctx,
            repeat,
            ..TestRunOptions::default()
        };
        let result = match hook {
            Hook::Tc | Hook::TcProxy => <&SchedClassifier>::try_from(program)?.test_run(options),
            _ => <&Xdp>::try_from(program)?.test_run(options),
        }
        .with_context(|| format!("TEST_RUN of {name} over {} bytes", frame.len()))?;
        hook.action(result.return_value)
    }

    /// The name of the program that serves a hook.
    pub(crate) fn name(&self, hook: Hook) -> &'static str {
        entry(hook.program(), self.twins).unwrap_or(hook.program())
    }

    /// Says how much is sampled.
    pub(crate) fn sampling(&mut self, sampling: Sampling) -> Result<()> {
        let mut map = Array::<_, Sampling>::try_from(self.map(SAMPLING_MAP)?)?;
        Ok(map.set(0, sampling, 0)?)
    }

    /// What all CPUs did for verdicts of one kind.
    pub(crate) fn sampler(&mut self, verdict: u32) -> Result<Sampler> {
        let map = PerCpuArray::<_, Sampler>::try_from(self.map(SAMPLER_MAP)?)?;
        let sum = |a: Sampler, b: &Sampler| Sampler {
            window: a.window.max(b.window),
            used: a.used + b.used,
            looked: a.looked + b.looked,
            lost: a.lost + b.lost,
        };
        Ok(map.get(&verdict, 0)?.iter().fold(Sampler::default(), sum))
    }

    /// The samples that were written since the last call.
    pub(crate) fn samples(&mut self) -> Result<Vec<Sample>> {
        let mut ring = RingBuf::try_from(self.map(SAMPLES_MAP)?)?;
        let mut samples = Vec::new();
        while let Some(entry) = ring.next() {
            samples.push(Sample::from_bytes(&entry).context("an entry of another size")?);
        }
        Ok(samples)
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name} in the object"))
    }

    /// Fills all tables from an image, the root last.
    pub(crate) fn fill(&mut self, image: &Image) -> Result<()> {
        self.tries::<4>(abi::SRC4_MAP, &image.source4)?;
        self.tries::<16>(abi::SRC6_MAP, &image.source6)?;
        self.tries::<4>(abi::NEVER4_MAP, &image.never4)?;
        self.tries::<16>(abi::NEVER6_MAP, &image.never6)?;
        self.control(image.control)?;
        if let Some(root) = &image.root {
            let mut outer: ArrayOfMaps<_, Array<MapData, Slot>> =
                ArrayOfMaps::try_from(self.map(abi::ROOT_MAP)?)?;
            outer.set(0, &root_map(root)?, 0).context("the root table")?;
        }
        Ok(())
    }

    /// Writes the words of the control map.
    pub(crate) fn control(&mut self, words: [u64; abi::CONTROL_LEN as usize]) -> Result<()> {
        let mut map = Array::<_, u64>::try_from(self.map(abi::CONTROL_MAP)?)?;
        for (element, word) in (0..).zip(words) {
            map.set(element, word, 0)?;
        }
        Ok(())
    }

    /// The map that holds the root table, taken out so that it can be written while programs run.
    pub(crate) fn take_root(&mut self) -> Result<ArrayOfMaps<MapData, Array<MapData, Slot>>> {
        let map = self.ebpf.take_map(abi::ROOT_MAP).context(abi::ROOT_MAP)?;
        Ok(ArrayOfMaps::try_from(map)?)
    }

    fn tries<const N: usize>(&mut self, name: &str, tables: &BTreeMap<u32, Trie<N, Leaf>>) -> Result<()>
    where
        [u8; N]: Pod,
    {
        let mut outer: ArrayOfMaps<_, LpmTrie<MapData, [u8; N], Leaf>> =
            ArrayOfMaps::try_from(self.map(name)?)?;
        for (index, entries) in tables {
            let mut trie =
                LpmTrie::<MapData, [u8; N], Leaf>::create(u32::try_from(entries.len())?.max(1), 1)?;
            for (net, len, leaf) in entries {
                trie.insert(&Key::new(*len, *net), leaf, 0)?;
            }
            outer
                .set(*index, &trie, 0)
                .with_context(|| format!("{name}[{index}]"))?;
        }
        Ok(())
    }

    /// All counters that are not zero: those of listeners by (listener, reason).
    pub(crate) fn listener_counters(&mut self, scan: Scan) -> Result<Counters> {
        let flat = self.tallies(abi::COUNT_MAP, scan)?;
        Ok(flat
            .into_iter()
            .map(|(i, t)| ((i / abi::REASONS, i % abi::REASONS), t))
            .collect())
    }

    /// As above, by (rule, 0).
    pub(crate) fn rule_counters(&mut self, scan: Scan) -> Result<Counters> {
        Ok(self
            .tallies(abi::RULES_MAP, scan)?
            .into_iter()
            .map(|(i, t)| ((i, 0), t))
            .collect())
    }

    fn tallies(&mut self, name: &str, scan: Scan) -> Result<BTreeMap<u32, Tally>> {
        let map = PerCpuArray::<_, Tally>::try_from(self.map(name)?)?;
        let mut all = BTreeMap::new();
        let end = match scan {
            Scan::Whole => map.len(),
            Scan::Cases => map.len().min(abi::REASONS * 16),
        };
        for index in 0..end {
            let sum = map.get(&index, 0)?.iter().fold(Tally::default(), |a, b| Tally {
                passed: a.passed + b.passed,
                dropped: a.dropped + b.dropped,
                would_drop: a.would_drop + b.would_drop,
            });
            if sum != Tally::default() {
                all.insert(index, sum);
            }
        }
        Ok(all)
    }

    /// Zeroes every counter.
    pub(crate) fn zero(&mut self, scan: Scan) -> Result<()> {
        for name in [abi::COUNT_MAP, abi::RULES_MAP] {
            let used: Vec<u32> = self.tallies(name, scan)?.into_keys().collect();
            let mut map = PerCpuArray::<_, Tally>::try_from(self.map(name)?)?;
            for index in used {
                let cpus = map.get(&index, 0)?.len();
                map.set(index, PerCpuValues::try_from(vec![Tally::default(); cpus])?, 0)?;
            }
        }
        Ok(())
    }
}

/// The program, or its twin.
fn entry(program: &'static str, twins: bool) -> Result<&'static str> {
    if twins {
        twin(program).with_context(|| format!("no twin of {program}"))
    } else {
        Ok(program)
    }
}

/// A root table as a map, not yet in force.
pub(crate) fn root_map(slots: &[Slot]) -> Result<Array<MapData, Slot>> {
    let mut root = Array::<MapData, Slot>::create(abi::ROOT_LEN, 0)?;
    for (index, slot) in (0..).zip(slots) {
        if *slot != [0; 8] {
            root.set(index, slot, 0)?;
        }
    }
    Ok(root)
}
