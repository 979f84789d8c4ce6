//! What a refused connection costs where a real Envoy refuses it, and where the node does; and what good clients see meanwhile.
//!
//! At Envoy: connections from refused addresses, a request on each, answered by its RBAC filter with 403; what it costs is the CPU time
//! of Envoy and of the thread that receives. At the node: a client that is not answered sends its SYN seven times
//! (`net.ipv4.tcp_syn_retries` is 6), so a refused connection is seven dropped frames.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use tempfile::TempDir;
use xtask::gateway::{Gateway, Listener, Policy, Serves};
use xtask::process::Process;
use xtask::site::{VIP_PORT, VIP_V4, destination};

use crate::figure::{Lines, Plot, Ratio, Rounds, attempt, progress};
use crate::peers::{agent, attach};
use crate::sources::{Family, List, Pool};
use crate::wire::{Receiver, SENDS, Sender, pin};
use crate::{Size, at};

const COST: Plot<'_> = Plot {
    id: "refused-cost",
    title: "CPU time of a refused connection",
    unit: "microseconds",
};
const RATE: Plot<'_> = Plot {
    id: "refused-rate",
    title: "Refused connections that one CPU and one Envoy thread carry",
    unit: "connections a second",
};
const LATENCY: Plot<'_> = Plot {
    id: "refused-latency",
    title: "A good client's new connection and request, while others are refused",
    unit: "milliseconds",
};

/// How often a client that gets no answer sends its SYN.
const SYNS: f64 = 7.0;
/// Lengths of `ipBlocks`.
const BLOCKS: [usize; 2] = [1_000, 10_000];
/// Clients that are refused, at once.
const CLIENTS: usize = 8;
/// How long they try each time, how long each waits for an answer, and how long where there will be none.
const TIME: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);
const IN_VAIN: Duration = Duration::from_millis(100);
/// The sender's address on the way back.
const ROUTER: &str = "10.0.0.1";

/// A gateway, with us in front of it or not.
struct Site {
    receiver: Receiver,
    envoy: Gateway,
    _link: Option<OwnedFd>,
    _agent: Option<Process>,
    _folder: TempDir,
}

impl Site {
    fn new(sender: &mut Sender, list: &List, ours: bool) -> Result<Self> {
        let mut receiver = sender.machine(if ours { "behind gwfilter" } else { "Envoy alone" })?;
        let here = &receiver.namespace;
        here.address("lo", &format!("{VIP_V4}/32"))?;
        here.route("default", ROUTER)?;
        let listener = Listener {
            policy: Some(Policy {
                action: "DENY".to_owned(),
                field: "ipBlocks".to_owned(),
                blocks: list.texts(),
            }),
            ..Listener::http(gateway()?, false)
        };
        debug_assert!(matches!(listener.serves, Serves::Http), "requests are answered");
        let envoy = Gateway::start(here, &[listener])?;
        let folder = tempfile::Builder::new().prefix("bench-").tempdir()?;
        let (mut link, mut running) = (None, None);
        if ours {
            running = Some(agent(here, &receiver.device, list, folder.path())?);
        } else {
            link = Some(attach(&receiver, 2)?);
        }
        receiver.ready()?;
        Ok(Self {
            receiver,
            envoy,
            _link: link,
            _agent: running,
            _folder: folder,
        })
    }

    /// From now on, the sender's way to the gateway is this one.
    fn choose(&self, sender: &Sender) -> Result<()> {
        let way = [
            "route",
            "replace",
            &format!("{VIP_V4}/32"),
            "dev",
            &self.receiver.sends,
        ];
        sender.namespace.ip(&way)?;
        let mac = self.receiver.mac.map(|byte| format!("{byte:02x}")).join(":");
        let neighbour = [
            "neigh",
            "replace",
            VIP_V4,
            "lladdr",
            &mac,
            "dev",
            &self.receiver.sends,
        ];
        sender.namespace.ip(&neighbour).map(drop)
    }

    /// CPU time of Envoy and of the thread that receives.
    fn spent(&self) -> Result<u64> {
        let folder = PathBuf::from(format!("/proc/{}/task", self.envoy.pid()));
        let mut sum = self.receiver.spent()?;
        for task in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += text
                .split_whitespace()
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or_default();
        }
        Ok(sum)
    }
}

fn gateway() -> Result<SocketAddr> {
    destination(VIP_V4, VIP_PORT)
}

/// What was measured.
#[derive(Default)]
struct Found {
    cost: Lines,
    rate: Lines,
    latency: Lines,
}

/// Measures all of it.
pub(crate) fn measure(size: &Size) -> Result<()> {
    let mut found = Found::default();
    for blocks in BLOCKS {
        attempt(&format!("refused connections, {blocks} ipBlocks"), || {
            one(blocks, size, &mut found)
        })?;
    }
    for (plot, lines) in [
        (COST, &found.cost),
        (RATE, &found.rate),
        (LATENCY, &found.latency),
    ] {
        lines.tell(&plot)?;
    }
    Ok(())
}

