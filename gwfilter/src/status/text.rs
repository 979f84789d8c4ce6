//! [`Status`] for people: short, or all of it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Attached, Control, Gateway, Left, Packets, RUNNING, Status};
use crate::code;
use crate::palette::{Painted, Palette};

/// What the lines of the two leases begin with.
const OF_ALL: &str = "lease of all destinations";
const OF_PODS: &str = "lease of pods' addresses";
/// Within so many seconds an agent has written down what it holds.
const SOON: u64 = 10;

/// So many seconds, for people: `42s`, `12m`, `3h12m`, `5d4h`.
#[must_use]
pub fn span(seconds: u64) -> String {
    let two = |(big, unit): (u64, char), (small, part): (u64, char)| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{part}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => two((seconds / 3_600, 'h'), (seconds % 3_600 / 60, 'm')),
        _ => two((seconds / 86_400, 'd'), (seconds % 86_400 / 3_600, 'h')),
    }
}

/// A moment, in seconds since 1970, as RFC 3339 has it.
#[must_use]
pub fn clock(at: u64) -> String {
    let at = i64::try_from(at)
        .ok()
        .and_then(|at| Timestamp::from_second(at).ok());
    at.map_or_else(|| "(no such time)".to_owned(), |at| at.to_string())
}

/// `12 KiB`.
fn memory(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn counted(n: usize, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// A gateway's state, in the colour of what it means; `why`: the weightiest reason, as `code: text`.
#[must_use]
pub fn painted<'a>(state: &'a str, why: Option<&str>, p: Palette) -> Painted<&'a str> {
    let partly = ["enforced", "still enforced", "counted only"];
    match state {
        "enforced" => p.good(state),
        "not enforced" if why.is_some_and(code::is_as_it_is) => p.warn(state),
        _ if partly.iter().any(|begin| state.starts_with(begin)) => p.warn(state),
        _ => p.bad(state),
    }
}

/// Who sees to it that a lease goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Renews {
    /// An agent that is ready.
    Does,
    /// An agent that is not, or does not say.
    May,
    /// There is none.
    Nobody,
}

impl Control {
    pub(super) fn lines(&self, renews: Renews, p: Palette) -> impl Iterator<Item = String> {
        let paused = self.paused.then(|| {
            let end = self.paused_seconds.map_or_else(
                || "until `gwfilter resume`".to_owned(),
                |s| format!("for {} more", span(s)),
            );
            format!(
                "{} {end}: nothing is dropped on this node; what would have been is counted",
                p.warn("PAUSED")
            )
        });
        let lease = move |what: &str, state: &str, seconds: Option<u64>| match (state, seconds.map(span)) {
            ("runs", Some(left)) => match renews {
                Renews::Does => format!("{what}: {left} left, the agent renews it"),
                Renews::May => {
                    format!("{what}: ends in {left} unless the agent renews it, then everything passes there")
                }
                Renews::Nobody => format!("{what}: ends in {left}, then everything passes there"),
            },
            ("off", _) => format!("{what}: off"),
            _ => format!(
                "{what}: {}, nothing is refused there until it is renewed",
                p.bad("EXPIRED")
            ),
        };
        // Refusals at pods' addresses take both.
        let pods = if self.lease == "expired" && self.pod_lease != "expired" {
            format!("{OF_PODS}: of no use until that of all destinations is renewed")
        } else {
            lease(OF_PODS, &self.pod_lease, self.pod_lease_seconds)
        };
        paused
            .into_iter()
            .chain([lease(OF_ALL, &self.lease, self.lease_seconds), pods])
    }
}

impl Attached {
    /// `wide`: also what is as it should be.
    fn line(&self, wide: bool, now: u64, p: Palette) -> String {
        let mut line = format!("attached: {}", p.strong(&self.interface));
        if wide {
            line += &format!(" (ifindex {})", self.ifindex);
        }
        line += &format!(" by {}", self.hook);
        let mut more = Vec::new();
        if wide {
            more.push(match (&*self.mode, self.multi_buffer) {
                ("tc", _) => "traffic control".to_owned(),
                (mode, Some(true)) => format!("{mode} XDP for multi-buffer frames too"),
                (mode, Some(false)) => format!("{mode} XDP, not for multi-buffer frames"),
                (mode, None) => format!("{mode} XDP"),
            });
        }
        match (self.in_place, self.ahead) {
            (Some(false), _) => more.push(format!(
                "{} by somebody else: nothing is judged there, the gateway judges; a running agent attaches it again within 30s",
                p.bad("DETACHED")
            )),
            (_, Some(0)) if wide => more.push("first in line".to_owned()),
            (_, Some(ahead)) if ahead > 0 => more.push(format!(
                "behind {}, whose verdict comes first",
                counted(ahead, "other program", "other programs")
            )),
            _ => {}
        }
        if wide {
            let name = self.program.as_deref().unwrap_or("(name not readable)");
            if let Some(id) = self.program_id {
                more.push(format!("program {id} {name}"));
            }
            let ago = |since: Option<u64>| since.map(|since| span(now.saturating_sub(since)));
            more.extend(ago(self.loaded_since).map(|ago| format!("loaded {ago} ago")));
            more.extend(ago(self.since).map(|ago| format!("served for {ago}")));
        }
        if !more.is_empty() {
            line += &format!("; {}", more.join(", "));
        }
        line
    }
}

