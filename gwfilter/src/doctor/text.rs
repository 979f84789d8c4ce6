//! A report for people.

use std::io::{self, Write};

use super::{Certainty, Diagnosis, Finding, Report, Traffic, Verdict, Way};
use crate::palette::{Painted, Palette};

/// Writes it.
///
/// # Errors
/// `out` cannot be written.
pub fn write(report: &Report, p: Palette, out: &mut impl Write) -> io::Result<()> {
    if let Some(observed) = &report.observed {
        writeln!(
            out,
            "looked at new connections for {} s on {}{}",
            observed.seconds,
            observed.interfaces.join(", "),
            if observed.over_budget + observed.lost > 0 {
                format!(
                    " ({} beyond what is looked at in a second, {} lost)",
                    observed.over_budget, observed.lost
                )
            } else {
                String::new()
            }
        )?;
        writeln!(out)?;
    }
    for gateway in &report.gateways {
        one(gateway, p, out)?;
        writeln!(out)?;
    }
    writeln!(out, "{}", footer(report))?;
    out.flush()
}

/// The last line: what it all comes to.
#[must_use]
pub fn footer(report: &Report) -> String {
    let of = |verdict| report.gateways.iter().filter(|g| g.verdict == verdict).count();
    let all = report.gateways.len();
    match (all, of(Verdict::Contradiction)) {
        (0, _) => return "no gateway on this node: there is nothing to examine".to_owned(),
        (_, 0) => {}
        (1, _) => return "1 gateway, to be mended".to_owned(),
        (n, wrong) => return format!("{n} gateways, {wrong} to be mended"),
    }
    let (little, unknown) = (of(Verdict::NotEnough), of(Verdict::Unknown));
    let findings = report.gateways.iter().flat_map(|g| &g.findings);
    let notes = findings.filter(|f| f.verdict == Verdict::Note).count();
    let mut parts = Vec::new();
    if little + unknown < all {
        parts.push("nothing to mend was found".to_owned());
    }
    if notes > 0 {
        parts.push(format!("{} to read", counted(notes, "note")));
    }
    if little > 0 {
        let why = if report.observed.is_some() {
            "too little was seen"
        } else {
            "no traffic was looked at"
        };
        parts.push(format!("no answer: {why} of {}", counted(little, "gateway")));
    }
    if unknown > 0 {
        parts.push(format!(
            "no answer: what {} {} set to is not known",
            counted(unknown, "gateway"),
            if unknown == 1 { "is" } else { "are" }
        ));
    }
    parts.join("; ")
}

/// What a gateway comes to, in a few words.
#[must_use]
pub fn headline(gateway: &Diagnosis, p: Palette) -> Painted<&'static str> {
    painted(gateway.verdict, words(gateway), p)
}

/// In the colour of what it means.
fn painted(verdict: Verdict, what: &str, p: Palette) -> Painted<&str> {
    match verdict {
        Verdict::Agree => p.good(what),
        Verdict::Note | Verdict::NotEnough | Verdict::Unknown => p.warn(what),
        Verdict::Contradiction => p.bad(what),
    }
}

fn words(gateway: &Diagnosis) -> &'static str {
    let mut wrong = gateway
        .findings
        .iter()
        .filter(|f| f.verdict == Verdict::Contradiction);
    match gateway.verdict {
        Verdict::Agree => "the client address is right",
        Verdict::Note => "nothing contradicts; read the note",
        Verdict::NotEnough => "not enough seen to say",
        Verdict::Unknown => "not known",
        Verdict::Contradiction if wrong.any(|f| f.certainty == Certainty::Certain) => {
            "the client address is WRONG"
        }
        Verdict::Contradiction => "the client address is PROBABLY wrong",
    }
}

