//! Refusals while the API server is away: they end with the lease, those at addresses of pods before.

use xtask::http::Answer;
use xtask::poll;
use xtask::site::Client;

use crate::lab::{A, Lab, SOON, pod, vip};

#[test]
fn the_api_server_away_then_the_lease_runs_out_though_the_agent_lives_and_is_renewed_when_it_is_back() {
    let lab = Lab::new();
    lab.flag("--lease=9s");
    lab.flag("--pod-lease=9s");
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    // Silently, as a network does it: nothing says that it is away.
    lab.cut();
    lab.let_in(&agent, Client::A, vip());
    agent
        .process
        .wait_line("the lease has run out", SOON)
        .expect("loud");
    assert_eq!(agent.process.status(), None, "the agent lives");
    let unready = poll::until(SOON, || {
        let answer = agent.ready(&lab.host()).expect("a probe");
        (answer == Answer::Status(503)).then_some(())
    });
    assert!(
        unready.is_some(),
        "ready without a lease:\n{}",
        agent.process.tail()
    );
    lab.mend();
    lab.refused(&agent, Client::A, vip());
    agent
        .process
        .wait_line("the lease is renewed again", SOON)
        .expect("told");
    lab.wait_ready(&mut agent);
}

#[test]
fn a_pods_address_given_to_another_pod_while_the_api_server_is_away_then_its_clients_are_let_in() {
    let mut lab = Lab::new();
    lab.flag("--pod-lease=9s");
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, pod());
    lab.refused(&agent, Client::A, vip());
    lab.cluster.stop_hard().expect("killed");
    // The gateway's pod ends, its address becomes another pod's, and nobody can tell the agent.
    lab.let_in(&agent, Client::A, pod());
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Timeout,
        "the load balancer's address is the gateway's"
    );
    // Told at last: the address is no gateway's any more.
    lab.cluster.restart().expect("back");
    lab.refused(&agent, Client::A, pod());
    lab.kubectl(&[
        "delete",
        "pod",
        crate::lab::POD,
        "-n",
        "istio-system",
        "--force",
        "--grace-period=0",
    ]);
    lab.endpoints(None);
    lab.let_in(&agent, Client::A, pod());
}
