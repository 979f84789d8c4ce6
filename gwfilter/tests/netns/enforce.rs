//! Who gets in and who does not, and what is none of gwfilter's business.

use std::net::UdpSocket;
use std::time::Duration;

use xtask::http::{self, Answer, Server};
use xtask::site::{CLIENT_V4, Client, NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, POD_V6, SSH_PORT, Site};

use crate::lab::{A, ALL, Lab, POLICY, SOON, to, vip, ways};

#[test]
fn allow_for_one_client_then_only_it_gets_in_by_every_way() {
    let lab = Lab::with("ALLOW", "ipBlocks", &A, &[]);
    for way in ways() {
        lab.refused(Client::B, way);
        lab.let_in(Client::A, way);
    }
}

#[test]
fn deny_for_one_client_then_only_it_is_kept_out_by_every_way() {
    let lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    for way in ways() {
        lab.refused(Client::A, way);
        lab.let_in(Client::B, way);
    }
}

#[test]
fn all_of_one_family_denied_then_the_other_is_untouched() {
    for (block, four) in [("0.0.0.0/0", true), ("::/0", false)] {
        let lab = Lab::with("DENY", "ipBlocks", &[block], &[]);
        for way in ways() {
            if way.is_ipv4() == four {
                lab.refused(Client::A, way);
            } else {
                lab.let_in(Client::A, way);
            }
        }
    }
}

#[test]
fn every_field_of_addresses_then_as_it_says() {
    let lab = Lab::with("DENY", "ipBlocks", &ALL, &[]);
    lab.refused(Client::A, vip());
    for (action, field, a, b) in [
        ("ALLOW", "ipBlocks", true, false),
        ("ALLOW", "notIpBlocks", false, true),
        ("DENY", "notIpBlocks", true, false),
        ("DENY", "ipBlocks", false, true),
        ("ALLOW", "remoteIpBlocks", true, false),
        ("ALLOW", "notRemoteIpBlocks", false, true),
        ("DENY", "notRemoteIpBlocks", true, false),
        ("DENY", "remoteIpBlocks", false, true),
    ] {
        lab.policy(action, field, &A);
        for (client, arrives) in [(Client::A, a), (Client::B, b)] {
            if arrives {
                lab.let_in(client, vip())
            } else {
                lab.refused(client, vip())
            }
        }
    }
}

#[test]
fn everybody_denied_then_what_is_not_the_gateway_is_untouched() {
    let lab = Lab::with("DENY", "ipBlocks", &ALL, &[]);
    for way in ways() {
        lab.refused(Client::A, way);
    }
    // The node's SSH, and another port of the very pod.
    let other = [to(POD_V4, 9090), to(POD_V6, 9090)];
    let _others = other.map(|address| Server::start(&lab.site.pod, address).expect("a server"));
    for address in [to(NODE_V4, SSH_PORT), to(NODE_V6, SSH_PORT)]
        .into_iter()
        .chain(other)
    {
        for client in Client::ALL {
            assert_eq!(
                lab.site.get(client, address),
                Answer::Status(200),
                "{client:?} at {address}"
            );
        }
    }
    // A connection that the node opens: the answers come in by the same card.
    let outside = to(CLIENT_V4[0], 8080);
    let _server = Server::start(&lab.site.client_a, outside).expect("a server");
    assert_eq!(
        http::get(&lab.site.node, None, outside, SOON),
        Answer::Status(200)
    );
    // UDP to the gateway's own port.
    let here = to(NODE_V4, NODE_PORT);
    let socket = lab
        .site
        .node
        .enter(|| UdpSocket::bind(here))
        .expect("entered")
        .expect("bound");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let sender = lab
        .site
        .client_a
        .enter(|| UdpSocket::bind((CLIENT_V4[0], 0)))
        .expect("entered")
        .expect("bound");
    sender.send_to(b"datagram", here).expect("sent");
    let mut buffer = [0; 16];
    assert_eq!(socket.recv(&mut buffer).expect("UDP arrives"), 8);
}

/// A Service of type LoadBalancer whose pods have no Envoy.
const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: shop}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: shop}
  ports:
    - {name: http, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30090}
