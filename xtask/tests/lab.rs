//! The lab itself: what it promises to the tests that stand on it. Needs root, and fails without.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use xtask::http::{self, Answer, Connection, Server};
use xtask::meter::{End, Fate, Kind, Meter, Stream};
use xtask::netns::{Namespace, veth};
use xtask::process::Process;
use xtask::{poll, rights};

const SOON: Duration = Duration::from_secs(5);
const BRIEF: Duration = Duration::from_millis(300);

fn pair() -> anyhow::Result<(Namespace, Namespace)> {
    rights::require_root()?;
    let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
    veth((&client, "eth0"), (&server, "eth0"))?;
    for (namespace, last) in [(&client, 2), (&server, 1)] {
        namespace.address("eth0", &format!("198.51.100.{last}/24"))?;
        namespace.address("eth0", &format!("2001:db8::{last}/64"))?;
    }
    Ok((client, server))
}

#[test]
fn client_and_server_on_a_cable_then_200_and_the_bound_source_in_both_families() {
    let (client, server) = pair().expect("a pair");
    client.local("203.0.113.0/24").expect("local");
    server.route("203.0.113.0/24", "198.51.100.2").expect("route");
    let cases: [(&str, Option<&str>, &str); 3] = [
        ("198.51.100.1:8080", None, "198.51.100.2:"),
        ("198.51.100.1:8081", Some("203.0.113.77"), "203.0.113.77:"),
        ("[2001:db8::1]:8080", Some("2001:db8::2"), "[2001:db8::2]:"),
    ];
    for (address, from, seen) in cases {
        let to: SocketAddr = address.parse().expect("an address");
        let served = Server::start(&server, to).expect("a server");
        let from = from.map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let mut connection = Connection::open(&client, from, to, SOON).expect("connected");
        assert_eq!(connection.get(), Answer::Status(200));
        assert!(
            connection.body().starts_with(seen),
            "{} from {from:?}",
            connection.body()
        );
        assert_eq!(
            connection.get(),
            Answer::Status(200),
            "a second request on the same connection"
        );
        assert_eq!(served.served(), 2);
    }
}

#[test]
fn packets_dropped_then_timeout_and_nobody_listening_then_refused() {
    let (client, server) = pair().expect("a pair");
    let to: SocketAddr = "198.51.100.1:8080".parse().expect("an address");
    assert_eq!(http::get(&client, None, to, SOON), Answer::Refused);
    server
        .nft("table ip t { chain c { type filter hook input priority 0; tcp dport 8080 drop; }; }")
        .expect("rules");
    assert_eq!(http::get(&client, None, to, BRIEF), Answer::Timeout);
}

#[test]
fn two_machines_then_each_has_its_own_devices_bpffs_and_the_same_working_directory() {
    let (one, two) = pair().expect("a pair");
    one.enter(|| std::fs::create_dir("/sys/fs/bpf/x"))
        .expect("entered")
        .expect("made");
    assert!(
        !two.enter(|| std::path::Path::new("/sys/fs/bpf/x").exists())
            .expect("entered")
    );
    assert!(
        one.enter(|| std::path::Path::new("/sys/fs/bpf/x").exists())
            .expect("entered")
    );
    assert!(
        one.enter(|| std::path::Path::new("/sys/class/net/eth0").exists())
            .expect("entered")
    );
    let here = std::env::current_dir().expect("a directory");
    assert_eq!(
        one.enter(std::env::current_dir)
            .expect("entered")
            .expect("a directory"),
        here
    );
    assert_eq!(std::env::current_dir().expect("still ours"), here);
}

#[test]
fn a_child_that_ends_early_then_its_last_words_are_in_the_error() {
    rights::require_root().expect("root");
    let namespace = Namespace::new("one").expect("a namespace");
    let mut command = Command::new("sh");
    command.args(["-c", "echo to stdout; echo to stderr >&2; exit 3"]);
    let mut child = Process::spawn(&namespace, "the child", command).expect("started");
    let error = child
        .wait_line("never written", SOON)
        .expect_err("it ended")
        .to_string();
    assert!(
        error.contains("to stdout") && error.contains("to stderr") && error.contains('3'),
        "{error}"
    );
}

#[test]
fn a_child_dropped_then_it_is_gone() {
    rights::require_root().expect("root");
    let namespace = Namespace::new("one").expect("a namespace");
    let mut command = Command::new("sleep");
    command.arg("600");
    let child = Process::spawn(&namespace, "a sleeper", command).expect("started");
    let proc = format!("/proc/{}", child.pid());
    assert!(std::path::Path::new(&proc).exists());
    drop(child);
    assert!(!std::path::Path::new(&proc).exists(), "killed and reaped");
}

