//! What happens while the streams run.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use xtask::foreign::{self, Says};
use xtask::manifests::ingress_policy;
use xtask::site::{NIC, NODE, NODE_V4, Site};

use crate::bench::{Bench, Hook, POLICY};
use crate::streams::policy;

/// What the meter is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// 0 of the denied arrived, 0 of the allowed were lost.
    Nothing,
    /// A leak: a control of the meter itself.
    Leak,
    /// A loss: a control of the meter itself.
    Loss,
}

/// An event.
pub(crate) struct Event {
    pub(crate) name: &'static str,
    pub(crate) hooks: &'static [Hook],
    /// Further ones, in the long form.
    pub(crate) more: &'static [Hook],
    /// Flags of the agent.
    pub(crate) flags: &'static [&'static str],
    /// Done before the agent starts.
    pub(crate) prepare: fn(&Site) -> Result<()>,
    /// What happens; in the long form again and again.
    pub(crate) act: fn(&mut Bench<'_>) -> Result<()>,
    pub(crate) expect: Expect,
    /// It cannot be done again.
    pub(crate) once: bool,
    /// The objects come from an API server, which takes half a minute to build.
    pub(crate) kube: bool,
    /// Only where this environment variable is set.
    pub(crate) needs: Option<&'static str>,
}

const XDP: &[Hook] = &[Hook::Xdp];
const TCX: &[Hook] = &[Hook::Tcx];
const TCX_AND_PROXY: &[Hook] = &[Hook::Tcx, Hook::Proxy];
const ALL: &[Hook] = &[Hook::Xdp, Hook::Tcx, Hook::Proxy];
const NONE: &[Hook] = &[];

const PLAIN: Event = Event {
    name: "",
    hooks: XDP,
    more: TCX,
    flags: &[],
    prepare: |_| Ok(()),
    act: |_| Ok(()),
    expect: Expect::Nothing,
    once: false,
    kube: false,
    needs: None,
};

