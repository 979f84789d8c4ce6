//! `gwfilter monitor`: verdicts as they fall, a few of all of them.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::bail;
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::{Output, address, duration, written};
use crate::client::{Agent, ClientError, block_on};
use crate::palette::Palette;
use crate::samples::filter::{self, Filter};
use crate::samples::{Line, Loss, Message, Verdict};

/// Arguments of `gwfilter monitor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these verdicts: pass, drop or would-drop; may be repeated
    #[arg(long, value_name = "VERDICT")]
    verdict: Vec<Verdict>,
    /// Only packets from here, or with a client from here in their PROXY header
    #[arg(long, value_name = "CIDR", value_parser = address::network)]
    source: Option<IpNet>,
    /// Only this gateway, as `gwfilter status` names it
    #[arg(long, value_name = "NS/NAME")]
    gateway: Option<String>,
    /// Only what this policy rule decided
    #[arg(long, value_name = "ID")]
    policy: Option<String>,
    /// Samples a second, at most
    #[arg(long, value_name = "N", value_parser = filter::rate, default_value_t = filter::RATE)]
    rate: u32,
    /// End after so long; without it, with Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    span: Option<Duration>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    fn filter(&self) -> Filter {
        Filter {
            verdicts: self.verdict.iter().copied().collect(),
            source: self.source,
            gateway: self.gateway.clone(),
            policy: self.policy.clone(),
            rate: self.rate,
        }
    }
}

/// Shows verdicts until Ctrl-C, the end of `--for`, or nobody reads any more.
///
/// # Errors
/// No agent runs here, or it ends, or `out` cannot be written.
pub fn run(args: &Args, palette: Palette, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<()> {
    let mut seen = Seen::default();
    let ended = block_on(watch(args, palette, &mut seen, out, err))?;
    let _ = writeln!(err, "{}", seen.summary());
    if let Ended::ByAgent = ended {
        bail!(
            "the agent ended while it was watched: what it left in force is in `gwfilter status`; `gwfilter run` starts another one"
        );
    }
    Ok(())
}

enum Ended {
    ByUser,
    ByAgent,
}

async fn watch(
    args: &Args,
    palette: Palette,
    seen: &mut Seen,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<Ended> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let until = args.span.and_then(|span| Instant::now().checked_add(span));
    let end = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let agent = Agent::here();
    let target = args.filter().target();
    let mut lines = tokio::select! {
        lines = agent.lines(&target) => lines?,
        _ = interrupt.recv() => return Ok(Ended::ByUser),
        _ = terminate.recv() => return Ok(Ended::ByUser),
    };
    let rate = args.rate;
    let _ = writeln!(
        err,
        "watching verdicts, up to {rate} a second (--rate); Ctrl-C ends"
    );
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            _ = interrupt.recv() => return Ok(Ended::ByUser),
            _ = terminate.recv() => return Ok(Ended::ByUser),
            () = &mut end => return Ok(Ended::ByUser),
        };
        let text = match line {
            Ok(Some(text)) => text,
            Ok(None) | Err(ClientError::Closed { .. }) => return Ok(Ended::ByAgent),
            Err(e) => return Err(e.into()),
        };
        let Ok(message) = serde_json::from_str::<Message>(&text) else {
            bail!(
                "the agent tells what this command does not understand: it is of another version of gwfilter"
            );
        };
        seen.add(&message);
        let print = match (args.output, &message) {
            (Output::Json, _) => writeln!(out, "{text}").and_then(|()| out.flush()),
            (Output::Text, Message::Sample(line)) => show(line, palette, out).and_then(|()| out.flush()),
            (Output::Text, _) => Ok(()),
        };
        if !written(print)? {
            return Ok(Ended::ByUser);
        }
        // For people, whatever programs read.
        match message {
            Message::Sample(_) => {}
            Message::Loss(loss) => drop(writeln!(err, "{}", told(loss))),
            Message::Notice(notice) => drop(writeln!(err, "note: {}", notice.notice)),
        }
    }
}

