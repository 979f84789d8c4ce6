//! Multi-document YAML and JSON to documents.
//!
//! The only place that knows the YAML library. What it makes of a text is what `kubectl` makes of it, or an error:
//! never a part of it. A text with one broken document is unreadable as a whole, since the rest of a broken file need
//! not mean what it seems to.

mod value;

use std::fmt;

use serde_json::Value;

/// One document of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its number in the file, from 1; empty ones count.
    pub number: usize,
    /// Its content, an object.
    pub value: Value,
}

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// The text is not UTF-8.
    #[error("the text is not UTF-8 (first at byte {at}): save it as UTF-8")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// A syntax error, a duplicate key, an alias that grows beyond bounds, …
    #[error("document {document}{}: {message}", At(.position))]
    Broken {
        /// Number of the document, from 1.
        document: usize,
        /// Where in the file, if that is known.
        position: Option<Position>,
        /// What is wrong.
        message: String,
    },
    /// A document that is a list or a scalar.
    #[error("document {document} is {found}, not an object with apiVersion and kind")]
    NotAnObject {
        /// Number of the document, from 1.
        document: usize,
        /// What it is.
        found: &'static str,
    },
}

struct At<'a>(&'a Option<Position>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Position { line, column }) => write!(f, ", line {line} column {column}"),
            None => Ok(()),
        }
    }
}

/// Reads all documents of a manifest. Empty ones are left out.
///
/// # Errors
/// The first thing that is wrong; nothing of the text may be used then.
pub fn parse(bytes: &[u8]) -> Result<Vec<Document>, ManifestError> {
    let text = std::str::from_utf8(bytes).map_err(|e| ManifestError::NotUtf8 { at: e.valid_up_to() })?;
    // The YAML library takes a byte-order mark before CRLF for content.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let budget = value::Budget::new(text.len());
    let documents = match json(text, &budget) {
        Some(documents) => documents,
        None => yaml(text, &value::Budget::new(text.len()))?,
    };
    let mut found = Vec::new();
    for (index, value) in documents.into_iter().enumerate() {
        let number = index + 1;
        match value {
            Value::Null => {}
            Value::Object(_) => found.push(Document { number, value }),
            other => {
                let found = crate::object::read::type_name(&other);
                return Err(ManifestError::NotAnObject {
                    document: number,
                    found,
                });
            }
        }
    }
    Ok(found)
}

/// Reads a text that is one document, as in an annotation or an environment variable. An empty text is null.
///
/// # Errors
/// The first thing that is wrong, or that there are more documents.
pub fn parse_one(text: &str) -> Result<Value, ManifestError> {
    let mut documents = parse(text.as_bytes())?;
    match (documents.pop(), documents.is_empty()) {
        (None, _) => Ok(Value::Null),
        (Some(document), true) => Ok(document.value),
        (Some(document), false) => Err(ManifestError::Broken {
            document: document.number,
            position: None,
            message: "one document is expected here".to_owned(),
        }),
    }
}

/// A stream of JSON values; `None` where it is not that (and must be read as YAML, which tells better what is wrong).
/// JSON is nearly YAML, but for tabs, surrogate pairs and more.
fn json(text: &str, budget: &value::Budget) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut documents = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let mut reader = serde_json::Deserializer::from_str(rest);
        documents.push(value::read(&mut reader, budget).ok()?);
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<serde::de::IgnoredAny>();
        stream.next()?.ok()?;
        rest = rest.get(stream.byte_offset()..)?.trim_start();
    }
    Some(documents)
}

/// Brackets open at once, beyond which a text is refused unread.
const MAX_OPEN: usize = 1000;

/// The library's scanner takes time that grows with the square of the open brackets: 100 kB of `[` would take minutes.
/// Brackets in strings and comments count too; a thousand that nobody closes are no manifest either way.
fn check_nesting(text: &str) -> Result<(), ManifestError> {
    let mut open = 0_usize;
    for (line, content) in text.lines().enumerate() {
        for (column, byte) in content.bytes().enumerate() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => continue,
            }
            if open > MAX_OPEN {
                let position = Some(Position {
                    line: line + 1,
                    column: column + 1,
                });
                let message = format!("more than {MAX_OPEN} brackets are open");
                return Err(ManifestError::Broken {
                    document: 1,
                    position,
                    message,
                });
            }
        }
    }
    Ok(())
}

fn yaml(text: &str, budget: &value::Budget) -> Result<Vec<Value>, ManifestError> {
    check_nesting(text)?;
    let mut documents = Vec::new();
    // The iterator repeats a syntax error for ever: the first one ends the loop.
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let value = value::read(document, budget).map_err(|error| ManifestError::Broken {
            document: index + 1,
            position: error.location().map(|at| Position {
                line: at.line(),
                column: at.column(),
            }),
            message: message(&error),
        })?;
        documents.push(value);
    }
    Ok(documents)
}

/// The library's message without the position, which it repeats in its own words.
fn message(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    match text.find(" at line ") {
        Some(at) => text.get(..at).unwrap_or(&text).to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests;
