//! The wall clock jumps while an agent enforces: no lease moves with it. Only in a guest of `cargo xtask test vm`, for a machine has one
//! wall clock.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use xtask::http::Answer;
use xtask::kernel;
use xtask::manifests::ingress_policy;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{CLIENT_V4, CLIENT_V6, Client, NIC, Site, VIP_PORT, VIP_V4, destination};

const HOUR: i64 = 3600;
/// Long enough for an agent on an emulated processor to renew it.
const LEASE: Duration = Duration::from_secs(20);
/// How long a change may take to show.
const SOON: Duration = Duration::from_secs(20);

/// Sets the wall clock by so many seconds.
fn jump(seconds: i64) {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("a clock");
    let to = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
    clock_settime(ClockId::CLOCK_REALTIME, to).expect("set; a guest's first process may");
}

/// Client A is refused and B let in, again and again, for this long.
#[track_caller]
fn enforced_for(span: Duration, site: &Site, at: SocketAddr, agent: &Process) {
    let until = Instant::now() + span;
    while Instant::now() < until {
        assert_eq!(site.get(Client::A, at), Answer::Timeout, "{}", agent.tail());
        // An emulated processor may be too slow for one answer.
        let let_in = site.get_until(Client::B, at, SOON, |answer| *answer == Answer::Status(200));
        assert_eq!(let_in, Answer::Status(200), "{}", agent.tail());
    }
}

#[test]
fn wall_clock_set_back_and_forth_by_an_hour_then_the_lease_is_renewed_and_ends_as_if_it_were_not() {
    assert!(
        kernel::is_guest(),
        "this sets the machine's clock: only in a guest of `cargo xtask test vm`"
    );
    let site = Site::new().expect("a site");
    let policy = ingress_policy("DENY", "ipBlocks", &[CLIENT_V4[0], CLIENT_V6[0]]);
    site.write("ingress-policy.yaml", &policy).expect("a policy");
    let from = site.manifests().display().to_string();
    let binary = Path::new(env!("CARGO_BIN_EXE_gwfilter"));
    let lease = format!("{}s", LEASE.as_secs());
    let arguments = [
        "run",
        "--from",
        &from,
        "--interface",
        NIC,
        "--lease",
        &lease,
        "--pod-lease",
        &lease,
        "--packet-log",
        "drops",
    ];
    let mut agent = site.start("gwfilter run", binary, &arguments).expect("started");
    agent.wait_line("agent runs", SOON).expect("it runs");
    let at = destination(VIP_V4, VIP_PORT).expect("an address");
    let refused = site.get_until(Client::A, at, SOON, |answer| *answer == Answer::Timeout);
    assert_eq!(refused, Answer::Timeout, "{}", agent.tail());
    // An agent that reckoned in wall time would grant, or miss, an hour: it shows within one lease.
    for seconds in [-HOUR, 2 * HOUR] {
        jump(seconds);
        enforced_for(LEASE + Duration::from_secs(4), &site, at, &agent);
    }
    let log = agent.log();
    assert!(!log.contains("the lease"), "{}", agent.tail());
    // That B was let in at last does not say that it always was.
    let dropped = |client: usize| {
        let its = [CLIENT_V4[client], CLIENT_V6[client]].map(|address| format!("sourceIP: {address}"));
        let drops = log.lines().filter(|line| line.contains("verdict: drop"));
        drops
            .filter(|line| its.iter().any(|its| line.contains(its)))
            .count()
    };
    assert!(dropped(0) > 0, "A's are in the log: {}", agent.tail());
    assert_eq!(dropped(1), 0, "{log}");
    // A lease of wall time would last an hour longer.
    agent.signal(Signal::SIGKILL).expect("sent");
    agent.wait_exit(SOON).expect("ended");
    let killed = Instant::now();
    jump(-HOUR);
    let opened = poll::until(LEASE + SOON, || {
        (site.get(Client::A, at) == Answer::Status(200)).then_some(())
    });
    assert!(opened.is_some(), "refused {:?} after its end", killed.elapsed());
    let least = LEASE * 2 / 3 - Duration::from_secs(4);
    assert!(
        killed.elapsed() > least,
        "open {:?} after its end",
        killed.elapsed()
    );
}
