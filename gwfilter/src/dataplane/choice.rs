//! Which interfaces are served, and by which hook. Pure: facts in, choices out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::pins::{Hook, Pin};

/// What is known of a network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// The kernel's `IFLA_INFO_KIND` (`veth`, `bridge`, …); none for what a hardware driver made.
    pub kind: Option<String>,
    /// Has Ethernet headers.
    pub ethernet: bool,
    /// The loopback device.
    pub loopback: bool,
    /// Administratively up.
    pub up: bool,
    /// Sits on a bus (`IFLA_PARENT_DEV_NAME`): a physical or virtio card.
    pub hardware: bool,
    /// The device it is stacked on, in this network namespace (a VLAN's or macvlan's card).
    pub lower: Option<u32>,
    /// The bridge, bond or virtual switch it belongs to.
    pub master: Option<u32>,
    /// Ids of the XDP programs on it.
    pub xdp_programs: Vec<u32>,
    /// The largest packet it takes, in bytes.
    pub mtu: Option<u32>,
}

/// The network namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Devices, in order of their index.
    pub devices: Vec<Device>,
    /// Indices of the devices that some default route, in any table, leads out of.
    pub default_routes: BTreeSet<u32>,
    /// Addresses of the machine, as [`local_addresses`] gives them.
    pub addresses: BTreeSet<IpAddr>,
}

impl World {
    /// The device with this index.
    #[must_use]
    pub fn device(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|d| d.index == index)
    }
}

/// Kinds on which packets from outside do not arrive first: switches, tunnels, pods' ends, helpers.
const NEVER: [&str; 26] = [
    "bridge",
    "openvswitch",
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "erspan",
    "ip6erspan",
    "ipip",
    "sit",
    "ip6tnl",
    "vti",
    "vti6",
    "xfrm",
    "wireguard",
    "bareudp",
    "gtp",
    "netkit",
    "dummy",
    "ifb",
    "vrf",
    "nlmon",
    "lowpan",
    "batadv",
];

/// The interfaces to serve, in order of their index, and the named ones that are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To be served.
    pub devices: Vec<Device>,
    /// Names given by the user that no device has.
    pub missing: Vec<String>,
}

/// Chooses the interfaces to serve. With names, exactly those. Without, every card that is up and every device with a default route,
/// but for what is no place where packets from outside arrive first; a device through whose card they come
/// (a VLAN, a bond) is left to that card, where tags are parsed anyway. What is served already stays so while it exists: a card
/// that goes down and up need not be set up again.
#[must_use]
pub fn wanted(world: &World, names: &[String], served: &BTreeSet<u32>) -> Wanted {
    let chosen: Vec<&Device> = if names.is_empty() {
        let candidates: Vec<&Device> = world
            .devices
            .iter()
            .filter(|d| carries_traffic(d, world))
            .collect();
        let indices: BTreeSet<u32> = candidates.iter().map(|d| d.index).collect();
        let covered = |d: &Device| {
            d.lower.is_some_and(|l| indices.contains(&l))
                // A bond is served at its ports,
                || (!d.hardware && candidates.iter().any(|p| p.hardware && p.master == Some(d.index)))
                // but a card below another card (a virtual function under its synthetic card) at the upper one.
                || d.master.is_some_and(|m| candidates.iter().any(|u| u.index == m && u.hardware))
        };
        let fresh: BTreeSet<u32> = candidates
            .iter()
            .filter(|d| !covered(d))
            .map(|d| d.index)
            .collect();
        world
            .devices
            .iter()
            .filter(|d| fresh.contains(&d.index) || served.contains(&d.index))
            .collect()
    } else {
        world.devices.iter().filter(|d| names.contains(&d.name)).collect()
    };
    let missing = names
        .iter()
        .filter(|n| !world.devices.iter().any(|d| d.name == **n))
        .cloned()
        .collect();
    Wanted {
        devices: chosen.into_iter().cloned().collect(),
        missing,
    }
}

/// Why an interface that was served is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// There is no such device.
    Gone,
    /// It does not have a name any more that the user gave.
    Renamed,
    /// Somebody removed the pin, or detached the program behind it.
    Detached,
}

