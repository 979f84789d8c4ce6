//! The leak meter: numbered streams that must never arrive, and others that must always arrive, at one device.
//!
//! Frames come out of a packet socket at the other end of the cable, at a steady rate. At the device, the last program of the TCX
//! chain writes down when each number came, and swallows the frame: it sees what native or generic XDP and every TCX program before
//! it let through, and the stack sees none of it. It writes into an array with a cell for each number, so there is no queue that
//! could overflow between the device and the count.
//!
//! What the meter cannot know is not a pass: frames that the cable lost, arrived twice, were never sent, or came too slowly are
//! doubts ([`Outcome::doubts`]), and a run with a doubt says nothing.

mod account;
mod frame;
mod kernel;
mod program;
mod send;

use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

pub use account::Account;
pub use frame::{Fate, Kind, Stream};

use crate::bpf::{self, ProgramKind};
use crate::netns::Namespace;
use crate::poll;
use kernel::Words;
use send::Sender;

/// Numbers a stream has, at most.
const NUMBERS: u32 = 1 << 20;
/// How long frames may be on their way when the sender has stopped.
const LAST: Duration = Duration::from_secs(2);
/// A frame that was sent this long before the link went down may have been in a queue of the device.
const IN_FLIGHT: u64 = 10_000_000;

/// One end of the cable.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Whose.
    pub namespace: &'a Namespace,
    /// The device.
    pub device: &'a str,
}

/// A meter at work.
#[derive(Debug)]
pub struct Meter<'a> {
    from: End<'a>,
    to: End<'a>,
    streams: Vec<Stream>,
    rate: u32,
    words: Words,
    sender: Sender,
    cable: Cable,
    down: Vec<Range<u64>>,
    /// The program stays attached as long as this is open.
    _link: OwnedFd,
}

/// What became of all streams.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One for each stream, in their order.
    pub accounts: Vec<Account>,
    /// The longest time in which the sender did not get to run, in nanoseconds.
    pub longest_pause: u64,
    /// Why this run cannot be relied upon; empty: it can.
    pub doubts: Vec<String>,
}

impl<'a> Meter<'a> {
    /// Attaches the counting program to `to` and begins to send from `from`: each stream `rate` frames a second.
    ///
    /// # Errors
    /// If the kernel refuses the program (it takes root, and Linux 6.6) or a device is not there.
    pub fn start(from: End<'a>, to: End<'a>, streams: Vec<Stream>, rate: u32) -> Result<Self> {
        if streams.iter().any(|stream| stream.to.is_empty()) {
            bail!("a stream of the meter goes nowhere");
        }
        let count = u8::try_from(streams.len())
            .ok()
            .filter(|count| *count < frame::FIRST_DATA);
        let count = count.context("more streams than the meter has numbers for")?;
        let words = Words::new(u32::from(count) * NUMBERS + 1).context("making the meter's array")?;
        let code = program::program(words.as_fd(), i32::from(count), NUMBERS.cast_signed());
        let link = to
            .namespace
            .enter(|| {
                bpf::load(ProgramKind::Tc, &code).and_then(|program| kernel::attach_last(&program, to.device))
            })?
            .with_context(|| format!("attaching the counting program to {}", to.device))?;
        let socket = from
            .namespace
            .enter(|| kernel::packet_socket(from.device))?
            .with_context(|| format!("opening a packet socket on {}", from.device))?;
        let macs = [to.mac()?, from.mac()?];
        let cable = Cable::read(from, to)?;
        let sender = Sender::start(socket, streams.clone(), macs, rate, NUMBERS)?;
        Ok(Self {
            from,
            to,
            streams,
            rate,
            words,
            sender,
            cable,
            down: Vec::new(),
            _link: link,
        })
    }

    /// Lets the streams run for a while.
    ///
    /// # Errors
    /// If the sender cannot go on.
    pub fn run_for(&self, time: Duration) -> Result<()> {
        let wanted = u64::try_from(time.as_micros()).unwrap_or(u64::MAX) * u64::from(self.rate) / 1_000_000;
        let until = self.sender.progress() + wanted;
        poll::until(time * 10 + LAST, || {
            (self.sender.progress() >= until || self.sender.ended()).then_some(())
        });
        if self.sender.progress() < until {
            bail!("the meter's sender is stuck or has no numbers left: make the run shorter");
        }
        Ok(())
    }

    /// Takes the link down, does `meanwhile`, and brings it up again. Frames of this time need not arrive.
    ///
    /// # Errors
    /// If `ip` or `meanwhile` fails.
    pub fn without_link(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let set = |state| {
            self.to
                .namespace
                .ip(&["link", "set", self.to.device, state])
                .map(drop)
        };
        let since = kernel::now().saturating_sub(IN_FLIGHT);
        set("down")?;
        let done = meanwhile();
        set("up")?;
        let up = poll::until(LAST, || (self.from.read("carrier").ok()? == 1).then_some(()));
        self.down.push(since..kernel::now());
        up.context("the link did not come up again")?;
        done
    }

