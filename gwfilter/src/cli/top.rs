//! `gwfilter top`: the terminal, and who feeds [`Top`]. What is shown is decided there.
//!
//! The terminal is left as it was found however this ends: by a key, a signal that can be caught, an error or a panic.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::client::{self, Agent};
use crate::counted::Counted;
use crate::dataplane::seen::programs;
use crate::status::Status;
use crate::survey;
use crate::telemetry::chain;
use crate::top::{Key, Line, Sampling, Sort, Top, view};

/// Time between two readings.
const EVERY: Duration = Duration::from_secs(1);
/// Readings from one look at programs, leases and tables to the next.
const STATUS: u64 = 5;
/// Time until the agent is asked for samples again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a key may wait for its thread to end.
const KEYS: Duration = Duration::from_millis(100);
/// What the agent is asked for.
const SAMPLES: &str = "/v1/samples?rate=1000";

/// Arguments of `gwfilter top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that the agent was given by the same flag
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gwfilter")]
    state_dir: PathBuf,
}

/// Shows rates until a key or a signal ends it.
///
/// # Errors
/// Standard output is no terminal, there are no counters, or the terminal fails.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !io::stdout().is_terminal() {
        bail!(
            "`top` needs a terminal; `gwfilter counters --watch` prints the same rates, `gwfilter monitor` single verdicts, both for pipes too"
        );
    }
    let places = survey::places(&args.state_dir);
    // Said while there is a line to say it in.
    survey::counted(&places).context("the counters cannot be read (root can)")?;
    let ended = on_screen(|terminal| client::block_on(watch(terminal, places.into())))
        .context("the terminal cannot be used")??;
    Ok(match ended {
        Ended::Key => ExitCode::SUCCESS,
        // As the shell says it of a command that a signal ended.
        Ended::Signal(number) => ExitCode::from(128_u8.saturating_add(number)),
    })
}

/// Runs `work` with the terminal in its hands, and puts everything back: at the end, at an error, and at a panic.
///
/// # Errors
/// It is no terminal that can be used.
pub fn on_screen<T>(work: impl FnOnce(&mut DefaultTerminal) -> T) -> io::Result<T> {
    /// Puts back what [`ratatui::try_init`] changed.
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            // At a panic ratatui's hook has done it, before the panic's words: doing it again would set the cursor upon them.
            if !thread::panicking() {
                // Nobody is left to be told, and there is nothing else to try.
                let _ = ratatui::try_restore();
            }
        }
    }
    let _back = Back;
    let mut terminal = ratatui::try_init()?;
    Ok(work(&mut terminal))
}

/// What ended it.
enum Ended {
    Key,
    Signal(u8),
}

async fn watch(terminal: &mut DefaultTerminal, places: Arc<[PathBuf]>) -> anyhow::Result<Ended> {
    let mut top = Top::default();
    let mut keys = Keys::listen();
    let mut samples = samples();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<(Counted, Instant)> = None;
    for round in 0_u64.. {
        let (counted, status) = read(&places, round.is_multiple_of(STATUS)).await?;
        let at = Instant::now();
        match counted {
            Ok(now) => {
                let rated = match &before {
                    Some((before, then)) => now.clone().after(before, (at - *then).as_secs_f64()),
                    None => now.clone(),
                };
                before = Some((now, at));
                top.counted(Ok(rated));
            }
            Err(why) => top.counted(Err(why)),
        }
        status.into_iter().for_each(|status| top.status(status));
        draw(terminal, &top)?;
        // Samples change the picture at the next reading, keys at once.
        loop {
            tokio::select! {
                _ = tick.tick() => break,
                Some(pressed) = keys.pressed.recv() => {
                    if let Some(key) = pressed? {
                        top.press(key);
                    }
                    if top.is_over() {
                        return Ok(Ended::Key);
                    }
                    draw(terminal, &top)?;
                }
                Some(news) = samples.recv() => match news {
                    Ok(line) => top.line(&line),
                    Err(sampling) => top.sampling(sampling),
                },
                _ = terminate.recv() => return Ok(Ended::Signal(15)),
                _ = interrupt.recv() => return Ok(Ended::Signal(2)),
                _ = hangup.recv() => return Ok(Ended::Signal(1)),
            }
        }
    }
    Ok(Ended::Key)
}

fn draw(terminal: &mut DefaultTerminal, top: &Top) -> anyhow::Result<()> {
    let now = survey::now();
    let drawn = terminal.draw(|frame| view::draw(top, now, frame));
    drawn.context("the terminal cannot be written").map(drop)
}

