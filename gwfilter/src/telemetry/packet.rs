//! The packet log: the kernel side's lines (`gwfilter_common::logline`) taken apart and told to people.
//!
//! In text form a line has the order of Envoy's rbac debug line (`source/extensions/filters/http/rbac/rbac_filter.cc`), so that the
//! pipelines of Istio's documentation find the client address in it:
//! `grep remoteIP | tail -1 | awk -F, '{print $3}' | awk -F: '{print $2}' | sed 's/ //'`. No comma may stand before `sourceIP`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use gwfilter_common::logline::{
    FIELDS, HOOK_TC, HOOK_XDP, PREFIX, VERDICT_DROPPED, VERDICT_PASSED, VERDICT_WOULD_DROP,
};
use gwfilter_common::reason::Reason;
use tracing::info;

use super::LogFormat;
use crate::plan::Names;

/// Lines kept between two readings; more than the kernel side writes in a second.
const MAX_LINES: usize = 65_536;

/// What aya-log writes to: keeps the lines until somebody takes them.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Sink {
    /// The lines since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MAX_LINES {
            lines.push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// What happened to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Dropped,
    WouldDrop,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Passed => "pass",
            Self::Dropped => "drop",
            Self::WouldDrop => "would-drop",
        }
    }
}

/// A line of the kernel side, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    hook: &'static str,
    ifindex: u32,
    verdict: Verdict,
    reason: Reason,
    listener: u32,
    rule: u32,
    protocol: &'static str,
    source: SocketAddr,
    destination: SocketAddr,
    /// Of the PROXY header that was judged.
    client: Option<SocketAddr>,
}

/// Takes a line apart; `None` if it is not one of ours.
#[must_use]
pub fn parse(line: &str) -> Option<Packet> {
    let mut words = line.strip_prefix(PREFIX)?.split(' ');
    let mut values = [""; FIELDS.len()];
    for (value, name) in values.iter_mut().zip(FIELDS) {
        *value = words.next()?.strip_prefix(name)?.strip_prefix('=')?;
    }
    if words.next().is_some() {
        return None;
    }
    let [
        hook,
        ifindex,
        verdict,
        reason,
        listener,
        rule,
        protocol,
        source,
        sport,
        destination,
        dport,
        client_family,
        client,
        client_port,
    ] = values;
    let address =
        |ip: &str, port: &str| Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.parse().ok()?));
    let client = match client_family {
        "0" => None,
        "4" => {
            let [a, b, c, d, ..] = client.parse::<Ipv6Addr>().ok()?.octets();
            Some(SocketAddr::new([a, b, c, d].into(), client_port.parse().ok()?))
        }
        "6" => Some(SocketAddr::new(
            client.parse::<Ipv6Addr>().ok()?.into(),
            client_port.parse().ok()?,
        )),
        _ => return None,
    };
    Some(Packet {
        hook: match hook.parse().ok()? {
            HOOK_XDP => "xdp",
            HOOK_TC => "tc",
            _ => return None,
        },
        ifindex: ifindex.parse().ok()?,
        verdict: match verdict.parse().ok()? {
            VERDICT_PASSED => Verdict::Passed,
            VERDICT_DROPPED => Verdict::Dropped,
            VERDICT_WOULD_DROP => Verdict::WouldDrop,
            _ => return None,
        },
        reason: Reason::from_code(reason.parse().ok()?)?,
        listener: listener.parse().ok()?,
        rule: rule.parse().ok()?,
        protocol: match protocol {
            "6" => "tcp",
            "17" => "udp",
            _ => return None,
        },
        source: address(source, sport)?,
        destination: address(destination, dport)?,
        client,
    })
}

/// Writes one line of the kernel side to the log. What cannot be taken apart is shown as it is.
pub fn log(line: &str, names: &Names, interface: impl Fn(u32) -> String, format: LogFormat) {
    let Some(packet) = parse(line) else {
        info!(line, "packet log line of unknown form");
        return;
    };
    let interface = interface(packet.ifindex);
    let gateway = names.listeners.get(&packet.listener).map_or("", |n| &*n.gateway);
    let policy = names.rules.get(&packet.rule).map_or("", |n| &**n);
    match format {
        LogFormat::Text => info!("{}", packet.text(&interface, gateway, policy)),
        LogFormat::Json => info!(
            source = %packet.source,
            client = %packet.remote().ip(),
            destination = %packet.destination,
            protocol = packet.protocol,
            interface,
            hook = packet.hook,
            gateway,
            verdict = packet.verdict.name(),
            reason = packet.reason.name(),
            policy,
            "packet"
        ),
    }
}

impl Packet {
    /// Envoy's `remoteIP`: the client of the PROXY header, where one was judged.
    fn remote(&self) -> SocketAddr {
        self.client.unwrap_or(self.source)
    }