/// Which of the served interfaces are in truth not served, by what is pinned and by `world`, which must be newer than
/// `served`. A TCX program that was detached with its pin still there is not seen: nothing tells without more rights.
#[must_use]
pub fn lost(
    served: &BTreeMap<u32, Hook>,
    pins: &[Pin],
    world: &World,
    names: &[String],
) -> BTreeMap<u32, Lost> {
    let why = |ifindex: u32, hook: Hook| {
        let Some(device) = world.device(ifindex) else {
            return Some(Lost::Gone);
        };
        if !names.is_empty() && !names.contains(&device.name) {
            return Some(Lost::Renamed);
        }
        let bare = hook.is_xdp() && device.xdp_programs.is_empty();
        (bare || !pins.contains(&Pin { ifindex, hook })).then_some(Lost::Detached)
    };
    served
        .iter()
        .filter_map(|(ifindex, hook)| Some((*ifindex, why(*ifindex, *hook)?)))
        .collect()
}

fn carries_traffic(d: &Device, world: &World) -> bool {
    let never = d.loopback || !d.ethernet || d.kind.as_deref().is_some_and(|k| NEVER.contains(&k));
    !never && d.up && (d.hardware || world.default_routes.contains(&d.index))
}

/// `--xdp-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver; where that is refused, TCX.
    #[default]
    Native,
    /// After the skb was made: slower than TC, and only on request.
    Generic,
}

/// The two XDP entries of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Takes multi-buffer frames (jumbo frames, kernels from 5.18).
    Frags,
    /// Does not.
    Plain,
}

/// One way to get a program onto an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Replace the program of the pinned XDP link with ours, atomically.
    AdoptXdp(Hook, Entry),
    /// Attach by a new XDP link.
    AttachXdp(Hook, Entry),
    /// Replace the program of the pinned TCX link.
    AdoptTcx,
    /// Attach at the head of the TCX chain.
    AttachTcx,
    /// Attach as a filter of the `clsact` qdisc, or replace the program of the one that is there.
    Clsact,
}

impl Step {
    /// Where the program sits if the step succeeds.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Self::AdoptXdp(hook, _) | Self::AttachXdp(hook, _) => hook,
            Self::AdoptTcx | Self::AttachTcx => Hook::Tcx,
            Self::Clsact => Hook::Clsact,
        }
    }

    /// Whether this, where it is refused, would have given more than `done`. A dead link that is made anew is no loss; another
    /// hook is one, and so is a program without multi-buffer frames.
    #[must_use]
    pub fn is_better_than(self, done: Self) -> bool {
        let entry = |step| match step {
            Self::AdoptXdp(_, entry) | Self::AttachXdp(_, entry) => Some(entry),
            Self::AdoptTcx | Self::AttachTcx | Self::Clsact => None,
        };
        self.hook() != done.hook() || (entry(self) == Some(Entry::Frags) && entry(done) == Some(Entry::Plain))
    }

    /// What is tried, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdoptXdp(Hook::XdpGeneric, _) => "update of the pinned generic XDP link",
            Self::AdoptXdp(_, _) => "update of the pinned XDP link",
            Self::AttachXdp(Hook::XdpGeneric, Entry::Frags) => "generic XDP (multi-buffer)",
            Self::AttachXdp(Hook::XdpGeneric, Entry::Plain) => "generic XDP",
            Self::AttachXdp(_, Entry::Frags) => "native XDP (multi-buffer)",
            Self::AttachXdp(_, Entry::Plain) => "native XDP",
            Self::AdoptTcx => "update of the pinned TCX link",
            Self::AttachTcx => "TCX",
            Self::Clsact => "clsact",
        }
    }
}

