//! `gwfilter top` at a real terminal: what it shows of real packets, and that it leaves the terminal as it found it, however it ends.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::process::Command;

use nix::sys::signal::Signal;

use crate::lab::{A, Lab, SOON, binary};
use crate::meter::Meter;
use crate::pty::AtTerminal;

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
/// Set for the one test that runs inside of another.
const INSIDE: &str = "GWFILTER_TEST_INSIDE_A_TERMINAL";

fn top(lab: &Lab) -> AtTerminal {
    let start = || {
        let mut command = Command::new(binary());
        command.arg("top");
        AtTerminal::start(command)
    };
    lab.site.node.enter(start).expect("entered")
}

/// The other screen was entered and left, and the cursor is there.
#[track_caller]
fn left(at: &AtTerminal) {
    let left = xtask::poll::until(SOON, || {
        let shown = at.shown();
        let last = |part: &str| shown.rfind(part);
        (last(ENTER).is_some() && last(LEAVE) > last(ENTER) && last(SHOW_CURSOR) > last(ENTER)).then_some(())
    });
    assert!(left.is_some(), "{:?}", at.shown());
}

#[test]
fn top_with_real_drops_then_shown_and_the_terminal_left_as_it_was() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    for (what, end, code) in [
        (
            "q",
            (|at: &mut AtTerminal| at.type_in("q")) as fn(&mut AtTerminal),
            0,
        ),
        ("Ctrl-C", |at| at.type_in("\u{3}"), 0),
        ("SIGTERM", |at| at.signal(Signal::SIGTERM), 143),
        ("SIGHUP", |at| at.signal(Signal::SIGHUP), 129),
    ] {
        let mut at = top(&lab);
        let before = at.modes();
        at.wait_for("istio-ingressgateway");
        assert_ne!(at.modes(), before, "it is in raw mode");
        if what == "q" {
            let meter = Meter::start(&lab.site);
            // The bar of the second in which most was dropped.
            at.wait_for("█");
            // And whose they are, by samples that a running agent takes.
            at.wait_for("198.51.100.0/24");
            meter.read(&lab.site);
        }
        end(&mut at);
        let status = at.ended();
        assert_eq!(status.code(), Some(code), "{what}: {:?}", at.shown());
        assert_eq!(at.modes(), before, "{what}");
        left(&at);
    }
    // Without an agent: rates, no sources, and why.
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let mut at = top(&lab);
    at.wait_for("NO AGENT");
    at.wait_for("No sources");
    at.type_in("q");
    assert!(at.ended().success());
}

#[test]
fn a_panic_in_the_middle_then_the_terminal_is_put_back_and_the_words_can_be_read() {
    if std::env::var_os(INSIDE).is_some() {
        // The other half of this test, in a process and at a terminal of its own.
        let _ = gwfilter::cli::top::on_screen(|terminal| {
            terminal.draw(|_| {}).expect("drawn");
            assert!(std::env::var_os(INSIDE).is_none(), "this is what went wrong");
        });
        return;
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let name = "top::a_panic_in_the_middle_then_the_terminal_is_put_back_and_the_words_can_be_read";
    command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    let mut at = AtTerminal::start(command);
    let before = at.modes();
    assert!(!at.ended().success());
    assert_eq!(at.modes(), before);
    left(&at);
    at.wait_for("this is what went wrong");
    let shown = at.shown();
    assert!(
        shown.rfind("this is what went wrong") > shown.find(LEAVE),
        "said where it stays: {shown:?}"
    );
}

#[test]
fn no_terminal_or_no_counters_then_an_error_that_says_what_to_do() {
    let lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    let output = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments);
        lab.site.node.output(&mut command).expect("it runs")
    };
    let piped = output(&["top"]);
    let said = String::from_utf8_lossy(&piped.stderr).into_owned();
    assert_eq!(piped.status.code(), Some(1), "{said}");
    for part in ["needs a terminal", "counters --watch", "monitor"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    crate::lab::unload(&lab.site);
    let mut at = top(&lab);
    let before = at.modes();
    at.wait_for("no counters are pinned");
    assert_eq!(at.ended().code(), Some(1));
    assert_eq!(at.modes(), before);
    assert!(!at.shown().contains(ENTER), "said in a line");
    let counters = output(&["counters"]);
    let said = String::from_utf8_lossy(&counters.stderr).into_owned();
    assert_eq!(counters.status.code(), Some(1), "{said}");
    assert!(said.contains("no counters are pinned"), "{said}");
}
