//! The course of one connection: until when it may last, and whether who asked takes what is sent.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::newcomer::Newcomer;

/// How long who asked may take nothing of what is sent. Longer, and nobody reads there any more, whatever the connection looks like.
const STUCK: Duration = Duration::from_secs(30);

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Course(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// Until when it may last; none for an endless answer.
    until: Option<Instant>,
    /// Since when nothing is taken of what is sent.
    stuck: Option<Instant>,
    /// While no token was shown.
    newcomer: Option<Newcomer>,
}

impl Course {
    /// Begins.
    pub(super) const fn new(until: Instant, newcomer: Option<Newcomer>) -> Self {
        Self(Mutex::new(Known {
            until: Some(until),
            stuck: None,
            newcomer,
        }))
    }

    /// Until when it may last from now on; none: for as long as somebody reads.
    pub(super) fn set(&self, until: Option<Instant>) {
        self.with(|known| known.until = until);
    }

    /// Who asked may.
    pub(super) fn known(&self) {
        drop(self.with(|known| known.newcomer.take()));
    }

    /// Waits until the connection has to end.
    pub(super) async fn over(&self) {
        /// How often it is looked at.
        const LOOK: Duration = Duration::from_secs(1);
        loop {
            let now = Instant::now();
            let end = self.with(|known| {
                let stuck = known.stuck.map(|since| since + STUCK);
                known.until.into_iter().chain(stuck).min()
            });
            if end.is_some_and(|end| end <= now) {
                return;
            }
            let look = now + LOOK;
            sleep_until(end.map_or(look, |end| end.min(look))).await;
        }
    }

    fn with<T>(&self, see: impl FnOnce(&mut Known) -> T) -> T {
        see(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.with(|known| match written {
            Poll::Ready(_) => known.stuck = None,
            Poll::Pending => {
                known.stuck.get_or_insert_with(Instant::now);
            }
        });
        written
    }
}

/// A connection whose writes are noted.
#[derive(Debug)]
pub(super) struct Noted<'a, I> {
    pub(super) io: I,
    pub(super) course: &'a Course,
}

impl<I: AsyncRead + Unpin> AsyncRead for Noted<'_, I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, to)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Noted<'_, I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.course.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_flush(cx);
        self.course.note(written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
