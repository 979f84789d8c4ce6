//! Every finding as people read it.

use insta::assert_snapshot;

use super::*;
use crate::gateway::model::Why;
use crate::palette::{Palette, words};

const TLS: [u8; 3] = [0x16, 0x03, 0x01];

fn told(patient: &Patient, seen: Option<Seen>) -> String {
    let observed = seen.as_ref().map(|_| Observed {
        seconds: 30,
        interfaces: vec!["eth0".to_owned()],
        over_budget: 0,
        lost: 0,
    });
    let report = Report {
        observed,
        gateways: vec![examine(patient, seen.as_ref(), &own())],
    };
    let mut text = Vec::new();
    text::write(&report, Palette::PLAIN, &mut text).unwrap();
    let mut coloured = Vec::new();
    text::write(&report, Palette::COLOURED, &mut coloured).unwrap();
    assert!(coloured.len() > text.len());
    assert_eq!(
        words(&String::from_utf8(coloured).unwrap()).as_bytes(),
        text,
        "colour adds no word"
    );
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(
        serde_json::from_str::<Report>(&json).unwrap(),
        report,
        "as the API tells it"
    );
    String::from_utf8(text).unwrap()
}

fn mixed() -> Seen {
    let mut mixed = seen(ENOUGH, &["10.9.0.1"], V1);
    more(&mut mixed, ENOUGH, &["198.51.100.7"], GET);
    mixed
}

fn one_sided(setup: &mut Setup) {
    setup.balancer =
        Some("Service istio-system/istio-ingressgateway carries load-balancer.hetzner.cloud/uses-proxyprotocol: \"true\"".to_owned());
}

fn not_known(setup: &mut Setup) {
    setup.reads_header = Tri::Unknown;
    setup.trusted_proxies = None;
    setup.doubts = vec![Why {
        code: "envoy-filter",
        text: "EnvoyFilter istio-system/tune changes listeners or filters of this gateway in a way that is not followed".to_owned(),
    }];
}

fn two_proxies() -> Seen {
    let mut seen = Seen::default();
    for client in CLIENTS {
        more(
            &mut seen,
            ENOUGH,
            &["10.9.0.1"],
            &request(&format!("{client}, 10.9.0.2")),
        );
    }
    seen
}

fn one_proxy() -> Seen {
    let mut seen = Seen::default();
    for client in CLIENTS {
        more(&mut seen, ENOUGH, &["10.9.0.1"], &request(client));
    }
    seen
}

fn refused() -> Seen {
    let mut seen = seen(3, &["198.51.100.7"], GET);
    seen.dropped = 300;
    seen
}

fn peer_fields() -> Patient {
    let mut patient = patient(reads_header);
    patient.policies[0].fields = BTreeSet::from(["ipBlocks".to_owned()]);
    patient
}

