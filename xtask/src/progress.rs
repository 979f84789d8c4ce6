//! Progress of what takes longer than two seconds and says nothing by itself: a line that moves on a terminal, and elsewhere a plain
//! one now and then. All of it goes to standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// What is over by then was no wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two plain lines.
const EVERY: Duration = Duration::from_secs(30);
/// Between two looks of the moving line.
const TICK: Duration = Duration::from_millis(120);

/// The moving lines, several where work goes on side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Work that goes on as long as this value lives.
pub(crate) struct Step {
    text: Arc<Mutex<String>>,
    /// Nothing is sent: it is over when this goes.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Begins a step.
pub(crate) fn step(what: impl Display) -> Step {
    let text = Arc::new(Mutex::new(what.to_string()));
    let (over, stopped) = channel();
    let shown = Arc::clone(&text);
    let thread = std::thread::spawn(move || show(&shown, &stopped));
    Step {
        text,
        over: Some(over),
        thread: Some(thread),
    }
}

impl Step {
    /// How far it is.
    pub(crate) fn at(&self, what: impl Display) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = what.to_string();
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes something else, beside the moving lines and not into them.
pub(crate) fn aside<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

fn show(text: &Mutex<String>, stopped: &Receiver<()>) {
    let began = Instant::now();
    if is_over(stopped, PATIENCE) {
        return;
    }
    if !std::io::stderr().is_terminal() {
        plain(&mut std::io::stderr(), text, began, stopped, EVERY);
        return;
    }
    let bar = BARS.add(ProgressBar::new_spinner().with_elapsed(began.elapsed()));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    loop {
        bar.set_message(now(text));
        bar.tick();
        if is_over(stopped, TICK) {
            break;
        }
    }
    bar.finish_and_clear();
    BARS.remove(&bar);
}

fn plain(
    out: &mut impl Write,
    text: &Mutex<String>,
    began: Instant,
    stopped: &Receiver<()>,
    every: Duration,
) {
    while !is_over(stopped, every) {
        let _ = writeln!(
            out,
            "still at it after {} s: {}",
            began.elapsed().as_secs(),
            now(text)
        );
    }
}

fn now(text: &Mutex<String>) -> String {
    text.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Waits; whether the step ended meanwhile.
fn is_over(stopped: &Receiver<()>, wait: Duration) -> bool {
    stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends the step when two lines are there.
    struct Two(String, Option<Sender<()>>);

    impl Write for Two {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push_str(&String::from_utf8_lossy(bytes));
            if self.0.lines().count() == 2 && self.0.ends_with('\n') {
                self.1 = None;
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn work_that_lasts_then_plain_lines_until_it_ends() {
        let (over, stopped) = channel();
        let mut out = Two(String::new(), Some(over));
        let text = Mutex::new("kernel: 3 passed".to_owned());
        plain(
            &mut out,
            &text,
            Instant::now(),
            &stopped,
            Duration::from_millis(1),
        );
        let line = "still at it after 0 s: kernel: 3 passed\n";
        assert_eq!(out.0, line.repeat(2));
    }

    #[test]
    fn step_that_ends_at_once_then_nobody_waits_for_it() {
        let began = Instant::now();
        let step = step("nothing");
        step.at("nearly done");
        drop(step);
        assert!(began.elapsed() < PATIENCE);
    }
}
