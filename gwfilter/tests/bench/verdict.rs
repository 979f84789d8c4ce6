//! What a verdict costs by itself: `BPF_PROG_TEST_RUN`, another source in each packet, drawn by a program that goes on to the one under
//! test. What the drawing costs is measured with an empty program behind it, in the same rounds, and taken off.
//!
//! The tables are filled by the agent's own planner and writer. Beside them is a program that does nothing but look the source up in a
//! longest-prefix trie of the kernel's with the same prefixes.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use gwfilter::dataplane::tables::Tables;
use gwfilter::desired::{Desired, Judge, Outcome, SourceTables, Target, Verdict};
use gwfilter::gateway::model::{Protocol, TupleKey};
use gwfilter::plan::{Planner, Settings};
use gwfilter_common::abi::PACKET_LOG_OFF;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::Image;
use xtask::bpf::{self, Map, MapKind, ProgramKind};
use xtask::poll;
use xtask::site::{VIP_PORT, VIP_V4, VIP_V6, destination};

use crate::driver::{Driver, Sources, constant, lookup, syn};
use crate::figure::{Line, Plot, Ratio, Rounds, progress};
use crate::object::{Hook, Object};
use crate::sources::{Family, List, Pool};
use crate::{Size, at};

/// Packets each time with random sources: three for each source.
const PACKETS: u32 = 200_000;
/// The same with one source: so few that most times nothing else has the CPU meanwhile.
const HOT_PACKETS: u32 = 4000;

const MEMORY: Plot<'_> = Plot {
    id: "memory",
    title: "Memory of the kernel for a list",
    unit: "MiB",
};

/// The object with a list in force.
pub(crate) struct Judged {
    object: Object,
    /// Holds the maps.
    _tables: Tables,
}

impl Judged {
    /// Refuses the list's addresses at the gateway's address.
    pub(crate) fn new(list: &List) -> Result<Self> {
        let mut object = Object::load(PACKET_LOG_OFF, 0)?;
        object.control(Image::default().control)?;
        let mut tables = Tables::take(&mut object.ebpf)?;
        let settings = Settings {
            drain_ms: 0,
            rewritten_drain_ms: 0,
        };
        let plan = Planner::new(settings).plan(&desired(list)?, 1)?;
        let left = tables.apply(&plan.ops)?;
        if let Some(error) = left.first() {
            bail!("not all was written: {error}");
        }
        Ok(Self {
            object,
            _tables: tables,
        })
    }

    fn program(&self, hook: Hook) -> Result<BorrowedFd<'_>> {
        let program = self.object.ebpf.program(hook.program());
        Ok(program.context(hook.program())?.fd()?.as_fd())
    }
}

fn desired(list: &List) -> Result<Desired> {
    let outcome = Outcome {
        verdict: Verdict::Drop,
        reason: Reason::DeniedByRule,
        rule: Some("ns[istio-system]-policy[deny]-rule[0]".into()),
    };
    let mut tables = SourceTables::default();
    match list {
        List::V4(nets) => {
            tables.table4 = Some(Arc::new(nets.iter().map(|net| (*net, outcome.clone())).collect()));
        }
        List::V6(nets) => {
            tables.table6 = Some(Arc::new(nets.iter().map(|net| (*net, outcome.clone())).collect()));
        }
    }
    let to = gateway(list.family())?;
    let key = TupleKey {
        addr: to.ip(),
        port: to.port(),
        protocol: Protocol::Tcp,
    };
    let target = Target {
        listener: "istio-system/istio-ingressgateway:http2".into(),
        judge: Judge::Source(tables),
        observe: false,
        node_address: false,
        pod_address: false,
        reset: false,
    };
    Ok(Desired {
        tuples: [(key, target)].into(),
        rewritten: Vec::new(),
    })
}

fn gateway(family: Family) -> Result<SocketAddr> {
    let address = match family {
        Family::V4 => VIP_V4,
        Family::V6 => VIP_V6,
    };
    destination(address, VIP_PORT)
}

/// The kernel's own table with the same prefixes.
fn trie(list: &List) -> Result<Map> {
    let bytes = match list.family() {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    let map =
        Map::new(MapKind::Trie, 4 + bytes, 8, u32::try_from(list.len())?.max(1)).context("making a trie")?;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut add = |bits: u8, network: &[u8]| {
        keys.extend(u32::from(bits).to_ne_bytes());
        keys.extend(network);
        values.extend(1_u64.to_ne_bytes());
    };
    match list {
        List::V4(nets) => nets
            .iter()
            .for_each(|net| add(net.prefix_len(), &net.network().octets())),
        List::V6(nets) => nets
            .iter()
            .for_each(|net| add(net.prefix_len(), &net.network().octets())),
    }
    map.set_all(&keys, &values).context("filling a trie")?;
    Ok(map)
}

/// Results that drop and that pass.
const fn results(kind: ProgramKind) -> [i32; 2] {
    match kind {
        ProgramKind::Tc => [2, -1],
        _ => [1, 2],
    }
}

/// An empty program, ours and the plain lookup.
struct Contest<'j> {
    kind: ProgramKind,
    empty: OwnedFd,
    ours: BorrowedFd<'j>,
    trie: OwnedFd,
}