#[test]
fn sources_of_their_own_then_told() {
    assert_snapshot!(told(&patient(|_| {}), Some(seen(ENOUGH_SOURCES / 4, &CLIENTS, GET))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is right
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     40 new connections, 40 with data from 4 sources: 40 plain HTTP
      ok the gateway judges the packet's source, and packets come with sources of their own [packet-source-seen]
          seen: 40 new connections with data came from 192.0.2.20, 198.51.100.7, 203.0.113.9 and 1 more addresses

    nothing to mend was found
    "#);
}

#[test]
fn policy_cluster_then_told() {
    assert_snapshot!(told(&patient(|setup| setup.local_policy = false), None), @r#"
    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 2 not; externalTrafficPolicy Cluster
      ! the gateway sees a node's address for every client [source-rewritten-by-policy]
          seen: Service istio-system/istio-ingressgateway has externalTrafficPolicy Cluster: kube-proxy writes a node's address over the source of what comes in at 203.0.113.80:80/tcp and 1 more
          so: policy istio-system/ingress-policy (ALLOW): ipBlocks is compared with the addresses of nodes, not with clients: all clients are let in or refused alike, by that address
          mend: first make sure that your network does not keep sources (Cilium in DSR mode, Calico's eBPF mode); if it does, leave it as it is
            let kube-proxy leave the source alone (traffic then needs a pod of the gateway on each node that it is sent to)
              kubectl -n istio-system patch service istio-ingressgateway --type merge -p '{"spec":{"externalTrafficPolicy":"Local"}}'

    1 gateway, to be mended
    "#);
}

#[test]
fn policy_cluster_with_traffic_then_told() {
    assert_snapshot!(told(&patient(|setup| setup.local_policy = false), Some(seen(ENOUGH_SOURCES, &CLIENTS, GET))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 2 not; externalTrafficPolicy Cluster
      traffic:     160 new connections, 160 with data from 4 sources: 160 plain HTTP
      ! the gateway sees a node's address for every client [source-rewritten-by-policy]
          seen: Service istio-system/istio-ingressgateway has externalTrafficPolicy Cluster: kube-proxy writes a node's address over the source of what comes in at 203.0.113.80:80/tcp and 1 more
          seen: 160 new connections with data arrived at this node, from 192.0.2.20, 198.51.100.7, 203.0.113.9 and 1 more addresses; behind kube-proxy each has a node's address
          so: policy istio-system/ingress-policy (ALLOW): ipBlocks is compared with the addresses of nodes, not with clients: all clients are let in or refused alike, by that address
          mend: first make sure that your network does not keep sources (Cilium in DSR mode, Calico's eBPF mode); if it does, leave it as it is
            let kube-proxy leave the source alone (traffic then needs a pod of the gateway on each node that it is sent to)
              kubectl -n istio-system patch service istio-ingressgateway --type merge -p '{"spec":{"externalTrafficPolicy":"Local"}}'

    1 gateway, to be mended
    "#);
}

#[test]
fn a_node_for_every_client_then_told() {
    assert_snapshot!(told(&patient(|_| {}), Some(seen(ENOUGH_SOURCES, &["10.0.0.5", "10.0.0.6"], GET))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is PROBABLY wrong
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     80 new connections, 80 with data from 2 sources: 80 plain HTTP
      ! likely: something in front writes a node's address over the client's, before the packets reach this node [source-is-a-node]
          seen: 80 new connections with data came from 10.0.0.5 (node node-1) and 10.0.0.6 (node node-2)
          seen: 80 of 80 came from addresses of nodes; that of a node's own processes, or of a pod in its network, looks the same
          so: policy istio-system/ingress-policy (ALLOW): ipBlocks is compared with 10.0.0.5 (node node-1) and 10.0.0.6 (node node-2), not with clients: all clients are let in or refused alike, by that address
          mend, either: if something in front rewrites them, both belong together: from the first step until the gateway's pods have restarted with the second, it refuses every connection; plan a window:
            first: let the load balancer write the PROXY header (haproxy: `send-proxy-v2` at the end of the `server` line; nginx: `proxy_protocol on;`; a cloud's: its annotation on the Service)
            then: let the gateway read the PROXY header (its pods are restarted; from then on it refuses connections without one)
              kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"proxyProtocol\":{}}}"}}}}}'
            then: change ipBlocks to remoteIpBlocks in: policy istio-system/ingress-policy (ALLOW); until then it goes on comparing the balancer's address
          or: if these are clients of yours (processes of the nodes, pods in their network), only say so
            kubectl -n istio-system annotate --overwrite service istio-ingressgateway gwfilter.io/client-address=packet-source

    1 gateway, to be mended
    "#);
}

#[test]
fn one_source_then_told() {
    assert_snapshot!(told(&patient(|_| {}), Some(seen(ENOUGH_OF_ONE, &["10.9.0.1"], &TLS))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is PROBABLY wrong
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     100 new connections, 100 with data from 1 source: 100 TLS
      ! likely: everything comes from one or two addresses of a private network, as from a load balancer that hides its clients [one-source]
          seen: 100 new connections with data came from 10.9.0.1
          so: policy istio-system/ingress-policy (ALLOW): ipBlocks is compared with 10.9.0.1, not with clients: all clients are let in or refused alike, by that address
          mend, either: if it is a balancer, both, in one maintenance window (with only one of them done the gateway refuses every connection):
            first: let the load balancer write the PROXY header (haproxy: `send-proxy-v2` at the end of the `server` line; nginx: `proxy_protocol on;`; a cloud's: its annotation on the Service)
            then: let the gateway read the PROXY header (its pods are restarted; from then on it refuses connections without one)
              kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"proxyProtocol\":{}}}"}}}}}'
            then: change ipBlocks to remoteIpBlocks in: policy istio-system/ingress-policy (ALLOW); until then it goes on comparing the balancer's address
          or: if these are clients of yours and no balancer, only say so
            kubectl -n istio-system annotate --overwrite service istio-ingressgateway gwfilter.io/client-address=packet-source

    1 gateway, to be mended
    "#);
}

#[test]
fn header_on_both_sides_then_told() {
    assert_snapshot!(told(&patient(reads_header), Some(seen(ENOUGH, &["10.9.0.1"], V1))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is right
      the gateway: expects a PROXY header, numTrustedProxies 0
        because PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol
      this node:   client address from proxy-header; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     20 new connections, 20 with data from 1 source: 20 PROXY v1
      ok the load balancer writes a PROXY header and the gateway reads it [proxy-header-on-both-sides]
          seen: 20 of 20 new connections begin with a PROXY header (version 1: 20, version 2: 0); their sources: 10.9.0.1
          seen: the gateway expects a PROXY header on every connection; numTrustedProxies is 0 (PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol)

    nothing to mend was found
    "#);
}

#[test]
fn header_not_expected_then_told() {
    assert_snapshot!(told(&patient(|_| {}), Some(seen(ENOUGH, &["10.9.0.1"], V1))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     20 new connections, 20 with data from 1 source: 20 PROXY v1
      ! the load balancer writes a PROXY header, and the gateway does not expect one [proxy-header-not-expected]
          seen: 20 of 20 new connections begin with a PROXY header (version 1: 20, version 2: 0); their sources: 10.9.0.1
          seen: the gateway expects no PROXY header; numTrustedProxies is 0 (nothing sets either)
          so: the gateway takes the header for the beginning of the request and refuses it as malformed: nobody gets through
          mend, either, first: let the gateway read the PROXY header (its pods are restarted; from then on it refuses connections without one)
            kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"proxyProtocol\":{}}}"}}}}}'
          then: change ipBlocks to remoteIpBlocks in: policy istio-system/ingress-policy (ALLOW); until then it goes on comparing the balancer's address
          or: let the load balancer write no PROXY header (haproxy: take `send-proxy` or `send-proxy-v2` off the `server` line; nginx: `proxy_protocol off;`): the gateway then sees its address for every client's

    1 gateway, to be mended
    "#);
}

#[test]
fn header_missing_then_told() {
    assert_snapshot!(told(&patient(reads_header), Some(seen(ENOUGH, &["10.9.0.1"], GET))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects a PROXY header, numTrustedProxies 0
        because PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol
      this node:   client address from proxy-header; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     20 new connections, 20 with data from 1 source: 20 plain HTTP
      ! the gateway expects a PROXY header, and connections begin without one [proxy-header-missing]
          seen: 0 of 20 new connections begin with a PROXY header (version 1: 0, version 2: 0); their sources: 10.9.0.1
          seen: the gateway expects a PROXY header on every connection; numTrustedProxies is 0 (PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol)
          so: the gateway closes every connection without a header: nobody gets through
          mend, either: let the load balancer write the PROXY header (haproxy: `send-proxy-v2` at the end of the `server` line; nginx: `proxy_protocol on;`; a cloud's: its annotation on the Service)
          or: let the gateway expect no PROXY header (its pods are restarted)
            kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{}"}}}}}'

    1 gateway, to be mended
    "#);
}

#[test]
fn header_mixed_then_told() {
    assert_snapshot!(told(&patient(reads_header), Some(mixed())), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is PROBABLY wrong
      the gateway: expects a PROXY header, numTrustedProxies 0
        because PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol
      this node:   client address from proxy-header; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     40 new connections, 40 with data from 2 sources: 20 PROXY v1, 20 plain HTTP
      ! likely: some connections begin with a PROXY header and some do not: two ways lead to the gateway, and it can read only one of them [proxy-header-mixed]
          seen: 20 of 40 new connections begin with a PROXY header (version 1: 20, version 2: 0); their sources: 10.9.0.1 and 198.51.100.7
          seen: the gateway expects a PROXY header on every connection; numTrustedProxies is 0 (PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol)
          seen: without a header: 198.51.100.7
          so: those without a header are refused by the gateway, whoever sends them
          mend: let the load balancer write the PROXY header (haproxy: `send-proxy-v2` at the end of the `server` line; nginx: `proxy_protocol on;`; a cloud's: its annotation on the Service)

    1 gateway, to be mended
    "#);
}

#[test]
fn header_one_sided_then_told() {
    assert_snapshot!(told(&patient(one_sided), None), @r#"
    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      ! the load balancer is told to write a PROXY header, and the gateway is not told to read it [proxy-header-one-sided]
          seen: Service istio-system/istio-ingressgateway carries load-balancer.hetzner.cloud/uses-proxyprotocol: "true"
          seen: the gateway expects no PROXY header; numTrustedProxies is 0 (nothing sets either)
          so: the gateway takes the header for a part of the request and refuses that as malformed
          mend, either, first: let the gateway read the PROXY header (its pods are restarted; from then on it refuses connections without one)
            kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"proxyProtocol\":{}}}"}}}}}'
          then: change ipBlocks to remoteIpBlocks in: policy istio-system/ingress-policy (ALLOW); until then it goes on comparing the balancer's address
          or: let the load balancer write no PROXY header
            kubectl -n istio-system annotate service istio-ingressgateway load-balancer.hetzner.cloud/uses-proxyprotocol-

    1 gateway, to be mended
    "#);
}

#[test]
fn header_seen_and_not_known_then_told() {
    assert_snapshot!(told(&patient(not_known), Some(seen(ENOUGH, &["10.9.0.1"], V1))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - not known
      the gateway: whether it expects a PROXY header is not known, numTrustedProxies not known
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     20 new connections, 20 with data from 1 source: 20 PROXY v1
      ? what the gateway is set to see is not known [gateway-not-known]
          seen: envoy-filter: EnvoyFilter istio-system/tune changes listeners or filters of this gateway in a way that is not followed
          mend: if the gateway reads the PROXY header that is seen, say so
            kubectl -n istio-system annotate --overwrite service istio-ingressgateway gwfilter.io/client-address=proxy-header
      ? streams begin with a PROXY header; whether the gateway expects it is not known [proxy-header-seen]
          seen: 20 of 20 new connections begin with a PROXY header (version 1: 20, version 2: 0); their sources: 10.9.0.1
          seen: whether the gateway expects a PROXY header is not known; numTrustedProxies is not known (nothing sets either)

    no answer: what 1 gateway is set to is not known
    "#);
}

#[test]
fn forwarded_for_as_set_then_told() {
    assert_snapshot!(told(&patient(trusts(1)), Some(seen(ENOUGH, &["10.9.0.1"], &request("198.51.100.7")))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is right
      the gateway: expects no PROXY header, numTrustedProxies 1
        because PROXY_CONFIG of Pod x sets numTrustedProxies 1
      this node:   client address from x-forwarded-for; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     20 new connections, 20 with data from 1 source: 20 plain HTTP
      ok X-Forwarded-For has the 1 entry or more that the gateway counts on [forwarded-for-as-set]
          seen: 20 of 20 plaintext requests carry X-Forwarded-For; entries: 1 in 20
          seen: the gateway expects no PROXY header; numTrustedProxies is 1 (PROXY_CONFIG of Pod x sets numTrustedProxies 1)

    nothing to mend was found
    "#);
}

#[test]
fn forwarded_for_not_read_then_told() {
    assert_snapshot!(told(&patient(|_| {}), Some(one_proxy())), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is PROBABLY wrong
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     80 new connections, 80 with data from 1 source: 80 plain HTTP
      ! likely: a proxy in front names the client in X-Forwarded-For, and the gateway does not look there [forwarded-for-not-read]
          seen: 80 new connections with data came from 10.9.0.1
          seen: 80 of 80 plaintext requests carry X-Forwarded-For; entries: 1 in 80
          seen: entry 1 from the right names 4 addresses or more, packets come from 1
          seen: the gateway expects no PROXY header; numTrustedProxies is 0 (nothing sets either)
          so: policy istio-system/ingress-policy (ALLOW): ipBlocks is compared with the address of the proxy in front, not with clients: all clients are let in or refused alike, by that address
          mend, first: let the gateway take entry 1 from the right of X-Forwarded-For for the client's address (its pods are restarted). Only if nobody reaches the gateway but through that proxy: whoever does writes the header himself, and so chooses the address that policies judge
            kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"numTrustedProxies\":1}}"}}}}}'
          then: change ipBlocks to remoteIpBlocks in: policy istio-system/ingress-policy (ALLOW); until then it goes on comparing the balancer's address

    1 gateway, to be mended
    "#);
}

#[test]
fn forwarded_for_missing_then_told() {
    assert_snapshot!(told(&patient(trusts(1)), Some(seen(ENOUGH, &CLIENTS, GET))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects no PROXY header, numTrustedProxies 1
        because PROXY_CONFIG of Pod x sets numTrustedProxies 1
      this node:   client address from x-forwarded-for; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     80 new connections, 80 with data from 4 sources: 80 plain HTTP
      ! the gateway is set to trust X-Forwarded-For, and requests come without it [forwarded-for-missing]
          seen: 0 of 80 plaintext requests carry X-Forwarded-For
          seen: the gateway expects no PROXY header; numTrustedProxies is 1 (PROXY_CONFIG of Pod x sets numTrustedProxies 1)
          so: policy istio-system/ingress-policy (ALLOW): remoteIpBlocks compares the addresses that packets come from
          so: whoever reaches the gateway directly can write the header, and so choose the address that policies judge
          mend: let the gateway take the packet's source for the client's address (its pods are restarted)
            kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"numTrustedProxies\":0}}"}}}}}'

    1 gateway, to be mended
    "#);
}

