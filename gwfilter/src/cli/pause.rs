//! `gwfilter pause` and `gwfilter resume`: one write to the pinned map, whether an agent runs or not.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Output, duration, written};
use crate::control::{Span, moment};
use crate::dataplane::control::{Control, now_ns};
use crate::dataplane::pins::{self, BPFFS};

/// Arguments of `gwfilter pause`.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// For how long; without it, until `gwfilter resume`
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    span: Option<Duration>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Arguments of `gwfilter resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A moment that is over.
const PAST: u64 = 1;

/// Turns enforcement on this node into counting.
///
/// # Errors
/// Nothing is pinned here, the map cannot be written, or `out` cannot be.
pub fn pause(args: &PauseArgs, out: &mut impl Write) -> anyhow::Result<()> {
    if args.span == Some(Duration::ZERO) {
        bail!("--for: a pause of no length; `gwfilter resume` ends one");
    }
    write_all(moment(now_ns(), args.span)).context("enforcement cannot be paused")?;
    let text = paused(args.output, args.span);
    written(writeln!(out, "{text}")).map(|_| ())
}

/// Ends a pause.
///
/// # Errors
/// As [`pause`].
pub fn resume(args: &ResumeArgs, out: &mut impl Write) -> anyhow::Result<()> {
    // Not 0: the next agent must know that what was refused was let in.
    let was = write_all(PAST).context("enforcement cannot be resumed")?;
    let text = resumed(args.output, was);
    written(writeln!(out, "{text}")).map(|_| ())
}

/// What `pause` says when it is done.
fn paused(output: Output, span: Option<Duration>) -> String {
    let seconds = span.map(|span| span.as_secs());
    match (output, seconds) {
        (Output::Json, _) => serde_json::json!({"paused": true, "seconds": seconds}).to_string(),
        (Output::Text, Some(seconds)) => format!(
            "paused for {seconds}s: what is refused is counted and passes; `gwfilter resume` ends it before"
        ),
        (Output::Text, None) => {
            "paused: what is refused is counted and passes, until `gwfilter resume`".to_owned()
        }
    }
}

/// What `resume` says when it is done; `was`: there was a pause.
fn resumed(output: Output, was: bool) -> String {
    match (output, was) {
        (Output::Json, _) => serde_json::json!({"paused": false, "was_paused": was}).to_string(),
        (Output::Text, true) => "resumed: what is refused is dropped again".to_owned(),
        (Output::Text, false) => "it was not paused; what is refused is dropped".to_owned(),
    }
}

/// Writes the end of the pause; says whether there was one.
fn write_all(until: u64) -> anyhow::Result<bool> {
    let paths = pins::controls().context("the pins cannot be read; root, who made them, can")?;
    if paths.is_empty() {
        if !pins::mounted() {
            bail!(
                "there is no bpffs at {BPFFS} to be seen from here; `ip netns exec` hides it, `nsenter --net=…` does not"
            );
        }
        bail!(
            "nothing is pinned for this network namespace: gwfilter enforces nothing here (`gwfilter status`)"
        );
    }
    let mut was = false;
    for path in paths {
        let mut control = Control::open(&path).context("root, or CAP_BPF, is needed")?;
        was |= Span::of(now_ns(), control.words()?.paused) != Span::Over;
        control.pause(until)?;
    }
    Ok(was)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_and_resume_then_what_they_say() {
        let hour = Some(Duration::from_secs(3600));
        let mut said = Vec::new();
        for output in [Output::Text, Output::Json] {
            said.extend([paused(output, hour), paused(output, None)]);
            said.extend([resumed(output, true), resumed(output, false)]);
        }
        insta::assert_snapshot!(said.join("\n"), @r#"
        paused for 3600s: what is refused is counted and passes; `gwfilter resume` ends it before
        paused: what is refused is counted and passes, until `gwfilter resume`
        resumed: what is refused is dropped again
        it was not paused; what is refused is dropped
        {"paused":true,"seconds":3600}
        {"paused":true,"seconds":null}
        {"paused":false,"was_paused":true}
        {"paused":false,"was_paused":false}
        "#);
    }
}