fn one(gateway: &Diagnosis, p: Palette, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "gateway {} - {}",
        p.strong(&gateway.name),
        headline(gateway, p)
    )?;
    let header = match gateway.gateway.reads_proxy_header.as_ref() {
        "yes" => "expects a PROXY header",
        "no" => "expects no PROXY header",
        _ => "whether it expects a PROXY header is not known",
    };
    let proxies = match gateway.gateway.trusted_proxies {
        Some(n) => format!("numTrustedProxies {n}"),
        None => "numTrustedProxies not known".to_owned(),
    };
    writeln!(out, "  the gateway: {header}, {proxies}")?;
    for sign in &gateway.gateway.set_by {
        writeln!(out, "    because {sign}")?;
    }
    let node = &gateway.node;
    let policy = node
        .external_traffic_policy
        .as_deref()
        .map(|policy| format!("; externalTrafficPolicy {policy}"))
        .unwrap_or_default();
    writeln!(
        out,
        "  this node:   client address from {}; {} judged, {} not{policy}",
        node.client_address,
        counted(node.judged.len(), "destination"),
        node.rewritten.len()
    )?;
    if let Some(traffic) = &gateway.traffic {
        writeln!(out, "  traffic:     {}", traffic_line(traffic))?;
    }
    for finding in &gateway.findings {
        self::finding(finding, p, out)?;
    }
    Ok(())
}

fn traffic_line(traffic: &Traffic) -> String {
    let kinds = [
        (traffic.proxy_v1, "PROXY v1"),
        (traffic.proxy_v2, "PROXY v2"),
        (traffic.tls, "TLS"),
        (traffic.http, "plain HTTP"),
        (traffic.other, "other"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let begins = if kinds.is_empty() {
        String::new()
    } else {
        format!(": {}", kinds.join(", "))
    };
    let refused = if traffic.refused > 0 {
        format!("; {} packets refused by gwfilter", traffic.refused)
    } else {
        String::new()
    };
    format!(
        "{} new connections, {} with data from {}{begins}{refused}",
        traffic.connections,
        traffic.streams,
        counted(traffic.distinct_sources, "source")
    )
}

/// A number of things.
fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Agree => "ok",
        Verdict::Note => "note",
        Verdict::NotEnough | Verdict::Unknown => "?",
        Verdict::Contradiction => "!",
    }
}

/// Writes one finding of a gateway, indented below its headline.
///
/// # Errors
/// `out` cannot be written.
pub fn finding(finding: &Finding, p: Palette, out: &mut impl Write) -> io::Result<()> {
    let mark = painted(finding.verdict, mark(finding.verdict), p);
    let likely = match (finding.verdict, finding.certainty) {
        (Verdict::Contradiction, Certainty::Likely) => "likely: ",
        _ => "",
    };
    writeln!(
        out,
        "  {mark} {likely}{} {}",
        finding.what,
        p.dim(format_args!("[{}]", finding.code))
    )?;
    for line in &finding.evidence {
        writeln!(out, "      seen: {line}")?;
    }
    for line in &finding.follows {
        writeln!(out, "      so: {line}")?;
    }
    let several = finding.mends.len() > 1;
    for (number, way) in finding.mends.iter().enumerate() {
        let word = match (several, number) {
            (false, _) => "mend",
            (true, 0) => "mend, either",
            (true, _) => "or",
        };
        one_way(way, word, p, out)?;
    }
    Ok(())
}

fn one_way(way: &Way, word: &str, p: Palette, out: &mut impl Write) -> io::Result<()> {
    let alone = way.steps.len() == 1;
    if let Some(when) = &way.when {
        writeln!(out, "      {word}: {when}{}", if alone { "" } else { ":" })?;
    }
    for (number, step) in way.steps.iter().enumerate() {
        let line = match (&way.when, number) {
            (None, 0) if alone => format!("      {word}: "),
            (None, 0) => format!("      {word}, first: "),
            (None, _) => "      then: ".to_owned(),
            (Some(_), _) if alone => "        ".to_owned(),
            (Some(_), 0) => "        first: ".to_owned(),
            (Some(_), _) => "        then: ".to_owned(),
        };
        writeln!(out, "{line}{}", step.what)?;
        let indent = if way.when.is_some() {
            "          "
        } else {
            "        "
        };
        if let Some(command) = &step.command {
            writeln!(out, "{indent}{}", p.strong(command))?;
        }
        for line in step.yaml.iter().flat_map(|yaml| yaml.lines()) {
            writeln!(out, "{indent}{line}")?;
        }
    }
    Ok(())
}
