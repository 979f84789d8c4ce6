//! The lines of an endless answer.

use std::path::PathBuf;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{ClientError, Driver};

/// The longest line that is taken, in bytes.
const LONGEST: usize = 1 << 20;

/// Lines of an endless answer, one after the other. Dropped, the agent learns that nobody listens.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    ended: bool,
    split: Splitter,
    path: PathBuf,
    _driver: Driver,
}

impl Lines {
    pub(super) fn new(body: Incoming, driver: Driver, path: PathBuf) -> Self {
        Self {
            body,
            ended: false,
            split: Splitter::default(),
            path,
            _driver: driver,
        }
    }

    /// The next line, without its line feed; none: the agent has ended. May be dropped and called again.
    ///
    /// # Errors
    /// The connection broke: the agent ended without a word.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            match self.split.line() {
                // The agent lives and has nothing to say.
                Some(line) if line.is_empty() => continue,
                Some(line) => return Ok(Some(line)),
                None => {}
            }
            if self.ended {
                return Ok(self.split.rest());
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.split.push(&data);
                    }
                }
                Some(Err(source)) => {
                    return Err(ClientError::Closed {
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }
}

/// Cuts bytes into lines. What is longer than a line may be is cut off there.
#[derive(Debug, Default)]
struct Splitter {
    bytes: Vec<u8>,
    /// So many of them are searched already.
    seen: usize,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn line(&mut self) -> Option<String> {
        let rest = self.bytes.get(self.seen..).unwrap_or_default();
        let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
            self.seen = self.bytes.len();
            return (self.seen > LONGEST).then(|| self.rest()).flatten();
        };
        let tail = self.bytes.split_off(self.seen + at + 1);
        let mut line = std::mem::replace(&mut self.bytes, tail);
        self.seen = 0;
        line.pop();
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    fn rest(&mut self) -> Option<String> {
        self.seen = 0;
        let rest = std::mem::take(&mut self.bytes);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_any_pieces_then_the_same_lines() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\nrest";
        for size in 1..=text.len() {
            let (mut split, mut lines) = (Splitter::default(), Vec::new());
            for piece in text.chunks(size) {
                split.push(piece);
                lines.extend(std::iter::from_fn(|| split.line()));
            }
            lines.extend(split.rest());
            assert_eq!(lines, ["{\"a\":1}", "", "{\"b\":2}", "rest"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_an_end_then_cut() {
        let mut split = Splitter::default();
        split.push(&vec![b'x'; LONGEST + 1]);
        assert_eq!(split.line().map(|line| line.len()), Some(LONGEST + 1));
        assert_eq!(split.line(), None);
    }
}
