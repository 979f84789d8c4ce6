//! Somebody touches what the agent left in the kernel: it is seen, named, counted and put right.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: their panic is the report"
)]

use std::path::PathBuf;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, ArrayOfMaps, Map, MapData, loaded_maps};
use gwfilter_common::abi::{Leaf, ROOT_LEN, ROOT_MAP, Slot};
use xtask::foreign::{self, Says};
use xtask::manifests::ingress_policy;
use xtask::site::{Client, NIC, Site};

use crate::lab::{A, Lab, POLICY, SOON, binary, vip};
use crate::meter::Meter;

/// An agent that looks once a second; `tcx`: on a card whose XDP is somebody else's.
fn lab(tcx: bool) -> Lab {
    let site = Site::new().expect("a site");
    if tcx {
        foreign::attach_xdp(&site.node, NIC).expect("attached");
    }
    site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &A))
        .expect("written");
    let lab = Lab::on(site, &["--verify-every", "1s"]);
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
    lab
}

/// Where the agent pins.
fn pins(lab: &Lab) -> PathBuf {
    let log = lab.agent.log();
    let dir = log
        .split("pins=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    dir.expect("the directory is told").into()
}

/// The one pin whose name ends or begins so.
fn pin(lab: &Lab, part: &str) -> PathBuf {
    let dir = pins(lab);
    let listing = lab
        .site
        .node
        .run("ls", &[&dir.display().to_string()])
        .expect("listed");
    let name = listing
        .lines()
        .find(|name| name.ends_with(part) || name.contains(&format!("-{part}-")));
    dir.join(name.unwrap_or_else(|| panic!("{part} in {listing}")))
}

/// The agent has found it, said its name, and mended it; `status` counts it.
#[track_caller]
fn found(lab: &mut Lab, name: &str) {
    lab.agent
        .wait_line(&format!("find=\"{name}\""), SOON)
        .expect("found");
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
    let binary = binary().display().to_string();
    let counted = xtask::poll::until(SOON, || {
        let status = lab.site.node.run(&binary, &["status", "-o", "json"]).ok()?;
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        let times = status.pointer(&format!("/last/finds/{name}"))?.as_u64()?;
        (times > 0).then_some(())
    });
    assert!(counted.is_some(), "{name} in `gwfilter status`");
}

#[test]
fn link_detached_by_force_then_attached_again() {
    for (tcx, hook) in [(false, "-xdp"), (true, "-tcx")] {
        let mut lab = lab(tcx);
        let path = pin(&lab, hook);
        foreign::detach_link(&lab.site.node, &path).expect("detached");
        found(&mut lab, "link-detached");
    }
}

#[test]
fn another_program_behind_our_link_then_ours_is_put_back() {
    for (tcx, hook) in [(false, "-xdp"), (true, "-tcx")] {
        let mut lab = lab(tcx);
        let path = pin(&lab, hook);
        foreign::replace_program(&lab.site.node, &path, !tcx).expect("replaced");
        found(&mut lab, "program-replaced");
    }
}

#[test]
fn somebody_goes_before_us_then_we_are_first_again_and_no_packet_noticed() {
    let mut lab = lab(true);
    let meter = Meter::start(&lab.site);
    meter.run_for(200);
    let _theirs = foreign::attach_tc_first(&lab.site.node, NIC, Says::Next).expect("attached");
    lab.agent
        .wait_line("find=\"not-first-in-line\"", SOON)
        .expect("found");
    meter.run_for(500);
    meter.read(&lab.site).must_be_clean("a second copy at the head");
    found(&mut lab, "not-first-in-line");
    assert!(
        !lab.agent.log().contains("cannot be brought to the head"),
        "{}",
        lab.agent.tail()
    );
}

#[test]
fn somebody_goes_before_us_and_lets_everything_pass_then_it_is_refused_again() {
    let mut lab = lab(true);
    let _theirs = foreign::attach_tc_first(&lab.site.node, NIC, Says::Done).expect("attached");
    found(&mut lab, "not-first-in-line");
}

/// Opens a table of the agent, by its pin.
fn table(lab: &Lab, part: &str) -> Map {
    let path = pin(lab, part);
    let map = lab.site.node.enter(|| MapData::from_pin(&path)).expect("entered");
    Map::from_map_data(map.expect("opened")).expect("a map")
}

#[test]
fn entry_of_a_table_deleted_or_changed_by_hand_then_it_is_written_anew() {
    for change in [false, true] {
        let mut lab = lab(false);
        let mut trie = LpmTrie::<_, [u8; 4], Leaf>::try_from(table(&lab, "source4")).expect("a trie");
        let entries: Vec<_> = trie.iter().map(|e| e.expect("read")).collect();
        assert!(!entries.is_empty());
        for (key, leaf) in entries {
            if change {
                let other = Leaf {
                    rule: leaf.rule + 1,
                    ..leaf
                };
                trie.insert(&key, other, 0).expect("changed");
            } else {
                trie.remove(&key).expect("deleted");
            }
        }
        found(&mut lab, "table-changed");
    }
}

#[test]
fn destinations_wiped_by_hand_then_they_are_written_anew() {
    let mut lab = lab(false);
    let mut root = Array::<_, Slot>::try_from(table(&lab, "-root")).expect("an array");
    for index in 0..ROOT_LEN {
        root.set(index, [0; 8], 0).expect("wiped");
    }
    found(&mut lab, "table-changed");
}

#[test]
fn another_root_table_put_in_the_place_of_ours_then_ours_is_put_back() {
    let mut lab = lab(false);
    let ours = table(&lab, "-root");
    let Map::Array(ours) = &ours else {
        panic!("an array");
    };
    let number = ours.info().expect("known").id();
    let of_this_agent = |id: u32| {
        let map = Map::from_map_data(MapData::from_id(id).ok()?).ok()?;
        let array = ArrayOfMaps::<_, MapData>::try_from(map).ok()?;
        let inner: MapData = array.get(&0, 0).ok()?;
        (inner.info().ok()?.id() == number).then_some(id)
    };
    let id = loaded_maps()
        .filter_map(Result::ok)
        .filter(|map| map.name_as_str() == Some(ROOT_MAP))
        .find_map(|map| of_this_agent(map.id()))
        .expect("the agent's array");
    let map = Map::from_map_data(MapData::from_id(id).expect("opened")).expect("a map");
    let mut array = ArrayOfMaps::<_, Array<MapData, Slot>>::try_from(map).expect("an array of maps");
    let empty = Array::<MapData, Slot>::create(ROOT_LEN, 0).expect("made");
    array.set(0, &empty, 0).expect("replaced");
    found(&mut lab, "table-replaced");
}

#[test]
fn pins_of_tables_removed_then_pinned_again_and_nothing_else_happened() {
    let mut lab = lab(false);
    let meter = Meter::start(&lab.site);
    meter.run_for(200);
    let script = format!("rm {}/tables-*", pins(&lab).display());
    lab.site.node.run("sh", &["-c", &script]).expect("removed");
    found(&mut lab, "table-pin-gone");
    meter.run_for(300);
    meter.read(&lab.site).must_be_clean("tables written anew");
}

#[test]
fn the_card_changes_its_size_vanishes_and_another_one_comes_then_each_is_named() {
    let mut lab = lab(false);
    lab.site
        .node
        .ip(&["link", "set", NIC, "mtu", "1400"])
        .expect("another size");
    found(&mut lab, "mtu-changed");
    lab.site.unplug().expect("unplugged");
    lab.agent
        .wait_line("find=\"interface-gone\"", SOON)
        .expect("found");
    lab.site.plug().expect("plugged in");
    found(&mut lab, "interface-new");
}
