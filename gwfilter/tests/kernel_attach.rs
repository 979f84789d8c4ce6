//! Links in the running kernel: who is attached where, what a next agent takes over, and what is left behind.
//!
//! What packets see of it is in `netns`; here it is programs and pins. Needs root.

use std::collections::BTreeSet;
use std::process::Command;

use gwfilter::dataplane::attach::Attached;
use gwfilter::dataplane::choice::{Device, World, XdpMode};
use gwfilter::dataplane::netlink::Netlink;
use gwfilter::dataplane::pins::{self, Hook, PinsError};
use gwfilter::dataplane::{Dataplane, DataplaneError, PacketLog};
use gwfilter_common::abi::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use xtask::foreign;
use xtask::netns::{Namespace, veth};
use xtask::rights;

const NIC: &str = "eth0";

/// A node with one card, and what is at the other end of its cable.
struct Node {
    node: Namespace,
    peer: Namespace,
}

impl Node {
    #[expect(clippy::expect_used, reason = "a test helper")]
    fn new() -> Self {
        rights::require_root().expect("rights");
        let node = Namespace::new("node").expect("a namespace");
        let peer = Namespace::new("peer").expect("a namespace");
        veth((&node, NIC), (&peer, NIC)).expect("a cable");
        Self { node, peer }
    }

    #[expect(clippy::expect_used, reason = "a test helper")]
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.node.enter(work).expect("entered")
    }

    /// What one agent does at its start, and then its sudden end: nothing is taken off.
    #[track_caller]
    fn agent(&self, device: &str, mode: XdpMode) -> Attached {
        self.agent_with(device, mode, false)
    }

    /// The same; `beside`: with the TC program beside XDP.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test helper")]
    fn agent_with(&self, device: &str, mode: XdpMode, beside: bool) -> Attached {
        let found = self.device(device);
        self.inside(move || {
            let mut dataplane = Dataplane::load(PacketLog::Off)?;
            let attached = dataplane.attach(&found, mode, beside)?;
            dataplane.forget_earlier_agents()?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(attached)
        })
        .expect("attached")
    }

    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test helper")]
    fn device(&self, name: &str) -> Device {
        let mut devices = self.world().devices.into_iter();
        devices.find(|d| d.name == name).expect("a device of this name")
    }

    #[expect(clippy::expect_used, reason = "a test helper")]
    fn world(&self) -> World {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let (mut netlink, _changes) = Netlink::open().expect("netlink");
                netlink.world(true).await.expect("listed")
            })
        })
    }

    /// Names of the pinned links, as `<ifindex>-<hook>`.
    fn pins(&self) -> Vec<String> {
        let link = |name: &String| name.starts_with(|c: char| c.is_ascii_digit());
        self.files().into_iter().filter(link).collect()
    }

    /// Names of everything that is pinned.
    #[expect(clippy::expect_used, reason = "a test helper")]
    fn files(&self) -> Vec<String> {
        let find = ["/sys/fs/bpf/gwfilter", "-type", "f", "-printf", "%f\n"];
        let found = self.node.output(Command::new("find").args(find)).expect("find");
        let mut names: Vec<String> = String::from_utf8_lossy(&found.stdout)
            .lines()
            .map(ToOwned::to_owned)
            .collect();
        names.sort();
        names
    }

    /// What lies under `/sys/fs/bpf/gwfilter`, as paths: directories and pins, but not the number of the network namespace.
    #[expect(clippy::expect_used, reason = "a test helper")]
    fn tree(&self) -> Vec<String> {
        let find = ["/sys/fs/bpf/gwfilter", "-mindepth", "1", "-printf", "%P\n"];
        let found = self.node.output(Command::new("find").args(find)).expect("find");
        let mut paths: Vec<String> = String::from_utf8_lossy(&found.stdout)
            .lines()
            .map(|path| {
                let parts = path
                    .split('/')
                    .map(|part| if part.starts_with("net-") { "net" } else { part });
                parts.collect::<Vec<_>>().join("/")
            })
            .collect();
        paths.sort();
        paths
    }

    /// Makes what is pinned look like the work of another ABI: a link does not care where its pin lies.
    #[expect(clippy::expect_used, reason = "a test helper")]
    fn becomes(&self, abi: &str) {
        let ours = format!("{}/gwfilter/v{ABI_VERSION}", pins::BPFFS);
        let theirs = format!("{}/gwfilter/{abi}", pins::BPFFS);
        self.node.run("mv", &[&ours, &theirs]).expect("moved");
    }

    #[expect(clippy::expect_used, reason = "a test helper")]
    fn xdp(&self) -> Option<u32> {
        foreign::xdp_id(&self.node, NIC).expect("shown")
    }
}