/// One list.
fn one(blocks: usize, size: &Size, found: &mut Found) -> Result<()> {
    progress(format_args!("refused connections, {blocks} ipBlocks"));
    let list = List::mixed(Family::V4, blocks);
    let mut sender = Sender::new()?;
    let sites = [false, true].map(|ours| Site::new(&mut sender, &list, ours));
    let [alone, behind] = sites;
    let (alone, behind) = (alone?, behind?);
    let namespace = &sender.namespace;
    // Thousands of connections a second from one address: ports that wait for late segments would run short, and be searched for long.
    namespace.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    namespace.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    namespace.local("0.0.0.0/1")?;
    namespace.local("128.0.0.0/2")?;
    for site in [&alone, &behind] {
        // Answers come back to a thread as well: both ends are alike.
        namespace.address(&site.receiver.sends, &format!("{ROUTER}/32"))?;
    }
    let pool = list.inside();
    let stream = behind.receiver.stream(gateway()?, &pool)?;
    let (mut at_envoy, mut at_node, mut rates) = <(Rounds, Rounds, Rounds)>::default();
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=size.rounds {
        alone.choose(&sender)?;
        let before = alone.spent()?;
        let began = Instant::now();
        let (refused, slow) = flood(&sender, &pool, Some(PATIENCE))?;
        let took = began.elapsed();
        let spent = alone.spent()? - before;
        if refused < 100 {
            bail!("Envoy refused only {refused} connections");
        }
        let (_, calm) = flood(&sender, &pool, None)?;
        behind.choose(&sender)?;
        let (through, fast) = flood(&sender, &pool, Some(IN_VAIN))?;
        if through != 0 {
            bail!("{through} refused connections came to Envoy behind gwfilter");
        }
        let work = behind
            .receiver
            .measure(&sender, &stream, Duration::from_millis(300))?;
        if round == 0 {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let (spent, refused) = (spent as f64, refused as f64);
        at_envoy.0.push(spent / refused / 1000.0);
        at_node.0.push(work.cost * SYNS / 1000.0);
        rates.0.push(refused / took.as_secs_f64());
        for (all, new) in seen.iter_mut().zip([calm, slow, fast]) {
            all.push(new);
        }
    }
    let ratio = Ratio {
        id: format!("refused-{}-blocks", at(blocks)),
        of: format!(
            "CPU time of a refused connection, {blocks} ipBlocks: seven SYNs dropped by gwfilter in XDP / Envoy's RBAC"
        ),
        goal: 1.0 / 50.0,
        rounds: at_node.over(&at_envoy),
    };
    ratio.tell()?;
    found.cost.add(COST.id, "Envoy", blocks, at_envoy);
    found.cost.add(COST.id, "gwfilter, seven SYNs", blocks, at_node);
    found.rate.add(RATE.id, "Envoy", blocks, rates);
    let names = ["nobody is refused", "refused by Envoy", "refused by gwfilter"];
    for (name, rounds) in names.into_iter().zip(&seen) {
        for (what, share) in [("median", 50), ("99th percentile", 99)] {
            let of = |times: &Vec<f64>| percentile(times, share);
            let rounds = Rounds(rounds.iter().map(of).collect());
            found
                .latency
                .add(LATENCY.id, &format!("{name}, {what}"), blocks, rounds);
        }
    }
    Ok(())
}

fn percentile(times: &[f64], share: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * share / 100).copied().unwrap_or(f64::NAN)
}

/// For [`TIME`], a good client asks again and again, and others from addresses of the pool try and are refused, if it is said how long they
/// wait. What comes back is how many of them were answered, and the good client's times in milliseconds.
fn flood(sender: &Sender, pool: &Pool, refused: Option<Duration>) -> Result<(u64, Vec<f64>)> {
    let to = gateway()?;
    let sources: Vec<Ipv4Addr> = pool
        .octets()
        .filter_map(|octets| octets.first_chunk::<4>().map(|four| Ipv4Addr::from(*four)))
        .collect();
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    sender.namespace.enter(|| {
        pin(0, SENDS)?;
        std::thread::scope(|scope| {
            // Threads that are started here are in the namespace and on the CPU too.
            for (client, patience) in (0..CLIENTS).zip(refused.iter().cycle()) {
                let (sources, over, answered) = (&sources, &over, &answered);
                scope.spawn(move || {
                    for source in sources.iter().skip(client).step_by(CLIENTS).cycle() {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        if ask(Some(*source), to, *patience).is_ok_and(|status| status == 403) {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let began = Instant::now();
            let mut times = Vec::new();
            let mut failed = Vec::new();
            while began.elapsed() < TIME {
                let asked = Instant::now();
                match ask(None, to, PATIENCE) {
                    Ok(200) => times.push(asked.elapsed().as_secs_f64() * 1000.0),
                    Ok(status) => failed.push(format!("status {status}")),
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
            over.store(true, Ordering::Relaxed);
            if times.is_empty() || failed.len() > times.len() {
                let last = failed.last().map_or("it waits", String::as_str);
                bail!(
                    "a good client was answered {} times and {} times not: {last}",
                    times.len(),
                    failed.len()
                );
            }
            Ok((answered.load(Ordering::Relaxed), times))
        })
    })?
}

/// One connection and one request; the status.
fn ask(from: Option<Ipv4Addr>, to: SocketAddr, patience: Duration) -> Result<u16> {
    let kind = (AddressFamily::Inet, SockType::Stream);
    let socket = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, None).context("a socket")?;
    let wait = TimeVal::new(
        i64::try_from(patience.as_secs())?,
        i64::from(patience.subsec_micros()),
    );
    setsockopt(&socket, sockopt::SendTimeout, &wait)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &wait)?;
    if let Some(from) = from {
        bind(
            socket.as_raw_fd(),
            &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0)),
        )
        .context("binding")?;
    }
    let IpAddr::V4(address) = to.ip() else {
        bail!("not an IPv4 address: {to}");
    };
    let to = std::net::SocketAddrV4::new(address, to.port());
    connect(socket.as_raw_fd(), &SockaddrIn::from(to)).context("connecting")?;
    let mut stream = TcpStream::from(socket);
    let request = format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("asking")?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).context("an answer")?;
    let text = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
    let status = text.split_whitespace().nth(1).context("an empty answer")?;
    Ok(status.parse()?)
}