    /// Stops the streams and counts.
    ///
    /// # Errors
    /// If the sender failed, or a counter of a device cannot be read.
    pub fn stop(mut self) -> Result<Outcome> {
        let sent = self.sender.stop()?;
        let count = |down: &[Range<u64>]| -> Vec<Account> {
            let each = self.streams.iter().zip(&sent.times).enumerate();
            each.map(|(which, (stream, times))| {
                let base = which * NUMBERS as usize;
                account::account(
                    &stream.name,
                    stream.fate,
                    times,
                    |number| self.words.get(base + number),
                    NUMBERS as usize,
                    down,
                )
            })
            .collect()
        };
        // The last frames may still be on their way.
        let missing = |accounts: &[Account]| accounts.iter().any(|a| a.fate == Fate::Always && a.wrong != 0);
        let mut accounts = count(&self.down);
        if missing(&accounts) {
            poll::every(Duration::from_millis(100), LAST, || {
                accounts = count(&self.down);
                (!missing(&accounts)).then_some(())
            });
        }
        let mut doubts = Vec::new();
        let mut doubt = |so: bool, text: String| {
            if so {
                doubts.push(text);
            }
        };
        let total: u64 = accounts.iter().map(|a| a.sent).sum();
        let excused: u64 = accounts.iter().map(|a| a.excused).sum();
        let refused = sent.refused.iter();
        let refused = refused
            .filter(|at| !self.down.iter().any(|d| d.contains(at)))
            .count();
        doubt(
            refused != 0,
            format!(
                "{} would not take {refused} frames while the link was up",
                self.from.device
            ),
        );
        let (cable, before) = (Cable::read(self.from, self.to)?, self.cable);
        let lost = cable.dropped.saturating_sub(before.dropped);
        doubt(
            lost > excused + sent.refused.len() as u64,
            format!("the cable lost {lost} frames; {excused} were sent without a link"),
        );
        let received = cable.received.saturating_sub(before.received);
        doubt(
            received + excused < total,
            format!("{} received {received} of {total} frames", self.to.device),
        );
        let twice = self.words.get(accounts.len() * NUMBERS as usize);
        doubt(twice != 0, format!("{twice} frames came twice"));
        let strays: u64 = accounts.iter().map(|a| a.strays).sum();
        doubt(strays != 0, format!("{strays} frames came that nobody sent"));
        let least = self.expected(sent.took, &sent.refused);
        for account in &accounts {
            doubt(
                account.sent < least,
                format!(
                    "{}: {} frames in {:?}, {least} are the least",
                    account.name, account.sent, sent.took
                ),
            );
        }
        Ok(Outcome {
            accounts,
            longest_pause: sent.longest_pause,
            doubts,
        })
    }

    /// The frames that a stream has to have sent for its rate to be worth the name: 95 of 100, but for those that were refused.
    fn expected(&self, took: Duration, refused: &[u64]) -> u64 {
        let due = u64::try_from(took.as_millis()).unwrap_or(u64::MAX) * u64::from(self.rate) / 1000;
        (due * 95 / 100).saturating_sub(refused.len() as u64)
    }
}

/// What the two devices have counted.
#[derive(Clone, Copy, Debug)]
struct Cable {
    received: u64,
    dropped: u64,
}

impl Cable {
    fn read(from: End<'_>, to: End<'_>) -> Result<Self> {
        let count = |end: End<'_>, what: &str| end.read(&format!("statistics/{what}"));
        Ok(Self {
            received: count(to, "rx_packets")?,
            dropped: count(from, "tx_dropped")? + count(to, "rx_dropped")?,
        })
    }
}

impl End<'_> {
    fn text(&self, what: &str) -> Result<String> {
        let path = format!("/sys/class/net/{}/{what}", self.device);
        self.namespace
            .enter(|| std::fs::read_to_string(&path))?
            .with_context(|| format!("reading {path} in `{}`", self.namespace.label()))
    }

    fn read(&self, what: &str) -> Result<u64> {
        let text = self.text(what)?;
        text.trim()
            .parse()
            .with_context(|| format!("`{what}` of {} is no number", self.device))
    }

    fn mac(&self) -> Result<[u8; 6]> {
        let text = self.text("address")?;
        let mut mac = [0; 6];
        for (byte, part) in mac.iter_mut().zip(text.trim().split(':')) {
            *byte =
                u8::from_str_radix(part, 16).with_context(|| format!("the address of {}", self.device))?;
        }
        Ok(mac)
    }
}