/// One line for people.
fn show(line: &Line, p: Palette, out: &mut impl Write) -> io::Result<()> {
    // `2026-11-26T12:00:00.123Z`: the date is today's.
    let time = line.time.get(11..23).unwrap_or(&line.time);
    let verdict = match line.verdict {
        Verdict::Pass => format!("{:<10}", p.good(line.verdict)),
        Verdict::Drop => format!("{:<10}", p.bad(line.verdict)),
        Verdict::WouldDrop => format!("{:<10}", p.warn(line.verdict)),
    };
    write!(
        out,
        "{time} {verdict} {:<16} {} -> {}/{}",
        line.reason, line.source, line.dest, line.protocol
    )?;
    if let Some(client) = line.client {
        write!(out, " client {}", p.strong(client))?;
    }
    write!(
        out,
        "  {}",
        line.gateway.as_deref().unwrap_or("(gateway not known)")
    )?;
    if let Some(policy) = &line.policy {
        write!(out, " {}", p.strong(policy))?;
    }
    write!(
        out,
        " {}",
        p.dim(format_args!("{}@{}", line.hook, line.interface))
    )?;
    if line.weight > 1 {
        write!(out, " {}", p.dim(format_args!("(for {})", line.weight)))?;
    }
    writeln!(out)
}

/// What was not seen, for people.
fn told(loss: Loss) -> String {
    let mut told = Vec::new();
    if loss.unsampled > 0 {
        told.push(format!(
            "{} more verdicts fell meanwhile than are shown; lines stand for them (for N)",
            loss.unsampled
        ));
    }
    if loss.lost > 0 {
        told.push(format!(
            "{} samples were lost: they came faster than they are read; ask for fewer (--rate), or for less (--verdict, --source)",
            loss.lost
        ));
    }
    format!("note: {}", told.join("; "))
}

/// What was shown, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    shown: u64,
    verdicts: u64,
    lost: u64,
}

impl Seen {
    fn add(&mut self, message: &Message) {
        match message {
            Message::Sample(line) => {
                self.shown = self.shown.saturating_add(1);
                self.verdicts = self.verdicts.saturating_add(line.weight);
            }
            Message::Loss(loss) => self.lost = self.lost.saturating_add(loss.lost),
            Message::Notice(_) => {}
        }
    }

