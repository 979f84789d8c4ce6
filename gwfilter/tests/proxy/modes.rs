//! Both ways to know the client on one node, a change between them under traffic, balancers that are trusted, and a restart.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use xtask::balancer::{Check, Sends};
use xtask::gateway::Listener;
use xtask::http::{self, Answer, Server};
use xtask::manifests::{cluster, cluster_with_proxy_protocol, ingress_policy};
use xtask::poll;
use xtask::site::{Client, NODE_PORT, NODE_V4, POD_PORT, POD_V4, Site};

use crate::lab::{A, B, Lab, POLICY, SOON, listeners, start, to};

/// A second gateway, in local mode: its own Service, port and pod.
const OTHER: &str = "\
apiVersion: v1
kind: Service
metadata: {name: other-gateway, namespace: istio-system, labels: {istio: other}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {istio: other}
  ports: [{name: http, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30090}]
---
apiVersion: v1
kind: Pod
metadata: {name: other-gateway-0, namespace: istio-system, labels: {istio: other}}
spec:
  nodeName: node-1
  containers: [{name: istio-proxy, args: [proxy, router]}]
status: {phase: Running, hostIP: 10.0.0.10, podIP: 10.244.1.6, podIPs: [{ip: 10.244.1.6}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: other, namespace: istio-system}
spec:
  selector: {istio: other}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: other-policy, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: other}}
  action: DENY
  rules: [{from: [{source: {ipBlocks: [\"192.0.2.20\"]}}]}]
";

#[test]
fn a_gateway_in_each_mode_on_one_node_then_each_by_its_own_client_address() {
    let site = Site::without_gateway().expect("a site");
    site.pod.address("eth0", "10.244.1.6/24").expect("an address");
    site.node
        .nft(
            "table ip other { chain prerouting { type nat hook prerouting priority dstnat; \
             ip daddr 10.0.0.10 tcp dport 30090 dnat to 10.244.1.6:8080; }; }",
        )
        .expect("rules");
    let _other = Server::start(&site.pod, to("10.244.1.6", 8080)).expect("a server");
    site.write("cluster.yaml", &cluster_with_proxy_protocol())
        .expect("objects");
    site.write("other.yaml", OTHER).expect("objects");
    site.write(POLICY, &ingress_policy("DENY", "remoteIpBlocks", &A))
        .expect("a policy");
    let on_pod = [Listener::http(to(POD_V4, POD_PORT), true)];
    let lab = Lab::on(site, &on_pod, &[]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V1, Sends::V2], Check::Never);
    for way in ways.iter().filter(|way| way.at.is_ipv4()) {
        lab.cut_off(Client::A, way.at);
        lab.let_in(Client::B, way.at);
    }
    // There client b is denied, by the packet's source, and in silence.
    let other = to(NODE_V4, 30090);
    lab.sees(Client::B, other, "no answer", |answer| *answer == Answer::Timeout);
    lab.let_in(Client::A, other);
}

/// Asks again and again; counts the answers that are not 200.
fn ask(
    site: &Site,
    client: Client,
    at: std::net::SocketAddr,
    stop: &AtomicBool,
    asked: &AtomicUsize,
) -> Vec<Answer> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let answer = http::get(site.client(client), None, at, Duration::from_secs(5));
        asked.fetch_add(1, Ordering::SeqCst);
        if answer != Answer::Status(200) {
            wrong.push(answer);
        }
    }
    wrong
}

#[test]
fn a_gateway_switched_between_the_modes_under_traffic_then_an_allowed_client_never_notices() {
    // Envoy wants a header and the balancer writes one all the time, so that only the reading of the node changes.
    let site = Site::without_gateway().expect("a site");
    site.write("cluster.yaml", &cluster_with_proxy_protocol())
        .expect("objects");
    site.write(POLICY, &ingress_policy("DENY", "remoteIpBlocks", &A))
        .expect("a policy");
    let lab = Lab::on(
        site,
        &listeners(&xtask::gateway::Serves::Http, true),
        &["--drain", "1s"],
    );
    let (_balancer, ways) = lab.haproxy(&[Sends::V2], Check::Never);
    let at = ways.first().expect("a way").at;
    lab.cut_off(Client::A, at);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let wrong = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&lab.site, Client::B, at, &stop, &asked));
        for round in 0..4 {
            let (objects, in_proxy_mode) = if round % 2 == 0 {
                (cluster(), false)
            } else {
                (cluster_with_proxy_protocol(), true)
            };
            let before = (lab.generations(), asked.load(Ordering::SeqCst));
            lab.site.write("cluster.yaml", &objects).expect("objects");
            let done = poll::until(SOON, || {
                (lab.generations() > before.0 && asked.load(Ordering::SeqCst) > before.1 + 20).then_some(())
            });
            assert!(done.is_some(), "round {round}; agent:\n{}", lab.agent.tail());
            if in_proxy_mode {
                lab.cut_off(Client::A, at);
            } else {
                // The balancer is the client now, and is not denied.
                lab.let_in(Client::A, at);
            }
        }
        stop.store(true, Ordering::SeqCst);
        asking.join().expect("joined")
    });
    assert!(
        wrong.is_empty(),
        "of {}: {wrong:?}; agent:\n{}",
        asked.load(Ordering::SeqCst),
        lab.agent.tail()
    );
}

