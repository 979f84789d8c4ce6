//! Two streams of SYNs to the gateway: one from a client that must never get through, one from a client that always must.
//!
//! They are counted behind XDP and TC, before connection tracking, and go no further; a SYN of them never reaches the gateway.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use xtask::poll;
use xtask::site::{CLIENT_V4, Site, VIP_PORT, VIP_V4};

/// Marks the meter's own packets: no client has this source port.
const PORT: u16 = 7;
/// Packets of each stream a second, about.
const PER_SECOND: u64 = 2000;

/// Runs until it is read.
pub(crate) struct Meter {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
}

/// What it counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Packets of each stream.
    pub(crate) sent: u64,
    /// Of those that must never arrive.
    pub(crate) leaked: u64,
    /// Of those that must always arrive.
    pub(crate) arrived: u64,
}

impl Reading {
    /// Fails unless nothing leaked and nothing was lost, and enough was sent to say so.
    #[track_caller]
    pub(crate) fn must_be_clean(self, what: &str) {
        assert!(
            self.sent > 500,
            "{what}: too little was sent to say anything: {self:?}"
        );
        assert_eq!((self.leaked, self.arrived), (0, self.sent), "{what}: {self:?}");
    }
}

impl Meter {
    /// Begins to send from the router: as client A what must never arrive, as client B what always must.
    pub(crate) fn start(site: &Site) -> Self {
        let count = |source: &str, name: &str| {
            format!("ip saddr {source} tcp sport {PORT} tcp dport {VIP_PORT} counter name {name} drop;")
        };
        let rules = format!(
            "table ip streams {{ counter never {{ }}; counter always {{ }}; chain c {{ \
             type filter hook prerouting priority -400; {} {} }}; }}",
            count(CLIENT_V4[0], "never"),
            count(CLIENT_V4[1], "always")
        );
        site.node.nft(&rules).expect("counters");
        let make = || {
            socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
        };
        let out = site.router.enter(make).expect("entered").expect("a raw socket");
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (over.clone(), sent.clone());
        let sender = std::thread::spawn(move || send(&out, &until, &count));
        Self {
            over,
            sent,
            sender: Some(sender),
        }
    }

    /// How many packets of each stream were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Waits until this many more were sent.
    pub(crate) fn run_for(&self, packets: u64) {
        let goal = self.sent() + packets;
        let reached = poll::until(Duration::from_secs(60), || (self.sent() >= goal).then_some(()));
        assert!(reached.is_some(), "the sender is stuck");
    }

    /// Ends.
    pub(crate) fn read(mut self, site: &Site) -> Reading {
        self.stop();
        let sent = self.sent();
        let counter = |name: &str| {
            let shown = site
                .node
                .run("nft", &["list", "counter", "ip", "streams", name])
                .expect("shown");
            let packets = shown
                .split_once("packets ")
                .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
            packets.expect("a number of packets")
        };
        // The last ones may still be on their way.
        let _ = poll::until(Duration::from_secs(2), || {
            (counter("always") >= sent).then_some(())
        });
        Reading {
            sent,
            leaked: counter("never"),
            arrived: counter("always"),
        }
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(sender) = self.sender.take() {
            sender.join().expect("the sender");
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn send(out: &OwnedFd, over: &AtomicBool, sent: &AtomicU64) {
    let to: Ipv4Addr = VIP_V4.parse().expect("an address");
    let [a, b, c, d] = to.octets();
    let address = SockaddrIn::new(a, b, c, d, 0);
    let frames = CLIENT_V4.map(|from| syn(from.parse().expect("an address"), to));
    let (began, mut count) = (Instant::now(), 0_u64);
    while !over.load(Ordering::SeqCst) {
        for frame in &frames {
            sendto(out.as_raw_fd(), frame, &address, MsgFlags::empty()).expect("sent");
        }
        count += 1;
        sent.store(count, Ordering::SeqCst);
        // Behind time, it does not hurry: a burst would overrun the cable's short queue.
        let due = began + Duration::from_micros(count * 1_000_000 / PER_SECOND);
        std::thread::sleep(
            due.saturating_duration_since(Instant::now())
                .max(Duration::from_micros(100)),
        );
    }
}

/// An IPv4 packet with a SYN. The kernel fills in length and checksum of the IP header; nobody looks at the checksum of TCP.
fn syn(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(PORT.to_be_bytes());
    packet.extend(VIP_PORT.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}
