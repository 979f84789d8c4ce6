//! What `gwfilter status` says: what is attached, whether an agent looks after it, and what that agent left behind. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::control::{Span, Words};

/// What the agent leaves on the disk, for when it is asked or dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// When, in seconds since 1970.
    pub written_at: u64,
    /// Where the objects come from.
    pub from: String,
    /// Number of the generation in force.
    pub generation: u64,
    /// Nothing is dropped.
    pub observe: bool,
    /// The wanted generation is in force, at least one interface is served, everything was read.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// The gateways of this node.
    pub gateways: Vec<GatewayState>,
    /// How often this agent found something otherwise than it had left it, by public name.
    #[serde(default)]
    pub finds: BTreeMap<String, u64>,
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayState {
    /// `ns/service`.
    pub name: String,
    /// As `check` names it.
    pub client_address: String,
    /// Whether what its policies certainly refuse is dropped on this node.
    pub enforced: bool,
    /// What is not enforced and how to mend it, each `code: text`.
    pub why: Vec<String>,
}

/// A program at an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// Name of the interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// `xdp`, `xdp-generic`, `tcx` or `clsact`.
    pub hook: &'static str,
}

/// Lease and pause, as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Control {
    /// `runs`, `expired` or `off`.
    pub lease: &'static str,
    /// Until it ends, where it runs.
    pub lease_seconds: Option<u64>,
    /// The same of the lease of pods' addresses.
    pub pod_lease: &'static str,
    /// Until it ends, where it runs.
    pub pod_lease_seconds: Option<u64>,
    /// Whether what is refused passes and is only counted.
    pub paused: bool,
    /// For how much longer, where the pause has an end.
    pub paused_seconds: Option<u64>,
}

impl Control {
    /// What `words` say at `now`, both of the monotonic clock.
    #[must_use]
    pub fn of(words: Words, now: u64) -> Self {
        let of = |until| match Span::of(now, until) {
            Span::Over => ("expired", None),
            Span::For(span) => ("runs", Some(span.as_secs())),
            Span::Forever => ("off", None),
        };
        let ((lease, lease_seconds), (pod_lease, pod_lease_seconds)) = (of(words.lease), of(words.pod_lease));
        Self {
            lease,
            lease_seconds,
            pod_lease,
            pod_lease_seconds,
            paused: Span::of(now, words.paused) != Span::Over,
            paused_seconds: of(words.paused).1,
        }
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let paused = self.paused.then(|| {
            let end = self.paused_seconds.map_or_else(
                || "until `gwfilter resume`".to_owned(),
                |s| format!("for {s}s more"),
            );
            format!("PAUSED: what is refused is counted and passes, {end}")
        });
        let lease = |what: &str, state, seconds: Option<u64>| match (state, seconds) {
            ("runs", Some(s)) => format!("{what}: runs for {s}s more"),
            ("off", _) => format!("{what}: off"),
            _ => format!("{what}: EXPIRED, nothing is refused there until it is renewed"),
        };
        // Refusals at pods' addresses take both.
        let pods = if self.lease == "expired" && self.pod_lease != "expired" {
            format!("{OF_PODS}: of no use until that of all destinations is renewed")
        } else {
            lease(OF_PODS, self.pod_lease, self.pod_lease_seconds)
        };
        paused
            .into_iter()
            .chain([lease(OF_ALL, self.lease, self.lease_seconds), pods])
    }
}

/// What the lines of the two leases begin with.
const OF_ALL: &str = "lease of all destinations";
const OF_PODS: &str = "lease of pods' addresses";

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `running` or `not-running`.
    pub agent: &'static str,
    /// Programs that are pinned, whoever pinned them.
    pub attached: Vec<Attached>,
    /// Lease and pause; `null` where nothing is pinned.
    pub control: Option<Control>,
    /// The generation that the kernel judges by; `null` where nothing is pinned, or it cannot be told.
    pub generation: Option<u64>,
    /// What the last agent left; `null` where it left nothing that can be read.
    pub last: Option<Left>,
}

