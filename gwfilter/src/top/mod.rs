//! `gwfilter top`: what is shown, from which inputs. Pure: readings, samples and keys come in, [`view`] draws what came of them.
//!
//! Memory is bounded whatever comes: rows are the gateways and rules that have counters, sources a [`Heavy`] sketch, the drops of the past a
//! ring of fixed length.

pub mod heavy;
pub mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use crate::counted::{Counted, Rates};
use crate::status::{Packets, Status};
use heavy::Heavy;

/// Sources that are told apart.
const ROOM: usize = 512;
/// Readings whose drops are kept.
const PAST: usize = 240;
/// What was sampled so many seconds ago weighs a third of what is sampled now.
const FADE_SECONDS: f64 = 10.0;

/// A verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Dropped.
    #[default]
    Drop,
    /// Passed, and would have been dropped.
    WouldDrop,
    /// Passed.
    Pass,
}

impl Verdict {
    /// The public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::WouldDrop => "would-drop",
            Self::Pass => "pass",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Drop => Self::WouldDrop,
            Self::WouldDrop => Self::Pass,
            Self::Pass => Self::Drop,
        }
    }
}

/// A line of `/v1/samples`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A verdict.
    Sample {
        /// Which.
        verdict: Verdict,
        /// The packet's source.
        source: SocketAddr,
        /// The client in the PROXY header, where the gateway reads one.
        client: Option<SocketAddr>,
        /// For how many verdicts it stands.
        weight: u64,
    },
    /// What came between, and is not there.
    Gap {
        /// Samples that found no room.
        lost: u64,
    },
    /// A sentence for people; the head line says the same of `status`.
    Notice {
        /// The sentence.
        notice: String,
    },
}

/// Whether there are samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sampling {
    /// The agent was asked.
    #[default]
    Asked,
    /// They come.
    Live,
    /// There are none, and why.
    None(String),
}

/// What is known.
#[derive(Clone, Debug)]
struct Data {
    counted: Option<Counted>,
    status: Option<Status>,
    failure: Option<String>,
    /// Packets dropped a second, the oldest first.
    drops: VecDeque<u64>,
    sampling: Sampling,
    sources: BTreeMap<Verdict, Heavy<IpAddr>>,
    prefixes: BTreeMap<Verdict, Heavy<IpNet>>,
    /// Samples, and verdicts that they stand for: fading, as the sketches are.
    samples: (f64, f64),
    /// How much one a second weighs when it has come for as long as samples have.
    scale: f64,
    lost: u64,
}

impl Data {
    fn new() -> Self {
        let verdicts = [Verdict::Drop, Verdict::WouldDrop, Verdict::Pass];
        Self {
            counted: None,
            status: None,
            failure: None,
            drops: VecDeque::new(),
            sampling: Sampling::Asked,
            sources: verdicts.map(|v| (v, Heavy::new(ROOM))).into(),
            prefixes: verdicts.map(|v| (v, Heavy::new(ROOM))).into(),
            samples: (0.0, 0.0),
            scale: 0.0,
            lost: 0,
        }
    }

    /// So much time went by.
    fn fade(&mut self, seconds: f64) {
        let factor = (-seconds / FADE_SECONDS).exp();
        self.sources.values_mut().for_each(|heavy| heavy.fade(factor));
        self.prefixes.values_mut().for_each(|heavy| heavy.fade(factor));
        self.samples = (self.samples.0 * factor, self.samples.1 * factor);
        // What came since the last time fades as a whole, and so does what one a second would have been.
        self.scale = (self.scale + seconds) * factor;
    }
}

/// A part of the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// Gateways.
    #[default]
    Gateways,
    /// Rules.
    Rules,
    /// Prefixes of sources.
    Prefixes,
    /// Sources.
    Sources,
}

impl Pane {
    /// All, in the order in which Tab goes through them.
    pub const ALL: [Self; 4] = [Self::Gateways, Self::Rules, Self::Prefixes, Self::Sources];
}

/// The order of gateways and rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Most dropped first.
    #[default]
    Dropped,
    /// Most passed first.
    Passed,
    /// Most of what would have been dropped first.
    WouldDrop,
    /// By name.
    Name,
}

impl Sort {
    const fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Passed => "passed",
            Self::WouldDrop => "would-drop",
            Self::Name => "name",
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// To end.
    Quit,
    /// To stop the picture, or let it go on.
    Pause,
    /// The next pane, or the one before.
    Turn {
        /// Backwards.
        back: bool,
    },
    /// To scroll.
    Scroll {
        /// Rows, down.
        down: i32,
    },
    /// Another order.
    Sort(Sort),
    /// The next verdict.
    Verdict,
}

/// The whole.
#[derive(Clone, Debug)]
pub struct Top {
    live: Data,
    /// What is shown while the picture is stopped.
    stopped: Option<Box<Data>>,
    pane: Pane,
    sort: Sort,
    verdict: Verdict,
    /// Rows above the first one that is shown.
    scroll: usize,
    over: bool,
}

