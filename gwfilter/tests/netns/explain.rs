//! `gwfilter explain` without manifests: what it says is what the kernel does, with an agent, when it is dead, and when nothing is left.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::manifests::{cluster_with_proxy_protocol, ingress_policy};
use xtask::poll;
use xtask::site::{Client, PEER_V4, PEER_V6, Site};

use crate::lab::{A, Lab, POLICY, SOON, binary, start, to, unload, vip, ways};

const RULE: &str = "ns[istio-system]-policy[ingress-policy]-rule[0]";

fn explain(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    site.node
        .output(command.arg("explain").args(arguments))
        .expect("started")
}

fn answer(site: &Site, source: &str, dest: SocketAddr) -> Value {
    let output = explain(
        site,
        &["--source", source, "--dest", &dest.to_string(), "-o", "json"],
    );
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    serde_json::from_str(&out).expect("JSON")
}

fn word<'a>(answer: &'a Value, pointer: &str) -> Option<&'a str> {
    answer.pointer(pointer)?.as_str()
}

/// Answers to these lines of JSON, of the node's tables or of the manifests.
fn answers(site: &Site, queries: &str, manifests: bool) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("queries");
    fs::write(&file, queries).expect("written");
    let (file, from) = (file.display().to_string(), site.manifests().display().to_string());
    let mut arguments = vec!["--queries", &file];
    if manifests {
        arguments.extend(["--from", &from]);
    }
    let output = explain(site, &arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Asks the tables and the manifests the same, and gives back the verdicts.
#[track_caller]
fn agree(site: &Site, queries: &str) -> Vec<String> {
    // Where the client address comes from is what the agent writes down, some time after it serves. Before, an agent of a namespace that is gone may
    // have left a file of this name.
    let query = queries.lines().next().expect("a query");
    let client_address = |manifests| {
        let answers = answers(site, query, manifests);
        word(answers.first()?, "/client_address").map(str::to_owned)
    };
    let wanted = client_address(true);
    let noted = poll::until(SOON, || (client_address(false) == wanted).then_some(()));
    assert!(noted.is_some(), "the agent writes down nothing of it");
    let (here, there) = (answers(site, queries, false), answers(site, queries, true));
    assert_eq!(here.len(), there.len());
    let mut verdicts = Vec::new();
    for ((here, there), query) in here.iter().zip(&there).zip(queries.lines()) {
        for pointer in [
            "/verdict",
            "/reason",
            "/gateway",
            "/policy",
            "/hook",
            "/client_address",
        ] {
            assert_eq!(
                here.pointer(pointer),
                there.pointer(pointer),
                "{query}\ntables: {here:#}\nmanifests: {there:#}"
            );
        }
        verdicts.push(word(here, "/verdict").expect("a verdict").to_owned());
    }
    verdicts
}

#[test]
fn a_packet_then_what_the_kernel_does_with_an_agent_paused_without_one_and_after_unload() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &["--drain", "1h"]);
    for way in ways() {
        for client in Client::ALL {
            let said = answer(&lab.site, client.address(way), way);
            let drops = client == Client::A;
            if drops {
                lab.refused(client, way);
            } else {
                lab.let_in(client, way);
            }
            let wanted = if drops {
                (Some("drop"), Some("denied-by-rule"), Some(RULE), Some("xdp"))
            } else {
                (Some("pass"), Some("allowed"), None, Some("xdp"))
            };
            let found = (
                word(&said, "/verdict"),
                word(&said, "/reason"),
                word(&said, "/policy"),
                word(&said, "/hook"),
            );
            assert_eq!(found, wanted, "{client:?} at {way}: {said:#}");
            assert_eq!(
                word(&said, "/gateway"),
                Some("istio-system/istio-ingressgateway"),
                "{said:#}"
            );
        }
    }
    let ssh = answer(&lab.site, A[0], to("10.0.0.10", 22));
    assert_eq!(word(&ssh, "/reason"), Some("not-a-gateway"), "{ssh:#}");

    let binary = binary().display().to_string();
    lab.site
        .node
        .run(&binary, &["pause", "--for", "5m"])
        .expect("paused");
    let said = answer(&lab.site, A[0], vip());
    assert_eq!(
        (
            word(&said, "/verdict"),
            word(&said, "/reason"),
            word(&said, "/policy")
        ),
        (Some("pass"), Some("paused"), Some(RULE)),
        "{said:#}"
    );
    lab.let_in(Client::A, vip());
    lab.site.node.run(&binary, &["resume"]).expect("resumed");

    lab.agent.signal(Signal::SIGKILL).expect("killed");
    let dead = poll::until(SOON, || {
        let said = answer(&lab.site, A[0], vip());
        said.to_string().contains("no agent runs").then_some(said)
    });
    let said = dead.expect("said that no agent runs");
    assert_eq!(
        (word(&said, "/verdict"), word(&said, "/policy")),
        (Some("drop"), Some(RULE)),
        "{said:#}"
    );
    lab.refused(Client::A, vip());
    let text = explain(&lab.site, &["--source", A[0], "--dest", &vip().to_string()]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.starts_with("DROP: a DENY rule matches this source (denied-by-rule)\n"),
        "{text}"
    );

    unload(&lab.site);
    let output = explain(&lab.site, &["--source", A[0], "--dest", &vip().to_string()]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(
        err.contains("no tables are pinned for this network namespace: gwfilter judges nothing here"),
        "{err}"
    );
}