#[test]
fn an_agent_that_restarts_in_between_then_the_denied_client_never_gets_through() {
    let mut lab = Lab::with("DENY", "remoteIpBlocks", &A, &["--on-exit", "keep"]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V1, Sends::V2], Check::Never);
    for way in &ways {
        lab.cut_off(Client::A, way.at);
    }
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let at = ways.first().expect("a way").at;
    let (site, agent) = (&lab.site, &mut lab.agent);
    let got = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(site, Client::A, at, &stop, &asked));
        for _ in 0..3 {
            agent.signal(nix::sys::signal::Signal::SIGTERM).expect("running");
            agent.wait_exit(SOON).expect("ended");
            let before = asked.load(Ordering::SeqCst);
            let without = poll::until(SOON, || (asked.load(Ordering::SeqCst) > before + 5).then_some(()));
            assert!(without.is_some(), "asked without an agent");
            *agent = start(site, &["--on-exit", "keep"]);
            let before = asked.load(Ordering::SeqCst);
            let with = poll::until(SOON, || (asked.load(Ordering::SeqCst) > before + 5).then_some(()));
            assert!(with.is_some(), "asked with the next agent");
        }
        stop.store(true, Ordering::SeqCst);
        asking.join().expect("joined")
    });
    assert_eq!(
        got.len(),
        asked.load(Ordering::SeqCst),
        "every one was refused: {got:?}"
    );
    for way in &ways {
        lab.let_in(Client::B, way.at);
    }
}

#[test]
fn a_header_from_a_peer_that_is_not_trusted_then_counted_and_left_to_the_gateway() {
    for (trusted, reason) in [
        ("10.0.0.0/24,fd00:10::/64", "allowed"),
        ("192.0.2.0/24", "untrusted-proxy"),
    ] {
        let site = Site::without_gateway().expect("a site");
        let objects = cluster_with_proxy_protocol();
        let annotated = objects.replacen(
            "  labels: {app: istio-ingressgateway, istio: ingressgateway}\n",
            &format!(
                "  labels: {{app: istio-ingressgateway, istio: ingressgateway}}\n  annotations: {{gwfilter.io/trusted-proxies: \"{trusted}\"}}\n"
            ),
            1,
        );
        assert_ne!(annotated, objects);
        site.write("cluster.yaml", &annotated).expect("objects");
        site.write(POLICY, &ingress_policy("DENY", "remoteIpBlocks", &A))
            .expect("a policy");
        let mut lab = Lab::on(site, &listeners(&xtask::gateway::Serves::Http, true), &[]);
        let (_balancer, ways) = lab.haproxy(&[Sends::V2], Check::Never);
        for way in &ways {
            lab.let_in(Client::B, way.at);
            lab.cut_off(Client::A, way.at);
        }
        lab.logged(reason, ways.len());
    }
}

