//! Refusals end when nobody vouches for them any more, and when somebody pauses them. Short leases by flags; the clock is the kernel's.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use xtask::http::Answer;
use xtask::poll;
use xtask::site::{Client, POD_PORT, POD_V4};

use crate::lab::{A, Lab, SOON, binary, start, to, vip};
use crate::restart::{connect, noted};

/// Long enough for an agent on a busy machine to renew it.
const LEASE: Duration = Duration::from_secs(6);
const SHORT: [&str; 4] = ["--lease", "6s", "--pod-lease", "6s"];

/// Waits until `client` is let in at the load balancer's address; the time that took.
#[track_caller]
fn opens(lab: &Lab, client: Client, within: Duration) -> Duration {
    let began = Instant::now();
    let opened = poll::until(within, || {
        (lab.site.get(client, vip()) == Answer::Status(200)).then_some(())
    });
    assert!(
        opened.is_some(),
        "still refused after {within:?}:\n{}",
        lab.agent.tail()
    );
    began.elapsed()
}

fn gwfilter(lab: &Lab, arguments: &[&str]) -> String {
    lab.site
        .node
        .run(&binary().display().to_string(), arguments)
        .expect("it succeeds")
}

fn status(lab: &Lab) -> serde_json::Value {
    serde_json::from_str(&gwfilter(lab, &["status", "-o", "json"])).expect("JSON")
}

#[test]
fn an_agent_killed_then_refused_until_the_lease_ends_and_counted_by_the_next_one() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &SHORT);
    lab.refused(Client::A, vip());
    // Alive, it renews: refused for longer than one lease.
    let until = Instant::now() + LEASE + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(
            lab.site.get(Client::A, vip()),
            Answer::Timeout,
            "{}",
            lab.agent.tail()
        );
    }
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let killed = Instant::now();
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Timeout,
        "no gap at the end of the agent"
    );
    opens(&lab, Client::A, LEASE + SOON);
    assert!(
        killed.elapsed() + LEASE / 3 + Duration::from_secs(1) > LEASE,
        "{:?}: it was renewed shortly before",
        killed.elapsed()
    );
    assert_eq!(status(&lab)["control"]["lease"], "expired");
    lab.agent = start(&lab.site, &SHORT);
    lab.refused(Client::A, vip());
    assert_eq!(status(&lab)["control"]["lease"], "runs");
}

#[test]
fn an_agent_frozen_then_everything_passes_when_the_lease_ends_and_it_says_so_when_it_wakes() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &SHORT);
    lab.refused(Client::A, vip());
    lab.agent.signal(Signal::SIGSTOP).expect("sent");
    opens(&lab, Client::A, LEASE + SOON);
    lab.agent.signal(Signal::SIGCONT).expect("sent");
    lab.refused(Client::A, vip());
    lab.agent
        .wait_log("packets that passed for want of a lease", SOON, |log| {
            log.lines()
                .any(|line| line.contains("gateway traffic") && line.contains("lease-expired="))
                .then_some(())
        })
        .expect("counted");
}

#[test]
fn let_in_during_a_lapse_then_spared_for_a_drain_window_when_refusals_begin_again() {
    const DRAIN: Duration = Duration::from_secs(10);
    let mut lab = Lab::with(
        "DENY",
        "ipBlocks",
        &A,
        &[SHORT.as_slice(), &["--drain", "10s"]].concat(),
    );
    lab.refused(Client::A, vip());
    noted(&lab, "the end of the window", |text| {
        text.contains(r#""refused":[["#) && !text.contains(r#""draining":[["#)
    });
    lab.agent.signal(Signal::SIGSTOP).expect("sent");
    opens(&lab, Client::A, LEASE + SOON);
    // As far as the agent knows, a policy let them in that came and went while it slept: then Envoy drains them.
    let (mut open, mut closes) = (connect(&lab), connect(&lab));
    lab.agent.signal(Signal::SIGCONT).expect("sent");
    lab.refused(Client::A, vip());
    assert_eq!(open.get(), Answer::Status(200), "{}", lab.agent.tail());
    let cut = poll::until(DRAIN + SOON, || (closes.get() == Answer::Timeout).then_some(()));
    assert!(cut.is_some(), "the window is over:\n{}", lab.agent.tail());
}

#[test]
fn no_lease_then_refused_for_ever_without_an_agent() {
    let off = ["--lease", "off", "--pod-lease", "off"];
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &off);
    lab.refused(Client::A, vip());
    let control = &status(&lab)["control"];
    assert_eq!(
        (&control["lease"], &control["pod_lease"]),
        (&"off".into(), &"off".into())
    );
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    assert_eq!(lab.site.get(Client::A, vip()), Answer::Timeout);
    assert_eq!(status(&lab)["control"], *control);
}

#[test]
fn a_pods_address_then_it_opens_on_its_own_lease_and_the_rest_stays_shut() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &["--pod-lease", "6s"]);
    let pod = to(POD_V4, POD_PORT);
    lab.refused(Client::A, pod);
    lab.refused(Client::A, vip());
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    // Another pod may have the address by now: its clients get in.
    let opened = poll::until(LEASE + SOON, || {
        (lab.site.get(Client::A, pod) == Answer::Status(200)).then_some(())
    });
    assert!(opened.is_some(), "{:?}", status(&lab));
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Timeout,
        "no pod's address"
    );
}