#[test]
fn an_agent_that_ends_leaves_its_program_and_the_next_one_replaces_it_in_place() {
    let node = Node::new();
    let first = node.agent(NIC, XdpMode::Native);
    assert_eq!((first.hook, first.adopted), (Hook::Xdp, false));
    assert!(first.refusals.is_empty(), "{first:?}");
    let before = node.xdp().expect("still attached without its agent");
    let ifindex = node.device(NIC).index;
    assert_eq!(node.pins(), [format!("{ifindex}-xdp")]);

    let second = node.agent(NIC, XdpMode::Native);
    assert_eq!((second.hook, second.adopted), (Hook::Xdp, true));
    assert_ne!(
        node.xdp().expect("attached"),
        before,
        "with the next agent's tables"
    );
    assert_eq!(node.pins(), [format!("{ifindex}-xdp")]);
}

#[test]
fn a_tcx_link_is_taken_over_and_given_up_for_xdp_when_the_way_is_free() {
    let node = Node::new();
    foreign::attach_xdp(&node.node, NIC).expect("attached");
    let theirs = node.xdp().expect("an id");
    let ifindex = node.device(NIC).index;

    let first = node.agent(NIC, XdpMode::Native);
    assert_eq!((first.hook, first.adopted), (Hook::Tcx, false));
    assert_eq!(first.foreign.iter().map(|f| f.id).collect::<Vec<_>>(), [theirs]);
    assert_eq!(
        first.foreign.first().and_then(|f| f.name.as_deref()),
        Some(foreign::NAME)
    );

    let second = node.agent(NIC, XdpMode::Native);
    assert_eq!((second.hook, second.adopted), (Hook::Tcx, true));
    assert_eq!(node.pins(), [format!("{ifindex}-tcx")]);
    assert_eq!(node.xdp(), Some(theirs), "theirs is left alone");

    node.node
        .ip(&["link", "set", "dev", NIC, "xdpdrv", "off"])
        .expect("off");
    let third = node.agent(NIC, XdpMode::Native);
    assert_eq!((third.hook, third.adopted), (Hook::Xdp, false));
    assert_eq!(node.pins(), [format!("{ifindex}-xdp")], "one hook, not two");
}

#[test]
fn another_mode_then_one_program_and_no_pin_of_the_old_mode() {
    let node = Node::new();
    let ifindex = node.device(NIC).index;
    for (mode, hook) in [
        (XdpMode::Native, "xdp"),
        (XdpMode::Generic, "xdp-generic"),
        (XdpMode::Native, "xdp"),
    ] {
        assert_eq!(node.agent(NIC, mode).hook.name(), hook);
        assert_eq!(node.pins(), [format!("{ifindex}-{hook}")]);
    }
}

#[test]
fn a_card_that_vanished_and_gave_its_number_to_another_then_the_dead_link_is_no_hindrance() {
    let node = Node::new();
    let peer = node.peer.tid().to_string();
    let card = [
        "link", "add", "eth1", "index", "77", "type", "veth", "peer", "name", "eth1", "netns", &peer,
    ];
    for hook in [Hook::Xdp, Hook::Tcx] {
        node.node.ip(&card).expect("a card");
        if hook == Hook::Tcx {
            foreign::attach_xdp(&node.node, "eth1").expect("attached");
        }
        assert_eq!(node.agent("eth1", XdpMode::Native).hook, hook);
        node.node.ip(&["link", "del", "eth1"]).expect("gone");
        assert_eq!(
            node.pins(),
            [format!("77-{}", hook.name())],
            "the pin outlives the card"
        );

        node.node.ip(&card).expect("another card of the same number");
        let attached = node.agent("eth1", XdpMode::Native);
        assert_eq!(
            (attached.hook, attached.adopted),
            (Hook::Xdp, false),
            "{attached:?}"
        );
        assert_eq!(node.pins(), ["77-xdp"]);
        node.inside(pins::unload).expect("unloaded");
        node.node.ip(&["link", "del", "eth1"]).expect("gone");
        // The other program's pin is of the lab, and in its way when it comes again.
        let _ = node.inside(|| std::fs::remove_file("/sys/fs/bpf/someone-elses"));
    }
}