/// All of them, in the order of the table.
pub(crate) const EVENTS: &[Event] = &[
    Event {
        name: "nothing happens",
        hooks: NONE,
        more: ALL,
        ..PLAIN
    },
    Event {
        name: "kill -9 and restart",
        hooks: ALL,
        more: NONE,
        act: |bench| bench.restart(Signal::SIGKILL, &[]),
        ..PLAIN
    },
    Event {
        name: "SIGTERM and restart",
        act: |bench| bench.restart(Signal::SIGTERM, &[]),
        more: TCX_AND_PROXY,
        ..PLAIN
    },
    Event {
        name: "upgrade to another object, and back",
        hooks: &[Hook::Xdp, Hook::Proxy],
        more: TCX,
        act: |bench| {
            bench.restart(Signal::SIGTERM, &OTHER)?;
            bench.calm()?;
            bench.restart(Signal::SIGTERM, &[])
        },
        ..PLAIN
    },
    Event {
        name: "upgrade from another ABI",
        act: |bench| {
            bench.agent.signal(Signal::SIGTERM)?;
            bench.agent.wait_exit(SOON)?;
            // What an agent of another ABI leaves differs in the path of its pins, and in tables that are its programs' own.
            bench
                .site
                .node
                .run("sh", &["-c", "cd /sys/fs/bpf/gwfilter && mv v* v7777"])?;
            bench.calm()?;
            bench.start(&[])
        },
        hooks: &[Hook::Xdp, Hook::Proxy],
        more: TCX,
        ..PLAIN
    },
    Event {
        name: "another build of the agent, and back",
        hooks: NONE,
        more: ALL,
        act: |bench| {
            bench.restart_other()?;
            bench.calm()?;
            bench.restart(Signal::SIGTERM, &[])
        },
        needs: Some(OTHER_BUILD),
        ..PLAIN
    },
    Event {
        name: "samples are taken, and not, 50 times",
        hooks: ALL,
        more: NONE,
        act: |bench| {
            for _ in 0..50 {
                bench.watch()?;
            }
            Ok(())
        },
        ..PLAIN
    },
    Event {
        name: "100,000 prefixes come and go",
        hooks: XDP,
        more: TCX_AND_PROXY,
        act: many_prefixes,
        ..PLAIN
    },
    Event {
        name: "a gateway comes and goes",
        act: |bench| {
            for _ in 0..3 {
                bench.generation(|site| site.write(ANOTHER, &another_gateway(1)))?;
                bench.generation(|site| site.delete(ANOTHER))?;
            }
            Ok(())
        },
        more: TCX_AND_PROXY,
        ..PLAIN
    },
    Event {
        name: "link down and up",
        // Static addresses stay, as on a node whose network manager sees to it: without them there is no such destination.
        prepare: |site| site.node.sysctl("net/ipv6/conf/all/keep_addr_on_down", "1"),
        act: |bench| bench.meter.without_link(|| Ok(())),
        ..PLAIN
    },
    Event {
        name: "link down, killed, up, restart",
        hooks: NONE,
        more: XDP,
        prepare: |site| site.node.sysctl("net/ipv6/conf/all/keep_addr_on_down", "1"),
        act: |bench| {
            let agent = &mut bench.agent;
            bench.meter.without_link(|| {
                agent.signal(Signal::SIGKILL)?;
                agent.wait_exit(SOON).map(drop)
            })?;
            bench.calm()?;
            bench.start(&[])
        },
        ..PLAIN
    },
    Event {
        name: "another XDP program wants in",
        more: NONE,
        act: |bench| match foreign::attach_xdp(&bench.site.node, NIC) {
            Ok(()) => bail!("it got in"),
            Err(_) => Ok(()),
        },
        ..PLAIN
    },
    Event {
        name: "another XDP program goes, restart",
        hooks: TCX,
        more: NONE,
        act: |bench| {
            bench
                .site
                .node
                .ip(&["link", "set", "dev", NIC, "xdpdrv", "off"])?;
            bench.calm()?;
            bench.restart(Signal::SIGTERM, &[])
        },
        once: true,
        ..PLAIN
    },
    Event {
        name: "somebody goes before us in TC",
        hooks: NONE,
        more: TCX_AND_PROXY,
        flags: &["--verify-every", "1s"],
        act: |bench| {
            let mut theirs = None;
            bench.told(&["not-first-in-line"], |site| {
                theirs = Some(foreign::attach_tc_first(&site.node, NIC, Says::Next)?);
                Ok(())
            })?;
            let calm = bench.calm();
            drop(theirs);
            calm
        },
        ..PLAIN
    },
    Event {
        name: "MTU smaller, and back",
        act: |bench| {
            for mtu in ["1400", "1500"] {
                bench.site.node.ip(&["link", "set", NIC, "mtu", mtu])?;
                bench.calm()?;
            }
            Ok(())
        },
        hooks: NONE,
        more: ALL,
        ..PLAIN
    },
    Event {
        name: "more destinations than the map holds",
        act: |bench| {
            // That gateway is left out, and nothing changes for the others.
            bench.told(&["no-room"], |site| {
                site.write(ANOTHER, &another_gateway(TOO_MANY))
            })?;
            bench.calm()?;
            bench.told(&["finding is over", "no-room"], |site| site.delete(ANOTHER))
        },
        ..PLAIN
    },
    Event {
        name: "manifests broken, gone and back",
        act: |bench| {
            bench.told(&["unreadable-input", POLICY], |site| {
                site.write(POLICY, "spec: [unclosed\n")
            })?;
            bench.calm()?;
            let (here, there) = (
                bench.site.manifests().to_owned(),
                bench.site.manifests().with_extension("away"),
            );
            fs::rename(&here, &there)?;
            let calm = bench.calm();
            fs::rename(&there, &here)?;
            calm?;
            bench.told(&["finding is over", POLICY], |site| site.write(POLICY, &policy()))
        },
        ..PLAIN
    },
    Event {
        name: "disk full, killed, restart, a new policy",
        flags: &["--state-dir", "/run/gwfilter-state"],
        prepare: |site| {
            let fill = "mount -t tmpfs -o size=64k none /run && mkdir /run/gwfilter-state && \
                        ! dd if=/dev/zero of=/run/full bs=4k status=none && ! echo > /run/gwfilter-state/x";
            site.node.run("sh", &["-c", fill]).map(drop)
        },
        act: |bench| {
            bench.restart(Signal::SIGKILL, &[])?;
            bench.generation(|site| site.write(ANOTHER, &another_gateway(1)))?;
            bench.generation(|site| site.delete(ANOTHER))
        },
        ..PLAIN
    },
    Event {
        name: "agent frozen and thawed",
        act: |bench| {
            bench.agent.signal(Signal::SIGSTOP)?;
            let calm = bench.calm();
            bench.agent.signal(Signal::SIGCONT)?;
            calm
        },
        ..PLAIN
    },
    Event {
        name: "API server away, killed, restart",
        hooks: NONE,
        more: XDP,
        act: |bench| {
            bench.without_api(|bench| {
                bench.calm()?;
                bench.restart(Signal::SIGKILL, &[])
            })?;
            bench.calm()
        },
        kube: true,
        ..PLAIN
    },
    // The meter itself: what it has to see.
    Event {
        name: "control: unloaded and started again",
        act: |bench| bench.unload(),
        expect: Expect::Leak,
        more: TCX_AND_PROXY,
        ..PLAIN
    },
    Event {
        name: "control: everybody refused for a while",
        more: NONE,
        act: |bench| {
            bench.generation(|site| site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &EVERYBODY)))?;
            bench.calm()?;
            bench.generation(|site| site.write(POLICY, &policy()))
        },
        expect: Expect::Loss,
        ..PLAIN
    },
];

