//! Every shipped alert, fired by a real fault and cleared when that is mended. Only their times are shorter than shipped.

use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use gwfilter_common::abi::Slot;
use nix::sys::signal::Signal;
use xtask::manifests::cluster;
use xtask::poll;
use xtask::process::Process;
use xtask::site::Client;

use crate::lab::{Lab, SOON, vip};

/// What each test fires.
pub(crate) const ALL: [&[&str]; 4] = [&TOUCHED, &VOUCHED, &WANTED, &GONE];

const TOUCHED: [&str; 3] = [
    "GwfilterTablesMissing",
    "GwfilterTampered",
    "GwfilterCountersUnreadable",
];

#[test]
fn somebody_touches_the_kernel_then_it_is_alerted_on_until_it_is_long_mended() {
    let [missing, tampered, counters] = TOUCHED;
    let mut lab = Lab::new(&["--verify-every", "6s", "--lease", "off", "--pod-lease", "off"]);
    lab.enforced();
    // The header of the root table: what is there is none of this ABI any more.
    let pins = lab.pins();
    let wipe = || {
        let root = std::fs::read_dir(&pins).expect("pins").filter_map(Result::ok);
        let root = root
            .map(|pin| pin.path())
            .find(|path| path.to_string_lossy().ends_with("-root"));
        let map =
            Map::from_map_data(MapData::from_pin(root.expect("a root")).expect("opened")).expect("a map");
        let mut root = Array::<_, Slot>::try_from(map).expect("an array");
        root.set(0, [0; 8], 0).expect("wiped");
    };
    lab.site.node.enter(wipe).expect("entered");
    let passed = lab
        .site
        .get_until(Client::A, vip(), SOON, xtask::http::Answer::arrived);
    assert!(passed.arrived(), "{passed}: without tables everybody passes");
    lab.fire(&[missing, tampered]);
    lab.enforced();
    lab.calm();

    // Every question to the kernel's maps fails.
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=bpf", "-e", "inject=bpf:error=EPERM"]);
    strace.args(["-p", &lab.agent.pid().to_string()]);
    let mut strace =
        Process::spawn(&lab.site.node, "strace", strace).expect("strace; `cargo xtask setup` installs it");
    strace.wait_line("attached", SOON).expect("attached");
    lab.fire(&[counters]);
    assert!(
        lab.sees("gwfilter_counters_readable")
            .iter()
            .all(|(_, value)| *value < 1.0)
    );
    strace.interrupt(SOON).expect("it lets go");
    lab.agent.signal(Signal::SIGCONT).expect("it lives");
    lab.calm();
    lab.enforced();
}

const VOUCHED: [&str; 6] = [
    "GwfilterSourceUnread",
    "GwfilterPodLeaseExpired",
    "GwfilterLeaseEnding",
    "GwfilterLeaseExpired",
    "GwfilterPaused",
    "GwfilterObserving",
];

#[test]
fn nobody_vouches_or_nothing_is_to_be_dropped_then_it_is_alerted_on_until_it_is_over() {
    let [unread, pods, ending, expired, paused, observing] = VOUCHED;
    let mut lab = Lab::new(&["--lease", "30s", "--pod-lease", "6s"]);
    lab.enforced();
    let away = lab.site.manifests().with_extension("away");
    std::fs::rename(lab.site.manifests(), &away).expect("moved");
    // That of pods' addresses is over long before the node's: no page for it, and all else is refused on.
    let before = lab.fire(&[unread, pods]);
    assert!(!before.iter().any(|alert| alert == expired), "{before:?}");
    lab.enforced();
    lab.fire(&[ending, expired]);
    // Once nothing is refused at all, that alone is told.
    lab.sees(&format!(
        "absent(ALERTS{{alertname=\"{pods}\", alertstate=\"firing\"}})"
    ));
    std::fs::rename(&away, lab.site.manifests()).expect("moved back");
    lab.calm();
    lab.enforced();

    lab.gwfilter(&["pause"]);
    lab.fire(&[paused]);
    lab.gwfilter(&["resume"]);
    lab.calm();

    lab.agent.interrupt(SOON).expect("it ends");
    lab.restart(&["--observe"]);
    lab.fire(&[observing]);
    lab.agent.interrupt(SOON).expect("it ends");
    lab.restart(&[]);
    lab.calm();
    lab.enforced();
}

const WANTED: [&str; 4] = [
    "GwfilterGatewayNotEnforced",
    "GwfilterChangeNotEnforced",
    "GwfilterTablesFull",
    "GwfilterDropsSurge",
];

/// A Service of the gateway with so many addresses.
fn many(addresses: u32) -> String {
    let addresses: Vec<String> = (0..addresses)
        .map(|n| format!("10.99.{}.{}", n / 250, n % 250 + 1))
        .collect();
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: many, namespace: istio-system}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {{app: istio-ingressgateway, istio: ingressgateway}}
  externalIPs: [{}]
  ports: [{{name: http, protocol: TCP, port: 80, targetPort: 8080}}]
",
        addresses.join(", ")
    )
}