#[test]
fn too_many_proxies_then_told() {
    assert_snapshot!(told(&patient(trusts(2)), Some(seen(ENOUGH, &["10.9.0.1"], &request("198.51.100.7")))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects no PROXY header, numTrustedProxies 2
        because PROXY_CONFIG of Pod x sets numTrustedProxies 2
      this node:   client address from x-forwarded-for; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     20 new connections, 20 with data from 1 source: 20 plain HTTP
      ! X-Forwarded-For has 1 entry where the gateway looks for entry 2 from the right [too-many-trusted-proxies]
          seen: 20 of 20 plaintext requests carry X-Forwarded-For; entries: 1 in 20
          seen: the gateway expects no PROXY header; numTrustedProxies is 2 (PROXY_CONFIG of Pod x sets numTrustedProxies 2)
          seen: 20 of 20 requests with the header have fewer than 2 entries
          so: policy istio-system/ingress-policy (ALLOW): remoteIpBlocks is compared with the address of the proxy in front, not with clients: all clients are let in or refused alike, by that address
          so: a client that writes the header itself fills the missing entries, and so chooses the address that policies judge
          mend: let the gateway take entry 1 from the right of X-Forwarded-For for the client's address (its pods are restarted). Only if nobody reaches the gateway but through that proxy: whoever does writes the header himself, and so chooses the address that policies judge
            kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"numTrustedProxies\":1}}"}}}}}'

    1 gateway, to be mended
    "#);
}

