//! What the node lets in, seen by connection attempts, and whether a run of them is one policy after another.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, setsockopt, socket, sockopt,
};
use xtask::site::{Client, NODE_V4, NODE_V6, SSH_PORT, Site, destination};

/// How long an answer may still take when the node has answered a later question on a port that nobody judges.
const GRACE: Duration = Duration::from_millis(30);
/// How long that answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shot {
    pub(crate) client: Client,
    pub(crate) to: SocketAddr,
}

/// Which attempts of a volley were let in.
pub(crate) type Volley = Vec<bool>;

/// Fires all shots, in their order and within a millisecond or so; says which were answered.
pub(crate) fn fire(site: &Site, shots: &[Shot]) -> Volley {
    let ssh = [NODE_V4, NODE_V6].map(|node| destination(node, SSH_PORT).expect("an address"));
    // What tells silence from slowness: sent last, and never judged.
    let controls = Client::ALL
        .into_iter()
        .flat_map(|client| ssh.map(|to| Shot { client, to }));
    let all: Vec<Shot> = shots.iter().copied().chain(controls).collect();
    let mut streams: Vec<(usize, TcpStream)> = Vec::new();
    for client in Client::ALL {
        let mine = all.iter().enumerate().filter(|(_, shot)| shot.client == client);
        let mine: Vec<(usize, SocketAddr)> = mine.map(|(number, shot)| (number, shot.to)).collect();
        let made = site.client(client).enter(|| {
            mine.iter()
                .map(|(number, to)| (*number, open(*to)))
                .collect::<Vec<_>>()
        });
        streams.extend(made.expect("the client's namespace"));
    }
    streams.sort_by_key(|(number, _)| *number);
    for ((_, stream), shot) in streams.iter().zip(&all) {
        go(stream, shot.to);
    }
    let mut answered = vec![false; all.len()];
    let began = Instant::now();
    let mut quiet_since = None;
    loop {
        for ((_, stream), answered) in streams.iter().zip(&mut answered) {
            *answered = *answered || stream.peer_addr().is_ok();
        }
        let (judged, controls) = answered.split_at(shots.len());
        if controls.iter().all(|answered| *answered) {
            let since = *quiet_since.get_or_insert_with(Instant::now);
            if judged.iter().all(|answered| *answered) || since.elapsed() > GRACE {
                return judged.to_vec();
            }
        }
        assert!(began.elapsed() < PATIENCE, "SSH does not answer: {controls:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A socket that does not wait, and that ends with a reset.
fn open(to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None).expect("a socket");
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&fd, sockopt::Linger, &at_once).expect("an option");
    TcpStream::from(fd)
}

fn go(stream: &TcpStream, to: SocketAddr) {
    let fd = stream.as_raw_fd();
    let outcome = match to {
        SocketAddr::V4(to) => connect(fd, &SockaddrIn::from(to)),
        SocketAddr::V6(to) => connect(fd, &SockaddrIn6::from(to)),
    };
    assert!(
        matches!(outcome, Ok(()) | Err(Errno::EINPROGRESS)),
        "{to}: {outcome:?}"
    );
}

/// Whether every answer belongs to one of the policies in `chain`, and never to an earlier one than the answer before it: each policy
/// came into force as a whole, and none came back. If not: which volley breaks it.
pub(crate) fn breaks(volleys: &[Volley], chain: &[Volley]) -> Option<usize> {
    let mut at = 0;
    for (number, volley) in volleys.iter().enumerate() {
        for (shot, answered) in volley.iter().enumerate() {
            let fits = |policy: &Volley| policy.get(shot) == Some(answered);
            match chain.iter().skip(at).position(fits) {
                Some(further) => at += further,
                None => return Some(number),
            }
        }
    }
    None
}

#[test]
fn answers_then_whole_policies_in_their_order_or_not() {
    let (old, new) = (vec![false, true], vec![true, false]);
    let chain = [old.clone(), new.clone()];
    assert_eq!(breaks(&[old.clone(), new.clone()], &chain), None);
    // The swap fell between the two shots of one volley.
    assert_eq!(
        breaks(&[old.clone(), vec![false, false], new.clone()], &chain),
        None
    );
    // Open for all.
    assert_eq!(breaks(&[old.clone(), vec![true, true]], &chain), Some(1));
    // And back again.
    assert_eq!(breaks(&[old.clone(), new.clone(), old.clone()], &chain), Some(2));
    assert_eq!(
        breaks(
            &[old.clone(), vec![true, true], new.clone()],
            &[old, vec![true, true], new]
        ),
        None
    );
}
