//! What a verdict costs by itself, beside a program that does nothing but look the source up in a longest-prefix trie of the kernel's with the
//! same prefixes, and beside other structures for them ([`shapes`](crate::shapes)).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use xtask::bpf::{self, ProgramKind};

use crate::driver::{Sources, constant, syn};
use crate::figure::{Lines, Plot, Ratio, Rounds, attempt, progress};
use crate::judged::{Judged, gateway};
use crate::memory::{self, Memory};
use crate::object::Hook;
use crate::shapes::Shape;
use crate::sources::{Family, List, Pool};
use crate::turns::{over_empty, results};
use crate::{Size, at};

/// Packets each time with one source: so few that most times nothing else has the CPU meanwhile.
const HOT_PACKETS: u32 = 4000;

const OURS: &str = "gwfilter";
const TRIE: &str = "a lookup in the kernel's LPM trie alone";
const VERDICT: &str = "gwfilter's whole verdict";
const LOOKUP: &str = "flat table: the verdict less one without a list";

/// An empty program, ours and the plain lookup.
struct Contest<'j> {
    kind: ProgramKind,
    ours: BorrowedFd<'j>,
    trie: OwnedFd,
}

/// What each took, round by round.
#[derive(Default)]
struct Times {
    ours: Rounds,
    trie: Rounds,
    others: Vec<Rounds>,
}

impl<'j> Contest<'j> {
    fn new(judged: &'j Judged, trie: &Shape, hook: Hook) -> Result<Self> {
        let kind = if hook.is_tc() {
            ProgramKind::Tc
        } else {
            ProgramKind::XdpFrags
        };
        Ok(Self {
            kind,
            ours: judged.program(hook)?,
            trie: trie.program(kind, results(kind))?,
        })
    }