#[test]
fn too_few_proxies_then_told() {
    assert_snapshot!(told(&patient(trusts(1)), Some(two_proxies())), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects no PROXY header, numTrustedProxies 1
        because PROXY_CONFIG of Pod x sets numTrustedProxies 1
      this node:   client address from x-forwarded-for; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     80 new connections, 80 with data from 1 source: 80 plain HTTP
      ! X-Forwarded-For has 2 entries or more, and the gateway takes entry 1 from the right, which a proxy wrote for another proxy [too-few-trusted-proxies]
          seen: 80 of 80 plaintext requests carry X-Forwarded-For; entries: 2 in 80
          seen: the gateway expects no PROXY header; numTrustedProxies is 1 (PROXY_CONFIG of Pod x sets numTrustedProxies 1)
          seen: entry 1 from the right: 10.9.0.2
          so: policy istio-system/ingress-policy (ALLOW): remoteIpBlocks is compared with 10.9.0.2, which are proxies, not with clients: all clients are let in or refused alike, by that address
          mend: let the gateway take entry 2 from the right of X-Forwarded-For for the client's address (its pods are restarted). Only if nobody reaches the gateway but through that proxy: whoever does writes the header himself, and so chooses the address that policies judge
            kubectl -n istio-system patch deployment istio-ingressgateway --type merge -p '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"{\"gatewayTopology\":{\"numTrustedProxies\":2}}"}}}}}'

    1 gateway, to be mended
    "#);
}

#[test]
fn not_enough_then_told() {
    assert_snapshot!(told(&patient(|_| {}), Some(refused())), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - not enough seen to say
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     3 new connections, 3 with data from 1 source: 3 plain HTTP; 300 packets refused by gwfilter
      ? not enough traffic was seen to say anything; look longer, or at a busier time [not-enough-traffic]
          seen: 3 new connections with data were seen (3 began at all); at least 20 are needed to judge how connections begin, 40 to judge where they come from
          seen: 300 packets were refused by gwfilter meanwhile, before they could be looked at, and from whom is not known here (the agent of this node knows it; with --from it is not asked): gwfilter monitor --verdict drop --gateway istio-system/istio-ingressgateway

    no answer: too little was seen of 1 gateway
    "#);
}

#[test]
fn hidden_in_tls_then_told() {
    assert_snapshot!(told(&patient(trusts(1)), Some(seen(ENOUGH, &CLIENTS, &TLS))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - not enough seen to say
      the gateway: expects no PROXY header, numTrustedProxies 1
        because PROXY_CONFIG of Pod x sets numTrustedProxies 1
      this node:   client address from x-forwarded-for; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     80 new connections, 80 with data from 4 sources: 80 TLS
      ? the client is named inside TLS, which cannot be read here: looking longer will not help; compare X-Forwarded-For in the gateway's access log [client-inside-tls]
          seen: 80 new connections with data were seen (80 began at all)
          seen: the client's address is in X-Forwarded-For, and only 0 requests could be read (80 streams are TLS, 0 requests are longer than what is looked at)

    no answer: too little was seen of 1 gateway
    "#);
}

#[test]
fn peer_fields_then_told() {
    assert_snapshot!(told(&peer_fields(), Some(seen(ENOUGH, &["10.9.0.1"], V1))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - nothing contradicts; read the note
      the gateway: expects a PROXY header, numTrustedProxies 0
        because PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol
      this node:   client address from proxy-header; 0 destinations judged, 0 not; externalTrafficPolicy Local
      traffic:     20 new connections, 20 with data from 1 source: 20 PROXY v1
      note a proxy in front names the client, and a policy compares the proxy's own address [peer-fields-behind-a-proxy]
          seen: policy istio-system/ingress-policy (ALLOW): ipBlocks
          so: as it stands this policy lets in or refuses by the balancer's address, the same for every client; if clients are meant, write remoteIpBlocks (remote.ip)
      ok the load balancer writes a PROXY header and the gateway reads it [proxy-header-on-both-sides]
          seen: 20 of 20 new connections begin with a PROXY header (version 1: 20, version 2: 0); their sources: 10.9.0.1
          seen: the gateway expects a PROXY header on every connection; numTrustedProxies is 0 (PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol)

    nothing to mend was found; 1 note to read
    "#);
}

#[test]
fn not_observed_then_told() {
    assert_snapshot!(told(&patient(|_| {}), None), @r#"
    gateway istio-system/istio-ingressgateway - not enough seen to say
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      ? the objects do not contradict each other, and no traffic was looked at [not-observed]
          seen: add --observe 30s: the evidence then comes from traffic

    no answer: no traffic was looked at of 1 gateway
    "#);
}

#[test]
fn refused_from_nobody_knows_then_told() {
    let mut seen = seen_of_clients();
    seen.dropped = 300;
    assert_snapshot!(told(&patient(|_| {}), Some(seen)), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - not enough seen to say
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     160 new connections, 160 with data from 4 sources: 160 plain HTTP; 300 packets refused by gwfilter
      ? clients that gwfilter refuses are missing in what was seen: where connections come from cannot be judged [refused-not-seen]
          seen: 160 new connections with data were seen (160 began at all)
          seen: 300 packets were refused by gwfilter meanwhile, before they could be looked at, and from whom is not known here (the agent of this node knows it; with --from it is not asked): gwfilter monitor --verdict drop --gateway istio-system/istio-ingressgateway

    no answer: too little was seen of 1 gateway
    "#);
}

#[test]
fn clients_are_pods_then_told() {
    assert_snapshot!(told(&patient(|_| {}), Some(seen(ENOUGH_SOURCES, &["10.244.3.7"], GET))), @r#"
    looked at new connections for 30 s on eth0

    gateway istio-system/istio-ingressgateway - nothing contradicts; read the note
      the gateway: expects no PROXY header, numTrustedProxies 0
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      traffic:     40 new connections, 40 with data from 1 source: 40 plain HTTP
      note the clients are pods of this cluster, and the gateway judges their addresses [clients-are-pods]
          seen: 40 new connections with data came from 10.244.3.7

    nothing to mend was found; 1 note to read
    "#);
}

#[test]
fn judged_differently_then_told() {
    let mut patient = patient(reads_header);
    patient.setup.stated = Some(ClientAddress::PacketSource);
    patient.node.client_address = "packet-source".into();
    patient.node.judged = vec!["203.0.113.80:80/tcp".to_owned()];
    assert_snapshot!(told(&patient, None), @r#"
    gateway istio-system/istio-ingressgateway - the client address is WRONG
      the gateway: expects a PROXY header, numTrustedProxies 0
        because PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol
      this node:   client address from packet-source; 1 destination judged, 0 not; externalTrafficPolicy Local
      ! this node judges the packet's source, the gateway the PROXY header: clients may be dropped here that the gateway would let in [judged-differently]
          seen: judged here: 203.0.113.80:80/tcp
          seen: the gateway expects a PROXY header on every connection; numTrustedProxies is 0 (PROXY_CONFIG of Pod x sets gatewayTopology.proxyProtocol)
          so: what this node drops is not what the policies say
          mend: take the annotation away that says where this node takes the address from
            kubectl -n istio-system annotate service istio-ingressgateway gwfilter.io/client-address-

    1 gateway, to be mended
    "#);
}