/// A number that looks like chance and is the same in each run (Knuth's multiplicative hash).
fn scattered(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761).rotate_left(7) ^ 0x5bd1_e995
}

fn sources(count: u32) -> Vec<IpAddr> {
    let mut sources = Vec::new();
    for n in 0..count {
        let four = 11 << 24 | scattered(n) >> 8;
        sources.push(IpAddr::V4(Ipv4Addr::from_bits(four)));
        let six = 0x2001_0db8_u128 << 96
            | u128::from(scattered(n) & 0xffff) << 64
            | u128::from(scattered(n + 1) & 3);
        sources.push(IpAddr::V6(Ipv6Addr::from_bits(six)));
    }
    sources
}

#[test]
fn tables_of_ten_thousand_prefixes_then_each_source_as_the_manifests_say_it() {
    let mut blocks = Vec::new();
    for n in 0..10_000_u32 {
        let four = Ipv4Addr::from_bits(11 << 24 | scattered(n) >> 8 & !3);
        blocks.push(format!("{four}/{}", if n % 3 == 0 { 22 } else { 30 }));
        let six = 0x2001_0db8_u128 << 96 | u128::from(scattered(n) & 0xffff) << 64;
        blocks.push(format!(
            "{}/{}",
            Ipv6Addr::from_bits(six),
            if n % 3 == 0 { 64 } else { 127 }
        ));
    }
    let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
    let lab = Lab::with("DENY", "ipBlocks", &blocks, &[]);
    let mut queries = String::new();
    for (source, way) in sources(1_000)
        .iter()
        .flat_map(|source| ways().map(|way| (source, way)))
    {
        if source.is_ipv4() == way.is_ipv4() {
            let _ = writeln!(queries, r#"{{"source":"{source}","dest":"{way}"}}"#);
        }
    }
    let verdicts = agree(&lab.site, &queries);
    let dropped = verdicts.iter().filter(|verdict| *verdict == "drop").count();
    assert!(
        dropped > 500 && verdicts.len() - dropped > 500,
        "{dropped} of {}",
        verdicts.len()
    );
}

#[test]
fn behind_the_proxy_protocol_then_each_header_as_the_manifests_say_it() {
    let site = Site::new().expect("a site; this test needs root, and `cargo xtask setup`");
    site.write("cluster.yaml", &cluster_with_proxy_protocol())
        .expect("written");
    site.write(
        POLICY,
        &ingress_policy("ALLOW", "remoteIpBlocks", &["11.0.0.0/9", "2001:db8::/49"]),
    )
    .expect("written");
    let agent = start(&site, &[]);
    let mut queries = String::new();
    for client in sources(300) {
        for way in ways() {
            let peer = if way.is_ipv4() { PEER_V4 } else { PEER_V6 };
            let dest = if client.is_ipv4() {
                "203.0.113.10:80"
            } else {
                "[2001:db8:80::10]:80"
            };
            let from = SocketAddr::new(client, 4711);
            let _ = writeln!(
                queries,
                r#"{{"source":"{peer}","dest":"{way}","proxy_source":"{from}","proxy_dest":"{dest}"}}"#
            );
        }
    }
    let verdicts = agree(&site, &queries);
    let dropped = verdicts.iter().filter(|verdict| *verdict == "drop").count();
    assert!(
        dropped > 300 && verdicts.len() - dropped > 300,
        "{dropped} of {}; agent:\n{}",
        verdicts.len(),
        agent.tail()
    );
}

#[test]
fn policies_that_change_while_questions_are_answered_then_no_answer_is_of_two_generations() {
    let lab = Lab::with("DENY", "ipBlocks", &A, &["--drain", "0s"]);
    let mut queries = String::new();
    for _ in 0..20_000 {
        let _ = writeln!(queries, r#"{{"source":"{}","dest":"{}"}}"#, A[0], vip());
    }
    let asking = std::thread::scope(|scope| {
        let asked = scope.spawn(|| answers(&lab.site, &queries, false));
        let mut n = 0_u32;
        while !asked.is_finished() {
            n += 1;
            // Either way the client is refused, by a table of another size and another rule.
            let other = format!("192.0.2.{}/32", n % 256);
            lab.policy("DENY", "ipBlocks", &[A[0], A[1], &other]);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        asked.join()
    });
    let answers = asking.expect("answers");
    for said in &answers {
        assert_eq!(
            (word(said, "/verdict"), word(said, "/policy")),
            (Some("drop"), Some(RULE)),
            "{said:#}"
        );
    }
    assert_eq!(answers.len(), 20_000);
}
