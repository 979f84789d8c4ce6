//! What `gwfilter status` says: what is attached, whether an agent looks after it, and what that agent left behind. Pure.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

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
    /// `xdp`, `xdp-generic` or `tcx`.
    pub hook: &'static str,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `running` or `not-running`.
    pub agent: &'static str,
    /// Programs that are pinned, whoever pinned them.
    pub attached: Vec<Attached>,
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
        let Some(last) = &self.last else {
            if !running && self.attached.is_empty() {
                return text;
            }
            line("generation: not known; the agent left nothing that can be read (--state-dir?)".to_owned());
            return text;
        };
        let age = now.saturating_sub(last.written_at);
        line(format!(
            "generation: {} from {}, as of {age}s ago",
            last.generation, last.from
        ));
        if last.observe {
            line("observe: packets are judged and counted, none is dropped".to_owned());
        }
        match &last.not_ready {
            Some(why) if running => line(format!("not ready: {why}")),
            _ => {}
        }
        if last.gateways.is_empty() {
            line("gateways: none is known here, so every packet passes".to_owned());
        }
        for gateway in &last.gateways {
            let how = match (gateway.enforced, gateway.why.is_empty()) {
                (true, true) => "enforced",
                (true, false) => "enforced in part",
                (false, _) => "not enforced",
            };
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
            }),
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
            &[dead, attached, generation, gateway],
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
                last.gateways[0].enforced = false;
                last.gateways[0].why = vec!["code: text".to_owned()];
            },
            &[
                "agent: running",
                "attached: nothing",
                generation,
                "observe: packets are judged and counted, none is dropped",
                "not ready: no interface is served",
                "gateway ns/gw: not enforced, client address packet-source",
                "  code: text",
            ],
        );
    }

    #[test]
    fn what_is_left_then_read_back() {
        let left = status().last.unwrap();
        let text = serde_json::to_string(&left).unwrap();
        assert_eq!(serde_json::from_str::<Left>(&text).unwrap(), left);
    }
}
