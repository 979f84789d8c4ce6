//! What the running kernel takes of gwfilter: each program, and each way onto a card. Lines that begin with `matrix: ` are for
//! `cargo xtask test vm`, which runs this on other kernels and puts them side by side.
//!
//! An old kernel lacks what costs a named feature; which one lacks what stands in that command, and must be so.

mod budget;

use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use aya::programs::{Program, ProgramError};
use aya::{EbpfLoader, VerifierLogLevel};
use budget::{Budget, Cost};
use gwfilter::dataplane::choice::{Device, XdpMode};
use gwfilter::dataplane::examine::Trouble;
use gwfilter::dataplane::pins::{self, Hook};
use gwfilter::dataplane::{Dataplane, PacketLog};
use gwfilter_common::abi::{self, sample};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use xtask::foreign;
use xtask::kernel::{is_whole, lacks};
use xtask::netns::{Namespace, veth};

/// What programs may cost.
const BUDGET: &str = include_str!("../../../gwfilter-ebpf/budget.txt");

/// Every program.
const PROGRAMS: [&str; 15] = [
    abi::XDP_PROGRAM,
    abi::TC_PROGRAM,
    abi::TC_PROXY_PROGRAM,
    abi::TC_HEADER_V2ONLY_PROGRAM,
    abi::XDP_FRAGS_PROGRAM,
    abi::TC_HEADER_PROGRAM,
    abi::TC_RESET_PROGRAM,
    abi::TC_REFUSE_PROGRAM,
    sample::XDP_SAMPLED_PROGRAM,
    sample::TC_SAMPLED_PROGRAM,
    sample::TC_PROXY_SAMPLED_PROGRAM,
    sample::TC_HEADER_V2ONLY_SAMPLED_PROGRAM,
    sample::XDP_FRAGS_SAMPLED_PROGRAM,
    sample::TC_HEADER_SAMPLED_PROGRAM,
    abi::PROBE_PROGRAM,
];

/// One at a time: a test that lets the process open nothing would be in the way of another.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(line: &Value) {
    let _ = writeln!(io::stdout(), "matrix: {line}");
}

/// What the verifier said of a program that it took, or why it did not take it.
enum Verdict {
    Taken {
        /// Instructions walked.
        instructions: u64,
        /// Bytes of stack, as the kernel tells them: a figure a function, joined by `+`.
        stack: String,
    },
    Refused(String),
}

/// Lets the kernel verify a program. It tells its figures in a log which aya hands out only of programs that are refused; so this process
/// may open nothing meanwhile, and the kernel fails after all is verified, for want of a descriptor.
fn verify(packet_log: u32, name: &str) -> Result<Verdict> {
    let path = std::env::var_os("GWFILTER_BPF_OBJECT")
        .map_or_else(xtask::paths::ebpf_object, std::path::PathBuf::from);
    let coarse_clock = gwfilter::dataplane::object::coarse_clock();
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(abi::PACKET_LOG_GLOBAL, &packet_log, true)
        .override_global(abi::COARSE_CLOCK_GLOBAL, &coarse_clock, true)
        // With 0, as it is written, it has nothing to do, and the verifier sees that.
        .override_global(abi::PROBE_UNTIL_GLOBAL, &u64::MAX, true)
        .load_file(&path)
        .with_context(|| format!("load {}; run `cargo xtask build-ebpf`", path.display()))?;
    let program = ebpf.program_mut(name).context("no such program")?;
    let result = with_no_descriptors(|| match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::NotLoaded),
    })?;
    let Err(ProgramError::LoadError {
        io_error,
        verifier_log,
    }) = result
    else {
        bail!("{name}: {result:?} where no descriptor was free");
    };
    let log = verifier_log.to_string();
    if io_error.raw_os_error() == Some(libc::EMFILE) {
        return Ok(Verdict::Taken {
            instructions: word_after(&log, "processed ").context(log.clone())?.parse()?,
            stack: line_after(&log, "stack depth ").context(log.clone())?.to_owned(),
        });
    }
    let figures = ["processed ", "stack depth ", "verification time "];
    let why = log
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !figures.iter().any(|figure| line.starts_with(figure)));
    Ok(Verdict::Refused(format!(
        "{} ({io_error})",
        why.unwrap_or("no log")
    )))
}

fn word_after<'a>(log: &'a str, words: &str) -> Option<&'a str> {
    line_after(log, words)?.split_whitespace().next()
}

fn line_after<'a>(log: &'a str, words: &str) -> Option<&'a str> {
    log.rsplit_once(words)?.1.lines().next().map(str::trim)
}

/// Runs `work` with no descriptor to be had.
fn with_no_descriptors<T>(work: impl FnOnce() -> T) -> Result<T> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit")?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).context("setrlimit")?;
    let done = work();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).context("setrlimit")?;
    Ok(done)
}