#[test]
fn manifests_that_cannot_be_read_then_the_lease_is_not_renewed_and_told() {
    // Three attempts fit in, so that a busy machine which misses one still has the time to tell before the end.
    let long = 3 * LEASE;
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &["--lease", "18s", "--pod-lease", "18s"]);
    lab.refused(Client::A, vip());
    let away = lab.site.manifests().with_extension("away");
    std::fs::rename(lab.site.manifests(), &away).expect("moved");
    lab.agent
        .wait_line("the lease cannot be renewed", long + SOON)
        .expect("told before it ends");
    opens(&lab, Client::A, long + SOON);
    lab.agent.wait_line("the lease has run out", SOON).expect("told");
    std::fs::rename(&away, lab.site.manifests()).expect("moved back");
    lab.agent
        .wait_line("the lease is renewed again", SOON)
        .expect("told");
    lab.refused(Client::A, vip());
}

/// A Service of the gateway with more addresses than tables hold destinations.
fn too_many() -> String {
    let addresses: Vec<String> = (0..5000)
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

#[test]
fn an_agent_that_starts_over_a_gateway_that_asks_for_too_much_then_the_others_are_enforced() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    // More than tables hold: it is left out, and the agent runs.
    lab.site.write("many.yaml", &too_many()).expect("written");
    lab.agent = start(&lab.site, &[]);
    lab.agent.wait_line("no-room", SOON).expect("told");
    lab.refused(Client::A, vip());
    let status = status(&lab);
    let gateways = status["gateways"].as_array().expect("gateways");
    let many = gateways.iter().find(|g| g["name"] == "istio-system/many");
    assert_eq!(many.expect("it is there")["enforced"], false, "{status}");
}

#[test]
fn an_agent_that_fails_at_its_start_then_it_vouches_for_nothing() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &SHORT);
    lab.refused(Client::A, vip());
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let left = |lab: &Lab| status(lab)["control"]["lease_seconds"].as_u64();
    let deadline = Instant::now() + LEASE + SOON;
    // Again and again, as a broken DaemonSet would.
    while left(&lab).is_some() {
        assert!(
            Instant::now() < deadline,
            "a failing agent keeps stale tables in force"
        );
        let mut failing =
            crate::lab::launch(&lab.site, &[&["--interface", "none"], SHORT.as_slice()].concat());
        assert!(!failing.wait_exit(SOON).expect("it ends").success());
        assert!(
            failing.log().contains("there is no interface none"),
            "{}",
            failing.tail()
        );
    }
    opens(&lab, Client::A, SOON);
}

#[test]
fn paused_and_resumed_then_everything_passes_and_is_counted_in_between() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    let said = gwfilter(&lab, &["pause"]);
    assert!(
        said.starts_with("paused until ") && said.contains("gwfilter resume"),
        "{said}"
    );
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Status(200),
        "at the very next packet"
    );
    lab.agent.wait_line("enforcement is paused", SOON).expect("loud");
    lab.agent
        .wait_log("what would have been dropped", SOON, |log| {
            log.lines()
                .any(|line| {
                    line.contains("gateway traffic")
                        && line.contains("paused=")
                        && !line.contains("would_drop=0")
                })
                .then_some(())
        })
        .expect("counted");
    assert_eq!(status(&lab)["control"]["paused"], true);
    // Said again with every line of counters, not only once.
    lab.agent
        .wait_log("the same again", SOON, |log| {
            (log.matches("enforcement is paused").count() > 2).then_some(())
        })
        .expect("loud");
    assert!(gwfilter(&lab, &["resume"]).starts_with("the pause is over"));
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Timeout,
        "at the very next packet"
    );
    lab.agent.wait_line("the pause is over", SOON).expect("told");
    assert!(gwfilter(&lab, &["resume"]).starts_with("it was not paused"));
}

#[test]
fn a_pause_without_an_agent_then_the_next_agent_keeps_to_it() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let said: serde_json::Value =
        serde_json::from_str(&gwfilter(&lab, &["pause", "--for", "1h", "-o", "json"])).expect("JSON");
    assert_eq!(said, serde_json::json!({"paused": true, "seconds": 3600}));
    assert_eq!(lab.site.get(Client::A, vip()), Answer::Status(200));
    lab.agent = start(&lab.site, &[]);
    lab.agent
        .wait_line("enforcement is paused", SOON)
        .expect("loud from the start");
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Status(200),
        "a restart ends no pause"
    );
    gwfilter(&lab, &["resume"]);
    lab.refused(Client::A, vip());
}

#[test]
fn a_pause_with_an_end_then_over_by_itself() {
    let lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    gwfilter(&lab, &["pause", "--for", "3s"]);
    assert_eq!(lab.site.get(Client::A, vip()), Answer::Status(200));
    lab.refused(Client::A, vip());
}

#[test]
fn nothing_pinned_then_a_pause_is_an_error_that_says_so() {
    let site = xtask::site::Site::new().expect("a site");
    for verb in ["pause", "resume"] {
        let error = site
            .node
            .run(&binary().display().to_string(), &[verb])
            .expect_err("it fails");
        let text = format!("{error:#}");
        assert!(
            text.contains("nothing is pinned for this network namespace"),
            "{text}"
        );
    }
}