/// A stranger's own header, with a request behind it; what came of it.
fn forged(site: &Site, from: Client, names: &str) -> Answer {
    let header = crate::raw::v2(names, 40_000, NODE_V4, 80);
    let sent = site
        .client(from)
        .enter(|| {
            let mut stream = TcpStream::connect_timeout(&to(NODE_V4, NODE_PORT), SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(&[&header[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat())?;
            let mut status = [0; 12];
            stream.read_exact(&mut status)?;
            Ok::<_, std::io::Error>(status)
        })
        .expect("entered");
    match sent {
        Ok(status) if status == *b"HTTP/1.1 200" => Answer::Status(200),
        Ok(status) => Answer::Other(format!("{status:?}")),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Answer::Reset,
        Err(error) => Answer::Other(error.to_string()),
    }
}

#[test]
fn a_stranger_that_writes_headers_then_counted_and_refused_only_where_the_gateway_refuses_too() {
    let site = Site::without_gateway().expect("a site");
    let objects = cluster_with_proxy_protocol();
    let annotated = objects.replacen(
        "  labels: {app: istio-ingressgateway, istio: ingressgateway}\n",
        "  labels: {app: istio-ingressgateway, istio: ingressgateway}\n  annotations: {gwfilter.io/trusted-proxies: \"10.0.0.0/24,fd00:10::/64\"}\n",
        1,
    );
    assert_ne!(annotated, objects);
    site.write("cluster.yaml", &annotated).expect("objects");
    site.write(POLICY, &ingress_policy("DENY", "remoteIpBlocks", &A))
        .expect("a policy");
    let mut lab = Lab::on(
        site,
        &listeners(&xtask::gateway::Serves::Http, true),
        &["--drain", "1s"],
    );
    let (_balancer, ways) = lab.haproxy(&[Sends::V1, Sends::V2], Check::Never);
    // Client a is denied, claims to be client b, and Envoy believes it: so does the node, which says it.
    assert_eq!(forged(&lab.site, Client::A, B[0]), Answer::Status(200));
    lab.logged("untrusted-proxy", 1);
    // What the header says decides, from whomever.
    assert_eq!(forged(&lab.site, Client::B, A[0]), Answer::Reset);
    // To refuse strangers is the policy's to say, for the gateway and the node alike.
    lab.policy(
        "DENY",
        "notIpBlocks",
        &[xtask::site::PEER_V4, xtask::site::PEER_V6],
    );
    let refused = poll::until(SOON, || {
        (forged(&lab.site, Client::A, B[0]) == Answer::Reset).then_some(())
    });
    assert!(refused.is_some(), "{}", lab.agent.tail());
    for way in &ways {
        lab.let_in(Client::A, way.at);
        lab.let_in(Client::B, way.at);
    }
}

#[test]
fn sources_rewritten_on_the_way_then_the_header_still_decides() {
    let site = Site::without_gateway().expect("a site");
    let objects = cluster_with_proxy_protocol();
    let anywhere = objects.replace("externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster");
    assert_ne!(anywhere, objects);
    site.write("cluster.yaml", &anywhere).expect("objects");
    site.write(POLICY, &ingress_policy("ALLOW", "remoteIpBlocks", &B))
        .expect("a policy");
    // As kube-proxy does for `Cluster`: Envoy's peer is the node.
    site.node
        .nft(
            "table inet rewritten { chain out { type nat hook postrouting priority srcnat; \
             oifname \"pods\" masquerade; }; }",
        )
        .expect("rules");
    let mut lab = Lab::on(site, &listeners(&xtask::gateway::Serves::Http, true), &[]);
    let (_balancer, ways) = lab.haproxy(&Sends::HEADERS, Check::Never);
    for way in &ways {
        lab.cut_off(Client::A, way.at);
        lab.let_in(Client::B, way.at);
    }
    lab.logged("no-rule-allows", ways.len());
    let seen = poll::until(SOON, || (crate::lab::established(&lab.site) == 0).then_some(()));
    assert!(seen.is_some(), "Envoy lets go of the denied client's sockets");
}

#[test]
fn silence_asked_for_then_no_reset_and_nothing_that_arrives() {
    let lab = Lab::with("DENY", "remoteIpBlocks", &A, &["--refuse", "drop"]);
    let (_balancer, ways) = lab.haproxy(&[Sends::V1, Sends::V2], Check::Never);
    for way in &ways {
        lab.sees(Client::A, way.at, "no answer", |answer| {
            *answer == Answer::Timeout
        });
        lab.let_in(Client::B, way.at);
    }
}

#[test]
fn resets_asked_for_in_local_mode_then_a_refused_client_knows_at_once() {
    let site = Site::new().expect("a site");
    site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &A))
        .expect("a policy");
    let _agent = start(&site, &["--refuse", "reset"]);
    let at = to(NODE_V4, NODE_PORT);
    let answer = site.get_until(Client::A, at, SOON, |answer| *answer == Answer::Refused);
    assert_eq!(answer, Answer::Refused);
    assert_eq!(site.get(Client::B, at), Answer::Status(200));
}

#[test]
fn no_gateway_with_headers_any_more_then_no_tc_program_beside_xdp() {
    let lab = Lab::with("DENY", "remoteIpBlocks", &B, &[]);
    let tc = || {
        let filters = lab
            .site
            .node
            .run("sh", &["-c", "find /sys/fs/bpf/gwfilter -name '*-tcx'"]);
        filters.is_ok_and(|found| !found.trim().is_empty())
    };
    assert!(tc(), "{}", lab.agent.tail());
    lab.site.write("cluster.yaml", &cluster()).expect("objects");
    let gone = poll::until(SOON, || (!tc()).then_some(()));
    assert!(gone.is_some(), "{}", lab.agent.tail());
    lab.site
        .write("cluster.yaml", &cluster_with_proxy_protocol())
        .expect("objects");
    let back = poll::until(SOON, || tc().then_some(()));
    assert!(back.is_some(), "{}", lab.agent.tail());
}
