//! Istio's page "Ingress Access Control", typed by a user: `kubectl apply`, real packets, the shipped DaemonSet.

use std::process::Command;

use xtask::cluster::caps::Capabilities;
use xtask::manifests::ingress_policy;
use xtask::site::Client;

use crate::lab::{A, Lab, SOON, node_port, to, vip};

#[test]
fn the_page_typed_with_kubectl_then_every_step_as_it_says_in_both_of_its_fields() {
    let lab = Lab::new();
    let mut agent = lab.start();
    // Field of the policy, and the comma-separated field of the log line that the page reads.
    for (field, column) in [("ipBlocks", 3), ("remoteIpBlocks", 4)] {
        lab.let_in(&agent, Client::A, vip());
        lab.let_in(&agent, Client::B, vip());

        lab.apply(&ingress_policy("ALLOW", field, &["1.2.3.4", "5.6.7.0/24"]));
        lab.refused(&agent, Client::B, vip());
        lab.refused(&agent, Client::A, node_port());
        lab.refused(&agent, Client::A, vip());

        agent
            .process
            .wait_log("client a's line", SOON, |log| {
                let last = log.lines().rfind(|line| line.contains("remoteIP"))?;
                last.contains(A).then_some(())
            })
            .expect("a line");
        let pipeline = format!(
            "grep remoteIP {} | tail -1 | awk -F, '{{print ${column}}}' | awk -F: '{{print $2}}' | sed 's/ //'",
            agent.process.log_path().display()
        );
        let output = Command::new("bash")
            .args(["-c", &pipeline])
            .output()
            .expect("a shell");
        let client_ip = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert_eq!(client_ip, A, "{field}");

        lab.apply(&ingress_policy(
            "ALLOW",
            field,
            &["1.2.3.4", "5.6.7.0/24", &client_ip],
        ));
        lab.let_in(&agent, Client::A, vip());
        lab.refused(&agent, Client::B, vip());

        lab.apply(&ingress_policy("DENY", field, &[&client_ip]));
        lab.refused(&agent, Client::A, vip());
        lab.let_in(&agent, Client::B, vip());
        agent
            .process
            .wait_log("why", SOON, |log| {
                log.lines()
                    .rfind(|line| line.contains("remoteIP") && line.contains(A))
                    .filter(|line| line.contains("ns[istio-system]-policy[ingress-policy]-rule[0]"))
                    .map(ToOwned::to_owned)
            })
            .expect("the rule in the log");

        lab.delete_policy();
        lab.let_in(&agent, Client::A, vip());
        lab.let_in(&agent, Client::B, vip());
    }
    lab.kubectl(&["delete", "namespace", "foo", "--wait=false"]);
    lab.let_in(&agent, Client::A, vip());
    assert!(
        lab.site.served() > 0 && lab.site.get(Client::A, to("10.0.0.10", 22)).arrived(),
        "SSH is untouched"
    );
}

#[test]
fn the_shipped_daemonset_then_its_process_holds_three_capabilities_and_drops_packets() {
    let lab = Lab::new();
    let agent = lab.start();
    let wanted = Capabilities::of_container(&["BPF", "NET_ADMIN", "PERFMON"], &["ALL"]).expect("names");
    for set in ["CapBnd", "CapPrm", "CapEff"] {
        let held = Capabilities::from_hex(&agent.status(set).expect(set)).expect("a set");
        assert_eq!(held, wanted, "{set}: {:?}", held.names());
    }
    assert_eq!(agent.status("NoNewPrivs").expect("a line"), "1");
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    lab.let_in(&agent, Client::B, vip());
}