impl Status {
    /// For people. `now` is in seconds since 1970.
    #[must_use]
    pub fn text(&self, now: u64) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let mut line = |words: String| {
            let _ = writeln!(text, "{words}");
        };
        let running = self.agent == "running";
        match (running, self.attached.is_empty()) {
            (true, _) => line("agent: running".to_owned()),
            (false, true) => line("agent: not running; nothing is enforced on this node".to_owned()),
            (false, false) => {
                line(
                    "agent: not running; what is attached stays as it is, `gwfilter unload` takes it off"
                        .to_owned(),
                );
            }
        }
        for at in &self.attached {
            line(format!(
                "attached: {} by {} (ifindex {})",
                at.interface, at.hook, at.ifindex
            ));
        }
        if running && self.attached.is_empty() {
            line("attached: nothing".to_owned());
        }
        for words in self.control.iter().flat_map(Control::lines) {
            line(words);
        }
        let Some(last) = &self.last else {
            if !running && self.attached.is_empty() {
                return text;
            }
            line("generation: not known; the agent left nothing that can be read (--state-dir?)".to_owned());
            return text;
        };
        let age = now.saturating_sub(last.written_at);
        line(match self.generation {
            _ if self.attached.is_empty() && !running => format!(
                "generation: none is in force; the last was {} from {}, as of {age}s ago",
                last.generation, last.from
            ),
            Some(now) if now != last.generation => format!(
                "generation: {now} is in force; what follows is of {} from {}, as of {age}s ago",
                last.generation, last.from
            ),
            _ => format!(
                "generation: {} from {}, as of {age}s ago",
                last.generation, last.from
            ),
        });
        if last.observe {
            line("observe: packets are judged and counted, none is dropped".to_owned());
        }
        match &last.not_ready {
            Some(why) if running => line(format!("not ready: {why}")),
            _ => {}
        }
        if !last.finds.is_empty() {
            let each = last.finds.iter().map(|(name, times)| format!("{name} {times}×"));
            line(format!(
                "found and dealt with: {}",
                each.collect::<Vec<_>>().join(", ")
            ));
        }
        if last.gateways.is_empty() {
            line("gateways: none is known here, so every packet passes".to_owned());
        }
        for gateway in &last.gateways {
            let how = self.how(gateway, last.observe);
            line(format!(
                "gateway {}: {how}, client address {}",
                gateway.name, gateway.client_address
            ));
            for why in &gateway.why {
                line(format!("  {why}"));
            }
        }
        text
    }

    /// What the kernel does of what the agent has written down of a gateway.
    fn how(&self, gateway: &GatewayState, observe: bool) -> String {
        let agent_says = match (gateway.enforced, gateway.why.is_empty()) {
            (true, true) => "enforced",
            (true, false) => "enforced in part",
            (false, _) => return "not enforced".to_owned(),
        };
        let control = self.control.as_ref();
        let expired = |lease: fn(&Control) -> &'static str| control.is_some_and(|c| lease(c) == "expired");
        if self.attached.is_empty() {
            return format!("was {agent_says}, nothing is attached now");
        }
        if expired(|c| c.lease) {
            return format!("was {agent_says}, until the lease ran out");
        }
        if observe {
            return "counted only".to_owned();
        }
        if control.is_some_and(|c| c.paused) {
            return format!("counted only, {agent_says} when the pause ends");
        }
        let left = if self.agent == "running" { "" } else { "left " };
        let pods = if expired(|c| c.pod_lease) {
            " but for pods' addresses"
        } else {
            ""
        };
        format!("{left}{agent_says}{pods}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            agent: "running",
            attached: vec![Attached {
                interface: "eth0".to_owned(),
                ifindex: 2,
                hook: "xdp",
            }],
            control: None,
            generation: Some(7),
            last: Some(Left {
                written_at: 100,
                from: "the cluster".to_owned(),
                generation: 7,
                observe: false,
                ready: true,
                not_ready: None,
                gateways: vec![GatewayState {
                    name: "ns/gw".to_owned(),
                    client_address: "packet-source".to_owned(),
                    enforced: true,
                    why: Vec::new(),
                }],
                finds: BTreeMap::new(),
            }),
        }
    }

    #[test]
    fn lease_and_pause_then_the_lines_that_tell_them() {
        let second = 1_000_000_000;
        let lines = |lease, pod_lease, paused| {
            let words = Words {
                lease,
                pod_lease,
                paused,
            };
            Control::of(words, second).lines().collect::<Vec<_>>()
        };
        assert_eq!(
            lines(61 * second, u64::MAX, 0),
            [
                "lease of all destinations: runs for 60s more",
                "lease of pods' addresses: off"
            ]
        );
        let expired = "EXPIRED, nothing is refused there until it is renewed";
        assert_eq!(
            lines(second, 0, u64::MAX),
            [
                "PAUSED: what is refused is counted and passes, until `gwfilter resume`".to_owned(),
                format!("lease of all destinations: {expired}"),
                format!("lease of pods' addresses: {expired}"),
            ]
        );
        assert!(lines(0, 0, 3 * second)[0].ends_with("for 2s more"));
        for pods in [61 * second, u64::MAX] {
            let of_pods = &lines(0, pods, 0)[1];
            assert!(
                of_pods.ends_with("of no use until that of all destinations is renewed"),
                "{of_pods}"
            );
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Status), wanted: &[&str]) {
        let mut status = status();
        change(&mut status);
        assert_eq!(status.text(142).lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn each_state_then_the_lines_that_tell_it() {
        let (attached, generation) = (
            "attached: eth0 by xdp (ifindex 2)",
            "generation: 7 from the cluster, as of 42s ago",
        );
        let gateway = "gateway ns/gw: enforced, client address packet-source";
        check(|_| {}, &["agent: running", attached, generation, gateway]);
        let dead = "agent: not running; what is attached stays as it is, `gwfilter unload` takes it off";
        check(
            |status| {
                status.agent = "not-running";
                let last = status.last.as_mut().unwrap();
                last.not_ready = Some("it is of no interest any more".to_owned());
            },
            &[
                dead,
                attached,
                generation,
                "gateway ns/gw: left enforced, client address packet-source",
            ],
        );
        check(
            |status| {
                status.agent = "not-running";
                status.attached.clear();
                status.generation = None;
            },
            &[
                "agent: not running; nothing is enforced on this node",
                "generation: none is in force; the last was 7 from the cluster, as of 42s ago",
                "gateway ns/gw: was enforced, nothing is attached now, client address packet-source",
            ],
        );
        check(
            |status| {
                // The root table is pinned still.
                status.agent = "not-running";
                status.attached.clear();
                status.generation = Some(8);
            },
            &[
                "agent: not running; nothing is enforced on this node",
                "generation: none is in force; the last was 7 from the cluster, as of 42s ago",
                "gateway ns/gw: was enforced, nothing is attached now, client address packet-source",
            ],
        );
        check(
            |status| status.generation = Some(8),
            &[
                "agent: running",
                attached,
                "generation: 8 is in force; what follows is of 7 from the cluster, as of 42s ago",
                gateway,
            ],
        );
        check(
            |status| {
                status.agent = "not-running";
                status.attached.clear();
                status.last = None;
            },
            &["agent: not running; nothing is enforced on this node"],
        );
        check(
            |status| status.last = None,
            &[
                "agent: running",
                attached,
                "generation: not known; the agent left nothing that can be read (--state-dir?)",
            ],
        );
        check(
            |status| {
                status.attached.clear();
                let last = status.last.as_mut().unwrap();
                last.observe = true;
                last.not_ready = Some("no interface is served".to_owned());
                last.finds = [("link-detached".to_owned(), 2), ("mtu-changed".to_owned(), 1)].into();
                last.gateways[0].enforced = false;
                last.gateways[0].why = vec!["code: text".to_owned()];
            },
            &[
                "agent: running",
                "attached: nothing",
                generation,
                "observe: packets are judged and counted, none is dropped",
                "not ready: no interface is served",
                "found and dealt with: link-detached 2×, mtu-changed 1×",
                "gateway ns/gw: not enforced, client address packet-source",
                "  code: text",
            ],
        );
    }

    #[test]
    fn what_the_kernel_does_then_the_word_for_what_the_agent_had_enforced() {
        let (over, runs) = (0, 5_000_000_000_000);
        for (agent, [lease, pod_lease, paused], observe, word) in [
            ("running", [runs, runs, over], false, "enforced"),
            ("not-running", [runs, runs, over], false, "left enforced"),
            (
                "running",
                [runs, over, over],
                false,
                "enforced but for pods' addresses",
            ),
            (
                "running",
                [over, runs, over],
                false,
                "was enforced, until the lease ran out",
            ),
            (
                "not-running",
                [over, over, runs],
                true,
                "was enforced, until the lease ran out",
            ),
            (
                "running",
                [runs, runs, runs],
                false,
                "counted only, enforced when the pause ends",
            ),
            ("running", [runs, runs, over], true, "counted only"),
        ] {
            let words = Words {
                lease,
                pod_lease,
                paused,
            };
            let status = Status {
                agent,
                control: Some(Control::of(words, 1)),
                ..status()
            };
            let mut gateway = status.last.as_ref().unwrap().gateways[0].clone();
            assert_eq!(status.how(&gateway, observe), word);
            gateway.enforced = false;
            assert_eq!(status.how(&gateway, observe), "not enforced");
        }
    }

    #[test]
    fn what_is_left_then_read_back() {
        let left = status().last.unwrap();
        let text = serde_json::to_string(&left).unwrap();
        assert_eq!(serde_json::from_str::<Left>(&text).unwrap(), left);
    }
}