/// What each took, round by round.
#[derive(Default)]
struct Times {
    ours: Rounds,
    trie: Rounds,
}

impl<'j> Contest<'j> {
    fn new(judged: &'j Judged, family: Family, trie: &Map, hook: Hook) -> Result<Self> {
        let kind = if hook.is_tc() {
            ProgramKind::Tc
        } else {
            ProgramKind::XdpFrags
        };
        let [_, pass] = results(kind);
        Ok(Self {
            kind,
            empty: constant(kind, pass)?,
            ours: judged.program(hook)?,
            trie: lookup(kind, family, trie.as_fd(), results(kind))?,
        })
    }

    /// With sources of a pool, all of which must be refused, or none.
    fn random(&self, pool: &Pool, refused: bool, rounds: usize) -> Result<Times> {
        let frame = syn(gateway(pool.family)?, [0; 6])?;
        let sources = Sources::new(pool, &frame)?;
        let before = |program| sources.before(self.kind, program);
        let [empty, ours, trie] = [
            before(self.empty.as_fd())?,
            before(self.ours)?,
            before(self.trie.as_fd())?,
        ];
        let [drop, pass] = results(self.kind);
        let wanted = if refused { drop } else { pass };
        let mut times = Times::default();
        for round in 0..=rounds {
            let nothing = cost(&empty, &frame, pass)?;
            let [ours, trie] = [cost(&ours, &frame, wanted)?, cost(&trie, &frame, wanted)?];
            // The first round warms up.
            if round > 0 {
                times.ours.0.push(ours - nothing);
                times.trie.0.push(trie - nothing);
            }
        }
        Ok(times)
    }

    /// With one refused source, straight.
    fn hot(&self, pool: &Pool, rounds: usize) -> Result<Times> {
        let mut frame = syn(gateway(pool.family)?, [0; 6])?;
        let octets = pool.one().octets().next().context("no source")?;
        let (at, length) = match pool.family {
            Family::V4 => (26, 4),
            Family::V6 => (22, 16),
        };
        let place = frame.get_mut(at..at + length).context("a short frame")?;
        place.copy_from_slice(octets.get(..length).context("a short address")?);
        let [drop, _] = results(self.kind);
        let mut times = Times::default();
        for _ in 0..rounds {
            let nothing = bpf::run(self.empty.as_fd(), &frame, HOT_PACKETS)?;
            let [ours, trie] =
                [self.ours, self.trie.as_fd()].map(|program| bpf::run(program, &frame, HOT_PACKETS));
            let (ours, trie) = (ours?, trie?);
            if ours.result != drop.cast_unsigned() {
                bail!("the source is not refused: {}", ours.result);
            }
            let over = |ran: bpf::Ran| f64::from(ran.nanoseconds) - f64::from(nothing.nanoseconds);
            times.ours.0.push(over(ours));
            times.trie.0.push(over(trie));
        }
        Ok(times)
    }
}

