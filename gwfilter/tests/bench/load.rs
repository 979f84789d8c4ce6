//! How long a list takes from text to force, how long one prefix more takes, and what memory it costs.
//!
//! In this process, with the agent's own parts, where each step can be timed; and with a whole agent that reads files.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use gwfilter::dataplane::tables::Tables;
use gwfilter::index::Index;
use gwfilter::node::NodeFacts;
use gwfilter::pipeline;
use gwfilter::plan::{Op, Planner, Settings};
use gwfilter::policy::Memo;
use gwfilter_common::abi::PACKET_LOG_OFF;
use gwfilter_common::testing::Image;
use xtask::manifests;
use xtask::netns::Namespace;
use xtask::process;

use crate::figure::{Lines, Plot, Ratio, Rounds, attempt, progress};
use crate::object::Object;
use crate::peers::start;
use crate::sources::{Family, List, policy};
use crate::wire::Sender;
use crate::{Size, at};

const STEPS: Plot<'_> = Plot {
    id: "load-steps",
    title: "From text to force, step by step (half IPv4, half IPv6)",
    unit: "s",
};
const AGENT: Plot<'_> = Plot {
    id: "load-agent",
    title: "An agent that reads files: from its start, or a changed file, to force (half IPv4, half IPv6)",
    unit: "s",
};
const MEMORY: Plot<'_> = Plot {
    id: "load-memory",
    title: "Memory of an agent and of its maps (half IPv4, half IPv6)",
    unit: "MiB",
};

/// How long a list of a million may take until it is in force.
const LONG: Duration = Duration::from_secs(600);

/// The policies, as files: half of the prefixes IPv4, half IPv6. The first file's name is the first.
fn files(entries: usize) -> Vec<(String, String)> {
    let halves = Family::ALL.map(|family| List::mixed(family, entries / 2).policies());
    halves.into_iter().flatten().collect()
}

/// One policy more, with one prefix.
fn one_more(round: usize) -> (String, String) {
    let name = "deny-one-more";
    let block = format!("192.88.{round}.0/24");
    (format!("{name}.yaml"), policy(name, &[block]))
}

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    let (mut steps, mut agent, mut memory) = <(Lines, Lines, Lines)>::default();
    let rounds = size.rounds.div_ceil(3);
    for &entries in &size.entries {
        let files = files(entries);
        attempt(&format!("load of {entries} prefixes"), || {
            for round in 0..rounds {
                progress(format_args!("load of {entries} prefixes, round {}", round + 1));
                in_parts(&files, entries, &mut steps)?;
            }
            Ok(())
        })?;
        attempt(&format!("an agent with {entries} prefixes"), || {
            progress(format_args!("an agent with {entries} prefixes"));
            whole(&files, entries, rounds, &mut agent, &mut memory)
        })?;
    }
    let entries = size.at_most(1_000_000);
    let goals = [
        ("load", ALL, "text of manifests to in force, in this process", 3.0),
        ("swap", SWAP, "of that, the swap", 0.3),
        (
            "delta",
            DELTA,
            "one prefix more, from its object's text to in force",
            0.05,
        ),
    ];
    for (id, name, what, goal) in goals {
        let Some(rounds) = steps.of(name, entries) else {
            continue;
        };
        let ratio = Ratio {
            id: format!("{id}-{}", at(entries)),
            of: format!("seconds, {entries} mixed prefixes: {what}"),
            goal,
            rounds: rounds.clone(),
        };
        ratio.tell()?;
    }
    steps.tell(&STEPS)?;
    agent.tell(&AGENT)?;
    memory.tell(&MEMORY)
}

const ALL: &str = "all";
const SWAP: &str = "swap";
const DELTA: &str = "one prefix more, all";

/// Each step by itself.
fn in_parts(files: &[(String, String)], entries: usize, steps: &mut Lines) -> Result<()> {
    let mut object = Object::load(PACKET_LOG_OFF, 0)?;
    object.control(Image::default().control)?;
    let mut tables = Tables::take(&mut object.ebpf)?;
    let mut planner = Planner::new(Settings {
        drain_ms: 0,
        rewritten_drain_ms: 0,
    });
    let mut index = Index::new();
    index.load("cluster.yaml", manifests::cluster().as_bytes())?;
    let mut took = |what: &str, since: Instant| {
        steps.add(
            STEPS.id,
            what,
            entries,
            Rounds(vec![since.elapsed().as_secs_f64()]),
        )
    };

    let began = Instant::now();
    for (name, text) in files {
        index.load(name, text.as_bytes())?;
    }
    took("text to objects", began);
    let mut memo = Memo::default();
    bring(&index, &mut memo, &mut planner, &mut tables, 1, &mut took)?;
    took(ALL, began);

    let (name, text) = one_more(1);
    let began = Instant::now();
    index.load(&name, text.as_bytes())?;
    bring(
        &index,
        &mut memo,
        &mut planner,
        &mut tables,
        2,
        &mut |what, since| {
            took(&format!("one prefix more, {what}"), since);
        },
    )?;
    took(DELTA, began);
    Ok(())
}