/// A Service of the gateway with three hundred ports, each with a rule, and so a table, of its own: two whole generations of them are
/// more than tables have room for. `blocks`: whom the rule of a number refuses.
fn each_its_own(blocks: impl Fn(u32) -> String) -> String {
    let numbers = || (0..300_u32).map(|n| (n, 20_000 + n));
    let ports: Vec<String> = numbers()
        .map(|(n, port)| format!("  - {{name: p{n}, protocol: TCP, port: {port}, targetPort: {port}}}\n"))
        .collect();
    let servers: Vec<String> = numbers()
        .map(|(n, port)| {
            format!("  - {{port: {{number: {port}, name: p{n}, protocol: TCP}}, hosts: [\"*\"]}}\n")
        })
        .collect();
    let rules: Vec<String> = numbers()
        .map(|(n, port)| {
            let blocks = blocks(n);
            format!(
                "  - {{from: [{{source: {{ipBlocks: [{blocks}]}}}}], to: [{{operation: {{ports: [\"{port}\"]}}}}]}}\n"
            )
        })
        .collect();
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: many, namespace: istio-system}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {{app: istio-ingressgateway, istio: ingressgateway}}
  externalIPs: [10.99.0.1]
  ports:
{}---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: many, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
{}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: many, namespace: istio-system}}
spec:
  action: DENY
  rules:
{}",
        ports.concat(),
        servers.concat(),
        rules.concat()
    )
}

#[test]
fn what_is_wanted_cannot_be_so_then_it_is_alerted_on_until_it_can() {
    let [not_enforced, pending, full, surge] = WANTED;
    let lab = Lab::new(&[]);
    lab.enforced();
    let faulty = cluster().replace(
        "  namespace: istio-system\n  labels: {app: istio-ingressgateway, istio: ingressgateway}\nspec:\n  type",
        "  namespace: istio-system\n  labels: {app: istio-ingressgateway, istio: ingressgateway}\n  annotations: {gwfilter.io/client-address: nonsense}\nspec:\n  type",
    );
    assert_ne!(faulty, cluster());
    lab.site.write("cluster.yaml", &faulty).expect("written");
    lab.fire(&[not_enforced]);
    let why = lab.sees("gwfilter_gateway_enforced == 0");
    assert!(
        why.iter()
            .all(|(labels, _)| labels["reason"] == "unreadable-annotation"),
        "{why:?}"
    );
    lab.site.write("cluster.yaml", &cluster()).expect("mended");
    lab.calm();

    lab.site.write("many.yaml", &many(3800)).expect("written");
    lab.fire(&[full]);
    lab.site.write("many.yaml", &many(5000)).expect("written");
    lab.fire(&[not_enforced]);
    let why = lab.sees("gwfilter_gateway_enforced == 0");
    assert!(
        why.iter()
            .all(|(labels, _)| labels["reason"] == "no-room" && labels["gateway"] == "istio-system/many"),
        "{why:?}"
    );
    let one = each_its_own(|n| format!("198.18.{}.{}", n / 250, n % 250));
    lab.site.write("many.yaml", &one).expect("written");
    lab.calm();
    // Tighter, each of them: what is in force is right as far as it goes, and so keeps its place.
    let two = each_its_own(|n| format!("198.18.{0}.{1}, 198.19.{0}.{1}", n / 250, n % 250));
    lab.site.write("many.yaml", &two).expect("written");
    lab.fire(&[pending]);
    lab.site.delete("many.yaml").expect("mended");
    lab.calm();
    lab.enforced();
    // Two changes of tables at least took a time that was measured.
    let measured = lab.sees("gwfilter_change_to_enforced_seconds_count >= 2");
    assert_eq!(measured.len(), 1, "{measured:?}");

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flood = || {
                while !over.load(Ordering::Relaxed) {
                    // A SYN each, and nobody waits for an answer that does not come.
                    let _ = TcpStream::connect_timeout(&vip(), Duration::from_millis(1));
                }
            };
            lab.site.client_a.enter(flood).expect("entered");
        });
        let fired = poll::every(Duration::from_millis(300), SOON, || {
            lab.firing().iter().any(|alert| alert == surge).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        assert!(fired.is_some(), "{surge}: {}", lab.text());
    });
    lab.calm();
}

const GONE: [&str; 4] = [
    "GwfilterNoInterface",
    "GwfilterNotReady",
    "GwfilterAgentDown",
    "GwfilterAgentsMissing",
];

#[test]
fn card_agent_or_targets_are_gone_then_it_is_alerted_on_until_they_are_back() {
    let [no_interface, not_ready, down, missing] = GONE;
    let mut lab = Lab::new(&["--counters-every", "1s"]);
    lab.enforced();
    lab.site.unplug().expect("unplugged");
    lab.fire(&[no_interface, not_ready]);
    lab.site.plug().expect("plugged in");
    lab.calm();
    lab.enforced();

    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    lab.fire(&[down]);
    lab.enforced();
    lab.restart(&[]);
    lab.calm();

    lab.targets(false);
    lab.fire(&[missing]);
    lab.targets(true);
    lab.calm();
}
