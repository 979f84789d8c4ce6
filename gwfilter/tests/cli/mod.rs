//! Runs the program and looks at what it prints.

#![expect(clippy::expect_used, reason = "test helpers")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic_with(&format!("no JSON ({e}): {self:#?}")))
    }
}

#[expect(clippy::panic, reason = "test helper")]
fn panic_with(text: &str) -> Value {
    panic!("{text}")
}

/// Runs `gwfilter` with this standard input.
pub(crate) fn gwfilter(args: &[&str], input: &[u8]) -> Run {
    gwfilter_with(args, &[], input)
}

/// The same with these variables, and none of those that the tests were started with and that ask for colour.
pub(crate) fn gwfilter_with(args: &[&str], variables: &[(&str, &str)], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gwfilter"))
        .args(args)
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A program that does not read its input closes the pipe; that is no failure.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("the writer ends");
    Run {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A file beside the tests.
pub(crate) fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The example manifests.
pub(crate) fn ingress() -> String {
    std::fs::read_to_string(beside("manifests/ingress.yaml")).expect("the example")
}