/// The counters, or why they cannot be read; and what `status` says, if that is asked for.
async fn read(
    places: &Arc<[PathBuf]>,
    with_status: bool,
) -> anyhow::Result<(Result<Counted, String>, Option<Status>)> {
    let places = Arc::clone(places);
    let read = spawn_blocking(move || {
        let counted = survey::counted(&places).map_err(|e| chain(&e));
        // What `status` cannot learn, the counters cannot either, and say.
        let status = with_status.then(|| survey::status(&places, &programs()).ok());
        (counted, status.flatten())
    });
    read.await.context("reading the counters failed")
}

/// Lines of samples, and what becomes of them. The task ends with the receiver.
fn samples() -> mpsc::Receiver<Result<Line, Sampling>> {
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        loop {
            let why = follow(&sender).await;
            let none =
                format!("No sources: they are learnt from samples, which only a running agent takes. {why}");
            if sender.send(Err(Sampling::None(none))).await.is_err() {
                return;
            }
            sleep(AGAIN).await;
        }
    });
    receiver
}

/// Passes lines on; gives back why there are no more.
async fn follow(to: &mpsc::Sender<Result<Line, Sampling>>) -> String {
    let mut lines = match Agent::here().lines(SAMPLES).await {
        Ok(lines) => lines,
        Err(e) => return chain(&e),
    };
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return "The agent ended.".to_owned(),
            Err(e) => return chain(&e),
        };
        let Ok(line) = serde_json::from_str(&line) else {
            return "The agent's samples are not understood: it is of another version.".to_owned();
        };
        if to.send(Ok(line)).await.is_err() {
            return String::new();
        }
    }
}

/// The thread that waits for keys. Dropped, it ends within [`KEYS`], and is waited for: nobody reads the terminal after us.
struct Keys {
    /// A key, or `None` for anything else that changes the picture.
    pressed: mpsc::Receiver<io::Result<Option<Key>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    fn listen() -> Self {
        let (sender, pressed) = mpsc::channel(16);
        let over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let news = match event::poll(KEYS) {
                    Ok(false) => continue,
                    Ok(true) => event::read().map(|event| key_of(&event)),
                    Err(e) => Err(e),
                };
                let failed = news.is_err();
                if sender.blocking_send(news).is_err() || failed {
                    return;
                }
            }
        });
        Self {
            pressed,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Or it would wait for room for ever.
        self.pressed.close();
        if let Some(thread) = self.thread.take() {
            // Its panic was told by its own hook.
            let _ = thread.join();
        }
    }
}

fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press | KeyEventKind::Repeat,
        ..
    }) = event
    else {
        return None;
    };
    Some(match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('p') => Key::Pause,
        KeyCode::Tab | KeyCode::Right => Key::Turn { back: false },
        KeyCode::BackTab | KeyCode::Left => Key::Turn { back: true },
        KeyCode::Down => Key::Scroll { down: 1 },
        KeyCode::Up => Key::Scroll { down: -1 },
        KeyCode::PageDown => Key::Scroll { down: 10 },
        KeyCode::PageUp => Key::Scroll { down: -10 },
        KeyCode::Char('d') => Key::Sort(Sort::Dropped),
        KeyCode::Char('a') => Key::Sort(Sort::Passed),
        KeyCode::Char('w') => Key::Sort(Sort::WouldDrop),
        KeyCode::Char('n') => Key::Sort(Sort::Name),
        KeyCode::Char('v') => Key::Verdict,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_that_is_shown_then_what_it_says() {
        let pressed = |code, modifiers| key_of(&Event::Key(KeyEvent::new(code, modifiers)));
        for (code, key) in [
            (KeyCode::Char('q'), Some(Key::Quit)),
            (KeyCode::Char('p'), Some(Key::Pause)),
            (KeyCode::Tab, Some(Key::Turn { back: false })),
            (KeyCode::Left, Some(Key::Turn { back: true })),
            (KeyCode::Up, Some(Key::Scroll { down: -1 })),
            (KeyCode::Char('d'), Some(Key::Sort(Sort::Dropped))),
            (KeyCode::Char('v'), Some(Key::Verdict)),
            (KeyCode::Char('c'), None),
            (KeyCode::Char('x'), None),
        ] {
            assert_eq!(pressed(code, KeyModifiers::NONE), key, "{code:?}");
        }
        assert_eq!(
            pressed(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Key::Quit)
        );
        assert_eq!(key_of(&Event::Resize(80, 24)), None);
    }
}