/// The ways to try, in order, given what an earlier agent left pinned on this interface. The first that succeeds ends it.
#[must_use]
pub fn steps(mode: XdpMode, pinned: &[Pin]) -> Vec<Step> {
    let hook = match mode {
        XdpMode::Native => Hook::Xdp,
        XdpMode::Generic => Hook::XdpGeneric,
    };
    let has = |h: Hook| pinned.iter().any(|p| p.hook == h);
    let mut steps = Vec::new();
    if has(hook) {
        steps.extend([
            Step::AdoptXdp(hook, Entry::Frags),
            Step::AdoptXdp(hook, Entry::Plain),
        ]);
    }
    steps.extend([
        Step::AttachXdp(hook, Entry::Frags),
        Step::AttachXdp(hook, Entry::Plain),
    ]);
    if has(Hook::Tcx) {
        steps.push(Step::AdoptTcx);
    }
    steps.extend([Step::AttachTcx, Step::Clsact]);
    steps
}

/// The pin that must go before XDP of this mode can be attached at all.
#[must_use]
pub fn other_mode(mode: XdpMode, pinned: &[Pin]) -> Option<Pin> {
    let other = match mode {
        XdpMode::Native => Hook::XdpGeneric,
        XdpMode::Generic => Hook::Xdp,
    };
    pinned.iter().copied().find(|p| p.hook == other)
}

/// The pins that are not wanted any more once programs at `hooks` are in force on an interface: theirs hold an old agent's tables.
#[must_use]
pub fn leftovers(pinned: &[Pin], hooks: &[Hook]) -> Vec<Pin> {
    pinned
        .iter()
        .copied()
        .filter(|p| !hooks.contains(&p.hook))
        .collect()
}

/// The ways to get a TC program onto an interface on which XDP judges, in order.
#[must_use]
pub fn beside(pinned: &[Pin]) -> Vec<Step> {
    let adopt = pinned.iter().any(|p| p.hook == Hook::Tcx);
    adopt
        .then_some(Step::AdoptTcx)
        .into_iter()
        .chain([Step::AttachTcx, Step::Clsact])
        .collect()
}

/// What an address was found with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address of this machine (not of the far end of a point-to-point link).
    pub address: IpAddr,
    /// Scope global or site.
    pub global: bool,
    /// Somebody else on the link has it (duplicate address detection).
    pub duplicate: bool,
}

