//! `gwfilter pause` and `gwfilter resume`: one write to the pinned map, whether an agent runs or not.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Output, duration, written};
use crate::control::{Span, moment};
use crate::dataplane::control::{Control, now_ns};
use crate::dataplane::pins::{self, BPFFS};
use crate::status;

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
            "paused for {}: nothing is dropped on this node; what would have been is counted (would-drop) and goes to the gateway; `gwfilter resume` ends it earlier",
            status::span(seconds)
        ),
        (Output::Text, None) => {
            "paused until `gwfilter resume`: nothing is dropped on this node; what would have been is counted (would-drop) and goes to the gateway"
                .to_owned()
        }
    }
}

/// What `resume` says when it is done; `was`: there was a pause.
fn resumed(output: Output, was: bool) -> String {
    match (output, was) {
        (Output::Json, _) => serde_json::json!({"paused": false, "was_paused": was}).to_string(),
        (Output::Text, true) => "the pause is over; connections made meanwhile are spared for the drain window. What this node drops now: `gwfilter status`".to_owned(),
        (Output::Text, false) => "it was not paused; nothing changed. What this node drops now: `gwfilter status`".to_owned(),
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
        paused for 60m: nothing is dropped on this node; what would have been is counted (would-drop) and goes to the gateway; `gwfilter resume` ends it earlier
        paused until `gwfilter resume`: nothing is dropped on this node; what would have been is counted (would-drop) and goes to the gateway
        the pause is over; connections made meanwhile are spared for the drain window. What this node drops now: `gwfilter status`
        it was not paused; nothing changed. What this node drops now: `gwfilter status`
        {"paused":true,"seconds":3600}
        {"paused":true,"seconds":null}
        {"paused":false,"was_paused":true}
        {"paused":false,"was_paused":false}
        "#);
    }
}