/// Nanoseconds a packet.
fn cost(driver: &Driver, frame: &[u8], wanted: i32) -> Result<f64> {
    let ran = bpf::run(driver.as_fd(), frame, PACKETS)?;
    if ran.result != wanted.cast_unsigned() {
        bail!("a program ended with {}, not with {wanted}", ran.result);
    }
    Ok(ran.nanoseconds.into())
}

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    let mut lines: Vec<(String, Line)> = Vec::new();
    let mut point = |plot: String, name: &str, entries: usize, rounds: Rounds| {
        let known = lines
            .iter_mut()
            .find(|(id, line)| *id == plot && line.name == name);
        match known {
            Some((_, line)) => line.points.push((entries, rounds)),
            None => lines.push((
                plot,
                Line {
                    name: name.to_owned(),
                    points: vec![(entries, rounds)],
                },
            )),
        }
    };
    let mut memories = Vec::new();
    for family in Family::ALL {
        for &entries in [0].iter().chain(&size.entries) {
            progress(format_args!("verdicts, {entries} {} prefixes", family.name()));
            let list = List::mixed(family, entries);
            let before = memory()?;
            let trie = trie(&list)?;
            let between = memory()?;
            let judged = Judged::new(&list)?;
            let after = memory()?;
            memories.push((family, entries, [after - between, between - before]));
            let (inside, outside) = (list.inside(), list.outside());
            for hook in [Hook::XdpFrags, Hook::Tc] {
                let contest = Contest::new(&judged, family, &trie, hook)?;
                let hook_name = if hook.is_tc() { "tc" } else { "xdp" };
                for (what, pool, refused) in [("refused", &inside, true), ("let-in", &outside, false)] {
                    if refused && entries == 0 {
                        continue;
                    }
                    let times = contest.random(pool, refused, size.rounds)?;
                    let plot = format!("verdict-{}-{what}-{hook_name}", family.name());
                    if refused && !hook.is_tc() && entries == size.at_most(1_000_000) {
                        ratio(family, entries, &times).tell()?;
                    }
                    point(plot.clone(), "gwfilter", entries, times.ours);
                    point(
                        plot,
                        "a lookup in the kernel's LPM trie alone",
                        entries,
                        times.trie,
                    );
                }
                if entries == size.at_most(1_000_000) {
                    hot(&contest, &inside, entries, size)?;
                }
            }
        }
    }
    for (family, entries, [ours, theirs]) in memories {
        for (who, bytes) in [("gwfilter", ours), ("the kernel's LPM trie", theirs)] {
            point(
                "memory".to_owned(),
                &format!("{who}, {}", family.name()),
                entries,
                Rounds(vec![bytes / 1_048_576.0]),
            );
        }
        if family == Family::V4 && entries == size.at_most(1_000_000) {
            let ratio = Ratio {
                id: format!("memory-{}-v4", at(entries)),
                of: format!(
                    "memory of the kernel for {entries} IPv4 prefixes: all of gwfilter's maps / the LPM trie's"
                ),
                goal: 1.0,
                rounds: Rounds(vec![ours / theirs]),
            };
            ratio.tell()?;
        }
    }
    for (id, line) in lines {
        if id == MEMORY.id {
            line.tell(&MEMORY)?;
            continue;
        }
        let title = format!("A verdict over an empty program, 65,536 random sources: {id}");
        let plot = Plot {
            id: &id,
            title: &title,
            unit: "ns a packet",
        };
        line.tell(&plot)?;
    }
    Ok(())
}

fn ratio(family: Family, entries: usize, times: &Times) -> Ratio {
    Ratio {
        id: format!("lpm-{}-{}-random", at(entries), family.name()),
        of: format!(
            "time over an empty program, {entries} {} prefixes, random refused sources: gwfilter's whole verdict in XDP / a lookup in the kernel's LPM trie alone",
            family.name()
        ),
        goal: match family {
            Family::V4 => 1.0 / 8.0,
            Family::V6 => 1.0 / 4.0,
        },
        rounds: times.ours.over(&times.trie),
    }
}

/// With the agent's own tables at a length where they matter.
pub(crate) fn guard() -> Result<Vec<Ratio>> {
    let entries = 100_000;
    let each = Family::ALL.map(|family| {
        let list = List::mixed(family, entries);
        let (trie, judged) = (trie(&list)?, Judged::new(&list)?);
        let contest = Contest::new(&judged, family, &trie, Hook::XdpFrags)?;
        let times = contest.random(&list.inside(), true, 5)?;
        Ok(Ratio {
            goal: 2.5,
            ..ratio(family, entries, &times)
        })
    });
    each.into_iter().collect()
}

fn hot(contest: &Contest<'_>, pool: &Pool, entries: usize, size: &Size) -> Result<()> {
    let (hook, empty) = match contest.kind {
        ProgramKind::Tc => ("tc", "TC"),
        _ => ("xdp", "XDP"),
    };
    let times = contest.hot(pool, size.hook_rounds)?;
    let ratio = Ratio {
        id: format!("hot-{}-{}-{hook}", at(entries), pool.family.name()),
        of: format!(
            "ns a packet over an empty {empty} program: one refused source, {entries} {} prefixes",
            pool.family.name()
        ),
        goal: 25.0,
        rounds: times.ours,
    };
    ratio.tell()
}

/// What the kernel uses for itself, in bytes, when it has freed what it was to free: objects that it cannot give back, large pieces, and
/// what each CPU has of its own. Others on the machine count too: so it says something of long lists only.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn memory() -> Result<f64> {
    let mut last = used()?;
    poll::every(Duration::from_millis(300), Duration::from_secs(15), || {
        let before = std::mem::replace(&mut last, used().ok()?);
        (before.abs_diff(last) < 256).then_some(())
    });
    Ok(last as f64 * 1024.0)
}

/// In KiB.
fn used() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let mut kib = 0_u64;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("SUnreclaim:" | "VmallocUsed:" | "Percpu:"), Some(value)) = (words.next(), words.next())
        {
            kib += value.parse::<u64>().context("a number in /proc/meminfo")?;
        }
    }
    Ok(kib)
}