/// Compiles and brings into force.
fn bring(
    index: &Index,
    memo: &mut Memo,
    planner: &mut Planner,
    tables: &mut Tables,
    now_ms: u64,
    took: &mut dyn FnMut(&str, Instant),
) -> Result<()> {
    let settings = pipeline::Settings {
        gateway: gwfilter::gateway::Settings {
            never_drop: Vec::new(),
            from_files: true,
        },
        ..pipeline::Settings::default()
    };
    let began = Instant::now();
    let built = pipeline::build_after(memo, &index.snapshot(), &NodeFacts::default(), &settings);
    if built.desired.tuples.is_empty() {
        bail!("nothing is to be enforced: {:?}", built.diagnostics.first());
    }
    took("objects to tables", began);
    let began = Instant::now();
    let plan = planner.plan(&built.desired, now_ms)?;
    took("plan", began);
    let swap = plan.ops.iter().position(|op| matches!(op, Op::Swap { .. }));
    let (build, rest) = plan.ops.split_at(swap.unwrap_or(plan.ops.len()));
    let (swap, free) = rest.split_at(rest.len().min(1));
    for (what, ops) in [("write", build), (SWAP, swap), ("free", free)] {
        let began = Instant::now();
        tables.apply(ops)?;
        took(what, began);
    }
    planner.commit(&plan);
    Ok(())
}

/// The agent itself, from files.
fn whole(
    files: &[(String, String)],
    entries: usize,
    rounds: usize,
    times: &mut Lines,
    memory: &mut Lines,
) -> Result<()> {
    let mut sender = Sender::new()?;
    let receiver = sender.receiver("loaded")?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir()?;
    fs::write(folder.path().join("cluster.yaml"), manifests::cluster())?;
    for (name, text) in files {
        fs::write(folder.path().join(name), text)?;
    }
    let began = Instant::now();
    let mut agent = start(&receiver.namespace, &receiver.device, folder.path())?;
    agent.wait_line("gateway is enforced", LONG)?;
    times.add(
        AGENT.id,
        "start to force",
        entries,
        Rounds(vec![began.elapsed().as_secs_f64()]),
    );
    for round in 1..=rounds {
        let generations = |log: &str| log.matches("generation in force").count();
        let before = generations(&agent.log());
        let (name, text) = one_more(round);
        let began = Instant::now();
        fs::write(folder.path().join(name), text)?;
        agent.wait_log("another generation in force", LONG, |log| {
            (generations(log) > before).then_some(())
        })?;
        times.add(
            AGENT.id,
            "one prefix changed, to force",
            entries,
            Rounds(vec![began.elapsed().as_secs_f64()]),
        );
    }
    let mut megabytes = |what: &str, bytes: u64| {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let mebibytes = bytes as f64 / 1_048_576.0;
        memory.add(MEMORY.id, what, entries, Rounds(vec![mebibytes]));
    };
    megabytes("the agent's resident set", process::rss(agent.pid())?);
    megabytes(
        "its pinned maps, as the kernel tells it (memlock)",
        memlock(&receiver.namespace)?,
    );
    Ok(())
}

/// What the kernel says that the maps take which the agent has pinned.
fn memlock(namespace: &Namespace) -> Result<u64> {
    namespace.enter(|| {
        let mut folders = vec![PathBuf::from("/sys/fs/bpf")];
        let mut maps = BTreeMap::new();
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                // Links and programs are pinned too.
                let Ok(map) = MapData::from_pin(&path) else {
                    continue;
                };
                let number = map.fd().as_fd().as_raw_fd();
                let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{number}"))?;
                let field = |name: &str| {
                    let value = text.lines().find_map(|line| line.strip_prefix(name));
                    value.and_then(|value| value.trim().parse::<u64>().ok())
                };
                maps.insert(field("map_id:"), field("memlock:").unwrap_or_default());
            }
        }
        Ok(maps.values().sum())
    })?
}
