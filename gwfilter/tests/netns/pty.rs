//! A terminal of the kernel's own, for programs that need one: what they write to it, and how they leave it.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::poll;

/// How long a program may take to show something, or to end.
const SOON: Duration = Duration::from_secs(30);

/// What a program may change of a terminal (`struct termios`).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    flags: [u32; 4],
    characters: Vec<u8>,
}

/// A program at a terminal of its own. Killed when dropped.
pub(crate) struct AtTerminal {
    child: Child,
    keys: File,
    terminal: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl AtTerminal {
    /// Starts `command` at a terminal of 120 columns and 30 rows.
    pub(crate) fn start(mut command: Command) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize {
            ws_row: 30,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the kernel writes two numbers and reads a size, all of which live through the call; name and modes are not asked for.
        let opened = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(opened, 0, "a terminal");
        // SAFETY: both descriptors were just made, and nobody else has them.
        let (master, terminal) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let end = || Stdio::from(terminal.try_clone().expect("another handle"));
        command.stdin(end()).stdout(end()).stderr(end());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.spawn().expect("started");
        let keys = File::from(master.try_clone().expect("another handle"));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, into) = (File::from(master), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                into.lock()
                    .expect("whole")
                    .extend(bytes.get(..n).unwrap_or_default());
            }
        });
        Self {
            child,
            keys,
            terminal,
            shown,
        }
    }

    /// How the terminal is set now.
    pub(crate) fn modes(&self) -> Modes {
        let mut modes = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the kernel fills in all of it if it says that it did.
        let modes = unsafe {
            assert_eq!(libc::tcgetattr(self.terminal.as_raw_fd(), modes.as_mut_ptr()), 0);
            modes.assume_init()
        };
        Modes {
            flags: [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag],
            characters: modes.c_cc.to_vec(),
        }
    }

    /// All that was written so far, with its escape sequences.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("whole")).into_owned()
    }

    /// Waits until something is shown.
    #[track_caller]
    pub(crate) fn wait_for(&self, part: &str) {
        let found = poll::until(SOON, || self.shown().contains(part).then_some(()));
        assert!(found.is_some(), "{part:?} in {:?}", self.shown());
    }

    /// Types.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill(pid, signal).expect("sent");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let status = poll::until(SOON, || self.child.try_wait().expect("waited for"));
        status.unwrap_or_else(|| panic_with(&self.shown()))
    }
}

#[track_caller]
#[expect(clippy::panic, reason = "a helper of tests: its panic is the report")]
fn panic_with(shown: &str) -> ! {
    panic!("it does not end: {shown:?}")
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
