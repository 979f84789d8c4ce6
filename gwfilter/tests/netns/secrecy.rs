//! What an agent leaves on the machine is root's alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use xtask::poll;
use xtask::site::Client;

use crate::lab::{A, Lab, SOON, binary, vip};

/// A directory and all that is in it.
fn below(path: &Path, found: &mut Vec<PathBuf>) {
    found.push(path.to_owned());
    if path.is_dir() {
        // Root may list it; what cannot be listed is missed by the count below.
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            below(&entry.path(), found);
        }
    }
}

#[test]
fn another_user_then_neither_pins_nor_state_nor_status_can_be_seen() {
    let state = tempfile::tempdir().expect("a folder");
    // A place that anybody may enter, as /var/lib is.
    fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("opened");
    let dir = state.path().join("gwfilter");
    let mut lab = Lab::with(
        "DENY",
        "ipBlocks",
        &A,
        &["--state-dir", &dir.display().to_string()],
    );
    lab.refused(Client::A, vip());
    let line = lab.agent.wait_line("agent runs", SOON).expect("it runs");
    let pins = line
        .split("pins=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let pins = PathBuf::from(pins.expect("the directory is told"));
    let written = poll::until(SOON, || fs::read_dir(&dir).ok()?.next().map(|_| ()));
    assert!(written.is_some(), "nothing is kept in {}", dir.display());
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(words);
        lab.site.node.output(&mut command).expect("setpriv")
    };
    assert!(
        as_nobody(&["ls", "/"]).status.success(),
        "the user can do anything at all"
    );
    for top in [pins.as_path(), &dir] {
        let mut found = Vec::new();
        let list = || -> Vec<PathBuf> {
            below(top, &mut found);
            std::mem::take(&mut found)
        };
        // bpffs is the node's own.
        let paths = lab.site.node.enter(list).expect("the node");
        assert!(paths.len() > 1, "{}: {paths:?}", top.display());
        for path in &paths {
            let shown = path.display().to_string();
            let about = lab
                .site
                .node
                .enter(|| fs::metadata(path))
                .expect("the node")
                .expect("there");
            assert_eq!(about.uid(), 0, "{shown}");
            for flag in ["-r", "-w", "-e"] {
                let seen = as_nobody(&["test", flag, &shown]).status.success();
                // That the topmost directory is there may be known.
                assert!(!seen || (flag == "-e" && path == top), "{shown}: test {flag}");
            }
        }
        assert!(!as_nobody(&["ls", &top.display().to_string()]).status.success());
    }
    // The commands say so, rather than that there is nothing.
    let gwfilter = binary().display().to_string();
    for verb in ["status", "counters", "unload", "pause"] {
        let said = as_nobody(&[&gwfilter, verb]);
        let text = [said.stdout.as_slice(), &said.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!said.status.success(), "{verb}: {text}");
        assert!(!text.contains("ingressgateway"), "{verb}: {text}");
    }
    lab.agent.signal(Signal::SIGTERM).expect("told to end");
    lab.agent.wait_exit(SOON).expect("ended");
}
