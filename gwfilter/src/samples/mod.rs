//! Samples of verdicts as the API and `gwfilter monitor` tell them: lines, filters, what each stands for, and who gets how many. Pure.
//!
//! The kernel side writes a few of all verdicts (`gwfilter_common::abi::sample`), of each kind on its own, so that a flood of one does not hide
//! the others. [`weigh`] says what each stands for and how much is to be written; [`filter`] who wants to see it; [`share`] thins it to what
//! each asked for.

pub mod filter;
pub mod share;
pub mod weigh;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use gwfilter_common::abi::sample::Sample;
use gwfilter_common::logline::{HOOK_TC, HOOK_XDP, VERDICT_DROPPED, VERDICT_PASSED, VERDICT_WOULD_DROP};
use gwfilter_common::reason::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::Names;

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It passed.
    Pass,
    /// It was dropped.
    Drop,
    /// It passed, but only because nothing is dropped: observe mode, or a pause.
    WouldDrop,
}

impl Verdict {
    /// All, in order of their numbers in the kernel.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Drop, Self::WouldDrop];

    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::WouldDrop => "would-drop",
        }
    }

    /// Its place in [`Self::ALL`], which is its number in the kernel.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

const _: () = assert!(VERDICT_PASSED == 0 && VERDICT_DROPPED == 1 && VERDICT_WOULD_DROP == 2);

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|verdict| verdict.name() == text);
        found.ok_or_else(|| format!("`{text}` is no verdict: there are pass, drop and would-drop"))
    }
}

/// One sample, with names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// RFC 3339, in UTC, to the millisecond.
    pub time: String,
    /// Name of the interface that the packet came in by.
    pub interface: String,
    /// `xdp` or `tc`.
    pub hook: String,
    /// What happened.
    pub verdict: Verdict,
    /// Name of the [`Reason`].
    pub reason: String,
    /// `ns/service`.
    pub gateway: Option<String>,
    /// Envoy's policy id.
    pub policy: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Source of the packet.
    pub source: SocketAddr,
    /// Its destination.
    pub dest: SocketAddr,
    /// Source in the PROXY header that was judged.
    pub client: Option<SocketAddr>,
    /// How many verdicts this one stands for, itself included.
    pub weight: u64,
}

/// What of the verdicts a listener did not see, since the last of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Samples that were taken and lost: the ring was full, or the listener read too slowly.
    pub lost: u64,
    /// Verdicts that no line was sent for, though lines stand for them by their weights.
    pub unsampled: u64,
}

/// Something a listener must know to understand what comes, or what does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// A sentence for people.
    pub notice: String,
}

/// What a line of `/v1/samples` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// A verdict.
    Sample(Box<Line>),
    /// What was not seen.
    Loss(Loss),
    /// What is to be known.
    Notice(Notice),
}

impl Line {
    /// A sample with names. `wall_ns`: nanoseconds to add to the monotonic clock for those since 1970. `None`: it says what no program writes.
    #[must_use]
    pub fn of(
        sample: &Sample,
        weight: u64,
        wall_ns: i128,
        names: &Names,
        interface: impl Fn(u32) -> String,
    ) -> Option<Self> {
        let verdict = *Verdict::ALL.get(usize::from(sample.verdict))?;
        let gateway = names.listeners.get(&sample.listener);
        let policy = names.rules.get(&sample.rule);
        let client = match sample.client_family {
            0 => None,
            family => Some(end(family, sample.client, sample.client_port)?),
        };
        Some(Self {
            time: time(i128::from(sample.time_ns).checked_add(wall_ns)?)?,
            interface: interface(sample.ifindex),
            hook: match u32::from(sample.hook) {
                HOOK_XDP => "xdp",
                HOOK_TC => "tc",
                _ => return None,
            }
            .to_owned(),
            verdict,
            reason: Reason::from_code(sample.reason)?.name().to_owned(),
            gateway: gateway.map(|name| name.gateway.to_string()),
            policy: policy.map(ToString::to_string),
            protocol: match sample.protocol {
                6 => "tcp",
                17 => "udp",
                _ => return None,
            }
            .to_owned(),
            source: end(sample.family, sample.source, sample.source_port)?,
            dest: end(sample.family, sample.destination, sample.destination_port)?,
            client,
            weight,
        })
    }
}

