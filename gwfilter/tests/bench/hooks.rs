//! What a program costs more than an empty one, where packets are all alike: `BPF_PROG_TEST_RUN`, both in turn.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use gwfilter_common::abi::{self, PACKET_LOG_OFF, Proxy, TUPLE_PROXY};
use gwfilter_common::packet::{Packet, Transport};
use gwfilter_common::testing::{Image, root_table, tuple};
use xtask::bpf::{self, ProgramKind};

use crate::Size;
use crate::driver::constant;
use crate::figure::{Ratio, Rounds};
use crate::object::{Hook, Object};

/// Packets each time: so few that most times nothing else has the CPU meanwhile.
const PACKETS: u32 = 4000;

/// ACK and PSH.
const DATA: u8 = 0x18;

/// A destination that is judged by its PROXY header.
const PROXIED: &str = "203.0.113.80:443";

/// A figure: its id, the program, where the packet goes, what that is, and how many nanoseconds it may cost more.
type Case = (&'static str, Hook, &'static str, &'static str, f64);

const DATA_SEGMENT: &str = "a data segment to a destination judged by its PROXY header";
const OTHER_PORT: &str = "a data segment to a port that no gateway has";
const OTHER_ADDRESS: &str = "a data segment to a gateway's port at another address";

const CASES: [Case; 8] = [
    ("proxy-data-segment", Hook::TcProxy, PROXIED, DATA_SEGMENT, 15.0),
    (
        "proxy-data-segment-without-xdp",
        Hook::Tc,
        PROXIED,
        DATA_SEGMENT,
        15.0,
    ),
    (
        "tc-other-packet",
        Hook::TcProxy,
        "203.0.113.81:8443",
        OTHER_PORT,
        10.0,
    ),
    (
        "tc-other-packet-without-xdp",
        Hook::Tc,
        "203.0.113.81:8443",
        OTHER_PORT,
        10.0,
    ),
    (
        "tc-other-address",
        Hook::TcProxy,
        "203.0.113.81:443",
        OTHER_ADDRESS,
        10.0,
    ),
    (
        "tc-other-address-without-xdp",
        Hook::Tc,
        "203.0.113.81:443",
        OTHER_ADDRESS,
        10.0,
    ),
    (
        "xdp-other-packet",
        Hook::XdpFrags,
        "203.0.113.81:8443",
        OTHER_PORT,
        10.0,
    ),
    (
        "xdp-other-address",
        Hook::XdpFrags,
        "203.0.113.81:443",
        OTHER_ADDRESS,
        10.0,
    ),
];

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    let object = proxied(PROXIED.parse()?)?;
    for case in CASES.iter().filter(|(id, ..)| size.wants(id)) {
        over_nothing(&object, case, size.hook_rounds(case.1.is_tc()))?.tell()?;
    }
    Ok(())
}

/// What is not a gateway's costs a few nanoseconds; a lookup in a hash table would be some thirty more.
pub(crate) fn guard() -> Result<Vec<Ratio>> {
    let object = proxied(PROXIED.parse()?)?;
    let guarded = CASES.iter().filter(|(id, ..)| id.contains("-other-"));
    guarded
        .map(|case| {
            Ok(Ratio {
                goal: 36.0,
                ..over_nothing(&object, case, if case.1.is_tc() { 301 } else { 41 })?
            })
        })
        .collect()
}

fn over_nothing(object: &Object, (id, hook, destination, what, goal): &Case, rounds: usize) -> Result<Ratio> {
    let frame = data("10.0.0.1:40000".parse()?, destination.parse()?)?;
    let (kind, name, result) = if hook.is_tc() {
        (ProgramKind::Tc, "TC", -1)
    } else {
        (ProgramKind::XdpFrags, "XDP", 2)
    };
    let empty = constant(kind, result)?;
    let program = object.ebpf.program(hook.program()).context(hook.program())?;
    let program = program.fd()?.as_fd();
    let (mut nothing, mut ours) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        nothing
            .0
            .push(bpf::run(empty.as_fd(), &frame, PACKETS)?.nanoseconds.into());
        ours.0
            .push(bpf::run(program, &frame, PACKETS)?.nanoseconds.into());
    }
    Ok(Ratio {
        id: (*id).to_owned(),
        of: format!("ns a packet over an empty {name} program: {what}"),
        goal: *goal,
        rounds: ours.less(&nothing),
    })
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
