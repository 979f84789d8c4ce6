//! A site whose Envoy, Service and balancer follow its objects, and a hand that types what the doctor proposes.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: their panic is the report, and an index of JSON that is not there is null"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::balancer::{Balancer, Check, Sends, Way};
use xtask::gateway::{Gateway, Listener, Serves};
use xtask::manifests::{cluster, ingress_policy};
use xtask::site::{
    self, BALANCER_V4, BALANCER_V6, Client, NIC, NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, POD_V6, Site,
};

/// How long the doctor looks.
const LOOK: &str = "3s";
/// What makes the gateway's pod.
const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  template:
    metadata:
      labels: {app: istio-ingressgateway, istio: ingressgateway}
      annotations: {}
    spec:
      containers: [{name: istio-proxy, args: [proxy, router]}]
";

/// A site with its objects, and what follows from them.
pub(crate) struct Ward {
    site: Site,
    objects: Vec<Value>,
    gateway: Option<Gateway>,
    balancer: Option<Balancer>,
    /// What the balancers write, the outermost first; without one, clients come to the node themselves.
    sends: Vec<Sends>,
}

/// What the doctor said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) report: Value,
}

impl Said {
    /// The codes of the gateway's findings of this verdict.
    pub(crate) fn codes(&self, verdict: &str) -> Vec<String> {
        let findings = self
            .report
            .pointer("/gateways/0/findings")
            .and_then(Value::as_array);
        findings
            .expect("findings")
            .iter()
            .filter(|finding| finding["verdict"] == verdict)
            .map(|finding| finding["code"].as_str().expect("a code").to_owned())
            .collect()
    }

    /// The steps of this way to mend the worst finding.
    fn steps(&self, way: usize) -> Vec<Value> {
        let worst = self.report.pointer("/gateways/0/findings/0").expect("a finding");
        let steps = worst.pointer(&format!("/mends/{way}/steps"));
        let steps = steps.and_then(Value::as_array).cloned();
        steps.unwrap_or_else(|| panic!("no way {way}: {worst:#}"))
    }
}

impl Ward {
    /// Balancers that write `sends`, and a gateway whose pods have this topology (`{}`: none).
    pub(crate) fn new(sends: &[Sends], topology: Value) -> Self {
        let site = Site::without_gateway().expect("a site; this test needs root, and `cargo xtask setup`");
        let mut ward = Self {
            site,
            objects: objects(),
            gateway: None,
            balancer: None,
            sends: sends.to_vec(),
        };
        if topology != json!({}) {
            let config = json!({"gatewayTopology": topology}).to_string();
            let patch = json!({"spec": {"template": {"metadata": {"annotations": {"proxy.istio.io/config": config}}}}});
            merge(ward.object("Deployment", "istio-ingressgateway"), &patch);
        }
        ward
    }

    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// A policy that lets both clients in, by this field.
    pub(crate) fn policy(&mut self, field: &str) {
        let text = ingress_policy(
            "ALLOW",
            field,
            &[
                "198.51.100.0/24",
                "192.0.2.0/24",
                "2001:db8:a::/48",
                "2001:db8:b::/48",
            ],
        );
        self.objects.extend(documents(&text));
    }

    /// The Service with another `externalTrafficPolicy`.
    pub(crate) fn traffic_policy(&mut self, policy: &str) {
        let patch = json!({"spec": {"externalTrafficPolicy": policy}});
        merge(self.object("Service", "istio-ingressgateway"), &patch);
    }

    /// One more object.
    pub(crate) fn add(&mut self, text: &str) {
        self.objects.extend(documents(text));
    }