    /// With sources of a pool, all of which must be refused, or none; others are measured in turn with the two.
    fn random(
        &self,
        pool: &Pool,
        refused: bool,
        others: &[(BorrowedFd<'_>, i32)],
        rounds: usize,
    ) -> Result<Times> {
        let frame = syn(gateway(pool.family)?, [0; 6])?;
        let sources = Sources::new(pool, &frame)?;
        let [drop, pass] = results(self.kind);
        let wanted = if refused { drop } else { pass };
        let mut programs = vec![(self.ours, wanted), (self.trie.as_fd(), wanted)];
        programs.extend(others);
        let mut all = over_empty(self.kind, &sources, &frame, &programs, rounds)?;
        let others = all.split_off(2);
        let mut two = all.into_iter();
        Ok(Times {
            ours: two.next().unwrap_or_default(),
            trie: two.next().unwrap_or_default(),
            others,
        })
    }

    /// With one refused source, straight; ours.
    fn hot(&self, pool: &Pool, rounds: usize) -> Result<Rounds> {
        let mut frame = syn(gateway(pool.family)?, [0; 6])?;
        let octets = pool.one().octets().next().context("no source")?;
        let (at, length) = match pool.family {
            Family::V4 => (26, 4),
            Family::V6 => (22, 16),
        };
        let place = frame.get_mut(at..at + length).context("a short frame")?;
        place.copy_from_slice(octets.get(..length).context("a short address")?);
        let [drop, pass] = results(self.kind);
        let empty = constant(self.kind, pass)?;
        let mut times = Rounds::default();
        for _ in 0..rounds {
            let nothing = bpf::run(empty.as_fd(), &frame, HOT_PACKETS)?;
            let ours = bpf::run(self.ours, &frame, HOT_PACKETS)?;
            if ours.result != drop.cast_unsigned() {
                bail!("the source is not refused: {}", ours.result);
            }
            times
                .0
                .push(f64::from(ours.nanoseconds) - f64::from(nothing.nanoseconds));
        }
        Ok(times)
    }
}

/// The lines of one family.
#[derive(Default)]
struct Found {
    /// MiB that an object takes of each CPU's own memory.
    per_cpu: f64,
    /// By the name of their plot.
    verdicts: std::collections::BTreeMap<String, Lines>,
    memory: Lines,
    shapes: Lines,
}

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    // Each object has as much of each CPU's own memory, whatever its list.
    let (_first, Memory { per_cpu, .. }) = memory::of(|| Judged::by_source(&List::mixed(Family::V4, 0)))?;
    for family in Family::ALL {
        let mut found = Found {
            per_cpu,
            ..Found::default()
        };
        let nothing = Judged::by_source(&List::mixed(family, 0))?;
        for &entries in [0].iter().chain(&size.entries) {
            attempt(&format!("verdicts, {entries} {} prefixes", family.name()), || {
                one(family, entries, &nothing, size, &mut found)
            })?;
        }
        let name = family.name();
        for (id, lines) in &found.verdicts {
            let what = if id.starts_with("structure") {
                "A lookup over an empty program, 65,536 random sources"
            } else {
                "A verdict over an empty program, 65,536 random sources"
            };
            lines.tell(&Plot {
                id,
                title: &format!("{what}: {id}"),
                unit: "ns a packet",
            })?;
        }
        for (id, title, lines) in [
            ("memory", "Memory of the kernel for a list", &found.memory),
            (
                "structure-memory",
                "Memory of the kernel for a list, by structure",
                &found.shapes,
            ),
        ] {
            lines.tell(&Plot {
                id: &format!("{id}-{name}"),
                title: &format!("{title} ({name})"),
                unit: "MiB",
            })?;
        }
    }
    Ok(())
}

/// One list.
fn one(family: Family, entries: usize, nothing: &Judged, size: &Size, found: &mut Found) -> Result<()> {
    progress(format_args!("verdicts, {entries} {} prefixes", family.name()));
    let list = List::mixed(family, entries);
    let (trie, of_trie) = memory::of(|| Shape::trie(&list))?;
    let (judged, of_ours) = memory::of(|| Judged::by_source(&list))?;
    let (of_trie, of_ours) = (of_trie.shared, of_ours.shared + found.per_cpu);
    let id = format!("memory-{}", family.name());
    for (who, mebibytes) in [(OURS, of_ours), ("the kernel's LPM trie", of_trie)] {
        found.memory.add(&id, who, entries, Rounds(vec![mebibytes]));
    }
    let longest = entries == size.at_most(1_000_000);
    if family == Family::V4 && longest {
        let ratio = Ratio {
            id: format!("memory-{}-v4", at(entries)),
            of: format!(
                "memory of the kernel for {entries} IPv4 prefixes: all of gwfilter's maps / the LPM trie's"
            ),
            goal: 1.0,
            rounds: Rounds(vec![of_ours / of_trie]),
        };
        ratio.tell()?;
    }
    let shapes = if entries >= size.at_most(10_000) && entries > 0 {
        shapes(&list, [of_ours, of_trie], found)?
    } else {
        Vec::new()
    };
    let (inside, outside) = (list.inside(), list.outside());
    for hook in [Hook::XdpFrags, Hook::Tc] {
        let contest = Contest::new(&judged, &trie, hook)?;
        let hook_name = if hook.is_tc() { "tc" } else { "xdp" };
        let answers = results(contest.kind);
        let [drop, pass] = answers;
        let shapes = if hook.is_tc() { &[] } else { shapes.as_slice() };
        let programs = shapes
            .iter()
            .map(|(_, shape)| Ok(shape.program(contest.kind, answers)?))
            .collect::<Result<Vec<_>>>()?;
        for (what, pool, refused) in [("refused", &inside, true), ("let-in", &outside, false)] {
            if refused && entries == 0 {
                continue;
            }
            let wanted = if refused { drop } else { pass };
            let mut others: Vec<_> = programs.iter().map(|program| (program.as_fd(), wanted)).collect();
            others.push((nothing.program(hook)?, pass));
            let times = contest.random(pool, refused, &others, size.rounds)?;
            if refused && !hook.is_tc() && longest {
                ratio(family, entries, &times).tell()?;
            }
            if !shapes.is_empty() {
                let plot = format!("structure-{}-{what}", family.name());
                let lines = found.verdicts.entry(plot.clone()).or_default();
                let bare = times.others.last().cloned().unwrap_or_default();
                lines.add(&plot, VERDICT, entries, times.ours.clone());
                lines.add(&plot, LOOKUP, entries, times.ours.less(&bare));
                lines.add(&plot, TRIE, entries, times.trie.clone());
                for ((name, _), rounds) in shapes.iter().zip(times.others) {
                    lines.add(&plot, name, entries, rounds);
                }
            }
            let plot = format!("verdict-{}-{what}-{hook_name}", family.name());
            let lines = found.verdicts.entry(plot.clone()).or_default();
            lines.add(&plot, OURS, entries, times.ours);
            lines.add(&plot, TRIE, entries, times.trie);
        }
        if longest {
            hot(&contest, &inside, entries, size)?;
        }
    }
    Ok(())
}

/// How a structure is made.
type Make = fn(&List) -> Result<Shape>;

/// The other structures for a list, with their names.
fn shapes(
    list: &List,
    [of_ours, of_trie]: [f64; 2],
    found: &mut Found,
) -> Result<Vec<(&'static str, Shape)>> {
    let lengths: (&str, Make) = ("a hash table for each length", Shape::lengths);
    let makers: &[(&str, Make)] = match list.family() {
        Family::V4 => &[
            ("a byte for each /24 before the trie", Shape::front),
            lengths,
            ("DIR-24-8, bytes", Shape::blocks),
        ],
        Family::V6 => &[lengths],
    };
    let id = format!("structure-memory-{}", list.family().name());
    let mut add = |who, mebibytes| found.shapes.add(&id, who, list.len(), Rounds(vec![mebibytes]));
    add("all of gwfilter's maps", of_ours);
    add("the kernel's LPM trie", of_trie);
    makers
        .iter()
        .map(|(name, make)| {
            let (shape, grown) = memory::of(|| make(list)).with_context(|| (*name).to_owned())?;
            add(name, grown.shared);
            Ok((*name, shape))
        })
        .collect()
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

/// With the agent's own tables at a length where they matter. As tries they would take more than the plain lookup: beyond 1.
pub(crate) fn guard() -> Result<Vec<Ratio>> {
    let entries = 100_000;
    let each = Family::ALL.map(|family| {
        let list = List::mixed(family, entries);
        let (trie, judged) = (Shape::trie(&list)?, Judged::by_source(&list)?);
        let contest = Contest::new(&judged, &trie, Hook::XdpFrags)?;
        let times = contest.random(&list.inside(), true, &[], 5)?;
        Ok(Ratio {
            goal: match family {
                Family::V4 => 0.7,
                Family::V6 => 0.9,
            },
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
    let times = contest.hot(pool, size.hook_rounds(contest.kind == ProgramKind::Tc))?;
    let ratio = Ratio {
        id: format!("hot-{}-{}-{hook}", at(entries), pool.family.name()),
        of: format!(
            "ns a packet over an empty {empty} program: one refused source, {entries} {} prefixes",
            pool.family.name()
        ),
        goal: 25.0,
        rounds: times,
    };
    ratio.tell()
}
