//! The sender: every stream at its rate, until told to stop.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use super::frame::{Stream, frame};
use super::kernel;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);
/// How many frames of a stream go at a time, at most: a sender that was kept from running catches up in steps that the queue of a
/// veth device (256 frames) takes.
const BURST: u32 = 40;

/// What the sender tells while it runs.
#[derive(Debug, Default)]
struct Wire {
    stop: AtomicBool,
    /// Numbers that every stream has behind it.
    sent: AtomicU64,
}

/// A sender at work; it ends when dropped.
#[derive(Debug)]
pub(super) struct Sender {
    wire: Arc<Wire>,
    thread: Option<JoinHandle<Result<Sent>>>,
}

/// What was sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// When, by stream and number, in nanoseconds of the monotonic clock: just before the call.
    pub(super) times: Vec<Vec<u64>>,
    /// When the device would not take a frame. It has no number: that was given to the next one.
    pub(super) refused: Vec<u64>,
    /// The longest time in which nothing was sent, when something was due.
    pub(super) longest_pause: u64,
    /// From begin to end.
    pub(super) took: Duration,
}

impl Sender {
    /// Begins. `rate` is frames a second and stream; no stream sends more than `numbers`.
    pub(super) fn start(
        socket: OwnedFd,
        streams: Vec<Stream>,
        macs: [[u8; 6]; 2],
        rate: u32,
        numbers: u32,
    ) -> Result<Self> {
        let wire = Arc::new(Wire::default());
        let theirs = wire.clone();
        let thread = std::thread::Builder::new()
            .name("meter sender".to_owned())
            .spawn(move || run(&theirs, &socket, &streams, macs, rate, numbers))
            .context("starting the meter's sender")?;
        Ok(Self {
            wire,
            thread: Some(thread),
        })
    }

    /// How many frames every stream has sent.
    pub(super) fn progress(&self) -> u64 {
        self.wire.sent.load(Ordering::SeqCst)
    }

    /// Whether it ended by itself.
    pub(super) fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends.
    pub(super) fn stop(&mut self) -> Result<Sent> {
        self.wire.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("the sender was stopped before")?;
        thread
            .join()
            .map_err(|_| anyhow!("the meter's sender panicked"))?
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.wire.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What one stream has behind it.
struct Lane {
    times: Vec<u64>,
    refused: Vec<u64>,
}

fn run(
    wire: &Wire,
    socket: &OwnedFd,
    streams: &[Stream],
    macs: [[u8; 6]; 2],
    rate: u32,
    numbers: u32,
) -> Result<Sent> {
    // Where it is not allowed, pauses are longer, and told.
    kernel::hurry();
    let lane = || Lane {
        times: Vec::with_capacity(numbers as usize),
        refused: Vec::new(),
    };
    let mut lanes: Vec<Lane> = streams.iter().map(|_| lane()).collect();
    let began = kernel::now();
    let (mut last, mut longest_pause) = (began, 0);
    while !wire.stop.load(Ordering::SeqCst) {
        let now = kernel::now();
        longest_pause = longest_pause.max(now - last);
        last = now;
        let due = (now - began).saturating_mul(u64::from(rate)) / 1_000_000_000;
        let mut behind = false;
        for ((which, stream), lane) in (0_u8..).zip(streams).zip(&mut lanes) {
            for _ in 0..BURST {
                let number = u32::try_from(lane.times.len()).unwrap_or(numbers);
                // What the device refuses is not made up for: it is as if that much time had passed.
                if number >= numbers || lane.done() >= due {
                    break;
                }
                let bytes = frame(stream, which, number, macs);
                let at = kernel::now();
                match send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT) {
                    Ok(_) => lane.times.push(at),
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::ENETDOWN | Errno::ENOBUFS) => lane.refused.push(at),
                    Err(error) => return Err(error).context("sending a frame of the meter"),
                }
            }
            behind |= lane.done() < due;
        }
        let sent = lanes.iter().map(|lane| lane.times.len()).min().unwrap_or(0);
        wire.sent.store(sent as u64, Ordering::SeqCst);
        if sent >= numbers as usize {
            break;
        }
        std::thread::sleep(if behind { TICK / 4 } else { TICK });
    }
    Ok(Sent {
        refused: lanes.iter().flat_map(|lane| lane.refused.clone()).collect(),
        times: lanes.into_iter().map(|lane| lane.times).collect(),
        longest_pause,
        took: Duration::from_nanos(kernel::now() - began),
    })
}

impl Lane {
    fn done(&self) -> u64 {
        (self.times.len() + self.refused.len()) as u64
    }
}
