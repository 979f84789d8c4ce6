//! What packets cost: the shipped programs against an empty one, by `BPF_PROG_TEST_RUN`, in turn. `cargo xtask bench` runs it.
//!
//! No harness: it prints a JSON object a line, in the form of the bench's `ratios`. Needs root.

#[path = "../kernel_testrun/object.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod object;
mod run;

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use gwfilter_common::abi::{self, PACKET_LOG_OFF, Proxy, TUPLE_PROXY};
use gwfilter_common::packet::{Packet, Transport};
use gwfilter_common::testing::{Image, root_table, tuple};
use serde_json::{Value, json};

use object::{Hook, Object};
use run::Empty;

/// Which to run, separated by commas; all without it.
const ONLY: &str = "GWFILTER_BENCH_ONLY";
/// Set: fewer rounds.
const QUICK: &str = "GWFILTER_BENCH_QUICK";

/// Times each program is measured, and packets each time: so few that most times nothing else has the CPU meanwhile.
const ROUNDS: (usize, u32) = (3001, 4000);
const QUICK_ROUNDS: (usize, u32) = (501, 4000);

/// Rounds and packets in, a figure out.
type Measure = fn((usize, u32)) -> Result<Value>;

/// ACK and PSH.
const DATA: u8 = 0x18;

fn main() -> Result<()> {
    let only = std::env::var(ONLY).unwrap_or_default();
    let rounds = if std::env::var_os(QUICK).is_some() {
        QUICK_ROUNDS
    } else {
        ROUNDS
    };
    let all: [(&str, Measure); 4] = [
        ("proxy-data-segment", |rounds| data_segment(Hook::TcProxy, rounds)),
        ("proxy-data-segment-without-xdp", |rounds| {
            data_segment(Hook::Tc, rounds)
        }),
        ("tc-other-packet", |rounds| other_packet(Hook::TcProxy, rounds)),
        ("tc-other-packet-without-xdp", |rounds| {
            other_packet(Hook::Tc, rounds)
        }),
    ];
    let mut out = std::io::stdout().lock();
    for (id, measure) in all {
        if only.is_empty() || only.split(',').any(|wanted| wanted == id) {
            let mut line = measure(rounds).context(id)?;
            if let Some(fields) = line.as_object_mut() {
                fields.insert("id".to_owned(), json!(id));
            }
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// A segment of TLS data to a destination that is judged by its PROXY header: what almost every packet of such a gateway is.
fn data_segment(hook: Hook, rounds: (usize, u32)) -> Result<Value> {
    let what = "a data segment to a destination judged by its PROXY header";
    over_nothing(hook, "203.0.113.80:443", rounds, 15.0, what)
}

/// The same to a destination that is no gateway's, as most packets of a card are.
fn other_packet(hook: Hook, rounds: (usize, u32)) -> Result<Value> {
    let what = "a data segment to no gateway";
    over_nothing(hook, "203.0.113.81:8443", rounds, 10.0, what)
}

/// What a program costs more than an empty one.
fn over_nothing(
    hook: Hook,
    destination: &str,
    (rounds, packets): (usize, u32),
    goal: f64,
    what: &str,
) -> Result<Value> {
    let object = proxied("203.0.113.80:443".parse()?)?;
    let frame = data("10.0.0.1:40000".parse()?, destination.parse()?)?;
    let empty = Empty::load()?;
    let program = object.ebpf.program(hook.program()).context(hook.program())?;
    let program = program.fd()?;
    let mut over = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let nothing = run::cost(empty.fd(), &frame, packets)?;
        let ours = run::cost(std::os::fd::AsFd::as_fd(program), &frame, packets)?;
        over.push(f64::from(ours) - f64::from(nothing));
    }
    over.sort_by(f64::total_cmp);
    let at = |share: usize| over.get((over.len() - 1) * share / 100).copied();
    let value = at(50).context("no round")?;
    Ok(json!({
        "value": value,
        "goal": goal,
        "met": value <= goal,
        "range": [at(10), at(90)],
        "of": format!("ns a packet over an empty TC program: {what}"),
    }))
}

/// The object, with one destination that is judged by its PROXY header.
fn proxied(destination: SocketAddr) -> Result<Object> {
    let mut object = Object::load(PACKET_LOG_OFF, 0)?;
    let mut judged = tuple(destination, 6, 1);
    judged.flags = TUPLE_PROXY;
    judged.proxy = abi::PROXY_START;
    let mut root = root_table(0, 1, &[judged]);
    let proxy = Proxy {
        client_classes: 1,
        dest_classes: 1,
        port_classes: 1,
        ..Proxy::default()
    };
    *root
        .get_mut(usize::try_from(abi::PROXY_START)?)
        .context("a root table without proxy slots")? = proxy.to_slot();
    object.fill(&Image {
        root: Some(root),
        ..Image::default()
    })?;
    Ok(object)
}

/// A segment of TLS data.
fn data(source: SocketAddr, destination: SocketAddr) -> Result<Vec<u8>> {
    let data = [b"\x17\x03\x03\x02\x00".as_slice(), &[0x5a; 512]].concat();
    let tcp = Transport::Tcp {
        flags: DATA,
        options: &[],
    };
    let packet = Packet {
        payload: &data,
        ..Packet::new(source, destination, tcp)
    };
    Ok(packet.build().context("a frame")?.bytes().to_vec())
}