impl Gateway {
    /// `counted`: for how long, in seconds, if that is known.
    fn line(&self, counted: Option<u64>, p: Palette) -> String {
        let mut line = format!(
            "gateway {}: {}",
            p.strong(&self.name),
            painted(&self.state, self.why.first().map(String::as_str), p)
        );
        if let Some(address) = &self.client_address {
            line += &format!(", client address {address}");
        }
        if let Some(packets) = &self.packets {
            let since = counted.map_or_else(String::new, |seconds| format!("in {}: ", span(seconds)));
            line += &format!("; {since}{}", told(packets));
        }
        line
    }

    /// What only `wide` tells.
    fn more(&self) -> Vec<String> {
        let mut more = Vec::new();
        match self.tuples.as_deref() {
            None => more.push("tuples: not known, for the tables cannot be read".to_owned()),
            Some([]) => more.push("tuples: none is in force".to_owned()),
            Some(tuples) => more.push(format!("tuples: {}", tuples.join(", "))),
        }
        let prefixes = self.prefixes.map_or_else(
            || "prefixes: not known".to_owned(),
            |p| format!("prefixes: {} IPv4, {} IPv6", p.v4, p.v6),
        );
        let tables = self.tables.map(|tables| {
            let takes = self
                .memory_bytes
                .map_or_else(String::new, |b| format!(", {}", memory(b)));
            format!("; {}{takes}", counted(tables, "table", "tables"))
        });
        more.push(prefixes + &tables.unwrap_or_default());
        more
    }
}

/// `passed 12, dropped 3`.
fn told(packets: &Packets) -> String {
    let would = match packets.would_drop {
        0 => String::new(),
        n => format!(" ({n} of them would have been dropped)"),
    };
    format!("passed {}{would}, dropped {}", packets.passed, packets.dropped)
}

impl Status {
    /// For people, as short as a calm node allows. `now` is in seconds since 1970.
    #[must_use]
    pub fn text(&self, now: u64, p: Palette) -> String {
        self.lines(now, false, p)
    }

    /// For people, all of it.
    #[must_use]
    pub fn wide(&self, now: u64, p: Palette) -> String {
        self.lines(now, true, p)
    }

    fn lines(&self, now: u64, wide: bool, p: Palette) -> String {
        let mut lines = self.of_agent(now, wide, p);
        lines.extend(self.attached.iter().map(|at| at.line(wide, now, p)));
        let nothing = self.pins_seen && self.attached.is_empty() && self.agent != RUNNING;
        if self.pins_seen && self.attached.is_empty() && !nothing {
            lines.push(format!(
                "attached: {}: nothing is judged on this node, every packet goes to the gateway; the agent's log says why",
                p.bad("nothing")
            ));
        }
        let renews = match (self.agent == RUNNING, &self.last) {
            (false, _) => Renews::Nobody,
            (true, Some(last)) if last.ready => Renews::Does,
            (true, _) => Renews::May,
        };
        lines.extend(self.control.iter().flat_map(|control| control.lines(renews, p)));
        let Some(last) = &self.last else {
            if !nothing {
                lines.push(match self.generation {
                    Some(number) => {
                        let young = |since: u64| now.saturating_sub(since) < SOON;
                        let what = if self.agent == RUNNING && self.generation_since.is_some_and(young) {
                            "the agent has just begun, and not yet written down what it holds"
                        } else {
                            "the agent left nothing that can be read (--state-dir?)"
                        };
                        format!("generation: {number}{}; {what}", self.in_force(now))
                    }
                    None => "generation: not known; the agent left nothing that can be read (--state-dir?)"
                        .to_owned(),
                });
                self.gateways(&mut lines, now, wide, p);
            }
            return self.finish(lines, now, wide, p);
        };
        lines.push(self.of_generation(last, nothing, now, wide));
        if last.observe {
            let observe = p.warn("observe");
            lines.push(format!(
                "{observe}: packets are judged and counted, none is dropped"
            ));
        }
        match &last.not_ready {
            Some(why) if self.agent == RUNNING => lines.push(format!("{}: {why}", p.warn("not ready"))),
            _ => {}
        }
        if let Some(finds) = finds(&last.finds) {
            lines.push(finds);
        }
        if self.gateways.is_empty() {
            let none = p.warn("none");
            lines.push(format!("gateways: {none} is known here, so every packet passes"));
        }
        self.gateways(&mut lines, now, wide, p);
        self.finish(lines, now, wide, p)
    }

