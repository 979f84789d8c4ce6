use std::string::String;
use std::vec::Vec;

use super::{Action, decide, family, plain4, plain6};
use crate::abi;
use crate::packet::Packet;
use crate::read::SliceReader;
use crate::reason::Reason;
use crate::testing::cases::{self, Want};
use crate::testing::mutate::{Random, mutate};
use crate::testing::{Connections, Image, control, property, proxied, root_table, tuple};
use crate::wire::{self, Family, Located, l4};

fn run(image: &Image, frame: &[u8]) -> Want {
    decide(&SliceReader(frame), image, &()).into()
}

#[test]
fn each_case_then_what_its_row_says() {
    let image = cases::image(0);
    let wrong: Vec<String> = cases::cases()
        .iter()
        .filter(|c| run(&image, &c.frame) != c.want)
        .map(|c| std::format!("{}: {:?}, want {:?}", c.name, run(&image, &c.frame), c.want))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn observe_in_the_header_then_nothing_drops() {
    let image = cases::image(abi::HEADER_OBSERVE);
    let mut refused = 0;
    for c in cases::cases() {
        let got = run(&image, &c.frame);
        if c.want.action == Action::Drop {
            refused += 1;
            let want = Want {
                action: Action::Pass,
                reason: Reason::Observed,
                would_drop: true,
                ..c.want
            };
            assert_eq!(got, want, "{}", c.name);
        } else {
            assert_eq!(got, c.want, "{}", c.name);
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn no_usable_root_then_passed_and_named() {
    let mut image = cases::image(0);
    let case = cases::cases().remove(0);
    assert_eq!(run(&image, &case.frame).action, Action::Drop);
    image.root.as_mut().unwrap()[0][0] ^= 2;
    let missing = run(&image, &case.frame);
    assert_eq!(
        (missing.action, missing.reason, missing.listener),
        (Action::Pass, Reason::TableMissing, 0)
    );
    image.root.as_mut().unwrap().clear();
    assert_eq!(run(&image, &case.frame), missing);
    image.root = None;
    assert_eq!(run(&image, &case.frame), missing);
}

#[test]
fn truncated_at_any_byte_then_never_dropped() {
    let image = cases::image(0);
    for c in cases::cases() {
        for len in 0..c.frame.len() {
            let got = run(&image, &c.frame[..len]);
            // Padding behind the IP packet may go; nothing else.
            if got.action == Action::Drop {
                let total = u16::from_be_bytes([c.frame[16], c.frame[17]]);
                let length = u16::from_be_bytes([c.frame[18], c.frame[19]]);
                let end = if c.want.listener == 2 {
                    54 + length
                } else {
                    14 + total
                };
                assert!(usize::from(end) <= len, "{} at {len}", c.name);
            }
        }
    }
}

#[test]
fn many_tuples_then_each_is_found_and_no_other() {
    let tuples: Vec<_> = (0..4000_u16)
        .map(|i| {
            let [hi, lo] = i.to_be_bytes();
            tuple(
                ([10, hi, lo, 1], 30_000 + i).into(),
                l4::TCP,
                1 + u32::from(i) % 500,
            )
        })
        .collect();
    let image = Image {
        root: Some(root_table(0, 3, &tuples)),
        ..Image::default()
    };
    for i in 0..4000_u16 {
        let [hi, lo] = i.to_be_bytes();
        let to = |addr: [u8; 4], port: u16| {
            let frame = Packet::syn(([192, 0, 2, 1], 1).into(), (addr, port).into())
                .build()
                .unwrap();
            run(&image, frame.bytes())
        };
        let hit = to([10, hi, lo, 1], 30_000 + i);
        assert_eq!(
            (hit.reason, hit.listener),
            (Reason::NoPolicy, 1 + u32::from(i) % 500)
        );
        assert_eq!(to([10, hi, lo, 2], 30_000 + i).reason, Reason::NotAGateway);
        assert_eq!(
            to([10, hi, lo, 1], 30_000 + (i + 1) % 4000).reason,
            Reason::NotAGateway
        );
    }
}

#[test]
fn mutated_frames_then_dropped_only_what_the_tables_refuse() {
    let image = cases::image(0);
    let cases = cases::cases();
    let mut random = Random(1);
    let mut drops = 0;
    for _ in 0..200_000 {
        let mut frame = cases[random.below(cases.len())].frame.clone();
        mutate(&mut random, &mut frame);
        // The slow reading walks every bucket: only where there is something to check.
        if run(&image, &frame).action == Action::Drop {
            drops += 1;
            if drops % 16 != 0 {
                continue;
            }
        }
        property::packet(&image, &frame);
    }
    assert!(drops > 1000, "{drops}");
}

#[test]
fn fuzz_seeds_and_regressions_then_the_property_holds() {
    let image = cases::image(0);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut ran = 0;
    for dir in ["seeds/packet", "regressions/packet"] {
        for entry in std::fs::read_dir(root.join(dir)).unwrap() {
            let frame = std::fs::read(entry.unwrap().path()).unwrap();
            property::packet(&image, &frame);
            ran += 1;
        }
    }
    assert!(ran > 20, "{ran}");
}

#[test]
fn each_segment_to_a_proxy_tuple_then_what_its_row_says() {
    let image = proxied::image(0);
    let connections = Connections::default();
    for step in proxied::steps() {
        let got: Want = decide(&SliceReader(&step.frame), &image, &connections).into();
        assert_eq!(got, step.want, "{}", step.name);
    }
}

#[test]
fn each_state_of_lease_and_pause_then_what_is_refused_comes_to_what_its_row_says() {
    const NOW: u64 = 5_000_000_000_000;
    for row in control::ROWS {
        let image = Image {
            control: (row.words)(NOW),
            clock_ns: NOW,
            ..control::image()
        };
        for (step, pod) in control::steps() {
            let want = control::under(&row, step.want, pod);
            assert_eq!(run(&image, &step.frame), want, "{}: {}", row.name, step.name);
        }
        for pod in [false, true] {
            let (mut image, connections) = (
                Image {
                    control: image.control,
                    clock_ns: NOW,
                    ..proxied::image(0)
                },
                Connections::default(),
            );
            if pod {
                proxied::at_pods(&mut image);
            }
            for step in control::header_steps() {
                let got: Want = decide(&SliceReader(&step.frame), &image, &connections).into();
                assert_eq!(
                    got,
                    control::under(&row, step.want, pod),
                    "{}: {}",
                    row.name,
                    step.name
                );
            }
        }
    }
}

#[test]
fn the_last_nanosecond_of_a_lease_then_dropped_and_the_next_one_then_passed() {
    let frame = &cases::cases().remove(0).frame;
    let at = |clock_ns| {
        let image = Image {
            control: [1000, 0, 0],
            clock_ns,
            ..cases::image(0)
        };
        run(&image, frame).action
    };
    assert_eq!(
        [at(0), at(999), at(1000), at(u64::MAX)],
        [Action::Drop, Action::Drop, Action::Pass, Action::Pass]
    );
}

/// What is plain is where the long way finds it, so that both go on alike; whether it is.
fn plain(frame: &[u8]) -> bool {
    let reader = SliceReader(frame);
    let at = match family(&reader) {
        Some(Family::V4) => plain4(&reader),
        Some(Family::V6) => plain6(&reader),
        None => None,
    };
    if let Some(at) = at {
        assert_eq!(wire::locate(&reader), Located::Transport(at), "{frame:02x?}");
    }
    at.is_some()
}

#[test]
fn frames_of_any_shape_then_what_is_plain_is_where_the_long_way_finds_it() {
    let mut frames: Vec<Vec<u8>> = cases::cases().into_iter().map(|case| case.frame).collect();
    frames.extend(proxied::steps().into_iter().map(|step| step.frame));
    let mut random = Random(7);
    for _ in 0..100_000 {
        let mut frame = frames[random.below(2000)].clone();
        if random.below(2) == 0 {
            frame = frames[frames.len() - 1 - random.below(150)].clone();
        }
        mutate(&mut random, &mut frame);
        frames.push(frame);
    }
    let found = frames.iter().filter(|frame| plain(frame)).count();
    assert!(found > frames.len() / 4, "{found} of {}", frames.len());
}