    fn text(&self, interface: &str, gateway: &str, policy: &str) -> String {
        let Self {
            hook,
            verdict,
            reason,
            protocol,
            source,
            destination,
            ..
        } = self;
        let (verdict, reason, remote) = (verdict.name(), reason.name(), self.remote());
        format!(
            "requestedServerName: , sourceIP: {source}, directRemoteIP: {source}, remoteIP: {remote}, localAddress: {destination}, \
             protocol: {protocol}, interface: {interface}, hook: {hook}, gateway: {gateway}, verdict: {verdict}, reason: {reason}, policy: {policy}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "gwf v=2 hook=1 if=2 verdict=1 reason=3 listener=4 rule=17 proto=6 src=192.0.2.1 sport=40000 dst=203.0.113.9 dport=443 cfam=0 client=:: cport=0";

    #[test]
    fn a_line_is_taken_apart() {
        let want = Packet {
            hook: "xdp",
            ifindex: 2,
            verdict: Verdict::Dropped,
            reason: Reason::DeniedByRule,
            listener: 4,
            rule: 17,
            protocol: "tcp",
            source: "192.0.2.1:40000".parse().unwrap(),
            destination: "203.0.113.9:443".parse().unwrap(),
            client: None,
        };
        assert_eq!(parse(LINE), Some(want));
        let v6 = LINE
            .replace("192.0.2.1", "2001:db8::1")
            .replace("203.0.113.9", "::ffff:203.0.113.9");
        assert_eq!(
            parse(&v6).map(|p| p.source),
            Some("[2001:db8::1]:40000".parse().unwrap())
        );
    }

    #[test]
    fn a_client_in_a_header_then_the_packets_source_is_only_the_direct_peer() {
        for (fields, client) in [
            ("cfam=4 client=c633:6407:: cport=40001", "198.51.100.7:40001"),
            ("cfam=6 client=2001:db8::7 cport=1", "[2001:db8::7]:1"),
            (
                "cfam=6 client=::ffff:198.51.100.7 cport=1",
                "[::ffff:198.51.100.7]:1",
            ),
        ] {
            let line = LINE.replace("cfam=0 client=:: cport=0", fields);
            let packet = parse(&line).unwrap();
            assert_eq!(packet.client, Some(client.parse().unwrap()), "{line}");
            let text = packet.text("eth0", "a/gw", "");
            assert!(
                text.contains(&format!("directRemoteIP: 192.0.2.1:40000, remoteIP: {client},")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_line_that_is_wrong_anywhere_is_none_of_ours() {
        for (from, to) in [
            ("gwf v=2", "gwf v=1"),
            ("hook=1", "hook=3"),
            ("if=2", "if=-2"),
            ("verdict=1", "verdict=9"),
            ("reason=3", "reason=77"),
            ("reason=3", "cause=3"),
            ("rule=17 ", ""),
            ("proto=6", "proto=1"),
            ("192.0.2.1", "192.0.2"),
            ("sport=40000", "sport=70000"),
            ("cport=0", "cport=0 more=1"),
            ("cfam=0", "cfam=5"),
            ("cfam=0 client=::", "cfam=4 client=192.0.2.1"),
            ("dport=443", "dport="),
        ] {
            let wrong = LINE.replace(from, to);
            assert_ne!(wrong, LINE, "{from}");
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
        assert_eq!(parse(""), None);
    }

    /// `awk -F, '{print $n}' | awk -F: '{print $2}' | sed 's/ //'`
    fn cut(line: &str, n: usize) -> String {
        let field = line.split(',').nth(n - 1).unwrap();
        field.split(':').nth(1).unwrap().replacen(' ', "", 1)
    }

    #[test]
    fn the_pipeline_of_the_istio_page_finds_the_client_address() {
        let text = parse(LINE).unwrap().text(
            "eth0",
            "istio-system/istio-ingressgateway",
            "ns[a]-policy[b]-rule[0]",
        );
        let line = format!("2026-07-01T12:00:00.000000Z  INFO {text}");
        assert!(line.contains("remoteIP"));
        assert_eq!(cut(&line, 3), "192.0.2.1");
        assert_eq!(cut(&line, 4), "192.0.2.1");
        for part in [
            "localAddress: 203.0.113.9:443",
            "verdict: drop",
            "policy: ns[a]-policy[b]-rule[0]",
        ] {
            assert!(line.contains(part), "{part}");
        }
    }

    #[test]
    fn a_sink_hands_its_lines_out_once() {
        let sink = Sink::default();
        let logger: &dyn log::Log = &sink;
        logger.log(&log::Record::builder().args(format_args!("one")).build());
        assert_eq!(sink.take(), ["one"]);
        assert!(sink.take().is_empty());
    }
}
