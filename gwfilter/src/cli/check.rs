//! `gwfilter check`: what would be enforced here, what is left to the gateway, and why.

use std::fmt;
use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use super::Output;
use super::manifests::Manifests;
use super::progress::Progress;
use crate::code;
use crate::diagnostic::{self, Diagnostic, Severity};
use crate::explain::{Explainer, Verified};
use crate::gateway::model::{ClientAddress, Gateway, Protocol};
use crate::palette::Palette;
use crate::pipeline::Built;
use crate::report::{EnforcedAt, GatewayReport, PolicyReport};

/// Arguments of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifests: Manifests,
    /// The form of the report
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the verb. The exit code is 0, or 1 if a diagnostic is an error.
///
/// # Errors
/// Input that cannot be used at all, a generation that does not fit the maps, or tables and evaluator that differ: the
/// caller prints the chain and exits with 2.
pub fn run(args: &Args, palette: Palette, out: &mut impl Write) -> anyhow::Result<u8> {
    let progress = Progress::new("reading the manifests and asking the tables", None);
    let explainer =
        Explainer::new(args.manifests.build()?).context("the manifests ask for more than a node can hold")?;
    let verified = explainer.verify_boundaries()?;
    drop(progress);
    let built = explainer.built();
    let print = match args.output {
        Output::Text => text(built, verified, palette, out),
        Output::Json => json(built, out),
    };
    super::written(print)?;
    Ok(u8::from(
        built.diagnostics.iter().any(|d| d.severity == Severity::Error),
    ))
}

#[derive(Serialize)]
struct Report<'a> {
    gateways: &'a [GatewayReport],
    not_given: &'a [&'static str],
    diagnostics: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    severity: &'static str,
    code: &'static str,
    object: String,
    message: &'a str,
}

fn json(built: &Built, out: &mut impl Write) -> io::Result<()> {
    let finding = |d: &'_ Diagnostic| (d.severity.name(), d.code, d.object.to_string());
    let diagnostics = built
        .diagnostics
        .iter()
        .map(|d| {
            let (severity, code, object) = finding(d);
            Finding {
                severity,
                code,
                object,
                message: &d.message,
            }
        })
        .collect();
    serde_json::to_writer_pretty(
        &mut *out,
        &Report {
            gateways: &built.reports,
            not_given: &built.not_given,
            diagnostics,
        },
    )?;
    writeln!(out)?;
    out.flush()
}

fn text(built: &Built, verified: Verified, p: Palette, out: &mut impl Write) -> io::Result<()> {
    for (gateway, report) in built.gateways.iter().zip(&built.reports) {
        one_gateway(gateway, report, p, out)?;
        writeln!(out)?;
    }
    let enforced = built.reports.iter().filter(|r| r.enforced && r.refuses).count();
    let idle = built.reports.iter().filter(|r| r.enforced && !r.refuses).count();
    match built.reports.len() {
        0 => writeln!(
            out,
            "no gateway on this node: nothing is judged, every packet passes untouched"
        )?,
        n => {
            let of = match (n, enforced, idle) {
                (1, 1, _) => "1 gateway, would be enforced".to_owned(),
                (1, _, 1) => "1 gateway, nothing to drop".to_owned(),
                (1, ..) => "1 gateway, not enforced".to_owned(),
                (_, _, 0) => format!("{n} gateways, {enforced} would be enforced"),
                _ => format!("{n} gateways, {enforced} would be enforced, {idle} with nothing to drop"),
            };
            // No node was asked.
            writeln!(
                out,
                "{of} (from these files; what a node does now: `gwfilter status`)"
            )?;
        }
    }
    if verified.addresses > 0 {
        let how = if verified.sampled { " (a sample)" } else { "" };
        writeln!(
            out,
            "self-check passed: tables and rules agree for {} addresses{how}",
            verified.addresses
        )?;
    }
    if !built.not_given.is_empty() {
        let what = built.not_given.join(", ");
        writeln!(out, "{}: {what}", p.warn("not given, so taken as not there"))?;
    }
    for severity in [Severity::Error, Severity::Warning, Severity::Info] {
        let found: Vec<&Diagnostic> = built
            .diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .collect();
        if found.is_empty() {
            continue;
        }
        writeln!(out)?;
        for d in found {
            let name = match severity {
                Severity::Error => p.bad(severity.name()),
                Severity::Warning => p.warn(severity.name()),
                Severity::Info => p.strong(severity.name()),
            };
            let code = format!("[{}]", d.code);
            writeln!(out, "{name}: {} {}", d.object, p.dim(code))?;
            told(out, format_args!("    "), "      ", &d.message)?;
        }
    }
    out.flush()
}