#[test]
fn a_second_agent_in_the_namespace_is_refused_and_one_in_another_namespace_is_not() {
    let (one, two) = (Node::new(), Node::new());
    let refused = one.inside(|| {
        let first = Dataplane::load(PacketLog::Off).expect("the first");
        let second = Dataplane::load(PacketLog::Off).expect_err("the second");
        two.inside(|| Dataplane::load(PacketLog::Off).map(drop))
            .expect("elsewhere");
        drop(first);
        second
    });
    assert!(
        matches!(refused, DataplaneError::Pins(PinsError::Busy { .. })),
        "{refused}"
    );
    one.inside(|| Dataplane::load(PacketLog::Off).map(drop))
        .expect("the first one has ended");
}

#[test]
fn links_of_another_abi_then_they_are_taken_over_in_place_and_nothing_of_it_is_left() {
    for abi in ["v1", "v99"] {
        let node = Node::new();
        let ifindex = node.device(NIC).index;
        node.agent_with(NIC, XdpMode::Native, true);
        node.becomes(abi);
        let before = node.xdp().expect("still attached");
        assert!(node.tree().contains(&format!("{abi}/net/{ifindex}-xdp")));
        let attached = node.agent_with(NIC, XdpMode::Native, true);
        assert_eq!((attached.hook, attached.adopted), (Hook::Xdp, true), "{abi}");
        assert!(matches!(attached.beside, Ok(Some(_))), "{abi}: {attached:?}");
        assert_ne!(
            node.xdp().expect("attached"),
            before,
            "with the next agent's tables"
        );
        let net = format!("v{ABI_VERSION}/net");
        let tree = node.tree();
        for pin in ["xdp", "tcx"] {
            assert!(tree.contains(&format!("{net}/{ifindex}-{pin}")), "{tree:?}");
        }
        assert_eq!(
            tree.iter().filter(|path| path.contains("headers-")).count(),
            1,
            "only our own: {tree:?}"
        );
        assert!(
            !tree.iter().any(|path| path.starts_with(&format!("{abi}/"))),
            "{tree:?}"
        );
    }
}

#[test]
fn links_of_another_abi_that_nobody_wants_then_they_go_once_ours_are_in_force() {
    let node = Node::new();
    let ifindex = node.device(NIC).index;
    foreign::attach_xdp(&node.node, NIC).expect("attached");
    assert_eq!(node.agent(NIC, XdpMode::Native).hook, Hook::Tcx);
    node.becomes("v1");
    // An agent of our own ABI that knew nothing of the other one: two links at one hook, and ours has to stay.
    let device = node.device(NIC);
    node.inside(move || {
        let net = format!("net-{}", pins::namespace().expect("known"));
        let hidden = format!("{}/gwfilter-aside", pins::BPFFS);
        let theirs = format!("{}/gwfilter/v1/{net}", pins::BPFFS);
        std::fs::rename(&theirs, &hidden).expect("out of sight");
        let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
        dataplane
            .attach(&device, XdpMode::Native, false)
            .expect("attached");
        drop(dataplane);
        std::fs::rename(&hidden, &theirs).expect("back");
        let both = pins::attached().expect("listed");
        assert_eq!(both.len(), 2, "status shows every ABI's: {both:?}");

        let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
        let attached = dataplane
            .attach(&device, XdpMode::Native, false)
            .expect("attached");
        assert!(attached.adopted, "{attached:?}");
        assert_eq!(pins::attached().expect("listed").len(), 2, "theirs goes last");
        let gone = dataplane.forget_earlier_agents().expect("cleared");
        assert_eq!(
            gone.iter().map(|p| (p.ifindex, p.hook)).collect::<Vec<_>>(),
            [(ifindex, Hook::Tcx)]
        );
    });
    assert_eq!(node.pins(), [format!("{ifindex}-tcx")]);
    assert_eq!(
        node.tree().iter().filter(|path| path.starts_with("v1/")).count(),
        0
    );
}