    fn summary(self) -> String {
        let Self {
            shown,
            verdicts,
            lost,
        } = self;
        if shown == 0 && lost == 0 {
            return "no verdict was seen: no packet to a gateway came in meanwhile, or none that the filters let through; `gwfilter status` tells \
                    what is judged here"
                .to_owned();
        }
        let mut text = if verdicts <= shown {
            match shown {
                1 => "1 verdict shown: all there was".to_owned(),
                _ => format!("{shown} verdicts shown: all there were"),
            }
        } else {
            let percent = shown.saturating_mul(100) / verdicts.max(1);
            match percent {
                0 => format!(
                    "{shown} of about {verdicts} verdicts shown, 1 in {}",
                    verdicts / shown.max(1)
                ),
                _ => format!("{shown} of about {verdicts} verdicts shown, {percent} %"),
            }
        };
        if lost > 0 {
            text.push_str(&format!("; {lost} samples were lost"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn line() -> Line {
        Line {
            time: "2026-11-26T12:00:00.123Z".to_owned(),
            interface: "eth0".to_owned(),
            hook: "xdp".to_owned(),
            verdict: Verdict::Drop,
            reason: "denied-by-rule".to_owned(),
            gateway: Some("istio-system/istio-ingressgateway".to_owned()),
            policy: Some("ns[istio-system]-policy[deny]-rule[0]".to_owned()),
            protocol: "tcp".to_owned(),
            source: "198.51.100.20:40000".parse().unwrap(),
            dest: "203.0.113.9:443".parse().unwrap(),
            client: None,
            weight: 1,
        }
    }

    fn shown(lines: &[Line], palette: Palette) -> String {
        let mut out = Vec::new();
        for line in lines {
            show(line, palette, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn verdicts_then_a_compact_line_each() {
        let lines = [
            line(),
            Line {
                verdict: Verdict::Pass,
                reason: "allowed".to_owned(),
                policy: None,
                source: "[2001:db8:51::20]:40001".parse().unwrap(),
                dest: "[2001:db8:113::9]:443".parse().unwrap(),
                weight: 52,
                ..line()
            },
            Line {
                verdict: Verdict::WouldDrop,
                reason: "paused".to_owned(),
                hook: "tc".to_owned(),
                source: "10.0.0.5:33000".parse().unwrap(),
                client: Some("198.51.100.20:40000".parse().unwrap()),
                ..line()
            },
            Line {
                verdict: Verdict::Pass,
                gateway: None,
                policy: None,
                reason: "left-to-gateway".to_owned(),
                protocol: "udp".to_owned(),
                ..line()
            },
        ];
        assert_snapshot!(shown(&lines, Palette::PLAIN), @r"
        12:00:00.123 drop       denied-by-rule   198.51.100.20:40000 -> 203.0.113.9:443/tcp  istio-system/istio-ingressgateway ns[istio-system]-policy[deny]-rule[0] xdp@eth0
        12:00:00.123 pass       allowed          [2001:db8:51::20]:40001 -> [2001:db8:113::9]:443/tcp  istio-system/istio-ingressgateway xdp@eth0 (for 52)
        12:00:00.123 would-drop paused           10.0.0.5:33000 -> 203.0.113.9:443/tcp client 198.51.100.20:40000  istio-system/istio-ingressgateway ns[istio-system]-policy[deny]-rule[0] tc@eth0
        12:00:00.123 pass       left-to-gateway  198.51.100.20:40000 -> 203.0.113.9:443/udp  (gateway not known) xdp@eth0
        ");
        let coloured = shown(&lines, Palette::COLOURED);
        assert!(
            coloured.contains("\u{1b}[31mdrop      \u{1b}[0m"),
            "as wide as without: {coloured:?}"
        );
    }

    #[test]
    fn what_was_not_seen_then_said_when_it_happens_and_at_the_end() {
        let (lost, thinned) = (
            Loss {
                lost: 12,
                unsampled: 0,
            },
            Loss {
                lost: 0,
                unsampled: 5100,
            },
        );
        assert_snapshot!(told(thinned), @"note: 5100 more verdicts fell meanwhile than are shown; lines stand for them (for N)");
        assert_snapshot!(told(lost), @"note: 12 samples were lost: they came faster than they are read; ask for fewer (--rate), or for less (--verdict, --source)");
        let mut seen = Seen::default();
        assert_snapshot!(seen.summary(), @"no verdict was seen: no packet to a gateway came in meanwhile, or none that the filters let through; `gwfilter status` tells what is judged here");
        seen.add(&Message::Sample(Box::new(line())));
        assert_snapshot!(seen.summary(), @"1 verdict shown: all there was");
        for _ in 0..99 {
            seen.add(&Message::Sample(Box::new(Line { weight: 52, ..line() })));
        }
        seen.add(&Message::Loss(thinned));
        assert_snapshot!(seen.summary(), @"100 of about 5149 verdicts shown, 1 %");
        seen.add(&Message::Loss(lost));
        assert_snapshot!(seen.summary(), @"100 of about 5149 verdicts shown, 1 %; 12 samples were lost");
        let seen = Seen {
            shown: 1000,
            verdicts: 1_000_000,
            lost: 0,
        };
        assert_snapshot!(seen.summary(), @"1000 of about 1000000 verdicts shown, 1 in 1000");
    }
}
