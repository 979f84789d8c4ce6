//! A report for people.

use std::io::{self, Write};

use super::{Certainty, Diagnosis, Finding, Report, Traffic, Verdict};

/// Writes it.
///
/// # Errors
/// `out` cannot be written.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
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
        one(gateway, out)?;
        writeln!(out)?;
    }
    let wrong = report
        .gateways
        .iter()
        .filter(|g| g.verdict == Verdict::Contradiction)
        .count();
    match (report.gateways.len(), wrong) {
        (0, _) => writeln!(out, "no gateway on this node: there is nothing to examine")?,
        (_, 0) => writeln!(out, "nothing to mend was found")?,
        (1, _) => writeln!(out, "1 gateway, to be mended")?,
        (n, wrong) => writeln!(out, "{n} gateways, {wrong} to be mended")?,
    }
    out.flush()
}

fn one(gateway: &Diagnosis, out: &mut impl Write) -> io::Result<()> {
    let state = match gateway.verdict {
        Verdict::Agree | Verdict::Note => "the client address is right",
        Verdict::NotEnough => "not enough seen to say",
        Verdict::Unknown => "not known",
        Verdict::Contradiction => "the client address is WRONG",
    };
    writeln!(out, "gateway {} - {state}", gateway.name)?;
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
        one_finding(finding, out)?;
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

fn one_finding(finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let mark = match finding.verdict {
        Verdict::Agree => "ok",
        Verdict::Note => "note",
        Verdict::NotEnough | Verdict::Unknown => "?",
        Verdict::Contradiction => "!",
    };
    let likely = match (finding.verdict, finding.certainty) {
        (Verdict::Contradiction, Certainty::Likely) => "likely: ",
        _ => "",
    };
    writeln!(out, "  {mark} {likely}{} [{}]", finding.what, finding.code)?;
    for line in &finding.evidence {
        writeln!(out, "      seen: {line}")?;
    }
    for line in &finding.follows {
        writeln!(out, "      so: {line}")?;
    }
    let several = finding.mends.len() > 1;
    for (number, mend) in finding.mends.iter().enumerate() {
        let word = match (several, finding.all_mends, number) {
            (false, ..) => "mend",
            (true, true, 0) => "mend, first",
            (true, true, _) => "then",
            (true, false, 0) => "mend, either",
            (true, false, _) => "or",
        };
        writeln!(out, "      {word}: {}", mend.what)?;
        if let Some(command) = &mend.command {
            writeln!(out, "        {command}")?;
        }
        for line in mend.yaml.iter().flat_map(|yaml| yaml.lines()) {
            writeln!(out, "        {line}")?;
        }
    }
    Ok(())
}