#[test]
fn an_agent_of_another_abi_runs_then_a_second_one_is_refused_whichever_came_first() {
    let node = Node::new();
    node.agent(NIC, XdpMode::Native);
    node.becomes("v1");
    node.inside(|| {
        let net = format!("net-{}", pins::namespace().expect("known"));
        let theirs = format!("{}/gwfilter/v1/{net}", pins::BPFFS);
        let dir = std::fs::File::open(&theirs).expect("opened");
        let held = Flock::lock(dir, FlockArg::LockExclusiveNonblock).expect("as an agent does");
        assert!(pins::held().expect("looked"), "status says that one runs");
        let refused = Dataplane::load(PacketLog::Off).expect_err("refused").to_string();
        for part in ["another gwfilter agent runs", "v1", "unload"] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
        assert!(
            !std::path::Path::new(&format!("{}/gwfilter/v{ABI_VERSION}/{net}", pins::BPFFS)).exists(),
            "it leaves nothing behind"
        );
        drop(held);
        let dataplane = Dataplane::load(PacketLog::Off).expect("the other one has ended");
        let dir = std::fs::File::open(&theirs).expect("still there: nothing is taken over yet");
        Flock::lock(dir, FlockArg::LockExclusiveNonblock).expect_err("we hold theirs too");
        drop(dataplane);
        assert_eq!(
            pins::unload().expect("unloaded").links.len(),
            1,
            "of whatever ABI"
        );
    });
    assert_eq!(gone(&node), None);
}

/// The XDP program, if it does not go soon.
fn gone(node: &Node) -> Option<u32> {
    let gone = xtask::poll::until(std::time::Duration::from_secs(10), || {
        node.xdp().is_none().then_some(())
    });
    gone.map_or_else(|| node.xdp(), |()| None)
}

#[test]
fn unload_removes_everything_once_and_an_agent_sees_it() {
    let node = Node::new();
    let device = node.device(NIC);
    let ifindex = device.index;
    node.inside(move || {
        let mut dataplane = Dataplane::load(PacketLog::Off).expect("loaded");
        dataplane
            .attach(&device, XdpMode::Native, true)
            .expect("attached");
        assert!(dataplane.pins().present());
        let programs = pins::xdp_programs().expect("listed");
        assert_eq!(programs.len(), 1);
        let unloaded = pins::unload().expect("unloaded");
        assert_eq!(
            unloaded.agent,
            pins::Agent::Remains,
            "it has not looked yet, so it is waited for in vain"
        );
        let removed = unloaded.links;
        assert_eq!(
            removed.iter().map(|p| (p.ifindex, p.hook)).collect::<Vec<_>>(),
            [(ifindex, Hook::Tcx), (ifindex, Hook::Xdp)],
            "by their names' order"
        );
        assert!(!dataplane.pins().present());
        assert!(pins::unload().expect("again").links.is_empty());
        assert!(wait_gone(&programs), "detached soon");
        // It could not bring itself back: there is nowhere to pin to.
        dataplane
            .attach(&device, XdpMode::Native, true)
            .expect_err("not any more");
    });
    assert!(node.files().is_empty());
    assert_eq!(node.xdp(), None);
}

#[test]
fn tc_beside_xdp_is_taken_over_goes_when_it_is_not_wanted_and_leaves_what_it_needs_pinned_once() {
    let node = Node::new();
    let ifindex = node.device(NIC).index;
    let both = [format!("{ifindex}-tcx"), format!("{ifindex}-xdp")];
    let mut arrays = BTreeSet::new();
    for adopted in [false, true, true] {
        let attached = node.agent_with(NIC, XdpMode::Native, true);
        assert_eq!((attached.hook, attached.adopted), (Hook::Xdp, adopted));
        assert!(matches!(attached.beside, Ok(Some(_))), "{attached:?}");
        assert_eq!(node.pins(), both);
        let maps: Vec<String> = node
            .files()
            .into_iter()
            .filter(|name| !both.contains(name))
            .collect();
        assert_eq!(maps.len(), 2, "{maps:?}");
        assert_eq!(maps.get(1).map(String::as_str), Some("streams"));
        assert!(
            maps.iter()
                .all(|name| arrays.insert(name.clone()) || name == "streams"),
            "each agent has its own array"
        );
    }
    let without = node.agent(NIC, XdpMode::Native);
    assert_eq!((without.hook, without.adopted), (Hook::Xdp, true));
    assert!(matches!(without.beside, Ok(None)));
    assert_eq!(node.pins(), [format!("{ifindex}-xdp")]);
}

