//! The twins that sample: they decide and count as the plain programs do, and write what they are asked for; the plain ones have no part in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use gwfilter_common::abi;
use gwfilter_common::abi::sample::{SAMPLES_BYTES, Sample, Sampling, TWINS, VERDICTS};
use gwfilter_common::logline::{HOOK_TC, HOOK_XDP, VERDICT_DROPPED, VERDICT_PASSED, VERDICT_WOULD_DROP};
use gwfilter_common::packet::Packet;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::cases::{self, Want};
use gwfilter_common::testing::{matrix, proxied, streams};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

use crate::object::{Hook, Object, path};
use crate::proxied::run_steps;
use crate::run_cases;

/// Everything, as much as the ring takes.
const ALL: Sampling = Sampling {
    masks: [0; VERDICTS],
    budgets: [1 << 20; VERDICTS],
};

/// Loads the twins with the tables of the cases.
#[expect(clippy::unwrap_used, reason = "a test's own steps")]
fn twins(sampling: Sampling) -> Object {
    let mut object = Object::load_twins().unwrap();
    object.fill(&cases::image(0)).unwrap();
    object.sampling(sampling).unwrap();
    object
}

#[expect(clippy::unwrap_used, reason = "a test's own steps")]
fn syn(source: &str, destination: &str) -> Vec<u8> {
    let packet = Packet::syn(source.parse().unwrap(), destination.parse().unwrap());
    packet.build().unwrap().bytes().to_vec()
}

#[test]
fn each_case_then_a_twin_does_and_counts_what_its_row_says() {
    for sampling in [Sampling::default(), ALL] {
        let mut object = Object::load_twins().unwrap();
        object.sampling(sampling).unwrap();
        run_cases(object, 0, |want| want);
    }
    run_cases(Object::load_twins().unwrap(), abi::HEADER_OBSERVE, Want::observed);
}

#[test]
fn segments_with_headers_then_the_twins_do_and_count_what_their_rows_say() {
    let mut object = Object::load_twins().unwrap();
    object.sampling(ALL).unwrap();
    object.fill(&matrix::image(0, 0)).unwrap();
    for list in [
        streams::classes(),
        streams::settings(),
        streams::cuts(),
        streams::shapes(),
    ] {
        run_steps(&mut object, &list, |want| want);
    }
}