impl Default for Top {
    fn default() -> Self {
        Self {
            live: Data::new(),
            stopped: None,
            pane: Pane::default(),
            sort: Sort::default(),
            verdict: Verdict::default(),
            scroll: 0,
            over: false,
        }
    }
}

impl Top {
    /// Takes in the counters, with rates since the reading before if there was one; an error says why they are not there.
    pub fn counted(&mut self, counted: Result<Counted, String>) {
        match counted {
            Ok(counted) => {
                if let Some(seconds) = counted.seconds {
                    self.live.fade(seconds);
                    self.live.drops.push_back(whole(all(&counted).dropped));
                    if self.live.drops.len() > PAST {
                        self.live.drops.pop_front();
                    }
                }
                self.live.counted = Some(counted);
                self.live.failure = None;
            }
            Err(why) => self.live.failure = Some(why),
        }
    }

    /// Takes in what `status` says.
    pub fn status(&mut self, status: Status) {
        self.live.status = Some(status);
    }

    /// Takes in whether there are samples.
    pub fn sampling(&mut self, sampling: Sampling) {
        self.live.sampling = sampling;
    }

    /// Takes in a line of samples.
    pub fn line(&mut self, line: &Line) {
        self.live.sampling = Sampling::Live;
        match line {
            Line::Notice { .. } => {}
            Line::Gap { lost } => self.live.lost = self.live.lost.saturating_add(*lost),
            Line::Sample {
                verdict,
                source,
                client,
                weight,
            } => {
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let weight = *weight as f64;
                let who = client.unwrap_or(*source).ip();
                if let Some(sources) = self.live.sources.get_mut(verdict) {
                    sources.add(who, weight);
                }
                if let (Some(prefixes), Some(net)) = (self.live.prefixes.get_mut(verdict), prefix(who)) {
                    prefixes.add(net, weight);
                }
                self.live.samples.0 += 1.0;
                self.live.samples.1 += weight;
            }
        }
    }

    /// Takes in a key.
    pub fn press(&mut self, key: Key) {
        match key {
            Key::Quit => self.over = true,
            Key::Pause => {
                self.stopped = match self.stopped {
                    Some(_) => None,
                    None => Some(Box::new(self.live.clone())),
                };
            }
            Key::Turn { back } => {
                let here = Pane::ALL.iter().position(|pane| *pane == self.pane).unwrap_or(0);
                let step = if back { Pane::ALL.len() - 1 } else { 1 };
                let next = Pane::ALL.get((here + step) % Pane::ALL.len());
                self.pane = next.copied().unwrap_or_default();
                self.scroll = 0;
            }
            Key::Scroll { down } => {
                let step = usize::try_from(down.unsigned_abs()).unwrap_or(0);
                self.scroll = if down < 0 {
                    self.scroll.saturating_sub(step)
                } else {
                    self.scroll
                        .saturating_add(step)
                        .min(self.rows().saturating_sub(1))
                };
            }
            Key::Sort(sort) => self.sort = sort,
            Key::Verdict => {
                self.verdict = self.verdict.next();
                self.scroll = 0;
            }
        }
    }

    /// Whether it is to end.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    fn shown(&self) -> &Data {
        self.stopped.as_deref().unwrap_or(&self.live)
    }

    /// Rows of the pane that has the keys.
    fn rows(&self) -> usize {
        let data = self.shown();
        let counted = data.counted.as_ref();
        match self.pane {
            Pane::Gateways => counted.map_or(0, |c| c.gateways.len() + 1),
            Pane::Rules => counted.map_or(0, |c| c.rules.len()),
            Pane::Prefixes => data.prefixes.get(&self.verdict).map_or(0, |h| h.top().len()),
            Pane::Sources => data.sources.get(&self.verdict).map_or(0, |h| h.top().len()),
        }
    }
}

/// The /24 or /48 of an address.
fn prefix(addr: IpAddr) -> Option<IpNet> {
    Some(match addr {
        IpAddr::V4(a) => IpNet::V4(Ipv4Net::new(a, 24).ok()?.trunc()),
        IpAddr::V6(a) => IpNet::V6(Ipv6Net::new(a, 48).ok()?.trunc()),
    })
}

/// All gateways together, a second.
fn all(counted: &Counted) -> Rates {
    let blocks = counted.gateways.values().chain([&counted.unattributed]);
    let rates = blocks.filter_map(|block| block.all.per_second);
    rates.fold(Rates::default(), |sum, rates| Rates {
        passed: sum.passed + rates.passed,
        dropped: sum.dropped + rates.dropped,
        would_drop: sum.would_drop + rates.would_drop,
    })
}

/// All gateways together, since the counters began.
fn total(counted: &Counted) -> Packets {
    let blocks = counted.gateways.values().chain([&counted.unattributed]);
    blocks.fold(Packets::default(), |sum, block| sum.plus(block.all.packets))
}

fn whole(rate: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is neither negative nor beyond 2⁶⁴"
    )]
    let whole = rate.max(0.0).ceil() as u64;
    whole
}

#[cfg(test)]
mod tests;