#[test]
fn xdp_that_is_refused_then_the_tcx_link_beside_it_becomes_the_one_that_judges() {
    let node = Node::new();
    let ifindex = node.device(NIC).index;
    node.agent_with(NIC, XdpMode::Native, true);
    node.inside(|| {
        let dir = pins::BPFFS;
        let find = format!("find {dir}/gwfilter -name '{ifindex}-xdp' -delete");
        Command::new("sh").args(["-c", &find]).status()
    })
    .expect("removed");
    let free = xtask::poll::until(std::time::Duration::from_secs(10), || {
        node.xdp().is_none().then_some(())
    });
    assert!(free.is_some(), "detached");
    foreign::attach_xdp(&node.node, NIC).expect("attached");
    let attached = node.agent_with(NIC, XdpMode::Native, true);
    assert_eq!((attached.hook, attached.adopted), (Hook::Tcx, true));
    assert!(matches!(attached.beside, Ok(None)), "it judges everything itself");
    assert_eq!(node.pins(), [format!("{ifindex}-tcx")]);
}

#[expect(clippy::expect_used, reason = "a test helper")]
fn wait_gone(programs: &BTreeSet<u32>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut netlink, _changes) = Netlink::open().expect("netlink");
        netlink.gone(programs).await.expect("listed")
    })
}

#[test]
fn no_bpffs_then_one_is_mounted() {
    let node = Node::new();
    node.node.run("umount", &["/sys/fs/bpf"]).expect("unmounted");
    assert_eq!(node.agent(NIC, XdpMode::Native).hook, Hook::Xdp);
    assert_eq!(node.pins().len(), 1);
}

/// Runs the agent with these capabilities only, until it attached or failed; what it said.
#[expect(clippy::expect_used, reason = "a test helper")]
fn run_with(node: &Node, capabilities: &str) -> String {
    let manifests = tempfile::tempdir().expect("a directory");
    let bounded = format!("-all,{capabilities}");
    let mut command = Command::new("setpriv");
    command.args([
        "--no-new-privs",
        "--inh-caps",
        &bounded,
        "--bounding-set",
        &bounded,
        "--",
    ]);
    // `timeout` ends it as a service manager would.
    command.args([
        "timeout",
        "--signal=INT",
        "3",
        env!("CARGO_BIN_EXE_gwfilter"),
        "run",
        "--from",
    ]);
    command.arg(manifests.path()).args(["--interface", NIC]);
    let output = node.node.output(&mut command).expect("started");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn three_capabilities_suffice_and_each_one_missing_is_named() {
    let node = Node::new();
    let needed = ["bpf", "net_admin", "perfmon"];
    let with = |which: &[&str]| {
        which
            .iter()
            .map(|c| format!("+{c}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let said = run_with(&node, &with(&needed));
    assert!(
        said.contains("agent runs") && said.contains("hook=\"xdp\""),
        "{said}"
    );
    assert!(said.contains("enforcement is off"), "{said}");
    for missing in needed {
        let others: Vec<&str> = needed.into_iter().filter(|c| *c != missing).collect();
        let said = run_with(&node, &with(&others));
        let named = format!("CAP_{}", missing.to_uppercase());
        assert!(
            said.starts_with("error: ") && said.contains(&named),
            "{missing}: {said}"
        );
        assert_eq!(said.matches("CAP_").count(), 1, "only {named}: {said}");
    }
}

#[test]
fn the_world_shows_devices_addresses_and_default_routes_of_any_table() {
    let node = Node::new();
    node.node.address(NIC, "192.0.2.1/24").expect("an address");
    node.node.address(NIC, "2001:db8::1/64").expect("an address");
    node.node
        .ip(&["link", "add", "br0", "type", "bridge"])
        .expect("a bridge");
    node.node
        .ip(&["link", "add", "mac0", "link", NIC, "type", "macvlan"])
        .expect("a macvlan");
    let route = ["route", "add", "default", "via", "192.0.2.9", "table", "1007"];
    node.node.ip(&route).expect("a route");
    let world = node.world();
    let addresses: Vec<String> = world.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        addresses,
        ["192.0.2.1", "2001:db8::1"],
        "neither loopback nor link-local"
    );
    let card = node.device(NIC);
    assert_eq!(
        world.default_routes.iter().copied().collect::<Vec<_>>(),
        [card.index]
    );
    assert_eq!(
        (card.kind.as_deref(), card.up, card.ethernet),
        (Some("veth"), true, true)
    );
    assert_eq!((card.hardware, card.lower), (false, None));
    assert_eq!(node.device("br0").kind.as_deref(), Some("bridge"));
    assert_eq!(node.device("mac0").lower, Some(card.index));
    assert!(node.device("lo").loopback);
}
