//! Where the program sits, and what happens when it cannot sit there.

use xtask::foreign;
use xtask::http::Answer;
use xtask::kernel::lacks;
use xtask::manifests::ingress_policy;
use xtask::poll;
use xtask::site::{Client, NIC, Site};

use crate::lab::{A, Lab, POLICY, SOON, launch, link, vip};

/// What the log says of a TC program.
fn tc() -> &'static str {
    if lacks("tcx") {
        "hook=\"clsact\""
    } else {
        "hook=\"tcx\""
    }
}

fn denying(flags: &[&str]) -> Lab {
    Lab::with("DENY", "ipBlocks", &A, flags)
}

#[test]
fn somebody_elses_xdp_program_then_named_left_alone_and_enforced_by_tcx() {
    let site = Site::new().expect("a site");
    foreign::attach_xdp(&site.node, NIC).expect("attached");
    let id = foreign::xdp_id(&site.node, NIC).expect("shown").expect("an id");
    site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &A))
        .expect("written");
    let mut lab = Lab::on(site, &[]);
    let line = lab.agent.wait_line("another XDP program", SOON).expect("told");
    assert!(line.contains(&id.to_string()), "its id {id} is in: {line}");
    assert!(lab.agent.log().contains(tc()), "{}", lab.agent.tail());
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
    assert_eq!(
        foreign::xdp_id(&lab.site.node, NIC).expect("shown"),
        Some(id),
        "still there, still theirs"
    );
    lab.agent.interrupt(SOON).expect("ended");
    assert_eq!(
        foreign::xdp_id(&lab.site.node, NIC).expect("shown"),
        Some(id),
        "not taken off with us"
    );
    assert_eq!(lab.site.get(Client::A, vip()), Answer::Status(200));
}

#[test]
fn a_driver_with_xdp_then_native() {
    let lab = denying(&[]);
    lab.refused(Client::A, vip());
    assert!(foreign::xdp_id(&lab.site.node, NIC).expect("shown").is_some());
    assert!(
        !link(&lab.site, NIC).contains("xdpgeneric"),
        "{}",
        link(&lab.site, NIC)
    );
}

#[test]
fn a_card_with_jumbo_frames_then_native_all_the_same() {
    let site = Site::new().expect("a site");
    for (namespace, device) in [(&site.router, "to-node"), (&site.node, NIC)] {
        namespace
            .ip(&["link", "set", device, "mtu", "9001"])
            .expect("another size");
    }
    site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &A))
        .expect("written");
    let lab = Lab::on(site, &[]);
    assert!(
        lab.agent.log().contains("hook=\"xdp\"") && !lab.agent.log().contains("better hooks were refused"),
        "{}",
        lab.agent.tail()
    );
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
}

#[test]
fn generic_asked_for_then_generic() {
    let lab = denying(&["--xdp-mode", "generic"]);
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
    assert!(
        link(&lab.site, NIC).contains("xdpgeneric"),
        "{}",
        link(&lab.site, NIC)
    );
}

#[test]
fn a_driver_without_xdp_then_tcx_and_never_generic_by_itself() {
    let site = Site::new().expect("a site");
    site.node
        .ip(&["link", "add", "br0", "type", "bridge"])
        .expect("a bridge");
    site.node.ip(&["link", "set", "br0", "up"]).expect("up");
    let mut agent = launch(&site, &["--interface", "br0"]);
    agent.wait_line("agent runs", SOON).expect("it runs");
    assert!(agent.log().contains(tc()), "{}", agent.tail());
    assert!(!link(&site, "br0").contains("xdp"), "{}", link(&site, "br0"));
}

#[test]
fn the_card_vanishes_and_returns_then_enforced_again() {
    let mut lab = denying(&[]);
    lab.refused(Client::A, vip());
    lab.site.unplug().expect("unplugged");
    lab.agent.wait_line("interface is gone", SOON).expect("told");
    lab.site.plug().expect("plugged in");
    let attached = poll::until(SOON, || foreign::xdp_id(&lab.site.node, NIC).ok().flatten());
    assert!(attached.is_some(), "attached again; agent:\n{}", lab.agent.tail());
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
}

#[test]
fn an_interface_that_is_not_there_then_the_error_names_it_and_those_that_are() {
    let site = Site::new().expect("a site");
    let mut agent = launch(&site, &["--interface", "eth7"]);
    let status = agent.wait_exit(SOON).expect("it ends");
    assert!(!status.success());
    let log = agent.log();
    assert!(log.contains("eth7") && log.contains(NIC), "{log}");
}

#[test]
fn an_agent_that_cannot_start_with_a_json_log_then_the_error_is_json_too() {
    let site = Site::new().expect("a site");
    let mut agent = launch(&site, &["--interface", "eth7", "--log-format", "json"]);
    let status = agent.wait_exit(SOON).expect("it ends");
    assert_eq!(status.code(), Some(1));
    let log = agent.log();
    let last = log.lines().last().expect("a line");
    let line: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        (&line["level"], &line["message"]),
        (&"ERROR".into(), &"the agent failed".into())
    );
    assert!(line["error"].to_string().contains("eth7"), "{last}");
}

#[test]
fn somebody_removes_the_pin_then_told_and_enforced_again() {
    let mut lab = denying(&["--counters-every", "1s"]);
    lab.refused(Client::A, vip());
    let line = lab.agent.wait_line("agent runs", SOON).expect("it runs");
    let pins = line
        .split("pins=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let remove = format!("rm {}/*", pins.expect("the directory is told"));
    lab.site.node.run("sh", &["-c", &remove]).expect("removed");
    lab.agent
        .wait_line("somebody detached the program", SOON)
        .expect("told");
    // The kernel ends the link some time after its pin is gone: until then the old program refuses, and then nobody does for a moment.
    let attached = |log: &str| (log.matches(" attached interface=").count() > 1).then_some(());
    lab.agent
        .wait_log("attached again", SOON, attached)
        .expect("attached again");
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
}
