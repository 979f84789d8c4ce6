//! Who watches verdicts: while somebody does, the twins that sample are in place; what they write goes to each as far as the reader keeps up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gwfilter_common::abi::sample::{Sampler, Sampling};
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{info, warn};

use super::Agent;
use crate::control::Span;
use crate::dataplane::control::now_ns;
use crate::samples::filter::Filter;
use crate::samples::share::{Share, Weighed};
use crate::samples::weigh::{Weights, next_mask, sampling};
use crate::samples::{Line, Message, Notice, Verdict};
use crate::telemetry::chain;

/// Time between two readings of the ring, while somebody watches. It holds what comes in between many times over.
pub(super) const READ: Duration = Duration::from_millis(50);
/// Lines that wait for a reader; what comes beyond them is lost to it.
const LINES: usize = 4096;

/// One who watches.
#[derive(Debug)]
struct Watcher {
    share: Share,
    lines: mpsc::Sender<Bytes>,
}

/// All who watch, and what is known between two readings.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Watcher>,
    weights: Weights,
    masks: [u64; 3],
    /// How much is written now.
    sampling: Sampling,
    /// Looked at, by verdict and CPU, and lost in all, at the last reading.
    looked: [Vec<u64>; 3],
    lost: u64,
    read_ns: u64,
    /// Why the plain programs are not all back although nobody watches.
    left: Option<String>,
}

impl Watchers {
    /// Whether somebody watches.
    pub(super) fn any(&self) -> bool {
        !self.all.is_empty()
    }
}

fn bytes(message: &Message) -> Option<Bytes> {
    let mut text = serde_json::to_vec(message).ok()?;
    text.push(b'\n');
    Some(text.into())
}

fn notice(words: String) -> Option<Bytes> {
    bytes(&Message::Notice(Notice { notice: words }))
}

impl Agent {
    /// Begins to send samples to somebody.
    pub(super) fn watch_samples(&mut self, filter: Filter) -> mpsc::Receiver<Bytes> {
        let (lines, receiver) = mpsc::channel(LINES);
        let mut notices = self.in_the_way();
        let first = !self.watchers.any();
        if first {
            notices.extend(self.sample());
        }
        for text in notices.into_iter().filter_map(notice) {
            // The channel is new: there is room.
            let _ = lines.try_send(text);
        }
        let share = Share::new(filter, now_ns());
        self.watchers.all.push(Watcher { share, lines });
        self.write_sampling();
        receiver
    }

    /// Why nothing is dropped, if nothing is.
    fn in_the_way(&mut self) -> Vec<String> {
        let mut notices = Vec::new();
        if self.settings.observe {
            notices.push(
                "observe mode: nothing is dropped; what would be is told as would-drop (the agent runs with --observe)".to_owned(),
            );
        }
        let now = now_ns();
        if let Ok(words) = self.dataplane.control().words() {
            match Span::of(now, words.paused) {
                Span::Over => {}
                Span::Forever | Span::For(_) => notices.push(
                    "paused: nothing is dropped; what would be is told as would-drop (`gwfilter resume` ends it)".to_owned(),
                ),
            }
            if Span::of(now, words.lease) == Span::Over {
                notices.push(
                    "the lease has run out: nothing is dropped, reason lease-expired (`gwfilter status` tells why)".to_owned(),
                );
            }
        }
        if !self.interfaces.content() {
            notices.push(
                "no interface is served: nothing is judged here (`gwfilter status` tells why)".to_owned(),
            );
        }
        notices
    }

    /// Puts the twins in place; what is not sampled, for people.
    fn sample(&mut self) -> Vec<String> {
        let unsampled = match self.dataplane.sample() {
            Ok(unsampled) => unsampled,
            Err(e) => vec![format!("the pins cannot be listed: {}", chain(&e))],
        };
        for text in &unsampled {
            warn!(
                reason = text,
                "not everything is sampled; enforcement is what it was"
            );
        }
        if unsampled.is_empty() {
            info!("somebody watches: verdicts are sampled");
        }
        // What was sampled for earlier listeners is nobody's now, and what counters counted meanwhile no sample's.
        self.dataplane.samples();
        self.watchers.weights = Weights::default();
        self.watchers.masks = [0; 3];
        self.watchers.left = None;
        (self.watchers.looked, self.watchers.lost) = self.samplers();
        self.watchers.read_ns = now_ns();
        unsampled
            .into_iter()
            .map(|text| format!("not everything is sampled: {text}"))
            .collect()
    }