/// Whether a program has all that its kin have: the twins with the log do. Each without the log is in the table.
fn is_most(name: &str, packet_log: u32) -> bool {
    let has_twin = PROGRAMS
        .iter()
        .any(|other| other.strip_suffix("_sampled") == Some(name));
    match (packet_log, name.ends_with("_sampled")) {
        (abi::PACKET_LOG_OFF, is_twin) => !is_twin,
        (_, is_twin) => is_twin || !has_twin,
    }
}

#[test]
fn each_program_then_taken_or_its_absence_costs_a_named_feature() {
    xtask::rights::require_root().unwrap();
    let _alone = alone();
    let mut wrong = Vec::new();
    for name in PROGRAMS {
        for (packet_log, suffix) in [(abi::PACKET_LOG_OFF, ""), (abi::PACKET_LOG_ALL, "+log")] {
            if !is_whole() && !is_most(name, packet_log) {
                continue;
            }
            let program = format!("{name}{suffix}");
            match verify(packet_log, name).unwrap() {
                Verdict::Taken { instructions, stack } => {
                    tell(&json!({"program": program, "instructions": instructions, "stack": stack}));
                    if lacks(name) {
                        wrong.push(format!("{program} is said to be lacking, and is not"));
                    }
                }
                Verdict::Refused(why) => {
                    tell(&json!({"program": program, "refused": why}));
                    if !lacks(name) {
                        wrong.push(format!("{program}: {why}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn instructions_and_stack_then_within_the_budget() {
    xtask::rights::require_root().unwrap();
    let _alone = alone();
    let budget = Budget::read(BUDGET).unwrap();
    let mut over = Vec::new();
    for name in PROGRAMS.into_iter().filter(|name| !lacks(name)) {
        for (packet_log, suffix) in [(abi::PACKET_LOG_OFF, ""), (abi::PACKET_LOG_ALL, "+log")] {
            let program = format!("{name}{suffix}");
            match verify(packet_log, name).unwrap() {
                Verdict::Taken { instructions, stack } => {
                    println!("{program}: {instructions} instructions verified, stack {stack}");
                    over.extend(budget.exceeded(&program, Cost::told(instructions, &stack).unwrap()));
                }
                Verdict::Refused(why) => over.push(format!("{program}: {why}")),
            }
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}

/// What became of one way onto a card.
fn way(name: &str, program: &str, attached: Result<Hook, String>, refused: &str) {
    let result = match (attached, refused.is_empty()) {
        (Ok(hook), true) => format!("`{}`", hook.name()),
        (Ok(hook), false) => format!("`{}`; refused: {refused}", hook.name()),
        (Err(why), _) => format!("**nothing**: {why}"),
    };
    tell(&json!({"hook": name, "result": result, "by": program}));
}

#[test]
fn each_way_onto_a_card_then_a_program_sits_there() {
    xtask::rights::require_root().unwrap();
    let _alone = alone();
    let (node, peer) = (Namespace::new("node").unwrap(), Namespace::new("peer").unwrap());
    let mut missing = Vec::new();
    for (name, mode, foreign) in [
        ("native", XdpMode::Native, false),
        ("generic", XdpMode::Generic, false),
        ("tc", XdpMode::Native, true),
    ] {
        let card = format!("card-{name}");
        veth((&node, &card), (&peer, &card)).unwrap();
        if foreign {
            foreign::attach_xdp(&node, &card).unwrap();
        }
        let theirs = foreign::xdp_id(&node, &card).unwrap();
        assert_eq!(theirs.is_some(), foreign);
        let index = node
            .enter(|| nix::net::if_::if_nametoindex(card.as_str()))
            .unwrap()
            .unwrap();
        let device = Device {
            index,
            name: card.clone(),
            ..Device::default()
        };
        let told = node
            .enter(|| {
                let mut dataplane = Dataplane::load(PacketLog::Off).unwrap();
                let attached = dataplane.attach(&device, mode, true);
                let limitations = dataplane.limitations();
                if foreign {
                    assert_eq!(foreign::xdp_id(&node, &card).unwrap(), theirs, "never replaced");
                }
                dataplane.detach(device.index).unwrap();
                dataplane.close();
                (attached, limitations)
            })
            .unwrap();
        assert_eq!(
            foreign::xdp_id(&node, &card).unwrap(),
            theirs,
            "{name}: as it was before"
        );
        let (attached, limitations) = told;
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => {
                way(name, "", Err(error.to_string()), "");
                missing.push(format!("{name}: {error}"));
                continue;
            }
        };
        let steps: Vec<&str> = attached.refusals.iter().map(|(step, _)| step.name()).collect();
        let plain = steps.iter().any(|step| step.contains("multi-buffer"));
        let program = match attached.hook {
            Hook::Tcx | Hook::Clsact => abi::TC_PROGRAM,
            Hook::Xdp | Hook::XdpGeneric if plain => abi::XDP_PROGRAM,
            Hook::Xdp | Hook::XdpGeneric => abi::XDP_FRAGS_PROGRAM,
        };
        let expected = match name {
            "native" => attached.hook == Hook::Xdp,
            "generic" => attached.hook == Hook::XdpGeneric,
            _ if lacks("tcx") => attached.hook == Hook::Clsact,
            _ => attached.hook == Hook::Tcx,
        };
        if !expected {
            missing.push(format!("{name}: {:?}", attached.hook));
        }
        // Where another program is in the way of XDP, that XDP is refused says nothing of the kernel.
        let refused = if foreign {
            steps
                .iter()
                .filter(|step| !step.contains("XDP"))
                .copied()
                .collect::<Vec<_>>()
                .join(", ")
        } else {
            steps.join(", ")
        };
        way(name, program, Ok(attached.hook), &refused);
        if name == "native" {
            match attached.beside {
                Ok(Some(hook)) => way("beside", abi::TC_PROXY_PROGRAM, Ok(hook), ""),
                other => missing.push(format!("no TC program beside XDP: {other:?}")),
            }
            for limitation in limitations {
                tell(&json!({"limitation": limitation}));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// What the runbooks tell to type before Linux 6.6, where there is no binary.
#[test]
fn the_command_that_takes_the_filter_off_then_in_each_runbook_that_needs_it() {
    for page in [
        include_str!("../../../docs/book/src/runbooks/stop-it-now.md"),
        include_str!("../../../docs/book/src/runbooks/agent-down.md"),
        include_str!("../../../docs/book/src/runbooks/left-behind.md"),
    ] {
        let command = "`tc filter del dev DEV ingress protocol all pref 1 handle 0x67776601 bpf`";
        assert_eq!(
            page.matches("tc filter").count(),
            page.matches(command).count(),
            "{page}"
        );
        assert!(page.contains(command), "{page}");
    }
}

#[test]
fn a_tc_program_then_the_next_agent_replaces_it_and_unloading_takes_it_off() {
    const CARD: &str = "card";
    xtask::rights::require_root().unwrap();
    let _alone = alone();
    let (node, peer) = (Namespace::new("node").unwrap(), Namespace::new("peer").unwrap());
    veth((&node, CARD), (&peer, CARD)).unwrap();
    foreign::attach_xdp(&node, CARD).unwrap();
    let index = node
        .enter(|| nix::net::if_::if_nametoindex(CARD))
        .unwrap()
        .unwrap();
    let device = Device {
        index,
        name: CARD.to_owned(),
        ..Device::default()
    };
    let hook = if lacks("tcx") { Hook::Clsact } else { Hook::Tcx };
    // Each ends suddenly: nothing is taken off.
    let agent = |again: bool| {
        node.enter(|| {
            let mut dataplane = Dataplane::load(PacketLog::Off).unwrap();
            let before = dataplane.examine(&device, hook).unwrap();
            let adopted = again.then(|| dataplane.attach(&device, XdpMode::Native, false).unwrap());
            let adopted = adopted.map(|attached| (attached.hook, attached.adopted));
            (before, adopted, dataplane.examine(&device, hook).unwrap())
        })
        .unwrap()
    };
    assert_eq!(agent(true), (None, Some((hook, false)), None));
    let (_, adopted, after) = agent(true);
    assert_eq!((adopted, after), (Some((hook, true)), None));
    if hook == Hook::Clsact {
        let filters = || {
            node.run("tc", &["filter", "show", "dev", CARD, "ingress"])
                .unwrap()
        };
        assert_eq!(filters().matches("handle 0x67776601").count(), 1, "{}", filters());
        // By the command of the runbooks, which leaves alone what has the same priority, as Cilium's filter has.
        let place = ["dev", CARD, "ingress", "protocol", "all", "pref", "1", "handle"];
        let tc = |what: &str, rest: &[&str]| {
            let command = [&["filter", what][..], &place, rest].concat();
            node.run("tc", &command).unwrap();
        };
        tc("add", &["0x1", "bpf", "bytecode", "1,6 0 0 0"]);
        tc("del", &["0x67776601", "bpf"]);
        assert!(
            filters().contains("handle 0x1 ") && !filters().contains("0x67776601"),
            "{}",
            filters()
        );
        tc("del", &["0x1", "bpf"]);
        assert_eq!(agent(false).0, Some(Trouble::LinkDetached), "seen");
        assert_eq!(agent(true).2, None, "and put back");
        node.enter(pins::unload).unwrap().unwrap();
        assert_eq!(filters(), "", "taken off");
    } else {
        node.enter(pins::unload).unwrap().unwrap();
    }
    assert_eq!(agent(true).1, Some((hook, false)), "from the beginning");
}