    fn object(&mut self, kind: &str, name: &str) -> &mut Value {
        let mut objects = self.objects.iter_mut();
        objects
            .find(|o| {
                o["kind"].as_str().is_some_and(|k| k.eq_ignore_ascii_case(kind))
                    && o["metadata"]["name"] == name
            })
            .unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Brings about what the objects say: pods made anew, kube-proxy's rules, the balancers.
    pub(crate) fn settle(&mut self) {
        let config =
            self.object("Deployment", "istio-ingressgateway")["spec"]["template"]["metadata"]["annotations"]
                .clone();
        let pod = self.object("Pod", "istio-ingressgateway-7d9c6b8f5-x2x9k");
        pod["metadata"]["annotations"] = config.clone();
        let text: Vec<String> = self.objects.iter().map(Value::to_string).collect();
        self.site
            .write("objects.yaml", &text.join("\n---\n"))
            .expect("written");
        let topology = config["proxy.istio.io/config"]
            .as_str()
            .map_or(Value::Null, |text| {
                serde_json::from_str::<Value>(text).expect("the configuration is JSON")["gatewayTopology"]
                    .clone()
            });
        let hops = topology["numTrustedProxies"].as_u64().unwrap_or(0);
        let serves = match u32::try_from(hops).expect("a small number") {
            0 => Serves::Http,
            hops => Serves::HttpBehind(hops),
        };
        let listeners = [POD_V4, POD_V6].map(|pod| Listener {
            at: to(pod, POD_PORT),
            proxy_protocol: !topology["proxyProtocol"].is_null(),
            policy: None,
            serves: serves.clone(),
        });
        // Its addresses must be free first.
        self.gateway = None;
        self.balancer = None;
        self.gateway = Some(Gateway::start(&self.site.pod, &listeners).expect("Envoy"));
        let policy = &self.object("Service", "istio-ingressgateway")["spec"]["externalTrafficPolicy"];
        let masquerade = if policy == "Cluster" {
            "add table inet cluster; flush table inet cluster; table inet cluster { chain postrouting { type nat hook postrouting priority srcnat; oifname \"pods\" masquerade; }; }"
        } else {
            "add table inet cluster; delete table inet cluster"
        };
        self.site.node.nft(masquerade).expect("rules");
        let ways = self.ways();
        if !ways.is_empty() {
            self.balancer = Some(Balancer::haproxy(&self.site.router, &ways).expect("haproxy"));
        }
    }

    /// One way for each balancer and family: the outermost at 8001, each next one a hundred further.
    fn ways(&self) -> Vec<Way> {
        let mut ways = Vec::new();
        let ports: Vec<u16> = (0..).map(|i| 8001 + 100 * i).take(self.sends.len()).collect();
        for (balancer, node) in [(BALANCER_V4, NODE_V4), (BALANCER_V6, NODE_V6)] {
            for (i, sends) in self.sends.iter().enumerate() {
                let next = ports
                    .get(i + 1)
                    .map_or(to(node, NODE_PORT), |port| to(balancer, *port));
                ways.push(Way {
                    at: to(balancer, ports.get(i).copied().expect("a port")),
                    to: next,
                    sends: *sends,
                    check: Check::Never,
                });
            }
        }
        // One that others wait for has to be there first.
        ways.reverse();
        ways
    }

    /// Where clients come to.
    fn doors(&self) -> Vec<SocketAddr> {
        if self.sends.is_empty() {
            vec![to(NODE_V4, NODE_PORT), to(NODE_V6, NODE_PORT)]
        } else {
            vec![to(BALANCER_V4, 8001), to(BALANCER_V6, 8001)]
        }
    }

    /// Asks the doctor, while clients ask the gateway.
    pub(crate) fn examine(&self) -> Said {
        self.ask(&["--observe", LOOK, "--interface", NIC], true)
    }

    /// Asks the doctor, with or without clients.
    pub(crate) fn ask(&self, flags: &[&str], clients: bool) -> Said {
        let from = self.site.manifests().display().to_string();
        self.run(&[&["--from", &from], flags].concat(), clients)
    }

    /// Asks the doctor of the agent of this node, while clients ask the gateway.
    pub(crate) fn ask_agent(&self) -> Said {
        self.run(&["--observe", LOOK], true)
    }

    fn run(&self, flags: &[&str], clients: bool) -> Said {
        let arguments = [&["doctor", "-o", "json"], flags].concat();
        let binary = Path::new(env!("CARGO_BIN_EXE_gwfilter"));
        let mut doctor = self
            .site
            .start("gwfilter doctor", binary, &arguments)
            .expect("started");
        while doctor.status().is_none() {
            if clients {
                self.knock();
            } else {
                let _ = xtask::poll::until(Duration::from_millis(50), || doctor.status());
            }
        }
        let status = doctor.wait_exit(Duration::from_secs(1)).expect("ended");
        let log = doctor.log();
        Said {
            code: status.code(),
            report: serde_json::from_str(&log).unwrap_or_else(|e| panic!("{e}: {log}")),
        }
    }

    /// Each client asks once at each door.
    fn knock(&self) {
        for door in self.doors() {
            for client in Client::ALL {
                let _ = self.site.get(client, door);
            }
        }
    }

    /// The addresses that the gateway takes for its clients', of requests that it answers.
    pub(crate) fn clients_as_the_gateway_sees_them(&self) -> BTreeSet<String> {
        let gateway = self.gateway.as_ref().expect("a gateway");
        let before = gateway.accesses().len();
        self.knock();
        // The log is written when Envoy likes to, every second as it is set.
        let lines = xtask::poll::until(Duration::from_secs(15), || {
            let lines = gateway.accesses();
            (lines.len() >= before + 4).then_some(lines)
        });
        let lines = lines.unwrap_or_else(|| gateway.accesses());
        let of = |line: &String| {
            let address = line.strip_suffix(" 200")?;
            let (host, _) = address.rsplit_once(':')?;
            Some(host.trim_matches(['[', ']']).to_owned())
        };
        lines.iter().skip(before).filter_map(of).collect()
    }

    /// Types what the doctor proposes: all steps of the way with this number.
    pub(crate) fn mend(&mut self, said: &Said, way: usize) {
        for mend in said.steps(way) {
            match (mend["command"].as_str(), mend["what"].as_str()) {
                (Some(command), _) => self.kubectl(command),
                (None, Some(what))
                    if what.contains("`send-proxy-v2`")
                        && what.contains("let the load balancer write the") =>
                {
                    self.sends = vec![Sends::V2];
                }
                (None, Some(what)) if what.contains("write no PROXY header") => {
                    self.sends = vec![Sends::Nothing]
                }
                (None, Some(what)) if what.starts_with("change ipBlocks to remoteIpBlocks") => {
                    self.compare_clients();
                }
                _ => panic!("a mend that no hand can do: {mend}"),
            }
        }
        self.settle();
    }

    /// Policies compare clients from now on.
    fn compare_clients(&mut self) {
        for object in &mut self.objects {
            if object["kind"] == "AuthorizationPolicy" {
                let text = object.to_string().replace("\"ipBlocks\"", "\"remoteIpBlocks\"");
                *object = serde_json::from_str(&text).expect("JSON");
            }
        }
    }

    /// The few verbs of kubectl that mends use, on the objects.
    fn kubectl(&mut self, command: &str) {
        let words = words(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            [
                "kubectl",
                "-n",
                "istio-system",
                "patch",
                kind,
                name,
                "--type",
                "merge",
                "-p",
                patch,
            ] => {
                let patch: Value = serde_json::from_str(patch).expect("a patch is JSON");
                merge(self.object(kind, name), &patch);
            }
            [
                "kubectl",
                "-n",
                "istio-system",
                "annotate",
                "--overwrite",
                kind,
                name,
                pair,
            ] => {
                let (key, value) = pair.split_once('=').expect("key=value");
                let patch = json!({"metadata": {"annotations": {key: value}}});
                merge(self.object(kind, name), &patch);
            }
            ["kubectl", "-n", namespace, "delete", kind, name] => {
                let before = self.objects.len();
                self.objects.retain(|o| {
                    !(o["kind"].as_str().is_some_and(|k| k.eq_ignore_ascii_case(kind))
                        && o["metadata"]["name"] == name
                        && o["metadata"]["namespace"] == namespace)
                });
                assert_eq!(self.objects.len() + 1, before, "{command}");
            }
            _ => panic!("not a command that this cluster knows: {command}"),
        }
    }
}

/// Splits a command as a shell does: blanks, and single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("a word").push(c),
        }
    }
    words
}

/// A JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().expect("an object");
    for (key, value) in fields {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The site's objects, the pod with its owner, and the Deployment.
fn objects() -> Vec<Value> {
    let mut objects = documents(&cluster());
    for object in &mut objects {
        if object["kind"] == "Pod" {
            let patch = json!({"metadata": {
                "labels": {"pod-template-hash": "7d9c6b8f5"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                    "name": "istio-ingressgateway-7d9c6b8f5", "uid": "1"}]}});
            merge(object, &patch);
        }
    }
    objects.extend(documents(DEPLOYMENT));
    objects
}

fn documents(text: &str) -> Vec<Value> {
    let parsed = gwfilter::manifest::parse(text.as_bytes()).expect("manifests");
    parsed.into_iter().map(|document| document.value).collect()
}

pub(crate) fn to(address: &str, port: u16) -> SocketAddr {
    site::destination(address, port).expect("an address")
}
