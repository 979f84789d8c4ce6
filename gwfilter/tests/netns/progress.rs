//! What a person at a terminal sees beside the answer: colour, and how far a long look is.

use std::process::{Command, Output};

use crate::lab::{A, Lab, binary};
use crate::pty::AtTerminal;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    command
}

#[test]
fn at_a_terminal_then_colour_and_the_seconds_that_go_by_and_in_a_pipe_neither() {
    let lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    let at_terminal = |arguments: &[&str]| {
        let start = || AtTerminal::start(command(arguments));
        lab.site.node.enter(start).expect("entered")
    };
    let piped = |arguments: &[&str]| -> Output {
        let run = || command(arguments).output();
        lab.site.node.enter(run).expect("entered").expect("run")
    };
    let observe = ["doctor", "--observe", "4s"];
    let mut at = at_terminal(&observe);
    at.wait_for("seconds of traffic observed: ");
    at.wait_for(" of 4");
    at.wait_for("looked at new connections for 4 s");
    at.ended();
    let shown = at.shown();
    let (progress, answer) = (
        shown.rfind("observed: ").expect("progress"),
        shown.find("looked at").expect("an answer"),
    );
    // ECMA-48 EL: the line of the progress is gone before the answer comes.
    let cleared = shown
        .get(progress..answer)
        .is_some_and(|between| between.contains("\u{1b}[2K"));
    assert!(cleared, "{shown:?}");

    let mut at = at_terminal(&["status"]);
    at.wait_for("\u{1b}[32menforced\u{1b}[0m");
    assert!(at.ended().success());

    for arguments in [&observe[..], &["status"], &["counters"]] {
        let output = piped(arguments);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(out.contains("istio-ingressgateway"), "{arguments:?}: {out}{err}");
        assert!(!out.contains('\u{1b}'), "{arguments:?}: {out:?}");
        // A machine that is late is told how far it is, in plain lines.
        let progress = |line: &str| line.starts_with("seconds of traffic observed: ");
        assert!(err.lines().all(progress), "{arguments:?}: {err}");
    }
}
