//! The rights that the shipped DaemonSet gives are enough, and no more than it lists.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;
use xtask::cluster::caps::Capabilities;
use xtask::http::Answer;
use xtask::manifests;
use xtask::site::{Client, VIP_PORT, VIP_V4, destination};

use crate::lab::{A, Lab, SOON};

#[test]
fn the_shipped_container_then_it_loads_attaches_drops_and_takes_off_with_three_capabilities() {
    let lab = Lab::bare();
    lab.deploy("deploy/base");
    // From files in the one folder that it may write: what it may do does not depend on where the policies come from.
    let args = json!([{
        "op": "replace", "path": "/spec/template/spec/containers/0/args",
        "value": ["run", "--from=/var/lib/gwfilter/manifests", "--on-exit=detach"],
    }]);
    lab.kubectl(&[
        "patch",
        "daemonset",
        "gwfilter",
        "-n",
        "gwfilter-system",
        "--type=json",
        "-p",
        &args.to_string(),
    ]);
    let folder = lab.host().disk.join("var/lib/gwfilter/manifests");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("cluster.yaml"), manifests::cluster()).expect("written");
    let policy = manifests::ingress_policy("DENY", "ipBlocks", &[A]);
    fs::write(folder.join("policy.yaml"), policy).expect("written");

    let mut agent = lab.launch();
    agent.process.wait_line("agent runs", SOON).expect("it runs");
    let wanted = Capabilities::of_container(&["BPF", "NET_ADMIN", "PERFMON"], &["ALL"]).expect("names");
    for set in ["CapBnd", "CapPrm", "CapEff"] {
        let held = Capabilities::from_hex(&agent.status(set).expect(set)).expect("a set");
        assert_eq!(held, wanted, "{set}: {:?}", held.names());
    }
    assert_eq!(agent.status("NoNewPrivs").expect("a line"), "1");
    let vip = destination(VIP_V4, VIP_PORT).expect("an address");
    let seen = |client, wanted| {
        let answer = lab.site.get_until(client, vip, SOON, |answer| *answer == wanted);
        assert_eq!(answer, wanted, "{client:?}:\n{}", agent.process.tail());
    };
    seen(Client::A, Answer::Timeout);
    seen(Client::B, Answer::Status(200));
    agent.process.signal(Signal::SIGTERM).expect("told to end");
    let status = agent.process.wait_exit(SOON).expect("ended");
    assert!(status.success(), "{status}:\n{}", agent.process.tail());
    assert_eq!(
        lab.site.get(Client::A, vip),
        Answer::Status(200),
        "enforcement is off"
    );
}