#[test]
fn verdicts_then_samples_with_who_what_and_why_and_none_of_what_is_for_no_gateway() {
    for hook in Hook::all() {
        let mut object = twins(ALL);
        for (source, destination) in [
            (cases::DENIED, cases::GATEWAY),
            (cases::ALLOWED, cases::GATEWAY),
            (cases::DENIED, "203.0.113.9:22"),
            (cases::DENIED, cases::OBSERVED),
            ("[2001:db8:51::20]:40001", cases::GATEWAY6),
            (cases::DENIED, cases::GATEWAY),
        ] {
            object.run(hook, &syn(source, destination)).unwrap();
        }
        // Of whatever destination: no listener can be named.
        let fragment = cases::cases()
            .into_iter()
            .find(|case| case.want.reason == Reason::Fragment && hook.takes(&case.frame));
        object.run(hook, &fragment.unwrap().frame).unwrap();
        let told = |sample: &Sample| {
            let at = if hook.is_tc() { HOOK_TC } else { HOOK_XDP };
            assert_eq!(u32::from(sample.hook), at);
            assert_eq!((sample.ifindex, sample.protocol, sample.client_family), (1, 6, 0));
            assert_eq!((sample.client, sample.client_port, sample._pad), ([0; 16], 0, 0));
            let about = (
                u32::from(sample.verdict),
                Reason::from_code(sample.reason).unwrap(),
            );
            let which = (sample.listener, sample.rule);
            let ports = (sample.source_port, sample.destination_port);
            (
                about,
                which,
                sample.family,
                sample.source,
                sample.destination,
                ports,
            )
        };
        let v4 = |[a, b, c, d]: [u8; 4]| [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let (drop, pass, would) = (VERDICT_DROPPED, VERDICT_PASSED, VERDICT_WOULD_DROP);
        let (near, far) = (v4([198, 51, 100, 20]), v4([203, 0, 113, 9]));
        let denied = ((drop, Reason::DeniedByRule), (1, 1), 4, near, far, (40_000, 443));
        let want = [
            denied,
            (
                (pass, Reason::Allowed),
                (1, 2),
                4,
                v4([198, 51, 100, 70]),
                far,
                (40_000, 443),
            ),
            (
                (would, Reason::Observed),
                (3, 1),
                4,
                near,
                v4([203, 0, 113, 10]),
                (40_000, 443),
            ),
            (
                (drop, Reason::DeniedByRule),
                (2, 1),
                6,
                v6("2001:db8:51::20"),
                v6("2001:db8:113::9"),
                (40_001, 443),
            ),
            denied,
        ];
        let samples = object.samples().unwrap();
        assert_eq!(samples.iter().map(told).collect::<Vec<_>>(), want, "{hook:?}");
        assert!(samples.is_sorted_by_key(|sample| sample.time_ns), "{samples:?}");
        let same_cpu = samples.first().map(|s| s.cpu) == samples.last().map(|s| s.cpu);
        let counts: Vec<u64> = samples.iter().map(|sample| sample.count).collect();
        let last = if same_cpu { 2 } else { 1 };
        assert_eq!(counts, [1, 1, 1, 1, last], "{samples:?}");
    }
}

#[test]
fn a_header_that_is_judged_then_its_client_is_in_the_sample() {
    let image = proxied::image(0);
    for hook in [Hook::Tc, Hook::TcProxy] {
        let mut object = Object::load_twins().unwrap();
        object.fill(&image).unwrap();
        object.sampling(ALL).unwrap();
        let (mut clients, mut dropped) = (BTreeSet::new(), 0);
        for step in proxied::steps() {
            object.run(hook, &step.frame).unwrap();
            let samples = object.samples().unwrap();
            let sampled = step.want.reason.is_counted() && step.want.listener != abi::NO_LISTENER;
            assert_eq!(samples.len(), usize::from(sampled), "{}: {samples:?}", step.name);
            for sample in samples {
                assert_eq!(sample.reason, step.want.reason.code(), "{}", step.name);
                assert_eq!(
                    (sample.rule, sample.listener),
                    (step.want.rule, step.want.listener)
                );
                dropped += usize::from(u32::from(sample.verdict) == VERDICT_DROPPED);
                if sample.client_family != 0 {
                    clients.insert((sample.client_family, sample.client, sample.client_port));
                }
            }
        }
        assert!(dropped > 2, "{dropped}");
        let families: BTreeSet<u8> = clients.iter().map(|(family, ..)| *family).collect();
        assert_eq!(families, [4, 6].into(), "{clients:?}");
    }
}

#[test]
fn a_mask_then_every_eighth_of_those_verdicts_is_looked_at_and_no_other_is_touched() {
    let mut object = twins(Sampling {
        masks: [7, 0, 0, 0],
        ..ALL
    });
    for _ in 0..80 {
        object
            .run(Hook::Xdp, &syn(cases::ALLOWED, cases::GATEWAY))
            .unwrap();
        object
            .run(Hook::Xdp, &syn(cases::DENIED, cases::GATEWAY))
            .unwrap();
    }
    let mut by_cpu = BTreeMap::<(u8, u32), Vec<u64>>::new();
    for sample in object.samples().unwrap() {
        by_cpu
            .entry((sample.verdict, sample.cpu))
            .or_default()
            .push(sample.count);
    }
    let of = |verdict: u32| {
        let lists = by_cpu.iter().filter(move |((v, _), _)| u32::from(*v) == verdict);
        lists
            .flat_map(|(_, counts)| counts.iter().copied())
            .collect::<Vec<_>>()
    };
    let passed = of(VERDICT_PASSED);
    assert!(passed.iter().all(|count| count % 8 == 0), "{passed:?}");
    assert!((9..=10).contains(&passed.len()), "{passed:?}");
    assert_eq!(of(VERDICT_DROPPED).len(), 80);
    assert_eq!(
        object.sampler(VERDICT_PASSED).unwrap().looked,
        passed.len() as u64
    );
}

#[test]
fn no_more_than_the_budget_of_a_window_and_what_the_ring_cannot_take_is_counted() {
    // Windows of 16.8 ms: 3 each of drops, and nothing of what passed.
    let mut object = twins(Sampling {
        masks: [0; VERDICTS],
        budgets: [0, 3, 3, 3],
    });
    let (denied, allowed) = (
        syn(cases::DENIED, cases::GATEWAY),
        syn(cases::ALLOWED, cases::GATEWAY),
    );
    object.run_with(Hook::Xdp, &denied, None, 200_000).unwrap();
    object.run_with(Hook::Xdp, &allowed, None, 1000).unwrap();
    let samples = object.samples().unwrap();
    let mut windows = BTreeMap::<(u64, u32), usize>::new();
    for sample in &samples {
        assert_eq!(u32::from(sample.verdict), VERDICT_DROPPED);
        *windows.entry((sample.time_ns >> 24, sample.cpu)).or_default() += 1;
    }
    // The window is told by the last tick, the sample's time by the clock itself: one window's may lie in the next one.
    assert!(windows.values().all(|samples| *samples <= 6), "{windows:?}");
    assert!(
        (3..=3 * (windows.len() + 1)).contains(&samples.len()),
        "{windows:?}"
    );
    assert_eq!(object.sampler(VERDICT_DROPPED).unwrap().looked, 200_000);

    object.sampling(ALL).unwrap();
    object.run_with(Hook::Xdp, &denied, None, 10_000).unwrap();
    let taken = object.samples().unwrap().len();
    let fits = SAMPLES_BYTES as usize / (Sample::LEN + 8);
    assert!((fits - 2..=fits).contains(&taken), "{taken} of {fits}");
    let lost = object.sampler(VERDICT_DROPPED).unwrap().lost;
    assert_eq!(lost, 10_000 - taken as u64);
}

#[test]
fn plain_programs_then_no_sample_whatever_is_asked_for() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&cases::image(0)).unwrap();
    object.sampling(ALL).unwrap();
    for hook in Hook::all() {
        object.run(hook, &syn(cases::DENIED, cases::GATEWAY)).unwrap();
    }
    assert!(object.samples().unwrap().is_empty());
    assert_eq!(object.sampler(VERDICT_DROPPED).unwrap().looked, 0);
}