#[test]
fn a_namespace_dropped_then_its_end_of_the_cable_takes_the_other_with_it() {
    let (client, server) = pair().expect("a pair");
    assert!(client.ip(&["link", "show", "eth0"]).is_ok());
    drop(server);
    let gone = poll::until(SOON, || {
        client.ip(&["link", "show", "eth0"]).is_err().then_some(())
    });
    assert!(
        gone.is_some(),
        "the kernel takes a namespace apart when nobody holds it"
    );
}

#[test]
fn the_site_then_every_way_to_the_gateway_and_the_clients_own_addresses_arrive() {
    use xtask::site::{self, Client, Site};
    let site = Site::new().expect("a site");
    let ways = [
        (site::VIP_V4, site::VIP_PORT),
        (site::VIP_V6, site::VIP_PORT),
        (site::NODE_V4, site::NODE_PORT),
        (site::NODE_V6, site::NODE_PORT),
        (site::POD_V4, site::POD_PORT),
        (site::POD_V6, site::POD_PORT),
        (site::NODE_V4, site::SSH_PORT),
        (site::NODE_V6, site::SSH_PORT),
    ];
    for (address, port) in ways {
        let to = site::destination(address, port).expect("an address");
        for client in Client::ALL {
            let mut connection = Connection::open(site.client(client), None, to, SOON).expect("connected");
            assert_eq!(connection.get(), Answer::Status(200), "{client:?} to {to}");
            let seen: SocketAddr = connection.body().parse().expect("the peer's address");
            assert_eq!(seen.ip().to_string(), client.address(to), "{client:?} to {to}");
        }
    }
    assert_eq!((site.served(), site.served_ssh()), (12, 4));
}

#[test]
fn somebody_elses_program_attached_then_its_id_is_shown_and_packets_pass() {
    use xtask::foreign;
    let (client, server) = pair().expect("a pair");
    assert_eq!(foreign::xdp_id(&server, "eth0").expect("shown"), None);
    foreign::attach_xdp(&server, "eth0").expect("attached");
    assert!(foreign::xdp_id(&server, "eth0").expect("shown").is_some());
    let shown = server.ip(&["-details", "link", "show", "eth0"]).expect("shown");
    assert!(
        shown.contains(foreign::NAME) || shown.contains("prog/xdp"),
        "{shown}"
    );
    let _served = Server::start(&server, "198.51.100.1:8080".parse().expect("an address")).expect("a server");
    let answer = http::get(
        &client,
        None,
        "198.51.100.1:8080".parse().expect("an address"),
        SOON,
    );
    assert_eq!(answer, Answer::Status(200));
}

/// A meter on the cable of a pair, with a stream of each fate and family.
#[expect(clippy::expect_used, reason = "a test helper")]
fn meter<'a>(client: &'a Namespace, server: &'a Namespace) -> Meter<'a> {
    let device = "eth0";
    let mut streams = Vec::new();
    for fate in [Fate::Never, Fate::Always] {
        for (first, to) in [
            ("192.0.2.7", "198.51.100.1:80"),
            ("2001:db8:7::", "[2001:db8::1]:80"),
        ] {
            streams.push(Stream {
                name: format!("{fate:?} {first}"),
                fate,
                kind: Kind::Mixed,
                first: first.parse().expect("an address"),
                sources: 100,
                to: vec![to.parse().expect("an address")],
            });
        }
    }
    let ends = [client, server].map(|namespace| End { namespace, device });
    Meter::start(ends[0], ends[1], streams, 10_000).expect("a meter")
}

#[test]
fn numbered_streams_over_a_cable_then_every_frame_is_counted_once() {
    let (client, server) = pair().expect("a pair");
    let mut meter = meter(&client, &server);
    meter.run_for(BRIEF).expect("sent");
    meter.without_link(|| Ok(())).expect("down and up");
    meter.run_for(BRIEF).expect("sent");
    let outcome = meter.stop().expect("counted");
    assert!(outcome.doubts.is_empty(), "{outcome:#?}");
    for account in &outcome.accounts {
        assert!(account.sent >= 5_000, "{account:#?}");
        match account.fate {
            Fate::Always => assert_eq!(account.wrong, 0, "{account:#?}"),
            Fate::Never => {
                let lost = account.sent - account.wrong;
                assert!(lost <= account.excused, "nothing refuses them here: {account:#?}");
                assert!(account.longest_wrong > 100_000_000, "{account:#?}");
            }
        }
    }
}

#[test]
fn a_link_that_goes_down_unannounced_then_the_meter_does_not_trust_itself() {
    let (client, server) = pair().expect("a pair");
    let meter = meter(&client, &server);
    meter.run_for(BRIEF).expect("sent");
    for state in ["down", "up"] {
        server.ip(&["link", "set", "eth0", state]).expect("set");
    }
    meter.run_for(BRIEF).expect("sent");
    let outcome = meter.stop().expect("counted");
    assert!(!outcome.doubts.is_empty(), "{outcome:#?}");
}
