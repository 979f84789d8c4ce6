//! Who is measured: gwfilter, what does nothing, and what else drops packets by their source on Linux. Each is set up on a machine of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, PerCpuHashMap};
use tempfile::TempDir;
use xtask::bpf::{self, ProgramKind};
use xtask::netns::Namespace;
use xtask::process::Process;
use xtask::{foreign, manifests};

use crate::driver::{constant, reads};
use crate::sources::{Family, List};
use crate::wire::{Receiver, Sender};

/// How long a list of a million may take until it is in force.
const LONG: Duration = Duration::from_secs(600);

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// An XDP program that drops all.
    Nothing,
    /// An XDP program that drops all, having read where from: what another CPU has written is not in this one's cache.
    Reads,
    /// An XDP program that passes all.
    Passes,
    /// The agent, in XDP.
    Ours,
    /// The agent, in TC, as somebody else has XDP.
    OursTc,
    /// Hosts in hash tables, in XDP.
    XdpFilter,
    /// nftables, a set of intervals, at the device's own hook.
    NftNetdev,
    /// nftables, the same set, before connection tracking.
    NftPrerouting,
    /// iptables' raw table with a set of ipset's.
    Ipset,
    /// iptables' raw table with a rule for each prefix.
    IptablesRules,
}

impl Peer {
    pub(crate) const ALL: [Self; 10] = [
        Self::Nothing,
        Self::Reads,
        Self::Passes,
        Self::Ours,
        Self::OursTc,
        Self::XdpFilter,
        Self::NftNetdev,
        Self::NftPrerouting,
        Self::Ipset,
        Self::IptablesRules,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "empty XDP drop",
            Self::Reads => "XDP drop that reads the source",
            Self::Passes => "empty XDP pass",
            Self::Ours => "gwfilter, XDP",
            Self::OursTc => "gwfilter, TC",
            Self::XdpFilter => "xdp-filter, hosts",
            Self::NftNetdev => "nftables netdev, interval set",
            Self::NftPrerouting => "nftables prerouting, interval set",
            Self::Ipset => "iptables raw, ipset hash:net",
            Self::IptablesRules => "iptables raw, a rule each",
        }
    }

    /// The longest list that it takes, or that anybody would wait for.
    pub(crate) const fn most(self) -> usize {
        match self {
            Self::IptablesRules => 1_000,
            Self::XdpFilter => 10_000,
            _ => usize::MAX,
        }
    }

    /// Whether it has a program at the device; those without get one that passes all, as without a program a cable does not
    /// receive by a thread.
    const fn has_xdp(self) -> bool {
        matches!(
            self,
            Self::Nothing | Self::Reads | Self::Passes | Self::Ours | Self::XdpFilter
        )
    }

    /// The list that it gets.
    pub(crate) fn list<'l>(self, mixed: &'l List, hosts: &'l List) -> &'l List {
        if self == Self::XdpFilter { hosts } else { mixed }
    }
}

/// One who is ready to be measured. All goes with it.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) peer: Peer,
    pub(crate) receiver: Receiver,
    /// How long it took until the list was in force.
    pub(crate) load: Duration,
    _links: Vec<OwnedFd>,
    /// Where it is the agent.
    pub(crate) agent: Option<Process>,
    _folder: TempDir,
}

impl Ready {
    /// Sets a peer up with a list.
    pub(crate) fn new(sender: &mut Sender, peer: Peer, list: &List) -> Result<Self> {
        Self::try_new(sender, peer, list).with_context(|| format!("setting up {}", peer.name()))
    }

    fn try_new(sender: &mut Sender, peer: Peer, list: &List) -> Result<Self> {
        let mut receiver = sender.receiver(peer.name())?;
        let folder = tempfile::Builder::new().prefix("bench-").tempdir()?;
        let mut links = Vec::new();
        let here = &receiver.namespace;
        if peer == Peer::Nothing {
            // XDP_DROP.
            links.push(attach(&receiver, 1)?);
        } else if peer == Peer::Reads {
            links.push(attach_program(&receiver, &reads(ProgramKind::Xdp, 1)?)?);
        } else if peer == Peer::OursTc {
            foreign::attach_xdp(here, &receiver.device)?;
        } else if !peer.has_xdp() || peer == Peer::Passes {
            // XDP_PASS.
            links.push(attach(&receiver, 2)?);
        }
        let began = Instant::now();
        let device = &receiver.device;
        let mut running = None;
        match peer {
            Peer::Nothing | Peer::Reads | Peer::Passes => {}
            Peer::Ours | Peer::OursTc => running = Some(agent(here, device, list, folder.path())?),
            Peer::XdpFilter => xdp_filter(here, device, list)?,
            Peer::NftNetdev => {
                let hook = format!("type filter hook ingress device {device} priority 0;");
                nft(here, "netdev", &hook, list)?;
            }
            Peer::NftPrerouting => nft(here, "inet", "type filter hook prerouting priority -300;", list)?,
            Peer::Ipset => ipset(here, list)?,
            Peer::IptablesRules => rules(here, list)?,
        }
        let load = began.elapsed();
        receiver.ready()?;
        Ok(Self {
            peer,
            receiver,
            load,
            _links: links,
            agent: running,
            _folder: folder,
        })
    }
}

/// An XDP program that returns a number.
pub(crate) fn attach(receiver: &Receiver, result: i32) -> Result<OwnedFd> {
    attach_program(receiver, &constant(ProgramKind::Xdp, result)?)
}