/// A function of the object: what it calls, which helpers, and which maps and sections it names.
#[derive(Debug, Default)]
struct Function {
    calls: BTreeSet<String>,
    helpers: BTreeSet<i32>,
    names: BTreeSet<String>,
}

/// The functions of the object, by name.
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own steps")]
fn functions() -> BTreeMap<String, Function> {
    let bytes = fs::read(path().unwrap()).unwrap();
    let file = object::File::parse(bytes.as_slice()).unwrap();
    let name = |symbol: &object::Symbol<'_, '_>| symbol.name().unwrap().to_owned();
    let code: Vec<_> = file
        .symbols()
        .filter(|s| s.kind() == SymbolKind::Text && s.size() > 0)
        .collect();
    let at = |section, address| {
        let symbol = code.iter().find(|s| {
            s.section_index() == Some(section) && (s.address()..s.address() + s.size()).contains(&address)
        });
        symbol.map(name)
    };
    let mut functions = BTreeMap::<String, Function>::new();
    for section in file.sections() {
        let data = section.data().unwrap_or_default();
        let relocations: BTreeMap<u64, _> = section.relocations().collect();
        for symbol in code.iter().filter(|s| s.section_index() == Some(section.index())) {
            let function = functions.entry(name(symbol)).or_default();
            for offset in (symbol.address()..symbol.address() + symbol.size()).step_by(8) {
                let from = usize::try_from(offset).unwrap();
                let [op, registers, _, _, i0, i1, i2, i3] = data[from..from + 8].try_into().unwrap();
                let immediate = i32::from_le_bytes([i0, i1, i2, i3]);
                // `BPF_JMP | BPF_CALL`, a helper or (`BPF_PSEUDO_CALL`) a function of the object.
                let call = op == 0x85;
                if let Some(relocation) = relocations.get(&offset) {
                    let RelocationTarget::Symbol(index) = relocation.target() else {
                        continue;
                    };
                    let target = file.symbol_by_index(index).unwrap();
                    if !call {
                        let of_section = target.section_index().filter(|_| target.name() == Ok(""));
                        let named =
                            of_section.map(|s| file.section_by_index(s).unwrap().name().unwrap().to_owned());
                        function.names.insert(named.unwrap_or_else(|| name(&target)));
                        continue;
                    }
                    let begin = if target.kind() == SymbolKind::Section {
                        u64::try_from((i64::from(immediate) + 1) * 8).unwrap()
                    } else {
                        target.address()
                    };
                    function.calls.extend(at(target.section_index().unwrap(), begin));
                } else if call && registers >> 4 == 0 {
                    function.helpers.insert(immediate);
                } else if call {
                    let to = i64::try_from(offset).unwrap() + (i64::from(immediate) + 1) * 8;
                    function
                        .calls
                        .extend(at(section.index(), u64::try_from(to).unwrap()));
                }
            }
        }
    }
    functions
}

