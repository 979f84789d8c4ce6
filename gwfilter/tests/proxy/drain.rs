//! The drain window over a real Envoy that gets the same policies and drains its own connections: what it lets live, lives.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use xtask::gateway::{Changing, Listener, Policy, Serves};
use xtask::manifests::{cluster, ingress_policy};
use xtask::netns::Namespace;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{CLIENT_V4, Client, POD_PORT, POD_V4, Site, VIP_PORT, VIP_V4};

use crate::lab::{POLICY, SOON, start, to};

/// As long as Istio has Envoy drain. The window at the node is the default too.
const ENVOY: Duration = Duration::from_secs(45);
/// Silence that no busy machine explains: longer than any pause of a transfer that lives.
const SILENCE: Duration = Duration::from_secs(8);

struct Lab {
    site: Site,
    gateway: Changing,
    agent: Process,
}

fn listeners(denied: &[&str]) -> Vec<Listener> {
    let policy = Policy {
        action: "DENY".to_owned(),
        field: "ipBlocks".to_owned(),
        blocks: denied.iter().map(|block| (*block).to_owned()).collect(),
    };
    vec![Listener {
        at: to(POD_V4, POD_PORT),
        proxy_protocol: false,
        policy: Some(policy),
        serves: Serves::Echo,
    }]
}

impl Lab {
    fn new(denied: &[&str]) -> Self {
        let site = Site::without_gateway().expect("a site; this test needs root, and `cargo xtask setup`");
        site.write("cluster.yaml", &cluster()).expect("objects");
        site.write(POLICY, &ingress_policy("DENY", "ipBlocks", denied))
            .expect("a policy");
        let gateway = Changing::start(&site.pod, &listeners(denied), ENVOY).expect("Envoy");
        let agent = start(&site, &[]);
        Self { site, gateway, agent }
    }

    /// Another policy, at the node and at the gateway, as one apply brings it to both.
    fn deny(&mut self, denied: &[&str]) {
        self.site
            .write(POLICY, &ingress_policy("DENY", "ipBlocks", denied))
            .expect("a policy");
        self.gateway
            .change(&self.site.pod, &listeners(denied))
            .expect("taken");
    }

    fn refused(&self, client: Client) {
        let at = to(VIP_V4, VIP_PORT);
        let refused = poll::until(SOON, || {
            let opened = dial(self.site.client(client), at);
            opened
                .is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
                .then_some(())
        });
        assert!(
            refused.is_some(),
            "{client:?} can connect:\n{}",
            self.agent.tail()
        );
    }

    fn let_in(&self, client: Client) {
        let at = to(VIP_V4, VIP_PORT);
        let echoed = poll::until(SOON, || {
            let mut stream = dial(self.site.client(client), at).ok()?;
            echo(&mut stream, 0).ok()
        });
        assert!(
            echoed.is_some(),
            "{client:?} is not let in:\n{}",
            self.agent.tail()
        );
    }
}

fn dial(from: &Namespace, at: SocketAddr) -> io::Result<TcpStream> {
    let stream = from
        .enter(|| TcpStream::connect_timeout(&at, Duration::from_millis(700)))
        .map_err(io::Error::other)??;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Sends a block and reads it back.
fn echo(stream: &mut TcpStream, number: usize) -> io::Result<()> {
    let block = number.to_be_bytes().repeat(512);
    stream.write_all(&block)?;
    let mut back = vec![0; block.len()];
    stream.read_exact(&mut back)?;
    if back == block {
        Ok(())
    } else {
        Err(io::Error::other("another block came back"))
    }
}

/// A transfer that goes on until it is ended.
struct Transfer {
    blocks: &'static AtomicUsize,
    thread: JoinHandle<io::Error>,
    began: Instant,
}

impl Transfer {
    fn start(from: &Namespace) -> Self {
        let mut stream = dial(from, to(VIP_V4, VIP_PORT)).expect("let in");
        // As long as the test's process: a few bytes.
        let blocks: &'static AtomicUsize = Box::leak(Box::default());
        let thread = std::thread::spawn(move || {
            for number in 1.. {
                if let Err(end) = echo(&mut stream, number) {
                    return end;
                }
                blocks.store(number, Ordering::SeqCst);
            }
            io::Error::other("no end")
        });
        Self {
            blocks,
            thread,
            began: Instant::now(),
        }
    }

    /// Waits until it got on by some blocks.
    fn goes_on(&self, what: &str, lab: &Lab) {
        let from = self.blocks.load(Ordering::SeqCst);
        let on = poll::until(SILENCE + SOON, || {
            let done = self.blocks.load(Ordering::SeqCst) > from + 20;
            (done || self.thread.is_finished()).then_some(done)
        });
        assert_eq!(
            on,
            Some(true),
            "{what}: after {:?} the transfer stands at {from};\n{}\n{}",
            self.began.elapsed(),
            lab.agent.tail(),
            lab.gateway.tail()
        );
    }

    /// Waits for its end.
    fn end(self) -> io::Error {
        self.thread.join().expect("it ends")
    }
}

#[test]
fn a_long_transfer_through_tightenings_a_loosening_and_a_restart_then_only_envoy_ends_it() {
    const A: &str = CLIENT_V4[0];
    const B: &str = CLIENT_V4[1];
    let mut lab = Lab::new(&["10.9.0.0/16"]);
    lab.let_in(Client::A);
    let first = Transfer::start(&lab.site.client_a);
    let others = Transfer::start(&lab.site.client_b);
    first.goes_on("before", &lab);
    let tightened = Instant::now();
    lab.deny(&["10.9.0.0/16", A]);
    lab.refused(Client::A);
    first.goes_on("tightened", &lab);
    // Within the window: tightened once more, for somebody else too.
    lab.deny(&["10.9.0.0/16", A, B]);
    lab.refused(Client::B);
    first.goes_on("tightened twice", &lab);
    others.goes_on("tightened for it", &lab);
    // The agent is killed, and another one goes on with what it noted.
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    lab.agent = start(&lab.site, &[]);
    lab.refused(Client::A);
    first.goes_on("after a restart", &lab);
    others.goes_on("after a restart", &lab);
    // Loosened for B: new connections get in at once, and its old one is none the worse.
    lab.deny(&["10.9.0.0/16", A]);
    lab.let_in(Client::B);
    first.goes_on("loosened for another", &lab);
    others.goes_on("loosened", &lab);
    assert!(
        tightened.elapsed() < ENVOY,
        "{:?}: too slow to say anything",
        tightened.elapsed()
    );
    // Envoy ends what it drained; no silence came before.
    for (transfer, whose) in [(first, "A"), (others, "B")] {
        let end = transfer.end();
        assert!(
            !matches!(end.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock),
            "{whose}'s transfer fell silent after {:?}: {end}\n{}",
            tightened.elapsed(),
            lab.agent.tail()
        );
    }
    assert!(
        tightened.elapsed() >= ENVOY - Duration::from_secs(1),
        "{:?}",
        tightened.elapsed()
    );
    lab.refused(Client::A);
    lab.let_in(Client::B);
}