/// The addresses at which this machine can be reached from outside.
#[must_use]
pub fn local_addresses(found: &[Found]) -> BTreeSet<IpAddr> {
    let outside = |a: &IpAddr| {
        let link_local = match a {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !(a.is_loopback() || a.is_unspecified() || a.is_multicast() || link_local)
    };
    found
        .iter()
        .filter(|f| f.global && !f.duplicate)
        .map(|f| f.address)
        .filter(outside)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, kind: &str) -> Device {
        Device {
            index,
            name: name.to_owned(),
            kind: (!kind.is_empty()).then(|| kind.to_owned()),
            ethernet: true,
            up: true,
            hardware: kind.is_empty(),
            ..Device::default()
        }
    }

    fn chosen(world: &World, names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        wanted(world, &names, &BTreeSet::new())
            .devices
            .into_iter()
            .map(|d| d.name)
            .collect()
    }

    fn world(devices: Vec<Device>, default_routes: &[u32]) -> World {
        World {
            devices,
            default_routes: default_routes.iter().copied().collect(),
            ..World::default()
        }
    }

    #[test]
    fn a_node_with_pods_overlays_and_bridges_serves_its_cards_only() {
        let lo = Device {
            loopback: true,
            ethernet: false,
            ..device(1, "lo", "")
        };
        let down = Device {
            up: false,
            ..device(3, "eth1", "")
        };
        let devices = vec![
            lo,
            device(2, "eth0", ""),
            down,
            device(4, "docker0", "bridge"),
            device(5, "veth1a2b", "veth"),
            device(6, "flannel.1", "vxlan"),
            device(7, "br-ex", "openvswitch"),
            device(8, "kube-ipvs0", "dummy"),
            device(9, "wg0", "wireguard"),
            device(10, "eth2", ""),
        ];
        // Even a default route out of them does not make a bridge, a switch or a tunnel a card.
        assert_eq!(chosen(&world(devices, &[2, 4, 7, 9]), &[]), ["eth0", "eth2"]);
    }

    #[test]
    fn a_veth_with_a_default_route_is_a_nodes_card() {
        let devices = vec![device(2, "eth0", "veth"), device(3, "vethpod", "veth")];
        assert_eq!(chosen(&world(devices, &[2]), &[]), ["eth0"]);
    }

    #[test]
    fn a_vlan_or_bond_is_left_to_its_cards() {
        let vlan = Device {
            lower: Some(2),
            ..device(3, "eth0.5", "vlan")
        };
        let port = Device {
            master: Some(5),
            ..device(4, "eth1", "")
        };
        let devices = vec![device(2, "eth0", ""), vlan, port, device(5, "bond0", "bond")];
        assert_eq!(chosen(&world(devices, &[3, 5]), &[]), ["eth0", "eth1"]);
    }

    #[test]
    fn a_vlan_whose_card_is_elsewhere_is_served_itself() {
        assert_eq!(
            chosen(&world(vec![device(3, "eth0.5", "vlan")], &[3]), &[]),
            ["eth0.5"]
        );
    }

    #[test]
    fn a_virtual_function_is_left_to_its_synthetic_card() {
        let vf = Device {
            master: Some(2),
            ..device(3, "enP1s1", "")
        };
        assert_eq!(
            chosen(&world(vec![device(2, "eth0", ""), vf], &[2]), &[]),
            ["eth0"]
        );
    }

    #[test]
    fn named_interfaces_are_taken_as_they_are_and_missing_ones_told() {
        let down = Device {
            up: false,
            ..device(3, "br0", "bridge")
        };
        let world = world(vec![device(2, "eth0", ""), down], &[]);
        let names = ["br0".to_owned(), "eth9".to_owned()];
        let wanted = wanted(&world, &names, &BTreeSet::new());
        assert_eq!(
            wanted.devices.iter().map(|d| &*d.name).collect::<Vec<_>>(),
            ["br0"]
        );
        assert_eq!(wanted.missing, ["eth9"]);
    }

    #[test]
    fn a_served_card_that_goes_down_stays_served() {
        let down = Device {
            up: false,
            ..device(2, "eth0", "")
        };
        let world = world(vec![down], &[]);
        assert_eq!(wanted(&world, &[], &[2, 7].into()).devices.len(), 1);
        assert_eq!(wanted(&world, &[], &BTreeSet::new()).devices.len(), 0);
    }

    #[test]
    fn what_is_not_there_not_named_not_pinned_or_without_program_is_lost() {
        let with_program = |index, name| Device {
            xdp_programs: vec![7],
            ..device(index, name, "")
        };
        let world = world(
            vec![
                with_program(2, "eth0"),
                with_program(3, "lan0"),
                device(4, "eth2", ""),
                device(5, "eth3", ""),
                with_program(6, "eth4"),
            ],
            &[],
        );
        let served = BTreeMap::from([
            (2, Hook::Xdp),
            (3, Hook::Xdp),
            (4, Hook::Xdp),
            (5, Hook::Tcx),
            (6, Hook::Xdp),
            (7, Hook::Tcx),
        ]);
        let pins: Vec<Pin> = [
            (2, Hook::Xdp),
            (3, Hook::Xdp),
            (4, Hook::Xdp),
            (5, Hook::Tcx),
            (6, Hook::Tcx),
        ]
        .map(|(ifindex, hook)| Pin { ifindex, hook })
        .to_vec();
        let chosen = lost(&served, &pins, &world, &[]);
        let want = [(4, Lost::Detached), (6, Lost::Detached), (7, Lost::Gone)];
        assert_eq!(chosen, want.into());
        let names = ["eth0", "eth1", "eth2", "eth3", "eth4"].map(str::to_owned);
        let named = lost(&served, &pins, &world, &names);
        assert_eq!(named.get(&3), Some(&Lost::Renamed));
        assert_eq!(named.len(), chosen.len() + 1);
    }

    #[test]
    fn another_hook_and_no_multi_buffer_frames_are_losses_and_a_link_made_anew_is_none() {
        use Entry::{Frags, Plain};
        let (adopt, attach) = (Step::AdoptXdp, Step::AttachXdp);
        for (refused, done, loss) in [
            (attach(Hook::Xdp, Frags), Step::AttachTcx, true),
            (attach(Hook::Xdp, Frags), attach(Hook::Xdp, Plain), true),
            (adopt(Hook::Xdp, Frags), adopt(Hook::Xdp, Plain), true),
            (adopt(Hook::Xdp, Frags), attach(Hook::Xdp, Frags), false),
            (adopt(Hook::Xdp, Plain), attach(Hook::Xdp, Plain), false),
            (Step::AdoptTcx, Step::AttachTcx, false),
        ] {
            assert_eq!(refused.is_better_than(done), loss, "{refused:?}, {done:?}");
        }
    }

    #[test]
    fn native_comes_before_tcx_and_generic_only_on_request() {
        use Entry::{Frags, Plain};
        use Step::{AdoptTcx, AdoptXdp, AttachTcx, AttachXdp, Clsact};
        let pin = |hook| Pin { ifindex: 1, hook };
        let fresh = |h| vec![AttachXdp(h, Frags), AttachXdp(h, Plain), AttachTcx, Clsact];
        assert_eq!(steps(XdpMode::Native, &[]), fresh(Hook::Xdp));
        assert_eq!(steps(XdpMode::Generic, &[]), fresh(Hook::XdpGeneric));
        let adopt = [AdoptXdp(Hook::Xdp, Frags), AdoptXdp(Hook::Xdp, Plain)];
        assert_eq!(
            steps(XdpMode::Native, &[pin(Hook::Xdp)]),
            [&adopt[..], &fresh(Hook::Xdp)[..]].concat()
        );
        let tcx = steps(XdpMode::Native, &[pin(Hook::Tcx)]);
        assert_eq!(
            tcx,
            [
                AttachXdp(Hook::Xdp, Frags),
                AttachXdp(Hook::Xdp, Plain),
                AdoptTcx,
                AttachTcx,
                Clsact
            ]
        );
        for pinned in [
            vec![],
            vec![pin(Hook::XdpGeneric)],
            vec![pin(Hook::Xdp), pin(Hook::Tcx)],
        ] {
            assert!(
                steps(XdpMode::Native, &pinned)
                    .iter()
                    .all(|s| s.hook() != Hook::XdpGeneric)
            );
        }
    }

    #[test]
    fn whatever_is_in_force_the_other_pins_are_left_over() {
        let pins = Hook::ALL.map(|hook| Pin { ifindex: 1, hook });
        let left = |hooks: &[Hook]| -> Vec<Hook> { leftovers(&pins, hooks).iter().map(|p| p.hook).collect() };
        assert_eq!(left(&[Hook::Tcx]), [Hook::Xdp, Hook::XdpGeneric, Hook::Clsact]);
        assert_eq!(left(&[Hook::Xdp, Hook::Tcx]), [Hook::XdpGeneric, Hook::Clsact]);
        assert_eq!(left(&[Hook::Xdp, Hook::Clsact]), [Hook::XdpGeneric, Hook::Tcx]);
    }

    #[test]
    fn beside_xdp_a_pinned_tcx_link_is_taken_over_first() {
        let pin = |hook| Pin { ifindex: 1, hook };
        assert_eq!(beside(&[pin(Hook::Xdp)]), [Step::AttachTcx, Step::Clsact]);
        let both = [pin(Hook::Xdp), pin(Hook::Tcx)];
        assert_eq!(beside(&both), [Step::AdoptTcx, Step::AttachTcx, Step::Clsact]);
    }

    #[test]
    fn only_addresses_reachable_from_outside_are_local_addresses() {
        let found = |address: &str, global, duplicate| Found {
            address: address.parse().unwrap(),
            global,
            duplicate,
        };
        let set = local_addresses(&[
            found("192.0.2.1", true, false),
            found("2001:db8::1", true, false),
            found("127.0.0.1", false, false),
            found("::1", false, false),
            found("169.254.1.1", true, false),
            found("fe80::1", false, false),
            found("2001:db8::2", true, true),
            found("10.0.0.1", false, false),
        ]);
        let want: BTreeSet<IpAddr> = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into();
        assert_eq!(set, want);
    }
}