/// All that a program comes to: itself, and what it calls.
fn reached<'f>(
    functions: &'f BTreeMap<String, Function>,
    program: &'f str,
) -> BTreeMap<&'f str, &'f Function> {
    let (mut reached, mut next) = (BTreeMap::new(), vec![program]);
    while let Some(name) = next.pop() {
        if let Some(function) = functions.get(name)
            && reached.insert(name, function).is_none()
        {
            next.extend(function.calls.iter().map(String::as_str));
        }
    }
    reached
}

#[test]
fn plain_programs_then_not_one_instruction_of_sampling_in_them_or_in_what_they_call() {
    /// `bpf_ringbuf_output` to `bpf_ringbuf_query`, `bpf_get_smp_processor_id`.
    const RING: std::ops::RangeInclusive<i32> = 130..=134;
    let functions = functions();
    // The packet log's line goes into a ring too, its own, and only where it is loaded with the log on.
    let sampling =
        |name: &str| ["GWF_SAMPLES", "GWF_SAMPLER", "GWF_SAMPLING", ".data.sampling"].contains(&name);
    let touches = |program: &'static str| {
        let reached = reached(&functions, program);
        assert!(reached.contains_key(program), "{program} is not in the object");
        let of = |log: bool| {
            let log = move |name: &str| log == name.contains("packet_log");
            let functions = reached.iter().filter(move |(name, _)| log(name)).map(|(_, f)| f);
            functions.collect::<Vec<_>>()
        };
        let rings = of(false)
            .iter()
            .flat_map(|f| f.helpers.iter().copied())
            .any(|helper| RING.contains(&helper));
        let names: BTreeSet<&str> = reached
            .values()
            .flat_map(|f| f.names.iter().map(String::as_str))
            .filter(|name| sampling(name))
            .collect();
        let calls: BTreeSet<&str> = reached
            .keys()
            .copied()
            .filter(|name| name.starts_with("gwf_sample"))
            .collect();
        (rings, names, calls)
    };
    for (plain, twin) in TWINS {
        assert_eq!(
            touches(plain),
            (false, BTreeSet::new(), BTreeSet::new()),
            "{plain}"
        );
        let (rings, names, _) = touches(twin);
        assert!(
            rings && !names.is_empty(),
            "{twin} does not sample: this test sees nothing"
        );
    }
    for other in [abi::TC_RESET_PROGRAM, abi::TC_REFUSE_PROGRAM] {
        assert_eq!(
            touches(other),
            (false, BTreeSet::new(), BTreeSet::new()),
            "{other}"
        );
    }
}