fn one_gateway(
    gateway: &Gateway,
    report: &GatewayReport,
    p: Palette,
    out: &mut impl Write,
) -> io::Result<()> {
    let state = if report.enforced && report.policies.is_empty() {
        p.dim("nothing to drop: no policy applies")
    } else if report.enforced && !report.refuses {
        p.dim("nothing to drop: no rule refuses anybody by what the node sees")
    } else if report.enforced && !report.why.iter().any(|why| code::leaves_out(why)) {
        p.good("would be enforced")
    } else if report.enforced {
        p.warn("would be enforced in part")
    } else if gateway.not_enforced.is_none() && gateway.observe.is_some() {
        p.warn("observed only: nothing is dropped")
    } else {
        p.bad("NOT enforced: nothing is dropped")
    };
    writeln!(out, "gateway {} - {state}", p.strong(&report.name))?;
    for why in &report.why {
        told(out, format_args!("  {} ", p.warn("!")), "      ", why)?;
    }
    let agree = match (gateway.client_address, gateway.rewritten.is_empty()) {
        (ClientAddress::PacketSource, true) => {
            " (this node and the gateway see the same: the packet's source)"
        }
        (ClientAddress::PacketSource, false) => {
            " (this node and the gateway see the same at the destinations below, and not at those with externalTrafficPolicy Cluster)"
        }
        _ => "",
    };
    writeln!(out, "  client address: {}{agree}", report.client_address)?;
    writeln!(out, "  destinations:")?;
    for listener in &gateway.listeners {
        let ports: std::collections::BTreeSet<u16> = listener.receivers.iter().map(|r| r.port).collect();
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        for tuple in &listener.tuples {
            let left = match tuple.key.protocol {
                Protocol::Tcp if listener.without_rbac() => ": left to the gateway",
                Protocol::Tcp => "",
                Protocol::Udp => ": counted, never dropped",
            };
            writeln!(
                out,
                "    {} ({}, listener {}, gateway port {ports}){left}",
                tuple.key, tuple.origin, listener.name
            )?;
        }
    }
    if report.tuples.is_empty() {
        writeln!(out, "    none on this node")?;
    }
    if report.policies.is_empty() {
        writeln!(out, "  policies: none applies")?;
    }
    for policy in &report.policies {
        one_policy(policy, p, out)?;
    }
    let figures = &report.prefixes;
    if figures.written + figures.table > 0 {
        writeln!(
            out,
            "  prefixes: {} written in rules, {} in the tables after merging",
            figures.written, figures.table
        )?;
    }
    Ok(())
}

fn one_policy(policy: &PolicyReport, p: Palette, out: &mut impl Write) -> io::Result<()> {
    let dry = if policy.dry_run {
        ", dry-run: counts for nothing"
    } else {
        ""
    };
    writeln!(
        out,
        "  policy {} ({}{dry})",
        p.strong(&policy.name),
        policy.action
    )?;
    if policy.rules.is_empty() {
        writeln!(out, "    no rules")?;
    }
    for rule in &policy.rules {
        let at = match rule.enforced_at {
            EnforcedAt::Node => p.good("at the node:"),
            EnforcedAt::Gateway => p.warn("at the gateway:"),
            EnforcedAt::Both => p.warn("at both:"),
        };
        writeln!(out, "    {at:<16}{}", rule.id)?;
        for why in &rule.why {
            told(out, format_args!("            - "), "                ", why)?;
        }
    }
    Ok(())
}

/// A reason, and each way to mend it in a line of its own.
fn told(out: &mut impl Write, first: fmt::Arguments<'_>, further: &str, text: &str) -> io::Result<()> {
    for (number, line) in diagnostic::lines(text).iter().enumerate() {
        match number {
            0 => writeln!(out, "{first}{line}")?,
            _ => writeln!(out, "{further}{line}")?,
        }
    }
    Ok(())
}