    /// Puts the plain programs back, if nobody watches any more. What fails is tried again when this is called again.
    pub(super) fn stop_sampling_if_unwatched(&mut self) {
        if self.watchers.any() || !(self.dataplane.is_sampling() || self.watchers.left.is_some()) {
            return;
        }
        let left = match self.dataplane.stop_sampling() {
            Ok(left) => left.into_iter().next(),
            Err(e) => Some(chain(&e)),
        };
        match &left {
            None => info!("nobody watches any more: verdicts are not sampled"),
            Some(why) if self.watchers.left.as_ref() != Some(why) => {
                warn!(
                    reason = why,
                    "a program that samples is still in place; it judges as the plain one does, and is exchanged later"
                );
            }
            Some(_) => {}
        }
        self.watchers.left = left;
        self.write_sampling();
    }

    /// Tells the programs how much to write.
    fn write_sampling(&mut self) {
        let cpus = self.watchers.looked.first().map_or(1, Vec::len);
        let filters = self.watchers.all.iter().map(|watcher| watcher.share.filter());
        let cpus = u64::try_from(cpus).unwrap_or(1);
        let sampling = sampling(filters, &self.watchers.masks, cpus);
        match self.dataplane.set_sampling(sampling) {
            Ok(()) => {
                self.watchers.weights.change(&self.watchers.sampling, &sampling);
                self.watchers.sampling = sampling;
            }
            Err(e) => warn!(error = chain(&e), "how much is sampled cannot be set"),
        }
    }

    /// What was looked at by verdict and CPU, and lost in all.
    fn samplers(&self) -> ([Vec<u64>; 3], u64) {
        let Ok([pass, drop, would, _]) = self.dataplane.samplers() else {
            return (self.watchers.looked.clone(), self.watchers.lost);
        };
        let looked = |samplers: &[Sampler]| samplers.iter().map(|s| s.looked).collect();
        let lost = [&pass, &drop, &would]
            .into_iter()
            .flatten()
            .map(|sampler| sampler.lost)
            .sum();
        ([looked(&pass), looked(&drop), looked(&would)], lost)
    }

    /// Reads the ring, and sends what is in it to who wants it.
    pub(super) fn tell_samples(&mut self) {
        let now = now_ns();
        let samples = self.dataplane.samples();
        let wall_ns = wall_ns(now);
        let (names, interfaces) = (self.enforcer.names(), &self.interfaces);
        let watchers = &mut self.watchers;
        let mut lines = Vec::with_capacity(samples.len());
        for sample in &samples {
            let weight = watchers.weights.of(sample);
            let line = Line::of(sample, weight, wall_ns, names, |index| interfaces.name(index));
            let key = (sample.listener, sample.reason);
            lines.extend(line.map(|line| Weighed { key, line }));
        }
        lines.sort_by(|a, b| a.line.time.cmp(&b.line.time));
        let (looked, lost) = self.samplers();
        let watchers = &mut self.watchers;
        let lost_now = lost.saturating_sub(watchers.lost);
        watchers.all.retain_mut(|watcher| {
            if lost_now > 0 {
                watcher.share.lost(lost_now);
            }
            watcher.send(&lines, now)
        });
        let elapsed = now.saturating_sub(watchers.read_ns);
        let mut masks = watchers.masks;
        for verdict in Verdict::ALL {
            let (Some(mask), Some(before), Some(after)) = (
                masks.get_mut(verdict.index()),
                watchers.looked.get(verdict.index()),
                looked.get(verdict.index()),
            ) else {
                continue;
            };
            let busiest = after.iter().zip(before).map(|(a, b)| a.saturating_sub(*b)).max();
            *mask = next_mask(*mask, busiest.unwrap_or_default(), elapsed);
        }
        let changed = masks != watchers.masks;
        (watchers.masks, watchers.looked, watchers.lost, watchers.read_ns) = (masks, looked, lost, now);
        if changed && watchers.any() {
            self.write_sampling();
        }
        self.stop_sampling_if_unwatched();
    }
}

impl Watcher {
    /// Sends what is this one's part; false if nobody listens any more.
    fn send(&mut self, lines: &[Weighed], now: u64) -> bool {
        if self.lines.is_closed() {
            return false;
        }
        for line in self.share.choose(lines, now) {
            let text = bytes(&Message::Sample(Box::new(line.line.clone())));
            match text.map(|text| self.lines.try_send(text)) {
                Some(Ok(())) => self.share.sent(&line),
                Some(Err(TrySendError::Full(_))) | None => self.share.not_sent(&line),
                Some(Err(TrySendError::Closed(_))) => return false,
            }
        }
        if let Some(loss) = self.share.due(now)
            && let Some(text) = bytes(&Message::Loss(loss))
            && self.lines.try_send(text).is_ok()
        {
            self.share.told(loss, now);
        }
        true
    }
}

/// What to add to the monotonic clock, which says `now`, for nanoseconds since 1970.
fn wall_ns(now: u64) -> i128 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(wall.as_nanos()).unwrap_or_default() - i128::from(now)
}