    fn of_agent(&self, now: u64, wide: bool, p: Palette) -> Vec<String> {
        let ago = |at: u64| span(now.saturating_sub(at));
        let mut lines = Vec::new();
        match (self.agent == RUNNING, self.attached.is_empty()) {
            (true, _) => lines.push(format!("agent: {}", p.good("running"))),
            (false, true) if !self.pins_seen => lines.push(format!(
                "agent: {} from here, nor what is attached: this node may enforce all the same; ask where its bpffs is seen",
                p.warn("NOT KNOWN")
            )),
            (false, true) => lines.push(format!(
                "agent: {}; nothing is enforced on this node",
                p.bad("not running")
            )),
            (false, false) => lines.push(format!("agent: {}; {}", p.bad("NOT RUNNING"), self.orphaned())),
        }
        if let Some(at) = self.agent_seen.filter(|_| wide || self.agent != RUNNING) {
            lines.push(format!(
                "last sign of life of an agent: {} ago, at {}",
                ago(at),
                clock(at)
            ));
        }
        lines
    }

    /// What goes on without an agent, and what to do about it.
    fn orphaned(&self) -> String {
        let observe = self.last.as_ref().is_some_and(|last| last.observe);
        let goes_on = match &self.control {
            None => "may still be enforced (lease and pause are not known)",
            Some(control) if control.paused || control.lease == "expired" || observe => {
                return "changes since it ended are not in force here. Start the agent; what this node does meanwhile stands below"
                    .to_owned();
            }
            Some(control) if control.lease == "off" => "are still enforced, without an end (`--lease off`)",
            Some(_) => "are still enforced until the lease ends",
        };
        format!(
            "the last policies {goes_on}, and changes since are not (a client allowed since may be refused). \
             Start the agent; to stop dropping meanwhile: `gwfilter pause`"
        )
    }

    fn in_force(&self, now: u64) -> String {
        if self.attached.is_empty() {
            return String::new();
        }
        self.generation_since.map_or_else(String::new, |since| {
            format!(", in force for {}", span(now.saturating_sub(since)))
        })
    }

    fn of_generation(&self, last: &Left, nothing: bool, now: u64, wide: bool) -> String {
        let age = span(now.saturating_sub(last.written_at));
        let (number, from) = (last.generation, &last.from);
        match self.generation {
            _ if !self.pins_seen => {
                format!("generation: not known; an agent wrote down {number} from {from}, {age} ago")
            }
            _ if nothing => {
                format!("generation: none is in force; the last was {number} from {from}, as of {age} ago")
            }
            Some(now_in_force) if now_in_force != number => {
                let (why, next) = if self.agent == RUNNING {
                    (
                        "the agent has not yet written down what it holds",
                        "; if this stays for more than a minute, see its log",
                    )
                } else {
                    ("the agent ended before it wrote down what it held", "")
                };
                format!(
                    "generation: {now_in_force}{}; {why}, so gateways below are of {number} ({age} old){next}",
                    self.in_force(now)
                )
            }
            _ if wide => format!(
                "generation: {number} from {from}{}; written down {age} ago",
                self.in_force(now)
            ),
            _ => format!("generation: {number} from {from}{}", self.in_force(now)),
        }
    }

    fn gateways(&self, lines: &mut Vec<String>, now: u64, wide: bool, p: Palette) {
        let counted = self.counted_since.map(|since| now.saturating_sub(since));
        for gateway in &self.gateways {
            lines.push(gateway.line(counted, p));
            lines.extend(gateway.why.iter().map(|why| format!("  {why}")));
            if wide {
                lines.extend(gateway.more().into_iter().map(|more| format!("  {more}")));
            }
        }
    }

    fn finish(&self, mut lines: Vec<String>, now: u64, wide: bool, p: Palette) -> String {
        if wide {
            lines.extend(
                self.memory_bytes
                    .map(|b| format!("tables in force: {}", memory(b))),
            );
            lines.extend(self.counted_since.map(|since| {
                format!(
                    "counters: since {} ({})",
                    clock(since),
                    span(now.saturating_sub(since))
                )
            }));
        }
        lines.extend(
            self.unknown
                .iter()
                .map(|what| format!("{}: {what}", p.warn("not known"))),
        );
        lines.into_iter().map(|line| line + "\n").collect()
    }
}

fn finds(finds: &BTreeMap<String, u64>) -> Option<String> {
    let each = finds.iter().map(|(name, times)| format!("{name} {times}×"));
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| format!("found and put right since the agent started: {}", each.join(", ")))
}

#[cfg(test)]
mod tests;
