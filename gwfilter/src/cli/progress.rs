//! Progress of what takes longer than two seconds: a line that moves on a terminal; elsewhere, after ten, a plain one now and then. It
//! goes to standard error, so that answers and JSON on standard output are what they are without it.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What is over by then was no wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before the first plain line, and between two of them: nobody waits there, and a log is not to be filled.
const EVERY: Duration = Duration::from_secs(10);
/// Between two looks of the moving line.
const TICK: Duration = Duration::from_millis(120);

/// Something that goes on as long as this value lives.
#[derive(Debug)]
pub struct Progress {
    done: Arc<AtomicU64>,
    /// Nothing is sent: it is over when this goes.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins; `what` says what is done, `total` how many steps there are, where that is known.
    #[must_use]
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        Self::shown(move |done| text(what, done, total))
    }

    /// `now` says where it is, by the steps that are done.
    fn shown(now: impl Fn(u64) -> String + Send + 'static) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let (over, stopped) = channel();
        let seen = Arc::clone(&done);
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || show(&|| now(seen.load(Ordering::Relaxed)), &stopped));
        Self {
            done,
            over: Some(over),
            // Without a thread there is no progress to be seen, and nothing else is wrong.
            thread: thread.ok(),
        }
    }

    /// Something that takes so long, and whose only step is the time that goes by.
    #[must_use]
    pub fn timed(what: &'static str, time: Duration) -> Self {
        let (began, total) = (Instant::now(), time.as_secs().max(1));
        Self::shown(move |_| text(what, began.elapsed().as_secs().min(total), Some(total)))
    }

    /// One that shows nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self {
            done: Arc::default(),
            over: None,
            thread: None,
        }
    }

    /// How many steps are done; costs next to nothing.
    pub fn at(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn text(what: &str, done: u64, total: Option<u64>) -> String {
    match (done, total) {
        (0, None) => what.to_owned(),
        (done, None) => format!("{what}: {done}"),
        (done, Some(total)) => format!("{what}: {done} of {total}"),
    }
}

fn show(now: &dyn Fn() -> String, stopped: &Receiver<()>) {
    if !std::io::stderr().is_terminal() {
        plain(&mut std::io::stderr(), now, stopped, EVERY);
        return;
    }
    if is_over(stopped, PATIENCE) {
        return;
    }
    let bar = ProgressBar::new_spinner().with_elapsed(PATIENCE);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    loop {
        bar.set_message(now());
        bar.tick();
        if is_over(stopped, TICK) {
            break;
        }
    }
    bar.finish_and_clear();
}

fn plain(out: &mut impl Write, now: &dyn Fn() -> String, stopped: &Receiver<()>, every: Duration) {
    let mut said = String::new();
    while !is_over(stopped, every) {
        let text = now();
        if text != said {
            // Standard error may be closed; the work goes on.
            let _ = writeln!(out, "{text} …");
            said = text;
        }
    }
}

/// Waits; whether it ended meanwhile.
fn is_over(stopped: &Receiver<()>, wait: Duration) -> bool {
    stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_then_plain_lines_that_count() {
        let (over, stopped) = channel();
        let over = std::cell::RefCell::new(Some(over));
        let done = std::cell::Cell::new(0);
        let now = || {
            done.set(done.get() + 1);
            if done.get() == 5 {
                over.replace(None);
            }
            // Twice the same: nothing to say.
            text("queries answered", done.get() / 2 * 2, None)
        };
        let mut out = Vec::new();
        plain(&mut out, &now, &stopped, Duration::from_millis(1));
        insta::assert_snapshot!(String::from_utf8_lossy(&out), @r"
        queries answered …
        queries answered: 2 …
        queries answered: 4 …
        ");
        assert_eq!(text("waiting", 0, None), "waiting");
        assert_eq!(text("seconds observed", 3, Some(30)), "seconds observed: 3 of 30");
    }

    #[test]
    fn what_ends_at_once_then_nobody_waits_for_it() {
        let began = Instant::now();
        Progress::new("nothing", None).at(1);
        assert!(began.elapsed() < PATIENCE);
    }
}