fn attach_program(receiver: &Receiver, program: &OwnedFd) -> Result<OwnedFd> {
    let index = receiver.index()?;
    let link = receiver
        .namespace
        .enter(|| bpf::attach_xdp(program.as_fd(), index))?;
    link.with_context(|| format!("attaching a program to {}", receiver.device))
}

/// The agent, with the list as policies of the gateway, when it enforces them.
pub(crate) fn agent(namespace: &Namespace, device: &str, list: &List, folder: &Path) -> Result<Process> {
    fs::write(folder.join("cluster.yaml"), manifests::cluster())?;
    for (file, text) in list.policies() {
        fs::write(folder.join(file), text)?;
    }
    let mut agent = start(namespace, device, folder)?;
    agent.wait_line("gateway is enforced", LONG)?;
    Ok(agent)
}

/// The agent, without waiting.
pub(crate) fn start(namespace: &Namespace, device: &str, folder: &Path) -> Result<Process> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gwfilter"));
    command.args(["run", "--interface", device, "--from"]).arg(folder);
    Process::spawn(namespace, "gwfilter run", command)
}

/// Sets of intervals, as `nft -f` takes them.
fn nft(namespace: &Namespace, table: &str, hook: &str, list: &List) -> Result<()> {
    let (kind, field) = match list.family() {
        Family::V4 => ("ipv4_addr", "ip"),
        Family::V6 => ("ipv6_addr", "ip6"),
    };
    let mut text =
        format!("table {table} bench {{\nset denied {{\ntype {kind}\nflags interval\nelements = {{\n");
    for net in list.texts() {
        let _ = writeln!(text, "{net},");
    }
    let _ = write!(
        text,
        "}}\n}}\nchain judge {{\n{hook}\n{field} saddr @denied drop\n}}\n}}\n"
    );
    feed(namespace, "nft", &["-f", "-"], &text)
}

/// A set of prefixes and one rule.
fn ipset(namespace: &Namespace, list: &List) -> Result<()> {
    let (family, iptables) = match list.family() {
        Family::V4 => ("inet", "iptables"),
        Family::V6 => ("inet6", "ip6tables"),
    };
    let nets = list.texts();
    let mut text = format!(
        "create denied hash:net family {family} hashsize {} maxelem {}\n",
        nets.len().next_power_of_two(),
        nets.len().max(65_536)
    );
    for net in nets {
        let _ = writeln!(text, "add denied {net}");
    }
    feed(namespace, "ipset", &["restore"], &text)?;
    let rule = [
        "-t",
        "raw",
        "-A",
        "PREROUTING",
        "-m",
        "set",
        "--match-set",
        "denied",
        "src",
        "-j",
        "DROP",
    ];
    namespace.run(iptables, &rule).map(drop)
}

/// A rule for each prefix.
fn rules(namespace: &Namespace, list: &List) -> Result<()> {
    let mut text = "*raw\n".to_owned();
    for net in list.texts() {
        let _ = writeln!(text, "-A PREROUTING -s {net} -j DROP");
    }
    text.push_str("COMMIT\n");
    let program = match list.family() {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    feed(namespace, program, &[], &text)
}

/// xdp-tools' filter, with its own commands for the first host; the others are written into its table as that one is.
fn xdp_filter(namespace: &Namespace, device: &str, list: &List) -> Result<()> {
    let (feature, table) = match list.family() {
        Family::V4 => ("ipv4", "filter_ipv4"),
        Family::V6 => ("ipv6", "filter_ipv6"),
    };
    namespace.run(
        "xdp-filter",
        &["load", device, "--policy", "allow", "--features", feature],
    )?;
    let mut hosts = list.networks().into_iter().map(|(address, _)| address);
    let Some(first) = hosts.next() else {
        return Ok(());
    };
    let text = match list.family() {
        Family::V4 => Ipv4Addr::from(*first.first_chunk().context("a short address")?).to_string(),
        Family::V6 => Ipv6Addr::from(first).to_string(),
    };
    namespace.run("xdp-filter", &["ip", &text, "--mode", "src"])?;
    namespace.enter(|| -> Result<()> {
        let path = format!("/sys/fs/bpf/xdp-filter/{table}");
        let map = MapData::from_pin(&path).with_context(|| format!("opening {path}"))?;
        let hosts = hosts.collect::<Vec<_>>();
        match list.family() {
            Family::V4 => {
                let short = |address: &[u8; 16]| address.first_chunk::<4>().copied();
                let hosts = hosts.iter().filter_map(short);
                copied(map, short(&first).context("a short address")?, hosts)
            }
            Family::V6 => copied(map, first, hosts.into_iter()),
        }
    })?
}

/// Gives each host what the first one has.
fn copied<K: aya::Pod>(map: MapData, first: K, hosts: impl Iterator<Item = K>) -> Result<()> {
    let mut map = PerCpuHashMap::<MapData, K, u64>::try_from(Map::PerCpuHashMap(map))?;
    for host in hosts {
        let values = map.get(&first, 0)?;
        map.insert(host, values, 0)?;
    }
    Ok(())
}

/// Runs a program that reads what it is to do.
fn feed(namespace: &Namespace, program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut file = tempfile::tempfile().context("a file for what a program is to read")?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    std::io::Seek::rewind(&mut file)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = namespace
        .enter(move || command.spawn().and_then(std::process::Child::wait_with_output))?
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} ended with {}: {:.400}", output.status, said.trim());
    }
    Ok(())
}