/// The variable that names another build of the agent, an older one, say.
pub(crate) const OTHER_BUILD: &str = "GWFILTER_LEAK_OTHER";

/// The file of a second gateway.
const ANOTHER: &str = "another-gateway.yaml";

/// Addresses of a gateway with ten ports that are more destinations than the root table has room for (4,096).
const TOO_MANY: usize = 450;

/// How long a process may take to end.
const SOON: Duration = Duration::from_secs(20);

/// The flags that make another program of the same object: its constants differ, and so what the kernel loads.
const OTHER: [&str; 2] = ["--packet-log", "drops"];

const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// A policy of 100,000 prefixes that are neither stream's comes into force and goes.
fn many_prefixes(bench: &mut Bench<'_>) -> Result<()> {
    const MANY: &str = "many.yaml";
    let mut text = String::from(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: many, namespace: istio-system}
spec:
  action: DENY
  rules:
  - from:
    - source:
        ipBlocks:
",
    );
    for number in 0..100_000_u32 {
        // No two of them are neighbours, so that none are one prefix.
        let address = Ipv4Addr::from_bits(0x1000_0000 + number * 2);
        let _ = writeln!(text, "        - {address}/32");
    }
    bench.generation(|site| site.write(MANY, &text))?;
    bench.generation(|site| site.delete(MANY))
}

/// Another gateway on the node, with ten ports at each of so many addresses, and a policy of its own.
fn another_gateway(addresses: usize) -> String {
    let mut text = String::from(
        "apiVersion: v1
kind: Service
metadata: {name: another, namespace: other, labels: {istio: another}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {istio: another}
  ports:
",
    );
    for port in 9000..9010 {
        let _ = writeln!(
            text,
            "  - {{name: p{port}, protocol: TCP, port: {port}, targetPort: {port}}}"
        );
    }
    text.push_str("status:\n  loadBalancer:\n    ingress:\n");
    for number in 0..addresses {
        let _ = writeln!(text, "    - ip: 100.64.{}.{}", number / 250, number % 250);
    }
    let servers: Vec<String> = (9000..9010)
        .map(|port| {
            format!("  - {{port: {{number: {port}, name: http-{port}, protocol: HTTP}}, hosts: [\"*\"]}}\n")
        })
        .collect();
    let _ = write!(
        text,
        "---
apiVersion: v1
kind: Pod
metadata: {{name: another-0, namespace: other, labels: {{istio: another}}}}
spec:
  nodeName: {NODE}
  containers:
  - {{name: istio-proxy, image: proxyv2, args: [proxy, router]}}
status: {{phase: Running, hostIP: {NODE_V4}, podIP: 10.244.1.77}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: another, namespace: other}}
spec:
  selector: {{istio: another}}
  servers:
{}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: another, namespace: other}}
spec:
  selector: {{matchLabels: {{istio: another}}}}
  action: DENY
  rules: [{{from: [{{source: {{ipBlocks: [100.65.0.0/16]}}}}]}}]
",
        servers.concat()
    );
    text
}
