//! What it costs that somebody watches: frames that one CPU refuses a second, with the twins that sample in place and without; and a verdict alone.
//!
//! That nobody watches costs nothing needs no measurement: the plain programs have no instruction of sampling (`kernel_testrun::sampled`).

use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gwfilter_common::abi::PACKET_LOG_OFF;
use gwfilter_common::abi::sample::{Sampling, VERDICTS};
use gwfilter_common::packet::Packet;
use gwfilter_common::testing::cases;
use xtask::bpf;
use xtask::process::Process;

use crate::Size;
use crate::figure::{Ratio, Rounds, attempt, progress};
use crate::judged::gateway;
use crate::object::{Hook, Object};
use crate::peers::{Peer, Ready};
use crate::sources::{Family, List, Pool};
use crate::wire::{Sender, Stream};

/// Prefixes of the list.
const ENTRIES: usize = 10_000;
/// How long frames come each time.
const TIME: Duration = Duration::from_secs(1);
/// How long the agent may take to put a program in place, on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// Packets each time of a verdict alone.
const PACKETS: u32 = 4000;

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    if size.wants("sampling-1000") {
        attempt("frames while somebody watches", || {
            watched(if size.quick { 5 } else { 21 })?.tell()
        })?;
    }
    for (id, hook) in [
        ("sampling-verdict-tc", Hook::Tc),
        ("sampling-verdict-xdp", Hook::XdpFrags),
    ] {
        if size.wants(id) {
            attempt(id, || alone(id, hook, size.hook_rounds(hook.is_tc()))?.tell())?;
        }
    }
    Ok(())
}

/// What is several times slower is found without a quiet machine.
pub(crate) fn guard() -> Result<Vec<Ratio>> {
    Ok(vec![Ratio {
        goal: 1.25,
        ..watched(5)?
    }])
}

/// Frames over a cable to one agent, in turn watched and not.
fn watched(rounds: usize) -> Result<Ratio> {
    let list = List::mixed(Family::V4, ENTRIES);
    let mut sender = Sender::new()?;
    let mut ready = Ready::new(&mut sender, Peer::Ours, &list)?;
    let pool: Pool = list.inside();
    let stream = ready.receiver.stream(gateway(Family::V4)?, &pool)?;
    let (mut plain, mut sampled) = (Rounds::default(), Rounds::default());
    for round in 0..=rounds {
        let cost = |ready: &Ready, stream: &Stream| ready.receiver.measure(&sender, stream, TIME);
        let without = cost(&ready, &stream)?;
        let monitor = watch(&mut ready)?;
        let with = cost(&ready, &stream)?;
        let shown = end(&mut ready, monitor)?;
        if round == 0 {
            progress(format_args!("watched: {shown}"));
            continue;
        }
        plain.0.push(without.cost);
        sampled.0.push(with.cost);
    }
    Ok(Ratio {
        id: "sampling-1000".to_owned(),
        of: format!(
            "CPU time of refusing a frame over a cable, {ENTRIES} prefixes: while `monitor --rate 1000` watches / while nobody does (1.02: 0.98 of the frames a second)"
        ),
        goal: 1.02,
        rounds: sampled.over(&plain),
    })
}

fn watch(ready: &mut Ready) -> Result<Process> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gwfilter"));
    command.args(["monitor", "--rate", "1000", "--verdict", "drop"]);
    let mut monitor = Process::spawn(&ready.receiver.namespace, "gwfilter monitor", command)?;
    monitor.wait_line("watching verdicts", SOON)?;
    Ok(monitor)
}

/// Ends it, and waits until the plain program is back; the closing figures.
fn end(ready: &mut Ready, mut monitor: Process) -> Result<String> {
    const BACK: &str = "verdicts are not sampled";
    let agent = ready.agent.as_mut().context("no agent")?;
    let before = agent.log().matches(BACK).count();
    monitor.interrupt(SOON)?;
    agent.wait_log(BACK, SOON, |log| {
        (log.matches(BACK).count() > before).then_some(())
    })?;
    Ok(monitor.log().lines().last().unwrap_or_default().to_owned())
}

/// A verdict alone: the twin, looked at now and then as under load, and the plain program.
fn alone(id: &str, hook: Hook, rounds: usize) -> Result<Ratio> {
    let (mut plain, mut twins) = (Object::load(PACKET_LOG_OFF, 0)?, Object::load_twins()?);
    for object in [&mut plain, &mut twins] {
        object.fill(&cases::image(0))?;
        object.sampling(Sampling {
            masks: [1023; VERDICTS],
            budgets: [17; VERDICTS],
        })?;
    }
    let packet = Packet::syn(cases::DENIED.parse()?, cases::GATEWAY.parse()?);
    let frame = packet.build().context("a frame")?.bytes().to_vec();
    let (mut without, mut with) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        for (object, rounds) in [(&plain, &mut without), (&twins, &mut with)] {
            let name = object.name(hook);
            let program = object.ebpf.program(name).context(name)?.fd()?.as_fd();
            rounds
                .0
                .push(bpf::run(program, &frame, PACKETS)?.nanoseconds.into());
        }
        twins.samples().map(drop)?;
    }
    Ok(Ratio {
        id: id.to_owned(),
        of: "ns a refused packet more than the plain program: its twin that samples, 1 in 1,024 looked at"
            .to_owned(),
        goal: 2.0,
        rounds: with.less(&without),
    })
}