fn end(family: u8, address: [u8; 16], port: u16) -> Option<SocketAddr> {
    let [a, b, c, d, ..] = address;
    let address = match family {
        4 => IpAddr::from([a, b, c, d]),
        6 => IpAddr::from(address),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn time(ns: i128) -> Option<String> {
    let time = Timestamp::from_nanosecond(ns).ok()?;
    Some(format!("{time:.3}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::ListenerName;

    /// A refusal of 198.51.100.20 at the first gateway, by the first rule.
    pub(crate) fn sample() -> Sample {
        let v4 = |[a, b, c, d]: [u8; 4]| [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Sample {
            time_ns: 5_123_456_789,
            count: 1,
            source: v4([198, 51, 100, 20]),
            destination: v4([203, 0, 113, 9]),
            client: [0; 16],
            ifindex: 2,
            cpu: 0,
            rule: 1,
            listener: 1,
            source_port: 40_000,
            destination_port: 443,
            client_port: 0,
            protocol: 6,
            family: 4,
            client_family: 0,
            hook: 1,
            verdict: 1,
            reason: Reason::DeniedByRule.code(),
            _pad: 0,
        }
    }

    pub(crate) fn names() -> Names {
        let listener = ListenerName {
            gateway: "istio-system/istio-ingressgateway".into(),
            listener: "istio-system/istio-ingressgateway:https".into(),
        };
        Names {
            listeners: [(1, listener)].into(),
            rules: [(1, "ns[istio-system]-policy[deny]-rule[0]".into())].into(),
        }
    }

    pub(crate) fn line(sample: &Sample) -> Option<Line> {
        let wall_ns = 1_780_000_000_000_000_000;
        Line::of(sample, 3, wall_ns, &names(), |index| format!("eth{index}"))
    }

    #[test]
    fn a_sample_then_a_line_with_names_and_the_time_of_day() {
        let text = serde_json::to_string(&line(&sample()).unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"time":"2026-05-28T20:26:45.123Z","interface":"eth2","hook":"xdp","verdict":"drop","reason":"denied-by-rule","gateway":"istio-system/istio-ingressgateway","policy":"ns[istio-system]-policy[deny]-rule[0]","protocol":"tcp","source":"198.51.100.20:40000","dest":"203.0.113.9:443","client":null,"weight":3}"#
        );
        let with_client = Sample {
            family: 6,
            client: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            client_family: 6,
            client_port: 1,
            rule: 0,
            listener: 9,
            hook: 2,
            verdict: 2,
            ..sample()
        };
        let line = line(&with_client).unwrap();
        assert_eq!(line.client, Some("[2001:db8::7]:1".parse().unwrap()));
        assert_eq!(line.source.to_string(), "[c633:6414::]:40000");
        assert_eq!((line.gateway, line.policy), (None, None));
        assert_eq!((line.hook.as_str(), line.verdict), ("tc", Verdict::WouldDrop));
    }

    #[test]
    fn what_no_program_writes_then_no_line() {
        let change = |with: fn(&mut Sample)| {
            let mut sample = sample();
            with(&mut sample);
            sample
        };
        for wrong in [
            change(|s| s.verdict = 3),
            change(|s| s.hook = 0),
            change(|s| s.reason = 77),
            change(|s| s.protocol = 1),
            change(|s| s.family = 5),
            change(|s| s.client_family = 5),
        ] {
            assert_eq!(line(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn lines_losses_and_notices_then_told_apart() {
        let line = line(&sample()).unwrap();
        for message in [
            Message::Sample(Box::new(line)),
            Message::Loss(Loss {
                lost: 1,
                unsampled: 2,
            }),
            Message::Notice(Notice {
                notice: "observe mode".to_owned(),
            }),
        ] {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message, "{text}");
        }
        assert_eq!(
            serde_json::to_string(&Message::Loss(Loss::default())).unwrap(),
            r#"{"lost":0,"unsampled":0}"#
        );
    }

    #[test]
    fn each_verdict_then_read_by_its_name_and_no_other() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!((verdict.name().parse(), verdict.index()), (Ok(verdict), index));
        }
        let error = "dropped".parse::<Verdict>().unwrap_err();
        assert!(error.contains("pass, drop and would-drop"), "{error}");
    }
}