status:
  loadBalancer: {ingress: [{ip: 203.0.113.90}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-0, namespace: shop, labels: {app: shop}}
spec:
  nodeName: node-1
  containers: [{name: shop}]
status: {phase: Running, hostIP: 10.0.0.10, podIP: 10.244.1.6}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec:
  action: DENY
  rules: [{from: [{source: {ipBlocks: [0.0.0.0/0]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody-anywhere, namespace: istio-system}
spec:
  action: DENY
  rules: [{from: [{source: {ipBlocks: [0.0.0.0/0]}}]}]
";

#[test]
fn an_app_without_envoy_under_a_namespace_wide_deny_then_never_judged() {
    let site = Site::new().expect("a site");
    site.pod.address("eth0", "10.244.1.6/24").expect("an address");
    site.router.route("203.0.113.90/32", NODE_V4).expect("a route");
    site.node
        .nft(
            "table ip shop { chain prerouting { type nat hook prerouting priority dstnat; \
             ip daddr 203.0.113.90 tcp dport 80 dnat to 10.244.1.6:8080; \
             ip daddr 10.0.0.10 tcp dport 30090 dnat to 10.244.1.6:8080; }; }",
        )
        .expect("rules");
    let _shop = Server::start(&site.pod, to("10.244.1.6", 8080)).expect("a server");
    site.write("shop.yaml", SHOP).expect("written");
    let lab = Lab::on(site, &[]);
    // The policies are in force, as the gateway shows.
    lab.refused(Client::A, vip());
    for address in [to("203.0.113.90", 80), to(NODE_V4, 30090), to("10.244.1.6", 8080)] {
        for client in Client::ALL {
            assert_eq!(
                lab.site.get(client, address),
                Answer::Status(200),
                "{client:?} at {address}"
            );
        }
    }
}

#[test]
fn a_service_without_local_traffic_policy_then_its_addresses_are_not_judged() {
    let site = Site::new().expect("a site");
    let cluster = xtask::manifests::cluster();
    let rewritten = cluster.replace("externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster");
    assert_ne!(rewritten, cluster);
    site.write("cluster.yaml", &rewritten).expect("written");
    site.write(
        POLICY,
        &xtask::manifests::ingress_policy("DENY", "ipBlocks", &ALL),
    )
    .expect("written");
    let lab = Lab::on(site, &[]);
    // The policy is in force where the card sees what Envoy sees: at the pod's own address.
    lab.refused(Client::A, to(POD_V4, POD_PORT));
    for way in [vip(), to(NODE_V4, NODE_PORT)] {
        assert_eq!(
            lab.site.get(Client::A, way),
            Answer::Status(200),
            "{way}: the card may see another source than Envoy"
        );
    }
}

#[test]
fn observe_then_nothing_is_dropped_and_what_would_be_is_counted() {
    let mut lab = Lab::with("DENY", "ipBlocks", &ALL, &["--observe"]);
    for way in ways() {
        lab.let_in(Client::A, way);
    }
    lab.agent
        .wait_log("a count of what would be dropped", SOON, |log| {
            log.lines()
                .filter(|line| line.contains("gateway traffic"))
                .any(|line| {
                    field(line, "would_drop_total").is_some_and(|n| n > 0)
                        && field(line, "dropped_total") == Some(0)
                })
                .then_some(())
        })
        .expect("counted");
    assert!(
        lab.agent.log().contains("verdict: would-drop"),
        "{}",
        lab.agent.tail()
    );
}

#[test]
fn dropped_packets_then_counted_under_gateway_and_rule() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    for (kind, name) in [
        ("gateway traffic", "istio-system/istio-ingressgateway"),
        (
            "policy rule refused",
            "ns[istio-system]-policy[ingress-policy]-rule[0]",
        ),
    ] {
        lab.agent
            .wait_log(kind, SOON, |log| {
                log.lines()
                    .filter(|line| line.contains(kind) && line.contains(name))
                    .any(|line| field(line, "dropped_total").is_some_and(|n| n >= 2))
                    .then_some(())
            })
            .expect("counted");
    }
}

#[test]
fn one_packet_then_its_log_line_is_there_long_before_the_counters() {
    let site = Site::new().expect("a site");
    let mut lab = Lab::on(site, &["--counters-every", "600s"]);
    for round in 1..=3 {
        assert_eq!(lab.site.get(Client::A, vip()), Answer::Status(200));
        lab.agent
            .wait_log("a line for each SYN so far", Duration::from_secs(3), |log| {
                let lines = log
                    .lines()
                    .filter(|line| line.contains("remoteIP: 198.51.100.7:"))
                    .count();
                (lines >= round).then_some(())
            })
            .expect("logged at once");
    }
}

#[test]
fn a_source_that_must_never_be_dropped_then_let_in_whatever_the_policy_says() {
    let lab = Lab::with("DENY", "ipBlocks", &ALL, &["--never-drop", CLIENT_V4[0]]);
    lab.refused(Client::B, vip());
    lab.let_in(Client::A, vip());
}

/// The number behind `name=` in a log line.
fn field(line: &str, name: &str) -> Option<u64> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?
        .parse()
        .ok()
}
